"""The folder of a study: its study.json, what its runs are made from, and what is refused before any is trained."""

import contextlib
import dataclasses
import json
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import filelock

from bbpyro import checkpoint, runs
from bbpyro.checkpoint import CheckpointError
from bbpyro.runs.networks import OF_FEW_DATA
from bbpyro.studies import axes
from bbpyro.studies.config import StudyConfig
from bbpyro.training.budget import Budget
from bbpyro.version import __version__

CONFIG = "study.json"
_DECISIVE = ("dataset", "batch_size", "validation_size", "kl_start", "network")
_OF_SIZE = ("network", *(field.name for field in dataclasses.fields(Budget)))


def is_study(folder: Path) -> bool:
    """Whether there is a study in a folder."""
    return (folder / CONFIG).is_file()


def read_config(folder: Path) -> StudyConfig:
    """The settings of the study in a folder.

    Raises:
        CheckpointError: there is none, or its study.json was altered.
        ValueError: a module of the user's that it names cannot be imported from here.
    """
    return read(folder)[0]


def read(folder: Path) -> tuple[StudyConfig, dict[str, dict[str, Any]]]:
    """What study.json holds: the settings, and what the runs are made from, as :func:`_check_origins` found it."""
    path = folder / CONFIG
    if not is_study(folder):
        raise CheckpointError(f"{folder} is no bbpyro study: it has no {CONFIG}")
    try:
        description = json.loads(path.read_text(encoding="utf-8"))
        config = StudyConfig.from_json(runs.as_written(description["config"]))
        made_from = description.get("made_from", {})
        if not isinstance(made_from, dict) or not all(isinstance(each, dict) for each in made_from.values()):
            raise ValueError(f"made_from is {made_from!r}, wanted a table for each setting")
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise _altered(path, error) from None
    try:
        config.check_modules()
    except ValueError as error:
        raise ValueError(f"study {folder}: {error}; go to the folder that the module is in") from None
    try:
        config.validate()
    except ValueError as error:
        raise _altered(path, error) from None
    return config, made_from


def _altered(path: Path, error: Exception) -> CheckpointError:
    return CheckpointError(f"{path} was altered, or written by another version of bbpyro ({error})")


def prepare(
    folder: Path, config: StudyConfig, jobs: int = 1, note: Callable[[str], object] | None = None
) -> StudyConfig:
    """Make the study's folder, or go on with the study that is there; returns all its settings.

    Args:
        folder: of the study.
        config: its settings.
        jobs: how many runs there are to be at once on this machine.
        note: called with what is noteworthy of the data, if anything is; without it, a warning says the most important.

    Raises:
        ValueError: a setting is out of range, or differs from that of the study in the folder.
    """
    config.validate()
    if folder.exists() and not is_study(folder) and not _is_empty(folder):
        raise ValueError(f"study folder {folder} is no study; choose another")
    noted: dict[str, dict[str, Any]] = {}
    if is_study(folder):
        was, noted = read(folder)
        config = was.extended_by(config)
    config.check_prior()
    made_from = _check_origins(folder, config, noted, jobs, note)
    for told in _not_of_their_size(config):
        note(told) if note else warnings.warn(told, stacklevel=3)
    folder.mkdir(parents=True, exist_ok=True)
    with filelock.FileLock(folder / ".lock"):
        checkpoint.clear_unfinished(folder, CONFIG)
        if is_study(folder):  # by now
            was, noted = read(folder)
            config, made_from = was.extended_by(config), {**noted, **made_from}
        config = config.canonical()
        description = {"format": checkpoint.FORMAT, "bbpyro": __version__, "made_from": made_from}
        checkpoint.write_json(folder / CONFIG, {**description, "config": config.to_json()})
    return config


def _is_empty(folder: Path) -> bool:
    """Whether there is nothing in a folder, but what a study leaves that was killed before it had a study.json."""
    ours = (".lock", f".{CONFIG}-")
    return folder.is_dir() and all(path.name.startswith(ours) for path in folder.iterdir())


def _not_of_their_size(config: StudyConfig) -> list[str]:
    """What is said of each data set that is trained otherwise here than alone: settings follow the size of one alone.

    That is where the data vary, or points of one data set bring epochs while others do not.
    """
    in_points = {name for own in config.points.values() for name in own}
    if "epochs" in config.vary or not ("dataset" in config.compared or "epochs" in in_points):
        return []
    is_usual = config.network in (runs.Settings.network, OF_FEW_DATA) and "network" not in config.compared
    decided = _by_size(config, is_usual, vary=config.vary, points=config.points)
    silent = [
        each for each in config.candidates() if "epochs" not in config.points.get(each.shown.get("point", ""), {})
    ]
    found: dict[str, str] = {}
    for run in {tuple(getattr(each.config, name) for name in _DECISIVE): each.config for each in silent}.values():
        own = _by_size(run, is_usual)
        if run.network == config.network and run.epochs == decided.epochs != own.epochs:
            differ = [n for n in _OF_SIZE if getattr(own, n) != getattr(run, n) == getattr(decided, n)]
            flags = " ".join(f"--{name.replace('_', '-')} {_typed(name, getattr(own, name))}" for name in differ)
            found.setdefault(run.dataset, f"alone, {axes.shown('dataset', run.dataset)} would be trained with {flags}")
    why = "a study of several data sets, or with epochs in some points alone, has one setting for all"
    return [f"{told}; {why}: give these, or points with their own" for told in found.values()]


def _typed(name: str, value: Any) -> str:
    return "None" if value is None else axes.text(name, value)  # as flags take it


def _by_size(config: runs.Settings, is_usual: bool, **varied: Any) -> runs.TrainConfig:
    """The settings where nobody asks for any, by the number of the data; `is_usual`: nor for a network."""
    given = {name: getattr(config, name) for name in _DECISIVE} | varied
    network = given.pop("network")
    return runs.recipe(runs.Settings.network, given) if is_usual else runs.recipe(network, given | {"network": network})


def _check_origins(
    folder: Path,
    config: StudyConfig,
    noted: Mapping[str, Mapping[str, Any]],
    jobs: int,
    note: Callable[[str], object] | None,
) -> dict[str, dict[str, Any]]:
    """What the runs of each prior are made from now; refuse what all of them would fail of, and what has changed.

    It is by :func:`origin`, as what was `noted` when the study was last started.

    Raises:
        ValueError: a setting does not fit, or data, weights or a module of the user's are not those that runs of the
            study were made from.
    """
    made_from: dict[str, dict[str, Any]] = {}
    tasks = config.tasks()
    # Those that have begun do without the weights that they began with.
    begin = {origin(config, n, run) for n, run in tasks.items() if not (folder / "runs" / n / runs.CHECKPOINT).exists()}
    dataset, loaded = None, None
    for name, run in sorted(tasks.items(), key=lambda task: str(data_of(task[1]))):  # each data set is loaded once
        if loaded != data_of(run):
            dataset, loaded = None, data_of(run)
        key = origin(config, name, run)
        if key not in made_from:
            is_new = dataset is None
            wanted = run if key in begin else dataclasses.replace(run, pretrained=None)
            dataset = runs.check_settings(wanted, dataset, min(jobs, len(tasks)))
            made_from[key] = runs.describe(wanted, dataset)
            if wanted is not run and "pretrained" in noted.get(key, {}):
                made_from[key]["pretrained"] = noted[key]["pretrained"]
            runs.check_same(noted.get(key, {}), made_from[key], f"study {folder}", run)
            if note and is_new and dataset.scale_note:
                note(dataset.scale_note)
        with contextlib.suppress(CheckpointError):  # there is none yet, or it is damaged, of which it tells itself
            found = runs.read_config(folder / "runs" / name)[1]
            runs.check_same(found, made_from[key], f"run {folder / 'runs' / name}", run)
    return made_from


def data_of(run: runs.TrainConfig) -> tuple[Any, ...]:
    """What says which data a run is of."""
    return run.dataset, run.data_dir, run.validation_size, run.validation_fold


def origin(config: StudyConfig, name: str, run: runs.TrainConfig) -> str:
    """Under what the study keeps what a run is made from: the same for all seeds, unless each begins from its own."""
    if config.begins_by_seed(name):
        return name
    return name.rpartition("seed-")[0] if config.is_product else run.prior
