"""What the keep probabilities π of a gate may be a priori.

A prior is any callable from the number of units K to a distribution on [0, 1] of batch shape `[K]`, or, where units
depend on each other, of event shape `[K]`. Its posterior q(π) is Kumaraswamy, unless the prior has a method
`guide(concentration1, concentration0)`, from the gate's two parameters `[K]` to another.

A unit is out where E[π] under q is at most the gate's threshold. A unit of which the data say nothing is left at the
prior, so a prior that expects units to be off raises that to twice its own mean: IndianBuffet(5) on 300 units to 0.03.
A method `threshold(own, num_units)` of the prior overrules that.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from pyro.distributions.torch_distribution import TorchDistribution
from torch import Tensor

from bbpyro import distributions
from bbpyro.exclusive import one_at_a_time
from bbpyro.priors.spelled import Spelled, canonical, check_positive, is_path, parse, spellings

Prior = Callable[[int], TorchDistribution]


@dataclass(frozen=True, repr=False)
class Beta(Spelled):
    """π_k ~ Beta(concentration1, concentration0), the same for every unit.

    The default is the source's: concentration1 = α/K taken as one number, 1e-4 (arXiv 1805.10896).
    """

    concentration1: float = 1e-4
    concentration0: float = 1.0

    def __post_init__(self) -> None:
        check_positive(self, concentration1=self.concentration1, concentration0=self.concentration0)

    def __call__(self, num_units: int) -> distributions.Beta:
        """The prior of `num_units` keep probabilities, batch shape `[num_units]`."""
        return distributions.Beta(
            torch.full((num_units,), float(self.concentration1)), torch.full((num_units,), float(self.concentration0))
        )


@dataclass(frozen=True, repr=False)
class IndianBuffet(Spelled):
    """π_k ~ Beta(alpha / K, 1) with K the width of the layer: as K grows, an Indian buffet process.

    About `alpha` units of a datum are active a priori, however wide the layer (Griffiths and Ghahramani 2011).
    """

    alpha: float = 5.0

    def __post_init__(self) -> None:
        check_positive(self, alpha=self.alpha)

    def __call__(self, num_units: int) -> TorchDistribution:
        """The prior of `num_units` keep probabilities, batch shape `[num_units]`."""
        return Beta(self.alpha / num_units, 1.0)(num_units)


@dataclass(frozen=True, repr=False)
class Uniform(Spelled):
    """π_k ~ U(0, 1): nothing is known of any unit."""

    def __call__(self, num_units: int) -> TorchDistribution:
        """The prior of `num_units` keep probabilities, batch shape `[num_units]`."""
        return Beta(1.0, 1.0)(num_units)


@dataclass(frozen=True, repr=False)
class Jeffreys(Spelled):
    """π_k ~ Beta(½, ½), Jeffreys' prior of a Bernoulli."""

    def __call__(self, num_units: int) -> TorchDistribution:
        """The prior of `num_units` keep probabilities, batch shape `[num_units]`."""
        return Beta(0.5, 0.5)(num_units)


@dataclass(frozen=True, repr=False)
class LogitNormal(Spelled):
    """logit π_k ~ N(loc, scale²)."""

    loc: float = 0.0
    scale: float = 3.0

    def __post_init__(self) -> None:
        if not isinstance(self.loc, int | float) or not -float("inf") < self.loc < float("inf"):
            raise ValueError(f"LogitNormal: loc is {self.loc!r}, wanted a finite number")
        check_positive(self, scale=self.scale)

    def __call__(self, num_units: int) -> TorchDistribution:
        """The prior of `num_units` keep probabilities, batch shape `[num_units]`."""
        return distributions.LogitNormal(torch.full((num_units,), float(self.loc)), float(self.scale))


@dataclass(frozen=True, repr=False)
class SpikeAndSlab(Spelled):
    """π_k of a Beta near 0, the spike, or of another, the slab, which it is with probability `slab_probability`."""

    slab_probability: float = 0.5
    spike: Beta = Beta(1e-4, 1.0)
    slab: Beta = Beta(1.0, 1.0)

    def __post_init__(self) -> None:
        if not isinstance(self.slab_probability, int | float) or not 0 < self.slab_probability < 1:
            raise ValueError(f"SpikeAndSlab: slab_probability is {self.slab_probability!r}, wanted a number in (0, 1)")
        if not isinstance(self.spike, Beta) or not isinstance(self.slab, Beta):
            raise ValueError(f"SpikeAndSlab: spike and slab are {self.spike!r} and {self.slab!r}, wanted two Beta")

    def threshold(self, own: float, num_units: int) -> float:
        """The E[π] up to which a unit is out, where the gate's own is `own`: an idle unit is left at the spike."""
        return threshold_under(self.spike, own, num_units)

    def __call__(self, num_units: int) -> TorchDistribution:
        """The prior of `num_units` keep probabilities, batch shape `[num_units]`."""
        return distributions.BetaMixture(self.slab_probability, self.slab(num_units), self.spike(num_units))


@dataclass(frozen=True, repr=False)
class StickBreaking(Spelled):
    """π_k = Π_{j≤k} v_j, v_j ~ Beta(alpha, 1): the Indian buffet process cut at K, π in falling order.

    A priori E[π_k] = (alpha / (1 + alpha))^k (Teh, Görür and Ghahramani 2007). The order is that of the layer's units,
    so a unit is no more likely than the ones before it: for units whose order means nothing, such as pixels, that is a
    poor prior, and it is meant for layers whose units can take any place.
    """

    alpha: float = 5.0

    def __post_init__(self) -> None:
        check_positive(self, alpha=self.alpha)

    def __call__(self, num_units: int) -> TorchDistribution:
        """The prior of `num_units` keep probabilities, event shape `[num_units]`."""
        alpha = torch.full((num_units,), float(self.alpha))
        return distributions.StickBreaking(distributions.Kumaraswamy(alpha, torch.ones(num_units)))

    def guide(self, concentration1: Tensor, concentration0: Tensor) -> TorchDistribution:
        """q(π) of Kumaraswamy(K a, b) sticks: with that K, the last unit's E[log π] is what a gate's own would be."""
        a = len(concentration1) * concentration1
        return distributions.StickBreaking(distributions.Kumaraswamy(a, concentration0, validate_args=False))

    def threshold(self, own: float, num_units: int) -> float:
        """The E[π] up to which a unit is out: the gate's own, however the prior falls."""
        return own


@dataclass(frozen=True, repr=False)
class FixedRate(Spelled):
    """π_k = 1 - p, given and not learnt: ordinary dropout of rate `p`, and no unit is ever out.

    torch's nn.Dropout divides what it keeps by 1 - p; here the weights that follow are that much larger.
    """

    p: float = 0.5

    def __post_init__(self) -> None:
        if not isinstance(self.p, int | float) or not 0 <= self.p < 1:
            raise ValueError(f"FixedRate: p is {self.p!r}, wanted the share of units that is dropped, in [0, 1)")

    def __call__(self, num_units: int) -> TorchDistribution:
        """The point mass at 1 - p, batch shape `[num_units]`."""
        return distributions.Delta(torch.full((num_units,), 1 - float(self.p)))

    def guide(self, concentration1: Tensor, concentration0: Tensor) -> TorchDistribution:
        """The same point mass; the gate's parameters play no part."""
        return distributions.Delta(self(len(concentration1)).v.to(concentration1))

    def threshold(self, own: float, num_units: int) -> float:
        """The E[π] up to which a unit is out: none is."""
        return 0.0


@dataclass(frozen=True)
class Shared:
    """Any one distribution on [0, 1], the same for every unit."""

    distribution: TorchDistribution

    def __call__(self, num_units: int) -> TorchDistribution:
        """The prior of `num_units` keep probabilities, batch shape `[num_units]`."""
        return self.distribution.expand(torch.Size([num_units]))


KNOWN = {
    prior.__name__: prior
    for prior in (Beta, IndianBuffet, Uniform, Jeffreys, LogitNormal, SpikeAndSlab, StickBreaking, FixedRate)
}


@one_at_a_time  # it draws
def threshold_under(prior: Prior, own: float, num_units: int) -> float:
    """The E[π] up to which a unit is out, where the gate's own threshold is `own`.

    It is what the prior's method `threshold` says, if it has one; else, where the prior expects less than ¼ of a unit,
    at least twice that, since it is there that a unit is left of which the data say nothing.
    """
    if hasattr(prior, "threshold"):
        return float(prior.threshold(own, num_units))
    distribution = prior(num_units)
    try:
        mean = distribution.mean.mean().item()
    except (AttributeError, NotImplementedError):
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            mean = distribution.sample(torch.Size([10_000])).mean().item()
    return max(own, 2 * mean) if mean < 0.25 else own


# What BetaBernoulliNetwork takes for one.
PriorLike = Prior | torch.distributions.Distribution | str


def as_prior(prior: PriorLike | Mapping[str, PriorLike]) -> Prior | dict[str, Prior]:
    """A prior, or a mapping from names of gates to priors, of whatever says what it is.

    Args:
        prior: a prior; a distribution on [0, 1] of one number; a spelling, such as "Beta(1e-4, 1)" or "module:name";
            or a mapping from names of gates, with * for any characters, to those.

    Raises:
        ValueError: a text spells no prior, or it is none of these.
    """
    found: Any = parse(prior, KNOWN) if isinstance(prior, str) else prior
    if isinstance(found, Mapping) and found:
        return {str(name): _as_one(each) for name, each in found.items()}
    return _as_one(found)


def spell(prior: PriorLike | Mapping[str, PriorLike]) -> str:
    """The one way to write a prior, or a text that spells one.

    Raises:
        ValueError: it has no spelling, or spells no prior.
    """
    as_prior(prior)
    if isinstance(prior, Mapping):
        spelled = {name: spell(each) for name, each in prior.items()}
        each_one = (f"{str(name)!r}: {repr(text) if is_path(text) else text}" for name, text in spelled.items())
        return f"{{{', '.join(each_one)}}}"
    text = prior if isinstance(prior, str) else repr(prior)
    try:
        return canonical(text, KNOWN)
    except ValueError:
        if isinstance(prior, str):
            raise
        raise ValueError(f"{prior!r} cannot be written down; put it into a module and give module:name") from None


def _as_one(prior: Any) -> Prior:
    found = parse(prior, KNOWN) if isinstance(prior, str) else prior
    if isinstance(found, torch.distributions.Distribution):
        return Shared(found)  # type: ignore[arg-type]
    if isinstance(found, type) or not callable(found):
        raise ValueError(f"{found!r} is no prior; {spellings(KNOWN)}")
    return found
