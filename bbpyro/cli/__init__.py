"""The `bbpyro` command."""

from bbpyro.cli.entry import main

__all__ = ["main"]
