"""Priors: what π, and W, may be before the data are seen.

A prior on π is any callable from the number of units to a distribution on [0, 1] with that batch shape; a prior on
W is any callable from a weight's shape to a distribution with that event shape. These are the ready-made ones.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from pyro.distributions.torch_distribution import TorchDistribution

from bbpyro import distributions

Prior = Callable[[int], TorchDistribution]
WeightPrior = Callable[[Sequence[int]], TorchDistribution]


def _check_positive(owner: object, **values: float) -> None:
    for name, value in values.items():
        if not 0 < value < float("inf"):
            raise ValueError(f"{type(owner).__name__}: {name} is {value}, wanted a positive finite number")


@dataclass(frozen=True)
class Beta:
    """π_k ~ Beta(concentration1, concentration0), the same for every unit.

    The default is the source's: concentration1 = α/K taken as one number, 1e-4 (arXiv 1805.10896).
    """

    concentration1: float = 1e-4
    concentration0: float = 1.0

    def __post_init__(self) -> None:
        _check_positive(self, concentration1=self.concentration1, concentration0=self.concentration0)

    def __call__(self, num_units: int) -> distributions.Beta:
        """The prior of `num_units` keep probabilities, batch shape `[num_units]`."""
        return distributions.Beta(
            torch.full((num_units,), float(self.concentration1)), torch.full((num_units,), float(self.concentration0))
        )


@dataclass(frozen=True)
class IndianBuffet:
    """π_k ~ Beta(alpha / K, 1) with K the width of the layer: as K grows, an Indian buffet process.

    About `alpha` units of a datum are active a priori, however wide the layer (Griffiths and Ghahramani 2011).
    """

    alpha: float = 5.0

    def __post_init__(self) -> None:
        _check_positive(self, alpha=self.alpha)

    def __call__(self, num_units: int) -> TorchDistribution:
        """The prior of `num_units` keep probabilities, batch shape `[num_units]`."""
        return Beta(self.alpha / num_units, 1.0)(num_units)


@dataclass(frozen=True)
class Uniform:
    """π_k ~ U(0, 1): nothing is known of any unit."""

    def __call__(self, num_units: int) -> TorchDistribution:
        """The prior of `num_units` keep probabilities, batch shape `[num_units]`."""
        return Beta(1.0, 1.0)(num_units)


@dataclass(frozen=True)
class Jeffreys:
    """π_k ~ Beta(½, ½), Jeffreys' prior of a Bernoulli."""

    def __call__(self, num_units: int) -> TorchDistribution:
        """The prior of `num_units` keep probabilities, batch shape `[num_units]`."""
        return Beta(0.5, 0.5)(num_units)


@dataclass(frozen=True)
class LogitNormal:
    """logit π_k ~ N(loc, scale²)."""

    loc: float = 0.0
    scale: float = 3.0

    def __post_init__(self) -> None:
        if not -float("inf") < self.loc < float("inf"):
            raise ValueError(f"LogitNormal: loc is {self.loc}, wanted a finite number")
        _check_positive(self, scale=self.scale)

    def __call__(self, num_units: int) -> TorchDistribution:
        """The prior of `num_units` keep probabilities, batch shape `[num_units]`."""
        return distributions.LogitNormal(torch.full((num_units,), float(self.loc)), float(self.scale))


@dataclass(frozen=True)
class SpikeAndSlab:
    """π_k of a Beta near 0, the spike, or of another, the slab, which it is with probability `slab_probability`."""

    slab_probability: float = 0.5
    spike: Beta = Beta(1e-4, 1.0)
    slab: Beta = Beta(1.0, 1.0)

    def __post_init__(self) -> None:
        if not 0 < self.slab_probability < 1:
            raise ValueError(f"SpikeAndSlab: slab_probability is {self.slab_probability}, wanted a number in (0, 1)")

    def __call__(self, num_units: int) -> TorchDistribution:
        """The prior of `num_units` keep probabilities, batch shape `[num_units]`."""
        return distributions.BetaMixture(self.slab_probability, self.slab(num_units), self.spike(num_units))


@dataclass(frozen=True)
class Normal:
    """W ~ N(0, scale² I)."""

    scale: float

    def __post_init__(self) -> None:
        _check_positive(self, scale=self.scale)

    def __call__(self, shape: Sequence[int]) -> TorchDistribution:
        """The prior of one weight tensor, event shape `shape`."""
        return distributions.SphericalNormal(self.scale, shape)
