"""Likelihoods: from a network's output to the distribution of y.

Any callable does, e.g. ``lambda output: dist.Normal(output, 0.1).to_event(1)`` for regression.
"""

from collections.abc import Callable

import pyro.distributions as dist
from pyro.distributions.torch_distribution import TorchDistribution
from torch import Tensor

Likelihood = Callable[[Tensor], TorchDistribution]


class Categorical:
    """y ~ Categorical(softmax(output)): classification, output `[N, C]`, y `[N]` in 0..C-1."""

    def __call__(self, output: Tensor) -> TorchDistribution:
        """The distribution of the labels, batch shape `[N]`."""
        return dist.Categorical(logits=output)

    def __repr__(self) -> str:
        return "Categorical()"


def is_classification(distribution: TorchDistribution) -> bool:
    """Whether y is one class a datum: logits `[N, C]` and labels `[N]`."""
    logits = getattr(distribution, "logits", None)
    described = distribution.batch_shape + distribution.event_shape
    return logits is not None and logits.dim() == 2 and described == logits.shape[:1]
