"""What a plain network costs."""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from bbpyro.checks import in_eval_mode

_Convolution = nn.Conv1d | nn.Conv2d | nn.Conv3d


@dataclass(frozen=True)
class Size:
    """What a network costs.

    Attributes:
        parameters: how many numbers it has learnt.
        flops: of one datum, dense layers and convolutions with their activations, counted as in arXiv 1805.10896's
            tables: 2·in·out - out, and out each for the bias and for the activation; of a convolution for each pixel.
    """

    parameters: int
    flops: int


@torch.no_grad()
def measure(net: nn.Module, example_input: Tensor) -> Size:
    """Parameters, and FLOPs a datum, of a plain network's dense layers and convolutions.

    Args:
        net: the network.
        example_input: inputs `[N, ...]`, to see how often each layer is used.
    """
    flops = 0

    def count(layer: Any, args: Any, output: Tensor) -> None:
        nonlocal flops
        of_one = layer.weight[0].numel()  # the numbers that one output is made of
        num_outputs = output.numel() // len(example_input)
        # 2·in·out - out of the products and their sum, out of the activation, and out of the bias
        flops += num_outputs * (2 * of_one + (layer.bias is not None))

    counted = nn.Linear | _Convolution
    handles = [module.register_forward_hook(count) for module in net.modules() if isinstance(module, counted)]
    try:
        with in_eval_mode(net):
            net(example_input)
    finally:
        for handle in handles:
            handle.remove()
    return Size(sum(parameter.numel() for parameter in net.parameters()), flops)
