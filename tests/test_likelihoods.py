"""Likelihoods: the Categorical that is scored in one pass is torch's; the Normal learns its scale."""

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro import poutine
from torch import nn

import bbpyro
from bbpyro.likelihoods import Categorical, Normal, expectation, is_classification
from bbpyro.training.handlers import Scorecard


@pytest.fixture(autouse=True, params=[False, True], ids=["as fit does", "validated"])
def validated(request):
    with pyro.validation_enabled(request.param):
        yield request.param


def scores(*shape, dtype=torch.float64):
    torch.manual_seed(0)
    return (5 * torch.randn(*shape, dtype=dtype)).requires_grad_()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("shape", [(4, 3), (2, 4, 3)])
@pytest.mark.parametrize("kind", [torch.long, torch.int32, torch.float32, torch.bool])
def test_log_probabilities_and_their_gradients_are_those_of_torch(dtype, shape, kind):
    output = scores(*shape, dtype=dtype)
    y = torch.randint(2, shape[:-1]).to(kind)
    found = []
    for distribution in (Categorical()(output), dist.Categorical(logits=output)):
        log_prob = distribution.log_prob(y)
        (grad,) = torch.autograd.grad((log_prob * torch.arange(1.0, 5)).sum(), output)
        found.append((log_prob, grad))
    torch.testing.assert_close(*found)
    assert found[0][0].dtype == dtype


def test_all_else_is_that_of_torch():
    output = scores(4, 3)
    ours, torchs = Categorical()(output), dist.Categorical(logits=output)
    assert isinstance(ours, dist.Categorical) and is_classification(ours)
    for name in ("logits", "probs", "mean", "mode", "variance"):
        one, other = getattr(Categorical()(output), name), getattr(torchs, name)
        torch.testing.assert_close(one, other, equal_nan=True)
    assert (ours.batch_shape, ours.event_shape, ours.param_shape) == ((4,), (), (4, 3))
    torch.testing.assert_close(ours.entropy(), torchs.entropy())
    torch.testing.assert_close(expectation(ours), torch.softmax(output, -1))
    torch.testing.assert_close(torch.distributions.kl_divergence(ours, torchs), torch.zeros(4, dtype=torch.float64))
    assert torch.equal(ours.enumerate_support(), torchs.enumerate_support())
    pyro.set_rng_seed(1)
    drawn = ours.sample((5,))
    pyro.set_rng_seed(1)
    assert torch.equal(drawn, torchs.sample((5,)))
    torch.testing.assert_close(ours.log_prob(drawn), torchs.log_prob(drawn))
    for wider in (ours.expand((2, 4)), ours.expand_by((2,)), ours.mask(True), ours.to_event(1)):
        value = drawn[: 2 if wider.batch_shape[:1] == (2,) else 1]
        assert wider.log_prob(value).isfinite().all()
    torch.testing.assert_close(ours.expand((2, 4)).log_prob(drawn[:2]), torchs.expand((2, 4)).log_prob(drawn[:2]))


@pytest.mark.parametrize("label", [3, -1, -100])
def test_a_label_that_is_no_class_is_an_error(label):
    y = torch.tensor([0, label])
    with pytest.raises((IndexError, RuntimeError)), pyro.validation_enabled(False):
        Categorical()(scores(2, 3).detach()).log_prob(y)
    with pytest.raises(ValueError, match="support"), pyro.validation_enabled(True):
        Categorical()(scores(2, 3).detach()).log_prob(y)


def test_scores_that_are_nan_are_found_by_validation():
    with pytest.raises(ValueError, match="logits"), pyro.validation_enabled(True):
        Categorical()(torch.tensor([[0.0, float("nan")]]))


def test_what_was_scored_without_a_graph_is_scored_again_with_one(validated):
    output, y = scores(4, 3), torch.tensor([0, 1, 2, 0])
    distribution = Categorical()(output)
    with torch.no_grad():
        assert not distribution.log_prob(y).requires_grad
    log_prob = distribution.log_prob(y)
    assert log_prob.requires_grad and (distribution.log_prob(y) is log_prob or validated)
    assert not torch.equal(distribution.log_prob(1 - y.clamp_max(1)), log_prob)


def test_a_scorecard_reports_the_log_probabilities_and_the_right_ones():
    output, y = scores(50, 3), torch.randint(3, (50,))

    def model():
        with pyro.plate("data", 50):
            pyro.sample("y", Categorical()(output), obs=y)

    score = Scorecard()
    with score:
        trace = poutine.trace(model).get_trace()
    assert trace.log_prob_sum().requires_grad
    true = dist.Categorical(logits=output)
    assert score.take() == {
        "train_nll": pytest.approx(-true.log_prob(y).mean().item()),
        "train_accuracy": (output.argmax(-1) == y).double().mean().item(),
    }


@pytest.mark.parametrize("shape", [(4,), (4, 3), (4, 3, 2)])
def test_a_normal_is_of_each_datum_and_as_wide_as_it_is_told(shape):
    output, y = torch.randn(shape), torch.randn(shape)
    of_y = Normal(0.5)(output)
    assert of_y.batch_shape == (4,)
    wanted = torch.distributions.Normal(output, 0.5).log_prob(y).reshape(4, -1).sum(1)
    torch.testing.assert_close(of_y.log_prob(y), wanted)
    assert not list(Normal(0.5).parameters()) and Normal(start=2.0).scale.item() == pytest.approx(2.0)
    assert repr(Normal()) == "Normal(1, learnt)"


def test_a_scale_that_is_learnt_becomes_that_of_the_noise():
    torch.manual_seed(0)
    x = torch.randn(400, 2)
    y = x @ torch.tensor([[1.0], [-2.0]]) + 0.3 * torch.randn(400, 1)
    net = nn.Sequential(nn.Linear(2, 1))
    bbpyro.pretrain(net, x, y, likelihood=Normal(0.3), num_epochs=30, learning_rate=0.05, seed=0, progress=False)
    bnn = bbpyro.BetaBernoulliNetwork(bbpyro.insert_dropout(net), Normal(), num_data=400, prior="FixedRate(0.001)")
    bbpyro.fit(bnn, x, y, num_epochs=80, learning_rate=0.02, seed=0, progress=False)
    assert bnn.likelihood.scale.item() == pytest.approx(0.3, rel=0.1)


@pytest.mark.parametrize("arguments", [{"scale": 0.0}, {"scale": "1"}, {"start": -1.0}, {"scale": 1.0, "start": 1.0}])
def test_a_scale_that_is_none_is_said(arguments):
    with pytest.raises(ValueError, match="scale|start"):
        Normal(**arguments)
