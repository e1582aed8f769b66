"""Where units are made and read: convolutions and products with a matrix of the network's."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from bbpyro.structure.followed import Followed
from bbpyro.structure.operations import Call, squeezed, varying_dims
from bbpyro.structure.units import GroupedConvolution

if TYPE_CHECKING:
    from bbpyro.structure.tracing import Trace

_MATRIX = {  # where its bias, its left and its right factor are among the leaves
    torch.ops.aten.mm.default: (None, 0, 1),
    torch.ops.aten.addmm.default: (0, 1, 2),
    torch.ops.aten.bmm.default: (None, 0, 1),
    torch.ops.aten.baddbmm.default: (0, 1, 2),
}
_CONVOLUTION = torch.ops.aten.convolution.default
_EMBEDDING = torch.ops.aten.embedding.default

_ANOTHER_SHAPE = "its weight is used in another shape than it has"


@dataclass(frozen=True)
class Product:
    """What a product makes.

    Attributes:
        units: for each index of dimension `dim` of its output, the slice that makes it; 0: none.
        dim: of the output.
        varies: which numbers of the output depend on the data.
        why: why those that belong to none do not.
    """

    units: Tensor
    dim: int
    varies: Tensor
    why: str


def find(call: Call, data: Mapping[int, Followed], trace: "Trace") -> Product | None:
    """What a call makes, if it is a product of data with a parameter; ties and needs are noted on the way."""
    if call.operation is _CONVOLUTION:
        if 0 in data and trace.parameter_of(call.leaves[1]):
            return _convolution(call, data[0], trace)
    elif call.operation is _EMBEDDING and trace.parameter_of(call.leaves[0]):
        return _embedding(call, data, trace)
    elif call.operation in _MATRIX:
        bias, left, right = _MATRIX[call.operation]
        if left in data and trace.parameter_of(call.leaves[right]):
            return _matrix(call, data, trace, (left, right, bias), (-1, -2, -1))
        if right in data and trace.parameter_of(call.leaves[left]):
            return _matrix(call, data, trace, (right, left, bias), (-2, -1, -2))
    return None


def factors(call: Call) -> tuple[int, ...]:
    """Where the two that a product is of are among the leaves."""
    if call.operation is _CONVOLUTION:
        return 0, 1
    return _MATRIX[call.operation][1:] if call.operation in _MATRIX else ()


def _matrix(
    call: Call,
    data: Mapping[int, Followed],
    trace: "Trace",
    places: tuple[int, int, int | None],
    dims: tuple[int, int, int],
) -> Product | None:
    """A product with a matrix: `places` of the data, the matrix and the bias; `dims` summed over, of each, and made."""
    (at, of, bias), (summed, over, made) = places, dims
    x, weight, followed = call.leaves[at], call.leaves[of], data[at]
    if weight.dim() == 3 and weight.stride(0) != 0 and weight.shape[0] > 1:
        return None  # a matrix for each of several, such as heads
    if weight.dim() == 3:
        weight = weight[0]
    reads, makes = _slices(trace, weight, over, last=True), _slices(trace, weight, -3 - over)
    used = weight != 0
    used = used.any(1) if over % 2 == 0 else used.any(0)
    units = _along(trace, followed, summed, x)
    constant = _constant(x, followed, summed)
    _read(trace, units, reads, used & _alive(x, followed, summed), constant, followed.why)
    if bias is not None:
        _tie_bias(call, bias, data, trace, makes, made)
    return Product(
        makes, made, _varies(call, at, of, bias, followed), "" if bool((makes > 0).all()) else _ANOTHER_SHAPE
    )


def _embedding(call: Call, data: Mapping[int, Followed], trace: "Trace") -> Product:
    """Rows of a table: its columns are units."""
    makes, output = _slices(trace, call.leaves[0], 1), call.run()
    varies = torch.full(output.shape, bool(data), device=output.device)
    return Product(makes, output.dim() - 1, varies, "")


def _convolution(call: Call, followed: Followed, trace: "Trace") -> Product:
    x, weight, bias = call.leaves[:3]
    is_transposed, groups = _convolution_options(call)
    channels = x.dim() - (weight.dim() - 1)  # 1, or 0 of a single datum
    made, read = (1, 0) if is_transposed else (0, 1)
    makes, reads = _slices(trace, weight, made), _slices(trace, weight, read, last=not is_transposed)
    used = (weight != 0).transpose(0, read).flatten(1).any(1)
    units, alive = _along(trace, followed, channels, x), _alive(x, followed, channels)
    if groups == 1:
        is_even = not is_transposed and not any(call.args[4])  # the same at every pixel, without a border of zeros
        constant = _constant(x, followed, channels) if is_even else torch.full_like(alive, torch.nan, dtype=x.dtype)
        _read(trace, units, reads, used & alive, constant, followed.why)
    elif len(units) == groups and not is_transposed:
        _pass_each(trace, units, makes.reshape(groups, -1), followed.why)
    else:
        makes = _read_grouped(call, trace, units, (reads, makes), alive, groups, followed.why)
    if isinstance(bias, Tensor):
        _tie_bias(call, 2, {}, trace, makes, 0)
    varies = _varies(call, 0, 1, 2, followed)
    return Product(makes, channels, varies, "a convolution in groups makes them" if groups > 1 else "")


def _convolution_options(call: Call) -> tuple[bool, int]:
    return bool(call.args[6]), int(call.args[8])


def _pass_each(trace: "Trace", units: Tensor, makes: Tensor, why: str) -> None:
    """A depthwise convolution: a channel that is dead before is dead after, and goes with it."""
    for column in makes.T:
        trace.units.tie(units, column)
        trace.units.stick(column[units == 0], why)


def _read_grouped(
    call: Call, trace: "Trace", units: Tensor, slices: tuple[Tensor, Tensor], alive: Tensor, groups: int, why: str
) -> Tensor:
    reads, makes = slices
    name = trace.parameter_of(call.leaves[1])
    is_whole = name is not None and call.leaves[1].shape == trace.units.tensors[name].shape
    is_transposed = _convolution_options(call)[0]
    if name is None or not is_whole or is_transposed or bool((units == 0).any()):
        for held in (units, reads, makes):
            trace.units.stick(held, "a convolution in groups holds them" + (f": {why}" if why else ""))
        return makes.new_zeros(groups * len(makes)) if is_transposed else makes
    trace.units.stick(reads, "a convolution in groups reads them")  # of all groups at once: they are sliced by group
    used = (call.leaves[1] != 0).reshape(groups, -1, *call.leaves[1].shape[1:]).transpose(1, 2).flatten(2).any(2)
    trace.units.need(units[(used.flatten() & alive).cpu()])
    trace.units.add_grouped(GroupedConvolution(name, units.reshape(groups, -1).numpy()))
    trace.units.keep_equal(makes.reshape(groups, -1))
    return makes


def _slices(trace: "Trace", view: Tensor, dim: int, last: bool = False) -> Tensor:
    """The slices of a parameter that the indices of a dimension of a view of it are; 0 where they are several."""
    name = trace.parameter_of(view)
    assert name is not None
    dim %= view.dim()
    first = view
    for d in range(view.dim()):
        if d != dim:
            first = first.narrow(d, 0, 1)
    indices = [i.reshape(-1) for i in trace.indices(first, name)]
    shape = trace.units.tensors[name].shape
    moving = [d for d, i in enumerate(indices) if bool((i != i[0]).any())]
    alone = [d for d, size in enumerate(shape) if size == view.shape[dim] == 1]
    if len(moving) == 1 or not moving and alone:
        d = (moving or alone)[-1 if last else 0]
        return indices[d] + trace.units.first[name, d]
    trace.stick_parameter(name, _ANOTHER_SHAPE)
    return torch.zeros(view.shape[dim], dtype=torch.int64)


def _along(trace: "Trace", followed: Followed, dim: int, x: Tensor) -> Tensor:
    """The units along a dimension of the data; what has the same index there goes together."""
    dim %= x.dim()
    dims = varying_dims(followed.units)
    if dims and dim not in dims:
        trace.units.stick(followed.units, "a layer reads them along another dimension")
        return torch.zeros(x.shape[dim], dtype=torch.int64)
    if len(dims) > 1:
        trace.units.tie_across(followed.units, dim)
    return squeezed(followed.units, (dim,)).cpu()


def _alive(x: Tensor, followed: Followed, dim: int) -> Tensor:
    """Whether there is anything but zeros, along a dimension."""
    alive = (followed.varies | (x != 0)).transpose(0, dim % x.dim())
    return alive.flatten(1).any(1) if alive.dim() > 1 else alive


def _constant(x: Tensor, followed: Followed, dim: int) -> Tensor:
    """The number that is everywhere along a dimension, whatever the data are; nan where it is not one."""
    moved = x.transpose(0, dim % x.dim()).flatten(1) if x.dim() > 1 else x[:, None]
    varies = followed.varies.transpose(0, dim % x.dim()).reshape(len(moved), -1)
    is_one = ~varies.any(1) & (moved == moved[:, :1]).all(1)
    return torch.where(is_one, moved[:, 0], torch.nan)


def _read(trace: "Trace", units: Tensor, reads: Tensor, needs: Tensor, constant: Tensor, why: str) -> None:
    trace.units.tie(units, reads)
    shifts = needs & ~constant.isnan()
    trace.units.need(units[(needs & ~shifts).cpu()])
    if bool((reads > 0).all()):
        constants = zip(reads[shifts.cpu()].tolist(), constant[shifts].tolist(), strict=True)
        trace.units.read(reads, dict(constants))
    trace.units.stick(reads[units == 0], why)
    trace.units.stick(units[reads == 0], "its reader's weight is used in another shape than it has")


def _tie_bias(call: Call, at: int, data: Mapping[int, Followed], trace: "Trace", makes: Tensor, dim: int) -> None:
    bias = call.leaves[at]
    if trace.parameter_of(bias) and bias.dim() and bias.shape[dim] == len(makes):
        trace.units.tie(makes, _slices(trace, bias, dim))
    elif at in data:
        known = data[at]
        if set(varying_dims(known.units)) <= {dim % bias.dim()} and bool((known.units > 0).any()):
            trace.units.tie(makes, squeezed(known.units, (dim % bias.dim(),)).reshape(-1).expand(len(makes)))
        else:
            trace.units.stick(makes, "it is added to numbers that cannot go")


def _varies(call: Call, at: int, of: int, bias: int | None, followed: Followed) -> Tensor:
    """Which outputs depend on the data: those that some used weight gives some number that does."""
    if bool(followed.varies.all()) and bool((call.leaves[of] != 0).all()):
        return torch.ones(call.run().shape, dtype=torch.bool, device=followed.varies.device)
    # In single precision, which is faster and counts as well.
    replaced: dict[int, Any] = {at: followed.varies.float(), of: (call.leaves[of] != 0).float()}
    if bias is not None and isinstance(call.leaves[bias], Tensor):
        replaced[bias] = torch.zeros_like(call.leaves[bias], dtype=torch.float32)
    return call.again(replaced)[0] > 0.5
