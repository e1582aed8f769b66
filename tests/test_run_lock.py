"""Two processes and one run: the second is told which process has it, and of one that was killed nothing is left."""

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from bbpyro import runs
from bbpyro.cli import main
from bbpyro.runs import TrainConfig


@pytest.fixture
def long(npz: Path) -> TrainConfig:
    return TrainConfig(dataset=str(npz), epochs=100_000, pretrain_epochs=1, batch_size=50)


@pytest.fixture
def live(tmp_path: Path, long: TrainConfig) -> Iterator[subprocess.Popen[bytes]]:
    """A process that trains the run `run`, and has an epoch done."""
    runs.create(tmp_path / "run", long)
    command = [str(Path(sys.executable).with_name("bbpyro")), "train", "--resume", str(tmp_path / "run")]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    process = subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    give_up = time.monotonic() + 200
    while not (tmp_path / "run" / "metrics.jsonl").exists():
        assert process.poll() is None and time.monotonic() < give_up, process.communicate()
        time.sleep(0.01)
    yield process
    process.kill()
    process.communicate()


def refusal(capsys: pytest.CaptureFixture[str], *args: str | Path) -> str:
    capsys.readouterr()
    with pytest.raises(SystemExit) as stop:
        main([str(arg) for arg in args])
    assert stop.value.code == 2
    err = capsys.readouterr().err
    assert err.count("\n") == 1
    return err


def test_a_live_run_is_left_to_the_process_that_trains_it(
    tmp_path: Path, npz: Path, live: subprocess.Popen[bytes], capsys: pytest.CaptureFixture[str]
) -> None:
    run = tmp_path / "run"
    settings = (run / "config.json").read_bytes()
    commands = (
        ["train", "--resume", run],
        ["train", "--dataset", npz, "--seed", "1", "--run", run, "--force"],
        ["compact", run],
    )
    capsys.readouterr()
    for command in commands[:2]:
        told = refusal(capsys, *command)
        assert f"run {run} is in use by process {live.pid};" in told
    while not any(record["phase"] == "SVI" for record in runs.load(run).history):  # before which there is no small one
        time.sleep(0.05)
    assert f"run {run} is in use by process {live.pid};" in refusal(capsys, *commands[2])
    assert live.poll() is None
    assert (run / "config.json").read_bytes() == settings
    assert not list(run.glob("compact*"))
    main(["evaluate", str(run), "--num-samples", "1"])  # who only reads is welcome


def test_a_killed_process_leaves_no_lock(tmp_path: Path, live: subprocess.Popen[bytes]) -> None:
    run = tmp_path / "run"
    with pytest.raises(ValueError, match=f"in use by process {live.pid}"):
        runs.train(run)
    live.send_signal(signal.SIGKILL)
    live.wait()
    with runs.hold(run):
        pass
    assert not (run / ".lock").exists()


def test_a_lock_may_be_taken_again_by_the_thread_that_holds_it_and_by_no_other(tmp_path: Path) -> None:
    told = []

    def other() -> None:
        try:
            with runs.hold(tmp_path):
                told.append("taken")
        except ValueError as error:
            told.append(str(error))

    with runs.hold(tmp_path), runs.hold(tmp_path / "."):
        thread = threading.Thread(target=other)
        thread.start()
        thread.join()
    other()
    assert told == [
        f"run {tmp_path} is in use by process {os.getpid()}; wait until that has ended, or stop it",
        "taken",
    ]
    assert list(tmp_path.iterdir()) == []


def test_of_two_that_make_a_run_of_one_name_the_second_is_refused(tmp_path: Path, long: TrainConfig) -> None:
    outcomes = []

    def make(seed: int) -> None:
        try:
            runs.create(tmp_path / "run", TrainConfig(**{**vars(long), "seed": seed}))
            outcomes.append(seed)
        except ValueError as error:
            assert "already exists" in str(error)

    threads = [threading.Thread(target=make, args=(seed,)) for seed in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(outcomes) == 1
    assert runs.read_config(tmp_path / "run")[0].seed == outcomes[0]
    assert [path.name for path in tmp_path.iterdir()] == ["run"]
