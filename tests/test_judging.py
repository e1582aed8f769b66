import copy
import warnings

import pyro.distributions as dist
import pytest
import torch
from pyro.poutine.messenger import Messenger
from torch import nn

import bbpyro
from bbpyro.training import FitWarning
from bbpyro.training.budget import MANY, Budget, of_data
from bbpyro.training.judging import Judge, remedy

N = 600
torch.manual_seed(0)
X = torch.randn(N, 6)
LABELS = (X[:, 0] > 0).long() + 2 * (X[:, 1] > 0).long()
MAJORITY = (torch.bincount(LABELS).max() / N).item()


def plain(num_outputs=4, seed=1):
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(6, 16), nn.ReLU(), nn.Linear(16, num_outputs))


def pretrained(y=LABELS, num_outputs=4, likelihood=None, flat=False):
    net = plain(num_outputs)
    net = nn.Sequential(*net, nn.Flatten(0)) if flat else net
    bbpyro.pretrain(net, X, y, likelihood=likelihood, num_epochs=40, learning_rate=0.01, seed=0, progress=False)
    return net


def gated(net, likelihood=None, **options):
    return bbpyro.BetaBernoulliNetwork(bbpyro.insert_dropout(net, **options), likelihood, num_data=N)


def only_keep(bnn, **units):
    """Switch all units of these gates off but so many, and all of the other gates on."""
    with torch.no_grad():
        for name, gate in bnn.gates.items():
            gate.unconstrained_concentration1.fill_(1e4)
            gate.unconstrained_concentration1[units.get(f"at_{name.split('.')[0]}", gate.num_features) :] = -20.0


@pytest.fixture(scope="module")
def network():
    return pretrained()


def judged(bnn, y=LABELS, held_out=None):
    return Judge(bnn, X, y, held_out, batch_size=100)


def test_the_start_is_the_plain_network(network):
    start = judged(gated(network)).start()
    with torch.no_grad():
        output = network(X)
    torch.testing.assert_close(start["nll"], nn.functional.cross_entropy(output, LABELS, reduction="none"))
    assert torch.equal(start["miss"], (output.argmax(-1) != LABELS).float())


def test_of_gates_that_were_trained_before_the_mean_mask_is_where_training_starts(network):
    bnn = gated(network)
    only_keep(bnn, at_2=12)
    with torch.no_grad():
        network_of_before = bnn.net[2].weight.clone()
        bnn.net[2].weight[:, 12:] = 100.0  # of units that are out, whatever they have come to
        start = judged(bnn).start()
        bnn.net[2].weight.copy_(network_of_before)
    assert start["nll"].mean() < 0.6


def test_a_network_as_good_as_at_its_start_is_fine(network):
    bnn = gated(network)
    judge = judged(bnn)
    start = judge.start()
    only_keep(bnn)
    assert judge.verdict(start) is None
    start |= {name: start[name][:50] for name in ("nll", "miss")}
    assert judged(bnn, held_out=(X[:50], LABELS[:50])).verdict(start) is None


def test_units_that_nothing_needs_may_go(network):
    bnn = gated(network)
    judge = judged(bnn)
    start = judge.start()
    only_keep(bnn, at_0=2)  # the others say nothing of the labels
    assert bnn.gates["0.gate"].kept().sum() == 2
    assert judge.verdict(start) is None


def test_what_has_lost_its_units_is_told_with_their_layers(network):
    bnn = gated(network)
    judge = judged(bnn)
    start = judge.start()
    only_keep(bnn, at_0=1)
    told = judge.verdict(start)
    assert told.startswith("the network ends clearly worse than it began: on training data NLL 0.")
    assert "wrong) by the mean mask, NLL 0." in told and "at the start. Units left: 1 of 6 on 0" in told


@pytest.mark.parametrize("start_is_known", [True, False])
def test_a_layer_that_is_dead_leaves_the_most_frequent_class(network, start_is_known):
    bnn = gated(network)
    judge = judged(bnn)
    start = judge.start() if start_is_known else {}
    only_keep(bnn, at_2=0)
    with torch.no_grad():
        bnn.net[2].bias.copy_(torch.bincount(LABELS).log())  # as training would have it
    told = judge.verdict(start)
    assert told.startswith("the network is right no more often than the most frequent class: on training data NLL 1.38")
    assert f"({1 - MAJORITY:.2%} wrong) by the mean mask" in told and "Units left: 0 of 16 on 2" in told
    assert ("at the start" in told) == start_is_known


def test_labels_that_nothing_predicts_are_no_fault_of_the_gates():
    bnn = gated(plain())
    judge = judged(bnn, y=torch.randint(4, (N,), generator=torch.Generator().manual_seed(0)))
    start = judge.start()
    assert judge.verdict(start) is None
    only_keep(bnn, at_2=0)
    with torch.no_grad():
        bnn.net[2].bias.zero_()
    assert "most frequent class" in judge.verdict(start)  # but units that were lost for nothing are told
    assert judge.verdict(judge.start()) is None  # if it was this fit that lost them


def test_a_network_that_was_never_trained_has_nothing_to_lose():
    for held_out in (None, (X, LABELS)):
        bnn = gated(plain())
        judge = judged(bnn, held_out=held_out)
        start = judge.start()
        only_keep(bnn)
        with torch.no_grad():
            bnn.net[2].weight.mul_(3.0)
        assert judge.verdict(start) is None


def test_a_few_labels_that_are_right_by_luck_are_no_start_to_fall_from():
    bnn = gated(nn.Linear(6, 2))
    judge = Judge(bnn, X[:24], torch.arange(24) % 2, None, batch_size=10)
    wobble = 0.2 * torch.randn(24, generator=torch.Generator().manual_seed(0))
    start = judge.start() | {"nll": 0.6637 + wobble - wobble.mean(), "miss": (torch.arange(24) < 9).float()}  # 37.5%
    only_keep(bnn)
    with torch.no_grad():
        bnn.net.weight.zero_()
        bnn.net.bias.copy_(torch.tensor([0.1, 0.0]))
    assert judge.verdict(start) is None
    start["miss"].zero_()  # but all of them are not right by luck
    assert "most frequent class" in judge.verdict(start)


def test_rare_labels_may_never_be_the_likeliest():
    y = (X[:, 0] > 1.5).long()
    net = nn.Linear(6, 2)
    with torch.no_grad():  # p(rare) < 1/2 everywhere, but higher where it is the case
        net.weight.zero_()
        net.weight[1, 0] = 1.0
        net.bias.copy_(torch.tensor([4.0, 0.0]))
    bnn = gated(net)
    judge = judged(bnn, y=y)
    start = judge.start()
    assert start["miss"].mean() == y.double().mean().float()
    only_keep(bnn, at_0=1)
    assert judge.verdict(start) is None


def test_five_percent_count_on_held_out_data_and_only_beyond_the_noise(network):
    bnn = gated(network)
    judge = judged(bnn, held_out=(X, LABELS))
    only_keep(bnn)
    end = judge.start()
    assert end["nll"].mean() > 0.028  # of which 5% are more than a thousandth of the entropy, 1.38
    for ratio, noise, is_worse in ((1.04, 0.0, False), (1.06, 0.0, True), (1.06, 3.0, False), (0.5, 0.0, False)):
        wobble = noise * torch.randn(N, generator=torch.Generator().manual_seed(0))
        start = {"nll": end["nll"] / ratio + wobble - wobble.mean(), "miss": end["miss"]}
        told = judge.verdict(start)
        assert (told is not None) == is_worse
        assert not is_worse or "on held-out data" in told


def test_an_overfit_plain_network_is_held_against_held_out_data_where_there_are_some(network):
    bnn = gated(network)
    only_keep(bnn)
    too_good = {"nll": torch.full((N,), 1e-4), "miss": torch.zeros(N)}
    end = judged(bnn).start()["nll"].mean().item()
    assert 0.02 < end < 0.34  # of the labels' entropy, 1.38, less than a quarter
    assert judged(bnn).verdict(too_good) is None
    assert judged(bnn, held_out=(X, LABELS)).verdict(too_good) is not None


REGRESSION = X[:, 0] + X[:, 1]


def normal(output):
    return dist.Normal(output, 0.5)


@pytest.mark.parametrize("likelihood", [normal, lambda output: dist.Cauchy(output, 0.5)])
def test_a_regression_is_judged_by_what_it_explains_of_the_variance(likelihood):
    bnn = gated(pretrained(REGRESSION, 1, likelihood, flat=True), likelihood)
    judge = judged(bnn, y=REGRESSION)
    start = judge.start()
    only_keep(bnn, at_0=2)
    assert judge.verdict(start) is None
    only_keep(bnn, at_2=0)
    told = judge.verdict(start)
    if likelihood is normal:
        assert told.startswith("the network is no better than the mean of y: on training data NLL ") and "RMSE" in told
        only_keep(bnn, at_0=1)
        assert judge.verdict(start).startswith("the network ends clearly worse than it began")
        assert judged(bnn, REGRESSION, (X, REGRESSION)).verdict(start) is not None
    else:
        assert told.startswith("a layer has no unit left: on training data NLL ") and "RMSE" not in told


class OfOneScale(nn.Module):
    """A Normal whose scale is learnt, and is far too large at first."""

    def __init__(self):
        super().__init__()
        self.log_scale = nn.Parameter(torch.tensor(1.0))

    def forward(self, output):
        return dist.Normal(output, self.log_scale.exp())


@pytest.mark.parametrize("held_out", [None, (X, REGRESSION)])
def test_a_scale_that_fits_in_the_end_hides_no_loss_of_the_mean(held_out):
    bnn = gated(pretrained(REGRESSION, 1, normal, flat=True), OfOneScale())
    judge = judged(bnn, REGRESSION, held_out)
    start = judge.start()
    only_keep(bnn, at_0=1)
    with torch.no_grad():
        bnn.likelihood.log_scale.fill_(0.0)
        assert -bnn.likelihood(bnn(X)).log_prob(REGRESSION).mean() < start["nll"].mean()
    assert judge.verdict(start).startswith("the network ends clearly worse than it began")
    only_keep(bnn, at_0=2)
    assert judge.verdict(start) is None


@pytest.mark.parametrize("scale", [1e-24, 1.0, 1e20])
def test_numbers_of_any_size_are_judged(scale):
    def likelihood(output):
        return dist.Laplace(output * scale, 0.5 * scale)

    bnn = gated(pretrained(REGRESSION * scale, 1, likelihood, flat=True), likelihood)
    judge = judged(bnn, y=REGRESSION * scale)
    start = judge.start()
    only_keep(bnn)
    assert judge.verdict(start) is None
    only_keep(bnn, at_2=0)
    assert judge.verdict(start).startswith("the network is no better than the mean of y")


def test_what_the_likelihood_cares_little_for_is_an_error_all_the_same():
    bnn = gated(pretrained(0.2 * REGRESSION, 1, normal, flat=True), lambda output: dist.Normal(output, 1.0))
    judge = judged(bnn, 0.2 * REGRESSION, (X, 0.2 * REGRESSION))
    start = judge.start()
    only_keep(bnn, at_0=1)
    assert judge.verdict(start).startswith("the network ends clearly worse than it began")


def test_of_numbers_without_a_mean_the_loss_tells():
    def likelihood(output):
        return dist.Cauchy(output, 0.05)

    bnn = gated(pretrained(REGRESSION, 1, likelihood, flat=True), likelihood)
    judge = judged(bnn, y=REGRESSION)
    start = judge.start()
    only_keep(bnn, at_0=1)
    assert judge.verdict(start).startswith("the network ends clearly worse than it began")


def test_five_percent_of_next_to_nothing_are_nothing(network):
    bnn = gated(network)
    only_keep(bnn)
    with torch.no_grad():
        answers = bnn(X).argmax(-1)
        bnn.net[-1].weight.mul_(1000.0)
        bnn.net[-1].bias.mul_(1000.0)
    judge = judged(bnn, held_out=(X, answers))
    end = judge.start()
    assert end["nll"].mean() < 0.01
    for more, is_worse in ((0.0012, False), (0.0016, True)):  # a thousandth of the entropy, 1.38, lies between
        start = {"nll": end["nll"] - more, "miss": end["miss"]}
        assert (judge.verdict(start) is not None) == is_worse


def test_a_dead_layer_is_told_where_the_held_out_data_are_of_one_class(network):
    bnn = gated(network)
    of_one = LABELS == 3
    judge = judged(bnn, held_out=(X[of_one], LABELS[of_one]))
    start = judge.start()
    only_keep(bnn, at_2=0)
    with torch.no_grad():
        bnn.net[-1].bias.copy_(torch.tensor([0.0, 0.0, 0.0, 9.0]))  # which says 3 to all
    assert judge.verdict(start).startswith("a layer has no unit left")


@pytest.mark.parametrize(
    ("y", "num_outputs", "likelihood"),
    [
        (nn.functional.one_hot(LABELS).float(), 4, lambda output: dist.OneHotCategorical(logits=output)),
        (torch.stack([X[:, 0] > 0, X[:, 1] > 0], 1).float(), 2, lambda o: dist.Bernoulli(logits=o).to_event(1)),
        (torch.stack([X[:, 0], X[:, 1]], 1), 2, lambda output: dist.Normal(output, 0.5).to_event(1)),
        ((2 * X[:, 0].clamp(min=0)).round(), 1, lambda output: dist.Poisson(output[..., 0].exp())),
        (LABELS[:, None].repeat(1, 2), 8, lambda o: dist.Categorical(logits=o.unflatten(-1, (2, 4))).to_event(1)),
    ],
    ids=["one-hot", "several labels", "several numbers", "counts", "sequence"],
)
def test_every_kind_of_y_can_be_judged(y, num_outputs, likelihood):
    bnn = gated(pretrained(y, num_outputs, likelihood), likelihood)
    judge = judged(bnn, y=y)
    start = judge.start()
    only_keep(bnn)
    assert judge.verdict(start) is None
    only_keep(bnn, at_2=0)
    assert "Units left: 0 of 16 on 2" in judge.verdict(start)


# --- fit ---------------------------------------------------------------------------------------------------


def rushed(net, **options):
    """A fit whose gates shut before anything is learnt; returns what it warned of."""
    bnn = gated(net, initial_keep_probability=0.24)
    settings = {"num_epochs": 8, "gate_learning_rate": 1.0, "seed": 0, "progress": False} | options
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        bbpyro.fit(bnn, X, LABELS, **settings)
    return bnn, [each for each in caught if each.category is FitWarning]


def test_fit_warns_once_where_the_caller_is(network):
    bnn, warned = rushed(network)
    assert sum(int(gate.kept().sum()) for gate in bnn.gates.values()) < 8
    assert len(warned) == 1 and warned[0].filename == __file__
    told = str(warned[0].message)
    assert "clearly worse" in told and "to leave num_epochs out: so few data take 1,334" in told


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"kl_start": 40, "kl_warmup_epochs": 4}, "What may help: a smaller kl_start. By held_out="),
        ({"held_out": (X, LABELS)}, "gates that begin at E[π] = 0.5"),
    ],
)
def test_what_may_help_is_what_was_not_done(network, options, said):
    _, warned = rushed(network, **options)
    told = str(warned[0].message)
    assert said in told and ("By held_out=" in told) == ("held_out" not in options)
    assert remedy(MANY, 60, 0.0, False).endswith("a longer kl_warmup_epochs, or a smaller network")
    assert remedy(of_data(600, 100), 1400, 0.0, False) == remedy(MANY, 60, 0.0, False)


def test_fit_does_not_warn_where_all_is_well(network):
    bnn = gated(network, initial_keep_probability=0.9)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        bbpyro.fit(bnn, X, LABELS, num_epochs=5, seed=0, progress=False)


@pytest.mark.parametrize("done", [3, 8])  # with nothing left to do it says it again
def test_a_resumed_fit_knows_where_it_began(network, done):
    kept = {}

    def keep(state):
        if len(state.history) == done:
            kept["state"] = copy.deepcopy(state)
            kept["weights"] = copy.deepcopy(whole.state_dict())

    whole = gated(network, initial_keep_probability=0.24)
    settings = {"num_epochs": 8, "gate_learning_rate": 1.0, "seed": 0, "progress": False}
    told = []
    with pytest.warns(FitWarning) as caught:
        bbpyro.fit(whole, X, LABELS, on_epoch=keep, **settings)
    told.append(str(caught[0].message))
    assert kept["state"].start["nll"].shape == (N,)
    resumed = gated(plain(), initial_keep_probability=0.24)
    resumed.load_state_dict(kept["weights"])
    with pytest.warns(FitWarning) as caught:
        bbpyro.fit(resumed, X, LABELS, resume_from=kept["state"], **settings)
    told.append(str(caught[0].message))
    assert told[0] == told[1] and "at the start" in told[0]


# --- how long is trained where nobody says -----------------------------------------------------------------


def test_few_data_are_trained_on_for_as_many_steps_and_their_kl_is_warmed_up():
    assert of_data(60_000, 100) == of_data(13_301, 100) == MANY
    assert of_data(13_300, 100) == Budget(61, 0.5, 4, 0.03, 10, starts=2)
    assert of_data(1000, 100) == Budget(800, 0.5, 40, 0.03, 50, starts=2)
    assert of_data(130, 100).epochs == 4000  # two steps an epoch
    assert MANY.pretrain_epochs == 10


def test_pretraining_takes_its_steps_by_default():
    assert len(bbpyro.pretrain(nn.Linear(6, 4), X[:20], LABELS[:20], progress=False)) == 500
    assert len(bbpyro.pretrain(nn.Linear(6, 4), X[:20], LABELS[:20], num_epochs=2, progress=False)) == 2


class Enough(Exception):
    pass


@pytest.mark.parametrize(
    ("start", "options", "weight", "begun_at", "rate"),
    [
        (None, {}, 1 / 400, 0.5, 0.03),
        (0.9, {}, 1 / 400, 0.9, 0.03),
        (None, {"kl_warmup_epochs": 4}, 0.25, 0.5, 0.03),
        (None, {"kl_warmup_epochs": 0}, 1.0, 0.5, 0.03),
        (None, {"gate_learning_rate": 0.01}, 1 / 400, 0.5, 0.01),
        (None, {"num_epochs": 3}, 1.0, 0.2385, 0.01),
    ],
)
def test_few_data_begin_gently_and_what_is_asked_for_wins(start, options, weight, begun_at, rate):
    scales = []

    class Spy(Messenger):
        def _pyro_post_sample(self, msg):
            if msg["name"] == "0.gate.pi":
                scales.append(msg["scale"])

    def stop(state):
        rates.extend(state.history[-1]["learning_rate"])
        raise Enough

    rates = []
    bnn = gated(nn.Sequential(nn.Linear(6, 4)), initial_keep_probability=start)
    assert bnn.gates["0.gate"].is_untrained
    with pytest.raises(Enough), Spy():
        bbpyro.fit(bnn, X, LABELS, batch_size=N, on_epoch=stop, progress=False, **options)
    assert scales == pytest.approx([weight] * len(scales)) and scales and rates == [0.001, rate]
    begun = bnn.gates["0.gate"].keep_probability().tolist()  # after a step
    assert begun == [pytest.approx(begun_at, abs=0.02)] * 6 and not bnn.gates["0.gate"].is_untrained


@pytest.mark.parametrize("wrong", [{"kl_start": 2}, {"schedule": "none"}, {"kl_warmup_epochs": -1}, {"elbo": "none"}])
def test_a_fit_that_is_refused_leaves_the_gates_as_they_were(wrong):
    bnn = gated(nn.Sequential(nn.Linear(6, 4)))
    with pytest.raises(ValueError, match=next(iter(wrong))):
        bbpyro.fit(bnn, X, LABELS, progress=False, **wrong)
    assert bnn.gates["0.gate"].keep_probability().tolist() == [pytest.approx(0.2385, abs=1e-4)] * 6


@pytest.mark.parametrize("wrong", [{"kl_start": "a"}, {"kl_start": {"*": None}}, {"kl_warmup_epochs": "3"}])
def test_kl_settings_of_a_wrong_type_are_named(wrong):
    with pytest.raises(TypeError, match=f"{next(iter(wrong))} is .*, wanted a"):
        bbpyro.fit(gated(nn.Sequential(nn.Linear(6, 4))), X, LABELS, num_epochs=4, progress=False, **wrong)


def test_gates_that_were_trained_stay_where_they_are():
    bnn = gated(nn.Sequential(nn.Linear(6, 4)))
    gate = bnn.gates["0.gate"]
    with torch.no_grad():
        gate.unconstrained_concentration1[0] += 1.0
    before = gate.keep_probability().clone()
    gate.begin_with_few_data()
    assert torch.equal(gate.keep_probability(), before)


def test_one_datum_tells_nothing(network):
    one = (X[:1], LABELS[:1])
    bnn = gated(network)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        judge = judged(bnn, held_out=one)
        start = judge.start()
        only_keep(bnn, at_0=1)
        assert judge.verdict(start) is None
