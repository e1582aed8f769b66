"""The figures of a study, from the files of its runs."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd
from matplotlib.figure import Figure

from bbpyro import plots, posterior
from bbpyro.plots.studies import setting as setting_name
from bbpyro.posterior import container
from bbpyro.studies import task
from bbpyro.studies.axes import FOLD

_DATA = {"dataset", "data_dir", "validation_size"}  # settings that decide which data az.loo is of


def draw(
    folder: Path,
    runs: pd.DataFrame,
    totals: Mapping[str, Mapping[str, int]],
    keys: Sequence[str],
    published: Mapping[str, Sequence[tuple[float, float]]] | None = None,
) -> dict[str, Figure]:
    """The figures of the runs that ended, by file name; of networks of different gates those of layers are several.

    Args:
        folder: of the study.
        runs: a row a run.
        totals: by run, the units of each gate.
        keys: the columns of `runs` that tell its settings apart.
        published: points that stand behind the errors, as in plots.PUBLISHED.
    """
    runs = runs.dropna(subset="error")
    figures = {"error_macs": plots.error_macs(runs, published, keys)}
    settings = {setting_name(keys, key): group for key, group in runs.groupby(list(keys), sort=False)}
    histories = {
        name: [_svi_history(folder / "runs" / run) for run in group["run"]] for name, group in settings.items()
    }
    restarts = {name: _restarts(folder, group) for name, group in settings.items()}
    alike: dict[tuple[tuple[str, int], ...], list[str]] = {}  # names of settings by the gates of their networks
    for name, group in settings.items():
        alike.setdefault(tuple(totals[group["run"].iloc[0]].items()), []).append(name)
    for i, (gates, names) in enumerate(alike.items()):
        number = f"-{i + 1}" if i else ""
        sides = {gate: posterior.side(restarts[names[0]], gate) for gate, _ in gates}
        of_these = {name: histories[name] for name in names}
        figures[f"kept_epochs{number}"] = plots.kept_epochs(of_these, dict(gates), sides)
        figures[f"priors_posteriors{number}"] = plots.priors_posteriors({name: restarts[name] for name in names})
    if len(settings) > 1 and not _DATA & set(runs.columns):
        loos = {name: posterior.loo(_restarts(folder, _of_one_fold(group))) for name, group in settings.items()}
        figures["loo_compare"] = plots.loo_compare(loos)
    return figures


def _restarts(folder: Path, runs: pd.DataFrame) -> Any:
    return container.as_chains([folder / "runs" / run / task.LOO for run in runs["run"]])


def _of_one_fold(runs: pd.DataFrame) -> pd.DataFrame:
    """Those whose az.loo is of the same data."""
    return runs[runs[FOLD] == runs[FOLD].min()] if FOLD in runs else runs


def _svi_history(folder: Path) -> Sequence[Mapping[str, Any]]:
    records = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [record for record in records if record["phase"] == "SVI"]
