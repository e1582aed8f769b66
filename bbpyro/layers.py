"""The layer that multiplies by z, and how to put it into a network."""

import copy
import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bbpyro.distributions import Kumaraswamy

MIN_CONCENTRATION = 1e-6


class BetaBernoulliDropout(nn.Module):
    """A gate: multiplies each of its units by a mask z ~ Bernoulli(π) whose keep probabilities π are learnt.

    It holds the parameters of q(π) = Kumaraswamy(a, b) and a place for z, and samples nothing itself. Inside
    :class:`bbpyro.BetaBernoulliNetwork` z is bound for each call; anywhere else it multiplies by E[π] where that
    exceeds the threshold and by 0 elsewhere, so a trained network is usable as it stands.

    Args:
        num_features: number of units K, the size of the input's last dimension.
        threshold: a unit is kept when E[π] > threshold; in [0, 1).
        concentration1: starting value of a (the source's is softplus(-1)).
        concentration0: starting value of b.

    Shapes: input and output `[N, ..., K]`; z, where bound, `[N, K]`: one mask a datum, shared by dimensions between.

    Raises:
        ValueError: num_features < 1, a threshold outside [0, 1), a concentration that is not positive, or an
            input whose last dimension is not `num_features`.
    """

    z: Tensor | None
    unconstrained_concentration1: nn.Parameter
    unconstrained_concentration0: nn.Parameter

    def __init__(
        self,
        num_features: int,
        threshold: float = 1e-3,
        concentration1: float = math.log1p(math.exp(-1.0)),
        concentration0: float = 1.0,
    ) -> None:
        super().__init__()
        if num_features < 1:
            raise ValueError(f"num_features is {num_features}, wanted at least 1")
        if not 0 <= threshold < 1:
            raise ValueError(f"threshold is {threshold}, wanted a keep probability in [0, 1)")
        self.num_features, self.threshold = num_features, threshold
        self._start: list[float] = []
        for name, start in (("concentration1", concentration1), ("concentration0", concentration0)):
            if not MIN_CONCENTRATION < start < math.inf:
                raise ValueError(f"{name} is {start}, wanted a number above {MIN_CONCENTRATION}")
            unconstrained = math.log(math.expm1(start - MIN_CONCENTRATION)) if start < 30 else start
            self._start.append(unconstrained)
            self.register_parameter(f"unconstrained_{name}", nn.Parameter(torch.full((num_features,), unconstrained)))
        self.register_buffer("z", None)

    def posterior(self) -> Kumaraswamy:
        """q(π), batch shape `[K]`."""
        return Kumaraswamy(
            F.softplus(self.unconstrained_concentration1) + MIN_CONCENTRATION,
            F.softplus(self.unconstrained_concentration0) + MIN_CONCENTRATION,
            validate_args=False,
        )

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
        if x.shape[-1] != self.num_features:
            raise ValueError(
                f"BetaBernoulliDropout({self.num_features}) got an input of shape {tuple(x.shape)}; "
                f"its last dimension must be {self.num_features}"
            )
        if self.z is None:
            mean = self.keep_probability()
            return x * torch.where(mean > self.threshold, mean, 0.0)
        between = max(0, x.dim() - self.z.dim())
        return x * self.z.reshape(*self.z.shape[:-1], *[1] * between, self.num_features)

    def extra_repr(self) -> str:
        """What print(net) shows."""
        return f"{self.num_features}, threshold={self.threshold:g}"


def insert_dropout(net: nn.Module, threshold: float = 1e-3) -> nn.Module:
    """A copy of `net` with a gate on the input of each `nn.Linear`; the original is left as it is.

    The gate of layer `fc1` is the submodule `fc1.gate` and acts as a forward pre-hook, so the weights keep their
    names and any forward() works. Subclasses of `nn.Linear` and other layers are left alone.

    Args:
        net: any module with at least one `nn.Linear`.
        threshold: a unit is kept when E[π] > threshold.

    Returns:
        The gated copy, with gates on the same device and of the same dtype as the layer they belong to.

    Raises:
        ValueError: there is no `nn.Linear` in `net`, or it already has gates.
    """
    if any(isinstance(module, BetaBernoulliDropout) for module in net.modules()):
        raise ValueError("net: it already has BetaBernoulliDropout gates; insert_dropout wants a plain network")
    gated = copy.deepcopy(net)
    linears = [module for module in gated.modules() if type(module) is nn.Linear]
    if not linears:
        raise ValueError("net: it has no nn.Linear layer to gate; place BetaBernoulliDropout layers by hand")
    for linear in linears:
        linear.add_module("gate", BetaBernoulliDropout(linear.in_features, threshold).to(linear.weight))
        linear.register_forward_pre_hook(_apply_gate, with_kwargs=True)
    return gated


def _apply_gate(
    linear: nn.Module, args: tuple[Tensor, ...], kwargs: dict[str, Tensor]
) -> tuple[tuple[Tensor, ...], dict[str, Tensor]]:
    gate = linear.get_submodule("gate")
    return (gate(args[0] if args else kwargs["input"]),), {}


def remove_dropout(linear: nn.Module) -> None:
    """Take the gate that :func:`insert_dropout` made off a layer again, in place."""
    del linear.gate
    for key, hook in list(linear._forward_pre_hooks.items()):
        if hook is _apply_gate:
            del linear._forward_pre_hooks[key]
            linear._forward_pre_hooks_with_kwargs.pop(key, None)
