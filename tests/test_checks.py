import copy

import numpy as np
import pandas as pd
import pyro.distributions as dist
import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

import bbpyro
from bbpyro import training

N = 12


def network(net=None, likelihood=None):
    net = net or nn.Sequential(nn.Linear(4, 3), nn.Tanh(), nn.Linear(3, 2))
    return bbpyro.BetaBernoulliNetwork(bbpyro.insert_dropout(net), likelihood, num_data=N)


def flat(num_inputs=4):
    """A number for each datum."""
    return nn.Sequential(nn.Linear(num_inputs, 3), nn.Tanh(), nn.Linear(3, 1), nn.Flatten(0))


def normal(output):
    return dist.Normal(output, 0.5)


def bernoulli(output):
    return dist.Bernoulli(logits=output)


torch.manual_seed(0)
X, LABELS = torch.randn(N, 4), torch.arange(N) % 2

TAKES_XY = {
    "fit": lambda bnn, x, y: bbpyro.fit(bnn, x, y, num_epochs=1, progress=False),
    "pretrain": lambda bnn, x, y: bbpyro.pretrain(
        nn.Linear(4, 2), x, y, likelihood=bnn.likelihood, num_epochs=1, progress=False
    ),
    "evaluate": lambda bnn, x, y: bbpyro.evaluate(bnn, x, y, num_samples=2),
    "to_arviz": lambda bnn, x, y: bbpyro.to_arviz(bnn, x, y, num_samples=2, progress=False),
    "elbo": training.elbo,
    "nuts": lambda bnn, x, y: bbpyro.mcmc.nuts(bnn, x, y, num_samples=4, warmup_steps=1, num_chains=1, progress=False),
}
TAKES_X = {
    "predict": lambda bnn, x: bbpyro.predict(bnn, x, num_samples=2),
    "compact": bbpyro.compact,
    **{name: lambda bnn, x, call=call: call(bnn, x, LABELS) for name, call in TAKES_XY.items()},
}
NO_TENSORS = [
    (X.numpy(), "is a ndarray, wanted a tensor.*torch.as_tensor"),
    (pd.DataFrame(X.numpy()), r"is a DataFrame, wanted a tensor; torch.as_tensor\(.*to_numpy\(copy=True\)\)"),
    (X.tolist(), r"is a list, wanted a tensor.*torch.as_tensor"),
    (DataLoader(TensorDataset(X, LABELS)), "is a DataLoader, wanted a tensor; pass the tensors"),
    (TensorDataset(X, LABELS), "is a TensorDataset, wanted a tensor; pass the tensors"),
]


@pytest.mark.parametrize(("x", "message"), NO_TENSORS)
@pytest.mark.parametrize("call", TAKES_X.values(), ids=TAKES_X)
def test_what_is_no_tensor_is_refused_everywhere_with_the_way_to_make_one(call, x, message):
    with pytest.raises(TypeError, match=f"(x|example_input) {message}"):
        call(network(), x)


NO_Y = [
    NO_TENSORS[0],
    NO_TENSORS[1],
    (pd.Series([0] * N), "is a Series"),
    ((LABELS, LABELS), "is a tuple, wanted a tensor; torch.stack or torch.cat makes one of several"),
]


@pytest.mark.parametrize(("y", "message"), NO_Y)
@pytest.mark.parametrize("call", TAKES_XY.values(), ids=TAKES_XY)
def test_a_y_that_is_no_tensor_is_refused_everywhere(call, y, message):
    with pytest.raises(TypeError, match=f"y {message}"):
        call(network(), X, y)


@pytest.mark.parametrize(
    ("held_out", "error", "message"),
    [
        (X, TypeError, r"held_out is a Tensor, wanted a pair of tensors, \(x, y\)"),
        (DataLoader(TensorDataset(X)), TypeError, "held_out is a DataLoader, wanted a pair"),
        ((X.numpy(), LABELS), TypeError, r"held_out\[0\] is a ndarray"),
        ((X, LABELS.numpy()), TypeError, r"held_out\[1\] is a ndarray"),
        ((X, LABELS[1:]), ValueError, r"held_out\[0\] and held_out\[1\]: lengths are 12 and 11"),
        ((X[:, 1:], LABELS), ValueError, r"held_out\[0\] has shape \[N, 3\]"),
    ],
)
def test_held_out_data_are_checked_too(held_out, error, message):
    with pytest.raises(error, match=message):
        bbpyro.fit(network(), X, LABELS, num_epochs=1, held_out=held_out, progress=False)
    with pytest.raises(error, match=message):
        bbpyro.pretrain(nn.Linear(4, 2), X, LABELS, num_epochs=1, held_out=held_out, progress=False)


@pytest.mark.parametrize(
    ("x", "message"),
    [
        (
            X.double(),
            r"float64, which the network cannot take: .*float32; give x.float\(\), or .* net.double\(\)",
        ),
        (X.half(), r"x.float\(\), or .* net.half\(\)"),
        (LABELS[:, None].expand(N, 4), r"int64, which the network cannot take: .*; give x.float\(\)$"),
        (X > 0, r"torch.bool, .* give x.float\(\)$"),
        (X.to_sparse(), r"x is a sparse_coo tensor, wanted a dense one; x.to_dense\(\)"),
        (torch.complex(X, X), "x is complex, wanted real numbers"),
        (torch.tensor(1.0), r"x is a single number, wanted a row for each datum"),
        (X[:0], r"x has shape \(0, 4\), wanted at least one datum"),
        (X[:, :3], r"x has shape \[N, 3\] and dtype torch.float32, which the network cannot take .*wanted data like"),
        (X.to("meta"), "x is on the meta device, where tensors hold no numbers"),
        (torch.full_like(X, torch.inf), "x: it holds nan or inf"),
    ],
)
@pytest.mark.parametrize("name", ["fit", "pretrain", "predict", "evaluate", "to_arviz", "elbo"])
def test_an_x_the_network_cannot_take_is_refused_in_one_sentence(name, x, message):
    with pytest.raises(ValueError, match=message):
        TAKES_X[name](network(), x)


def test_an_example_of_the_wrong_type_is_refused_in_one_sentence():
    with pytest.raises(ValueError, match=r"example_input has .*float64, .* give example_input.float\(\), or make"):
        bbpyro.compact(network(), X.double())


def test_a_network_of_doubles_says_so():
    with pytest.raises(ValueError, match=r"own numbers are torch.float64; give x.double\(\), or .* net.float\(\)"):
        bbpyro.predict(network().double(), X)
    assert bbpyro.predict(network().double(), X.double(), num_samples=2).dtype == torch.float64


def test_token_numbers_go_into_an_embedding_and_nothing_else_does():
    net = nn.Sequential(nn.Embedding(5, 4), nn.Flatten(), nn.Linear(8, 2))
    tokens = torch.arange(2 * N).reshape(N, 2) % 5
    bbpyro.fit(network(net), tokens, LABELS, num_epochs=1, progress=False)
    for train, made in ((bbpyro.fit, network(net)), (bbpyro.pretrain, net)):
        with pytest.raises(ValueError, match=r"float32, .* it wants whole numbers; give x.long\(\)"):
            train(made, tokens.float(), LABELS, num_epochs=1, progress=False)


# --- y and the likelihood ----------------------------------------------------------------------------------

Y = X[:, 0]


@pytest.mark.parametrize(
    ("net", "likelihood", "y", "message"),
    [
        (None, None, nn.functional.one_hot(LABELS), r"y is one-hot, and y.argmax\(-1\) makes labels"),
        (None, None, nn.functional.one_hot(LABELS).float(), r"y is one-hot, and y.argmax\(-1\) makes labels"),
        (None, None, LABELS[:, None], r"wanted one datum a row, so give y.squeeze\(-1\)"),
        (None, None, LABELS[1:], "x and y: lengths are 12 and 11"),
        (None, None, torch.full((N,), 2), "y holds labels 2 to 2, wanted 0 to 1"),
        (nn.Linear(4, 1), None, LABELS, "labels 0 to 1, wanted 0 to 0; .*Bernoulli"),
        (flat(), bernoulli, LABELS.bool(), r"y is torch.bool, of which Bernoulli has no density; give y.float\(\)"),
        (flat(), bernoulli, LABELS, r"y is torch.int64, of which Bernoulli has no density; give y.float\(\)"),
        (flat(), bernoulli, 2.0 * LABELS, "y holds 2, which no Bernoulli gives; wanted 0 or 1"),
        (flat(), lambda o: dist.Poisson(o.exp()), Y.abs(), "which no Poisson gives; wanted whole numbers from 0 on"),
        (flat(), lambda o: dist.Gamma(o.exp(), 1.0), -Y.abs(), "which no Gamma gives; wanted numbers from 0 on"),
        (nn.Linear(4, 1), normal, Y, r"flatten the network's output, by nn.Flatten\(0\).*squeeze\(-1\).*to_event\(1\)"),
        (flat(), normal, Y[:, None], r"so give y.squeeze\(-1\)"),
        (nn.Linear(4, 2), normal, X[:, :2], r"the rest as .to_event\(1\)"),
        (flat(), lambda o: dist.Normal(o, 1.0).to_event(1), Y, "wanted one datum a row"),
        (flat(), normal, Y.to(torch.complex64), "y is complex, wanted real numbers"),
        (flat(), normal, Y.to_sparse(), "y is a sparse_coo tensor"),
        (flat(), normal, Y / 0, "y: it holds nan or inf"),
        (flat(), lambda o: dist.Normal(o, -o.exp()), Y, "likelihood: it fails .*scale.*softplus or exp"),
        (flat(), lambda o: dist.Normal(o), Y, "likelihood: it fails .*scale"),
    ],
)
@pytest.mark.parametrize("name", ["fit", "evaluate", "to_arviz"])
def test_a_y_the_likelihood_cannot_take_is_refused_with_the_remedy(name, net, likelihood, y, message):
    with pytest.raises(ValueError, match=message):
        TAKES_XY[name](network(net, likelihood), X + torch.arange(N)[:, None] * 0.0, y)


@pytest.mark.parametrize(
    ("likelihood", "message"),
    [
        (nn.MSELoss(), r"likelihood is MSELoss\(\), a loss; wanted a function .* dist.Normal\(output, 1.0\)"),
        (nn.CrossEntropyLoss(), r"likelihood is CrossEntropyLoss\(\), a loss"),
        ("Normal", "likelihood is a str, wanted a function"),
        (lambda output: output, "likelihood gives a Tensor, wanted a function"),
        (
            lambda output: torch.distributions.Normal(output, 1.0),
            "torch's Normal, wanted Pyro.s: pyro.dist",
        ),
    ],
)
def test_what_is_no_likelihood_is_refused(likelihood, message):
    with pytest.raises(TypeError, match=message):
        bbpyro.fit(network(flat(), likelihood), X, Y, num_epochs=1, progress=False)
    with pytest.raises(TypeError, match=message):
        bbpyro.pretrain(flat(), X, Y, likelihood=likelihood, num_epochs=1, progress=False)


def test_labels_as_booleans_and_counts_as_whole_numbers_are_taken():
    bbpyro.fit(network(), X, LABELS.bool(), num_epochs=1, progress=False)
    bbpyro.fit(network(flat(), lambda o: dist.Poisson(o.exp())), X, LABELS, num_epochs=1, progress=False)


# --- the data's dimension ----------------------------------------------------------------------------------


class TimeFirst(nn.Module):
    """Series `[N, T, 4]`, the layers of which see them as `[T, N, ...]`."""

    def __init__(self, kind):
        super().__init__()
        self.rnn = nn.LSTM(4, 3) if kind == "lstm" else nn.Linear(4, 3)
        self.head = nn.Linear(3, 2)

    def forward(self, x):
        hidden = self.rnn(x.transpose(0, 1))
        hidden = hidden[0] if isinstance(hidden, tuple) else torch.tanh(hidden)
        return self.head(hidden).mean(0)


class BatchFirst(TimeFirst):
    def __init__(self):
        super().__init__("linear")

    def forward(self, x):
        return self.head(torch.tanh(self.rnn(x))).mean(1)


class Folded(TimeFirst):
    def __init__(self):
        super().__init__("linear")

    def forward(self, x):
        patches = torch.tanh(self.rnn(x.flatten(0, 1)))
        return self.head(patches).unflatten(0, x.shape[:2]).mean(1)


@pytest.mark.parametrize("num_steps", [2, 3, 5, N])
@pytest.mark.parametrize("net", [TimeFirst("lstm"), TimeFirst("linear"), Folded()], ids=["lstm", "linear", "folded"])
def test_a_network_whose_gates_do_not_see_the_data_first_is_refused_whatever_the_batch(net, num_steps):
    x, bnn = torch.randn(N, num_steps, 4), network(net)
    for batch_size in (num_steps, 5):
        with pytest.raises(ValueError, match="the gate '(rnn|head).gate' gets an input of shape .*batch first"):
            bbpyro.fit(bnn, x, LABELS, num_epochs=1, batch_size=batch_size, progress=False)
    with pytest.raises(ValueError, match="batch first"):
        bbpyro.predict(bnn, x, num_samples=1)


class OverTheData(nn.Module):
    """Series `[N, T, 4]`, of which a layer takes N for time, as nn.LSTM does unless it is told otherwise."""

    def __init__(self, layer, batch_first):
        super().__init__()
        self.layer = {
            "lstm": lambda: nn.LSTM(4, 4, batch_first=batch_first),
            "gru": lambda: nn.GRU(4, 4, batch_first=batch_first),
            "attention": lambda: nn.TransformerEncoderLayer(4, 1, 8, batch_first=batch_first),
        }[layer]()
        self.head = nn.Linear(4, 2)

    def forward(self, x):
        hidden = self.layer(x)
        return self.head(hidden[0] if isinstance(hidden, tuple) else hidden).mean(1)


@pytest.mark.parametrize("layer", ["lstm", "gru", "attention"])
def test_a_layer_that_runs_over_the_data_is_refused(layer):
    x = torch.randn(N, 5, 4)
    net = OverTheData(layer, batch_first=False)
    for train, made in ((bbpyro.fit, network(net)), (bbpyro.pretrain, net)):
        with pytest.raises(ValueError, match="x: what .* depends on the others in its batch.*batch first"):
            train(made, x, LABELS, num_epochs=1, progress=False)
    bbpyro.fit(network(OverTheData(layer, batch_first=True)), x, LABELS, num_epochs=1, progress=False)


def test_a_network_with_noise_of_its_own_is_not_taken_for_one_that_mixes_data():
    class Noisy(nn.Module):
        def forward(self, x):
            return x + torch.randn_like(x)

    bbpyro.fit(network(nn.Sequential(nn.Linear(4, 2), Noisy())), X, LABELS, num_epochs=1, progress=False)
    of_batches = nn.Sequential(nn.Linear(4, 3), nn.BatchNorm1d(3, track_running_stats=False), nn.Linear(3, 2))
    bbpyro.fit(network(of_batches), X, LABELS, num_epochs=1, batch_size=6, progress=False)


@pytest.mark.parametrize("num_steps", [1, 2, 3])
def test_a_network_that_is_batch_first_is_taken(num_steps):
    bbpyro.fit(network(BatchFirst()), torch.randn(N, num_steps, 4), LABELS, num_epochs=1, progress=False)


def test_checking_leaves_batch_norm_the_generator_and_the_mode_as_they_were():
    class Noisy(nn.Module):
        def forward(self, x):
            return x + torch.randn_like(x)

    net = nn.Sequential(nn.Linear(4, 3), nn.BatchNorm1d(3), Noisy(), nn.Dropout(), nn.Linear(3, 2))
    bnn = network(net).train()
    bnn.net[3].eval()
    state, before = torch.get_rng_state(), {name: t.clone() for name, t in bnn.state_dict().items()}
    bbpyro.checks.check_data(bnn, bnn.likelihood, X, LABELS, N)
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(t, before[name]) for name, t in bnn.state_dict().items())
    assert [m.training for m in bnn.net] == [True, True, True, False, True]
    assert not any(gate._forward_pre_hooks for gate in bnn.gates.values())


def test_data_of_one_are_tried_as_two():
    bnn = network()
    assert bbpyro.predict(bnn, X[:1], num_samples=2).shape == (1, 2)


def test_what_is_not_finite_in_the_network_is_for_training_to_report():
    bnn = network(flat(), normal)
    with torch.no_grad():
        bnn.net[2].bias[0] = torch.nan
    with pytest.raises(training.NonFiniteLossError):
        bbpyro.fit(bnn, X, Y, num_epochs=1, progress=False)


def test_numpy_and_pandas_are_taken_as_the_message_says():
    x = torch.as_tensor(pd.DataFrame(np.ones((N, 4))).to_numpy(copy=True)).float()
    assert bbpyro.predict(network(), x, num_samples=1).shape == (N, 2)


@pytest.mark.parametrize("name", sorted(set(TAKES_XY) - {"to_arviz"}))
def test_y_is_wanted(name):
    with pytest.raises(TypeError, match="y is None, wanted a tensor"):
        TAKES_XY[name](network(), X, None)


def test_numbers_are_whole():
    for options in ({"num_samples": 2.5}, {"num_samples": "a"}, {"batch_size": 2.5}, {"batch_size": True}):
        with pytest.raises(TypeError, match=f"{next(iter(options))} is .*, wanted a whole number, at least 1"):
            bbpyro.predict(network(), X, **options)
        with pytest.raises(TypeError, match=f"{next(iter(options))} is .*, wanted a whole number, at least 1"):
            bbpyro.to_arviz(network(), X, **{"progress": False, "num_predictive_samples": 1, **options})
    assert bbpyro.predict(network(), X, num_samples=np.int64(2)).shape == (N, 2)
    with pytest.raises(ValueError, match="batch_size is 0"):
        training.elbo(network(), X, LABELS, batch_size=0)
    for name in ("num_epochs", "batch_size"):
        with pytest.raises(TypeError, match=f"{name} is 1.5, wanted a whole number"):
            bbpyro.fit(network(), X, LABELS, **{"num_epochs": 1, name: 1.5}, progress=False)


@pytest.mark.parametrize("call", [TAKES_X[name] for name in TAKES_X if name != "pretrain"])
def test_a_network_without_numbers_is_refused_with_two_ways_to_give_it_some(call):
    def made() -> bbpyro.BetaBernoulliNetwork:
        net = nn.Sequential(nn.Linear(4, 2), nn.ReLU(), nn.Linear(2, 2))
        return bbpyro.BetaBernoulliNetwork(
            bbpyro.insert_dropout(net), num_data=N, prior="Beta(1, 1)", weight_prior="Normal(1)"
        )

    bnn, trained = made().to("meta"), made()
    with pytest.raises(ValueError, match=r"net is on the meta device, .*load_state_dict\(…, assign=True\).*to_empty"):
        call(bnn, X)
    emptied = copy.deepcopy(bnn).to_empty(device="cpu")
    emptied.load_state_dict(trained.state_dict())
    bnn.load_state_dict(trained.state_dict(), assign=True)
    for filled in (emptied, bnn):
        call(filled, X)


def test_a_programs_default_device_does_not_decide_where_data_are_shuffled_and_networks_compared():
    bnn, net = network(flat()), nn.Linear(4, 2)
    with torch.no_grad():
        bnn.gates["0.gate"].unconstrained_concentration1[:2] = -20
    with torch.device("meta"):
        bbpyro.pretrain(net, X, LABELS, num_epochs=1, seed=0, progress=False)
        assert bbpyro.compact(bnn, X)(X).shape == (N,)


def test_quantized_data_are_refused_with_the_way_back():
    x = torch.ops.aten.quantize_per_tensor(X, 0.1, 0, torch.qint8)
    with pytest.raises(ValueError, match=r"x is quantized, wanted plain numbers; x.dequantize\(\) makes them"):
        bbpyro.predict(network(nn.Linear(4, 2)), x)
