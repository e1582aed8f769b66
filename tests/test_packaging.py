import subprocess
import sys
import zipfile
from pathlib import Path

ROOT = Path(__file__).parents[1]


def test_a_wheel_builds_and_works_outside_the_tree(tmp_path):
    # A copy, because setuptools leaves its build folder where it works.
    source = tmp_path / "source"
    source.mkdir()
    for name in ("bbpyro", "pyproject.toml", "README.md", "LICENSE"):
        subprocess.run(["cp", "-r", ROOT / name, source], check=True)
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check"]
    subprocess.run(
        [*pip, "wheel", "--quiet", "--no-deps", "--no-build-isolation", "--wheel-dir", tmp_path, source], check=True
    )
    (wheel,) = tmp_path.glob("bbpyro-*.whl")
    unpacked = tmp_path / "unpacked"
    zipfile.ZipFile(wheel).extractall(unpacked)
    names = {path.relative_to(unpacked).as_posix() for path in unpacked.rglob("*")}
    assert "bbpyro/py.typed" in names
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
