"""Kumaraswamy's distribution, q(π)."""

from collections.abc import Sequence
from typing import Any

import torch
from pyro.distributions.torch_distribution import TorchDistribution
from torch import Tensor
from torch.distributions import constraints
from torch.distributions.utils import broadcast_all

from bbpyro import functional as f
from bbpyro.distributions.remembering import remember_log_odds, remembered_log_odds
from bbpyro.distributions.together import Together


class Kumaraswamy(TorchDistribution):
    """Kumaraswamy's distribution on [0, 1], close to Beta and with a closed-form inverse CDF.

    Density ``a b π^(a-1) (1-π^a)^(b-1)`` (arXiv 1805.10896). Accurate, with gradients, for a and b in
    [1e-6, 1e3], in float32 and float64. ``mode`` is nan where the density has no single finite peak.

    Args:
        concentration1: a > 0, of any shape; broadcasts with concentration0 to the batch shape.
        concentration0: b > 0.
        validate_args: as everywhere in torch.distributions.

    Raises:
        ValueError: a concentration is not positive, or a value lies outside [0, 1], with validation on.
    """

    arg_constraints = {"concentration1": constraints.positive, "concentration0": constraints.positive}
    support = constraints.unit_interval
    has_rsample = True
    _own_draw: tuple[Tensor, Tensor] | None = None  # the last reparameterised draw and its log-density
    _together: tuple[Together, int] | None = None  # what this is drawn with, and as which part of it

    def __init__(self, concentration1: Any, concentration0: Any, validate_args: bool | None = None) -> None:
        self.concentration1, self.concentration0 = broadcast_all(concentration1, concentration0)
        super().__init__(self.concentration1.shape, validate_args=validate_args)

    def split(self, sizes: Sequence[int]) -> "list[Kumaraswamy]":
        """Distributions of successive parts of a vector `[K]`; the first draws of all of them are one draw of this."""
        concentrations = (c.split(list(sizes), -1) for c in (self.concentration1, self.concentration0))
        parts = [Kumaraswamy(a, b, validate_args=False) for a, b in zip(*concentrations, strict=True)]
        together = Together(self, sizes)
        for i, part in enumerate(parts):
            part._together, part._validate_args = (together, i), self._validate_args
        return parts

    def expand(self, batch_shape: Any, _instance: Any = None) -> "Kumaraswamy":
        """The same distribution with a larger batch shape."""
        new = self._get_checked_instance(Kumaraswamy, _instance)
        new.concentration1 = self.concentration1.expand(batch_shape)
        new.concentration0 = self.concentration0.expand(batch_shape)
        super(Kumaraswamy, new).__init__(torch.Size(batch_shape), validate_args=False)
        new._validate_args = self._validate_args
        return new

    def rsample(self, sample_shape: Any = ()) -> Tensor:
        """Reparameterised draws, `sample_shape + batch_shape`, that remember their log-odds."""
        shape = self._extended_shape(torch.Size(sample_shape))
        taken = self._together and self._together[0].take(self._together[1], shape)
        draw, odds, log_prob = taken or self._draw(shape)
        draw._log_odds = odds  # type: ignore[attr-defined]
        self._own_draw = (draw, log_prob) if log_prob.requires_grad else None
        return draw

    def _draw(self, shape: torch.Size) -> tuple[Tensor, Tensor, Tensor]:
        """A draw, its log-odds and its log-density."""
        exponential = torch.empty(shape, dtype=torch.float64, device=self.concentration1.device).exponential_()
        exponential = exponential.clamp_min(torch.finfo(torch.float64).tiny)
        a, b = self.concentration1, self.concentration0
        if a.shape != shape:
            a, b = a.expand(shape), b.expand(shape)
        odds, log_prob = f.kumaraswamy_draw(exponential, a, b)
        return remember_log_odds(odds, self.concentration1.dtype), odds, log_prob

    def log_prob(self, value: Tensor) -> Tensor:
        """Log-density of `value`, exact for a draw even where float rounds it to 0 or 1."""
        if self._own_draw is not None and value is self._own_draw[0]:
            return self._own_draw[1].to(value.dtype)
        if self._validate_args:
            self._validate_sample(value)
        return f.kumaraswamy_log_prob(_log_surprise(value), self.concentration1, self.concentration0)

    def cdf(self, value: Tensor) -> Tensor:
        """Probability of a draw below `value`."""
        if self._validate_args:
            self._validate_sample(value)
        return f.kumaraswamy_cdf(_log_surprise(value), self.concentration1, self.concentration0)

    def icdf(self, value: Tensor) -> Tensor:
        """The quantile of probability `value`."""
        return f.kumaraswamy_icdf(value, self.concentration1, self.concentration0)

    @property
    def mean(self) -> Tensor:
        """E[π]: the keep probability of each unit."""
        return f.kumaraswamy_mean(self.concentration1, self.concentration0)

    @property
    def variance(self) -> Tensor:
        """Var[π]."""
        return f.kumaraswamy_variance(self.concentration1, self.concentration0)

    @property
    def mode(self) -> Tensor:
        """The interior peak, or nan where there is none."""
        return f.kumaraswamy_mode(self.concentration1, self.concentration0)

    def entropy(self) -> Tensor:
        """Differential entropy, in nats."""
        return f.kumaraswamy_entropy(self.concentration1, self.concentration0)


def _log_surprise(value: Tensor) -> Tensor:
    exact = remembered_log_odds(value)
    return f.log_neg_log(value) if exact is None else f.log_softplus(-exact)
