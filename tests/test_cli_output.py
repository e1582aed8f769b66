"""The command where its output is hard to write: narrow encodings, a closed stream, a reader that has gone."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from bbpyro import runs

BBPYRO = str(Path(sys.executable).with_name("bbpyro"))
EPOCHS = "--epochs 1 --pretrain-epochs 1 --batch-size 1000 --num-samples 1"
SHORT = f"train --dataset bars --network mlp-64-64 {EPOCHS} --run run"
WRITTEN = {"config.json", "metrics.jsonl", "checkpoint.safetensors", "summary.json", "figures"}


def shell(command: str, folder: Path, **environment: str) -> subprocess.CompletedProcess[bytes]:
    env = {**os.environ, "OMP_NUM_THREADS": "1", "BBPYRO": BBPYRO, **environment}
    return subprocess.run(["bash", "-c", command], cwd=folder, env=env, capture_output=True)


@pytest.mark.parametrize("encoding", ["ascii", "cp1252"])
def test_what_an_encoding_has_not_is_spelled_out(tmp_path: Path, encoding: str) -> None:
    command, wanted = {
        "ascii": (SHORT, "| mean mask "),
        "cp1252": ("train --help", "keep probabilities pi"),
    }[encoding]
    done = shell(f"$BBPYRO {command}", tmp_path, PYTHONIOENCODING=encoding)
    assert (done.returncode, done.stderr) == (0, b"")
    assert wanted in done.stdout.decode(encoding)


@pytest.mark.parametrize(
    ("stream", "status", "said"),
    [
        (">&-", 0, ""),
        ("| head -1", 0, ""),
        ("> /dev/full", 1, "standard output: No space left on device"),
    ],
)
def test_training_goes_on_to_its_end_where_its_output_goes_nowhere(
    tmp_path: Path, stream: str, status: int, said: str
) -> None:
    done = shell(f"$BBPYRO {SHORT} {stream}; exit ${{PIPESTATUS[0]}}", tmp_path)
    assert (done.returncode, done.stderr.decode()) == (status, f"bbpyro: error: {said}\n" if said else "")
    assert {path.name for path in (tmp_path / "run").iterdir()} == WRITTEN


def test_without_a_stream_nothing_is_written_to_a_file_in_its_place(tmp_path: Path) -> None:
    shell(f"$BBPYRO {SHORT} >&- 2>&- <&-", tmp_path)
    assert (tmp_path / "run" / "metrics.jsonl").read_text().count("\n") == 2
    assert runs.load(tmp_path / "run").is_complete


@pytest.mark.parametrize(("command", "status"), [("data list", 0), ("train --epochs 0", 2)])
def test_no_command_fails_of_a_closed_stream(tmp_path: Path, command: str, status: int) -> None:
    assert shell(f"$BBPYRO {command} >&- 2>&-", tmp_path).returncode == status
