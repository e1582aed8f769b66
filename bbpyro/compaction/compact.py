"""compact() itself: fold, follow the units once, remove, select, check."""

import copy
from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase

from bbpyro.checks import check_device, check_nest, wrong_dtype
from bbpyro.compaction.errors import UnsupportedModuleError
from bbpyro.compaction.folding import check_weights, fold, gated_layers, multiply, plainly_parametrized
from bbpyro.compaction.outputs import TOLERANCE, Wanted, tolerance
from bbpyro.compaction.report import Compaction, built_shapes, kept_indices, report_gates
from bbpyro.compaction.selection import SelectUnits, select_inputs
from bbpyro.denormals import zero_denormal
from bbpyro.exclusive import one_at_a_time
from bbpyro.layers import called_gates, gates_of
from bbpyro.model import BetaBernoulliNetwork
from bbpyro.nests import FAILURES, Nest, call, map_tensors, reason_of, tensors_of
from bbpyro.structure import Removal, Units, follow_few, largest_removal, without

_EXACT = 1e-9  # of the largest output, in float64


@one_at_a_time
@torch.no_grad()
def compact(
    bnn: BetaBernoulliNetwork, example_input: Nest = None, threshold: float | None = None, *, round_to: int = 1
) -> nn.Module:
    """A plain network that computes what the mean-mask network does, without its dead units and without gates.

    E[π] is folded into the weights of the layer that the gate belongs to. Then the network is run once, and each unit
    followed from the layer that makes it to those that read it. A unit that is zero for all of them, or that all of
    them multiply by zero, is removed from every layer that has a part of it. Where it must stay, because it is an
    input of the network or another layer reads it, a :class:`SelectUnits` in front of a dense reader leaves it out.
    Of a layer whose units all died one stays, of zeros.

    Args:
        bnn: the network, of gates made by :func:`bbpyro.insert_dropout`.
        example_input: inputs `[N, ...]`, a few of them, with which the units are followed and the equality is checked:
            a tensor, a tuple or list of the network's arguments, or a dict of its keyword arguments. By default random
            numbers `[2, K]`, K the units of the first gate, if that is of a dense layer.
        threshold: a unit is kept when E[π] exceeds it; by default each gate's own.
        round_to: leave a multiple of this many units in each layer, where there are as many, since odd numbers of
            channels can be slow; those that are dead stay as zeros.

    Returns:
        A new module on the same device and of the same dtype, in evaluation mode; `bnn` is left as it is. Layers
        keep their names; one with a selection in front is an nn.Sequential of `select` and `linear`. Its attribute
        `compaction` is a :class:`bbpyro.compaction.Compaction`: what was removed by layer, what was left, and why.

    Raises:
        TypeError: `bnn` is no BetaBernoulliNetwork, such as a network with gates alone.
        ValueError: the threshold is outside [0, 1) or a gate goes by no keep probability, round_to < 1, or the
            network cannot take the example input.
        UnsupportedModuleError: the masks depend on the datum, the network has gates that stand by themselves, its
            output has no real tensor or is random, or E[π] folded into a weight gives another network: by 1e-9 of its
            largest output in float64, on the example and on noise. (What a forward does on other data alone, by an
            `if`, cannot be seen.)
    """
    if not isinstance(bnn, BetaBernoulliNetwork):
        raise TypeError(f"bnn is a {type(bnn).__name__}, wanted a BetaBernoulliNetwork")
    if round_to < 1:
        raise ValueError(f"round_to is {round_to}, wanted 1 or more")
    check_device(bnn)
    check_weights(bnn.net)
    plain = _masked(bnn.net, threshold)
    masks, wanted = _wanted(plain, _example(plain, example_input))
    dtypes = _dtypes(bnn.net)
    units = _fold_and_follow(plain, masks, wanted, _usual(dtypes))
    removal, at_fault = units.decide(round_to=round_to), list[str]()
    small, selections = _select(without(plain, removal), masks, round_to)
    if not wanted.equals(small):
        _check_folded(bnn.net, threshold, masks, plain, wanted)
        removal, at_fault = _largest_removal(plain, units, wanted, round_to)
        small, selections = _select_some(without(plain, removal), masks, wanted, round_to)
    gates = report_gates(masks, units, removal, selections, at_fault, round_to)
    small = _of_dtypes(_say_features(small.eval(), wanted.inputs[0]), dtypes)
    object.__setattr__(small, "compaction", Compaction(gates, kept_indices(removal), built_shapes(plain)))
    return small


def _example(masked: nn.Module, example_input: Nest) -> Nest:
    """The example, once the network is seen to take it."""
    parameter = next(iter(gates_of(masked).values())).like
    if example_input is None:
        example_input = torch.rand(2, len(parameter), device=parameter.device, dtype=parameter.dtype)
    check_nest("example_input", example_input)
    try:
        call(masked, example_input)
    except FAILURES as error:
        raise ValueError(
            wrong_dtype(masked, example_input, "example_input")
            or f"example_input: the network cannot take one of shape {_shape(example_input)} "
            f"({reason_of(error)}); give one like the data, [N, ...]"
        ) from error
    if any(tensor.dtype != parameter.dtype for tensor in tensors_of(example_input)):
        ungated = copy.deepcopy(masked)
        for layer, _ in gated_layers(ungated).values():
            fold(layer, None)
        wrong = wrong_dtype(ungated, example_input, "example_input")
        if wrong:  # which the gates, whose product with it is of theirs, let pass
            raise ValueError(wrong)
    return example_input


def _shape(example: Nest) -> Nest:
    return map_tensors(lambda tensor: tuple(tensor.shape), example)


def _masked(net: nn.Module, threshold: float | None) -> nn.Module:
    """A copy whose gates multiply by their mean mask, whatever the precision from here on."""
    masked = copy.deepcopy(net).eval()
    for name, gate in gates_of(masked).items():
        if gate.depends_on_data:
            raise UnsupportedModuleError(
                f"{name}: the masks of {type(gate).__name__} are others for each datum, so no weight can hold them"
            )
    set_threshold(masked, threshold)
    for gate in gates_of(masked).values():
        gate.z = gate.mean_mask()
    plainly_parametrized(masked)
    return masked


def set_threshold(net: nn.Module, threshold: float | None) -> None:
    """Have all gates of a network go by another threshold of the keep probability; None leaves each its own.

    Raises:
        ValueError: it is outside [0, 1), or a gate goes by no keep probability.
    """
    if threshold is None:
        return
    for name, gate in gates_of(net).items():
        if gate.measure_name != "keep_probability":
            raise ValueError(
                f"threshold is of a keep probability, and gate {name!r} goes by the {gate.measure_label}; leave it out"
            )
        gate.threshold = threshold


def _dtypes(net: nn.Module) -> dict[str, torch.dtype]:
    return {name: tensor.dtype for name, tensor in (*net.named_parameters(), *net.named_buffers())}


def _say_features(small: nn.Module, example: Nest) -> nn.Module:
    """Have norms that hold nothing, and so were not sliced, say how many channels they have now."""

    def say(norm: Any, args: tuple[Tensor, ...]) -> None:
        norm.num_features = args[0].shape[1]

    norms = [m for m in small.modules() if isinstance(m, _NormBase) and not (m.affine or m.track_running_stats)]
    handles = [norm.register_forward_pre_hook(say) for norm in norms]
    if norms:
        call(small, example)
    for handle in handles:
        handle.remove()
    return small


def _usual(dtypes: Mapping[str, torch.dtype]) -> torch.dtype:
    return next(dtype for dtype in dtypes.values() if dtype.is_floating_point)


def _of_dtypes(net: nn.Module, dtypes: Mapping[str, torch.dtype]) -> nn.Module:
    """The network with each tensor of the precision that it had, in place; new ones have that of the others."""
    usual = _usual(dtypes)
    for name, tensor in (*net.named_parameters(), *net.named_buffers()):
        if tensor.is_floating_point():
            tensor.data = tensor.data.to(dtypes.get(name.replace(".linear.", "."), usual))
    return net


def _wanted(masked: nn.Module, example: Nest) -> tuple[dict[str, Tensor | None], Wanted]:
    """The masks by layer, None of a gate that is never called, and what the network computes.

    The copy is made one of double precision, where rounding cannot hide what is wrong, if it can run so.
    """
    with called_gates(masked) as called:
        wanted = _in_double(masked, example) or Wanted(masked, example, TOLERANCE)
    used = [gate for name, gate in gates_of(masked).items() if name in called]
    masks = {
        name: gate.z if any(gate is one for one in used) else None for name, (_, gate) in gated_layers(masked).items()
    }
    return masks, wanted


def _in_double(masked: nn.Module, example: Nest) -> Wanted | None:
    dtypes = _dtypes(masked)
    for name, tensor in (*masked.named_parameters(), *masked.named_buffers()):
        if tensor.is_floating_point() and not name.endswith("gate.z"):  # which would make doubles of what are none
            tensor.data = tensor.data.double()
    try:
        wanted = Wanted(masked, map_tensors(lambda x: x.double() if x.is_floating_point() else x, example), _EXACT)
        if wanted.dtypes == {torch.float64}:
            return wanted
    except FAILURES:  # of a network that makes numbers of a precision of its own, or insists on one
        pass
    _of_dtypes(masked, dtypes)
    return None


def _fold_and_follow(plain: nn.Module, masks: Mapping[str, Tensor | None], wanted: Wanted, dtype: torch.dtype) -> Units:
    """Fold the masks in, in place, and follow the units of what is then a plain network, to be of this precision."""
    every_mask = {name: gate.z for name, (_, gate) in gated_layers(plain).items()}
    for name, mask in masks.items():
        fold(plain.get_submodule(name), mask)
    zero_denormal(plain.parameters(), dtype)
    if wanted.tolerance > _EXACT:  # what folding alone changes, by rounding, is not to be told from what removing does
        wanted.tolerance = tolerance(wanted.difference(plain))
    units = follow_few(plain, wanted.inputs[0])
    for name, mask in every_mask.items():
        if mask is not None and masks[name] is None and f"{name}.weight".lstrip(".") in units.unread:
            multiply(plain.get_submodule(name), mask)  # of a layer that only other data are given to
    return units


def _check_folded(
    net: nn.Module, threshold: float | None, masks: Mapping[str, Tensor | None], plain: nn.Module, wanted: Wanted
) -> None:
    """Raise an UnsupportedModuleError, with the first layer at fault, where folding alone gives another network."""
    difference = wanted.difference(plain)
    if difference <= wanted.tolerance:
        return

    def masked() -> nn.Module:
        return _of_dtypes(_masked(net, threshold), _dtypes(plain))

    wanted.check_repeats(masked())
    at_fault = "the network"
    for name, mask in masks.items():
        trial = masked()
        fold(trial.get_submodule(name), mask)
        if not wanted.equals(trial):
            at_fault = name
            break
    raise UnsupportedModuleError(
        f"{at_fault}: with E[π] folded into its weight the network computes something else than with its gate, by "
        f"{difference:.1e} of its largest output, as where a weight is used outside of its layer's forward; "
        f"insert_dropout(net, exclude=[{at_fault!r}]) leaves it without a gate"
    )


def _largest_removal(plain: nn.Module, units: Units, wanted: Wanted, round_to: int) -> tuple[Removal, list[str]]:
    """The most that can go, and the parameters whose slices cannot though nothing needs them."""
    allowed, at_fault = largest_removal(units, lambda some: wanted.equals(without(plain, units.decide(some, round_to))))
    return units.decide(allowed, round_to), at_fault


def _select_some(
    small: nn.Module, names: Iterable[str], wanted: Wanted, round_to: int
) -> tuple[nn.Module, dict[str, Tensor]]:
    """The selections that leave the network what it is: not of a layer whose weight others use than itself."""
    trial, possible = _select(copy.deepcopy(small), names, round_to)
    if wanted.equals(trial):
        return trial, possible
    selections: dict[str, Tensor] = {}
    for name in possible:
        trial, found = _select(copy.deepcopy(small), [name], round_to)
        if wanted.equals(trial):
            small, selections = trial, selections | found
    return small, selections


def _select(net: nn.Module, names: Iterable[str], round_to: int) -> tuple[nn.Module, dict[str, Tensor]]:
    found: dict[str, Tensor] = {}
    for name in names:
        net = select_inputs(net, name, round_to)
        if isinstance(layer := net.get_submodule(name), nn.Sequential) and isinstance(layer[0], SelectUnits):
            found[name] = layer[0].indices
    return net, found
