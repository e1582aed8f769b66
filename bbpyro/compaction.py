"""compact(): from a gated network to a plain one, from which the dead units are physically gone."""

import copy
import re
import warnings
from collections import OrderedDict
from dataclasses import dataclass
from typing import Any

import torch
import torch_pruning as tp
from torch import Tensor, nn
from torch.nn.utils import parametrize
from torch_pruning.ops import OPTYPE

from bbpyro.checks import check_device, check_some, in_eval_mode, runs, wrong_dtype
from bbpyro.denormals import zero_denormal
from bbpyro.exclusive import one_at_a_time
from bbpyro.layers import gates_of, remove_dropout
from bbpyro.model import BetaBernoulliNetwork

TOLERANCE = 1e-5  # of the largest output
# What a unit may pass through and still be itself: a layer norm mixes units, and an output has a shape to keep.
_FOLLOWED = {OPTYPE.LINEAR, OPTYPE.CONV, OPTYPE.BN, OPTYPE.PRELU, OPTYPE.ELEMENTWISE, OPTYPE.RESHAPE}
_Convolution = nn.Conv1d | nn.Conv2d | nn.Conv3d
_BatchNorm = nn.BatchNorm1d | nn.BatchNorm2d | nn.BatchNorm3d


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


@one_at_a_time
@torch.no_grad()
def compact(
    bnn: BetaBernoulliNetwork, example_input: Tensor | None = None, threshold: float | None = None
) -> nn.Module:
    """A plain network that computes what the mean-mask network does, without its dead units and without gates.

    E[π] is folded into the weights of the layer that the gate belongs to. A dead unit that no other layer needs is
    removed from the layer that makes it, from the batch norms between and from the layers that read it (by
    torch-pruning's dependency graph). Where it must stay, because it is an input of the network or another layer reads
    it, a :class:`SelectUnits` in front of a dense reader leaves it out. Of a layer whose units all died one stays, of
    zeros. Units that a layer norm, a softmax or an addition ties to living ones stay too.

    Args:
        bnn: the network, of gates made by :func:`bbpyro.insert_dropout`.
        example_input: inputs `[N, ...]`, at least two of them, on which the structure is traced and the equality is
            checked; by default random numbers `[2, K]`, K the units of the first gate, if that is of a dense layer.
        threshold: a unit is kept when E[π] exceeds it; by default each gate's own.

    Returns:
        A new module on the same device and of the same dtype, in evaluation mode; `bnn` is left as it is. Layers
        keep their names; one with a selection in front is an nn.Sequential of `select` and `linear`.

    Raises:
        ValueError: the threshold is outside [0, 1), or the network cannot take the example input.
        UnsupportedModuleError: the network has gates that stand by themselves, its output is no tensor or random, or
            the result does not equal the mean-mask network to 1e-5 of its largest output, on the example and on noise.
            (What a forward does on other data alone, by an `if`, cannot be seen.)
    """
    if threshold is not None and not 0 <= threshold < 1:
        raise ValueError(f"threshold is {threshold}, wanted a keep probability in [0, 1)")
    check_device(bnn)
    _check_weights(bnn.net)
    masked = copy.deepcopy(bnn.net).eval()
    for gate in gates_of(masked).values():
        gate.threshold = gate.threshold if threshold is None else threshold
        gate.z = gate.mean_mask()  # fixed, whatever the precision from here on
    example = _example(bnn, example_input)
    dtype = next(iter(bnn.gates.values())).unconstrained_concentration1.dtype
    is_half = dtype in (torch.float16, torch.bfloat16)
    if is_half:  # whose rounding would hide what is wrong
        masked, example = masked.float(), example.float() if example.is_floating_point() else example
    wanted = _Wanted(masked, example)
    plain, gated = _fold(masked)
    of_dtype = None if runs(plain, example) else wrong_dtype(plain, example, "example_input")
    if of_dtype:  # which the gates, whose product with it is of theirs, let pass
        raise ValueError(of_dtype)
    zero_denormal(plain.parameters())
    trainable = {name: parameter.requires_grad for name, parameter in plain.named_parameters()}
    for parameter in plain.parameters():
        if parameter.is_floating_point():
            parameter.requires_grad_(True)  # or torch-pruning would not see a frozen layer
    for name in [name for name, module in plain.named_modules() if isinstance(module, nn.Linear | _Convolution)]:
        plain = _remove_units(plain, name, gated, wanted)
    for name, parameter in plain.named_parameters():
        parameter.requires_grad_(trainable[name])
    for name in gated:
        plain = _select_inputs(plain, name)
        if not wanted.equals(plain):
            raise UnsupportedModuleError(
                f"{name}: selecting its inputs changes the network's output; is its weight used outside of its forward?"
            )
    return plain.eval().to(dtype) if is_half else plain.eval()


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


class _Wanted:
    """The outputs of the mean-mask network on the example and on noise, and whether another network has the same."""

    def __init__(self, masked: nn.Module, example: Tensor) -> None:
        output = masked(example)
        if not isinstance(output, Tensor) or not output.is_floating_point():
            raise UnsupportedModuleError(f"the network's output is a {type(output).__name__}, wanted one real tensor")
        if not torch.equal(output, masked(example)):
            raise UnsupportedModuleError("the network's forward is random, in evaluation mode too")
        self.example, self.inputs, self.outputs = example, [example], [output]
        generator = torch.Generator("cpu").manual_seed(0)
        for scale in (1.0, 10.0) if example.is_floating_point() else ():
            noise = (scale * torch.randn(example.shape, generator=generator, device="cpu")).to(example)
            try:
                output = masked(noise)
            except Exception:  # a network may refuse what is no data
                continue
            if output.shape == self.outputs[0].shape and bool(output.isfinite().all()):
                self.inputs.append(noise)
                self.outputs.append(output)

    def equals(self, net: nn.Module) -> bool:
        try:
            found = [net(x) for x in self.inputs]
        except (AttributeError, IndexError, RuntimeError, TypeError):
            return False
        return all(
            output.shape == wanted.shape and bool((output - wanted).abs().max() <= TOLERANCE * wanted.abs().max())
            for output, wanted in zip(found, self.outputs, strict=True)
        )


def _example(bnn: BetaBernoulliNetwork, example_input: Tensor | None) -> Tensor:
    parameter = next(iter(bnn.gates.values())).unconstrained_concentration1
    if example_input is None:
        example_input = torch.rand(2, len(parameter), device=parameter.device, dtype=parameter.dtype)
    check_some("example_input", example_input)
    try:
        with in_eval_mode(bnn):
            bnn(example_input)
    except (RuntimeError, ValueError, TypeError, IndexError) as error:
        with in_eval_mode(bnn):
            of_dtype = wrong_dtype(bnn, example_input, "example_input")
        raise ValueError(
            of_dtype
            or f"example_input: the network cannot take one of shape {tuple(example_input.shape)} "
            f"({str(error).splitlines()[0]}); give one like the data, [N, ...]"
        ) from error
    return example_input


def _check_weights(net: nn.Module) -> None:
    for name, layer in net.named_modules():
        if isinstance(layer, nn.Linear | _Convolution) and not parametrize.is_parametrized(layer):
            if "weight" not in layer._parameters:
                raise UnsupportedModuleError(
                    f"{name}: its weight is no parameter but computed anew at each call, by a hook such as "
                    "torch.nn.utils.weight_norm; take it off with torch.nn.utils.remove_weight_norm(layer)"
                )


def _fold(masked: nn.Module) -> tuple[nn.Module, list[str]]:
    """The network with its mean masks multiplied into the weights, and the names of the layers that had a gate."""
    plain, gated = _plainly_parametrized(copy.deepcopy(masked)), []
    for name, gate in gates_of(masked).items():
        owner = name.removesuffix("gate").removesuffix(".")
        layer: Any = plain.get_submodule(owner)
        mask: Any = gate.z
        if isinstance(layer, nn.Linear):
            layer.weight = _times(layer.weight, mask)
        elif isinstance(layer, _BatchNorm | _Convolution):
            if layer.weight is None:
                raise UnsupportedModuleError(f"{owner}: a batch norm without weights has nothing to fold E[π] into")
            layer.weight = _times(layer.weight, mask.reshape(-1, *[1] * (layer.weight.dim() - 1)))
            if layer.bias is not None:
                layer.bias = _times(layer.bias, mask)
        else:
            raise UnsupportedModuleError(f"{name}: a gate that stands by itself has no layer to fold it into")
        remove_dropout(layer)
        gated.append(owner)
    return plain, gated


def _plainly_parametrized(net: nn.Module) -> nn.Module:
    """The network with what a parametrization such as weight_norm computes at each call as parameters, in place."""
    for module in net.modules():
        if parametrize.is_parametrized(module):
            computed = {name: getattr(module, name) for name in module.get_submodule("parametrizations")._modules}
            # remove_parametrizations would take them off the class, which the network of the user's has too.
            module.__class__ = type(module).__bases__[0]
            del module.parametrizations
            for name, tensor in computed.items():
                module.register_parameter(name, nn.Parameter(tensor.clone()))
    return net


def _times(parameter: Tensor, mask: Tensor) -> nn.Parameter:
    """A parameter of this layer alone, for another layer may share the one that was there."""
    return nn.Parameter(parameter * mask, parameter.requires_grad)


def _remove_units(plain: nn.Module, maker: str, gated: list[str], wanted: _Wanted) -> nn.Module:
    """Without the units of layer `maker` that nothing needs; unchanged where there are none, or that cannot be."""
    layer: Any = plain.get_submodule(maker)
    num_units = layer.out_features if isinstance(layer, nn.Linear) else layer.out_channels
    try:
        unread, zero = _unneeded(_group(plain, maker, list(range(num_units)), wanted), plain, gated)
        for dead in (unread | zero, unread):
            removed = sorted(dead)[len(dead) == num_units :]  # one stays
            trial = copy.deepcopy(plain)
            if removed:
                _group(trial, maker, removed, wanted).prune()
                if wanted.equals(trial):
                    return trial
    except Exception as error:  # a network beyond torch-pruning may make it raise anything
        warnings.warn(f"{maker}: the units that nothing needs stay where they are made ({error})", stacklevel=3)
    return plain


def _group(net: nn.Module, maker: str, units: list[int], wanted: _Wanted) -> Any:
    """Everything that goes with these units of a layer."""
    with torch.enable_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch-pruning's, of parameters outside of layers
        graph = tp.DependencyGraph().build_dependency(net, example_inputs=wanted.example)
    layer = net.get_submodule(maker)
    prune = tp.prune_linear_out_channels if isinstance(layer, nn.Linear) else tp.prune_conv_out_channels
    return graph.get_pruning_group(layer, prune, units)


def _unneeded(group: Any, net: nn.Module, gated: list[str]) -> tuple[set[int], set[int]]:
    """The units that every reader multiplies by zero, and those that every gated maker makes zero."""
    units = set(group.items[0].idxs)
    channels = [m for m in map(net.get_submodule, gated) if isinstance(m, _Convolution | _BatchNorm)]
    num_readers = num_gated = 0
    lifts = False
    needed: set[int] = set()
    alive = dict.fromkeys(units, 0)  # convolutions that make something of a unit, less the norms that make it zero
    for item in group.items:
        target, layer = item.dep.target, item.dep.target.module
        known = isinstance(layer, nn.Linear | _Convolution | _BatchNorm | nn.PReLU) or _keeps_units(target)
        if target.type not in _FOLLOWED or not known or getattr(layer, "groups", 1) != 1:
            return set(), set()
        lifts |= _lifts_zero(target) or (isinstance(layer, _BatchNorm) and not any(layer is m for m in channels))
        pairs = list(zip(item.idxs, item.root_idxs, strict=True))
        if item.dep.handler.__name__ == "prune_in_channels" and isinstance(layer, nn.Linear | _Convolution):
            num_readers += 1
            used = layer.weight.transpose(0, 1).flatten(1).any(1)
            needed |= {root for at, root in pairs if used[at]}
        elif isinstance(layer, nn.Linear | _Convolution) or any(layer is m for m in channels):
            num_gated += any(layer is m for m in channels)
            made = layer.weight.flatten(1).any(1) if layer.weight.dim() > 1 else layer.weight != 0
            made = made if layer.bias is None else made | (layer.bias != 0)
            for at, root in pairs:
                alive[root] += int(made[at]) if not isinstance(layer, _BatchNorm) else -int(not made[at])
    zero = {unit for unit, count in alive.items() if count <= 0}
    return units - needed if num_readers else set(), zero if num_gated and not lifts else set()


# Operations that leave a unit where it is and by itself, as autograd names them; a softmax, say, is not among them.
_ELEMENTWISE = frozenset(
    "Abs Add AdaptiveAvgPool2D AdaptiveMaxPool2D AvgPool2D Clamp ClampMin Clone Copy Div Elu Exp Gelu Hardsigmoid "
    "Hardswish Hardtanh LeakyRelu MaxPool1D MaxPool2DWithIndices MaxPool3DWithIndices Mean Mish Mul NativeDropout Neg "
    "Pow Relu Sigmoid Silu Softplus Sqrt Squeeze Sub Sum T Tanh Threshold ToCopy UpsampleBilinear2D UpsampleNearest2D "
    "View UnsafeView Reshape ReshapeAlias".split()
)


# Those of them that make something of a unit that is zero.
_LIFTING = frozenset("Clamp ClampMin Div Exp Hardsigmoid Pow Sigmoid Softplus Threshold".split())


def _operation(target: Any) -> str:
    found = re.search(r"\((\w+?)Backward\d*\)", str(target.name))
    return found[1] if found else ""


def _keeps_units(target: Any) -> bool:
    """Whether an operation between layers leaves units where they are and by themselves."""
    return target.type == OPTYPE.RESHAPE or _operation(target) in _ELEMENTWISE


def _lifts_zero(target: Any) -> bool:
    """Whether an operation between layers makes something of a unit that is zero."""
    return _operation(target) in _LIFTING


def _dead_inputs(linear: nn.Linear) -> set[int]:
    """The inputs whose weights are all zero, but for one where all are."""
    dead: list[int] = (linear.weight == 0).all(0).nonzero()[:, 0].tolist()
    return set(dead[1:] if len(dead) == linear.in_features else dead)


def _select_inputs(plain: nn.Module, name: str) -> nn.Module:
    """Dense layer `name` without its dead inputs, and a selection of the others in front of it."""
    linear = plain.get_submodule(name)
    dead = _dead_inputs(linear) if isinstance(linear, nn.Linear) else set()
    if not isinstance(linear, nn.Linear) or not dead:
        return plain
    kept = torch.tensor([k for k in range(linear.in_features) if k not in dead], device=linear.weight.device)
    has_bias, weight = linear.bias is not None, linear.weight
    small = nn.Linear(len(kept), linear.out_features, has_bias, device=weight.device, dtype=weight.dtype)
    for into, of in ((small.weight, linear.weight[:, kept]), (small.bias, linear.bias)):
        if of is not None:
            into.copy_(of)
    for (_, into), (_, of) in zip(small.named_parameters(), linear.named_parameters(), strict=True):
        into.requires_grad_(of.requires_grad)
    selected = nn.Sequential(OrderedDict(select=SelectUnits(kept), linear=small))
    if not name:
        return selected
    plain.set_submodule(name, selected)
    return plain
