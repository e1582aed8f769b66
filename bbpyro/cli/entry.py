"""The `bbpyro` command: its help and version at once, and all else once torch, Pyro and ArviZ are there."""

import sys
from collections.abc import Sequence
from typing import Any

import tyro

from bbpyro.cli.commands import PARSER, Command
from bbpyro.cli.output import describe, fail, forgiving_streams
from bbpyro.version import __version__


def main(argv: Sequence[str] | None = None) -> None:
    """The `bbpyro` command; exits with 2 on a user's error, 1 on a failed run, 130 on Ctrl-C."""
    args = list(sys.argv[1:] if argv is None else argv) or ["--help"]
    try:
        if args == ["--version"] or {"-h", "--help"} & {*args}:
            _tell(args)
            return
        from bbpyro.cli import actions
    except KeyboardInterrupt:
        fail("interrupted", 130)
    except OSError as error:
        fail(describe(error), 1)
    actions.run(args)


def _tell(args: list[str]) -> None:
    status: Any = 0
    with forgiving_streams():  # which says at its end whether it could be written, so that tyro must not leave before
        if args == ["--version"]:
            print(f"bbpyro {__version__}")
            return
        try:
            tyro.cli(Command, args=args, **PARSER)
        except SystemExit as end:
            status = end.code
    sys.exit(status)
