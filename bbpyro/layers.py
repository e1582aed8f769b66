"""The layer that multiplies by z, and what is in a network that has some."""

import contextlib
import math
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch
import torch.nn.functional as F
from pyro.distributions.torch_distribution import TorchDistribution
from pyro.nn import PyroModule
from torch import Tensor, nn
from torch.nn.parameter import UninitializedParameter

from bbpyro.distributions import Kumaraswamy

PARAMETERS = ("unconstrained_concentration1", "unconstrained_concentration0")  # of a gate
MIN_CONCENTRATION = 1e-6
MIN_START = 1e-5  # of the keep probability at which training starts, and of what it lacks to 1
CONCENTRATION1 = math.log1p(math.exp(-1.0))  # where the source starts: softplus(-1)


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
        concentration1: starting value of a; by default the source's, softplus(-1), or what fit() makes of it.
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
        concentration1: float | None = None,
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
        self.dim = dim
        self.threshold = self.own_threshold = threshold
        self.starts_by_default = concentration1 is None
        self._start: list[float] = []
        concentration1 = CONCENTRATION1 if concentration1 is None else concentration1
        for name, start in (("concentration1", concentration1), ("concentration0", concentration0)):
            if not MIN_CONCENTRATION < start < math.inf:
                raise ValueError(f"{name} is {start}, wanted a number above {MIN_CONCENTRATION}")
            unconstrained = math.log(math.expm1(start - MIN_CONCENTRATION)) if start < 30 else start
            self._start.append(unconstrained)
            self.register_parameter(f"unconstrained_{name}", nn.Parameter(torch.full((num_features,), unconstrained)))
        self.register_buffer("z", None)

    @property
    def num_features(self) -> int:
        """K, the number of units."""
        return len(self.unconstrained_concentration1)

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

    @torch.no_grad()
    def begin_uniform(self) -> None:
        """Have q(π) be uniform, as Kumaraswamy(1, 1) is, unless it was trained or another start was asked for."""
        if self.starts_by_default and self.is_untrained:
            self._start = [math.log(math.expm1(1 - MIN_CONCENTRATION))] * 2
            self.unconstrained_concentration1.fill_(self._start[0])
            self.unconstrained_concentration0.fill_(self._start[1])

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


def posteriors(gates: Mapping[str, BetaBernoulliDropout]) -> dict[str, TorchDistribution]:
    """q(π) of each gate, by name; gates of the default family that are alike are drawn from as one."""
    if not _are_alike(list(gates.values())):
        return {name: gate.posterior() for name, gate in gates.items()}
    one = [gate.unconstrained_concentration1 for gate in gates.values()]
    zero = [gate.unconstrained_concentration0 for gate in gates.values()]
    return dict(zip(gates, Kumaraswamy.of_unconstrained(one, zero, MIN_CONCENTRATION), strict=True))


def _are_alike(gates: list[BetaBernoulliDropout]) -> bool:
    """Whether all are of the default family, one dtype and one device."""
    parameters = [p for gate in gates for p in (gate.unconstrained_concentration1, gate.unconstrained_concentration0)]
    is_default = all(
        type(gate).posterior is BetaBernoulliDropout.posterior and gate.family in (None, kumaraswamy) for gate in gates
    )
    return is_default and len({(p.dtype, p.device, p.dim()) for p in parameters}) == 1


def _is_same(one: Any, other: Any) -> bool:
    """Whether these are one function, or the methods of equal objects."""
    return all(getattr(one, a, one) == getattr(other, a, other) for a in ("__func__", "__self__"))


def gates_of(net: nn.Module) -> dict[str, BetaBernoulliDropout]:
    """The gates of a network by name, in its order."""
    return {name: module for name, module in _modules_of(net) if isinstance(module, BetaBernoulliDropout)}


def _modules_of(net: nn.Module) -> list[tuple[str, nn.Module]]:
    """What net.named_modules() gives, in a quarter of its time: each step of training asks five times."""
    found: dict[int, tuple[str, nn.Module]] = {}
    waiting: list[tuple[str, nn.Module | None]] = [("", net)]
    while waiting:
        name, module = waiting.pop()
        if module is not None and id(module) not in found:
            found[id(module)] = name, module
            prefix = f"{name}." if name else ""
            waiting += [(prefix + child, part) for child, part in reversed(module._modules.items())]
    return list(found.values())


@contextlib.contextmanager
def called_gates(net: nn.Module) -> Iterator[set[str]]:
    """For a while, the names of the gates that are called."""
    called: set[str] = set()
    handles = [
        gate.register_forward_pre_hook(lambda gate, args, name=name: called.add(name))
        for name, gate in gates_of(net).items()
    ]
    try:
        yield called
    finally:
        for handle in handles:
            handle.remove()


def weights_of(net: nn.Module) -> dict[str, nn.Parameter]:
    """Every parameter of a network that is no gate's and not frozen, by name."""
    return parameters_outside(net, BetaBernoulliDropout)


def parameters_outside(net: nn.Module, kind: type[nn.Module]) -> dict[str, nn.Parameter]:
    """Every parameter of a network that is of no module of this kind and not frozen, by name."""
    found: dict[int, tuple[str, nn.Parameter]] = {}  # by identity, for layers may share a weight
    for name, module in _modules_of(net):
        if module._parameters and not isinstance(module, kind):
            for full_name, p in module.named_parameters(name, recurse=False):
                found.setdefault(id(p), (full_name, p))
    return {name: p for name, p in found.values() if p.requires_grad}


def check_modules(net: nn.Module) -> None:
    """Raise a ValueError unless the network has gates, and no module that cannot be in a BetaBernoulliNetwork."""
    if not gates_of(net):
        raise ValueError("net: it has no BetaBernoulliDropout gate; make one with bbpyro.insert_dropout(net)")
    for name, module in net.named_modules():
        check_module(name, module)


def check_module(name: str, module: nn.Module) -> None:
    """Raise a ValueError where a module cannot be in a BetaBernoulliNetwork."""
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


def device_of(net: nn.Module) -> torch.device:
    """Where a network's parameters are."""
    return next(net.parameters()).device
