"""The hard concrete distribution: its probabilities, density, draws and gradients, against mpmath."""

import functools
import itertools
import math

import mpmath
import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro.infer import SVI, Trace_ELBO
from scipy import special, stats

from bbpyro.distributions import Bernoulli, HardConcrete, Masks, is_tied, placed_like, remembered_log_odds, units_of
from bbpyro.training import LeanTraceELBO

mp = mpmath.MPContext()
mp.dps = 40

DTYPES = (torch.float32, torch.float64)
TOLERANCE = {torch.float32: 2e-6, torch.float64: 1e-12}  # relative
dtypes = pytest.mark.parametrize("dtype", DTYPES, ids=["float32", "float64"])

LOGITS = (-60.0, -20.0, -3.0, -0.5, 0.0, 1.5, 4.0, 20.0, 60.0)
TEMPERATURES = (0.05, 2 / 3, 5.0)
LIMITS = ((-0.1, 1.1), (-0.5, 1.25), (-1e-3, 3.0))
CASES = tuple(itertools.product(TEMPERATURES, LIMITS))
cases = pytest.mark.parametrize("temperature, limits", CASES)
VALUES = (0.0, 1e-6, 0.03125, 0.5, 0.9375, 1.0)


class Truth:
    """The distribution of one mask, by mpmath, at the numbers that a type holds."""

    def __init__(self, temperature, logits, low, high, dtype):
        as_held = [torch.tensor(x, dtype=dtype).item() for x in (temperature, logits)]
        self.temperature, self.logits, self.low, self.high = (mp.mpf(x) for x in (*as_held, low, high))

    def above(self, t):
        """P(s̄ > t)."""
        odds = mp.log((t - self.low) / (self.high - t))
        return 1 / (1 + mp.exp(self.temperature * odds - self.logits))

    def below(self, t):
        odds = mp.log((t - self.low) / (self.high - t))
        return 1 / (1 + mp.exp(self.logits - self.temperature * odds))

    def integral(self, integrand):
        """Over [0, 1], in pieces that end where P(s̄ > t) falls, at s = sigmoid(logits / τ), and on both sides of it."""
        falls = [1 / (1 + mp.exp((shift - self.logits) / self.temperature)) for shift in (-20, -5, 0, 5, 20)]
        falls = [s * (self.high - self.low) + self.low for s in falls]
        return mp.quad(integrand, [0, *sorted(t for t in falls if 0 < t < 1), 1])

    def mean(self):
        return self.integral(self.above)

    def mean_slope(self):
        return self.integral(lambda t: self.above(t) * self.below(t))

    def log_density(self, t):
        """The derivative of P(s̄ ≤ t)."""
        slope = self.temperature * (1 / (t - self.low) + 1 / (self.high - t))
        return mp.log(self.above(t)) + mp.log(self.below(t)) + mp.log(slope)

    def log_prob(self, z):
        z = mp.mpf(z)
        if z == 0:
            return mp.log(self.below(z))
        return mp.log(self.above(z)) if z == 1 else self.log_density(z)

    def log_prob_slope(self, z):
        z = mp.mpf(z)
        if z == 0:
            return -self.above(z)
        return self.below(z) if z == 1 else self.below(z) - self.above(z)

    def deterministic(self):
        s = 1 / (1 + mp.exp(-self.logits))
        return min(mp.mpf(1), max(mp.mpf(0), s * (self.high - self.low) + self.low))


def both(temperature, limits, dtype):
    """The distribution of masks with all LOGITS, and the true one of each; logits want a gradient."""
    logits = torch.tensor(LOGITS, dtype=dtype, requires_grad=True)
    return HardConcrete(temperature, logits, *limits), [Truth(temperature, x, *limits, dtype) for x in LOGITS]


def assert_close(got, true, rtol, atol=0.0):
    true = torch.tensor([float(x) for x in true], dtype=torch.float64).reshape(got.shape)
    torch.testing.assert_close(got.detach().double(), true, rtol=rtol, atol=atol)


def slopes(found, logits):
    return torch.autograd.grad(found.sum(), logits)[0]


# --- probabilities -------------------------------------------------------------------------------------------


@dtypes
@cases
def test_the_probabilities_of_the_ends_and_their_gradients_are_right_to_the_last_digits(dtype, temperature, limits):
    p, true = both(temperature, limits, dtype)
    for found, end in ((p.prob_nonzero, 0), (p.prob_one, 1)):
        assert found.dtype == dtype
        assert_close(found, [t.above(end) for t in true], TOLERANCE[dtype], atol=1e-36)
        slope = [t.above(end) * t.below(end) for t in true]
        assert_close(slopes(found, p.logits), slope, TOLERANCE[dtype], atol=1e-36)


def test_prob_nonzero_is_the_papers_penalty_and_what_the_cdf_leaves():
    p = HardConcrete(2 / 3, torch.linspace(-4, 4, 9))
    torch.testing.assert_close(p.prob_nonzero, torch.sigmoid(p.logits - 2 / 3 * math.log(0.1 / 1.1)))
    torch.testing.assert_close(p.prob_nonzero, 1 - p.cdf(torch.tensor(0.0)))


@dtypes
@cases
def test_the_mean_and_its_gradient_are_right(dtype, temperature, limits):
    p, true = both(temperature, limits, dtype)
    assert p.mean.dtype == dtype and p.mean.max() <= 1
    rtol = max(TOLERANCE[dtype], 1e-10)
    assert_close(p.mean, [t.mean() for t in true], rtol, atol=1e-36)
    assert_close(slopes(p.mean, p.logits), [t.mean_slope() for t in true], rtol, atol=1e-36)


@pytest.mark.parametrize("limits", [(-1e-6, 1 + 1e-6), (-50.0, 1.25), (-0.015625, 17.0), (-1e-7, 80.0)])
def test_the_mean_of_a_sure_gate_is_one_and_no_more_whatever_the_limits(limits):
    mean = HardConcrete(2 / 3, torch.tensor([50.0, 60.0, 1e4], dtype=torch.float64), *limits).mean
    assert (mean <= 1).all() and (mean > 1 - 1e-14).all()


@dtypes
@cases
def test_the_mask_for_testing_is_the_papers(dtype, temperature, limits):
    p, true = both(temperature, limits, dtype)
    assert_close(p.deterministic, [t.deterministic() for t in true], TOLERANCE[dtype])


def test_the_mask_for_testing_has_a_gradient_where_it_is_inside_only():
    p = HardConcrete(0.5, torch.tensor([-3.0, 0.0, 3.0], requires_grad=True))
    assert p.deterministic[[0, 2]].tolist() == [0, 1]
    torch.testing.assert_close(slopes(p.deterministic, p.logits), torch.tensor([0, 1.2 / 4, 0]))


@dtypes
@cases
def test_the_cdf_is_right_and_jumps_at_the_ends(dtype, temperature, limits):
    p, true = both(temperature, limits, dtype)
    for value in VALUES[:-1]:
        held = torch.tensor(value, dtype=dtype)
        found = p.cdf(held)
        assert found.dtype == dtype
        assert_close(found, [t.below(mp.mpf(held.item())) for t in true], TOLERANCE[dtype], atol=1e-36)
    assert p.cdf(torch.tensor(1.0, dtype=dtype)).tolist() == [1.0] * len(LOGITS)
    outside = HardConcrete(temperature, p.logits, *limits, validate_args=False)
    assert outside.cdf(torch.tensor(-1e-3)).tolist() == [0.0] * len(LOGITS)
    assert outside.cdf(torch.tensor(1.001)).tolist() == [1.0] * len(LOGITS)


@dtypes
@cases
def test_log_prob_of_a_plain_value_and_its_gradient_are_right(dtype, temperature, limits):
    p, true = both(temperature, limits, dtype)
    for value in VALUES:
        held = torch.tensor(value, dtype=dtype)
        found = p.log_prob(held)
        assert found.dtype == dtype and found.shape == (len(LOGITS),)
        # Inside, it and its gradient are differences of numbers of the size of the logits.
        atol = 1e-36 if value in (0, 1) else {torch.float32: 2e-5, torch.float64: 1e-12}[dtype]
        assert_close(found, [t.log_prob(held.item()) for t in true], TOLERANCE[dtype], atol)
        assert_close(slopes(found, p.logits), [t.log_prob_slope(held.item()) for t in true], TOLERANCE[dtype], atol)


@functools.cache
def gauss_legendre():
    return np.polynomial.legendre.leggauss(2000)


@pytest.mark.parametrize("logits", [-3.0, 0.0, 2.0])
@cases
def test_masses_and_density_add_up_to_one(logits, temperature, limits):
    p = HardConcrete(temperature, torch.tensor(logits, dtype=torch.float64), *limits)
    nodes, weights = gauss_legendre()
    inside = p.log_prob(torch.as_tensor((nodes + 1) / 2)).exp() @ torch.as_tensor(weights / 2)
    ends = p.log_prob(torch.tensor([0.0, 1.0], dtype=torch.float64)).exp().sum()
    assert (inside + ends).item() == pytest.approx(1, abs=1e-9)


def test_the_gradient_of_log_prob_to_a_value_is_the_densitys_and_none_at_the_ends():
    z = torch.tensor([0.0, 0.25, 1.0], dtype=torch.float64, requires_grad=True)
    p, true = HardConcrete(2 / 3, torch.tensor(1.0).double()), Truth(2 / 3, 1.0, -0.1, 1.1, torch.float64)
    p.log_prob(z).sum().backward()
    assert_close(z.grad, [0, mp.diff(true.log_density, 0.25), 0], 1e-6)


# --- draws ---------------------------------------------------------------------------------------------------

DRAWS, KS_LEVEL = 100_000, 1e-5


@dtypes
@pytest.mark.parametrize("temperature, logits", [(0.05, 0.0), (2 / 3, -1.5), (2 / 3, 0.0), (2 / 3, 2.0), (5.0, 1.0)])
def test_draws_follow_the_distribution(dtype, temperature, logits):
    low, high = -0.1, 1.1
    z = HardConcrete(temperature, torch.tensor(logits, dtype=dtype)).rsample((DRAWS,))
    assert z.dtype == dtype
    z = z.double().numpy()

    def cdf(t):
        return special.expit(temperature * np.log((t - low) / (high - t)) - logits)

    zero, one = cdf(0), 1 - cdf(1)
    for share, probability in (((z == 0).mean(), zero), ((z == 1).mean(), one)):
        assert abs(share - probability) < 4 * math.sqrt(probability * (1 - probability) / DRAWS)
    inside = z[(z > 0) & (z < 1)]
    assert stats.kstest(inside, lambda t: (cdf(t) - zero) / (1 - one - zero)).pvalue > KS_LEVEL


@pytest.mark.parametrize("temperature", TEMPERATURES)
def test_the_mean_of_draws_is_the_mean(temperature):
    p = HardConcrete(temperature, torch.tensor([-2.0, 0.5, 3.0]))
    z = p.rsample((DRAWS,))
    assert ((z.mean(0) - p.mean).abs() < 4 * z.std(0) / math.sqrt(DRAWS)).all()


@dtypes
@pytest.mark.parametrize("as_number", [True, False])
def test_the_gradient_of_a_draw_is_the_papers_inside_and_exactly_zero_at_the_ends(dtype, as_number):
    temperature = 0.5 if as_number else torch.tensor(0.5, dtype=dtype)
    logits = torch.linspace(-60, 60, 4001, dtype=dtype, requires_grad=True)
    z = HardConcrete(temperature, logits).rsample()
    found = slopes(z, logits)
    s = (z.detach().double() + 0.1) / 1.2
    is_inside = (z > 0) & (z < 1)
    assert 10 < is_inside.sum() < 1000
    wanted = torch.where(is_inside, 1.2 * s * (1 - s) / 0.5, 0.0)
    torch.testing.assert_close(found.double(), wanted, rtol=1e-5, atol=0)


def test_a_value_at_the_very_end_has_no_gradient():
    p = HardConcrete(0.5, torch.zeros(()), -1.0, 3.0)
    s = torch.tensor([0.25, 0.5], requires_grad=True)  # stretched to exactly 0 and 1
    z = p._cut(s)
    assert z.tolist() == [0, 1] and slopes(z, s).tolist() == [0, 0]


@dtypes
def test_nothing_is_nan_or_infinite(dtype):
    for temperature, limits in CASES:
        p, _ = both(temperature, limits, dtype)
        z = p.rsample((20_000,))
        log_prob = p.log_prob(z)
        assert log_prob.isfinite().all() and 0 <= z.min() and z.max() <= 1
        assert slopes(log_prob.sum() + z.sum(), p.logits).isfinite().all()


def test_the_gradient_of_the_expected_mask_is_that_of_its_draws():
    logits = torch.tensor([-1.0, 0.5, 2.0], dtype=torch.float64, requires_grad=True)
    p = HardConcrete(2 / 3, logits)
    each = logits.detach().expand(DRAWS, 3).clone().requires_grad_()
    by_draw = slopes(HardConcrete(2 / 3, each).rsample(), each)
    error = by_draw.std(0) / math.sqrt(DRAWS)
    assert ((by_draw.mean(0) - slopes(p.mean, logits)).abs() < 4 * error).all()


# --- masks, tied ---------------------------------------------------------------------------------------------


def test_a_tied_draw_says_so_and_costs_nothing_to_score():
    p = HardConcrete(2 / 3, torch.tensor([-1.0, 0.0, 2.0], requires_grad=True))
    z = p.tied().rsample((4,))
    assert is_tied(z) and not is_tied(p.rsample()) and not is_tied(z.clone()) and z.requires_grad
    for q in (p, p.tied(), p.expand((4, 3)), Bernoulli(p.prob_nonzero)):
        assert torch.equal(q.log_prob(z), torch.zeros(4, 3))
    assert p.to_event(1).log_prob(z).tolist() == [0] * 4
    assert (p.log_prob(z.clone()) != 0).all()


def test_a_draw_does_not_remember_the_log_odds_of_what_was_cut():
    assert remembered_log_odds(HardConcrete(2 / 3, torch.zeros(3)).rsample()) is None


def test_to_event_gives_masks():
    event = HardConcrete(2 / 3, torch.zeros(3)).to_event(1)
    assert isinstance(event, Masks) and event.expand([5]).rsample().shape == (5, 3)
    z = torch.rand(5, 3)
    torch.testing.assert_close(event.log_prob(z), event.base_dist.log_prob(z).sum(-1))


class Regression:
    """y ~ N(w · (z x), 1), an L0 penalty of λ a unit; gates drawn for each datum, as tied ones or as others."""

    def __init__(self, tied):
        torch.manual_seed(1)
        self.tied = tied
        self.logits = torch.tensor([-2.0, -0.5, 0.0, 1.5], dtype=torch.float64, requires_grad=True)
        self.w = torch.randn(4, dtype=torch.float64, requires_grad=True)
        self.x, self.y = torch.randn(30, 4, dtype=torch.float64), torch.randn(30, dtype=torch.float64)

    @property
    def gates(self):
        logits = pyro.param("logits", self.logits)
        return HardConcrete(2 / 3, logits)

    def model(self):
        gates, w = self.gates, pyro.param("w", self.w)
        pyro.factor("L0", -0.3 * gates.prob_nonzero.sum())
        with pyro.plate("data", 30):
            z = pyro.sample("z", gates.to_event(1))
            pyro.sample("y", dist.Normal((z * self.x) @ w, 1.0), obs=self.y)

    def guide(self):
        gates = self.gates.tied() if self.tied else self.gates
        with pyro.plate("data", 30):
            pyro.sample("z", gates.to_event(1))

    def loss_and_gradients(self, elbo):
        pyro.clear_param_store()
        pyro.set_rng_seed(7)
        with pyro.validation_enabled(False):
            loss = elbo.loss_and_grads(self.model, self.guide)
        return torch.tensor(loss, dtype=torch.float64), self.logits.grad, self.w.grad


def test_tied_gates_have_the_loss_and_the_gradients_of_densities_that_cancel():
    wanted = Regression(tied=False).loss_and_gradients(Trace_ELBO())
    assert all(bool(each.any()) for each in wanted)
    for elbo in (Trace_ELBO(), LeanTraceELBO()):
        for tied in (True, False):
            found = Regression(tied).loss_and_gradients(elbo)
            torch.testing.assert_close(found, wanted, rtol=1e-10, atol=1e-10)


def test_the_gradient_of_the_loss_is_that_of_the_data_and_the_penalty():
    toy = Regression(tied=True)
    loss, by_logits, by_w = toy.loss_and_gradients(LeanTraceELBO())
    pyro.set_rng_seed(7)
    p = HardConcrete(2 / 3, toy.logits)
    error = (p.rsample((30,)) * toy.x) @ toy.w - toy.y
    wanted = 0.5 * (error**2).sum() + 15 * math.log(2 * math.pi) + 0.3 * p.prob_nonzero.sum()
    assert loss.item() == pytest.approx(wanted.item(), rel=1e-10)
    torch.testing.assert_close((by_logits, by_w), torch.autograd.grad(wanted, (toy.logits, toy.w)))


def test_a_penalty_closes_the_gates_that_nothing_needs():
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(200, 4, generator=generator)
    y = 2 * x[:, 0] + 0.1 * torch.randn(200, generator=generator)

    def model():
        gates = HardConcrete(2 / 3, pyro.param("logits", torch.full((4,), 1.0)))
        w = pyro.param("w", torch.full((4,), 0.5))
        pyro.factor("L0", -5 * gates.prob_nonzero.sum())
        z = pyro.sample("z", gates.to_event(1))
        with pyro.plate("data", 200):
            pyro.sample("y", dist.Normal(x @ (z * w), 1.0), obs=y)

    def guide():
        logits = pyro.param("logits", torch.full((4,), 1.0))
        pyro.sample("z", HardConcrete(2 / 3, logits).tied().to_event(1))

    svi = SVI(model, guide, pyro.optim.Adam({"lr": 0.05}), LeanTraceELBO())
    for _ in range(400):
        svi.step()
    gates = HardConcrete(2 / 3, pyro.param("logits").detach())
    assert gates.deterministic.tolist() == [1, 0, 0, 0]


# --- shapes, parts, places, errors ---------------------------------------------------------------------------


def test_it_broadcasts_and_expands():
    p = HardConcrete(torch.tensor([[0.5], [1.0]]), torch.linspace(-1, 1, 3))
    assert p.batch_shape == (2, 3) and p.rsample((4,)).shape == (4, 2, 3)
    for found in (p.prob_nonzero, p.prob_one, p.mean, p.deterministic, p.cdf(torch.tensor(0.3))):
        assert found.shape == (2, 3)
    torch.testing.assert_close(p.mean[1], HardConcrete(1.0, torch.linspace(-1, 1, 3)).mean)
    z = torch.rand(4, 2, 3)
    torch.testing.assert_close(p.log_prob(z)[:, 1], HardConcrete(1.0, torch.linspace(-1, 1, 3)).log_prob(z[:, 1]))
    assert p.log_prob(torch.tensor(0.0)).shape == (2, 3)


def test_expanding_keeps_all_of_it():
    p = HardConcrete(0.5, torch.linspace(-1, 1, 3), -0.25, 1.5, validate_args=True).tied()
    larger = p.expand((5, 2, 3))
    assert isinstance(larger, HardConcrete) and (larger.low, larger.high) == (-0.25, 1.5)
    assert larger.is_tied and is_tied(larger.rsample()) and not HardConcrete(0.5, torch.zeros(3)).is_tied
    assert larger.batch_shape == larger.logits.shape == larger.mean.shape == (5, 2, 3)
    z = torch.rand(5, 2, 3)
    torch.testing.assert_close(larger.log_prob(z), p.log_prob(z))
    assert torch.equal(larger.prob_nonzero[3, 1], p.prob_nonzero)
    with pytest.raises(ValueError, match="support"):
        larger.log_prob(z + 1)


@pytest.mark.parametrize("logits", [0, 0.5, torch.tensor(0.5).double()])
def test_it_takes_numbers(logits):
    p = HardConcrete(0.5, logits)
    assert p.batch_shape == () and p.rsample().dtype == p.mean.dtype == p.logits.dtype
    assert "temperature: 0.5, logits: 0" in repr(p)


@pytest.mark.parametrize("temperature", [0.5, torch.linspace(0.2, 0.8, 7)])
@pytest.mark.parametrize("change", [lambda p: p, lambda p: p.tied(), lambda p: p.expand((7,))])
def test_some_units_of_it_have_their_own_distribution(temperature, change):
    p, kept = change(HardConcrete(temperature, torch.linspace(-3, 3, 7))), torch.tensor([1, 2, 6])
    part = units_of(p, kept)
    assert isinstance(part, HardConcrete) and part.batch_shape == part.rsample().shape == (3,)
    assert part.is_tied == p.is_tied and p.batch_shape == (7,)
    for name in ("prob_nonzero", "prob_one", "mean", "deterministic"):
        assert torch.equal(getattr(part, name), getattr(p, name)[kept])
    torch.manual_seed(0)
    share = (part.rsample((DRAWS,)) > 0).double().mean(0)
    torch.testing.assert_close(share, p.prob_nonzero[kept].double(), rtol=0, atol=4 * 0.5 / math.sqrt(DRAWS))


def test_it_is_placed_in_another_precision():
    p = HardConcrete(2 / 3, torch.linspace(-3, 3, 7))
    like, value = torch.empty(0, dtype=torch.float64), torch.linspace(0, 1, 7)
    for original in (p, p.to_event(1), p.to_event(1).expand([5])):
        placed = placed_like(original, like)
        assert placed.rsample().dtype == torch.float64 and original.rsample().dtype == torch.float32
        torch.testing.assert_close(
            placed.log_prob(value.double()), original.log_prob(value).double(), rtol=1e-6, atol=1e-6
        )
    placed = placed_like(p, like)
    for name in ("prob_nonzero", "prob_one", "mean", "deterministic", "logits"):
        assert getattr(placed, name).dtype == torch.float64
    assert placed.cdf(value.double()).dtype == torch.float64


def test_it_is_placed_on_another_device():
    placed = placed_like(HardConcrete(2 / 3, torch.zeros(3)), torch.empty(0, device="meta"))
    with pyro.validation_enabled(False):
        assert all(found.is_meta for found in (placed.rsample(), placed.mean, placed.deterministic))
        assert placed.log_prob(placed.rsample()).is_meta


@pytest.mark.parametrize(
    "low, high",
    [(0.0, 1.1), (0.1, 1.1), (-0.1, 1.0), (-0.1, 0.9), (math.nan, 1.1), (-math.inf, 1.1), (-0.1, math.inf), ("a", 2)],
)
def test_it_says_what_limits_it_wants(low, high):
    with pytest.raises(ValueError, match=r"HardConcrete: low is .* and high is .*, wanted .* low < 0 and high > 1"):
        HardConcrete(2 / 3, torch.zeros(2), low, high)


@pytest.mark.parametrize(
    "temperature, logits, name",
    [(0.0, 0.0, "temperature"), (-1.0, 0.0, "temperature"), (0.5, math.nan, "logits")],
)
def test_it_names_the_argument_that_is_out_of_range(temperature, logits, name):
    with pytest.raises(ValueError, match=f"parameter {name} .* HardConcrete"):
        HardConcrete(temperature, torch.tensor([0.0, logits]), validate_args=True)


@pytest.mark.parametrize("value", [-0.01, 1.01])
@pytest.mark.parametrize("method", ["log_prob", "cdf"])
def test_it_refuses_values_outside_its_support(method, value):
    p = HardConcrete(0.5, torch.zeros(2), validate_args=True)
    with pytest.raises(ValueError, match="support"):
        getattr(p, method)(torch.tensor([0.5, value]))
