import copy
import math
import re

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro import poutine
from pyro.infer import SVI, Trace_ELBO, TraceGraph_ELBO
from torch import nn

import bbpyro
from bbpyro import data, training
from bbpyro.training import KLWarmup, NonFiniteLossError, Scorecard, SingleOptimizer, TrainingState


@pytest.fixture(scope="module")
def bars():
    return data.bars(num_train=2000, num_test=500)


def network(num_data, hidden=32, seed=0):
    torch.manual_seed(seed)
    net = nn.Sequential(nn.Flatten(), nn.Linear(64, hidden), nn.ReLU(), nn.Linear(hidden, 4))
    return bbpyro.BetaBernoulliNetwork(bbpyro.insert_dropout(net), num_data=num_data)


def tiny(bars, num_data=230):
    return network(num_data), bars.x[:num_data], bars.y[:num_data]


def without_seconds(history):
    return [{key: value for key, value in record.items() if key != "seconds"} for record in history]


@pytest.mark.parametrize("elbo", ["trace", "mean-field"])
def test_after_training_the_pixels_that_carry_nothing_are_out_and_the_others_are_in(elbo):
    bars = data.bars(num_train=4000)
    net = nn.Sequential(nn.Flatten(), nn.Linear(64, 16), nn.ReLU(), nn.Linear(16, 4))
    bbpyro.pretrain(net, bars.x, bars.y, num_epochs=3, learning_rate=3e-3, seed=1, progress=False)
    bnn = bbpyro.BetaBernoulliNetwork(bbpyro.insert_dropout(net, threshold=0.01), num_data=len(bars.x))
    history = bbpyro.fit(
        bnn,
        bars.x,
        bars.y,
        num_epochs=50,
        learning_rate=3e-3,
        gate_learning_rate=0.05,
        elbo=elbo,
        seed=1,
        progress=False,
    )
    kept = bnn.gates["1.gate"].kept().reshape(8, 8)
    assert torch.equal(kept, data.bars_relevant())
    assert history[-1]["active"]["1.gate"] == 16
    assert bbpyro.evaluate(bnn, bars.x_test, bars.y_test, num_samples=None).error < 0.05


def test_the_same_seed_gives_the_same_numbers_and_leaves_the_global_generator_alone(bars):
    histories = []
    for seed in (3, 3, 4):
        bnn, x, y = tiny(bars)
        before = torch.get_rng_state()
        histories.append(without_seconds(bbpyro.fit(bnn, x, y, num_epochs=2, seed=seed, progress=False)))
        assert torch.equal(torch.get_rng_state(), before)
    assert histories[0] == histories[1]
    assert histories[0] != histories[2]


def test_without_a_seed_the_global_generator_decides(bars):
    losses = []
    for manual_seed in (7, 7, 8):
        bnn, x, y = tiny(bars)
        torch.manual_seed(manual_seed)
        losses.append(bbpyro.fit(bnn, x, y, num_epochs=1, progress=False)[0]["loss"])
    assert losses[0] == losses[1] != losses[2]


@pytest.mark.parametrize("stop", [1, 2, 3])
def test_training_resumed_from_any_epoch_ends_with_the_same_numbers(bars, stop):
    def run(bnn, **kwargs):
        settings = {"num_epochs": 4, "batch_size": 50, "kl_warmup_epochs": 3, "seed": 5, "progress": False}
        return bbpyro.fit(bnn, x, y, **settings, **kwargs)

    kept = {}

    def keep(state):
        if len(state.history) == stop:
            kept["state"] = TrainingState(
                state.seed, list(state.history), {k: v.clone() for k, v in state.optimizer.items()}
            )
            kept["network"] = {k: v.clone() for k, v in whole.state_dict().items()}

    whole, x, y = tiny(bars)
    expected = run(whole, on_epoch=keep)
    resumed, _, _ = tiny(bars)
    resumed.load_state_dict(kept["network"])
    history = run(resumed, resume_from=kept["state"])
    assert without_seconds(history) == without_seconds(expected)
    assert all(torch.equal(p, q) for p, q in zip(whole.parameters(), resumed.parameters(), strict=True))


def test_a_last_short_batch_is_used_at_its_own_scale(bars):
    scales = []

    class Spy(poutine.messenger.Messenger):
        def _pyro_post_sample(self, msg):
            if msg["name"] == "y":
                scales.append(msg["scale"])

    bnn, x, y = tiny(bars, num_data=23)
    with Spy():
        bbpyro.fit(bnn, x, y, num_epochs=1, batch_size=10, progress=False)
    assert scales == pytest.approx([23 / 10, 23 / 10, 23 / 3])


def test_the_single_optimizer_steps_as_pyros_own_adam_does(bars):
    losses = {}
    for name in ("single", "pyro"):
        bnn, x, y = tiny(bars)
        if name == "single":
            optimizer = SingleOptimizer(torch.optim.Adam(bnn.parameters(), lr=1e-2, fused=True))
        else:
            optimizer = pyro.optim.Adam({"lr": 1e-2})
        svi = SVI(bnn.model, bnn.guide, optimizer, Trace_ELBO())
        torch.manual_seed(0)
        losses[name] = [svi.step(x, y) for _ in range(5)]
    assert losses["single"] == pytest.approx(losses["pyro"], rel=1e-4)


def test_schedules():
    assert [training.steps(p) for p in (0.0, 0.49, 0.5, 0.74, 0.75, 0.99)] == [1, 1, 0.1, 0.1, 0.01, 0.01]
    assert [training.cosine(p) for p in (0.0, 0.25, 0.5)] == [1, 1, 1]
    assert training.cosine(0.75) == pytest.approx(0.5)
    assert training.cosine(1.0) == pytest.approx(0.0)


def test_the_schedule_sets_both_learning_rates(bars):
    bnn, x, y = tiny(bars)
    history = bbpyro.fit(
        bnn, x, y, num_epochs=4, learning_rate=0.01, gate_learning_rate=0.1, schedule="steps", progress=False
    )
    rates = [rate for record in history for rate in record["learning_rate"]]
    assert rates == pytest.approx([0.01, 0.1] * 2 + [0.001, 0.01] + [0.0001, 0.001])


def test_kl_warmup_weighs_the_named_keep_probabilities_on_both_sides_and_nothing_else(bars):
    bnn, x, y = tiny(bars)
    warmup = KLWarmup({"1.gate": 0.1})
    warmup.share = 1 / 6  # 0.1 * 5/6 + 1/6
    for program in (bnn.model, bnn.guide):
        torch.manual_seed(0)
        plain = poutine.trace(program).get_trace(x, y)
        torch.manual_seed(0)
        weighed = poutine.trace(warmup(program)).get_trace(x, y)
        for name, site in weighed.nodes.items():
            if site["type"] == "sample" and name != "data":
                weight = 0.25 if name == "1.gate.pi" else 1.0
                assert site["scale"] == pytest.approx(weight * plain.nodes[name]["scale"])


def test_kl_warmup_changes_training_and_ends_at_full_weight(bars):
    active = {}
    for epochs in (0, 3):
        bnn, x, y = tiny(bars)
        history = bbpyro.fit(bnn, x, y, num_epochs=3, kl_warmup_epochs=epochs, seed=0, progress=False)
        active[epochs] = history[-1]["loss"]
    assert active[0] != active[3]


@pytest.mark.parametrize(
    ("start", "epochs", "wanted"),
    [
        (0.0, 3, [1 / 3, 2 / 3, 1, 1]),
        (10.0, 3, [7, 4, 1, 1]),
        (1.0, 3, [1, 1, 1, 1]),
        (9.0, 20, [7, 5, 3, 1]),  # of four epochs
    ],
)
def test_the_weight_of_the_kl_goes_linearly_from_its_start_to_one(bars, start, epochs, wanted, monkeypatch):
    weights = []

    class Spy(KLWarmup):
        def _pyro_sample(self, msg):
            weights.append(self.starts["1.gate"] * (1 - self.share) + self.share)
            super()._pyro_sample(msg)

    monkeypatch.setattr("bbpyro.training.inference.KLWarmup", Spy)
    bnn, x, y = tiny(bars)
    bbpyro.fit(bnn, x, y, num_epochs=4, batch_size=len(x), kl_warmup_epochs=epochs, kl_start=start, progress=False)
    assert weights[:: len(weights) // 4] == pytest.approx(wanted)


def test_the_first_name_that_fits_a_gate_says_where_its_kl_starts(bars):
    bnn = network(10)
    assert training.kl_starts(bnn, 2, 3.0) == {"1.gate": 3.0, "3.gate": 3.0}
    assert training.kl_starts(bnn, 2, {"3*": 5.0}) == {"3.gate": 5.0}
    assert training.kl_starts(bnn, 2, {"3*": 5.0, "*": 2.0}) == {"1.gate": 2.0, "3.gate": 5.0}


def test_a_heavy_kl_at_first_drops_units_for_good_and_for_nothing_and_only_where_it_is_wanted():
    bars = data.bars(num_train=4000, num_test=500)
    torch.manual_seed(0)
    net = nn.Sequential(nn.Flatten(), nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 4))
    bbpyro.pretrain(net, bars.x, bars.y, num_epochs=3, learning_rate=3e-3, seed=0, progress=False)
    settings = {"num_epochs": 12, "gate_learning_rate": 0.05, "learning_rate": 3e-3, "seed": 0, "progress": False}
    histories = {}
    for only, weight in (("none", None), ("3.*", 30.0), ("*", 10.0)):
        bnn = bbpyro.BetaBernoulliNetwork(bbpyro.insert_dropout(net, threshold=0.01), num_data=len(bars.x))
        heavy = {} if only == "none" else {"kl_warmup_epochs": 6, "kl_start": {only: weight}}
        histories[only] = bbpyro.fit(bnn, bars.x, bars.y, **heavy, **settings)
    inputs = {only: [record["active"]["1.gate"] for record in history] for only, history in histories.items()}
    assert inputs["*"][5] == inputs["*"][-1] == 16  # the pixels that carry the bars
    assert inputs["none"][-1] > 20 and inputs["3.*"][-1] > 20
    assert histories["3.*"][-1]["active"]["3.gate"] < histories["none"][-1]["active"]["3.gate"]
    assert histories["*"][-1]["train_accuracy"] == pytest.approx(histories["none"][-1]["train_accuracy"], abs=0.01)
    assert histories["*"][-1]["loss"] < histories["none"][-1]["loss"]  # the same -ELBO by then


def test_records_hold_what_the_slides_report(bars):
    bnn, x, y = tiny(bars)
    held_out = bars.x_test, bars.y_test
    record = bbpyro.fit(bnn, x, y, num_epochs=1, held_out=held_out, progress=False)[0]
    with torch.no_grad():
        output = bnn(bars.x_test)
    assert record["held_out_nll"] == pytest.approx(nn.functional.cross_entropy(output, bars.y_test).item(), rel=1e-5)
    assert record["held_out_accuracy"] == pytest.approx((output.argmax(1) == bars.y_test).float().mean().item())
    assert 0 <= record["train_accuracy"] <= 1
    assert record["train_nll"] > 0
    assert record["kl"] == pytest.approx({name: kl.item() for name, kl in bnn.kl().items()})
    weights = torch.cat([w.detach().flatten() for w in bnn.weights.values()])
    expected = -torch.distributions.Normal(0.0, bnn.weight_prior.scale).log_prob(weights).sum().item()
    assert record["weights_nll"] == pytest.approx(expected, rel=1e-5)
    assert record["active"] == {name: int(gate.kept().sum()) for name, gate in bnn.gates.items()}


def test_the_scorecard_keeps_the_mean_over_data_not_over_batches():
    scorecard = Scorecard()
    first, second = torch.tensor([[2.0, 0.0]] * 3), torch.tensor([[0.0, 0.0]])
    for logits, y in ((first, torch.tensor([0, 0, 1])), (second, torch.tensor([0]))):
        scorecard.observe(bbpyro.likelihoods.Categorical()(logits), y)
    right, wrong = math.log1p(math.exp(-2)), math.log1p(math.exp(2))
    scores = scorecard.take()
    assert scores["train_nll"] == pytest.approx((2 * right + wrong + math.log(2)) / 4)
    assert scores["train_accuracy"] == 3 / 4


def test_pretraining_learns_and_resumes_exactly(bars):
    def net():
        torch.manual_seed(0)
        return nn.Sequential(nn.Flatten(), nn.Linear(64, 4))

    states = []
    whole, resumed = net(), net()
    settings = {"learning_rate": 1e-2, "seed": 1, "progress": False}
    expected = bbpyro.pretrain(
        whole,
        bars.x,
        bars.y,
        num_epochs=3,
        held_out=(bars.x_test, bars.y_test),
        **settings,
        on_epoch=lambda state: states.append((state, {k: v.clone() for k, v in whole.state_dict().items()})),
    )
    state, weights = states[1]
    resumed.load_state_dict(weights)
    history = bbpyro.pretrain(
        resumed, bars.x, bars.y, num_epochs=3, held_out=(bars.x_test, bars.y_test), resume_from=state, **settings
    )
    assert expected[-1]["train_nll"] < 0.7 * expected[0]["train_nll"]
    assert without_seconds(history)[0] == without_seconds(expected)[0]


def test_a_loss_that_is_not_finite_stops_before_the_step_and_names_the_layer(bars):
    bnn, x, y = tiny(bars)
    with torch.no_grad():
        bnn.net[3].bias[0] = math.nan
    before = {name: p.clone() for name, p in bnn.named_parameters()}
    with pytest.raises(NonFiniteLossError, match="epoch 1, step 1.*'3'") as caught:
        bbpyro.fit(bnn, x, y, num_epochs=1, progress=False)
    assert (caught.value.epoch, caught.value.step, caught.value.layer) == (1, 1, "3")
    assert all(torch.equal(p.nan_to_num(), before[n].nan_to_num()) for n, p in bnn.named_parameters())


def test_a_learning_rate_that_explodes_is_caught(bars):
    bnn, x, y = tiny(bars)
    with pytest.raises(NonFiniteLossError):
        bbpyro.fit(bnn, x, y, num_epochs=5, learning_rate=1e30, progress=False)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"num_epochs": 0}, "num_epochs"),
        ({"batch_size": 0}, "batch_size"),
        ({"learning_rate": -1.0}, "learning rate"),
        ({"gate_learning_rate": math.inf}, "learning rate"),
        ({"schedule": "linear"}, "schedule.*steps, cosine"),
        ({"elbo": "renyi"}, "elbo.*trace, mean-field"),
        ({"kl_warmup_epochs": -1}, "kl_warmup_epochs"),
        ({"kl_start": -1.0, "kl_warmup_epochs": 2}, "kl_start is -1.0"),
        ({"kl_start": {"conv*": 0.0}}, "kl_start: 'conv\\*' is none of the gates 1.gate, 3.gate"),
        ({"kl_start": 2.0}, "kl_start is 2.0 but kl_warmup_epochs 0"),
        ({"kl_start": 2.0, "kl_warmup_epochs": 1}, "kl_start is 2.0 but kl_warmup_epochs 1"),
        ({"kl_start": 1e17, "kl_warmup_epochs": 3}, "wanted a number from 0 to 1e6"),
        ({"augment": lambda x: x[:1]}, r"augment: of a minibatch \[100, 8, 8\] it made \[1, 8, 8\]"),
        ({"augment": lambda x: None}, r"augment: of a minibatch \[100, 8, 8\] it made NoneType"),
        ({"x": torch.zeros(3, 64)}, "x and y"),
        ({"x": torch.zeros(3, 64), "y": torch.zeros(3)}, "num_data=230"),
        ({"x": torch.full((230, 64), math.nan)}, "x: it holds nan"),
    ],
)
def test_bad_arguments_are_named(bars, change, message):
    bnn, x, y = tiny(bars)
    arguments = {"x": x, "y": y, "progress": False, **change}
    with pytest.raises(ValueError, match=message):
        bbpyro.fit(bnn, arguments.pop("x"), arguments.pop("y"), **arguments)


def regression(output):
    return dist.Normal(output, 0.1).to_event(1)


@pytest.mark.parametrize(
    ("likelihood", "y", "message"),
    [
        (regression, torch.zeros(40), "wanted one datum a row"),
        (lambda output: dist.Normal(output, 0.1), torch.zeros(40, 4), "to_event"),
        (bbpyro.likelihoods.Categorical(), torch.zeros(40, 1, dtype=torch.long), "wanted one datum a row"),
        (bbpyro.likelihoods.Categorical(), torch.full((40,), 4), "labels 4 to 4, wanted 0 to 3"),
    ],
)
def test_a_y_that_would_broadcast_or_is_out_of_range_is_refused(bars, likelihood, y, message):
    bnn = network(40)
    bnn.likelihood = likelihood
    with pytest.raises(ValueError, match=message):
        bbpyro.fit(bnn, bars.x[:40], y, num_epochs=1, progress=False)
    with pytest.raises(ValueError, match=message):
        bbpyro.pretrain(bnn.net, bars.x[:40], y, likelihood=likelihood, num_epochs=1, progress=False)


def test_regression_trains_and_has_no_accuracy(bars):
    bnn = network(40)
    bnn.likelihood = regression
    y = torch.randn(40, 4)
    record = bbpyro.fit(bnn, bars.x[:40], y, num_epochs=1, held_out=(bars.x[:40], y), progress=False)[0]
    assert math.isfinite(record["held_out_nll"])
    assert not any("accuracy" in name for name in record)


def test_fit_trains_under_no_grad_and_refuses_inference_mode(bars):
    bnn, x, y = tiny(bars)
    before = bnn.net[1].weight.clone()
    with torch.no_grad():
        bbpyro.fit(bnn, x, y, num_epochs=1, progress=False)
    assert not torch.equal(bnn.net[1].weight, before)
    with torch.inference_mode(), pytest.raises(ValueError, match="inference_mode"):
        bbpyro.fit(bnn, x, y, num_epochs=1, progress=False)


def test_batch_norm_counts_every_batch_once(bars):
    net = nn.Sequential(nn.Flatten(), nn.Linear(64, 8), nn.BatchNorm1d(8), nn.Linear(8, 4))
    bnn = bbpyro.BetaBernoulliNetwork(bbpyro.insert_dropout(net), num_data=40)
    bbpyro.fit(bnn, bars.x[:40], bars.y[:40], num_epochs=3, batch_size=20, progress=False)
    assert bnn.net[2].num_batches_tracked == 6


def test_every_minibatch_is_augmented_in_training_and_nothing_else_is(bars):
    seen = []

    def mirror(x):
        seen.append(x.clone())
        return x.flip(-1)

    plain, mirrored = network(40), network(40)
    x, y = bars.x[:40], bars.y[:40]
    settings = {"num_epochs": 2, "batch_size": 20, "seed": 0, "progress": False}
    wanted = bbpyro.fit(plain, x.flip(-1), y, held_out=(x, y), **settings)
    found = bbpyro.fit(mirrored, x, y, held_out=(x, y), augment=mirror, **settings)
    assert without_seconds(found) == without_seconds(wanted)
    assert len(seen) == 4 and torch.equal(torch.cat(seen[:2]).sum(0), x.sum(0))
    bbpyro.pretrain(nn.Sequential(nn.Flatten(), nn.Linear(64, 4)), x, y, augment=mirror, **settings)
    assert len(seen) == 8


def test_random_augmentation_follows_from_the_seed_and_resumes_exactly(bars):
    def shift(x):
        return x.roll(int(torch.randint(3, ())), -1)

    states = []
    x, y = bars.x[:60], bars.y[:60]
    settings = {"num_epochs": 3, "batch_size": 20, "progress": False, "augment": shift}
    first, second = network(60), network(60)
    weights = []

    def keep(state):
        states.append(copy.deepcopy(state))
        weights.append({name: tensor.clone() for name, tensor in first.state_dict().items()})

    wanted = bbpyro.fit(first, x, y, seed=0, on_epoch=keep, **settings)
    second.load_state_dict(weights[0])
    assert without_seconds(bbpyro.fit(second, x, y, resume_from=states[0], **settings)) == without_seconds(wanted)


def conv_network(num_data):
    torch.manual_seed(0)
    net = nn.Sequential(
        nn.Unflatten(1, (1, 8)),
        nn.Conv2d(1, 6, 3),
        nn.BatchNorm2d(6),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(6 * 36, 4),
    )
    return bbpyro.BetaBernoulliNetwork(bbpyro.insert_dropout(net), num_data=num_data)


def test_bf16_is_for_the_products_of_the_network_in_training_alone(bars):
    bnn = conv_network(200)
    products, masks, outputs = set(), set(), set()

    def look(module, args, output):
        products.add((module.training, output.dtype))

    def look_at_masks(module, args, output):
        if module.training:
            masks.add(module.z.dtype)

    def likelihood(output):
        outputs.add(output.dtype)
        return dist.Categorical(logits=output)

    bnn.likelihood = likelihood
    bnn.net[1].register_forward_hook(look)
    for gate in bnn.gates.values():
        gate.register_forward_hook(look_at_masks)
    x, y = bars.x[:200], bars.y[:200]
    history = bbpyro.fit(bnn, x, y, num_epochs=2, precision="bf16", held_out=(x, y), progress=False)
    assert products == {(True, torch.bfloat16), (False, torch.float32)}
    assert masks == outputs == {torch.float32}
    assert {parameter.dtype for parameter in bnn.parameters()} == {torch.float32}
    assert all(math.isfinite(record["loss"]) for record in history)
    assert not bnn.net._forward_hooks and not bnn.net._forward_pre_hooks and not torch.is_autocast_enabled("cpu")


def test_bf16_learns_what_float32_learns(bars):
    losses = {}
    for precision in training.PRECISIONS:
        bnn = conv_network(2000)
        net = nn.Sequential(nn.Flatten(), nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 4))
        before = bbpyro.pretrain(net, bars.x, bars.y, num_epochs=3, seed=0, precision=precision, progress=False)
        history = bbpyro.fit(bnn, bars.x, bars.y, num_epochs=3, seed=0, precision=precision, progress=False)
        losses[precision] = [record["train_nll"] for record in (*before, *history)]
    assert losses["bf16"] != losses["float32"]
    assert losses["bf16"] == pytest.approx(losses["float32"], rel=0.05)


def test_a_forward_that_raises_in_bf16_leaves_autocast_again(bars):
    bnn = conv_network(20)

    def fail(module, args, output):
        if module.training:
            raise KeyError

    bnn.net[1].register_forward_hook(fail)
    with pytest.raises(KeyError):
        bbpyro.fit(bnn, bars.x[:20], bars.y[:20], num_epochs=1, precision="bf16", progress=False)
    assert not torch.is_autocast_enabled("cpu") and not bnn.net._forward_hooks


def test_every_tensor_of_training_is_on_the_networks_device(bars, monkeypatch):
    # The meta device, shapes without numbers, stands in for a GPU: as there, an operation on it and the CPU fails.
    for name, number in (("__bool__", True), ("__int__", 1), ("item", 1.0)):
        on_cpu = getattr(torch.Tensor, name)
        monkeypatch.setattr(torch.Tensor, name, lambda t, f=on_cpu, n=number: n if t.is_meta else f(t))
    monkeypatch.setattr(training.inference, "fused_adam", lambda groups, weight_decay=0.0: torch.optim.SGD(groups))
    x, y = bars.x[:20, None], bars.y[:20]
    plain = nn.Sequential(nn.Conv2d(1, 3, 3), nn.BatchNorm2d(3), nn.ReLU(), nn.Flatten(), nn.Linear(108, 4)).to("meta")
    settings = {"num_epochs": 2, "batch_size": 10, "held_out": (x, y), "augment": data.crop_and_flip, "progress": False}
    bbpyro.pretrain(plain, x, y, **settings)
    for elbo in training.ELBOS:
        bnn = bbpyro.BetaBernoulliNetwork(bbpyro.insert_dropout(plain), num_data=20)
        history = bbpyro.fit(bnn, x, y, elbo=elbo, kl_warmup_epochs=2, shed=False, **settings)  # by numbers
        assert len(history) == 2
    assert {parameter.device.type for parameter in bnn.parameters()} == {"meta"}


def test_a_minibatch_of_one_is_refused_where_batch_norm_is(bars):
    net = nn.Sequential(nn.Flatten(), nn.Linear(64, 8), nn.BatchNorm1d(8), nn.Linear(8, 4))
    x, y = bars.x[:41], bars.y[:41]
    bnn = bbpyro.BetaBernoulliNetwork(bbpyro.insert_dropout(net), num_data=41)
    for train, what in ((bbpyro.pretrain, net), (bbpyro.fit, bnn)):
        for batch_size in (1, 20):
            with pytest.raises(ValueError, match=f"batch_size is {batch_size}: of 41 data that leaves"):
                train(what, x, y, num_epochs=1, batch_size=batch_size, progress=False)
        train(what, x, y, num_epochs=1, batch_size=41, progress=False)


@pytest.mark.parametrize(
    ("argument", "value", "mentions"),
    [
        ("bnn", nn.Linear(3, 2), "bnn is a Linear, wanted a BetaBernoulliNetwork"),
        ("resume_from", "x.pt", "resume_from is 'x.pt', wanted a TrainingState"),
        ("resume_from", {}, "resume_from is {}, wanted a TrainingState"),
    ],
)
def test_what_fit_is_given_of_a_wrong_type_is_named(bars, argument, value, mentions):
    bnn, x, y = tiny(bars)
    arguments = {"bnn": bnn, "x": x, "y": y, "num_epochs": 1, argument: value}
    with pytest.raises(TypeError, match=re.escape(mentions)):
        bbpyro.fit(**arguments)


def test_the_state_of_another_network_is_refused(bars):
    bnn, x, y = tiny(bars)
    states = []
    bbpyro.fit(bnn, x, y, num_epochs=1, progress=False, on_epoch=states.append)
    net = nn.Sequential(nn.Flatten(), nn.Linear(64, 5), nn.ReLU(), nn.Linear(5, 4))
    other = bbpyro.BetaBernoulliNetwork(bbpyro.insert_dropout(net), num_data=len(x))
    with pytest.raises(ValueError, match="resume_from: it is the state of another network"):
        bbpyro.fit(other, x, y, num_epochs=2, resume_from=states[0], progress=False)


@pytest.mark.parametrize("elbo", [Trace_ELBO, "trace", TraceGraph_ELBO()])
def test_an_elbo_module_wants_an_estimator_that_is_differentiable(bars, elbo):
    with pytest.raises(TypeError, match="wanted an estimator with a differentiable loss, such as Trace_ELBO"):
        network(10).elbo_module(elbo)
