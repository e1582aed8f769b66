"""What all gates have in common, of whatever family of masks: they multiply, and tell which units are out."""

import math
from typing import Any, ClassVar

import torch
from torch import Tensor, nn


class Gate(nn.Module):
    """Multiplies each of its units by a mask: by z where one is bound, by the mean mask anywhere else.

    A family of masks is a subclass. It holds the parameters of its guide, samples its sites where the network's model
    and guide ask for them, and says by what measure a unit is in or out and what the mean mask is. Inside
    :class:`bbpyro.BetaBernoulliNetwork` z is bound for each call; a trained network is usable as it stands.

    Attributes:
        thresholds: what the threshold may be: from the first number, and below the second.
        dim: the dimension of the units: -1, or 1 for the channels of a convolution.
        unit_parameters: the names of its parameters that have a number for each unit.
        latent: what the paper calls the variable of a unit that has a posterior, such as theta.
        measure_name: what it calls the measure, as a name; `measure_label` is that in words, for a figure.
        depends_on_data: whether what stands for z at prediction is another for each datum.

    Shapes: input and output `[N, ..., K]`, of channels `[N, K, ...]`; z, where bound, `[N, K]`: one mask a datum,
    shared by the other dimensions.

    Raises:
        ValueError: no unit, a dim that is neither -1 nor 1, an input whose dimension `dim` is not of size
            `num_features`, or a z of another number of data.
    """

    z: Tensor | None
    unit_parameters: ClassVar[tuple[str, ...]]
    latent: ClassVar[str]
    measure_name: ClassVar[str]
    measure_label: ClassVar[str]
    depends_on_data: ClassVar[bool] = False
    thresholds: ClassVar[tuple[float, float]] = (-math.inf, math.inf)  # from the first, and below the second

    def __init__(self, threshold: float, dim: int = -1) -> None:
        super().__init__()
        if dim not in (-1, 1):
            raise ValueError(f"dim is {dim}, wanted -1, or 1 for the channels of a convolution")
        self.threshold, self.dim = threshold, dim
        self._start: dict[str, float] = {}
        self.register_buffer("z", None)

    @property
    def threshold(self) -> float:
        """A unit is kept where its measure is above it; a ValueError where it is set to what it cannot be."""
        return self._threshold

    @threshold.setter
    def threshold(self, threshold: float) -> None:
        least, end = self.thresholds
        if not isinstance(threshold, int | float) or not least <= threshold < end:
            raise ValueError(
                f"{type(self).__name__}: threshold is {threshold}, wanted a number in [{least:g}, {end:g})"
            )
        self._threshold = threshold

    @torch.no_grad()
    def begin_at(self, name: str, start: float, num_features: int | None = None) -> None:
        """Have a parameter be this number for each unit; `num_features` of them, if it is a new one."""
        self._start[name] = start
        if num_features is None:
            getattr(self, name).fill_(start)
            return
        if num_features < 1:
            raise ValueError(f"num_features is {num_features}, wanted at least 1")
        self.register_parameter(name, nn.Parameter(torch.full((num_features,), start)))

    def begin_with_few_data(self) -> None:
        """Begin where few data want a gate to, unless it was trained or another start was asked for."""

    @property
    def is_untrained(self) -> bool:
        """Whether all parameters are where they began, to what half precision leaves of it."""
        return all(bool(((getattr(self, name) - start).abs() < 1e-3).all()) for name, start in self._start.items())

    @property
    def like(self) -> Tensor:
        """A tensor `[K]` of the gate's dtype, on its device."""
        first: Tensor = getattr(self, self.unit_parameters[0])
        return first

    @property
    def num_features(self) -> int:
        """K, the number of units."""
        return len(self.like)

    def model(self, name: str, data: Any) -> dict[str, Tensor]:
        """Sample p of the masks, and of what they depend on; returns what is bound to the gate, by its buffers' names.

        Args:
            name: the gate's in its network, with which the names of its sites begin, as in `fc1.gate.theta`.
            data: the pyro.plate of the data; its size is N.

        Returns:
            z, the masks `[B, K]` of a minibatch; or whatever else forward() reads.
        """
        raise NotImplementedError

    def guide(self, name: str, data: Any) -> None:
        """Sample q of what :meth:`model` samples."""
        raise NotImplementedError

    def kl(self, num_data: int) -> Tensor:
        """What each unit costs the ELBO of all data, nats `[K]`."""
        raise NotImplementedError

    def draws(self, num_samples: int) -> Tensor:
        """Draws of the latent variable from the posterior, `[S, K]`."""
        raise NotImplementedError

    def prior_draws(self, num_samples: int) -> Tensor | None:
        """The same from the prior; None where it has none."""
        return None

    def described(self) -> dict[str, Tensor]:
        """The guide's parameters by the paper's names, and the measure, each `[K]`."""
        return {name: getattr(self, name).detach() for name in self.unit_parameters} | {
            self.measure_name: self.measure()
        }

    def measure(self) -> Tensor:
        """That by which a unit is in or out, `[K]`."""
        raise NotImplementedError

    def mean_mask(self) -> Tensor:
        """What stands for z at prediction: 0 of the units that are out, `[K]`."""
        raise NotImplementedError

    def kept(self) -> Tensor:
        """Which units are kept, a boolean `[K]`."""
        return self.measure() > self.threshold

    def kept_for(self, x: Tensor) -> Tensor:
        """Which units are kept for each datum of the gate's input, `[N, K]`; here those that are for all."""
        return self.kept().expand(len(x), -1)

    def for_all_data(self) -> "Gate":
        """The gate with masks alike for all data: this one, or what stands for it where they depend on the datum."""
        return self

    def forward(self, x: Tensor) -> Tensor:
        """`x` times z where z is bound, times the mean mask elsewhere."""
        if x.dim() < 2 - (self.dim == -1) or x.shape[self.dim] != self.num_features:
            raise ValueError(
                f"{self._named()} got an input of shape {tuple(x.shape)}; "
                f"its {'last' if self.dim == -1 else 'channel'} dimension must be {self.num_features}"
            )
        mask = self.mean_mask() if self.z is None else self.z
        if mask.dim() == 2 and len(mask) not in (1, len(x)):
            raise ValueError(
                f"{self._named()} got {len(x)} rows where z has a mask for each of {len(mask)} data; time or patches "
                "must have a dimension of their own, not be folded into the batch's"
            )
        return self.times(x, mask)

    def times(self, x: Tensor, mask: Tensor) -> Tensor:
        """`x` times a mask `[K]`, or one of each datum, `[N, K]`."""
        others = max(0, x.dim() - max(2, mask.dim()))
        if self.dim == 1:
            return x * mask.reshape(*mask.shape, *[1] * others)
        return x * mask.reshape(*mask.shape[:-1], *[1] * (others if mask.dim() > 1 else 0), self.num_features)

    def _named(self) -> str:
        return f"{type(self).__name__}({self.num_features})"

    def extra_repr(self) -> str:
        """What print(net) shows."""
        return f"{self.num_features}, threshold={self.threshold:g}"


def check_numbers(gate: Gate, **ranges: tuple[float, float, float]) -> None:
    """Raise a ValueError unless each number, given with the least and the largest that it may be, is in its range."""
    for name, (value, least, most) in ranges.items():
        if not isinstance(value, int | float) or not least <= value <= most:
            raise ValueError(f"{type(gate).__name__}: {name} is {value!r}, wanted a number from {least:g} to {most:g}")
