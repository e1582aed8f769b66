"""Which slices of which parameters belong to one unit, so that they go together or not at all."""

import bisect
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field

import numpy as np
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components
from torch import Tensor

from bbpyro.structure.operations import squeezed, varying_dims

Array = np.ndarray[tuple[int, ...], np.dtype[np.int64]]
_CONSTANT = "a layer reads a constant of it"


@dataclass(frozen=True)
class GroupedConvolution:
    """A convolution in groups: what it reads may differ from group to group, but not how many.

    Attributes:
        weight: the name of its weight.
        inputs: the slices that make its input channels, `[groups, channels / groups]`.
    """

    weight: str
    inputs: Array


@dataclass
class Removal:
    """What is to go.

    Attributes:
        kept: by name of a parameter or buffer, and by dimension, which indices stay; those that lose none are not here.
        grouped: by name of a grouped convolution's weight, which channels of each group it still reads,
            `[groups, kept]`.
        shifts: by name of a weight, which of its columns go that read a constant, and those constants, for its bias.
    """

    kept: dict[str, dict[int, Array]]
    grouped: dict[str, Array]
    shifts: dict[str, tuple[Array, np.ndarray]]


@dataclass
class Units:
    """Every slice of every parameter and buffer, numbered from 1, and what is known of it.

    Slice i of dimension d of a parameter is all of its numbers with index i there, such as a row of a dense layer's
    weight. Slices that are tied go together: a row of a weight, the number of its bias, the column of the next layer.

    Args:
        tensors: the parameters and buffers by name.
        biases: the weights whose layer has a bias, or could.

    Attributes:
        first: the number of the first slice of each dimension.
        size: how many numbers there are, with 0.
        unread: the parameters and buffers that no operation used on these data.
        is_partial: whether other data could show more: some parameter was not used, or some operation had none.
    """

    tensors: Mapping[str, Tensor]
    biases: Collection[str] = ()
    first: dict[tuple[str, int], int] = field(init=False)
    size: int = field(init=False)
    unread: set[str] = field(init=False, default_factory=set)
    is_partial: bool = field(init=False, default=False)

    def __post_init__(self) -> None:
        self.first, number = {}, 1
        for name, tensor in self.tensors.items():
            for dim, length in enumerate(tensor.shape):
                self.first[name, dim] = number
                number += length
        self.size = number
        self._ties: list[Array] = []
        self._made = np.zeros(number, bool)
        self._needed: list[Array] = []
        self._stuck: list[tuple[Array, str]] = []
        self._equal: list[list[Array]] = []
        self._grouped: list[GroupedConvolution] = []
        self._constants: dict[str, Mapping[int, float]] = {}

    def slices(self, name: str, dim: int) -> Array:
        """The numbers of a dimension's slices."""
        first = self.first[name, dim]
        return np.arange(first, first + self.tensors[name].shape[dim])

    def tie(self, one: Tensor | Array, other: Tensor | Array) -> None:
        """These go together, each with the one beside it; 0 is no slice."""
        pairs = np.stack([_array(one), _array(other)])
        pairs = pairs[:, (pairs > 0).all(0) & (pairs[0] != pairs[1])]
        if pairs.size:
            self._ties.append(np.unique(pairs, axis=1))

    def tie_across(self, units: Tensor, dim: int) -> None:
        """What has the same index along a dimension goes together."""
        dims = sorted({dim, *varying_dims(units)})
        box = squeezed(units, dims).movedim(dims.index(dim), 0).flatten(1)
        self.tie(box[:, :1].expand_as(box).flatten(), box.flatten())

    def make(self, slices: Tensor | Array) -> None:
        """These make the units that a layer puts out: only what such units are tied to can go."""
        self._made[_array(slices)] = True

    def need(self, slices: Tensor | Array) -> None:
        """A layer uses these."""
        self._needed.append(np.unique(_array(slices)))

    def read(self, slices: Tensor, constants: Mapping[int, float]) -> None:
        """A layer reads by these slices of its weight, some of which read a constant, which its bias can do instead.

        They are needed where it has no bias to do so, or where the weight is used more than once.
        """
        name, dim = self.owner(int(slices[0]))
        earlier = self._constants.setdefault(name, constants)
        if earlier is not constants or dim != 1 or name not in self.biases:
            self.need(np.array([*constants, *earlier], np.int64))

    def owner(self, number: int) -> tuple[str, int]:
        """The name and the dimension that a slice is of."""
        firsts = list(self.first.values())
        return list(self.first)[bisect.bisect_right(firsts, number) - 1]

    def stick(self, slices: Tensor | Array, reason: str) -> None:
        """These cannot be removed."""
        if isinstance(slices, Tensor) and slices.dim() > 1:
            slices = squeezed(slices, varying_dims(slices))
        found = np.unique(_array(slices))
        if (found > 0).any():
            self._stuck.append((found[found > 0], reason))

    def keep_equal(self, parts: Iterable[Tensor | Array]) -> None:
        """Of each of these parts as many must stay."""
        self._equal.append([_array(part) for part in parts])

    def add_grouped(self, convolution: GroupedConvolution) -> None:
        """What this convolution reads must stay of one number a group."""
        self._grouped.append(convolution)
        self.keep_equal(convolution.inputs)

    def groups(self) -> Array:
        """Which group each slice is in, `[size]`."""
        ties = np.concatenate([np.zeros((2, 0), np.int64), *self._ties], 1)
        graph = coo_array((np.ones(ties.shape[1], np.int8), (ties[0], ties[1])), (self.size, self.size))
        groups: Array = connected_components(graph, directed=False)[1].astype(np.int64)
        return groups

    def decide(self, allowed: Array | None = None, round_to: int = 1) -> Removal:
        """What can go.

        Args:
            allowed: whether a group may go, by its number; by default each.
            round_to: keep a multiple of that many of each parameter's dimension, where there are as many.
        """
        groups = self.groups()
        goes = self.removable(groups) if allowed is None else self.removable(groups) & allowed
        dims = [self.slices(*key) for key in self.first]
        dims = [slices for slices in dims if len(slices) and goes[groups[slices]].any()]
        while self._give_back(goes, groups, dims, round_to):
            pass
        gone = goes[groups]
        kept: dict[str, dict[int, Array]] = {}
        for name, dim in self.first:
            stays = ~gone[self.slices(name, dim)]
            if not stays.all():
                kept.setdefault(name, {})[dim] = stays.nonzero()[0]
        grouped = {
            c.weight: np.stack([(~gone[part]).nonzero()[0] for part in c.inputs])
            for c in self._grouped
            if gone[c.inputs].any()
        }
        return Removal(kept, grouped, self._gone_shifts(gone))

    def _gone_shifts(self, gone: np.ndarray) -> dict[str, tuple[Array, np.ndarray]]:
        found = {}
        for name, constants in self._constants.items():
            going = [number for number in constants if gone[number]]
            if going:
                columns = np.array(going, np.int64) - self.first[name, 1]
                found[name] = columns, np.array([constants[number] for number in going])
        return found

    def removable(self, groups: Array) -> np.ndarray:
        """Whether nothing needs a group, and nothing holds it."""
        goes = np.zeros(groups.max() + 1, bool)
        goes[groups[self._made]] = True
        goes[groups[0]] = False
        for slices in (*self._needed, *(slices for slices, _ in self._stuck)):
            goes[groups[slices]] = False
        return goes

    def stick_constants(self) -> None:
        """Have what a layer reads as a constant stay, for which its bias would have to stand."""
        self.stick(np.array([n for constants in self._constants.values() for n in constants], np.int64), _CONSTANT)

    def needed(self, groups: Array) -> np.ndarray:
        """Whether a layer uses a group, by its number."""
        found = np.zeros(groups.max() + 1, bool)
        for slices in self._needed:
            found[groups[slices]] = True
        return found

    def _give_back(self, goes: np.ndarray, groups: Array, dims: list[Array], round_to: int) -> bool:
        """Let groups stay until the numbers fit; whether any had to."""
        before = int(goes.sum())
        for slices in dims:
            gone = groups[slices][goes[groups[slices]]]
            stay = len(slices) - len(gone)
            wanted = min(len(slices), -(-max(1, stay) // round_to) * round_to)
            goes[gone[: wanted - stay]] = False
        for parts in self._equal:
            gone = [groups[part][goes[groups[part]]] for part in parts]
            fewest = min(len(part) for part in gone)
            for part in gone:
                goes[part[fewest:]] = False
        return int(goes.sum()) < before

    def reasons(self, groups: Array) -> dict[int, str]:
        """Why a group is held, by its number."""
        return {int(group): reason for slices, reason in reversed(self._stuck) for group in groups[slices]}


def _array(slices: Tensor | Array) -> Array:
    if isinstance(slices, Tensor):
        slices = slices.cpu().numpy()
    return slices.reshape(-1).astype(np.int64)
