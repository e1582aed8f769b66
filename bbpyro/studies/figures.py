"""The figures of a study, from the files of its runs."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd
from matplotlib.figure import Figure

from bbpyro import plots, posterior
from bbpyro.posterior import container
from bbpyro.studies import task


def draw(folder: Path, runs: pd.DataFrame, total: Mapping[str, int], published: str | None = None) -> dict[str, Figure]:
    """The figures of the runs that ended, by file name.

    Args:
        folder: of the study.
        runs: a row a run.
        total: by gate, its units.
        published: the network whose published points stand behind; None for none.
    """
    runs = runs.dropna(subset="error")
    by_prior = {
        str(p): [folder / "runs" / run for run in group["run"]] for p, group in runs.groupby("prior", sort=False)
    }
    restarts = {
        prior: container.as_chains([each / task.LOO for each in folders]) for prior, folders in by_prior.items()
    }
    histories = {prior: [_svi_history(each) for each in folders] for prior, folders in by_prior.items()}
    first = next(iter(restarts.values()))
    sides = {gate: posterior.side(first, gate) for gate in total}
    behind = plots.PUBLISHED.get(published or "", {})
    figures = {
        "error_macs": plots.error_macs(runs, behind),
        "kept_epochs": plots.kept_epochs(histories, total, sides),
        "priors_posteriors": plots.priors_posteriors(restarts),
    }
    if len(restarts) > 1:
        figures["loo_compare"] = plots.loo_compare({prior: posterior.loo(idata) for prior, idata in restarts.items()})
    return figures


def _svi_history(folder: Path) -> Sequence[Mapping[str, Any]]:
    records = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [record for record in records if record["phase"] == "SVI"]
