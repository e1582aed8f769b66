"""A copy of a network without some slices of its parameters."""

import copy
from collections import Counter
from collections.abc import Callable
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.conv import _ConvNd, _ConvTransposeNd
from torch.nn.modules.instancenorm import _InstanceNorm

from bbpyro.structure.units import Array, Removal

Net = TypeVar("Net", bound=nn.Module)


def named_tensors(net: nn.Module) -> dict[str, Tensor]:
    """The parameters and buffers of real numbers, each once."""
    tensors = {**dict(net.named_parameters()), **dict(net.named_buffers())}
    return {name: tensor.detach() for name, tensor in tensors.items() if _is_sliced(tensor)}


def _is_sliced(tensor: Tensor) -> bool:
    return tensor.is_floating_point() and tensor.layout is torch.strided


def own_storages(net: nn.Module) -> None:
    """Give each parameter and buffer that is a part of a larger tensor a storage that is its alone, in place."""
    for tensor in (*net.parameters(), *net.buffers()):
        if _is_sliced(tensor) and not _is_alone(tensor):
            tensor.data = tensor.data.clone(memory_format=torch.contiguous_format)


def _is_alone(tensor: Tensor) -> bool:
    is_whole = tensor.untyped_storage().nbytes() == tensor.numel() * tensor.element_size()
    return is_whole and all(size < 2 or stride for size, stride in zip(tensor.shape, tensor.stride(), strict=True))


def weights_with_bias(net: nn.Module) -> set[str]:
    """The weights of dense layers and convolutions of torch's own, whose forward adds a bias where there is one."""
    uses: Counter[int] = Counter(id(p) for module in net.modules() for p in module.parameters(recurse=False))
    return {
        f"{name}.weight".lstrip(".")
        for name, module in net.named_modules()
        if type(module) in _BIASED and uses[id(module.weight)] == 1
    }


def without(net: Net, removal: Removal) -> Net:
    """A copy of a network with only the slices that stay; tensors that are shared stay so, and all are copied.

    Args:
        net: the network.
        removal: what is to go.
    """
    memo: dict[int, Any] = {}
    owned = {**dict(net.named_parameters()), **dict(net.named_buffers())}
    for name in removal.kept.keys() | removal.grouped.keys():
        tensor = owned[name]
        smaller = sliced(tensor.detach(), name, removal)
        memo[id(tensor)] = nn.Parameter(smaller, tensor.requires_grad) if isinstance(tensor, nn.Parameter) else smaller
    small = copy.deepcopy(net, memo)
    for module in small.modules():
        say_sizes(module)
    for name, (columns, constants) in removal.shifts.items():
        _add_to_bias(
            small.get_submodule(name.rpartition(".")[0]), owned[name].detach(), columns, constants, removal, name
        )
    return small


def _add_to_bias(
    layer: Any, weight: Tensor, columns: Array, constants: np.ndarray, removal: Removal, name: str
) -> None:
    """What the columns of a weight make of the constants that they read."""
    read = weight[:, torch.from_numpy(columns).to(weight.device)]
    shift = read.reshape(*read.shape[:2], -1).sum(2) @ torch.from_numpy(constants).to(weight)
    if 0 in removal.kept.get(name, {}):
        shift = shift[torch.from_numpy(removal.kept[name][0]).to(weight.device)]
    bias = shift if layer.bias is None else layer.bias.detach() + shift
    layer.bias = nn.Parameter(bias, (layer.weight if layer.bias is None else layer.bias).requires_grad)


def sliced(tensor: Tensor, name: str, removal: Removal) -> Tensor:
    """What stays of the parameter or buffer of this name, of which `tensor` has the shape."""
    kept = {dim: torch.from_numpy(indices).to(tensor.device) for dim, indices in removal.kept.get(name, {}).items()}
    if name in removal.grouped:
        reads = torch.from_numpy(removal.grouped[name]).to(tensor.device)
        parts = tensor.chunk(len(reads))
        tensor = torch.cat([part.index_select(1, read) for part, read in zip(parts, reads, strict=True)])
    for dim, indices in kept.items():
        tensor = tensor.index_select(dim, indices)
    return tensor


def say_sizes(module: Any) -> None:
    """Have a layer's attributes say the sizes that its parameters have."""
    for kind, say in _SIZES:
        if isinstance(module, kind):
            say(module)


def _linear(layer: Any) -> None:
    layer.out_features, layer.in_features = layer.weight.shape


def _convolution(layer: Any) -> None:
    is_transposed = isinstance(layer, _ConvTransposeNd)
    outputs, inputs = layer.weight.shape[:2][:: -1 if is_transposed else 1]
    if layer.groups > 1 and layer.groups == layer.in_channels and not is_transposed:  # depthwise
        layer.groups = outputs * layer.groups // layer.out_channels
    layer.in_channels = inputs * (1 if is_transposed else layer.groups)
    layer.out_channels = outputs * (layer.groups if is_transposed else 1)


def _norm(layer: Any) -> None:
    numbers = next((t for t in (layer.weight, layer.running_mean) if t is not None), None)
    layer.num_features = layer.num_features if numbers is None else len(numbers)


def _group_norm(layer: Any) -> None:
    if layer.weight is not None:
        is_of_each = layer.num_groups == layer.num_channels
        layer.num_channels = len(layer.weight)
        layer.num_groups = layer.num_channels if is_of_each else layer.num_groups


def _embedding(layer: Any) -> None:
    layer.embedding_dim = layer.weight.shape[1]


def _prelu(layer: Any) -> None:
    layer.num_parameters = len(layer.weight)


_BIASED = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d)
_SIZES: list[tuple[Any, Callable[[Any], None]]] = [
    (nn.Linear, _linear),
    (_ConvNd, _convolution),
    (_BatchNorm | _InstanceNorm, _norm),
    (nn.GroupNorm, _group_norm),
    (nn.Embedding, _embedding),
    (nn.PReLU, _prelu),
]
