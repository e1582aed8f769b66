import copy
import pickle

import pyro
import pytest
import torch
from pyro.infer import SVI, Trace_ELBO
from torch import Tensor, nn

import bbpyro

NUM_DATA, IN = 20, 4


@pytest.fixture
def data() -> tuple[Tensor, Tensor]:
    return torch.randn(NUM_DATA, IN), torch.randint(3, (NUM_DATA,))


def network(**options) -> bbpyro.BetaBernoulliNetwork:
    net = nn.Sequential(nn.Linear(IN, 5), nn.ReLU(), nn.Linear(5, 3))
    return bbpyro.BetaBernoulliNetwork(bbpyro.insert_dropout(net), num_data=NUM_DATA, **options)


def train(bnn: bbpyro.BetaBernoulliNetwork, data: tuple[Tensor, Tensor], steps: int = 3) -> None:
    svi = SVI(bnn.model, bnn.guide, pyro.optim.Adam({"lr": 1e-2}), Trace_ELBO())
    for _ in range(steps):
        svi.step(*data)


def values(bnn: bbpyro.BetaBernoulliNetwork) -> dict[str, Tensor]:
    return {name: p.detach().clone() for name, p in bnn.named_parameters()}


def are_equal(one: dict[str, Tensor], other: dict[str, Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


def test_the_store_holds_the_networks_own_tensors_by_its_names(data):
    bnn = network()
    train(bnn, data, 1)
    held = dict(pyro.get_param_store().named_parameters())
    assert held.keys() == {f"bbpyro.{name}" for name, _ in bnn.named_parameters()}
    assert all(held[f"bbpyro.{name}"] is p for name, p in bnn.named_parameters())


def test_a_state_that_is_set_is_what_training_goes_on_from(data):
    bnn = network()
    train(bnn, data)
    kept, then = copy.deepcopy(pyro.get_param_store().get_state()), values(bnn)
    train(bnn, data)
    assert not are_equal(values(bnn), then)
    pyro.get_param_store().set_state(kept)
    bnn.guide(*data)
    assert are_equal(values(bnn), then)
    train(bnn, data)
    assert not any(torch.equal(value, then[name]) for name, value in values(bnn).items())
    kept = {name.removeprefix("bbpyro."): tensor for name, tensor in kept["params"].items()}
    assert are_equal(kept, then)  # which is the user's, and has not been trained on


def test_a_store_that_is_loaded_in_another_process_is_of_the_first_network_there(data, tmp_path):
    for _ in range(3):
        network()  # networks that are made and not used take no name
    bnn = network()
    train(bnn, data)
    pyro.get_param_store().save(str(tmp_path / "kept"))
    pyro.clear_param_store()
    pyro.get_param_store().load(str(tmp_path / "kept"))
    other = network()
    other.guide(*data)
    assert are_equal(values(other), values(bnn))
    before = values(other)
    train(other, data)
    assert not are_equal(values(other), before) and are_equal(values(bnn), before)


def test_what_the_store_holds_of_another_shape_is_refused_with_the_remedy(data):
    pyro.param("bbpyro.net.0.weight", torch.zeros(2, 2))
    with pytest.raises(ValueError, match=r"shape \(2, 2\), and the network wants \(5, 4\).*clear_param_store"):
        network().guide(*data)


def test_a_name_is_the_users_and_must_be_free(data):
    first, second = network(name="first"), network(name="second")
    for bnn in (first, second):
        train(bnn, data, 1)
    assert {name.split(".")[0] for name in pyro.get_param_store()} == {"first", "second"}
    with pytest.raises(ValueError, match="name: .*another network's parameters under 'first'"):
        network(name="first").guide(*data)
    assert list(pyro.get_param_store()) == list(pyro.get_param_store().keys())


def test_without_a_name_each_network_of_a_store_gets_one(data):
    networks = [network() for _ in range(3)]
    before = [values(bnn) for bnn in networks]
    train(networks[1], data)
    assert [are_equal(values(bnn), old) for bnn, old in zip(networks, before, strict=True)] == [True, False, True]
    for bnn in networks:
        bnn.guide(*data)
    assert {name.split(".")[0] for name in pyro.get_param_store()} == {"bbpyro", "bbpyro2", "bbpyro3"}


def test_two_networks_of_one_net_share_its_names(data):
    first = network()
    second = bbpyro.BetaBernoulliNetwork(first.net, num_data=NUM_DATA, temperature=0.5)
    for _ in range(3):
        for bnn in (first, second):
            train(bnn, data, 1)
    assert {name.split(".")[0] for name in pyro.get_param_store()} == {"bbpyro"}


@pytest.mark.parametrize("by", ["svi", "fit"])
def test_nothing_is_left_on_the_users_parameters(data, tmp_path, by):
    bnn = network()
    if by == "svi":
        train(bnn, data)
    else:
        bbpyro.fit(bnn, *data, num_epochs=1, progress=False)
    assert not any(vars(p) for p in bnn.parameters())
    torch.save(bnn.net, tmp_path / "net.pt")
    torch.save(bnn, tmp_path / "bnn.pt")
    assert are_equal(values(pickle.loads(pickle.dumps(bnn))), values(bnn))
    loaded = torch.load(tmp_path / "net.pt", weights_only=False)
    assert torch.equal(loaded(data[0]), bnn(data[0]))


def test_fit_leaves_the_store_as_it_was(data):
    pyro.param("mine", torch.ones(2))
    bnn = network()
    bbpyro.fit(bnn, *data, num_epochs=1, progress=False)
    assert list(pyro.get_param_store()) == ["mine"]
    bnn.guide(*data)
    bbpyro.fit(bnn, *data, num_epochs=1, progress=False)
    assert len(pyro.get_param_store()) == 9


def test_a_network_in_channels_last_is_trained_too():
    net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(16, 2)).to(
        memory_format=torch.channels_last
    )
    bnn = bbpyro.BetaBernoulliNetwork(bbpyro.insert_dropout(net), num_data=NUM_DATA)
    before = values(bnn)
    train(bnn, (torch.randn(NUM_DATA, 3, 4, 4), torch.randint(2, (NUM_DATA,))))
    assert not any(torch.equal(value, before[name]) for name, value in values(bnn).items())


def test_weights_that_were_assigned_are_those_that_are_used_and_trained(data):
    bnn, donor = network(), network()
    train(donor, data)
    train(bnn, data)
    bnn.load_state_dict(donor.state_dict(), assign=True)
    by_mean, by_draws = (bbpyro.predict(bnn, data[0], n) for n in (None, 2000))
    assert torch.equal(by_mean, bbpyro.predict(donor, data[0], None))
    assert (by_draws - bbpyro.predict(donor, data[0], 2000)).abs().max() < 0.05
    before = values(bnn)
    bbpyro.fit(bnn, *data, num_epochs=2, progress=False)
    assert not any(torch.equal(value, before[name]) for name, value in values(bnn).items())
    before = values(bnn)
    train(bnn, data)
    assert not any(torch.equal(value, before[name]) for name, value in values(bnn).items())


def test_what_is_frozen_or_thawed_later_is_so_from_then_on(data):
    bnn = network()
    bnn.net[0].weight.requires_grad_(False)
    frozen = bnn.net[0].weight.clone()
    assert list(bnn.weights) == ["0.bias", "2.weight", "2.bias"]
    train(bnn, data)
    bbpyro.fit(bnn, *data, num_epochs=1, progress=False)
    assert torch.equal(bnn.net[0].weight, frozen)
    bnn.net[0].weight.requires_grad_(True)
    bbpyro.fit(bnn, *data, num_epochs=1, progress=False)
    assert not torch.equal(bnn.net[0].weight, frozen)


@pytest.mark.parametrize("weight_guide", ["delta", "normal"])
def test_a_network_of_frozen_weights_learns_its_gates(data, weight_guide):
    bnn = network(weight_guide=weight_guide)
    for parameter in bnn.weights.values():
        parameter.requires_grad_(False)
    before = values(bnn)
    history = bbpyro.fit(bnn, *data, num_epochs=2, progress=False)
    assert bnn.weights == {} and bnn.weights_kl().item() == 0
    assert history[-1]["weights_kl" if weight_guide == "normal" else "weights_nll"] == 0
    changed = {name for name, value in values(bnn).items() if not torch.equal(value, before[name])}
    assert changed == {name for name, _ in bnn.named_parameters() if ".gate." in name}
    assert bbpyro.predict(bnn, data[0], 3).shape == (NUM_DATA, 3)
    train(bnn, data)
    assert bbpyro.compact(bnn)(data[0]).shape == (NUM_DATA, 3)


def test_a_prior_that_is_assigned_later_is_the_one_that_counts(data):
    bnn = network(prior="Beta(1e-4, 1)")
    heavy = bnn.kl()["0.gate"].item()
    bnn.prior = "Jeffreys"
    assert bnn.prior == bbpyro.priors.Jeffreys()
    expected = network(prior="Jeffreys").kl()["0.gate"].item()
    assert bnn.kl()["0.gate"].item() == pytest.approx(expected) != pytest.approx(heavy)
    bnn.prior = "IndianBuffet(0.2)"
    assert bnn.gates["0.gate"].threshold == pytest.approx(2 * 0.05 / 1.05)
    for wrong, message in (("StickBreaking(2)", "another family"), ("Beat(1, 1)", "there is no Beat")):
        with pytest.raises(ValueError, match=message):
            bnn.prior = wrong
    assert bnn.prior == bbpyro.priors.IndianBuffet(0.2) and bnn.kl()["0.gate"].isfinite()


def test_a_prior_of_w_that_is_assigned_later_is_the_one_that_counts(data):
    bnn = network()
    bnn.weight_prior = "Laplace(0.1)"
    expected = network(weight_prior="Laplace(0.1)")
    expected.load_state_dict(bnn.state_dict())
    assert bnn.weights_kl().item() == pytest.approx(expected.weights_kl().item())
    for wrong in ("Beta(1, 1)", lambda shape: torch.distributions.Normal(torch.zeros(shape), 1.0)):
        with pytest.raises(ValueError, match="known are Normal|weight_prior: for '0.weight'"):
            bnn.weight_prior = wrong
    assert repr(bnn.weight_prior) == "Laplace(0.1)"


def test_a_prior_that_is_a_module_is_learnt(data):
    class Learnt(nn.Module):
        def __init__(self):
            super().__init__()
            self.log_alpha = nn.Parameter(torch.tensor(0.0))

        def forward(self, num_units: int):
            return bbpyro.distributions.Beta(self.log_alpha.exp().expand(num_units), torch.ones(num_units))

    bnn = network(prior=Learnt())
    for train_some in (lambda: train(bnn, data), lambda: bbpyro.fit(bnn, *data, num_epochs=1, progress=False)):
        before = bnn.prior.log_alpha.item()
        train_some()
        assert bnn.prior.log_alpha.item() != before


def test_priors_that_are_modules_are_learnt_for_a_gate_too_and_may_be_exchanged(data):
    class Learnt(nn.Module):
        def __init__(self):
            super().__init__()
            self.log_alpha = nn.Parameter(torch.tensor(0.0))

        def forward(self, num_units: int):
            return bbpyro.distributions.Beta(self.log_alpha.exp().expand(num_units), torch.ones(num_units))

    learnt = Learnt()
    bnn = network(prior={"0.gate": learnt, "*": "Jeffreys"})
    for train_some in (lambda: train(bnn, data), lambda: bbpyro.fit(bnn, *data, num_epochs=1, progress=False)):
        before = learnt.log_alpha.item()
        train_some()
        assert learnt.log_alpha.item() != before
    assert any(torch.equal(value, learnt.log_alpha) for value in bnn.state_dict().values())
    for prior in (Learnt(), "Jeffreys", {"*": Learnt()}, "Beta(1, 1)"):  # torch lets nothing take a module's place
        bnn.prior = prior
    assert bnn.prior == bbpyro.priors.Beta(1, 1) and len(bnn.state_dict()) == 8


def test_a_likelihood_may_take_the_place_of_one_that_is_a_module(data):
    bnn = network(likelihood=nn.Module())
    bnn.likelihood = bbpyro.likelihoods.Categorical()
    bbpyro.fit(bnn, *data, num_epochs=1, progress=False)


def test_the_weights_default_prior_follows_num_data(data):
    bnn = network()
    bnn.num_data = 10 * NUM_DATA
    assert bnn.weight_prior == bbpyro.priors.matching_l2(1e-4, 10 * NUM_DATA)
    bnn.weight_prior = "Laplace(0.1)"
    bnn.num_data = NUM_DATA
    assert repr(bnn.weight_prior) == "Laplace(0.1)"
    bnn.weight_prior = None
    assert bnn.weight_prior == bbpyro.priors.matching_l2(1e-4, NUM_DATA)


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("num_data", 0, "num_data is 0, wanted"),
        ("temperature", -1.0, "temperature is -1.0, wanted a positive"),
        ("net", nn.Linear(IN, 3), "net: it has no BetaBernoulliDropout gate"),
    ],
)
def test_what_is_assigned_is_checked_as_the_first_was(name, value, message):
    bnn = network()
    before = getattr(bnn, name)
    with pytest.raises(ValueError, match=message):
        setattr(bnn, name, value)
    assert getattr(bnn, name) is before


@pytest.mark.parametrize("weight_guide", ["delta", "normal"])
@pytest.mark.parametrize("prior", ["IndianBuffet(0.2)", "StickBreaking(2)"])
def test_a_layer_in_the_place_of_another_has_its_prior_its_guide_and_its_threshold(data, prior, weight_guide):
    bnn, wider = network(prior=prior, weight_guide=weight_guide), nn.Sequential(nn.Linear(5, 7))
    train(bnn, data)
    bnn.net[2] = bbpyro.insert_dropout(wider)[0]
    before = values(bnn)
    assert type(bnn.gates["2.gate"].posterior()) is type(bnn.gates["0.gate"].posterior())
    expected = bbpyro.BetaBernoulliNetwork(copy.deepcopy(bnn.net), num_data=NUM_DATA, prior=prior)
    assert bnn.gates["2.gate"].threshold == expected.gates["2.gate"].threshold
    x, y = data[0], torch.randint(7, (NUM_DATA,))
    bbpyro.fit(bnn, x, y, num_epochs=1, progress=False)
    train(bnn, (x, y))
    changed = {name for name, value in values(bnn).items() if not torch.equal(value, before.get(name, torch.empty(0)))}
    assert changed == {name for name, _ in bnn.named_parameters()}
    assert bbpyro.predict(bnn, x, 3).shape == (NUM_DATA, 7)
    other = network(prior="Jeffreys" if prior == "StickBreaking(2)" else "StickBreaking(2)")
    bnn.net[2] = other.net[2]
    with pytest.raises(ValueError, match="gate '2.gate' is already in use under another family"):
        train(bnn, data)


def test_q_of_a_weight_that_was_frozen_at_first_or_is_new_is_a_normal_too(data):
    net = nn.Sequential(nn.Linear(IN, 5), nn.ReLU(), nn.Linear(5, 3)).requires_grad_(False)
    bnn = bbpyro.BetaBernoulliNetwork(bbpyro.insert_dropout(net), num_data=NUM_DATA, weight_guide="normal")
    bnn.net[0].requires_grad_(True)
    nn.utils.parametrizations.weight_norm(bnn.net[0])
    assert all(bnn.weight_posterior(name).base_dist.stddev.allclose(torch.tensor(0.01)) for name in bnn.weights)
    scales = {name: scale.clone() for name, scale in bnn.unconstrained_scales.items()}
    history = bbpyro.fit(bnn, *data, num_epochs=1, progress=False)
    assert len(scales) == 3 and "weights_kl" in history[0]
    assert not any(torch.equal(bnn.unconstrained_scales[name], scale) for name, scale in scales.items())
