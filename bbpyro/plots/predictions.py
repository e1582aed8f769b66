"""Figures of what the posterior predicts, and how far that can be trusted."""

from typing import Any

import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from bbpyro.plots.style import (
    COLORS,
    GREY,
    check_positive,
    colors,
    legend,
    log_odds_axis,
    mark_threshold,
    new_figure,
    panels,
    threshold_of,
    title,
)
from bbpyro.posterior import gates, group, layer
from bbpyro.prediction import calibration, score

MIN_COUNT = 10  # a bin of fewer data says nothing
_BY = {"monte_carlo": "Monte Carlo", "mean_mask": "mean mask"}


def threshold_sweep(idata: Any) -> Figure:
    """Kept units, and the error of the mean mask, at every threshold: how little depends on where one cuts."""
    sweep = group(idata, "threshold_sweep").mean("chain")
    figure = new_figure(6.5, 5.2)
    above, below = panels(figure, 2, 1, sharex=True)
    at = sweep["threshold"].values
    names = gates(idata)
    for gate, shade in zip(names, colors(len(names)), strict=True):
        kept = sweep[f"{gate}.kept"].values
        units = group(idata, "posterior").sizes[f"{gate}_unit"]
        above.plot(at, 100 * kept / units, color=shade, label=f"input of {layer(gate)}, {units} units")
    above.set_ylabel("units kept, %")
    above.set_ylim(0, 102)
    if "error" in sweep:
        error = 100 * sweep["error"].values
        below.plot(at, error, color="black")
        below.set_ylim(0, min(4 * error.min() + 1, 102))
        below.set_ylabel("error of the mean mask, %")
    else:
        below.plot(at, sweep["nll"].values, color="black")
        below.set_ylabel("NLL of the mean mask, nats a datum")
    below.set_xlabel("threshold on E[π]")
    log_odds_axis(below)
    for axis in (above, below):
        mark_threshold(axis, threshold_of(idata, names[0]), "this network's")
        legend(axis)
    return figure


def reliability(idata: Any, num_bins: int = 15) -> Figure:
    """How often the network is right where it is sure, and the expected calibration error (arXiv 1706.04599)."""
    check_positive("num_bins", num_bins)
    probs, y = group(idata, "class_probability").mean("chain"), _labels(idata)
    figure = new_figure(5, 5.4)
    above, below = panels(figure, 2, 1, sharex=True, height_ratios=(3, 1))
    above.plot((0, 1), (0, 1), color=GREY, linestyle=":", label="calibrated")
    for name, shade in zip(_BY, COLORS, strict=False):
        by = torch.from_numpy(probs[name].values)
        bins = calibration(by, y, num_bins)
        some = bins.count >= MIN_COUNT
        accuracy, count = bins.accuracy[some], bins.count[some]
        spread = torch.sqrt(accuracy * (1 - accuracy) / count)
        label = f"{_BY[name]}, ECE {score(by, y, num_bins).ece:.4f}"
        above.errorbar(bins.confidence[some], accuracy, spread, color=shade, marker="o", markersize=4, label=label)
        edges = np.linspace(0, 1, num_bins + 1)
        below.stairs(bins.count.numpy(), edges, color=shade, label=_BY[name])
    title(above, f"{len(y):,} data; bars: one standard error; bins of {MIN_COUNT} data or more")
    above.set_ylabel("share that is right")
    above.set_ylim(0, 1.02)
    below.set_yscale("log")
    below.set_ylabel("data")
    below.set_xlabel("confidence: probability of the predicted class")
    below.set_xlim(0, 1)
    legend(above, loc="lower right")
    return figure


def predictions(idata: Any, num_each: int = 6) -> Figure:
    """Images with their predictive distribution: the most confident mistakes, and the least confident hits.

    Raises:
        ValueError: idata has no images, [N, rows, columns], or no labels.
    """
    check_positive("num_each", num_each)
    x = group(idata, "constant_data")["x"].values
    if x.ndim != 3:
        raise ValueError(f"idata: x has shape {x.shape}, wanted images [N, rows, columns]")
    probs, y = group(idata, "class_probability")["monte_carlo"].mean("chain").values, _labels(idata).numpy()
    label, confidence = probs.argmax(-1), probs.max(-1)
    wrong, right = np.flatnonzero(label != y), np.flatnonzero(label == y)
    rows = {
        "most confident mistakes": wrong[np.argsort(-confidence[wrong])][:num_each],
        "least confident hits": right[np.argsort(confidence[right])][:num_each],
    }
    rows = {text: chosen for text, chosen in rows.items() if len(chosen)}
    kind = " ".join([*group(idata, "observed_data").attrs.get("predicted", "").split()[:1], "image"])
    figure = new_figure(max(5.5, 1.55 * num_each), 2.75 * len(rows))
    parts = figure.subfigures(len(rows), 1, squeeze=False)[:, 0]
    for part, (text, chosen) in zip(parts, rows.items(), strict=True):
        part.suptitle(f"{text} (green: the truth, orange: a wrong prediction)", fontsize=10)
        axes = part.subplots(2, num_each, height_ratios=(3, 2), squeeze=False)
        for image, bars in axes.T[len(chosen) :]:
            image.set_visible(False)
            bars.set_visible(False)
        for datum, (image, bars) in zip(chosen, axes.T, strict=False):
            image.imshow(x[datum], cmap="gray_r", interpolation="nearest")
            image.set_xticks([])
            image.set_yticks([])
            image.set_title(f"{kind} {datum}: true {y[datum]}", fontsize=7)
            _class_bars(bars, probs[datum], int(y[datum]))
        axes[1, 0].set_ylabel("probability", fontsize=8)
    return figure


def _class_bars(axis: Axes, probs: Any, truth: int) -> None:
    shades = [COLORS[2] if k == truth else COLORS[1] if k == probs.argmax() else GREY for k in range(len(probs))]
    axis.bar(range(len(probs)), probs, color=shades)
    axis.set_ylim(0, 1)
    axis.set_yticks([0, 1])
    axis.set_xticks(range(len(probs)) if len(probs) <= 10 else [truth, int(probs.argmax())])
    axis.tick_params(labelsize=6, length=2)
    axis.spines[["top", "right"]].set_visible(False)


def _labels(idata: Any) -> torch.Tensor:
    return torch.from_numpy(group(idata, "observed_data")["y"].values.astype(np.int64))
