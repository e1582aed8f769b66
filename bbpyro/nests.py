"""Nests of tensors: the one or several inputs of a network, how it is called with them, and their rows.

x is a tensor, or a tuple, list, dict or dataclass of tensors and of such nests, all of them with the data in their
first dimension. None in a nest stays None, for an argument that is left out.
"""

import copy
import dataclasses
import inspect
from collections.abc import Callable, Iterator, Mapping, MutableMapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import keystr, tree_flatten_with_path, tree_leaves, tree_map

Nest = Any  # a tensor, or several in a tuple, list, dict or dataclass

# What a network may raise of inputs that it cannot take; of a bug in it, perhaps, but not of a full memory or disk.
FAILURES = (ArithmeticError, AssertionError, AttributeError, LookupError, RuntimeError, TypeError, ValueError)


def call(net: nn.Module, x: Nest) -> Any:
    """What a network makes of x, which are its :func:`arguments`."""
    args, kwargs = arguments(net, x)
    return net(*args, **kwargs)


def reason_of(error: Exception) -> str:
    """What one of these :data:`FAILURES` says, in a line; with its class where that says more than its words."""
    said = (str(error).splitlines() or [""])[0]
    if isinstance(error, LookupError | AttributeError) or not said:
        return f"{type(error).__name__}: {said}".removesuffix(": ")
    return said


def arguments(net: nn.Module, x: Nest) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """The arguments and keyword arguments that x is, by its :func:`stars`."""
    if isinstance(x, Tensor):
        return (x,), {}
    how = stars(net, x)
    x = map_tensors(lambda tensor: tensor, x)  # so that a forward may pop from a dict that is its own
    return (tuple(x), {}) if how == "*" else ((), dict(x)) if how == "**" else ((x,), {})


def stars(net: Any, x: Nest) -> str:
    """How a network is called with x: net(x) of a tensor, net(*x) of a tuple or list, net(**x) of a dict.

    Nests within x are handed on as they are, so (x,) hands on x itself. So does x where forward has a single parameter
    and x is not of one input, or not by that name: a forward(self, batch) gets its dict whole.
    """
    if getattr(net, "takes_nests", False) or not isinstance(x, tuple | list | Mapping):
        return ""
    try:
        parameters = list(inspect.signature(net.forward).parameters.values())
    except (TypeError, ValueError):  # a compiled one need not tell
        parameters = []
    is_named = isinstance(x, Mapping)
    if len(parameters) == 1 and parameters[0].kind in _POSITIONAL:
        fits = list(x) == [parameters[0].name] if is_named else len(x) == 1
        if not fits:
            return ""
    return "**" if is_named else "*"


_POSITIONAL = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)


def map_tensors(function: Callable[[Tensor], Any], nest: Nest) -> Nest:
    """The same nest with a function of each tensor in its place."""

    def at(leaf: Any) -> Any:
        if isinstance(leaf, Tensor):
            return function(leaf)
        if _is_dataclass(leaf):
            return dataclasses.replace(leaf, **{n: map_tensors(function, value) for n, value in _fields(leaf).items()})
        if isinstance(leaf, MutableMapping):  # one that torch does not know
            made = copy.copy(leaf)
            made.update({key: map_tensors(function, value) for key, value in leaf.items()})
            return made
        return leaf

    return tree_map(at, nest)


def leaves(nest: Nest, name: str = "x") -> Iterator[tuple[str, Any]]:
    """What a nest is made of in the end, each with its place in it, such as x[1] or x["mask"]."""
    if not is_nest(nest):
        yield name, nest
        return
    for place, part in parts(nest, name):
        yield from leaves(part, place)


def parts(nest: Nest, name: str = "x") -> Iterator[tuple[str, Any]]:
    """What is in a nest itself, each with its place; in a tensor, or in what is no nest, there is nothing."""
    if _is_dataclass(nest):
        yield from ((f"{name}.{field}", value) for field, value in _fields(nest).items())
    elif isinstance(nest, MutableMapping):
        yield from ((f"{name}[{_quoted(key)}]", value) for key, value in nest.items())
    elif is_nest(nest):
        for path, part in tree_flatten_with_path(nest, is_leaf=lambda part: part is not nest)[0]:
            yield name + keystr(path), part


def is_nest(value: Any) -> bool:
    """Whether it has parts, or could have: a list, say, but no tensor."""
    if isinstance(value, Tensor):
        return False
    found = tree_leaves(value, is_leaf=lambda part: part is not value)
    return _is_dataclass(value) or isinstance(value, MutableMapping) or len(found) != 1 or found[0] is not value


def _quoted(key: Any) -> str:
    return f'"{key}"' if isinstance(key, str) else repr(key)


def _is_dataclass(value: Any) -> bool:
    return dataclasses.is_dataclass(value) and not isinstance(value, type)


def _fields(value: Any) -> dict[str, Any]:
    return {field.name: getattr(value, field.name) for field in dataclasses.fields(value) if field.init}


def tensors_of(nest: Nest) -> Iterator[Tensor]:
    """The tensors in a nest, in its order."""
    return (leaf for _, leaf in leaves(nest) if isinstance(leaf, Tensor))


def first(x: Nest) -> Tensor:
    """The first tensor in a nest, which stands for the number of data and for where they are."""
    return x if isinstance(x, Tensor) else next(tensors_of(x))


def num_rows(x: Nest) -> int:
    """N, the number of data."""
    return len(first(x))


def rows(x: Nest, indices: Any) -> Nest:
    """Some of the data, as an index of the first dimension chooses."""
    return map_tensors(lambda tensor: tensor[indices], x)


def split(x: Nest, batch_size: int) -> list[Nest]:
    """The data in batches."""
    return [rows(x, slice(start, start + batch_size)) for start in range(0, num_rows(x), batch_size)]


def repeat(x: Nest, times: int) -> Nest:
    """The data several times over."""
    return map_tensors(lambda tensor: tensor.repeat(times, *[1] * (tensor.dim() - 1)), x)


def to_device(x: Nest, device: torch.device) -> Nest:
    """The data on a device."""
    return map_tensors(lambda tensor: tensor.to(device), x)
