import importlib
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pandas as pd
import pytest
import torch
from torch import nn

from bbpyro import data

FOLDER = Path(__file__).parents[1] / "benchmarks"
METHODS = {"magnitude": "20-60-30", "slimming": "0.1", "lasso": "1e-3"}  # penalties for a short training
SHORT = "--dataset bars --num-data 300 --validation-size 100 --epochs 1 --methods magnitude".split()


@pytest.fixture(autouse=True)
def importable(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.syspath_prepend(FOLDER)
    yield


def load(name: str) -> ModuleType:
    return importlib.import_module(name)


def short_training(pruning: ModuleType, seed: int = 0) -> Any:
    """Four epochs on bars in a black frame."""
    bars = data.load("bars")
    framed = nn.functional.pad(bars.x[:400], (2, 2, 2, 2)).flatten(1)
    return pruning.Training(framed, bars.y[:400], 4, 4, 10, seed, lambda: None)


@pytest.mark.parametrize(("method", "strength"), METHODS.items())
def test_what_a_method_ends_with_is_smaller_and_reads_only_the_pixels_it_kept(method: str, strength: str) -> None:
    pruning = load("pruning")
    training = short_training(pruning)
    net, minutes = pruning.pruned(training, pruning.Setting(method, strength, (0.1, 0.2), learning_rate=0.02))
    pixels, hidden1, hidden2 = pruning.kept(net)
    if method == "magnitude":
        assert strength == f"{pixels}-{hidden1}-{hidden2}"
    assert 1 <= pixels <= 64 and 1 <= hidden1 < 500 and 1 <= hidden2 < 300
    assert pruning.macs(net) == pixels * hidden1 + hidden1 * hidden2 + hidden2 * 4
    dense = [layer for layer in net if not isinstance(layer, nn.ReLU)][1:]
    assert [tuple(layer.weight.shape) for layer in dense] == [(hidden1, pixels), (hidden2, hidden1), (4, hidden2)]
    assert sum(p.numel() for p in net.parameters()) == pruning.macs(net) + hidden1 + hidden2 + 4
    read = net[0].indices
    assert len(read.unique()) == pixels
    assert bool((training.x[:, read] != 0).any(0).all())  # none of the frame's
    x = training.x[:50]
    blind = torch.full_like(x, float("nan")).index_copy(1, read, x[:, read])
    torch.testing.assert_close(net(blind), net(x), rtol=0, atol=0)
    assert (net(x).argmax(1) == training.y[:50]).double().mean() > 0.5  # of four classes
    assert minutes > 0


def test_dead_units_leave_without_a_change_of_what_is_computed() -> None:
    pruning = load("pruning")
    torch.manual_seed(0)
    for method in ("lasso", "slimming"):
        net = pruning.network(12, 3, pruning.Setting(method, "0", (0.5, 0.5)))
        alive = [torch.rand(12) < 0.5, torch.rand(500) < 0.2, torch.rand(300) < 0.3]
        with torch.no_grad():
            for norm in [m for m in net if isinstance(m, nn.BatchNorm1d)]:
                for tensor in (norm.weight, norm.bias, norm.running_mean, norm.running_var):
                    tensor.uniform_(0.5, 2)
            for layer, lives in zip(pruning.dense_layers(net), alive, strict=True):
                layer.weight[:, ~lives] = 0
        x = torch.rand(7, 12)
        before = net.eval()(x)
        pruning.remove(net, alive)
        assert pruning.kept(net) == [int(lives.sum()) for lives in alive]
        assert net[0].indices.tolist() == alive[0].nonzero().flatten().tolist()
        torch.testing.assert_close(net.eval()(x), before)
        torch.testing.assert_close(pruning.plain(net)(x), before)


def test_the_penalty_is_the_group_lasso_and_the_l1_of_all_scales() -> None:
    pruning = load("pruning")
    for method in ("lasso", "slimming"):
        setting = pruning.Setting(method, "0.3", (0.0, 0.0))
        net = pruning.network(5, 3, setting)
        parameters = (
            pruning.scales(net) if method == "slimming" else [layer.weight for layer in pruning.dense_layers(net)]
        )
        assert [p.shape[-1] for p in parameters] == [5, 500, 300]
        for parameter in parameters:
            parameter.grad = torch.zeros_like(parameter)
        pruning.penalty(net, setting)()
        if method == "slimming":
            value = sum(p.abs().sum() for p in parameters)
        else:
            value = sum(p.shape[0] ** 0.5 * p.square().sum(0).sqrt().sum() for p in parameters)
        for parameter, wanted in zip(parameters, torch.autograd.grad(0.3 * value, parameters), strict=True):
            torch.testing.assert_close(parameter.grad, wanted)


def test_the_dropout_rate_falls_with_the_share_of_the_units_that_is_left() -> None:
    pruning = load("pruning")
    setting = pruning.Setting("magnitude", "6-50-3", (0.2, 0.5))
    net = pruning.network(12, 3, setting)
    pruning.prune_by_magnitude(net, [6, 50, 3])
    pruning.lower_dropout(net, setting, [12, 500, 300])
    assert [layer.p for layer in net if isinstance(layer, nn.Dropout)] == pytest.approx([0.1, 0.05, 0.005])


def test_a_row_does_not_depend_on_what_was_trained_before() -> None:
    pruning = load("pruning")
    setting = pruning.Setting("magnitude", METHODS["magnitude"], (0.1, 0.2))
    training = short_training(pruning)
    pruning.pruned(training, pruning.Setting("magnitude", "30-70-40", (0.1, 0.2)))
    after_another, _ = pruning.pruned(training, setting)
    alone, _ = pruning.pruned(short_training(pruning), setting)
    other_seed, _ = pruning.pruned(short_training(pruning, seed=1), setting)
    x = training.x[:20]
    torch.testing.assert_close(after_another(x), alone(x), rtol=0, atol=0)
    assert not torch.allclose(other_seed(x), alone(x))


def test_a_file_of_rows_is_gone_on_with(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    script, output = load("pruning_methods"), tmp_path / "rows.csv"
    script.main([*SHORT, "--output", str(output), "--strengths", "20-60-30", "--seeds", "2"])
    first = output.read_text()
    with output.open("a") as file:
        file.write("magnitude,20-50-30 dropout")  # cut off
    script.main([*SHORT, "--output", str(output), "--strengths", "20-60-30", "30-60-30"])
    assert output.read_text().startswith(first)
    rows = pd.read_csv(output, dtype=str).to_dict("records")
    assert sorted((r["kept"], r["seed"]) for r in rows) == [("20-60-30", "0"), ("20-60-30", "1"), ("30-60-30", "0")]
    assert {(r["macs"], r["macs_x"], r["parameters"]) for r in rows[:2]} == {("3120", "58.72", "3214")}
    assert {r["scored_on"] for r in rows} == {"bars, 300 data: 100 of fold 0"}
    assert all(0 <= float(r["error"]) <= 1 and float(r["nll"]) > 0 for r in rows)
    table = [line.split("|") for line in capsys.readouterr().out.splitlines() if "20-60-30 dropout" in line]
    assert [cells[4].strip() for cells in table] == ["2", "2"]  # seeds, in the table of each call


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ("--test --dropout 0 0", "--test is for the settings in CHOSEN"),
        ("--test --strengths 20-60-30", "--test is for the settings in CHOSEN"),
        ("--strengths 20-60", "wanted as in 294-110-71, of 64-500-300"),
        ("--strengths 65-60-30", "wanted as in 294-110-71, of 64-500-300"),
        ("--fold 3", "--fold 3 of 100 data is none of 300 training data"),
        ("--dropout 0 1", "wanted from 0 to below 1"),
        ("--jobs 0", "--jobs is 0, wanted at least 1"),
        ("--methods lasso slimming --strengths 1", "--strengths are those of one method"),
    ],
)
def test_what_cannot_be_is_told_before_anything_is_trained(
    options: str, message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "rows.csv"
    with pytest.raises(SystemExit):
        load("pruning_methods").main([*SHORT, "--output", str(output), "--strengths", "20-60-30", *options.split()])
    assert message in capsys.readouterr().err
    assert not output.exists()


def test_a_file_of_something_else_is_left_alone(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    output = tmp_path / "mine.csv"
    output.write_text("a,b\n1,2")
    with pytest.raises(SystemExit):
        load("pruning_methods").main([*SHORT, "--output", str(output), "--strengths", "20-60-30"])
    assert "a file of something else" in capsys.readouterr().err
    assert output.read_text() == "a,b\n1,2"


def test_a_fold_is_held_out_of_training_and_the_test_data_are_not_touched() -> None:
    script = load("pruning_methods")
    bars = data.load("bars")
    training, x, y = script.load(script.Plan("bars", 300, 100, 1, 1, 10, 0))
    assert torch.equal(x, bars.x[100:200].flatten(1)) and torch.equal(y, bars.y[100:200])
    assert torch.equal(training.x, torch.cat([bars.x[:100], bars.x[200:300]]).flatten(1))
    training, x, y = script.load(script.Plan("bars", None, 0, 0, 1, 10, 0))
    assert torch.equal(x, bars.x_test.flatten(1)) and torch.equal(training.y, bars.y)
