"""Kumaraswamy and relaxed-Bernoulli mathematics, in log-odds.

A keep probability π that float32 rounds to 0 or 1 still has log-odds, so everything here that can be is
written in them. Two functions, inverse to one another, carry the whole Kumaraswamy distribution::

    P(w) = log softplus(w) = log log(1 + e^w)           Q(y) = log expm1(exp(y))

because raising a probability to a power c moves its log-odds by  w -> -Q(P(-w) + log c).  With u uniform,
E = -log u and t = E / b, the draw π = (1 - u^(1/b))^(1/a) becomes::

    logit(π^a) = Q(log E - log b)                       logit(π) = -Q(P(-logit(π^a)) - log a)

Kumaraswamy vectors are short (one entry a unit), so their mathematics is done in float64 whatever the dtype
that comes in, and handed back in that dtype. Masks are long (one entry a datum and unit) and stay as they are.

Symbols: a, b are Kumaraswamy's concentration1 and concentration0; γ is Euler-Mascheroni; H_b = ψ(b+1) + γ.
"""

import functools
import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor


def in_double(function: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """Compute in float64 and return the dtype of the last argument, which is always a parameter."""

    @functools.wraps(function)
    def wrapper(*args: Tensor) -> Tensor:
        return function(*(arg.double() for arg in args)).to(args[-1].dtype)

    return wrapper


def softplus(w: Tensor) -> Tensor:
    """log(1 + e^w), to the last digit (torch's default turns linear at 20, which costs 2e-9)."""
    return F.softplus(w, threshold=50.0)


def log_softplus(w: Tensor) -> Tensor:
    """P(w) = log log(1 + e^w), for any w; far to the left it is w itself, where log(softplus) would be -inf."""
    # At -50 too: there the gradient of clamp is 1 up to torch 2.13, and 0 from 2.14 on.
    return torch.where(w <= -50.0, w, softplus(w.clamp_min(-50.0)).log())


def log_expm1_exp(y: Tensor) -> Tensor:
    """Q(y) = log(exp(exp(y)) - 1), the inverse of :func:`log_softplus`."""
    x = y.clamp_min(-50.0).exp()
    return torch.where(y <= -50.0, y, x + torch.log(-torch.expm1(-x)))


def log_neg_log(x: Tensor) -> Tensor:
    """log(-log x) of a probability x in [0, 1], in float64; 0 gives +inf and 1 gives -inf."""
    return torch.log(-torch.log(x.double()))


class _SphericalNormalLogProb(torch.autograd.Function):
    """The log-density of a whole weight tensor, whose gradient is one product; autograd's own makes three copies."""

    @staticmethod
    def forward(ctx: Any, v: Tensor, scale: float) -> Tensor:
        ctx.save_for_backward(v)
        ctx.precision = scale**-2
        return _spherical_normal_log_prob(v, scale)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        return ctx.saved_tensors[0] * (grad * -ctx.precision), None


def log_gamma_draw(concentration: Tensor) -> Tensor:
    """Logarithms of Gamma(c, 1) draws, float64, of any c: G(c) = G(c + 1) U^(1/c) does not underflow in logs."""
    c = concentration.double()
    uniform = torch.rand_like(c).clamp_min(torch.finfo(c.dtype).tiny)
    return torch.distributions.Gamma(c + 1, torch.ones_like(c), validate_args=False).sample().log() + uniform.log() / c


def _spherical_normal_log_prob(v: Tensor, scale: float) -> Tensor:
    flat = v.flatten()
    log_normalizer = flat.numel() * math.log(scale * math.sqrt(2 * math.pi))
    return torch.dot(flat, flat).mul_(-(scale**-2) / 2).sub_(log_normalizer)


def spherical_normal_log_prob(v: Tensor, scale: float) -> Tensor:
    """Log N(v; 0, scale² I) over all elements of v: one number."""
    if not torch.is_grad_enabled():
        return _spherical_normal_log_prob(v, scale)
    result: Tensor = _SphericalNormalLogProb.apply(v, scale)
    return result


# --- the relaxed Bernoulli ---------------------------------------------------------------------------------


def relaxed_bernoulli_log_prob(log_odds: Tensor, temperature: Tensor, logits: Tensor) -> Tensor:
    """Log-density of z = sigmoid(log_odds) under RelaxedBernoulli(temperature, logits) (arXiv 1611.00712).

    With d = logits - τ·logit z: log τ + d - 2 softplus(d) - log z - log(1-z). All arguments broadcast.
    """
    d = logits - temperature * log_odds
    return temperature.log() + d - 2 * softplus(d) + softplus(log_odds) + softplus(-log_odds)


# --- Kumaraswamy: samples and densities --------------------------------------------------------------------


class _KumaraswamyDraw(torch.autograd.Function):
    """(logit π, log q(π), π) of a draw, as functions of what a and b are made of; the derivatives are written out.

    With t = E/b, w = logit(π^a) = log expm1(t), s = -log π = softplus(-w) / a, K = s / (1 - e^-s) and
    R = t e^-w / softplus(-w):

        ∂ logit π = K/a ∂a - K R/b ∂b        ∂ log q = (1 - s)/a ∂a + (1 - t + (1 - a) s R)/b ∂b
    """

    @staticmethod
    def forward(ctx: Any, exponential: Tensor, least: float | None, *made_of: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        ctx.set_materialize_grads(False)
        ctx.is_whole, ctx.sizes = least is None, [u.numel() for u in made_of]
        ctx.dtypes = [u.dtype for u in made_of]
        if least is None:
            a, b = (c.double() for c in made_of)
        else:
            raw = torch.cat(made_of)
            a, b = (F.softplus(raw) + least).double().view(2, -1).unbind()
        t = exponential / b
        w = t + torch.log(-torch.expm1(-t))
        log_as = log_softplus(-w)
        log_a = a.log()
        log_s = log_as - log_a
        # e^-50 is 0 beside 1: further down, s / (1 - e^-s) is 1 and log(1 - e^-s) is log s.
        s = log_s.clamp_min(-50.0).exp()
        complement = -torch.expm1(-s)
        log_odds = torch.where(log_s < -50.0, -log_s, -s - complement.log())
        log_prob = log_a + b.log() + (1 - a) * s + (1 - b) * t
        k, r = s / complement, t * torch.exp(-w - log_as)
        slopes = torch.stack([k / a, -k * r / b, (1 - s) / a, (1 - t + (1 - a) * s * r) / b]).unflatten(0, (2, 2))
        if least is not None:
            slopes *= torch.sigmoid(raw).view(2, -1)
        ctx.save_for_backward(slopes, log_odds)
        return log_odds, log_prob, _inside(torch.sigmoid(log_odds).to(made_of[-1].dtype))

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, by_log_odds: Any, by_log_prob: Any, by_draw: Any) -> tuple[Any, ...]:
        slopes, log_odds = ctx.saved_tensors
        if by_draw is not None:
            through = by_draw * torch.sigmoid(log_odds) * torch.sigmoid(-log_odds)
            by_log_odds = through if by_log_odds is None else by_log_odds + through
        grad = torch.zeros_like(slopes[0]) if by_log_odds is None else slopes[0] * by_log_odds
        if by_log_prob is not None:
            grad.addcmul_(slopes[1], by_log_prob)
        if ctx.is_whole:
            return None, None, *(each.to(dtype) for each, dtype in zip(grad, ctx.dtypes, strict=True))
        return None, None, *grad.flatten().to(ctx.dtypes[0]).split(ctx.sizes)


def _inside(draw: Tensor) -> Tensor:
    """A draw kept strictly inside (0, 1)."""
    limits = torch.finfo(draw.dtype)
    return draw.clamp(limits.tiny, 1 - limits.eps / 2)


def kumaraswamy_draw(exponential: Tensor, a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
    """logit(π) and log q(π) of the draw π = (1 - u^(1/b))^(1/a), given E = -log u ~ Exp(1).

    All of one shape, E float64; both results are float64. The gradients are total ones: of the draw's log-density
    as the draw moves with a and b.
    """
    return kumaraswamy_draw_of(exponential, [a, b])[:2]


def kumaraswamy_draw_of(
    exponential: Tensor, made_of: Sequence[Tensor], least: float | None = None
) -> tuple[Tensor, Tensor, Tensor]:
    """The same, and π itself, strictly inside (0, 1) and of the dtype of the parameters.

    Args:
        exponential: E, float64.
        made_of: a and b; or, with `least`, vectors that make up all of a and then all of b end to end.
        least: a and b are softplus of what they are made of, plus this; None for as they are.
    """
    log_odds, log_prob, draw = _KumaraswamyDraw.apply(exponential, least, *made_of)
    return log_odds, log_prob, draw


@in_double
def kumaraswamy_log_prob(log_surprise: Tensor, a: Tensor, b: Tensor) -> Tensor:
    """log(a b π^(a-1) (1-π^a)^(b-1)), of π given by log_surprise = log(-log π) (arXiv 1805.10896)."""
    s = log_surprise.exp()
    return a.log() + b.log() - _times(a - 1, s) - _times(b - 1, _tail(log_surprise, a))


@in_double
def kumaraswamy_cdf(log_surprise: Tensor, a: Tensor, b: Tensor) -> Tensor:
    """1 - (1 - π^a)^b, of π given by log_surprise = log(-log π)."""
    log_survival = -b * _tail(log_surprise, a)
    # expm1's own gradient is (result + 1), which is lost where the survival is small; exp's is exact.
    return torch.where(log_survival > -1, -torch.expm1(log_survival), 1 - log_survival.exp())


def _tail(log_surprise: Tensor, a: Tensor) -> Tensor:
    """T = -log(1 - π^a)."""
    return softplus(-log_expm1_exp(log_surprise + a.log()))


def _times(factor: Tensor, value: Tensor) -> Tensor:
    """The product, where 0 · inf is 0: a flat direction of the density stays flat at the end of the interval."""
    flat = (factor == 0) & value.isinf()
    return factor * torch.where(flat, torch.zeros_like(value), value)


@in_double
def kumaraswamy_icdf(q: Tensor, a: Tensor, b: Tensor) -> Tensor:
    """(1 - (1-q)^(1/b))^(1/a)."""
    log_t = torch.log(-torch.log1p(-q)) - b.log()
    return torch.exp(-torch.exp(log_softplus(-log_expm1_exp(log_t)) - a.log()))


# --- Kumaraswamy: moments ----------------------------------------------------------------------------------


@in_double
def kumaraswamy_mean(a: Tensor, b: Tensor) -> Tensor:
    """E[π] = b Γ(1 + 1/a) Γ(b) / Γ(1 + 1/a + b) (arXiv 1805.10896)."""
    return _log_mean(a, b).exp()


@in_double
def kumaraswamy_variance(a: Tensor, b: Tensor) -> Tensor:
    """E[π²] - E[π]², as E[π²] (1 - e^-r) with r = log E[π²] / E[π]² > 0 summed without cancellation."""
    log_second_moment = _log_mean(a / 2, b)
    return torch.exp(log_second_moment) * -torch.expm1(-_log_moment_ratio(a, b))


@in_double
def kumaraswamy_mode(a: Tensor, b: Tensor) -> Tensor:
    """((a-1) / (ab-1))^(1/a) where a ≥ 1 and b ≥ 1, else nan: the density then has no single finite peak."""
    numerator, denominator = a - 1, b * (a - 1) + (b - 1)
    peaked = (numerator >= 0) & (b >= 1) & (denominator > 0)
    ratio = numerator / torch.where(peaked, denominator, torch.ones_like(denominator))
    return torch.where(peaked, ratio, torch.full_like(ratio, math.nan)).pow(1 / a)


@in_double
def kumaraswamy_entropy(a: Tensor, b: Tensor) -> Tensor:
    """-E[log q(π)] = 1 - 1/b + (1 - 1/a) H_b - log(ab)."""
    return 1 - 1 / b + (1 - 1 / a) * harmonic_number(b) - a.log() - b.log()


def _log_mean(a: Tensor, b: Tensor) -> Tensor:
    """Log Γ(1+c) + log Γ(1+b) - log Γ(1+b+c), c = 1/a; symmetric in b and c, so the smaller is the increment."""
    c = 1 / a
    small, large = torch.minimum(b, c), torch.maximum(b, c)
    return torch.lgamma(1 + small) - _lgamma_increment(1 + large, small)


_STIRLING = (1 / 12, -1 / 360, 1 / 1260, -1 / 1680, 1 / 1188, -691 / 360360, 1 / 156)
_SHIFT = 10


def _lgamma_increment(x: Tensor, d: Tensor) -> Tensor:
    """Log Γ(x+d) - log Γ(x) for x ≥ 1, d ≥ 0, without subtracting two large numbers."""
    climb = sum(torch.log1p(d / (x + i)) for i in range(_SHIFT))
    z = x + _SHIFT
    ratio = torch.log1p(d / z)
    # log Γ(z) = (z - 1/2) log z - z + ..., so the increment of its leading terms and of its z^(1-2k) series is:
    leading = (z - 0.5) * ratio + d * torch.log(z + d) - d
    series = sum(
        coefficient * z ** (1 - 2 * k) * torch.expm1((1 - 2 * k) * ratio)
        for k, coefficient in enumerate(_STIRLING, start=1)
    )
    return leading + series - climb


def harmonic_number(b: Tensor) -> Tensor:
    """H_b = ψ(b+1) + γ, relatively accurate down to b = 0, where it is b π²/6; float64 in, float64 out."""
    head = sum(b / (n * (n + b)) for n in range(1, _SHIFT + 1))
    z = torch.full_like(b, _SHIFT + 1)
    ratio = torch.log1p(b / z)
    # ψ(z) = log z - 1/(2z) - Σ B_2k / (2k z^2k), and B_2k / 2k is (2k-1) times the Stirling coefficient.
    series = sum(
        (2 * k - 1) * coefficient * z ** (-2 * k) * torch.expm1(-2 * k * ratio)
        for k, coefficient in enumerate(_STIRLING, start=1)
    )
    return head + ratio - torch.expm1(-ratio) / (2 * z) - series


_NUM_TERMS = 200


def _log_moment_ratio(a: Tensor, b: Tensor) -> Tensor:
    """R = log E[π²] / E[π]² = Σ_{n≥1} f(n), where every term is positive (c = 1/a).

    From Γ's product formula, f(x) = log1p(c² b (2x + b + 2c) / (x (x + 2c) (x + b + c)²)). The first terms are
    summed, the rest is Euler-Maclaurin with Gauss-Legendre panels in log x.
    """
    b, c = b[..., None], 1 / a[..., None]

    def excess(x: Tensor) -> Tensor:
        return c * c * b * (2 * x + b + 2 * c) / (x * (x + 2 * c) * (x + b + c) ** 2)

    n = torch.full_like(b, _NUM_TERMS)
    head = torch.log1p(excess(torch.arange(1, _NUM_TERMS, device=a.device, dtype=a.dtype))).sum(-1)
    nodes, weights = gauss_legendre_panels(a.device)
    span = (torch.maximum(b, c) / n).log().clamp_min(0) + 20
    x = n * (span * nodes).exp()
    integral = (weights * span * x * torch.log1p(excess(x))).sum(-1)
    slope = 2 / (2 * n + b + 2 * c) - 1 / n - 1 / (n + 2 * c) - 2 / (n + b + c)
    at_n = excess(n)
    correction = torch.log1p(at_n) / 2 - at_n * slope / (1 + at_n) / 12
    return head + integral + correction[..., 0]


@functools.lru_cache(maxsize=4)
def gauss_legendre_panels(device: torch.device, panels: int = 40, order: int = 10) -> tuple[Tensor, Tensor]:
    """Nodes and weights on [0, 1]: `order` Gauss-Legendre nodes in each of `panels` equal panels."""
    nodes, weights = np.polynomial.legendre.leggauss(order)
    starts = np.arange(panels)[:, None]
    return (
        torch.as_tensor(((nodes + 1) / 2 + starts).ravel() / panels, device=device),
        torch.as_tensor(np.tile(weights / 2 / panels, panels), device=device),
    )


# --- Kumaraswamy: divergences ------------------------------------------------------------------------------


@in_double
def kl_kumaraswamy_beta(a: Tensor, b: Tensor, alpha: Tensor, beta: Tensor) -> Tensor:
    """KL[Kumaraswamy(a, b) || Beta(α, β)], in nats (arXiv 1805.10896, for β = 1).

    (α/a - 1) H_b + log(ab B(α, β)) + β/b - 1 - (β-1) E[log((1-π)/(1-π^a))]; the last expectation has no closed
    form and is integrated numerically, only where β is not 1.
    """
    log_beta = torch.lgamma(alpha) + torch.lgamma(beta) - torch.lgamma(alpha + beta)
    closed = (alpha / a - 1) * harmonic_number(b) + a.log() + b.log() + log_beta + beta / b - 1
    return _minus_log_complement_term(closed, a, b, beta)


@in_double
def kl_kumaraswamy_kumaraswamy(a: Tensor, b: Tensor, p_a: Tensor, p_b: Tensor) -> Tensor:
    """KL[Kumaraswamy(a, b) || Kumaraswamy(p_a, p_b)], in nats; π^p_a is Kumaraswamy(a/p_a, b) under q."""
    closed = (p_a / a - 1) * harmonic_number(b) + (a / p_a).log() + (b / p_b).log() + p_b / b - 1
    return _minus_log_complement_term(closed, a / p_a, b, p_b)


def _minus_log_complement_term(closed: Tensor, a: Tensor, b: Tensor, beta: Tensor) -> Tensor:
    if not beta.requires_grad and bool((beta == 1).all()):
        return closed
    return closed - (beta - 1) * _expected_log_complement_ratio(a, b)


_NUM_NODES = 560


def _expected_log_complement_ratio(a: Tensor, b: Tensor) -> Tensor:
    """E[log((1-π) / (1-π^a))] under Kumaraswamy(a, b), by the trapezoid rule in w = logit(π^a).

    There the integrand is analytic and dies off at both ends, so equal steps converge geometrically. With few b
    the weight b e^(-bt) dies slowly, but the ratio has by then reached its limit -log a, which is taken out.
    """
    log_a, b = a.log()[..., None], b[..., None]
    lower, upper = -50.0, 50.0 + (-log_a).clamp_min(0)
    step = (upper - lower) / (_NUM_NODES - 1)
    w = lower + step * torch.arange(_NUM_NODES, device=a.device, dtype=a.dtype)
    t = softplus(w)
    log_surprise = log_softplus(-w) - log_a
    log_complement = F.logsigmoid(log_expm1_exp(log_surprise))
    limit = torch.where(b < 1, -log_a, torch.zeros_like(log_a))
    weight = b * torch.exp(-b * t) * torch.sigmoid(w)
    return (step * weight * (log_complement + t - limit)).sum(-1) + limit[..., 0]
