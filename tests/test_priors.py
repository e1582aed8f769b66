"""The ready-made priors: the distribution they make, and what they say of a bad argument."""

import math
import re

import mpmath
import pyro.distributions as dist
import pytest
import torch
from scipy import integrate, stats

import bbpyro
from bbpyro import data, distributions, priors

BAD_NUMBERS = (0, -1.0, math.inf, math.nan, 1e-300, 1e300)
VALUES = (0.05, 0.5, 0.9)


@pytest.mark.parametrize(
    "prior, text",
    [
        (priors.Beta(), "Beta(0.0001, 1)"),
        (priors.Beta(0.5, 2.0), "Beta(0.5, 2)"),
        (priors.IndianBuffet(), "IndianBuffet(5)"),
        (priors.Normal(0.1), "Normal(0.1)"),
        (priors.Uniform(), "Uniform()"),
        (priors.Jeffreys(), "Jeffreys()"),
        (priors.LogitNormal(-1.0), "LogitNormal(-1, 3)"),
    ],
)
def test_a_prior_prints_as_it_is_written(prior, text):
    assert repr(prior) == text


def test_priors_are_values():
    assert priors.Beta(0.5, 2.0) == priors.Beta(0.5, 2.0) != priors.Beta(0.5, 3.0)
    assert hash(priors.Normal(0.1)) == hash(priors.Normal(0.1))


@pytest.mark.parametrize("value", BAD_NUMBERS)
@pytest.mark.parametrize(
    "make, name",
    [
        (lambda value: priors.Beta(concentration1=value), "Beta: concentration1"),
        (lambda value: priors.Beta(concentration0=value), "Beta: concentration0"),
        (lambda value: priors.IndianBuffet(alpha=value), "IndianBuffet: alpha"),
        (lambda value: priors.Normal(scale=value), "Normal: scale"),
        (lambda value: priors.LogitNormal(scale=value), "LogitNormal: scale"),
        (lambda value: priors.StickBreaking(alpha=value), "StickBreaking: alpha"),
        (lambda value: priors.Laplace(scale=value), "Laplace: scale"),
        (lambda value: priors.StudentT(df=value, scale=1.0), "StudentT: df"),
        (lambda value: priors.StudentT(df=3.0, scale=value), "StudentT: scale"),
        (lambda value: priors.HorseshoeLike(scale=value), "HorseshoeLike: scale"),
    ],
)
def test_a_prior_names_the_argument_that_is_not_a_positive_number(make, name, value):
    with pytest.raises(
        ValueError, match="^" + re.escape(f"{name} is {value}, wanted a positive number, 1e-37 to 1e38")
    ):
        make(value)


@pytest.mark.parametrize("num_units", [1, 7])
def test_a_prior_on_keep_probabilities_has_one_for_each_unit_and_scores_draws_exactly(num_units):
    for prior in (priors.Beta(), priors.Beta(2.0, 3.0), priors.IndianBuffet(2.0)):
        p = prior(num_units)
        assert p.batch_shape == (num_units,) and p.event_shape == ()
        assert isinstance(p, distributions.Beta)
        draw = p.sample()
        assert draw.shape == p.log_prob(draw).shape == (num_units,)


@pytest.mark.parametrize("concentration1, concentration0", [(0.5, 1.0), (2.0, 3.0)])
def test_beta_is_scipys(concentration1, concentration0):
    p = priors.Beta(concentration1, concentration0)(3)
    got = p.log_prob(torch.tensor(VALUES))
    expected = torch.tensor(stats.beta(concentration1, concentration0).logpdf(VALUES))
    torch.testing.assert_close(got.double(), expected, rtol=2e-5, atol=2e-5)


def test_the_default_beta_is_the_sources_power_law():
    # Beta(c, 1) has density c π^(c-1), with c = 1e-4.
    c = mpmath.mpf("1e-4")
    expected = [float(mpmath.log(c) + (c - 1) * mpmath.log(x)) for x in VALUES]
    assert priors.Beta()(3).log_prob(torch.tensor(VALUES)).tolist() == pytest.approx(expected, rel=2e-5)


@pytest.mark.parametrize("alpha, num_units", [(5.0, 10), (5.0, 1000), (0.5, 3)])
def test_indian_buffet_shares_alpha_among_the_units(alpha, num_units):
    p = priors.IndianBuffet(alpha)(num_units)
    # Beta(α/K, 1) has mean α / (α + K): about α of K units are active while α is much smaller than K.
    expected_active = num_units * alpha / (alpha + num_units)
    assert p.mean.sum().item() == pytest.approx(expected_active, rel=1e-5)
    true = math.log(alpha / num_units) + (alpha / num_units - 1) * math.log(0.5)
    assert p.log_prob(torch.tensor(0.5)).tolist() == pytest.approx([true] * num_units, rel=2e-5)


@pytest.mark.parametrize("shape", [(3,), (4, 5), (2, 3, 5, 5)])
def test_normal_is_one_factor_over_the_whole_weight(shape):
    p = priors.Normal(0.2)(shape)
    assert p.batch_shape == () and p.event_shape == shape
    weight = torch.linspace(-0.5, 0.5, math.prod(shape)).reshape(shape)
    expected = stats.norm(scale=0.2).logpdf(weight.double().numpy()).sum()
    assert p.log_prob(weight).item() == pytest.approx(expected, rel=1e-5)
    assert p.sample((2,)).shape == (2, *shape)


def test_normal_takes_the_size_of_a_tensor():
    assert priors.Normal(1.0)(torch.zeros(2, 3).shape).event_shape == (2, 3)


ON_PI = [
    priors.Uniform(),
    priors.Jeffreys(),
    priors.LogitNormal(-1.0, 2.0),
    priors.SpikeAndSlab(0.3, priors.Beta(0.05, 1.0), priors.Beta(3.0, 2.0)),
]


def density(prior, value):
    """By SciPy, and for what SciPy has not, by its definition."""
    if isinstance(prior, priors.LogitNormal):
        return stats.norm(prior.loc, prior.scale).pdf(math.log(value / (1 - value))) / (value * (1 - value))
    if isinstance(prior, priors.SpikeAndSlab):
        parts = [stats.beta(b.concentration1, b.concentration0).pdf(value) for b in (prior.slab, prior.spike)]
        return prior.slab_probability * parts[0] + (1 - prior.slab_probability) * parts[1]
    return {priors.Uniform: stats.uniform(), priors.Jeffreys: stats.beta(0.5, 0.5)}[type(prior)].pdf(value)


@pytest.mark.parametrize("prior", ON_PI, ids=repr)
@pytest.mark.parametrize("value", [1e-6, *VALUES, 0.999])
def test_a_density_is_what_it_says(prior, value):
    found = prior(3).log_prob(torch.full((3,), value, dtype=torch.float64)).exp()
    assert found.tolist() == pytest.approx([density(prior, value)] * 3, rel=1e-5)


@pytest.mark.parametrize("prior", ON_PI, ids=repr)
def test_a_density_of_remembered_draws_is_the_densitys_limit_in_log_odds(prior):
    odds = torch.linspace(-60, 60, 24001, dtype=torch.float64)
    pi = distributions.remember_log_odds(odds, torch.float64)
    log_jacobian = -torch.nn.functional.softplus(odds) - torch.nn.functional.softplus(-odds)  # dπ / d logit π
    within = (prior(1).expand((len(odds),)).log_prob(pi) + log_jacobian).exp()
    mass = torch.trapezoid(within, odds).item()
    spike = prior.spike.concentration1 if isinstance(prior, priors.SpikeAndSlab) else math.inf
    beyond = 0.7 * math.exp(-60 * spike) if spike < 1 else 0.0  # of the spike below e^-60
    assert mass + beyond == pytest.approx(1, abs=1e-4)


@pytest.mark.parametrize("prior", ON_PI, ids=repr)
def test_draws_have_the_priors_distribution(prior):
    draws = prior(2).sample((20_000,))
    assert draws.shape == (20_000, 2) and ((draws > 0) & (draws < 1)).all()
    flat = draws.flatten()
    odds = distributions.remembered_log_odds(draws).flatten()
    assert torch.allclose(torch.sigmoid(odds).float(), flat.float(), atol=1e-6)
    grid = torch.linspace(-40, 40, 80_001, dtype=torch.float64)
    pi = distributions.remember_log_odds(grid, torch.float64)
    log_jacobian = -torch.nn.functional.softplus(grid) - torch.nn.functional.softplus(-grid)
    within = (prior(1).expand((len(grid),)).log_prob(pi) + log_jacobian).exp()
    cumulative = torch.cumulative_trapezoid(within, grid)
    below = 1 - cumulative[-1]  # what lies below the grid
    at = torch.tensor([-3.0, -1.0, 0.0, 1.0, 2.5], dtype=torch.float64)
    wanted = below + cumulative[torch.searchsorted(grid, at) - 1]
    found = (odds[:, None] <= at).double().mean(0)
    assert (found - wanted).abs().max() < 4 * 0.5 / len(odds) ** 0.5 + 1e-3  # four standard errors, and the grid's


@pytest.mark.parametrize("prior", ON_PI, ids=repr)
def test_svi_learns_under_every_prior(prior):
    bars = data.bars(num_train=1000, num_test=100)
    net = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(64, 8), torch.nn.ReLU(), torch.nn.Linear(8, 4))
    bnn = bbpyro.BetaBernoulliNetwork(bbpyro.insert_dropout(net), num_data=1000, prior=prior)
    settings = {"num_epochs": 5, "learning_rate": 1e-2, "gate_learning_rate": 0.05, "seed": 0, "progress": False}
    for elbo in ("trace", "mean-field"):
        history = bbpyro.fit(bnn, bars.x, bars.y, elbo=elbo, **settings)
    assert all(math.isfinite(record["loss"]) for record in history)
    assert history[-1]["train_nll"] < 1.2  # log 4 = 1.39 is what knowing nothing scores


def test_a_mixtures_weight_and_a_location_are_checked():
    for weight in (0.0, 1.0, math.nan):
        with pytest.raises(ValueError, match="SpikeAndSlab: slab_probability is"):
            priors.SpikeAndSlab(weight)
    with pytest.raises(ValueError, match="LogitNormal: loc is inf"):
        priors.LogitNormal(math.inf)


@pytest.mark.parametrize("alpha", [2.0, 10.0])
def test_under_indian_buffet_the_active_units_settle_as_the_layer_grows(alpha):
    """Σ_k z_k of one datum goes to Poisson(α) as K grows; of Beta(c, 1) with one c for all it grows with K."""
    active = {}
    for num_units in (20, 200, 2000):
        pi = priors.IndianBuffet(alpha)(num_units).sample((4000,)).double()
        active[num_units] = torch.bernoulli(pi).sum(-1)
        wanted = num_units * alpha / (alpha + num_units)
        error = (active[num_units].var() / 4000).sqrt()
        assert abs(active[num_units].mean() - wanted) < 5 * error
    assert active[2000].mean() == pytest.approx(alpha, rel=0.05)
    assert active[2000].var() == pytest.approx(alpha, rel=0.15)  # a Poisson's variance is its mean
    of_one_number = [priors.Beta(0.05, 1.0)(k).mean.sum().item() for k in (20, 2000)]
    assert of_one_number[1] == pytest.approx(100 * of_one_number[0])


LOGIT_NORMAL_MEAN, _ = integrate.quad(lambda x: stats.norm(-4, 2).pdf(x) / (1 + math.exp(-x)), -30, 30)


def without_a_mean(num_units):
    """The ninth power of a uniform number."""
    uniform = dist.Uniform(torch.zeros(num_units), torch.ones(num_units))
    return dist.TransformedDistribution(uniform, [torch.distributions.PowerTransform(torch.tensor(9.0))])


@pytest.mark.parametrize(
    ("prior", "num_units", "wanted"),
    [
        (priors.Beta(), 500, 2e-4 / 1.0001),
        (priors.Beta(0.1, 1.9), 7, 0.1),
        (priors.IndianBuffet(5), 300, 2 * 5 / 305),
        (priors.IndianBuffet(5), 10, 1e-5),  # whose mean is a third
        (priors.Jeffreys(), 10, 1e-5),
        (priors.LogitNormal(0.0, 3.0), 10, 1e-5),
        (priors.SpikeAndSlab(0.1, priors.Beta(0.01, 0.99)), 10, 0.02),
        (priors.StickBreaking(5), 10, 1e-5),
        (priors.FixedRate(0.9), 10, 0.0),
        (priors.LogitNormal(-4.0, 2.0), 10, LOGIT_NORMAL_MEAN * 2),
        (torch.distributions.Beta(0.01, 0.99), 10, 0.02),
        (lambda k: dist.Beta(torch.full((k,), 5 / k), torch.ones(k)), 300, 2 * 5 / 305),
        (without_a_mean, 100, 0.2),
    ],
)
def test_a_prior_that_expects_units_to_be_off_has_them_out_up_to_twice_its_mean(prior, num_units, wanted):
    net = bbpyro.insert_dropout(torch.nn.Linear(num_units, 2), threshold=1e-5)
    gate = bbpyro.BetaBernoulliNetwork(net, num_data=5, prior=prior).gates["gate"]
    assert gate.threshold == pytest.approx(wanted, rel=0.02 if prior is without_a_mean else 1e-5)


def test_the_mean_of_gaussian_log_odds_is_scipys():
    prior = priors.LogitNormal(-4.0, 2.0)(3)
    wanted, _ = integrate.quad(lambda x: stats.norm(-4, 2).pdf(x) / (1 + math.exp(-x)), -30, 30)
    assert prior.mean.tolist() == pytest.approx([wanted] * 3, rel=1e-6)


def test_units_the_data_say_nothing_of_are_out_under_the_indian_buffet():
    """Six inputs of which one says all: the others are left at the prior's mean, 2 / (2 + 20), far above 1e-3."""
    torch.manual_seed(0)
    x = torch.randn(2000, 20)
    y = (x[:, 0] > 0).long()
    bnn = bbpyro.BetaBernoulliNetwork(
        bbpyro.insert_dropout(torch.nn.Linear(20, 2)), num_data=2000, prior="IndianBuffet(2)"
    )
    bbpyro.fit(bnn, x, y, num_epochs=60, learning_rate=0.01, gate_learning_rate=0.05, seed=0, progress=False)
    mean = bnn.gates["gate"].keep_probability()
    assert mean[0] > 0.5 and (mean[1:] > 1e-2).sum() > 10
    assert bnn.gates["gate"].kept().tolist() == [True] + 19 * [False]


def test_the_rate_of_ordinary_dropout_is_given():
    p = priors.FixedRate(0.3)(4)
    assert p.batch_shape == (4,) and p.mean.tolist() == pytest.approx([0.7] * 4)
    for rate in (1.0, -0.1, math.nan, math.inf):
        with pytest.raises(ValueError, match="FixedRate: p is"):
            priors.FixedRate(rate)


ON_W = {
    "Normal(0.2)": stats.norm(0, 0.2),
    "Laplace(0.2)": stats.laplace(0, 0.2),
    "StudentT(3, 0.2)": stats.t(3, 0, 0.2),
}


@pytest.mark.parametrize("text, wanted", ON_W.items(), ids=list(ON_W))
@pytest.mark.parametrize("shape", [(3,), (4, 5), (2, 3, 5, 5)])
def test_a_prior_on_weights_is_scipys_over_the_whole_tensor(text, wanted, shape):
    p = priors.as_weight_prior(text)(shape)
    assert p.batch_shape == () and p.event_shape == shape
    weight = torch.linspace(-0.5, 0.5, math.prod(shape)).reshape(shape)
    assert p.log_prob(weight).item() == pytest.approx(wanted.logpdf(weight.double().numpy()).sum(), rel=1e-5)
    assert p.sample((2,)).shape == (2, *shape)
