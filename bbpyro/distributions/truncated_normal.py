"""A Normal on an interval, right to the last digits however far away its centre is and however wide it is.

With x ~ N(loc, scale²) on [low, high], everything is written from a point r of the interval, the likeliest one, so
that nothing is a small difference of large numbers:

    f(x) = ((r - loc)² - (x - loc)²) / (2 scale²) = -d (d + 2 (r - loc)) / (2 scale²),    d = x - r

Expectations are sums over Gauss-Legendre nodes where exp(f) is not negligible. Their closed forms cancel: far out,
the moments of a truncated Normal are differences of cdfs that are 0 in float64. A draw has a datum's cost, not a
unit's, so it has a closed form, in s = (x - loc) / scale and with Mills' ratio M(s) = Q(s) / φ(s), where φ and Q
are the standard Normal's density and upper tail.
"""

import functools
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

_NUM_NODES = 64
_NEGLIGIBLE = 42.0  # e^-42 is 6e-19
_FAR = 5.0  # standard deviations from the interval to the centre, from where Mills' ratio is used
_LARGEST = 700.0  # e^700 and e^-700 are normal numbers; denormal ones are slow
_NUM_STEPS = 3
_NUM_TERMS = 8


@dataclass(frozen=True)
class TruncatedNormal:
    """x ~ N(loc, scale²) on [low, high], of float64 tensors that broadcast; no gradient goes to low and high."""

    loc: Tensor
    scale: Tensor
    low: Tensor
    high: Tensor

    @functools.cached_property
    def likeliest(self) -> Tensor:
        """The point r, a constant."""
        return self.loc.detach().clamp(self.low, self.high)

    def log_ratio(self, d: Tensor) -> Tensor:
        """f(r + d): the log-density, less that at r."""
        return -d * (d + 2 * (self.likeliest - self.loc)) / (2 * self.scale.square())

    @functools.cached_property
    def _nodes(self) -> tuple[Tensor, Tensor]:
        """At each node, in front of all other dimensions: d, and its mass of exp(f)."""
        return self._nodes_on(self.low, self.high)

    @functools.cached_property
    def _mass(self) -> Tensor:
        """The integral of exp(f)."""
        return self._nodes[1].sum(0)

    def _nodes_on(self, low: Tensor, high: Tensor) -> tuple[Tensor, Tensor]:
        d, weights = self._place_nodes(low, high)
        return d, self.log_ratio(d).exp() * weights

    @torch.no_grad()
    def _place_nodes(self, low: Tensor, high: Tensor) -> tuple[Tensor, Tensor]:
        """Where exp(f), or exp(f + 2x), of which the variance of e^x is made, is not negligible in [low, high]."""
        start = self.loc.clamp(low, high)
        slope = (start - self.loc) / self.scale.square()
        down = torch.minimum(self._reach(-slope), start - low)
        up = torch.minimum(self._reach(slope - 2), high - start)
        nodes, weights = (each.view(-1, *[1] * up.dim()) for each in _gauss_legendre(up.device))
        return (down + up) * nodes - down + (start - self.likeliest), (down + up) * weights

    def _reach(self, slope: Tensor) -> Tensor:
        """The positive root t of t² / (2 scale²) + slope t = -log(negligible)."""
        root = (slope.square() + 2 * _NEGLIGIBLE / self.scale.square()).sqrt()
        return 2 * _NEGLIGIBLE / (slope + root)

    def expectation(self, function: Callable[[Tensor], Tensor]) -> Tensor:
        """E[function(x - r)]; the function takes and gives `[nodes, ...]`."""
        d, masses = self._nodes
        return (masses * function(d)).sum(0) / self._mass

    def log_density(self, x: Tensor) -> Tensor:
        """Of x in the interval."""
        d, precision = x - self.likeliest, self.scale.square().reciprocal()
        slope = (self.loc - self.likeliest) * precision
        return d * torch.addcmul(slope, d, -precision / 2) - self._mass.log()

    def entropy(self) -> Tensor:
        """-E[log density], in nats."""
        return self._mass.log() - self.expectation(self.log_ratio)

    def cdf(self, x: Tensor) -> Tensor:
        """Of x in the interval."""
        is_upper = x > self.quantile(torch.full_like(x, 0.5))
        fixed = x.detach()
        _, masses = self._nodes_on(torch.where(is_upper, fixed, self.low), torch.where(is_upper, self.high, fixed))
        share = masses.sum(0) / self._mass
        return torch.where(is_upper, 1 - share, share) + _slope_only(x, self.log_density(fixed).exp())

    def quantile(self, q: Tensor) -> Tensor:
        """The inverse of the cdf."""
        x: Tensor = _Quantile.apply(q, self.loc, self.scale, self.low, self.high)
        return x + _slope_only(q, torch.exp(-self.log_density(x.detach()))) if q.requires_grad else x


def _slope_only(x: Tensor, slope: Tensor) -> Tensor:
    """0, whose gradient to x is the slope."""
    return (x - x.detach()) * slope.detach()


@functools.lru_cache(maxsize=4)
def _gauss_legendre(device: torch.device) -> tuple[Tensor, Tensor]:
    """Nodes and weights on [0, 1]."""
    nodes, weights = np.polynomial.legendre.leggauss(_NUM_NODES)
    return torch.as_tensor((nodes + 1) / 2, device=device), torch.as_tensor(weights / 2, device=device)


class _Quantile(torch.autograd.Function):
    """x of cdf(x) = q, with the implicit derivatives -(∂cdf/∂loc) / density and -(∂cdf/∂scale) / density.

    The interval is mirrored where its upper end is the nearer one to loc. Then it is [a, b] = [a, a + w] in s, and
    x is y above a. With h(y) = φ(a + y) / φ(a), a share F of the mass below x and S above, both derivatives follow from

        ∂x/∂loc = 1 - S/h(y) - F h(w)/h(y)        ∂x/∂scale = s - a S/h(y) - b F h(w)/h(y)

    which far out, where they cancel, is with K(s) = 1 - s M(s)

        ∂x/∂loc = y M(s) + K(s) - F h(w)/h(y) (w M(b) + K(b)) - K(a) S/h(y)
        ∂x/∂scale = y + a ∂x/∂loc - w F h(w)/h(y)
    """

    @staticmethod
    def forward(ctx: Any, q: Tensor, loc: Tensor, scale: Tensor, low: Tensor, high: Tensor) -> Tensor:
        is_mirrored = loc - low > high - loc
        sign = torch.where(is_mirrored, -1.0, 1.0).double()
        near, w = torch.where(is_mirrored, high, low), (high - low) / scale
        a = sign * (near - loc) / scale
        plus = (1 - sign) / 2  # 1 where it is mirrored; torch.where takes ten times as long
        below, above = torch.addcmul(plus, q, sign), torch.addcmul(1 - plus, q, -sign)
        s = _near_quantile(below, above, a.clamp_max(_FAR), w)
        x = torch.addcmul(loc, sign * scale, s)
        by_loc, by_scale = _near_slopes(below, above, a, w, s)
        if bool((a > _FAR).any()):  # of few units, and each costs ten times as much as another
            far = _where(a > _FAR, x.shape)
            below, above, a, w, near, step = (
                each.expand(x.shape)[far] for each in (below, above, a, w, near, sign * scale)
            )
            y = _far_quantile(below, above, a, w)
            x[far] = near + step * y
            by_loc[far], by_scale[far] = _far_slopes(below, above, a, w, y)
        ctx.save_for_backward(by_loc, sign * by_scale)
        ctx.shapes = loc.shape, scale.shape
        return x.clamp(low, high)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Any, ...]:
        by_loc, by_scale = ctx.saved_tensors
        loc_shape, scale_shape = ctx.shapes
        return None, (grad * by_loc).sum_to_size(loc_shape), (grad * by_scale).sum_to_size(scale_shape), None, None


def _near_quantile(below: Tensor, above: Tensor, a: Tensor, w: Tensor) -> Tensor:
    """s, by the standard Normal's own quantile of the smaller tail."""
    b = a + w
    mass = _upper_tail(a) - _upper_tail(b)
    lower, upper = torch.addcmul(_upper_tail(-a), below, mass), torch.addcmul(_upper_tail(b), above, mass)
    s = torch.special.ndtri(torch.minimum(lower, upper))
    return s.copysign_(lower.sub_(upper)).clamp_(a, b)


def _upper_tail(s: Tensor) -> Tensor:
    """Q(s)."""
    return torch.special.erfc(s * math.sqrt(0.5)) / 2


def _far_quantile(below: Tensor, above: Tensor, a: Tensor, w: Tensor) -> Tensor:
    """The y of log Q(a + y) / Q(a) = log(S + F Q(b) / Q(a)), by Newton's method.

    The left side is concave and falls, so from beyond the root every step stays beyond it and is nearer.
    """
    mills_a = _mills(a)
    log_last = (_mills(a + w) / mills_a).log() - w * (a + w / 2)
    log_tail = (above + below * log_last.exp()).log()
    log_tail = log_tail.clamp_min(-700.0)  # where all of the mass is below, which has the root w
    y = torch.minimum(-log_tail * mills_a, -2 * log_tail / (a + (a.square() - 2 * log_tail).sqrt()))
    for _ in range(_NUM_STEPS):
        mills = _mills(a + y)
        y = y - (y * (a + y / 2) - (mills / mills_a).log() + log_tail) * mills
    return torch.where(above > 0, torch.minimum(y.clamp_min(0), w), w)


def _where(is_so: Tensor, shape: torch.Size) -> Any:
    """The place of what is so in a tensor of that shape; of whole columns, where it is by the last dimension."""
    if is_so.dim() == 1 and is_so.shape == shape[-1:]:
        return ..., is_so.nonzero()[:, 0]
    return is_so.expand(shape)


def _near_slopes(below: Tensor, above: Tensor, a: Tensor, w: Tensor, s: Tensor) -> tuple[Tensor, Tensor]:
    b = a + w
    half = torch.mul(s, s).mul_(0.5)
    near_share = (half - a.square() / 2).clamp_(-_LARGEST, _LARGEST).exp_().mul_(above)
    far_share = half.sub_(b.square() / 2).clamp_(-_LARGEST, _LARGEST).exp_().mul_(below)
    by_scale = torch.addcmul(s, near_share, -a).addcmul_(far_share, -b)
    return near_share.add_(far_share).neg_().add_(1), by_scale


def _far_slopes(below: Tensor, above: Tensor, a: Tensor, w: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    fall = y * (a + y / 2)  # -log h(y)
    near_share, far_share = torch.exp(above.log() + fall), torch.exp(below.log() + fall - w * (a + w / 2))
    (mills_s, k_s), (mills_b, k_b), (_, k_a) = (_mills_and_complement(end) for end in (a + y, a + w, a))
    by_loc = y * mills_s + k_s - far_share * (w * mills_b + k_b) - k_a * near_share
    return by_loc, y + a * by_loc - w * far_share


def _mills(s: Tensor) -> Tensor:
    """M(s) = Q(s) / φ(s), of s > 0."""
    return math.sqrt(math.pi / 2) * torch.special.erfcx(s * math.sqrt(0.5))


def _mills_and_complement(s: Tensor) -> tuple[Tensor, Tensor]:
    """M(s), and K(s) = 1 - s M(s): from s = 25 on by its asymptotic series 1/s² - 3/s⁴ + 15/s⁶ - ..."""
    mills = _mills(s)
    power = s.clamp_min(25.0).square().reciprocal()
    series = torch.zeros_like(power)
    for k in range(_NUM_TERMS, 0, -1):
        series = (2 * k - 1) * power * (1 - series)
    return mills, torch.where(s > 25, series, 1 - s * mills)
