"""Standard output: it spells out what a terminal cannot show, and a command goes on where nobody reads it any more."""

import codecs
import contextlib
import errno
import os
import sys
import warnings
from collections.abc import Iterator
from typing import Any, NoReturn, TextIO

from rich.console import Console

from bbpyro import processes

_SPELLED = {"π": "pi", "τ": "tau", "±": "+-", "α": "alpha"}
_PIPED_WIDTH = 80


def _spell(error: UnicodeError) -> tuple[str, int]:
    if not isinstance(error, UnicodeEncodeError):
        raise error
    return "".join(_SPELLED.get(c, "?") for c in error.object[error.start : error.end]), error.end


codecs.register_error("bbpyro", _spell)


class _Output:
    """A stream whose reader may go: what nobody can read any more is dropped, and the first failure kept."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self.failure: OSError | None = None

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    def write(self, text: str) -> int:
        """Write, if anybody reads."""
        with self._dropping():
            self._stream.write(text)
        return len(text)

    def flush(self) -> None:
        """Flush, if anybody reads."""
        with self._dropping():
            self._stream.flush()

    @contextlib.contextmanager
    def _dropping(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            self.failure = self.failure or error
            # What is left in the buffer would fail again, at the latest when Python ends.
            nowhere = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nowhere, self._stream.fileno())
            os.close(nowhere)


@contextlib.contextmanager
def forgiving_streams() -> Iterator[None]:
    """Have standard output and error take any text, and no failure of theirs stop what is being done.

    Raises:
        OSError: at the end, where standard output could not be written; not where its reader went, or it was closed.
    """
    before = sys.stdout, sys.stderr
    for stream in before:
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="bbpyro")
    with _nowhere() as nowhere:
        out, err = (_Output(stream or nowhere) for stream in before)
        sys.stdout, sys.stderr = out, err  # they have all that print and rich use
        try:
            yield
        finally:
            out.flush()
            sys.stdout, sys.stderr = before
    if out.failure is not None and out.failure.errno != errno.EPIPE:
        raise OSError(out.failure.errno, out.failure.strerror, "standard output")


@contextlib.contextmanager
def first_alone_prints() -> Iterator[None]:
    """Of several processes, have all but the first print nothing and warn of nothing: it would be the same again."""
    if processes.is_first():
        yield
        return
    with _nowhere() as nowhere, contextlib.redirect_stdout(nowhere), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


@contextlib.contextmanager
def _nowhere() -> Iterator[TextIO]:
    """What stands for a stream that was closed when Python was started."""
    descriptor = os.open(os.devnull, os.O_RDWR)
    while descriptor <= 2:  # or the next file to be opened would be taken for standard output by whoever prints
        descriptor = os.open(os.devnull, os.O_RDWR)
    with open(descriptor, "w", encoding="utf-8") as nowhere:
        yield nowhere


def new_console() -> Console:
    """Of the terminal's width; where there is no terminal, of the usual one's, which every table fits."""
    return Console() if sys.stdout.isatty() else Console(width=_PIPED_WIDTH)


def describe(error: OSError) -> str:
    """The file, and what is wrong with it."""
    return f"{error.filename}: {error.strerror}" if error.filename else str(error)


def fail(message: str, status: int) -> NoReturn:
    """Say so in a line of standard error, if no process beside this one has, and exit."""
    if sys.stderr is not None and processes.is_first_to_tell():  # print would take standard output for it
        with contextlib.suppress(OSError):
            print(f"bbpyro: error: {' '.join(message.split())}", file=sys.stderr)
    sys.exit(status)
