"""The pages of docs/ and README.md: their Python runs, their commands parse, their links lead somewhere."""

import contextlib
import io
import re
import shlex
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tyro
from sybil import Sybil
from sybil.parsers.myst import PythonCodeBlockParser

import bbpyro
from bbpyro.cli import main
from bbpyro.cli.commands import PARSER, Command

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
PAGES += [
    path for room in ("how-to", "explanation", "reference") for path in sorted((ROOT / "docs" / room).glob("*.md"))
]
SHOWN_ELSEWHERE = {"compact-a-resnet.md"}  # tests/test_how_to.py holds its blocks to the script that they are of


def has_python(page: Path) -> bool:
    return "```python" in page.read_text(encoding="utf-8") and page.name not in SHOWN_ELSEWHERE


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with runs/seed-0, of images of the size of MNIST's, compacted."""
    folder = tmp_path_factory.mktemp("docs")
    rng = np.random.default_rng(0)
    x = rng.random((100, 28, 28), dtype=np.float32)
    np.savez(folder / "images.npz", x=x, y=np.arange(100) % 3, x_test=x[:20], y_test=np.arange(20) % 3)
    settings = "--epochs 1 --pretrain-epochs 1 --num-samples 2".split()
    with contextlib.redirect_stdout(io.StringIO()):
        main(["train", "--dataset", str(folder / "images.npz"), "--run", str(folder / "runs/seed-0"), *settings])
        main(["compact", str(folder / "runs/seed-0")])
    return folder


def of_two_epochs(train: Any) -> Any:
    """`bbpyro.fit`, or another that trains, for as long as it takes to see that it runs."""
    return lambda *args, **settings: train(*args, **{**settings, "num_epochs": min(settings.get("num_epochs", 2), 2)})


@pytest.mark.parametrize("page", [page for page in PAGES if has_python(page)], ids=lambda page: page.stem)
def test_the_python_of_a_page_runs_from_its_top(page: Path, run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(run)
    for name in ("fit", "pretrain"):
        monkeypatch.setattr(bbpyro, name, of_two_epochs(getattr(bbpyro, name)))
    document = Sybil([PythonCodeBlockParser()]).parse(page)
    examples = list(document.examples())
    assert len(examples) == page.read_text(encoding="utf-8").count("```python")
    with (
        warnings.catch_warnings(),
        contextlib.redirect_stdout(io.StringIO()),
        contextlib.redirect_stderr(io.StringIO()),
    ):
        warnings.simplefilter("ignore")  # a few epochs of random labels teach little, and fit says so
        for example in examples:
            example.evaluate()


def commands(page: Path) -> list[list[str]]:
    """The words of each `bbpyro` command that a page shows in a block."""
    text = page.read_text(encoding="utf-8")
    lines = [line for block in re.findall(r"```sh\n(.*?)```", text, re.DOTALL) for line in block.splitlines()]
    lines += re.findall(r"^    (bbpyro .*)$", text, re.MULTILINE)
    found = []
    for line in lines:
        for part in re.findall(r"(?:^|[;&] *|do )(bbpyro [^;&|>]*)", line):
            found.append(shlex.split(part.replace("$seed", "0").replace("$run", "runs/seed-0"), comments=True)[1:])
    return found


@pytest.mark.parametrize(
    "words", [words for page in PAGES for words in commands(page)], ids=lambda words: " ".join(words)[:60]
)
def test_a_command_of_a_page_is_one(words: list[str]) -> None:
    settings: Any = tyro.cli(Command, args=words, **PARSER)
    assert settings is not None


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_what_a_page_links_to_is_there(page: Path) -> None:
    text = re.sub(r"```.*?```", "", page.read_text(encoding="utf-8"), flags=re.DOTALL)
    for target in re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", text):
        assert (page.parent / target).exists(), target


def test_readme_takes_a_minute() -> None:
    assert len((ROOT / "README.md").read_text(encoding="utf-8").splitlines()) <= 150
