"""The map of rooms in CONTRIBUTING.md is true: each imports only from lower floors."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "bbpyro"


def floors() -> dict[str, int]:
    rows = re.findall(r"^\| (\d+) \| (.*?) \|", (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8"), re.MULTILINE)
    named = [(room, int(floor)) for floor, rooms in rows for room in rooms.replace("\\", "").split(", ")]
    assert len(dict(named)) == len(named)
    return dict(named)


def imports(path: Path) -> Iterator[str]:
    """The modules of bbpyro that a file imports."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names if alias.name.split(".")[0] == "bbpyro")
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: imports are absolute"
            if node.module == "bbpyro":
                yield from (f"bbpyro.{alias.name}" for alias in node.names)
            elif (node.module or "").startswith("bbpyro."):
                yield str(node.module)


def room_of(path: Path) -> str:
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


FILES = [path for path in sorted(PACKAGE.rglob("*.py")) if path != PACKAGE / "__init__.py"]


def test_every_room_is_on_the_map() -> None:
    assert floors().keys() == {room_of(path) for path in FILES}


def test_a_room_imports_from_lower_floors_alone() -> None:
    floor = floors()
    wrong = [
        f"{path.relative_to(ROOT)} imports {module}"
        for path in FILES
        for module in imports(path)
        if (other := module.split(".")[1]) != room_of(path) and floor[other] >= floor[room_of(path)]
    ]
    assert not wrong
    assert "bbpyro.model" in imports(PACKAGE / "drawing.py")


def test_no_room_but_the_model_and_the_families_samples() -> None:
    sampling = {room_of(path) for path in FILES if re.search(r"\bpyro\.sample\(", path.read_text(encoding="utf-8"))}
    assert sampling == {"model", "families", "latent_features"}
