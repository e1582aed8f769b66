"""Gibbs sampling of latent features: Geweke's joint-distribution test, and the exact posterior by enumeration."""

import itertools
import math

import arviz as az
import numpy as np
import pyro.distributions as dist
import pytest
import torch
from torch import nn

from bbpyro import mcmc
from bbpyro.latent_features import LatentFeatureModel
from bbpyro.posterior.container import group


def model_of(num_features=2, num_data=3, num_dims=2, scale=0.7, prior="IndianBuffet(2)", **others):
    likelihood = others.pop("likelihood", lambda output: dist.Normal(output, scale))
    return LatentFeatureModel(
        num_features, likelihood, num_data=num_data, num_dims=num_dims, prior=prior, weight_scale=1.3, **others
    )


def statistics(sampler):
    z, W, pi, x = sampler.z, sampler.W, sampler.pi, sampler.x
    return [
        z.sum(),
        (z.sum(0) > 0).sum(),
        z[0, 0] * z[1, 0],
        W.square().sum(),
        pi.sum(),
        x.square().sum(),
        (z @ W).sum(),
    ]


def test_the_joint_distribution_is_that_of_draws_of_the_model():
    """Geweke (2004): a sweep and new data, in turn, keep the joint distribution of what is drawn and the data."""
    torch.manual_seed(0)
    x = torch.zeros(3, 2)
    x[1, 0] = math.nan
    model, forward, back = model_of(), [], []
    sampler = mcmc.GibbsSampler(model, x)
    for _ in range(3000):
        sampler.sweep()
        sampler.x = sampler.z @ sampler.W + sampler.scale * torch.randn(3, 2, dtype=torch.float64)
        back.append(statistics(sampler))
    for _ in range(3000):
        fresh = mcmc.GibbsSampler(model, x)
        fresh.x = fresh.z @ fresh.W + fresh.scale * torch.randn(3, 2, dtype=torch.float64)
        forward.append(statistics(fresh))
    for one, other in zip(np.array(forward).T, np.array(back).T, strict=True):
        error = np.sqrt(one.var() / len(one) + other.var() / float(az.ess(other[None])))
        assert abs(one.mean() - other.mean()) < 4 * error


def test_it_draws_z_as_often_as_the_exact_posterior_has_it():
    x = torch.tensor([[1.0, 1.2], [0.9, 1.0], [0.1, -0.2]])
    log_p = {}
    for bits in itertools.product((0.0, 1.0), repeat=6):
        z = torch.tensor(bits, dtype=torch.float64).reshape(3, 2)
        on, c = z.sum(0), torch.tensor(1.0, dtype=torch.float64)  # IndianBuffet(2) of 2: Beta(1, 1)
        log_z = (c.log() + (c + on).lgamma() + (4 - on).lgamma() - (c + 4).lgamma()).sum()
        covariance = 0.7**2 * torch.eye(3, dtype=torch.float64) + 1.3**2 * z @ z.T
        of_x = torch.distributions.MultivariateNormal(torch.zeros(3, dtype=torch.float64), covariance)
        log_p[bits] = (log_z + of_x.log_prob(x.double().T).sum()).item()
    exact = torch.softmax(torch.tensor(list(log_p.values())), 0)
    used = torch.tensor([(torch.tensor(bits).reshape(3, 2).sum(0) > 0).sum() for bits in log_p])
    idata = mcmc.gibbs(model_of(), x, num_samples=3000, warmup_steps=50, num_chains=2, seed=1, progress=False)
    found = group(idata, "posterior")["num_features"].values
    for number in range(3):
        drawn = (found == number).astype(float)
        error = drawn.std() / np.sqrt(float(az.ess(drawn)))
        assert abs(drawn.mean() - exact[used == number].sum().item()) < 4 * error
    posterior = group(idata, "posterior")
    assert {name: posterior[name].shape for name in ("pi", "W", "z")} == {
        "pi": (2, 3000, 2),
        "W": (2, 3000, 2, 2),
        "z": (2, 3000, 3, 2),
    }


def test_a_seed_gives_the_same_draws_and_leaves_torch_as_it_was():
    x, settings = torch.randn(3, 2), {"num_samples": 5, "warmup_steps": 2, "num_chains": 2, "progress": False}
    for model in (model_of(), model_of(num_data=None, num_dims=None)):  # the second begins at the first call
        state = torch.get_rng_state()
        one, two, other = (group(mcmc.gibbs(model, x, seed=s, **settings), "posterior") for s in (1, 1, 9))
        assert one.equals(two) and not one.equals(other)
        assert torch.equal(state, torch.get_rng_state())


@pytest.mark.parametrize(
    ("others", "x", "told"),
    [
        ({"prior": "StickBreaking(2)"}, torch.zeros(3, 2), "of a Beta prior alone"),
        ({"decoder": nn.Identity()}, torch.zeros(3, 2), "decoder: Gibbs is of the linear model"),
        (
            {"likelihood": lambda output: dist.Bernoulli(logits=output)},
            torch.zeros(3, 2),
            "and this is another Bernoulli",
        ),
        (
            {"likelihood": lambda o: dist.Normal(o, torch.tensor([1.0, 2.0]))},
            torch.zeros(3, 2),
            "sums themselves, of one scale",
        ),
        ({}, torch.zeros(4, 2), "x has shape"),
        ({}, torch.zeros(3, 5), "x has shape"),
        ({}, torch.zeros(3, 2).long(), "wanted floats"),
    ],
)
def test_what_it_cannot_sample_is_said(others, x, told):
    with pytest.raises(ValueError, match=told):
        mcmc.gibbs(model_of(**others), x, num_samples=4, progress=False)
