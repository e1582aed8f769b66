"""Distributions of draws that remember what they were drawn from, so that what depends on them can be averaged.

Of a z ~ Bernoulli(λ) that is independent of all else, E[log p(z | π)] is known, and so is the expectation over z of a
Gaussian's log-density around a linear function of z. In the ELBO those averages are exact where the value at a draw is
noise: Rao-Blackwellisation (Casella and Robert 1996).
"""

import math
from typing import Any

import torch
from pyro.distributions.torch_distribution import TorchDistribution, TorchDistributionMixin
from pyro.ops.provenance import detach_provenance, get_provenance, track_provenance
from torch import Tensor
from torch.distributions import constraints
from torch.nn.functional import logsigmoid

from bbpyro.distributions.masks import OfMasks
from bbpyro.distributions.remembering import floating


def drawn_from(z: Tensor) -> Tensor | None:
    """The log-odds that z was drawn with, where it is a draw of :class:`AveragedBernoulli`, else None."""
    logits: Tensor | None = getattr(detach_provenance(z), "_drawn_from", None)
    return None if logits is None else track_provenance(logits, get_provenance(z))


def averaged_log_prob(drawn_with: Tensor, logits: Tensor) -> Tensor:
    """E[log p(z)] of z ~ Bernoulli(sigmoid(drawn_with)) and p = Bernoulli(sigmoid(logits))."""
    return torch.sigmoid(drawn_with) * logsigmoid(logits) + torch.sigmoid(-drawn_with) * logsigmoid(-logits)


class AveragedBernoulli(OfMasks, TorchDistribution):
    """z ~ Bernoulli(λ), 0 or 1, of a guide: its log-densities in the ELBO are averages over z, not values at z.

    A draw remembers λ. Its log-density here is the negative entropy, that under :class:`bbpyro.distributions.Bernoulli`
    is E[log p(z)], so that their difference is KL[q(z) || p(z)] without noise. The gradient of what else depends on z
    goes through the relaxed Bernoulli of the same uniform (straight through, arXiv 1611.00712): biased, where z itself
    is not. What takes exponentials of log-densities, as RenyiELBO and Importance do, is wrong with averages of them.

    Args:
        temperature: τ > 0 of that relaxation.
        logits: log-odds of λ, of any shape, which is the batch shape.
        validate_args: as everywhere in torch.distributions.
    """

    arg_constraints = {"logits": constraints.real}
    support = constraints.boolean
    has_rsample = True

    def __init__(self, temperature: float, logits: Any, validate_args: bool | None = None) -> None:
        self.temperature, self.logits = temperature, floating(logits)
        super().__init__(self.logits.shape, validate_args=validate_args)

    @property
    def mean(self) -> Tensor:
        """λ."""
        return torch.sigmoid(self.logits)

    def expand(self, batch_shape: Any, _instance: Any = None) -> "AveragedBernoulli":
        """The same distribution with a larger batch shape."""
        return AveragedBernoulli(self.temperature, self.logits.expand(batch_shape), validate_args=False)

    def rsample(self, sample_shape: Any = ()) -> Tensor:
        """Draws of 0 and 1, `sample_shape + batch_shape`, with a gradient, that remember λ."""
        shape = self._extended_shape(torch.Size(sample_shape))
        uniform = torch.rand(shape, dtype=self.logits.dtype, device=self.logits.device)
        odds = self.logits + torch.logit(uniform, eps=torch.finfo(uniform.dtype).tiny)
        relaxed = torch.sigmoid(odds / self.temperature)
        z = (odds > 0).to(relaxed) + (relaxed - relaxed.detach())
        z._drawn_from = self.logits.expand(shape)  # type: ignore[attr-defined]
        return z

    def log_prob(self, value: Tensor) -> Tensor:
        """E[log q(z)] of a draw that remembers λ; log q(z) of any other z, 0 or 1."""
        drawn_with = drawn_from(value)
        if drawn_with is not None:
            return averaged_log_prob(drawn_with, self.logits)
        return torch.where(value > 0.5, logsigmoid(self.logits), logsigmoid(-self.logits))


class AveragedNormal(torch.distributions.Normal, TorchDistributionMixin):
    """N(m, scale²) of an m that has a distribution: its log-density is E[log N(value; m, scale²)].

    That is log N(value; E[m], scale²) - Var[m] / (2 scale²). Draws are of the one m that there is.

    Args:
        loc: m.
        scale: > 0.
        mean: E[m].
        variance: Var[m], ≥ 0; all four broadcast.
    """

    def __init__(self, loc: Any, scale: Any, mean: Tensor, variance: Tensor) -> None:
        self.mean_of_loc, self.variance_of_loc = mean, variance
        super().__init__(loc, scale, validate_args=False)

    def expand(self, batch_shape: Any, _instance: Any = None) -> "AveragedNormal":
        """The same distribution with a larger batch shape."""
        parts = (self.loc, self.scale, self.mean_of_loc, self.variance_of_loc)
        return AveragedNormal(*(each.expand(batch_shape) for each in parts))

    def log_prob(self, value: Tensor) -> Tensor:
        """E[log N(value; m, scale²)]."""
        precision = self.scale.square().reciprocal()
        squares = (value - self.mean_of_loc).square() + self.variance_of_loc
        return -squares * precision / 2 - self.scale.log() - math.log(2 * math.pi) / 2
