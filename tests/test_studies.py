"""Studies: the grid, its table and figures, and what is left of one that was killed, changed or broken."""

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
from typing import Any

import distributed
import matplotlib.image
import numpy as np
import pandas as pd
import pytest
import torch

import bbpyro
from bbpyro import checkpoint, data, plots, priors, runs, studies, training
from bbpyro.checkpoint import CheckpointError
from bbpyro.cli import main
from bbpyro.studies import StudyConfig, pretraining, tables

PRIORS = ("Beta(0.0001, 1)", "FixedRate(0.5)")
BBPYRO = str(Path(sys.executable).with_name("bbpyro"))
MEASURED = ["seconds", "peak_memory_mib"]
SHORT: dict[str, Any] = {"epochs": 2, "pretrain_epochs": 1, "batch_size": 50}


@pytest.fixture(scope="module")
def npz(tmp_path_factory: pytest.TempPathFactory) -> str:
    path = tmp_path_factory.mktemp("data") / "bars.npz"
    bars = data.bars(num_train=60, num_test=50)  # of each training datum az.loo takes 1600 predictions
    np.savez(path, **{name: getattr(bars, name).numpy() for name in ("x", "y", "x_test", "y_test")})
    return str(path)


@pytest.fixture(scope="module")
def made(npz: str, tmp_path_factory: pytest.TempPathFactory) -> studies.Study:
    """A study of two priors and two seeds, in two processes."""
    folder = tmp_path_factory.mktemp("study") / "study"
    return bbpyro.compare(PRIORS, seeds=2, folder=folder, jobs=2, progress=False, dataset=npz, **SHORT)


@pytest.fixture
def study(made: studies.Study, tmp_path: Path) -> studies.Study:
    """A copy of it to change."""
    shutil.copytree(made.folder, tmp_path / "study")
    return studies.load(tmp_path / "study")


def stamps(folder: Path) -> dict[str, int]:
    return {str(p.relative_to(folder)): p.stat().st_mtime_ns for p in (folder / "runs").rglob("*") if p.is_file()}


# --- what comes out ----------------------------------------------------------------------------------------


def test_every_prior_was_trained_from_every_seed(made: studies.Study) -> None:
    assert made.failures == []
    assert list(made.results) == [f"{p}/seed-{s}" for p in ("beta-0.0001-1", "fixedrate-0.5") for s in (0, 1)]
    for name in made.results:
        run = runs.load(made.folder / "runs" / name)
        assert run.is_complete
        assert (run.config.prior, run.config.seed) == (PRIORS["fixed" in name], int(name[-1]))


def test_a_row_says_what_the_run_itself_says(made: studies.Study) -> None:
    table = made.runs.set_index("run")
    for name, row in table.iterrows():
        run = runs.load(made.folder / "runs" / str(name))
        by_mean = bbpyro.evaluate(run.bnn, run.dataset.x_test, run.dataset.y_test, None)
        assert (row["error"], row["nll"], row["ece"]) == pytest.approx((by_mean.error, by_mean.nll, by_mean.ece))
        small = bbpyro.compact(run.bnn, run.dataset.x_test[:2])
        size = bbpyro.compaction.measure(small, run.dataset.x_test[:2])
        assert (row["macs"], row["parameters"]) == (size.macs, size.parameters)
        assert [row[f"kept fc{i}"] for i in (1, 2, 3)] == [int(g.kept().sum()) for g in run.bnn.gates.values()]
        again = [training.elbo(run.bnn, run.dataset.x, run.dataset.y) for _ in range(20)]
        assert row["elbo"] == pytest.approx(np.mean(again), abs=6 * np.std(again))
        assert row["seconds"] == pytest.approx(sum(record["seconds"] for record in run.history))
        assert -3 < row["elpd_loo"] < 0 and row["scored_on"] == "test"
    assert table.loc["fixedrate-0.5/seed-0", "macs_left"] == 1


def test_a_priors_row_has_mean_and_range_of_its_seeds(made: studies.Study) -> None:
    by_run, by_prior = made.runs, made.table
    assert list(by_prior.index) == list(PRIORS)
    for prior, group in by_run.groupby("prior"):
        for score in (*tables.PREDICTIONS, "macs_left", "parameters_left", "seconds", "kept fc2"):
            found = by_prior.loc[prior, [f"{score} {which}" for which in ("mean", "lowest", "highest")]]
            assert list(found) == pytest.approx([group[score].mean(), group[score].min(), group[score].max()])
        assert by_prior.loc[prior, "runs"] == 2


def test_the_files_hold_the_tables(made: studies.Study) -> None:
    pd.testing.assert_frame_equal(pd.read_csv(made.folder / "runs.csv"), made.runs, check_dtype=False)
    read = pd.read_csv(made.folder / "table.csv", index_col="prior")
    pd.testing.assert_frame_equal(read, made.table, check_dtype=False)
    lines = (made.folder / "table.md").read_text().splitlines()
    assert lines[0].startswith("| prior | runs | error | NLL | ECE |") and "kept of 64-500-300" in lines[0]
    assert [line.split("`")[1] for line in lines[2:4]] == list(PRIORS)
    error = made.table.iloc[0]
    assert f"{error['error mean']:.2%} ({error['error lowest']:.2%} - {error['error highest']:.2%})" in lines[2]


@pytest.mark.parametrize("name", ["error_macs", "kept_epochs", "priors_posteriors", "loo_compare"])
def test_the_figures_are_pictures_of_something(made: studies.Study, name: str) -> None:
    picture = matplotlib.image.imread(made.folder / "figures" / f"{name}.png")
    assert picture.shape[0] > 300 and picture[..., :3].std() > 0.02


def test_each_seed_is_a_dot_of_its_priors_colour_and_published_points_stand_behind(made: studies.Study) -> None:
    axis = plots.error_macs(made.runs, plots.PUBLISHED["lenet-500-300"]).axes[0]
    lines = {line.get_label(): line for line in axis.lines}
    for prior in PRIORS:
        group = made.runs[made.runs["prior"] == prior]
        assert list(lines[prior].get_xdata()) == pytest.approx(list(100 * group["macs_left"]))
        assert list(lines[prior].get_ydata()) == pytest.approx(list(100 * group["error"]))
    assert lines[PRIORS[0]].get_color() != lines[PRIORS[1]].get_color()
    assert list(lines["published, BB"].get_xdata())[2] == pytest.approx(100 / 13.3, rel=0.005)
    told = {label for label in lines if label.startswith(("plain network", "most frequent class"))}
    assert set(lines) - told == {*PRIORS, *(f"published, {m}" for m in plots.PUBLISHED["lenet-500-300"])}


def test_the_folder_says_how_it_was_made(made: studies.Study) -> None:
    description = json.loads((made.folder / "study.json").read_text())
    assert StudyConfig.from_json(description["config"]) == made.config
    result = json.loads((made.folder / "runs" / "beta-0.0001-1" / "seed-1" / "result.json").read_text())
    assert result["config"]["seed"] == 1 and result["versions"]["torch"] == torch.__version__


# --- going on ----------------------------------------------------------------------------------------------


def test_a_study_that_is_done_is_not_done_again(study: studies.Study) -> None:
    before = stamps(study.folder)
    again = bbpyro.compare(study.config, folder=study.folder, progress=False)
    assert stamps(study.folder) == before
    pd.testing.assert_frame_equal(again.table, study.table)


def test_priors_and_seeds_can_be_added(study: studies.Study, npz: str) -> None:
    before = stamps(study.folder)
    more = bbpyro.compare(["Jeffreys"], seeds=1, folder=study.folder, progress=False, dataset=npz, **SHORT)
    assert list(more.table.index) == [*PRIORS, "Jeffreys()"] and more.config.seeds == 2
    assert list(more.table["runs"]) == [2, 2, 2]
    assert {name: stamp for name, stamp in stamps(study.folder).items() if "jeffreys" not in name} == before


def test_a_study_of_before_anything_else_could_vary_goes_on(study: studies.Study) -> None:
    for path in [study.folder / "study.json", *study.folder.rglob("config.json"), *study.folder.rglob("result.json")]:
        written = json.loads(path.read_text())
        assert "vary" not in written["config"] and "points" not in written["config"]
        del written["config"]["validation_fold"]
        path.write_text(json.dumps(written))
    before = stamps(study.folder)
    again = bbpyro.compare(study.config, folder=study.folder, progress=False)
    assert stamps(study.folder) == before
    pd.testing.assert_frame_equal(again.table, study.table)


def test_another_setting_is_another_study(study: studies.Study, npz: str) -> None:
    with pytest.raises(ValueError, match="epochs is 3, but 2 in the study that is there; name another folder"):
        bbpyro.compare(PRIORS, folder=study.folder, progress=False, dataset=npz, **{**SHORT, "epochs": 3})
    assert studies.load(study.folder).config == study.config


def as_before_macs(path: Path) -> dict[str, Any]:
    """Write a result as it was while it had a count of FLOPs of its own: 2 a multiply-accumulate, and 1 a bias."""
    now = json.loads(path.read_text())
    old = {name: value for name, value in now.items() if name not in ("macs", "macs_left")}
    biases = now["parameters"] - now["macs"]
    before = round(now["macs"] / now["macs_left"]), round(now["parameters"] / now["parameters_left"])
    old["flops"] = 2 * now["macs"] + biases
    old["flops_left"] = old["flops"] / (before[0] + before[1])
    path.write_text(json.dumps(old))
    return dict(now)


def test_a_study_of_before_there_were_macs_is_read_and_not_trained_again(study: studies.Study) -> None:
    """Even where nothing but the results, and what the figures are drawn from, is left."""
    for path in (study.folder / "runs").glob("*/*/result.json"):
        as_before_macs(path)
        (path.parent / "checkpoint.safetensors").unlink()
    before = stamps(study.folder)
    found = studies.load(study.folder).runs
    assert "flops_left" not in found
    pd.testing.assert_frame_equal(found[list(study.runs)], study.runs)
    again = bbpyro.compare(study.config, folder=study.folder, progress=False)
    assert stamps(study.folder) == before
    pd.testing.assert_frame_equal(again.table[list(study.table)], study.table)


def test_of_a_network_of_ones_own_macs_are_counted_again_from_its_checkpoint(
    npz: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "narrow.py").write_text(
        "from torch import nn\ndef make(): return nn.Sequential(nn.Flatten(), nn.Linear(64, 8), nn.Linear(8, 4))\n"
    )
    monkeypatch.chdir(tmp_path)
    settings: dict[str, Any] = {"dataset": npz, "network": "narrow:make", **SHORT}
    made = bbpyro.compare(["Jeffreys"], seeds=1, folder="study", progress=False, **settings)
    assert made.runs["macs"].item() == 64 * 8 + 8 * 4
    path = Path("study/runs/jeffreys/seed-0/result.json")
    as_before_macs(path)
    old, checkpoints = path.read_text(), path.with_name("checkpoint.safetensors").read_bytes()
    again = studies.load("study")
    assert again.results["jeffreys/seed-0"] == made.results["jeffreys/seed-0"] == json.loads(path.read_text())

    path.write_text(old)
    path.with_name("checkpoint.safetensors").unlink()
    with pytest.raises(CheckpointError, match="was scored by an earlier bbpyro, which counted no multiply-accumulates"):
        bbpyro.compare(["Jeffreys"], seeds=1, folder="study", progress=False, **settings)
    path.with_name("checkpoint.safetensors").write_bytes(checkpoints)
    assert bbpyro.compare(["Jeffreys"], seeds=1, folder="study", progress=False, **settings).failures == []


def wait_until(is_so: Callable[[], bool], seconds: float = 300) -> None:
    deadline = time.monotonic() + seconds
    while not is_so():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def results_in(folder: Path) -> list[Path]:
    """Those of a study at work; unlike rglob, os.walk does not mind a folder that is moved meanwhile."""
    return [Path(root) / "result.json" for root, _, files in os.walk(folder) if "result.json" in files]


def processes_in(folder: Path) -> list[str]:
    """The living processes whose working directory this is."""
    found = []
    for process in Path("/proc").iterdir():
        try:
            if process.name.isdigit() and Path(os.readlink(process / "cwd")) == folder:
                found.append(process.name)
        except OSError:
            continue
    return found


@pytest.mark.skipif(not Path("/proc").is_dir(), reason="it looks for processes in /proc")
def test_a_killed_study_goes_on_with_the_same_numbers_and_leaves_no_process(npz: str, tmp_path: Path) -> None:
    points: dict[str, Any] = {"a": {"epochs": 2}, "b": {"epochs": 11, "prior": "Jeffreys"}, "c": {"epochs": 12}}
    settings: dict[str, Any] = {"dataset": npz, "batch_size": 50, "pretrain_epochs": 2, "points": points}
    whole = bbpyro.compare(PRIORS[:1], seeds=1, folder=tmp_path / "whole", progress=False, **settings).runs
    studies.prepare(tmp_path / "study", studies.read_config(tmp_path / "whole"))
    (tmp_path / "cwd").mkdir()
    killed = subprocess.Popen(
        [BBPYRO, "compare", "--resume", str(tmp_path / "study"), "--jobs", "2"],
        cwd=tmp_path / "cwd",
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    folder = tmp_path / "study" / "runs"
    # One run is done, and the last, which took its place, is past its first epochs.
    wait_until(lambda: len(results_in(folder)) >= 1)
    wait_until(lambda: any(path.read_text().count("\n") > 4 for path in folder.glob("*/c/seed-*/metrics.jsonl")))
    killed.send_signal(signal.SIGKILL)
    killed.wait()
    wait_until(lambda: not processes_in(tmp_path / "cwd"))
    done = {path: path.stat().st_mtime_ns for path in folder.rglob("result.json")}
    assert 1 <= len(done) < 3
    main(["compare", "--resume", str(tmp_path / "study")])
    assert {path: path.stat().st_mtime_ns for path in done} == done
    found = studies.load(tmp_path / "study").runs
    pd.testing.assert_frame_equal(found.drop(columns=MEASURED), whole.drop(columns=MEASURED))


def test_two_priors_of_one_module_name_are_not_mixed_up(
    npz: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rates = {}
    for name, rate in (("a", 0.1), ("b", 0.9)):
        (tmp_path / name).mkdir()
        (tmp_path / name / "same_name.py").write_text(
            f"from bbpyro.priors import FixedRate\nprior = FixedRate({rate})\n"
        )
        monkeypatch.chdir(tmp_path / name)
        settings = {**SHORT, "epochs": 1}
        bbpyro.compare(["same_name:prior"], seeds=2, folder="study", jobs=2, progress=False, dataset=npz, **settings)
        bnn = runs.load(Path("study/runs/same_name-prior/seed-0")).bnn
        rates[name] = bnn.gates["fc1.gate"].keep_probability()[0].item()
    assert rates == pytest.approx({"a": 0.9, "b": 0.1})
    (tmp_path / "b" / "same_name.py").write_text("from bbpyro.priors import FixedRate\nprior = FixedRate(0.8)\n")
    with pytest.raises(ValueError, match="prior: same_name:prior changed since run .* was made"):
        runs.load(Path("study/runs/same_name-prior/seed-0"))


@pytest.mark.skipif(not Path("/proc").is_dir(), reason="it looks for processes in /proc")
def test_a_process_of_a_study_ends_with_it_whatever_it_is_at(tmp_path: Path) -> None:
    watched = "import os, time; from bbpyro.studies import task; task._die_with(os.getppid())"
    child = f"{watched}; open('up', 'w'); time.sleep(900)"
    parent = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {child!r}])"
    started = subprocess.Popen([sys.executable, "-c", parent], cwd=tmp_path)
    wait_until((tmp_path / "up").exists)
    assert len(processes_in(tmp_path)) == 2
    started.kill()
    started.wait()
    wait_until(lambda: not processes_in(tmp_path))


# --- what goes wrong ---------------------------------------------------------------------------------------


@pytest.fixture
def fragile(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A prior that works here but, while a file is there, in no other process."""
    (tmp_path / "fragile_prior.py").write_text(
        "import os, torch, pyro.distributions as dist\n"
        "def prior(k):\n"
        f"    if os.path.exists('broken') and os.getpid() != {os.getpid()}:\n"
        "        raise RuntimeError('no luck\\nin this process')\n"
        "    return dist.Beta(torch.ones(k), 1.0)\n"
    )
    (tmp_path / "broken").touch()
    monkeypatch.chdir(tmp_path)
    yield tmp_path
    sys.modules.pop("fragile_prior", None)


def test_a_run_that_fails_is_told_and_does_not_sink_the_study(
    fragile: Path, npz: str, capsys: pytest.CaptureFixture[str]
) -> None:
    flags = ["--dataset", npz, "--epochs", "1", "--pretrain-epochs", "1", "--seeds", "2", "--jobs", "2"]
    with pytest.raises(SystemExit) as status:
        main(["compare", "--prior", "fragile_prior:prior", "--prior", "Uniform", *flags, "--study", "study"])
    assert status.value.code == 1
    out, err = capsys.readouterr()
    assert "2 of 4 runs failed" in err
    log = Path("study/logs/fragile_prior-prior-seed-1.log")
    reason = "ValueError: prior: that of gate 'fc1.gate' fails (RuntimeError: no luck in this process)"
    assert f"failed: fragile_prior-prior/seed-1: {reason}; see {log}" in out
    assert "Traceback" in log.read_text() and "no luck" in log.read_text()
    study = studies.load(Path("study"))
    assert list(study.table["runs"]) == [0, 2] and list(study.table["failed"]) == [2, 0]
    assert {failure.task for failure in study.failures} == {f"fragile_prior-prior/seed-{s}" for s in (0, 1)}
    assert "RuntimeError: no luck in this process" in Path("study/table.md").read_text()
    (fragile / "broken").unlink()
    main(["compare", "--resume", "study"])
    assert studies.load(Path("study")).failures == [] and not log.exists()


def test_a_study_all_of_whose_runs_fail_is_told_too(fragile: Path, npz: str) -> None:
    study = bbpyro.compare(
        ["fragile_prior:prior"], seeds=2, folder="study", jobs=2, progress=False, dataset=npz, **SHORT
    )
    assert len(study.failures) == 2 and study.results == {}
    assert (Path("study") / "table.md").read_text().count("failed: ") == 2


@pytest.mark.parametrize(
    ("change", "mention"),
    [
        ({"prior": ()}, "prior: there is none"),
        ({"prior": ("Beta(1e-4,1)", "Beta(0.0001)")}, "are the same"),
        ({"prior": ("Bta(1)",)}, "there is no Bta"),
        ({"prior": ("Uniform", "{'fc9.*': Jeffreys, '*': Uniform}")}, "none of the gates fc1.gate"),
        ({"seeds": 0}, "seeds is 0"),
        ({"seeds": "2"}, "seeds is '2', wanted a whole number"),
        ({"epochs": "3"}, "epochs is '3', wanted a whole number"),
        ({"weight_prior": "Laplace(0)"}, "weight_prior: 'Laplace\\(0\\)': Laplace: scale is 0"),
        ({"backend": "dask"}, "backend 'dask' wants the address"),
        ({"address": "tcp://10.0.0.1:8786"}, "address is 'tcp://10.0.0.1:8786', but backend 'processes'"),
        ({"epochs": 0}, "epochs is 0"),
        ({"jobs": 0}, "jobs is 0"),
        ({"backend": "threads"}, "backend is 'threads', wanted one of processes, dask, ray"),
        ({"depth": 3}, "unknown setting 'depth'"),
        ({"prior": (lambda k: torch.distributions.Beta(torch.ones(k), 1.0),)}, "module:name"),
    ],
)
def test_what_is_wrong_is_named_and_nothing_is_made(
    npz: str, tmp_path: Path, change: dict[str, Any], mention: str
) -> None:
    arguments = {"prior": PRIORS, "folder": tmp_path / "study", "progress": False, "dataset": npz, **SHORT, **change}
    with pytest.raises(ValueError, match=mention.replace("'", "['\"]?")):
        bbpyro.compare(**arguments)
    assert not list((tmp_path / "study").glob("runs"))


def test_a_study_killed_as_it_was_made_is_made_again(npz: str, tmp_path: Path) -> None:
    folder = tmp_path / "study"
    folder.mkdir()
    (folder / ".lock").touch()
    dead = subprocess.Popen([sys.executable, "-c", ""])
    dead.wait()
    (folder / f".study.json-{dead.pid}-abcd1234").write_text("{")
    studies.prepare(folder, StudyConfig(dataset=npz, **SHORT))
    assert studies.is_study(folder) and not list(folder.glob(".study.json-*"))


def test_a_folder_of_something_else_is_refused(npz: str, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    for folder in (tmp_path, tmp_path / "file"):
        with pytest.raises(ValueError, match="is no study; choose another"):
            bbpyro.compare(PRIORS, folder=folder, progress=False, dataset=npz, **SHORT)
    with pytest.raises(CheckpointError, match=r"is no bbpyro study: it has no study\.json"):
        studies.load(tmp_path)


DAMAGES: dict[str, Callable[[Path], object]] = {
    "no result": lambda run: (run / "result.json").unlink(),
    "empty result": lambda run: (run / "result.json").write_text("{}"),
    "truncated result": lambda run: (run / "result.json").write_text((run / "result.json").read_text()[:60]),
    "no loo.nc": lambda run: (run / "loo.nc").unlink(),
    "no metrics": lambda run: (run / "metrics.jsonl").unlink(),
    "no run": lambda run: shutil.rmtree(run),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_run_that_is_not_whole_is_not_there(study: studies.Study, damage: str) -> None:
    DAMAGES[damage](study.folder / "runs" / "fixedrate-0.5" / "seed-1")
    loaded = studies.load(study.folder)
    assert list(loaded.table["runs"]) == [2, 1] and len(loaded.results) == 3


def test_what_is_missing_of_a_run_is_made_again_and_nothing_else(study: studies.Study) -> None:
    folders = [study.folder / "runs" / name for name in study.results]
    made_again = ["truncated result", "no loo.nc", "no metrics", "no run"]
    for folder, damage in zip(folders, made_again, strict=True):
        DAMAGES[damage](folder)
    checkpoints = {folder: (folder / "checkpoint.safetensors").read_bytes() for folder in folders[:-1]}
    again = bbpyro.compare(study.config, folder=study.folder, progress=False)
    pd.testing.assert_frame_equal(again.runs.drop(columns=MEASURED), study.runs.drop(columns=MEASURED))
    assert list(again.runs["seconds"])[:-1] == list(study.runs["seconds"])[:-1]  # of training that was not done again
    assert {folder: (folder / "checkpoint.safetensors").read_bytes() for folder in checkpoints} == checkpoints


def test_a_result_of_other_settings_is_not_taken_for_this_studys(study: studies.Study) -> None:
    path = study.folder / "study.json"
    path.write_text(path.read_text().replace('"epochs": 2', '"epochs": 7'))
    with pytest.raises(CheckpointError, match="seed-0 was made with another epochs than the study has"):
        bbpyro.compare(studies.read_config(study.folder), folder=study.folder, progress=False)


def test_an_altered_study_is_refused(study: studies.Study) -> None:
    path = study.folder / "study.json"
    path.write_text(path.read_text().replace('"epochs": 2', '"epochs": "two"'))
    with pytest.raises(CheckpointError, match="was altered"):
        studies.load(study.folder)


@pytest.mark.parametrize("made_from", [5, None, [1], "x", {PRIORS[0]: 5}, {PRIORS[1]: None}, {"another": [1]}])
def test_a_study_whose_origins_were_altered_is_refused(
    study: studies.Study, made_from: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    path = study.folder / "study.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "made_from": made_from}))
    for go_on in (studies.load, studies.train, lambda folder: bbpyro.compare(study.config, folder=folder)):
        with pytest.raises(CheckpointError, match=r"study.json was altered, .* \(made_from is "):
            go_on(study.folder)
    with pytest.raises(SystemExit) as status:
        main(["compare", "--resume", str(study.folder)])
    assert status.value.code == 2 and capsys.readouterr().err.count("\n") == 1


def test_an_absent_cluster_library_says_what_to_install(
    npz: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(ImportError, match="pip install ray"):
        bbpyro.compare(
            PRIORS, folder=tmp_path / "s", backend="ray", address="auto", progress=False, dataset=npz, **SHORT
        )


# --- priors from Python, other networks, a cluster -----------------------------------------------------------


def test_priors_may_be_objects_and_a_network_brings_its_settings(tmp_path: Path, npz: str) -> None:
    objects = [priors.Beta(), {"fc1.*": priors.FixedRate(0.2), "*": "Jeffreys"}]
    config = studies.prepare(tmp_path / "a", StudyConfig(prior=tuple(map(priors.spell, objects)), dataset=npz))
    assert config.prior == ("Beta(0.0001, 1)", "{'fc1.*': FixedRate(0.2), '*': Jeffreys()}")
    assert json.loads((tmp_path / "a" / "study.json").read_text())["config"]["prior"] == list(config.prior)
    names = list(config.tasks())
    assert names[3] == "fc1.all-fixedrate-0.2-all-jeffreys/seed-0"
    assert dataclasses.replace(runs.recipe("lenet5-caffe"), seed=2) in _tasks_of("lenet5-caffe")


def _tasks_of(network: str) -> list[runs.TrainConfig]:
    from bbpyro.studies.compare import _config

    return list(_config(["Beta(1e-4, 1)"], 3, {"network": network}).tasks().values())


def test_an_existing_dask_cluster_does_the_same(made: studies.Study, npz: str, tmp_path: Path) -> None:
    with distributed.LocalCluster(n_workers=1, threads_per_worker=1, dashboard_address=None) as cluster:
        study = bbpyro.compare(
            PRIORS[:1],
            seeds=2,
            folder=tmp_path / "study",
            backend="dask",
            address=cluster.scheduler_address,
            progress=False,
            dataset=npz,
            **SHORT,
        )
    assert study.failures == []
    scores = ["run", "error", "nll", "kept fc1", "macs", "elbo", "elpd_loo"]
    pd.testing.assert_frame_equal(study.runs[scores], made.runs[made.runs["prior"] == PRIORS[0]][scores])


# --- the command line --------------------------------------------------------------------------------------


def test_the_command_prints_the_table(study: studies.Study, capsys: pytest.CaptureFixture[str]) -> None:
    main(["compare", "--resume", str(study.folder)])
    out = capsys.readouterr().out
    for prior, row in study.table.iterrows():
        assert str(prior) in out and f"{row['error mean']:.2%}" in out and f"{row['elpd_loo mean']:.4f}" in out
    assert "kept of 64-500-300" in out and f"wrote {study.folder}" in out


def config_of(capsys: pytest.CaptureFixture[str], *flags: str) -> str:
    main(["compare", *flags, "--print-config"])
    return capsys.readouterr().out


def test_a_study_file_says_what_flags_say(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    flags = [
        "--prior",
        "Jeffreys",
        "--prior",
        "{'fc1.*': Uniform, '*': Beta(1e-4, 1)}",
        "--seeds",
        "5",
        "--epochs",
        "7",
    ]
    text = config_of(capsys, *flags)
    assert 'prior = ["Jeffreys", "{' in text and "seeds = 5" in text
    (tmp_path / "study.toml").write_text(text)
    file = ["--config", str(tmp_path / "study.toml")]
    assert config_of(capsys, *file) == text
    changed = config_of(capsys, *file, "--prior", "Uniform", "--seeds", "2")
    assert 'prior = ["Uniform"]' in changed and "seeds = 2" in changed and "epochs = 7" in changed
    assert 'prior = ["Beta(0.0001, 1)", "IndianBuffet(5)", "FixedRate(0.5)"]' in config_of(capsys)
    assert "gate_learning_rate = 0.05" in config_of(capsys, "--network", "lenet5-caffe")


def test_a_study_that_is_there_lends_its_settings(study: studies.Study, capsys: pytest.CaptureFixture[str]) -> None:
    main(["compare", "--study", str(study.folder)])
    with pytest.raises(SystemExit) as status:
        main(["compare", "--study", str(study.folder), "--epochs", "9"])
    assert status.value.code == 2
    assert "epochs is 9, but 2 in the study that is there" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("flags", "mention"),
    [
        (["--prior", "Beta(0)"], "Beta: concentration1 is 0"),
        (["--prior", "nowhere:prior"], "No module named 'nowhere'"),
        (["--jobs", "0"], "jobs is 0"),
        (["--resume", "nowhere"], "is no bbpyro study"),
        (["--resume", "nowhere", "--seeds", "9"], "leave out --seeds"),
        (["--resume", "nowhere", "--seeds", "3"], "leave out --seeds"),
        (["--resume=nowhere", "--seeds=3"], "leave out --seeds"),
        (["--jobs", "1", "--resume", "nowhere", "--backend=processes", "--prior", "Jeffreys"], "leave out --prior"),
        (["--resume", "nowhere", "--print-config"], "leave out --print-config"),
        (["--config", "nowhere.toml"], "is no file of settings"),
        (["--dataset", "nowhere.npz"], "nowhere.npz"),
    ],
)
def test_a_users_error_is_one_line_and_nothing_is_made(
    flags: list[str], mention: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as status:
        main(["compare", "--study", "study", *flags] if "--resume" not in " ".join(flags) else ["compare", *flags])
    assert status.value.code == 2
    err = capsys.readouterr().err
    assert mention in err and err.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


# --- what runs share ---------------------------------------------------------------------------------------


def pretraining_of(folder: Path) -> list[dict[str, Any]]:
    lines = (folder / "metrics.jsonl").read_text().splitlines()
    return [record for record in map(json.loads, lines) if record["phase"] == "pretraining"]


def test_runs_that_begin_alike_share_one_pretraining_and_have_the_numbers_that_they_have_alone(
    made: studies.Study, tmp_path: Path
) -> None:
    assert len(list((made.folder / "pretrained").iterdir())) == 2  # one a seed
    (folder,) = [made.folder / "runs" / name for name in made.results if name == "fixedrate-0.5/seed-1"]
    first = folder.parents[1] / "beta-0.0001-1" / "seed-1"
    assert pretraining_of(folder) == pretraining_of(first)  # with the seconds, which no two trainings have alike
    config, _ = runs.read_config(folder)
    runs.create(tmp_path / "alone", config)
    alone = runs.train(tmp_path / "alone")
    assert alone.history[0]["seconds"] != pretraining_of(folder)[0]["seconds"]
    together = runs.load(folder)
    assert [{**record, "seconds": 0} for record in alone.history] == [
        {**record, "seconds": 0} for record in together.history
    ]
    for name, tensor in alone.bnn.state_dict().items():
        assert torch.equal(tensor, together.bnn.state_dict()[name]), name


ANOTHER: dict[str, Any] = {
    "prior": "Jeffreys",
    "family": "VIB(0.01)",
    "weight_prior": "Laplace(0.5)",
    "weights": "normal",
    "temperature": 1.0,
    "threshold": 0.2,
    "initial_keep_probability": 0.5,
    "epochs": 1,
    "gate_learning_rate": 5e-3,
    "schedule": "steps",
    "kl_warmup_epochs": 1,
    "kl_start": (("fc*", 6.0),),
    "elbo": "mean-field",
    "shed": False,
}


def test_what_has_no_effect_on_pretraining_has_none(npz: str, tmp_path: Path) -> None:
    assert {*ANOTHER} == {*pretraining.WITHOUT_EFFECT}
    config = runs.TrainConfig(dataset=npz, epochs=2, pretrain_epochs=1, batch_size=50)
    found = {}
    for name, value in {"seed": 0, **ANOTHER}.items():
        shared, folder = tmp_path / name / "net.safetensors", tmp_path / f"{name}-run"
        beside = {"kl_warmup_epochs": 2} if name == "kl_start" else {}
        runs.create(folder, dataclasses.replace(config, **{name: value}, **beside))
        runs.train(folder, on_epoch=pretraining.lend(shared, folder))
        found[name] = checkpoint.load(shared)[0]
    for name, tensors in found.items():
        assert tensors.keys() == found["seed"].keys(), name
        assert all(torch.equal(tensor, found["seed"][key]) for key, tensor in tensors.items()), name


def test_runs_that_begin_otherwise_share_nothing(npz: str, tmp_path: Path) -> None:
    config = runs.TrainConfig(dataset=npz)
    own = pretraining.file_of(tmp_path, config, {"data": "x"})
    settings = {"seed": 1, "batch_size": 50, "learning_rate": 1e-4, "pretrain_epochs": 3, "validation_fold": 1}
    others = [
        pretraining.file_of(tmp_path, dataclasses.replace(config, **{k: v}), {"data": "x"}) for k, v in settings.items()
    ]
    others += [pretraining.file_of(tmp_path, config, each) for each in ({"data": "y"}, {"data": "x", "network": [1]})]
    assert len({own, *others}) == len(settings) + 3
    for lone in ({"pretrain_epochs": 0}, {"starts": 2}, {"pretrained": Path("net.safetensors")}):
        assert pretraining.file_of(tmp_path, dataclasses.replace(config, **lone), {"data": "x"}) is None


def test_a_pretraining_that_was_damaged_is_made_again(made: studies.Study, tmp_path: Path) -> None:
    shared = next((made.folder / "pretrained").iterdir())
    config, _ = runs.read_config(made.folder / "runs" / next(iter(made.results)))
    (tmp_path / "net.safetensors").write_bytes(shared.read_bytes()[:-5])
    dead = subprocess.Popen([sys.executable, "-c", ""])
    dead.wait()
    (tmp_path / f".net.safetensors-{dead.pid}-abc").write_bytes(b"half of it")
    pretraining.borrow(tmp_path / "net.safetensors", tmp_path, config)
    assert [path.name for path in tmp_path.iterdir()] == ["net.safetensors"]
