"""Run notebooks from a clean kernel, top to bottom; the first cell that fails ends it.

python notebooks/execute.py notebooks/*.ipynb            runs them, and changes nothing
python notebooks/execute.py --write notebooks/*.ipynb    also keeps the outputs
"""

import argparse
import time
from pathlib import Path

import nbformat
from nbclient import NotebookClient


def execute(path: Path, write: bool) -> None:
    """Run one notebook in its own folder; a cell takes the time that it takes."""
    notebook = nbformat.read(path, as_version=4)
    NotebookClient(notebook, timeout=None, record_timing=False, resources={"metadata": {"path": path.parent}}).execute()
    if write:
        nbformat.write(notebook, path)


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("notebooks", type=Path, nargs="+")
    parser.add_argument("--write", action="store_true", help="keep the outputs in the notebooks")
    arguments = parser.parse_args()
    for path in arguments.notebooks:
        started = time.perf_counter()
        execute(path, arguments.write)
        print(f"{path}: {time.perf_counter() - started:.0f} s", flush=True)


if __name__ == "__main__":
    main()
