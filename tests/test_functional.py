"""The Kumaraswamy mathematics, against mpmath over all of the promised range, in float32 and float64."""

import functools
import itertools

import mpmath
import numpy as np
import pytest
import torch
from scipy import stats

from bbpyro import functional as f
from bbpyro.distributions.relaxed_bernoulli import relaxed_bernoulli_draw

# A context of its own: the precision of mpmath's global one is left alone.
mp = mpmath.MPContext()
mp.dps = 80
# Quadrature has double-precision nodes, so its integrands need accurate functions, not many digits.
mp30 = mpmath.MPContext()
mp30.dps = 30


def as_float32(*values):
    """The values rounded to float32, so that one reference serves both dtypes."""
    return tuple(float(np.float32(value)) for value in values)


CONCENTRATIONS = as_float32(1e-6, 1e-3, 0.3, 1.0, 2.5, 20.0, 1e3)
GRID = tuple(itertools.product(CONCENTRATIONS, CONCENTRATIONS))
VALUES = as_float32(1e-37, 1e-20, 1e-6, 0.01, 0.3, 0.5, 0.9, 0.999, 1 - 2**-24)
ONLY_FLOAT64 = (1e-300, 1e-100, 1 - 2**-53)
BETA_PRIORS = tuple(itertools.product(as_float32(1e-4, 0.7, 30.0), as_float32(0.3, 1.0, 2.0, 50.0)))
KUMARASWAMY_PRIORS = tuple(itertools.product(as_float32(1e-3, 1.0, 1e3), as_float32(1e-3, 1.0, 20.0)))

DTYPES = (torch.float32, torch.float64)
LOG_TOLERANCE = {torch.float32: 2e-5, torch.float64: 1e-12}
RELATIVE_TOLERANCE = {torch.float32: 5e-5, torch.float64: 1e-11}
GRADIENT_TOLERANCE = {torch.float32: 5e-5, torch.float64: 1e-8}

dtypes = pytest.mark.parametrize("dtype", DTYPES, ids=["float32", "float64"])


def values_of(dtype):
    return VALUES if dtype == torch.float32 else VALUES + ONLY_FLOAT64


def leaves(points, dtype):
    """One tensor that wants a gradient for each coordinate of the points."""
    return [torch.tensor(column, dtype=dtype, requires_grad=True) for column in zip(*points, strict=True)]


def check(got, reference, points, tolerance, relative=False):
    """Compare elementwise, over max(|true|, 1) or (`relative`) over |true|; the message names the worst point.

    A true value that the dtype cannot hold as a normal number is left out, and most must be left in.
    """
    limits = torch.finfo(got.dtype)
    true = np.array([float(reference(*point)) for point in points])
    got = got.detach().double().numpy()
    held = np.abs(true) <= limits.max
    if relative:
        held &= np.abs(true) >= limits.tiny
    assert held.mean() > 0.5, "the grid hardly tests anything"
    scale = np.abs(true) if relative else np.maximum(np.abs(true), 1)
    error = np.abs(got - true)[held] / scale[held]
    error[np.isnan(error)] = np.inf
    worst = np.flatnonzero(held)[error.argmax()]
    assert error.max() < tolerance, (
        f"{np.mean(error >= tolerance):.1%} of the points are wrong; worst at {points[worst]}: "
        f"{got[worst]!r}, truly {true[worst]!r}, an error of {error.max():.1e}"
    )


def check_gradients(function, reference, points, dtype, coordinates=None):
    """Compare the gradients with respect to the coordinates (every one, if not told) with reference(i, *point)."""
    arguments = leaves(points, dtype)
    function(*arguments).sum().backward()
    for i in coordinates or range(len(arguments)):
        check(arguments[i].grad, functools.partial(reference, i), points, GRADIENT_TOLERANCE[dtype])


# --- references --------------------------------------------------------------------------------------------


def log1mexp(y, ctx=mp):
    """log(1 - e^y) of y < 0."""
    return ctx.log(-ctx.expm1(y)) if y > -1 else ctx.log1p(-ctx.exp(y))


@functools.cache
def derivative(function):
    """The partial derivatives of an mpmath function: i, *point -> number.

    A central difference with a relative step of 1e-30: it stays inside (0, 1) at 1 - 2^-53, its own error is some
    1e-28 there, and rounding is 50 digits off.
    """

    @functools.cache
    def partial(i, *point):
        x = mp.mpf(point[i])
        step = (x or 1) * mp.mpf(10) ** -30
        above, below = (function(*point[:i], x + sign * step, *point[i + 1 :]) for sign in (1, -1))
        return (above - below) / (2 * step)

    return partial


@functools.cache
def log_density(x, a, b):
    log_x = mp.log(x)
    return mp.log(a) + mp.log(b) + (mp.mpf(a) - 1) * log_x + (mp.mpf(b) - 1) * log1mexp(a * log_x)


@functools.cache
def cdf(x, a, b):
    return -mp.expm1(b * log1mexp(a * mp.log(x)))


@functools.cache
def icdf(q, a, b):
    return mp.exp(log1mexp(mp.log1p(-mp.mpf(q)) / b) / a)


@functools.cache
def log_moment(order, a, b):
    c = mp.mpf(order) / a
    return mp.loggamma(1 + c) + mp.loggamma(1 + mp.mpf(b)) - mp.loggamma(1 + c + b)


def mean(a, b):
    return mp.exp(log_moment(1, a, b))


def variance(a, b):
    first, second = log_moment(1, a, b), log_moment(2, a, b)
    return mp.exp(second) - mp.exp(2 * first)


def mode(a, b):
    a, b = mp.mpf(a), mp.mpf(b)
    return ((a - 1) / (a * b - 1)) ** (1 / a) if a >= 1 and b >= 1 and a * b > 1 else mp.nan


def harmonic(b):
    return mp.psi(0, mp.mpf(b) + 1) + mp.euler


def entropy(a, b):
    return 1 - 1 / mp.mpf(b) + (1 - 1 / mp.mpf(a)) * harmonic(b) - mp.log(a) - mp.log(b)


_NODES, _WEIGHTS = np.polynomial.legendre.leggauss(16)


def panels(bends, lower=-38.0, upper=4.8):
    """Neighbouring panels that grow with the distance from the bends, and stay short where e^(-e^x) falls."""
    left = lower
    while left < upper:
        width = min(1.0 + 0.7 * max(-4.0 - left, 0.0), *(0.3 + 0.8 * abs(left - bend) for bend in bends))
        ahead = [bend - left for bend in bends if bend > left]
        width = min([width] + [(0.3 + 0.8 * distance) / 1.8 for distance in ahead])
        yield left, left + width
        left += width


@functools.cache
def log_complement_ratio(a, b):
    """G = E[log((1-π) / (1-π^a))] under Kumaraswamy(a, b), and its derivatives by a and b.

    Integrated over x = log E with E ~ Exp(1), by Gauss-Legendre in panels that are short where the integrand bends:
    at t = E/b ~ 1 and at -log π ~ 1. Against panels of half the width and 24 nodes it is right to 1e-16, its
    derivatives to 1e-11, over all of GRID.
    """
    a, b = mp30.mpf(a), mp30.mpf(b)
    bends = [float(mp30.log(b)), float(mp30.log(b * mp30.log1p(1 / (2 * mp30.pi * a))))]
    total, by_a, by_b = mp30.mpf(0), mp30.mpf(0), mp30.mpf(0)
    for left, right in panels(bends):
        for node, weight in zip(_NODES, _WEIGHTS, strict=True):
            e = mp30.exp((left + right) / 2 + (right - left) / 2 * node)
            mass = weight * (right - left) / 2 * e * mp30.exp(-e)
            t = e / b
            decay = mp30.exp(-t)
            log_pi = (mp30.log1p(-decay) if t > 1 else mp30.log(-mp30.expm1(-t))) / a
            complement = -mp30.expm1(log_pi)
            odds = mp30.exp(log_pi) / complement
            total += mass * ((mp30.log(complement) if log_pi > -1 else mp30.log1p(-mp30.exp(log_pi))) + t)
            by_a += mass * odds * log_pi / a
            by_b -= mass * t / b * (1 + odds / a * decay / mp30.expm1(-t))
    return total, by_a, by_b


def log_beta_function(alpha, beta):
    return mp.loggamma(alpha) + mp.loggamma(beta) - mp.loggamma(mp.mpf(alpha) + beta)


def kl_to_beta(a, b, alpha, beta):
    g = log_complement_ratio(a, b)[0] if beta != 1 else 0
    a, b = mp.mpf(a), mp.mpf(b)
    closed = (alpha / a - 1) * harmonic(b) + mp.log(a * b) + log_beta_function(alpha, beta) + beta / b - 1
    return closed - (mp.mpf(beta) - 1) * g


def kl_to_beta_gradient(i, a, b, alpha, beta):
    g, g_a, g_b = log_complement_ratio(a, b)
    a, b, alpha, beta = map(mp.mpf, (a, b, alpha, beta))
    if i == 0:
        return -alpha / a**2 * harmonic(b) + 1 / a - (beta - 1) * g_a
    if i == 1:
        return (alpha / a - 1) * mp.psi(1, b + 1) + 1 / b - beta / b**2 - (beta - 1) * g_b
    if i == 2:
        return harmonic(b) / a + mp.psi(0, alpha) - mp.psi(0, alpha + beta)
    return mp.psi(0, beta) - mp.psi(0, alpha + beta) + 1 / b - g


def kl_to_kumaraswamy(a, b, p_a, p_b):
    """π^p_a is Kumaraswamy(a / p_a, b) under q, and Kumaraswamy(1, p_b) = Beta(1, p_b) under p."""
    return kl_to_beta(mp.mpf(a) / p_a, b, 1, p_b)


def kl_to_kumaraswamy_gradient(i, a, b, p_a, p_b):
    ratio = mp.mpf(a) / p_a
    gradient = kl_to_beta_gradient(0 if i == 2 else i, ratio, b, 1, p_b)
    return gradient / p_a if i == 0 else -gradient * ratio / p_a if i == 2 else gradient


# --- elementary functions ----------------------------------------------------------------------------------

ALL_SIZES = tuple(
    sign * size for sign in (1.0, -1.0) for size in (1e-300, 1e-9, 0.3, 1.0, 19.0, 21.0, 36.0, 49.0, 51.0, 700.0)
)


def test_softplus_is_right_to_the_last_digits():
    w = torch.tensor(ALL_SIZES, dtype=torch.float64)
    check(f.softplus(w), lambda w: mp.log1p(mp.exp(w)), [(x,) for x in ALL_SIZES], 1e-15, relative=True)


def test_log_softplus_goes_where_softplus_underflows():
    points = [(x,) for x in (*ALL_SIZES, -1e6, 1e300)]
    w = torch.tensor([x for (x,) in points], dtype=torch.float64)
    check(f.log_softplus(w), lambda w: mp.log(mp.log1p(mp.exp(w))), points, 1e-14)


def test_log_expm1_exp_is_right():
    points = [(x,) for x in (-1e6, -700.0, -51.0, -49.0, -1.0, -1e-9, 0.0, 1.0, 5.0, 100.0)]
    y = torch.tensor([x for (x,) in points], dtype=torch.float64)
    check(f.log_expm1_exp(y), lambda y: mp.exp(y) + log1mexp(-mp.exp(y)), points, 1e-14)


@pytest.mark.parametrize("function", [f.softplus, f.log_softplus, f.log_expm1_exp])
def test_gradients_of_the_elementary_functions_are_finite_everywhere(function):
    w = torch.tensor([-1e9, -1e3, -50.0, 0.0, 5.0], dtype=torch.float64, requires_grad=True)
    function(w).sum().backward()
    assert w.grad.isfinite().all()


def test_log_neg_log_is_right_and_extends_to_the_ends():
    points = [(x,) for x in values_of(torch.float64)]
    x = torch.tensor([x for (x,) in points], dtype=torch.float64)
    check(f.log_neg_log(x), lambda x: mp.log(-mp.log(x)), points, 1e-14)
    assert f.log_neg_log(torch.tensor([0.0, 1.0])).tolist() == [np.inf, -np.inf]


def test_spherical_normal_log_prob_and_its_gradient():
    v = torch.tensor([[1.0, -2.0], [3.0, 0.5]], dtype=torch.float64, requires_grad=True)
    log_prob = f.spherical_normal_log_prob(v, 0.5)
    assert log_prob.item() == pytest.approx(stats.norm(scale=0.5).logpdf(v.detach().numpy()).sum(), rel=1e-14)
    (3 * log_prob).backward()
    torch.testing.assert_close(v.grad, -3 * v.detach() / 0.25)


def test_harmonic_number_is_relatively_accurate_down_to_zero():
    points = [(b,) for b in (1e-300, 1e-20, 1e-6, 0.1, 1.0, 3.0, 10.0, 1e3, 1e9)]
    b = torch.tensor([b for (b,) in points], dtype=torch.float64)
    check(f.harmonic_number(b), lambda b: harmonic(b) if b > 1e-60 else b * mp.zeta(2), points, 1e-14, relative=True)


# --- Kumaraswamy: densities --------------------------------------------------------------------------------


def density_points(dtype):
    return [(x, a, b) for x in values_of(dtype) for a, b in GRID]


def log_prob_of_value(x, a, b):
    return f.kumaraswamy_log_prob(f.log_neg_log(x), a, b)


def cdf_of_value(x, a, b):
    return f.kumaraswamy_cdf(f.log_neg_log(x), a, b)


@dtypes
def test_log_prob_is_right(dtype):
    points = density_points(dtype)
    check(log_prob_of_value(*leaves(points, dtype)), log_density, points, LOG_TOLERANCE[dtype])


@dtypes
def test_cdf_is_right(dtype):
    points = density_points(dtype)
    check(cdf_of_value(*leaves(points, dtype)), cdf, points, RELATIVE_TOLERANCE[dtype], relative=True)


@dtypes
def test_icdf_is_right(dtype):
    points = density_points(dtype)
    check(f.kumaraswamy_icdf(*leaves(points, dtype)), icdf, points, RELATIVE_TOLERANCE[dtype], relative=True)


# By the value the derivatives are closed; a difference would lose x = 1e-300 beside a constant.


def log_density_gradient(i, x, a, b):
    if i > 0:
        return derivative(log_density)(i, x, a, b)
    log_x = mp.log(x)
    odds = mp.exp(a * log_x - log1mexp(a * log_x))  # x^a / (1 - x^a)
    return ((mp.mpf(a) - 1) - (mp.mpf(b) - 1) * a * odds) / x


def cdf_gradient(i, x, a, b):
    return derivative(cdf)(i, x, a, b) if i > 0 else mp.exp(log_density(x, a, b))


@dtypes
def test_log_prob_gradients_are_right(dtype):
    check_gradients(log_prob_of_value, log_density_gradient, density_points(dtype), dtype)


@dtypes
def test_cdf_gradients_are_right(dtype):
    check_gradients(cdf_of_value, cdf_gradient, density_points(dtype), dtype)


@dtypes
def test_icdf_gradients_are_right(dtype):
    check_gradients(f.kumaraswamy_icdf, derivative(icdf), density_points(dtype), dtype)


@dtypes
def test_densities_and_quantiles_at_the_ends_of_the_interval_are_the_limits(dtype):
    a = torch.tensor([0.5, 1.0, 2.0], dtype=dtype)
    zero, one = torch.zeros(3, dtype=dtype), torch.ones(3, dtype=dtype)
    inf = float("inf")
    # At 0 the density is a b π^(a-1), at 1 it is a^b b (1-π)^(b-1).
    assert torch.equal(log_prob_of_value(zero, a, one), torch.tensor([inf, 0.0, -inf], dtype=dtype))
    assert torch.equal(log_prob_of_value(one, one, a), torch.tensor([inf, 0.0, -inf], dtype=dtype))
    assert torch.equal(cdf_of_value(zero, a, one), zero) and torch.equal(cdf_of_value(one, a, one), one)
    assert torch.equal(f.kumaraswamy_icdf(zero, a, one), zero) and torch.equal(f.kumaraswamy_icdf(one, a, one), one)


# --- Kumaraswamy: draws ------------------------------------------------------------------------------------

EXPONENTIALS = (1e-16, 1e-6, 0.1, 1.0, 3.0, 36.0)
DRAW_POINTS = tuple((e, a, b) for e in EXPONENTIALS for a, b in GRID)


@functools.cache
def log_odds_of_draw(e, a, b):
    log_pi = log1mexp(-mp.mpf(e) / b) / a
    return log_pi - log1mexp(log_pi)


@functools.cache
def log_density_of_draw(e, a, b):
    t = mp.mpf(e) / b
    return mp.log(a) + mp.log(b) + (mp.mpf(a) - 1) * log1mexp(-t) / a - (mp.mpf(b) - 1) * t


DRAW_REFERENCES = (log_odds_of_draw, log_density_of_draw)
DRAW_GRADIENTS = tuple(map(derivative, DRAW_REFERENCES))


@dtypes
def test_log_odds_and_log_density_of_a_draw_are_exact_far_outside_the_range_of_floats(dtype):
    exponential, _, _ = leaves(DRAW_POINTS, torch.float64)
    _, a, b = leaves(DRAW_POINTS, dtype)
    assert max(float(abs(log_odds_of_draw(*point))) for point in DRAW_POINTS) > 1e7
    for got, reference in zip(f.kumaraswamy_draw(exponential, a, b), DRAW_REFERENCES, strict=True):
        # Whatever the dtype of a and b, a draw is float64.
        assert got.dtype == torch.float64
        check(got, reference, DRAW_POINTS, 1e-12)


@dtypes
@pytest.mark.parametrize("output", [0, 1], ids=["log_odds", "log_density"])
def test_gradients_of_a_draw_are_right(dtype, output):
    exponential, _, _ = leaves(DRAW_POINTS, torch.float64)
    _, a, b = leaves(DRAW_POINTS, dtype)
    f.kumaraswamy_draw(exponential, a, b)[output].sum().backward()
    for i, argument in ((1, a), (2, b)):
        assert argument.grad.dtype == dtype
        reference = functools.partial(DRAW_GRADIENTS[output], i)
        check(argument.grad, reference, DRAW_POINTS, GRADIENT_TOLERANCE[dtype])


def exponentials(*shape):
    return torch.rand(shape, dtype=torch.float64).neg().log1p().neg()


@pytest.mark.parametrize("least", [None, 1e-6])
def test_a_draw_has_the_gradients_of_finite_differences(least):
    torch.manual_seed(0)
    exponential = exponentials(5)
    if least is None:
        made_of = [torch.rand(5, dtype=torch.float64) + 0.3 for _ in range(2)]
    else:
        made_of = [torch.randn(size, dtype=torch.float64) for size in (2, 3, 2, 3)]
    made_of = [each.requires_grad_() for each in made_of]
    assert torch.autograd.gradcheck(lambda *made_of: f.kumaraswamy_draw_of(exponential, made_of, least), made_of)


def test_a_draw_of_unconstrained_vectors_is_that_of_their_softplus():
    torch.manual_seed(0)
    exponential, unconstrained = exponentials(5), [torch.randn(size) for size in (2, 3, 2, 3)]
    a, b = (torch.nn.functional.softplus(torch.cat(unconstrained)) + 1e-6).view(2, -1)
    found, wanted = (
        f.kumaraswamy_draw_of(exponential, *arguments) for arguments in ((unconstrained, 1e-6), ([a, b], None))
    )
    for one, other in zip(found, wanted, strict=True):
        assert torch.equal(one, other) and one.dtype == other.dtype


def test_a_draw_of_kumaraswamy_cannot_be_differentiated_twice():
    a, b = (torch.ones(3, dtype=torch.float64, requires_grad=True) for _ in range(2))
    weight = torch.ones(3, dtype=torch.float64, requires_grad=True)
    log_odds, _ = f.kumaraswamy_draw(exponentials(3), a, b)
    (by_a,) = torch.autograd.grad((weight * log_odds).sum(), a, create_graph=True)
    with pytest.raises(RuntimeError, match="once_differentiable"):
        by_a.sum().backward()


@pytest.mark.parametrize("sizes, shape", [([5], (5,)), ([2, 3], (5,)), ([5], (1, 5)), ([2, 3], (4, 5)), ([5], ())])
def test_relaxed_masks_have_the_gradients_of_finite_differences(sizes, shape):
    torch.manual_seed(0)
    logits = torch.randn(shape, dtype=torch.float64, requires_grad=True)
    noise = torch.randn(4, 5, dtype=torch.float64)

    def draw(logits):
        pairs = relaxed_bernoulli_draw(logits, noise.clone(), 0.7, 1e-20, sizes)
        return tuple(tensor for pair in pairs for tensor in pair)

    assert torch.autograd.gradcheck(draw, logits) and torch.autograd.gradgradcheck(draw, logits)
    masks = torch.cat(draw(logits)[::2], -1)
    torch.testing.assert_close(masks, torch.sigmoid(logits / 0.7 + noise))


def test_a_spherical_normal_can_be_differentiated_twice():
    v = torch.randn(2, 3, dtype=torch.float64, requires_grad=True)
    log_prob = functools.partial(f.spherical_normal_log_prob, scale=0.7)
    assert torch.autograd.gradcheck(log_prob, v) and torch.autograd.gradgradcheck(log_prob, v)


# --- Kumaraswamy: moments and entropy ----------------------------------------------------------------------


@dtypes
def test_mean_is_right(dtype):
    check(f.kumaraswamy_mean(*leaves(GRID, dtype)), mean, GRID, RELATIVE_TOLERANCE[dtype], relative=True)


@dtypes
def test_mean_gradients_are_right(dtype):
    check_gradients(f.kumaraswamy_mean, derivative(mean), GRID, dtype)


@dtypes
def test_variance_is_right(dtype):
    check(f.kumaraswamy_variance(*leaves(GRID, dtype)), variance, GRID, RELATIVE_TOLERANCE[dtype], relative=True)


@dtypes
def test_variance_gradients_are_right(dtype):
    check_gradients(f.kumaraswamy_variance, derivative(variance), GRID, dtype)


@dtypes
def test_mode_is_right_where_there_is_one_and_nan_elsewhere(dtype):
    got = f.kumaraswamy_mode(*leaves(GRID, dtype))
    true = [mode(a, b) for a, b in GRID]
    has_mode = torch.tensor([not mp.isnan(m) for m in true])
    assert torch.equal(got.isnan(), ~has_mode)
    points = [point for point, there in zip(GRID, has_mode, strict=True) if there]
    check(got[has_mode], mode, points, RELATIVE_TOLERANCE[dtype])


@dtypes
def test_entropy_is_right(dtype):
    check(f.kumaraswamy_entropy(*leaves(GRID, dtype)), entropy, GRID, LOG_TOLERANCE[dtype])


@dtypes
def test_entropy_gradients_are_right(dtype):
    check_gradients(f.kumaraswamy_entropy, derivative(entropy), GRID, dtype)


# --- Kumaraswamy: divergences ------------------------------------------------------------------------------


def named(priors):
    return {"argvalues": priors, "ids": [f"{first:g}-{second:g}" for first, second in priors]}


to_beta = pytest.mark.parametrize("alpha, beta", **named(BETA_PRIORS))
to_kumaraswamy = pytest.mark.parametrize("p_a, p_b", **named(KUMARASWAMY_PRIORS))


@dtypes
@to_beta
def test_kl_to_beta_and_its_gradients_are_right(dtype, alpha, beta):
    points = [(a, b, alpha, beta) for a, b in GRID]
    check(f.kl_kumaraswamy_beta(*leaves(points, dtype)), kl_to_beta, points, LOG_TOLERANCE[dtype])
    check_gradients(f.kl_kumaraswamy_beta, kl_to_beta_gradient, points, dtype, coordinates=(0, 1))


@dtypes
@to_kumaraswamy
def test_kl_to_kumaraswamy_and_its_gradients_are_right(dtype, p_a, p_b):
    points = [(a, b, p_a, p_b) for a, b in GRID]
    check(f.kl_kumaraswamy_kumaraswamy(*leaves(points, dtype)), kl_to_kumaraswamy, points, LOG_TOLERANCE[dtype])
    check_gradients(f.kl_kumaraswamy_kumaraswamy, kl_to_kumaraswamy_gradient, points, dtype, coordinates=(0, 1))


@to_beta
def test_kl_gradients_to_a_beta_prior_are_right(alpha, beta):
    points = [(a, b, alpha, beta) for a, b in GRID]
    check_gradients(f.kl_kumaraswamy_beta, kl_to_beta_gradient, points, torch.float64, coordinates=(2, 3))


@to_kumaraswamy
def test_kl_gradients_to_a_kumaraswamy_prior_are_right(p_a, p_b):
    points = [(a, b, p_a, p_b) for a, b in GRID]
    check_gradients(f.kl_kumaraswamy_kumaraswamy, kl_to_kumaraswamy_gradient, points, torch.float64, coordinates=(2, 3))


@pytest.mark.parametrize("c1, c0", [(1.0, 0.2), (1.0, 7.0), (0.2, 1.0), (7.0, 1.0)])
@pytest.mark.parametrize("alpha, beta", [(0.3, 0.3), (2.0, 0.3), (0.5, 5.0), (3.0, 4.0)])
def test_kl_to_beta_is_the_textbook_one_where_kumaraswamy_is_a_beta(c1, c0, alpha, beta):
    # KL[Beta || Beta] in digammas: no quadrature on this side.
    true = (
        log_beta_function(alpha, beta)
        - log_beta_function(c1, c0)
        + (mp.mpf(c1) - alpha) * mp.psi(0, c1)
        + (mp.mpf(c0) - beta) * mp.psi(0, c0)
        + (mp.mpf(alpha) - c1 + beta - c0) * mp.psi(0, mp.mpf(c1) + c0)
    )
    got = f.kl_kumaraswamy_beta(*leaves([(c1, c0, alpha, beta)], torch.float64))
    assert got.item() == pytest.approx(float(true), rel=1e-12, abs=1e-12)


def test_kl_of_a_distribution_to_itself_is_zero():
    points = [(a, b, a, b) for a, b in GRID]
    kl = f.kl_kumaraswamy_kumaraswamy(*leaves(points, torch.float64))
    # The terms that cancel are as large as 1/b.
    scale = torch.tensor([max(1.0, 1 / b) for _, b, _, _ in points], dtype=torch.float64)
    assert (kl.abs() / scale).max() < 1e-12


# --- the relaxed Bernoulli ---------------------------------------------------------------------------------

# (log-odds of z, τ, logits): moderate ones, then ones where z or the keep probability leaves the floats.
RELAXED_POINTS = (
    (0.0, 0.5, 0.0),
    (-3.0, 0.1, 1.5),
    (25.0, 0.75, -2.0),
    (30.0, 1.0, 55.0),
    (-30.0, 1.0, -55.0),
    (200.0, 0.125, -5.0),
    (-1e4, 0.125, 30.0),
    (1e6, 0.125, 1e5),
    (-1e6, 0.125, -1e5),
    (12.0, 0.5, -1e6),
)


@functools.cache
def relaxed_log_density(log_odds, temperature, logits):
    d = logits - mp.mpf(temperature) * log_odds

    def softplus(x):
        return max(x, mp.mpf(0)) + mp.log1p(mp.exp(-abs(x)))

    log_odds = mp.mpf(log_odds)
    return mp.log(temperature) + d - 2 * softplus(d) + softplus(log_odds) + softplus(-log_odds)


def test_the_relaxed_bernoulli_reference_is_the_density_of_the_concrete_distribution():
    # arXiv 1611.00712, equation 22, as printed: τ α z^(-τ-1) (1-z)^(-τ-1) / (α z^-τ + (1-z)^-τ)².
    z, temperature, logits = mp.mpf("0.3"), mp.mpf("0.7"), mp.mpf("1.1")
    odds = mp.exp(logits)
    numerator = temperature * odds * (z * (1 - z)) ** (-temperature - 1)
    printed = numerator / (odds * z**-temperature + (1 - z) ** -temperature) ** 2
    assert abs(mp.log(printed) - relaxed_log_density(mp.log(z / (1 - z)), temperature, logits)) < 1e-60


@dtypes
def test_relaxed_bernoulli_log_prob_is_right(dtype):
    points = [as_float32(*point) for point in RELAXED_POINTS]
    got = f.relaxed_bernoulli_log_prob(*leaves(points, dtype))
    check(got, relaxed_log_density, points, LOG_TOLERANCE[dtype])


@dtypes
def test_relaxed_bernoulli_log_prob_gradients_are_right(dtype):
    points = [as_float32(*point) for point in RELAXED_POINTS]
    check_gradients(f.relaxed_bernoulli_log_prob, derivative(relaxed_log_density), points, dtype)


# --- Monte Carlo, which shares no formula with the above ---------------------------------------------------

MODERATE = ((0.3, 0.4), (0.5, 3.0), (2.5, 0.6), (6.0, 9.0))


@pytest.mark.parametrize("a, b", MODERATE)
def test_mean_variance_entropy_and_kl_agree_with_monte_carlo(a, b):
    generator = np.random.default_rng(1)
    u = generator.uniform(size=40_000)
    # NumPy's float64 is enough at moderate concentrations, and inversion of the CDF is its own recipe.
    pi = (1 - u ** (1 / b)) ** (1 / a)
    log_q = np.log(a * b) + (a - 1) * np.log(pi) + (b - 1) * np.log1p(-(pi**a))
    tensors = torch.tensor([a]).double(), torch.tensor([b]).double()
    prior = torch.tensor([0.4]).double(), torch.tensor([2.0]).double()
    estimates = {
        "mean": (pi, f.kumaraswamy_mean(*tensors)),
        "variance": ((pi - pi.mean()) ** 2, f.kumaraswamy_variance(*tensors)),
        "entropy": (-log_q, f.kumaraswamy_entropy(*tensors)),
        "KL to Beta": (log_q - stats.beta(0.4, 2.0).logpdf(pi), f.kl_kumaraswamy_beta(*tensors, *prior)),
    }
    for name, (draws, got) in estimates.items():
        standard_error = draws.std() / np.sqrt(len(draws))
        assert abs(got.item() - draws.mean()) < 5 * standard_error, name
