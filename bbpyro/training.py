"""fit(): stochastic variational inference of a BetaBernoulliNetwork, with pyro.infer.SVI and Trace_ELBO."""

import contextlib
import math
import time
import warnings
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyro
import torch
from pyro.infer import SVI, Trace_ELBO, TraceMeanField_ELBO
from pyro.optim import PyroOptim
from pyro.poutine.messenger import Messenger
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from torch import Tensor, nn

from bbpyro.likelihoods import Categorical, Likelihood
from bbpyro.model import BetaBernoulliNetwork
from bbpyro.prediction import held_out_score

ELBOS = {"trace": Trace_ELBO, "mean-field": TraceMeanField_ELBO}


def steps(progress: float) -> float:
    """The source's schedule: the rates are cut by ten at 50% and at 75% of training."""
    return 1.0 if progress < 0.5 else 0.1 if progress < 0.75 else 0.01


def cosine(progress: float) -> float:
    """Constant for the first half of training, then half a cosine down to zero."""
    return 1.0 if progress < 0.5 else 0.5 * (1 + math.cos(math.pi * (2 * progress - 1)))


SCHEDULES: dict[str, Callable[[float], float]] = {"steps": steps, "cosine": cosine}


class NonFiniteLossError(ArithmeticError):
    """The loss became nan or infinite; no step was taken with it.

    Attributes:
        epoch: the epoch, counted from 1.
        step: the minibatch within it, counted from 1.
        layer: the first layer whose parameters or output are not finite.
    """

    def __init__(self, epoch: int, step: int, layer: str) -> None:
        super().__init__(
            f"the loss is not finite in epoch {epoch}, step {step}; the first layer that is not is {layer!r}. "
            "A smaller learning rate is the usual remedy"
        )
        self.epoch, self.step, self.layer = epoch, step, layer


@dataclass
class TrainingState:
    """What training needs, beside the network's own state_dict, to go on exactly where it stopped.

    Attributes:
        seed: every epoch's data order and noise follow from it and from the epoch's number alone.
        history: one record an epoch that is done.
        optimizer: the optimizer's tensors, by name.
    """

    seed: int
    history: list[dict[str, Any]] = field(default_factory=list)
    optimizer: dict[str, Tensor] = field(default_factory=dict)


def fit(
    bnn: BetaBernoulliNetwork,
    x: Tensor,
    y: Tensor,
    *,
    num_epochs: int = 60,
    batch_size: int = 100,
    learning_rate: float = 1e-3,
    gate_learning_rate: float = 1e-2,
    schedule: str = "cosine",
    kl_warmup_epochs: int = 0,
    elbo: str = "trace",
    held_out: tuple[Tensor, Tensor] | None = None,
    seed: int | None = None,
    progress: bool | Console = True,
    on_epoch: Callable[[TrainingState], None] | None = None,
    resume_from: TrainingState | None = None,
) -> list[dict[str, Any]]:
    """Maximise the ELBO of `bnn` on x, y, in place, with SVI and one fused Adam.

    Args:
        bnn: the network.
        x: inputs `[N, ...]`; N is also what `bnn.num_data` should say.
        y: what the likelihood observes, `[N, ...]`; for Categorical, labels `[N]`.
        num_epochs: passes over the data.
        batch_size: |B|; a last, shorter batch is used too, at its own scale N/|B|.
        learning_rate: Adam's, for the weights.
        gate_learning_rate: Adam's, for a and b of the gates.
        schedule: "cosine" (constant, then a cosine to zero) or "steps" (the source's).
        kl_warmup_epochs: epochs over which the weight of KL[q(π)||p(π)] rises linearly to 1; 0 for none.
        elbo: "trace" (Trace_ELBO) or "mean-field" (TraceMeanField_ELBO, with closed-form KLs where there are).
        held_out: inputs and labels to report on after each epoch; nothing is chosen by them.
        seed: for data order and noise; by default drawn from torch's global generator, which is left as it was.
        progress: a progress bar, or the rich console to draw it on.
        on_epoch: called after each epoch.
        resume_from: a state that `on_epoch` was given, to go on from; `bnn` must be as it was then.

    Returns:
        One record an epoch: learning rates, loss (-ELBO/N), train and held-out nll (nats a datum) and accuracy,
        and by gate kl (nats) and active units.

    Raises:
        ValueError: an argument is out of range, or x, y and bnn.num_data do not fit each other.
        NonFiniteLossError: the loss became nan or infinite.
    """
    _check_data(x, y, bnn.num_data)
    _check_settings(num_epochs, batch_size, learning_rate, gate_learning_rate)
    if kl_warmup_epochs < 0:
        raise ValueError(f"kl_warmup_epochs is {kl_warmup_epochs}, wanted 0 or more")
    _check_choice("schedule", schedule, SCHEDULES)
    _check_choice("elbo", elbo, ELBOS)

    gate_parameters = [p for gate in bnn.gates.values() for p in gate.parameters()]
    optimizer = _adam(
        [
            {"params": list(bnn.weights.values()), "lr": learning_rate},
            {"params": gate_parameters, "lr": gate_learning_rate},
        ]
    )
    warmup, score = KLWarmup(), Scorecard()
    estimator = ELBOS[elbo]()

    def loss_and_grads(*args: Any) -> float:
        loss: float = estimator.loss_and_grads(*args)
        if not math.isfinite(loss):
            raise ArithmeticError
        return loss

    model, guide = (warmup(bnn.model), warmup(bnn.guide)) if kl_warmup_epochs else (bnn.model, bnn.guide)
    svi = SVI(model, guide, SingleOptimizer(optimizer), estimator.loss, loss_and_grads=loss_and_grads)

    def step(x_batch: Tensor, y_batch: Tensor) -> float:
        with score:
            return svi.step(x_batch, y_batch) / bnn.num_data

    def begin(epoch: int) -> None:
        warmup.weight = min(1.0, (epoch + 1) / kl_warmup_epochs) if kl_warmup_epochs else 1.0

    def report() -> dict[str, Any]:
        return {
            **score.take(),
            **held_out_score(bnn, held_out),
            "kl": {name: kl.item() for name, kl in bnn.kl().items()},
            "active": {name: int(gate.kept().sum()) for name, gate in bnn.gates.items()},
        }

    epochs = _Epochs("SVI", x, y, num_epochs, batch_size, SCHEDULES[schedule], progress, on_epoch)
    with pyro.validation_enabled(False):
        return epochs.run(bnn, optimizer, step, report, _state(seed, resume_from), begin)


def pretrain(
    net: nn.Module,
    x: Tensor,
    y: Tensor,
    *,
    likelihood: Likelihood | None = None,
    num_epochs: int = 10,
    batch_size: int = 100,
    learning_rate: float = 1e-3,
    weight_decay: float = 1e-4,
    held_out: tuple[Tensor, Tensor] | None = None,
    seed: int | None = None,
    progress: bool | Console = True,
    on_epoch: Callable[[TrainingState], None] | None = None,
    resume_from: TrainingState | None = None,
) -> list[dict[str, Any]]:
    """Train a plain network, without gates, in place: where Beta-Bernoulli dropout starts from.

    Arguments, records and errors are those of :func:`fit`; `weight_decay` is the L2 on the mean loss.
    """
    _check_data(x, y, len(x))
    _check_settings(num_epochs, batch_size, learning_rate)
    likelihood = likelihood or Categorical()
    parameters = [p for p in net.parameters() if p.requires_grad]
    optimizer = _adam([{"params": parameters, "lr": learning_rate}], weight_decay=weight_decay)
    score = Scorecard()

    def step(x_batch: Tensor, y_batch: Tensor) -> float:
        distribution = likelihood(net(x_batch))
        loss = -score.observe(distribution, y_batch).mean()
        if not loss.isfinite():
            raise ArithmeticError
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        return loss.item()

    def report() -> dict[str, Any]:
        return {**score.take(), **held_out_score(net, held_out, likelihood)}

    epochs = _Epochs("pretraining", x, y, num_epochs, batch_size, lambda progress: 1.0, progress, on_epoch)
    with pyro.validation_enabled(False):
        return epochs.run(net, optimizer, step, report, _state(seed, resume_from))


class SingleOptimizer(PyroOptim):
    """One torch optimizer over all parameters, for SVI, which wants a PyroOptim (Pyro's own is one a parameter)."""

    def __init__(self, optimizer: torch.optim.Optimizer) -> None:
        super().__init__(type(optimizer), {})
        self.optimizer = optimizer

    def __call__(self, params: Any, *args: Any, **kwargs: Any) -> None:
        """Step the optimizer and clear the gradients, which spares SVI from filling them with zeros."""
        self.optimizer.step()
        self.optimizer.zero_grad()


class KLWarmup(Messenger):
    """An effect handler that weighs log p(π) and log q(π), and so the KL between them."""

    weight = 1.0

    def _pyro_sample(self, msg: Any) -> None:
        if self.weight != 1.0 and msg["name"].endswith(".pi"):
            msg["scale"] = msg["scale"] * self.weight


class Scorecard(Messenger):
    """An effect handler that keeps the running nll, and accuracy where y is a class, of the observed minibatches."""

    def __init__(self) -> None:
        super().__init__()
        self._clear()

    def _clear(self) -> None:
        self._num_data, self._nll, self._num_right = 0, 0.0, 0

    def _pyro_post_sample(self, msg: Any) -> None:
        if msg["name"] == "y" and msg["is_observed"]:
            with torch.no_grad():
                self.observe(msg["fn"], msg["value"])

    def observe(self, distribution: Any, y: Tensor) -> Tensor:
        """Count a minibatch; returns its log-likelihoods."""
        log_prob: Tensor = distribution.log_prob(y)
        self._num_data += len(y)
        self._nll -= log_prob.sum().item()
        if hasattr(distribution, "logits") and distribution.logits.dim() == y.dim() + 1:
            self._num_right += int((distribution.logits.argmax(-1) == y).sum())
        return log_prob

    def take(self) -> dict[str, float]:
        """The scores since the last call."""
        scores = {"train_nll": self._nll / self._num_data, "train_accuracy": self._num_right / self._num_data}
        self._clear()
        return scores


@dataclass
class _Epochs:
    """The loop that both phases share: batches, schedule, progress bar, history."""

    label: str
    x: Tensor
    y: Tensor
    num_epochs: int
    batch_size: int
    schedule: Callable[[float], float]
    progress: bool | Console
    on_epoch: Callable[[TrainingState], None] | None

    def run(
        self,
        module: nn.Module,
        optimizer: torch.optim.Optimizer,
        step: Callable[[Tensor, Tensor], float],
        report: Callable[[], dict[str, Any]],
        state: TrainingState,
        begin: Callable[[int], None] = lambda epoch: None,
    ) -> list[dict[str, Any]]:
        """Train from the end of `state` to num_epochs, leaving torch's global generator as it was."""
        base_rates = [group["lr"] for group in optimizer.param_groups]
        _load_optimizer(optimizer, state.optimizer)
        with self._bar(len(state.history)) as advance, torch.random.fork_rng(), warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="Encountered (NaN|\\+?-?inf)")  # step raises instead
            for epoch in range(len(state.history), self.num_epochs):
                started = time.perf_counter()
                factor = self.schedule(epoch / self.num_epochs)
                for group, rate in zip(optimizer.param_groups, base_rates, strict=True):
                    group["lr"] = rate * factor
                begin(epoch)
                module.train()
                loss = self._one_pass(epoch, module, state.seed, step, advance)
                module.eval()
                record = {
                    "phase": self.label,
                    "epoch": epoch + 1,
                    "learning_rate": [group["lr"] for group in optimizer.param_groups],
                    "loss": loss,
                    **report(),
                    "seconds": time.perf_counter() - started,
                }
                state = TrainingState(state.seed, [*state.history, record], _optimizer_tensors(optimizer))
                if self.on_epoch:
                    self.on_epoch(state)
        return state.history

    def _one_pass(
        self,
        epoch: int,
        module: nn.Module,
        seed: int,
        step: Callable[[Tensor, Tensor], float],
        advance: Callable[[int, int], None],
    ) -> float:
        # The epoch's randomness follows from (seed, phase, epoch), so a resumed run needs no generator's state.
        torch.manual_seed(int(np.random.SeedSequence([seed, *self.label.encode(), epoch]).generate_state(1)[0]))
        batches = torch.randperm(len(self.x)).split(self.batch_size)
        total = 0.0
        for i, batch in enumerate(batches):
            x, y = self.x[batch], self.y[batch]
            try:
                total += step(x, y) * len(batch)
            except ArithmeticError as error:
                layer = _first_non_finite(module, x) or "the gates' masks or the ELBO"
                raise NonFiniteLossError(epoch + 1, i + 1, layer) from error
            advance(epoch, len(batches))
        broken = _first_non_finite(module, x)  # by the last step, whose loss nobody has seen
        if broken is not None:
            raise NonFiniteLossError(epoch + 1, len(batches), broken)
        return total / len(self.x)

    @contextlib.contextmanager
    def _bar(self, epochs_done: int) -> Iterator[Callable[[int, int], None]]:
        if not self.progress:
            yield lambda epoch, num_batches: None
            return
        columns = (
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("steps,"),
            TimeRemainingColumn(),
            TextColumn("left"),
        )
        console = self.progress if isinstance(self.progress, Console) else None
        steps_an_epoch = math.ceil(len(self.x) / self.batch_size)
        with Progress(*columns, console=console, transient=True) as bar:
            task = bar.add_task(
                self.label, total=self.num_epochs * steps_an_epoch, completed=epochs_done * steps_an_epoch
            )

            def advance(epoch: int, num_batches: int) -> None:
                bar.update(task, advance=1, description=f"{self.label} epoch {epoch + 1}/{self.num_epochs}")

            yield advance


def _adam(groups: list[dict[str, Any]], weight_decay: float = 0.0) -> torch.optim.Adam:
    return torch.optim.Adam(groups, weight_decay=weight_decay, fused=True)


def _optimizer_tensors(optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    state = optimizer.state_dict()["state"]
    return {f"{index}.{name}": tensor for index, slots in state.items() for name, tensor in slots.items()}


def _load_optimizer(optimizer: torch.optim.Optimizer, tensors: Mapping[str, Tensor]) -> None:
    slots: dict[int, dict[str, Tensor]] = {}
    for key, tensor in tensors.items():
        index, name = key.split(".", 1)
        slots.setdefault(int(index), {})[name] = tensor
    optimizer.load_state_dict({**optimizer.state_dict(), "state": slots})


def _state(seed: int | None, resume_from: TrainingState | None) -> TrainingState:
    if resume_from is not None:
        return resume_from
    return TrainingState(seed=int(torch.randint(2**31, ())) if seed is None else seed)


def _first_non_finite(module: nn.Module, x: Tensor) -> str | None:
    """The first layer, in the order of the forward pass, whose parameters or output are not finite, if any."""
    found: list[str] = []

    def hook(name: str) -> Callable[..., None]:
        def check(layer: nn.Module, args: Any, output: Any) -> None:
            tensors = [*layer.parameters(recurse=False), *([output] if isinstance(output, Tensor) else [])]
            if not all(bool(tensor.isfinite().all()) for tensor in tensors):
                found.append(name)

        return check

    handles = [layer.register_forward_hook(hook(name)) for name, layer in module.named_modules() if name]
    try:
        with torch.no_grad():
            module(x)
    finally:
        for handle in handles:
            handle.remove()
    return found[0].removeprefix("net.") if found else None


def _check_data(x: Tensor, y: Tensor, num_data: int) -> None:
    if len(x) == 0 or len(x) != len(y):
        raise ValueError(f"x and y: lengths are {len(x)} and {len(y)}, wanted the same number of data, at least 1")
    if len(x) != num_data:
        raise ValueError(f"x: it holds {len(x)} data but the network was made for num_data={num_data}")
    for name, tensor in (("x", x), ("y", y)):
        if tensor.is_floating_point() and not bool(tensor.isfinite().all()):
            raise ValueError(f"{name}: it holds nan or inf; remove or replace those data")


def _check_settings(num_epochs: int, batch_size: int, *learning_rates: float) -> None:
    for name, number in (("num_epochs", num_epochs), ("batch_size", batch_size)):
        if number < 1:
            raise ValueError(f"{name} is {number}, wanted at least 1")
    for rate in learning_rates:
        if not 0 < rate < math.inf:
            raise ValueError(f"a learning rate is {rate}, wanted a positive number")


def _check_choice(name: str, value: str, known: Mapping[str, Any]) -> None:
    if value not in known:
        raise ValueError(f"{name} is {value!r}, wanted one of {', '.join(known)}")
