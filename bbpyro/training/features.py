"""fit_features(): SVI of a LatentFeatureModel, from the best of several starts.

A start ends in one of many optima: a feature may be two halves that always go together, or the sum of two. Where the
KL of π and z weighs more at first, no feature pays, and as it falls those that the data want come one by one. That is
annealing: with Gaussian noise of variance s², a KL that weighs c is one of weight 1 under noise of variance c s², and
the first feature pays about where c s² is the largest variance of the data in any direction. Where each start is
swept by coordinate ascent (:mod:`bbpyro.training.coordinate_ascent`), that is done there, and SVI begins where the best
of them ended.
"""

import contextlib
import math
from collections.abc import Callable, Iterator
from typing import Any

import torch
from pyro.infer import SVI
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn
from torch import Tensor

from bbpyro import parameters
from bbpyro.bars import is_drawn
from bbpyro.checks import check_is, check_positive, check_settings
from bbpyro.exclusive import one_at_a_time
from bbpyro.latent_features import LatentFeatureModel, hide
from bbpyro.objective import Weighed
from bbpyro.training.coordinate_ascent import best_swept, noise_of, scale_of_noise, seed_of_start, variances
from bbpyro.training.epochs import NonFiniteLossError
from bbpyro.training.handlers import SingleOptimizer
from bbpyro.training.inference import cosine
from bbpyro.training.judging import FitWarning
from bbpyro.training.lean_elbo import LeanTraceELBO
from bbpyro.training.starts import final_loss
from bbpyro.warn import warn

_USUAL_START = 5.0
_NUM_DRAWS = 10  # by which what is held out is scored after an epoch
_SIZES = 0.03, 5.0  # of the numbers of x, beside that of features a priori
_STEP = 10.0  # a hundred and more scales of q(w), at a rate of 0.1, in 60 of Adam's steps
_SHARE = 0.5  # of the weight at which the first feature pays; of twice as much, features die for good


@one_at_a_time
def fit_features(
    model: LatentFeatureModel,
    x: Tensor,
    *,
    observed: Tensor | None = None,
    held_out: Tensor | None = None,
    num_epochs: int | None = None,
    num_sweeps: int = 150,
    num_starts: int = 8,
    batch_size: int | None = None,
    learning_rate: float | None = None,
    kl_start: float | None = None,
    seed: int | None = None,
    progress: bool | Console = True,
) -> list[dict[str, float]]:
    """Maximise the ELBO of `model` on x, in place, with SVI, Trace_ELBO and Adam.

    SVI alone wants many steps and several starts to find the features. Where f is linear, the likelihood Gaussian, the
    prior of π a Beta and there is no encoder, each start is therefore first swept by coordinate ascent, and SVI goes on
    from the best (docs/explanation/latent-features.md has what was measured).

    Args:
        model: trained from `num_starts` random starts of W, z and the encoder; the decoder, and what of the
            likelihood is learnt, begin each time as they are.
        x: the data `[N, ...]`; what is nan was not observed.
        observed: booleans of x's shape, which of it was; what is nan was not in any case.
        held_out: booleans of x's shape: what of x is not trained on, but reported on after each epoch; nothing is
            chosen by it.
        num_epochs: passes of SVI over the data; by default 50 after sweeps, else 800 for each start.
        num_sweeps: passes of coordinate ascent for each start, where that is possible; 0 for none.
        num_starts: of which the one with the highest ELBO is kept; without sweeps each has all epochs.
        batch_size: data in a step; by default all, as a model without an encoder wants.
        learning_rate: Adam's, constant for half of training, then half a cosine to zero; by default 0.02 after sweeps,
            else 0.1.
        kl_start: what log p and log q of π and z weigh at first, from where it goes to 1 in half of the sweeps, or of
            the epochs where there are none. By default, of a Normal likelihood without a decoder, half of what the
            largest variance of x in any direction is more than the noise, over that of the noise; else 5.
        seed: of starts, batches and noise; by default drawn from torch's global generator, which is left as it was.
        progress: a progress bar, or the rich console to draw it on.

    Returns:
        One record an epoch, of the start that was kept: epoch, from 1; loss (-ELBO/N, nats; without sweeps with what
        the KL weighs just then); num_features, as num_used() has them; and held_out_nll, nats a number, by 10
        draws of q.

    Raises:
        TypeError: model is no LatentFeatureModel, x no tensor, or a number no number.
        ValueError: a number is out of range, or x does not fit the model.
        NonFiniteLossError: the loss became nan or infinite, in each start; the model is as it was.

    Warns:
        FitWarning: x is of a size far from that of features a priori, or no feature was found.
    """
    check_is("model", model, LatentFeatureModel)
    check_is("x", x, Tensor)
    check_is("num_sweeps", num_sweeps, int)
    if num_sweeps < 0:
        raise ValueError(f"num_sweeps is {num_sweeps}, wanted 0 or more")
    whole = hide(x, observed)
    scored = None if held_out is None else hide(whole, held_out, "held_out")
    x = whole if held_out is None else hide(whole, ~held_out)
    _check(x, scored)
    with torch.random.fork_rng():
        x = model.as_data(x, is_all=True)
    scored = None if scored is None else scored.to(x)
    batch_size = len(x) if batch_size is None else batch_size
    _check_sizes(model, x, batch_size)
    noise = noise_of(model, x) if num_sweeps > 0 else None
    num_epochs = (800 if noise is None else 50) if num_epochs is None else num_epochs
    learning_rate = (0.1 if noise is None else 0.02) if learning_rate is None else learning_rate
    check_settings(num_epochs, batch_size, learning_rate)
    check_positive(num_starts=num_starts)
    if kl_start is not None and not 0 < kl_start < math.inf:
        raise ValueError(f"kl_start is {kl_start}, wanted a positive number")
    if kl_start is None:
        kl_start = _first_pays(x, noise if noise is not None else scale_of_noise(model, x))
    seed = int(torch.randint(2**31, ()) if seed is None else seed)

    def trained(kl_start: float, advance: Any) -> list[dict[str, float]]:
        history = []
        for record in _svi(model, x, num_epochs, batch_size, learning_rate, kl_start):
            if scored is not None:
                with torch.random.fork_rng():  # to look at the held-out part changes nothing
                    record["held_out_nll"] = -model.log_predictive(x, scored, _NUM_DRAWS).nanmean().item()
            history.append(record)
            advance()
        return history

    num_steps = num_starts * num_epochs if noise is None else num_starts * num_sweeps + num_epochs
    with torch.random.fork_rng(), torch.enable_grad(), _bar(progress, num_steps) as advance, _one_piece(model):
        if noise is None:
            history = _best_of(model, num_starts, seed, lambda: trained(kl_start, advance))
        else:
            best_swept(model, x, num_starts, num_sweeps, kl_start, noise, seed, advance).put_into(model)
            history = trained(1.0, advance)
    _warn(model, x, history)
    return history


@contextlib.contextmanager
def _one_piece(model: LatentFeatureModel) -> Iterator[None]:
    """Leave the model as it was where training fails or is interrupted, and Pyro's store as it was in any case."""
    begin = {name: t.clone() for name, t in model.state_dict().items()}
    try:
        yield
    except BaseException:
        model.load_state_dict(begin)
        raise
    finally:
        parameters.forget(model)


def _warn(model: LatentFeatureModel, x: Tensor, history: list[dict[str, float]]) -> None:
    """Warn of data of another scale than the prior's, or where no feature was found."""
    size = x.square().nanmean().sqrt().item()
    if model.decoder is None and not model.weight_scale * _SIZES[0] < size < model.weight_scale * _SIZES[1]:
        warn(
            f"x: its numbers are of size {size:.3g}, and features are N(0, {model.weight_scale:g}²) a priori; scale "
            f"and centre x, or give the model weight_scale={size:.2g}",
            FitWarning,
        )
    if not history[-1]["num_features"]:
        warn(
            "no feature is in use: nothing was found; try kl_start=1 or less, a smaller learning_rate, more num_starts",
            FitWarning,
        )


def _best_of(
    model: LatentFeatureModel, num_starts: int, seed: int, train: Callable[[], list[dict[str, float]]]
) -> list[dict[str, float]]:
    """Train from each start; the records of the one with the least loss, which the model then is."""
    best: tuple[float, dict[str, Tensor], list[dict[str, float]]] | None = None
    begin = {name: t.clone() for name, t in model.state_dict().items()}
    for start in range(num_starts):
        torch.manual_seed(seed_of_start(seed, start))
        model.load_state_dict(begin)
        model.reset_parameters()
        try:
            history = train()
        except NonFiniteLossError as error:  # one of several may
            failure = error
            continue
        loss = final_loss(history)
        if best is None or loss < best[0]:
            best = loss, {name: t.clone() for name, t in model.state_dict().items()}, history
    if best is None:
        raise failure
    model.load_state_dict(best[1])
    return best[2]


def _svi(
    model: LatentFeatureModel, x: Tensor, num_epochs: int, batch_size: int, rate: float, kl_start: float
) -> Iterator[dict[str, float]]:
    """Train from where the model is; the record of each epoch, after it."""
    optimizer = torch.optim.Adam(_groups(model, rate), fused=True)
    svi = SVI(model.model, model.guide, SingleOptimizer(optimizer), LeanTraceELBO())
    for epoch in range(num_epochs):
        for group in optimizer.param_groups:
            group["lr"] = group["rate"] * max(cosine(epoch / num_epochs), 1e-3)
        share = max(0.0, 1 - 2 * epoch / num_epochs)
        order = torch.arange(len(x)) if batch_size >= len(x) else torch.randperm(len(x))
        loss = 0.0
        for step, rows in enumerate(order.split(batch_size)):
            with Weighed(1 + (kl_start - 1) * share, _is_of_features):
                loss += svi.step(x if len(rows) == len(x) else x[rows]) * len(rows) / len(x) ** 2
            if not math.isfinite(loss):
                raise NonFiniteLossError(epoch + 1, step + 1, "LatentFeatureModel")
        yield {"epoch": epoch + 1, "loss": loss, "num_features": float(model.num_used(x))}


@torch.no_grad()
def _groups(model: LatentFeatureModel, rate: float) -> list[dict[str, Any]]:
    """Adam's groups: a step of W's means is no larger than its scale under q, where that is small."""
    trained = {name: p for name, p in model.named_parameters() if p.requires_grad}
    step = min(1.0, _STEP * model.log_scale.exp().median().item())
    means = [p for name, p in trained.items() if name == "loc"]
    others = [p for name, p in trained.items() if name != "loc"]
    groups = [{"params": means, "rate": rate * step}, {"params": others, "rate": rate}]
    return [group for group in groups if group["params"]]


def _is_of_features(site: Any) -> bool:
    return site["name"] in ("pi", "z")


@torch.no_grad()
def _first_pays(x: Tensor, scale: Tensor | None) -> float:
    """Half of the weight of the KL at which the first feature pays, or what is usual where the noise is not known."""
    if scale is None:
        return _USUAL_START
    largest = variances(x)[-1]
    return max(1.0, _SHARE * (largest / scale.square().mean() - 1).item())


def _check(x: Tensor, scored: Tensor | None) -> None:
    """Raise a ValueError where there is nothing to learn from, or to score."""
    if x.numel() and bool(x.isnan().all()):
        raise ValueError("x is nan everywhere: nothing was observed")
    if scored is not None and bool(scored.isnan().all()):
        raise ValueError("held_out holds out nothing that was observed; leave it out")


def _check_sizes(model: LatentFeatureModel, x: Tensor, batch_size: int) -> None:
    if len(x) != model.num_data:
        raise ValueError(f"x has {len(x)} data, and the model's num_data is {model.num_data}; make them agree")
    if model.encoder is None and batch_size < len(x):
        raise ValueError(
            f"batch_size is {batch_size}, but without an encoder each of the {len(x)} data has a z of its own, and all "
            "go into each step; leave it out, or give the model an encoder"
        )


@contextlib.contextmanager
def _bar(progress: bool | Console, total: int) -> Iterator[Any]:
    if not is_drawn(progress):
        yield lambda: None
        return
    columns = (TextColumn("latent features"), BarColumn(), TimeRemainingColumn())
    console = progress if isinstance(progress, Console) else None
    with Progress(*columns, console=console, transient=True) as bar:
        task = bar.add_task("", total=total)
        yield lambda: bar.advance(task)
