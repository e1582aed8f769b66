"""Keep probabilities in falling order: each is the one before times a stick."""

from typing import Any

import torch
from pyro.distributions.torch_distribution import TorchDistribution
from torch import Tensor
from torch.distributions import constraints, kl_divergence, register_kl

from bbpyro import functional as f
from bbpyro.distributions.kumaraswamy import Kumaraswamy
from bbpyro.distributions.remembering import log_odds, remember_log_odds


class StickBreaking(TorchDistribution):
    """π_k = Π_{j≤k} v_j of independent Kumaraswamy sticks v: ``1 ≥ π_1 ≥ π_2 ≥ … ≥ π_K ≥ 0``.

    With sticks of Beta(α, 1), which is Kumaraswamy(α, 1), it is the Indian buffet process cut at K (Teh, Görür and
    Ghahramani 2007). The density is that of π: ``Π_k q(v_k) / π_{k-1}``, with v_k = π_k / π_{k-1} and π_0 = 1. It is
    given in float64, because its two factors are huge.

    Args:
        sticks: their distribution, batch shape `[..., K]`; of it K becomes the event shape.
    """

    arg_constraints: dict[str, constraints.Constraint] = {}
    support = constraints.independent(constraints.unit_interval, 1)
    has_rsample = True

    def __init__(self, sticks: Kumaraswamy) -> None:
        self.sticks = sticks
        super().__init__(sticks.batch_shape[:-1], sticks.batch_shape[-1:], validate_args=False)

    @property
    def concentration1(self) -> Tensor:
        """Parameter a of the sticks, `[..., K]`."""
        return self.sticks.concentration1

    @property
    def concentration0(self) -> Tensor:
        """Parameter b of the sticks, `[..., K]`."""
        return self.sticks.concentration0

    def expand(self, batch_shape: Any, _instance: Any = None) -> "StickBreaking":
        """The same distribution with a larger batch shape."""
        return StickBreaking(self.sticks.expand(torch.Size(batch_shape) + self.event_shape))

    def rsample(self, sample_shape: Any = ()) -> Tensor:
        """Reparameterised draws `sample_shape + batch_shape + [K]` that remember their log-odds and their sticks."""
        sticks = self.sticks.rsample(torch.Size(sample_shape))
        surprise = f.softplus(-log_odds(sticks).double()).cumsum(-1)  # -log π
        draw = remember_log_odds(_log_odds_of(surprise), sticks.dtype)
        draw._sticks = sticks, surprise  # type: ignore[attr-defined]
        return draw

    def log_prob(self, value: Tensor) -> Tensor:
        """Log-density of `value`, float64: -inf where a π exceeds the one before."""
        sticks, surprise = getattr(value, "_sticks", None) or _break(value)
        log_jacobian = -surprise[..., :-1].sum(-1)
        log_prob = self.sticks.log_prob(sticks).double().sum(-1) - log_jacobian
        is_ordered = (surprise.diff(dim=-1) >= 0).all(-1)
        return torch.where(is_ordered, log_prob, -torch.inf)

    @property
    def mean(self) -> Tensor:
        """E[π_k] = Π_{j≤k} E[v_j]."""
        return self._moment(1).to(self.concentration1.dtype)

    @property
    def variance(self) -> Tensor:
        """Var[π_k] = Π_{j≤k} E[v_j²] - E[π_k]²."""
        return (self._moment(2) - self._moment(1).square()).to(self.concentration1.dtype)

    def _moment(self, order: int) -> Tensor:
        # E[v^n] of Kumaraswamy(a, b) is the mean of Kumaraswamy(a / n, b).
        of_sticks = f.kumaraswamy_mean(self.concentration1.double() / order, self.concentration0.double())
        return of_sticks.log().cumsum(-1).exp()


def _break(value: Tensor) -> tuple[Tensor, Tensor]:
    """The sticks of any π, and -log π."""
    surprise = f.softplus(-log_odds(value).double())
    of_sticks = surprise.diff(dim=-1, prepend=torch.zeros_like(surprise[..., :1]))
    return remember_log_odds(_log_odds_of(of_sticks), value.dtype), surprise


def _log_odds_of(surprise: Tensor) -> Tensor:
    """Log-odds of π, of -log π."""
    return -f.log_expm1_exp(surprise.clamp_min(1e-300).log())


@register_kl(StickBreaking, StickBreaking)
def _kl_stick_breaking(q: StickBreaking, p: StickBreaking) -> Tensor:
    return kl_divergence(q.sticks, p.sticks).sum(-1)
