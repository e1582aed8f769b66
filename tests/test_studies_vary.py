"""Studies of other settings than the prior: what varies, what its folders are called, and what its tables say."""

import io
import json
import re
import shutil
import tomllib
import warnings
from pathlib import Path
from typing import Any

import matplotlib.colors
import matplotlib.image
import numpy as np
import pandas as pd
import pytest
from rich.console import Console

import bbpyro
from bbpyro import data, plots, posterior, priors, runs, studies
from bbpyro.cli import main, report
from bbpyro.posterior import container
from bbpyro.studies import StudyConfig, axes, figures, folder, tables

PRIOR = "Beta(0.0001, 1)"
SHORT: dict[str, Any] = {"pretrain_epochs": 1, "batch_size": 50}
POINTS: dict[str, Any] = {
    "tight": {"gate_learning_rate": 0.005, "epochs": 120},
    "loose": {"gate_learning_rate": 0.05, "epochs": 60, "prior": "Jeffreys"},
}


@pytest.fixture(scope="module")
def npz(tmp_path_factory: pytest.TempPathFactory) -> str:
    path = tmp_path_factory.mktemp("data") / "bars.npz"
    bars = data.bars(num_train=80, num_test=50)
    np.savez(path, **{name: getattr(bars, name).numpy() for name in ("x", "y", "x_test", "y_test")})
    return str(path)


@pytest.fixture(scope="module")
def made(npz: str, tmp_path_factory: pytest.TempPathFactory) -> studies.Study:
    """A study of two numbers of epochs, each on two folds."""
    return bbpyro.compare(
        [PRIOR],
        vary={"epochs": [1, 2], "validation-fold": [0, 1]},
        seeds=1,
        folder=tmp_path_factory.mktemp("study") / "study",
        progress=False,
        dataset=npz,
        validation_size=20,
        **SHORT,
    )


def config(**settings: Any) -> StudyConfig:
    return StudyConfig.from_json({"dataset": "bars", **settings})


def folders(**settings: Any) -> list[str]:
    return list(config(seeds=1, **settings).tasks())


def invented(**settings: Any) -> studies.Study:
    """A study that was never trained, with a number of its own for the error of each run."""
    chosen = config(**{"dataset": "mnist", "seeds": 2, **settings})
    results = {}
    for i, (name, run) in enumerate(chosen.tasks().items()):
        scores = dict.fromkeys(("nll", "ece", "nll_monte_carlo", "elbo", "elpd_loo"), 0.04)
        costs = {"macs_left": 0.1 + 0.01 * i, "parameters_left": 0.15, "seconds": 60.0}
        layers = {"fc1": 784, "fc2": 500} if run.network == "lenet-500-300" else {"conv1": 20}
        total = {f"{layer}.gate": units for layer, units in layers.items()}
        kept = {gate: 10 + i for gate in total}
        scored_on = {"scored_on": run.scored_on, "error": 0.01 + 0.001 * i}
        results[name] = {**scores, **costs, **scored_on, "kept": kept, "total": total}
    return studies.Study(Path("study"), chosen, results, [])


def printed(study: studies.Study) -> str:
    out = io.StringIO()
    report.print_study(Console(file=out, width=80), study)
    return out.getvalue()


# --- what is trained ---------------------------------------------------------------------------------------


def test_a_study_is_the_product_of_its_axes() -> None:
    chosen = config(prior=[PRIOR, "Jeffreys"], vary={"gate_learning_rate": [0.005, 0.01], "epochs": [60, 120]}, seeds=2)
    tasks = chosen.tasks()
    found = [(run.prior, run.gate_learning_rate, run.epochs, run.seed) for run in tasks.values()]
    wanted = [(p, g, e, s) for p in (PRIOR, "Jeffreys()") for g in (0.005, 0.01) for e in (60, 120) for s in (0, 1)]
    assert found == wanted
    assert list(tasks)[0] == "beta-0.0001-1/gate-learning-rate=0.005,epochs=60/seed-0"
    assert list(tasks)[-1] == "jeffreys/gate-learning-rate=0.01,epochs=120/seed-1"


VALUES: dict[str, list[Any]] = {
    "dataset": ["bars", "mnist"],
    "network": ["lenet-500-300", "lenet5-caffe"],
    "augmentation": ["none", "crop-flip"],
    "family": ["BetaBernoulli", "VIB(0.01)"],
    "weight_prior": ["none", "Laplace(0.5)"],
    "weights": ["delta", "normal"],
    "temperature": [0.1, 1],
    "threshold": [0.001, 0],
    "initial_keep_probability": ["none", 0.5],
    "epochs": [3, 4],
    "pretrain_epochs": [0, 1],
    "starts": [1, 2],
    "pretrained": ["none", "net.safetensors"],
    "batch_size": [10, 20],
    "learning_rate": [1e-3, 1e-4],
    "gate_learning_rate": [1e-2, 5e-3],
    "schedule": ["cosine", "steps"],
    "kl_warmup_epochs": [0, 5],
    "kl_start": [[], [["conv*", 40], ["fc*", 6.5]]],
    "elbo": ["trace", "mean-field"],
    "shed": [True, False],
    "validation_size": [0, 20],
    "validation_fold": [0, 1],
    "device": ["auto", "cpu"],
    "precision": ["float32", "bf16"],
    "threads": [1, 2],
    "data_dir": ["none", "somewhere"],
}


def words(value: Any) -> str:
    if isinstance(value, list):
        return " ".join(str(part) for pair in value for part in pair) or "none"
    return str(value).lower() if isinstance(value, bool) else str(value)


@pytest.mark.parametrize("name", VALUES)
def test_every_setting_of_a_run_can_vary(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    values = VALUES[name]
    beside: dict[str, dict[str, Any]] = {"validation_fold": {"validation_size": 10}, "starts": {"pretrain_epochs": 5}}
    chosen = config(seeds=1, vary={name: values}, **beside.get(name, {}))
    chosen.validate()
    found = [run.to_json()[name] for run in chosen.tasks().values()]
    wanted = [None if value == "none" and name != "augmentation" else value for value in values]
    if name in ("pretrained", "data_dir"):
        wanted[1] = str(Path(wanted[1]).absolute())
    assert found == wanted
    assert len(set(chosen.tasks())) == 2
    assert StudyConfig.from_json(json.loads(json.dumps(chosen.to_json()))).tasks() == chosen.tasks()
    flags = ["--vary", name.replace("_", "-"), *map(words, values)]
    flags += [
        word for key, value in beside.get(name, {}).items() for word in (f"--{key.replace('_', '-')}", str(value))
    ]
    main(["compare", *flags, "--print-config"])
    text = capsys.readouterr().out
    assert f"[vary]\n{name} = " in text and f"\n{name} = " not in text.split("[vary]")[0]
    read = StudyConfig.from_json(tomllib.loads(text) | {"seeds": 1})
    assert [run.to_json()[name] for run in read.canonical().tasks().values()] == wanted


def test_every_setting_is_in_the_test_above() -> None:
    assert VALUES.keys() == {*runs.Settings.__dataclass_fields__}


def test_points_are_settings_that_go_together() -> None:
    chosen = config(points=POINTS, vary={"shed": [True, False]}, seeds=1)
    found = {name: (r.prior, r.gate_learning_rate, r.epochs, r.shed) for name, r in chosen.tasks().items()}
    assert found == {
        "beta-0.0001-1/tight,shed=true/seed-0": (PRIOR, 0.005, 120, True),
        "beta-0.0001-1/tight,shed=false/seed-0": (PRIOR, 0.005, 120, False),
        "jeffreys/loose,shed=true/seed-0": ("Jeffreys()", 0.05, 60, True),
        "jeffreys/loose,shed=false/seed-0": ("Jeffreys()", 0.05, 60, False),
    }


def test_a_point_with_a_prior_of_its_own_is_there_once_whatever_the_studys_priors() -> None:
    chosen = config(prior=["Uniform", "Jeffreys"], points={"a": {}, "b": {"prior": PRIOR}}, seeds=1)
    assert list(chosen.tasks()) == ["uniform/a/seed-0", "beta-0.0001-1/b/seed-0", "jeffreys/a/seed-0"]


def test_a_family_without_keep_probabilities_is_there_once_whatever_the_studys_priors() -> None:
    chosen = config(prior=["Jeffreys", "Uniform"], vary={"family": ["BetaBernoulli", "VIB", "SBP"]}, seeds=1)
    assert [(dict(each.shown), each.folder) for each in chosen.candidates()] == [
        ({"prior": "Jeffreys()", "family": "BetaBernoulli"}, "jeffreys/family=betabernoulli"),
        ({"prior": "no prior", "family": "VIB"}, "no-prior/family=vib"),
        ({"prior": "no prior", "family": "SBP"}, "no-prior/family=sbp"),
        ({"prior": "Uniform()", "family": "BetaBernoulli"}, "uniform/family=betabernoulli"),
    ]
    chosen.validate()
    assert chosen.keys == ["prior", "family"]
    alone = config(family="VIB", seeds=2)
    alone.validate()
    assert list(alone.tasks()) == ["no-prior/seed-0", "no-prior/seed-1"]
    mapped = config(prior=["Jeffreys", "Uniform"], family="{'fc1*': VIB, '*': BetaBernoulli}")
    assert [each.shown["prior"] for each in mapped.candidates()] == ["Jeffreys()", "Uniform()"]
    for families in ({"family": "VIB"}, {"vary": {"family": ["VIB", "SBP"]}}):
        with pytest.raises(ValueError, match="prior: no family of masks of this study has a π"):
            config(prior=["Jeffreys"], **families).check_prior()


def test_a_study_of_families_is_extended_by_others_and_by_priors() -> None:
    with_pi = config(prior=["Jeffreys"], vary={"family": ["BetaBernoulli", "VIB"]}, seeds=1)
    more = with_pi.extended_by(config(prior=["Jeffreys"], vary={"family": ["SBP"]}, seeds=1))
    assert [each.shown["family"] for each in more.candidates()] == ["BetaBernoulli", "VIB()", "SBP()"]
    without = config(vary={"family": ["VIB", "SBP"]}, seeds=1)
    more = without.extended_by(config(prior=["IndianBuffet(5)"], vary={"family": ["BetaBernoulli"]}, seeds=1))
    assert [each.shown["prior"] for each in more.candidates()] == ["no prior", "no prior", "IndianBuffet(5)"]


def test_what_all_runs_share_is_of_the_families_that_have_a_use_for_it(tmp_path: Path) -> None:
    varied = ["BetaBernoulli", "SBP", "DependentBetaBernoulli", "{'fc*': BetaBernoulli, '*': L0}"]
    chosen = config(
        network="lenet5-caffe", threshold=0.01, initial_keep_probability=0.95, seeds=1, vary={"family": varied}
    )
    of_gates = [(each.config.initial_keep_probability, each.config.threshold) for each in chosen.candidates()]
    assert of_gates == [(0.95, 0.01), (None, 0.001), (None, 0.001), (0.95, 0.01)]
    from_run = config(initial_keep_probability=0.95, seeds=1, points={"own": {}, "on": {"pretrained": str(tmp_path)}})
    assert [each.config.initial_keep_probability for each in from_run.candidates()] == [0.95, None]
    asked = config(seeds=1, points={"own": {"family": "SBP", "threshold": 0.01}})  # which the run refuses
    assert asked.candidates()[0].config.threshold == 0.01


def test_a_family_that_is_none_is_named(capsys: pytest.CaptureFixture[str]) -> None:
    for word in ("Nonsense", "L0(-1)"):
        with pytest.raises(SystemExit):
            main(["compare", "--vary", "family", "VIB", word])
        assert "family: " in capsys.readouterr().err


def test_a_point_with_the_prior_of_the_study_is_trained_once() -> None:
    twice = {"a": {"gate_learning_rate": 0.05}, "c": {"gate_learning_rate": 0.05, "prior": "Beta(1e-4,1)"}}
    told = "points: a and c have the same settings; leave one of them out"
    for own in ({}, {"prior": ["Beta(1e-4, 1)"]}, {"prior": ["Jeffreys", PRIOR], "vary": {"epochs": [1, 2]}}):
        with pytest.raises(ValueError, match=told):
            config(points=twice, **own).validate()
    apart = config(points=twice, prior=["Jeffreys"])
    apart.validate()
    assert len(apart.candidates()) == 2
    with pytest.raises(ValueError, match=told):  # nor does it become so as a prior is added
        apart.extended_by(config(points=twice, prior=["Jeffreys", PRIOR]))


def test_priors_that_differ_in_case_alone_are_two(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "two_cases.py").write_text("from bbpyro.priors import Beta\nPri, pri = Beta(0.1, 1), Beta(0.2, 1)\n")
    monkeypatch.syspath_prepend(tmp_path)
    names = ["two_cases:Pri", "two_cases:pri"]
    found = {name: run.prior for name, run in config(prior=names, seeds=1).tasks().items()}
    assert found == {"two_cases-pri/seed-0": names[0], "two_cases-pri-2/seed-0": names[1]}
    points = {"a": {}, "b": {"prior": names[1], "epochs": 2}}
    before = config(prior=names[:1], points=points, seeds=1)
    after = before.extended_by(config(prior=names, points=points, seeds=1)).tasks()
    assert list(before.tasks()) == ["two_cases-pri/a/seed-0", "two_cases-pri/b/seed-0"]
    assert after == before.tasks() | {"two_cases-pri-2/a/seed-0": after["two_cases-pri-2/a/seed-0"]}  # none moves
    with pytest.raises(ValueError, match="prior: two_cases:pri and two_cases:pri are the same"):
        config(prior=[*names, names[1]]).validate()


def test_without_a_prior_there_is_one_where_something_else_is_compared() -> None:
    assert config().prior == StudyConfig.prior and len(StudyConfig.prior) == 3
    assert config(vary={"epochs": [1, 2]}).prior == (PRIOR,) == config(points=POINTS).prior


def test_names_of_folders_do_not_clash_nor_change_as_values_are_added() -> None:
    priors_on_w = ["Laplace(1)", "Laplace(1.5)"]
    assert folders(vary={"weight_prior": priors_on_w})[1] == "beta-0.0001-1/weight-prior=laplace-1.5/seed-0"
    starts = [[["a*", 1]], [["aall", 1]], [["a*", 2]]]
    names = folders(vary={"kl_start": starts})
    assert names == [f"beta-0.0001-1/kl-start=aall-{end}/seed-0" for end in ("1", "1-2", "2")]
    assert folders(vary={"kl_start": starts[:2]}) == names[:2]
    points = folders(points={"Tight": {"epochs": 1}, "tight": {"epochs": 2}, "a/b": {"epochs": 3}})
    assert [name.split("/")[1] for name in points] == ["tight", "tight-2", "a-b"]
    files = folders(vary={"dataset": ["a/bars.npz", "b/bars.npz"]})
    assert [name.split("/")[1] for name in files] == ["dataset=bars.npz", "dataset=bars.npz-2"]
    long = folders(vary={"kl_start": [[[f"layer{i}*", i] for i in range(2, n)] for n in (90, 91)]})
    assert len(set(long)) == 2 and all(len(name) < 100 for name in long)


def test_folds_of_a_study_are_of_other_data_and_in_folders_of_their_own(made: studies.Study, npz: str) -> None:
    wanted = [f"beta-0.0001-1/epochs={e}/fold-{f}-seed-0" for e in (1, 2) for f in (0, 1)]
    assert list(made.results) == wanted and made.failures == []
    whole = data.load(npz)
    for name in wanted:
        run = runs.load(made.folder / "runs" / name)
        end = 80 - 20 * int("fold-1" in name)
        assert (run.config.epochs, len(run.svi_history)) == (int("epochs=2" in name) + 1,) * 2
        assert np.array_equal(run.dataset.x_test, whole.x[end - 20 : end]) and len(run.dataset.x) == 60


FEW = "--epochs 8000 --initial-keep-probability 0.5 --kl-warmup-epochs 400 --gate-learning-rate 0.03"


def test_a_study_whose_data_vary_says_that_no_setting_follows_their_number(npz: str, tmp_path: Path) -> None:
    other = tmp_path / "o.npz"
    shutil.copyfile(npz, other)

    def told(**settings: Any) -> list[str]:
        notes: list[str] = []
        studies.prepare(tmp_path / str(len(list(tmp_path.iterdir()))), config(seeds=1, **settings), note=notes.append)
        return notes

    alone = [
        f"alone, {name} would be trained with --network mlp-64-64 {FEW} --pretrain-epochs 500 --starts 2; "
        for name in ("bars.npz", "o.npz")
    ]
    advice = "has one setting for all: give these, or points with their own"
    data_sets = [npz, str(other)]
    for varied in (
        {"vary": {"dataset": data_sets}},
        {"points": {"a": {"dataset": npz}, "b": {"dataset": str(other), "threshold": 0.1}}},
    ):
        found = told(**varied)
        assert [note.startswith(own) for note, own in zip(found, alone, strict=True)] == [True, True]
        assert all(note.endswith(advice) for note in found)
    followed = {"epochs": 8000, "initial_keep_probability": 0.5, "kl_warmup_epochs": 400, "gate_learning_rate": 0.03}
    assert told(vary={"dataset": data_sets}, **followed) == []
    assert told(vary={"dataset": data_sets, "epochs": [1, 2]}) == []
    assert told(vary={"dataset": data_sets}, epochs=3) == []
    of_few = told(**{**followed, "pretrain_epochs": 500}, dataset=npz, points={"a": {}, "b": {"dataset": "bars"}})
    assert [note.split(" --pretrain")[0] for note in of_few] == [
        "alone, bars would be trained with --epochs 60 --initial-keep-probability None "
        "--kl-warmup-epochs 0 --gate-learning-rate 0.01"
    ]
    of_own = told(vary={"dataset": data_sets, "network": ["lenet-500-300", "mlp-64-64"]})
    assert len(of_own) == 2 and all("--epochs 8000" in note and "--network" not in note for note in of_own)
    assert told(vary={"dataset": ["bars", npz]})[0].startswith(alone[0])  # and of bars, which has its own, nothing
    points: dict[str, Any] = {"a": {"dataset": npz, "epochs": 5}, "b": {"dataset": str(other)}}
    assert [note.split(" would")[0] for note in told(points=points)] == ["alone, o.npz"]
    assert [note.split(" would")[0] for note in told(dataset=npz, points={"a": {"epochs": 5}, "b": {}})] == [
        "alone, bars.npz"
    ]
    with pytest.warns(UserWarning, match="alone, o.npz would be trained with --network mlp-64-64 --epochs 8000"):
        studies.prepare(tmp_path / "warned", config(seeds=1, vary={"dataset": [str(other)]}))


def test_few_data_that_do_not_vary_have_their_settings_and_nothing_is_said(npz: str, tmp_path: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for i, varied in enumerate(({"temperature": [0.1, 0.2]}, {"batch_size": [10, 20]})):
            chosen = studies.compare.__globals__["_config"](None, 1, {"dataset": npz}, varied)
            assert chosen.epochs == 8000 and chosen.gate_learning_rate == 0.03
            studies.prepare(tmp_path / str(i), chosen)


# --- what is wrong is said before anything is made -----------------------------------------------------------


@pytest.mark.parametrize(
    ("vary", "mention"),
    [
        ({"depth": [1]}, "vary: unknown setting 'depth', wanted one of dataset, network"),
        ({"epochs": []}, "vary: epochs has no values"),
        ({"epochs": 60}, "vary: epochs is 60, wanted a list of values"),
        ({"network": "lenet-500-300"}, "vary: network is 'lenet-500-300', wanted a list of values"),
        ({"epochs": [60, "many"]}, "vary: epochs is 'many', wanted a whole number"),
        ({"epochs": [60, 1.5]}, "vary: epochs is 1.5, wanted a whole number"),
        ({"epochs": [60, "none"]}, "vary: epochs is 'none', wanted a whole number"),
        ({"shed": [1]}, "vary: shed is 1, wanted true or false"),
        ({"schedule": ["linear"]}, "vary: schedule is 'linear', wanted one of cosine, steps, constant"),
        ({"kl_start": ["fc*"]}, r"vary: kl_start is 'fc\*', wanted pairs"),
        ({"epochs": [1, 2, 1]}, "vary: epochs has 1 twice"),
        ({"learning_rate": [1, 1.0]}, "vary: learning_rate has 1 twice"),
        ({"weight_prior": ["Laplace(1)", "Laplace(1.0)"]}, "vary: weight_prior has Laplace.1.0. twice"),
        ({"dataset": ["a.npz", "./a.npz"]}, "vary: dataset has ./a.npz twice"),
        ({"epochs": [1], "Epochs": [2]}, "vary: unknown setting 'Epochs'"),
        ({"batch_size": [1], "batch-size": [2]}, "vary: batch_size is there twice"),
        ({"prior": ["Jeffreys"]}, "vary: prior: .* --prior"),
        ({"seed": [0, 1]}, "vary: seed: .* --seeds"),
        ({"seeds": [1, 2]}, "vary: seeds: .* --seeds"),
        ({"epochs": [3, 0]}, "epochs is 0, wanted at least 1"),
        ({"network": ["lenet-500-300", "resnet"]}, "network is 'resnet', wanted one of"),
        ({"weight_prior": ["Laplace(0)"]}, "weight_prior: 'Laplace.0.': Laplace: scale is 0"),
        ({"validation_fold": [0, 1]}, "validation_fold is 1, but validation_size 0 holds nothing out"),
        ({"validation_size": [0, 30], "validation_fold": [0, 2]}, "validation_fold is 2, but validation_size 0"),
        ({"validation_size": [20, 30], "validation_fold": [0, 2]}, "validation_fold is 2, wanted 0 to 1"),
        ({"batch_size": range(1, 102), "epochs": range(1, 101)}, "10,100 settings, wanted at most 10,000"),
        ({"network": ["lenet-500-300", "vgg16"]}, "network: vgg16 takes images of shape"),
        ({"kl_warmup_epochs": [0, 9]}, "kl_warmup_epochs is 9, wanted at most the 1 epochs"),
        (["epochs"], "vary: it is .*, wanted a table"),
    ],
)
def test_what_cannot_vary_is_named(npz: str, tmp_path: Path, vary: Any, mention: str) -> None:
    own = {} if "epochs" in vary else {"epochs": 1}
    if "dataset" not in vary:
        own |= {"dataset": npz}
    own |= {} if "batch_size" in vary else {"batch_size": 50}
    with pytest.raises(ValueError, match=mention) as caught:
        bbpyro.compare([PRIOR], vary=vary, folder=tmp_path / "study", progress=False, **own)
    assert "\n" not in str(caught.value) and list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("points", "mention"),
    [
        ({"tight": {"depth": 1}}, "points: tight: unknown setting 'depth'"),
        ({"tight": {"epochs": "many"}}, "points: tight: epochs is 'many', wanted a whole number"),
        ({"tight": {"seed": 3}}, "points: tight: seed: .* --seeds"),
        ({"tight": 60}, "points: tight is 60, wanted a table of settings"),
        ({"..": {}}, "points: '..' is no name"),
        ({"a\nb": {}}, r"points: 'a\\nb' is no name; wanted one line"),
        ({"a\tb": {}}, r"points: 'a\\tb' is no name; wanted one line"),
        ({"a\x1b[1mb": {}}, r"points: 'a\\x1b\[1mb' is no name; wanted one line"),
        ({"a\u2028b": {}}, r"points: 'a\\u2028b' is no name; wanted one line"),
        ({"tight": {"batch-size": 1, "batch_size": 2}}, "points: tight: batch_size is there twice"),
        ({"a": {"epochs": 2}, "b": {"epochs": 2}}, "points: a and b have the same settings"),
        ({"a": {"epochs": 2}, "b": {"epochs": 2, "prior": "Uniform"}}, "points: a and b have the same settings"),
        ({"b": {"epochs": 2, "prior": "Jeffreys"}, "a": {"epochs": 2}}, "points: b and a have the same settings"),
        (
            {"a": {"weight_prior": "Laplace(1)"}, "b": {"weight_prior": "Laplace(1.0)", "prior": "Jeffreys"}},
            "points: a and b have the same settings",
        ),
        ({"a": {"prior": "Jeffreys"}}, "prior: each point has its own, so leave out Uniform.. and Jeffreys.."),
        ({"a": {"threshold": 0.1}}, "points: a has threshold, which is in vary too"),
        ({"a": {"prior": "Bta(1)"}, "b": {}}, "prior: .Bta.1..: there is no Bta"),
        ({"a": {"epochs": 0}}, "epochs is 0"),
        (["tight"], "points: it is .*, wanted a table"),
    ],
)
def test_what_no_point_can_be_is_named(npz: str, tmp_path: Path, points: Any, mention: str) -> None:
    with pytest.raises(ValueError, match=mention):
        bbpyro.compare(
            ["Uniform", "Jeffreys"],
            points=points,
            vary={"threshold": [0.01, 0.001]},
            folder=tmp_path / "study",
            progress=False,
            dataset=npz,
        )
    assert list(tmp_path.iterdir()) == []


def test_a_setting_is_shared_or_varies() -> None:
    with pytest.raises(ValueError, match="epochs: it has a value for all runs, and others in vary"):
        bbpyro.compare([PRIOR], vary={"epochs": [1, 2]}, epochs=3)
    with pytest.raises(ValueError, match="prior is a whole configuration; put vary, points and settings into it"):
        bbpyro.compare(config(), vary={"epochs": [1, 2]})


@pytest.mark.parametrize(
    ("flags", "mention"),
    [
        (["--vary"], "vary: name a setting and its values, such as --vary epochs 60 120"),
        (["--vary", "epochs"], "vary: epochs has no values"),
        (["--vary", "epochs", "3", "x"], "vary: epochs is 'x', wanted a whole number"),
        (["--vary", "shed", "true", "maybe"], "vary: shed is 'maybe', wanted true or false"),
        (["--vary", "prior", "Jeffreys"], "name each with --prior"),
        (["--vary", "seed", "1"], "--seeds"),
        (["--vary", "epochs", "3", "--vary", "epochs", "4"], "epochs is there twice; give all its values after one"),
        (["--vary", "epochs", "3", "4", "--epochs", "3"], "epochs: it has a value for all runs, and others in vary"),
        (["--vary", "shed", "true", "--no-shed"], "shed: it has a value for all runs, and others in vary"),
        (
            ["--vary", "kl-start", "fc*"],
            "kl_start is 'fc*', wanted names of gates and numbers such as 'conv* 40 fc* 6'",
        ),
        (
            ["--vary", "kl-start", "'a b"],
            """kl_start is "'a b", wanted names of gates and numbers such as 'conv* 40 fc* 6'""",
        ),
        (["--vary", "kl-start", "none", "x* 3", "--kl-warmup-epochs", "2"], "'x*' is none of the gates"),
        (["--config", "vary.toml"], "vary: epochs is 3, wanted a list of values"),
        (["--config", "both.toml"], "epochs: it has a value for all runs, and others in vary"),
        (["--resume", "nowhere", "--vary", "epochs", "3"], "leave out --vary"),
    ],
)
def test_a_users_error_is_one_line_and_nothing_is_made(
    flags: list[str], mention: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("vary.toml").write_text("[vary]\nepochs = 3\n")
    Path("both.toml").write_text("epochs = 3\n[vary]\nepochs = [3, 4]\n")
    own = [] if "--resume" in flags else ["--dataset", "bars", "--study", "study"]
    with pytest.raises(SystemExit) as status:
        main(["compare", *own, *flags])
    assert status.value.code == 2
    err = capsys.readouterr().err
    assert mention in err and err.count("\n") == 1
    assert sorted(path.name for path in tmp_path.iterdir()) == ["both.toml", "vary.toml"]


# --- the command line and files ------------------------------------------------------------------------------


def config_of(capsys: pytest.CaptureFixture[str], *flags: str) -> str:
    main(["compare", *flags, "--print-config"])
    return capsys.readouterr().out


def test_flags_files_and_python_say_the_same(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    flags = "--vary gate-learning-rate 0.005 1e-2 --vary epochs 60 120 --prior Jeffreys --seeds 2".split()
    text = config_of(capsys, *flags)
    assert text.endswith("\n[vary]\ngate_learning_rate = [0.005, 0.01]\nepochs = [60, 120]\n")
    (tmp_path / "study.toml").write_text(text)
    assert config_of(capsys, "--config", str(tmp_path / "study.toml")) == text
    more = config_of(
        capsys, "--config", str(tmp_path / "study.toml"), "--vary", "epochs", "30", "--vary", "shed", "true"
    )
    assert "gate_learning_rate = [0.005, 0.01]\nepochs = [30]\nshed = [true]\n" in more and '["Jeffreys"]' in more
    numbers: Any = np.array([0.005, 0.01])
    from_python = studies.compare.__globals__["_config"](
        [priors.Jeffreys()], 2, {}, {"gate-learning-rate": numbers, "epochs": (60, 120)}, {}
    )
    main(["compare", "--config", str(tmp_path / "study.toml"), "--print-config"])
    assert from_python.canonical() == config(**{**from_python.to_json()}).canonical()
    assert from_python.vary == {"gate_learning_rate": (0.005, 0.01), "epochs": (60, 120)}


def test_a_file_has_points_as_tables(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    path = tmp_path / "front.toml"
    path.write_text(
        'dataset = "bars"\n[vary]\nvalidation-fold = [0, 1]\n[points.tight]\ngate-learning-rate = 0.005\nepochs = 120\n'
        '[points."very loose"]\nprior = "Jeffreys"\nkl_start = [["fc*", 6]]\nkl_warmup_epochs = 4\n'
    )
    text = config_of(capsys, "--config", str(path), "--validation-size", "9")
    assert '[points."very loose"]\nprior = "Jeffreys"\nkl_start = [["fc*", 6.0]]\n' in text
    path.write_text(text)
    assert config_of(capsys, "--config", str(path)) == text


def test_help_shows_how_values_are_written(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["compare", "--help"])
    out = " ".join(capsys.readouterr().out.replace("│", " ").split())
    assert "--vary SETTING VALUE [VALUE ...]" in out and "--vary kl-start none 'conv* 40 fc* 6'" in out
    assert "[points.tight]" in out and "--points" not in out


# --- going on --------------------------------------------------------------------------------------------------


def stamps(folder: Path) -> dict[str, int]:
    return {str(p.relative_to(folder)): p.stat().st_mtime_ns for p in (folder / "runs").rglob("*") if p.is_file()}


@pytest.fixture
def study(made: studies.Study, tmp_path: Path) -> studies.Study:
    """A copy of it to change."""
    shutil.copytree(made.folder, tmp_path / "study")
    return studies.load(tmp_path / "study")


def test_a_study_that_is_done_is_not_done_again_and_values_can_be_added(
    study: studies.Study, capsys: pytest.CaptureFixture[str]
) -> None:
    before = stamps(study.folder)
    for flag in ("--study", "--resume"):
        main(["compare", flag, str(study.folder)])
    assert stamps(study.folder) == before
    main(["compare", "--study", str(study.folder), "--vary", "epochs", "3"])
    more = studies.load(study.folder)
    assert {name: stamp for name, stamp in stamps(study.folder).items() if "epochs=3" not in name} == before
    assert list(more.table.index) == [1, 2, 3] and list(more.table["runs"]) == [2, 2, 2] and more.failures == []
    pd.testing.assert_frame_equal(more.table.loc[[1, 2]], study.table)
    out = " ".join(capsys.readouterr().out.split())
    assert "epochs" in out and "1 + 3" in out and "mean (range) of the seeds and validation folds" in out


def test_another_axis_or_value_of_a_shared_setting_is_another_study(study: studies.Study, npz: str) -> None:
    own: dict[str, Any] = {"dataset": npz, "validation_size": 20, **SHORT}
    vary: dict[str, Any] = {"epochs": [1], "validation_fold": [0]}
    folder, there = study.folder, "in the study that is there; name another folder"
    for changed, changes, told in (
        (vary, {"batch_size": 60}, f"batch-size is 60, but 50 {there}"),
        ({**vary, "batch_size": [50, 60]}, {}, f"batch-size is one of 50, 60, but 50 {there}"),
        ({"validation_fold": [0]}, {"epochs": 2}, f"epochs is 2, but one of 1, 2 {there}"),
    ):
        chosen = {name: value for name, value in {**own, **changes}.items() if name not in changed}
        with pytest.raises(ValueError, match=told):
            bbpyro.compare([PRIOR], vary=changed, folder=folder, progress=False, **chosen)
    with pytest.raises(ValueError, match=f"points is tight, loose, but none {there}"):
        bbpyro.compare(
            [PRIOR], vary=vary, points={"tight": {}, "loose": {"threshold": 0.1}}, folder=folder, progress=False, **own
        )
    assert studies.load(folder).config == study.config


def test_points_can_be_added_but_not_changed() -> None:
    before = config(points={"tight": POINTS["tight"]})
    both = before.extended_by(config(points=POINTS))
    assert list(both.tasks())[:3] == list(before.tasks()) and len(both.tasks()) == 6
    told = "points: epochs of tight is 9, but 120 in the study that is there"
    with pytest.raises(ValueError, match=told):
        before.extended_by(config(points={"tight": {**POINTS["tight"], "epochs": 9}}))


# --- what comes out ----------------------------------------------------------------------------------------------


def test_a_row_is_the_mean_of_its_folds(made: studies.Study) -> None:
    by_run, table = made.runs, made.table
    assert list(by_run.columns[:6]) == ["run", "prior", "epochs", "budget", "validation_fold", "seed"]
    assert table.index.name == "epochs" and list(table.index) == [1, 2] and list(table["budget"]) == ["1 + 1", "1 + 2"]
    for epochs, group in by_run.groupby("epochs"):
        found = table.loc[epochs, [f"error {which}" for which in ("mean", "lowest", "highest")]]
        assert list(found) == pytest.approx([group["error"].mean(), group["error"].min(), group["error"].max()])
        assert table.loc[epochs, "runs"] == 2 and group["error"].nunique() == 2
    assert repr(made).endswith("2 settings, 4 of 4 runs done, 0 failed)")
    text = (made.folder / "table.md").read_text()
    assert text.startswith("| epochs | budget | runs | error |") and "| 1 + 1 | 2 | " in text
    assert "mean (range) of the seeds and validation folds" in text
    read = pd.read_csv(made.folder / "table.csv", index_col="epochs")
    pd.testing.assert_frame_equal(read, table, check_dtype=False)
    names = {path.stem for path in (made.folder / "figures").iterdir()}
    assert names == {"error_macs", "kept_epochs", "priors_posteriors", "loo_compare"}


def test_loo_is_compared_on_a_fold_that_every_setting_has(study: studies.Study) -> None:
    rows = study.runs
    lost = rows.loc[(rows["epochs"] == 1) & (rows["validation_fold"] == 0), "run"].item()
    results = {name: result for name, result in study.results.items() if name != lost}
    some = studies.Study(study.folder, study.config, results, [studies.Failure(lost, "no", study.folder / "log")])
    data_of = {name: run.validation_fold for name, run in study.config.tasks().items()}
    drawn = figures.draw(study.folder, some.runs, {k: v["total"] for k, v in results.items()}, data_of, ["epochs"])
    found = sorted(line.get_xdata()[0] for line in drawn["loo_compare"].axes[0].lines if line.get_marker() == "o")
    same = rows.loc[rows["validation_fold"] == 1, "run"]
    loos = [posterior.loo(container.as_chains([study.folder / "runs" / run / "loo.nc"])) for run in same]
    assert len(loos) == 2 and found == pytest.approx(sorted(posterior.elpd(loo) for loo in loos))
    some.write()
    assert (study.folder / "figures" / "loo_compare.png").is_file()
    assert "loo_compare" not in (study.folder / "table.md").read_text()
    apart = {k: v for k, v in results.items() if not ("epochs=2" in k and "fold-1" in k)}
    assert len(apart) == 2
    studies.Study(study.folder, study.config, apart, []).write()
    assert not (study.folder / "figures" / "loo_compare.png").exists()
    assert f"\n{figures.NO_LOO}\n" in (study.folder / "table.md").read_text()
    studies.Study(study.folder, study.config, dict(list(apart.items())[:1]), []).write()  # with which none is compared
    assert "loo_compare" not in (study.folder / "table.md").read_text()


def test_data_are_the_same_only_where_all_that_decides_them_is() -> None:
    def shared(**varied: Any) -> Any:
        made = invented(**varied)
        data_of = {name: folder.data_of(run) for name, run in made.config.tasks().items()}
        return figures.shared_data(made.runs, data_of, made.config.keys)

    held_out = {"validation_size": 20}
    assert shared(points={"a": {"validation_fold": 0}, "b": {"validation_fold": 1}}, **held_out) == []
    assert shared(vary={"dataset": ["a/bars.npz", "b/bars.npz"]}) == []
    assert shared(points={"a": {"dataset": "a/bars.npz"}, "b": {"dataset": "b/bars.npz"}}) == []
    assert shared(vary={"validation_size": [20, 30]}) == []
    assert shared(prior=[PRIOR]) is None
    alike = {"a": {"epochs": 1, **held_out}, "b": {"epochs": 2, **held_out}}
    assert [each[2:] for each in shared(points=alike)] == [(20, 0)]
    assert [each[3] for each in shared(vary={"validation_fold": [1, 0]}, points=alike)] == [1, 0]


def test_a_table_has_a_column_for_each_axis_of_more_than_one_value() -> None:
    rates = {"gate_learning_rate": [0.005, 0.01], "shed": [True, False], "temperature": [0.1]}
    table = invented(vary=rates).table
    assert table.index.names == ["gate_learning_rate", "shed"] and "budget" not in table
    assert list(table.index) == [(0.005, "true"), (0.005, "false"), (0.01, "true"), (0.01, "false")]
    assert table.loc[(0.01, "true"), "error mean"] == pytest.approx(0.01 + 0.001 * 4.5)
    assert invented(prior=[PRIOR, "Jeffreys"], vary={"epochs": [1, 2]}).table.index.names == ["prior", "epochs"]
    assert invented(prior=[PRIOR, "Jeffreys"], vary={"epochs": [1]}).table.index.names == ["prior"]
    assert invented(points=POINTS).table.index.names == ["point"]
    starts = invented(vary={"kl_start": [[], [["fc*", 6]]], "kl_warmup_epochs": [9]}).table
    assert list(starts.index) == ["none", "fc* 6"]


@pytest.mark.parametrize(
    "varied",
    [
        {"vary": {"elbo": ["trace", "mean-field"]}},
        {"points": {"a": {"elbo": "trace"}, "b": {"elbo": "mean-field"}}, "prior": [PRIOR]},
        {"vary": {"elbo": ["trace", "mean-field"], "threshold": [0.1, 0.2], "temperature": [0.1, 0.2]}, "seeds": 1},
    ],
)
def test_a_setting_and_a_score_of_one_name_are_two_columns(varied: dict[str, Any], tmp_path: Path) -> None:
    made = invented(**varied)
    failed = list(made.config.tasks())[-1]
    results = {name: {**found, "elbo": -65.95 - i} for i, (name, found) in enumerate(made.results.items())}
    some = studies.Study(Path("study"), made.config, {k: v for k, v in results.items() if k != failed}, [])
    some.failures.append(studies.Failure(failed, "RuntimeError: no", tmp_path / "log"))
    for study in (studies.Study(Path("study"), made.config, results, []), some):
        runs_of = study.runs
        assert dict(zip(runs_of["run"], runs_of["setting elbo"], strict=True)) == {
            name: run.elbo for name, run in study.config.tasks().items()
        }
        done = runs_of.dropna(subset="error")
        assert list(done["elbo"]) == [result["elbo"] for result in study.results.values()]
        table = study.table
        assert len(table) == len(study.config.candidates())
        assert list(table["runs"] + table["failed"]) == [study.config.seeds] * len(table)
        for i in range(len(table)):  # rows are in the order of the runs
            own = done[done["run"].isin(study.config.runs_of(study.config.candidates()[i]))]["elbo"]
            assert table["elbo mean"].iloc[i] == pytest.approx(own.mean(), nan_ok=True)
        text = tables.to_markdown(table, runs_of, [])
        header = [cell.strip() for cell in text.splitlines()[0].split("|")[1:-1]]
        assert header.count("ELBO") == 1 and header.count("setting elbo") == ("vary" in varied)
        tables.write(tmp_path, table, runs_of, [])
        columns = list(pd.read_csv(tmp_path / "table.csv").columns)
        assert len(set(columns)) == len(columns) and columns[: len(table.index.names)] == table.index.names
        assert printed(study)
        labels = plots.error_macs(done, keys=study.config.keys).axes[0].get_legend_handles_labels()[1]
        assert "points" in varied or any("elbo mean-field" in label for label in labels)


def test_no_setting_has_a_column_of_something_else(made: studies.Study) -> None:
    columns = {axes.column(name) for name in VALUES}
    assert len(columns) == len(VALUES)
    others = {"run", "prior", "point", "budget", "seed", "failed"}.union(*made.results.values())
    assert columns & others == set()


def test_the_printed_tables_fit_80_columns_and_name_every_row() -> None:
    made = invented(prior=[PRIOR, "Jeffreys"], vary={"gate_learning_rate": [0.005, 0.01], "epochs": [60, 120]})
    out = printed(made)
    assert max(map(len, out.splitlines())) <= 80
    rows = [[cell.strip() for cell in line.split("│")[1:]] for line in out.splitlines() if line.startswith("│")]
    found = [row[:4] for row in rows if row[0]]
    one = [[p, g, e, f"10 + {e}"] for p in (PRIOR, "Jeffreys()") for g in ("0.005", "0.01") for e in ("60", "120")]
    assert len(found) % 8 == 0 and [found[i : i + 8] for i in range(0, len(found), 8)] == [one] * (len(found) // 8)
    for name, _ in tables.SCORES.values():
        assert all(word in " ".join(out.split()) for word in name.split())


def test_points_are_told_below_the_table(tmp_path: Path) -> None:
    made = invented(points=POINTS)
    told = [
        "tight: gate learning rate 0.005, epochs 120",
        "loose: gate learning rate 0.05, epochs 60, prior Jeffreys",
    ]
    assert list(made.runs.columns[:7]) == ["run", "prior", "point", "gate_learning_rate", "epochs", "budget", "seed"]
    out = printed(made)
    assert all(line in out for line in told) and "10 + 120" in out
    tables.write(tmp_path, made.table, made.runs, list(made.total.values()), made.config.told)
    text = (tmp_path / "table.md").read_text()
    assert text.startswith("| point | budget | runs |") and all(f"\n{line}\n" in text for line in told)
    assert "\n| tight | 10 + 120 | 2 | 1.05% (1.00% - 1.10%) |" in text


def test_a_name_stays_in_its_cell(tmp_path: Path) -> None:
    names = {"a|b": {"epochs": 1}, "c\\|": {"epochs": 2}, "_x_": {"epochs": 3}}
    made = invented(points=names, vary={"dataset": ["a|\nb.npz", "c.npz"]})
    tables.write(tmp_path, made.table, made.runs, [], made.config.told)
    header, _, *rows = [line for line in (tmp_path / "table.md").read_text().splitlines() if line.startswith("|")]
    cells = [re.findall(r"(?:\\.|[^|\\])+", row[1:-1]) for row in (header, *rows)]
    assert len(rows) == 6 and len({len(row) for row in cells}) == 1
    unescaped = [[re.sub(r"\\(.)", r"\1", cell).strip() for cell in row[:2]] for row in cells[1:]]
    assert unescaped == [[point, data_set] for point in names for data_set in ("a| b.npz", "c.npz")]
    read = pd.read_csv(tmp_path / "table.csv")
    assert list(read["point"].unique()) == list(names)


def test_a_study_whose_names_are_no_plain_words_is_drawn(npz: str, tmp_path: Path) -> None:
    names = {"up$^$x|": {"epochs": 1}, "_b": {"epochs": 2}}
    own: dict[str, Any] = {"seeds": 1, "folder": tmp_path / "study", "progress": False, "dataset": npz, **SHORT}
    made = bbpyro.compare([PRIOR], points=names, **own)
    assert not made.failures and "\n| up$^$x\\| " in (tmp_path / "study" / "table.md").read_text()
    assert len(list((tmp_path / "study" / "figures").glob("*.png"))) == 4


def test_networks_of_other_layers_stand_in_one_table() -> None:
    made = invented(vary={"network": ["lenet-500-300", "lenet5-caffe"]})
    assert made.total == {} and list(made.table["runs"]) == [2, 2]
    cells = [tables.cell(row, "kept")[0] for _, row in made.table.iterrows()]
    assert cells == ["10-10", "12"]
    out = printed(made)
    assert "2 networks on mnist" in out and "kept of" not in out


def test_data_sets_of_one_name_are_told_apart() -> None:
    made = invented(vary={"dataset": ["a/bars.npz", "b/bars.npz", "c/other.npz"]})
    assert list(made.table["runs"]) == [2, 2, 2] and list(made.table.index)[2] == "other.npz"
    assert printed(invented(vary={"validation_size": [0, 20]})).count("test and validation data") == 1


# --- the figure of errors --------------------------------------------------------------------------------------


def test_one_axis_is_a_curve_through_the_means_in_the_order_of_its_numbers() -> None:
    made = invented(vary={"gate_learning_rate": [0.02, 0.005, 0.01]})
    axis = plots.error_macs(made.runs, keys=made.config.keys).axes[0]
    table = made.table.sort_index()
    curve = next(line for line in axis.lines if len(line.get_xdata()) == 3)
    assert list(curve.get_ydata()) == pytest.approx(list(100 * table["error mean"]))
    assert list(curve.get_xdata()) == pytest.approx(list(100 * table["macs_left mean"]))
    labels = axis.get_legend_handles_labels()[1]
    assert labels == [f"gate learning rate {rate}" for rate in ("0.005", "0.01", "0.02")]
    lines = {line.get_label(): line for line in axis.lines}
    assert len({lines[label].get_color() for label in labels}) == 3
    for rate in (0.005, 0.01, 0.02):  # its seeds are rings, and their range a line
        group = made.runs[made.runs["gate_learning_rate"] == rate]
        x, y = 100 * group["macs_left"], 100 * group["error"]
        drawn = [(list(line.get_xdata()), list(line.get_ydata())) for line in axis.lines]
        assert (list(x), list(y)) in drawn
        assert any(a == [x.mean()] * 2 and b == pytest.approx([y.min(), y.max()]) for a, b in drawn)


def test_of_several_axes_the_first_is_along_the_curves() -> None:
    made = invented(prior=[PRIOR, "Jeffreys"], points=POINTS | {"mid": {"batch_size": 50}} | {"loose": {}})
    axis = plots.error_macs(made.runs, keys=made.config.keys).axes[0]
    labels = axis.get_legend_handles_labels()[1]
    assert labels == [PRIOR, "Jeffreys()", "tight: 10 + 120 epochs", "loose: 10 + 60 epochs", "mid: 10 + 60 epochs"]
    curves = {line.get_label(): line for line in axis.lines if line.get_label() in (PRIOR, "Jeffreys()")}
    assert [len(line.get_xdata()) for line in curves.values()] == [3, 3]
    assert len({line.get_color() for line in curves.values()}) == 2


def test_points_in_one_place_are_all_seen() -> None:
    made = invented(vary={"gate_learning_rate": [0.01, 0.02, 0.03, 0.04]})
    figure = plots.error_macs(made.runs.assign(error=0.02, macs_left=0.1), keys=made.config.keys)
    axis = figure.axes[0]
    colors = [line.get_color() for line in axis.lines if line.get_label().startswith("gate")]
    axis.get_legend().remove()
    png = io.BytesIO()
    figure.savefig(png, format="png", dpi=150)  # as files are
    png.seek(0)
    picture = matplotlib.image.imread(png)[..., :3]
    for color in colors:
        wanted = np.array(matplotlib.colors.to_rgb(color))
        assert (np.abs(picture - wanted).max(-1) < 0.05).sum() > 20


def test_each_seed_of_a_study_begins_from_a_run_of_its_own(npz: str, tmp_path: Path) -> None:
    settings: dict[str, Any] = {"progress": False, "dataset": npz, "seeds": 2, "batch_size": 50, "network": "mlp-64-64"}
    bbpyro.compare([PRIOR], folder=tmp_path / "first", epochs=2, pretrain_epochs=1, **settings)
    first = tmp_path / "first" / "runs" / "beta-0.0001-1"
    dependent = {"family": "DependentBetaBernoulli", "pretrained": str(first / "seed-{seed}"), "epochs": 1}
    study = bbpyro.compare([PRIOR], folder=tmp_path / "second", **settings, **dependent)
    for seed in range(2):
        run = runs.load(next((tmp_path / "second" / "runs").rglob(f"seed-{seed}")))
        assert run.config.pretrained == first / f"seed-{seed}" and run.bnn.gates
    assert len(study.results) == 2
    again = bbpyro.compare([PRIOR], folder=tmp_path / "second", **settings, **dependent)
    assert again.runs["error"].tolist() == study.runs["error"].tolist()
    with pytest.raises(bbpyro.checkpoint.CheckpointError, match="seed-2"):
        bbpyro.compare([PRIOR], folder=tmp_path / "second", **{**settings, "seeds": 3}, **dependent)
    from_folder = runs.recipe("lenet5-caffe", {"pretrained": str(first / "seed-{seed}")})
    assert from_folder.initial_keep_probability is None


def test_a_study_to_which_a_path_by_seed_is_added_knows_what_its_older_runs_began_from() -> None:
    older = config(vary={"pretrained": ["first.safetensors"]}, seeds=2)
    both = config(vary={"pretrained": ["first.safetensors", "runs/seed-{seed}"]}, seeds=2)
    known = {folder.origin(older, name, run) for name, run in older.tasks().items()}
    origins = {name: folder.origin(both, name, run) for name, run in both.tasks().items()}
    assert len(known) == 1 and known < set(origins.values())
    assert len(set(origins.values())) == 3  # one of the older runs, and each of the others its own
