"""What W is: a point in the guide, spherical Gaussian in the model, each scored as one factor."""

from typing import Any

import pyro.distributions as dist
import torch
from pyro.distributions.torch_distribution import TorchDistribution
from torch import Tensor
from torch.distributions import constraints

from bbpyro import functional as f


class Delta(dist.Delta):
    """A point mass whose own draw costs nothing to score (Pyro's compares every element with itself)."""

    def rsample(self, sample_shape: Any = ()) -> Tensor:
        """The point, `sample_shape + v.shape`."""
        return self.v if len(sample_shape) == 0 else super().rsample(torch.Size(sample_shape))

    def log_prob(self, x: Tensor) -> Tensor:
        """`log_density` at the point, -inf elsewhere."""
        return self.log_density if x is self.v else super().log_prob(x)


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
        super().__init__(torch.Size(), torch.Size(event_shape), validate_args=False)

    @constraints.dependent_property
    def support(self) -> constraints.Constraint:
        """All real tensors of the event shape."""
        return constraints.independent(constraints.real, self.event_dim)

    def expand(self, batch_shape: Any, _instance: Any = None) -> Any:
        """The same distribution with a larger batch shape."""
        return self if len(batch_shape) == 0 else super().expand(batch_shape)

    def rsample(self, sample_shape: Any = ()) -> Tensor:
        """Draws of shape `sample_shape + event_shape`."""
        return self.scale * torch.randn(self._extended_shape(torch.Size(sample_shape)))

    def log_prob(self, value: Tensor) -> Tensor:
        """Log-density of the whole tensor: one number for each sample."""
        if value.shape == self.event_shape:
            return f.spherical_normal_log_prob(value, self.scale)
        batch = value.shape[: value.dim() - self.event_dim]
        if value.shape[len(batch) :] != self.event_shape:
            raise ValueError(f"value has shape {tuple(value.shape)}, wanted it to end in {tuple(self.event_shape)}")
        elements = dist.Normal(0.0, self.scale, validate_args=False).log_prob(value)
        return elements.reshape(*batch, -1).sum(-1)
