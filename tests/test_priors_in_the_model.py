"""Priors and guides in the model: what each of them must equal, or be bounded by."""

import itertools
import math

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro.infer import Trace_ELBO, TraceMeanField_ELBO
from scipy import stats
from torch import nn

import bbpyro
from bbpyro import priors, training
from bbpyro.distributions import log_odds
from bbpyro.families.beta_bernoulli import kumaraswamy

WITH_A_KL = [
    "Beta(0.1, 1)",
    "Beta(0.3, 2)",
    "IndianBuffet(2)",
    "Uniform",
    "Jeffreys",
    "StickBreaking(2)",
    "FixedRate(0.3)",
]
ALL = [*WITH_A_KL, "LogitNormal(-1, 2)", "SpikeAndSlab(0.3)"]


def make_network(prior="Beta(1e-4, 1)", num_data=40, **arguments):
    torch.manual_seed(0)
    net = bbpyro.insert_dropout(nn.Sequential(nn.Linear(6, 5), nn.ReLU(), nn.Linear(5, 3)))
    return bbpyro.BetaBernoulliNetwork(net, num_data=num_data, prior=prior, **arguments)


def draws_of(elbo, bnn, x, y, num=150):
    with pyro.validation_enabled(False), torch.no_grad():
        return torch.tensor([elbo().loss(bnn.model, bnn.guide, x, y) for _ in range(num)], dtype=torch.float64)


def assert_same_mean(one, other, sigmas=4.0):
    error = (one.var() / len(one) + other.var() / len(other)).sqrt()
    assert abs(one.mean() - other.mean()) < sigmas * error, (one.mean(), other.mean(), error)


@pytest.mark.parametrize("weights", ["delta", "normal"])
@pytest.mark.parametrize("prior", ALL)
def test_both_elbos_agree_in_expectation_and_the_closed_one_varies_less(prior, weights):
    bnn = make_network(prior, weight_guide=weights)
    x, y = torch.randn(40, 6), torch.randint(3, (40,))
    by_draws, closed = (draws_of(elbo, bnn, x, y) for elbo in (Trace_ELBO, TraceMeanField_ELBO))
    assert_same_mean(by_draws, closed)
    if prior in WITH_A_KL and (weights == "normal" or "Fixed" not in prior):
        assert closed.var() < by_draws.var()


@pytest.mark.parametrize("prior", ["Laplace(0.2)", "StudentT(3, 0.1)", "HorseshoeLike(0.1)", "Normal(0.3)"])
@pytest.mark.parametrize("weights", ["delta", "normal"])
def test_svi_learns_under_every_prior_on_weights(prior, weights):
    bars = bbpyro.data.bars(num_train=1000, num_test=100)
    net = nn.Sequential(nn.Flatten(), nn.Linear(64, 8), nn.ReLU(), nn.Linear(8, 4))
    bnn = bbpyro.BetaBernoulliNetwork(
        bbpyro.insert_dropout(net), num_data=1000, prior="FixedRate(0.1)", weight_prior=prior, weight_guide=weights
    )
    settings = {"num_epochs": 8, "learning_rate": 1e-2, "seed": 0, "progress": False}
    history = bbpyro.fit(bnn, bars.x, bars.y, **settings)
    assert history[-1]["train_nll"] < 1.0  # log 4 = 1.39 is what knowing nothing scores
    cost = history[-1]["weights_kl" if weights == "normal" else "weights_nll"]
    assert math.isfinite(cost) and cost == pytest.approx(bnn.weights_kl().item(), rel=0.05)


def test_a_weights_guide_that_is_a_point_costs_its_log_density():
    bnn = make_network(weight_prior="Laplace(0.2)")
    wanted = -sum(stats.laplace(0, 0.2).logpdf(w.detach().numpy()).sum() for w in bnn.weights.values())
    assert bnn.weights_kl().item() == pytest.approx(wanted, rel=1e-5)


# --- a mean-field Normal over W ----------------------------------------------------------------------------


def linear_regression(num_data=8, noise=0.5, scale=0.7):
    """y = x·w + noise with orthogonal x, so that the posterior of w factorises, and dropout of rate 0."""
    x = torch.linalg.qr(torch.randn(num_data, 3, generator=torch.Generator().manual_seed(1)))[0] * 2
    y = x @ torch.tensor([1.0, -0.5, 0.2]) + noise * torch.randn(num_data, generator=torch.Generator().manual_seed(2))
    net = bbpyro.insert_dropout(nn.Sequential(nn.Linear(3, 1, bias=False), nn.Flatten(0)))
    bnn = bbpyro.BetaBernoulliNetwork(
        net,
        lambda output: dist.Normal(output, noise),
        num_data=num_data,
        prior="FixedRate(0)",
        weight_prior=f"Normal({scale})",
        weight_guide="normal",
    )
    precision = x.T @ x / noise**2 + torch.eye(3) / scale**2
    mean = torch.linalg.solve(precision, x.T @ y / noise**2)
    covariance = scale**2 * x @ x.T + noise**2 * torch.eye(num_data)
    evidence = torch.distributions.MultivariateNormal(torch.zeros(num_data), covariance).log_prob(y).item()
    return bnn, x, y, mean, precision.diagonal() ** -0.5, evidence


def test_at_the_exact_posterior_of_a_linear_model_the_elbo_is_the_log_evidence():
    """Which it is only if KL[q(W) || p(W)] is in it once, neither scaled by N/B nor left out."""
    bnn, x, y, mean, sd, evidence = linear_regression()
    with torch.no_grad():
        bnn.weights["0.weight"].copy_(mean[None])
        bnn.unconstrained_scales["0/weight"].copy_(torch.log(torch.expm1(sd))[None])
    for elbo in (Trace_ELBO, TraceMeanField_ELBO):
        losses = draws_of(elbo, bnn, x, y)
        assert -losses.mean().item() == pytest.approx(evidence, abs=5 * losses.std().item() / len(losses) ** 0.5 + 1e-3)
    assert 8 * training.elbo(bnn, x, y) == pytest.approx(evidence, abs=4.0)  # one draw
    assert bnn.weights_kl().item() > 0


def test_of_two_minibatches_the_elbos_average_to_that_of_all_data():
    bnn, x, y, *_ = linear_regression()
    halves = [draws_of(TraceMeanField_ELBO, bnn, x[half], y[half], 400) for half in (slice(0, 4), slice(4, 8))]
    assert_same_mean((halves[0] + halves[1]) / 2, draws_of(TraceMeanField_ELBO, bnn, x, y, 400))


def test_fit_finds_the_exact_posterior_of_a_linear_model():
    bnn, x, y, mean, sd, _ = linear_regression()
    bbpyro.fit(bnn, x, y, num_epochs=800, learning_rate=0.02, seed=0, progress=False)
    found = bnn.weight_posterior("0.weight")
    assert found.mean[0].tolist() == pytest.approx(mean.tolist(), abs=0.05)
    assert found.variance.sqrt()[0].tolist() == pytest.approx(sd.tolist(), rel=0.1)


def test_predictions_average_over_the_weights_and_the_mean_mask_takes_their_means():
    bnn, x, y, *_ = linear_regression()
    with torch.no_grad():
        bnn.unconstrained_scales["0/weight"].fill_(1.0)
    draws = bbpyro.to_arviz(bnn, x, y, num_samples=2000, seed=0, progress=False)["posterior_predictive"]["y"].values[0]
    scale = bnn.weight_posterior("0.weight").variance[0]
    wanted = (x.square() @ scale + 0.25).sqrt()  # of the weights, and of the noise
    assert torch.as_tensor(draws).std(0).tolist() == pytest.approx(wanted.tolist(), rel=0.08)
    assert torch.equal(bnn(x), x @ bnn.weights["0.weight"][0])


# --- ordinary dropout --------------------------------------------------------------------------------------


def test_a_fixed_rate_is_nn_dropout():
    """The ELBO and the predictions are those of the plain network with nn.Dropout, whose weights are 1 - p larger."""
    p = 0.3
    bnn = make_network(f"FixedRate({p})", temperature=1e-3)  # z is 0 or 1
    plain = nn.Sequential(nn.Dropout(p), nn.Linear(6, 5), nn.ReLU(), nn.Dropout(p), nn.Linear(5, 3))
    with torch.no_grad():
        for here, there in ((0, 1), (2, 4)):
            plain[there].weight.copy_((1 - p) * bnn.net[here].weight)
            plain[there].bias.copy_(bnn.net[here].bias)
    x, y = torch.randn(40, 6), torch.randint(3, (40,))
    log_prior = sum(stats.norm(0, (1e-4 * 40) ** -0.5).logpdf(w.detach().numpy()).sum() for w in bnn.weights.values())
    with torch.no_grad():
        outputs = torch.stack([plain.train()(x) for _ in range(1000)])
        losses = nn.functional.cross_entropy(outputs.flatten(0, 1), y.repeat(1000), reduction="none").reshape(1000, 40)
    assert_same_mean(draws_of(Trace_ELBO, bnn, x, y, 1000), losses.double().sum(-1) - log_prior)
    probs = bbpyro.predict(bnn, x, num_samples=1000)
    wanted = outputs.softmax(-1)
    error = (2 * wanted.var(0) / 1000).sqrt()
    assert ((probs - wanted.mean(0)).abs() < 5 * error).all()
    torch.testing.assert_close(bnn(x), plain.eval()(x), rtol=1e-4, atol=1e-5)  # by the mean mask: without masks


def test_a_fixed_rate_learns_no_rate_and_drops_no_unit():
    bnn = make_network("FixedRate(0.3)")
    before = [p.clone() for gate in bnn.gates.values() for p in gate.parameters()]
    weights = [w.clone() for w in bnn.weights.values()]
    history = bbpyro.fit(bnn, torch.randn(40, 6), torch.randint(3, (40,)), num_epochs=2, progress=False)
    assert all(map(torch.equal, before, (p for gate in bnn.gates.values() for p in gate.parameters())))
    assert not any(map(torch.equal, weights, bnn.weights.values()))
    assert history[-1]["active"] == {"0.gate": 6, "2.gate": 5} and set(history[-1]["kl"].values()) == {0.0}
    assert bnn.gates["0.gate"].keep_probability().tolist() == pytest.approx([0.7] * 6)


@pytest.mark.parametrize("rate", [0.1, 0.3, 0.999, 0.0])
@pytest.mark.parametrize("elbo", ["trace", "mean-field"])
def test_a_fixed_rate_serves_a_network_of_any_precision_and_drops_no_unit(rate, elbo):
    bnn = make_network(f"FixedRate({rate})", num_data=40).double()
    x, y = torch.randn(40, 6, dtype=torch.float64), torch.randint(3, (40,))
    assert math.isfinite(bbpyro.fit(bnn, x, y, num_epochs=1, elbo=elbo, progress=False)[-1]["loss"])
    assert all(gate.kept().all() for gate in bnn.gates.values())
    bnn.bfloat16()
    assert bbpyro.predict(bnn, x.bfloat16(), num_samples=2).isfinite().all()


def test_a_network_that_is_refused_leaves_the_gates_as_they_are():
    net = bbpyro.insert_dropout(nn.Sequential(nn.Linear(6, 5), nn.ReLU(), nn.Linear(5, 3)))
    with pytest.raises(ValueError, match="2.gate"):
        bbpyro.BetaBernoulliNetwork(net, num_data=40, prior={"0.*": "FixedRate(0.5)", "*": dist.Normal(0.0, 1.0)})
    bbpyro.BetaBernoulliNetwork(net, num_data=40, prior="Uniform")


@pytest.mark.parametrize(
    ("weight_prior", "mention"),
    [
        (0.1, "0.1 is no prior; known are Normal"),
        (priors.Laplace, "is no prior"),
        (priors.Uniform(), r"weight_prior: for '0.weight' it fails \(TypeError"),
        (lambda shape: dist.Normal(torch.zeros(shape), 1.0), "weight_prior: for '0.weight' it gives batch shape"),
    ],
)
def test_what_is_no_prior_on_weights_is_refused_at_once(weight_prior, mention):
    with pytest.raises(ValueError, match=mention):
        make_network(weight_prior=weight_prior)


def test_rates_of_chains_are_one_model():
    one, other = make_network("FixedRate(0.3)"), make_network("FixedRate(0.4)")
    with pytest.raises(ValueError, match="restarts of one model"):
        bbpyro.to_arviz([one, other], num_samples=10)
    assert bbpyro.to_arviz(one, num_samples=10)["posterior"]["0.gate.pi"].values == pytest.approx(0.7)


@pytest.mark.parametrize("prior", ["FixedRate(0.3)", "StickBreaking(2)"])
def test_nuts_refuses_a_prior_without_a_density_of_each_unit(prior):
    bnn = bbpyro.BetaBernoulliNetwork(bbpyro.insert_dropout(nn.Linear(3, 2)), num_data=4, prior=prior)
    with pytest.raises(ValueError, match="prior"):
        bbpyro.mcmc.nuts(bnn, torch.randn(4, 3), torch.randint(2, (4,)), num_samples=4)


# --- masks observed ----------------------------------------------------------------------------------------

ONES, ZEROS = 5, 3


class MasksObserved:
    """Eight masks of two units, seen; of π the ELBO is all there is. The same noise in every call."""

    def __init__(self, prior):
        self.prior = priors.as_prior(prior)
        self.family = getattr(self.prior, "guide", kumaraswamy)
        self.unconstrained = torch.zeros(2, 2, requires_grad=True)
        self.z = torch.tensor([[1.0] * ONES + [0.0] * ZEROS, [1.0] * 2 + [0.0] * 6]).T

    def model(self):
        p = bbpyro.distributions.with_exact_tails(self.prior(2))
        pi = pyro.sample("pi", p.to_event(1 - len(p.event_shape)))
        with pyro.plate("data", len(self.z)):
            pyro.sample("z", dist.Bernoulli(logits=log_odds(pi).float()).to_event(1), obs=self.z)

    def guide(self):
        a, b = nn.functional.softplus(pyro.param("ab", self.unconstrained))
        q = self.family(a, b)
        pyro.sample("pi", q.to_event(1 - len(q.event_shape)))

    def loss(self, num_draws=3000):
        pyro.set_rng_seed(0)
        pyro.clear_param_store()
        elbo = Trace_ELBO(num_particles=num_draws, vectorize_particles=True, max_plate_nesting=1)
        return elbo.differentiable_loss(self.model, self.guide)


def log_evidence(prior):
    """Of both units, by quadrature of the prior in log-odds; known where units are independent."""
    at = torch.linspace(-40, 40, 20_001, dtype=torch.float64)
    pi = bbpyro.distributions.remember_log_odds(at[:, None].expand(-1, 2), torch.float64)
    jacobian = nn.functional.logsigmoid(at) + nn.functional.logsigmoid(-at)
    p = bbpyro.distributions.with_exact_tails(priors.as_prior(prior)(2))
    density = p.log_prob(pi)[:, 0].double() + jacobian
    total = 0.0
    for ones, zeros in ((ONES, ZEROS), (2, 6)):
        log_likelihood = ones * nn.functional.logsigmoid(at) + zeros * nn.functional.logsigmoid(-at)
        total += math.log(torch.trapezoid((density + log_likelihood).exp(), at))
    return total


@pytest.mark.parametrize(
    "prior",
    [
        "Beta(0.5, 1)",
        "IndianBuffet(2)",
        "Uniform",
        "Jeffreys",
        "LogitNormal(-1, 2)",
        "SpikeAndSlab(0.3)",
        "StickBreaking(2)",
    ],
)
def test_with_masks_observed_the_best_guide_is_better_than_any_other_near_it(prior):
    toy = MasksObserved(prior)
    with pyro.validation_enabled(False):
        optimizer = torch.optim.Adam([toy.unconstrained], lr=0.2)
        for step in range(300):
            optimizer.param_groups[0]["lr"] = 0.2 * (1 - step / 300)
            optimizer.zero_grad()
            toy.loss().backward()
            optimizer.step()
        with torch.no_grad():
            best, at = toy.loss().item(), toy.unconstrained.clone()
            if "Stick" not in prior:
                exact = toy.loss(20_000).item() + log_evidence(prior)
                assert -0.03 < exact < 0.08  # -ELBO is above -log p(z), by the divergence of the closest Kumaraswamy
            for signs in itertools.product((-1, 1), repeat=4):
                for size in (0.3, 1.0):
                    toy.unconstrained.copy_(at + size * torch.tensor(signs).reshape(2, 2))
                    assert toy.loss().item() > best
