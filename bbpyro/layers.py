"""What is in a network that has gates."""

import contextlib
from collections.abc import Iterator

import torch
from pyro.nn import PyroModule
from torch import nn
from torch.nn.parameter import UninitializedParameter

from bbpyro.families import Gate


def gates_of(net: nn.Module) -> dict[str, Gate]:
    """The gates of a network by name, in its order."""
    return {name: module for name, module in _modules_of(net) if isinstance(module, Gate)}


def _modules_of(net: nn.Module) -> list[tuple[str, nn.Module]]:
    """What net.named_modules() gives, in a quarter of its time: each step of training asks five times."""
    found: dict[int, tuple[str, nn.Module]] = {}
    waiting: list[tuple[str, nn.Module | None]] = [("", net)]
    while waiting:
        name, module = waiting.pop()
        if module is not None and id(module) not in found:
            found[id(module)] = name, module
            prefix = f"{name}." if name else ""
            waiting += [(prefix + child, part) for child, part in reversed(module._modules.items())]
    return list(found.values())


@contextlib.contextmanager
def called_gates(net: nn.Module) -> Iterator[set[str]]:
    """For a while, the names of the gates that are called."""
    called: set[str] = set()
    handles = [
        gate.register_forward_pre_hook(lambda gate, args, name=name: called.add(name))
        for name, gate in gates_of(net).items()
    ]
    try:
        yield called
    finally:
        for handle in handles:
            handle.remove()


def weights_of(net: nn.Module) -> dict[str, nn.Parameter]:
    """Every parameter of a network that is no gate's and not frozen, by name."""
    return parameters_outside(net, Gate)


def parameters_outside(net: nn.Module, kind: type[nn.Module]) -> dict[str, nn.Parameter]:
    """Every parameter of a network that is of no module of this kind and not frozen, by name."""
    found: dict[int, tuple[str, nn.Parameter]] = {}  # by identity, for layers may share a weight
    for name, module in _modules_of(net):
        if module._parameters and not isinstance(module, kind):
            for full_name, p in module.named_parameters(name, recurse=False):
                found.setdefault(id(p), (full_name, p))
    return {name: p for name, p in found.values() if p.requires_grad}


def check_modules(net: nn.Module) -> None:
    """Raise a ValueError unless the network has gates, and no module that cannot be in a BetaBernoulliNetwork."""
    if not gates_of(net):
        raise ValueError("net: it has no BetaBernoulliDropout gate; make one with bbpyro.insert_dropout(net)")
    for name, module in net.named_modules():
        check_module(name, module)


def check_module(name: str, module: nn.Module) -> None:
    """Raise a ValueError where a module cannot be in a BetaBernoulliNetwork."""
    if isinstance(module, PyroModule):
        raise ValueError(
            f"net: its layer {name!r} is a PyroModule, which makes sites of its own of the weights, as bbpyro's model "
            f"does; make the network of torch's own layers, such as nn.{_torch_name(module)}, and give the prior of W "
            "as weight_prior"
        )
    if "/" in name:
        raise ValueError(
            f"net: a module is named {name!r}, and files of the posterior take no '/' in a name; rename it, to "
            f"{name.replace('/', '_')!r}, say"
        )
    if any(isinstance(parameter, UninitializedParameter) for parameter in module.parameters(recurse=False)):
        raise ValueError(f"net: its layer {name!r} is lazy and has no weights yet; call the network on some data first")


def _torch_name(module: nn.Module) -> str:
    kinds = [kind for kind in type(module).__mro__ if kind.__module__.startswith("torch.nn")]
    return kinds[0].__name__ if kinds else "Module"


def device_of(net: nn.Module) -> torch.device:
    """Where a network's parameters are."""
    return next(net.parameters()).device
