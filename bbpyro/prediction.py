"""Predictions of a trained network, and how good they are."""

import contextlib
import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import pyro
import torch
from rich.console import Console
from rich.progress import track
from torch import Tensor

from bbpyro import likelihoods, nests
from bbpyro.bars import is_drawn
from bbpyro.checks import check_data, check_inputs, check_positive, in_eval_mode
from bbpyro.denormals import flushed
from bbpyro.drawing import (
    Guide,
    check_guide,
    distribution_of_y,
    draw,
    draw_pi,
    draw_weights,
    is_point,
    mean_network,
    num_draws_at_once,
)
from bbpyro.exclusive import one_at_a_time
from bbpyro.latent_features import predict_features
from bbpyro.layers import device_of
from bbpyro.model import BetaBernoulliNetwork
from bbpyro.nests import Nest
from bbpyro.smaller import living_part
from bbpyro.verbs import of_either

CI_PROB = 0.94  # of every interval, and of what is sure: ArviZ's own
_NUM_DRAWS = 1000  # of y, at least, where its distribution has no cdf


@dataclass(frozen=True)
class Evaluation:
    """How good class probabilities are.

    Attributes:
        error: the share of wrong labels, in [0, 1].
        nll: the mean negative log-likelihood of the true label, nats.
        ece: the expected calibration error over 15 equal bins of confidence, in [0, 1] (arXiv 1706.04599).
    """

    error: float
    nll: float
    ece: float


@dataclass(frozen=True)
class RegressionEvaluation:
    """How good predictions of numbers are, be they measured or counted.

    Attributes:
        rmse: the root of the mean squared error of E[y], in the unit of y.
        nll: the mean negative log predictive density (of counts, probability) of a datum, nats.
        coverage: the share of y in their central predictive intervals, which should be `ci_prob`.
    """

    rmse: float
    nll: float
    coverage: float


@dataclass(frozen=True)
class Uncertainty:
    """The variance of a prediction, in two parts: Var[y] = E[Var[y | W, π, z]] + Var[E[y | W, π, z]].

    The law of total variance (arXiv 1710.07283, eq. 3). Each tensor `[N, ...]` has the shape of what
    :func:`predict` gives; of classes it is of each one's indicator, `[N, C]`.

    Attributes:
        mean: E[y].
        aleatoric: the mean variance of y given W, π and z: the noise that more data leave.
        epistemic: the variance of E[y | W, π, z] over the draws: what the posterior does not know.
    """

    mean: Tensor
    aleatoric: Tensor
    epistemic: Tensor

    @property
    def total(self) -> Tensor:
        """Var[y], the sum of the two."""
        return self.aleatoric + self.epistemic


@one_at_a_time
def predict_network(
    bnn: BetaBernoulliNetwork,
    x: Nest,
    num_samples: int | None = 100,
    batch_size: int = 1000,
    *,
    guide: Guide | None = None,
    progress: bool | Console = False,
) -> Tensor:
    """What is to be expected of y at x: class probabilities, P(y = 1), or the mean.

    Args:
        bnn: the network.
        x: inputs `[N, ...]`, on any device: a tensor, or a nest of them, see :class:`bbpyro.BetaBernoulliNetwork`.
        num_samples: draws of q(W, π, z) to average over, or None for the mean mask.
        batch_size: data handled at once; it bounds the memory, not the result.
        guide: a guide of your own that W was trained with, in place of the network's: a callable with the model's
            arguments and a site for every weight; sites of π that it lacks come from the gates. For the mean mask W is
            its median, where it is one of Pyro's autoguides, else the mean of each site, or of 100 draws of it.
        progress: a progress bar, or the rich console to draw it on.

    Returns:
        By the likelihood, where x is: of classes probabilities `[N, C]`; of a Bernoulli P(y = 1) `[N]`; of anything
        else, as a regression or counts, E[y], of y's shape.

    Raises:
        TypeError: bnn is no network, x no tensor or nest of tensors, or guide no callable.
        ValueError: a number is below 1, x does not fit the network, y has no mean, or guide lacks a weight.
    """
    _check(bnn, num_samples, batch_size, guide)
    check_inputs(bnn, bnn.likelihood, x)
    return _mean(bnn, x, num_samples, batch_size, guide, progress)


predict = of_either("predict", predict_network, predict_features)


def _mean(bnn: BetaBernoulliNetwork, x: Nest, num_samples: int | None, *options: Any) -> Tensor:
    sums: dict[int, Tensor] = {}
    with _predicting(bnn):
        for b, num_draws, distribution in _predictions(bnn, x, num_samples, *options):
            expected = likelihoods.expectation(distribution).unflatten(0, (num_draws, -1)).sum(0)
            sums[b] = sums[b] + expected if b in sums else expected
        return torch.cat([total.to(nests.first(x).device) for total in sums.values()]) / (num_samples or 1)


@one_at_a_time
def predictive_draws(
    bnn: BetaBernoulliNetwork,
    x: Nest,
    num_samples: int = 100,
    batch_size: int = 1000,
    *,
    guide: Guide | None = None,
    progress: bool | Console = False,
) -> Tensor:
    """Draws of y at x from the posterior predictive distribution `[num_samples, N, ...]`, where x is.

    Each is of one draw of W and π, the same for all data, and of a z for each. Arguments and errors are those of
    :func:`predict`.
    """
    check_positive(num_samples=num_samples)
    _check(bnn, num_samples, batch_size, guide)
    check_inputs(bnn, bnn.likelihood, x)
    with _predicting(bnn):
        draws: dict[int, list[Tensor]] = {}
        for b, num_draws, distribution in _predictions(bnn, x, num_samples, batch_size, guide, progress):
            y: Any = distribution.sample()
            draws.setdefault(b, []).append(y.unflatten(0, (num_draws, -1)).to(nests.first(x).device))
        return torch.cat([torch.cat(of_batch) for of_batch in draws.values()], 1)


@one_at_a_time
def uncertainty(
    bnn: BetaBernoulliNetwork,
    x: Nest,
    num_samples: int = 100,
    batch_size: int = 1000,
    *,
    guide: Guide | None = None,
    progress: bool | Console = False,
) -> Uncertainty:
    """E[y] at x, and its variance in two parts, of num_samples draws; arguments and errors as of :func:`predict`."""
    check_positive(num_samples=num_samples)
    _check(bnn, num_samples, batch_size, guide)
    check_inputs(bnn, bnn.likelihood, x)
    with _predicting(bnn):
        origins: dict[int, Tensor] = {}
        sums: dict[int, Tensor] = {}
        for b, num_draws, distribution in _predictions(bnn, x, num_samples, batch_size, guide, progress):
            expected = likelihoods.expectation(distribution).unflatten(0, (num_draws, -1))
            within = likelihoods.variance(distribution).unflatten(0, (num_draws, -1)).double()
            shift = expected.double() - origins.setdefault(b, expected[0].double())  # small: its square loses nothing
            new = torch.stack([shift, shift**2, within]).sum(1)
            sums[b] = sums[b] + new if b in sums else new
        origin = torch.cat(list(origins.values()))
        shift, square, aleatoric = torch.cat(list(sums.values()), 1) / num_samples
        parts = origin + shift, aleatoric, (square - shift**2).clamp_min(0)
        return Uncertainty(*(part.to(nests.first(x).device, expected.dtype) for part in parts))


@one_at_a_time
def evaluate(
    bnn: BetaBernoulliNetwork,
    x: Nest,
    y: Tensor,
    num_samples: int | None = 100,
    batch_size: int = 1000,
    *,
    guide: Guide | None = None,
    ci_prob: float = CI_PROB,
    progress: bool | Console = False,
) -> Evaluation | RegressionEvaluation:
    """How good :func:`predict` is on x, y; its errors are raised here too, and a ValueError for y or ci_prob.

    Args:
        bnn: the network.
        x: inputs `[N, ...]`.
        y: what was observed there, `[N, ...]`.
        num_samples: draws to average over, or None for the mean mask.
        batch_size: data handled at once.
        guide: of W, in place of the network's own.
        ci_prob: of numbers, what a central predictive interval is to cover, in (0, 1).
        progress: a progress bar, or the console to draw it on.

    Returns:
        An :class:`Evaluation` where y is a class, or 0 or 1; a :class:`RegressionEvaluation` where it is a number.
    """
    if not 0 < ci_prob < 1:
        raise ValueError(f"ci_prob is {ci_prob}, wanted a probability between 0 and 1")
    _check(bnn, num_samples, batch_size, guide)
    kind = likelihoods.kind(check_data(bnn, bnn.likelihood, x, y).distribution)
    if kind == "classes":
        probs = _mean(bnn, x, num_samples, batch_size, guide, progress)
        y = y.to(probs.device)
        labels = y if y.dim() == probs.dim() - 1 else y.argmax(-1)
        return score(probs.flatten(0, -2), labels.flatten())
    with _predicting(bnn):
        predictions = _predictions(bnn, x, num_samples, batch_size, guide, progress)
        found = _compare(predictions, [part.to(device_of(bnn)) for part in y.split(batch_size)], num_samples or 1)
    y, nll = y.to(found["mean"].device), -found["log_prob"].mean().item()
    if kind == "binary":
        p = found["mean"].flatten()
        return replace(score(torch.stack([1 - p, p], -1), y.flatten()), nll=nll)
    lower, upper = (1 - ci_prob) / 2, (1 + ci_prob) / 2
    inside = (found["up_to"] >= lower) & (found["below"] <= upper)
    return RegressionEvaluation(
        rmse=(found["mean"] - y).square().mean().sqrt().item(), nll=nll, coverage=inside.double().mean().item()
    )


def _compare(predictions: Iterator[tuple[int, int, Any]], y: list[Tensor], num_samples: int) -> dict[str, Tensor]:
    """E[y], log p(y), P(Y < y) and P(Y <= y) of each datum under the mixture of the draws; y in batches."""
    totals: dict[int, dict[str, Tensor]] = {}
    for b, num_draws, distribution in predictions:
        observed = y[b].repeat(num_draws, *[1] * (y[b].dim() - 1))
        is_binary = likelihoods.kind(distribution) == "binary"  # each number of y is a label then
        scored = likelihoods.of_each(distribution) if is_binary else distribution
        new = {"mean": likelihoods.expectation(distribution), "log_prob": scored.log_prob(observed)}
        if not is_binary:
            num_y = math.ceil(_NUM_DRAWS / num_samples)
            new["below"], new["up_to"] = likelihoods.probability_below(distribution, observed, num_y)
        new = {name: value.double().unflatten(0, (num_draws, -1)) for name, value in new.items()}
        new = {name: v.logsumexp(0) if name == "log_prob" else v.sum(0) for name, v in new.items()}
        for name, old in totals.get(b, {}).items():
            new[name] = torch.logaddexp(old, new[name]) if name == "log_prob" else old + new[name]
        totals[b] = new
    found = {name: torch.cat([total[name] for total in totals.values()]) for name in totals[0]}
    log_prob = found.pop("log_prob") - math.log(num_samples)
    return {"log_prob": log_prob, **{name: total / num_samples for name, total in found.items()}}


def _check(bnn: BetaBernoulliNetwork, num_samples: int | None, batch_size: int, guide: Guide | None) -> None:
    """Raise a TypeError or ValueError for what cannot be predicted by."""
    if not isinstance(bnn, BetaBernoulliNetwork):
        raise TypeError(f"bnn is a {type(bnn).__name__}, wanted a BetaBernoulliNetwork")
    check_positive(batch_size=batch_size, **({} if num_samples is None else {"num_samples": num_samples}))
    check_guide(bnn, guide)


@contextlib.contextmanager
def _predicting(bnn: BetaBernoulliNetwork) -> Iterator[None]:
    with torch.inference_mode(False), torch.no_grad(), flushed(), in_eval_mode(bnn), pyro.validation_enabled(False):
        yield


def _predictions(
    bnn: BetaBernoulliNetwork,
    x: Nest,
    num_samples: int | None,
    batch_size: int,
    guide: Guide | None,
    progress: bool | Console,
) -> Iterator[tuple[int, int, Any]]:
    """The number of a batch, S of its draws, and the distribution of y in it, `[S·N]` draw by draw; over all draws.

    Draws of q come before batches, so that each is the same for all data. As many as fit in a batch are made at once.
    """
    device, batches = device_of(bnn), nests.split(x, batch_size)
    at_once = num_draws_at_once(bnn, guide, nests.num_rows(x), batch_size)
    chunks = [min(at_once, num_samples - start) for start in range(0, num_samples, at_once)] if num_samples else [1]
    steps = [(chunk, b) for chunk in range(len(chunks)) for b in range(len(batches))]
    console = progress if isinstance(progress, Console) else None
    mean = mean_network(bnn, guide, x) if num_samples is None else None
    draws = _Draws(bnn, guide, x, chunks) if mean is None else None
    for chunk, b in track(steps, "predicting", console=console, disable=not is_drawn(progress), transient=True):
        batch = nests.to_device(batches[b], device)
        if mean is not None:
            yield b, 1, bnn.likelihood(mean(batch))
        elif draws is not None:
            yield b, chunks[chunk], draws.distribution_of_y(chunk, batch)


class _Draws:
    """Draws of q, a number at once, and the network that is predicted by under them.

    Where many data are predicted by many draws, that is the network without the units that none of these draws has.
    """

    def __init__(self, bnn: BetaBernoulliNetwork, guide: Guide | None, x: Nest, numbers: list[int]) -> None:
        self._bnn, self._guide, self._x, self._numbers = bnn, guide, x, numbers
        self._pi = [draw_pi(bnn, number) for number in numbers] if guide is None else []
        self._small = living_part(bnn, self._pi, x, sum(numbers))
        self._now: tuple[int, Any, Any] = -1, {}, {}

    def distribution_of_y(self, which: int, batch: Nest) -> Any:
        """That of y in a batch by the draws of this number; the draws of a number are of one W."""
        if self._now[0] != which:
            self._now = which, *self._draw(which)
        _, pi, W = self._now
        if self._small is None:
            return distribution_of_y(self._bnn, batch, pi, W, self._numbers[which])
        return distribution_of_y(self._small.bnn, self._small.read(batch), pi, W, self._numbers[which])

    def _draw(self, which: int) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        if not self._pi:
            return draw(self._bnn, self._numbers[which], self._guide, self._x)
        pi, small = self._pi[which], self._small
        if small is None:
            return pi, draw_weights(self._bnn)
        of_point = is_point(self._bnn, None)
        return small.of_pi(pi), draw_weights(small.bnn) if of_point else small.of_weights(draw_weights(self._bnn))


def score(probs: Tensor, y: Tensor, num_bins: int = 15) -> Evaluation:
    """Error, NLL and calibration of class probabilities `[B, C]` for labels `[B]`."""
    bins = calibration(probs, y, num_bins)
    y = y.long()
    true_class = probs.gather(-1, y[:, None]).clamp_min(torch.finfo(probs.dtype).tiny)
    return Evaluation(
        error=1 - (probs.argmax(-1) == y).double().mean().item(),
        nll=-true_class.double().log().mean().item(),
        ece=((bins.confidence - bins.accuracy).abs() * bins.count).nansum().item() / len(y),
    )


@dataclass(frozen=True)
class Calibration:
    """Data sorted by confidence into equal bins of [0, 1], each tensor `[num_bins]`, nan where a bin is empty.

    Attributes:
        count: how many data.
        confidence: their mean probability of the predicted class.
        accuracy: the share of them that was predicted right.
    """

    count: Tensor
    confidence: Tensor
    accuracy: Tensor


def calibration(probs: Tensor, y: Tensor, num_bins: int = 15) -> Calibration:
    """The reliability diagram of class probabilities `[B, C]` for labels `[B]` (arXiv 1706.04599)."""
    if probs.dim() != 2 or y.shape != probs.shape[:1]:
        raise ValueError(f"y has shape {tuple(y.shape)}, wanted a label for each of probabilities {tuple(probs.shape)}")
    confidence, label = probs.max(-1)
    bins = (confidence * num_bins).long().clamp_max(num_bins - 1)

    def total(values: Tensor) -> Tensor:
        return torch.zeros(num_bins, dtype=torch.float64, device=probs.device).index_add_(0, bins, values.double())

    count = total(torch.ones_like(confidence))
    return Calibration(count, total(confidence) / count, total(label == y) / count)
