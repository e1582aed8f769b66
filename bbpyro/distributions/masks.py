"""What the masks z of several units are as one event."""

from typing import Any

import pyro.distributions as dist
from torch import Tensor

from bbpyro.distributions.remembering import is_tied


class Masks(dist.Independent):
    """Masks as one event. The log-density of a tied draw is 0, and so it is without a sum over the units."""

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
