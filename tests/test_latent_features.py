"""The latent feature model: its averages against enumeration, its ELBO against the evidence, and what it finds."""

import copy
import functools
import itertools
import math

import arviz as az
import numpy as np
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
from bbpyro.training.coordinate_ascent import Ascent, kumaraswamy_like, noise_of, seed_of_start
from bbpyro.training.features import fit_features

# a few epochs find nothing, and fit says so
pytestmark = pytest.mark.filterwarnings("ignore:no feature is in use:bbpyro.training.FitWarning")


def normal(scale):
    return lambda output: dist.Normal(output, scale)


def images(num_data, scale, seed):
    """Images of four shapes, and the shapes."""
    data = bbpyro.data.shapes(num_data, scale, seed)
    return data.x, data.W


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
    fit_features(model, x, num_epochs=400, learning_rate=0.2, kl_start=1.0, num_starts=3, seed=0, progress=False)
    with torch.no_grad():
        losses = torch.tensor([Trace_ELBO().loss(model.model, model.guide, x) for _ in range(500)])
    elbo, error = -losses.mean().item(), losses.std().item() / 500**0.5
    exact = log_evidence(x, 3, 1.5, 1.0, 0.3)
    assert elbo < exact + 4 * error
    without = log_evidence(x, 1, 1e-9, 1.0, 0.3)  # a feature
    assert elbo > exact - (2.0 if is_linear else 3.0) > without + 10


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
@pytest.mark.parametrize("is_learnt", [False, True])
def test_the_four_shapes_are_found_and_no_others(scale, is_learnt):
    x, shapes = images(500, scale, 0)
    model = LatentFeatureModel(12, bbpyro.likelihoods.Normal(None if is_learnt else scale), "IndianBuffet(2)")
    history = bbpyro.fit(model, x, num_epochs=50, seed=0, progress=False)
    used = (model.z_logits() > 0).any(0)
    cosine = F.normalize(model.loc.detach()[used], dim=1) @ F.normalize(shapes, dim=1).T
    assert model.num_used() == 4 == history[-1]["num_features"]
    assert cosine.max(0).values.min() > 0.95
    assert model.likelihood.scale.item() == pytest.approx(scale, rel=0.05)
    shares = data_shares(model)
    torch.testing.assert_close(model.q_pi().mean[used], shares[used], atol=0.02, rtol=0)


def data_shares(model):
    return torch.sigmoid(model.z_logits().detach()).mean(0)


def test_svi_alone_lets_go_of_features():
    x, _ = images(500, 0.5, 0)
    model = LatentFeatureModel(12, normal(0.5), "IndianBuffet(2)")
    history = fit_features(model, x, num_sweeps=0, num_starts=1, seed=0, progress=False)
    assert 3 <= history[-1]["num_features"] <= 6


@pytest.mark.parametrize("num_sweeps", [0, 20])
def test_a_seed_gives_the_same_records_and_leaves_torch_as_it_was(num_sweeps):
    x, _ = images(50, 0.5, 0)
    before = torch.get_rng_state()
    first, second = (
        bbpyro.fit(
            LatentFeatureModel(5, normal(0.5)),
            x,
            num_epochs=5,
            num_sweeps=num_sweeps,
            num_starts=2,
            seed=3,
            progress=False,
        )
        for _ in range(2)
    )
    assert first == second
    torch.testing.assert_close(torch.get_rng_state(), before)


def test_a_sweep_raises_the_elbo_which_is_that_of_svi():
    x, _ = images(60, 0.5, 0)
    x[:10, :5] = math.nan
    model = LatentFeatureModel(6, normal(0.5), "IndianBuffet(2)")
    model.initialize_parameters(x)
    torch.manual_seed(0)
    with torch.no_grad():
        ascent = Ascent.begun(model, x, noise_of(model, x))
        elbos = []
        for _ in range(30):
            ascent.sweep(1.0)
            elbos.append(ascent.elbo())
        assert all(later > earlier - 1e-2 for earlier, later in itertools.pairwise(elbos))
        tidied = ascent.tidied(100)
        assert tidied.elbo() >= elbos[-1]
        tidied.put_into(model)
    found, error = loss(model, x, 500)
    # a Beta q(π) here, a Kumaraswamy there
    assert -found < tidied.elbo() + 4 * error and -found > tidied.elbo() - 3 - 4 * error


def test_a_feature_turned_round_is_turned_back():
    x, shapes = images(300, 0.2, 0)
    model = LatentFeatureModel(6, normal(0.2), "IndianBuffet(2)")
    bbpyro.fit(model, x, num_epochs=1, seed=0, progress=False)
    with torch.no_grad():
        ascent = Ascent.begun(model, x, noise_of(model, x))
        ascent.m, ascent.share = model.loc.detach().clone(), torch.sigmoid(model.logits.detach()).clone()
        used = (ascent.share > 0.5).any(0)
        k, spare = int(used.nonzero()[0]), int((~used).nonzero()[0])
        ascent.sweep(1.0)
        best = ascent.elbo()
        ascent.m[spare], ascent.share[:, spare] = ascent.m[k], 1.0
        ascent.m[k], ascent.share[:, k] = -ascent.m[k], 1 - ascent.share[:, k]
        for _ in range(20):
            ascent.sweep(1.0)
        assert (ascent.share > 0.5).any(0).sum() == 5  # no sweep finds back
        assert ascent.elbo() < best - 30
        assert ascent.tidied(1000).elbo() > best - 5


@pytest.mark.parametrize(("c1", "c0"), [(0.1667, 1.0), (0.1667, 500.0), (3.0, 40.0), (250.0, 250.0), (2500.0, 3.0)])
def test_a_kumaraswamy_like_a_beta_has_the_moments_of_its_log(c1, c0):
    beta = torch.distributions.Beta(torch.tensor([c1]).double(), torch.tensor([c0]).double())
    a, b = kumaraswamy_like(beta)
    draws = bbpyro.Kumaraswamy(a, b).sample((100_000,)).log()
    exact = torch.digamma(beta.concentration1) - torch.digamma(beta.concentration1 + c0)
    variance = torch.polygamma(1, beta.concentration1) - torch.polygamma(1, beta.concentration1 + c0)
    torch.testing.assert_close(draws.mean(0), exact, atol=4 * (variance.item() / 100_000) ** 0.5, rtol=0)
    torch.testing.assert_close(draws.var(0), variance, rtol=0.05, atol=0)


def test_what_is_held_out_is_not_trained_on_and_is_reported_on():
    x, _ = images(200, 0.5, 0)
    held_out = torch.rand(x.shape, generator=torch.Generator().manual_seed(0)) < 0.1
    settings = {"num_epochs": 3, "num_starts": 1, "num_sweeps": 30, "seed": 0, "progress": False}
    first, second, without = (LatentFeatureModel(6, normal(0.5), "IndianBuffet(2)") for _ in range(3))
    history = bbpyro.fit(first, x, held_out=held_out, **settings)
    other = bbpyro.fit(second, torch.where(held_out, 5.0, x), held_out=held_out, **settings)
    bbpyro.fit(without, x, observed=~held_out, **settings)
    torch.testing.assert_close(first.loc, second.loc)
    assert other[-1]["held_out_nll"] > history[-1]["held_out_nll"] + 1
    assert 0.7 < history[-1]["held_out_nll"] < 1.2
    seen = x.masked_fill(held_out, math.nan)
    torch.manual_seed(0)
    draws = torch.stack([first.draw(seen).of_x.log_prob(x) for _ in range(50)])
    torch.manual_seed(0)
    torch.testing.assert_close(first.log_predictive(seen, x, 50), draws.logsumexp(0) - math.log(50))
    found = first.log_predictive(seen, x.masked_fill(~held_out, math.nan), 50)
    assert bool((found.isnan() == ~held_out).all())


def test_sizes_are_those_of_the_data():
    x, _ = images(30, 0.5, 0)
    model = LatentFeatureModel(4, bbpyro.likelihoods.Normal(0.5))
    with pytest.raises(ValueError, match="num_data is not known"):
        repr(model.num_data)
    with pytest.raises(ValueError, match="not known yet"):
        model.model()
    copied = copy.deepcopy(model)
    Trace_ELBO().loss(model.model, model.guide, x)
    assert (model.num_data, model.loc.shape, model.logits.shape) == (30, (4, 36), (30, 4))
    copied.load_state_dict(model.state_dict())
    assert copied.num_data == 30
    torch.testing.assert_close(copied.loc, model.loc)
    assert "0.5" in repr(model)
    with pytest.raises(ValueError, match=r"flatten\(1\)"):
        bbpyro.fit(LatentFeatureModel(4, bbpyro.likelihoods.Normal(0.5)), x.reshape(30, 6, 6), progress=False)
    amortised = LatentFeatureModel(4, bbpyro.likelihoods.Normal(0.5), encoder=nn.Linear(36, 4))
    with pytest.raises(ValueError, match="num_data is not known.*minibatch"):
        Trace_ELBO().loss(amortised.model, amortised.guide, x[:10])
    bbpyro.fit(amortised, x, num_epochs=1, num_starts=1, batch_size=10, progress=False)
    assert amortised.num_data == 30
    for changed, told in (({"decoder": nn.Linear(3, 36)}, "num_dims"), ({"likelihood": 3}, "likelihood is 3")):
        with pytest.raises((ValueError, TypeError), match=told):
            LatentFeatureModel(4, **{"likelihood": normal(0.5), **changed})


def test_what_is_expected_of_x_is_the_mean_over_draws_or_at_the_mean():
    x, _ = images(40, 0.5, 0)
    model = LatentFeatureModel(5, normal(0.5))
    bbpyro.fit(model, x, num_epochs=2, num_starts=1, num_sweeps=30, seed=0, progress=False)
    at_mean = bbpyro.predict(model, x, num_samples=None)
    torch.testing.assert_close(at_mean, torch.sigmoid(model.logits) @ model.loc)  # f is linear, so that both agree
    torch.manual_seed(0)
    error = torch.stack([model.draw(x).of_x.mean for _ in range(500)]).std(0) / 500**0.5
    assert bool(((bbpyro.predict(model, x, 500) - at_mean).abs() < 6 * error + 5e-3).all())


def test_arviz_has_the_features_and_what_they_make_of_the_data():
    x, _ = images(40, 0.5, 0)
    x[0, 0] = math.nan
    models = [LatentFeatureModel(5, normal(0.5), "IndianBuffet(2)") for _ in range(2)]
    settings = {"num_epochs": 3, "num_starts": 1, "num_sweeps": 30, "progress": False}
    histories = [bbpyro.fit(model, x, seed=i, **settings) for i, model in enumerate(models)]
    idata = bbpyro.to_arviz(models, x, 300, num_predictive_samples=50, history=histories, seed=0, progress=False)
    group = functools.partial(bbpyro.posterior.group, idata)
    assert group("posterior").z.shape == (2, 300, 40, 5) and group("posterior").W.shape == (2, 300, 5, 36)
    assert group("posterior_predictive").x.shape == (2, 50, 40, 36)
    assert group("training").loss.shape == (2, 3) and group("observed_data").x.shape == (40, 36)
    for chain, model in enumerate(models):
        with torch.no_grad():
            q = model.q_pi()
        found = group("posterior").pi[chain].values.mean(0)
        assert found == pytest.approx(q.mean.numpy(), abs=4 * float(q.variance.max().sqrt()) / 300**0.5)
        shares = group("posterior").z[chain].values.mean(0)
        assert shares == pytest.approx(torch.sigmoid(model.logits).detach().numpy(), abs=0.15)
        used = group("posterior").z[chain].values.any(1).sum(-1)
        assert (group("posterior").num_features[chain].values == used).all()
    prior = group("prior").num_features.values.ravel()
    # a feature is in none of N data with probability B(c + 0, N + 1) / B(c, 1) of c = α/K
    alone = torch.distributions.Beta(torch.tensor(0.4), torch.tensor(1.0)).sample((100_000,)).double()
    wanted = 5 * (1 - (1 - alone) ** 40).mean().item()
    assert prior.mean() == pytest.approx(wanted, abs=4 * prior.std() / 600**0.5 + 0.02)
    log_likelihood = group("log_likelihood").x
    assert log_likelihood.shape == (2, 50, 40) and bool(np.isfinite(log_likelihood.values).all())
    again = bbpyro.to_arviz(models, x, 300, num_predictive_samples=50, seed=0, progress=False)
    assert bool((bbpyro.posterior.group(again, "posterior").z == group("posterior").z).all())
    az.summary(idata, var_names=["num_features", "pi"], kind="stats")
    for arguments, told in (
        (([], x), "empty list"),
        (([models[0]] * 2, x), "twice"),
        ((models, x[:3]), "x has 3 data"),
        ((models[0], x, 0), "num_samples is 0"),
        (([models[0], LatentFeatureModel(4, normal(0.5), num_data=40, num_dims=36)], x), "restarts of one model"),
    ):
        with pytest.raises((ValueError, TypeError), match=told):
            bbpyro.to_arviz(*arguments, progress=False)
    with pytest.raises(ValueError, match="history"):
        bbpyro.to_arviz(models, x, history=histories[0], progress=False)


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
        (made(), x, {"held_out": 3}, "held_out is 3, wanted booleans of x's shape"),
        (made(), x, {"observed": x[:3] > 0}, "observed is torch.bool of shape"),
        (made(), x, {"kl_start": 0.0}, "kl_start is 0.0"),
        (made(), x * math.nan, {}, "nothing was observed"),
        (made(), x + math.inf, {}, "infinite"),
        (made(num_dims=5), x, {}, "and num_dims is 5; without a decoder"),
        (made(), x.long(), {}, "wanted floats"),
        (made(encoder=nn.Linear(3, 7)), x, {}, "wanted the log-odds of 2 features"),
    ):
        with pytest.raises(ValueError, match=told):
            fit_features(model, data, **short, **settings)
    with pytest.raises(TypeError, match="x is \\[1.0\\], wanted a Tensor"):
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


def test_a_learnt_likelihood_begins_each_start_as_it_is(monkeypatch):
    monkeypatch.setattr("bbpyro.training.features.seed_of_start", lambda seed, start: seed + start)
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
        model.log_scale.fill_(-20.0)
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


@pytest.mark.filterwarnings("ignore:x. its numbers are of size")  # they are, on purpose
@pytest.mark.parametrize(("noise", "size"), ((0.01, 1.0), (1e-4, 1.0), (0.5, 1e-3)))
def test_svi_does_not_spoil_what_was_swept_however_small_the_noise(noise, size):
    x = bbpyro.data.shapes(200, noise).x * size
    model = LatentFeatureModel(6, bbpyro.likelihoods.Normal())
    history = bbpyro.fit(model, x, num_starts=4, seed=0, progress=False)
    assert model.num_used() == 4
    assert model.likelihood.scale.item() == pytest.approx(noise * size, rel=0.05)
    assert history[-1]["loss"] < history[0]["loss"] + 0.2


def test_numbers_of_another_size_than_features_and_finding_nothing_are_warned_of():
    x = bbpyro.data.shapes(100).x
    with pytest.warns(
        bbpyro.training.FitWarning, match=r"x: its numbers are of size [\d.]+, and features are N\(0, 1²\)"
    ):
        bbpyro.fit(
            LatentFeatureModel(3, bbpyro.likelihoods.Normal()), 100 * x, num_starts=1, num_sweeps=5, progress=False
        )
    with pytest.warns(bbpyro.training.FitWarning, match="no feature is in use"):
        bbpyro.fit(LatentFeatureModel(3, normal(30.0)), x, num_starts=1, num_sweeps=5, num_epochs=2, progress=False)


def test_one_row_first_does_not_give_all_data_one_z():
    x = (bbpyro.data.shapes(40).x > 0.5).float()
    model = LatentFeatureModel(4, bbpyro.likelihoods.Bernoulli())
    bbpyro.predict(model, x[:1])
    with pytest.raises(ValueError, match="x has 40 data, and the model's num_data is 1"):
        bbpyro.fit(model, x, progress=False)
    refused = LatentFeatureModel(4, normal(0.5))
    for bad in (x[:0], x * math.nan, x + math.inf):
        with pytest.raises(ValueError, match="no data|nan everywhere|infinite numbers"):
            bbpyro.fit(refused, bad, progress=False)
    bbpyro.fit(refused, x, num_epochs=1, num_sweeps=2, num_starts=1, progress=False)  # they have left it without sizes


@pytest.mark.parametrize("likelihood", (lambda o: dist.Normal(o.add_(1.0), 0.5), lambda o: dist.Normal(o + 1.0, 0.5)))
def test_a_likelihood_that_changes_the_sums_is_not_taken_for_one_around_them(likelihood):
    x = bbpyro.data.shapes(60).x + 1
    model = LatentFeatureModel(4, likelihood)
    model.initialize_parameters(x)
    assert not model.likelihood_of(torch.zeros(60, 36))[1]
    with pytest.raises(ValueError, match="around the sums themselves"):
        bbpyro.mcmc.gibbs(model, x, num_samples=4, warmup_steps=1, progress=False)


@pytest.mark.filterwarnings("ignore:Encountered NaN")  # of Pyro; what fit says of it is looked at here
def test_a_model_is_left_as_it_was_where_its_training_fails():
    x = bbpyro.data.shapes(40).x
    model = LatentFeatureModel(4, bbpyro.likelihoods.Normal(), "StickBreaking(3)")
    bbpyro.fit(model, x, num_epochs=2, num_starts=1, seed=0, progress=False)
    before = {name: t.clone() for name, t in model.state_dict().items()}
    with pytest.raises(bbpyro.training.NonFiniteLossError):
        bbpyro.fit(model, x * 1e20, num_epochs=2, num_starts=2, seed=0, progress=False)
    assert all(bool((t == before[name]).all()) for name, t in model.state_dict().items())
    assert not list(pyro.get_param_store().keys())


def test_looking_at_what_is_held_out_changes_nothing_and_seeds_share_no_start():
    x = bbpyro.data.shapes(60).x
    hidden = torch.rand(x.shape, generator=torch.Generator().manual_seed(0)) < 0.1
    losses = []
    for given in ({"held_out": hidden}, {"observed": ~hidden}):
        model = LatentFeatureModel(4, normal(0.5))
        losses.append(bbpyro.fit(model, x, num_epochs=5, num_starts=2, seed=0, progress=False, **given)[-1]["loss"])
    assert losses[0] == losses[1]
    seeds = [seed_of_start(seed, start) for seed in range(20) for start in range(20)]
    assert len({*seeds}) == len(seeds)


def test_float64_data_are_taken_in_the_models_precision():
    x = bbpyro.data.shapes(40).x.double()
    model = LatentFeatureModel(4, normal(0.5))
    bbpyro.fit(model, x, num_epochs=1, num_sweeps=5, num_starts=1, progress=False)
    assert bbpyro.predict(model, x).dtype == torch.float32
    assert bbpyro.to_arviz(model, x, 4, progress=False)


@pytest.mark.parametrize(
    ("verb", "message"),
    (
        (lambda m, x: bbpyro.predict(m, x.tolist()), "x is a list, wanted a Tensor"),
        (lambda m, x: bbpyro.to_arviz(m, x.numpy()), "x is a ndarray, wanted a Tensor"),
        (lambda m, x: bbpyro.mcmc.gibbs(m, x.numpy()), "x is a ndarray, wanted a Tensor"),
        (lambda m, x: bbpyro.predict(m, x[:, :10]), r"x has shape \(40, 10\), and num_dims is 36"),
        (lambda m, x: m.log_predictive(x, x[:1]), r"x_new has shape \(1, 36\), wanted that of x, \(40, 36\)"),
        (lambda m, x: bbpyro.fit(m, x, held_out=torch.zeros_like(x) > 0), "held_out holds out nothing"),
        (lambda m, x: bbpyro.fit(m, x, num_sweeps=-1), "num_sweeps is -1, wanted 0 or more"),
        (lambda m, x: bbpyro.fit(m, x, x), r"^fit\(\) takes 2 positional arguments"),
        (lambda m, x: LatentFeatureModel(5, normal(0.5)).load_state_dict(m.state_dict()), r"its W has shape \(4, 36\)"),
        (lambda m, x: LatentFeatureModel(5, normal(0.5)).num_used(), "the model has no sizes yet"),
        (lambda m, x: bbpyro.data.shapes(noise=math.nan), "noise is nan, wanted 0 or more"),
        (lambda m, x: bbpyro.data.shapes(0), "num_data is 0, wanted a whole number"),
    ),
)
def test_what_is_not_right_is_named(verb, message):
    x = bbpyro.data.shapes(40).x
    model = LatentFeatureModel(4, normal(0.5))
    model.initialize_parameters(x, is_all=True)
    with pytest.raises((ValueError, TypeError), match=message):
        verb(model, x)
