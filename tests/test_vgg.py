"""VGG-16 on CIFAR-10 in a size for tests: real images, an eighth of the channels, a few hundred steps."""

import contextlib
import dataclasses
import functools
import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import bbpyro
from bbpyro import data, networks, runs
from bbpyro.cli import main
from bbpyro.runs import networks as made

ARGUMENTS = ["--network", "vgg16", "--augmentation", "crop-flip", "--batch-size", "50"]
EPOCHS = ["--pretrain-epochs", "3", "--epochs", "6", "--num-samples", "3"]
GATES = [
    "--prior",
    "Beta(0.01, 1)",
    "--gate-learning-rate",
    "0.3",
    "--initial-keep-probability",
    "0.97",
    "--threshold",
    "0.5",
]


@pytest.fixture(scope="module", autouse=True)
def an_eighth() -> Any:
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(runs.NETWORKS, "vgg16", lambda shape, num_classes: networks.vgg16(num_classes, width=1 / 8))
        yield


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    cifar10 = data.load("cifar10")
    path = tmp_path_factory.mktemp("cifar") / "photographs.npz"
    train, test = slice(2000), slice(300)
    np.savez(path, x=cifar10.x[train], y=cifar10.y[train], x_test=cifar10.x_test[test], y_test=cifar10.y_test[test])
    return path


def run(*arguments: str) -> str:
    with contextlib.redirect_stdout(io.StringIO()) as out:
        main(list(arguments))
    return out.getvalue()


@pytest.fixture(scope="module")
def trained(images: Path) -> Path:
    folder = images.parent / "run"
    run("train", "--dataset", str(images), *ARGUMENTS, *EPOCHS, *GATES, "--run", str(folder))
    return folder


def records(folder: Path) -> list[dict[str, Any]]:
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [{key: value for key, value in line.items() if key != "seconds"} for line in lines]


def test_it_learns_and_drops_channels_in_a_few_hundred_steps(trained: Path) -> None:
    assert len(records(trained)) * 2000 / 50 == 360
    _, _, before, *_, after = records(trained)
    assert (before["phase"], after["phase"]) == ("pretraining", "SVI")
    assert after["held_out_nll"] < before["held_out_nll"] < 2  # log 10 = 2.3 is what knowing nothing scores
    kept, total = (sum(json.loads((trained / "summary.json").read_text())[key].values()) for key in ("kept", "total"))
    assert kept < 0.97 * total


def test_killed_and_resumed_it_ends_with_the_same_numbers(images: Path, trained: Path, tmp_path: Path) -> None:
    few, whole, folder = tmp_path / "few.npz", tmp_path / "whole", tmp_path / "run"
    with np.load(images) as arrays:
        np.savez(few, **{name: array[:200] for name, array in arrays.items()})
    config = dataclasses.replace(runs.load(trained).config, dataset=str(few), pretrain_epochs=2, epochs=3)
    runs.create(whole, config)
    runs.train(whole)
    runs.create(folder, config)
    for stop_after in (1, 3, 5):

        def stop(record: dict[str, Any], num_epochs: int, scored_on: str, stop_after: int = stop_after) -> None:
            if len(records(folder)) == stop_after:
                raise KeyboardInterrupt

        with contextlib.suppress(KeyboardInterrupt):
            runs.train(folder, on_epoch=stop)
        assert len(records(folder)) == stop_after
    assert records(folder) == records(whole)


def test_it_compacts_to_a_smaller_network_that_predicts_the_same(trained: Path) -> None:
    printed = run("compact", str(trained))
    assert "ONNX Runtime" in printed
    loaded = runs.load(trained)
    small = bbpyro.load_compact(trained)
    x = loaded.dataset.x_test
    with torch.no_grad():
        wanted = loaded.bnn(x)
        assert (small(x) - wanted).abs().max() <= 1e-5 * wanted.abs().max()
    sizes = [sum(p.numel() for p in net.parameters()) for net in (small, networks.vgg16(10, width=1 / 8))]
    assert sizes[0] < sizes[1]


@pytest.mark.parametrize(
    ("shape", "arguments", "message"),
    [
        ((8, 8), ["--augmentation", "crop-flip"], "augmentation crop-flip is for images [C, H, W]"),
        ((28, 28, 1), ["--augmentation", "crop-flip"], "augmentation crop-flip is for images [C, H, W]"),
        ((8, 8), ["--network", "vgg16"], "vgg16 takes images of shape [3, 32, 32], but the data have [8, 8]"),
        (
            (16, 49),
            ["--network", "lenet5-caffe"],
            "lenet5-caffe takes images of shape [28, 28], but the data have [16, 49]",
        ),
        ((32, 32), ["--network", "lenet5"], "lenet5 takes images of shape [28, 28], but the data have [32, 32]"),
        ((8,), ["--kl-start", "conv*", "3", "--kl-warmup-epochs", "5"], "'conv*' is none of the gates fc1"),
        ((8,), ["--kl-start", "*", "3"], "kl_start is 3.0 but kl_warmup_epochs 0"),
        ((8,), ["--initial-keep-probability", "1e-9"], "initial_keep_probability is 1e-09"),
        ((3, 32, 32), ["--network", "vgg16", "--batch-size", "3"], "leaves a minibatch of one"),
    ],
)
def test_what_does_not_fit_the_data_is_refused_before_there_is_a_folder(
    shape: tuple[int, ...],
    arguments: list[str],
    message: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(networks, "vgg16", functools.partial(networks.vgg16, width=1 / 64))
    monkeypatch.setitem(runs.NETWORKS, "vgg16", made._vgg16)
    np.savez(tmp_path / "data.npz", x=np.zeros((20, *shape)), y=np.arange(20) % 2)
    with pytest.raises(SystemExit) as stop:
        main(["train", "--dataset", str(tmp_path / "data.npz"), "--run", str(tmp_path / "run"), *arguments])
    assert stop.value.code == 2 and message in capsys.readouterr().err and not (tmp_path / "run").exists()


def test_a_gpu_that_is_not_there_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(SystemExit) as stop:
        main(["train", "--dataset", "bars", "--device", "cuda", "--run", str(tmp_path / "run")])
    assert stop.value.code == 2 and "torch finds no GPU here" in capsys.readouterr().err
