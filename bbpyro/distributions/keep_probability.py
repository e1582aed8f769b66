"""What π may be a priori: Beta, Gaussian log-odds, a mixture of two Betas."""

import math
import operator
from collections.abc import Sequence
from typing import Any

import pyro.distributions as dist
import torch
import torch.nn.functional as F
from pyro.distributions.torch_distribution import TorchDistribution
from torch import Tensor
from torch.distributions import constraints
from torch.distributions.utils import broadcast_all

from bbpyro import functional as f
from bbpyro.distributions.remembering import floating, log_odds, remember_log_odds, remembered_log_odds


class Beta(dist.Beta):
    """torch's Beta in log-odds: draws remember theirs, and the log-density of such a draw is taken in them.

    torch's own draw is a ratio of Gamma variables that underflow: of Beta(1e-4, 1e-4), which is all 0 and 1, it
    makes ½ in most cases.
    """

    _kept: tuple[Any, tuple[Tensor, Tensor, Tensor, bool]] | None = None  # constants, and what they are of
    _joined: "tuple[list[Beta], Beta] | None" = None  # what this was joined with last, and the result

    def rsample(self, sample_shape: Any = ()) -> Tensor:
        """Draws that remember their log-odds; reparameterised where the concentrations are being learnt."""
        if self._dirichlet.concentration.requires_grad:
            return super().rsample(sample_shape)
        shape = self._extended_shape(torch.Size(sample_shape))
        log_gamma1, log_gamma0 = (f.log_gamma_draw(c.expand(shape)) for c in (self.concentration1, self.concentration0))
        return remember_log_odds(log_gamma1 - log_gamma0, self.concentration1.dtype)

    def log_prob(self, value: Tensor) -> Tensor:
        """Log-density of `value`, exact for a draw even where float rounds it to 0 or 1."""
        odds = remembered_log_odds(value)
        if odds is None:
            return super().log_prob(value)
        less1, less0, log_normalizer, is_power = self._constants
        log_prob = torch.addcmul(log_normalizer, less1, F.logsigmoid(odds))
        return (log_prob if is_power else log_prob - less0 * f.softplus(odds)).to(value.dtype)

    @staticmethod
    def joined(parts: "Sequence[Beta]") -> "Beta | None":
        """The distribution of vectors end to end that are of these, one each; None where a part is no such vector.

        It is kept with the first of them, and given again for the same parts.
        """
        first, parts = parts[0], list(parts)
        kept = first._joined if isinstance(first, Beta) else None
        if kept is not None and len(kept[0]) == len(parts) and all(map(operator.is_, kept[0], parts)):
            return kept[1]
        if not all(type(part) is Beta and len(part.batch_shape) == 1 for part in parts):
            return None
        concentrations = [part._dirichlet.concentration for part in parts]
        if any(c.requires_grad for c in concentrations) or len({(c.dtype, c.device) for c in concentrations}) > 1:
            return None
        c1, c0 = (torch.cat([getattr(part, f"concentration{i}") for part in parts]) for i in (1, 0))
        first._joined = parts, Beta(c1, c0, validate_args=False)
        return first._joined[1]

    @property
    def _constants(self) -> tuple[Tensor, Tensor, Tensor, bool]:
        """(c1 - 1, c0 - 1, -log B(c1, c0), c0 is 1), kept from call to call unless they are being learnt."""
        if self._kept is not None and self._kept[0] is self._dirichlet:
            return self._kept[1]
        c1, c0 = self.concentration1.double(), self.concentration0.double()
        log_beta = torch.lgamma(c1) + torch.lgamma(c0) - torch.lgamma(c1 + c0)
        if self._dirichlet.concentration.requires_grad:
            return c1 - 1, c0 - 1, -log_beta, False
        self._kept = self._dirichlet, (c1 - 1, c0 - 1, -log_beta, bool((c0 == 1).all()))
        return self._kept[1]


class LogitNormal(TorchDistribution):
    """π = sigmoid(N(loc, scale²)): Gaussian log-odds. Density ``N(logit π; loc, scale²) / (π (1-π))``.

    Args:
        loc: of the log-odds, of any shape; broadcasts with scale to the batch shape.
        scale: of the log-odds, > 0.
        validate_args: as everywhere in torch.distributions.
    """

    arg_constraints = {"loc": constraints.real, "scale": constraints.positive}
    support = constraints.unit_interval
    has_rsample = True

    def __init__(self, loc: Any, scale: Any, validate_args: bool | None = None) -> None:
        self.loc, self.scale = broadcast_all(floating(loc), floating(scale))
        super().__init__(self.loc.shape, validate_args=validate_args)

    def expand(self, batch_shape: Any, _instance: Any = None) -> "LogitNormal":
        """The same distribution with a larger batch shape."""
        return LogitNormal(self.loc.expand(batch_shape), self.scale.expand(batch_shape), validate_args=False)

    def rsample(self, sample_shape: Any = ()) -> Tensor:
        """Draws that remember their log-odds, `sample_shape + batch_shape`."""
        shape = self._extended_shape(torch.Size(sample_shape))
        noise = torch.randn(shape, dtype=torch.float64, device=self.loc.device)
        return remember_log_odds(self.loc + self.scale * noise, self.loc.dtype)

    @property
    def mean(self) -> Tensor:
        """E[π], by quadrature over the log-odds."""
        nodes = torch.linspace(-8, 8, 1601, dtype=torch.float64, device=self.loc.device)
        weights = torch.softmax(-nodes.square() / 2, 0)
        odds = self.loc.double()[..., None] + self.scale.double()[..., None] * nodes
        return (torch.sigmoid(odds) @ weights).to(self.loc.dtype)

    def log_prob(self, value: Tensor) -> Tensor:
        """Log-density of `value`, exact for a draw even where float rounds it to 0 or 1."""
        if self._validate_args:
            self._validate_sample(value)
        odds = log_odds(value).double()
        standard = (odds - self.loc) / self.scale
        normal = -0.5 * standard.square() - self.scale.double().log() - 0.5 * math.log(2 * math.pi)
        return (normal + f.softplus(odds) + f.softplus(-odds)).to(value.dtype)


class BetaMixture(TorchDistribution):
    """π of one of two Betas: ``weight · first + (1 - weight) · second``.

    Args:
        weight: of the first, in (0, 1).
        first: a Beta.
        second: a Beta of the same batch shape.
    """

    arg_constraints: dict[str, constraints.Constraint] = {}
    support = constraints.unit_interval

    def __init__(self, weight: float, first: Beta, second: Beta) -> None:
        self.weight, self.first, self.second = weight, first, second
        super().__init__(first.batch_shape, validate_args=False)

    def expand(self, batch_shape: Any, _instance: Any = None) -> "BetaMixture":
        """The same distribution with a larger batch shape."""
        return BetaMixture(self.weight, self.first.expand(batch_shape), self.second.expand(batch_shape))

    def sample(self, sample_shape: Any = ()) -> Tensor:
        """Draws that remember their log-odds, `sample_shape + batch_shape`; not reparameterised."""
        with torch.no_grad():
            first, second = (log_odds(beta.sample(sample_shape)).double() for beta in (self.first, self.second))
            is_first = torch.rand(first.shape, device=first.device) < self.weight
            return remember_log_odds(torch.where(is_first, first, second), self.first.concentration1.dtype)

    def log_prob(self, value: Tensor) -> Tensor:
        """Log-density of `value`, exact for a draw even where float rounds it to 0 or 1."""
        first = self.first.log_prob(value) + math.log(self.weight)
        return torch.logaddexp(first, self.second.log_prob(value) + math.log1p(-self.weight))
