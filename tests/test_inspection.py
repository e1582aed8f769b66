import contextlib
import io
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from random import SystemRandom

import arviz as az
import matplotlib.image
import numpy as np
import pytest

from bbpyro import data, posterior, prediction, runs
from bbpyro.cli import main
from bbpyro.runs import TrainConfig

BBPYRO = str(Path(sys.executable).with_name("bbpyro"))
FAST = ("--num-samples", "200", "--num-predictive-samples", "20")
FIGURES = {
    "elbo",
    "forest_fc1",
    "forest_fc2",
    "forest_fc3",
    "input_map",
    "intervals",
    "keep_probability",
    "kept_units",
    "predictions",
    "prior_posterior",
    "reliability",
    "threshold_sweep",
}


@pytest.fixture(scope="module")
def npz(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("data") / "mine.npz"
    bars = data.bars(num_train=300, num_test=80)
    np.savez(path, **{name: getattr(bars, name).numpy() for name in ("x", "y", "x_test", "y_test")})
    return path


@pytest.fixture(scope="module")
def trained(npz: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[int, Path]:
    """Two restarts, by seed."""
    base = tmp_path_factory.mktemp("runs")
    for seed in (0, 1):
        config = TrainConfig(dataset=str(npz), epochs=4, pretrain_epochs=2, batch_size=30, seed=seed)
        runs.create(base / f"seed-{seed}", config)
        runs.train(base / f"seed-{seed}")
    return {seed: base / f"seed-{seed}" for seed in (0, 1)}


@pytest.fixture(scope="module")
def inspected(trained: dict[int, Path], tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """A run that `bbpyro posterior` has been through, and what that printed."""
    folder = tmp_path_factory.mktemp("inspected") / "run"
    shutil.copytree(trained[0], folder)
    out = io.StringIO()
    with contextlib.redirect_stdout(out):
        main(["posterior", str(folder), *FAST])
    return folder, out.getvalue()


@pytest.fixture
def run(trained: dict[int, Path], tmp_path: Path) -> Path:
    """A finished run to do anything to."""
    shutil.copytree(trained[0], tmp_path / "run")
    return tmp_path / "run"


Call = Callable[..., tuple[int, str, str]]


@pytest.fixture
def call(monkeypatch: pytest.MonkeyPatch) -> Call:
    """`bbpyro posterior ARGS` within this process: its status and what it printed."""
    monkeypatch.setenv("COLUMNS", "120")

    def of(*args: str | Path) -> tuple[int, str, str]:
        out, err, status = io.StringIO(), io.StringIO(), 0
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            try:
                main(["posterior", *map(str, args)])
            except SystemExit as stop:
                status = int(stop.code or 0)
        return status, out.getvalue(), err.getvalue()

    return of


def test_the_posterior_of_a_run_is_written_printed_and_put_in_words(inspected: tuple[Path, str]) -> None:
    run, out = inspected
    idata = az.from_netcdf(run / runs.POSTERIOR)
    assert {"posterior", "prior", "posterior_predictive", "log_likelihood", "training"} <= set(idata)
    assert idata["posterior"]["fc1.gate.pi"].shape == (1, 200, 64)
    assert idata["log_likelihood"]["y"].shape == (1, 20, 80)
    assert idata["training"].sizes["epoch"] == 4
    assert {path.stem for path in (run / "figures").iterdir()} == FIGURES
    loaded = runs.load(run)
    decisions = posterior.decisions(idata)
    for gate, row in decisions.iterrows():
        assert row.kept == int(loaded.bnn.gates[str(gate)].kept().sum())
        assert re.search(rf"│ {str(gate).removesuffix('.gate')} +│ +{' │ +'.join(map(str, row))} │", out)
    assert posterior.in_words(idata) in out
    assert out.count("fc2.gate.pi[") == 6
    by_mean = prediction.evaluate(loaded.bnn, loaded.dataset.x_test, loaded.dataset.y_test, num_samples=None)
    assert re.search(rf"mean mask +│ +{by_mean.error:.2%} │ +{by_mean.nll:.4f} │ +{by_mean.ece:.4f}", out)
    assert "Pareto k diagnostic values" in out and "by LOO" in out
    assert f"wrote {run}: posterior.nc, figures/" in out


def test_every_figure_shows_something(inspected: tuple[Path, str]) -> None:
    for path in (inspected[0] / "figures").iterdir():
        image = matplotlib.image.imread(path)
        assert min(image.shape[:2]) > 300
        assert len(np.unique((255 * image).astype(np.uint8).view(np.uint32))) > 20


def test_the_same_run_gives_the_same_posterior_and_clears_what_was_left(
    run: Path, call: Call, inspected: tuple[Path, str]
) -> None:
    (run / ".posterior.nc-left").touch()  # by a process that was killed
    (run / "figures").mkdir(exist_ok=True)
    (run / "figures" / ".forest_fc1.png-left").touch()
    assert call(run, *FAST) == (0, inspected[1].replace(str(inspected[0]), str(run)), "")
    first, second = (az.from_netcdf(folder / runs.POSTERIOR) for folder in (inspected[0], run))
    assert first["posterior"].equals(second["posterior"])
    assert first["posterior_predictive"].equals(second["posterior_predictive"])
    assert not list(run.glob(".posterior.nc-*")) and not list(run.glob("figures/.*"))


def test_restarts_become_chains_in_a_folder_of_their_own(trained: dict[int, Path], call: Call, tmp_path: Path) -> None:
    status, out, err = call(*trained.values(), "--output", tmp_path / "both", *FAST)
    assert (status, err) == (0, "")
    idata = az.from_netcdf(tmp_path / "both" / runs.POSTERIOR)
    assert idata["posterior"].sizes["chain"] == 2
    assert idata.attrs["run_seeds"].tolist() == [0, 1]
    assert not (trained[0] / runs.POSTERIOR).exists()
    for chain, folder in trained.items():
        kept = int(runs.load(folder).bnn.gates["fc2.gate"].kept().sum())
        assert re.search(rf"fc2, chain {chain} │ +500 │ +{kept} │", out)


def test_a_run_is_one_chain_and_not_two(run: Path, call: Call, tmp_path: Path) -> None:
    status, out, err = call(run, run, "--output", tmp_path / "both")
    assert status == 2 and "named twice" in err and err.count("\n") == 1


def test_several_runs_want_an_output(trained: dict[int, Path], call: Call) -> None:
    status, out, err = call(*trained.values())
    assert status == 2 and "--output FOLDER" in err and err.count("\n") == 1


def test_an_output_that_is_a_file_is_refused(run: Path, call: Call, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    status, out, err = call(run, "--output", tmp_path / "file")
    assert status == 2 and "is a file, wanted a folder" in err and err.count("\n") == 1


def test_runs_of_other_settings_are_no_restarts(run: Path, npz: Path, call: Call, tmp_path: Path) -> None:
    config = TrainConfig(dataset=str(npz), epochs=1, pretrain_epochs=0, batch_size=30)
    runs.create(tmp_path / "other", config)
    runs.train(tmp_path / "other")
    status, out, err = call(run, tmp_path / "other", "--output", tmp_path / "both")
    assert status == 2 and "differ in more than their seed" in err and err.count("\n") == 1
    assert not (tmp_path / "both").exists()


def test_data_that_are_no_images_have_no_pictures_of_them(tmp_path: Path, call: Call) -> None:
    bars = data.bars(150, 50)
    arrays = {name: getattr(bars, name).numpy() for name in ("x", "y", "x_test", "y_test")}
    np.savez(tmp_path / "flat.npz", **{name: array.reshape(len(array), -1).squeeze() for name, array in arrays.items()})
    config = TrainConfig(dataset=str(tmp_path / "flat.npz"), epochs=1, pretrain_epochs=0, batch_size=50)
    runs.create(tmp_path / "run", config)
    runs.train(tmp_path / "run")
    assert call(tmp_path / "run", *FAST)[0] == 0
    names = {path.stem for path in (tmp_path / "run" / "figures").iterdir()}
    assert names == FIGURES - {"input_map", "predictions"}


@pytest.mark.parametrize("make", [lambda path: None, Path.mkdir, Path.touch], ids=["missing", "empty folder", "file"])
def test_what_is_no_run_is_a_line_and_exit_2(tmp_path: Path, call: Call, make: Callable[[Path], object]) -> None:
    make(tmp_path / "no-run")
    status, out, err = call(tmp_path / "no-run")
    assert status == 2 and out == ""
    assert "is no bbpyro run" in err and err.count("\n") == 1


def test_a_run_in_pretraining_has_no_posterior_yet(npz: Path, tmp_path: Path, call: Call) -> None:
    class Stop(Exception):
        pass

    def stop(*args: object) -> None:
        raise Stop

    runs.create(tmp_path / "run", TrainConfig(dataset=str(npz), epochs=4, pretrain_epochs=2, batch_size=30))
    with pytest.raises(Stop):
        runs.train(tmp_path / "run", on_epoch=stop)
    status, out, err = call(tmp_path / "run")
    assert status == 2 and "still in pretraining: it has no posterior yet" in err and err.count("\n") == 1


@pytest.mark.parametrize(
    ("flags", "mention"),
    [
        (["--num-samples", "0"], "num_samples is 0"),
        (["--num-predictive-samples", "9"], "num_predictive_samples is 9, wanted at least 10, for az.loo"),
        (["--num-samples", "10", "--num-predictive-samples", "11"], "between 1 and num_samples, 10"),
    ],
)
def test_numbers_out_of_range_are_named_and_nothing_is_written(
    run: Path, call: Call, flags: list[str], mention: str
) -> None:
    status, out, err = call(run, *flags)
    assert status == 2 and mention in err and err.count("\n") == 1
    assert not (run / runs.POSTERIOR).exists()


def test_killed_at_any_moment_the_file_is_whole(run: Path, inspected: tuple[Path, str]) -> None:
    """SIGKILL while a process writes again and again over a posterior.nc that was whole."""
    shutil.copy(inspected[0] / runs.POSTERIOR, run)
    wanted = az.from_netcdf(run / runs.POSTERIOR)["posterior"].load()
    writer = [sys.executable, "-c", _WRITE_FOREVER, str(run / runs.POSTERIOR)]
    for _ in range(2):
        with subprocess.Popen(writer, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
            assert process.stdout is not None and process.stderr is not None
            assert process.stdout.readline() == "writing\n", process.stderr.read()
            time.sleep(SystemRandom().uniform(0, 0.3))
            process.send_signal(signal.SIGKILL)
        assert az.from_netcdf(run / runs.POSTERIOR)["posterior"].equals(wanted)


_WRITE_FOREVER = """
import sys
from pathlib import Path
import arviz
from bbpyro import posterior
idata = arviz.from_netcdf(sys.argv[1]).load()
print("writing", flush=True)
while True:
    posterior.save(idata, Path(sys.argv[1]))
"""
