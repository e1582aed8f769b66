"""One process at a time trains a run, replaces it, or writes what was made of it; of several, the first for all."""

import contextlib
import fcntl
import json
import os
import socket
import threading
from collections.abc import Iterator
from pathlib import Path

from bbpyro import processes

_LOCK = ".lock"
_holders: dict[Path, int] = {}  # the threads of this process, by the folder they hold


@contextlib.contextmanager
def hold(folder: Path) -> Iterator[None]:
    """Keep a run's folder from every other process; a thread that holds it may do so again.

    Of processes that train together the first holds it.

    The system lets go of it when the process ends, however it ends.

    Raises:
        ValueError: it is held already; the message says by which process.
    """
    place, thread = folder.resolve(), threading.get_ident()
    if _holders.get(place) == thread or not processes.is_first():
        yield
        return
    descriptor = _take(folder)
    try:
        os.ftruncate(descriptor, 0)
        os.write(descriptor, json.dumps({"process": os.getpid(), "host": socket.gethostname()}).encode())
        _holders[place] = thread
        yield
    finally:
        _holders.pop(place, None)
        if _is_file(descriptor, folder / _LOCK):  # not where the folder was replaced
            (folder / _LOCK).unlink()
        os.close(descriptor)


def _take(folder: Path) -> int:
    """Open the lock's file and lock it."""
    while True:
        descriptor = os.open(folder / _LOCK, os.O_RDWR | os.O_CREAT, 0o644)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            holder = _describe_holder(os.read(descriptor, 1000))
            os.close(descriptor)
            raise ValueError(f"run {folder} is in use by {holder}; wait until that has ended, or stop it") from None
        except BaseException:
            os.close(descriptor)
            raise
        if _is_file(descriptor, folder / _LOCK):
            return descriptor
        os.close(descriptor)  # whoever held it removed the file when it let go


def _is_file(descriptor: int, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(descriptor), path.stat())
    except FileNotFoundError:
        return False


def _describe_holder(content: bytes) -> str:
    try:
        holder = json.loads(content)
        where = "" if holder["host"] == socket.gethostname() else f" on {holder['host']}"
        return f"process {holder['process']}{where}"
    except (ValueError, KeyError, TypeError):  # it has only just begun
        return "another process"
