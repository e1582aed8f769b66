"""compare(): priors and settings times seeds, each a run of its own in a process of its own, and what comes out."""

import dataclasses
import os
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import joblib
import pandas as pd
from rich.console import Console

from bbpyro import plots, priors, runs
from bbpyro.studies import axes, figures, pretraining, tables, task
from bbpyro.studies.config import StudyConfig
from bbpyro.studies.display import display
from bbpyro.studies.folder import data_of, origin, prepare, read, read_config

BACKENDS = ("processes", "dask", "ray")


@dataclass(frozen=True)
class Failure:
    """A run that did not end, why, and where that is told in full."""

    task: str
    reason: str
    log: Path


@dataclass(frozen=True, repr=False)
class Study:
    """A study, as far as it has come.

    Attributes:
        folder: where it is.
        config: its settings.
        results: what came out, by the name of the run's folder.
        failures: the runs that did not end.
    """

    folder: Path
    config: StudyConfig
    results: dict[str, dict[str, Any]]
    failures: list[Failure]

    def __repr__(self) -> str:
        counts = f"{len(self.results)} of {len(self.config.tasks())} runs done, {len(self.failures)} failed"
        what = "settings" if self.config.is_product else "priors"
        return f"Study({str(self.folder)!r}, {len(self.config.candidates())} {what}, {counts})"

    @property
    def runs(self) -> pd.DataFrame:
        """A row for each run that ended or failed."""
        return tables.by_run(self.config, self.results, {each.task: each.reason for each in self.failures})

    @property
    def table(self) -> pd.DataFrame:
        """A row for each setting: mean, lowest and highest of each score over seeds, and folds.

        Its index is the prior, or the axes of more than one value ("prior", "point", settings by name).
        """
        return tables.by_setting(self.runs, self.config.keys)

    @property
    def total(self) -> dict[str, int]:
        """The units of each gate; none where the runs' networks differ."""
        found = [result["total"] for result in self.results.values()]
        return found[0] if found and all(total == found[0] for total in found) else {}

    def write(self, published: bool = False) -> None:
        """Write its tables, runs.csv, table.csv and table.md, and its figures into its folder.

        Args:
            published: put the published points, where there are any for this network and dataset, behind the errors.
        """
        data = {name: data_of(run) for name, run in self.config.tasks().items()}
        is_without_loo = figures.shared_data(self.runs, data, self.config.keys) == []
        told = [*self.config.told, *([figures.NO_LOO] if is_without_loo else [])]
        tables.write(self.folder, self.table, self.runs, list(self.total.values()), told)
        if self.results:
            totals = {name: result["total"] for name, result in self.results.items()}
            made_of = {(each.config.network, each.config.dataset) for each in self.config.candidates()}
            behind = plots.published.behind(*made_of.pop()) if published and len(made_of) == 1 else {}
            drawn = figures.draw(self.folder, self.runs, totals, data, self.config.keys, behind)
            (self.folder / "figures" / "loo_compare.png").unlink(missing_ok=True)  # it may be of fewer settings
            runs.write_figures(self.folder, drawn)


def default_folder() -> Path:
    """runs/study-DATE-TIME."""
    return Path("runs") / f"study-{time.strftime('%Y%m%d-%H%M%S')}"


def compare(
    prior: Sequence[priors.PriorLike] | StudyConfig | None = None,
    *,
    vary: Mapping[str, Sequence[Any]] | None = None,
    points: Mapping[str, Mapping[str, Any]] | None = None,
    seeds: int = 3,
    folder: Path | str | None = None,
    jobs: int = 1,
    backend: str = "processes",
    address: str | None = None,
    published: bool = False,
    progress: bool | Console = True,
    **settings: Any,
) -> Study:
    """Train each prior with each of the varied settings from each seed, and gather what came out.

    A study that was killed goes on where it stopped when it is started again with the same folder: runs that ended are
    not trained again, and others go on from their newest checkpoint. Priors, values, points and seeds may be added.

    Args:
        prior: the priors on π, each an object of :mod:`bbpyro.priors` or its spelling, such as "Beta(1e-4, 1)" or
            "module:name"; or the whole configuration. By default three; where something else is compared, one.
        vary: by setting, the values that are compared: {"gate_learning_rate": [0.005, 0.01], "epochs": [60, 120]} are
            four. The folds of "validation_fold" are no settings to compare: scores are means over them and the seeds.
        points: by a name of its own, settings that go together: {"tight": {"epochs": 120, "gate_learning_rate": 0.02}};
            a point may also have a "prior" in place of those above. Beside `vary` it is one more axis.
        seeds: how many restarts of each.
        folder: of the study; by default runs/study-DATE-TIME.
        jobs: how many runs at once; a cluster's workers decide that themselves.
        backend: "processes" on this machine, or the scheduler of an existing "dask" or "ray" cluster whose workers see
            the same files.
        address: of that scheduler.
        published: put published points behind the errors, where there are any.
        progress: a progress display, or the rich console to draw it on.
        **settings: that all runs share, as in bbpyro train: network, dataset, epochs, … A network that varies brings
            no settings of its own, nor do few data where the data vary, of which a warning tells.

    Raises:
        ValueError: a setting is out of range, or differs from that of the study in the folder.
        ImportError: the cluster's library is not installed.
    """
    if isinstance(prior, StudyConfig) and (vary or points or settings):
        raise ValueError("prior is a whole configuration; put vary, points and settings into it")
    config = prior if isinstance(prior, StudyConfig) else _config(prior, seeds, settings, vary, points)
    check_workers(jobs, backend, address)
    folder = Path(folder or default_folder())
    prepare(folder, config, jobs if backend == "processes" else 1)
    return train(folder, jobs=jobs, backend=backend, address=address, published=published, progress=progress)


def train(
    folder: Path,
    *,
    jobs: int = 1,
    backend: str = "processes",
    address: str | None = None,
    published: bool = False,
    progress: bool | Console = True,
) -> Study:
    """Train what is not trained yet of the study in a folder; arguments and errors are those of :func:`compare`."""
    check_workers(jobs, backend, address)
    config, made_from = read(folder)
    tasks = config.tasks()
    waiting = [name for name, run in tasks.items() if task.result(folder / "runs" / name, run) is None]
    here = os.getpid(), Path.cwd()
    calls = []
    for name in waiting:
        run, own = tasks[name], made_from.get(origin(config, name, tasks[name]), {})
        shared = pretraining.file_of(folder.absolute(), run, own)
        paths = folder.absolute() / "runs" / name, _log(folder, name).absolute()
        calls.append(joblib.delayed(task.perform)(*paths, run, own, shared, *here))
    outcomes = []
    if calls:
        with display(folder, tasks, progress), _cluster(backend, address):
            outcomes = joblib.Parallel(n_jobs=min(jobs, len(calls)), batch_size=1, pre_dispatch="all")(calls)
    reasons = {name: reason for name, reason in zip(waiting, outcomes, strict=True) if reason}
    study = _gather(folder, read_config(folder), reasons)  # to which another process may have added
    study.write(published)
    return study


def check_workers(jobs: int, backend: str, address: str | None) -> None:
    """Raise a ValueError that names what is wrong of where the runs are to go."""
    if jobs < 1:
        raise ValueError(f"jobs is {jobs}, wanted at least 1")
    if backend not in BACKENDS:
        raise ValueError(f"backend is {backend!r}, wanted one of {', '.join(BACKENDS)}")
    if backend != "processes" and address is None:
        raise ValueError(f"backend {backend!r} wants the address of its scheduler, such as tcp://10.0.0.1:8786")
    if backend == "processes" and address is not None:
        raise ValueError(f"address is {address!r}, but backend 'processes' is this machine; wanted backend dask or ray")


def load(folder: Path | str) -> Study:
    """A study as its folder has it; a run that has not ended, and left no log, is in neither list.

    Raises:
        CheckpointError: there is none, or its files were altered.
    """
    folder = Path(folder)
    config = read_config(folder)
    logs = {name: _log(folder, name) for name in config.tasks()}
    reasons = {
        name: [*log.read_text(encoding="utf-8").splitlines(), "?"][0] for name, log in logs.items() if log.is_file()
    }
    return _gather(folder, config, reasons)


def _config(
    prior: Sequence[priors.PriorLike] | None,
    seeds: int,
    settings: dict[str, Any],
    vary: Mapping[str, Any] | None = None,
    points: Mapping[str, Any] | None = None,
) -> StudyConfig:
    known = {field.name for field in dataclasses.fields(runs.Settings)}
    for name in settings:
        if name not in known:
            raise ValueError(f"unknown setting {name!r}, wanted one of {', '.join(sorted(known))}")
    axes.check_given_once(settings, axes.read_vary(vary or {}))
    asked_for = {**settings, "vary": vary, "points": axes.read_points(points or {})}
    own = runs.recipe(settings.get("network", runs.Settings.network), asked_for).to_json()
    if not isinstance(settings.get("weight_prior", ""), str):
        settings = {**settings, "weight_prior": repr(settings["weight_prior"])}
    given = {name: str(value) if isinstance(value, Path) else value for name, value in settings.items()}
    compared: dict[str, Any] = {"vary": vary or {}, "points": points or {}}
    if prior is not None:
        named = [prior] if isinstance(prior, str | Mapping) or callable(prior) else prior
        compared["prior"] = [priors.spell(each) for each in named]
    return StudyConfig.from_json({**{k: own[k] for k in known}, **given, **compared, "seeds": seeds})


def _log(folder: Path, name: str) -> Path:
    *parents, last, seed = name.split("/")
    return folder.joinpath("logs", *parents, f"{last}-{seed}.log")


def _gather(folder: Path, config: StudyConfig, reasons: dict[str, str]) -> Study:
    found = {name: task.result(folder / "runs" / name, run) for name, run in config.tasks().items()}
    results = {name: result for name, result in found.items() if result is not None}
    return Study(folder, config, results, [Failure(name, why, _log(folder, name)) for name, why in reasons.items()])


@contextmanager
def _cluster(backend: str, address: str | None) -> Iterator[None]:
    """Where joblib sends the runs."""
    if backend == "processes":
        with joblib.parallel_config("loky", inner_max_num_threads=1):
            yield
        return
    try:
        if backend == "dask":
            from distributed import Client

            with Client(address), joblib.parallel_config("dask"):
                yield
            return
        import ray
        from ray.util.joblib import register_ray
    except ImportError as error:
        package = "distributed" if backend == "dask" else "ray"
        raise ImportError(f"backend {backend!r} wants: pip install {package} ({error})") from None
    register_ray()
    ray.init(address=address, ignore_reinit_error=True)
    with joblib.parallel_config("ray"):
        yield
