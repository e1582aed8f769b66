"""What the benchmarks share: who computes, interleaved rounds, memory, and processes that take turns."""

import contextlib
import ctypes
import gc
import multiprocessing
import platform
import re
import signal
import statistics
import time
import traceback
from collections.abc import Callable, Mapping
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, Self, TypeVar

import torch
from rich import box
from rich.console import Console
from rich.progress import track
from rich.table import Table
from torch import nn

import bbpyro
from bbpyro.training import pretrain

MIB = 2**20
Case = TypeVar("Case")
Tell = Callable[[Any], None]


def processor() -> str:
    """Its name, where the system tells it."""
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text().splitlines() if cpuinfo.is_file() else []
    names = [line.split(":")[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor()


def memory(which: str) -> float:
    """Bytes that are resident (VmRSS) or were at most (VmHWM); nan where the kernel does not tell."""
    status = Path("/proc/self/status")
    found = re.search(rf"{which}:\s+(\d+) kB", status.read_text() if status.is_file() else "")
    return 1024 * int(found[1]) if found else float("nan")


def reset_peak() -> float:
    """Let VmHWM begin anew at what is resident now, and return that."""
    try:
        Path("/proc/self/clear_refs").write_text("5")
    except OSError:
        return float("nan")
    return memory("VmRSS")


def reset_peak_trimmed() -> float:
    """The same after memory that is free went back to the system, or what is taken of it would not be seen."""
    gc.collect()
    with contextlib.suppress(AttributeError):  # of another C library than GNU's
        ctypes.CDLL(None).malloc_trim(0)
    return reset_peak()


def begin_at_rest() -> float:
    """:func:`reset_peak_trimmed` after a small training, by which all is loaded that any training wants."""
    x, y = torch.rand(4, 2), torch.zeros(4, dtype=torch.int64)
    net = nn.Sequential(nn.Linear(2, 2))
    pretrain(net, x, y, num_epochs=1, batch_size=2, progress=False)
    bnn = bbpyro.BetaBernoulliNetwork(bbpyro.insert_dropout(net), num_data=len(x))
    bbpyro.fit(bnn, x, y, num_epochs=1, batch_size=2, progress=False)
    return reset_peak_trimmed()


def interleaved(cases: Mapping[Case, Callable[[], object]], rounds: int) -> dict[Case, float]:
    """Median seconds of a call: every case in turn in each round, the first of which does not count."""
    seconds: dict[Case, list[float]] = {case: [] for case in cases}
    for _ in track(range(rounds), "timing", transient=True):
        for case, function in cases.items():
            started = time.perf_counter()
            function()
            seconds[case].append(time.perf_counter() - started)
    return {case: statistics.median(times[1:] or times) for case, times in seconds.items()}


def wide_console() -> Console:
    """One that breaks no row of a table."""
    return Console(width=200, soft_wrap=True)


def markdown(*titles: str) -> Table:
    """A table as Markdown has it, its numbers at the right."""
    table = Table(box=box.MARKDOWN)
    for place, title in enumerate(titles):
        table.add_column(title, justify="right" if place else "left", no_wrap=True)
    return table


def with_nn_dropout(plain: nn.Module, num_inputs: int) -> nn.Module:
    """A copy with nn.Dropout wherever insert_dropout puts a gate: a fifth of the inputs, half of the hidden units."""
    net = bbpyro.insert_dropout(plain)
    gates = [(n, m) for n, m in net.named_modules() if isinstance(m, bbpyro.BetaBernoulliDropout)]
    for name, gate in gates:
        rate = 0.2 if gate.num_features == num_inputs else 0.5
        net.set_submodule(name, nn.Dropout(rate) if gate.dim == -1 else nn.Dropout2d(rate))
    return net


class TakingTurns:
    """A process of its own, with a peak of memory of its own, that computes only when it is its turn.

    As a context manager it ends with the block.

    Args:
        work: called there with `tell` and the other arguments; `tell(value)` ends a turn, and returns with the next.
        threads: torch's.
    """

    def __init__(self, work: Callable[..., None], *args: Any, threads: int = 1) -> None:
        # Each begins as a copy of one process that did nothing but import.
        context = multiprocessing.get_context("forkserver")
        context.set_forkserver_preload(["bbpyro", "torch._dynamo"])
        self._connection, theirs = context.Pipe()
        self._process = context.Process(target=_work, args=(theirs, threads, work, args), daemon=True)
        self._process.start()
        theirs.close()

    def turn(self) -> Any:
        """What the process tells at the end of its turn; None where it has come to its end.

        Raises:
            RuntimeError: it failed, or was killed.
        """
        self.begin()
        return self.end()

    def begin(self) -> None:
        """Let its turn begin, and do not wait for the end, which :meth:`end` does: for several at once."""
        with contextlib.suppress(BrokenPipeError):
            self._connection.send(None)

    def end(self) -> Any:
        """As :meth:`turn`."""
        try:
            value, error = self._connection.recv()
        except (EOFError, ConnectionResetError):
            self._process.join()
            raise RuntimeError(f"the process ended with status {self._process.exitcode}") from None
        if error:
            raise RuntimeError(error)
        return value

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        """End the process."""
        self._process.terminate()
        self._process.join()


def _work(connection: Connection, threads: int, work: Callable[..., None], args: tuple[Any, ...]) -> None:
    torch.set_num_threads(threads)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # control-C is for the one who gives the turns

    def tell(value: Any) -> None:
        connection.send((value, None))
        connection.recv()

    connection.recv()
    try:
        work(tell, *args)
    except EOFError:  # nobody is waiting any more
        return
    except Exception:
        connection.send((None, traceback.format_exc()))
        return
    connection.send((None, None))
