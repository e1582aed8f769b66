"""A dense layer that reads only some of its inputs, where those it does not need are there all the same."""

from collections import OrderedDict

import torch
from torch import Tensor, nn


class SelectUnits(nn.Module):
    """Passes on only some units of the last dimension: the first layer of a network that reads not all of its input.

    Args:
        indices: which, int64 `[K]`.

    Shapes: input `[N, ..., L]`, output `[N, ..., K]`.
    """

    indices: Tensor

    def __init__(self, indices: Tensor) -> None:
        super().__init__()
        self.register_buffer("indices", indices)

    def forward(self, x: Tensor) -> Tensor:
        """The units `indices` of x."""
        return x.index_select(-1, self.indices)

    def extra_repr(self) -> str:
        """What print(net) shows."""
        return f"{len(self.indices)} units"


def select_inputs(net: nn.Module, name: str, round_to: int = 1) -> nn.Module:
    """The network with dense layer `name` without its dead inputs, and a selection of the others in front of it.

    A multiple of `round_to` inputs stays, where there are as many. The rest is as :func:`read_only` says.
    """
    linear = net.get_submodule(name)
    if not isinstance(linear, nn.Linear):
        return net
    dead = (linear.weight == 0).all(0)
    num_kept = -(-max(1, int((~dead).sum())) // round_to) * round_to
    if num_kept >= len(dead):
        return net
    kept = dead.to(torch.int8).argsort(stable=True)[:num_kept].sort().values
    return read_only(net, linear, kept)


def read_only(net: nn.Module, linear: nn.Linear, kept: Tensor) -> nn.Module:
    """The network with only some inputs of a dense layer, and the selection of these in front of it.

    Under every name that the layer has; the network itself is returned, unless it is the layer.
    """
    selected = nn.Sequential(OrderedDict(select=SelectUnits(kept), linear=_reading(linear, kept)))
    if linear is net:
        return selected
    for module in list(net.modules()):
        for child, other in module._modules.items():
            if other is linear:
                module._modules[child] = selected
    return net


def _reading(linear: nn.Linear, kept: Tensor) -> nn.Linear:
    """The layer with some of its inputs."""
    weight, bias = linear.weight, linear.bias
    small = nn.Linear(len(kept), linear.out_features, bias is not None, device="meta", dtype=weight.dtype)
    small.weight = nn.Parameter(weight.detach().index_select(1, kept), weight.requires_grad)
    if bias is not None:
        small.bias = bias
    return small
