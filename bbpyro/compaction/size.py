"""What a plain network costs: its parameters, and the multiply-accumulates of a datum."""

import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from math import prod
from typing import Any

import torch
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode, conv_flop_count

from bbpyro.checks import check_nest, in_eval_mode
from bbpyro.nests import Nest, call, num_rows

_aten = torch.ops.aten


@dataclass(frozen=True)
class Size:
    """What a network costs.

    Attributes:
        parameters: how many numbers it has learnt.
        macs: multiply-accumulates for one datum, as :class:`torch.utils.flop_counter.FlopCounterMode` counts them, by
            whom each is 2 FLOPs; biases and activations are left out.
        authors_flops: for one datum, as the code of arXiv 1805.10896's authors counts for its LeNets
            (OpenXAIProject/Variational_Dropouts, compute_flops_lenet.py): a multiply-accumulate of a convolution is 2,
            the first of each output 1, one of a dense layer is 1; biases add 1 for each channel or unit, rectifiers
            and max pooling 1 for each number that they put out.
    """

    parameters: int
    macs: int
    authors_flops: int

    @property
    def flops(self) -> int:
        """2 · macs; deprecated, since sources count FLOPs differently: take macs, or authors_flops."""
        warnings.warn(
            "Size.flops is deprecated, since sources count FLOPs differently: take macs, of which it is twice as many "
            "now, or authors_flops, as arXiv 1805.10896 counts",
            DeprecationWarning,
            stacklevel=2,
        )
        return 2 * self.macs


def measure(net: nn.Module, example_input: Nest) -> Size:
    """Parameters, and multiply-accumulates for one datum, of a plain network.

    All products of matrices and all convolutions count, also those that a forward does without a layer, and those of
    attention and of recurrent layers; a layer that is called several times counts each time, and a look-up is free.

    Args:
        net: the network.
        example_input: inputs `[N, ...]`: a tensor, a tuple or list of arguments, or a dict of keyword arguments.

    Raises:
        ValueError: the example has no data.
    """
    check_nest("example_input", example_input)
    flops, authors = _flops(net, example_input, {}), _flops(net, example_input, _AUTHORS)
    parameters = sum(parameter.numel() for parameter in net.parameters())
    return Size(parameters, flops // 2 // num_rows(example_input), authors // num_rows(example_input))


def _flops(net: nn.Module, x: Nest, counts: Mapping[Any, Callable[..., int]]) -> int:
    """What one call costs by torch's count, with some operations counted otherwise."""
    was_fused = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)  # the counter does not see into what is fused
    try:
        counter = FlopCounterMode(display=False, custom_mapping={_aten.mkldnn_rnn_layer: _lstm, **counts})
        with torch.inference_mode(False), torch.no_grad(), torch.random.fork_rng([]), in_eval_mode(net):
            with sdpa_kernel(SDPBackend.MATH), counter:
                call(net, x)
    finally:
        torch.backends.mha.set_fastpath_enabled(was_fused)
    return int(counter.get_total_flops())


# As FlopCounterMode wants them: of an operation's arguments, with shapes in place of tensors.


def _lstm(x: Any, of_input: Any, of_state: Any, *others: Any, **_: Any) -> int:
    return 2 * int(prod(x[:-1])) * (prod(of_input) + prod(of_state))


def _convolution(x: Any, weight: Any, bias: Any, *others: Any, out_shape: Any, **_: Any) -> int:
    *_stride_padding_dilation, transposed = others[:4]
    num_outputs = prod(out_shape)
    biases = x[0] * out_shape[1] if bias is not None else 0
    return int(conv_flop_count(x, weight, out_shape, transposed)) - num_outputs + biases


def _dense(bias: Any, x: Any, weight: Any, *, out_shape: Any, **_: Any) -> int:
    return _product(x, weight) + prod(out_shape)


def _product(x: Any, weight: Any, **_: Any) -> int:
    return int(prod(x)) * weight[-1]


def _each_output(*_arguments: Any, out_shape: Any, **_: Any) -> int:
    return prod(out_shape)


def _each_pooled(*_arguments: Any, out_shape: Any, **_: Any) -> int:
    return prod(out_shape[0])


_AUTHORS: dict[Any, Callable[..., int]] = {
    _aten.convolution: _convolution,
    _aten.addmm: _dense,
    _aten.mm: _product,
    _aten.relu: _each_output,
    _aten.relu_: _each_output,
    _aten.max_pool2d_with_indices: _each_pooled,
}
