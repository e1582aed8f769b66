"""Run notebooks from a clean kernel, top to bottom; the first cell that fails ends it.

python notebooks/execute.py notebooks/*.ipynb            runs them, and changes nothing
python notebooks/execute.py --write notebooks/*.ipynb    also keeps the outputs
python notebooks/execute.py --short notebooks/*.ipynb    runs every line, with few epochs and draws, as the tests do
"""

import argparse
import re
import time
from pathlib import Path

import nbformat
from nbclient import NotebookClient

AT_MOST = {  # what a short run has of each setting that is a number
    "num_epochs": 2,
    "pretrain_epochs": 1,
    "epochs": 1,
    "num_predictive_samples": 10,
    "num_samples": 30,
    "warmup_steps": 5,
    "num_sweeps": 10,
    "num_starts": 1,
    "seeds": 1,
}


def shortened(code: str) -> str:
    """The same lines with smaller numbers."""

    def least(found: re.Match[str]) -> str:
        return f"{found[1]}{min(int(found[3]), AT_MOST[found[2]])}"

    return re.sub(rf"""(\b({"|".join(AT_MOST)})"?\s*[=:]\s*)(\d+)\b""", least, code)


def execute(path: Path, write: bool, short: bool = False) -> None:
    """Run one notebook in its own folder; a cell takes the time that it takes."""
    notebook = nbformat.read(path, as_version=4)
    for cell in notebook.cells if short else ():
        cell.source = shortened(cell.source) if cell.cell_type == "code" else cell.source
    NotebookClient(notebook, timeout=None, record_timing=False, resources={"metadata": {"path": path.parent}}).execute()
    if write:
        nbformat.write(notebook, path)


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("notebooks", type=Path, nargs="+")
    kind = parser.add_mutually_exclusive_group()
    kind.add_argument("--write", action="store_true", help="keep the outputs in the notebooks")
    kind.add_argument("--short", action="store_true", help="few epochs and draws: only to see that they run")
    arguments = parser.parse_args()
    for path in arguments.notebooks:
        started = time.perf_counter()
        execute(path, arguments.write, arguments.short)
        print(f"{path}: {time.perf_counter() - started:.0f} s", flush=True)


if __name__ == "__main__":
    main()
