"""Files of a run that survive anything: written whole or not at all, and never a pickle."""

import contextlib
import errno
import hashlib
import json
import os
import re
import tempfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from torch import Tensor

FORMAT = 1


class CheckpointError(ValueError):
    """A checkpoint or run folder is missing, truncated, altered or of a newer format."""


def replace_atomic(path: Path, write: Callable[[Path], object]) -> None:
    """Let `write` make a file: a reader, or a machine that loses power, finds the old one or the new one whole.

    Raises:
        OSError: it cannot be written, for want of room or of a permission; the error's filename is `path`.
    """
    with _naming(path):
        descriptor, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}-{os.getpid()}-")
        os.close(descriptor)
        temporary = Path(name)
        try:
            write(temporary)
            _sync(temporary)
            os.chmod(temporary, 0o644)
            os.replace(temporary, path)
        except BaseException:
            temporary.unlink(missing_ok=True)
            raise
        _sync(path.parent)


def append(path: Path, content: bytes) -> None:
    """Append bytes to a file, which is made if need be: all of them or, where they cannot be written, none.

    Raises:
        OSError: as :func:`replace_atomic`.
    """
    with _naming(path), path.open("ab", buffering=0) as file:
        before = file.tell()
        try:
            if file.write(content) != len(content):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            os.fsync(file.fileno())
        except BaseException:
            file.truncate(before)
            raise


@contextlib.contextmanager
def _naming(path: Path) -> Iterator[None]:
    """Name the file in what goes wrong: the system names none, or a temporary one."""
    try:
        yield
    except OSError as error:
        if error.errno is None:
            raise
        raise OSError(error.errno, os.strerror(error.errno), str(path)) from error


def clear_unfinished(folder: Path, *names: str) -> None:
    """Remove what a process that was killed left of the files of these names; what another is writing stays."""
    for name in names:
        for unfinished in folder.glob(f".{name}-*"):
            writer = re.search(r"-(\d+)-\w+$", unfinished.name)
            if writer is None or not _is_alive(int(writer[1])):
                unfinished.unlink(missing_ok=True)


def _is_alive(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except (PermissionError, OverflowError):  # it is another user's
        pass
    return process != os.getpid()  # which is not writing while it clears


def write_atomic(path: Path, content: bytes) -> None:
    """Write bytes to a file, whole or not at all."""
    replace_atomic(path, lambda temporary: temporary.write_bytes(content))


def _sync(path: Path) -> None:
    """Wait until a file or a folder is on the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write_json(path: Path, content: Any) -> None:
    """Write JSON, atomically."""
    write_atomic(path, (json.dumps(content, indent=2) + "\n").encode())


def save(path: Path, tensors: Mapping[str, Tensor], meta: Mapping[str, Any]) -> None:
    """Write tensors and JSON-able `meta` to one safetensors file, atomically and with a digest of both.

    Args:
        path: the file.
        tensors: any names, any shapes.
        meta: what goes with them, e.g. the epoch.
    """
    write_atomic(path, serialize(tensors, meta))


def serialize(tensors: Mapping[str, Tensor], meta: Mapping[str, Any]) -> bytes:
    """What :func:`save` writes."""
    contiguous = {name: tensor.detach().cpu().contiguous().clone() for name, tensor in tensors.items()}
    text = json.dumps(meta)
    metadata = {"format": str(FORMAT), "meta": text, "sha256": _digest(contiguous, text)}
    return safetensors.torch.save(contiguous, metadata)


def load(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """The tensors and `meta` that :func:`save` wrote.

    Raises:
        CheckpointError: the file is missing, truncated, altered, not a checkpoint, or of a newer format.
    """
    try:
        content = path.read_bytes()  # once: a writer beside us may replace the file at any moment
    except OSError as error:
        raise CheckpointError(f"there is no checkpoint {path} that can be read ({error.strerror})") from None
    try:
        metadata = _metadata(content)
        form, text, digest = int(metadata["format"]), metadata["meta"], metadata["sha256"]
        if form < 1:
            raise ValueError
    except Exception:  # whatever a damaged header makes a parser raise
        raise CheckpointError(f"{path} is truncated, altered or no bbpyro checkpoint; restore it from a copy") from None
    if form > FORMAT:
        raise CheckpointError(f"{path} was written by a newer bbpyro (format {form}); upgrade bbpyro")
    try:
        tensors = safetensors.torch.load(content)
        if digest != _digest(tensors, text):
            raise ValueError("the digest does not fit")
        meta: dict[str, Any] = json.loads(text)
    except Exception:
        raise CheckpointError(f"{path} was truncated or altered after it was written; restore it from a copy") from None
    return tensors, meta


def _metadata(content: bytes) -> dict[str, str]:
    """The header of a safetensors file: eight bytes of length, then JSON."""
    length = int.from_bytes(content[:8], "little")
    metadata: dict[str, str] = json.loads(content[8 : 8 + length])["__metadata__"]
    return metadata


def _digest(tensors: Mapping[str, Tensor], text: str) -> str:
    digest = hashlib.sha256(text.encode())
    for name in sorted(tensors):
        digest.update(f"{name} {tensors[name].dtype} {tuple(tensors[name].shape)}".encode())
        digest.update(tensors[name].reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def read_bytes(path: Path) -> bytes:
    """The content of a file; a CheckpointError where it cannot be read."""
    try:
        return path.read_bytes()
    except OSError as error:
        raise CheckpointError(f"{path} cannot be read ({error.strerror})") from None


def load_weights(path: Path) -> dict[str, Tensor]:
    """The tensors of any safetensors file, such as a pretrained network's state_dict.

    Raises:
        CheckpointError: the file is missing or is no safetensors file.
    """
    content = read_bytes(path)
    try:
        return safetensors.torch.load(content)
    except Exception:  # whatever a damaged header makes a parser raise
        raise CheckpointError(f"{path} is truncated, altered or no safetensors file") from None


def check_state_dict(source: str, found: Mapping[str, Tensor], wanted: Mapping[str, Tensor]) -> None:
    """Raise a CheckpointError, naming the first difference, unless `found` has the names and shapes of `wanted`."""
    for name in [*wanted, *found]:
        if name not in found:
            raise CheckpointError(f"{source} has no tensor {name!r}; it is of another network")
        if name not in wanted:
            raise CheckpointError(f"{source} has a tensor {name!r} that this network has not; it is of another network")
        if found[name].shape != wanted[name].shape:
            raise CheckpointError(
                f"{source}: {name!r} has shape {tuple(found[name].shape)}, this network wants "
                f"{tuple(wanted[name].shape)}; it is of another network"
            )
