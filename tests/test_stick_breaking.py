"""Stick breaking: order, moments, density, divergence, and its place in the model."""

import math

import pyro
import pytest
import torch
from pyro.infer import Trace_ELBO, TraceMeanField_ELBO
from scipy import integrate, stats
from torch import nn
from torch.distributions import kl_divergence

import bbpyro
from bbpyro import priors
from bbpyro.distributions import Kumaraswamy, StickBreaking, log_odds, remember_log_odds

ALPHAS = (0.3, 1.0, 5.0)


def sticks(a, b=(1.0,), dtype=torch.float64):
    a, b = torch.broadcast_tensors(torch.tensor(a, dtype=dtype), torch.tensor(b, dtype=dtype))
    return StickBreaking(Kumaraswamy(a, b))


@pytest.mark.parametrize("alpha", ALPHAS)
def test_moments_are_those_of_the_theory(alpha):
    prior = priors.StickBreaking(alpha)(6)
    k = torch.arange(1, 7, dtype=torch.float64)
    mean, second = (alpha / (1 + alpha)) ** k, (alpha / (2 + alpha)) ** k
    assert prior.mean.tolist() == pytest.approx(mean.tolist(), rel=1e-6)
    assert prior.variance.tolist() == pytest.approx((second - mean**2).tolist(), rel=1e-5)
    draws = prior.sample((100_000,)).double()
    error = (draws.mean(0) - mean).abs() / ((second - mean**2) / len(draws)).sqrt()
    assert error.max() < 5  # standard errors
    assert (draws.diff(dim=-1) <= 0).all()


def test_the_moments_of_kumaraswamy_sticks_are_those_of_draws():
    q = sticks([0.5, 3.0, 40.0, 1.0], [2.0, 0.5, 1.0, 7.0])
    draws = q.sample((200_000,))
    assert ((draws.mean(0) - q.mean).abs() < 5 * (q.variance / len(draws)).sqrt()).all()
    assert ((draws.var(0) - q.variance).abs() < 0.02 * q.variance).all()


@pytest.mark.parametrize("a, b", [([2.0, 1.5], [1.0, 1.0]), ([3.0, 2.0], [2.0, 1.5])])
def test_the_density_integrates_to_one(a, b):
    q = sticks(a, b)
    mass, _ = integrate.dblquad(
        lambda second, first: q.log_prob(torch.tensor([first, second], dtype=torch.float64)).exp().item(),
        0,
        1,
        0,
        lambda first: first,
        epsabs=1e-6,
        epsrel=1e-6,
    )
    assert mass == pytest.approx(1, abs=1e-4)


def test_the_density_is_the_chain_of_conditional_densities():
    """π_k given π_{k-1} is π_{k-1} times a Kumaraswamy(α, 1), which is Beta(α, 1)."""
    alpha, pi = 1.7, [0.9, 0.5, 0.5 * 0.3, 0.01]
    wanted = sum(
        stats.beta(alpha, 1).logpdf(this / before) - math.log(before)
        for before, this in zip([1.0, *pi], pi, strict=False)
    )
    found = priors.StickBreaking(alpha)(4).log_prob(torch.tensor(pi, dtype=torch.float64))
    assert found.item() == pytest.approx(wanted, rel=1e-6)  # alpha is a float32


def test_what_is_not_in_order_has_no_density():
    assert priors.StickBreaking(2.0)(3).log_prob(torch.tensor([0.5, 0.6, 0.1])).item() == -math.inf
    equal = sticks([2.0, 2.0], [1.0, 1.0]).log_prob(torch.tensor([0.5, 0.5], dtype=torch.float64)).item()
    assert equal == pytest.approx(2 * math.log(2) + math.log(0.5) - math.log(0.5), abs=1e-6)  # v = 1


@pytest.mark.parametrize("a", [1e-3, 1.0, 300.0, 1e5])
@pytest.mark.parametrize("b", [0.5, 1.0, 50.0])
def test_a_draw_is_scored_alike_by_its_sticks_and_by_its_log_odds(a, b):
    q = sticks([a] * 5, [b] * 5)
    draws = q.sample((1000,))
    again = remember_log_odds(log_odds(draws), torch.float64)  # which has lost its sticks
    by_sticks, by_odds = q.log_prob(draws), q.log_prob(again)
    assert by_sticks.isfinite().all() and by_sticks.dtype == torch.float64
    # A stick lost in the sum before it, of 16 digits, is what the second cannot know.
    share = ((by_sticks - by_odds).abs() < 1e-4 * by_sticks.abs().clamp_min(1)).double().mean()
    assert share > 0.95


def test_units_far_beyond_floats_range_have_densities_and_gradients():
    a = torch.full((784,), 1e-3, requires_grad=True)
    b = torch.ones(784, requires_grad=True)
    q, p = StickBreaking(Kumaraswamy(a, b)), priors.StickBreaking(5.0)(784)
    draw = q.rsample()
    assert (draw[300:] < 1e-30).all() and (log_odds(draw)[-1] < -1e4)
    loss = q.log_prob(draw) - p.log_prob(draw) + torch.sigmoid(log_odds(draw) / 1e4).sum()
    loss.backward()
    assert loss.isfinite() and a.grad.isfinite().all() and b.grad.isfinite().all() and (a.grad != 0).all()


def test_the_divergence_is_that_of_the_sticks_and_of_draws():
    q, p = sticks([0.5, 3.0, 40.0], [2.0, 0.5, 1.0]), sticks([5.0] * 3)
    draws = q.sample((200_000,))
    ratios = q.log_prob(draws) - p.log_prob(draws)
    kl = kl_divergence(q, p)
    assert kl.shape == ()
    assert abs(ratios.mean() - kl) < 5 * ratios.std() / len(ratios) ** 0.5
    assert kl_divergence(p, p).item() == pytest.approx(0, abs=1e-9)


def test_shapes():
    q = StickBreaking(Kumaraswamy(torch.ones(2, 3), torch.ones(3)))
    assert q.batch_shape == (2,) and q.event_shape == (3,)
    assert q.expand((4, 2)).sample((5,)).shape == (5, 4, 2, 3)
    assert q.log_prob(q.sample((5,))).shape == (5, 2)


def make_network(prior, **arguments):
    net = bbpyro.insert_dropout(nn.Sequential(nn.Linear(6, 5), nn.ReLU(), nn.Linear(5, 3)))
    return bbpyro.BetaBernoulliNetwork(net, num_data=40, prior=prior, **arguments)


def test_the_gate_is_under_the_priors_family():
    bnn = make_network(priors.StickBreaking(5.0))
    gate = bnn.gates["0.gate"]
    assert isinstance(gate.posterior(), StickBreaking)
    mean = gate.keep_probability()
    assert (mean.diff() < 0).all() and mean.tolist() == gate.mean_mask().tolist()
    # With K a in place of a, the last unit's E[log π] is what a gate's own would be: -1/a where b is 1.
    a = torch.nn.functional.softplus(gate.unconstrained_concentration1[0]).item()
    draws = torch.nn.functional.logsigmoid(log_odds(gate.posterior().sample((20_000,))))[:, -1]
    assert draws.mean().item() == pytest.approx(-1 / a, rel=0.05)


def test_a_gate_in_use_under_one_family_is_not_taken_by_another():
    net = bbpyro.insert_dropout(nn.Sequential(nn.Linear(6, 3)))
    for _ in range(2):
        bbpyro.BetaBernoulliNetwork(net, num_data=40, prior=priors.StickBreaking(5.0))
    with pytest.raises(ValueError, match="gate '0.gate' is already in use under another family"):
        bbpyro.BetaBernoulliNetwork(net, num_data=40)


@pytest.mark.filterwarnings("ignore::bbpyro.training.FitWarning")  # a prior so heavy leaves nothing that predicts
def test_what_a_fit_leaves_out_is_the_end_of_the_order_and_compact_removes_it():
    torch.manual_seed(0)
    x = torch.randn(400, 6)
    y = (x[:, 0] > 0).long()  # of the six inputs, the first alone says anything
    bnn = make_network(priors.StickBreaking(0.05))
    bnn.num_data = len(x)
    bbpyro.fit(bnn, x, y, num_epochs=60, batch_size=50, gate_learning_rate=0.05, seed=0, progress=False)
    kept = bnn.gates["0.gate"].kept()
    assert kept[0] and not kept[-1] and (kept.long().diff() <= 0).all()
    small = bbpyro.compact(bnn, x[:2])
    torch.testing.assert_close(small(x), bnn.eval()(x), rtol=1e-4, atol=1e-5)
    idata = bbpyro.to_arviz(bnn, x, y, num_samples=20, progress=False)
    assert (idata["posterior"]["0.gate.pi"].diff("0.gate_unit") <= 0).all()
    assert (idata["prior"]["0.gate.pi"].diff("0.gate_unit") <= 0).all()


def test_both_elbos_agree():
    bnn = make_network(priors.StickBreaking(2.0))
    x, y = torch.randn(40, 6), torch.randint(3, (40,))
    with pyro.validation_enabled(False):
        losses = [
            torch.tensor([elbo().loss(bnn.model, bnn.guide, x, y) for _ in range(400)])
            for elbo in (Trace_ELBO, TraceMeanField_ELBO)
        ]
    error = sum(loss.var() / len(loss) for loss in losses).sqrt()
    assert abs(losses[0].mean() - losses[1].mean()) < 4 * error
