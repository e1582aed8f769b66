"""Any prior on [0, 1] as one that scores remembered draws, and the divergences of Kumaraswamy from it."""

from typing import Any

import torch
from pyro.distributions.torch_distribution import TorchDistribution
from torch import Tensor
from torch.distributions import constraints, kl_divergence, register_kl

from bbpyro import functional as f
from bbpyro.distributions.keep_probability import Beta, BetaMixture, LogitNormal
from bbpyro.distributions.kumaraswamy import Kumaraswamy
from bbpyro.distributions.remembering import remembered_log_odds
from bbpyro.distributions.weights import Delta


class ContinuedTails(TorchDistribution):
    """Any distribution on [0, 1], its density continued as a power law where its own arithmetic ends.

    Below π = 1e-30, and above 1 - 2^-20, the log-density goes on linearly in log π, or in log(1-π), with the
    slope it has there. For Beta, Kumaraswamy and Uniform that is what the density does.
    """

    arg_constraints: dict[str, constraints.Constraint] = {}
    support = constraints.unit_interval

    _LOW = (1e-30, 1e-36)
    _HIGH = (1 - 2.0**-20, 1 - 2.0**-23)

    def __init__(self, base_dist: TorchDistribution) -> None:
        self.base_dist = base_dist
        super().__init__(base_dist.batch_shape, base_dist.event_shape, validate_args=False)

    def expand(self, batch_shape: Any, _instance: Any = None) -> "ContinuedTails":
        """The same distribution with a larger batch shape."""
        return ContinuedTails(self.base_dist.expand(batch_shape))

    @property
    def has_rsample(self) -> bool:  # type: ignore[override]
        """Whether the base distribution has reparameterised draws."""
        return self.base_dist.has_rsample

    def sample(self, sample_shape: Any = ()) -> Tensor:
        """Draws of the base distribution."""
        return self.base_dist.sample(torch.Size(sample_shape))

    def rsample(self, sample_shape: Any = ()) -> Tensor:
        """Reparameterised draws of the base distribution, where it has them."""
        return self.base_dist.rsample(torch.Size(sample_shape))

    def log_prob(self, value: Tensor) -> Tensor:
        """The base's log-density, or its continuation for a draw that float rounds to an end."""
        odds = remembered_log_odds(value)
        if odds is None:
            return self.base_dist.log_prob(value)
        inside = self.base_dist.log_prob(value.clamp(self._LOW[0], self._HIGH[0]))
        log_pi, log_complement = -f.softplus(-odds), -f.softplus(odds)
        low = torch.log(torch.tensor(self._LOW, dtype=torch.float64, device=value.device))
        high = torch.log1p(-torch.tensor(self._HIGH, dtype=torch.float64, device=value.device))
        tails = self._slope(self._LOW, low, value) * (log_pi - low[0]).clamp_max(0)
        tails = tails + self._slope(self._HIGH, high, value) * (log_complement - high[0]).clamp_max(0)
        return inside + tails.to(inside.dtype)

    def _slope(self, knots: tuple[float, float], logs: Tensor, like: Tensor) -> Tensor:
        first, second = (self.base_dist.log_prob(like.new_tensor(knot)) for knot in knots)
        return (first.double() - second.double()) / (logs[0] - logs[1])


def with_exact_tails(distribution: TorchDistribution) -> TorchDistribution:
    """A distribution on [0, 1] that can score a remembered draw: itself, its twin here, or its continuation."""
    if isinstance(distribution, Beta | BetaMixture | Delta | Kumaraswamy | LogitNormal | ContinuedTails):
        return distribution
    if distribution.event_shape:
        return distribution  # of π that depend on each other, whose tails are its own
    if isinstance(distribution, torch.distributions.Beta):
        return Beta(distribution.concentration1, distribution.concentration0)
    if isinstance(distribution, torch.distributions.Kumaraswamy):
        return Kumaraswamy(distribution.concentration1, distribution.concentration0)
    return ContinuedTails(distribution)


@register_kl(Kumaraswamy, torch.distributions.Beta)
def _kl_kumaraswamy_beta(q: Kumaraswamy, p: torch.distributions.Beta) -> Tensor:
    return f.kl_kumaraswamy_beta(q.concentration1, q.concentration0, p.concentration1, p.concentration0)


@register_kl(Kumaraswamy, Kumaraswamy)
def _kl_kumaraswamy_kumaraswamy(q: Kumaraswamy, p: Kumaraswamy) -> Tensor:
    return f.kl_kumaraswamy_kumaraswamy(q.concentration1, q.concentration0, p.concentration1, p.concentration0)


@register_kl(Kumaraswamy, ContinuedTails)
def _kl_kumaraswamy_continued(q: Kumaraswamy, p: ContinuedTails) -> Tensor:
    return kl_divergence(q, p.base_dist)
