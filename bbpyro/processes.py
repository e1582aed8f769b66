"""This process among those that train one network together, as torchrun starts them; alone it is the first of one."""

import contextlib
import importlib
import os
import signal
import sys
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    from torch import Tensor

T = TypeVar("T")

_VARIABLES = ("RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")  # that torchrun, or another launcher, sets
_job: Any = None  # a store: what the processes tell each other beside training; it outlives a restart
_ends = False  # whether this one is on its way out, and may be told so again


class LostProcessError(RuntimeError):
    """Another of the processes has ended, or cannot be reached, so that this one cannot go on."""


class Stopped(KeyboardInterrupt):
    """This process was told to end (SIGTERM), as torchrun does with those that are left when one has ended."""


def size() -> int:
    """How many processes train together."""
    return int(_dist().get_world_size()) if _have_joined() else 1


def rank() -> int:
    """Which of them this is, counted from 0."""
    return int(_dist().get_rank()) if _have_joined() else 0


def is_first() -> bool:
    """Whether this is the one that writes and prints."""
    return rank() == 0


def on_this_machine() -> int:
    """How many of them share this machine's cores, where the launcher says so; else all of them."""
    return int(os.environ.get("LOCAL_WORLD_SIZE", size())) if _have_joined() else 1


def _have_joined() -> bool:
    is_there = "torch.distributed" in sys.modules  # without which none can have joined
    return is_there and _dist().is_available() and _dist().is_initialized()


def _dist() -> Any:
    """torch.distributed, whose types leave its stores out; to print a help text nobody waits for torch."""
    return importlib.import_module("torch.distributed")


def share(batch: "Tensor") -> tuple["Tensor", float]:
    """This process's part of a minibatch's rows `[B]`, and how much a datum of it weighs beside the mean part's.

    Losses are averaged over the processes, each of which scales its part up to the whole data; so a datum of a part
    larger than the mean, B / :func:`size`, has to weigh as much more. Of a minibatch that has none for this process,
    it takes a datum that weighs nothing.
    """
    part = batch[rank() :: size()]
    return (part, len(part) * size() / len(batch)) if len(part) else (batch[:1], 0.0)


def broadcast(value: T) -> T:
    """What the first process has, for all."""
    if size() == 1:
        return value
    held = [value]
    with noticing_losses():
        _dist().broadcast_object_list(held, 0)
    return held[0]


def total(*numbers: float) -> list[float]:
    """Sums over the processes, the same on each to the last bit."""
    return [sum(column) for column in zip(*gather(numbers), strict=True)]


def gather(value: T) -> list[T]:
    """What each process has, the first one's first."""
    if size() == 1:
        return [value]
    parts: list[Any] = [None] * size()
    with noticing_losses():
        _dist().all_gather_object(parts, value)
    return parts


@contextlib.contextmanager
def noticing_losses() -> Iterator[None]:
    """Raise a LostProcessError where torch says, in one of many ways, that another process does not answer.

    From then on this one is on its way out, and torchrun's SIGTERM, which follows, does not stop it in what it says.
    """
    global _ends
    try:
        yield
    except RuntimeError as error:
        text = str(error)
        is_of_theirs = any(name in text.lower() for name in ("gloo", "nccl"))
        if size() == 1 or not (is_of_theirs or isinstance(error, _dist().DistError)):
            raise
        _ends = True
        reason = (text.splitlines() or [""])[0].split(". ")[0].removeprefix("[").split("] ", 1)[-1]
        raise LostProcessError(f"another of the {size()} processes has ended, or does not answer ({reason})") from error


@contextlib.contextmanager
def joined() -> Iterator[None]:
    """Join the processes that were started with this one; where no launcher started it, do nothing.

    The launcher says in the environment who they are, as torchrun does. They talk by gloo, and about tensors on GPUs by
    nccl where each has a GPU of its own.

    Raises:
        LostProcessError: they do not find each other.
    """
    global _job, _ends
    if not all(name in os.environ for name in _VARIABLES):
        yield
        return
    _job, _ends = _join(), False
    before = signal.signal(signal.SIGTERM, _stop)
    try:
        yield
        _dist().destroy_process_group()  # not after a failure: it would wait for processes that are gone
    finally:
        signal.signal(signal.SIGTERM, before)
        _job = None


def _join() -> Any:
    own, number, address, port = (os.environ[name] for name in _VARIABLES)
    is_launchers = os.environ.get("TORCHELASTIC_USE_AGENT_STORE") == "True"
    try:
        store = _dist().TCPStore(address, int(port), is_master=own == "0" and not is_launchers)
        # A prefix for each start: by torch's own way one that is started again may read the addresses of those before.
        mine = _dist().PrefixStore(f"bbpyro/{_restarts()}", store)
        _dist().init_process_group(_backend(), store=mine, rank=int(own), world_size=int(number))
    except RuntimeError as error:
        reason = (str(error).splitlines() or [""])[0]
        raise LostProcessError(f"the {number} processes do not meet at {address}:{port} ({reason})") from error
    return _dist().PrefixStore("bbpyro/job", store)


def _backend() -> str:
    import torch

    if not torch.cuda.is_available():
        return "gloo"
    torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", 0)) % torch.cuda.device_count())
    has_own = int(os.environ.get("LOCAL_WORLD_SIZE", 1)) <= torch.cuda.device_count() and _dist().is_nccl_available()
    return "cpu:gloo,cuda:nccl" if has_own else "gloo"


def _stop(number: int, frame: Any) -> None:
    global _ends
    if not _ends:
        _ends = True
        raise Stopped("stopped, as when another process has ended")


def _restarts() -> int:
    return int(os.environ.get("TORCHELASTIC_RESTART_COUNT", 0))


def are_started_again() -> bool:
    """Whether torchrun will start the processes again when one fails (--max-restarts)."""
    return _restarts() < int(os.environ.get("TORCHELASTIC_MAX_RESTARTS", 0))


def remember(name: str, text: str) -> None:
    """Keep a text for those that are started in these processes' place, should they fail."""
    if _job is not None:
        _job.set(name, text)


def recall(name: str) -> str | None:
    """What processes that were here before these remembered, or None."""
    return _job.get(name).decode() if _job is not None and _job.check([name]) else None


def is_first_to_tell() -> bool:
    """Whether no other process has yet said why they all end; from now on one has."""
    try:
        return _job is None or _job.add(f"told/{_restarts()}", 1) == 1
    except RuntimeError:  # the launcher has ended too
        return True
