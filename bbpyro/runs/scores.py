"""What a trained run is worth: its scores, its summary, its figures."""

import contextlib
import functools
import platform
import resource
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pyro
import torch
from matplotlib.figure import Figure
from rich.console import Console

from bbpyro import checkpoint, plots, posterior
from bbpyro.checkpoint import CheckpointError
from bbpyro.checks import in_eval_mode
from bbpyro.layers import device_of
from bbpyro.prediction import evaluate
from bbpyro.runs.limits import check_num_samples
from bbpyro.runs.origins import Pretrained, plain_network
from bbpyro.runs.run import Run
from bbpyro.version import __version__


def score(run: Run, num_samples: int = 100, console: Console | None = None) -> dict[str, Any]:
    """Scores by mean mask and by Monte Carlo, and the units kept.

    Args:
        run: the run.
        num_samples: draws of q(z, π).
        console: where a progress bar is drawn.

    Raises:
        CheckpointError: the run is still in pretraining.
    """
    check_num_samples("num_samples", num_samples)
    if not run.svi_history:
        last = run.history[-1]
        plain = f"{1 - last['held_out_accuracy']:.2%} after epoch {last['epoch']} of {run.config.pretrain_epochs}"
        run.check_gates(
            f"its gates are not trained yet, and the {run.config.scored_on} error of the plain network is {plain}"
        )
    x, y = run.dataset.x_test, run.dataset.y_test
    with torch.random.fork_rng():
        torch.manual_seed(run.config.seed)
        by_mean, by_draws = (evaluate(run.bnn, x, y, n, progress=console or False) for n in (None, num_samples))
    return {
        "scored_on": run.config.scored_on,
        "num_scored": len(y),
        "mean_mask": _rounded(by_mean, len(y)),
        "monte_carlo": {"num_samples": num_samples, **_rounded(by_draws, len(y))},
        "plain_error": _plain_error(run),
        "majority_error": int((y != run.dataset.y.mode().values).sum()) / len(y),
        "kept": {name: int(gate.kept().sum()) for name, gate in run.bnn.gates.items()},
        "active": _active(run),
        "starts": run.starts,
        "kept_features": posterior.kept_features(run.bnn, x, run.dataset.feature_names),
        "total": {name: gate.num_features for name, gate in run.bnn.gates.items()},
        "side": {name: posterior.side_of(gate) for name, gate in run.bnn.gates.items()},
    }


@torch.no_grad()
def _active(run: Run) -> dict[str, float]:
    """Of gates whose masks depend on the datum, how many units of theirs a held-out datum has, on average."""
    counts: dict[str, float] = {}
    gates = {name: gate for name, gate in run.bnn.gates.items() if gate.depends_on_data}

    def count(name: str, gate: Any, args: tuple[Any, ...], output: Any) -> None:
        counts[name] = counts.get(name, 0.0) + gate.kept_for(args[0]).sum().item()

    with contextlib.ExitStack() as hooks, in_eval_mode(run.bnn):
        for name, gate in gates.items():
            hooks.callback(gate.register_forward_hook(functools.partial(count, name)).remove)
        for batch in run.dataset.x_test.split(1000) if gates else ():
            run.bnn(batch.to(device_of(run.bnn)))
    return {name: total / len(run.dataset.x_test) for name, total in counts.items()}


def _rounded(found: Any, num_data: int) -> dict[str, float]:
    """The error as wrong of all, and no more digits of the rest than float32 has."""
    return {
        "error": round(found.error * num_data) / num_data,
        "nll": float(f"{found.nll:.7g}"),
        "ece": float(f"{found.ece:.7g}"),
    }


def _plain_error(run: Run) -> float | None:
    """That of the plain network SVI started from; None where that was not trained, or is not there any more."""
    x, y = run.dataset.x_test, run.dataset.y_test
    before = [record for record in run.history if record["phase"] == "pretraining"]
    if before:
        return round((1 - before[-1]["held_out_accuracy"]) * len(y)) / len(y)
    if run.config.pretrained is None or run.config.pretrained.is_dir():  # a run has no plain network
        return None
    plain = plain_network(run.config, run.dataset)
    try:
        plain.load_state_dict(Pretrained(run.config.pretrained).weights(plain))
    except CheckpointError:
        return None
    with torch.no_grad(), in_eval_mode(plain):
        labels = torch.cat([plain(batch).argmax(-1) for batch in x.split(1000)])
    return int((labels != y).sum()) / len(y)


def collapse(scores: Mapping[str, Any]) -> str:
    """What a run came to that learnt nothing, or nothing where a layer has no unit left; of any other, nothing.

    Args:
        scores: of :func:`score`, or the row of a run in a study; that of a bbpyro of before says less.
    """
    empty: dict[str, list[str]] = {}
    for gate, kept in scores["kept"].items():
        if kept == 0:
            empty.setdefault(scores.get("side", {}).get(gate, "input"), []).append(posterior.layer(gate))
    error = scores["mean_mask"]["error"] if "mean_mask" in scores else scores["error"]
    majority, plain = scores.get("majority_error"), scores.get("plain_error")
    if empty:
        places = [f"{side} of {', '.join(layers)}" for side, layers in empty.items()]
        what = f"no unit is left on the {' or the '.join(places)}, so every answer is the same"
    elif majority and error >= majority:  # of data of that class alone nothing can be said
        what = "the network is no better than the most frequent class"
    else:
        return ""
    others = {"the plain network": plain, "the most frequent class": majority}
    told = "".join(f", that of {name} {other:.2%}" for name, other in others.items() if other is not None)
    return f"{what}: its error is {error:.2%}{told}"


def summarize(run: Run, num_samples: int = 100, console: Console | None = None) -> dict[str, Any]:
    """Score a trained run, draw its figures, and write summary.json; returns what that holds; arguments as above."""
    scores = score(run, num_samples, console)
    with console.status("drawing figures") if console else contextlib.nullcontext():
        idata = posterior.to_arviz(run.bnn, history=run.svi_history, seed=run.config.seed)
        write_figures(run.folder, training_figures(idata, run.dataset.x.shape[1:]))
    summary = {
        **scores,
        "epochs": len(run.history),
        "training_seconds": run.training_seconds,
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
