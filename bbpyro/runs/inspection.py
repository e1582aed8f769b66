"""Inspecting a trained run: its posterior as netCDF and figures, and how far it can be believed."""

import contextlib
import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from matplotlib.figure import Figure
from rich.console import Console

from bbpyro import plots, posterior
from bbpyro.checkpoint import clear_unfinished
from bbpyro.posterior import container
from bbpyro.prediction import Evaluation, score
from bbpyro.runs.limits import check_posterior
from bbpyro.runs.run import Run
from bbpyro.runs.scores import training_figures, write_figures

POSTERIOR = "posterior.nc"
MIN_PREDICTIVE_SAMPLES = 10


@dataclass(frozen=True)
class Inspection:
    """What was found.

    Attributes:
        idata: the posterior, with predictions of the held-out data.
        scores: of the held-out data, by the name of the prediction.
        loo: az.loo of some training data, with its Pareto k.
        by_loo: the log predictive density that it finds, nats a datum, and its standard error.
        by_held_out: that of the held-out data, which it should estimate.
    """

    idata: Any
    scores: dict[str, Evaluation]
    loo: Any
    by_loo: tuple[float, float]
    by_held_out: tuple[float, float]


def inspect(
    runs: Sequence[Run],
    folder: Path,
    num_samples: int = 1000,
    num_predictive_samples: int | None = None,
    console: Console | None = None,
) -> Inspection:
    """Draw the posterior of a run, or of restarts as chains, and write posterior.nc and figures/ into `folder`.

    Args:
        runs: the run, or its restarts.
        folder: made if need be.
        num_samples: draws of every π.
        num_predictive_samples: by how many of them the held-out data are predicted; by default 100, or all if fewer.
        console: where progress is shown.

    Raises:
        ValueError: the runs differ in more than their seed, one has not begun SVI, a number is out of range, or
            `folder` is a file.
    """
    if folder.exists() and not folder.is_dir():
        raise ValueError(f"output: {folder} is a file, wanted a folder, which is made if need be")
    given = "num_samples" if num_predictive_samples is None else "num_predictive_samples"
    num_predictive_samples = min(100, num_samples) if num_predictive_samples is None else num_predictive_samples
    if num_predictive_samples < MIN_PREDICTIVE_SAMPLES:
        raise ValueError(f"{given} is {num_predictive_samples}, wanted at least {MIN_PREDICTIVE_SAMPLES}, for az.loo")
    if len({run.folder.resolve() for run in runs}) < len(runs):
        raise ValueError("a run is named twice; chains are different restarts of one model")
    first = runs[0]
    for run in runs:
        run.check_gates("it has no posterior yet")
        if dataclasses.replace(run.config, seed=first.config.seed) != first.config:
            raise ValueError(
                f"{run.folder} and {first.folder} differ in more than their seed; chains are restarts of one model"
            )
    units = [gate.num_features for gate in first.bnn.gates.values()]
    check_posterior(units, len(first.dataset.x_test), len(runs), num_samples, num_predictive_samples)
    (folder / "figures").mkdir(parents=True, exist_ok=True)  # what cannot be written is found before minutes of work
    networks, data = [run.bnn for run in runs], first.dataset
    idata = posterior.to_arviz(
        networks,
        data.x_test,
        data.y_test,
        num_samples,
        num_predictive_samples=num_predictive_samples,
        history=[run.svi_history for run in runs],
        attrs={
            "dataset": data.name,
            "predicted": f"{first.config.scored_on} data",
            "run_seeds": [run.config.seed for run in runs],
        },
        seed=first.config.seed,
        feature_names=data.feature_names or None,
        progress=console or False,
    )
    clear_unfinished(folder, POSTERIOR)
    clear_unfinished(folder / "figures", "*.png")
    with console.status("writing") if console else contextlib.nullcontext():
        posterior.save(idata, folder / POSTERIOR)
        write_figures(folder, {**training_figures(idata, data.x.shape[1:]), **_figures(idata, data.x.dim() == 3)})
    probs = {
        name: torch.from_numpy(values.values)
        for name, values in posterior.group(idata, "class_probability").mean("chain").items()
    }
    scores = {
        "mean mask": score(probs["mean_mask"], data.y_test),
        f"Monte Carlo, {num_predictive_samples} draws": score(probs["monte_carlo"], data.y_test),
    }
    log_probs = probs["monte_carlo"].double().clamp_min(1e-30).log().gather(-1, data.y_test[:, None])
    by_held_out = log_probs.mean().item(), log_probs.std(correction=0).item() / len(log_probs) ** 0.5
    loo, _ = leave_one_out(runs, max(num_predictive_samples, container.LOO_DRAWS), console)
    num_loo_data = len(loo.pareto_k)
    by_loo = posterior.elpd(loo) / num_loo_data, float(loo.se) / num_loo_data
    return Inspection(idata, scores, loo, by_loo, by_held_out)


def _figures(idata: Any, are_images: bool) -> dict[str, Figure]:
    figures = {"intervals": plots.intervals(idata), "reliability": plots.reliability(idata)}
    if any(posterior.has_pi(idata, gate) for gate in posterior.gates(idata)):
        figures["prior_posterior"] = plots.prior_posterior(idata)
    if "threshold_sweep" in idata:
        figures["threshold_sweep"] = plots.threshold_sweep(idata)
    for gate in posterior.gates(idata):
        figures[f"forest_{gate.removesuffix('.gate')}"] = plots.forest(idata, gate)
    if are_images:
        figures["predictions"] = plots.predictions(idata)
    return figures


def leave_one_out(
    runs: Sequence[Run], num_samples: int, console: Console | None = None, num_data: int = 250
) -> tuple[Any, Any]:
    """az.loo of up to `num_data` training data, the same for all runs of one data set, and what it was computed from.

    z is averaged out by 16 masks (one mask a datum makes its Pareto k useless).
    """
    data = runs[0].dataset
    chosen = torch.randperm(len(data.x), generator=torch.Generator().manual_seed(0))[:num_data]
    idata = posterior.to_arviz(
        [run.bnn for run in runs],
        data.x[chosen],
        data.y[chosen],
        num_samples,
        num_masks=16,
        seed=runs[0].config.seed,
        progress=console or False,
    )
    return container.loo(idata), idata
