"""A compacted network taken apart into tensors and JSON, and put together again from its class built anew."""

import copy
import json
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase
from torch.nn.parameter import is_lazy

from bbpyro.checkpoint import CheckpointError, check_state_dict
from bbpyro.compaction.errors import UnsupportedModuleError
from bbpyro.compaction.folding import plainly_parametrized
from bbpyro.compaction.report import Compaction, GateReport, every_tensor
from bbpyro.compaction.selection import SelectUnits, read_only
from bbpyro.structure import say_sizes


def take_apart(small: nn.Module) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """The tensors of a compacted network, each once, and what JSON can hold of the rest.

    Raises:
        UnsupportedModuleError: a module has an extra state that JSON does not hold.
    """
    every = every_tensor(small)
    first: dict[int, str] = {}
    for name, tensor in every.items():
        first.setdefault(id(tensor), name)
    shared = {name: first[id(tensor)] for name, tensor in every.items() if first[id(tensor)] != name}
    report: Any = small.compaction
    return {name: tensor for name, tensor in every.items() if name not in shared}, {
        "compaction": {
            "gates": {name: asdict(gate) for name, gate in report.gates.items()},
            "kept": {n: {str(dim): kept.tolist() for dim, kept in dims.items()} for n, dims in report.kept.items()},
            "shapes": report.shapes,
        },
        "shared": shared,
        "selections": [name for name, module in small.named_modules() if _is_selection(module)],
        "num_features": {n: m.num_features for n, m in small.named_modules() if isinstance(m, _NormBase)},
        "extra_states": _extra_states(small),
    }


def _is_selection(module: nn.Module) -> bool:
    return isinstance(module, nn.Sequential) and len(module) == 2 and isinstance(module[0], SelectUnits)


def _extra_states(small: nn.Module) -> dict[str, Any]:
    """What modules keep beside tensors, as torch lets them."""
    modules = {n: m for n, m in small.named_modules() if type(m).get_extra_state is not nn.Module.get_extra_state}
    states = {name: module.get_extra_state() for name, module in modules.items()}
    for name, state in states.items():
        try:
            is_held = json.loads(json.dumps(state)) == state
        except (TypeError, ValueError):
            is_held = False
        if not is_held:
            raise UnsupportedModuleError(f"{name or 'the network'}: JSON does not hold its extra state, so no file can")
    return states


def read_compaction(described: Mapping[str, Any]) -> Compaction:
    """What compact() did, from the JSON of :func:`take_apart`."""
    found = described["compaction"]
    return Compaction(
        {name: GateReport(**gate) for name, gate in found["gates"].items()},
        {
            name: {int(dim): torch.tensor(kept, dtype=torch.int64) for dim, kept in dims.items()}
            for name, dims in found["kept"].items()
        },
        {name: tuple(shape) for name, shape in found["shapes"].items()},
    )


@torch.no_grad()
def rebuild(net: nn.Module, tensors: Mapping[str, Tensor], described: Mapping[str, Any], source: str) -> nn.Module:
    """The compacted network that was taken apart, as a copy of its class built anew, on that one's device.

    Args:
        net: the network as it was before it was compacted, with any numbers, on the device meta perhaps.
        tensors: of the compacted one.
        described: the JSON that goes with them.
        source: what the tensors are of, for errors.

    Raises:
        CheckpointError: the net has other parameters or buffers than the original had, or of other shapes.
    """
    shapes = read_compaction(described).shapes
    net = copy.deepcopy(net)
    plainly_parametrized(net)
    for name, tensor in every_tensor(net).items():
        if is_lazy(tensor) and name in shapes:
            tensor.materialize(shapes[name])
    original = {name: torch.empty(shape, device="meta") for name, shape in shapes.items()}
    check_state_dict(f"the network that {source} was compacted from", original, every_tensor(net))
    for name in described["selections"]:
        linear: Any = net.get_submodule(name)
        net = read_only(net, linear, tensors[f"{name}.select.indices".lstrip(".")].to(linear.weight.device))
    shared = described["shared"]
    placed = {name: _like(net, name, tensor) for name, tensor in tensors.items() if name not in shared}
    placed |= {name: placed[first] for name, first in shared.items()}
    for name, tensor in placed.items():
        owner, _, own_name = name.rpartition(".")
        setattr(net.get_submodule(owner), own_name, tensor)
    for name, state in described["extra_states"].items():
        net.get_submodule(name).set_extra_state(state)
    for module in net.modules():
        say_sizes(module)
    for name, count in described["num_features"].items():  # of norms that may hold nothing
        norm: Any = net.get_submodule(name)
        norm.num_features = count
    check_state_dict(source, placed, every_tensor(net))
    for name, tensor in every_tensor(net).items():
        if tensor is not placed[name]:
            raise CheckpointError(f"{source}: {name!r} is two tensors there and one in this network; it is of another")
    return net


def _like(net: nn.Module, name: str, tensor: Tensor) -> Tensor:
    """A tensor as the parameter or buffer that it replaces, or as the weight of its layer where it is a new bias."""
    owner, _, own_name = name.rpartition(".")
    layer: Any = net.get_submodule(owner)
    before = {**layer._parameters, **layer._buffers}[own_name]
    like = layer.weight if before is None else before
    tensor = tensor if like.is_meta else tensor.to(like.device)
    return nn.Parameter(tensor, like.requires_grad) if own_name in layer._parameters else tensor
