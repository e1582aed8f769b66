import dataclasses
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from random import SystemRandom
from typing import Any

import matplotlib.image
import numpy as np
import pytest
import safetensors.torch
import torch

from bbpyro import checkpoint, data, networks, runs
from bbpyro.checkpoint import CheckpointError
from bbpyro.cli import main
from bbpyro.runs import TrainConfig
from bbpyro.runs.saved import Pace
from bbpyro.training import NonFiniteLossError
from bbpyro.training.shedding import PATIENCE

PRETRAIN_EPOCHS, EPOCHS = 4, 10


def save_bars(path: Path, num_train: int = 150, **changed: np.ndarray) -> Path:
    """A data set that trains in no time: five minibatches of 32, the last one short."""
    bars = data.bars(num_train=num_train, num_test=50)
    arrays = {name: getattr(bars, name).numpy() for name in ("x", "y", "x_test", "y_test")}
    np.savez(path, **{**arrays, **changed})
    return path


@pytest.fixture(scope="module")
def npz(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_bars(tmp_path_factory.mktemp("data") / "small-bars.npz")


@pytest.fixture
def short(npz: Path) -> TrainConfig:
    """Settings of the shortest run there is."""
    return TrainConfig(dataset=str(npz), epochs=1, pretrain_epochs=1, batch_size=50)


def train(folder: Path, config: TrainConfig) -> runs.Run:
    runs.create(folder, config)
    return runs.train(folder)


def read_metrics(folder: Path) -> list[dict[str, Any]]:
    """The epochs' records; the one thing in them that differs from one machine to the next is left out."""
    text = (folder / "metrics.jsonl").read_text()
    assert text.endswith("\n")
    records = [json.loads(line) for line in text.splitlines()]
    return [{key: value for key, value in record.items() if key != "seconds"} for record in records]


def read_tensors(folder: Path) -> dict[str, bytes]:
    tensors, meta = checkpoint.load(folder / runs.CHECKPOINT)
    assert [record["epoch"] for record in meta["history"]] == [record["epoch"] for record in read_metrics(folder)]
    return {name: tensor.numpy().tobytes() for name, tensor in tensors.items()}


def read_files(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def assert_same_numbers(found: Path, wanted: Path) -> None:
    assert read_metrics(found) == read_metrics(wanted)
    assert read_tensors(found) == read_tensors(wanted)


@dataclasses.dataclass(frozen=True)
class Trained:
    """A run that nothing interrupted, and a copy of its folder after each epoch."""

    config: TrainConfig
    folder: Path
    run: runs.Run
    summary: dict[str, Any]
    copies: list[Path]


def train_and_copy(base: Path, config: TrainConfig) -> Trained:
    folder, copies = base / "run", []

    def copy(record: dict[str, Any], num_epochs: int, scored_on: str) -> None:
        copies.append(base / f"copy-{len(copies)}")
        shutil.copytree(folder, copies[-1])

    runs.create(folder, config)
    run = runs.train(folder, on_epoch=copy)
    return Trained(config, folder, run, runs.summarize(run, num_samples=2), copies)


@pytest.fixture(scope="module")
def trained(npz: Path, tmp_path_factory: pytest.TempPathFactory) -> Trained:
    config = TrainConfig(
        dataset=str(npz), epochs=EPOCHS, pretrain_epochs=PRETRAIN_EPOCHS, batch_size=32, learning_rate=2e-3, seed=5
    )
    return train_and_copy(tmp_path_factory.mktemp("trained"), config)


# --- settings ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("setting", "value", "mentions"),
    [
        ("network", "resnet", ["'resnet'", "lenet-500-300"]),
        ("prior", "gauss", ["'gauss'", "Beta(0.0001, 1)", "IndianBuffet(5)"]),
        *(("prior", f"Beta({value}, 1)", [value, "positive"]) for value in ("0", "-1", "1e999", "1e-300")),
        ("prior", "FixedRate(1)", ["p is 1", "[0, 1)"]),
        ("prior", "{'fc9.*': Jeffreys, '*': Uniform}", ["'fc9.*'", "fc1.gate, fc2.gate, fc3.gate"]),
        ("prior", "{'fc1.*': Jeffreys}", ["'fc2.gate'", "add '*'"]),
        ("prior", "no.such:thing", ["No module named 'no'", "module:name"]),
        ("weight_prior", "Laplace(0)", ["Laplace: scale is 0"]),
        ("weight_prior", "Laplace", ["Laplace", "scale"]),
        ("weights", "gauss", ["'gauss'", "delta, normal"]),
        *(("temperature", value, [f"{value}", "positive"]) for value in (0.0, -0.1, float("nan"))),
        *(("learning_rate", value, ["positive"]) for value in (0.0, -1e-3, float("inf"))),
        ("gate_learning_rate", 0.0, ["positive"]),
        ("threads", 0, ["0", "at least 1"]),
        *(("epochs", value, [f"{value}", "at least 1"]) for value in (0, -1)),
        *(("batch_size", value, [f"{value}", "at least 1"]) for value in (0, -1)),
        *(
            (name, -1, ["-1", "at least 0"])
            for name in ("pretrain_epochs", "kl_warmup_epochs", "validation_size", "validation_fold", "seed")
        ),
        ("validation_fold", 1, ["validation_fold is 1", "validation_size 0"]),
        ("seed", 2**64, ["seed"]),
        *(("threshold", value, [f"{value}", "[0, 1)"]) for value in (-0.1, 1.0, float("nan"))),
        ("schedule", "linear", ["'linear'", "cosine", "steps"]),
        ("elbo", "renyi", ["'renyi'", "trace", "mean-field"]),
    ],
)
def test_a_setting_out_of_range_is_named(
    tmp_path: Path, npz: Path, setting: str, value: Any, mentions: list[str]
) -> None:
    config = dataclasses.replace(TrainConfig(dataset=str(npz)), **{setting: value})
    with pytest.raises(ValueError) as caught:
        runs.create(tmp_path / "run", config)
    for mention in (setting, *mentions):
        assert mention in str(caught.value)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ({"prior": "beta", "alpha": None}, "Beta(0.0001, 1)"),
        ({"prior": "beta", "alpha": 0.5}, "Beta(0.5, 1)"),
        ({"prior": "indian-buffet", "alpha": None}, "IndianBuffet(5.0)"),
        ({"prior": "indian-buffet", "alpha": 2.5}, "IndianBuffet(2.5)"),
    ],
)
def test_the_settings_of_a_run_from_before_priors_were_spelled_out_are_understood(
    old: dict[str, Any], new: str
) -> None:
    assert TrainConfig.from_json(old).make_prior() == TrainConfig(prior=new).make_prior()


def test_a_prior_is_kept_in_one_spelling(tmp_path: Path, short: TrainConfig) -> None:
    for folder, prior in (("a", "Beta(1e-4,1)"), ("b", " Beta( concentration0 = 1 ) ")):
        runs.create(tmp_path / folder, dataclasses.replace(short, prior=prior))
    assert (tmp_path / "a" / "config.json").read_text() == (tmp_path / "b" / "config.json").read_text()


def test_settings_survive_json(tmp_path: Path) -> None:
    config = TrainConfig(
        prior="Uniform()", weights="normal", pretrained=Path("a/b"), data_dir=tmp_path, elbo="mean-field", seed=2**40
    )
    assert TrainConfig.from_json(json.loads(json.dumps(config.to_json()))) == config
    assert TrainConfig.from_json({}) == TrainConfig()


def test_an_unknown_setting_is_named() -> None:
    with pytest.raises(ValueError, match="'epoch'"):
        TrainConfig.from_json({"epoch": 3})


# --- making a run folder -----------------------------------------------------------------------------------


def test_a_run_folder_that_exists_is_left_alone(tmp_path: Path, short: TrainConfig) -> None:
    folder = tmp_path / "run"
    folder.mkdir()
    (folder / "precious").write_text("work")
    with pytest.raises(ValueError) as caught:
        runs.create(folder, short)
    for mention in (str(folder), "--resume", "--force"):
        assert mention in str(caught.value)
    assert read_files(tmp_path) == {"run/precious": b"work"}


def test_force_replaces_a_run_folder(tmp_path: Path, short: TrainConfig) -> None:
    runs.create(tmp_path / "run", short)
    (tmp_path / "run" / "metrics.jsonl").touch()
    runs.create(tmp_path / "run", short, force=True)
    assert list(read_files(tmp_path)) == ["run/config.json"]


def test_force_replaces_nothing_but_a_run(tmp_path: Path, short: TrainConfig) -> None:
    (tmp_path / "thesis").mkdir()
    (tmp_path / "thesis" / "chapter").write_text("years of work")
    with pytest.raises(ValueError, match="no run, so it is not replaced"):
        runs.create(tmp_path / "thesis", short, force=True)
    assert (tmp_path / "thesis" / "chapter").read_text() == "years of work"


def test_a_run_folder_below_a_file_is_refused(tmp_path: Path, short: TrainConfig) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ValueError, match="cannot be made"):
        runs.create(tmp_path / "file" / "run", short)


def test_a_run_folder_may_have_the_longest_name_and_one_that_cannot_be_made_is_named(
    tmp_path: Path, short: TrainConfig
) -> None:
    runs.create(tmp_path / ("r" * 250), short)
    assert [folder.name for folder in tmp_path.iterdir()] == ["r" * 250]
    with pytest.raises(ValueError, match=r"^run folder /dev/fd/run cannot be made \("):
        runs.create(Path("/dev/fd/run"), short)


def test_a_run_made_with_relative_paths_is_of_use_from_elsewhere(
    tmp_path: Path, short: TrainConfig, npz: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(npz.parent)
    train(tmp_path / "run", dataclasses.replace(short, dataset=npz.name))
    monkeypatch.chdir(tmp_path)
    assert runs.load(tmp_path / "run").is_complete


def test_force_with_settings_that_are_refused_leaves_the_old_run(tmp_path: Path, short: TrainConfig) -> None:
    runs.create(tmp_path / "run", short)
    before = read_files(tmp_path)
    for change in ({"epochs": 0}, {"dataset": "nothing.npz"}, {"pretrained": Path("nothing")}):
        with pytest.raises(ValueError):
            runs.create(tmp_path / "run", dataclasses.replace(short, **change), force=True)
    assert read_files(tmp_path) == before


def test_the_default_folder_is_never_one_that_exists(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    folders = []
    for _ in range(3):
        folders.append(runs.default_folder(TrainConfig(dataset="some/where/mine.npz")))
        folders[-1].mkdir(parents=True)
    assert len(set(folders)) == 3
    assert all(str(folder).startswith("runs/mine-") for folder in folders)


# --- what a run leaves -------------------------------------------------------------------------------------


def test_metrics_have_one_record_an_epoch(trained: Trained) -> None:
    records = read_metrics(trained.folder)
    assert [(record["phase"], record["epoch"]) for record in records] == [
        *(("pretraining", epoch + 1) for epoch in range(PRETRAIN_EPOCHS)),
        *(("SVI", epoch + 1) for epoch in range(EPOCHS)),
    ]
    both = {"phase", "epoch", "learning_rate", "loss", "train_nll", "train_accuracy", "held_out_nll"}
    for record in records:
        gates = {"weights_nll", "kl", "active", "shed"} if record["phase"] == "SVI" else set()
        assert record.keys() == both | {"held_out_accuracy"} | gates
    assert records[-1]["active"].keys() == {"fc1.gate", "fc2.gate", "fc3.gate"}
    assert all("seconds" in record for record in trained.run.history)


def test_metrics_grow_by_a_line_an_epoch(trained: Trained) -> None:
    records = read_metrics(trained.folder)
    for i, copy in enumerate(trained.copies):
        assert read_metrics(copy) == records[: i + 1]


def test_the_learning_rate_follows_the_schedule(trained: Trained) -> None:
    rates = [record["learning_rate"] for record in read_metrics(trained.folder)]
    assert rates[:PRETRAIN_EPOCHS] == [[2e-3]] * PRETRAIN_EPOCHS
    assert rates[PRETRAIN_EPOCHS : PRETRAIN_EPOCHS + EPOCHS // 2] == [[2e-3, 1e-2]] * (EPOCHS // 2)
    assert rates[-1][0] < 0.2 * 2e-3


def test_the_summary_says_what_was_scored_and_kept(trained: Trained) -> None:
    summary = json.loads((trained.folder / "summary.json").read_text())
    assert summary == trained.summary
    assert (summary["scored_on"], summary["num_scored"]) == ("test", 50)
    assert summary["epochs"] == PRETRAIN_EPOCHS + EPOCHS
    assert summary["training_seconds"] == sum(record["seconds"] for record in trained.run.history)
    assert summary["monte_carlo"].pop("num_samples") == 2
    for scores in (summary["mean_mask"], summary["monte_carlo"]):
        assert scores.keys() == {"error", "nll", "ece"}
        assert 0 <= scores["error"] <= 1
        assert 0 <= scores["ece"] <= 1
        assert scores["nll"] > 0
    assert summary["total"] == {"fc1.gate": 64, "fc2.gate": 500, "fc3.gate": 300}
    assert summary["kept"] == trained.run.history[-1]["active"]
    assert TrainConfig.from_json(summary["config"]) == trained.config
    assert summary["versions"]["torch"] == torch.__version__
    assert {"bbpyro", "pyro", "python"} < summary["versions"].keys()


def test_the_mean_mask_scores_are_those_of_the_last_epoch(trained: Trained) -> None:
    last = trained.run.history[-1]
    assert trained.summary["mean_mask"]["nll"] == pytest.approx(last["held_out_nll"], rel=1e-5)
    assert trained.summary["mean_mask"]["error"] == pytest.approx(1 - last["held_out_accuracy"])


@pytest.mark.parametrize("name", ["keep_probability.png", "input_map.png", "elbo.png", "kept_units.png"])
def test_the_figures_are_pictures_of_something(trained: Trained, name: str) -> None:
    image = matplotlib.image.imread(trained.folder / "figures" / name)
    assert min(image.shape[:2]) > 300
    assert len(np.unique(image.reshape(-1, image.shape[-1]), axis=0)) > 50


def test_data_that_are_no_images_have_no_input_map(tmp_path: Path, short: TrainConfig) -> None:
    bars = data.bars(150, 50)
    npz = save_bars(tmp_path / "flat.npz", x=bars.x.flatten(1).numpy(), x_test=bars.x_test.flatten(1).numpy())
    run = train(tmp_path / "run", dataclasses.replace(short, dataset=str(npz)))
    runs.summarize(run, num_samples=1)
    names = {path.stem for path in (tmp_path / "run" / "figures").iterdir()}
    assert names == {"keep_probability", "elbo", "kept_units"}


def test_a_loaded_run_is_the_trained_one(trained: Trained) -> None:
    run = runs.load(trained.folder)
    assert run.is_complete
    assert run.config == trained.config
    assert run.history == trained.run.history
    x = run.dataset.x_test
    assert torch.equal(run.bnn(x), trained.run.bnn(x))
    assert runs.score(run, num_samples=2) == runs.score(trained.run, num_samples=2)


def test_scoring_leaves_the_global_generator_alone(trained: Trained) -> None:
    before = torch.get_rng_state()
    runs.score(trained.run, num_samples=1)
    assert torch.equal(torch.get_rng_state(), before)


def test_a_run_in_training_can_be_loaded(trained: Trained) -> None:
    run = runs.load(trained.copies[PRETRAIN_EPOCHS])
    assert not run.is_complete
    assert len(run.history) == PRETRAIN_EPOCHS + 1


def test_a_run_without_a_checkpoint_cannot_be_loaded_but_started(tmp_path: Path, short: TrainConfig) -> None:
    runs.create(tmp_path / "run", short)
    with pytest.raises(CheckpointError, match="--resume"):
        runs.load(tmp_path / "run")


# --- reproducibility ---------------------------------------------------------------------------------------


def test_the_same_seed_gives_the_same_numbers_and_another_seed_others(tmp_path: Path, short: TrainConfig) -> None:
    for folder, seed in (("a", 1), ("b", 1), ("c", 2)):
        torch.manual_seed(len(list(tmp_path.iterdir())))
        train(tmp_path / folder, dataclasses.replace(short, seed=seed))
    assert_same_numbers(tmp_path / "a", tmp_path / "b")
    for a, c in zip(read_metrics(tmp_path / "a"), read_metrics(tmp_path / "c"), strict=True):
        assert a["loss"] != c["loss"]


# --- it does not lose work ---------------------------------------------------------------------------------


def resume(folder: Path) -> None:
    main(["train", "--resume", str(folder), "--num-samples", "2"])


@pytest.mark.parametrize("num_done", [1, PRETRAIN_EPOCHS, PRETRAIN_EPOCHS + 1, PRETRAIN_EPOCHS + EPOCHS])
def test_a_run_stopped_after_any_epoch_goes_on_with_the_same_numbers(
    tmp_path: Path, trained: Trained, num_done: int
) -> None:
    shutil.copytree(trained.copies[num_done - 1], tmp_path / "run")
    runs.train(tmp_path / "run")
    assert_same_numbers(tmp_path / "run", trained.folder)


@pytest.mark.parametrize("num_done", [PRETRAIN_EPOCHS, PRETRAIN_EPOCHS + 1, PRETRAIN_EPOCHS + EPOCHS])
def test_a_run_killed_between_a_checkpoint_and_its_line_of_metrics_loses_no_line(
    tmp_path: Path, trained: Trained, num_done: int
) -> None:
    shutil.copytree(trained.copies[num_done - 1], tmp_path / "run")
    shutil.copy(trained.copies[num_done - 2] / "metrics.jsonl", tmp_path / "run" / "metrics.jsonl")
    runs.train(tmp_path / "run")
    assert_same_numbers(tmp_path / "run", trained.folder)


def test_every_kind_of_training_goes_on_with_the_same_numbers(tmp_path: Path, npz: Path) -> None:
    config = TrainConfig(
        dataset=str(npz),
        epochs=4,
        pretrain_epochs=0,
        batch_size=64,
        prior="{'fc1.*': IndianBuffet(5), '*': StickBreaking(5)}",
        weights="normal",
        weight_prior="Laplace(0.1)",
        schedule="steps",
        elbo="mean-field",
        kl_warmup_epochs=3,
        validation_size=20,
    )
    trained = train_and_copy(tmp_path, config)
    for copy in trained.copies[:2]:
        runs.train(copy)
        assert_same_numbers(copy, trained.folder)


def test_resuming_a_finished_run_changes_nothing(tmp_path: Path, trained: Trained) -> None:
    shutil.copytree(trained.folder, tmp_path / "run")
    resume(tmp_path / "run")
    before, after = read_files(trained.folder), read_files(tmp_path / "run")
    summaries = [json.loads(files.pop("summary.json")) for files in (before, after)]
    for summary in summaries:
        assert summary.pop("peak_memory_mib") > 1  # of the process, not of the run
    assert summaries[0] == summaries[1]
    assert before == after


def test_what_a_killed_process_left_half_written_is_cleared_away(tmp_path: Path, trained: Trained) -> None:
    shutil.copytree(trained.folder, tmp_path / "run")
    for name in ("checkpoint.safetensors", "metrics.jsonl", "config.json", "summary.json"):
        (tmp_path / "run" / f".{name}-x1y2z3").write_bytes(b"half")
    resume(tmp_path / "run")
    assert read_files(tmp_path / "run").keys() == read_files(trained.folder).keys()


def flags(config: TrainConfig) -> list[str]:
    return [
        word
        for name in ("dataset", "epochs", "pretrain_epochs", "batch_size", "learning_rate", "seed")
        for word in (f"--{name.replace('_', '-')}", str(getattr(config, name)))
    ]


def num_epochs_done(folder: Path) -> int:
    metrics = folder / "metrics.jsonl"
    return len(metrics.read_text().splitlines()) if metrics.exists() else 0


def seconds_of_last_epoch(folder: Path) -> float:
    return float(json.loads((folder / "metrics.jsonl").read_text().splitlines()[-1])["seconds"])


def is_scoring(folder: Path) -> bool:
    return (folder / "figures").exists()


def wait_for(process: subprocess.Popen[str], is_so: Callable[[], bool]) -> None:
    give_up = time.monotonic() + 200
    while not is_so():
        assert process.poll() is None and time.monotonic() < give_up, process.communicate()
        time.sleep(0.005)


def kill_when(process: subprocess.Popen[str], folder: Path, moment: int | str) -> None:
    """SIGKILL after so many epochs and a random part of the next one, or at one of two moments that have a name."""
    if moment == "start":
        wait_for(process, folder.exists)
    elif moment == "scoring":
        wait_for(process, lambda: is_scoring(folder))
    else:
        wait_for(process, lambda: num_epochs_done(folder) >= int(moment))
        time.sleep(SystemRandom().uniform(0, 1.5) * seconds_of_last_epoch(folder))
    process.kill()
    process.communicate()
    assert process.returncode == -signal.SIGKILL


BBPYRO = [str(Path(sys.executable).with_name("bbpyro"))]


@pytest.mark.parametrize(
    "moments",
    [
        pytest.param(["start", PRETRAIN_EPOCHS + 3], id="right after the start, and in SVI"),
        pytest.param([2, "scoring"], id="in pretraining, and while scoring"),
    ],
)
def test_a_run_killed_at_any_moment_and_resumed_ends_with_the_numbers_of_one_never_interrupted(
    tmp_path: Path, trained: Trained, moments: list[int | str]
) -> None:
    folder = tmp_path / "run"
    command = [*BBPYRO, "train", *flags(trained.config), "--run", str(folder)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}  # threads that wait for each other make a busy machine crawl
    for moment in moments:
        process = subprocess.Popen(
            command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        )
        kill_when(process, folder, moment)
        if moment != "scoring":
            assert num_epochs_done(folder) < PRETRAIN_EPOCHS + EPOCHS
        command = [*BBPYRO, "train", "--resume", str(folder)]
    resume(folder)
    assert_same_numbers(folder, trained.folder)
    assert {"summary.json", "figures/keep_probability.png"} < read_files(folder).keys()


def test_a_run_that_sheds_killed_at_random_moments_ends_with_the_numbers_of_one_never_interrupted(
    tmp_path: Path,
) -> None:
    """Its gates are so fast that units leave from the fifth epoch on; what is shed follows from the checkpoint."""
    config = TrainConfig(
        dataset=str(save_bars(tmp_path / "bars.npz")),
        epochs=9,
        pretrain_epochs=1,
        batch_size=15,
        gate_learning_rate=0.3,
    )
    trained = train_and_copy(tmp_path, config)
    idle = {
        name: t for name, t in checkpoint.load(trained.folder / "checkpoint.safetensors")[0].items() if "idle" in name
    }
    assert idle.keys() == {"idle.fc1.gate", "idle.fc2.gate", "idle.fc3.gate"}
    num_shed = sum(int((epochs == PATIENCE).sum()) for epochs in idle.values())
    assert num_shed > 100
    for copy in trained.copies[5:9]:
        runs.train(copy)
        assert_same_numbers(copy, trained.folder)
    folder = tmp_path / "killed"
    command = [*BBPYRO, "train", *flags(config), "--gate-learning-rate", "0.3", "--run", str(folder)]
    for moment in (7,):
        process = subprocess.Popen(
            command,
            env={**os.environ, "OMP_NUM_THREADS": "1"},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        kill_when(process, folder, moment)
        command = [*BBPYRO, "train", "--resume", str(folder)]
    resume(folder)
    assert_same_numbers(folder, trained.folder)
    wanted = runs.summarize(trained.run, num_samples=100)
    found = json.loads((folder / "summary.json").read_text())
    assert found["mean_mask"] == json.loads(json.dumps(wanted["mean_mask"]))


# --- where a run starts from -------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def pretrained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("pretrained") / "net.safetensors"
    torch.manual_seed(99)
    safetensors.torch.save_file(networks.lenet_500_300(64, data.bars().num_classes).state_dict(), path)
    return path


def test_a_run_starts_from_pretrained_weights(tmp_path: Path, short: TrainConfig, pretrained: Path) -> None:
    # With rates this small a step is nothing, and the end shows the start.
    config = dataclasses.replace(short, pretrained=pretrained, learning_rate=1e-30, gate_learning_rate=1e-30)
    run = train(tmp_path / "run", config)
    assert [record["phase"] for record in run.history] == ["SVI"]
    wanted = safetensors.torch.load_file(pretrained)
    found = run.bnn.net.state_dict()
    assert all(torch.equal(found[name], tensor) for name, tensor in wanted.items())


def without(tensors: dict[str, torch.Tensor], name: str) -> dict[str, torch.Tensor]:
    return {key: tensor for key, tensor in tensors.items() if key != name}


@pytest.mark.parametrize(
    ("change", "mention"),
    [
        (lambda tensors: without(tensors, "fc2.bias"), "no tensor 'fc2.bias'"),
        (lambda tensors: {**tensors, "fc4.bias": torch.ones(1)}, "'fc4.bias'"),
        (lambda tensors: {**tensors, "fc1.weight": torch.ones(500, 784)}, "(500, 784)"),
        (lambda tensors: {}, "no tensor 'fc1.weight'"),
    ],
)
def test_pretrained_weights_of_another_network_are_refused(
    tmp_path: Path,
    short: TrainConfig,
    pretrained: Path,
    change: Callable[[dict[str, torch.Tensor]], dict[str, torch.Tensor]],
    mention: str,
) -> None:
    path = tmp_path / "other.safetensors"
    safetensors.torch.save_file(change(safetensors.torch.load_file(pretrained)), path)
    with pytest.raises(CheckpointError) as caught:
        runs.create(tmp_path / "run", dataclasses.replace(short, pretrained=path))
    assert str(path) in str(caught.value)
    assert mention in str(caught.value)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("content", [None, b"no safetensors file"])
def test_a_pretrained_file_that_cannot_be_read_is_refused(
    tmp_path: Path, short: TrainConfig, content: bytes | None
) -> None:
    path = tmp_path / "net.safetensors"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(CheckpointError, match=str(path)):
        runs.create(tmp_path / "run", dataclasses.replace(short, pretrained=path))


# --- what is scored ----------------------------------------------------------------------------------------


def test_with_a_validation_split_the_test_set_is_not_touched(tmp_path: Path, short: TrainConfig) -> None:
    for name, num_test in (("a", 50), ("b", 7)):
        x_test, y_test = np.full((num_test, 8, 8), num_test), np.zeros(num_test, int)
        npz = save_bars(tmp_path / f"{name}.npz", x_test=x_test, y_test=y_test)
        train(tmp_path / name, dataclasses.replace(short, dataset=str(npz), validation_size=30))
    assert_same_numbers(tmp_path / "a", tmp_path / "b")


def test_with_a_validation_split_the_scores_are_of_its_data(tmp_path: Path, short: TrainConfig) -> None:
    run = train(tmp_path / "run", dataclasses.replace(short, validation_size=30))
    assert len(run.dataset.x) == 120
    assert torch.equal(run.dataset.x_test, data.load(short.dataset).x[-30:])
    scores = runs.score(run, num_samples=1)
    assert (scores["scored_on"], scores["num_scored"]) == ("validation", 30)


def test_a_fold_is_held_out_and_a_run_of_before_there_were_folds_is_read(tmp_path: Path, short: TrainConfig) -> None:
    whole = data.load(short.dataset)
    run = train(tmp_path / "run", dataclasses.replace(short, validation_size=30, validation_fold=1))
    assert torch.equal(run.dataset.x_test, whole.x[-60:-30])
    assert torch.equal(run.dataset.x, torch.cat([whole.x[:-60], whole.x[-30:]]))
    assert runs.score(run, num_samples=1)["scored_on"] == "validation"
    with pytest.raises(ValueError, match="validation_fold is 5, wanted 0 to 4"):
        runs.create(tmp_path / "b", dataclasses.replace(short, validation_size=30, validation_fold=5))
    runs.create(tmp_path / "old", dataclasses.replace(short, validation_size=30))
    written = json.loads((tmp_path / "old" / "config.json").read_text())
    del written["config"]["validation_fold"]
    (tmp_path / "old" / "config.json").write_text(json.dumps(written))
    old = runs.train(tmp_path / "old")
    assert old.config.validation_fold == 0 and torch.equal(old.dataset.x_test, whole.x[-30:])


@pytest.mark.parametrize("size", [150, 10**6])
def test_a_validation_split_of_all_data_is_refused(tmp_path: Path, short: TrainConfig, size: int) -> None:
    with pytest.raises(ValueError, match=f"validation_size is {size}"):
        runs.create(tmp_path / "run", dataclasses.replace(short, validation_size=size))


# --- a run that cannot go on -------------------------------------------------------------------------------


@pytest.mark.parametrize("act", [runs.train, runs.load])
def test_a_folder_that_is_no_run_is_refused(tmp_path: Path, act: Callable[[Path], Any]) -> None:
    for folder in (tmp_path, tmp_path / "nothing"):
        with pytest.raises(CheckpointError, match="no bbpyro run"):
            act(folder)


@pytest.mark.parametrize("name", ["x", "y", "x_test", "y_test"])
def test_a_run_does_not_go_on_with_changed_data(tmp_path: Path, short: TrainConfig, name: str) -> None:
    npz = save_bars(tmp_path / "mine.npz")
    runs.create(tmp_path / "run", dataclasses.replace(short, dataset=str(npz)))
    bars = data.bars(150, 50)
    changed = getattr(bars, name).numpy().copy()
    changed.flat[0] = 1 - min(1, changed.flat[0])
    save_bars(npz, **{name: changed})
    with pytest.raises(ValueError) as caught:
        runs.train(tmp_path / "run")
    for mention in ("mine.npz", str(tmp_path / "run")):
        assert mention in str(caught.value)


@pytest.mark.parametrize("text", ["", "[]", "{}", "\0", '{"config": 3, "data": ""}', '{"config": {"epoch": 3}}'])
def test_a_config_that_is_none_is_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / "config.json").write_text(text)
    for act in (runs.check, runs.train, runs.load):
        with pytest.raises(CheckpointError, match="config.json was altered"):
            act(tmp_path)


@pytest.mark.parametrize(
    "change",
    [
        {"epochs": 2.5},
        {"batch_size": 32.5},
        {"seed": 0.5},
        {"validation_size": 1.5},
        {"dataset": 3},
        {"network": []},
        {"prior": "gauss"},
        {"weight_prior": 1},
        {"temperature": 0},
        {"threshold": None},
        {"schedule": "linear"},
        {"elbo": 7},
        {"pretrained": 3},
        {"no_such_setting": 3},
    ],
    ids=str,
)
def test_a_config_with_impossible_settings_is_refused(
    tmp_path: Path, short: TrainConfig, change: dict[str, Any]
) -> None:
    folder = tmp_path / "run"
    runs.create(folder, short)
    description = json.loads((folder / "config.json").read_text())
    description["config"].update(change)
    (folder / "config.json").write_text(json.dumps(description))
    with pytest.raises(CheckpointError, match="config.json was altered"):
        runs.train(folder)


def test_a_run_does_not_go_on_with_settings_other_than_those_it_began_with(tmp_path: Path, trained: Trained) -> None:
    folder = tmp_path / "run"
    shutil.copytree(trained.copies[PRETRAIN_EPOCHS], folder)
    text = (folder / "config.json").read_text()
    (folder / "config.json").write_text(text.replace('"temperature": 0.1', '"temperature": 0.2'))
    with pytest.raises(CheckpointError, match="config.json was altered"):
        runs.train(folder)


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-1000])


def flip_a_bit(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


@pytest.mark.parametrize("damage", [truncate, flip_a_bit, lambda path: path.write_bytes(b"")])
@pytest.mark.parametrize("act", [runs.train, runs.load])
def test_a_damaged_checkpoint_is_refused_and_left_as_it_is(
    tmp_path: Path, trained: Trained, act: Callable[[Path], Any], damage: Callable[[Path], Any]
) -> None:
    folder = tmp_path / "run"
    shutil.copytree(trained.folder, folder)
    damage(folder / runs.CHECKPOINT)
    before = read_files(folder)
    with pytest.raises(CheckpointError, match=runs.CHECKPOINT):
        act(folder)
    assert read_files(folder) == before


@pytest.mark.parametrize("num_done", [1, PRETRAIN_EPOCHS + 1])
def test_a_checkpoint_of_another_network_is_refused(
    tmp_path: Path, trained: Trained, short: TrainConfig, num_done: int
) -> None:
    bars = data.bars(150, 50)
    npz = save_bars(tmp_path / "smaller.npz", x=bars.x[:, :4].numpy(), x_test=bars.x_test[:, :4].numpy())
    runs.create(tmp_path / "run", dataclasses.replace(short, dataset=str(npz)))
    shutil.copy(trained.copies[num_done - 1] / runs.CHECKPOINT, tmp_path / "run")
    with pytest.raises(CheckpointError, match="another network") as caught:
        runs.train(tmp_path / "run")
    assert str(tmp_path / "run") in str(caught.value)


# --- a loss that is not finite -----------------------------------------------------------------------------


@pytest.mark.parametrize("pretrain_epochs", [0, 2])
def test_a_learning_rate_far_too_large_stops_training_with_epoch_step_and_layer(
    tmp_path: Path, short: TrainConfig, pretrain_epochs: int
) -> None:
    config = dataclasses.replace(short, learning_rate=1e30, pretrain_epochs=pretrain_epochs)
    with pytest.raises(NonFiniteLossError) as caught:
        train(tmp_path / "run", config)
    # The first step makes every weight about 1e30: what comes out of fc1 float32 can hold, what comes out of fc2 not.
    assert (caught.value.epoch, caught.value.step, caught.value.layer) == (1, 2, "fc2")
    for mention in ("epoch 1", "step 2", "'fc2'"):
        assert mention in str(caught.value)
    assert list(read_files(tmp_path / "run")) == ["config.json"]


def test_a_loss_that_stops_being_finite_leaves_the_last_good_checkpoint(tmp_path: Path, short: TrainConfig) -> None:
    with pytest.raises(NonFiniteLossError) as caught:
        train(tmp_path / "run", dataclasses.replace(short, gate_learning_rate=1e38))
    assert caught.value.layer.endswith("gate")
    run = runs.load(tmp_path / "run")
    assert [record["phase"] for record in run.history] == ["pretraining"]
    tensors, _ = checkpoint.load(tmp_path / "run" / runs.CHECKPOINT)
    assert all(tensor.isfinite().all() for tensor in tensors.values())


def test_of_many_short_epochs_not_each_leaves_a_checkpoint() -> None:
    """Each holds all records: of 8,000 epochs they would take longer than the training."""
    pace = Pace()

    def written(num_epochs: int, seconds: float) -> list[tuple[int, int]]:
        epochs = []
        for epoch in range(1, num_epochs + 1):
            if pace.is_due(epoch, epoch * seconds):
                epochs.append((epoch, pace.num_new))
                pace.wrote(epoch * seconds)
        return epochs

    assert written(300, 1.5) == [(epoch, 1) for epoch in range(1, 301)]
    pace = Pace()
    epochs = written(8000, 0.001)
    assert epochs[:199] == [(epoch, 1) for epoch in range(1, 200)]
    assert 400 < len(epochs) < 700 and max(new for _, new in epochs) <= 80
    assert sum(new for _, new in epochs) + pace.num_new == 8000


def test_a_run_of_many_short_epochs_has_them_all_in_its_records(tmp_path: Path, npz: Path) -> None:
    config = TrainConfig(dataset=str(npz), epochs=1, pretrain_epochs=303, batch_size=150)
    run = train(tmp_path / "run", config)
    lines = (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()
    assert [json.loads(line)["epoch"] for line in lines] == [*range(1, 304), 1]
    assert run.history == list(map(json.loads, lines))


@pytest.mark.parametrize("pretrain_epochs", [0, 2])
def test_an_epoch_whose_last_step_broke_the_network_leaves_no_checkpoint(
    tmp_path: Path, short: TrainConfig, pretrain_epochs: int
) -> None:
    # One minibatch an epoch: the loss is finite, and the network after the step is not.
    config = dataclasses.replace(short, learning_rate=1e30, pretrain_epochs=pretrain_epochs, batch_size=150)
    with pytest.raises(NonFiniteLossError):
        train(tmp_path / "run", config)
    assert list(read_files(tmp_path / "run")) == ["config.json"]
