"""The tests on every supported Python, and with the oldest versions that pyproject.toml allows: make test-all."""

import tomllib
from pathlib import Path

import nox

nox.options.default_venv_backend = "venv"
nox.options.reuse_existing_virtualenvs = True
PYPROJECT = tomllib.loads((Path(__file__).parent / "pyproject.toml").read_text(encoding="utf-8"))


@nox.session(python=["3.11", "3.12", "3.13"])
def tests(session: nox.Session) -> None:
    """The whole suite, with the newest versions that resolve (on Linux torch of CUDA, where none is there)."""
    session.install("-e", ".[test]")
    session.run("pytest", "-n", "auto", "--dist", "loadfile", *session.posargs)


@nox.session(python="3.11")
def oldest(session: nox.Session) -> None:
    """The suite with the oldest versions that are allowed, without the notebooks, which are of newer ones.

    Old libraries warn of what newer ones beside them have deprecated: a warning is no error here.
    """
    lower = [each.replace(">=", "==") for each in PYPROJECT["project"]["dependencies"]]
    session.install(*lower, "-e", ".[test]")
    arguments = ["-n", "auto", "--dist", "loadfile", "-W", "default", "--ignore", "tests/test_notebooks.py"]
    session.run("pytest", *arguments, *session.posargs)


@nox.session(python="3.11")
def wheel(session: nox.Session) -> None:
    """An sdist and the wheel of it, installed with all they require and tried outside of the tree."""
    session.install("build")
    session.run("python", "-m", "build", "--outdir", session.create_tmp())
    (built,) = Path(session.create_tmp()).glob("*.whl")
    session.install("-c", "constraints.txt", str(built))
    session.chdir(session.create_tmp())
    session.run("bbpyro", "train", "--dataset", "bars", "--epochs", "1", "--run", "run", "--force")
    session.run("python", "-m", "bbpyro", "compact", "run")
