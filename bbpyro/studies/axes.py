"""What a study varies: settings one by one, or several together under a name, and what each value is called."""

import dataclasses
import re
import shlex
import types
import typing
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from bbpyro import families, priors, runs
from bbpyro.priors.spelled import is_path
from bbpyro.studies import task

FOLD = "validation_fold"
_HINTS = typing.get_type_hints(runs.Settings)
_OPTIONAL = {field.name for field in dataclasses.fields(runs.Settings) if field.default is None}
_MAX_SLUG = 40  # of a value, in the name of a folder
_PAIRS = "names of gates and numbers such as 'conv* 40 fc* 6', in quotes, or none"


@dataclass(frozen=True)
class Value:
    """A value on an axis: what the runs get, what a table shows, and what a folder is called by."""

    settings: Mapping[str, Any]
    shown: Any
    slug: str


def read_vary(given: Mapping[str, Any]) -> dict[str, tuple[Any, ...]]:
    """The values that settings are to take, by name, as the settings of a run hold them.

    Args:
        given: by name, with dashes or underscores, a list of values as Python, JSON or TOML write them.

    Raises:
        ValueError: a name is none of a setting that can vary, or a value is of a wrong type; the message begins with
            "vary: ".
    """
    if not isinstance(given, Mapping):
        raise ValueError(
            f"vary: it is {given!r}, wanted a table of settings and their values, such as epochs = [60, 120]"
        )
    found: dict[str, tuple[Any, ...]] = {}
    for key, values in given.items():
        name = _setting("vary", key)
        if name in found:
            raise ValueError(f"vary: {name} is there twice; give all its values at once")
        if isinstance(values, str | Mapping) or not isinstance(values, Iterable):
            raise ValueError(f"vary: {name} is {values!r}, wanted a list of values")
        found[name] = tuple(_value("vary", name, value) for value in values)
        if not found[name]:
            raise ValueError(f"vary: {name} has no values; give it some, such as {text(name, _example(name))}")
    return found


def read_points(given: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """Settings that go together, by the name of each point, as those of a run hold them.

    Args:
        given: by the point's name, a table of settings; also "prior", where the point has one of its own.

    Raises:
        ValueError: a name is none, or a value is of a wrong type; the message begins with "points: ".
    """
    if not isinstance(given, Mapping):
        raise ValueError(f"points: it is {given!r}, wanted a table of settings for each, by name")
    found: dict[str, dict[str, Any]] = {}
    for name, settings in given.items():
        if not isinstance(name, str) or not re.search(r"\w", name):
            raise ValueError(f"points: {name!r} is no name; wanted one with a letter or a digit")
        if not name.isprintable():
            raise ValueError(f"points: {name!r} is no name; wanted one line, without tabs or other such characters")
        if not isinstance(settings, Mapping):
            raise ValueError(f"points: {name} is {settings!r}, wanted a table of settings, such as epochs = 60")
        where = f"points: {name}"
        found[name] = {}
        for key, value in settings.items():
            setting = "prior" if key == "prior" else _setting(where, key)
            if setting in found[name]:
                raise ValueError(f"{where}: {setting} is there twice")
            found[name][setting] = _prior(where, value) if setting == "prior" else _value(where, setting, value)
    return found


def from_words(words: Sequence[Sequence[str]]) -> dict[str, list[Any]]:
    """What `--vary NAME VALUE …`, once for each setting, says: values by name, as :func:`read_vary` takes them."""
    found: dict[str, list[Any]] = {}
    for each in words:
        if not each:
            raise ValueError("vary: name a setting and its values, such as --vary epochs 60 120")
        name = _setting("vary", each[0])
        if name in found:
            raise ValueError(f"vary: {name} is there twice; give all its values after one --vary {each[0]}")
        found[name] = [_typed(name, word) for word in each[1:]]
    return found


def check_given_once(given: Iterable[str], vary: Mapping[str, Any]) -> None:
    """Raise a ValueError where a setting has one value for all runs, and several to vary over."""
    for name in given:
        if name in vary:
            raise ValueError(f"{name}: it has a value for all runs, and others in vary; leave one of them out")


def canonical(name: str, value: Any) -> Any:
    """A value in one spelling, of use from any working directory."""
    if name == "weight_prior" and value is not None and not is_path(value):
        try:
            return repr(priors.as_weight_prior(value))
        except ValueError as error:
            raise ValueError(f"weight_prior: {error}") from None
    if name == "prior":
        return priors.spell(value)
    if name == "family":
        try:
            return families.spell(value)
        except ValueError as error:
            raise ValueError(f"family: {error}") from None
    return getattr(runs.TrainConfig(**{name: value}).with_absolute_paths(), name)


def to_json(value: Any) -> Any:
    """A value as JSON and TOML hold it."""
    if isinstance(value, tuple):
        return [list(pair) for pair in value]
    return "none" if value is None else str(value) if isinstance(value, Path) else value


def text(name: str, value: Any) -> str:
    """A value as it is typed after the setting's flag."""
    if value is None or value == ():
        return "none"
    if isinstance(value, bool):
        return str(value).lower()
    if name == "kl_start":
        return " ".join(f"{gate} {_number(weight)}" for gate, weight in value)
    return _number(value) if isinstance(value, int | float) else str(value)


def shown(name: str, value: Any) -> Any:
    """A value as a table shows it: a number, or a text; of a path the file's name."""
    if isinstance(value, int | float) and not isinstance(value, bool):
        return value
    return Path(value).name if _is_file(value) else text(name, value)


def column(name: str) -> str:
    """What the column of a setting is called beside the scores: by its name, unless that is a score's too."""
    return f"setting {name}" if name in task.MEASURED else name


def axis(name: str, values: Sequence[Any]) -> list[Value]:
    """The values of a setting, each called by a name of its own."""
    names = [shown(name, value) for value in values]
    names = [n if names.count(n) == 1 else text(name, value) for n, value in zip(names, values, strict=True)]
    pieces = [_slug_of(name, value) for value in values]
    slugs = [f"{name.replace('_', '-')}={piece}" for piece in distinct(pieces)]
    return [Value({name: value}, n, each) for value, n, each in zip(values, names, slugs, strict=True)]


def axis_of_points(points: Mapping[str, Mapping[str, Any]]) -> list[Value]:
    """The points of a study, each called by its name."""
    slugs = distinct([slug(name)[: 2 * _MAX_SLUG] for name in points])
    return [Value(own, name, each) for (name, own), each in zip(points.items(), slugs, strict=True)]


def slug(text: str) -> str:
    """What a prior, or a value, is called in the file system."""
    return re.sub(r"[^\w.+-]+", "-", text.replace("*", "all")).strip("-").lower()


def distinct(names: Sequence[str]) -> list[str]:
    """The names, numbered where one was there before; those before do not change as others are added."""
    found: list[str] = []
    for name in names:
        numbered = (name if i == 1 else f"{name}-{i}" for i in range(1, len(names) + 1))
        found.append(next(each for each in numbered if each not in found))
    return found


def _slug_of(name: str, value: Any) -> str:
    return slug(Path(value).name if _is_file(value) else text(name, value))[:_MAX_SLUG].strip("-") or "value"


def _is_file(value: Any) -> bool:
    return isinstance(value, Path) or (isinstance(value, str) and value.endswith(".npz"))


def _setting(where: str, key: Any) -> str:
    """The name of a setting that may vary."""
    name = str(key).replace("-", "_")
    others = {
        "prior": "the priors have a place of their own; name each with --prior, from Python in prior=[…]",
        "seed": "each setting is trained from several seeds; say how many with --seeds, from Python seeds=",
    }
    others["seeds"] = others["seed"]
    if name in others:
        raise ValueError(f"{where}: {name}: {others[name]}")
    if name not in _HINTS:
        raise ValueError(f"{where}: unknown setting {str(key)!r}, wanted one of {', '.join(_HINTS)}")
    return name


def _value(where: str, name: str, raw: Any) -> Any:
    """A value of a setting, of the type that the settings of a run have."""
    plain: Any = raw.item() if isinstance(raw, np.generic) else str(raw) if isinstance(raw, Path) else raw
    if name in _OPTIONAL and plain == "none":
        return None
    if name == "weight_prior" and not isinstance(plain, str | None):
        plain = repr(plain)
    try:
        found = getattr(runs.TrainConfig.from_json({name: plain}), name)
    except ValueError as error:
        raise ValueError(f"{where}: {error}") from None
    return float(found) if isinstance(found, int) and float in _kinds(name) else found


def _prior(where: str, raw: Any) -> str:
    try:
        return raw if isinstance(raw, str) else priors.spell(raw)
    except ValueError as error:
        raise ValueError(f"{where}: prior: {error}") from None


def _typed(name: str, word: str) -> Any:
    """What a word of the command line says, where it says anything that is of the setting's type."""
    if name == "kl_start":
        return _pairs(word)
    kinds = _kinds(name)
    if bool in kinds:
        return {"true": True, "false": False}.get(word.lower(), word)
    for kind in (int, float):
        if kind in kinds:
            try:
                return kind(word)
            except ValueError:
                return word
    return word


def _pairs(word: str) -> list[list[Any]]:
    try:
        parts = [] if word == "none" else shlex.split(word)
        weights = [float(part) for part in parts[1::2]]
        return [[gate, weight] for gate, weight in zip(parts[::2], weights, strict=True)]
    except ValueError:
        raise ValueError(f"vary: kl_start is {word!r}, wanted {_PAIRS}") from None


def _kinds(name: str) -> tuple[Any, ...]:
    """The types that a setting may have."""
    hint = _HINTS[name]
    return typing.get_args(hint) if isinstance(hint, types.UnionType) else (hint,)


def _example(name: str) -> Any:
    return getattr(runs.TrainConfig(), name)


def _number(value: float) -> str:
    return repr(value).removesuffix(".0")
