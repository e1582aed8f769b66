"""Settings of runs and studies as files hold them: read under the flags of the command line, and printed."""

import dataclasses
import json
import re
import tomllib
from collections.abc import Sequence
from typing import Any

from bbpyro import runs, studies
from bbpyro.cli.commands import Compare, Train

_BESIDE_RUN, _BESIDE_STUDY = {"num_samples"}, {"jobs", "backend", "address", "published"}  # flags beside --resume


def defaults(command: Train | Compare, args: list[str]) -> runs.TrainConfig | studies.StudyConfig | None:
    """What holds where the command line is silent, unless that is the usual.

    Least to most: a network's own settings, or those of few data; those of the study that is there; those of the file.
    """
    kind = runs.TrainConfig if isinstance(command, Train) else studies.StudyConfig
    try:
        file = tomllib.loads(command.config.read_text(encoding="utf-8")) if command.config else {}
        settings = {key.replace("-", "_"): value for key, value in file.items()}
        other = _other_kind(command, settings)
        if other is None:
            kind.from_json(settings)
    except (OSError, ValueError) as error:
        raise ValueError(f"config: {command.config} is no file of settings ({error}); see --print-config") from None
    if other:
        raise ValueError(f"config: {command.config} is {other}")
    flags = _flags(args)
    if isinstance(command, Compare):
        settings = _of_study(command, settings, flags)
    shared = {f.name for f in dataclasses.fields(runs.Settings)}
    given = settings | {name: getattr(command, name) for name in flags & shared}
    own = runs.recipe(given.get("network", command.network), given)
    if not settings and own == runs.TrainConfig():
        return None
    return kind.from_json({k: v for k, v in own.to_json().items() if k in shared} | settings)


def of_run(command: Train) -> runs.TrainConfig:
    """The part that decides the numbers."""
    return runs.TrainConfig(**{f.name: getattr(command, f.name) for f in dataclasses.fields(runs.TrainConfig)})


def of_study(command: Compare) -> studies.StudyConfig:
    """The part that decides the numbers."""
    chosen = {f.name: getattr(command, f.name) for f in dataclasses.fields(studies.StudyConfig)}
    prior = command.prior or studies.StudyConfig.prior
    return studies.StudyConfig(**{**chosen, "prior": prior, "vary": dict(command.vary), "points": dict(command.points)})


def check_resume(command: Train | Compare, args: Sequence[str]) -> None:
    """Raise a ValueError where the command line has a flag, of whatever value, for what is settled already."""
    what, others = ("run", _BESIDE_RUN) if isinstance(command, Train) else ("study", _BESIDE_STUDY)
    for arg in args:
        if arg.startswith("--") and not _flags([arg]) & {"resume", *others}:
            raise ValueError(f"--resume goes on with the {what}'s own settings; leave out {arg.partition('=')[0]}")


def _flags(args: Sequence[str]) -> set[str]:
    """The settings that the command line has a flag for."""
    names = {arg.split("=")[0].removeprefix("--").replace("-", "_") for arg in args if arg.startswith("--")}
    return names | {name.removeprefix("no_") for name in names}


def _of_study(command: Compare, settings: dict[str, Any], flags: set[str]) -> dict[str, Any]:
    """What holds where the flags are silent, but for --vary, which is in it.

    An axis of the command line takes the place of one of that name, or of a value for all, in the file; and that of
    one in the study.
    """
    is_there = command.study is not None and studies.is_study(command.study)
    lent = studies.read_config(command.study).to_json() if command.study and is_there else {}
    merged = lent | settings
    for name, read in (("vary", studies.axes.read_vary), ("points", studies.axes.read_points)):
        found = {key: value for each in (lent, settings) for key, value in read(each.get(name, {})).items()}
        if name == "vary":
            studies.axes.check_given_once(settings, found)
            found |= studies.axes.read_vary(studies.axes.from_words(command.vary))
            studies.axes.check_given_once(flags, found)
        if found:
            merged[name] = found
    return merged


def _other_kind(command: Train | Compare, settings: dict[str, Any]) -> str | None:
    """What a file of settings is that is for the other command."""
    is_of_study = {"seeds", "vary", "points"} & settings.keys() or isinstance(settings.get("prior"), list)
    if isinstance(command, Train) and is_of_study:
        return f"a study's, of several priors or seeds; bbpyro compare --config {command.config} reads it"
    if isinstance(command, Compare) and "seed" in settings:
        return f"a run's, of one seed; bbpyro train --config {command.config} reads it (a study has seeds)"
    return None


def print_config(config: runs.TrainConfig | studies.StudyConfig) -> None:
    """Print settings as TOML.

    Raises:
        ValueError: one is out of range.
    """
    config.validate()
    settings = config.to_json()
    tables: dict[str, Any] = {name: settings.pop(name) for name in ("vary", "points") if name in settings}
    points = {f"points.{_toml_key(name)}": own for name, own in tables.pop("points", {}).items()}
    print(_toml(settings), end="")
    for name, table in (tables | points).items():
        print(f"\n[{name}]\n{_toml(table)}", end="")


def _toml(table: dict[str, Any]) -> str:
    return "".join(f"{name} = {json.dumps(value)}\n" for name, value in table.items() if value is not None)


def _toml_key(name: str) -> str:
    return name if re.fullmatch(r"[A-Za-z0-9_-]+", name) else json.dumps(name)
