"""Predictions of a trained network, and how good they are."""

from dataclasses import dataclass
from typing import Any

import pyro.poutine as poutine
import torch
from torch import Tensor

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
        x: inputs `[B, ...]`.
        num_samples: draws of q(z, π) to average over, or None for the mean mask.
        batch_size: data handled at once; it bounds the memory, not the result.

    Returns:
        Probabilities `[B, C]`.

    Raises:
        ValueError: num_samples or batch_size is below 1, or the likelihood has no class probabilities.
    """
    if num_samples is not None and num_samples < 1:
        raise ValueError(f"num_samples is {num_samples}, wanted at least 1, or None for the mean mask")
    if batch_size < 1:
        raise ValueError(f"batch_size is {batch_size}, wanted at least 1")
    was_training = bnn.training
    bnn.eval()
    try:
        return torch.cat([_predict_batch(bnn, batch, num_samples) for batch in x.split(batch_size)])
    finally:
        bnn.train(was_training)


def _predict_batch(bnn: BetaBernoulliNetwork, x: Tensor, num_samples: int | None) -> Tensor:
    if num_samples is None:
        return _probs(bnn.likelihood(bnn(x)))
    total = torch.zeros(())
    for _ in range(num_samples):
        draw = poutine.trace(bnn.guide).get_trace(x)
        trace = poutine.trace(poutine.replay(bnn.model, trace=draw)).get_trace(x)
        total = total + _probs(trace.nodes["y"]["fn"])
    return total / num_samples


def _probs(distribution: Any) -> Tensor:
    if not hasattr(distribution, "probs"):
        raise ValueError(
            f"likelihood: {type(distribution).__name__} has no class probabilities; predict wants Categorical"
        )
    return distribution.probs


def evaluate(
    bnn: BetaBernoulliNetwork, x: Tensor, y: Tensor, num_samples: int | None = 100, batch_size: int = 1000
) -> Evaluation:
    """Error, NLL and calibration of :func:`predict` on x, y; arguments as there."""
    return score(predict(bnn, x, num_samples, batch_size), y)


def score(probs: Tensor, y: Tensor, num_bins: int = 15) -> Evaluation:
    """Error, NLL and calibration of class probabilities `[B, C]` for labels `[B]`."""
    if probs.dim() != 2 or y.shape != probs.shape[:1]:
        raise ValueError(f"y has shape {tuple(y.shape)}, wanted a label for each of probabilities {tuple(probs.shape)}")
    y = y.long()
    confidence, label = probs.max(-1)
    right = (label == y).double()
    true_class = probs.gather(-1, y[:, None]).clamp_min(torch.finfo(probs.dtype).tiny)
    bins = (confidence * num_bins).long().clamp_max(num_bins - 1)
    gaps = torch.zeros(num_bins, dtype=torch.float64, device=probs.device).index_add_(
        0, bins, confidence.double() - right
    )
    return Evaluation(
        error=1 - right.mean().item(),
        nll=-true_class.double().log().mean().item(),
        ece=gaps.abs().sum().item() / len(y),
    )
