"""What the masks z of several units are as one event."""

from typing import Any

import pyro.distributions as dist
import torch
from torch import Tensor
from torch.distributions.utils import lazy_property

from bbpyro.distributions.remembering import is_tied


class Masks(dist.Independent):
    """Masks as one event. The log-density of a tied draw is 0, and so it is without a sum over the units.

    What they are of is expanded to the data of a plate only where it is asked for: to score a tied draw, nothing is.
    """

    _few: Any = None  # what `base_dist` is expanded from

    @lazy_property
    def base_dist(self) -> Any:
        """The distribution of each mask alone."""
        return self._few.expand(self.batch_shape + self.event_shape[: self.reinterpreted_batch_ndims])

    @lazy_property
    def has_rsample(self) -> bool:
        """Whether draws are reparameterised."""
        return bool((self._few or self.base_dist).has_rsample)

    def expand(self, batch_shape: Any, _instance: Any = None) -> "Masks":
        """The same distribution with a larger batch shape."""
        new = self._get_checked_instance(Masks, _instance)
        new._few = self._few or self.base_dist
        new.reinterpreted_batch_ndims = self.reinterpreted_batch_ndims
        new._batch_shape, new._event_shape = torch.Size(batch_shape), self.event_shape
        return new

    def log_prob(self, value: Tensor) -> Tensor:
        """Log-density of `value`, summed over the event; of a tied draw, 0."""
        if is_tied(value):
            return value.new_zeros(()).expand(value.shape[: value.dim() - self.event_dim])
        log_prob: Tensor = super().log_prob(value)
        return log_prob


class OfMasks:
    """A distribution of masks z, for which to_event() makes :class:`Masks`."""

    batch_shape: Any

    def to_event(self, reinterpreted_batch_ndims: int | None = None) -> Any:
        """The same distribution with its rightmost dimensions as one event; by default all of them."""
        dims = len(self.batch_shape) if reinterpreted_batch_ndims is None else reinterpreted_batch_ndims
        return Masks(self, dims) if dims > 0 else super().to_event(dims)  # type: ignore[misc]
