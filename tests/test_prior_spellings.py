"""Priors as text: what is read, what is written, and what is said of a text that is neither."""

import sys
from pathlib import Path

import pyro.distributions as dist
import pytest
import torch

import bbpyro
from bbpyro import priors
from bbpyro.priors import keep_probability

EXAMPLES = [
    priors.Beta(0.5, 2.0),
    priors.IndianBuffet(3.5),
    priors.Uniform(),
    priors.Jeffreys(),
    priors.LogitNormal(-4.0, 2.0),
    priors.SpikeAndSlab(0.01, priors.Beta(1e-3, 1.0), priors.Beta(2.0, 1.0)),
    priors.StickBreaking(1.5),
    priors.FixedRate(0.3),
]
ON_WEIGHTS = [priors.Normal(0.1), priors.Laplace(0.2), priors.StudentT(3.0, 0.1), priors.HorseshoeLike(0.01)]


def test_every_prior_has_an_example_here():
    assert {type(prior).__name__ for prior in EXAMPLES} == set(keep_probability.KNOWN)


@pytest.mark.parametrize("prior", EXAMPLES, ids=repr)
def test_what_a_prior_prints_is_read_again(prior):
    assert priors.as_prior(repr(prior)) == prior
    assert priors.spell(prior) == repr(prior) == priors.spell(repr(prior))


@pytest.mark.parametrize("prior", ON_WEIGHTS, ids=repr)
def test_what_a_prior_on_weights_prints_is_read_again(prior):
    assert priors.as_weight_prior(repr(prior)) == prior


@pytest.mark.parametrize(
    ("text", "prior"),
    [
        ("Beta(1e-4,1)", priors.Beta()),
        (" Beta( concentration0=2, concentration1=.5 ) ", priors.Beta(0.5, 2)),
        ("Jeffreys", priors.Jeffreys()),
        ("LogitNormal(-3)", priors.LogitNormal(-3)),
        ("SpikeAndSlab(0.2, slab=Beta(5, 1))", priors.SpikeAndSlab(0.2, slab=priors.Beta(5, 1))),
    ],
)
def test_spellings_are_forgiving(text, prior):
    assert priors.as_prior(text) == prior
    assert priors.spell(text) == priors.spell(prior)


def test_a_mapping_gives_each_gate_its_own():
    text = "{'fc1.*': Jeffreys, '*': IndianBuffet(2)}"
    wanted = {"fc1.*": priors.Jeffreys(), "*": priors.IndianBuffet(2)}
    assert priors.as_prior(text) == wanted == priors.as_prior(wanted)
    assert priors.spell(text) == "{'fc1.*': Jeffreys(), '*': IndianBuffet(2)}" == priors.spell(wanted)


@pytest.mark.parametrize(
    ("text", "mention"),
    [
        ("", "does not parse"),
        ("Beta(", "does not parse"),
        ("Beta(1;2)", "does not parse"),
        ("Bta(1, 2)", "there is no Bta"),
        ("Beta(0, 1)", "Beta: concentration1 is 0"),
        ("Beta(1, 2, 3)", "3 positional arguments"),
        ("Beta(c=1)", "unexpected keyword argument 'c'"),
        ("Beta('x', 1)", "'x' is no prior and no number"),
        ("Beta(True, 1)", "True is no prior and no number"),
        ("Beta(Beta(1, 1), 1)", "concentration1 is Beta"),
        ("SpikeAndSlab(0.5, 1, 2)", "wanted two Beta"),
        ("FixedRate(1)", "p is 1"),
        ("1e-4", "is no prior"),
        ("{}", "is no prior"),
        ("{'a': Jeffreys, 'a': Uniform}", "names a gate twice"),
        ("{'a': {'b': Jeffreys}}", "is no prior"),
        ("{'a': 3}", "3 is no prior"),
        ("[Jeffreys]", "is no prior"),
        ("Beta(*[1, 2])", "is no prior"),
        ("Beta(**{'a': 1})", "is no prior"),
        ("__import__('os').getcwd()", "is no prior"),
        ("Normal(0.1)", "there is no Normal"),
        ("(" * 5000 + "Jeffreys" + ")" * 5000, "does not parse"),
    ],
)
def test_a_text_that_spells_no_prior_is_told_so_with_the_known_spellings(text, mention):
    with pytest.raises(ValueError) as caught:
        priors.as_prior(text)
    assert mention in str(caught.value)
    for known in ("Beta(0.0001, 1)", "IndianBuffet(5)", "StickBreaking(5)", "FixedRate(0.5)", "module:name"):
        assert known in str(caught.value)


def test_no_text_is_run():
    with pytest.raises(ValueError, match="is no prior and no number"):
        priors.as_prior("Beta(__import__('sys').exit(3), 1)")


@pytest.fixture
def module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """A module of the user's, in the working directory."""
    (tmp_path / "my_priors.py").write_text(
        "import torch\nimport pyro.distributions as dist\n"
        "def prior(k):\n    return dist.Beta(torch.full((k,), 0.5), torch.full((k,), 2.0))\n"
        "shared = dist.Uniform(0.0, 1.0)\n"
        "number = 3\n"
        "class Family:\n    made = staticmethod(prior)\n"
    )
    (tmp_path / "broken_priors.py").write_text("1 / 0\n")
    monkeypatch.chdir(tmp_path)
    yield
    sys.modules.pop("my_priors", None)


def test_a_prior_of_ones_own_is_imported_from_the_working_directory(module):
    before = list(sys.path)
    assert priors.as_prior("my_priors:prior")(3).batch_shape == (3,)
    assert priors.as_prior("my_priors:Family.made")(3).mean.tolist() == pytest.approx([0.2] * 3)
    assert priors.as_prior("my_priors:shared")(4).batch_shape == (4,)
    mixed = "{'fc1.*': 'my_priors:prior', '*': Jeffreys}"
    assert priors.as_prior(mixed)["fc1.*"](3).mean.tolist() == pytest.approx([0.2] * 3)
    assert priors.spell(mixed) == "{'fc1.*': 'my_priors:prior', '*': Jeffreys()}"
    assert priors.spell("my_priors:prior") == "my_priors:prior"
    assert sys.path == before


@pytest.mark.parametrize(
    ("text", "mention"),
    [
        ("my_priors:nothing", "no attribute 'nothing'"),
        ("nowhere:prior", "No module named 'nowhere'"),
        ("broken_priors:prior", "ZeroDivisionError"),
        ("my_priors:number", "3 is no prior"),
        ("my_priors:Family", "is no prior"),
    ],
)
def test_what_cannot_be_imported_says_why(module, text, mention):
    with pytest.raises(ValueError, match=mention):
        priors.as_prior(text)


def test_a_prior_that_cannot_be_written_down_says_what_to_do():
    with pytest.raises(ValueError, match="put it into a module and give module:name"):
        priors.spell(lambda k: dist.Beta(torch.ones(k), 1.0))


def test_any_distribution_on_the_unit_interval_is_a_prior():
    net = bbpyro.insert_dropout(torch.nn.Sequential(torch.nn.Linear(3, 2)))
    bnn = bbpyro.BetaBernoulliNetwork(net, num_data=5, prior=dist.Beta(2.0, 3.0))
    assert bnn.prior_of("0.gate").mean.tolist() == pytest.approx([0.4] * 3)
    each = dist.Beta(torch.tensor([1.0, 2.0, 3.0]), 1.0)
    bnn = bbpyro.BetaBernoulliNetwork(net, num_data=5, prior=each)
    assert bnn.prior_of("0.gate").mean.tolist() == pytest.approx([1 / 2, 2 / 3, 3 / 4])


def test_a_module_is_read_as_its_file_is_now_even_within_the_same_second(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for value in (0.1, 0.2, 0.3):  # files of one size
        (tmp_path / "quick.py").write_text(f"from bbpyro.priors import Beta\n\nprior = Beta({value}, 1)\n")
        assert priors.as_prior("quick:prior") == priors.Beta(value, 1)
