"""fit(): stochastic variational inference of a BetaBernoulliNetwork, with pyro.infer.SVI and Trace_ELBO."""

import contextlib
import fnmatch
import functools
import math
from collections.abc import Callable, Mapping
from typing import Any

import pyro
import pyro.poutine as poutine
import torch
from pyro.infer import SVI, TraceMeanField_ELBO
from rich.console import Console
from torch import Tensor, nn

from bbpyro import nests, processes
from bbpyro.checks import (
    check_batch_norm,
    check_choice,
    check_data,
    check_held_out,
    check_is,
    check_positive,
    check_settings,
    in_eval_mode,
)
from bbpyro.denormals import flushed
from bbpyro.exclusive import one_at_a_time
from bbpyro.layers import device_of
from bbpyro.likelihoods import Categorical, Likelihood
from bbpyro.model import BetaBernoulliNetwork
from bbpyro.nests import Nest
from bbpyro.training import parallel
from bbpyro.training.budget import MANY, of_data
from bbpyro.training.epochs import (
    Epochs,
    Learner,
    Trainee,
    TrainingState,
    augmented,
    fused_adam,
    starting_state,
)
from bbpyro.training.handlers import (
    PRECISIONS,
    KLWarmup,
    MeanLoss,
    Scorecard,
    SingleOptimizer,
    held_out_score,
    mixed_precision,
)
from bbpyro.training.judging import FitWarning, Judge, remedy
from bbpyro.training.lean_elbo import LeanTraceELBO
from bbpyro.training.shedding import Shedding
from bbpyro.training.trained import left_as_it_was, of_network, of_plain_network
from bbpyro.warn import warn

ELBOS = {"trace": LeanTraceELBO, "mean-field": TraceMeanField_ELBO}


def steps(progress: float) -> float:
    """The source's schedule: the rates are cut by ten at 50% and at 75% of training."""
    return 1.0 if progress < 0.5 else 0.1 if progress < 0.75 else 0.01


def cosine(progress: float) -> float:
    """Constant for the first half of training, then half a cosine down to zero."""
    return 1.0 if progress < 0.5 else 0.5 * (1 + math.cos(math.pi * (2 * progress - 1)))


def constant(progress: float) -> float:
    """No decay."""
    return 1.0


SCHEDULES: dict[str, Callable[[float], float]] = {"steps": steps, "cosine": cosine, "constant": constant}


@one_at_a_time
def fit(
    bnn: BetaBernoulliNetwork,
    x: Nest,
    y: Tensor,
    *,
    num_epochs: int | None = None,
    batch_size: int = 100,
    learning_rate: float = 1e-3,
    gate_learning_rate: float | None = None,
    schedule: str = "cosine",
    kl_warmup_epochs: int | None = None,
    kl_start: float | Mapping[str, float] = 0.0,
    elbo: str = "trace",
    shed: bool = True,
    augment: Callable[[Nest], Nest] | None = None,
    precision: str = "float32",
    held_out: tuple[Nest, Tensor] | None = None,
    seed: int | None = None,
    progress: bool | Console = True,
    on_epoch: Callable[[TrainingState], None] | None = None,
    resume_from: TrainingState | None = None,
) -> list[dict[str, Any]]:
    """Maximise the ELBO of `bnn` on x, y, in place, with SVI and one fused Adam.

    Trained is every parameter that the model and the guide use: W, the gates, those of a likelihood that is an
    nn.Module, and those that it has in Pyro's store (`pyro.param`). What cannot be trained is warned of at the start.
    While another thread trains or predicts, this waits.

    Where the process has joined others by `torch.distributed.init_process_group`, all of them train this one network:
    each calls `fit` with the same arguments and all of the data, takes its own part of every minibatch of `batch_size`
    (and of the held-out data) with noise of its own, and has the same network and records in the end. The gradient is
    that of the ELBO on the whole minibatch. Batch norms see the part alone; the first process's statistics are kept.

    Args:
        bnn: the network.
        x: inputs `[N, ...]`, a tensor or a nest of them, see :class:`bbpyro.BetaBernoulliNetwork`; N is also what
            `bnn.num_data` should say. They may lie on another device than the network: minibatches are moved to it.
        y: what the likelihood observes, `[N, ...]`; for Categorical, labels `[N]`.
        num_epochs: passes over the data; by default 60. Where that makes fewer than 8,000 steps, it is as many as make
            8,000, gates that were given no start begin at E[π] = 0.5 and move faster, and the KL is warmed up, see
            :mod:`bbpyro.training.budget`.
        batch_size: data in a minibatch; a last, shorter one is used too, scaled by N over its own size.
        learning_rate: Adam's, for the weights and all else that is no gate's.
        gate_learning_rate: Adam's, for a and b of the gates; by default 0.01, or, where `num_epochs` is left to its
            default and the data are few, 0.03.
        schedule: "cosine" (constant, then a cosine to zero), "steps" (the source's) or "constant".
        kl_warmup_epochs: epochs, or all where there are fewer, over which the weight of KL[q(π)||p(π)] goes linearly
            from `kl_start` to 1, which it is in the last of them; 0 for none. From then on the loss is -ELBO again.
            By default none; or, where `num_epochs` and `kl_start` are left to theirs and the data are few, a
            twentieth of the epochs.
        kl_start: where it goes from, for all gates or by their names, with * for any characters; the KL of a gate
            that is not named weighs 1. 0 is a warm-up; a number above 1 makes units go early that the ELBO alone would
            only let go of after very long: once out they stay out.
        elbo: "trace" (Trace_ELBO) or "mean-field" (TraceMeanField_ELBO, with closed-form KLs where there are).
        shed: whether units whose posterior has gone to the prior leave the network that is trained, for good, so that
            an epoch costs what the others cost; when, :mod:`bbpyro.training.shedding` says. `bnn` itself stays whole.
        augment: changes each minibatch of inputs at random, e.g. :func:`bbpyro.data.crop_and_flip`.
        precision: "float32", or "bf16" for torch.autocast within the network.
        held_out: inputs and labels to report on after each epoch; nothing is chosen by them.
        seed: for data order and noise; by default drawn from torch's global generator, which is left as it was.
        progress: a progress bar, or the rich console to draw it on; of several processes the first draws it.
        on_epoch: called after each epoch, in every process.
        resume_from: a state that `on_epoch` was given, to go on from; `bnn` must be as it was then.

    Returns:
        One record an epoch: learning rates, loss (-ELBO/N), train and held-out nll (nats a datum) and accuracy,
        what W costs (weights_nll, -log p(W), or, where q(W) is a Normal, weights_kl; nats), and by gate kl (nats),
        active units, and how many had been shed.

    Raises:
        TypeError: `bnn` is no BetaBernoulliNetwork, or another argument is of the wrong type.
        ValueError: an argument is out of range, or x, y and bnn.num_data do not fit each other.
        NonFiniteLossError: the loss became nan or infinite.
        bbpyro.processes.LostProcessError: another of several processes has ended.
    """
    rates = [rate for rate in (learning_rate, gate_learning_rate) if rate is not None]
    check_settings(1 if num_epochs is None else num_epochs, batch_size, *rates)
    check_is("bnn", bnn, BetaBernoulliNetwork)
    check_is("shed", shed, bool)
    check_is("kl_warmup_epochs", kl_warmup_epochs, int | None)
    check_is("resume_from", resume_from, TrainingState | None)
    check_data(bnn, bnn.likelihood, x, y, bnn.num_data)
    check_held_out(bnn, bnn.likelihood, held_out)
    check_batch_norm(bnn, len(y), batch_size)
    budget = MANY if num_epochs else of_data(len(y), batch_size)
    if kl_warmup_epochs is None:
        kl_warmup_epochs = budget.kl_warmup_epochs if kl_start == 0 else 0
    gate_learning_rate, num_epochs = gate_learning_rate or budget.gate_learning_rate, num_epochs or budget.epochs
    starts = kl_starts(bnn, kl_warmup_epochs, kl_start)
    check_choice("schedule", schedule, SCHEDULES)
    check_choice("elbo", elbo, ELBOS)
    check_choice("precision", precision, PRECISIONS)
    if budget.is_of_few_data and resume_from is None:
        for gate in bnn.gates.values():
            gate.begin_with_few_data()

    trained = of_network(bnn, x, y, learning_rate, gate_learning_rate)
    warmup, score, together = KLWarmup(starts), Scorecard(), parallel.Together(trained.stored.values())

    def learner(
        bnn: BetaBernoulliNetwork, optimizer: torch.optim.Optimizer, x: Nest, read: Callable[[Nest], Nest] | None
    ) -> Learner:
        estimator, kl = ELBOS[elbo](), warmup if kl_warmup_epochs else None
        if processes.size() > 1:
            step = _parallel_step(bnn, optimizer, estimator, kl, score, together)
        else:
            step = _svi_step(bnn, optimizer, estimator, kl, score)
        if augment is None:
            return Learner(bnn, optimizer, step, read(x) if read else x, read=read)
        return Learner(bnn, optimizer, step, x, functools.partial(augmented, augment, read=read), read)

    def tell(epoch: int) -> None:
        warmup.share = min(1.0, (epoch + 1) / min(kl_warmup_epochs, num_epochs)) if kl_warmup_epochs else 1.0

    def report(learner: Learner) -> dict[str, Any]:
        return {
            **score.take(),
            **held_out_score(learner.module, bnn.likelihood, held_out, read=learner.read),
            "weights_kl" if bnn.weight_guide == "normal" else "weights_nll": bnn.weights_kl().item(),
            "kl": {name: kl.item() for name, kl in bnn.kl().items()},
            "active": {name: int(gate.kept().sum()) for name, gate in bnn.gates.items()},
            **({"shed": _num_less(bnn, learner.module)} if shed else {}),
        }

    optimizer = fused_adam(trained.groups)
    trainee: Trainee
    if shed:
        trainee = Shedding(bnn, optimizer, x, y, learner, batch_size, warmup.weight, tell)
    else:
        trainee = Trainee(learner(bnn, optimizer, x, None), tell)
    epochs = Epochs("SVI", y, num_epochs, batch_size, SCHEDULES[schedule], progress, on_epoch)
    state = starting_state(seed, resume_from)
    with left_as_it_was(bnn), pyro.validation_enabled(False), mixed_precision(bnn.net, precision):
        judge = Judge(bnn, x, y, held_out, batch_size)
        if not state.history:
            state.start = judge.start()
        history = epochs.run(trainee, trained, report, state)
        verdict = judge.verdict(state.start)
    if verdict and processes.is_first():
        what_may_help = _what_may_help(bnn, y, batch_size, num_epochs, kl_start, held_out)
        warn(f"{verdict}. {what_may_help}", FitWarning)
    return history


def _what_may_help(
    bnn: BetaBernoulliNetwork, y: Tensor, batch_size: int, num_epochs: int, kl_start: Any, held_out: Any
) -> str:
    """What may help where the network ends worse than it began, after so many epochs of a fit with these arguments."""
    heaviest = max(kl_start.values(), default=0.0) if isinstance(kl_start, Mapping) else kl_start
    family = next((type(gate).__name__ for gate in bnn.gates_by_family[1].values()), None)
    return remedy(of_data(len(y), batch_size), num_epochs, heaviest, held_out is None, family)


def _num_less(bnn: BetaBernoulliNetwork, trained: Any) -> dict[str, int]:
    """How many units of each gate the network that is trained has less."""
    return {name: gate.num_features - trained.gates[name].num_features for name, gate in bnn.gates.items()}


def _svi_step(
    bnn: BetaBernoulliNetwork,
    optimizer: torch.optim.Optimizer,
    estimator: Any,
    warmup: KLWarmup | None,
    score: Scorecard,
) -> Callable[[Nest, Tensor, float], float]:
    """A step of SVI by a minibatch, which returns -ELBO/N; an ArithmeticError, and no step, where it is not finite."""

    def loss_and_grads(*args: Any) -> float:
        loss: float = estimator.loss_and_grads(*args)
        if not math.isfinite(loss):
            raise ArithmeticError
        return loss

    model, guide = (warmup(bnn.model), warmup(bnn.guide)) if warmup else (bnn.model, bnn.guide)
    svi = SVI(model, guide, SingleOptimizer(optimizer), estimator.loss, loss_and_grads=loss_and_grads)

    def step(x: Nest, y: Tensor, weight: float) -> float:
        with score:
            return svi.step(x, y) / bnn.num_data

    return step


def _parallel_step(
    bnn: BetaBernoulliNetwork,
    optimizer: torch.optim.Optimizer,
    estimator: Any,
    warmup: KLWarmup | None,
    score: Scorecard,
    together: parallel.Together,
) -> Callable[[Nest, Tensor, float], float]:
    """The same by this process's part of a minibatch, with the gradient of all; the mean over them is -ELBO/N."""
    module = bnn.elbo_module(estimator)

    def step(x: Nest, y: Tensor, weight: float) -> float:
        with warmup or contextlib.nullcontext(), score if weight else contextlib.nullcontext():
            loss = together.loss(module, x, y, weight)
        return together.step(loss, optimizer) / bnn.num_data

    return step


@one_at_a_time
@flushed()
@torch.no_grad()
def elbo(bnn: BetaBernoulliNetwork, x: Nest, y: Tensor, batch_size: int = 1000) -> float:
    """The ELBO of `bnn` on its training data, nats a datum.

    The expected log-likelihood is that of one draw of W, π and z for each minibatch; the KLs are closed where they are
    registered.

    Args:
        bnn: the network.
        x: inputs `[N, ...]`, a tensor or a nest of them.
        y: what was observed there.
        batch_size: data predicted at once, and by one draw.
    """
    check_positive(batch_size=batch_size)
    check_data(bnn, bnn.likelihood, x, y, bnn.num_data)
    score, device = Scorecard(), device_of(bnn)
    with torch.inference_mode(False), torch.no_grad(), in_eval_mode(bnn), pyro.validation_enabled(False), score:
        for batch in nests.split((x, y), batch_size):
            data = nests.to_device(batch, device)
            poutine.replay(bnn.model, trace=poutine.trace(bnn.guide).get_trace(*data))(*data)
    kl = sum(kl.item() for kl in bnn.kl().values()) + bnn.weights_kl().item()
    return -score.take()["train_nll"] - kl / bnn.num_data


def kl_starts(
    bnn: BetaBernoulliNetwork, kl_warmup_epochs: int, kl_start: float | Mapping[str, float]
) -> dict[str, float]:
    """The weight that each gate's KL begins with; a ValueError where a number or a name is wrong."""
    if kl_warmup_epochs < 0:
        raise ValueError(f"kl_warmup_epochs is {kl_warmup_epochs}, wanted 0 or more")
    named = dict(kl_start) if isinstance(kl_start, Mapping) else {"*": kl_start}
    starts: dict[str, float] = {}
    for name, start in named.items():
        check_is("kl_start", start, float | int)
        if not 0 <= start <= 1e6:
            raise ValueError(f"kl_start is {start}, wanted a number from 0 to 1e6")
        if start and kl_warmup_epochs < 2:
            raise ValueError(
                f"kl_start is {start} but kl_warmup_epochs {kl_warmup_epochs}: say over how many epochs, at least 2, "
                "it goes to 1"
            )
        gates = fnmatch.filter(bnn.gates, name)
        if not gates:
            raise ValueError(f"kl_start: {name!r} is none of the gates {', '.join(bnn.gates)}")
        starts = dict.fromkeys(gates, start) | starts  # the first name that fits a gate counts
    return starts


@one_at_a_time
def pretrain(
    net: nn.Module,
    x: Nest,
    y: Tensor,
    *,
    likelihood: Likelihood | None = None,
    num_epochs: int | None = None,
    batch_size: int = 100,
    learning_rate: float = 1e-3,
    weight_decay: float = 1e-4,
    schedule: str = "constant",
    augment: Callable[[Nest], Nest] | None = None,
    precision: str = "float32",
    held_out: tuple[Nest, Tensor] | None = None,
    seed: int | None = None,
    progress: bool | Console = True,
    on_epoch: Callable[[TrainingState], None] | None = None,
    resume_from: TrainingState | None = None,
    phase: str = "pretraining",
) -> list[dict[str, Any]]:
    """Train a plain network, without gates, in place: where Beta-Bernoulli dropout starts from.

    Arguments, records and errors are those of :func:`fit`; `weight_decay` is the L2 on the mean loss, of the network's
    own parameters alone; those of a likelihood that is an nn.Module are trained too. Several processes share the
    work here as well. `phase` is what records and the progress bar call it. By default there are 10 epochs, or as many
    as make 500 steps of few data.
    """
    likelihood = likelihood or Categorical()
    check_settings(1 if num_epochs is None else num_epochs, batch_size, learning_rate)
    check_data(net, likelihood, x, y)
    check_held_out(net, likelihood, held_out)
    check_batch_norm(net, len(y), batch_size)
    num_epochs = num_epochs or of_data(len(y), batch_size).pretrain_epochs
    check_choice("schedule", schedule, SCHEDULES)
    check_choice("precision", precision, PRECISIONS)
    trained = of_plain_network(net, likelihood, x, y, learning_rate, weight_decay)
    optimizer = fused_adam(trained.groups)
    score = Scorecard()
    module = MeanLoss(net, likelihood, score)
    together = parallel.Together(trained.stored.values(), trained.has_unused)

    def step(x_batch: Nest, y_batch: Tensor, weight: float) -> float:
        return together.step(together.loss(module, x_batch, y_batch, weight), optimizer)

    def report(learner: Learner) -> dict[str, Any]:
        return {**score.take(), **held_out_score(net, likelihood, held_out)}

    learner = Learner(net, optimizer, step, x, functools.partial(augmented, augment) if augment else None)
    epochs = Epochs(phase, y, num_epochs, batch_size, SCHEDULES[schedule], progress, on_epoch)
    with pyro.validation_enabled(False), mixed_precision(net, precision):
        return epochs.run(Trainee(learner), trained, report, starting_state(seed, resume_from))
