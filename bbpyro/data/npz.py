"""The user's own arrays."""

import contextlib
import difflib
import math
import zipfile
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch

from bbpyro import memory
from bbpyro.data.dataset import Dataset

READ = ("x", "y", "x_test", "y_test", "feature_names")


def load_npz(path: Path) -> Dataset:
    """The arrays x and y of a .npz file, and x_test and y_test or a random fifth of the data in their place.

    An array feature_names of texts, a table's columns, names the numbers of a datum.

    Raises:
        ValueError: the file cannot be read, or its arrays are not what is wanted.
    """
    headers = list[tuple[str, tuple[int, ...], np.dtype[Any]]]()
    with contextlib.suppress(Exception):  # what is wrong with it loading it tells
        headers.extend(_headers(path))  # up to a member that is damaged
    _check_size(path, headers)
    _check_members(path, {name.removesuffix(".npy"): dtype for name, _, dtype in headers})
    try:
        with path.open("rb") as stream, np.load(stream, allow_pickle=False) as file:
            arrays = {name: file[name] for name in file.files if name != "feature_names"}
            names = _read_names(path, file) if "feature_names" in file.files else None
        if not all(isinstance(array, np.ndarray) for array in arrays.values()):
            raise ValueError("a member is no array")
    except _NamesError:
        raise
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
            f"class {missing[0] if missing else 1} is not; numpy.unique(y, return_inverse=True)[1] are such labels"
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
        test, train = np.split(order, [_num_held_out(len(x))])
        x, y, x_test, y_test = x[train], y[train], x[test], y[test]
        note = f"the file has no x_test: {len(test)} of its data, drawn at random, are held out as the test set"
    tensors = [torch.from_numpy(np.ascontiguousarray(array)) for array in (x, y, x_test, y_test)]
    return Dataset(
        str(path), tensors[0], tensors[1], tensors[2], tensors[3], num_classes, note, _check_names(path, names, x)
    )


class _NamesError(ValueError):
    """The names of the features are no texts; the file may be good otherwise."""


def _read_names(path: Path, file: Any) -> np.ndarray:
    try:
        names: np.ndarray = file["feature_names"]
    except ValueError:  # an array of objects, as a DataFrame's columns are
        names = np.empty(0, object)
    if names.dtype.kind != "U" or names.ndim != 1:
        shape = "" if names.dtype == object else f" of shape {names.shape}"
        raise _NamesError(
            f"dataset: {path}: feature_names is {names.dtype}{shape}, wanted texts; write "
            "feature_names=numpy.array(list(map(str, names)))"
        )
    return names


def _check_names(path: Path, names: np.ndarray | None, x: np.ndarray) -> tuple[str, ...]:
    if names is None:
        return ()
    if len(names) not in {x[0].size, x.shape[-1]}:
        raise ValueError(
            f"dataset: {path}: feature_names has {len(names)} names, wanted one for each of the {x.shape[-1]} features "
            f"of x, whose data have shape {x.shape[1:]}"
        )
    return tuple(map(str, names))


def num_training_data(path: Path) -> int | None:
    """How many data of a .npz file are for training, by its arrays' shapes alone; None where it cannot be read."""
    lengths: dict[str, int] = {}
    with contextlib.suppress(Exception):  # what is wrong with it loading it tells
        lengths = {name.removesuffix(".npy"): shape[0] for name, shape, _ in _headers(path) if shape}
    if "x" not in lengths:
        return None
    return lengths["x"] - (0 if "x_test" in lengths else _num_held_out(lengths["x"]))


def _check_members(path: Path, dtypes: Mapping[str, np.dtype[Any]]) -> None:
    """Raise a ValueError where an array is of objects, or has nearly the name of one that is read."""
    for name, dtype in dtypes.items():
        near = difflib.get_close_matches(name, READ, 1, 0.8)
        if name not in READ and near and near[0] not in dtypes:
            raise ValueError(f"dataset: {path} has an array {name!r}; wanted {near[0]!r}, if it is meant to be read")
        if dtype.hasobject and name in READ and name != "feature_names":
            classes = "numpy.unique(y, return_inverse=True)[1] are its classes as numbers"
            remedy = classes if name[0] == "y" else f"write {name}.astype(numpy.float32)"
            raise ValueError(f"dataset: {path}: {name} is an array of objects, as pandas makes of text; {remedy}")


def _num_held_out(num_data: int) -> int:
    """How many data are the test set of a file that has none."""
    return max(1, num_data // 5)


def _check_size(path: Path, headers: Iterable[tuple[str, tuple[int, ...], np.dtype[Any]]]) -> None:
    """Raise a ValueError where the arrays, and float32 copies of them, would take more memory than is free."""
    copies = 2 * np.dtype(np.float32).itemsize
    wanted = sum(math.prod(shape) * (dtype.itemsize + copies) for _, shape, dtype in headers)
    memory.check(wanted, f"dataset: {path}", "keep fewer data, or fewer numbers of each")


def _headers(path: Path) -> Iterator[tuple[str, tuple[int, ...], np.dtype[Any]]]:
    """Name, shape and dtype of each member, without its numbers."""
    with zipfile.ZipFile(path) as file:
        for member in file.infolist():
            with file.open(member) as stream:
                version = np.lib.format.read_magic(stream)
                read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
                shape, _, dtype = read(stream)
                yield member.filename, shape, dtype


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
        raise ValueError(
            f"dataset: {path}: {y_name} must hold whole numbers 0..C-1, the classes; "
            "numpy.unique(y, return_inverse=True)[1] are such numbers; "
            "a regression is trained from Python, by bbpyro.fit"
        )
    return x, y.astype(np.int64)
