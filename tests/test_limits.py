"""What no machine, or not this one, can do is refused before anything is begun; memory is estimated, not tried."""

import dataclasses
import os
import resource
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from bbpyro import data, memory, runs
from bbpyro.cli import main
from bbpyro.runs import TrainConfig, limits


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("trained")
    bars = data.bars(num_train=150, num_test=50)
    np.savez(folder / "bars.npz", **{name: getattr(bars, name).numpy() for name in ("x", "y", "x_test", "y_test")})
    config = TrainConfig(dataset=str(folder / "bars.npz"), epochs=1, pretrain_epochs=0, batch_size=50)
    runs.create(folder / "run", config)
    runs.train(folder / "run")
    return folder / "run"


@pytest.mark.parametrize(
    ("command", "mention"),
    [
        ("train --dataset bars --threads 9999", "threads is 9999, wanted at most"),
        ("train --dataset bars --num-samples 100000000000", "num_samples is 100000000000, wanted at least 1, at most"),
        (
            "train --dataset bars --kl-warmup-epochs 99 --epochs 1",
            "kl_warmup_epochs is 99, wanted at most",
        ),
        ("train --dataset bars --epochs 99999999999", "epochs is 99999999999, wanted at most 1,000,000"),
        (f"train --dataset bars --batch-size {10**30}", "batch_size is 1000"),
        ("compare --dataset bars --threads 9999", "threads is 9999"),
        ("compare --dataset bars --kl-warmup-epochs 99 --epochs 1", "kl_warmup_epochs is 99"),
        ("compare --dataset bars --jobs 99999 --seeds 9999", "jobs: 29,997 runs at once would take about"),
        ("compare --dataset bars --seeds 99999999", "seeds is 99999999, wanted at least 1, at most 10,000"),
        ("evaluate RUN --num-samples 100000000000", "num_samples is 100000000000"),
        ("posterior RUN --num-samples 100000000000", "num_samples is 100000000000"),
        ("posterior RUN --num-samples 5", "num_samples is 5, wanted at least 10"),
        ("posterior RUN --num-predictive-samples 100000000000", "num_predictive_samples is 100000000000"),
        ("compact RUN --finetune-epochs 100000000000", "finetune_epochs is 100000000000"),
    ],
)
def test_a_number_that_nobody_can_mean_is_refused_in_a_line(
    tmp_path: Path,
    run: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    command: str,
    mention: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as stop:
        main([str(run) if word == "RUN" else word for word in command.split()])
    out, err = capsys.readouterr()
    assert stop.value.code == 2
    assert err.startswith(f"bbpyro: error: {mention}") and err.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


def test_a_recipes_own_warm_up_may_be_longer_than_a_short_run() -> None:
    limits.check_numbers(dataclasses.replace(runs.recipe("lenet5-caffe"), epochs=2))


def test_a_run_made_on_a_machine_of_more_cores_still_opens(run: Path) -> None:
    text = (run / "config.json").read_text()
    try:
        for name in ("config.json", "checkpoint.safetensors"):
            assert (run / name).is_file()
        config = runs.read_config(run)[0]
        (run / "config.json").write_text(text.replace('"threads": 1', '"threads": 9999'))
        assert runs.read_config(run)[0] == dataclasses.replace(config, threads=9999)
        with pytest.raises(ValueError, match="settings differ"):  # it opened, up to the checkpoint's own settings
            runs.load(run)
        assert torch.get_num_threads() <= limits.num_cores()
    finally:
        (run / "config.json").write_text(text)
        torch.set_num_threads(1)


# --- memory ------------------------------------------------------------------------------------------------


def wide(tmp_path: Path, num_inputs: int) -> str:
    """A small file of few data, each of very many inputs."""
    x = np.zeros((20, num_inputs), np.uint8)
    np.savez_compressed(tmp_path / "wide.npz", x=x, y=np.arange(20) % 2)
    return str(tmp_path / "wide.npz")


def test_a_network_that_does_not_fit_is_refused_by_its_estimate(tmp_path: Path) -> None:
    # Adam's moments, gradients and copies of 500 weights an input: 22 kB each, and 40 kB of draws in the end.
    num_inputs = 1_000_000 * max(1, memory.free() // (20 * memory.GIB))
    dataset = wide(tmp_path, num_inputs)
    for make in (
        lambda: runs.create(tmp_path / "run", TrainConfig(dataset=dataset)),
        lambda: runs.check_settings(TrainConfig(dataset=dataset)),
    ):
        with pytest.raises(ValueError, match=rf"inputs of shape \[{num_inputs}\] .* GiB of memory, and .* are free"):
            make()
    assert [path.name for path in tmp_path.iterdir()] == ["wide.npz"]


def test_arrays_that_do_not_fit_are_refused_before_they_are_read(tmp_path: Path) -> None:
    dataset = wide(tmp_path, 1_000_000)
    limit = resource.getrlimit(resource.RLIMIT_AS)
    mapped = int(Path("/proc/self/statm").read_text().split()[0]) * os.sysconf("SC_PAGE_SIZE")
    try:
        resource.setrlimit(resource.RLIMIT_AS, (mapped + 100 * 2**20, limit[1]))
        with pytest.raises(ValueError, match=r"wide\.npz would take about 0\.2 GiB of memory, and 0\.1 are free"):
            data.load(dataset)
    finally:
        resource.setrlimit(resource.RLIMIT_AS, limit)
    assert data.load(dataset).x.shape == (16, 1_000_000)


MEASURE = """
import sys
from pathlib import Path
from bbpyro import runs
from bbpyro.runs import limits, origins

def peak():  # getrusage's would be that of the process that started this one, if that is more
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(1024 * int(line.split()[1]) for line in lines if line.startswith("VmHWM:"))

config = runs.TrainConfig(dataset="bars", network=sys.argv[1], epochs=1, pretrain_epochs=1, batch_size=500)
dataset = origins.load_data(config)
before = peak()
estimate = limits.training_bytes(config, dataset)
runs.create(Path("run"), config)
run = runs.train(Path("run"))
print(estimate, peak() - before)
"""


def test_the_estimate_is_near_what_training_takes(tmp_path: Path) -> None:
    (tmp_path / "big.py").write_text(
        "from torch import nn\n"
        "def net(shape, num_classes):\n"
        "    return nn.Sequential(nn.Flatten(), nn.Linear(64, 4000), nn.ReLU(), nn.Linear(4000, 2000), nn.ReLU(),\n"
        "                         nn.Linear(2000, num_classes))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", MEASURE, "big:net"],
        cwd=tmp_path,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=True,
    )
    estimate, taken = map(int, done.stdout.split())
    assert taken / 2 < estimate < 3 * taken
