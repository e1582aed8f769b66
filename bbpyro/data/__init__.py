"""Data sets by name."""

from pathlib import Path

from bbpyro.data import cifar
from bbpyro.data.augmentation import crop_and_flip
from bbpyro.data.dataset import Dataset
from bbpyro.data.download import (
    DataUnavailableError,
    default_data_dir,
    fetch,
    import_torchvision_datasets,
    is_here,
    read_split,
)
from bbpyro.data.generated import LatentData, bars, bars_relevant, overlapping_bars, shapes
from bbpyro.data.npz import load_npz, num_training_data

DESCRIPTIONS = {
    "mnist": "handwritten digits, 60,000 + 10,000 images of 28x28, 10 classes",
    "fashion-mnist": "articles of clothing, 60,000 + 10,000 images of 28x28, 10 classes",
    "cifar10": "photographs, 50,000 + 10,000 images of 3x32x32, 10 classes",
    "bars": "generated: a horizontal and a vertical bar on 8x8 noisy pixels, 4 classes; 16 of the 64 pixels matter",
}


def load(name: str, data_dir: Path | None = None) -> Dataset:
    """A data set by name, or from the path of a .npz file; fetched first if need be.

    Args:
        name: one of :data:`DESCRIPTIONS`, or a path ending in .npz with arrays x `[N, ...]` and y `[N]`, and
            optionally x_test and y_test.
        data_dir: where downloaded files are kept; by default :func:`default_data_dir`.

    Raises:
        ValueError: the name is unknown, or the file's arrays are not what is wanted.
        DataUnavailableError: the data set is not here and cannot be fetched.
    """
    if name.endswith(".npz"):
        return load_npz(Path(name))
    if name == "bars":
        return bars()
    if name not in DESCRIPTIONS:
        raise ValueError(f"dataset is {name!r}, wanted one of {', '.join(DESCRIPTIONS)}, or the path of a .npz file")
    raw = fetch(name, data_dir)
    if name == "cifar10":
        return Dataset(name, *cifar.read(raw), num_classes=10)
    x, y = read_split(raw, "train")
    x_test, y_test = read_split(raw, "t10k")
    return Dataset(name, x, y, x_test, y_test, num_classes=10)


__all__ = [
    "DESCRIPTIONS",
    "DataUnavailableError",
    "Dataset",
    "LatentData",
    "bars",
    "bars_relevant",
    "crop_and_flip",
    "default_data_dir",
    "fetch",
    "import_torchvision_datasets",
    "is_here",
    "load",
    "num_training_data",
    "overlapping_bars",
    "shapes",
]
