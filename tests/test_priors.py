"""The ready-made priors: the distribution they make, and what they say of a bad argument."""

import math

import mpmath
import pytest
import torch
from scipy import stats

from bbpyro import distributions, priors

BAD_NUMBERS = (0, -1.0, math.inf, math.nan)
VALUES = (0.05, 0.5, 0.9)


@pytest.mark.parametrize(
    "prior, text",
    [
        (priors.Beta(), "Beta(concentration1=0.0001, concentration0=1.0)"),
        (priors.Beta(0.5, 2.0), "Beta(concentration1=0.5, concentration0=2.0)"),
        (priors.IndianBuffet(), "IndianBuffet(alpha=5.0)"),
        (priors.Normal(0.1), "Normal(scale=0.1)"),
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
    ],
)
def test_a_prior_names_the_argument_that_is_not_a_positive_number(make, name, value):
    with pytest.raises(ValueError, match=f"^{name} is {value}, wanted a positive finite number$"):
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
