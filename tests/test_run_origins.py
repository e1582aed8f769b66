"""What a run depends on beside its settings: data, weights, and modules of one's own; and networks from those."""

import dataclasses
import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import torch

import bbpyro
from bbpyro import data, runs, studies, training
from bbpyro.checkpoint import CheckpointError
from bbpyro.cli import main
from bbpyro.runs import TrainConfig, networks
from bbpyro.studies import StudyConfig, task

MINE = """
import torch
from torch import nn
from pyro.distributions import Beta
from bbpyro.priors import FixedRate, Laplace

prior = FixedRate(0.25)
spread = lambda k: Beta(torch.arange(k) + 1.0, 1.0)
weights = Laplace(0.1)

class Net(nn.Module):
    def __init__(self, hidden=20):
        super().__init__()
        self.first, self.second = nn.Linear(64, hidden), nn.Linear(hidden, 4)

    def forward(self, x):
        return self.second(torch.relu(self.first(x.flatten(1))))

class Careful(Net):
    # What it does depends on the data, which torch.export cannot follow.
    def forward(self, x):
        if x.min() < -1:
            raise ValueError("wanted pixels")
        return super().forward(x)

def make(shape, num_classes):
    return nn.Sequential(nn.Flatten(), nn.Linear(shape[0] * shape[1], 12), nn.ReLU(), nn.Linear(12, num_classes))

net = Net(7)
three = 3
too_few = nn.Sequential(nn.Flatten(), nn.Linear(64, 3))
no_images = nn.Linear(3, 4)

def nothing(shape, num_classes):
    return None

def fails(shape, num_classes):
    raise RuntimeError("no\\nluck")

def gated():
    import bbpyro
    return bbpyro.insert_dropout(Net())
"""


def write_data(path: Path, num_train: int = 150) -> None:
    bars = data.bars(num_train=num_train, num_test=50)
    np.savez(path, **{name: getattr(bars, name).numpy() for name in ("x", "y", "x_test", "y_test")})


def write_weights(path: Path, scale: float = 0.1) -> None:
    shapes = {"first.weight": (20, 64), "first.bias": (20,), "second.weight": (4, 20), "second.bias": (4,)}
    safetensors.torch.save_file({name: torch.full(shape, scale) for name, shape in shapes.items()}, path)


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a user's module, data and weights."""
    folder = tmp_path_factory.mktemp("home")
    (folder / "mine.py").write_text(MINE)
    write_data(folder / "bars.npz")
    write_weights(folder / "net.safetensors")
    return folder


@pytest.fixture(autouse=True)
def at_home(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(home)


SETTINGS: dict[str, Any] = {
    "dataset": "bars.npz",
    "network": "mine:Net",
    "weight_prior": "mine:weights",
    "pretrained": Path("net.safetensors"),
    "epochs": 1,
    "batch_size": 50,
}


@pytest.fixture(scope="module")
def study(home: Path) -> Path:
    """A study of one run that depends on all of them."""
    before = Path.cwd()
    os.chdir(home)
    try:
        bbpyro.compare(["mine:prior"], seeds=1, folder="study", progress=False, **SETTINGS)
    finally:
        os.chdir(before)
    return home / "study"


def replace(old: str, new: str) -> Callable[[Path], object]:
    return lambda home: (home / "mine.py").write_text(MINE.replace(old, new))


CHANGES = [
    (
        replace("FixedRate(0.25)", "FixedRate(0.125)"),
        "prior: mine:.* changed since .*; restore what it was, or give what is new another",
    ),
    (
        replace("Laplace(0.1)", "Laplace(0.125)"),
        "prior: mine:.* changed since .*; restore what it was, or give what is new another",
    ),
    (replace("torch.relu", "torch.sigmoid"), "network: mine:Net changed since"),
    (
        replace("hidden=20", "hidden=200"),
        "another network|network: mine:Net changed since",
    ),
    (lambda home: write_data(home / "bars.npz", 160), "dataset '.*bars.npz' is not the one that .* was made with"),
    (lambda home: write_weights(home / "net.safetensors", 0.2), "pretrained: .*net.safetensors has changed since"),
]
NAMES = ["prior", "weight prior", "network's forward", "network's size", "data", "pretrained weights"]


@pytest.mark.parametrize(("change", "message"), CHANGES, ids=NAMES)
@pytest.mark.parametrize("noted", ["in study.json", "in the runs alone, as before"])
def test_a_study_goes_on_with_nothing_but_what_it_began_with(
    home: Path, study: Path, tmp_path: Path, change: Callable[[Path], object], message: str, noted: str
) -> None:
    shutil.copytree(study, tmp_path / "study")
    described = json.loads((tmp_path / "study" / "study.json").read_text())
    if noted != "in study.json":
        del described["made_from"]
        (tmp_path / "study" / "study.json").write_text(json.dumps(described))
    kept = {name: (home / name).read_bytes() for name in ("mine.py", "bars.npz", "net.safetensors")}
    try:
        change(home)
        with pytest.raises(ValueError, match=message):
            bbpyro.compare(["mine:prior"], seeds=2, folder=tmp_path / "study", progress=False, **SETTINGS)
    finally:
        for name, content in kept.items():
            (home / name).write_bytes(content)
    assert [path.name for path in (tmp_path / "study" / "runs" / "mine-prior").iterdir()] == ["seed-0"]


def test_a_comment_changes_nothing(home: Path, study: Path) -> None:
    (home / "mine.py").write_text(f"# a comment\n{MINE}")
    config = StudyConfig(prior=("mine:prior",), seeds=2, **SETTINGS)
    assert studies.prepare(study, config).seeds == 2
    (home / "mine.py").write_text(MINE)


def test_a_prior_whose_units_change_places_is_another(home: Path, tmp_path: Path) -> None:
    config = StudyConfig(prior=("mine:spread",), seeds=1, **SETTINGS)
    studies.prepare(tmp_path / "study", config)
    replace("torch.arange(k) + 1.0", "torch.tensor([1.0, *range(k, 1, -1)])")(home)
    try:
        with pytest.raises(ValueError, match="prior: mine:spread, mine:weights changed since"):
            studies.prepare(tmp_path / "study", config)
    finally:
        (home / "mine.py").write_text(MINE)


def test_a_module_that_changes_while_a_study_is_trained_is_noticed(home: Path, tmp_path: Path) -> None:
    config = StudyConfig(prior=("mine:prior",), seeds=2, **SETTINGS)
    studies.prepare(tmp_path / "study", config)
    made_from = json.loads((tmp_path / "study" / "study.json").read_text())["made_from"]["mine:prior"]
    name, run = list(config.canonical().tasks().items())[1]
    replace("FixedRate(0.25)", "FixedRate(0.125)")(home)
    try:
        reason = task.perform(tmp_path / "study" / "runs" / name, tmp_path / "log", run, made_from, None, 0, home)
    finally:
        (home / "mine.py").write_text(MINE)
    assert reason == (
        "ValueError: prior: mine:prior, mine:weights changed since the study was made; restore what it was, or give "
        "what is new another name"
    )


def test_a_run_wants_its_pretrained_weights_until_it_has_started(home: Path, tmp_path: Path) -> None:
    write_weights(tmp_path / "net.safetensors")
    config = TrainConfig(**{**SETTINGS, "pretrained": tmp_path / "net.safetensors"})
    runs.create(tmp_path / "run", config)
    write_weights(tmp_path / "net.safetensors", 0.2)
    with pytest.raises(ValueError, match="pretrained: .* has changed since run .* was made with it; restore it"):
        runs.train(tmp_path / "run")
    (tmp_path / "net.safetensors").unlink()
    with pytest.raises(CheckpointError, match=r"net\.safetensors cannot be read"):
        runs.train(tmp_path / "run")
    write_weights(tmp_path / "net.safetensors")
    runs.train(tmp_path / "run")
    (tmp_path / "net.safetensors").unlink()
    assert runs.load(tmp_path / "run").is_complete
    assert runs.score(runs.load(tmp_path / "run"), 1)["plain_error"] is None


# --- networks of one's own ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "units"), [("mine:Net", [64, 20]), ("mine:net", [64, 7]), ("mine:make", [64, 12])], ids=str
)
def test_a_network_is_a_class_an_instance_or_a_function(
    tmp_path: Path, name: str, units: list[int], capsys: pytest.CaptureFixture[str]
) -> None:
    flags = "--dataset bars.npz --epochs 2 --pretrain-epochs 1 --batch-size 50 --num-samples 1".split()
    main(["train", "--network", name, *flags, "--run", str(tmp_path / "run")])
    run = runs.load(tmp_path / "run")
    assert [gate.num_features for gate in run.bnn.gates.values()] == units
    main(["train", "--resume", str(tmp_path / "run"), "--num-samples", "1"])
    main(["evaluate", str(tmp_path / "run"), "--num-samples", "1"])
    assert runs.score(run, 1) == runs.score(runs.load(tmp_path / "run"), 1)
    capsys.readouterr()
    main(["compact", str(tmp_path / "run")])
    assert "\nno compact" not in capsys.readouterr().out
    x = run.dataset.x_test
    small = torch.export.load(tmp_path / "run" / "compact.pt2").module()
    anew = networks.make(name, x.shape[1:], 4)
    torch.testing.assert_close(bbpyro.load_compact(tmp_path / "run", net=anew)(x), small(x))
    if name == "mine:make":
        torch.testing.assert_close(bbpyro.load_compact(tmp_path / "run")(x), small(x))
    else:
        with pytest.raises(CheckpointError, match=r"is of the class Net, .*net=Net\(\)$"):
            bbpyro.load_compact(tmp_path / "run")


def test_a_network_that_torch_cannot_export_is_compacted_into_the_file_that_can_hold_it(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "run"
    flags = "--dataset bars.npz --epochs 1 --pretrain-epochs 1 --batch-size 50 --num-samples 1".split()
    main(["train", "--network", "mine:Careful", *flags, "--run", str(folder)])
    capsys.readouterr()
    main(["compact", str(folder), "--int8"])
    out, err = capsys.readouterr()
    assert err == ""  # where torch would print what it has tried
    for name in ("compact.pt2", "compact.onnx"):
        assert f"\nno {name}: torch.export does not take this network (" in out and not (folder / name).exists()
    run = runs.load(folder)
    small = bbpyro.load_compact(folder, net=networks.make("mine:Careful", (8, 8), 4))
    with torch.no_grad():
        torch.testing.assert_close(small(run.dataset.x_test), run.bnn(run.dataset.x_test))


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("mine:three", "'mine:three' is a int, wanted an nn.Module"),
        ("mine:too_few", r"makes \[2, 3\] of 2 inputs, wanted \[2, 4\], a number a class"),
        ("mine:no_images", r"cannot take inputs of shape \[N, 8, 8\]"),
        ("mine:nothing", "gives a NoneType, wanted an nn.Module"),
        ("mine:fails", r"fails for inputs of shape \[8, 8\] and 4 classes \(RuntimeError: no\nluck\)"),
        ("mine:gated", "has gates already"),
        ("mine:absent", "network: 'mine:absent' cannot be imported .*; wanted module:name of what can be imported"),
        ("absent:net", "network: 'absent:net' cannot be imported"),
        (
            "mine.py",
            "network is 'mine.py', wanted one of lenet-500-300, mlp-64-64, lenet5-caffe, lenet5, vgg16, or module:name",
        ),
    ],
)
def test_a_network_that_is_none_is_refused(tmp_path: Path, name: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        runs.create(tmp_path / "run", TrainConfig(dataset="bars.npz", network=name))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", runs.NETWORKS)
def test_a_networks_own_settings_name_gates_that_it_has(name: str) -> None:
    config = runs.recipe(name)
    net = networks.make(name, (3, 32, 32) if name == "vgg16" else (28, 28), 10)
    bnn = bbpyro.BetaBernoulliNetwork(bbpyro.insert_dropout(net), num_data=100)
    starts = training.kl_starts(bnn, config.kl_warmup_epochs, config.kl_weights())
    assert set(starts) == set(bnn.gates)


@pytest.mark.parametrize("setting", ["prior", "weight_prior", "network"])
def test_a_run_opened_where_its_module_is_not_says_so(
    tmp_path: Path, setting: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    name = {"prior": "mine:prior", "weight_prior": "mine:weights", "network": "mine:Net"}[setting]
    settings = TrainConfig(dataset="bars.npz", epochs=1, pretrain_epochs=0)
    runs.create(tmp_path / "run", dataclasses.replace(settings, **{setting: name}))
    monkeypatch.chdir(tmp_path)
    for command in (["train", "--resume"], ["evaluate"], ["posterior"], ["compact"]):
        with pytest.raises(SystemExit) as stop:
            main([*command, "run"])
        assert stop.value.code == 2
        err = capsys.readouterr().err
        assert err.startswith(f"bbpyro: error: run run: {setting}: {name!r} cannot be imported (ModuleNotFoundError")
        assert err.endswith("go to the folder that the module is in\n") and "altered" not in err


def test_a_study_resumed_where_its_module_is_not_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    config = StudyConfig(prior=("Jeffreys", "mine:prior"), seeds=1, dataset="bars.npz", epochs=1)
    studies.prepare(tmp_path / "study", config)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as stop:
        main(["compare", "--resume", "study"])
    assert stop.value.code == 2
    err = capsys.readouterr().err
    assert err.startswith("bbpyro: error: study study: prior: 'mine:prior' cannot be imported (ModuleNotFoundError")
    assert err.endswith("go to the folder that the module is in\n") and "altered" not in err
