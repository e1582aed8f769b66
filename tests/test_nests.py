"""Networks of several inputs, and of outputs of any kind, give the numbers of the same networks of one tensor."""

from collections import OrderedDict, UserDict, namedtuple
from dataclasses import dataclass

import arviz as az
import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro.infer import SVI, Predictive, Trace_ELBO, TraceMeanField_ELBO
from pyro.infer.autoguide import AutoNormal
from torch import nn

import bbpyro
from bbpyro import mcmc, nests, training
from bbpyro.posterior import group, save

N, T = 24, 3
FLOATS, TOKENS = torch.randn(N, 4, generator=torch.Generator().manual_seed(0)), torch.arange(N * T).reshape(N, T) % 7
MASK = torch.arange(N * T).reshape(N, T) % 3 != 0
LABELS, Y = torch.arange(N) % 2, FLOATS[:, 0] - FLOATS[:, 3]


class One(nn.Module):
    """Of one tensor `[N, 4 + 2T]`: four numbers, tokens, and which of them count."""

    def __init__(self):
        super().__init__()
        self.embed = nn.Embedding(7, 2)
        self.hidden, self.head = nn.Linear(6, 5), nn.Linear(5, 2)

    def forward(self, x):
        return self.of(x[:, :4], x[:, 4:-T].long(), x[:, -T:].bool())

    def of(self, floats, tokens, mask):
        words = (self.embed(tokens) * mask[..., None]).sum(1)
        return self.head(torch.tanh(self.hidden(torch.cat((floats, words), 1))))


class Several(One):
    def forward(self, floats, tokens, mask):
        return self.of(floats, tokens, mask)


class Optional(One):
    def forward(self, floats, unused=None, *, tokens, mask=None):
        assert unused is None
        return self.of(floats, tokens, torch.ones_like(tokens).bool() if mask is None else mask)


class Nested(One):
    def forward(self, floats, words):
        return self.of(floats, words["tokens"], words["mask"][0])


class OfItsDict(One):
    def forward(self, batch):
        return self.of(batch.pop("floats"), batch.pop("tokens"), batch.pop("mask"))


class OfItsTuple(One):
    def forward(self, three):
        return self.of(*three)


class OfItsDictAndMore(One):
    def forward(self, batch, *, is_fast=True):
        return self.of(batch["floats"], batch["tokens"], batch["mask"])


@dataclass(frozen=True)
class Batch:
    floats: torch.Tensor
    tokens: torch.Tensor
    mask: torch.Tensor
    name: None = None


class OfItsDataclass(One):
    def forward(self, batch):
        assert batch.name is None
        return self.of(batch.floats, batch.tokens, batch.mask)


Triple = namedtuple("Triple", "floats tokens mask")
THREE, NAMED = (FLOATS, TOKENS, MASK), {"floats": FLOATS, "tokens": TOKENS, "mask": MASK}
JOINED = torch.cat([tensor.float() for tensor in THREE], 1)
WAYS = {
    "tuple": (Several, THREE),
    "list": (Several, list(THREE)),
    "namedtuple": (Several, Triple(*THREE)),
    "dict": (Several, NAMED),
    "dict in another order": (Several, OrderedDict(reversed(NAMED.items()))),
    "another mapping": (Several, UserDict(NAMED)),
    "keywords": (Optional, NAMED),
    "None": (Optional, {**NAMED, "unused": None}),
    "nested": (Nested, (FLOATS, {"tokens": TOKENS, "mask": [MASK]})),
    "a dict whole": (OfItsDict, NAMED),
    "a tuple whole": (OfItsTuple, THREE),
    "a dict whole, beside an option": (OfItsDictAndMore, (NAMED,)),
    "a dataclass": (OfItsDataclass, Batch(*THREE)),
    "one alone": (One, (JOINED,)),
    "one by name": (One, {"x": JOINED}),
}


def network(made, likelihood=None, num_data=N):
    torch.manual_seed(0)
    net = made() if isinstance(made, type) else made
    return bbpyro.BetaBernoulliNetwork(bbpyro.insert_dropout(net), likelihood, num_data=num_data)


def all_of(made, x, y, likelihood=None):
    """The numbers of whatever takes data."""
    settings = {"num_epochs": 2, "batch_size": 10, "held_out": (x, y), "seed": 1, "progress": False}
    bnn, found = network(made, likelihood), {}
    torch.manual_seed(0)
    pretrained = bbpyro.pretrain(made(), x, y, likelihood=likelihood, **settings)
    svi = SVI(bnn.model, bnn.guide, pyro.optim.Adam({"lr": 1e-2}), Trace_ELBO())
    found["SVI"] = [svi.step(x, y) for _ in range(3)]
    fitted = bbpyro.fit(bnn, x, y, gate_learning_rate=0.3, **settings)
    for name, records in (("pretrain", pretrained), ("fit", fitted)):
        found[name] = [[record[key] for key in ("loss", "train_nll", "held_out_nll")] for record in records]
    pyro.set_rng_seed(0)
    found["mean-field"] = TraceMeanField_ELBO().loss(bnn.model, bnn.guide, x, y)
    found["Predictive"] = Predictive(bnn.model, guide=bnn.guide, num_samples=2)(x)["y"]
    found["predict"], found["mean mask"] = (bbpyro.predict(bnn, x, n, batch_size=10) for n in (40, None))
    found["predict one"] = bbpyro.predict(bnn, nests.rows(x, slice(1)), 40)
    found["predictive_draws"] = bbpyro.predictive_draws(bnn, x, 40)
    found["epistemic"] = bbpyro.uncertainty(bnn, x, 40).epistemic
    found["evaluate"], found["elbo"] = bbpyro.evaluate(bnn, x, y, 40).nll, training.elbo(bnn, x, y, batch_size=10)
    found["forward"] = bnn(x)
    idata = bbpyro.to_arviz(bnn, x, y, num_samples=30, num_masks=2, batch_size=10, seed=0, progress=False)
    for name, variable in (("log_likelihood", "y"), ("posterior_predictive", "y"), ("threshold_sweep", "nll")):
        found[f"{name} {variable}"] = group(idata, name)[variable].values
    return found


def numbers(value):
    """Of outputs of whatever kind, one after the other."""
    return [
        torch.as_tensor(np.asarray(leaf.detach() if isinstance(leaf, torch.Tensor) else leaf)) for leaf in leaves(value)
    ]


def leaves(value):
    return list(nests.tensors_of(value)) or [value]


def assert_same(found, expected):
    assert list(found) == list(expected)
    for name, value in found.items():
        for ours, theirs in zip(numbers(value), numbers(expected[name]), strict=True):
            assert torch.equal(ours, theirs), name


@pytest.fixture(scope="module")
def of_one_tensor():
    return all_of(One, JOINED, LABELS)


@pytest.mark.parametrize(("made", "x"), WAYS.values(), ids=WAYS)
def test_a_network_of_several_inputs_gives_the_numbers_of_the_same_one_of_a_joined_tensor(made, x, of_one_tensor):
    assert_same(all_of(made, x, LABELS), of_one_tensor)


def test_what_forward_is_called_with_follows_from_x_and_its_signature():
    one, several = One(), Several()
    assert nests.arguments(one, JOINED) == ((JOINED,), {})
    assert [nests.stars(several, x) for x in (THREE, list(THREE), NAMED, (NAMED,), ())] == ["*", "*", "**", "*", "*"]
    assert [nests.stars(one, x) for x in (THREE, NAMED, (JOINED,), {"x": JOINED}, {"y": JOINED})] == [
        "",
        "",
        "*",
        "**",
        "",
    ]

    class Any(nn.Module):
        def forward(self, *args, **kwargs):
            return args, kwargs

    assert nests.call(Any(), (1, None)) == ((1, None), {})
    assert nests.call(Any(), {"a": 1}) == ((), {"a": 1})


# --- outputs of any kind -----------------------------------------------------------------------------------


class Moments(nn.Module):
    def __init__(self):
        super().__init__()
        self.hidden, self.head = nn.Linear(4, 5), nn.Linear(5, 2)

    def forward(self, x):
        return self.as_output(*self.head(torch.tanh(self.hidden(x))).unbind(1))

    def as_output(self, mean, log_scale):
        return torch.stack((mean, log_scale), 1)


@dataclass
class Output:
    mean: torch.Tensor
    log_scale: torch.Tensor


class AsTuple(Moments):
    def as_output(self, mean, log_scale):
        return mean, log_scale


class AsDict(Moments):
    def as_output(self, mean, log_scale):
        return {"mean": mean, "log_scale": log_scale}


class AsDataclass(Moments):
    def as_output(self, mean, log_scale):
        return Output(mean, log_scale)


OUTPUTS = {
    "tuple": (AsTuple, lambda output: dist.Normal(output[0], output[1].exp())),
    "dict": (AsDict, lambda output: dist.Normal(output["mean"], output["log_scale"].exp())),
    "dataclass": (AsDataclass, lambda output: dist.Normal(output.mean, output.log_scale.exp())),
}


@pytest.mark.parametrize("kind", OUTPUTS)
def test_the_likelihood_gets_an_output_of_any_kind(kind):
    expected = all_of(Moments, FLOATS, Y, lambda output: dist.Normal(output[:, 0], output[:, 1].exp()))
    made, likelihood = OUTPUTS[kind]
    found = all_of(made, FLOATS, Y, likelihood)
    expected["forward"] = list(expected["forward"].unbind(1))
    assert type(found["forward"]) is {"tuple": tuple, "dict": dict, "dataclass": Output}[kind]
    assert_same(found, expected)


@pytest.mark.parametrize("kind", OUTPUTS)
def test_under_bf16_every_tensor_of_an_output_comes_back_as_float32(kind):
    made, likelihood = OUTPUTS[kind]
    types = set()

    def look(output):
        types.update(tensor.dtype for tensor in nests.tensors_of(output))
        return likelihood(output)

    bbpyro.fit(network(made, look), FLOATS, Y, num_epochs=1, precision="bf16", progress=False)
    assert types == {torch.float32}


@pytest.mark.parametrize("kind", ["dict", "dataclass"])
def test_an_output_that_mixes_data_is_refused_of_whatever_kind_it_is(kind):
    made, likelihood = OUTPUTS[kind]

    class Mixing(made):
        def as_output(self, mean, log_scale):
            return super().as_output(mean, log_scale + 10 * mean.mean())

    with pytest.raises(ValueError, match="x: what the network makes of a datum depends on the others in its batch"):
        bbpyro.fit(network(Mixing, likelihood), FLOATS, Y, num_epochs=1, progress=False)


def test_a_likelihood_of_one_tensor_says_what_it_got_instead():
    for kind, what in (("tuple", "a tuple"), ("dict", "a dict"), ("dataclass", "a Output")):
        with pytest.raises(
            ValueError, match=f"^likelihood: it fails on the network's output, {what}, .*; wanted a function"
        ):
            bbpyro.fit(network(OUTPUTS[kind][0]), FLOATS, LABELS, num_epochs=1, progress=False)


class Text(nn.Module):
    """Classes of padded texts: token numbers, by name, with a mask that says which of them are there."""

    def __init__(self):
        super().__init__()
        self.embed = nn.Embedding(7, 4)
        layer = nn.TransformerEncoderLayer(4, 2, 8, dropout=0.0, batch_first=True)
        self.encoder, self.head = nn.TransformerEncoder(layer, 2), nn.Linear(4, 2)

    def forward(self, input_ids, attention_mask=None):
        padding = None if attention_mask is None else attention_mask == 0
        hidden = self.encoder(self.embed(input_ids), src_key_padding_mask=padding)
        return {"logits": self.head(hidden[:, 0]), "hidden": hidden}


class TextOfOne(Text):
    def forward(self, x):
        return super().forward(*x.unflatten(1, (2, T)).unbind(1))


@pytest.mark.filterwarnings("ignore:The PyTorch API of nested tensors")  # by which torch skips padding without gates
def test_a_transformer_takes_whole_numbers_and_a_mask_and_sees_nothing_of_what_is_padded():
    def of_logits(output):
        return dist.Categorical(logits=output["logits"])

    mask = (torch.arange(T) < 1 + torch.arange(N)[:, None] % T).long()
    x = {"input_ids": TOKENS, "attention_mask": mask}
    joined = torch.stack((TOKENS, mask), 1).flatten(1)
    assert_same(all_of(Text, x, LABELS, of_logits), all_of(TextOfOne, joined, LABELS, of_logits))
    bnn = network(Text, of_logits)
    bbpyro.fit(bnn, x, LABELS, num_epochs=1, progress=False)
    other = {**x, "input_ids": torch.where(mask == 1, TOKENS, 6 - TOKENS)}
    assert torch.allclose(bbpyro.predict(bnn, x, None), bbpyro.predict(bnn, other, None))
    assert not torch.allclose(bbpyro.predict(bnn, x, None), bbpyro.predict(bnn, {"input_ids": TOKENS}, None))


# --- what else takes x -------------------------------------------------------------------------------------


def test_nuts_takes_several_inputs_and_whole_numbers():
    class Tiny(nn.Module):
        def __init__(self):
            super().__init__()
            self.embed, self.fc = nn.Embedding(7, 1), nn.Linear(2, 1)

        def forward(self, number, token):
            return self.fc(torch.stack((number, self.embed(token)[:, 0]), 1))[:, 0]

    class TinyOfOne(Tiny):
        def forward(self, x):
            return super().forward(x[:, 0], x[:, 1].long())

    settings = {"num_samples": 4, "warmup_steps": 2, "num_chains": 1, "progress": False}
    number, token = FLOATS[:, 0], TOKENS[:, 0]
    bnn, of_one = (network(made, lambda output: dist.Normal(output, 1.0)) for made in (Tiny, TinyOfOne))
    found = group(mcmc.nuts(bnn, {"token": token, "number": number}, Y, **settings), "posterior")
    expected = group(mcmc.nuts(of_one, torch.stack((number, token.float()), 1), Y, **settings), "posterior")
    assert found.equals(expected)


def test_a_guide_of_the_users_gets_x_as_the_model_does(of_one_tensor):
    found = {}
    for made, x in ((Several, NAMED), (One, JOINED)):
        pyro.clear_param_store()
        bnn = network(made)
        guide = AutoNormal(
            pyro.poutine.block(bnn.model, hide_fn=lambda site: site["name"].endswith((".pi", ".z", "y")))
        )
        pyro.set_rng_seed(0)
        draws = bbpyro.predict(bnn, x, 5, guide=guide), bbpyro.predict(bnn, x, None, guide=guide)
        idata = bbpyro.to_arviz(bnn, x, LABELS, num_samples=5, guide=guide, seed=0, progress=False)
        found[made] = *draws, group(idata, "log_likelihood")["y"].values, group(idata, "threshold_sweep")["nll"].values
    for ours, theirs in zip(*found.values(), strict=True):
        assert np.array_equal(ours, theirs)


def test_every_input_is_in_constant_data_under_its_name_and_in_a_file(tmp_path):
    bnn = network(Nested)
    x = (FLOATS, {"tokens": TOKENS, "mask": [MASK]})
    idata = bbpyro.to_arviz(bnn, x, LABELS, num_samples=4, progress=False)
    save(idata, tmp_path / "posterior.nc")
    for held in (idata, az.from_netcdf(tmp_path / "posterior.nc")):
        data = group(held, "constant_data")
        assert set(data.data_vars) == {"x.0", "x.1.tokens", "x.1.mask.0"}
        assert data["x.1.tokens"].dims == ("datum", "x.1.tokens_dim_0")
        for name, tensor in (("x.0", FLOATS), ("x.1.tokens", TOKENS), ("x.1.mask.0", MASK)):
            assert np.array_equal(data[name].values, tensor.numpy()) and len(data["datum"]) == N


class Images(nn.Module):
    """Of images and a table."""

    def __init__(self):
        super().__init__()
        self.pixels, self.table, self.head = nn.Linear(12, 3), nn.Linear(4, 3), nn.Linear(3, 2)

    def forward(self, images, table):
        return self.head(torch.tanh(self.pixels(images.flatten(1)) + self.table(table)))


def test_gates_on_one_of_several_inputs_know_its_pixels_and_its_features():
    names = [f"feature {i}" for i in range(4)]
    x = {"table": FLOATS, "images": torch.rand(N, 3, 4)}
    guide = group(bbpyro.to_arviz(network(Images), x, num_samples=2, feature_names=names, progress=False), "guide")
    assert guide["pixels.gate_row"].values.tolist() == np.repeat(range(3), 4).tolist()
    assert guide["table.gate_name"].values.tolist() == names
    assert not {"table.gate_row", "head.gate_row", "pixels.gate_name"} & set(guide.coords)
    with pytest.raises(ValueError, match="feature_names: it holds 5 names, wanted 4 or 12, the features of x"):
        bbpyro.to_arviz(network(Images), x, num_samples=2, feature_names=[*names, "one more"], progress=False)


def test_the_figure_of_predictions_shows_the_images_among_the_inputs():
    x = {"table": FLOATS, "images": torch.rand(N, 3, 4)}
    idata = bbpyro.to_arviz(network(Images), x, LABELS, num_samples=2, progress=False)
    shown = bbpyro.plots.predictions(idata, num_each=1).axes[0]
    datum = int(shown.get_title().split()[1].rstrip(":"))
    assert np.array_equal(shown.images[0].get_array(), x["images"][datum].numpy())
    idata = bbpyro.to_arviz(network(Several), NAMED, LABELS, num_samples=2, progress=False)
    with pytest.raises(ValueError, match=r"idata: x.floats has shape \(24, 4\), x.tokens .*, wanted images \[N, rows"):
        bbpyro.plots.predictions(idata)


def test_augmentation_changes_a_nest_and_leaves_it_its_rows():
    x = {"table": FLOATS, "images": torch.rand(N, 3, 4)}
    images, seen = x["images"].clone(), []

    def mirror(batch):
        batch["images"] = batch["images"].flip(-1)
        seen.append(len(batch["table"]))
        return batch

    settings = {"num_epochs": 2, "batch_size": 10, "seed": 0, "progress": False}
    mirrored = {**x, "images": images.flip(-1)}
    found = bbpyro.fit(network(Images), x, LABELS, augment=mirror, **settings)
    expected = bbpyro.fit(network(Images), mirrored, LABELS, **settings)
    assert [record["loss"] for record in found] == [record["loss"] for record in expected]
    assert seen == [10, 10, 4, 10, 10, 4] and torch.equal(x["images"], images)
    message = r"augment: of a minibatch \{'table': \[10, 4\], 'images': \[10, 3, 4\]\} it made "
    for wrong, got in (
        (lambda batch: {**batch, "images": batch["images"][:2]}, r"\{'table': \[10, 4\], 'images': \[2, 3, 4\]\}"),
        (lambda batch: None, "NoneType"),
    ):
        with pytest.raises(ValueError, match=f"{message}{got}, wanted as many data"):
            bbpyro.fit(network(Images), x, LABELS, augment=wrong, **settings)


# --- what is refused ---------------------------------------------------------------------------------------

DATA = {
    "fit": lambda bnn, x: bbpyro.fit(bnn, x, LABELS, num_epochs=1, progress=False),
    "pretrain": lambda bnn, x: bbpyro.pretrain(Several(), x, LABELS, num_epochs=1, progress=False),
    "predict": lambda bnn, x: bbpyro.predict(bnn, x, num_samples=2),
    "predictive_draws": lambda bnn, x: bbpyro.predictive_draws(bnn, x, 2),
    "evaluate": lambda bnn, x: bbpyro.evaluate(bnn, x, LABELS, num_samples=2),
    "elbo": lambda bnn, x: training.elbo(bnn, x, LABELS),
    "to_arviz": lambda bnn, x: bbpyro.to_arviz(bnn, x, num_samples=2, progress=False),
}
SHAPES = (
    "x[0] has shape [N, 4] and dtype torch.float32, x[1] has shape [N, 3] and dtype torch.int64, which the network "
)
REFUSED = [
    (
        {**NAMED, "mask": MASK.numpy()},
        'x["mask"] is a ndarray, wanted a tensor; torch.as_tensor makes one: torch.as_tensor(x["mask"])',
    ),
    (
        (FLOATS, TOKENS.tolist(), MASK),
        "x[1] is a list, wanted a tensor; torch.as_tensor makes one: torch.as_tensor(x[1])",
    ),
    (
        {"floats": [1.0]},
        'x["floats"] is a list, wanted a tensor; torch.as_tensor makes one: torch.as_tensor(x["floats"])',
    ),
    (
        {**NAMED, "causal": True},
        'x["causal"] is a bool, wanted a tensor; what forward goes by beside the data is for the network itself to '
        "hold",
    ),
    ([[1.0, 2.0], [3.0, 4.0]], "x is a list, wanted a tensor; torch.as_tensor makes one: torch.as_tensor(x)"),
    ((), "x is a tuple that holds no tensor, wanted at least one"),
    ({"a": None}, "x is a dict that holds no tensor, wanted at least one"),
    ((FLOATS, TOKENS[:7]), "x[1] has 7 data where x[0] has 24; wanted a row for each datum in both"),
    ((FLOATS, {"tokens": torch.tensor(3)}), 'x[1]["tokens"] is a single number, wanted a row for each datum, [N, ...]'),
    (
        Batch(FLOATS, TOKENS, MASK.to_sparse()),
        "x.mask is a sparse_coo tensor, wanted a dense one; x.mask.to_dense() makes one",
    ),
    ((FLOATS[:0], TOKENS[:0], MASK[:0]), "x[0] has shape (0, 4), wanted at least one datum, [N, ...]"),
    ((FLOATS, TOKENS, MASK / 0), "x[2]: it holds nan or inf; remove or replace those data"),
    (
        (FLOATS.to("meta"), TOKENS, MASK),
        "x[0] is on the meta device, where tensors hold no numbers; load it onto the CPU or a GPU",
    ),
    (
        (FLOATS.double(), TOKENS, MASK),
        "x[0] has shape [N, 4] and dtype torch.float64, which the network cannot take: its own numbers are "
        "torch.float32; give x[0].float(), or make the network torch.float64 by net.double()",
    ),
    (
        {**NAMED, "tokens": TOKENS.float()},
        'x["tokens"] has shape [N, 3] and dtype torch.float32, which the network cannot take: it wants whole numbers; '
        'give x["tokens"].long()',
    ),
    (
        FLOATS,
        "x: the network's forward wants more than one input (Several.forward() missing 2 required positional "
        "arguments: 'tokens' and 'mask'); give them as a tuple, or as a dict by its names for them",
    ),
    (
        (FLOATS, TOKENS),
        f"{SHAPES}cannot take as net(*x) (Several.forward() missing 1 required positional argument: 'mask'); "
        "wanted data like those it was made for",
    ),
    (
        {"floats": FLOATS, "maks": MASK},
        'x["floats"] has shape [N, 4] and dtype torch.float32, x["maks"] has shape [N, 3] and dtype torch.bool, which '
        "the network cannot take as net(**x) (Several.forward() got an unexpected keyword argument 'maks'); wanted "
        "data like those it was made for",
    ),
]


@pytest.mark.parametrize(("x", "message"), REFUSED)
@pytest.mark.parametrize("name", DATA)
def test_a_nest_that_cannot_be_data_is_refused_with_the_place(name, x, message):
    with pytest.raises((TypeError, ValueError)) as caught:
        DATA[name](network(Several), x)
    assert str(caught.value) == message


@pytest.mark.parametrize("name", DATA)
@pytest.mark.parametrize("token", [-1, 7])
def test_a_token_that_the_network_does_not_know_is_found_wherever_it_is(name, token):
    tokens = TOKENS.clone()
    tokens[17, 1] = token
    held = f'x\\["tokens"\\] holds {min(token, 0)} to {max(token, 6)}; x'
    with pytest.raises(ValueError, match=rf"^{held}.* cannot take as net\(\*\*x\) \(IndexError: index out of range"):
        DATA[name](network(Several), {**NAMED, "tokens": tokens})


def test_a_key_that_a_networks_own_dict_lacks_is_named():
    bnn = network(OfItsDictAndMore)
    with pytest.raises(ValueError, match=r"cannot take as net\(\*x\) \(KeyError: 'mask'\); wanted data like"):
        bbpyro.predict(bnn, ({"floats": FLOATS, "tokens": TOKENS},))
    with pytest.raises(ValueError, match=r"net\(\*\*x\) \(.*unexpected keyword argument 'floats'\)"):
        bbpyro.predict(bnn, NAMED)


def test_a_row_too_few_is_told_of_y_too_and_a_list_of_data_to_be_stacked():
    bnn = network(Several)
    with pytest.raises(
        ValueError, match="x and y: lengths are 24 and 23; .* wanted one row for each of the 24 data of x$"
    ):
        bbpyro.fit(bnn, THREE, LABELS[1:], num_epochs=1, progress=False)
    with pytest.raises(
        ValueError, match=r"lengths are 4 and 24; .*; torch.stack\(x\) makes one tensor of one for each"
    ):
        bbpyro.fit(bnn, list(FLOATS), LABELS, num_epochs=1, progress=False)
    with pytest.raises(ValueError, match=r"x: it holds 24 data but the network was made for num_data=25"):
        bbpyro.fit(network(Several, num_data=25), THREE, LABELS, num_epochs=1, progress=False)


def test_held_out_data_are_a_nest_like_the_others():
    with pytest.raises(ValueError, match=r'held_out\[0\]\["mask"\] has 7 data where held_out\[0\]\["floats"\] has 24'):
        held_out = {**NAMED, "mask": MASK[:7]}, LABELS
        bbpyro.fit(network(Several), THREE, LABELS, num_epochs=1, held_out=held_out, progress=False)
