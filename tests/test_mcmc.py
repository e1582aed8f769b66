import itertools
import math

import arviz as az
import numpy as np
import pyro.distributions as dist
import pytest
import torch
from torch import nn

import bbpyro
from bbpyro import mcmc, priors


def make_network(num_units: int = 2, num_data: int = 6) -> bbpyro.BetaBernoulliNetwork:
    """A logistic regression."""
    return bbpyro.BetaBernoulliNetwork(
        bbpyro.insert_dropout(nn.Linear(num_units, 2)),
        num_data=num_data,
        prior=priors.Beta(0.7, 1.3),
        weight_prior=priors.Normal(2.0),
    )


def test_the_potential_is_the_sum_over_every_mask_of_every_datum_written_out():
    net = nn.Sequential(nn.Linear(2, 2), nn.Tanh(), nn.Linear(2, 3)).double()
    bnn = bbpyro.BetaBernoulliNetwork(
        bbpyro.insert_dropout(net), num_data=5, prior=priors.Beta(0.7, 1.3), weight_prior=priors.Normal(2.0)
    )
    x, y = torch.randn(5, 2, dtype=torch.float64), torch.randint(3, (5,))
    latents = {name: torch.randn_like(w) for name, w in bnn.weights.items()}
    latents |= {g: torch.randn(2, dtype=torch.float64) for g in bnn.gates}

    expected = sum(dist.Normal(0.0, 2.0).log_prob(latents[name]).sum() for name in bnn.weights)
    pi = torch.cat([torch.sigmoid(latents[g]) for g in ("0.gate", "2.gate")])
    expected = expected + (torch.distributions.Beta(0.7, 1.3).log_prob(pi) + torch.log(pi * (1 - pi))).sum()
    for n in range(5):
        likelihood = 0.0
        for mask in itertools.product((0.0, 1.0), repeat=4):
            z = torch.tensor(mask, dtype=torch.float64)
            hidden = torch.tanh(latents["0.weight"] @ (x[n] * z[:2]) + latents["0.bias"])
            logits = latents["2.weight"] @ (hidden * z[2:]) + latents["2.bias"]
            probability = torch.where(z == 1, pi, 1 - pi).prod()
            likelihood = likelihood + probability * torch.softmax(logits, -1)[y[n]]
        expected = expected + torch.log(likelihood)
    assert mcmc.SummedOut(bnn, x, y)(latents).item() == pytest.approx(-expected.item(), rel=1e-5)


def test_nuts_draws_the_posterior_that_a_grid_gives():
    """One unit of a fixed weight: p(π | y) ∝ Beta(π) Π_n (π N(y_n; x_n w, σ) + (1-π) N(y_n; 0, σ))."""
    torch.manual_seed(3)
    net = nn.Sequential(nn.Linear(1, 1, bias=False), nn.Flatten(0))
    nn.init.constant_(net[0].weight, 2.0)
    net.requires_grad_(False)
    bnn = bbpyro.BetaBernoulliNetwork(
        bbpyro.insert_dropout(net), lambda output: dist.Normal(output, 0.6), num_data=8, prior=priors.Beta(0.8, 1.5)
    )
    x = torch.randn(8, 1)
    y = 2 * x[:, 0] * (torch.arange(8) < 5) + 0.6 * torch.randn(8)
    idata = mcmc.nuts(bnn, x, y, num_samples=1500, warmup_steps=300, num_chains=2, seed=1, progress=False)
    assert idata.attrs["num_divergences"] == 0

    grid = (np.arange(20000) + 0.5) / 20000
    log_density = -0.2 * np.log(grid) + 0.5 * np.log1p(-grid)
    for x_n, y_n in zip(x[:, 0].tolist(), y.tolist(), strict=True):
        near, far = (math.exp(-(((y_n - mean) / 0.6) ** 2) / 2) for mean in (2 * x_n, 0.0))
        log_density += np.log(grid * near + (1 - grid) * far)
    density = np.exp(log_density - log_density.max())
    density /= density.sum()
    mean = (grid * density).sum()
    sd = math.sqrt(((grid - mean) ** 2 * density).sum())
    draws = idata["posterior"]["0.gate.pi"].values.ravel()
    num_effective = float(az.ess(idata)["0.gate.pi"].min())
    assert num_effective > 300
    assert abs(draws.mean() - mean) < 4.5 * sd / math.sqrt(num_effective)
    cdf = np.cumsum(density)
    for p in (0.1, 0.5, 0.9):
        quantile = grid[np.searchsorted(cdf, p)]
        assert abs((draws < quantile).mean() - p) < 4.5 * math.sqrt(p * (1 - p) / num_effective)


def test_what_comes_back_is_for_arviz_and_the_network_is_left_alone():
    bnn = make_network()
    before = {name: tensor.clone() for name, tensor in bnn.state_dict().items()}
    x, y = torch.randn(6, 2), torch.randint(2, (6,))
    state = torch.get_rng_state()
    idata = mcmc.nuts(bnn, x, y, num_samples=8, warmup_steps=4, num_chains=2, progress=False)
    assert idata["posterior"]["gate.pi"].shape == (2, 8, 2)
    assert idata["posterior"]["weight"].shape == (2, 8, 2, 2)
    assert {"mean", "ess_bulk", "r_hat"} <= set(az.summary(idata).columns)
    assert all(torch.equal(tensor, before[name]) for name, tensor in bnn.state_dict().items())
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize(
    ("num_units", "num_data", "message"),
    [
        (11, 6, r"bnn has 11 units, so 2\^11 masks a datum; wanted at most 10"),
        (2, 7, "it holds 7 data but the network was made for num_data=6"),
    ],
)
def test_what_is_too_large_or_does_not_fit_is_refused(num_units, num_data, message):
    x, y = torch.randn(num_data, num_units), torch.zeros(num_data).long()
    with pytest.raises(ValueError, match=message):
        mcmc.nuts(make_network(num_units), x, y)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"num_samples": 3}, "num_samples is 3, wanted at least 4"),
        ({"warmup_steps": -1}, "warmup_steps is -1, wanted at least 0"),
        ({"num_chains": 0}, "num_chains is 0, wanted at least 1"),
        ({"y": torch.full((6,), 2)}, "y holds labels 2 to 2, wanted 0 to 1"),
        ({"x": torch.full((6, 2), math.nan)}, "x: it holds nan or inf"),
    ],
)
def test_what_is_out_of_range_is_named(options, message):
    data = {"x": torch.randn(6, 2), "y": torch.zeros(6).long()}
    with pytest.raises(ValueError, match=message):
        mcmc.nuts(make_network(), **{**data, **options})


def test_the_network_is_in_evaluation_mode_meanwhile_and_batch_norm_is_left_alone():
    net = nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2), nn.Dropout(0.5), nn.Linear(2, 2))
    bnn = bbpyro.BetaBernoulliNetwork(bbpyro.insert_dropout(net), num_data=6, prior=priors.Beta(0.7, 1.3))
    bnn.net[1].requires_grad_(False)
    bnn.train()
    before = {name: tensor.clone() for name, tensor in bnn.state_dict().items()}
    with torch.no_grad():  # which a caller may be in
        mcmc.nuts(bnn, torch.randn(6, 2), torch.zeros(6).long(), num_samples=4, warmup_steps=2, progress=False)
    assert bnn.training and bnn.net[2].training
    assert all(torch.equal(tensor, before[name]) for name, tensor in bnn.state_dict().items())
