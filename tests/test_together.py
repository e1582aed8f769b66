"""Vectors drawn as one: each part's draws, densities and gradients are those of the part alone."""

import numpy as np
import pyro
import pytest
import torch
from pyro import poutine
from pyro.infer import Predictive
from scipy import stats
from torch import nn

import bbpyro
from bbpyro import priors
from bbpyro.distributions import Beta, Kumaraswamy, RelaxedBernoulli, joint_log_prob, log_odds, relaxed_bernoullis
from bbpyro.families.beta_bernoulli import BetaBernoulliDropout, posteriors

KS_LEVEL = 1e-5
SIZES = [2, 1, 3]


def concentrations(dtype=torch.float64):
    a = torch.tensor([0.3, 2.0, 1e-3, 5.0, 0.7, 1.0], dtype=dtype, requires_grad=True)
    b = torch.tensor([1.0, 0.2, 3.0, 0.9, 8.0, 1.0], dtype=dtype, requires_grad=True)
    return a, b


def test_parts_of_a_kumaraswamy_follow_its_distribution_and_are_independent():
    a, b = concentrations()
    draws = [part.rsample((20_000,)) for part in Kumaraswamy(a, b).split(SIZES)]
    assert [draw.shape for draw in draws] == [(20_000, size) for size in SIZES]
    # log π of Kumaraswamy(a, b): 1 - (1 - π^a)^b is its cdf.
    log_pi = torch.nn.functional.logsigmoid(torch.cat([log_odds(draw) for draw in draws], -1)).detach()
    for k, (a_k, b_k) in enumerate(zip(a.tolist(), b.tolist(), strict=True)):
        uniform = 1 - (-np.expm1(a_k * log_pi[:, k].numpy())) ** b_k
        assert stats.kstest(uniform, "uniform").pvalue > KS_LEVEL
    ranks = stats.spearmanr(log_pi.numpy()).statistic
    assert np.abs(ranks - np.eye(6)).max() < 0.05


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_draws_densities_and_gradients_are_those_of_one_draw_of_all(dtype):
    found = []
    for is_split in (True, False):
        torch.manual_seed(3)
        a, b = concentrations(dtype)
        whole = Kumaraswamy(a, b)
        parts = whole.split(SIZES) if is_split else [whole]
        draws = [part.rsample() for part in parts]
        log_probs = [part.log_prob(draw) for part, draw in zip(parts, draws, strict=True)]
        odds = [log_odds(draw) for draw in draws]
        weight = torch.arange(1.0, 7)
        ((torch.cat(odds) * weight).sum() + (torch.cat(log_probs) * weight.sin()).sum()).backward()
        found.append([torch.cat(each).detach() for each in (draws, odds, log_probs)] + [a.grad, b.grad])
    for one, other in zip(*found, strict=True):
        assert torch.equal(one, other)


def test_each_part_is_drawn_together_once_and_then_by_itself():
    a, b = concentrations()
    first, second, third = Kumaraswamy(a, b).split(SIZES)
    for part in (first, second):
        assert not torch.equal(log_odds(part.rsample()), log_odds(part.rsample()))
    assert third.rsample((4,)).shape == (4, 3)  # of another shape than what was drawn together


def test_a_draw_without_gradients_leaves_those_after_it_theirs():
    a, b = concentrations()
    first, second, third = Kumaraswamy(a, b).split(SIZES)
    assert not first.sample().requires_grad
    draw = second.rsample()
    assert draw.requires_grad and log_odds(draw).requires_grad and second.log_prob(draw).requires_grad
    logits = {"a": torch.zeros(2, requires_grad=True).sigmoid(), "b": torch.zeros(3, requires_grad=True).sigmoid()}
    masks = relaxed_bernoullis(0.1, logits)
    masks["a"].sample()
    assert masks["b"].rsample().requires_grad


def test_parts_of_relaxed_masks_follow_the_logistic_in_log_odds():
    pi = {"a": torch.tensor([0.1, 0.5]), "b": torch.tensor([0.99])}
    masks = {g: q.tied().expand((50_000, len(pi[g]))) for g, q in relaxed_bernoullis(0.3, pi).items()}
    z = {g: q.rsample() for g, q in masks.items()}
    assert masks["a"]._together[0] is masks["b"]._together[0]
    noise = torch.cat([0.3 * log_odds(z[g]) - torch.logit(pi[g]) for g in z], -1).double().numpy()
    for k in range(3):
        assert stats.kstest(noise[:, k], stats.logistic.cdf).pvalue > KS_LEVEL
    assert np.abs(stats.spearmanr(noise).statistic - np.eye(3)).max() < 0.03
    assert not torch.equal(masks["a"].rsample(), z["a"])


def test_relaxed_masks_have_the_gradients_of_masks_drawn_alone():
    noise_of = {}
    grads = []
    weight = torch.randn(5, 6, dtype=torch.float64)
    for is_split in (True, False):
        torch.manual_seed(5)
        pi = torch.tensor([0.2, 0.5, 0.9, 1e-3, 0.7, 0.4], dtype=torch.float64, requires_grad=True)
        if is_split:
            q = relaxed_bernoullis(0.4, dict(zip("abc", pi.split(SIZES), strict=True)))
            z = torch.cat(
                [part.expand((5, len(pi_g))).rsample() for part, pi_g in zip(q.values(), pi.split(SIZES), strict=True)],
                -1,
            )
        else:
            z = RelaxedBernoulli(0.4, pi).rsample((5,))
        (z * weight).sum().backward()
        noise_of[is_split] = z.detach()
        grads.append(pi.grad)
    torch.testing.assert_close(noise_of[True], noise_of[False])
    torch.testing.assert_close(*grads)


def test_vectors_of_different_types_or_shapes_are_drawn_alone():
    for pi in ({"a": torch.rand(2), "b": torch.rand(3).double()}, {"a": torch.rand(2), "b": torch.rand(4, 3)}):
        for g, q in relaxed_bernoullis(0.1, pi).items():
            assert q._together is None and q.rsample().dtype == pi[g].dtype and q.batch_shape == pi[g].shape


class Mine(BetaBernoulliDropout):
    """A gate with a q(π) of its own."""

    def posterior(self):
        return Kumaraswamy(2 * self.unconstrained_concentration1.exp(), self.unconstrained_concentration0.exp())


def test_posteriors_are_those_of_the_gates():
    gates = {"a": BetaBernoulliDropout(3, concentration1=0.2), "b": BetaBernoulliDropout(2, concentration0=4.0)}
    for others in ({}, {"c": Mine(2)}, {"c": BetaBernoulliDropout(2).double()}):
        found = posteriors(gates | others)
        assert list(found) == list(gates | others)
        for name, gate in (gates | others).items():
            torch.testing.assert_close(found[name].concentration1, gate.posterior().concentration1)
            torch.testing.assert_close(found[name].concentration0, gate.posterior().concentration0)
            assert (found[name]._together is None) == bool(others)


def network(prior=None):
    net = nn.Sequential(nn.Linear(6, 5), nn.ReLU(), nn.Linear(5, 4), nn.ReLU(), nn.Linear(4, 3))
    return bbpyro.BetaBernoulliNetwork(bbpyro.insert_dropout(net), num_data=50, prior=prior)


@pytest.mark.parametrize(
    "prior",
    [None, priors.IndianBuffet(2.0), {"0.gate": priors.IndianBuffet(2.0), "*": priors.Beta()}],
    ids=["alike", "other family", "two families"],
)
def test_a_guide_draws_anew_each_time_and_a_seed_reproduces_it(prior):
    bnn, x = network(prior), torch.randn(7, 6)

    def draw(seed):
        pyro.set_rng_seed(seed)
        nodes = poutine.trace(bnn.guide).get_trace(x).nodes
        return {f"{g}.{site}": log_odds(nodes[f"{g}.{site}"]["value"]) for g in bnn.gates for site in ("pi", "z")}

    one, same, other = draw(1), draw(1), draw(2)
    assert all(torch.equal(one[name], same[name]) for name in one)
    assert not any(torch.equal(one[name], other[name]) for name in one)


def test_a_handler_that_sets_one_gates_pi_leaves_the_others_drawn():
    bnn, x = network(), torch.randn(7, 6)
    pi = torch.tensor([1.0, 0.0, 1.0, 0.0, 1.0])
    guide = poutine.trace(poutine.condition(bnn.guide, {"2.gate.pi": pi})).get_trace(x)
    z = guide.nodes["2.gate.z"]["value"]
    assert torch.equal(z.round(), pi.expand(7, 5))
    assert 0 < guide.nodes["0.gate.z"]["value"].mean() < 1
    draws = Predictive(bnn.model, guide=bnn.guide, num_samples=3)(x)
    assert draws["4.gate.z"].shape == (3, 7, 4) and len({float(pi.sum()) for pi in draws["4.gate.pi"]}) == 3


def test_parts_of_one_draw_are_scored_as_one():
    a, b = concentrations()
    parts = Kumaraswamy(a, b).split(SIZES)
    draws = [part.rsample() for part in parts]
    betas = [Beta(torch.full((size,), 0.1 * size).double(), torch.full((size,), 1.0 + size)) for size in SIZES]
    for distributions in (parts, betas):
        each = [one.log_prob(draw) for one, draw in zip(distributions, draws, strict=True)]
        together = joint_log_prob(distributions, draws)
        torch.testing.assert_close(together, torch.cat(each))
        wanted, found = (
            torch.autograd.grad(total.sum(), (a, b), retain_graph=True) for total in (torch.cat(each), together)
        )
        torch.testing.assert_close(found, wanted)
    assert betas[0].joined(betas) is betas[0].joined(betas)


class Doubled(Beta):
    """A density of its own."""

    def log_prob(self, value):
        return 2 * super().log_prob(value)


def test_what_is_not_all_of_one_draw_or_not_of_one_kind_is_not_scored_as_one():
    a, b = concentrations()
    parts = Kumaraswamy(a, b).split(SIZES)
    draws = [part.rsample() for part in parts]
    betas = [Beta(torch.ones(size), torch.ones(size)) for size in SIZES]
    learnt = Beta(torch.ones(2, requires_grad=True), torch.ones(2))
    assert joint_log_prob(parts[:2], draws[:2]) is None
    assert joint_log_prob(parts[::-1], draws[::-1]) is None
    assert joint_log_prob(betas, [draws[0].clone(), *draws[1:]]) is None
    assert joint_log_prob(parts[::-1], draws) is None  # the draws of another
    for first in (
        Doubled(torch.ones(2), torch.ones(2)),
        learnt,
        parts[0],
        torch.distributions.Uniform(0, torch.ones(2)),
    ):
        assert joint_log_prob([first, *betas[1:]], draws) is None
    assert joint_log_prob([betas[0], parts[1], betas[2]], draws) is None
