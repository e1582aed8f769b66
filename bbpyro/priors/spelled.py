"""Priors that print as they are written, and can be read from that text again."""

import ast
import dataclasses
import functools
import importlib.util
import os
import re
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any


class Spelled:
    """A dataclass whose repr is its shortest spelling, such as Beta(0.0001, 1)."""

    def __repr__(self) -> str:
        values = (getattr(self, field.name) for field in dataclasses.fields(self))  # type: ignore[arg-type]
        shown = (repr(value).removesuffix(".0") if isinstance(value, float) else repr(value) for value in values)
        return f"{type(self).__name__}({', '.join(shown)})"


def check_positive(owner: object, **values: float) -> None:
    """Raise a ValueError unless these are positive numbers that float32 can hold."""
    for name, value in values.items():
        if not isinstance(value, int | float) or not 1e-37 <= value <= 1e38:
            raise ValueError(f"{type(owner).__name__}: {name} is {value!r}, wanted a positive number, 1e-37 to 1e38")


def parse(text: str, known: Mapping[str, Callable[..., Any]]) -> Any:
    """What a text spells: a call of a known name, a mapping of such, or `module:name`, which is imported.

    Args:
        text: e.g. "Beta(1e-4, 1)", "Jeffreys", "{'fc1.*': Jeffreys(), '*': Beta(1e-4, 1)}" or "mine:prior". Modules
            are looked for in the working directory too.
        known: what may be called, by name.

    Raises:
        ValueError: it does not parse, a name is not known, an argument is out of range, or there is no such object.
    """
    if is_path(text):
        return _imported(text.strip())
    try:
        return _built(ast.parse(text.strip(), mode="eval").body, known)
    except SyntaxError:
        hint = " (within a mapping module:name wants quotes)" if re.search(r"\w:\w", text) else ""
        raise ValueError(f"{text!r} does not parse{hint}; {spellings(known)}") from None
    except (TypeError, ValueError, RecursionError) as error:
        raise ValueError(f"{text!r}: {error}; {spellings(known)}") from None


def canonical(text: str, known: Mapping[str, Callable[..., Any]]) -> str:
    """The one way to write what a text spells: "Beta(1e-4,1)" is Beta(0.0001, 1); arguments and errors as above."""
    found = parse(text, known)
    if is_path(text):
        return text.strip()
    if not isinstance(found, Mapping):
        return repr(found)
    node = ast.parse(text.strip(), mode="eval").body
    assert isinstance(node, ast.Dict)
    spelled = [
        repr(value.value) if isinstance(value, ast.Constant) else repr(each)
        for value, each in zip(node.values, found.values(), strict=True)
    ]
    return f"{{{', '.join(f'{name!r}: {each}' for name, each in zip(found, spelled, strict=True))}}}"


def is_path(text: str) -> bool:
    """Whether a text has the form module:name."""
    return re.fullmatch(r"[\w.]+:[\w.]+", text.strip()) is not None


def spellings(known: Mapping[str, Callable[..., Any]]) -> str:
    """The known spellings, with their default arguments."""
    examples = []
    for name, make in known.items():
        try:
            examples.append(repr(make()))
        except TypeError:  # an argument without a default
            examples.append(f"{name}({', '.join(f.name for f in dataclasses.fields(make))})")  # type: ignore[arg-type]
    return f"known are {', '.join(examples)}, and module:name for one of your own"


def _built(node: ast.expr, known: Mapping[str, Callable[..., Any]]) -> Any:
    build = functools.partial(_built, known=known)
    match node:
        case ast.Name(id=name):
            return _known(name, known)()
        case ast.Call(func=ast.Name(id=name), args=args, keywords=keywords) if all(k.arg for k in keywords):
            return _known(name, known)(*map(build, args), **{str(k.arg): build(k.value) for k in keywords})
        case ast.Dict(keys=keys, values=values) if keys and all(isinstance(key, ast.Constant) for key in keys):
            names = [str(key.value) for key in keys if isinstance(key, ast.Constant)]
            if len(set(names)) < len(names):
                raise ValueError("it names a gate twice")
            return {name: build(value) for name, value in zip(names, values, strict=True)}
        case ast.Constant(value=int() | float() as number) if not isinstance(number, bool):
            return number
        case ast.UnaryOp(op=ast.USub(), operand=ast.Constant(value=int() | float() as number)):
            return -number
        case ast.Constant(value=str() as text) if is_path(text):
            return _imported(text.strip())
    raise ValueError(f"{ast.unparse(node)} is no prior and no number")


def _known(name: str, known: Mapping[str, Callable[..., Any]]) -> Callable[..., Any]:
    if name not in known:
        raise ValueError(f"there is no {name}")
    return known[name]


def _imported(path: str) -> Any:
    module, _, name = path.partition(":")
    here = os.getcwd()
    sys.path.insert(0, here)
    try:
        found: Any = _module(module, Path(here))
        for part in name.split("."):
            found = getattr(found, part)
    except Exception as error:  # whatever the user's module does
        reason = f"{type(error).__name__}: {error}"
        wanted = "wanted module:name of what can be imported from here"
        raise ValueError(f"{path!r} cannot be imported ({reason}); {wanted}") from None
    finally:
        sys.path.remove(here)
    return found


def _module(name: str, here: Path) -> Any:
    """A module; one of the working directory as its file is now, whatever was imported under its name before."""
    file = here.joinpath(*name.split(".")).with_suffix(".py")
    spec = importlib.util.spec_from_file_location(name, file) if file.is_file() else None
    if spec is None:
        return importlib.import_module(name)
    module = importlib.util.module_from_spec(spec)
    # Not by its loader, whose cache takes a file of the same size and second for the same.
    exec(compile(file.read_bytes(), file, "exec"), vars(module))
    return module
