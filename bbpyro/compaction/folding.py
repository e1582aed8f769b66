"""E[π] into the weights of the layers that the gates belong to."""

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd
from torch.nn.utils import parametrize

from bbpyro.compaction.errors import UnsupportedModuleError
from bbpyro.families import Gate
from bbpyro.insertion import is_norm, remove_dropout
from bbpyro.layers import gates_of


def gated_layers(net: nn.Module) -> dict[str, tuple[nn.Module, Gate]]:
    """The layers that :func:`bbpyro.insert_dropout` gave a gate, by name, each with its gate.

    Raises:
        UnsupportedModuleError: a gate is of no layer that E[π] can be folded into.
    """
    found: dict[str, tuple[nn.Module, Gate]] = {}
    for name, layer in net.named_modules():
        gate = dict(layer.named_children()).get("gate")  # of compiled ones too
        is_known = isinstance(layer, nn.Linear | _ConvNd) or is_norm(layer)
        if is_known and isinstance(gate, Gate):
            if layer.weight is None and layer.running_mean is None:
                raise UnsupportedModuleError(f"{name}: a batch norm that holds nothing has nothing to fold E[π] into")
            found[name] = (layer, gate)
    for name, gate in gates_of(net).items():
        if not any(gate is known for _, known in found.values()):
            raise UnsupportedModuleError(f"{name}: a gate that stands by itself has no layer to fold it into")
    return found


def fold(layer: Any, mask: Tensor | None) -> None:
    """Multiply a layer's weights by the mask of its gate, if it has one, and take the gate off, in place."""
    remove_dropout(layer)
    if mask is not None:
        multiply(layer, mask)


def multiply(layer: Any, mask: Tensor) -> None:
    """Multiply a layer's weights by a mask of the units of its gate, in place."""
    if isinstance(layer, nn.Linear):
        layer.weight = _times(layer.weight, mask)
        return
    if layer.weight is None:  # a batch norm without
        layer.affine, layer.weight = True, nn.Parameter(mask.to(layer.running_mean, copy=True))
        layer.bias = nn.Parameter(torch.zeros_like(layer.weight))
        return
    dims = layer.weight.dim()
    layer.weight = _times(layer.weight, mask.reshape(-1, *[1] * (dims - 1)))
    if layer.bias is not None:
        layer.bias = _times(layer.bias, mask)


def check_weights(net: nn.Module) -> None:
    """Raise an UnsupportedModuleError where a weight is no parameter, but made by a hook of torch's older kind."""
    for name, layer in net.named_modules():
        if isinstance(layer, nn.Linear | _ConvNd) and not parametrize.is_parametrized(layer):
            if "weight" not in layer._parameters:
                raise UnsupportedModuleError(
                    f"{name}: its weight is no parameter but computed anew at each call, by a hook such as "
                    "torch.nn.utils.weight_norm; take it off with torch.nn.utils.remove_weight_norm(layer)"
                )


def plainly_parametrized(net: nn.Module) -> None:
    """The network with what a parametrization such as weight_norm computes at each call as parameters, in place."""
    for module in net.modules():
        if parametrize.is_parametrized(module):
            computed = {name: getattr(module, name) for name in module.get_submodule("parametrizations")._modules}
            # remove_parametrizations would take them off the class, which the network of the user's has too.
            module.__class__ = type(module).__bases__[0]
            del module.parametrizations
            for name, tensor in computed.items():
                module.register_parameter(name, nn.Parameter(tensor.clone()))


def _times(tensor: Tensor, mask: Tensor) -> Tensor:
    """A parameter of this layer alone, for another layer may share the one that was there; or a buffer."""
    product = tensor * mask
    return nn.Parameter(product, tensor.requires_grad) if isinstance(tensor, nn.Parameter) else product
