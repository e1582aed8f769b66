"""InferenceData of Pyro models that are none of bbpyro's, and the Pareto k of their guides."""

import math
import warnings

import arviz as az
import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro.infer.autoguide import AutoDelta, AutoNormal

import bbpyro
from bbpyro.posterior import from_svi, group, pareto_k

Y = torch.tensor([1.0, 2.0, 4.0])


def model(y=None):
    mu = pyro.sample("mu", dist.Normal(0.0, 2.0))
    with pyro.plate("datum", 3):
        doubled = pyro.deterministic("doubled", 2 * mu.expand(3))
        pyro.sample("y", dist.Normal(doubled / 2, 1.0), obs=y)


def exact(y=None):
    precision = 1 / 4 + 3
    pyro.sample("mu", dist.Normal(7.0 / precision, precision**-0.5))


def evidence():
    covariance = torch.eye(3) + 4.0
    return dist.MultivariateNormal(torch.zeros(3), covariance).log_prob(Y).item()


def test_under_the_exact_posterior_each_weight_is_the_evidence():
    idata = from_svi(model, exact, Y, num_samples=100, progress=False)
    stats = group(idata, "sample_stats")
    np.testing.assert_allclose(stats.log_p - stats.log_q, evidence(), rtol=1e-5)
    assert pareto_k(idata) == -math.inf


def test_its_groups_hold_what_they_say_by_the_names_of_plates():
    idata = from_svi(model, exact, Y, num_samples=2000, seed=0, coords={"datum": ["a", "b", "c"]}, progress=False)
    posterior, prior = group(idata, "posterior"), group(idata, "prior")
    assert set(posterior) == {"mu", "doubled"} == set(prior)
    assert posterior.mu.dims == ("chain", "draw") and posterior.doubled.dims == ("chain", "draw", "datum")
    np.testing.assert_allclose(posterior.doubled, np.repeat(2 * posterior.mu.values[..., None], 3, -1), rtol=1e-6)
    error = 1 / 2000**0.5  # of a mean, in standard deviations
    assert posterior.mu.values.mean() == pytest.approx(7 / 3.25, abs=4 * error * 3.25**-0.5)
    assert prior.mu.values.mean() == pytest.approx(0, abs=4 * error * 2)
    expected = torch.distributions.Normal(torch.from_numpy(posterior.mu.values)[..., None], 1.0).log_prob(Y)
    likelihood = group(idata, "log_likelihood").y
    assert likelihood.dims == ("chain", "draw", "datum") and list(likelihood.datum.values) == ["a", "b", "c"]
    np.testing.assert_allclose(likelihood, expected, rtol=1e-4)
    predicted = group(idata, "posterior_predictive").y
    assert predicted.values.std() == pytest.approx((1 + 1 / 3.25) ** 0.5, rel=4 * error)
    assert group(idata, "prior_predictive").y.values.std() == pytest.approx(5**0.5, rel=6 * error)
    np.testing.assert_array_equal(group(idata, "observed_data").y, Y)
    assert "mu" in az.summary(idata, var_names=["mu"], kind="stats").index
    assert az.loo(idata) is not None


@pytest.mark.parametrize("scale", (0.5, 0.7))
def test_the_pareto_k_of_a_guide_too_narrow_is_what_theory_says(scale):
    # Of N(0, 1) by draws of N(0, s²), P(p / q > t) falls as t to the power of -1 / (1 - s²).
    def narrow():
        pyro.sample("x", dist.Normal(0.0, scale))

    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "guide: its Pareto k")  # this guide is not fitted
        idata = from_svi(
            lambda: pyro.sample("x", dist.Normal(0.0, 1.0)), narrow, num_samples=4000, seed=0, progress=False
        )
    assert pareto_k(idata) == pytest.approx(1 - scale**2, abs=0.2)


def test_of_a_guide_too_narrow_is_warned():
    def narrow():
        pyro.sample("x", dist.Normal(0.0, 0.1))

    with pytest.warns(UserWarning, match=r"guide: its Pareto k̂ is [01]\.\d\d, above 0\.\d\d") as told:
        from_svi(lambda: pyro.sample("x", dist.Normal(0.0, 1.0)), narrow, num_samples=500, seed=0, progress=False)
    assert told[0].filename == __file__


def test_autoguides_factors_masks_and_scales_are_as_pyro_has_them():
    def scaled(y):
        rate = pyro.sample("rate", dist.LogNormal(0.0, 1.0))
        pyro.factor("extra", -rate)
        with (
            pyro.plate("datum", 3),
            pyro.poutine.mask(mask=torch.tensor([True, False, True])),
            pyro.poutine.scale(scale=2.0),
        ):
            pyro.sample("y", dist.Exponential(rate), obs=y)

    guide = AutoNormal(scaled)
    guide(Y)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "guide: its Pareto k")  # this guide is not fitted
        idata = from_svi(scaled, guide, Y, num_samples=50, seed=0, progress=False)
    rate = torch.from_numpy(group(idata, "posterior").rate.values)[0]
    own = dist.LogNormal(0.0, 1.0).log_prob(rate) - rate
    own = own + 2 * (dist.Exponential(rate[:, None]).log_prob(Y) * torch.tensor([1.0, 0.0, 1.0])).sum(-1)
    stats = group(idata, "sample_stats")
    np.testing.assert_allclose(stats.log_p[0], own, rtol=1e-4)
    q = dist.LogNormal(*(p.detach() for p in (guide.locs.rate, guide.scales.rate)))
    np.testing.assert_allclose(stats.log_q[0], q.log_prob(rate), rtol=1e-4, atol=1e-4)
    assert set(group(idata, "posterior")) == {"rate"} and set(group(idata, "observed_data")) == {"y"}
    assert (group(idata, "log_likelihood").y[..., 1] == 0).all()


def test_points_are_held_and_alone_have_no_k():
    guide = AutoDelta(model)
    guide(Y)
    assert math.isnan(pareto_k(from_svi(model, guide, Y, num_samples=30, progress=False)))


def test_a_network_is_one_of_its_models():
    x, y = torch.randn(20, 4), torch.randint(2, (20,))
    bnn = bbpyro.BetaBernoulliNetwork(bbpyro.insert_dropout(torch.nn.Sequential(torch.nn.Linear(4, 2))), num_data=20)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "guide: its Pareto k")  # this guide is not fitted
        idata = from_svi(bnn.model, bnn.guide, x, y, num_samples=200, seed=0, progress=False)
    drawn = group(idata, "posterior")["0.gate.pi"]
    assert drawn.shape == (1, 200, 4) and group(idata, "posterior")["0.gate.z"].dims[2] == "data"
    error = 4 * 0.5 / 200**0.5
    np.testing.assert_allclose(
        drawn.mean(("chain", "draw")), bnn.gates["0.gate"].keep_probability().detach(), atol=error
    )


def test_a_seed_gives_the_same_draws_and_torchs_own_are_left_alone():
    torch.manual_seed(3)
    after = torch.randn(2)[1]
    torch.manual_seed(3)
    torch.randn(1)
    one, two = (from_svi(model, exact, Y, num_samples=5, seed=1, progress=False) for _ in range(2))
    assert torch.randn(1) == after
    np.testing.assert_array_equal(group(one, "posterior").mu, group(two, "posterior").mu)


def test_what_is_not_learnt_is_told_and_left_out():
    def beside(y):
        pyro.sample("other", dist.Normal(0.0, 1.0))
        model(y)

    with pytest.warns(UserWarning, match="other: not in the guide"):
        idata = from_svi(beside, exact, Y, num_samples=30, progress=False)
    assert "other" not in group(idata, "posterior")
    stats = group(idata, "sample_stats")
    np.testing.assert_allclose(stats.log_p - stats.log_q, evidence(), rtol=1e-4)

    def minibatch(y):
        mu = pyro.sample("mu", dist.Normal(0.0, 2.0))
        with pyro.plate("datum", 3, subsample_size=2) as i:
            pyro.sample("y", dist.Normal(mu, 1.0), obs=y[i])

    with pytest.warns(UserWarning, match="datum: this plate subsamples"):
        from_svi(minibatch, exact, Y, num_samples=3, progress=False)


@pytest.mark.parametrize(
    ("given", "message"),
    (
        ({"num_samples": 0}, "num_samples is 0, wanted at least 1"),
        ({"dims": {"mu": ["a"]}}, "dims: mu has 0 dimensions, and 1 names"),
        ({"coords": {"datum": [1, 2]}}, "coords: datum has 3 places, and 2 labels"),
    ),
)
def test_what_does_not_fit_is_named(given, message):
    with pytest.raises(ValueError, match=message):
        from_svi(model, exact, Y, **{"num_samples": 2, "progress": False, **given})


def test_a_guide_of_nothing_and_too_few_draws_are_named():
    with pytest.raises(ValueError, match="model: no latent site of it is in the guide"):
        from_svi(model, lambda y=None: None, Y, num_samples=2, progress=False)
    with pytest.raises(ValueError, match="it has 3 draws, wanted at least 25"):
        pareto_k(from_svi(model, exact, Y, num_samples=3, progress=False))


@pytest.mark.skipif(not hasattr(az, "loo_approximate_posterior"), reason="ArviZ 1.x alone has it")
def test_arviz_takes_log_p_and_log_q_to_leave_one_out_of_a_guide_that_is_too_wide():
    torch.manual_seed(0)
    y = torch.randn(20)
    precision = 1 / 4 + 20

    def wide(y=None):
        pyro.sample("mu", dist.Normal(torch.sum(y) / precision, 2 * precision**-0.5))

    def of(y=None):
        mu = pyro.sample("mu", dist.Normal(0.0, 2.0))
        with pyro.plate("datum", 20):
            pyro.sample("y", dist.Normal(mu, 1.0), obs=y)

    rest = y.sum() - y
    variance = 1 / (precision - 1)
    exact = torch.distributions.Normal(rest * variance, (1 + variance) ** 0.5).log_prob(y).sum().item()
    idata = from_svi(of, wide, y, num_samples=4000, seed=0, progress=False)
    assert pareto_k(idata) < 0
    stats = group(idata, "sample_stats")
    found = az.loo_approximate_posterior(idata, stats.log_p, stats.log_q)
    assert found.elpd == pytest.approx(exact, abs=0.1)
    assert abs(az.loo(idata, reff=1.0).elpd - exact) > 0.5  # as if the draws were the posterior's
