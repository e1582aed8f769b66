import copy
import math
import warnings

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro import poutine
from pyro.infer import SVI, Trace_ELBO
from pyro.infer.autoguide import AutoNormal
from pyro.nn import PyroModule, PyroParam
from torch import Tensor, nn

import bbpyro

NUM_DATA, NOISE = 1000, 0.5


@pytest.fixture
def data() -> tuple[Tensor, Tensor]:
    x = torch.randn(NUM_DATA, 3)
    return x, x[:, 0] + NOISE * torch.randn(NUM_DATA)


def plain() -> nn.Module:
    return nn.Sequential(nn.Linear(3, 8), nn.ReLU(), nn.Linear(8, 1), nn.Flatten(0))


class LearntNoise(nn.Module):
    """y ~ N(output, σ²), σ learnt."""

    def __init__(self, start: float = 1.313) -> None:
        super().__init__()
        self.log_scale = nn.Parameter(torch.tensor(math.log(start)))

    @property
    def scale(self) -> float:
        return self.log_scale.exp().item()

    def forward(self, output: Tensor) -> dist.Normal:
        return dist.Normal(output, self.log_scale.exp())


def network(likelihood, **options) -> bbpyro.BetaBernoulliNetwork:
    return bbpyro.BetaBernoulliNetwork(
        bbpyro.insert_dropout(plain(), initial_keep_probability=0.9), likelihood, num_data=NUM_DATA, **options
    )


def from_the_store(output: Tensor) -> dist.Normal:
    return dist.Normal(output, pyro.param("sigma", torch.tensor(1.313), constraint=dist.constraints.positive))


def test_fit_trains_the_noise_of_a_likelihood_that_is_a_module_as_plain_svi_does(data):
    by_fit, by_svi = network(LearntNoise()), network(LearntNoise())
    by_svi.load_state_dict(by_fit.state_dict())
    bbpyro.fit(by_fit, *data, num_epochs=25, learning_rate=0.01, progress=False)
    svi = SVI(by_svi.model, by_svi.guide, pyro.optim.Adam({"lr": 0.01}), Trace_ELBO())
    for _ in range(25):
        for batch in torch.randperm(NUM_DATA).split(100):
            svi.step(data[0][batch], data[1][batch])
    for bnn in (by_fit, by_svi):
        assert bnn.likelihood.scale == pytest.approx(NOISE, rel=0.2)


class PyrosNoise(PyroModule):
    """The same as Pyro would have it."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = PyroParam(torch.tensor(1.313), constraint=dist.constraints.positive)

    def forward(self, output: Tensor) -> dist.Normal:
        return dist.Normal(output, self.scale)


class Ordinal(nn.Module):
    """y of three ordered classes, its cutpoints learnt."""

    def __init__(self) -> None:
        super().__init__()
        self.cutpoints = nn.Parameter(torch.tensor([-0.5, 0.5]))

    def forward(self, output: Tensor) -> dist.OrderedLogistic:
        return dist.OrderedLogistic(output, self.cutpoints)


def test_fit_trains_a_likelihood_that_is_a_pyro_module(data):
    bnn = network(PyrosNoise())
    bbpyro.fit(bnn, *data, num_epochs=25, learning_rate=0.01, progress=False)
    assert bnn.likelihood.scale.item() == pytest.approx(NOISE, rel=0.2)
    assert list(pyro.get_param_store()) == ["scale"]  # as Pyro's modules have it


def test_fit_trains_the_cutpoints_of_ordered_classes(data):
    x, y = data
    bnn = network(Ordinal())
    bbpyro.fit(bnn, x, (y > -1.5).long() + (y > 1.5).long(), num_epochs=15, learning_rate=0.02, progress=False)
    lower, upper = bnn.likelihood.cutpoints.tolist()
    assert lower < -1 and upper > 1


def test_pretrain_finds_the_noise_and_does_not_let_it_decay(data):
    likelihood, net = LearntNoise(), plain()
    bbpyro.pretrain(
        net, *data, likelihood=likelihood, num_epochs=20, learning_rate=0.02, weight_decay=1e-4, progress=False
    )
    residual = (net(data[0]) - data[1]).square().mean().sqrt().item()
    assert likelihood.scale == pytest.approx(residual, rel=0.05)


@pytest.mark.parametrize("phase", ["fit", "pretrain"])
def test_what_a_likelihood_has_in_pyros_store_is_trained_kept_and_gone_on_with(data, phase):
    def run(num_epochs: int, **options):
        torch.manual_seed(0)
        states = []
        options |= {"num_epochs": num_epochs, "learning_rate": 0.02, "schedule": "constant", "seed": 3}
        options |= {"progress": False, "on_epoch": states.append}
        if phase == "fit":
            bnn = network(from_the_store)
            if "weights" in options:
                bnn.load_state_dict(options.pop("weights"))
            bbpyro.fit(bnn, *data, **options)
            return states, bnn.state_dict(), pyro.param("sigma").item()
        net = plain()
        if "weights" in options:
            net.load_state_dict(options.pop("weights"))
        bbpyro.pretrain(net, *data, likelihood=from_the_store, **options)
        return states, net.state_dict(), pyro.param("sigma").item()

    states, _, uninterrupted = run(4)
    assert 0.3 < uninterrupted < 1.2 and list(pyro.get_param_store()) == ["sigma"]
    assert states[-1].stored["sigma"].item() == pytest.approx(math.log(uninterrupted))
    pyro.clear_param_store()
    states, weights, _ = run(2)
    kept = bbpyro.training.TrainingState(
        states[-1].seed, states[-1].history, states[-1].optimizer, {"sigma": states[-1].stored["sigma"].clone()}
    )
    pyro.clear_param_store()  # as another process would find it
    assert run(4, resume_from=kept, weights=weights)[2] == uninterrupted


@pytest.mark.parametrize("phase", ["fit", "pretrain"])
def test_what_cannot_be_trained_is_named_before_the_first_epoch(data, phase):
    hidden = torch.full((3,), 0.1, requires_grad=True)

    def likelihood(output: Tensor) -> dist.Normal:
        return dist.Normal(output, hidden.exp().sum())

    states = []
    with pytest.warns(UserWarning, match=r"not trained: .* of shape \[3\] .* make a likelihood or prior .* nn.Module"):
        if phase == "fit":
            with warnings.catch_warnings():
                bbpyro.fit(network(likelihood), *data, num_epochs=1, progress=False, on_epoch=states.append)
        else:
            bbpyro.pretrain(plain(), *data, likelihood=likelihood, num_epochs=1, progress=False)
    assert hidden.tolist() == [pytest.approx(0.1)] * 3


def test_a_site_of_the_model_alone_is_told_as_svi_tells(data):
    def likelihood(output: Tensor) -> dist.Normal:
        return dist.Normal(output, pyro.sample("noise", dist.LogNormal(0.0, 1.0)))

    with pytest.warns(UserWarning, match="Found vars in model but not guide: {'noise'}"):
        bbpyro.fit(network(likelihood), *data, num_epochs=1, progress=False)


def test_a_training_whose_all_is_trained_warns_of_nothing(data):
    for likelihood in (LearntNoise(), from_the_store, lambda output: dist.Normal(output, 0.5)):
        bbpyro.fit(network(likelihood, weight_guide="normal"), *data, num_epochs=1, progress=False)


def test_nothing_to_train_is_an_error_that_says_so(data):
    net = plain().requires_grad_(False)
    with pytest.raises(ValueError, match="all its parameters are frozen, so there is nothing to train"):
        bbpyro.pretrain(net, *data, likelihood=lambda output: dist.Normal(output, 1.0), progress=False)
    bnn = network(lambda output: dist.Normal(output, 1.0)).requires_grad_(False)
    with pytest.raises(ValueError, match="nothing to train"):
        bbpyro.fit(bnn, *data, progress=False)


def test_the_noise_has_the_rate_of_the_weights_and_a_group_of_its_own(data):
    history = bbpyro.fit(
        network(LearntNoise()), *data, num_epochs=1, learning_rate=3e-3, gate_learning_rate=2e-2, progress=False
    )
    assert history[0]["learning_rate"] == [3e-3, 2e-2, 3e-3]


def test_weights_that_another_guide_has_trained_in_place_of_the_networks_are_known(data):
    bnn = network(LearntNoise())
    auto = AutoNormal(poutine.block(bnn.model, expose=list(bnn.weights)))

    def guide(x, y=None):
        auto(x, y)
        poutine.block(bnn.guide, hide=list(bnn.weights))(x, y)

    assert not bnn.has_untrained_weights
    SVI(bnn.model, guide, pyro.optim.Adam({"lr": 0.01}), Trace_ELBO()).step(*data)
    assert bnn.has_untrained_weights and copy.deepcopy(bnn).has_untrained_weights
    bbpyro.fit(bnn, *data, num_epochs=1, progress=False)
    assert not bnn.has_untrained_weights
    with torch.no_grad():  # by hand, as in a demonstration, which is no training
        other = network(LearntNoise())
        other.gates["0.gate"].unconstrained_concentration1.fill_(-9.0)
        other.model(data[0])
    assert not other.has_untrained_weights


def test_a_gate_that_forward_goes_around_is_told_before_the_first_epoch():
    class Around(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b = nn.Linear(4, 6), nn.Linear(6, 3)

        def forward(self, x):
            return self.b(nn.functional.linear(x, self.a.weight, self.a.bias).relu())

    x, y = torch.randn(20, 4), torch.randint(3, (20,))
    bnn = bbpyro.BetaBernoulliNetwork(bbpyro.insert_dropout(Around()), num_data=20)
    with pytest.warns(UserWarning, match=r"the gates of a are not called, .* insert_dropout\(net, exclude=\['a'\]\)"):
        bbpyro.fit(bnn, x, y, num_epochs=1, progress=False)
    small = bbpyro.compact(bnn, x)
    assert dict(small.compaction.gates["a"].reasons) == {"its gate is never called": 4}
    torch.testing.assert_close(small(x), bnn.eval()(x))
