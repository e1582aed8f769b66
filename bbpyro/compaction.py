"""compact(): from a gated network to a plain one, from which the dead units are physically gone."""

import copy
import warnings
from collections import OrderedDict
from dataclasses import dataclass
from typing import Any

import torch
import torch_pruning as tp
from torch import Tensor, nn
from torch_pruning.ops import OPTYPE

from bbpyro.layers import BetaBernoulliDropout, remove_dropout
from bbpyro.model import BetaBernoulliNetwork

TOLERANCE = 1e-5  # of the largest output
# What a unit may pass through and still be itself: a layer norm mixes units, and an output has a shape to keep.
_FOLLOWED = {OPTYPE.LINEAR, OPTYPE.BN, OPTYPE.PRELU, OPTYPE.ELEMENTWISE, OPTYPE.RESHAPE}


class UnsupportedModuleError(ValueError):
    """A network cannot be compacted as it should; the message names the layer and the reason."""


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


@torch.no_grad()
def compact(
    bnn: BetaBernoulliNetwork, example_input: Tensor | None = None, threshold: float | None = None
) -> nn.Module:
    """A plain network that computes what the mean-mask network does, without its dead units and without gates.

    E[π] is folded into the weights of the layer that reads the unit. A dead unit is removed there and, where no other
    layer needs it, from the layer that makes it and the batch norms between (by torch-pruning's dependency graph).
    Where it must stay, because it is an input of the network or another layer reads it, a :class:`SelectUnits` in
    front of the reader leaves it out. Of a layer whose inputs all died one input stays, with weights of zero.

    Args:
        bnn: the network, of gates made by :func:`bbpyro.insert_dropout`.
        example_input: inputs `[N, ...]`, at least two of them, on which the structure is traced and the equality is
            checked; by default random numbers `[2, K]`, K the units of the first gate.
        threshold: a unit is kept when E[π] exceeds it; by default each gate's own.

    Returns:
        A new module on the same device and of the same dtype, in evaluation mode; `bnn` is left as it is. Layers
        keep their names; one with a selection in front is an nn.Sequential of `select` and `linear`.

    Raises:
        ValueError: the threshold is outside [0, 1), or the network cannot take the example input.
        UnsupportedModuleError: the network has gates that stand by themselves, or the result does not equal the
            mean-mask network to 1e-5 of its largest output.
    """
    if threshold is not None and not 0 <= threshold < 1:
        raise ValueError(f"threshold is {threshold}, wanted a keep probability in [0, 1)")
    masked = copy.deepcopy(bnn.net).eval()
    for gate in _gates(masked).values():
        gate.threshold = gate.threshold if threshold is None else threshold
    example = _example(bnn, example_input)
    dtype = next(iter(bnn.gates.values())).unconstrained_concentration1.dtype
    if dtype in (torch.float16, torch.bfloat16):  # whose rounding hides what is wrong
        masked, example = masked.float(), example.float()
    wanted = _Wanted(masked, example)
    plain, readers = _fold(masked)
    trainable = {name for name, parameter in plain.named_parameters() if parameter.requires_grad}
    plain.requires_grad_(True)  # or torch-pruning would not see a frozen layer
    for name in readers:
        plain = _remove_from_makers(plain, name, wanted)
    for name in readers:
        plain = _select_inputs(plain, name)
        if not wanted.equals(plain):
            raise UnsupportedModuleError(
                f"{name}: selecting its inputs changes the network's output; is its weight used outside of it?"
            )
    for name, parameter in plain.named_parameters():
        parameter.requires_grad_(name.replace(".linear.", ".") in trainable or name in trainable)
    return plain.eval().to(dtype)


@dataclass(frozen=True)
class Size:
    """What a network costs.

    Attributes:
        parameters: how many numbers it has learnt.
        flops: of one datum, dense layers with their activations, counted as in arXiv 1805.10896's tables:
            2·in·out - out, and out each for the bias and for the activation.
    """

    parameters: int
    flops: int


@torch.no_grad()
def measure(net: nn.Module, example_input: Tensor) -> Size:
    """Parameters, and FLOPs a datum, of a plain network of dense layers.

    Args:
        net: the network.
        example_input: inputs `[N, ...]`, to see how often each layer is used.
    """
    flops = 0

    def count(layer: nn.Linear, args: Any, output: Tensor) -> None:
        nonlocal flops
        uses = output.numel() // layer.out_features // len(example_input)
        bias = layer.out_features if layer.bias is not None else 0
        flops += uses * (2 * layer.in_features * layer.out_features + bias)

    handles = [module.register_forward_hook(count) for module in net.modules() if isinstance(module, nn.Linear)]
    try:
        net(example_input)
    finally:
        for handle in handles:
            handle.remove()
    return Size(sum(parameter.numel() for parameter in net.parameters()), flops)


class _Wanted:
    """The outputs of the mean-mask network, and whether another network has the same."""

    def __init__(self, masked: nn.Module, example: Tensor) -> None:
        self.example, self.inputs = example, [example]
        if example.is_floating_point():
            noise = torch.randn(example.shape, generator=torch.Generator().manual_seed(0))
            self.inputs.append(noise.to(example))
        self.outputs = [masked(x) for x in self.inputs]

    def equals(self, net: nn.Module) -> bool:
        try:
            found = [net(x) for x in self.inputs]
        except (AttributeError, IndexError, RuntimeError, TypeError):
            return False
        return all(
            output.shape == wanted.shape and bool((output - wanted).abs().max() <= TOLERANCE * wanted.abs().max())
            for output, wanted in zip(found, self.outputs, strict=True)
        )


def _gates(net: nn.Module) -> dict[str, BetaBernoulliDropout]:
    return {name: module for name, module in net.named_modules() if isinstance(module, BetaBernoulliDropout)}


def _example(bnn: BetaBernoulliNetwork, example_input: Tensor | None) -> Tensor:
    parameter = next(iter(bnn.gates.values())).unconstrained_concentration1
    if example_input is None:
        example_input = torch.rand(2, len(parameter), device=parameter.device, dtype=parameter.dtype)
    try:
        copy.deepcopy(bnn).eval()(example_input)
    except (RuntimeError, ValueError, TypeError, IndexError) as error:
        raise ValueError(
            f"example_input: the network cannot take one of shape {tuple(example_input.shape)} "
            f"({str(error).splitlines()[0]}); give one like the data, [N, ...]"
        ) from error
    return example_input


def _fold(masked: nn.Module) -> tuple[nn.Module, list[str]]:
    """The network with its mean masks multiplied into the weights, and the names of the layers that had a gate."""
    plain, readers = copy.deepcopy(masked), []
    for name, gate in _gates(masked).items():
        reader = name.removesuffix("gate").removesuffix(".")
        linear = plain.get_submodule(reader)
        if not isinstance(linear, nn.Linear) or not name.endswith("gate"):
            raise UnsupportedModuleError(f"{name}: a gate that stands by itself has no layer to fold it into")
        mean = gate.keep_probability()
        linear.weight.mul_(torch.where(mean > gate.threshold, mean, 0.0))
        remove_dropout(linear)
        readers.append(reader)
    return plain, readers


def _dead(linear: nn.Linear) -> Tensor:
    """The inputs whose weights are all zero, but for one where all are."""
    dead = (linear.weight == 0).all(0).nonzero()[:, 0]
    return dead[1:] if len(dead) == linear.in_features else dead


def _remove_from_makers(plain: nn.Module, name: str, wanted: _Wanted) -> nn.Module:
    """Without the units that layer `name` does not need, where no other layer does; unchanged where that cannot be."""
    trial = copy.deepcopy(plain)
    linear = trial.get_submodule(name)
    assert isinstance(linear, nn.Linear)
    if len(_dead(linear)) == 0:
        return plain
    try:
        with torch.enable_grad(), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # torch-pruning's, of parameters outside of layers
            graph = tp.DependencyGraph().build_dependency(trial, example_inputs=wanted.example)
        removable = _removable(
            graph.get_pruning_group(linear, tp.prune_linear_in_channels, _dead(linear).tolist()), linear
        )
        if removable:
            group = graph.get_pruning_group(linear, tp.prune_linear_in_channels, removable)
            if graph.check_pruning_group(group):
                group.prune()
    except (
        Exception
    ) as error:  # whatever a graph beyond torch-pruning makes it raise: the selection is right all the same
        warnings.warn(f"{name}: the units it does not need stay where they are made ({error})", stacklevel=3)
        return plain
    return trial if wanted.equals(trial) else plain


def _removable(group: Any, reader: nn.Linear) -> list[int]:
    """Those inputs of `reader` in `group` that every other layer does without, too."""
    needed: set[int] = set()
    for item in group.items:
        target = item.dep.target
        if target.type not in _FOLLOWED:
            return []
        reads = item.dep.handler.__name__ == "prune_in_channels" and isinstance(target.module, nn.Linear)
        if reads and target.module is not reader:
            zero = (target.module.weight == 0).all(0)
            needed |= {root for at, root in zip(item.idxs, item.root_idxs, strict=True) if not zero[at]}
    return [k for k in group.items[0].idxs if k not in needed]


def _select_inputs(plain: nn.Module, name: str) -> nn.Module:
    """Layer `name` without its dead inputs, and a selection of the others in front of it."""
    linear = plain.get_submodule(name)
    assert isinstance(linear, nn.Linear)
    dead = set(_dead(linear).tolist())
    if not dead:
        return plain
    kept = torch.tensor([k for k in range(linear.in_features) if k not in dead], device=linear.weight.device)
    small = nn.Linear(len(kept), linear.out_features, linear.bias is not None).to(linear.weight)
    small.weight.copy_(linear.weight[:, kept])
    if linear.bias is not None:
        small.bias.copy_(linear.bias)
    selected = nn.Sequential(OrderedDict(select=SelectUnits(kept), linear=small))
    if not name:
        return selected
    plain.set_submodule(name, selected)
    return plain
