"""Follows units through one run of a network: from the slice that makes one to the slices that read it."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.weak import WeakTensorKeyDictionary

from bbpyro.nests import Nest, tensors_of
from bbpyro.structure import products
from bbpyro.structure.followed import Followed
from bbpyro.structure.meeting import Meeting
from bbpyro.structure.operations import Call, is_view, outputs_of, spread, squeezed, varying, varying_dims
from bbpyro.structure.units import Units

_DEFINED = {  # in place of those that give whatever was in memory
    torch.ops.aten.empty_like.default: torch.ops.aten.zeros_like.default,
    torch.ops.aten.new_empty.default: torch.ops.aten.new_zeros.default,
}
_EMPTY = "the example leaves nothing for an operation on them"


class Trace(TorchDispatchMode):
    """Follows units while a network runs under it.

    Args:
        units: of its parameters and buffers, which this fills in.
    """

    def __init__(self, units: Units) -> None:
        super().__init__()
        self.units = units
        self._followed = WeakTensorKeyDictionary()
        self._parameters = {tensor.untyped_storage().data_ptr(): name for name, tensor in units.tensors.items()}
        self._tried: dict[Any, tuple[int, ...] | None] = {}
        units.unread = set(units.tensors)

    def follow_inputs(self, inputs: Nest) -> None:
        """The network's inputs: data that belong to no unit."""
        for tensor in tensors_of(inputs):
            self._note(tensor, _of_no_unit(tensor, "it reads an input of the network"))

    def end(self, outputs: list[Tensor]) -> None:
        """The network's outputs, of which nothing may go."""
        for output in outputs:
            followed = self.find(output)
            if followed is not None:
                self.units.stick(followed.units, "it is part of the network's output")
            elif (name := self.parameter_of(output)) is not None:
                self.stick_parameter(name, "it is part of the network's output")

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """One operation of the network."""
        call = Call(_DEFINED.get(func, func), args, kwargs or {})
        self._doubt(call)
        data = {i: f for i, leaf in enumerate(call.leaves) if (f := self.find(leaf)) is not None}
        parameters = {i: n for i, leaf in enumerate(call.leaves) if (n := self.parameter_of(leaf)) is not None}
        result = call.run()
        self.units.unread -= set() if is_view(func) else set(parameters.values())
        if not data and not (parameters and not is_view(func)):
            return result
        outputs = outputs_of(result)
        is_empty = any(isinstance(t, Tensor) and not t.numel() for t in (*(call.leaves[i] for i in data), outputs[0]))
        if is_empty:
            self._leave(data, parameters)
        if torch.Tag.inplace_view in func.tags and data:
            self._reshape_in_place(call, data)
        elif is_view(func):
            self._view(call, *next(iter(data.items())), outputs)
        elif is_empty:
            for output in outputs:
                if isinstance(output, Tensor):
                    self._write(call, output, _of_no_unit(output, _EMPTY))
        elif (product := products.find(call, data, self)) is not None:
            self._note_product(product, outputs[0])
        else:
            self._compute(call, data, parameters, outputs)
        return result

    def _doubt(self, call: Call) -> None:
        """A tensor that comes of no other may come of the data by another way, as of their Python numbers."""
        leaves = [call.leaves[i] for i in products.factors(call)]
        unknown = [leaf for leaf in leaves if not self.parameter_of(leaf) and self.find(leaf) is None]
        if len(unknown) == 1 < len(leaves):
            self._note(unknown[0], _of_no_unit(unknown[0], "the network makes them itself"))

    def find(self, leaf: Any) -> Followed | None:
        """What is known of a tensor, if it comes of the data."""
        if not isinstance(leaf, Tensor):
            return None
        base = leaf._base
        if leaf not in self._followed and base is not None and base in self._followed:
            self._note(leaf, _part(self._followed[base], base, leaf))  # of a tensor that came of the data later
        return self._followed.get(leaf)

    def parameter_of(self, leaf: Any) -> str | None:
        """The name of the parameter or buffer that a tensor is, or is a view of."""
        if not isinstance(leaf, Tensor) or not leaf.is_floating_point() or leaf in self._followed:
            return None
        if leaf.layout is not torch.strided:
            return None
        return self._parameters.get(leaf.untyped_storage().data_ptr()) if leaf.numel() else None

    def indices(self, view: Tensor, name: str) -> list[Tensor]:
        """For each dimension of a parameter, which of its indices each number of a view of it has."""
        parameter = self.units.tensors[name]
        at = torch.tensor(int(view.storage_offset()) - int(parameter.storage_offset()))
        for size, stride in zip(view.shape, view.stride(), strict=True):
            at = at[..., None] + torch.arange(size) * stride
        found = []
        for size, stride in zip(parameter.shape, parameter.stride(), strict=True):
            found.append((at // stride) % size)
        return found

    def _note(self, tensor: Tensor, followed: Followed) -> None:
        self._followed[tensor] = followed

    def stick_parameter(self, name: str, reason: str) -> None:
        """Nothing of a parameter can be removed."""
        for dim in range(self.units.tensors[name].dim()):
            self.units.stick(self.units.slices(name, dim), reason)

    def _leave(self, data: Mapping[int, Followed], parameters: Mapping[int, str]) -> None:
        """Nothing can go of what an operation is given that these data give nothing to work on."""
        self.units.is_partial = True
        for followed in data.values():
            if followed.units.numel():
                self.units.stick(followed.units, _EMPTY)
        for name in parameters.values():
            self.stick_parameter(name, _EMPTY)

    def _reshape_in_place(self, call: Call, data: Mapping[int, Followed]) -> None:
        at, followed = next(iter(data.items()))
        tensor = call.leaves[at]
        if followed.units.shape != tensor.shape:
            call.saved = list(call.leaves)  # of the new shape
            followed.units, followed.varies = (
                call.again({at: t.clone()})[0] for t in (followed.units, followed.varies)
            )

    def _view(self, call: Call, at: int, followed: Followed, outputs: list[Tensor]) -> None:
        """The same view of what is known, so that what is written into it later is seen from everywhere."""
        try:
            known = [_viewed(call, at, t) for t in (followed.units, followed.varies)]
        except RuntimeError:  # a view as complex numbers, or of those
            self.units.stick(followed.units, f"{call.name} mixes them")
            for output in outputs:
                self._note(output, _of_no_unit(output, f"{call.name} mixes them"))
            return
        views = [Followed(units, varies, followed.why) for units, varies in zip(*known, strict=True)]
        for output, view in zip(outputs, views, strict=True):
            self._note(output, view)
        dims = varying_dims(followed.units)
        if len(dims) > 1 and len(varying_dims(views[0].units)) < len(dims):  # only a box can go of what is merged
            self.units.tie_across(followed.units, max(dims, key=lambda d: followed.units.shape[d]))
        if len(views) > 1 and len({output.shape for output in outputs}) == 1 and len(dims) == 1:
            self.units.keep_equal(squeezed(view.units, dims).reshape(-1) for view in views)

    def _note_product(self, product: "products.Product", output: Tensor) -> None:
        self.units.make(product.units)
        units = spread(product.units.to(output.device), [product.dim % output.dim()], output.shape)
        self._note(output, Followed(_laid_out(units, output), _laid_out(product.varies, output), product.why))

    def _compute(self, call: Call, data: dict[int, Followed], parameters: dict[int, str], outputs: list[Any]) -> None:
        base = call.again({}) if call.writes else outputs
        slices = {i: self._slices_of(call.saved[i], name) for i, name in parameters.items()}
        meeting = Meeting(call, base, data, slices, self.units, self._tried)
        varies = varying(call, base, {i: f.varies for i, f in data.items()})
        for k, output in enumerate(base):
            if isinstance(output, Tensor):
                units, why = meeting.units_of(k)
                self._write(call, outputs[k], Followed(_laid_out(units, output), _laid_out(varies[k], output), why))

    def _slices_of(self, view: Tensor, name: str) -> list[Tensor]:
        """The slices that each number of a view of a parameter is in, for each dimension that has several."""
        indices = enumerate(self.indices(view, name))
        found = [index + self.units.first[name, d] for d, index in indices if self.units.tensors[name].shape[d] > 1]
        return [slices for slices in found if varying_dims(slices)]

    def _follow_own(self, tensor: Tensor) -> None:
        """A tensor that the network makes itself, and then writes data into a part of."""
        none = torch.zeros(tensor.shape, dtype=torch.int64, device=tensor.device)
        varies = _laid_out(none > 0, tensor)
        self._note(tensor, Followed(_laid_out(none, tensor), varies, "the network makes them itself"))

    def _write(self, call: Call, output: Tensor, followed: Followed) -> None:
        if call.writes and output._base is not None and self.find(output) is None:
            self._follow_own(output._base)
        known = self.find(output)
        if call.writes and known is not None and known.units.shape == followed.units.shape:
            known.units.copy_(followed.units)  # in place, for other views of it
            known.varies.copy_(followed.varies)
            known.why = followed.why
        else:
            self._note(output, followed)


def _viewed(call: Call, at: int, known: Tensor) -> list[Tensor]:
    try:
        return call.again({at: known})
    except RuntimeError:  # what is known lies otherwise in memory
        return call.again({at: known.contiguous()})


def _laid_out(known: Tensor, tensor: Tensor) -> Tensor:
    """A copy that lies in memory as the tensor does, so that it can be viewed alike."""
    return torch.empty_like(tensor, dtype=known.dtype).copy_(known)


def _part(known: Followed, base: Tensor, view: Tensor) -> Followed:
    """What is known of a view of a tensor."""
    if known.units.stride() != base.stride():
        return _of_no_unit(view, known.why)
    place = (view.shape, view.stride(), view.storage_offset() - base.storage_offset())
    return Followed(known.units.as_strided(*place), known.varies.as_strided(*place), known.why)


def _of_no_unit(tensor: Tensor, why: str) -> Followed:
    return Followed(
        torch.zeros(tensor.shape, dtype=torch.int64, device=tensor.device),
        torch.ones(tensor.shape, dtype=torch.bool, device=tensor.device),
        why,
    )
