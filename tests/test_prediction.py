import copy
import io
import itertools
import math
import re

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import scipy.special
import scipy.stats
import torch
from pyro import poutine
from pyro.infer import SVI, Predictive, Trace_ELBO
from pyro.infer.autoguide import AutoGuideList, AutoNormal, init_to_sample
from rich.console import Console
from torch import nn

import bbpyro
from bbpyro.prediction import Evaluation, RegressionEvaluation, calibration, score


@pytest.fixture
def bnn():
    net = nn.Sequential(nn.Linear(6, 5), nn.Tanh(), nn.Linear(5, 3))
    return bbpyro.BetaBernoulliNetwork(bbpyro.insert_dropout(net), num_data=100)


@pytest.fixture
def x():
    return 3 * torch.randn(40, 6)


def test_the_mean_mask_prediction_is_the_networks_own_softmax(bnn, x):
    expected = torch.softmax(bnn.net(x), -1).detach()
    torch.testing.assert_close(bbpyro.predict(bnn, x, num_samples=None, batch_size=7), expected)


def test_monte_carlo_agrees_with_an_explicit_average_over_masks(bnn, x):
    """The slow, obvious version: draw π and u by hand, and run the layers by hand."""
    num_samples = 2000
    first, act, last = bnn.net
    total = torch.zeros(40, 3)
    with torch.no_grad():
        for _ in range(num_samples):
            h = x
            for layer in (first, last):
                a, b = layer.gate.posterior().concentration1, layer.gate.posterior().concentration0
                pi = (1 - torch.rand_like(a) ** (1 / b)) ** (1 / a)
                z = (torch.rand(len(x), len(a)) < pi).float()
                h = nn.functional.linear(h * z, layer.weight, layer.bias)
                h = act(h) if layer is first else h
            total += torch.softmax(h, -1)
    probs = bbpyro.predict(bnn, x, num_samples=num_samples)
    # A class probability has a standard deviation of at most 0.5 over masks; two independent averages differ by
    # 0.5 * sqrt(2 / 2000) = 0.016 at most, one standard error.
    assert (probs - total / num_samples).abs().max() < 4 * 0.016
    torch.testing.assert_close(probs.sum(-1), torch.ones(40))


def test_predict_keeps_the_mode_and_takes_no_gradient(bnn, x):
    bnn.train()
    assert not bbpyro.predict(bnn, x, num_samples=2).requires_grad
    assert bnn.training


def test_predict_takes_more_data_than_it_was_trained_on(bnn):
    assert bbpyro.predict(bnn, torch.randn(250, 6), num_samples=2, batch_size=250).shape == (250, 3)


def test_scores_agree_with_their_definitions():
    torch.manual_seed(1)
    probs, y = torch.softmax(2 * torch.randn(500, 4), -1), torch.randint(4, (500,))
    result = score(probs, y)
    assert result.error == pytest.approx((probs.argmax(-1) != y).float().mean().item())
    assert result.nll == pytest.approx(nn.functional.nll_loss(probs.log(), y).item(), rel=1e-5)
    ece = 0.0
    for k in range(15):
        inside = [
            (c.item(), int(label) == int(target))
            for c, label, target in zip(*probs.max(-1), y, strict=True)
            if k / 15 <= c.item() < (k + 1) / 15 or (k == 14 and c.item() == 1)
        ]
        if inside:
            confidence = sum(c for c, _ in inside) / len(inside)
            accuracy = sum(right for _, right in inside) / len(inside)
            ece += len(inside) / 500 * abs(confidence - accuracy)
    assert result.ece == pytest.approx(ece, rel=1e-5)


def test_calibration_counts_each_bin_and_leaves_empty_ones_nan():
    probs = torch.tensor([[0.9, 0.1], [0.8, 0.2], [0.55, 0.45], [0.0, 1.0]])
    bins = calibration(probs, torch.tensor([0, 1, 1, 1]), num_bins=4)
    assert bins.count.tolist() == [0, 0, 1, 3]
    assert bins.confidence[2:].tolist() == pytest.approx([0.55, 0.9])
    assert bins.accuracy[2:].tolist() == pytest.approx([0, 2 / 3])
    assert bins.confidence[:2].isnan().all() and bins.accuracy[:2].isnan().all()


def test_a_certain_and_right_prediction_scores_nothing_and_a_wrong_one_is_finite():
    perfect = score(torch.tensor([[1.0, 0.0]]), torch.tensor([0]))
    assert (perfect.error, perfect.nll, perfect.ece) == (0, 0, 0)
    assert math.isfinite(score(torch.tensor([[1.0, 0.0]]), torch.tensor([1])).nll)


def test_evaluate_scores_what_predict_says(bnn, x):
    y = torch.randint(3, (40,))
    assert bbpyro.evaluate(bnn, x, y, num_samples=None) == score(bbpyro.predict(bnn, x, num_samples=None), y)


def test_bad_arguments_are_named(bnn, x):
    with pytest.raises(ValueError, match="num_samples"):
        bbpyro.predict(bnn, x, num_samples=0)
    with pytest.raises(ValueError, match="batch_size"):
        bbpyro.predict(bnn, x, batch_size=0)
    with pytest.raises(ValueError, match="ci_prob is 1"):
        bbpyro.evaluate(bnn, x, torch.zeros(40), ci_prob=1)
    with pytest.raises(TypeError, match="bnn is a Linear, wanted a BetaBernoulliNetwork"):
        bbpyro.predict(nn.Linear(6, 3), x)
    with pytest.raises(TypeError, match=r"guide is a dict, wanted a callable with the model's arguments"):
        bbpyro.predict(bnn, x, guide={})


# --- what the likelihood says y is -------------------------------------------------------------------------


class Pair(nn.Module):
    """A mean and a scale for each datum, as two outputs."""

    def __init__(self):
        super().__init__()
        self.body, self.mean, self.scale = nn.Linear(6, 5), nn.Linear(5, 1), nn.Linear(5, 1)

    def forward(self, x):
        hidden = torch.tanh(self.body(x))
        return self.mean(hidden).squeeze(-1), nn.functional.softplus(self.scale(hidden)).squeeze(-1)


def one_number():
    return nn.Sequential(nn.Linear(6, 5), nn.Tanh(), nn.Linear(5, 1), nn.Flatten(0))


def certain(net, likelihood=None, num_data=40):
    """A network of which every unit is kept, in every draw: the plain one, in closed form."""
    return bbpyro.BetaBernoulliNetwork(
        bbpyro.insert_dropout(net), likelihood, num_data=num_data, prior=bbpyro.priors.FixedRate(0.0)
    )


def undecided(net, likelihood=None, num_data=40):
    """A network whose masks, and so whose predictions, differ from draw to draw."""
    return bbpyro.BetaBernoulliNetwork(bbpyro.insert_dropout(net), likelihood, num_data=num_data)


NUMBERS = {
    "Normal": (lambda o: dist.Normal(o, 0.5), lambda o: scipy.stats.norm(o, 0.5)),
    "StudentT": (lambda o: dist.StudentT(4.0, o, 0.5), lambda o: scipy.stats.t(4.0, o, 0.5)),
    "LogNormal": (lambda o: dist.LogNormal(o, 0.5), lambda o: scipy.stats.lognorm(0.5, scale=np.exp(o))),
    "Gamma": (lambda o: dist.Gamma(2.0, o.exp()), lambda o: scipy.stats.gamma(2.0, scale=np.exp(-o))),
    "Poisson": (lambda o: dist.Poisson((o + 2).exp()), lambda o: scipy.stats.poisson(np.exp(o + 2))),
    "NegativeBinomial": (
        lambda o: dist.NegativeBinomial(5.0, logits=o),
        lambda o: scipy.stats.nbinom(5.0, scipy.special.expit(-o)),
    ),
}


@pytest.mark.parametrize("num_samples", [None, 7])
@pytest.mark.parametrize("name", NUMBERS)
def test_of_numbers_the_mean_is_predicted_and_rmse_nll_and_coverage_are_scipys(name, num_samples):
    likelihood, exact = NUMBERS[name]
    net, x = one_number(), torch.randn(400, 6)
    bnn = certain(net, likelihood, num_data=400)
    with torch.no_grad():
        output = net(x)
    y, q = likelihood(output).sample(), exact(output.double().numpy())
    mean = bbpyro.predict(bnn, x, num_samples)
    assert mean.shape == (400,)
    np.testing.assert_allclose(mean, q.mean(), rtol=1e-5)
    result = bbpyro.evaluate(bnn, x, y, num_samples, ci_prob=0.8)
    assert isinstance(result, RegressionEvaluation)
    assert result.rmse == pytest.approx(np.sqrt(np.mean((q.mean() - y.double().numpy()) ** 2)), rel=1e-4)
    log_p = q.logpmf if hasattr(q.dist, "pmf") else q.logpdf
    assert result.nll == pytest.approx(-log_p(y.numpy().astype(float)).mean(), rel=1e-4)
    low, high = q.interval(0.8)
    covered = ((y.numpy() >= low) & (y.numpy() <= high)).mean()
    assert result.coverage == pytest.approx(covered, abs=1e-9 if name in ("Normal", "Gamma", "LogNormal") else 0.02)


def test_the_density_of_a_mixture_of_draws_is_its_mean_and_the_interval_its_own():
    """Two draws of W as different as can be: a mixture of two Normals, whose intervals SciPy knows none of."""
    net = nn.Sequential(nn.Linear(6, 1), nn.Flatten(0))
    bnn = certain(net, lambda o: dist.Normal(o, 0.1))
    which = itertools.cycle([-1.0, 1.0])

    def guide(x, y=None):
        pyro.sample("0.weight", dist.Delta(torch.zeros(1, 6), event_dim=2))
        pyro.sample("0.bias", dist.Delta(torch.full((1,), next(which)), event_dim=1))

    x, y = torch.randn(40, 6), torch.linspace(-1.4, 1.4, 40)
    result = bbpyro.evaluate(bnn, x, y, num_samples=2, guide=guide, ci_prob=0.5)
    below = np.mean([scipy.stats.norm(m, 0.1).cdf(y.numpy()) for m in (-1, 1)], 0)
    assert result.coverage == pytest.approx(((below >= 0.25) & (below <= 0.75)).mean())
    density = np.mean([scipy.stats.norm(m, 0.1).pdf(y.double().numpy()) for m in (-1, 1)], 0)
    assert result.nll == pytest.approx(-np.log(density).mean(), rel=1e-4)
    assert result.rmse == pytest.approx(y.square().mean().sqrt().item(), rel=1e-5)


def test_a_regression_of_several_numbers_has_a_row_for_each_datum():
    net = nn.Linear(6, 3)
    bnn = certain(net, lambda output: dist.Normal(output, 0.5).to_event(1))
    x, y = torch.randn(40, 6), torch.randn(40, 3)
    torch.testing.assert_close(bbpyro.predict(bnn, x), net(x).detach())
    result = bbpyro.evaluate(bnn, x, y, num_samples=3)
    log_p = torch.distributions.Normal(net(x), 0.5).log_prob(y).sum(-1)
    assert result.nll == pytest.approx(-log_p.mean().item(), rel=1e-5)
    assert result.rmse == pytest.approx((net(x) - y).square().mean().sqrt().item(), rel=1e-5)


def test_of_a_single_logit_the_probability_of_1_is_predicted_and_scored():
    net = one_number()
    bnn, x = undecided(net, bbpyro.likelihoods.Bernoulli()), 3 * torch.randn(40, 6)
    y = (torch.rand(40) < 0.5).float()
    p = bbpyro.predict(bnn, x, num_samples=None)
    assert p.shape == (40,)
    torch.testing.assert_close(p, torch.sigmoid(bnn(x)).detach())
    result = bbpyro.evaluate(bnn, x, y, num_samples=None)
    assert isinstance(result, Evaluation)
    assert result.error == pytest.approx(((p > 0.5).float() != y).float().mean().item())
    assert result.nll == pytest.approx(nn.functional.binary_cross_entropy(p, y).item(), rel=1e-5)
    assert result.ece == pytest.approx(score(torch.stack([1 - p, p], -1), y.long()).ece)
    by_draws = bbpyro.evaluate(bnn, x, y, num_samples=500)
    p = bbpyro.predict(bnn, x, num_samples=500)
    assert by_draws.nll == pytest.approx(nn.functional.binary_cross_entropy(p, y).item(), abs=0.05)


def test_a_logit_and_two_outputs_say_the_same():
    two = nn.Linear(6, 2)
    one = nn.Sequential(nn.Linear(6, 1), nn.Flatten(0))
    with torch.no_grad():
        one[0].weight.copy_(two.weight[1:] - two.weight[:1])
        one[0].bias.copy_(two.bias[1:] - two.bias[:1])
    x, y = 3 * torch.randn(40, 6), torch.randint(2, (40,))
    by_one = bbpyro.evaluate(certain(one, bbpyro.likelihoods.Bernoulli()), x, y.float(), num_samples=3)
    by_two = bbpyro.evaluate(certain(two), x, y, num_samples=3)
    for name in ("error", "nll", "ece"):
        assert getattr(by_one, name) == pytest.approx(getattr(by_two, name), rel=1e-5)


def test_a_confident_logit_is_not_rounded():
    bnn = certain(nn.Sequential(nn.Linear(6, 1), nn.Flatten(0)), bbpyro.likelihoods.Bernoulli())
    with torch.no_grad():
        bnn.net[0].weight.zero_()
        bnn.net[0].bias.fill_(30.0)
    assert bbpyro.evaluate(bnn, torch.zeros(4, 6), torch.zeros(4), num_samples=3).nll == pytest.approx(30.0)


def test_several_labels_a_datum_are_scored_one_by_one():
    net = nn.Sequential(nn.Linear(6, 6), nn.Unflatten(1, (2, 3)))
    bnn = certain(net, lambda output: dist.Categorical(logits=output).to_event(1))
    x, y = torch.randn(40, 6), torch.randint(3, (40, 2))
    probs = bbpyro.predict(bnn, x)
    torch.testing.assert_close(probs, torch.softmax(net(x), -1).detach())
    assert bbpyro.evaluate(bnn, x, y) == score(probs.flatten(0, 1), y.flatten())
    one_hot = certain(nn.Linear(6, 3), lambda output: dist.OneHotCategorical(logits=output))
    labels = torch.randint(3, (40,))
    expected = score(bbpyro.predict(one_hot, x), labels)
    assert bbpyro.evaluate(one_hot, x, nn.functional.one_hot(labels).float()) == expected


def test_a_network_of_two_outputs_works_everywhere():
    net, x, y = Pair(), torch.randn(40, 6), torch.randn(40)
    bnn = undecided(net, lambda output: dist.Normal(*output))
    bbpyro.pretrain(net, x, y, likelihood=bnn.likelihood, num_epochs=1, progress=False)
    bbpyro.fit(bnn, x, y, num_epochs=1, held_out=(x, y), progress=False)
    dtypes = set()

    def likelihood(output):
        dtypes.update(each.dtype for each in output)
        return dist.Normal(*output)

    bnn.likelihood = likelihood
    bbpyro.fit(bnn, x, y, num_epochs=1, precision="bf16", progress=False)
    assert dtypes == {torch.float32}
    with torch.no_grad():
        torch.testing.assert_close(bbpyro.predict(bnn, x, num_samples=None), bnn(x)[0])
    assert bbpyro.predictive_draws(bnn, x, 3).shape == (3, 40)
    assert math.isfinite(bbpyro.evaluate(bnn, x, y, num_samples=3).nll)
    assert (bbpyro.uncertainty(bnn, x, 3).aleatoric > 0).all()
    idata = bbpyro.to_arviz(bnn, x, y, num_samples=3, progress=False)
    assert idata["posterior_predictive"]["y"].shape == (1, 3, 40)
    assert math.isfinite(bbpyro.training.elbo(bnn, x, y))


def test_outputs_may_be_named():
    class Named(Pair):
        def forward(self, x):
            return dict(zip(("loc", "scale"), super().forward(x), strict=True))

    x, y = torch.randn(40, 6), torch.randn(40)
    bnn = undecided(Named(), lambda output: dist.Normal(**output))
    bbpyro.fit(bnn, x, y, num_epochs=1, progress=False)
    assert bbpyro.predict(bnn, x, 2).shape == (40,)
    assert bbpyro.to_arviz(bnn, x, y, num_samples=2, progress=False)["log_likelihood"]["y"].shape == (1, 2, 40)


def test_a_y_without_a_mean_is_refused_with_what_to_do():
    bnn, x = undecided(one_number(), lambda o: dist.Cauchy(o, 1.0)), torch.randn(40, 6)
    bnn.train()
    with pytest.raises(ValueError, match="likelihood: the mean of Cauchy is nan.*predictive_draws"):
        bbpyro.predict(bnn, x, num_samples=2)
    assert bnn.training and bnn.net.training
    assert bbpyro.predictive_draws(bnn, x, 5).shape == (5, 40)


# --- draws and uncertainty ---------------------------------------------------------------------------------


@pytest.mark.parametrize(("batch_size", "num_samples"), [(20, 400), (1000, 4000)])
def test_draws_and_uncertainty_keep_the_law_of_total_variance(batch_size, num_samples):
    net = one_number()
    bnn, x = undecided(net, lambda o: dist.Normal(o, 0.1 + 0.2 * torch.sigmoid(o))), 2 * torch.randn(40, 6)
    parts = bbpyro.uncertainty(bnn, x, num_samples, batch_size)
    draws = bbpyro.predictive_draws(bnn, x, num_samples, batch_size)
    assert draws.shape == (num_samples, 40)
    torch.testing.assert_close(parts.total, parts.aleatoric + parts.epistemic)
    error = draws.std(0) / num_samples**0.5
    assert ((draws.mean(0) - parts.mean).abs() < 5 * 2**0.5 * error).all()
    assert (parts.aleatoric >= 0.01).all() and (parts.aleatoric <= 0.09).all()
    # The relative standard error of a variance of S draws of kurtosis k is sqrt((k - 1) / S).
    centred = draws - draws.mean(0)
    kurtosis = (centred**4).mean(0) / centred.square().mean(0) ** 2
    assert ((draws.var(0) / parts.total - 1).abs() < 5 * (2 * (kurtosis - 1) / num_samples).sqrt()).all()


def test_where_the_posterior_is_certain_nothing_is_epistemic_and_classes_have_p_times_1_minus_p():
    net, x = nn.Linear(6, 3), torch.randn(40, 6)
    parts = bbpyro.uncertainty(certain(net), x, 5)
    probs = torch.softmax(net(x), -1).detach()
    torch.testing.assert_close(parts.mean, probs)
    torch.testing.assert_close(parts.aleatoric, probs * (1 - probs))
    assert parts.epistemic.max() < 1e-12
    undecided_parts = bbpyro.uncertainty(undecided(net), x, 500)
    p = undecided_parts.mean
    torch.testing.assert_close(undecided_parts.total, p * (1 - p), atol=1e-5, rtol=1e-4)  # of any indicator
    assert undecided_parts.epistemic.min() > 1e-4


def test_a_draw_is_of_one_w_and_pi_for_all_data_in_all_batches():
    """Both data are the same, and π is 0 or 1 as good as always: so their draws are equal, whatever the batch."""
    net = nn.Sequential(nn.Linear(6, 1), nn.Flatten(0))
    bnn = undecided(net, lambda o: dist.Normal(o, 1e-6))
    with torch.no_grad():
        for name, start in (("concentration1", 5e-4), ("concentration0", 5e-3)):
            getattr(bnn.gates["0.gate"], f"unconstrained_{name}").fill_(math.log(math.expm1(start - 1e-6)))
    draws = bbpyro.predictive_draws(bnn, torch.ones(2, 6), 200, batch_size=1)
    assert ((draws[:, 0] - draws[:, 1]).abs() < 1e-4).float().mean() > 0.9
    assert draws[:, 0].std() > 0.1


def test_many_draws_of_few_data_take_few_forward_passes_and_agree_with_one_at_a_time(bnn, x):
    sizes = []
    bnn.net[0].register_forward_pre_hook(lambda module, args: sizes.append(len(args[0])))
    few = x[:8]
    at_once = bbpyro.predict(bnn, few, num_samples=1000, batch_size=800)
    assert sizes[-10:] == [800] * 10 and len(sizes) == 12  # two of them the check's
    one_by_one = bbpyro.predict(bnn, few, num_samples=1000, batch_size=8)
    assert (at_once - one_by_one).abs().max() < 4.5 * 0.5 * (2 / 1000) ** 0.5


def test_progress_is_told_with_what_is_left(bnn, x):
    for function in (bbpyro.predictive_draws, bbpyro.uncertainty):
        with pytest.raises(TypeError, match="num_samples is None, wanted a whole number"):
            function(bnn, x, None)
    for function in (bbpyro.predict, bbpyro.predictive_draws, bbpyro.uncertainty):
        console = Console(file=io.StringIO(), force_terminal=True, width=100)
        function(bnn, x, 3, progress=console)
        assert re.search("predicting.*100%.*0:00:00", console.file.getvalue(), re.DOTALL)
    console = Console(file=io.StringIO(), force_terminal=True, width=100)
    bbpyro.evaluate(bnn, x, torch.randint(3, (40,)), num_samples=3, progress=console)
    assert "predicting" in console.file.getvalue()


def test_inference_mode_changes_nothing_now_or_later(bnn, x):
    y = torch.randint(3, (40,))
    torch.manual_seed(1)
    expected = bbpyro.predict(bnn, x, num_samples=3)
    with torch.inference_mode():
        torch.manual_seed(1)
        assert torch.equal(bbpyro.predict(bnn, x, num_samples=3), expected)
        assert bbpyro.evaluate(bnn, x, y, num_samples=2).nll > 0
        assert bbpyro.uncertainty(bnn, x, 2).mean.shape == (40, 3)
        bbpyro.to_arviz(bnn, x, y, num_samples=2, progress=False)
        bnn.num_data = 40
        assert math.isfinite(bbpyro.training.elbo(bnn, x, y))
    bbpyro.fit(bnn, x, y, num_epochs=1, progress=False)  # nothing that was kept lacks a gradient


# --- a guide of one's own ----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def guided():
    """A network whose W was trained by AutoNormal beside the gates, whose own W never was; and its data."""
    torch.manual_seed(0)
    pyro.clear_param_store()
    x = torch.randn(600, 6)
    y = (x[:, 0] + x[:, 1] > 0).long()
    bnn = undecided(nn.Sequential(nn.Linear(6, 16), nn.Tanh(), nn.Linear(16, 2)), num_data=600)
    with torch.no_grad():
        for gate in bnn.gates.values():
            gate.unconstrained_concentration1.fill_(2.0)
    weights = AutoNormal(
        poutine.block(bnn.model, expose=list(bnn.weights)), init_scale=0.01, init_loc_fn=init_to_sample
    )
    gates = poutine.block(bnn.guide, hide=list(bnn.weights))

    by_list = AutoGuideList(bnn.model)
    by_list.append(weights)
    by_list.append(poutine.block(bnn.guide, hide=[*bnn.weights, "data"]))  # the list has a plate of that name itself

    def by_function(x, y=None):
        weights(x, y)
        gates(x, y)

    svi = SVI(bnn.model, by_list, pyro.optim.Adam({"lr": 0.02}), Trace_ELBO())
    for _ in range(300):
        svi.step(x, y)
    return bnn, (weights, by_list, by_function), x, y


def test_predictions_by_a_guide_of_ones_own_are_predictives(guided):
    bnn, guides, x, y = guided
    by_function = guides[-1]
    predictive = Predictive(bnn.model, guide=by_function, num_samples=200, return_sites=["y"])(x)["y"].squeeze()
    expected = torch.stack([(predictive == c).float().mean(0) for c in range(2)], -1)
    assert (expected.argmax(-1) == y).float().mean() > 0.9
    for guide in guides:
        probs = bbpyro.predict(bnn, x, num_samples=200, guide=guide)
        assert (probs - expected).abs().mean() < 0.03
        assert bbpyro.evaluate(bnn, x, y, num_samples=50, guide=guide).error < 0.1
        assert bbpyro.evaluate(bnn, x, y, num_samples=None, guide=guide).error < 0.1
    with pytest.warns(UserWarning, match="W never was"):
        assert bbpyro.evaluate(bnn, x, y, num_samples=50).error > 0.2


def test_the_mean_mask_of_an_autoguide_is_by_its_median(guided):
    bnn, (weights, by_list, by_function), x, _ = guided
    net = copy.deepcopy(bnn.net)
    net.load_state_dict(weights.median(x), strict=False)
    expected = torch.softmax(net(x), -1).detach()
    for guide in (weights, by_list):
        torch.testing.assert_close(bbpyro.predict(bnn, x, num_samples=None, guide=guide), expected)
    by_mean = bbpyro.predict(bnn, x, num_samples=None, guide=by_function)
    assert (by_mean - expected).abs().mean() < 0.01


def test_pi_comes_from_the_guide_where_it_has_it():
    net = nn.Sequential(nn.Linear(6, 1), nn.Flatten(0))
    bnn = undecided(net, lambda o: dist.Normal(o, 0.1))

    def guide(x, y=None):
        pyro.sample("0.weight", dist.Delta(torch.ones(1, 6), event_dim=2))
        pyro.sample("0.bias", dist.Delta(torch.zeros(1), event_dim=1))
        pyro.sample("0.gate.pi", dist.Beta(torch.full((6,), 0.9e4), 0.1e4).to_event(1))

    x = torch.rand(40, 6)
    torch.testing.assert_close(bbpyro.predict(bnn, x, num_samples=None, guide=guide), 0.9 * x.sum(-1))
    parts = bbpyro.uncertainty(bnn, x, 500, guide=guide)
    torch.testing.assert_close(parts.epistemic, 0.09 * x.square().sum(-1), rtol=0.4, atol=0.01)


def test_a_guide_without_a_weight_is_refused(guided):
    bnn, _, x, _ = guided
    with pytest.raises(ValueError, match="guide: it has no site '0.weight', .*wanted one for every weight of bnn"):
        bbpyro.predict(bnn, x, guide=lambda x, y=None: None)


def test_a_network_whose_own_w_was_never_trained_warns(guided):
    bnn, (weights, *_), x, y = guided
    for function in (bbpyro.predict, bbpyro.predictive_draws, bbpyro.uncertainty):
        with pytest.warns(UserWarning, match="W never was; give the guide that W was trained with, guide=") as caught:
            function(bnn, x, num_samples=1)
        assert caught[0].filename == __file__
        function(bnn, x, num_samples=1, guide=weights)
    with pytest.warns(UserWarning, match="W never was"):
        bbpyro.evaluate(bnn, x, y, num_samples=1)
    with pytest.warns(UserWarning, match="W never was"):
        bbpyro.to_arviz(bnn, x, y, num_samples=2, progress=False)
    bbpyro.to_arviz(bnn, x, y, num_samples=2, guide=weights, progress=False)


@pytest.mark.parametrize("weight_guide", ["delta", "normal"])
@pytest.mark.parametrize("prior", ["Beta(1e-4, 1)", "StickBreaking(5)"])
def test_units_that_no_draw_has_are_left_out_of_a_long_prediction(monkeypatch, weight_guide, prior):
    net = nn.Sequential(
        *(nn.Conv2d(1, 6, 3), nn.ReLU(), nn.Flatten(), nn.Linear(6 * 16, 12), nn.ReLU(), nn.Linear(12, 3))
    )
    bnn = bbpyro.BetaBernoulliNetwork(bbpyro.insert_dropout(net), num_data=50, weight_guide=weight_guide, prior=prior)
    for gate in bnn.gates.values():  # z is 1 of every third unit, and 0 of the others
        with torch.no_grad():
            gate.unconstrained_concentration1.fill_(-60.0)[::3] = 1e6
    x = torch.randn(30, 1, 6, 6)
    num_samples = 4 if weight_guide == "delta" else 1
    found, widths = {}, []
    for long in (10**9, 0):
        monkeypatch.setattr("bbpyro.smaller.living._LONG", long)
        torch.manual_seed(0)
        handle = nn.modules.module.register_module_forward_hook(
            lambda module, args, output: (
                widths.append(module.in_features) if isinstance(module, nn.Linear) and len(output) == 10 else None
            )
        )
        found[long] = bbpyro.predict(bnn, x, num_samples, batch_size=10)
        handle.remove()
    torch.testing.assert_close(found[0], found[10**9], rtol=1e-5, atol=1e-6)
    assert (min(widths) < 12) == (prior == "Beta(1e-4, 1)")
    assert bnn.gates["3.gate"].num_features == 96
