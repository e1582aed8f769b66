"""The latent feature model: its averages against enumeration, its ELBO against the evidence, and what it finds."""

import itertools
import math

import pyro
import pyro.distributions as dist
import pytest
import torch
import torch.nn.functional as F
from pyro.infer import SVI, Predictive, Trace_ELBO, TraceGraph_ELBO
from torch import nn

import bbpyro
from bbpyro.distributions import AveragedBernoulli, AveragedNormal, Bernoulli, drawn_from
from bbpyro.latent_features import LatentFeatureModel
from bbpyro.training.features import fit_features


def normal(scale):
    return lambda output: dist.Normal(output, scale)


def images(num_data, scale, seed):
    """Four shapes on 6 x 6 pixels, each in half of the images, and noise; the images and the shapes."""
    shapes = torch.zeros(4, 6, 6)
    for k, (row, column, text) in enumerate(
        [(0, 0, "010 111 010"), (0, 3, "111 101 111"), (3, 0, "100 110 111"), (3, 3, "111 010 010")]
    ):
        shapes[k, row : row + 3, column : column + 3] = torch.tensor([[float(c) for c in r] for r in text.split()])
    generator = torch.Generator().manual_seed(seed)
    z = (torch.rand(num_data, 4, generator=generator) < 0.5).float()
    return z @ shapes.flatten(1) + scale * torch.randn(num_data, 36, generator=generator), shapes.flatten(1)


def log_evidence(x, num_features, alpha, weight_scale, scale):
    """log p(x) exactly: over every z, with π and W integrated out."""
    num_data, _ = x.shape
    bits = list(itertools.product((0.0, 1.0), repeat=num_data * num_features))
    z = torch.tensor(bits, dtype=torch.float64).reshape(-1, num_data, num_features)
    on, c = z.sum(1), torch.tensor(alpha / num_features, dtype=torch.float64)
    # Beta(c, 1): its normaliser times B(c + on, 1 + off)
    log_z = (c.log() + (c + on).lgamma() + (1 + num_data - on).lgamma() - (c + 1 + num_data).lgamma()).sum(-1)
    covariance = scale**2 * torch.eye(num_data, dtype=torch.float64) + weight_scale**2 * z @ z.mT
    of_x = torch.distributions.MultivariateNormal(torch.zeros(num_data, dtype=torch.float64), covariance)
    log_x = of_x.log_prob(x.double().T[:, None]).sum(0)
    return (log_z + log_x).logsumexp(0).item()


def test_log_densities_of_a_draw_are_averages_over_all_draws():
    logits, other = torch.tensor([-3.0, 0.2, 5.0]), torch.tensor([1.0, -2.0, 0.5])
    q, p = AveragedBernoulli(0.3, logits), Bernoulli(logits=other)
    z = q.rsample()
    share = torch.sigmoid(logits)
    by_hand = share * p.log_prob(torch.ones(3)) + (1 - share) * p.log_prob(torch.zeros(3))
    torch.testing.assert_close(p.log_prob(z), by_hand)
    torch.testing.assert_close(q.log_prob(z), -torch.distributions.Bernoulli(logits=logits).entropy())
    for value in (torch.zeros(3), torch.ones(3)):  # any other z has its own
        wanted = torch.distributions.Bernoulli(logits=logits).log_prob(value)
        torch.testing.assert_close(q.log_prob(value), wanted)
    assert drawn_from(z.clone()) is None


def test_a_draw_is_0_or_1_with_probability_lambda_and_has_a_gradient():
    logits = torch.tensor([-1.0, 0.5], requires_grad=True)
    z = AveragedBernoulli(0.3, logits).rsample((100_000,))
    assert set(z.unique().tolist()) == {0.0, 1.0}
    torch.testing.assert_close(z.mean(0), torch.sigmoid(logits), atol=4 * 0.5 / 100_000**0.5, rtol=0)
    z.sum().backward()
    assert bool((logits.grad > 0).all())


def test_the_averaged_normal_is_the_average_over_every_z():
    torch.manual_seed(0)
    share, W, x, scale = torch.rand(3), torch.randn(3, 2), torch.randn(2), torch.tensor([0.5, 2.0])
    loc = torch.bernoulli(share) @ W
    averaged = AveragedNormal(loc, scale, share @ W, (share * (1 - share)) @ W.square())
    found = averaged.log_prob(x)
    draws = averaged.sample((20_000,))  # of the one loc that there is
    torch.testing.assert_close(draws.mean(0), loc, atol=4 * 2.0 / 20_000**0.5, rtol=0)
    wanted = torch.zeros(2)
    for bits in itertools.product((0.0, 1.0), repeat=3):
        z = torch.tensor(bits)
        probability = torch.where(z > 0, share, 1 - share).prod()
        wanted += probability * dist.Normal(z @ W, scale).log_prob(x)
    torch.testing.assert_close(found, wanted)


@pytest.mark.parametrize("is_linear", [True, False])
def test_the_elbo_is_below_the_evidence_and_near_it(is_linear):
    torch.manual_seed(0)
    x = torch.tensor([[1.0, 1.0], [1.1, 0.9], [0.0, 0.1], [-0.1, 0.0]])
    decoder = None if is_linear else nn.Identity()  # which nothing is averaged through
    model = LatentFeatureModel(
        3, normal(0.3), num_data=4, num_dims=2, prior="IndianBuffet(1.5)", decoder=decoder, temperature=0.5
    )
    fit_features(model, x, num_epochs=400, kl_start=1.0, num_starts=2, seed=0, progress=False)
    with torch.no_grad():
        losses = torch.tensor([Trace_ELBO().loss(model.model, model.guide, x) for _ in range(500)])
    elbo, error = -losses.mean().item(), losses.std().item() / 500**0.5
    exact = log_evidence(x, 3, 1.5, 1.0, 0.3)
    assert elbo < exact + 4 * error
    without = log_evidence(x, 1, 1e-9, 1.0, 0.3)  # a feature
    assert elbo > exact - 3.0 > without + 10


def test_the_divergence_of_z_has_no_noise():
    model = LatentFeatureModel(3, normal(0.5), num_data=5, num_dims=2)
    x, pi = torch.randn(5, 2), torch.tensor([0.1, 0.5, 0.9])
    W = torch.randn(3, 2)
    conditioned = pyro.poutine.condition(model.model, data={"pi": pi, "W": W})
    guide = pyro.poutine.block(model.guide, hide=["pi", "W"])
    losses = {round(Trace_ELBO().loss(conditioned, guide, x), 3) for _ in range(5)}
    assert len(losses) == 1  # nor has the likelihood


@pytest.mark.parametrize("elbo", [Trace_ELBO(), TraceGraph_ELBO()])
def test_it_is_plain_pyro(elbo):
    pyro.clear_param_store()
    torch.manual_seed(0)
    x, _ = images(20, 0.5, 0)
    model = LatentFeatureModel(6, normal(0.5), num_data=20, num_dims=36, prior="StickBreaking(2)")
    svi = SVI(model.model, model.guide, pyro.optim.Adam({"lr": 0.05}), elbo)
    losses = [svi.step(x) for _ in range(60)]
    assert sum(losses[-10:]) < sum(losses[:10])
    prior = Predictive(model.model, num_samples=3)()
    assert prior["x"].shape == (3, 20, 36) and prior["z"].shape == (3, 20, 6)
    posterior = Predictive(model.model, guide=model.guide, num_samples=3)(x)
    assert set(posterior["z"].unique().tolist()) <= {0.0, 1.0}
    pyro.clear_param_store()


@pytest.mark.parametrize("scale", [0.5, 0.05])
def test_the_four_shapes_are_found_and_no_others(scale):
    x, shapes = images(500, scale, 0)
    model = LatentFeatureModel(12, normal(scale), num_data=500, num_dims=36, prior="IndianBuffet(2)")
    history = fit_features(model, x, num_starts=2, seed=0, progress=False)
    used = (model.z_logits() > 0).any(0)
    cosine = F.normalize(model.loc.detach()[used], dim=1) @ F.normalize(shapes, dim=1).T
    assert model.num_used() == 4 == history[-1]["num_features"]
    assert cosine.max(0).values.min() > 0.95
    again = LatentFeatureModel(12, normal(scale), num_data=500, num_dims=36, prior="IndianBuffet(2)")
    short = {"num_epochs": 20, "num_starts": 2, "seed": 3, "progress": False}
    assert fit_features(again, x, **short) == fit_features(model, x, **short)


def test_what_is_nan_says_nothing_and_is_filled_in():
    torch.manual_seed(0)
    x, _ = images(200, 0.1, 1)
    seen = x.clone()
    hidden = torch.rand(x.shape) < 0.1
    seen[hidden] = math.nan
    model = LatentFeatureModel(8, normal(0.1), num_data=200, num_dims=36, prior="IndianBuffet(2)")
    fit_features(model, seen, num_epochs=500, num_starts=1, seed=0, progress=False)
    filled = torch.sigmoid(model.logits) @ model.loc
    assert (filled - x)[hidden].square().mean().sqrt() < 0.25  # by the mean image it is 0.5 where a shape may be
    other = seen.clone()
    other[:, 0] = math.nan
    assert Trace_ELBO().loss(model.model, model.guide, other) != Trace_ELBO().loss(model.model, model.guide, seen)


def test_an_encoder_takes_minibatches_and_new_data():
    torch.manual_seed(0)
    x, _ = images(100, 0.5, 0)
    x[0, 0] = math.nan
    model = LatentFeatureModel(
        6,
        bbpyro.likelihoods.Bernoulli(),
        num_data=100,
        num_dims=4,
        decoder=nn.Linear(4, 36),
        encoder=nn.Sequential(nn.Linear(36, 16), nn.BatchNorm1d(16), nn.Tanh(), nn.Linear(16, 6)),
    )
    binary = torch.where(x.isnan(), x, (x > 0.5).float())
    history = fit_features(model, binary, num_epochs=30, batch_size=25, num_starts=1, seed=0, progress=False)
    assert history[-1]["loss"] < history[0]["loss"]
    assert model.z_logits(binary[:7]).shape == (7, 6)
    before = model.encoder[1].num_batches_tracked.item()
    assert before == 1 + 30 * 4  # of the steps alone, and of the line above; counting features adds none


def test_what_does_not_fit_is_said():
    x = torch.zeros(4, 3)

    def made(**changed):
        return LatentFeatureModel(
            **{"num_features": 2, "likelihood": normal(1.0), "num_data": 4, "num_dims": 3, **changed}
        )

    for changed, told in (
        ({"num_features": 0}, "num_features is 0"),
        ({"num_data": 0}, "num_data is 0"),
        ({"weight_scale": -1.0}, "weight_scale is -1.0"),
        ({"temperature": math.nan}, "temperature is nan"),
        ({"prior": dist.Normal(0.0, 1.0)}, "prior"),
        ({"prior": {"*": "Jeffreys"}}, "all features have one prior"),
    ):
        with pytest.raises(ValueError, match=told):
            made(**changed)
    short = {"num_epochs": 1, "progress": False}
    for model, data, settings, told in (
        (made(), x[:3], {}, "x has 3 data, and the model's num_data is 4"),
        (made(), x, {"batch_size": 2}, "batch_size is 2, but without an encoder"),
        (made(), x, {"num_starts": 0}, "num_starts is 0"),
        (made(), x, {"kl_start": 0.0}, "kl_start is 0.0"),
        (made(), x * math.nan, {}, "nothing was observed"),
        (made(), x + math.inf, {}, "infinite"),
        (made(num_dims=5), x, {}, "num_dims, the decoder and x are to go together"),
        (made(), x.long(), {}, "wanted floats"),
        (made(encoder=nn.Linear(3, 7)), x, {}, "wanted the log-odds of 2 features"),
    ):
        with pytest.raises(ValueError, match=told):
            fit_features(model, data, **short, **settings)
    with pytest.raises(TypeError, match="x is a list"):
        fit_features(made(), [1.0], **short)


class Shifted(nn.Module):
    def __init__(self):
        super().__init__()
        self.shift, self.log_scale = nn.Parameter(torch.zeros(3)), nn.Parameter(torch.zeros(()))

    def forward(self, output):
        return dist.Normal(output + self.shift, self.log_scale.exp())


def loss(model, x, num_draws):
    with torch.no_grad():
        losses = torch.tensor([Trace_ELBO().loss(model.model, model.guide, x) for _ in range(num_draws)])
    return losses.mean().item(), losses.std().item() / num_draws**0.5


@pytest.mark.parametrize(
    "likelihood",
    [
        lambda output: dist.Normal(output + 1, 0.5),
        lambda output: dist.Normal(output.tanh(), 0.5),
        lambda output: dist.Normal(output, 0.5 + output.sigmoid()),
        lambda output: dist.Normal(output, torch.tensor([0.5, 1.0, 2.0])).to_event(1),
    ],
)
def test_a_likelihood_is_averaged_only_where_that_is_exact(likelihood):
    torch.manual_seed(0)
    x = torch.randn(4, 3)
    linear = LatentFeatureModel(2, likelihood, num_data=4, num_dims=3)
    drawn = LatentFeatureModel(2, likelihood, num_data=4, num_dims=3, decoder=nn.Identity())  # nothing is averaged
    with torch.no_grad():
        linear.logits.zero_()
        drawn.load_state_dict(linear.state_dict())
    (one, error), (other, other_error) = loss(linear, x, 300), loss(drawn, x, 300)
    assert abs(one - other) < 4 * (error**2 + other_error**2) ** 0.5


def test_a_learnt_likelihood_begins_each_start_as_it_is():
    x = 3 + 0.1 * torch.randn(30, 3, generator=torch.Generator().manual_seed(0))

    def fitted(seed, num_starts):
        model = LatentFeatureModel(2, Shifted(), num_data=30, num_dims=3)
        settings = {"num_epochs": 100, "learning_rate": 0.05, "num_starts": num_starts, "progress": False}
        return model, fit_features(model, x, seed=seed, **settings)

    (one, first), (_, second), (_, best) = fitted(0, 1), fitted(1, 1), fitted(0, 2)
    assert one.likelihood.shift.detach().abs().min() > 0.5  # it is trained
    assert best in (first, second)  # a start is what it would be alone


def test_the_unit_of_the_data_does_not_matter():
    x, _ = images(50, 0.5, 0)
    found = []
    for unit in (1.0, 256.0):
        model = LatentFeatureModel(6, normal(0.5 * unit), num_data=50, num_dims=36, weight_scale=unit)
        history = fit_features(model, unit * x, num_epochs=100, num_starts=1, seed=0, progress=False)
        found.append((history[-1]["loss"] - 36 * math.log(unit), history[-1]["num_features"]))
    assert found[0] == pytest.approx(found[1], rel=1e-3)


def test_data_replayed_from_the_guide_are_of_its_z_and_not_of_its_average():
    model = LatentFeatureModel(1, normal(0.01), num_data=2000, num_dims=1)
    with torch.no_grad():
        model.logits.zero_()
        model.loc.fill_(1.0)
        model.unconstrained_scale.fill_(-20.0)
    replayed = pyro.poutine.replay(model.model, pyro.poutine.trace(model.guide).get_trace())
    x = pyro.poutine.trace(replayed).get_trace().nodes["x"]["value"]
    assert x.std().item() == pytest.approx(0.5, abs=0.02)  # half at 0 and half at 1


def test_what_is_hidden_need_not_be_0_and_float64_works():
    x = torch.rand(6, 3) + 0.5
    x[0, 0] = math.nan
    model = LatentFeatureModel(2, lambda o: dist.LogNormal(o, 1.0), num_data=6, num_dims=3)
    history = fit_features(model, x, num_epochs=5, num_starts=1, seed=0, progress=False)
    assert math.isfinite(history[-1]["loss"])
    wide = LatentFeatureModel(2, normal(1.0), num_data=6, num_dims=3).double()
    assert Predictive(wide.model, num_samples=2)()["x"].dtype == torch.float64
    with pytest.raises(ValueError, match="more than num_data, 6"):
        Trace_ELBO().loss(model.model, model.guide, torch.rand(12, 3))
    plain = LatentFeatureModel(2, lambda o: torch.distributions.Normal(o, 1.0), num_data=6, num_dims=3)
    with pytest.raises(ValueError, match="give that of pyro.distributions"):
        Trace_ELBO().loss(plain.model, plain.guide, x)
