"""Progress bars, where there is somebody to see them."""

import rich
from rich.console import Console


def is_drawn(progress: bool | Console) -> bool:
    """Whether a bar is wanted, and its console is a terminal or a notebook; elsewhere rich leaves an empty line."""
    console = progress if isinstance(progress, Console) else rich.get_console()
    return bool(progress) and (console.is_terminal or console.is_jupyter)
