import ast
import re
import subprocess
import sys
import tomllib
import zipfile
from importlib.metadata import packages_distributions
from pathlib import Path

ROOT = Path(__file__).parents[1]
# What is loaded by name alone: netCDF's engine, which can read and write by several packages and so requires none.
BY_NAME = {"h5netcdf", "h5py"}


def normal(name: str) -> str:
    """A distribution's name as indices compare it."""
    return re.sub("[-_.]+", "-", name).lower()


def imported(source: Path) -> set[str]:
    """The packages that a file imports, anywhere in it."""
    names = set()
    for node in ast.walk(ast.parse(source.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            names.add(node.module or "")
    return {name.split(".")[0] for name in names}


def test_what_is_imported_is_declared_and_does_not_come_by_chance_with_another() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"]
    declared = {
        normal(re.split("[^a-zA-Z0-9_.-]", wanted)[0])
        for wanted in (*project["dependencies"], *extras["dask"], *extras["ray"], *extras["onnx"])
    }
    packages = BY_NAME.union(*map(imported, (ROOT / "bbpyro").rglob("*.py")))
    distributions = packages_distributions()
    for package in packages - set(sys.stdlib_module_names) - {"bbpyro"}:
        names = distributions.get(package, [package])  # an extra need not be installed
        assert declared & set(map(normal, names)), f"{package} is imported, but pyproject.toml does not name it"


def test_an_sdist_makes_a_wheel_that_works_outside_the_tree(tmp_path):
    # A copy, because setuptools leaves its build folder where it works.
    source = tmp_path / "source"
    source.mkdir()
    for name in ("bbpyro", "pyproject.toml", "README.md", "LICENSE"):
        subprocess.run(["cp", "-r", ROOT / name, source], check=True)
    hook = "import sys; from setuptools import build_meta; build_meta.build_sdist(sys.argv[1])"
    subprocess.run([sys.executable, "-c", hook, tmp_path], cwd=source, check=True, capture_output=True)
    (sdist,) = tmp_path.glob("bbpyro-*.tar.gz")
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check"]
    subprocess.run(
        [*pip, "wheel", "--quiet", "--no-deps", "--no-build-isolation", "--wheel-dir", tmp_path, sdist], check=True
    )
    (wheel,) = tmp_path.glob("bbpyro-*.whl")
    unpacked = tmp_path / "unpacked"
    zipfile.ZipFile(wheel).extractall(unpacked)
    names = {path.relative_to(unpacked).as_posix() for path in unpacked.rglob("*")}
    assert {"bbpyro/py.typed", "bbpyro/__init__.pyi"} <= names
    assert any(name.endswith("/LICENSE") for name in names)
    assert not any(name.startswith(("tests", "benchmarks")) for name in names)
    code = "import bbpyro, sys; print(bbpyro.__file__); bbpyro.insert_dropout(bbpyro.networks.lenet_500_300())"
    done = subprocess.run(
        [sys.executable, "-P", "-c", f"import sys; sys.path.insert(0, {str(unpacked)!r}); {code}"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.startswith(str(unpacked))
