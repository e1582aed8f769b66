"""Beta-Bernoulli dropout: z_nk ~ Bernoulli(π_k), and a posterior q(π_k) (arXiv 1805.10896)."""

import math
from collections.abc import Callable, Mapping
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from pyro.distributions.torch_distribution import TorchDistribution
from torch import Tensor, nn

from bbpyro.distributions import Kumaraswamy
from bbpyro.families.gate import Gate

MIN_CONCENTRATION = 1e-6
MIN_START = 1e-5  # of the keep probability at which training starts, and of what it lacks to 1
CONCENTRATION1 = math.log1p(math.exp(-1.0))  # where the source starts: softplus(-1)


def kumaraswamy(concentration1: Tensor, concentration0: Tensor) -> Kumaraswamy:
    """The family of q(π) unless a prior brings its own."""
    return Kumaraswamy(concentration1, concentration0, validate_args=False)


class BetaBernoulliDropout(Gate):
    """A gate whose masks z ~ Bernoulli(π) have keep probabilities π that are learnt.

    It holds the parameters a, b of q(π), which is Kumaraswamy(a, b) unless the prior of
    :class:`bbpyro.BetaBernoulliNetwork` says otherwise. Its measure is E[π], and its mean mask E[π] where that exceeds
    the threshold. Shapes and errors are those of :class:`Gate`.

    Args:
        num_features: number of units K, the size of the input's dimension `dim`.
        threshold: a unit is kept when E[π] > threshold; in [0, 1). A prior that leaves idle units above it raises it.
        concentration1: starting value of a; by default the source's, softplus(-1), or what fit() makes of it.
        concentration0: starting value of b.
        dim: the dimension of the units: -1, or 1 for the channels of a convolution.

    Raises:
        ValueError: a threshold outside [0, 1), or a concentration that is not positive.
    """

    unit_parameters: ClassVar[tuple[str, ...]] = ("unconstrained_concentration1", "unconstrained_concentration0")
    thresholds = (0.0, 1.0)
    latent, measure_name, measure_label = "pi", "keep_probability", "keep probability E[π]"
    unconstrained_concentration1: nn.Parameter
    unconstrained_concentration0: nn.Parameter
    family: Callable[[Tensor, Tensor], TorchDistribution] | None = None  # from (a, b) to q(π); None: not yet in use

    def __init__(
        self,
        num_features: int,
        threshold: float = 1e-3,
        concentration1: float | None = None,
        concentration0: float = 1.0,
        dim: int = -1,
    ) -> None:
        super().__init__(threshold, dim)
        self.own_threshold = threshold
        self.starts_by_default = concentration1 is None
        concentration1 = CONCENTRATION1 if concentration1 is None else concentration1
        for name, start in (("concentration1", concentration1), ("concentration0", concentration0)):
            if not MIN_CONCENTRATION < start < math.inf:
                raise ValueError(f"{name} is {start}, wanted a number above {MIN_CONCENTRATION}")
            unconstrained = math.log(math.expm1(start - MIN_CONCENTRATION)) if start < 30 else start
            self.begin_at(f"unconstrained_{name}", unconstrained, num_features)

    def check_family(self, name: str, family: Callable[[Tensor, Tensor], TorchDistribution]) -> None:
        """Raise a ValueError where the gate, of this name in the network, is in use under another family of q(π)."""
        if self.family is not None and not self.is_of(family):
            raise ValueError(
                f"net: its gate {name!r} is already in use under another family of q(π) than this prior wants; give "
                "each network its own gates, by insert_dropout"
            )

    def is_of(self, family: Callable[[Tensor, Tensor], TorchDistribution]) -> bool:
        """Whether the gate is in use under this family of q(π)."""
        return self.family is not None and _is_same(self.family, family)

    def posterior(self) -> TorchDistribution:
        """q(π) of the K units: batch shape `[K]`, or event shape `[K]` where they depend on each other."""
        a = F.softplus(self.unconstrained_concentration1) + MIN_CONCENTRATION
        b = F.softplus(self.unconstrained_concentration0) + MIN_CONCENTRATION
        return (self.family or kumaraswamy)(a, b)

    def begin_with_few_data(self) -> None:
        """Have q(π) be uniform, as Kumaraswamy(1, 1) is, unless it was trained or another start was asked for."""
        if self.starts_by_default and self.is_untrained:
            for name in self.unit_parameters:
                self.begin_at(name, math.log(math.expm1(1 - MIN_CONCENTRATION)))

    def keep_probability(self) -> Tensor:
        """E[π] under q, `[K]`."""
        return self.posterior().mean

    def described(self) -> dict[str, Tensor]:
        """The concentrations of q(π), where it has them, and E[π], each `[K]`."""
        q = self.posterior()
        named = {name: getattr(q, name) for name in ("concentration1", "concentration0") if hasattr(q, name)}
        return named | {self.measure_name: q.mean}

    def measure(self) -> Tensor:
        """E[π] under q, `[K]`."""
        return self.keep_probability()

    def mean_mask(self) -> Tensor:
        """E[π] of the units that are kept, 0 of the others, `[K]`."""
        mean = self.keep_probability()
        return torch.where(mean > self.threshold, mean, 0.0)


def posteriors(gates: Mapping[str, BetaBernoulliDropout]) -> dict[str, TorchDistribution]:
    """q(π) of each gate, by name; gates of the default family that are alike are drawn from as one."""
    if not _are_alike(list(gates.values())):
        return {name: gate.posterior() for name, gate in gates.items()}
    one = [gate.unconstrained_concentration1 for gate in gates.values()]
    zero = [gate.unconstrained_concentration0 for gate in gates.values()]
    return dict(zip(gates, Kumaraswamy.of_unconstrained(one, zero, MIN_CONCENTRATION), strict=True))


def _are_alike(gates: list[BetaBernoulliDropout]) -> bool:
    """Whether all are of the default family, one dtype and one device."""
    parameters = [p for gate in gates for p in (gate.unconstrained_concentration1, gate.unconstrained_concentration0)]
    is_default = all(
        type(gate).posterior is BetaBernoulliDropout.posterior and gate.family in (None, kumaraswamy) for gate in gates
    )
    return is_default and len({(p.dtype, p.device, p.dim()) for p in parameters}) == 1


def _is_same(one: Any, other: Any) -> bool:
    """Whether these are one function, or the methods of equal objects."""
    return all(getattr(one, a, one) == getattr(other, a, other) for a in ("__func__", "__self__"))
