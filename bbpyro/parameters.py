"""Parameters as Pyro knows them: what its store holds of a network, and what the network uses, are one tensor."""

import weakref
from collections.abc import Mapping

import pyro
import torch
from pyro.nn import PyroModule
from torch import Tensor, nn
from torch.distributions import constraints, transform_to
from torch.distributions.transforms import Transform
from torch.utils.weak import WeakIdKeyDictionary

from bbpyro.layers import parameters_outside

_last_names: weakref.WeakKeyDictionary[nn.Module, tuple[str | None, str]] = weakref.WeakKeyDictionary()
_owners = WeakIdKeyDictionary()  # a tensor in Pyro's store -> weakly, the network that put it there


class _Itself(constraints.Constraint):
    """Any real number. Pyro marks the value that its store hands out; of these that is a view, not the parameter."""

    def check(self, value: Tensor) -> Tensor:
        return torch.ones_like(value, dtype=torch.bool)


class _View(Transform):
    domain = codomain = constraints.real
    bijective = True

    def _call(self, x: Tensor) -> Tensor:
        return x.view_as(x)

    def _inverse(self, y: Tensor) -> Tensor:
        return y.view_as(y)


transform_to.register(_Itself, lambda constraint: _View())


def register(network: nn.Module, name: str | None) -> None:
    """Tell Pyro of a network's parameters that are to be learnt, as `NAME.PARAMETER` each.

    What the user has put into the store under these names, by `set_state` or `load`, is copied into the network; from
    then on the store holds the network's own tensors. Where the store has another network's under them, and no name
    was given, the number 2 is appended to it, or the next that is free.

    Args:
        network: the one that owns them.
        name: NAME, or None for "bbpyro".

    Raises:
        ValueError: the store holds another network's parameters under `name`, or one of another shape.
    """
    parameters = parameters_outside(network, PyroModule)  # such a module (a likelihood, say) tells Pyro of its own
    held = dict(pyro.get_param_store().named_parameters())
    was_called, prefix = _last_names.get(network, (name, ""))
    known = was_called == name and all(
        held.get(f"{prefix}.{key}") is parameter for key, parameter in parameters.items()
    )
    if not known:
        prefix = _free_name(network, name, parameters, held)
        _last_names[network] = name, prefix
    own = {f"{prefix}.{key}": parameter for key, parameter in parameters.items()}
    for full_name, parameter in own.items():
        stored = held.get(full_name)
        if stored is parameter:
            continue
        if stored is not None:
            if stored not in _owners:
                _copy(full_name, stored, parameter)
            del pyro.get_param_store()[full_name]
        pyro.get_param_store().set_state(
            {
                "params": {full_name: parameter},
                "constraints": {full_name: _Itself()},
            }  # of setdefault it would be a copy
        )
        _owners[parameter] = weakref.ref(network)
    for full_name in own:
        pyro.param(full_name)  # which is how SVI learns of it


def forget(network: nn.Module) -> None:
    """Take a network's parameters out of Pyro's store."""
    store = pyro.get_param_store()
    for full_name, stored in list(store.named_parameters()):
        if _is_of(network, stored):
            del store[full_name]


def are_registered(network: nn.Module) -> bool:
    """Whether Pyro's store has parameters of this network."""
    return any(_is_of(network, stored) for stored in dict(pyro.get_param_store().named_parameters()).values())


def _is_of(network: nn.Module, stored: Tensor) -> bool:
    return stored in _owners and _owners[stored]() is network


def _free_name(
    network: nn.Module, name: str | None, parameters: Mapping[str, nn.Parameter], held: Mapping[str, Tensor]
) -> str:
    """The first under which the store holds no parameter of another network, that is not of this one too."""
    number = 1
    while True:
        prefix = name or f"bbpyro{number if number > 1 else ''}"
        found = ((held.get(f"{prefix}.{key}"), parameter) for key, parameter in parameters.items())
        others = [stored for stored, parameter in found if stored is not None and stored is not parameter]
        if all(stored not in _owners or _is_of(network, stored) for stored in others):
            return prefix
        if name is not None:
            raise ValueError(
                f"name: Pyro's parameter store holds another network's parameters under {name!r}; give each network a "
                "name of its own, or call pyro.clear_param_store() between them"
            )
        number += 1


@torch.no_grad()
def _copy(full_name: str, stored: Tensor, parameter: nn.Parameter) -> None:
    if stored.shape != parameter.shape:
        raise ValueError(
            f"Pyro's parameter store holds {full_name!r} of shape {tuple(stored.shape)}, and the network wants "
            f"{tuple(parameter.shape)}: it is another network's. Load the right one, or pyro.clear_param_store()"
        )
    parameter.copy_(stored)
