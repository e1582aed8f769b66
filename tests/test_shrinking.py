import contextlib
import io
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from bbpyro import compaction, runs
from bbpyro.cli import main
from bbpyro.runs import TrainConfig


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


def test_the_small_network_is_smaller_and_predicts_the_same(run: Path, printed: str) -> None:
    loaded = runs.load(run)
    kept = [int(gate.kept().sum()) for gate in loaded.bnn.gates.values()]
    assert 0 < kept[1] < 500
    assert f"units kept on the input of each layer: {kept[0]} of 64, {kept[1]} of 500, {kept[2]} of 300" in printed
    parameters = (kept[0] + 1) * kept[1] + (kept[1] + 1) * kept[2] + (kept[2] + 1) * 4
    assert re.search(rf"parameters +│ +{65 * 500 + 501 * 300 + 301 * 4:,} │ +{parameters:,} │", printed)
    masked, compact = (re.search(rf"│ {name} +│(.*)│\n", printed) for name in ("mean mask", "compact"))
    assert masked and compact and masked[1] == compact[1]


def test_the_file_needs_torch_alone_and_takes_any_batch(run: Path, printed: str, tmp_path: Path) -> None:
    assert (run / runs.COMPACT).stat().st_size < 5_000_000
    loaded = runs.load(run)
    torch.save(loaded.dataset.x_test, tmp_path / "x.pt")
    code = f"""
import sys, torch
sys.modules["bbpyro"] = sys.modules["pyro"] = sys.modules["torch_pruning"] = None
x = torch.load({str(tmp_path / "x.pt")!r})
net = torch.export.load({str(run / runs.COMPACT)!r}).module()
torch.save([net(x), net(x[:1])], {str(tmp_path / "y.pt")!r})
"""
    subprocess.run([sys.executable, "-c", code], check=True)
    every, one = torch.load(tmp_path / "y.pt")
    with torch.no_grad():
        wanted = loaded.bnn(loaded.dataset.x_test)
    assert (every - wanted).abs().max() <= 1e-5 * wanted.abs().max()
    assert one.shape == (1, 4)


def test_a_small_network_that_predicts_otherwise_is_not_written(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def broken(bnn, example):
        small = compaction.compact(bnn, example)
        with torch.no_grad():
            small.fc3.bias += 1e-3
        return small

    (run / runs.COMPACT).unlink(missing_ok=True)
    monkeypatch.setattr("bbpyro.runs.shrinking.compact", broken)
    with pytest.raises(SystemExit) as stop:
        main(["compact", str(run)])
    err = capsys.readouterr().err
    assert stop.value.code == 2 and "off on the held-out data" in err and err.count("\n") == 1
    assert not (run / runs.COMPACT).exists()


def test_a_run_of_a_convolutional_network_is_trained_inspected_and_compacted(tmp_path: Path) -> None:
    generator = torch.Generator().manual_seed(0)
    x, y = torch.rand(130, 28, 28, generator=generator), torch.arange(130) % 3
    np.savez(tmp_path / "images.npz", x=x.numpy(), y=y.numpy())
    folder = str(tmp_path / "run")
    short = ["--epochs", "1", "--pretrain-epochs", "1", "--num-samples", "2"]
    with contextlib.redirect_stdout(io.StringIO()) as out:
        main(["train", "--dataset", str(tmp_path / "images.npz"), "--network", "lenet5-caffe", "--run", folder, *short])
        main(["posterior", folder, "--num-samples", "20", "--num-predictive-samples", "10"])
        main(["compact", folder])
    assert "units kept on the input of each layer" in out.getvalue() and "conv1" in out.getvalue()
    assert not (tmp_path / "run" / "figures" / "input_map.png").exists()
    assert (tmp_path / "run" / "figures" / "forest_conv2.png").exists()
    assert (tmp_path / "run" / runs.COMPACT).exists()
