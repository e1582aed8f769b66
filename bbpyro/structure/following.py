"""Which units of a network can go, found by one run of it."""

import warnings
from collections.abc import Callable

import numpy as np
import torch
from torch import nn

from bbpyro.nests import FAILURES, Nest, call, num_rows, rows, tensors_of
from bbpyro.structure.surgery import named_tensors, own_storages, weights_with_bias
from bbpyro.structure.tracing import Trace
from bbpyro.structure.units import Array, Units

_NUM_FOLLOWED = 2  # data by which units are followed
_MOST_FOLLOWED = 64  # where those two are not given to every layer, as to the experts of a mixture


def follow_units(net: nn.Module, inputs: Nest) -> Units:
    """What is tied, needed and held in a network, in evaluation mode, as it is run once.

    Those of its parameters and buffers that lie in the memory of others are given one of their own.

    Args:
        net: the network, plain or with gates whose z is fixed.
        inputs: of a few data.
    """
    own_storages(net)
    units = Units(named_tensors(net), weights_with_bias(net))
    fast_path = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)  # it hides what attention is made of
    try:
        with torch.no_grad(), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of operations that are tried on numbers like nan
            trace = Trace(units)
            trace.follow_inputs(inputs)
            with trace:
                output = call(net, inputs)
            trace.end(list(tensors_of(output)))
    finally:
        torch.backends.mha.set_fastpath_enabled(fast_path)
    units.is_partial = units.is_partial or bool(units.unread)
    return units


def follow_few(net: nn.Module, example: Nest) -> Units:
    """The units, by as few data as will do; by all of them where the network takes no fewer, as of a graph's nodes."""
    try:
        units = follow_units(net, rows(example, slice(_NUM_FOLLOWED)))
        if not units.is_partial or num_rows(example) <= _NUM_FOLLOWED:
            return units
        return follow_units(net, rows(example, slice(_MOST_FOLLOWED)))
    except FAILURES:
        return follow_units(net, example)


def largest_removal(units: Units, works: Callable[[Array], bool]) -> tuple[Array, list[str]]:
    """Which groups can go without the network computing something else, and the layers whose units cannot.

    All of them at best; if not, the layers are found by halves whose units the network cannot do without, as where
    its forward has their number in it.

    Args:
        units: what is known.
        works: whether the network without these groups computes the same, `[groups]`.
    """
    groups = units.groups()
    removable = units.removable(groups)
    allowed = np.zeros_like(removable)
    at_fault: list[str] = []

    def add(layers: list[tuple[str, Array]]) -> None:
        nonlocal allowed
        tried = allowed.copy()
        for _, mine in layers:
            tried[mine] = True
        if works(tried):
            allowed = tried
        elif len(layers) == 1:
            at_fault.append(layers[0][0])
        else:
            add(layers[: len(layers) // 2])
            add(layers[len(layers) // 2 :])

    layers = _by_layer(units, groups, removable)
    if layers:
        add(layers)
    return allowed, at_fault


def _by_layer(units: Units, groups: Array, removable: Array) -> list[tuple[str, Array]]:
    """The groups that can go, by the first layer that makes them."""
    taken = np.zeros_like(removable)
    found = []
    for (name, dim), _ in units.first.items():
        mine = np.unique(groups[units.slices(name, dim)])
        mine = mine[removable[mine] & ~taken[mine]]
        taken[mine] = True
        if len(mine):
            found.append((name, mine))
    return found
