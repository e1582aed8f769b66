import importlib.util
import subprocess
import sys
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

FOLDER = Path(__file__).parents[1] / "notebooks"
NOTEBOOKS = sorted(FOLDER.glob("*.ipynb"))


def test_there_are_notebooks():
    assert [path.name[:2] for path in NOTEBOOKS] == ["01", "02", "03", "04", "05", "06"]


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_runs_from_a_clean_kernel_top_to_bottom(path: Path) -> None:
    done = subprocess.run([sys.executable, FOLDER / "execute.py", "--short", path], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]


def test_a_cell_takes_the_time_that_it_takes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    limits = []

    class Client(NotebookClient):
        def _get_timeout(self, cell: nbformat.NotebookNode | None) -> int | None:
            limits.append(super()._get_timeout(cell))
            return limits[-1]

    spec = importlib.util.spec_from_file_location("execute", FOLDER / "execute.py")
    assert spec is not None and spec.loader is not None
    execute = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(execute)
    monkeypatch.setattr(execute, "NotebookClient", Client)
    nbformat.write(nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell("6 * 7")]), tmp_path / "one.ipynb")
    execute.execute(tmp_path / "one.ipynb", write=True)
    assert limits and set(limits) == {None}
    (cell,) = nbformat.read(tmp_path / "one.ipynb", as_version=4).cells
    assert cell.outputs[0]["data"]["text/plain"] == "42"


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_is_committed_with_the_outputs_of_one_run(path: Path) -> None:
    assert path.stat().st_size < 1_000_000
    cells = [cell for cell in nbformat.read(path, as_version=4).cells if cell.cell_type == "code"]
    assert [cell.execution_count for cell in cells] == list(range(1, len(cells) + 1))
    outputs = [output for cell in cells for output in cell.outputs]
    assert outputs and not [output for output in outputs if output.output_type == "error"]
    assert not [output.text for output in outputs if output.get("name") == "stderr"]  # warnings name a machine's paths


def test_your_own_network_takes_less_than_forty_lines():
    cells = nbformat.read(FOLDER / "03_your_own_network.ipynb", as_version=4).cells
    lines = [line for cell in cells if cell.cell_type == "code" for line in cell.source.splitlines() if line.strip()]
    assert len(lines) < 40
