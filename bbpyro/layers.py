"""The layer that multiplies by z, and how to put it into a network."""

import copy
import fnmatch
import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from pyro.distributions.torch_distribution import TorchDistribution
from pyro.nn import PyroModule
from torch import Tensor, nn
from torch.nn.parameter import UninitializedParameter
from torch.nn.utils import parametrize

from bbpyro.denormals import zero_denormal
from bbpyro.distributions import Kumaraswamy

MIN_CONCENTRATION = 1e-6
MIN_START = 1e-5  # of the keep probability at which training starts, and of what it lacks to 1
_CONCENTRATION1 = math.log1p(math.exp(-1.0))  # where the source starts: softplus(-1)


def kumaraswamy(concentration1: Tensor, concentration0: Tensor) -> Kumaraswamy:
    """The family of q(π) unless a prior brings its own."""
    return Kumaraswamy(concentration1, concentration0, validate_args=False)


class BetaBernoulliDropout(nn.Module):
    """A gate: multiplies each of its units by a mask z ~ Bernoulli(π) whose keep probabilities π are learnt.

    It holds the parameters a, b of q(π), which is Kumaraswamy(a, b) unless the prior of
    :class:`bbpyro.BetaBernoulliNetwork` says otherwise, and a place for z, and samples nothing itself. Inside
    :class:`bbpyro.BetaBernoulliNetwork` z is bound for each call; anywhere else it multiplies by E[π] where that
    exceeds the threshold and by 0 elsewhere, so a trained network is usable as it stands.

    Args:
        num_features: number of units K, the size of the input's dimension `dim`.
        threshold: a unit is kept when E[π] > threshold; in [0, 1). A prior that leaves idle units above it raises it.
        concentration1: starting value of a (by default the source's, softplus(-1)).
        concentration0: starting value of b.
        dim: the dimension of the units: -1, or 1 for the channels of a convolution.

    Shapes: input and output `[N, ..., K]`, of channels `[N, K, ...]`; z, where bound, `[N, K]`: one mask a datum,
    shared by the other dimensions.

    Raises:
        ValueError: num_features < 1, a threshold outside [0, 1), a concentration that is not positive, a dim that is
            neither -1 nor 1, an input whose dimension `dim` is not of size `num_features`, or a z of another number of
            data.
    """

    z: Tensor | None
    unconstrained_concentration1: nn.Parameter
    unconstrained_concentration0: nn.Parameter
    family: Callable[[Tensor, Tensor], TorchDistribution] | None = None  # from (a, b) to q(π); None: not yet in use

    def __init__(
        self,
        num_features: int,
        threshold: float = 1e-3,
        concentration1: float = _CONCENTRATION1,
        concentration0: float = 1.0,
        dim: int = -1,
    ) -> None:
        super().__init__()
        if num_features < 1:
            raise ValueError(f"num_features is {num_features}, wanted at least 1")
        if not 0 <= threshold < 1:
            raise ValueError(f"threshold is {threshold}, wanted a keep probability in [0, 1)")
        if dim not in (-1, 1):
            raise ValueError(f"dim is {dim}, wanted -1, or 1 for the channels of a convolution")
        self.num_features, self.dim = num_features, dim
        self.threshold = self.own_threshold = threshold
        self._start: list[float] = []
        for name, start in (("concentration1", concentration1), ("concentration0", concentration0)):
            if not MIN_CONCENTRATION < start < math.inf:
                raise ValueError(f"{name} is {start}, wanted a number above {MIN_CONCENTRATION}")
            unconstrained = math.log(math.expm1(start - MIN_CONCENTRATION)) if start < 30 else start
            self._start.append(unconstrained)
            self.register_parameter(f"unconstrained_{name}", nn.Parameter(torch.full((num_features,), unconstrained)))
        self.register_buffer("z", None)

    def check_family(self, name: str, family: Callable[[Tensor, Tensor], TorchDistribution]) -> None:
        """Raise a ValueError where the gate, of this name in the network, is in use under another family of q(π)."""
        if self.family is not None and not self.is_of(family):
            raise ValueError(
                f"net: its gate {name!r} is already in use under another family of q(π) than this prior wants; give "
                "each network its own gates, by insert_dropout"
            )

    def is_of(self, family: Callable[[Tensor, Tensor], TorchDistribution]) -> bool:
        """Whether the gate is in use under this family of q(π)."""
        return self.family is not None and _is_same(self.family, family)

    def posterior(self) -> TorchDistribution:
        """q(π) of the K units: batch shape `[K]`, or event shape `[K]` where they depend on each other."""
        a = F.softplus(self.unconstrained_concentration1) + MIN_CONCENTRATION
        b = F.softplus(self.unconstrained_concentration0) + MIN_CONCENTRATION
        return (self.family or kumaraswamy)(a, b)

    @property
    def is_untrained(self) -> bool:
        """Whether q(π) still is what it was made as, to what half precision leaves of it."""
        parameters = (self.unconstrained_concentration1, self.unconstrained_concentration0)
        return all(bool(((p - start).abs() < 1e-3).all()) for p, start in zip(parameters, self._start, strict=True))

    def keep_probability(self) -> Tensor:
        """E[π] under q, `[K]`."""
        return self.posterior().mean

    def kept(self) -> Tensor:
        """Which units are kept, a boolean `[K]`."""
        return self.keep_probability() > self.threshold

    def forward(self, x: Tensor) -> Tensor:
        """`x` times z where z is bound, times the thresholded E[π] elsewhere."""
        if x.dim() < 2 - (self.dim == -1) or x.shape[self.dim] != self.num_features:
            raise ValueError(
                f"BetaBernoulliDropout({self.num_features}) got an input of shape {tuple(x.shape)}; "
                f"its {'last' if self.dim == -1 else 'channel'} dimension must be {self.num_features}"
            )
        mask = self.mean_mask() if self.z is None else self.z
        if mask.dim() == 2 and len(mask) not in (1, len(x)):
            raise ValueError(
                f"BetaBernoulliDropout({self.num_features}) got {len(x)} rows where z has a mask for each of "
                f"{len(mask)} data; time or patches must have a dimension of their own, not be folded into the batch's"
            )
        others = max(0, x.dim() - max(2, mask.dim()))
        if self.dim == 1:
            return x * mask.reshape(*mask.shape, *[1] * others)
        return x * mask.reshape(*mask.shape[:-1], *[1] * (others if mask.dim() > 1 else 0), self.num_features)

    def mean_mask(self) -> Tensor:
        """E[π] of the units that are kept, 0 of the others, `[K]`."""
        mean = self.keep_probability()
        return torch.where(mean > self.threshold, mean, 0.0)

    def extra_repr(self) -> str:
        """What print(net) shows."""
        return f"{self.num_features}, threshold={self.threshold:g}"


def _is_same(one: Any, other: Any) -> bool:
    """Whether these are one function, or the methods of equal objects."""
    return all(getattr(one, a, one) == getattr(other, a, other) for a in ("__func__", "__self__"))


def gates_of(net: nn.Module) -> dict[str, BetaBernoulliDropout]:
    """The gates of a network by name, in its order."""
    return {name: module for name, module in net.named_modules() if isinstance(module, BetaBernoulliDropout)}


def weights_of(net: nn.Module) -> dict[str, nn.Parameter]:
    """Every parameter of a network that is no gate's and not frozen, by name."""
    return parameters_outside(net, BetaBernoulliDropout)


def parameters_outside(net: nn.Module, kind: type[nn.Module]) -> dict[str, nn.Parameter]:
    """Every parameter of a network that is of no module of this kind and not frozen, by name."""
    found: dict[int, tuple[str, nn.Parameter]] = {}  # by identity, for layers may share a weight
    for name, module in net.named_modules():
        if not isinstance(module, kind):
            for full_name, p in module.named_parameters(name, recurse=False):
                found.setdefault(id(p), (full_name, p))
    return {name: p for name, p in found.values() if p.requires_grad}


def check_modules(net: nn.Module) -> None:
    """Raise a ValueError unless the network has gates, and no module that cannot be in a BetaBernoulliNetwork."""
    if not gates_of(net):
        raise ValueError("net: it has no BetaBernoulliDropout gate; make one with bbpyro.insert_dropout(net)")
    for name, module in net.named_modules():
        _check_module(name, module)


def _check_module(name: str, module: nn.Module) -> None:
    if isinstance(module, PyroModule):
        raise ValueError(
            f"net: its layer {name!r} is a PyroModule, which makes sites of its own of the weights, as bbpyro's model "
            f"does; make the network of torch's own layers, such as nn.{_torch_name(module)}, and give the prior of W "
            "as weight_prior"
        )
    if "/" in name:
        raise ValueError(
            f"net: a module is named {name!r}, and files of the posterior take no '/' in a name; rename it, to "
            f"{name.replace('/', '_')!r}, say"
        )
    if any(isinstance(parameter, UninitializedParameter) for parameter in module.parameters(recurse=False)):
        raise ValueError(f"net: its layer {name!r} is lazy and has no weights yet; call the network on some data first")


def _torch_name(module: nn.Module) -> str:
    kinds = [kind for kind in type(module).__mro__ if kind.__module__.startswith("torch.nn")]
    return kinds[0].__name__ if kinds else "Module"


_CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)
_BATCH_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)


def insert_dropout(
    net: nn.Module,
    threshold: float = 1e-3,
    *,
    only: Sequence[str] = ("*",),
    exclude: Sequence[str] = (),
    initial_keep_probability: float | None = None,
) -> nn.Module:
    """A copy of `net` with a gate on the input of each `nn.Linear`, and on the output channels of each convolution.

    The gate of a dense layer `fc1` is the submodule `fc1.gate` and acts on its input. That of a convolution acts on
    its output, or, where the next layer in the order of definition is a batch norm of its channels, on the output of
    that, `bn1.gate`; before the activation, which for ReLU (and max pooling after it) is the same as after. A
    convolution that is the last layer is left alone: its channels are the answer. Weights keep their names and any
    forward() works. Subclasses, transposed convolutions and other layers are left alone.

    Args:
        net: any module with at least one `nn.Linear`, `nn.Conv1d`, `nn.Conv2d` or `nn.Conv3d`.
        threshold: a unit is kept when E[π] > threshold.
        only: names of the layers to gate, with * for any characters.
        exclude: names of layers not to gate.
        initial_keep_probability: E[π] where training starts, from 1e-5 to 1 - 1e-5, with b = 1; by default the
            source's, about 0.24. A deep network learns nothing through many layers of that: 0.95, say, is for it.

    Returns:
        The gated copy, with gates on the same device and of the same dtype as the layer they belong to.

    Raises:
        ValueError: there is no such layer in `net`, a name is of none, it already has gates, or a number is out of
            range.
    """
    p = initial_keep_probability
    if p is not None and not MIN_START <= p <= 1 - MIN_START:
        raise ValueError(f"initial_keep_probability is {p}, wanted a number from {MIN_START} to {1 - MIN_START}")
    concentration1 = _CONCENTRATION1 if p is None else p / (1 - p)  # a / (1 + a) is the mean where b = 1
    if gates_of(net):
        raise ValueError("net: it already has BetaBernoulliDropout gates; insert_dropout wants a plain network")
    for name, module in net.named_modules():
        _check_module(name, module)
    gated = copy.deepcopy(net)
    zero_denormal(gated.parameters())
    layers = {name: m for name, m in gated.named_modules() if type(m) in (nn.Linear, *_CONVOLUTIONS, *_BATCH_NORMS)}
    weighted = [name for name, module in layers.items() if type(module) not in _BATCH_NORMS]
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
    for place in places:
        _add_gate(place, threshold, concentration1)
    for module in gated.modules():
        if isinstance(module, nn.TransformerEncoder) and gates_of(module):
            module.use_nested_tensor = False  # which it makes of padded data in evaluation, and a gate has no mask for
    return gated


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


def _place(layers: dict[str, nn.Module], name: str) -> nn.Module:
    """The module that holds a layer's gate: itself, or the batch norm that follows a convolution."""
    layer, after = layers[name], list(layers.values())[list(layers).index(name) + 1 :]
    norms = [isinstance(module, _BATCH_NORMS) for module in after[:2]]
    if (
        isinstance(layer, _CONVOLUTIONS) and norms[:1] == [True] and norms != [True, True]
    ):  # of two, whose is the first?
        return after[0] if after[0].num_features == layer.out_channels else layer
    return layer


def _add_gate(place: Any, threshold: float, concentration1: float) -> None:
    if isinstance(place, nn.Linear):
        gate = BetaBernoulliDropout(place.in_features, threshold, concentration1)
        place.register_forward_pre_hook(_apply_gate, with_kwargs=True)
    else:
        channels = place.num_features if isinstance(place, _BATCH_NORMS) else place.out_channels
        gate = BetaBernoulliDropout(channels, threshold, concentration1, dim=1)
        place.register_forward_hook(_gate_output)
    tensor = next((t for t in (*place.parameters(), *place.buffers()) if t.is_floating_point()), torch.empty(0))
    place.add_module("gate", gate.to(tensor))


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


def device_of(net: nn.Module) -> torch.device:
    """Where a network's parameters are."""
    return next(net.parameters()).device
