"""Shedding: what leaves the network that is trained, that nothing else changes by it, and what may not leave."""

import copy
import math

import pyro
import pyro.distributions as dist
import pyro.poutine as poutine
import pytest
import torch
from small_networks import NETWORKS
from torch import nn

import bbpyro
from bbpyro import nests, training
from bbpyro.distributions import Beta, BetaMixture, LogitNormal, StickBreaking, is_part, units_of
from bbpyro.families.beta_bernoulli import kumaraswamy
from bbpyro.layers import gates_of
from bbpyro.smaller import decide
from bbpyro.training import shedding
from bbpyro.training.shedding import PATIENCE, TOLERANCE, lowest_kl
from bbpyro.training.smaller import Smaller

OUT = -9.21024  # softplus of it is 1e-4, the prior's concentration1


@pytest.fixture(autouse=True)
def looked_at_after_each_epoch(monkeypatch):
    monkeypatch.setattr(shedding, "_MIN_STEPS", 1)


def network(num_inputs: int = 12, **settings) -> bbpyro.BetaBernoulliNetwork:
    """12-10-8-3, of which every third unit of each gate is at the prior, and is read by weights of 0."""
    plain = nn.Sequential(
        nn.Flatten(), nn.Linear(num_inputs, 10), nn.ReLU(), nn.Linear(10, 8), nn.ReLU(), nn.Linear(8, 3)
    )
    settings = {"num_data": 120, **settings}
    bnn = bbpyro.BetaBernoulliNetwork(bbpyro.insert_dropout(plain, initial_keep_probability=0.9), **settings)
    for name, gate in bnn.gates.items():
        put_out(bnn, name, torch.arange(gate.num_features) % 3 == 0)
    return bnn


@torch.no_grad()
def put_out(bnn: bbpyro.BetaBernoulliNetwork, name: str, out: torch.Tensor) -> None:
    """Have these units of a dense layer's gate be at the prior, and what reads them 0."""
    gate = bnn.gates[name]
    gate.unconstrained_concentration1[out] = OUT
    gate.unconstrained_concentration0[out] = math.log(math.expm1(1.0))
    bnn.net.get_submodule(name.removesuffix(".gate")).weight[:, out] = 0.0


def some_data(num_inputs: int = 12, num_data: int = 120) -> tuple[torch.Tensor, torch.Tensor]:
    x = torch.randn(num_data, num_inputs)
    return x, x[:, 1:4].argmax(1)


def shapes_trained(monkeypatch) -> list[list[torch.Size]]:
    """Fills with the shapes of the weights of each network that a learner is made of."""
    made: list[list[torch.Size]] = []
    init = Smaller.__init__

    def noting(self, *args):
        init(self, *args)
        made.append([tuple(w.shape) for w in self.bnn.weights.values()])

    monkeypatch.setattr(Smaller, "__init__", noting)
    return made


# --- some of a number of units --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "distribution",
    [
        Beta(torch.linspace(0.1, 2, 7), torch.linspace(1, 3, 7)),
        LogitNormal(torch.linspace(-3, 3, 7), 2.0),
        BetaMixture(0.3, Beta(torch.linspace(0.1, 2, 7), torch.ones(7)), Beta(torch.ones(7), torch.ones(7))),
        dist.Uniform(0.0, 1.0).expand([7]),
        dist.Beta(torch.linspace(0.1, 2, 7), torch.ones(7)).mask(True),
        dist.TransformedDistribution(
            dist.Normal(torch.linspace(-1, 1, 7), torch.linspace(1, 2, 7)), [dist.transforms.SigmoidTransform()]
        ),
    ],
    ids=lambda d: type(d).__name__,
)
def test_some_units_of_a_distribution_have_their_own_density(distribution):
    kept = torch.tensor([1, 2, 6])
    part = units_of(distribution, kept)
    value = torch.rand(7)
    assert part.batch_shape == (3,)
    torch.testing.assert_close(part.log_prob(value[kept]), distribution.log_prob(value)[kept])
    assert distribution.batch_shape == (7,)


def test_units_that_depend_on_each_other_cannot_be_had_apart():
    sticks = StickBreaking(dist.Kumaraswamy(torch.ones(5), torch.ones(5)))
    assert units_of(sticks, torch.tensor([0, 2])) is None


def test_a_density_that_is_another_one_is_no_part():
    whole = Beta(torch.linspace(0.1, 2, 7), torch.ones(7))
    kept = torch.tensor([0, 2])
    assert is_part(Beta(whole.concentration1[kept], torch.ones(2)), whole, kept)
    assert not is_part(Beta(whole.concentration1[kept + 1], torch.ones(2)), whole, kept)


def test_of_short_epochs_units_are_looked_at_after_as_many_as_make_twenty_steps(monkeypatch):
    monkeypatch.setattr(shedding, "_MIN_STEPS", 20)
    torch.manual_seed(0)
    bnn, (x, y) = network(), some_data()
    counts = []
    told = {"on_epoch": lambda state: counts.append(int(state.idle.get("1.gate", torch.zeros(1)).max()))}
    history = bbpyro.fit(bnn, x, y, num_epochs=9 * 3, batch_size=50, seed=0, progress=False, **told)
    looks = [*[0] * 6, *[1] * 7, *[2] * 7, *[3] * 7]  # three steps an epoch, so after each seventh
    assert counts == looks
    assert [sum(record["shed"].values()) > 0 for record in history] == [epoch > 21 for epoch in range(1, 28)]


# --- how low a KL can be --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("prior", "floor"),
    [
        (Beta(torch.full((4,), 1e-4), torch.ones(4)), 0.0),
        (Beta(torch.tensor([1e-4, 0.5, 3.0]), torch.ones(3)), 0.0),  # Beta(c, 1) is a Kumaraswamy
        (BetaMixture(0.5, Beta(torch.ones(4), torch.ones(4)), Beta(torch.full((4,), 1e-4), torch.ones(4))), 0.69),
        (BetaMixture(0.1, Beta(torch.ones(4), torch.ones(4)), Beta(torch.full((4,), 1e-4), torch.ones(4))), 0.105),
    ],
    ids=["default", "of each unit", "mixture", "rarer slab"],
)
def test_the_lowest_kl(prior, floor):
    found = lowest_kl(kumaraswamy, prior, torch.zeros(len(prior.sample())))
    torch.testing.assert_close(found, torch.full_like(found, floor), atol=0.01, rtol=0)


def test_the_lowest_kl_from_a_prior_outside_of_the_family():
    """Of Beta(1/2, 1/2), against a grid."""
    p = Beta(torch.full((1,), 0.5), torch.full((1,), 0.5))
    a, b = torch.meshgrid(torch.linspace(0.2, 1.5, 200), torch.linspace(0.2, 1.5, 200), indexing="ij")
    grid = torch.distributions.kl_divergence(bbpyro.Kumaraswamy(a, b), p).min()
    torch.testing.assert_close(lowest_kl(kumaraswamy, p, torch.zeros(1))[0], grid, atol=1e-4, rtol=0)


# --- the smaller network --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", list(NETWORKS))
def test_the_smaller_network_computes_what_the_whole_one_does_without_the_shed_units(name):
    """In training as in evaluation, on other data; and what it learns is the whole network's when it is given back."""
    make, example = NETWORKS[name]
    x = example()
    bnn = bbpyro.BetaBernoulliNetwork(bbpyro.insert_dropout(make()), num_data=100)
    out = {g: torch.arange(gate.num_features) % 2 == 0 for g, gate in bnn.gates.items()}
    found = decide(bnn.net, out, x)
    if found is None:
        return
    removal, reading = found
    optimizer = torch.optim.Adam(bnn.parameters(), fused=True)
    smaller = Smaller(bnn, optimizer, removal)
    with torch.no_grad():
        for parameter in smaller.bnn.parameters():
            parameter.add_(0.1 * torch.randn(parameter.shape))
    smaller.give_back()
    kept = {g: (name, smaller.bnn.gates[g].num_features) for g in bnn.gates}
    assert any(number < bnn.gates[g].num_features for g, (_, number) in kept.items())
    other = nests.map_tensors(lambda t: torch.randn(t.shape) if t.is_floating_point() else t, x)
    for is_training in (False, True):
        whole, small = copy.deepcopy(bnn.net).train(is_training), copy.deepcopy(smaller.bnn.net).train(is_training)
        for gate_name, gate in gates_of(whole).items():
            z = torch.rand(gate.num_features)
            own = removal.kept.get(f"{gate_name}.z", {}).get(0)
            gates_of(small)[gate_name].z = z if own is None else z[own]
            gone = torch.ones(gate.num_features, dtype=torch.bool)
            gone[slice(None) if own is None else torch.from_numpy(own)] = False
            assert not bool((gone & ~out[gate_name]).any()), "a living unit went"
            gate.z = z.masked_fill(gone, 0.0)
        for module in (*whole.modules(), *small.modules()):
            if isinstance(module, nn.Dropout):
                module.eval()
        torch.manual_seed(1)  # of attention's dropout
        wanted = nests.call(whole, other)
        torch.manual_seed(1)
        got = nests.call(small, reading(other))
        for one, another in zip(nests.tensors_of(got), nests.tensors_of(wanted), strict=True):
            torch.testing.assert_close(one, another, atol=1e-4, rtol=1e-4)


def test_the_elbo_of_the_smaller_network_is_the_whole_ones_but_for_the_offset():
    """For the same parameters and the same noise."""
    bnn = network()
    x, y = some_data()
    out = {g: ~gate.kept() for g, gate in bnn.gates.items()}
    removal, reading = decide(bnn.net, out, x[:4])
    smaller = Smaller(bnn, torch.optim.Adam(bnn.parameters(), fused=True), removal)
    offset = sum((bnn.kl()[g] - smaller.bnn.kl()[g]).sum() for g in bnn.gates) + bnn.weights_kl()
    offset = (offset - smaller.bnn.weights_kl()).item()

    def terms(network, x, z):
        conditioned = poutine.condition(network.model, z)
        likelihood = poutine.trace(conditioned).get_trace(x, y)
        likelihood.compute_log_prob()
        kl = sum(network.kl().values()) + network.weights_kl()
        return (likelihood.nodes["y"]["log_prob_sum"] - kl).item()

    z = {f"{g}.z": (torch.rand(len(x), len(o)) < 0.7).float() * ~o for g, o in out.items()}
    W = {name: w.detach() for name, w in bnn.weights.items()}
    small_z = {name: mask[:, ~out[name.removesuffix(".z")]] for name, mask in z.items()}
    small_W = {name: w.detach() for name, w in smaller.bnn.weights.items()}
    whole = terms(bnn, x, {**z, **W})
    small = terms(smaller.bnn, reading(x), {**small_z, **small_W})
    assert small - offset == pytest.approx(whole, rel=1e-6)


# --- fit -------------------------------------------------------------------------------------------------------------


def test_idle_units_leave_after_three_epochs_and_the_records_are_those_of_the_whole_network(monkeypatch):
    made = shapes_trained(monkeypatch)
    bnn, (x, y) = network(), some_data()
    states = []
    history = bbpyro.fit(bnn, x, y, num_epochs=6, batch_size=30, shed=True, seed=0, on_epoch=states.append)
    assert made[0] == [(6, 8), (6,), (5, 6), (5,), (3, 5), (3,)]
    assert [int(state.idle["1.gate"].max()) for state in states] == [1, 2, 3, 3, 3, 3]
    assert [tuple(w.shape) for w in bnn.weights.values()][0] == (10, 12)
    for name, kl in bnn.kl().items():
        assert history[-1]["kl"][name] == pytest.approx(kl.item())
    assert history[-1]["weights_nll"] == pytest.approx(bnn.weights_kl().item())
    assert history[-1]["active"] == {"1.gate": 8, "3.gate": 6, "5.gate": 5}
    assert bnn.net[1].weight[0].abs().max() == 0  # the row that makes a unit that is shed: the mode of its prior


def test_the_records_say_how_many_units_were_shed():
    bnn, (x, y) = network(), some_data()
    history = bbpyro.fit(bnn, x, y, num_epochs=5, batch_size=30, shed=True, seed=0)
    assert [record["shed"]["1.gate"] for record in history] == [0, 0, 0, 4, 4]
    assert history[-1]["shed"] == {"1.gate": 4, "3.gate": 4, "5.gate": 3}
    bnn = network()
    assert "shed" not in bbpyro.fit(bnn, x, y, num_epochs=1, batch_size=30, shed=False, seed=0)[0]


@pytest.mark.parametrize("shed", ["no", None, 0])
def test_shed_is_true_or_false(shed):
    bnn, (x, y) = network(), some_data()
    with pytest.raises(TypeError, match=f"shed is {shed!r}, wanted a bool"):
        bbpyro.fit(bnn, x, y, num_epochs=1, shed=shed)


def test_the_loss_does_not_jump_where_units_leave():
    """It is that of the whole network: what the shed units cost is counted on."""
    bnn, (x, y) = network(), some_data()
    rates = {"learning_rate": 1e-9, "gate_learning_rate": 1e-9}
    history = bbpyro.fit(bnn, x, y, num_epochs=40, batch_size=120, shed=True, seed=0, **rates)
    before, after = [r["loss"] for r in history[:PATIENCE]], [r["loss"] for r in history[PATIENCE:]]
    spread = torch.tensor(after).std().item()
    assert abs(sum(before) / len(before) - sum(after) / len(after)) < 3 * spread
    cost = (sum(history[0]["kl"].values()) + history[0]["weights_nll"]) / 120
    assert sum(after) / len(after) == pytest.approx(history[-1]["train_nll"] + cost, abs=6 * spread)


def test_a_resumed_fit_ends_with_the_numbers_of_one_that_was_not():
    x, y = some_data()
    settings = {"num_epochs": 9, "batch_size": 30, "shed": True, "seed": 3}
    states, saved, bnn = [], [], network()
    start = copy.deepcopy(bnn)

    def keep(state):
        states.append(copy.deepcopy(state))
        saved.append(copy.deepcopy(bnn.state_dict()))

    history = bbpyro.fit(bnn, x, y, on_epoch=keep, **settings)
    for epoch in (1, 3, 4, 7):
        resumed = copy.deepcopy(start)
        resumed.load_state_dict(saved[epoch])
        found = bbpyro.fit(resumed, x, y, resume_from=copy.deepcopy(states[epoch]), **settings)
        for name, tensor in bnn.state_dict().items():
            assert torch.equal(resumed.state_dict()[name], tensor), (epoch, name)
        assert [{**r, "seconds": 0} for r in found] == [{**r, "seconds": 0} for r in history]


@pytest.mark.parametrize("prior", ["Jeffreys", "FixedRate(0.5)", "StickBreaking(5)", "Uniform", "LogitNormal(0, 3)"])
def test_under_priors_whose_idle_units_are_not_near_0_nothing_is_shed_and_all_is_as_without(prior):
    x, y = some_data()
    settings = {"num_epochs": 5, "batch_size": 30, "seed": 0}
    one, other = network(prior=prior), network(prior=prior)
    other.load_state_dict(one.state_dict())
    bbpyro.fit(one, x, y, shed=True, **settings)
    bbpyro.fit(other, x, y, shed=False, **settings)
    for name, tensor in one.state_dict().items():
        assert torch.equal(other.state_dict()[name], tensor), name


@pytest.mark.parametrize("prior", ["Beta(1e-4, 1)", "SpikeAndSlab", "IndianBuffet(0.001)"])
def test_under_priors_whose_idle_units_are_near_0_they_leave(prior, monkeypatch):
    made = shapes_trained(monkeypatch)
    x, y = some_data()
    bnn = network(prior=prior)
    bbpyro.fit(bnn, x, y, num_epochs=5, batch_size=30, seed=0, shed=True)
    assert made, prior


def test_a_unit_that_the_likelihood_could_gain_from_stays(monkeypatch):
    """Its gate has it out, at the prior; but what reads it is no weight of 0."""
    made = shapes_trained(monkeypatch)
    x, y = some_data()
    bnn = network()
    with torch.no_grad():
        bnn.net[3].weight[:, 0] = 5.0
    bbpyro.fit(bnn, x, y, num_epochs=4, batch_size=30, seed=0, shed=True, learning_rate=1e-6)
    assert made[0][0] == (7, 8)  # one more than where it is not


def test_a_unit_above_the_prior_stays_though_it_is_out(monkeypatch):
    made = shapes_trained(monkeypatch)
    x, y = some_data()
    bnn = network()
    with torch.no_grad():
        bnn.net[3].gate.unconstrained_concentration0[0] = math.log(math.expm1(8.0))  # KL[q||p] = 2.2 nats
    excess = torch.distributions.kl_divergence(bnn.gates["3.gate"].posterior(), bnn.prior_of("3.gate"))[0]
    assert excess > TOLERANCE
    assert not bnn.gates["3.gate"].kept()[0]
    bbpyro.fit(bnn, x, y, num_epochs=4, batch_size=30, seed=0, shed=True, gate_learning_rate=1e-9)
    assert made[0][0] == (7, 8)


def test_a_unit_that_hovers_at_the_threshold_is_not_shed(monkeypatch):
    """It is out in every other epoch."""
    made = shapes_trained(monkeypatch)
    bnn, (x, y) = network(), some_data()
    gate = bnn.gates["3.gate"]

    @torch.no_grad()
    def hover(state):
        gate.unconstrained_concentration1[0] = OUT if len(state.history) % 2 else 0.0

    bbpyro.fit(bnn, x, y, num_epochs=8, batch_size=30, seed=0, shed=True, gate_learning_rate=1e-9, on_epoch=hover)
    assert made[0][0] == (7, 8)


def test_where_nothing_is_out_nothing_leaves(monkeypatch):
    made = shapes_trained(monkeypatch)
    x, y = some_data()
    bnn = network()
    for gate in bnn.gates.values():
        nn.init.constant_(gate.unconstrained_concentration1, 3.0)
    bbpyro.fit(bnn, x, y, num_epochs=5, batch_size=30, seed=0, shed=True)
    assert not made


def test_where_a_whole_layer_is_out_one_unit_of_it_stays(monkeypatch):
    made = shapes_trained(monkeypatch)
    x, y = some_data()
    bnn = network()
    put_out(bnn, "5.gate", torch.ones(8, dtype=torch.bool))
    history = bbpyro.fit(bnn, x, y, num_epochs=6, batch_size=30, seed=0, shed=True)
    assert made[-1][-2:] == [(3, 1), (3,)]
    assert history[-1]["active"]["5.gate"] == 0
    assert math.isfinite(history[-1]["loss"])


def test_behind_a_gate_that_lets_nothing_through_units_that_could_be_of_use_stay(monkeypatch):
    """All units of all gates are at the prior, and no weight is 0."""
    made = shapes_trained(monkeypatch)
    bnn, (x, y) = network(), some_data()
    for name, gate in bnn.gates.items():
        put_out(bnn, name, torch.ones(gate.num_features, dtype=torch.bool))
        nn.init.normal_(bnn.net.get_submodule(name.removesuffix(".gate")).weight)
    bbpyro.fit(bnn, x, y, num_epochs=5, batch_size=30, seed=0, shed=True, learning_rate=1e-6)
    assert not made


@pytest.mark.parametrize(
    "settings",
    [
        {"kl_warmup_epochs": 4, "kl_start": {"1.gate": 3.0, "*": 0.5}},
        {"elbo": "mean-field"},
        {"precision": "bf16"},
        {"augment": lambda x: x + 0.01},
        {"schedule": "steps"},
    ],
    ids=lambda s: next(iter(s)),
)
def test_settings_of_fit_beside_it(settings, monkeypatch):
    """What is shed, and what the records say of it, is by the numbers of the whole network."""
    made = shapes_trained(monkeypatch)
    bnn, (x, y) = network(), some_data()
    held_out = some_data(num_data=50)
    history = bbpyro.fit(bnn, x, y, num_epochs=7, batch_size=30, seed=0, shed=True, held_out=held_out, **settings)
    assert made[0][0] == (6, 8)
    right = (bnn(held_out[0]).argmax(-1) == held_out[1]).float().mean().item()
    assert history[-1]["held_out_accuracy"] == pytest.approx(right)
    nll = nn.functional.cross_entropy(bnn(held_out[0]), held_out[1]).item()
    assert history[-1]["held_out_nll"] == pytest.approx(nll, rel=1e-5)


def test_weights_with_a_gaussian_each(monkeypatch):
    made = shapes_trained(monkeypatch)
    bnn, (x, y) = network(weight_guide="normal"), some_data()
    history = bbpyro.fit(bnn, x, y, num_epochs=6, batch_size=30, seed=0, shed=True)
    assert made[0][0] == (6, 8)
    q = bnn.weight_posterior("1.weight").base_dist
    assert q.loc[0].abs().max() == 0
    torch.testing.assert_close(q.scale[0], torch.full((12,), bnn.weight_prior.scale))  # the prior
    assert history[-1]["weights_kl"] == pytest.approx(bnn.weights_kl().item(), rel=1e-5)


def test_a_mapping_of_priors_sheds_where_one_may(monkeypatch):
    made = shapes_trained(monkeypatch)
    x, y = some_data()
    bnn = network(prior={"3.gate": "Beta(1e-4, 1)", "*": "Jeffreys"})
    bbpyro.fit(bnn, x, y, num_epochs=5, batch_size=30, seed=0, shed=True)
    assert made[0] == [(6, 12), (6,), (8, 6), (8,), (3, 8), (3,)]


def test_frozen_weights_of_units_that_are_shed_stay_what_they_are(monkeypatch):
    made = shapes_trained(monkeypatch)
    bnn, (x, y) = network(), some_data()
    bnn.net[1].weight.requires_grad_(False)
    before = bnn.net[1].weight.clone()
    bbpyro.fit(bnn, x, y, num_epochs=5, batch_size=30, seed=0, shed=True)
    assert made
    assert torch.equal(bnn.net[1].weight, before)


def test_shared_layers_stay_shared(monkeypatch):
    class Twice(nn.Module):
        def __init__(self):
            super().__init__()
            self.enter, self.twice, self.head = nn.Linear(12, 6), nn.Linear(6, 6), nn.Linear(6, 3)

        def forward(self, x):
            return self.head(self.twice(self.twice(self.enter(x).relu()).relu()).relu())

    made = shapes_trained(monkeypatch)
    x, y = some_data()
    net = bbpyro.insert_dropout(Twice(), initial_keep_probability=0.9)
    bnn = bbpyro.BetaBernoulliNetwork(net, num_data=120)
    for name in ("enter.gate", "twice.gate"):
        put_out(bnn, name, torch.arange(bnn.gates[name].num_features) % 3 == 0)
    put_out(bnn, "head.gate", torch.arange(6) % 3 == 0)
    bbpyro.fit(bnn, x, y, num_epochs=5, batch_size=30, seed=0, shed=True)
    assert made[0][2] == (4, 4)


def test_a_likelihood_that_is_learnt_is_one_and_the_same():
    x, _ = some_data()
    y = x[:, 1] + 0.1 * torch.randn(120)
    plain = nn.Sequential(nn.Linear(12, 8), nn.ReLU(), nn.Linear(8, 1), nn.Flatten(0))

    class Gaussian(nn.Module):
        def __init__(self):
            super().__init__()
            self.log_scale = nn.Parameter(torch.zeros(()))

        def forward(self, output):
            return dist.Normal(output, self.log_scale.exp() * pyro.param("more", torch.ones(())))

    net = bbpyro.insert_dropout(plain, initial_keep_probability=0.9)
    bnn = bbpyro.BetaBernoulliNetwork(net, Gaussian(), num_data=120)
    for name, gate in bnn.gates.items():
        put_out(bnn, name, torch.arange(gate.num_features) % 2 == 0)
    seen = []

    def look(state):
        seen.append((bnn.likelihood.log_scale.item(), pyro.param("more").item(), bnn.net[0].weight[1, 1].item()))

    bbpyro.fit(bnn, x, y, num_epochs=8, batch_size=30, seed=0, shed=True, on_epoch=look)
    for each in zip(*seen, strict=True):
        assert len(set(each)) == 8  # it goes on to be trained


def test_batch_norm_keeps_its_running_numbers(monkeypatch):
    made = shapes_trained(monkeypatch)
    plain = nn.Sequential(nn.Conv2d(1, 6, 3), nn.BatchNorm2d(6), nn.ReLU(), nn.Flatten(), nn.Linear(6 * 16, 3))
    net = bbpyro.insert_dropout(plain, initial_keep_probability=0.9)
    bnn = bbpyro.BetaBernoulliNetwork(net, num_data=60)
    with torch.no_grad():
        gate = bnn.gates["1.gate"]
        gate.unconstrained_concentration1[:2] = OUT
        put_out(bnn, "4.gate", torch.arange(96) < 2 * 16)
    x = torch.randn(60, 1, 6, 6)
    y = (x.mean((1, 2, 3)) > 0).long()
    bbpyro.fit(bnn, x, y, num_epochs=8, batch_size=20, seed=0, shed=True)
    assert made[0][0] == (4, 1, 3, 3)
    living = bnn.net[1].running_mean[2:], bnn.net[0](x).mean((0, 2, 3))[2:]
    torch.testing.assert_close(*living, atol=0.1, rtol=0.1)
    assert int(bnn.net[1].num_batches_tracked) == 24


@pytest.mark.parametrize("was_there", [False, True])
def test_pyro_sees_the_parameters_by_their_usual_names(was_there):
    """A handler around fit does; and afterwards the store has the whole network's, if it had them before."""
    bnn, (x, y) = network(), some_data()
    own = {f"bbpyro.{name}" for name, _ in bnn.named_parameters()}
    if was_there:
        bnn.guide(x)
    with poutine.trace(param_only=True) as tracing:
        bbpyro.fit(bnn, x, y, num_epochs=5, batch_size=60, seed=0, shed=True)
    assert {name for name, node in tracing.trace.nodes.items() if node["type"] == "param"} == own
    stored = dict(pyro.get_param_store().named_parameters())
    assert set(stored) == (own if was_there else set())
    assert all(stored[f"bbpyro.{name}"] is p for name, p in bnn.named_parameters() if was_there)


def test_a_fit_that_is_broken_off_leaves_nothing_in_the_store():
    bnn, (x, y) = network(), some_data()

    def stop(x):
        raise KeyboardInterrupt

    states = []
    bbpyro.fit(bnn, x, y, num_epochs=4, batch_size=60, seed=0, shed=True, on_epoch=states.append)
    with pytest.raises(KeyboardInterrupt):
        bbpyro.fit(bnn, x, y, num_epochs=6, batch_size=60, shed=True, resume_from=states[-1], augment=stop)
    assert not dict(pyro.get_param_store().named_parameters())


def test_fit_goes_on_without_shedding_from_a_state_of_one_with():
    x, y = some_data()
    bnn, states = network(), []
    bbpyro.fit(bnn, x, y, num_epochs=5, batch_size=30, seed=0, shed=True, on_epoch=states.append)
    history = training.fit(bnn, x, y, num_epochs=7, batch_size=30, resume_from=states[-1], shed=False)
    assert len(history) == 7
    assert history[-1]["active"]["1.gate"] >= 8


# --- what would have gone wrong -------------------------------------------------------------------------------------


def judged_by_nothing(monkeypatch):
    """Whatever the likelihood could gain, units go that are out and at the prior."""
    monkeypatch.setattr(
        training.shedding.Shedding,
        "_gain",
        lambda self: {name: torch.zeros(gate.num_features) for name, gate in self._bnn.gates.items()},
    )


@pytest.mark.parametrize("start", [0, torch.zeros(())], ids=["a number", "a tensor"])
def test_a_network_that_counts_its_calls_in_python_stays_whole(start, monkeypatch):
    class Counting(nn.Sequential):
        calls = None

        def forward(self, x):
            self.calls = self.calls + self.training
            return super().forward(x)

    judged_by_nothing(monkeypatch)
    made = shapes_trained(monkeypatch)
    bnn, (x, y) = network(), some_data()
    bnn.net = Counting(*bnn.net)
    bnn.net.calls = start
    bbpyro.fit(bnn, x, y, num_epochs=6, batch_size=30, seed=0, shed=True)
    assert not made
    assert bnn.net.calls == 24


def test_a_network_without_gradients_in_evaluation_stays_whole(monkeypatch):
    class Careful(nn.Sequential):
        def forward(self, x):
            with torch.set_grad_enabled(self.training):
                return super().forward(x)

    made = shapes_trained(monkeypatch)
    bnn, (x, y) = network(), some_data()
    bnn.net = Careful(*bnn.net)
    bbpyro.fit(bnn, x, y, num_epochs=5, batch_size=30, seed=0, shed=True)
    assert not made


def test_what_the_likelihood_could_gain_is_judged_by_data_of_all_kinds():
    """The data are sorted by class, and what would gain from the unit is of the last."""
    x, y = some_data(num_data=2000)
    x, y = x[y.argsort()], y.sort().values
    bnn = network(num_data=2000)
    with torch.no_grad():
        bnn.net[3].weight[2, 0] = 5.0
        bnn.net[1].weight[0], bnn.net[1].bias[0] = 0.0, 0.0
        bnn.net[1].weight[0, 4] = 5.0
        x[y != 2, 4] = -1.0
    gain = training.shedding.Shedding(
        bnn, torch.optim.Adam(bnn.parameters()), x, y, lambda *args: None, 100, lambda gate: 1.0, lambda epoch: None
    )._gain()
    assert gain["3.gate"][0] > TOLERANCE


def test_a_weight_that_is_a_transposed_tensor(monkeypatch):
    """As of a decoder whose weight began as its encoder's."""
    made = shapes_trained(monkeypatch)
    bnn, (x, y) = network(), some_data()
    bnn.net[3].weight = nn.Parameter(bnn.net[3].weight.detach().t().contiguous().t())
    assert not bnn.net[3].weight.is_contiguous()
    history = bbpyro.fit(bnn, x, y, num_epochs=6, batch_size=30, seed=0, shed=True)
    assert made[0][0] == (6, 8)
    assert history[-1]["weights_nll"] == pytest.approx(bnn.weights_kl().item())


def test_unread_weights_stay_where_their_prior_allows_them():
    x, y = some_data()
    bounded = lambda shape: dist.Uniform(-50.0, 50.0).expand(shape).to_event(len(shape))  # noqa: E731
    bnn = network(weight_prior=bounded, weight_guide="normal")
    history = bbpyro.fit(bnn, x, y, num_epochs=6, batch_size=30, seed=0, shed=True)
    assert all(math.isfinite(record["loss"]) for record in history)
    assert bnn.weight_posterior("1.weight").base_dist.scale.max() < 1


@pytest.mark.parametrize("kind", ["by position", "by shape"])
def test_under_a_weight_prior_that_a_smaller_network_would_not_have_nothing_is_shed(kind, monkeypatch):
    shapes = {(10, 12): 1.0, (10,): 1.0, (8, 10): 0.5, (8,): 0.5, (3, 8): 1.0, (3,): 1.0}

    def prior(shape):
        scale = shapes[tuple(shape)] if kind == "by shape" else 1 / (1 + torch.arange(float(shape[-1])))
        return dist.Normal(0.0, scale).expand(shape).to_event(len(shape))

    judged_by_nothing(monkeypatch)
    made = shapes_trained(monkeypatch)
    x, y = some_data()
    bnn = network(weight_prior=prior)
    bbpyro.fit(bnn, x, y, num_epochs=5, batch_size=30, seed=0, shed=True)
    assert not made


def test_what_on_epoch_changes_is_what_is_trained(monkeypatch):
    """Weights that are loaded, a layer that is frozen, another temperature."""
    judged_by_nothing(monkeypatch)
    made = shapes_trained(monkeypatch)
    bnn, (x, y) = network(), some_data()
    seen = {}

    @torch.no_grad()
    def change(state):
        if len(state.history) == 5:
            bnn.net[5].bias.fill_(7.0)
            bnn.net[3].requires_grad_(False)
            bnn.temperature = 2.0
            seen["weight"] = bnn.net[3].weight.clone()

    small = []
    model = bbpyro.BetaBernoulliNetwork.guide
    monkeypatch.setattr(
        bbpyro.BetaBernoulliNetwork,
        "guide",
        lambda self, *args: (small.append(self.temperature), model(self, *args))[1],
    )
    bbpyro.fit(bnn, x, y, num_epochs=7, batch_size=30, seed=0, shed=True, on_epoch=change)
    assert made
    assert bnn.net[5].bias.min() > 6
    assert torch.equal(bnn.net[3].weight, seen["weight"])
    assert small[-1] == 2.0


def test_a_prior_that_on_epoch_assigns_holds_from_then_on(monkeypatch):
    """Under it no unit is out at the prior, so that all are trained again."""
    made = shapes_trained(monkeypatch)
    bnn, (x, y) = network(), some_data()
    seen = []

    def change(state):
        if len(state.history) == 5:
            bnn.prior = "Uniform"
        seen.append(bnn.gates["1.gate"].unconstrained_concentration1[0].item())

    bbpyro.fit(bnn, x, y, num_epochs=7, batch_size=30, seed=0, shed=True, on_epoch=change)
    assert made
    assert seen[3] == seen[4]
    assert seen[5] != seen[4]


@pytest.mark.parametrize("is_spectral", [False, True])
def test_a_fit_resumed_where_units_are_shed_leaves_the_network_as_any_other(is_spectral, monkeypatch):
    """In evaluation; and a spectral norm, which each look at its weight in training changes, is what it was."""
    judged_by_nothing(monkeypatch)
    bnn, (x, y) = network(), some_data()
    if is_spectral:
        nn.utils.parametrizations.spectral_norm(bnn.net[3])
    start, states, saved = copy.deepcopy(bnn), [], []

    def keep(state):
        states.append(copy.deepcopy(state))
        saved.append(copy.deepcopy(bnn.state_dict()))

    settings = {"num_epochs": 6, "batch_size": 30, "seed": 0, "shed": True}
    bbpyro.fit(bnn, x, y, on_epoch=keep, **settings)
    resumed = start.train()
    resumed.load_state_dict(saved[3])
    bbpyro.fit(resumed, x, y, resume_from=states[3], **settings)
    assert not resumed.training
    assert not resumed.net[3].training
    for name, tensor in bnn.state_dict().items():
        assert torch.equal(resumed.state_dict()[name], tensor), name


def test_a_network_with_hooks_on_gradients_stays_whole(monkeypatch):
    """Such as one that keeps weights at 0 that have been pruned, or that never move."""
    judged_by_nothing(monkeypatch)
    made = shapes_trained(monkeypatch)
    bnn, (x, y) = network(), some_data()
    bnn.net[3].weight.register_hook(torch.zeros_like)
    before = bnn.net[3].weight.clone()
    bbpyro.fit(bnn, x, y, num_epochs=6, batch_size=30, seed=0, shed=True)
    assert not made
    assert torch.equal(bnn.net[3].weight, before)


@pytest.mark.filterwarnings("ignore:not trained")  # fit says so of inputs that want a gradient; here they are to
def test_inputs_that_want_a_gradient(monkeypatch):
    made = shapes_trained(monkeypatch)
    bnn, (x, y) = network(), some_data()
    history = bbpyro.fit(bnn, x.requires_grad_(), y, num_epochs=6, batch_size=30, seed=0, shed=True)
    assert made[0][0] == (6, 8)
    assert len(history) == 6
