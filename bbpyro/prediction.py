"""Predictions of a trained network, and how good they are."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import pyro.poutine as poutine
import torch
from torch import Tensor

from bbpyro.checks import check_data, check_positive, in_eval_mode
from bbpyro.layers import device_of
from bbpyro.model import BetaBernoulliNetwork


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


@torch.no_grad()
def predict(bnn: BetaBernoulliNetwork, x: Tensor, num_samples: int | None = 100, batch_size: int = 1000) -> Tensor:
    """Class probabilities of x.

    Args:
        bnn: a network with a Categorical likelihood.
        x: inputs `[B, ...]`, on any device.
        num_samples: draws of q(z, π) to average over, or None for the mean mask.
        batch_size: data handled at once; it bounds the memory, not the result.

    Returns:
        Probabilities `[B, C]`, where x is.

    Raises:
        ValueError: num_samples or batch_size is below 1, or the likelihood has no class probabilities.
    """
    if num_samples is not None and num_samples < 1:
        raise ValueError(f"num_samples is {num_samples}, wanted at least 1, or None for the mean mask")
    check_positive(batch_size=batch_size)
    check_data(bnn, bnn.likelihood, x)
    with in_eval_mode(bnn):
        device = device_of(bnn)
        return torch.cat(
            [_predict_batch(bnn, batch.to(device), num_samples).to(x.device) for batch in x.split(batch_size)]
        )


def _predict_batch(bnn: BetaBernoulliNetwork, x: Tensor, num_samples: int | None) -> Tensor:
    if num_samples is None:
        return _probs(bnn.likelihood(bnn(x)))
    total = torch.zeros((), device=x.device)
    for _ in range(num_samples):
        pi = {g: gate.posterior().rsample() for g, gate in bnn.gates.items()}
        total = total + _probs(draw_y(bnn, x, pi, draw_weights(bnn))[0])
    return total / num_samples


def draw_weights(bnn: BetaBernoulliNetwork) -> dict[str, Tensor]:
    """One W of q(W), by name."""
    return {name: bnn.weight_posterior(name).sample() for name in bnn.weights}


def draw_y(
    bnn: BetaBernoulliNetwork, x: Tensor, pi: Mapping[str, Tensor], W: Mapping[str, Tensor]
) -> tuple[Any, Tensor]:
    """The distribution of y given W, π of each gate and one draw of z, which q and p draw alike, and a y from it."""
    known = {**W, **{f"{g}.pi": value for g, value in pi.items()}}
    y: Any = poutine.trace(poutine.condition(bnn.model, data=known)).get_trace(x).nodes["y"]
    return y["fn"], y["value"]


def _probs(distribution: Any) -> Tensor:
    if not hasattr(distribution, "probs"):
        raise ValueError(
            f"likelihood: {type(distribution).__name__} has no class probabilities; predict wants Categorical "
            "(bbpyro.to_arviz draws y of any likelihood)"
        )
    return distribution.probs


def evaluate(
    bnn: BetaBernoulliNetwork, x: Tensor, y: Tensor, num_samples: int | None = 100, batch_size: int = 1000
) -> Evaluation:
    """Error, NLL and calibration of :func:`predict` on x, y; arguments as there."""
    check_data(bnn, bnn.likelihood, x, y)
    return score(predict(bnn, x, num_samples, batch_size), y)


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
