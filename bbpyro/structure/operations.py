"""What an operation does with units, found by trying it on other numbers: no list of operations is complete."""

import itertools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils import _pytree as pytree

_FILLS = (torch.nan, 30.0)  # what a number is replaced by, to see where it goes: few operations hide both


class Call:
    """One call of an operation, to be made again with other numbers.

    Args:
        operation: as the dispatcher has it.
        args: of the call.
        kwargs: of the call.
    """

    def __init__(self, operation: Any, args: Sequence[Any], kwargs: Mapping[str, Any]) -> None:
        self.operation, self.args = operation, args
        self.leaves, self._spec = pytree.tree_flatten((tuple(args), dict(kwargs)))
        self._written = _written_leaves(operation, args, kwargs, self.leaves)
        self.saved = [leaf.clone() if i in self._written else leaf for i, leaf in enumerate(self.leaves)]

    @property
    def name(self) -> str:
        """The operation's, as a reader knows it."""
        return str(self.operation).removeprefix("aten.").split(".")[0].strip("_")

    @property
    def writes(self) -> bool:
        """Whether it writes into one of its arguments."""
        return bool(self._written)

    def run(self) -> Any:
        """The call itself."""
        args, kwargs = pytree.tree_unflatten(self.leaves, self._spec)
        return self.operation(*args, **kwargs)

    def again(self, replaced: Mapping[int, Any]) -> list[Any]:
        """What it gives with other arguments, by their place among the leaves; a list of its outputs."""
        leaves = [replaced.get(i, leaf.clone() if i in self._written else leaf) for i, leaf in enumerate(self.saved)]
        args, kwargs = pytree.tree_unflatten(leaves, self._spec)
        return outputs_of(self.operation(*args, **kwargs))

    def key(self) -> tuple[Any, ...]:
        """What is alike in calls that do alike: the operation and its arguments but for the tensors."""
        others = tuple("T" if isinstance(leaf, Tensor) else repr(leaf) for leaf in self.leaves)
        return (self.operation, others)


def outputs_of(result: Any) -> list[Any]:
    """The outputs of an operation as a list."""
    return list(result) if isinstance(result, tuple | list) else [result]


def _written_leaves(operation: Any, args: Sequence[Any], kwargs: Mapping[str, Any], leaves: Sequence[Any]) -> set[int]:
    written = [
        args[i] if i < len(args) else kwargs.get(argument.name)
        for i, argument in enumerate(operation._schema.arguments)
        if argument.alias_info is not None and argument.alias_info.is_write
    ]
    return {i for i, leaf in enumerate(leaves) if isinstance(leaf, Tensor) and any(leaf is w for w in written)}


_RESHAPES = (torch.ops.aten._unsafe_view.default, torch.ops.aten._reshape_alias.default)


def is_view(operation: Any) -> bool:
    """Whether it looks at the same numbers in another way, and writes nothing."""
    aliases = any(result.alias_info is not None for result in operation._schema.returns)
    return operation in _RESHAPES or aliases and not operation._schema.is_mutable


def varying_dims(units: Tensor) -> tuple[int, ...]:
    """The dimensions along which numbers belong to different units."""
    found = []
    for d in range(units.dim()):
        if units.shape[d] > 1:
            first = units.narrow(d, 0, 1)
            if bool((units != first).any()):
                found.append(d)
            else:
                units = first  # so that less is left to compare
    return tuple(found)


def spread(vector: Tensor, dims: Sequence[int], shape: Sequence[int]) -> Tensor:
    """A tensor of the dimensions `dims` as one of `shape`, the same along the others."""
    wide = [1] * len(shape)
    for size, dim in zip(vector.shape, dims, strict=True):
        wide[dim] = size
    return vector.reshape(wide).expand(tuple(shape))


def squeezed(tensor: Tensor, dims: Sequence[int]) -> Tensor:
    """A tensor that is the same along all other dimensions, of the dimensions `dims` alone."""
    for d in reversed(range(tensor.dim())):
        if d not in dims:
            tensor = tensor.select(d, 0)
    return tensor


def where_units_go(
    call: Call, base: list[Any], at: int, dims: tuple[int, ...], tried: dict[Any, tuple[int, ...] | None]
) -> list[tuple[int, ...] | None]:
    """The dimensions of each output along which it keeps the units of an argument apart; None where it mixes them.

    None at all, (), where the output does not hang on them.

    Args:
        call: the call.
        base: its outputs.
        at: the argument, by its place among the leaves.
        dims: of the argument, along which its units are.
        tried: what was found before.
    """
    found: list[tuple[int, ...] | None] = []
    for i, output in enumerate(base):
        if not has_numbers(output):
            found.append(None)
            continue
        key = (*call.key(), at, i, call.saved[at].dim(), output.dim(), dims, _alike(call.saved[at], output))
        if key not in tried:
            tried[key] = _try_dims(call, base, at, dims, i)
        places = tried[key]
        sizes = [call.saved[at].shape[d] for d in dims]
        if places and [output.shape[d] for d in places] != sizes:
            places = _try_dims(call, base, at, dims, i)
        found.append(places)
    return found


def _alike(one: Tensor, other: Tensor) -> tuple[tuple[int, int], ...]:
    return tuple((i, j) for i, a in enumerate(one.shape) for j, b in enumerate(other.shape) if a == b)


def has_numbers(output: Any) -> bool:
    """Whether an output has real numbers or truths to follow units by."""
    return (
        isinstance(output, Tensor) and output.numel() > 0 and (output.is_floating_point() or output.dtype == torch.bool)
    )


def _try_dims(call: Call, base: list[Any], at: int, dims: tuple[int, ...], i: int) -> tuple[int, ...] | None:
    argument, output = call.saved[at], base[i]
    sizes = [argument.shape[d] for d in dims]
    changes = [(mask, _changed(call, base, at, spread(mask, dims, argument.shape), i)) for mask in _masks(sizes)]
    possible = _placements(sizes, output.shape, output.dim() - argument.dim(), dims)
    usual = tuple(d + output.dim() - argument.dim() for d in dims)
    if usual not in possible and not any(bool(changed.any()) for _, changed in changes):
        return ()
    for places in possible:
        if all(not bool((changed & ~spread(mask, places, output.shape)).any()) for mask, changed in changes):
            return places
    return None


def _masks(sizes: list[int]) -> list[Tensor]:
    """A random half and the other half."""
    count = torch.Size(sizes).numel()
    order = torch.randperm(count, generator=torch.Generator().manual_seed(count))
    mask = torch.zeros(count, dtype=torch.bool)
    mask[order[: count // 2]] = True
    return [mask.reshape(sizes), ~mask.reshape(sizes)]


def _placements(sizes: list[int], shape: Sequence[int], shift: int, dims: tuple[int, ...]) -> list[tuple[int, ...]]:
    """Where the dimensions may be in an output, those of an elementwise operation first."""
    usual = tuple(d + shift for d in dims)
    options = [[j for j, size in enumerate(shape) if size == wanted] for wanted in sizes]
    possible = [places for places in itertools.product(*options) if len(set(places)) == len(places)]
    return sorted(possible, key=lambda places: (places != usual, places != dims))


def _changed(call: Call, base: list[Any], at: int, mask: Tensor, i: int) -> Tensor:
    """Where output i is another one when the argument is, at the mask."""
    changed = torch.zeros(base[i].shape, dtype=torch.bool)
    for fill in _FILLS:
        found = again_alike(call, {at: filled(call.saved[at], mask, fill)}, base)
        changed |= True if found is None else differs(found[i], base[i]).cpu()
    return changed


def filled(tensor: Tensor, mask: Tensor, fill: float) -> Tensor:
    """A copy with another number at the mask; of truths, whether that is above 0."""
    fill = fill > 0 if tensor.dtype == torch.bool else fill
    return torch.where(mask.to(tensor.device), torch.as_tensor(fill, dtype=tensor.dtype, device=tensor.device), tensor)


def differs(one: Tensor, other: Tensor) -> Tensor:
    """Where two tensors are not the same; nan is as nan."""
    found = one != other
    return found & ~(one.isnan() & other.isnan()) if one.is_floating_point() else found


def moved(call: Call, base: list[Any], labels: Mapping[int, Tensor]) -> list[Tensor] | None:
    """The labels of the outputs of an operation that only moves numbers; None where it does more.

    Args:
        call: the call.
        base: its outputs.
        labels: for each argument of interest, a whole number for each of its numbers; 0 is what others get.
    """
    if not all(isinstance(o, Tensor) and o.is_floating_point() for o in base):
        return None
    names, start = {}, 1
    for at, label in labels.items():
        names[at] = torch.arange(start, start + label.numel(), dtype=torch.float64).reshape(label.shape)
        start += label.numel()
    scramble = torch.cat([torch.zeros(1), torch.rand(start - 1, generator=torch.Generator().manual_seed(0))]).double()

    def run(of: Callable[[Tensor], Tensor]) -> list[Tensor]:
        return [o.double() for o in call.again({at: of(ids).to(call.saved[at]) for at, ids in names.items()})]

    try:
        found = run(lambda ids: ids)
        again = run(lambda ids: scramble[ids.long()])
    except RuntimeError:
        return None
    every = torch.cat([torch.zeros(1, dtype=torch.int64), *(label.reshape(-1).cpu() for label in labels.values())])
    dtype = next(call.saved[at].dtype for at in labels)
    results = []
    for one, other in zip(found, again, strict=True):
        ids = one.cpu().long()
        if bool((ids != one.cpu()).any()) or bool(((ids < 0) | (ids >= start)).any()):
            return None
        if not torch.equal(scramble.to(dtype)[ids].double(), other.cpu()):
            return None
        results.append(every[ids].to(one.device))
    return results


def varying(call: Call, base: list[Any], varies: Mapping[int, Tensor]) -> list[Tensor]:
    """Which numbers of the outputs depend on those of the arguments that vary with the data.

    Args:
        call: the call.
        base: its outputs.
        varies: for each argument that comes of the data, a boolean for each of its numbers.
    """
    none = [torch.zeros(getattr(o, "shape", ()), dtype=torch.bool) for o in base]
    every = [torch.ones_like(n) for n in none]
    if not any(bool(mask.any()) for mask in varies.values()):
        return none
    if any(call.saved[at].dtype not in _REAL for at in varies):
        return every
    others = [leaf for i, leaf in enumerate(call.saved) if isinstance(leaf, Tensor) and i not in varies]
    if not others and all(bool(mask.all()) for mask in varies.values()):
        return every
    results = [_of_a_comparison(call, output, varies) for output in base]
    for fill in _OTHERS:
        replaced = {
            at: _other(call.saved[at], varies[at], fill and fill * (1 + k / 8), k) for k, at in enumerate(varies)
        }
        found = again_alike(call, replaced, base)
        if found is None:  # of another shape, as where the data choose what is taken
            return every
        for i, (one, other) in enumerate(zip(found, base, strict=True)):
            if isinstance(other, Tensor):
                results[i] = results[i] | differs(one, other).cpu()
    return results


_OTHERS = (30.0, -30.0, 3e4, -3e4, 0.0, None)  # of all sizes, as a network may clip its numbers; None: random ones


def _of_a_comparison(call: Call, output: Any, varies: Mapping[int, Tensor]) -> Tensor:
    """What varies of truths or whole numbers made of real ones: all, for no few numbers show what they hang on."""
    found = torch.zeros(getattr(output, "shape", ()), dtype=torch.bool)
    if isinstance(output, Tensor) and not output.is_floating_point():
        for at, mask in varies.items():
            if call.saved[at].is_floating_point():
                found = found | (mask.cpu() if _fits(mask, found) else mask.cpu().any())
    return found


def _fits(mask: Tensor, wide: Tensor) -> bool:
    """Whether a tensor is as wide as another one when it is broadcast."""
    shape = mask.shape
    return len(shape) <= wide.dim() and all(
        a in (1, b) for a, b in zip(shape, wide.shape[wide.dim() - len(shape) :], strict=True)
    )


def again_alike(call: Call, replaced: Mapping[int, Any], base: list[Any]) -> list[Any] | None:
    """What a call gives with other arguments; None where it fails, or its outputs are of other shapes."""
    try:
        found = call.again(replaced)
    except (RuntimeError, IndexError, ValueError):
        return None
    shapes = [[getattr(output, "shape", ()) for output in outputs] for outputs in (found, base)]
    return found if shapes[0] == shapes[1] else None


def _other(tensor: Tensor, mask: Tensor, fill: float | None, seed: int) -> Tensor:
    """The tensor with other numbers at the mask: all of `fill`, or random."""
    if fill is not None:
        return filled(tensor, mask, fill)
    noise = torch.randn(tensor.shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return torch.where(mask, (noise > 0 if tensor.dtype == torch.bool else noise).to(tensor), tensor)


_REAL = (torch.float64, torch.float32, torch.float16, torch.bfloat16, torch.bool)
