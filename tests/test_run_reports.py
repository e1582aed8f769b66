"""What is told of a run: its epochs in 80 columns, its scores as they are, and what they are to be held against."""

import dataclasses
import json
import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import torch
import xarray as xr
from rich.console import Console

from bbpyro import data, posterior, runs
from bbpyro.cli import actions, commands, main
from bbpyro.cli.report import EpochPrinter
from bbpyro.runs import TrainConfig

FLAGS = "--epochs 1 --pretrain-epochs 1 --batch-size 50 --num-samples 2".split()


def save(path: Path, scale: float = 1.0) -> Path:
    bars = data.bars(num_train=150, num_test=50)
    arrays = {name: getattr(bars, name).numpy() for name in ("x", "y", "x_test", "y_test")}
    np.savez(path, **{name: array * (scale if name[0] == "x" else 1) for name, array in arrays.items()})
    return path


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> TrainConfig:
    npz = save(tmp_path_factory.mktemp("data") / "bars.npz")
    return TrainConfig(dataset=str(npz), epochs=2, pretrain_epochs=2, batch_size=50)


@pytest.fixture(scope="module")
def run(config: TrainConfig, tmp_path_factory: pytest.TempPathFactory) -> runs.Run:
    folder = tmp_path_factory.mktemp("runs") / "run"
    runs.create(folder, config)
    trained = runs.train(folder)
    runs.summarize(trained, 2)
    return trained


# --- the epochs --------------------------------------------------------------------------------------------


def record(epoch: int, units: list[int]) -> dict[str, Any]:
    gates = [f"{i}.gate" for i in range(len(units))]
    kl = {gate: 6.3 * count for gate, count in zip(gates, units, strict=True)}
    scores = {"train_nll": 0.1234, "train_accuracy": 0.98765, "held_out_nll": 0.2345, "held_out_accuracy": 1.0}
    active = dict(zip(gates, units, strict=True))
    return {"phase": "SVI", "epoch": epoch, "learning_rate": [1e-3, 1e-2], **scores, "kl": kl, "active": active}


LENET, VGG = [784, 500, 300], [64, 64, 128, 128, *[256] * 3, *[512] * 8]


@pytest.mark.parametrize("num_epochs", [60, 200])
@pytest.mark.parametrize("scored_on", ["test", "validation"])
def test_the_lines_of_lenet_fit_eighty_columns_with_every_layer(
    capsys: pytest.CaptureFixture[str], num_epochs: int, scored_on: str
) -> None:
    printer = EpochPrinter(Console(width=80))
    for epoch in (1, num_epochs):
        printer(record(epoch, LENET), num_epochs, scored_on)
    lines = capsys.readouterr().out.splitlines()
    assert max(map(len, lines)) <= 80
    assert lines[-1].split() == (
        f"{num_epochs}/{num_epochs} 1.0e-03 1.0e-02 0.1234 98.77% 0.2345 100.00% 4939 3150 1890 784-500-300".split()
    )
    header, line = lines[-3], lines[-1]
    assert [header.index(word) for word in ("KL", "kept")] == [line.index(word) for word in ("4939", "784")]


def test_the_lines_of_many_layers_tell_all_of_them_together(capsys: pytest.CaptureFixture[str]) -> None:
    EpochPrinter(Console(width=80))(record(1, VGG), 60, "test")
    lines = capsys.readouterr().out.splitlines()
    assert max(map(len, lines)) <= 80 and "of all layers together" in lines[1]
    assert lines[-1].split()[-2:] == [f"{6.3 * sum(VGG):.0f}", f"{sum(VGG):,}"]


def test_of_many_epochs_some_two_hundred_lines_are_printed(capsys: pytest.CaptureFixture[str]) -> None:
    printer = EpochPrinter(Console(width=80))
    for epoch in range(1, 1601):
        printer(record(epoch, [30, 9]), 1600, "test")
    _, _, header, *lines = capsys.readouterr().out.splitlines()
    epochs = [line.split()[0] for line in lines]
    assert epochs == ["1/1600", *(f"{epoch}/1600" for epoch in range(8, 1601, 8))]
    assert header.index("KL") == lines[0].index(" 189") == lines[-1].index(" 189")


def test_a_layer_that_loses_all_its_units_is_told_at_once_and_once(capsys: pytest.CaptureFixture[str]) -> None:
    printer = EpochPrinter(Console(width=200))
    for epoch, active in enumerate(((3, 2), (3, 0), (3, 0), (0, 0)), start=1):
        record = {
            **{"phase": "SVI", "epoch": epoch, "learning_rate": [0.1, 0.1], "train_nll": 1.0, "held_out_nll": 1.0},
            **{"train_accuracy": 0.5, "held_out_accuracy": 0.5, "kl": {"fc1.gate": 1.0, "fc2.gate": 1.0}},
            "active": dict(zip(("fc1.gate", "fc2.gate"), active, strict=True)),
        }
        printer(record, 4, "test")
    told = [line for line in capsys.readouterr().out.splitlines() if "warning" in line]
    assert [line.split(",")[0] for line in told] == [
        "warning: after epoch 2 no unit is left on fc2",
        "warning: after epoch 4 no unit is left on fc1",
    ]


def test_the_inputs_of_a_table_that_are_kept_are_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    x = torch.randn(600, 4)
    names = np.array(["a", "b", "c", "d"])
    np.savez(tmp_path / "table.npz", x=x.numpy(), y=(x[:, 1] > 0).long().numpy(), feature_names=names)
    flags = "--epochs 30 --batch-size 10 --gate-learning-rate 0.05 --initial-keep-probability 0.5 --network mlp-64-64"
    folder = tmp_path / "run"
    main(
        ["train", "--dataset", str(tmp_path / "table.npz"), *flags.split(), "--num-samples", "1", "--run", str(folder)]
    )
    assert "inputs kept: b\n" in capsys.readouterr().out
    assert json.loads((folder / "summary.json").read_text())["kept_features"] == ["b"]
    bnn = runs.load(folder).bnn
    assert posterior.kept_features(bnn, x, ()) == ["1"]
    assert posterior.kept_features(bnn, x.reshape(600, 2, 2), names) == []


def test_metrics_grow_by_appending(config: TrainConfig, tmp_path: Path) -> None:
    files = []

    def look(record: dict[str, Any], num_epochs: int, scored_on: str) -> None:
        metrics = tmp_path / "run" / "metrics.jsonl"
        files.append((metrics.stat().st_ino, metrics.read_text().count("\n")))

    runs.create(tmp_path / "run", config)
    runs.train(tmp_path / "run", on_epoch=look)
    assert files == [(files[0][0], i + 1) for i in range(4)]


@pytest.mark.parametrize("tail", ['{"phase": "SV', '{"phase": "SVI", "epoch": 9}\n', None])
def test_lines_that_a_killed_process_left_are_put_right(run: runs.Run, tmp_path: Path, tail: str | None) -> None:
    shutil.copytree(run.folder, tmp_path / "run")
    metrics = tmp_path / "run" / "metrics.jsonl"
    whole = metrics.read_text()
    if tail is None:
        metrics.unlink()
    else:
        metrics.write_text(whole[: whole.index("\n") + 1] + tail)
    runs.train(tmp_path / "run")
    assert metrics.read_text() == whole


# --- the scores --------------------------------------------------------------------------------------------


def test_the_summary_holds_counts_and_what_the_error_stands_against(run: runs.Run) -> None:
    summary = json.loads((run.folder / "summary.json").read_text())
    x, y = run.dataset.x_test, run.dataset.y_test
    wrong = int((run.bnn(x).argmax(-1) != y).sum())
    assert summary["mean_mask"]["error"] == wrong / 50
    most = int(torch.bincount(run.dataset.y).argmax())
    assert summary["majority_error"] == int((y != most).sum()) / 50
    plain = [record for record in run.history if record["phase"] == "pretraining"][-1]
    assert summary["plain_error"] == round((1 - plain["held_out_accuracy"]) * 50) / 50
    for scores in (summary["mean_mask"], summary["monte_carlo"]):
        assert all(len(repr(scores[name]).lstrip("0.").replace(".", "")) <= 7 for name in ("nll", "ece"))


def test_without_pretraining_the_plain_error_is_that_of_the_given_weights(
    run: runs.Run, config: TrainConfig, tmp_path: Path
) -> None:
    assert runs.score(dataclasses.replace(run, history=run.svi_history), 1)["plain_error"] is None
    plain = runs.plain_network(config, run.dataset)
    safetensors.torch.save_file(plain.state_dict(), tmp_path / "net.safetensors")
    given = dataclasses.replace(config, pretrained=tmp_path / "net.safetensors")
    found = runs.score(dataclasses.replace(run, config=given, history=run.svi_history), 1)
    wrong = (plain(run.dataset.x_test).argmax(-1) != run.dataset.y_test).sum()
    assert found["plain_error"] == int(wrong) / 50


GOOD = {"mean_mask": {"error": 0.1}, "kept": {"fc1.gate": 3}, "plain_error": 0.2, "majority_error": 0.75}


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({}, ""),
        ({"mean_mask": {"error": 0.75}}, "the network is no better than the most frequent class: its error is 75.00%"),
        ({"kept": {"fc1.gate": 3, "fc2.gate": 0}}, "no unit is left on the input of fc2, so every answer is the same"),
        ({"mean_mask": {"error": 0.0}, "majority_error": 0.0}, ""),  # held out is that class alone
        ({"mean_mask": {"error": 0.8}}, "that of the plain network 20.00%, that of the most frequent class 75.00%"),
    ],
)
def test_a_collapse_is_told_beside_what_it_is_to_be_held_against(change: dict[str, Any], said: str) -> None:
    told = runs.collapse({**GOOD, **change})
    assert said in told and bool(said) == bool(told)
    row = {**GOOD, **change}
    assert runs.collapse({**row, "error": row.pop("mean_mask")["error"]}) == told  # a study's
    del row["plain_error"], row["majority_error"]
    runs.collapse({**row, "error": 0.8})  # and one of before


def test_train_and_compare_end_with_what_is_worse_than_it_began(
    config: TrainConfig, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    # An epoch after which every gate is still near 0.24, so that little of each layer's output gets through.
    flags = ["--dataset", config.dataset, "--epochs", "1", "--pretrain-epochs", "12"]
    main(["train", *flags, "--num-samples", "1", "--run", str(tmp_path / "run")])
    printed = capsys.readouterr()
    last = printed.out.splitlines()[-1]
    assert last.startswith("warning: the network ends clearly worse than it began: on held-out data NLL ")
    assert "150 data in 1 epochs are 2 steps; what may help: --epochs 4000 --initial-keep-probability 0.5" in last
    assert last.endswith("--gate-learning-rate 0.03 --pretrain-epochs 250 --starts 2, as without --epochs")
    assert "FitWarning" not in printed.err
    main(["compare", "--prior", "Beta(1e-4, 1)", "--seeds", "1", *flags, "--study", str(tmp_path / "study")])
    printed = capsys.readouterr()
    lines = printed.out.splitlines()
    assert lines[-1] == "warning: 1 of 1 runs end clearly worse than they began"
    assert lines[-2].startswith("warning: beta-0.0001-1/seed-0: the network ends clearly worse")
    assert "FitWarning" not in printed.err
    table = (tmp_path / "study" / "table.md").read_text(encoding="utf-8")
    assert "`Beta(0.0001, 1)` § |" in table and "§: clearly worse than the plain network" in table
    assert "clearly worse than it began" in (tmp_path / "study" / "runs.csv").read_text(encoding="utf-8")


@pytest.mark.parametrize(("epochs", "start", "is_said"), [(4000, 0.5, True), (4000, None, False), (60, 0.5, False)])
def test_it_is_said_once_that_data_are_few_and_only_where_they_are_trained_on_so(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    epochs: int,
    start: float,
    is_said: bool,
) -> None:
    made = SimpleNamespace(x=torch.zeros(150, 2), scale_note="")
    monkeypatch.setattr(runs, "create", lambda *args: made)
    command = commands.Train(run=tmp_path / "run", epochs=epochs, initial_keep_probability=start)
    actions._run_folder(command, Console(width=200))
    said = "150 data are few: 4,000 epochs of lenet-500-300, and gates that begin at 0.5; --epochs and --network"
    assert (said in capsys.readouterr().out) == is_said


def test_train_and_compare_end_with_what_collapsed(
    config: TrainConfig, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    # A prior under which all units are out before anything is learnt.
    flags = [
        "--dataset",
        config.dataset,
        "--epochs",
        "1",
        "--pretrain-epochs",
        "1",
        "--initial-keep-probability",
        "0.0005",
    ]
    main(["train", *flags, "--num-samples", "1", "--run", str(tmp_path / "run")])
    *_, told, advice = capsys.readouterr().out.splitlines()
    assert told.startswith("warning: no unit is left on the input of fc1, fc2, fc3") and "the plain network" in told
    assert "what may help: --epochs 4000 --initial-keep-probability 0.5" in advice
    main(["compare", "--prior", "Beta(1e-4, 1)", "--seeds", "2", *flags, "--study", str(tmp_path / "study")])
    lines = capsys.readouterr().out.splitlines()
    assert lines[-1] == "warning: 2 of 2 runs learnt nothing, or lost a layer"
    assert lines[-2].startswith("warning: beta-0.0001-1/seed-1: no unit is left on the input of")


def test_the_whole_time_is_told(config: TrainConfig, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    main(["train", "--dataset", config.dataset, *FLAGS, "--run", str(tmp_path / "run")])
    out = capsys.readouterr().out
    assert "2 epochs in " in out and "scores and figures in " in out and " in all, at most " in out


# --- notes and defaults ------------------------------------------------------------------------------------


@pytest.mark.parametrize(("scale", "told"), [(255, True), (1e-4, True), (1, False), (10, False), (0, False)])
def test_inputs_far_from_one_are_noted_with_what_to_do(tmp_path: Path, scale: float, told: bool) -> None:
    note = data.load(str(save(tmp_path / "scaled.npz", scale))).scale_note
    assert bool(note) == told
    if told:
        assert f"x reaches from 0 to {scale:.4g}" in note and f"x / {scale:.4g}" in note


def test_the_note_is_printed_before_training_and_with_the_scores(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    npz = str(save(tmp_path / "bytes.npz", 255))
    main(["train", "--dataset", npz, *FLAGS, "--validation-size", "20", "--run", str(tmp_path / "run")])
    out = capsys.readouterr().out
    assert out.count("note: x reaches from 0 to 255, ") == 2
    assert out.index("note: x reaches") < out.index("pretraining")
    main(["evaluate", str(tmp_path / "run"), "--num-samples", "1"])
    assert "note: x reaches from 0 to 255, " in capsys.readouterr().out


def test_fewer_draws_predict_by_all_of_them(run: runs.Run, tmp_path: Path) -> None:
    main(["posterior", str(run.folder), "--num-samples", "20", "--output", str(tmp_path)])
    assert xr.load_dataset(tmp_path / "posterior.nc", group="posterior_predictive").sizes["draw"] == 20


# --- files of settings -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("command", "text", "said"),
    [
        (
            "train",
            'prior = ["Uniform", "Jeffreys"]\nseeds = 2\n',
            "a study's, of several priors or seeds; bbpyro compare",
        ),
        ("train", "seeds = 2\n", "a study's, of several priors or seeds; bbpyro compare --config settings.toml"),
        ("train", "[vary]\nepochs = [1, 2]\n", "a study's, of several priors or seeds; bbpyro compare --config"),
        ("compare", "seed = 2\n", "a run's, of one seed; bbpyro train --config settings.toml"),
        ("train", "[prior]\na = 1\n", "no file of settings (prior is {'a': 1}, wanted a text)"),
        ("train", "prior = 3\nalpha = 2\n", "no file of settings (prior is 3, wanted a text)"),
    ],
)
def test_a_file_for_the_other_command_is_named_as_one(
    tmp_path: Path,
    command: str,
    text: str,
    said: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("settings.toml").write_text(text)
    with pytest.raises(SystemExit) as stop:
        main([command, "--config", "settings.toml"])
    err = capsys.readouterr().err
    assert stop.value.code == 2 and err.count("\n") == 1
    assert f"config: settings.toml is {said}" in err
