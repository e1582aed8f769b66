"""What may be wrong with a tensor: that it is none, or not a dense one of finite numbers of a type that fits."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from bbpyro import nests
from bbpyro.nests import Nest

CASTS = {torch.float32: "float", torch.float64: "double", torch.float16: "half", torch.bfloat16: "bfloat16"}


def check_nest(name: str, x: Any) -> None:
    """Raise a TypeError or ValueError unless `x` is a tensor, or a nest of tensors of as many data, at least one."""
    _check_parts(name, x)
    tensors = [(place, leaf) for place, leaf in nests.leaves(x, name) if leaf is not None]
    if not tensors:
        raise TypeError(f"{name} is a {type(x).__name__} that holds no tensor, wanted at least one")
    first, tensor = tensors[0]
    for place, other in tensors:
        if len(other) != len(tensor):
            raise ValueError(
                f"{place} has {len(other)} data where {first} has {len(tensor)}; wanted a row for each datum in both"
            )
    check_some(first, tensor)


def _check_parts(name: str, x: Any) -> None:
    leaves = [leaf for _, leaf in nests.leaves(x)]
    is_of_numbers = isinstance(x, tuple | list) and all(isinstance(leaf, int | float | complex) for leaf in leaves)
    if not nests.is_nest(x) or (leaves and is_of_numbers):
        check_tensor(name, x)
    for place, part in nests.parts(x, name):
        if part is not None:
            _check_parts(place, part)


def check_some(name: str, x: Tensor) -> None:
    """Raise a TypeError or ValueError unless x is a tensor of at least one datum."""
    check_tensor(name, x)
    if len(x) == 0:
        raise ValueError(f"{name} has shape {tuple(x.shape)}, wanted at least one datum, [N, ...]")


def check_tensor(name: str, value: Any) -> None:
    """Raise a TypeError or ValueError unless `value` is a dense tensor of finite numbers with a first dimension."""
    if value is None:
        raise TypeError(f"{name} is None, wanted a tensor")
    if not isinstance(value, Tensor):
        raise TypeError(f"{name} is a {type(value).__name__}, wanted a tensor; {_tensor_from(name, value)}")
    if value.is_nested or value.layout != torch.strided:
        kind = "nested" if value.is_nested else str(value.layout).removeprefix("torch.")
        remedy = f"{name}.to_padded_tensor(0.0)" if value.is_nested else f"{name}.to_dense()"
        raise ValueError(f"{name} is a {kind} tensor, wanted a dense one; {remedy} makes one")
    if value.is_quantized:
        raise ValueError(f"{name} is quantized, wanted plain numbers; {name}.dequantize() makes them")
    if value.dim() == 0:
        raise ValueError(f"{name} is a single number, wanted a row for each datum, [N, ...]")
    if value.is_complex():
        raise ValueError(f"{name} is complex, wanted real numbers; torch.view_as_real({name}) makes two of each")
    if value.is_floating_point() and not value.is_meta and not bool(value.isfinite().all()):
        raise ValueError(f"{name}: it holds nan or inf; remove or replace those data")


def _tensor_from(name: str, value: Any) -> str:
    """How to make the tensor that was wanted, of what came."""
    module = type(value).__module__.partition(".")[0]
    if isinstance(value, torch.utils.data.DataLoader | torch.utils.data.Dataset):
        dataset = f"{name}.dataset" if isinstance(value, torch.utils.data.DataLoader) else name
        return f"pass the tensors themselves, as in x, y = {dataset}.tensors or torch.stack of its data"
    if any(True for _ in nests.tensors_of(value)):
        return "torch.stack or torch.cat makes one of several"
    if isinstance(value, bool | int | float | str):
        return "what forward goes by beside the data is for the network itself to hold"
    if module == "pandas":
        return f"torch.as_tensor({name}.to_numpy(copy=True)) makes one, and .float() of it what a network takes"
    return f"torch.as_tensor makes one: torch.as_tensor({name})"


def of_wrong_dtype(name: str, x: Tensor, wanted: torch.dtype) -> str:
    """That x is of another type than a network takes, and the casts that mend it."""
    if not wanted.is_floating_point:
        return f"{describe(name, x)}, which the network cannot take: it wants whole numbers; give {name}.long()"
    net = f", or make the network {x.dtype} by net.{CASTS[x.dtype]}()" if x.dtype in CASTS else ""
    return (
        f"{describe(name, x)}, which the network cannot take: its own numbers are {wanted}; give "
        f"{name}.{CASTS.get(wanted, 'float')}(){net}"
    )


def describe(name: str, x: Nest) -> str:
    """What x is like, in words."""
    return ", ".join(
        f"{place} has shape [{', '.join(['N', *map(str, leaf.shape[1:])])}] and dtype {leaf.dtype}"
        for place, leaf in nests.leaves(x, name)
        if leaf is not None
    )


def sample(data: Nest, n: int) -> Nest:
    """The first n data, the last of them first, over again where there are fewer."""
    return nests.rows(data, torch.arange(n - 1, -1, -1, device="cpu") % nests.num_rows(data))


def runs(function: Callable[[Any], Any], argument: Any) -> bool:
    """Whether a function of the user's takes an argument."""
    try:
        function(argument)
    except Exception:  # whatever a network of the user's raises
        return False
    return True
