"""What W may be a priori: independent numbers around 0, with tails of different weight."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import pyro.distributions as dist
import torch
from pyro.distributions.torch_distribution import TorchDistribution

from bbpyro import distributions
from bbpyro.priors.spelled import Spelled, check_positive, parse, spellings

WeightPrior = Callable[[Sequence[int]], TorchDistribution]


@dataclass(frozen=True, repr=False)
class _OfScale(Spelled):
    scale: float

    def __post_init__(self) -> None:
        check_positive(self, scale=self.scale)


@dataclass(frozen=True, repr=False)
class Normal(_OfScale):
    """W ~ N(0, scale² I)."""

    def __call__(self, shape: Sequence[int]) -> TorchDistribution:
        """The prior of one weight tensor, event shape `shape`."""
        return distributions.SphericalNormal(self.scale, shape)


@dataclass(frozen=True, repr=False)
class Laplace(_OfScale):
    """W ~ Laplace(0, scale): with a Delta guide, an L1 penalty."""

    def __call__(self, shape: Sequence[int]) -> TorchDistribution:
        """The prior of one weight tensor, event shape `shape`."""
        return _each(dist.Laplace(0.0, float(self.scale), validate_args=False), shape)


@dataclass(frozen=True, repr=False)
class StudentT(Spelled):
    """W ~ scale · Student's t of `df` degrees of freedom: the fewer, the heavier its tails."""

    df: float
    scale: float

    def __post_init__(self) -> None:
        check_positive(self, df=self.df, scale=self.scale)

    def __call__(self, shape: Sequence[int]) -> TorchDistribution:
        """The prior of one weight tensor, event shape `shape`."""
        return _each(dist.StudentT(float(self.df), 0.0, float(self.scale), validate_args=False), shape)


@dataclass(frozen=True, repr=False)
class HorseshoeLike(_OfScale):
    """W ~ the horseshoe-like scale mixture: a pole at 0 and Cauchy's tails (arXiv 1702.07400).

    With a Delta guide the pole pulls every weight to 0 whose gradient does not hold it.
    """

    def __call__(self, shape: Sequence[int]) -> TorchDistribution:
        """The prior of one weight tensor, event shape `shape`."""
        return _each(distributions.HorseshoeLike(float(self.scale), validate_args=False), shape)


KNOWN = {prior.__name__: prior for prior in (Normal, Laplace, StudentT, HorseshoeLike)}


def as_weight_prior(prior: WeightPrior | str) -> WeightPrior:
    """A prior on W, of one or of its spelling, such as "Laplace(0.1)".

    Raises:
        ValueError: the text spells none, or spells no prior on W.
    """
    found = parse(prior, KNOWN) if isinstance(prior, str) else prior
    if isinstance(found, type | torch.distributions.Distribution) or not callable(found):
        raise ValueError(f"{prior!r} is no prior; {spellings(KNOWN)}")
    return found


def _each(distribution: TorchDistribution, shape: Sequence[int]) -> TorchDistribution:
    """One such number for each element of a tensor."""
    return distribution.expand(torch.Size(shape)).to_event(len(shape))


def matching_l2(weight_decay: float, num_data: int) -> Normal:
    """The Gaussian that an L2 of `weight_decay` on the mean loss of `num_data` data is: N(0, 1 / (weight_decay N))."""
    return Normal(1 / math.sqrt(weight_decay * num_data))
