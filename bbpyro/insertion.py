"""insert_dropout(): gates for a network of the user's."""

import copy
import fnmatch
import functools
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.utils import parametrize

from bbpyro.checks import in_eval_mode
from bbpyro.denormals import zero_denormal
from bbpyro.families.beta_bernoulli import MIN_START, BetaBernoulliDropout
from bbpyro.families.own import check_gate
from bbpyro.families.spelled import Family, FamilyLike, as_family, is_beta_bernoulli
from bbpyro.layers import check_module, gates_of
from bbpyro.nests import FAILURES, Nest, reason_of
from bbpyro.structure import follow_units

_CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)


def insert_dropout(
    net: nn.Module,
    threshold: float | None = None,
    *,
    family: FamilyLike | Mapping[str, FamilyLike] | None = None,
    only: Sequence[str] = ("*",),
    exclude: Sequence[str] = (),
    initial_keep_probability: float | None = None,
    tie: str | None = None,
    example_input: Nest = None,
) -> nn.Module:
    """A copy of `net` with a gate on the input of each `nn.Linear`, and on the output channels of each convolution.

    The gate of a dense layer `fc1` is the submodule `fc1.gate` and acts on its input. That of a convolution acts on
    its output, or, where the next layer in the order of definition is a batch norm of its channels, on the output of
    that, `bn1.gate`; before the activation, which for ReLU (and max pooling after it) is the same as after. A
    convolution that is the last layer is left alone: its channels are the answer. Weights keep their names and any
    forward() works. Subclasses, transposed convolutions and other layers are left alone.

    Args:
        net: any module with at least one `nn.Linear`, `nn.Conv1d`, `nn.Conv2d` or `nn.Conv3d`.
        threshold: of Beta-Bernoulli dropout, a unit is kept when E[π] is above, by default 1e-3; other families have
            theirs as arguments.
        family: of the masks, see :mod:`bbpyro.families`: a subclass of Gate, or a spelling such as "VIB(1e-5)" or
            "module:name"; or a mapping from names of gates, with * for any characters, to those. By default
            Beta-Bernoulli dropout.
        only: names of the layers to gate, with * for any characters.
        exclude: names of layers not to gate.
        initial_keep_probability: of Beta-Bernoulli dropout, E[π] where training starts, from 1e-5 to 1 - 1e-5, with
            b = 1; by default the source's, about 0.24, and, where :func:`bbpyro.fit` finds few data, 0.5. A deep
            network learns nothing through many layers of that: 0.95, say, is for it.
        tie: "residual" gives layers one gate whose units can only go together, such as those that are added to each
            other in the stages of a residual network: what dies there can then be removed. By default each layer has
            its own.
        example_input: of two data or more, with which such layers are found, as :func:`bbpyro.compact` takes it.

    Returns:
        The gated copy, with gates on the same device and of the same dtype as the layer they belong to.

    Raises:
        ValueError: there is no such layer in `net`, a name is of none, it already has gates, a number is out of range,
            `family` is none, `threshold` or `initial_keep_probability` is given and no gate takes it, or `tie` is
            another word or comes without an `example_input` that the network can take.
    """
    if tie not in (None, "residual"):
        raise ValueError(f"tie is {tie!r}, wanted None or 'residual'")
    if (tie is None) != (example_input is None):
        missing = "example_input is missing: tie" if tie else "tie is None: example_input"
        raise ValueError(f"{missing} wants the other too, as in tie='residual', example_input=x[:2]")
    families = _families(family, threshold, initial_keep_probability)
    if gates_of(net):
        raise ValueError("net: it already has BetaBernoulliDropout gates; insert_dropout wants a plain network")
    for name, module in net.named_modules():
        check_module(name, module)
    gated = copy.deepcopy(net)
    zero_denormal(gated.parameters())
    layers = {n: m for n, m in gated.named_modules() if type(m) in (nn.Linear, *_CONVOLUTIONS) or is_norm(m)}
    weighted = [name for name, module in layers.items() if not is_norm(module)]
    only, exclude = ([names] if isinstance(names, str) else list(names) for names in (only, exclude))
    for argument, patterns in (("only", only), ("exclude", exclude)):
        for pattern in patterns:
            if weighted and not fnmatch.filter(weighted, pattern):
                raise ValueError(f"{argument}: {pattern!r} is none of the layers {', '.join(weighted)}")
    chosen = [n for n in weighted if _matches(n, only) and not _matches(n, exclude)]
    places = [_place(layers, name) for name in chosen if name != weighted[-1] or type(layers[name]) is nn.Linear]
    if weighted and not places:
        raise ValueError(f"only and exclude leave none of the layers {', '.join(weighted)} that can have a gate")
    if not places:
        raise ValueError(
            f"net: it has no nn.Linear layer to gate, nor a convolution before its last layer{_almost(gated)}"
        )
    names = {module: f"{name}.gate".lstrip(".") for name, module in gated.named_modules()}
    for together in _tied(gated, places, example_input) if tie else [[place] for place in places]:
        _add_gate(together, _family_of(names[together[0]], families))
    unused = [n for n in families if not fnmatch.filter((names[place] for place in places), n)]
    if unused:
        raise ValueError(f"family: {unused[0]!r} is none of the gates {', '.join(names[place] for place in places)}")
    for module in gated.modules():
        if isinstance(module, nn.TransformerEncoder) and gates_of(module):
            module.use_nested_tensor = False  # which it makes of padded data in evaluation, and a gate has no mask for
    return gated


def _families(family: Any, threshold: float | None, initial_keep_probability: float | None) -> dict[str, Family]:
    """The families of gates by their names, those of Beta-Bernoulli dropout with what is said of it."""
    p = initial_keep_probability
    if p is not None and not MIN_START <= p <= 1 - MIN_START:
        raise ValueError(f"initial_keep_probability is {p}, wanted a number from {MIN_START} to {1 - MIN_START}")
    families = as_family(family)
    said: dict[str, Any] = {} if threshold is None else {"threshold": threshold}
    said |= {} if p is None else {"concentration1": p / (1 - p)}  # a / (1 + a) is the mean where b = 1
    ours = [n for n, each in families.items() if is_beta_bernoulli(each)]
    if said and not ours:
        name = "initial_keep_probability" if threshold is None else "threshold"
        raise ValueError(f"{name} is of Beta-Bernoulli dropout, and no gate is of that; leave it out")
    of_ours = functools.partial(BetaBernoulliDropout, **said)
    return families | dict.fromkeys(ours, of_ours)


def _family_of(gate: str, families: Mapping[str, Family]) -> Family:
    fitting = [family for name, family in families.items() if fnmatch.fnmatchcase(gate, name)]
    if not fitting:
        raise ValueError(f"family: none of {', '.join(map(repr, families))} is the gate {gate!r}; add '*' for the rest")
    return fitting[0]


def _almost(net: nn.Module) -> str:
    """What there is in place of a layer to gate, and what to do about it."""
    for name, module in net.named_modules():
        if parametrize.is_parametrized(module):
            return (
                f": the weight of {name!r} is computed anew at each call, by a parametrization such as weight_norm; "
                "take it off with torch.nn.utils.parametrize.remove_parametrizations(layer, 'weight')"
            )
    kinds = (nn.Linear, *_CONVOLUTIONS)
    near = [
        f"{n!r} ({type(m).__name__})" for n, m in net.named_modules() if isinstance(m, kinds) and type(m) not in kinds
    ]
    reason = f": {', '.join(near)} may use its weight otherwise" if near else ""
    return f"{reason}; place BetaBernoulliDropout layers by hand"


def _matches(name: str, patterns: Sequence[str]) -> bool:
    return any(fnmatch.fnmatchcase(name, pattern) for pattern in patterns)


def is_norm(module: nn.Module) -> bool:
    """Whether a module is a batch norm, or a frozen one, which has a batch norm's numbers as buffers."""
    frozen = {"weight", "bias", "running_mean", "running_var"}
    return isinstance(module, _BatchNorm) or frozen <= set(module._buffers.keys())


def _place(layers: dict[str, nn.Module], name: str) -> nn.Module:
    """The module that holds a layer's gate: itself, or the batch norm that follows a convolution."""
    layer, after = layers[name], list(layers.values())[list(layers).index(name) + 1 :][:2]
    norms = [is_norm(module) for module in after]
    if (
        isinstance(layer, _CONVOLUTIONS) and norms[:1] == [True] and norms != [True, True]
    ):  # of two, whose is the first?
        return after[0] if _num_units(after[0]) == layer.out_channels else layer
    return layer


def _num_units(place: Any) -> int:
    """Of a layer's gate."""
    if isinstance(place, nn.Linear):
        return place.in_features
    if isinstance(place, _CONVOLUTIONS):
        return place.out_channels
    return place.num_features if isinstance(place, _BatchNorm) else len(place.running_mean)


def _tied(net: nn.Module, places: list[Any], example_input: Nest) -> list[list[Any]]:
    """The places whose units can only go together, one by one; each place is in one list."""
    names = {module: name for name, module in net.named_modules()}
    try:
        with in_eval_mode(net):
            units = follow_units(net, example_input)
    except FAILURES as error:
        why = reason_of(error)
        raise ValueError(f"example_input: the network cannot take it ({why}); give one like the data") from error
    groups = units.groups()
    together: dict[Any, list[Any]] = {}
    for place in places:
        is_dense = isinstance(place, nn.Linear)
        tensor = "weight" if place.weight is not None else "running_mean"  # a batch norm may have no weights
        slices = units.slices(f"{names[place]}.{tensor}".lstrip("."), int(is_dense))
        together.setdefault((is_dense, *groups[slices]), []).append(place)
    return list(together.values())


def _add_gate(places: Sequence[Any], family: Family) -> None:
    """One gate for all of these places."""
    place = places[0]
    is_dense = isinstance(place, nn.Linear)
    try:
        gate = family(_num_units(place), dim=-1 if is_dense else 1)
    except TypeError as error:
        raise ValueError(f"family: {family!r} takes no number of units and dim=-1 or 1 ({error})") from error
    check_gate(gate)
    tensor = next((t for t in (*place.parameters(), *place.buffers()) if t.is_floating_point()), torch.empty(0))
    gate.to(tensor)
    for place in places:
        if is_dense:
            place.register_forward_pre_hook(_apply_gate, with_kwargs=True)
        else:
            place.register_forward_hook(_gate_output)
        place.add_module("gate", gate)


def _gate_output(place: nn.Module, args: Any, output: Tensor) -> Tensor:
    gated: Tensor = place.get_submodule("gate")(output)
    return gated


def _apply_gate(
    linear: nn.Module, args: tuple[Tensor, ...], kwargs: dict[str, Tensor]
) -> tuple[tuple[Tensor, ...], dict[str, Tensor]]:
    gate = linear.get_submodule("gate")
    return (gate(args[0] if args else kwargs["input"]),), {}


def remove_dropout(place: nn.Module) -> None:
    """Take the gate that :func:`insert_dropout` made off a layer again, in place."""
    del place.gate
    for hooks in (place._forward_pre_hooks, place._forward_hooks):
        for key, hook in list(hooks.items()):
            if hook in (_apply_gate, _gate_output):
                del hooks[key]
                place._forward_pre_hooks_with_kwargs.pop(key, None)
