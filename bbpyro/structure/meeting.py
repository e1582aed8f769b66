"""Where units meet: an operation on several tensors ties those that are beside each other."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from bbpyro.structure.followed import Followed
from bbpyro.structure.operations import Call, has_numbers, moved, spread, squeezed, varying_dims, where_units_go
from bbpyro.structure.units import Units

_ALONE = "it is the only one of its layer"


class Meeting:
    """What a call of an operation that is neither a view nor a product makes of the units of its arguments.

    Args:
        call: the call.
        base: its outputs.
        data: what is known of its arguments that come of the data, by their place.
        parameters: of its arguments that are parameters, the slices of each of their dimensions that has several.
        units: of the network, where ties are noted.
        tried: what was found of such calls before.
    """

    def __init__(
        self,
        call: Call,
        base: list[Any],
        data: Mapping[int, Followed],
        parameters: Mapping[int, list[Tensor]],
        units: Units,
        tried: dict[Any, tuple[int, ...] | None],
    ) -> None:
        self._call, self._base, self._data, self._parameters = call, base, data, parameters
        self._units, self._tried = units, tried
        self._dims = {i: varying_dims(f.units) for i, f in data.items()}
        self._moved: list[Tensor] | None = None
        self._places = {i: self._where(i, dims) for i, dims in self._dims.items() if dims}
        if any(places[0] is None for places in self._places.values()) or not data and self._repeats():
            self._moved = moved(call, base, self._every_label())

    def units_of(self, k: int) -> tuple[Tensor, str]:
        """The units of output k, and why its numbers that belong to none do not."""
        output = self._base[k]
        if not has_numbers(output):
            if k == 0 and output.numel():
                self._stick_data(f"{self._name} mixes them")
            return torch.zeros(output.shape, dtype=torch.int64), f"{self._name} makes them"
        if self._moved is not None:
            return self._moved[k], self._why()
        units, mixed = self._join_data(output, k)
        units = self._join_parameters(output, k, units)
        self._hold(units, k)
        return units, f"{self._name} mixes them" if mixed else self._why()

    @property
    def _name(self) -> str:
        return self._call.name.removeprefix("native_")

    def _why(self) -> str:
        if why := next((f.why for f in self._data.values() if f.why), ""):
            return why
        is_alone = any(not self._dims[i] and bool((f.units > 0).any()) for i, f in self._data.items())
        return _ALONE if is_alone else ""

    def _repeats(self) -> bool:
        """Whether an operation on parameters alone mixes their slices, or only moves them."""
        labels = {i: found[0] for i, found in self._parameters.items() if len(found) == 1}
        return any(self._where(i, varying_dims(label))[0] is None for i, label in labels.items())

    def _where(self, at: int, dims: tuple[int, ...]) -> list[tuple[int, ...] | None]:
        return where_units_go(self._call, self._base, at, dims, self._tried)

    def _every_label(self) -> dict[int, Tensor]:
        labels = {i: f.units for i, f in self._data.items()}
        for i, candidates in self._parameters.items():
            if len(candidates) == 1:
                labels[i] = candidates[0]
        return {
            i: labels.get(i, torch.zeros(leaf.shape, dtype=torch.int64))
            for i, leaf in enumerate(self._call.saved)
            if isinstance(leaf, Tensor) and leaf.is_floating_point()
        }

    def _stick_data(self, reason: str) -> None:
        for f in self._data.values():
            self._units.stick(f.units, reason)

    def _join_data(self, output: Tensor, k: int) -> tuple[Tensor, bool]:
        units, mixed = torch.zeros(output.shape, dtype=torch.int64), False
        for i, places in self._places.items():
            if (at := places[k]) is None:
                self._units.stick(self._data[i].units, f"{self._name} mixes them")
                mixed = True
            elif at:
                units = self._tied(units, _placed(self._data[i].units, at, output))
        return units, mixed

    def _tied(self, units: Tensor, mine: Tensor) -> Tensor:
        dims = tuple(sorted({*varying_dims(units), *varying_dims(mine)}))
        self._units.tie(squeezed(units, dims), squeezed(mine, dims))
        return torch.where(units > 0, units, mine)

    def _join_parameters(self, output: Tensor, k: int, units: Tensor) -> Tensor:
        dims = varying_dims(units)
        for i, candidates in self._parameters.items():
            for label in candidates:
                at = self._where(i, varying_dims(label))[k]
                if at is None:
                    self._units.stick(label, f"{self._name} mixes them")
                elif at and not dims and len(candidates) == 1 or set(at) & set(dims):
                    units = self._tied(units, _placed(label, at, output))
        return units

    def _hold(self, units: Tensor, k: int) -> None:
        """Units beside numbers that belong to none, one beside one, stay; so do those that are alone in their layer."""
        dims = varying_dims(units)
        for i, f in self._data.items():
            if not self._dims[i] and bool((f.units > 0).any()):
                self._units.stick(f.units, _ALONE)
            shape = self._call.saved[i].shape
            shift = units.dim() - len(shape)
            if not dims or any(d < shift or shape[d - shift] != units.shape[d] for d in dims):
                continue
            places = self._places[i][k] if i in self._places else None
            mine = torch.zeros_like(units) if not places else _placed(f.units, places, units)
            why = f"{self._name} mixes them" if places is None and self._dims[i] else f.why
            self._units.stick(units[(mine == 0) & (units > 0)], why)


def _placed(label: Tensor, places: tuple[int, ...], output: Tensor) -> Tensor:
    """The units of an argument as those of the output that keeps them apart along the dimensions `places`."""
    vector = squeezed(label, varying_dims(label)).cpu()
    order = sorted(range(len(places)), key=lambda j: places[j])
    return spread(vector.permute(order), [places[j] for j in order], output.shape)
