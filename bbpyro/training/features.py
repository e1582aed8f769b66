"""fit_features(): SVI of a LatentFeatureModel, from several starts, of which the one with the highest ELBO is kept.

A start ends in one of many optima: a feature may be two halves that always go together, or the sum of two. Where the
KL of π and z weighs more at first, no feature pays, and as it falls those that the data want come one by one. That is
annealing: with Gaussian noise of variance s², a KL that weighs c is one of weight 1 under noise of variance c s², and
the first feature pays about where c s² is the largest variance of the data in any direction.
"""

import contextlib
import math
from collections.abc import Iterator
from typing import Any

import torch
from pyro.infer import SVI
from pyro.poutine.messenger import Messenger
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn
from torch import Tensor

from bbpyro.bars import is_drawn
from bbpyro.exclusive import one_at_a_time
from bbpyro.latent_features import LatentFeatureModel, check_floats
from bbpyro.likelihoods import of_each
from bbpyro.training.epochs import NonFiniteLossError
from bbpyro.training.handlers import SingleOptimizer
from bbpyro.training.inference import cosine
from bbpyro.training.lean_elbo import LeanTraceELBO
from bbpyro.training.starts import final_loss

_USUAL_START = 5.0
_SHARE = 0.5  # of the weight at which the first feature pays; of twice as much, features die for good


@one_at_a_time
def fit_features(
    model: LatentFeatureModel,
    x: Tensor,
    *,
    num_epochs: int = 800,
    batch_size: int | None = None,
    learning_rate: float = 0.1,
    kl_start: float | None = None,
    num_starts: int = 3,
    seed: int | None = None,
    progress: bool | Console = True,
) -> list[dict[str, float]]:
    """Maximise the ELBO of `model` on x, in place, with SVI, Trace_ELBO and Adam.

    Args:
        model: trained from `num_starts` random starts of W, z and the encoder; the decoder, and what of the
            likelihood is learnt, begin each time as they are.
        x: the data `[N, ...]`; what is nan was not observed.
        num_epochs: passes over the data, of each start.
        batch_size: data in a step; by default all, as a model without an encoder wants.
        learning_rate: Adam's; constant for half of training, then half a cosine to zero.
        kl_start: what log p and log q of π and z weigh at first, from where it goes to 1 in half of the epochs. By
            default, of a Normal likelihood without a decoder, half of what the largest variance of x in any direction
            is more than the noise, over that of the noise; else 5.
        num_starts: of which the one with the highest ELBO is kept.
        seed: of starts, batches and noise; by default drawn from torch's global generator, which is left as it was.
        progress: a progress bar, or the rich console to draw it on.

    Returns:
        One record an epoch, of the start that was kept: loss (-ELBO/N, nats, with what the KL weighs just then, so that
        of the first half it is more) and num_features, those in use.

    Raises:
        ValueError: a number is out of range, or x does not fit the model.
        NonFiniteLossError: the loss became nan or infinite.
    """
    batch_size = len(x) if batch_size is None else batch_size
    for name, number in (("num_epochs", num_epochs), ("batch_size", batch_size), ("num_starts", num_starts)):
        if number < 1:
            raise ValueError(f"{name} is {number}, wanted at least 1")
    for name, value in (("learning_rate", learning_rate), ("kl_start", kl_start)):
        if value is not None and not 0 < value < math.inf:
            raise ValueError(f"{name} is {value}, wanted a positive number")
    _check(model, x, batch_size)
    kl_start = _first_pays(model, x) if kl_start is None else kl_start
    seed = int(torch.randint(2**31, ()) if seed is None else seed)
    best: tuple[float, dict[str, Tensor], list[dict[str, float]]] | None = None
    begin = {name: t.clone() for name, t in model.state_dict().items()}
    with torch.random.fork_rng(), torch.enable_grad(), _bar(progress, num_starts * num_epochs) as advance:
        for start in range(num_starts):
            torch.manual_seed(seed + start)
            model.load_state_dict(begin)
            model.reset_parameters()
            history = _one_start(model, x, num_epochs, batch_size, learning_rate, kl_start, advance)
            loss = final_loss(history)
            if best is None or loss < best[0]:
                best = loss, {name: t.clone() for name, t in model.state_dict().items()}, history
    assert best is not None
    model.load_state_dict(best[1])
    return best[2]


def _one_start(
    model: LatentFeatureModel, x: Tensor, num_epochs: int, batch_size: int, rate: float, kl_start: float, advance: Any
) -> list[dict[str, float]]:
    optimizer = torch.optim.Adam(model.parameters(), lr=rate, fused=True)
    svi = SVI(model.model, model.guide, SingleOptimizer(optimizer), LeanTraceELBO())
    history = []
    for epoch in range(num_epochs):
        for group in optimizer.param_groups:
            group["lr"] = rate * max(cosine(epoch / num_epochs), 1e-3)
        share = max(0.0, 1 - 2 * epoch / num_epochs)
        order = torch.arange(len(x)) if batch_size >= len(x) else torch.randperm(len(x))
        loss = 0.0
        for step, rows in enumerate(order.split(batch_size)):
            with _Weighed(1 + (kl_start - 1) * share):
                loss += svi.step(x if len(rows) == len(x) else x[rows]) * len(rows) / len(x) ** 2
            if not math.isfinite(loss):
                raise NonFiniteLossError(epoch + 1, step + 1, "LatentFeatureModel")
        history.append({"loss": loss, "num_features": float(model.num_used(x))})
        advance()
    return history


@torch.no_grad()
def _first_pays(model: LatentFeatureModel, x: Tensor) -> float:
    """Half of the weight of the KL at which the first feature pays, or what is usual where that is not known."""
    noise = of_each(model.likelihood(torch.zeros_like(x))) if model.decoder is None else None
    if not isinstance(noise, torch.distributions.Normal):
        return _USUAL_START
    mean = x.nanmean(0).nan_to_num()
    centred = torch.where(x.isnan(), 0.0, x - mean).double()
    largest = torch.linalg.matrix_norm(centred, 2) ** 2 / len(x)
    return max(1.0, _SHARE * (largest / noise.variance.mean() - 1).item())


class _Weighed(Messenger):
    """An effect handler that weighs the densities of π and z."""

    def __init__(self, weight: float) -> None:
        super().__init__()
        self.weight = weight

    def _pyro_sample(self, msg: Any) -> None:
        if msg["name"] in ("pi", "z"):
            msg["scale"] = msg["scale"] * self.weight


def _check(model: LatentFeatureModel, x: Tensor, batch_size: int) -> None:
    if not isinstance(model, LatentFeatureModel):
        raise TypeError(f"model is a {type(model).__name__}, wanted a LatentFeatureModel")
    if not isinstance(x, Tensor):
        raise TypeError(f"x is a {type(x).__name__}, wanted a tensor")
    check_floats(x)
    if len(x) != model.num_data:
        raise ValueError(f"x has {len(x)} data, and the model's num_data is {model.num_data}; make them agree")
    if model.encoder is None and batch_size < len(x):
        raise ValueError(
            f"batch_size is {batch_size}, but without an encoder each of the {len(x)} data has a z of its own, and all "
            "go into each step; leave it out, or give the model an encoder"
        )
    if bool(x.isnan().all()):
        raise ValueError("x is nan everywhere: nothing was observed")
    if bool(x.isinf().any()):
        raise ValueError("x has infinite numbers; what was not observed is nan")


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
