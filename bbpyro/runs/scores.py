"""What a trained run is worth: its scores, its summary, its figures."""

import dataclasses
import platform
import resource
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pyro
import torch
from matplotlib.figure import Figure

from bbpyro import checkpoint, plots, posterior
from bbpyro.prediction import evaluate
from bbpyro.runs.limits import check_num_samples
from bbpyro.runs.run import Run
from bbpyro.version import __version__


def score(run: Run, num_samples: int = 100) -> dict[str, Any]:
    """Scores by mean mask and by Monte Carlo (`num_samples` draws of q(z, π)), and the units kept."""
    check_num_samples("num_samples", num_samples)
    with torch.random.fork_rng():
        torch.manual_seed(run.config.seed)
        by_mean, by_draws = (evaluate(run.bnn, run.dataset.x_test, run.dataset.y_test, n) for n in (None, num_samples))
    return {
        "scored_on": run.config.scored_on,
        "num_scored": len(run.dataset.y_test),
        "mean_mask": dataclasses.asdict(by_mean),
        "monte_carlo": {"num_samples": num_samples, **dataclasses.asdict(by_draws)},
        "kept": {name: int(gate.kept().sum()) for name, gate in run.bnn.gates.items()},
        "total": {name: gate.num_features for name, gate in run.bnn.gates.items()},
    }


def summarize(run: Run, num_samples: int = 100) -> dict[str, Any]:
    """Score a trained run, draw its figures, and write summary.json; returns what that holds."""
    scores = score(run, num_samples)
    idata = posterior.to_arviz(run.bnn, history=run.svi_history, seed=run.config.seed)
    write_figures(run.folder, training_figures(idata, run.dataset.x.shape[1:]))
    summary = {
        **scores,
        "epochs": len(run.history),
        "training_seconds": sum(record["seconds"] for record in run.history),
        "peak_memory_mib": _peak_memory_mib(),
        "config": run.config.to_json(),
        "versions": {
            "bbpyro": __version__,
            "torch": torch.__version__,
            "pyro": pyro.__version__,
            "python": platform.python_version(),
        },
    }
    checkpoint.write_json(run.folder / "summary.json", summary)
    return summary


def training_figures(idata: Any, input_shape: Sequence[int]) -> dict[str, Figure]:
    """The figures that need no predictions, by file name; `input_shape` is that of one input."""
    figures = {
        "keep_probability": plots.keep_probability(idata),
        "elbo": plots.elbo(idata),
        "kept_units": plots.kept_units(idata),
    }
    num_units = posterior.group(idata, "guide").sizes[f"{posterior.gates(idata)[0]}_unit"]
    if len(input_shape) == 2 and num_units == input_shape[0] * input_shape[1]:
        figures["input_map"] = plots.input_map(idata, (input_shape[0], input_shape[1]))
    return figures


def write_figures(folder: Path, figures: Mapping[str, Figure]) -> None:
    """Write figures as PNG under `folder`/figures."""
    (folder / "figures").mkdir(parents=True, exist_ok=True)
    for name, figure in figures.items():
        plots.save(figure, folder / "figures" / f"{name}.png")


def _peak_memory_mib() -> float:
    """The most memory this process has held at once, MiB."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / 1024 / (1024 if sys.platform == "darwin" else 1)  # macOS counts bytes, Linux KiB
