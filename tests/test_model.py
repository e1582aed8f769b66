import copy
import math
import pickle

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro import poutine
from pyro.infer import SVI, JitTrace_ELBO, Predictive, Trace_ELBO, TraceGraph_ELBO, TraceMeanField_ELBO
from scipy import stats
from torch import nn
from torch.distributions.transforms import SigmoidTransform

import bbpyro
from bbpyro import priors
from bbpyro.distributions import log_odds
from bbpyro.families import BetaBernoulliDropout

NUM_DATA, BATCH, IN, HIDDEN, CLASSES = 50, 10, 6, 5, 3


@pytest.fixture
def x():
    return torch.randn(BATCH, IN)


@pytest.fixture
def y():
    return torch.randint(CLASSES, (BATCH,))


def network(prior=None, net=None, **kwargs):
    net = net or nn.Sequential(nn.Linear(IN, HIDDEN), nn.ReLU(), nn.Linear(HIDDEN, CLASSES))
    return bbpyro.BetaBernoulliNetwork(bbpyro.insert_dropout(net), num_data=NUM_DATA, prior=prior, **kwargs)


def replayed(bnn, x, y):
    guide = poutine.trace(bnn.guide).get_trace(x, y)
    model = poutine.trace(poutine.replay(bnn.model, trace=guide)).get_trace(x, y)
    guide.compute_log_prob()
    model.compute_log_prob()
    return guide, model


def test_model_and_guide_have_the_sites_of_the_slide(x, y):
    guide, model = replayed(network(), x, y)
    weights = {"0.weight": (HIDDEN, IN), "0.bias": (HIDDEN,), "2.weight": (CLASSES, HIDDEN), "2.bias": (CLASSES,)}
    gates = {"0.gate": IN, "2.gate": HIDDEN}
    expected = {
        **weights,
        **{f"{g}.pi": (k,) for g, k in gates.items()},
        **{f"{g}.z": (BATCH, k) for g, k in gates.items()},
    }
    for trace in (guide, model):
        latent = {
            name: tuple(site["value"].shape)
            for name, site in trace.nodes.items()
            if site["type"] == "sample" and name not in ("data", "y")
        }
        assert latent == expected
    assert [n for n in guide.nodes if n in expected] == [n for n in model.nodes if n in expected]


def test_a_minibatch_is_scaled_by_its_own_size(x, y):
    for size in (BATCH, 3):
        _, model = replayed(network(), x[:size], y[:size])
        assert model.nodes["y"]["scale"] == pytest.approx(NUM_DATA / size)
        assert model.nodes["0.gate.pi"]["scale"] == 1


def test_the_weights_prior_is_the_sources_l2(x, y):
    bnn = network()
    _, model = replayed(bnn, x, y)
    scale = 1 / math.sqrt(1e-4 * NUM_DATA)
    expected = sum(stats.norm(0, scale).logpdf(w.detach().numpy()).sum() for w in bnn.weights.values())
    got = sum(model.nodes[name]["log_prob_sum"].item() for name in bnn.weights)
    assert got == pytest.approx(expected, rel=1e-5)


def test_the_masks_densities_cancel_without_being_computed_under_the_guide_alone(x, y):
    bnn = network()
    guide, model = replayed(bnn, x, y)
    pi = {f"{g}.pi": torch.full((gate.num_features,), 0.5) for g, gate in bnn.gates.items()}
    alone = poutine.trace(poutine.condition(bnn.model, pi)).get_trace(x, y)
    alone.compute_log_prob()
    for gate in bnn.gates:
        assert guide.nodes[f"{gate}.z"]["log_prob_sum"] == 0
        assert model.nodes[f"{gate}.z"]["log_prob_sum"] == 0
        # Without the guide z is any latent variable: NUTS, importance sampling and conditioning need its density.
        assert alone.nodes[f"{gate}.z"]["log_prob_sum"] != 0


@pytest.mark.parametrize("dtype", [torch.float32, torch.bool, torch.int64])
def test_conditioned_masks_are_scored_as_the_slide_says(x, y, dtype):
    z = (torch.rand(BATCH, IN) < 0.5).to(dtype)
    pi = torch.linspace(0.1, 0.9, IN)
    trace = poutine.trace(poutine.condition(network().model, {"0.gate.z": z, "0.gate.pi": pi})).get_trace(x, y)
    trace.compute_log_prob()
    expected = stats.bernoulli(pi.numpy()).logpmf(z.numpy()).sum() * NUM_DATA / BATCH
    assert trace.nodes["0.gate.z"]["log_prob_sum"].item() == pytest.approx(expected, rel=1e-5)


def test_the_models_own_masks_are_zeros_and_ones_drawn_as_often_as_pi_says(x):
    pi = torch.linspace(0.05, 0.95, IN)
    model = poutine.condition(network().model, {"0.gate.pi": pi})
    z = torch.stack([poutine.trace(model).get_trace(x).nodes["0.gate.z"]["value"] for _ in range(400)]).flatten(0, 1)
    assert set(z.unique().tolist()) == {0.0, 1.0}
    assert ((z.mean(0) - pi).abs() < 4 * (pi * (1 - pi) / len(z)).sqrt()).all()


def test_a_relaxed_mask_that_is_not_tied_is_refused_with_the_remedy(x, y):
    bnn = network()

    def guide(x, y):
        pi = {g: pyro.sample(f"{g}.pi", gate.posterior().to_event(1)) for g, gate in bnn.gates.items()}
        for name in bnn.weights:
            pyro.sample(name, bnn.weight_posterior(name))
        with pyro.plate("data", NUM_DATA, subsample=x):
            for g in pi:
                pyro.sample(f"{g}.z", bbpyro.RelaxedBernoulli(0.1, pi[g]).to_event(1))

    with pytest.raises(ValueError, match=r"RelaxedBernoulli\(τ, π\).tied\(\)"):
        Trace_ELBO().loss(bnn.model, guide, x, y)


def test_a_straight_through_guide_of_ones_own_is_scored_as_usual(x, y):
    bnn = network(priors.Beta(2.0, 2.0))
    logits = {g: torch.zeros(gate.num_features, requires_grad=True) for g, gate in bnn.gates.items()}

    def guide(x, y):
        for name in bnn.weights:
            pyro.sample(name, bnn.weight_posterior(name))
        for g, gate in bnn.gates.items():
            pyro.sample(f"{g}.pi", gate.posterior().to_event(1))
        with pyro.plate("data", NUM_DATA, subsample=x):
            for g in bnn.gates:
                q = dist.RelaxedBernoulliStraightThrough(torch.tensor(0.5), logits=logits[g])
                pyro.sample(f"{g}.z", q.to_event(1))

    traced = poutine.trace(guide).get_trace(x, y)
    model = poutine.trace(poutine.replay(bnn.model, trace=traced)).get_trace(x, y)
    model.compute_log_prob()
    for g in bnn.gates:
        z, pi = (traced.nodes[f"{g}.{site}"]["value"].detach().numpy() for site in ("z", "pi"))
        expected = stats.bernoulli(pi).logpmf(z).sum() * NUM_DATA / BATCH
        assert model.nodes[f"{g}.z"]["log_prob_sum"].item() == pytest.approx(expected, rel=1e-4)
    Trace_ELBO()(bnn.model, guide)(x, y).backward()
    assert all((logit.grad != 0).all() for logit in logits.values())


@pytest.mark.parametrize("elbo", [Trace_ELBO, TraceMeanField_ELBO])
def test_the_elbo_is_to_the_last_digit_that_of_a_model_with_relaxed_masks(x, y, elbo):
    bnn = network()

    def relaxed(x, y):
        W = {name: pyro.sample(name, bnn.weight_prior(w.shape)) for name, w in bnn.weights.items()}
        pi = {g: pyro.sample(f"{g}.pi", bnn.prior_of(g).to_event(1)) for g in bnn.gates}
        with pyro.plate("data", NUM_DATA, subsample=x):
            z = {g: pyro.sample(f"{g}.z", bbpyro.RelaxedBernoulli(0.1, pi[g]).to_event(1)) for g in pi}
            output = torch.func.functional_call(bnn.net, W | {f"{g}.z": mask for g, mask in z.items()}, (x,))
            pyro.sample("y", dist.Categorical(logits=output), obs=y)

    def losses(model):
        pyro.set_rng_seed(7)
        return [elbo().loss(model, bnn.guide, x, y) for _ in range(20)]

    assert losses(bnn.model) == losses(relaxed)


def test_mean_field_elbo_uses_the_closed_form_kl(x, y):
    # A network that ignores its input has a likelihood without noise: what noise there is is the KL's.
    bnn = network()
    with torch.no_grad():
        bnn.net[2].weight.zero_()
    guide, model = replayed(bnn, x, y)
    constant = model.nodes["y"]["log_prob_sum"] + sum(model.nodes[name]["log_prob_sum"] for name in bnn.weights)
    expected = sum(kl.item() for kl in bnn.kl().values()) - constant.item()
    for _ in range(3):
        assert TraceMeanField_ELBO().loss(bnn.model, bnn.guide, x, y) == pytest.approx(expected, rel=1e-6)
    losses = {Trace_ELBO().loss(bnn.model, bnn.guide, x, y) for _ in range(3)}
    assert len(losses) == 3


def test_both_elbos_agree_in_expectation(x, y):
    bnn = network()
    for gate in bnn.gates.values():
        gate.load_state_dict(
            BetaBernoulliDropout(gate.num_features, concentration1=2.0, concentration0=3.0).state_dict()
        )
    with torch.no_grad():
        draws = torch.tensor(
            [
                [elbo().loss(bnn.model, bnn.guide, x, y) for elbo in (Trace_ELBO, TraceMeanField_ELBO)]
                for _ in range(600)
            ]
        )
    difference = draws[:, 0].mean() - draws[:, 1].mean()
    assert abs(difference) < 4 * math.sqrt(draws.var(0).sum() / len(draws))


@pytest.mark.parametrize("elbo", [Trace_ELBO, TraceMeanField_ELBO])
@pytest.mark.parametrize("validate", [True, False])
def test_svi_with_a_pyro_optimizer_trains_weights_and_gates(x, y, elbo, validate):
    bnn = network()
    before = {name: p.clone() for name, p in bnn.named_parameters()}
    svi = SVI(bnn.model, bnn.guide, pyro.optim.Adam({"lr": 1e-2}), elbo())
    with pyro.validation_enabled(validate):
        for _ in range(3):
            assert math.isfinite(svi.step(x, y))
    assert all((p - before[name]).abs().max() > 1e-3 for name, p in bnn.named_parameters())


@pytest.mark.parametrize("prior", [priors.Beta(), priors.SpikeAndSlab(0.1)])
def test_trace_graph_elbo_is_trace_elbo_and_so_is_its_gradient(x, y, prior):
    bnn, x = network(prior).double(), x.double()
    with torch.no_grad():  # draws of π that float rounds to 0: nothing but their log-odds has a density
        bnn.gates["0.gate"].unconstrained_concentration1.fill_(-9.0)
    found = []
    for elbo in (Trace_ELBO(), TraceGraph_ELBO()):
        pyro.set_rng_seed(1)
        bnn.zero_grad()
        loss = elbo.loss_and_grads(bnn.model, bnn.guide, x, y)
        found.append([torch.tensor(loss), *(p.grad.clone() for p in bnn.parameters())])
    for one, other in zip(*found, strict=True):
        torch.testing.assert_close(one, other)


def test_elbo_module_gives_a_gradient_to_every_parameter(x, y):
    bnn = network()
    loss = Trace_ELBO()(bnn.model, bnn.guide)(x, y)
    loss.backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in bnn.parameters())


def test_elbo_module_hands_its_parameters_to_any_optimizer(x, y):
    bnn = network()
    elbo = Trace_ELBO()(bnn.model, bnn.guide)
    assert {id(p) for p in elbo.parameters()} == {id(p) for p in bnn.parameters()}
    before = {name: p.clone() for name, p in bnn.named_parameters()}
    optimizer = torch.optim.Adam(elbo.parameters(), lr=1e-2)
    elbo(x, y).backward()
    optimizer.step()
    assert all((p - before[name]).abs().max() > 1e-3 for name, p in bnn.named_parameters())


@pytest.mark.filterwarnings("ignore:`torch.jit")  # torch's own, of what is refused here
def test_jit_is_refused_in_one_sentence(x, y):
    bnn = network()
    svi = SVI(bnn.model, bnn.guide, pyro.optim.Adam({"lr": 1e-2}), JitTrace_ELBO())
    with pytest.raises(ValueError, match="JitTrace_ELBO: torch.jit cannot compile this model; use Trace_ELBO"):
        svi.step(x, y)


@pytest.mark.parametrize("is_local", [True, False])
def test_svi_works_whatever_pyros_setting_of_local_parameters(x, y, is_local):
    bnn = network()
    before = {name: p.clone() for name, p in bnn.named_parameters()}
    with pyro.settings.context(module_local_params=is_local):
        SVI(bnn.model, bnn.guide, pyro.optim.Adam({"lr": 1e-2}), Trace_ELBO()).step(x, y)
    assert all((p - before[name]).abs().max() > 1e-3 for name, p in bnn.named_parameters())


def test_predictive_draws_from_prior_and_posterior(x):
    bnn = network()
    for predictive in (Predictive(bnn.model, num_samples=4), Predictive(bnn.model, guide=bnn.guide, num_samples=4)):
        draws = predictive(x)
        assert draws["y"].shape == (4, BATCH)
        assert draws["0.gate.z"].shape == (4, BATCH, IN)
        assert draws["0.gate.pi"].squeeze(1).shape == (4, IN)  # Pyro keeps the plate's dimension, of size 1


def test_two_networks_and_a_copy_share_no_parameters(x, y):
    first, second = network(), network()
    third = copy.deepcopy(first)
    untouched = {name: p.clone() for name, p in second.named_parameters()}
    original = {name: p.clone() for name, p in first.named_parameters()}
    for bnn in (first, second, third):
        bnn.guide(x)
    SVI(third.model, third.guide, pyro.optim.Adam({"lr": 1e-2}), Trace_ELBO()).step(x, y)
    assert all(torch.equal(p, untouched[name]) for name, p in second.named_parameters())
    assert all(torch.equal(p, original[name]) for name, p in first.named_parameters())
    assert all(not torch.equal(p, original[name]) for name, p in third.named_parameters())
    assert third.gates["0.gate"] is third.net[0].gate


def test_a_network_that_pyro_has_seen_can_be_pickled_and_goes_on_training(x, y):
    bnn = network()
    SVI(bnn.model, bnn.guide, pyro.optim.Adam({"lr": 1e-2}), Trace_ELBO()).step(x, y)
    twin = pickle.loads(pickle.dumps(bnn))
    before = {name: p.clone() for name, p in bnn.named_parameters()}
    SVI(twin.model, twin.guide, pyro.optim.Adam({"lr": 1e-2}), Trace_ELBO()).step(x, y)
    assert all(torch.equal(p, before[name]) for name, p in bnn.named_parameters())
    assert not any(torch.equal(p, before[name]) for name, p in twin.named_parameters())


def test_vectorized_particles_are_refused_with_the_remedy(x, y):
    bnn = network()
    elbo = Trace_ELBO(num_particles=3, vectorize_particles=True, max_plate_nesting=1)
    with pytest.raises(ValueError, match="leave out vectorize_particles"):
        elbo.loss(bnn.model, bnn.guide, x, y)


def test_frozen_weights_are_constants_not_latent(x, y):
    net = nn.Sequential(nn.Linear(IN, HIDDEN), nn.ReLU(), nn.Linear(HIDDEN, CLASSES))
    net[0].requires_grad_(False)
    bnn = network(net=net)
    guide, _ = replayed(bnn, x, y)
    assert "0.weight" not in guide.nodes
    assert "2.weight" in guide.nodes


PRIORS = {
    "uniform": lambda k: dist.Uniform(torch.zeros(k), torch.ones(k)),
    "pyro beta": lambda k: dist.Beta(torch.full((k,), 1e-3), torch.full((k,), 0.5)),
    "logit-normal": lambda k: dist.TransformedDistribution(dist.Normal(torch.zeros(k), 2.0), [SigmoidTransform()]),
    "spike and slab": lambda k: dist.MixtureSameFamily(
        dist.Categorical(torch.ones(k, 2)),
        dist.Beta(torch.tensor([1e-3, 10.0]).expand(k, 2), torch.tensor([1.0, 1.0]).expand(k, 2)),
    ),
    "indian buffet": bbpyro.priors.IndianBuffet(2.0),
}


@pytest.mark.parametrize("prior", PRIORS.values(), ids=PRIORS.keys())
def test_any_prior_on_the_unit_interval_serves(x, y, prior):
    bnn = network(prior)
    with torch.no_grad():
        bnn.gates["0.gate"].unconstrained_concentration1[0] = -9.0  # draws that float32 rounds to 0
        bnn.gates["0.gate"].unconstrained_concentration0[1] = -9.0  # and to 1
    svi = SVI(bnn.model, bnn.guide, pyro.optim.Adam({"lr": 1e-2}), Trace_ELBO())
    for _ in range(20):
        assert math.isfinite(svi.step(x, y))
    assert all(p.isfinite().all() for p in bnn.parameters())
    assert all(kl.isfinite() for kl in bnn.kl().values())


def test_the_gradient_is_alive_where_pi_is_rounded_to_an_end(x, y):
    bnn = network()
    with torch.no_grad():
        for gate in bnn.gates.values():
            gate.unconstrained_concentration1.fill_(-7.0)
    pyro.set_rng_seed(1)
    Trace_ELBO()(bnn.model, bnn.guide)(x, y).backward()
    for gate in bnn.gates.values():
        assert (gate.unconstrained_concentration1.grad != 0).all()
        assert gate.unconstrained_concentration1.grad.isfinite().all()


@pytest.mark.parametrize(("ones", "zeros"), [(3, 2), (2, 6), (0, 3)])
def test_with_masks_observed_the_best_guide_approaches_the_exact_beta_posterior(ones, zeros):
    """Beta(α, 1) and Bernoulli masks are conjugate: the posterior is Beta(α + ones, 1 + zeros)."""
    alpha = 0.5
    z = torch.cat([torch.ones(ones), torch.zeros(zeros)])
    gate = BetaBernoulliDropout(1, concentration1=1.0)

    def model():
        pi = pyro.sample("pi", bbpyro.priors.Beta(alpha)(1).to_event(1))
        with pyro.plate("data", len(z)):
            pyro.sample("z", dist.Bernoulli(logits=log_odds(pi).float()).to_event(1), obs=z[:, None])

    def guide():
        pyro.module("gate", gate)
        pyro.sample("pi", gate.posterior().to_event(1))

    elbo = TraceMeanField_ELBO(num_particles=100, vectorize_particles=True, max_plate_nesting=1)
    svi = SVI(model, guide, pyro.optim.ClippedAdam({"lr": 0.3, "lrd": 0.994}), elbo)
    for _ in range(1000):
        svi.step()
    exact, q = stats.beta(alpha + ones, 1 + zeros), gate.posterior()
    assert q.mean.item() == pytest.approx(exact.mean(), abs=0.15 * exact.std())
    assert q.variance.sqrt().item() == pytest.approx(exact.std(), rel=0.1)
    # The closest Kumaraswamy, found by direct search over a finer and finer grid of the exact KL.
    true = torch.distributions.Beta(torch.tensor(alpha + ones), torch.tensor(1.0 + zeros))
    best = min(
        torch.distributions.kl_divergence(bbpyro.Kumaraswamy(q.concentration1 * i, q.concentration0 * j), true).item()
        for i in (0.8, 0.9, 1.0, 1.1, 1.25)
        for j in (0.7, 0.85, 1.0, 1.2, 1.4)
    )
    assert torch.distributions.kl_divergence(q, true).item() <= best + 0.02


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"num_data": 0}, "num_data"),
        ({"temperature": 0.0}, "temperature"),
        ({"prior": lambda k: dist.Beta(1.0, 1.0)}, "prior.*batch shape"),
        ({"prior": lambda k: dist.Beta(torch.ones(k, 2), 1.0).to_event(1)}, "prior.*event shape"),
        ({"prior": lambda k: torch.ones(k)}, "prior.*Tensor"),
        ({"prior": dist.Normal(0.5, 0.5)}, r"prior.*outside \[0, 1\]"),
        ({"prior": 0.5}, "0.5 is no prior; known are Beta"),
        ({"prior": "Beat(1, 1)"}, "there is no Beat"),
        ({"prior": {"1.*": "Jeffreys", "*": "Uniform"}}, "prior: '1\\.\\*' is none of the gates 0.gate"),
        ({"weight_prior": "Beta(1, 1)"}, "there is no Beta; known are Normal"),
        ({"weight_guide": "gauss"}, "weight_guide is 'gauss', wanted one of delta, normal"),
        ({"prior": lambda k: dist.Normal(torch.zeros(k), 100.0)}, r"prior.*outside \[0, 1\]"),
        ({"net": nn.Linear(2, 2)}, "insert_dropout"),
        ({"prior": dist.Uniform(0.1, 0.9)}, r"prior: for gate '0.gate' the density of its Uniform is 0 at π = 0.001"),
        ({"prior": lambda k: dist.Uniform(torch.zeros(k), 0.5)}, r"is 0 at π = 0.5, .* on all of \(0, 1\)"),
        ({"prior": dist.Delta(torch.tensor(0.5))}, "the density of its Delta is 0"),
    ],
)
def test_bad_arguments_are_named(change, message):
    arguments = {"net": bbpyro.insert_dropout(nn.Sequential(nn.Linear(4, 2))), "num_data": 5, **change}
    with pytest.raises(ValueError, match=message):
        bbpyro.BetaBernoulliNetwork(arguments.pop("net"), **arguments)


def test_each_gate_may_have_a_prior_of_its_own():
    net = bbpyro.insert_dropout(nn.Sequential(nn.Linear(4, 3), nn.ReLU(), nn.Linear(3, 2)))
    mixed = {"0.*": priors.Beta(0.5, 2.0), "*": priors.IndianBuffet(1.5)}
    bnn = bbpyro.BetaBernoulliNetwork(net, num_data=10, prior=mixed)
    trace = poutine.trace(bnn.model).get_trace(torch.rand(2, 4), torch.zeros(2, dtype=torch.long))
    for gate, wanted in (("0.gate", (0.5, 2.0)), ("2.gate", (0.5, 1.0))):  # 1.5 / 3
        p = trace.nodes[f"{gate}.pi"]["fn"].base_dist
        assert (p.concentration1[0].item(), p.concentration0[0].item()) == wanted
    assert bbpyro.to_arviz(bnn, num_samples=20)["prior"]["2.gate.pi"].shape == (1, 20, 3)
    with pytest.raises(ValueError, match=r"prior: none of '0\.\*' is the gate '2.gate'; add '\*'"):
        bbpyro.BetaBernoulliNetwork(net, num_data=10, prior={"0.*": priors.Beta()})
