"""Priors as distributions of the precision and on the device of what they are of, made once and kept."""

from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from pyro.distributions.torch_distribution import TorchDistribution
from torch import Tensor, nn

from bbpyro.distributions import placed_like


@dataclass(frozen=True)
class _Key:
    shape: torch.Size
    dtype: torch.dtype
    device: torch.device


@dataclass
class PlacedPriors:
    """Distributions by the name of their site, each kept while its prior, and what it is of, stay what they were."""

    _kept: dict[str, tuple[object, _Key, TorchDistribution]] = field(default_factory=dict)

    def get(self, site: str, prior: object, like: Tensor, make: Callable[[], TorchDistribution]) -> TorchDistribution:
        """What `make` makes of `prior`, placed like `like`; made anew each time where the prior itself is learnt."""
        key = _Key(like.shape, like.dtype, like.device)
        kept = self._kept.get(site)
        if kept is None or kept[0] is not prior or kept[1] != key:
            kept = prior, key, placed_like(make(), like)
            if not isinstance(prior, nn.Module):
                self._kept[site] = kept
        return kept[2]
