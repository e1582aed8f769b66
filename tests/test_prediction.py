import math

import pyro.distributions as dist
import pytest
import torch
from torch import nn

import bbpyro
from bbpyro.prediction import calibration, score


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
                z = torch.sigmoid((torch.logit(pi, 1e-6) + torch.logit(torch.rand(len(x), len(a)), 1e-6)) / 0.1)
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
    bnn.likelihood = lambda output: dist.Normal(output, 1.0).to_event(1)
    with pytest.raises(ValueError, match="likelihood.*Categorical"):
        bbpyro.predict(bnn, x, num_samples=2)
