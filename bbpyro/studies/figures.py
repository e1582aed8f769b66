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

NO_LOO = "no loo_compare.png: az.loo of different training data cannot be compared"


def draw(
    folder: Path,
    runs: pd.DataFrame,
    totals: Mapping[str, Mapping[str, int]],
    data: Mapping[str, Any],
    keys: Sequence[str],
    published: Mapping[str, Sequence[tuple[float, float]]] | None = None,
) -> dict[str, Figure]:
    """The figures of the runs that ended, by file name; of networks of different gates those of layers are several.

    There is no loo_compare where the settings have no runs of the same data.

    Args:
        folder: of the study.
        runs: a row a run.
        totals: by run, the units of each gate.
        data: by run, something that says which data it is of.
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
        with_pi = {name: restarts[name] for name in names if posterior.has_pi(restarts[name])}
        if with_pi:
            figures[f"priors_posteriors{number}"] = plots.priors_posteriors(with_pi)
    if shared := shared_data(runs, data, keys):
        of_same = {name: group[[data[run] == shared[0] for run in group["run"]]] for name, group in settings.items()}
        loos = {name: posterior.loo(_restarts(folder, group)) for name, group in of_same.items()}
        figures["loo_compare"] = plots.loo_compare(loos)
    return figures


def shared_data(runs: pd.DataFrame, data: Mapping[str, Any], keys: Sequence[str]) -> list[Any] | None:
    """The data that runs of every setting have ended on, whose az.loo can be compared; None where there is one setting.

    Arguments are those of :func:`draw`.
    """
    if "error" not in runs:
        return None
    settings = runs.dropna(subset="error").groupby(list(keys), sort=False)
    of_each = [dict.fromkeys(data[run] for run in group["run"]) for _, group in settings]
    return [each for each in of_each[0] if all(each in others for others in of_each)] if len(of_each) > 1 else None


def _restarts(folder: Path, runs: pd.DataFrame) -> Any:
    return container.as_chains([folder / "runs" / run / task.LOO for run in runs["run"]])


def _svi_history(folder: Path) -> Sequence[Mapping[str, Any]]:
    records = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [record for record in records if record["phase"] == "SVI"]
