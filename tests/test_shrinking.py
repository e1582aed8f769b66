import contextlib
import io
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import bbpyro
from bbpyro import compaction, data, export, runs
from bbpyro.cli import main
from bbpyro.runs import TrainConfig, shrinking


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A trained run, some of whose units are dropped."""
    base = tmp_path_factory.mktemp("runs")
    config = TrainConfig(dataset="bars", epochs=3, pretrain_epochs=1, threshold=0.15)
    runs.create(base / "run", config)
    runs.train(base / "run")
    return base / "run"


@pytest.fixture(scope="module")
def printed(run: Path) -> str:
    out = io.StringIO()
    with contextlib.redirect_stdout(out):
        main(["compact", str(run)])
    return out.getvalue()


def cells(printed: str, name: str) -> list[list[str]]:
    """The rows of that name in the tables that were printed."""
    return [re.split(r" *│ *", row)[1:-1] for row in printed.splitlines() if row.startswith(f"│ {name} ")]


def test_the_small_network_is_smaller_and_predicts_the_same(run: Path, printed: str) -> None:
    loaded = runs.load(run)
    kept = [int(gate.kept().sum()) for gate in loaded.bnn.gates.values()]
    assert 0 < kept[1] < 500
    assert f"units kept on the input of each layer: {kept[0]} of 64, {kept[1]} of 500, {kept[2]} of 300" in printed
    before = 65 * 500 + 501 * 300 + 301 * 4
    after = (kept[0] + 1) * kept[1] + (kept[1] + 1) * kept[2] + (kept[2] + 1) * 4
    (original, _), (masked, _), (small, _), (onnx, _) = (
        cells(printed, name) for name in ("original", "mean mask", "compact", "ONNX Runtime")
    )
    assert original[1] == f"{before:,}" and small[1] == f"{after:,}" and f" {before / after:.2f}x " in printed
    pretrained = [record for record in loaded.history if record["phase"] == "pretraining"][-1]
    assert original[4:] == [f"{1 - pretrained['held_out_accuracy']:.2%}", f"{pretrained['held_out_nll']:.4f}"]
    assert masked[4:] == small[4:] == onnx[4:] != original[4:]


def test_what_went_from_each_layer_is_in_a_table(run: Path, printed: str) -> None:
    found = {name: cells(printed, name)[0] for name in ("fc1", "fc2", "fc3")}
    gates = {name.removesuffix(".gate"): gate for name, gate in runs.load(run).bnn.gates.items()}
    for name, gate in gates.items():
        units, dead = gate.num_features, int((~gate.kept()).sum())
        gone = ["0", str(dead)] if name == "fc1" else [str(dead), "0"]  # pixels are there all the same
        assert found[name] == [name, str(units), str(dead), *gone]
    assert str(compaction.compact(runs.load(run).bnn).compaction) == str(bbpyro.load_compact(run).compaction)


def test_round_numbers_of_units_keep_some_dead_ones(run: Path, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    shutil.copytree(run, folder)
    with contextlib.redirect_stdout(io.StringIO()) as out:
        main(["compact", str(folder), "--round-to", "8"])
    small, loaded = bbpyro.load_compact(folder), runs.load(folder)
    widths = [layer.out_features for layer in small.modules() if isinstance(layer, torch.nn.Linear)][:2]
    kept = [int(gate.kept().sum()) for gate in loaded.bnn.gates.values()][1:]
    assert widths == [-(-count // 8) * 8 for count in kept] != kept
    for name, width, count in zip(("fc2", "fc3"), widths, kept, strict=True):
        row = cells(out.getvalue(), name)[0]
        assert int(row[3]) == int(row[1]) - width and row[5].startswith(f"{width - count}: " if width > count else "")
    assert max(len(line) for line in out.getvalue().splitlines() if "│" in line or "━" in line) <= 80
    with torch.no_grad():
        torch.testing.assert_close(small(loaded.dataset.x_test), loaded.bnn(loaded.dataset.x_test))


def test_another_threshold_is_of_the_small_network_alone(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "run"
    shutil.copytree(run, folder)
    bnn = runs.load(folder).bnn
    probabilities = {name: gate.measure().detach() for name, gate in bnn.gates.items()}
    threshold = float(torch.cat([*probabilities.values()]).quantile(0.9))  # far more goes than by the run's own
    wanted = compaction.compact(bnn, threshold=threshold)
    main(["compact", str(folder), "--threshold", str(threshold)])
    printed = capsys.readouterr().out
    counts = [f"{int((mean > threshold).sum())} of {len(mean)}" for mean in probabilities.values()]
    assert ", ".join(counts) in " ".join(printed.split())
    x = runs.load(folder).dataset.x_test
    with torch.no_grad():
        torch.testing.assert_close(bbpyro.load_compact(folder)(x), wanted(x))
        error = bbpyro.score(torch.softmax(wanted(x), -1), runs.load(folder).dataset.y_test).error
        torch.testing.assert_close(runs.load(folder).bnn(x), bnn(x))  # the run goes by what it was trained with
    assert cells(printed, "mean mask")[0][4] == cells(printed, "compact")[0][4] == f"{error:.2%}"
    with pytest.raises(SystemExit) as ended:
        main(["compact", str(folder), "--threshold", "1"])
    assert ended.value.code == 2 and "threshold is 1.0, wanted a number in [0, 1)" in capsys.readouterr().err


def test_times_are_ratios_to_the_original(run: Path, printed: str) -> None:
    rows = {name: cells(printed, name)[1][1:] for name in ("original", "mean mask", "compact", "ONNX Runtime")}
    for row in rows.values():
        for of_original, cell in zip(rows["original"], row, strict=True):
            seconds, ratio = cell.removesuffix("x").split()
            assert float(ratio) == pytest.approx(float(of_original.split()[0]) / float(seconds), rel=0.1, abs=0.01)


def test_times_are_of_fifteen_rounds_or_of_as_many_as_there_is_time_for(monkeypatch: pytest.MonkeyPatch) -> None:
    called = []
    nets = {name: lambda x, name=name: called.append(name) for name in ("a", "b")}
    assert [len(seconds) for seconds in shrinking._rounds(nets, torch.zeros(1, 4), 2).values()] == [1, 1]
    assert called == ["a", "a", "b", "b"]
    monkeypatch.setattr(shrinking, "_SECONDS_A_BATCH_SIZE", 10.0)
    assert [len(seconds) for seconds in shrinking._rounds(nets, torch.zeros(1, 4), 2).values()] == [15, 15]


def test_every_form_that_was_written_predicts_as_the_mean_mask(run: Path, printed: str) -> None:
    loaded = runs.load(run)
    x = loaded.dataset.x_test
    with torch.no_grad():
        wanted = loaded.bnn(x)
        found = [bbpyro.load_compact(run)(x), export.onnx_network((run / "compact.onnx").read_bytes())(x)]
    for output in found:
        assert (output - wanted).abs().max() <= 1e-5 * wanted.abs().max()
    for name in ("compact.safetensors", "compact.pt2", "compact.onnx"):
        assert f"{name} ({(run / name).stat().st_size:,} bytes)" in printed
    assert not (run / "compact-int8.onnx").exists()


def test_fine_tuning_and_eight_bits_are_rows_of_their_own(run: Path, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    shutil.copytree(run, folder)
    with contextlib.redirect_stdout(io.StringIO()) as out:
        main(["compact", str(folder), "--finetune-epochs", "2", "--int8"])
    names = ("mean mask", "compact", "fine-tuned", "ONNX Runtime", "ONNX Runtime, int8")
    masked, small, tuned, onnx, int8 = (cells(out.getvalue(), name)[0] for name in names)
    assert masked[4:] == small[4:] and tuned[1:4] == small[1:4]
    assert float(tuned[5]) < float(small[5])  # training went on
    assert onnx[4:] == tuned[4:]
    assert (folder / "compact-int8.onnx").stat().st_size < 0.4 * (folder / "compact.onnx").stat().st_size
    assert float(int8[5]) == pytest.approx(float(tuned[5]), abs=0.02)
    loaded = runs.load(folder)
    probs = torch.softmax(bbpyro.load_compact(folder)(loaded.dataset.x_test), -1)
    assert f"{bbpyro.score(probs, loaded.dataset.y_test).nll:.4f}" == tuned[5]
    with contextlib.redirect_stdout(io.StringIO()) as out:
        main(["compact", str(folder)])  # which does not vouch for the file of the first
    assert not (folder / "compact-int8.onnx").exists() and "fine-tuned" not in out.getvalue()


def test_training_that_goes_on_removes_what_was_compacted_before(run: Path, tmp_path: Path) -> None:
    folder, config = tmp_path / "run", runs.load(run).config
    runs.create(folder, config)

    def stop(record: dict[str, Any], num_epochs: int, scored_on: str) -> None:
        if (record["phase"], record["epoch"]) == ("SVI", 1):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        runs.train(folder, on_epoch=stop)
    main(["compact", str(folder)])
    assert bbpyro.load_compact(folder)
    runs.train(folder)
    assert not [name for name in runs.ARTEFACTS if (folder / name).exists()]
    main(["compact", str(folder)])
    runs.train(folder)  # which has nothing to do any more
    assert (folder / "compact.onnx").exists()


def test_without_the_extra_there_is_no_onnx_and_the_user_is_told(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "run"
    shutil.copytree(run, folder)
    monkeypatch.setattr("bbpyro.export.has_onnx", lambda: False)
    main(["compact", str(folder)])
    out = capsys.readouterr().out
    assert "pip install onnx onnxruntime onnxscript" in out and "ONNX Runtime" not in out
    assert not (folder / "compact.onnx").exists() and (folder / "compact.pt2").exists()
    with pytest.raises(SystemExit):
        main(["compact", str(folder), "--int8"])
    assert "pip install onnx onnxruntime onnxscript" in capsys.readouterr().err


def test_what_cannot_be_compacted_says_why(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    runs.create(tmp_path / "empty", TrainConfig(dataset="bars"))
    for arguments, message in (
        ([str(tmp_path / "empty")], "has no checkpoint yet"),
        ([str(tmp_path)], "is no bbpyro run"),
        ([str(run), "--finetune-epochs", "-1"], "finetune_epochs is -1"),
        ([str(run), "--round-to", "0"], "round_to is 0, wanted 1 or more"),
    ):
        with pytest.raises(SystemExit) as stop:
            main(["compact", *arguments])
        err = capsys.readouterr().err
        assert stop.value.code == 2 and message in err and err.count("\n") == 1


def test_the_file_needs_torch_alone_and_takes_any_batch(run: Path, printed: str, tmp_path: Path) -> None:
    assert (run / "compact.pt2").stat().st_size < 5_000_000
    loaded = runs.load(run)
    torch.save(loaded.dataset.x_test, tmp_path / "x.pt")
    code = f"""
import sys, torch
sys.modules["bbpyro"] = sys.modules["pyro"] = sys.modules["torch_pruning"] = None
x = torch.load({str(tmp_path / "x.pt")!r})
net = torch.export.load({str(run / "compact.pt2")!r}).module()
torch.save([net(x), net(x[:1])], {str(tmp_path / "y.pt")!r})
"""
    subprocess.run([sys.executable, "-c", code], check=True)
    every, one = torch.load(tmp_path / "y.pt")
    with torch.no_grad():
        wanted = loaded.bnn(loaded.dataset.x_test)
    assert (every - wanted).abs().max() <= 1e-5 * wanted.abs().max()
    assert one.shape == (1, 4)


def off_by(shift: float) -> Callable[..., torch.nn.Module]:
    """A compact() whose network predicts a little else."""

    def compact(bnn, example, **options):
        small = compaction.compact(bnn, example, **options)
        with torch.no_grad():
            small.fc3.bias += shift
        return small

    return compact


def test_a_small_network_that_predicts_otherwise_is_not_written(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (run / "compact.pt2").unlink(missing_ok=True)
    monkeypatch.setattr("bbpyro.runs.shrinking.compact", off_by(1e-3))
    with pytest.raises(SystemExit) as stop:
        main(["compact", str(run)])
    err = capsys.readouterr().err
    assert stop.value.code == 2 and "off on the held-out data" in err and err.count("\n") == 1
    assert not (run / "compact.pt2").exists()


COARSE = """
from torch import nn

class Coarse(nn.Module):
    def __init__(self, shape, num_classes):
        super().__init__()
        self.fc1, self.fc2, self.fc3 = nn.Linear(64, 90), nn.Linear(90, 90), nn.Linear(90, num_classes)

    def forward(self, x):
        x = (self.fc1(x.flatten(1)) + 1e3).relu() - 1e3
        x = (self.fc2(x) + 1e3).relu() - 1e3
        return self.fc3(x)
"""


def test_a_network_is_held_to_no_more_digits_than_its_own_rounding_leaves(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "coarse_network.py").write_text(COARSE)
    monkeypatch.chdir(tmp_path)
    config = TrainConfig(dataset="bars", network="coarse_network:Coarse", epochs=3, pretrain_epochs=1, threshold=0.15)
    runs.create(tmp_path / "run", config)
    bnn, x = runs.train(tmp_path / "run").bnn, data.load("bars").x_test
    small = bbpyro.compact(bnn, x[:2])
    with torch.no_grad():
        wanted = bnn(x)
        assert (small(x) - wanted).abs().max() > 1e-5 * wanted.abs().max()
    main(["compact", "run"])
    assert (tmp_path / "run" / "compact.onnx").exists()
    monkeypatch.setattr("bbpyro.runs.shrinking.compact", off_by(0.03))
    with pytest.raises(SystemExit):
        main(["compact", "run"])
    assert "off on the held-out data" in capsys.readouterr().err


def test_a_run_of_a_convolutional_network_is_trained_inspected_and_compacted(tmp_path: Path) -> None:
    generator = torch.Generator().manual_seed(0)
    x, y = torch.rand(50, 28, 28, generator=generator), torch.arange(50) % 3
    np.savez(tmp_path / "images.npz", x=x.numpy(), y=y.numpy())
    folder = str(tmp_path / "run")
    short = ["--epochs", "1", "--pretrain-epochs", "1", "--num-samples", "2"]
    with contextlib.redirect_stdout(io.StringIO()) as out:
        main(["train", "--dataset", str(tmp_path / "images.npz"), "--network", "lenet5-caffe", "--run", folder, *short])
        main(["posterior", folder, "--num-samples", "20", "--num-predictive-samples", "10"])
        main(["compact", folder])
    said = " ".join(out.getvalue().split())
    assert "units kept: output of conv1 20 of 20, output of conv2 50 of 50, input of fc1 800 of 800" in said
    assert "output of conv1: of 20 units" in said and re.search(r"│ conv1 │ 20 │ 20 │ 100.00% │ output │", said)
    assert "input of conv" not in said and "output of fc" not in said
    assert max(len(line) for line in out.getvalue().splitlines() if "│" in line or "━" in line) <= 80
    assert not (tmp_path / "run" / "figures" / "input_map.png").exists()
    assert (tmp_path / "run" / "figures" / "forest_conv2.png").exists()
    assert (tmp_path / "run" / "compact.pt2").exists()


def test_a_network_that_lost_all_its_units_is_called_so(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = str(tmp_path / "run")
    heavy = ["--kl-start", "fc*", "1000", "--kl-warmup-epochs", "2", "--threshold", "0.999"]
    main(["train", "--dataset", "bars", "--epochs", "2", "--pretrain-epochs", "1", "--run", folder, *heavy])
    assert "what may help: a smaller --kl-start" in capsys.readouterr().out
    main(["compact", folder])
    assert "warning: a layer lost all its units" in capsys.readouterr().out
