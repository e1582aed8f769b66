"""The core in float64, and on the meta device, where a tensor of another device among its own is an error."""

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro import poutine
from pyro.infer import SVI, Predictive, Trace_ELBO, TraceMeanField_ELBO
from torch import nn
from torch.distributions.transforms import SigmoidTransform

import bbpyro
from bbpyro.distributions import RelaxedBernoulli, placed_like

N, IN = 12, 4

if torch.__version__ < torch.torch_version.TorchVersion("2.13"):  # which do not know what shape a draw on meta has
    torch.library.impl("aten::_standard_gamma", "Meta")(lambda concentration, generator=None: concentration.clone())
PRIORS = [
    *("Beta(1e-4, 1)", "Beta(0.5, 2)", "IndianBuffet(2)", "Uniform", "Jeffreys", "LogitNormal(-1, 2)"),
    *("SpikeAndSlab(0.1)", "StickBreaking(2)", "FixedRate(0.3)"),
    dist.TransformedDistribution(dist.Normal(0.0, 2.0), [SigmoidTransform()]),
    lambda k: dist.Uniform(torch.zeros(k), 1.0),
]
WEIGHT_PRIORS = ["Normal(0.5)", "Laplace(0.1)", "StudentT(3, 0.1)", "HorseshoeLike(0.1)"]
each_prior = pytest.mark.parametrize("prior", PRIORS, ids=lambda prior: prior if isinstance(prior, str) else None)
each_weight_prior = pytest.mark.parametrize("weight_prior", WEIGHT_PRIORS)


def network(**options) -> bbpyro.BetaBernoulliNetwork:
    net = nn.Sequential(nn.Linear(IN, 5), nn.ReLU(), nn.Linear(5, 3))
    return bbpyro.BetaBernoulliNetwork(bbpyro.insert_dropout(net), num_data=N, **options)


@pytest.fixture
def data():
    return torch.randn(N, IN, dtype=torch.float64), torch.randint(3, (N,))


def values(trace):
    return {
        name: site["value"]
        for name, site in trace.nodes.items()
        if site["type"] == "sample" and name not in ("data", "y")
    }


@each_prior
def test_every_draw_of_pi_and_z_has_the_gates_precision(prior, data):
    bnn = network(prior=prior).double()
    for program in (bnn.model, bnn.guide):
        drawn = values(poutine.trace(program).get_trace(*data))
        assert len(drawn) == 8 and {value.dtype for value in drawn.values()} == {torch.float64}
    for elbo in (Trace_ELBO, TraceMeanField_ELBO):
        svi = SVI(bnn.model, bnn.guide, pyro.optim.Adam({"lr": 1e-2}), elbo())
        assert all(isinstance(svi.step(*data), float) for _ in range(2))
    assert all(p.dtype == torch.float64 and p.isfinite().all() for p in bnn.parameters())
    assert {kl.dtype for kl in bnn.kl().values()} == {torch.float64}


@each_weight_prior
@pytest.mark.parametrize("weight_guide", ["delta", "normal"])
def test_every_draw_of_w_has_the_weights_precision(weight_prior, weight_guide, data):
    bnn = network(weight_prior=weight_prior, weight_guide=weight_guide).double()
    for program in (bnn.model, bnn.guide):
        assert {value.dtype for value in values(poutine.trace(program).get_trace(*data)).values()} == {torch.float64}
    SVI(bnn.model, bnn.guide, pyro.optim.Adam({"lr": 1e-2}), Trace_ELBO()).step(*data)
    assert bnn.weights_kl().dtype == torch.float64


def test_readmes_line_of_predictive_holds_in_float64(data):
    bnn = network().double()
    for predictive in (
        Predictive(bnn.model, num_samples=3),
        Predictive(bnn.model, guide=bnn.guide, num_samples=3),
    ):
        draws = predictive(data[0])
        assert draws["0.gate.pi"].dtype == draws["0.weight"].dtype == torch.float64 and draws["y"].shape == (3, N)


def test_all_that_is_done_with_a_network_is_done_in_float64(data):
    plain = nn.Sequential(nn.Linear(IN, 5), nn.ReLU(), nn.Linear(5, 3)).double()
    bbpyro.pretrain(plain, *data, num_epochs=1, progress=False)
    bnn = bbpyro.BetaBernoulliNetwork(bbpyro.insert_dropout(plain, initial_keep_probability=0.5), num_data=N)
    bbpyro.fit(bnn, *data, num_epochs=2, held_out=data, progress=False)
    assert {p.dtype for p in bnn.parameters()} == {torch.float64}
    assert bbpyro.predict(bnn, data[0], 3).dtype == bbpyro.predict(bnn, data[0], None).dtype == torch.float64
    idata = bbpyro.to_arviz(bnn, *data, 20, progress=False)
    assert idata["posterior"]["0.gate.pi"].shape == (1, 20, IN)
    small = bbpyro.compact(bnn, data[0][:2])
    torch.testing.assert_close(small(data[0]), bnn(data[0]))


def test_nuts_runs_in_float64():
    x = torch.randn(8, 2, dtype=torch.float64)
    net = bbpyro.insert_dropout(nn.Sequential(nn.Linear(2, 1, bias=False), nn.Flatten(0)).double())
    bnn = bbpyro.BetaBernoulliNetwork(
        net, lambda output: dist.Normal(output, 1.0), num_data=8, prior="Beta(1, 1)", weight_prior="Normal(1)"
    )
    options = {"num_samples": 4, "warmup_steps": 4, "num_chains": 1, "progress": False}
    assert bbpyro.mcmc.nuts(bnn, x, x[:, 0], **options)["posterior"]["0.gate.pi"].shape == (1, 4, 2)


@each_prior
@pytest.mark.parametrize("weight_guide", ["delta", "normal"])
def test_model_and_guide_are_wholly_on_the_networks_device(prior, weight_guide):
    bnn = network(prior=prior, weight_guide=weight_guide).to("meta")
    x = torch.empty(N, IN, device="meta")
    with pyro.validation_enabled(False):
        for program in (bnn.model, bnn.guide):
            drawn = values(poutine.trace(program).get_trace(x))
            assert len(drawn) == 8 and all(value.is_meta for value in drawn.values())


@each_weight_prior
def test_w_is_drawn_on_the_weights_device(weight_prior):
    bnn = network(weight_prior=weight_prior).to("meta")
    assert all(bnn._weight_prior(n, w).sample().is_meta for n, w in bnn.weights.items())
    assert bnn.weights_kl().is_meta


def test_a_prior_follows_when_the_network_moves_on(data):
    bnn = network(prior="Jeffreys")
    x = data[0].float()
    assert values(poutine.trace(bnn.model).get_trace(x))["0.gate.pi"].dtype == torch.float32
    assert values(poutine.trace(bnn.double().model).get_trace(x.double()))["0.gate.pi"].dtype == torch.float64
    assert values(poutine.trace(bnn.float().model).get_trace(x))["0.gate.pi"].dtype == torch.float32


def test_placing_leaves_the_original_and_its_density_as_they_were():
    original = dist.TransformedDistribution(
        dist.Independent(dist.Normal(torch.zeros(2), torch.tensor([1.0, 2.0])), 1),
        [torch.distributions.AffineTransform(torch.tensor([1.0, 0.5]), torch.tensor(3.0), event_dim=1)],
    )
    placed = placed_like(original, torch.empty(0, dtype=torch.float64))
    value = torch.tensor([0.3, -1.0], dtype=torch.float64)
    assert placed.sample().dtype == torch.float64 and original.sample().dtype == torch.float32
    torch.testing.assert_close(placed.log_prob(value), original.log_prob(value.float()).double())


def test_placed_masks_are_drawn_in_the_precision_of_the_tensor():
    original = RelaxedBernoulli(0.5, logits=torch.tensor([-1.0, 2.0]))
    placed = placed_like(original, torch.empty(0, dtype=torch.float64))
    z = placed.rsample()
    assert z.dtype == torch.float64 and original.rsample().dtype == torch.float32
    torch.testing.assert_close(placed.log_prob(z.clone()), original.log_prob(z.float()).double(), rtol=1e-5, atol=1e-5)
