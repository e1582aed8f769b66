"""Where a file cannot be written: one line that names it, and nothing half-written."""

import resource
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from bbpyro import checkpoint, data, runs
from bbpyro.runs import TrainConfig

KIB = 1024


def run_limited(kib: int, *args: str | Path, folder: Path) -> subprocess.CompletedProcess[str]:
    """`bbpyro ARGS`, none of whose files may grow beyond this: the system says so as it does of a full disk."""
    limit = f"import resource; resource.setrlimit(resource.RLIMIT_FSIZE, ({kib * KIB}, {kib * KIB}))"
    command = [sys.executable, "-c", f"{limit}; from bbpyro.cli import main; main()", *map(str, args)]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True)


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("trained")
    bars = data.bars(num_train=60, num_test=50)
    np.savez(folder / "bars.npz", **{name: getattr(bars, name).numpy() for name in ("x", "y", "x_test", "y_test")})
    config = TrainConfig(dataset=str(folder / "bars.npz"), epochs=1, pretrain_epochs=1, batch_size=50)
    runs.create(folder / "run", config)
    runs.train(folder / "run")
    return folder / "run"


def test_training_stops_with_the_name_of_the_file_and_how_to_go_on(tmp_path: Path) -> None:
    flags = ["--dataset", "bars", "--epochs", "1", "--pretrain-epochs", "1", "--batch-size", "1000"]
    done = run_limited(1000, "train", *flags, "--run", "run", folder=tmp_path)
    assert done.returncode == 1
    assert done.stderr == (
        "bbpyro: error: run/checkpoint.safetensors: File too large; when that is mended, "
        "go on with: bbpyro train --resume run\n"
    )
    assert [path.name for path in (tmp_path / "run").iterdir()] == ["config.json"]


@pytest.mark.parametrize(
    ("command", "kib", "name"), [("posterior", 50, "posterior.nc"), ("compact", 50, "compact.safetensors")]
)
def test_a_command_stops_with_the_name_of_the_file(
    tmp_path: Path, trained: Path, command: str, kib: int, name: str
) -> None:
    before = {path.name for path in trained.rglob("*") if path.is_file()}
    output = ["--output", tmp_path] if command == "posterior" else []
    done = run_limited(kib, command, trained, *output, folder=tmp_path)
    where = (tmp_path if output else trained) / name
    assert (done.returncode, done.stderr) == (1, f"bbpyro: error: {where}: File too large\n")
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == []
    assert {path.name for path in trained.rglob("*") if path.is_file()} == before


def test_what_is_appended_is_there_whole_or_not_at_all(tmp_path: Path) -> None:
    path = tmp_path / "lines"
    checkpoint.append(path, b"one\n")
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (10, before[1]))
    try:
        with pytest.raises(OSError) as caught:
            checkpoint.append(path, b"two is longer\n")
        with pytest.raises(OSError):
            checkpoint.write_atomic(path, b"three is longer too\n")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert caught.value.filename == str(path)
    assert path.read_bytes() == b"one\n"
    assert list(tmp_path.iterdir()) == [path]
    checkpoint.append(path, b"two\n")
    assert path.read_bytes() == b"one\ntwo\n"
