"""The `bbpyro` command: its help and version at once, and all else once torch, Pyro and ArviZ are there."""

import sys
from collections.abc import Sequence

import tyro

from bbpyro.cli.commands import PARSER, Command
from bbpyro.cli.output import fail, forgiving_streams
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
    actions.run(args)


def _tell(args: list[str]) -> None:
    with forgiving_streams():
        if args == ["--version"]:
            print(f"bbpyro {__version__}")
        else:
            tyro.cli(Command, args=args, **PARSER)
