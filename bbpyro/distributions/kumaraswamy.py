"""Kumaraswamy's distribution, q(π)."""

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from pyro.distributions.torch_distribution import TorchDistribution
from torch import Tensor
from torch.distributions import constraints
from torch.distributions.utils import broadcast_all, lazy_property

from bbpyro import functional as f
from bbpyro.distributions.remembering import remembered_log_odds
from bbpyro.distributions.together import Together, mark_parts


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
    # What a and b are the softplus of, plus `_least`: vectors end to end. None where a and b are given.
    _unconstrained: tuple[Sequence[Tensor], Sequence[Tensor]] | None = None
    _least = 0.0

    def __init__(self, concentration1: Any, concentration0: Any, validate_args: bool | None = None) -> None:
        self.concentration1, self.concentration0 = broadcast_all(concentration1, concentration0)
        super().__init__(self.concentration1.shape, validate_args=validate_args)

    @classmethod
    def of_unconstrained(
        cls, unconstrained1: Sequence[Tensor], unconstrained0: Sequence[Tensor], least: float
    ) -> "list[Kumaraswamy]":
        """Of each pair of vectors `[K]`, Kumaraswamy(a, b) of a, b = softplus + `least`; the first draws are one draw.

        a and b are computed where they are asked for; a draw's gradient goes straight to the vectors.
        """
        whole = cls._of_unconstrained(list(unconstrained1), list(unconstrained0), least)
        together = Together(whole, [len(u) for u in unconstrained1])
        parts = [
            cls._of_unconstrained([u1], [u0], least) for u1, u0 in zip(unconstrained1, unconstrained0, strict=True)
        ]
        for i, part in enumerate(parts):
            part._together = together, i
        return parts

    @classmethod
    def _of_unconstrained(cls, one: Sequence[Tensor], zero: Sequence[Tensor], least: float) -> "Kumaraswamy":
        new = cls.__new__(cls)
        new._unconstrained, new._least = (one, zero), least
        super(Kumaraswamy, new).__init__(torch.Size([sum(map(len, one))]), validate_args=False)
        return new

    @lazy_property
    def concentration1(self) -> Tensor:
        """The concentration a."""
        return self._concentration(0)

    @lazy_property
    def concentration0(self) -> Tensor:
        """The concentration b."""
        return self._concentration(1)

    def _concentration(self, which: int) -> Tensor:
        assert self._unconstrained is not None
        parts = self._unconstrained[which]
        return F.softplus(parts[0] if len(parts) == 1 else torch.cat(list(parts))) + self._least

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
        return self._remember(draw, odds, log_prob)

    def _remember(self, draw: Tensor, odds: Tensor, log_prob: Tensor) -> Tensor:
        draw._log_odds = odds  # type: ignore[attr-defined]
        self._own_draw = (draw, log_prob) if log_prob.requires_grad else None
        return draw

    def _draw_parts(self, shape: torch.Size, sizes: list[int]) -> list[tuple[Tensor, ...]]:
        """The same of vectors end to end, each its own."""
        drawn = self._draw(shape)
        self._remember(*drawn)
        parts = [tensor.split(sizes, -1) for tensor in drawn]
        mark_parts(drawn[0], parts[0])
        return list(zip(*parts, strict=True))

    def _draw(self, shape: torch.Size) -> tuple[Tensor, Tensor, Tensor]:
        """A draw, its log-odds and its log-density."""
        made_of = self._unconstrained if self._unconstrained and shape == self.batch_shape else None
        device = made_of[0][0].device if made_of else self.concentration1.device
        exponential = torch.empty(shape, dtype=torch.float64, device=device).exponential_()
        exponential = exponential.clamp_min_(torch.finfo(torch.float64).tiny)
        if made_of:
            odds, log_prob, draw = f.kumaraswamy_draw_of(exponential, [*made_of[0], *made_of[1]], self._least)
            return draw, odds, log_prob
        a, b = self.concentration1, self.concentration0
        if a.shape != shape:
            a, b = a.expand(shape), b.expand(shape)
        odds, log_prob, draw = f.kumaraswamy_draw_of(exponential, [a, b])
        return draw, odds, log_prob

    @staticmethod
    def joined(parts: "Sequence[Kumaraswamy]") -> "Kumaraswamy | None":
        """The distribution of vectors end to end of which these are drawn; None where they are not drawn together."""
        marks = [part._together if type(part) is Kumaraswamy else None for part in parts]
        together = marks[0] and marks[0][0]
        if together is None or not isinstance(together.whole, Kumaraswamy) or len(parts) != len(together.sizes):
            return None
        return together.whole if all(mark == (together, i) for i, mark in enumerate(marks)) else None

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
