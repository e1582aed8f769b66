"""What W is: a point in the guide, spherical Gaussian in the model, each scored as one factor; or horseshoe-like."""

import math
from typing import Any

import pyro.distributions as dist
import torch
from pyro.distributions.torch_distribution import TorchDistribution
from torch import Tensor
from torch.distributions import constraints, register_kl
from torch.distributions.utils import broadcast_all

from bbpyro import functional as f
from bbpyro.distributions.remembering import floating


class Delta(dist.Delta):
    """A point mass whose own draw costs nothing to score (Pyro's compares every element with itself)."""

    def __init__(
        self, v: Tensor, log_density: Any = 0.0, event_dim: int = 0, validate_args: bool | None = None
    ) -> None:
        super().__init__(v, log_density, event_dim, validate_args=validate_args)
        self.scores_nothing = isinstance(log_density, int | float) and log_density == 0

    def expand(self, batch_shape: Any, _instance: Any = None) -> "Delta":
        """The same distribution with a larger batch shape."""
        new: Delta = super().expand(batch_shape, _instance or self.__new__(type(self)))
        new.scores_nothing = self.scores_nothing
        return new

    def rsample(self, sample_shape: Any = ()) -> Tensor:
        """The point, `sample_shape + v.shape`."""
        return self.v if len(sample_shape) == 0 else super().rsample(torch.Size(sample_shape))

    def log_prob(self, x: Tensor) -> Tensor:
        """`log_density` at the point, -inf elsewhere."""
        if x is self.v:
            return self.log_density
        if x.dtype != self.v.dtype:  # the point as that type has it
            return Delta(self.v.to(x.dtype), self.log_density, self.event_dim).log_prob(x)
        return super().log_prob(x)


class SphericalNormal(TorchDistribution):
    """N(0, scale² I) over a whole tensor, scored as one factor instead of one an element.

    Args:
        scale: standard deviation of every element, > 0.
        event_shape: shape of the tensor.
    """

    arg_constraints: dict[str, constraints.Constraint] = {}
    has_rsample = True

    def __init__(self, scale: float, event_shape: Any) -> None:
        self.scale = scale
        self._placed = torch.empty(0)  # whose dtype and device draws have
        super().__init__(torch.Size(), torch.Size(event_shape), validate_args=False)

    @constraints.dependent_property
    def support(self) -> constraints.Constraint:
        """All real tensors of the event shape."""
        return constraints.independent(constraints.real, self.event_dim)

    @property
    def mean(self) -> Tensor:
        """0, of the event shape."""
        return torch.zeros(self.event_shape, dtype=self._placed.dtype, device=self._placed.device)

    @property
    def mode(self) -> Tensor:
        """0, of the event shape."""
        return self.mean

    @property
    def variance(self) -> Tensor:
        """Of each element."""
        return self.mean + self.scale**2

    def expand(self, batch_shape: Any, _instance: Any = None) -> Any:
        """The same distribution with a larger batch shape."""
        return self if len(batch_shape) == 0 else super().expand(batch_shape)

    def rsample(self, sample_shape: Any = ()) -> Tensor:
        """Draws of shape `sample_shape + event_shape`."""
        shape = self._extended_shape(torch.Size(sample_shape))
        return self.scale * torch.randn(shape, dtype=self._placed.dtype, device=self._placed.device)

    def log_prob(self, value: Tensor) -> Tensor:
        """Log-density of the whole tensor: one number for each sample."""
        if value.shape == self.event_shape:
            return f.spherical_normal_log_prob(value, self.scale)
        batch = value.shape[: value.dim() - self.event_dim]
        if value.shape[len(batch) :] != self.event_shape:
            raise ValueError(f"value has shape {tuple(value.shape)}, wanted it to end in {tuple(self.event_shape)}")
        elements = dist.Normal(0.0, self.scale, validate_args=False).log_prob(value)
        return elements.reshape(*batch, -1).sum(-1)


class HorseshoeLike(TorchDistribution):
    """The horseshoe-like density ``log(1 + scale²/w²) / (2π scale)``: a pole at 0, Cauchy's tails (arXiv 1702.07400).

    It is a scale mixture, of Cauchy(0, u scale) over u ~ U(0, 1), and so of Gaussians.

    Args:
        scale: > 0, of any shape, which is the batch shape.
        validate_args: as everywhere in torch.distributions.
    """

    arg_constraints = {"scale": constraints.positive}
    support = constraints.real
    has_rsample = True

    def __init__(self, scale: Any, validate_args: bool | None = None) -> None:
        (self.scale,) = broadcast_all(floating(scale))
        super().__init__(self.scale.shape, validate_args=validate_args)

    def expand(self, batch_shape: Any, _instance: Any = None) -> "HorseshoeLike":
        """The same distribution with a larger batch shape."""
        return HorseshoeLike(self.scale.expand(batch_shape), validate_args=False)

    def rsample(self, sample_shape: Any = ()) -> Tensor:
        """Reparameterised draws, `sample_shape + batch_shape`."""
        scale = self.scale.expand(self._extended_shape(torch.Size(sample_shape)))
        return scale * torch.rand_like(scale) * torch.empty_like(scale).cauchy_()

    def log_prob(self, value: Tensor) -> Tensor:
        """Log-density of `value`; at 0, where it is infinite, that of the smallest number."""
        log_ratio = self.scale.log() - value.abs().clamp_min(torch.finfo(value.dtype).tiny).log()
        return f.log_softplus(2 * log_ratio) - math.log(2 * math.pi) - self.scale.log()


@register_kl(dist.Independent, SphericalNormal)
def _kl_normals_spherical(q: Any, p: SphericalNormal) -> Tensor:
    """Of a Normal for each element of a tensor, from the spherical one."""
    if not isinstance(q.base_dist, torch.distributions.Normal) or q.event_shape != p.event_shape:
        raise NotImplementedError
    elements = torch.distributions.kl_divergence(q.base_dist, torch.distributions.Normal(q.mean.new_zeros(()), p.scale))
    return elements.reshape(*q.batch_shape, -1).sum(-1)
