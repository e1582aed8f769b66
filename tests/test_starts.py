"""Several starts of one training: the one with the highest ELBO is kept, in Python and in a run."""

import dataclasses
import json
import math
import os
import signal
import subprocess
import sys
import time
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import bbpyro
from bbpyro import checkpoint, runs
from bbpyro.cli import main
from bbpyro.training import FitWarning, NonFiniteLossError, best_start, final_loss

X = torch.randn(80, 3, generator=torch.Generator().manual_seed(0))
Y = (X[:, 0] > 0).long()
SHORT: dict[str, Any] = {"num_epochs": 4, "batch_size": 20, "seed": 0, "progress": False}


def start(keep_probability: float, pretrain_epochs: int = 40) -> bbpyro.BetaBernoulliNetwork:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(3, 8), nn.ReLU(), nn.Linear(8, 2))
    bbpyro.pretrain(net, X, Y, num_epochs=pretrain_epochs, batch_size=20, seed=0, progress=False)
    gated = bbpyro.insert_dropout(net, initial_keep_probability=keep_probability)
    return bbpyro.BetaBernoulliNetwork(gated, num_data=len(X), prior="Uniform")


def test_of_several_starts_the_one_with_the_highest_elbo_is_kept() -> None:
    by_itself = [bbpyro.fit(start(0.9, epochs), X, Y, **SHORT) for epochs in (1, 40, 2)]
    losses = [final_loss(history) for history in by_itself]
    assert losses[1] == min(losses) < sorted(losses)[1]
    made, told = [], []

    def starts() -> Iterator[bbpyro.BetaBernoulliNetwork]:
        for epochs in (1, 40, 2):
            assert len(told) == 4 * len(made)  # each is made when the one before is done
            made.append(start(0.9, epochs))
            yield made[-1]

    bnn, history = bbpyro.fit_best(starts(), X, Y, **SHORT, on_epoch=told.append)
    assert bnn is made[1]
    assert [record["loss"] for record in history] == [record["loss"] for record in by_itself[1]]


def test_the_loss_at_the_end_is_the_mean_of_the_last_twentieth_of_the_epochs() -> None:
    records = [{"loss": float(loss)} for loss in range(50)]
    assert final_loss(records) == 48.0  # of 47, 48 and 49
    assert final_loss(records[:1]) == 0.0


def test_what_is_kept_is_judged_against_the_best_of_all_starts() -> None:
    """A network that was hardly pretrained has nothing to lose, but the one beside it, whose gates are shut, has."""
    held_out = torch.randn(400, 3, generator=torch.Generator().manual_seed(1))
    settings = {**SHORT, "held_out": (held_out, (held_out[:, 0] > 0).long()), "learning_rate": 1e-30}
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        bbpyro.fit_best([start(0.9, 1)], X, Y, **settings)
    hardly, shut = start(0.9, 1), start(0.002, 40)
    with pytest.warns(FitWarning, match="at the start") as caught:
        kept, _ = bbpyro.fit_best([hardly, shut], X, Y, **settings)
    assert kept is hardly and len(caught) == 1
    scores = [{"nll": torch.tensor([0.2, 0.4])}, {"nll": torch.tensor([0.1, 0.3])}]
    assert best_start(scores) == scores[1]


def test_a_start_whose_loss_is_nan_is_left_out_unless_all_are() -> None:
    def broken() -> bbpyro.BetaBernoulliNetwork:
        bnn = start(0.9, 1)
        bnn.net[2].weight.data.fill_(math.nan)
        return bnn

    good = start(0.9)
    assert bbpyro.fit_best([broken(), good, broken()], X, Y, **SHORT)[0] is good
    with pytest.raises(NonFiniteLossError):
        bbpyro.fit_best([broken(), broken()], X, Y, **SHORT)


def test_what_are_no_starts_is_said() -> None:
    bnn = start(0.9, 1)
    for bnns, kind, told in [
        ([], ValueError, "bnns is empty, wanted a network for each start"),
        (bnn, TypeError, "bnns is a BetaBernoulliNetwork, wanted a list or generator of BetaBernoulliNetworks"),
        (None, TypeError, "bnns is a NoneType, wanted a list"),
        ([bnn.net], TypeError, "bnns is .*, wanted a BetaBernoulliNetwork"),
        ([bnn, bnn], ValueError, "bnns: two of the networks share a parameter"),
        ([bnn, bbpyro.BetaBernoulliNetwork(bnn.net, num_data=len(X))], ValueError, "two of the networks share"),
    ]:
        with pytest.raises(kind, match=told):
            bbpyro.fit_best(bnns, X, Y, **SHORT)
    states: list[Any] = []
    bbpyro.fit(bnn, X, Y, on_epoch=states.append, **SHORT)
    with pytest.raises(ValueError, match="resume_from is the state of one network, and here are several"):
        bbpyro.fit_best([start(0.9)], X, Y, resume_from=states[0], **SHORT)


# --- a run ---------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> runs.TrainConfig:
    path = tmp_path_factory.mktemp("data") / "bars.npz"
    bars = bbpyro.data.bars(num_train=60, num_test=50)
    np.savez(path, **{name: getattr(bars, name).numpy() for name in ("x", "y", "x_test", "y_test")})
    return runs.TrainConfig(
        dataset=str(path), network="mlp-64-64", epochs=12, pretrain_epochs=10, starts=2, batch_size=15
    )


def records(folder: Path) -> list[dict[str, Any]]:
    found = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    for record in found:
        for of in (record, *record.get("starts", ())):
            of.pop("seconds")
    return found


def tensors(folder: Path) -> dict[str, bytes]:
    return {name: t.numpy().tobytes() for name, t in checkpoint.load(folder / runs.CHECKPOINT)[0].items()}


@pytest.fixture(scope="module")
def trained(config: runs.TrainConfig, tmp_path_factory: pytest.TempPathFactory) -> runs.Run:
    folder = tmp_path_factory.mktemp("runs") / "run"
    runs.create(folder, config)
    return runs.train(folder)


def test_a_run_of_starts_is_that_of_its_best(trained: runs.Run, config: runs.TrainConfig) -> None:
    assert [start["pretrain_epochs"] for start in trained.starts] == [10, 2]
    own = [runs.load(trained.folder / "starts" / name) for name in "12"]
    losses = [final_loss(run.svi_history) for run in own]
    assert [start["loss"] for start in trained.starts] == losses
    best = own[int(np.argmin(losses))]
    for run in (trained, runs.load(trained.folder)):
        assert run.is_complete and run.config == config and run.starts == trained.starts
        assert all(torch.equal(t, run.bnn.state_dict()[name]) for name, t in best.bnn.state_dict().items())
    assert [record["epoch"] for record in trained.history] == [record["epoch"] for record in best.history]
    assert trained.training_seconds == pytest.approx(sum(run.training_seconds for run in own))
    assert runs.summarize(trained, num_samples=2)["starts"] == trained.starts


def test_a_run_of_starts_that_was_killed_in_each_ends_with_the_numbers_of_one_never_interrupted(
    trained: runs.Run, config: runs.TrainConfig, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "run"
    runs.create(folder, config)
    command = [sys.executable, "-m", "bbpyro", "train", "--resume", str(folder), "--num-samples", "2"]
    for number in "12":
        metrics, give_up = folder / "starts" / number / "metrics.jsonl", time.monotonic() + 200
        process = subprocess.Popen(command, env={**os.environ, "OMP_NUM_THREADS": "1"}, stdout=subprocess.PIPE)
        while not metrics.exists() or len(metrics.read_text().splitlines()) < 5:
            assert process.poll() is None and time.monotonic() < give_up
            time.sleep(0.005)
        process.kill()
        process.communicate()
        assert process.returncode == -signal.SIGKILL
        assert not (folder / runs.CHECKPOINT).exists()
    main(command[3:])
    out = capsys.readouterr().out
    assert records(folder) == records(trained.folder)
    assert tensors(folder) == tensors(trained.folder)
    least, other = sorted(trained.starts, key=lambda start: start["loss"])
    assert (
        f"-ELBO/N: {least['loss']:.4f} of the start with {least['pretrain_epochs']} epochs of pretraining, which is "
        f"kept, {other['loss']:.4f} of {other['pretrain_epochs']}\n" in out
    )
    assert "\nstart 2 of 2\n" in out and "\nstart 1 of 2\n" not in out  # that was over


@pytest.mark.parametrize(
    ("changed", "told"),
    [
        ({"starts": 0}, "starts is 0, wanted at least 1"),
        ({"starts": 3}, "starts is 3, but each has a fifth of the epochs .* and of 10 there are at most 2"),
        ({"pretrain_epochs": 0}, "starts is 2, but .* of 0 there are at most 1"),
        ({"pretrained": Path("w.safetensors")}, "starts is 2, but pretrained weights are one start"),
    ],
)
def test_starts_that_cannot_be_are_refused(
    config: runs.TrainConfig, changed: dict[str, Any], told: str, tmp_path: Path
) -> None:
    with pytest.raises(ValueError, match=told):
        dataclasses.replace(config, **changed).validate()


def test_of_few_data_there_are_two_starts_unless_it_is_said_where_to_begin(config: runs.TrainConfig) -> None:
    def starts(**given: Any) -> int:
        return runs.recipe("mlp-64-64", {"dataset": config.dataset, **given}).starts

    assert starts() == starts(seeds=2, batch_size=20) == 2
    assert starts(epochs=60) == starts(pretrain_epochs=0) == starts(pretrained="w.safetensors") == 1
    assert starts(vary={"pretrain_epochs": [1, 2]}) == starts(points={"a": {"pretrain_epochs": 1}}) == 1
    assert runs.recipe("lenet-500-300").starts == 1


NETWORKS = """
import torch
from torch import nn

class Fragile(nn.Module):
    def __init__(self):
        super().__init__()
        self.body = nn.Sequential(nn.Flatten(), nn.Linear(64, 8), nn.ReLU(), nn.Linear(8, 4))
        self.register_buffer("calls", torch.zeros(()))

    def forward(self, x):
        if self.training:
            self.calls += 1
        is_of_short = self.calls < 20 and hasattr(self.body[1], "gate")
        return self.body(x) * (float("nan") if is_of_short else 1.0)
"""


def test_a_run_keeps_the_start_that_is_finite(
    config: runs.TrainConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "fragile.py").write_text(NETWORKS)
    monkeypatch.syspath_prepend(tmp_path)
    changed = dataclasses.replace(config, network="fragile:Fragile", epochs=2, pretrain_epochs=5, shed=False)
    folder = tmp_path / "run"
    runs.create(folder, changed)
    run = runs.train(folder)
    assert run.is_complete
    assert run.starts[0]["loss"] is not None and run.starts[1] == {"pretrain_epochs": 1, "loss": None, "seconds": 0.0}


def test_what_a_killed_process_left_goes_and_a_damaged_start_says_what_helps(
    config: runs.TrainConfig, tmp_path: Path
) -> None:
    folder = tmp_path / "run"
    runs.create(folder, dataclasses.replace(config, epochs=1))
    with pytest.raises(checkpoint.CheckpointError, match="its starts are runs of their own, in .*starts. Where nobody"):
        runs.load(folder)
    (folder / "starts" / ".1-abc").mkdir(parents=True)
    (folder / "starts" / "2").mkdir()
    with pytest.raises(checkpoint.CheckpointError, match="starts/2 is no bbpyro run.*; or remove .*starts/2, and this"):
        runs.train(folder)
    assert not (folder / "starts" / ".1-abc").exists()
    (folder / "starts" / "2").rmdir()
    assert runs.train(folder).is_complete
