"""Figures of what the posterior predicts, and how far that can be trusted."""

from typing import Any

import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from bbpyro.plots.style import (
    COLORS,
    GREY,
    chains_title,
    check_positive,
    colors,
    legend,
    log_odds_axis,
    mark_threshold,
    new_figure,
    panels,
    super_title,
    threshold_of,
    title,
    widths,
)
from bbpyro.posterior import gates, group, layer, place
from bbpyro.prediction import calibration, score

MIN_COUNT = 10  # a bin of fewer data says nothing
_BY = {"monte_carlo": "Monte Carlo", "mean_mask": "mean mask"}


def threshold_sweep(idata: Any) -> Figure:
    """Kept units, and the error of the mean mask, at every threshold: how little depends on where one cuts."""
    sweep = group(idata, "threshold_sweep")
    figure = new_figure(6.5, 5.2)
    above, below = panels(figure, 2, 1, sharex=True)
    at, names, chains = sweep["threshold"].values, gates(idata), range(sweep.sizes["chain"])
    thresholds = {gate: threshold_of(idata, gate) for gate in names}
    for gate, shade, width in zip(names, colors(len(names)), widths(len(names)), strict=True):
        units = group(idata, "posterior").sizes[f"{gate}_unit"]
        label = f"{place(idata, gate)}, {units} units"
        for chain in chains:
            kept = 100 * sweep[f"{gate}.kept"].values[chain] / units
            above.plot(at, kept, color=shade, linewidth=width, label=label if chain == 0 else None)
    above.set_ylabel("units kept, %")
    above.set_ylim(0, 102)
    score, factor, text = ("error", 100, "error of the mean mask, %")
    if "error" not in sweep:
        score, factor, text = "nll", 1, "NLL of the mean mask, nats a datum"
    values = factor * sweep[score].values
    for chain in chains:
        below.plot(at, values[chain], color="black")
    if score == "error":
        below.set_ylim(0, min(4 * values.min(1).max() + 1, 102))
    below.set_ylabel(text)
    below.set_xlabel("threshold on E[π], even in log-odds")
    log_odds_axis(below)
    for axis in (above, below):
        if len(set(thresholds.values())) == 1:
            mark_threshold(axis, thresholds[names[0]], "this network's" if len(chains) == 1 else "these networks'")
        else:  # the prior raises that of narrow layers more
            for gate, shade in zip(names, colors(len(names)), strict=True):
                mark_threshold(axis, thresholds[gate], layer(gate), shade)
        legend(axis)
    super_title(figure, chains_title(idata, "a line each"))
    return figure


def reliability(idata: Any, num_bins: int = 15) -> Figure:
    """How often the network is right where it is sure, and the expected calibration error (arXiv 1706.04599)."""
    check_positive("num_bins", num_bins)
    probs, y = group(idata, "class_probability").mean("chain"), _labels(idata)
    figure = new_figure(5, 5.4)
    above, below = panels(figure, 2, 1, sharex=True, height_ratios=(3, 1))
    above.plot((0, 1), (0, 1), color=GREY, linestyle=":", label="calibrated")
    for name, shade, size in zip(_BY, COLORS, (9, 4), strict=False):  # the second is seen within the first
        by = torch.from_numpy(probs[name].values)
        bins = calibration(by, y, num_bins)
        some = bins.count >= MIN_COUNT
        accuracy, count = bins.accuracy[some], bins.count[some]
        spread = torch.sqrt(accuracy * (1 - accuracy) / count)
        label = f"{_BY[name]}, ECE {score(by, y, num_bins).ece:.4f}"
        style: dict[str, Any] = {"color": shade, "linewidth": size / 3}
        above.errorbar(bins.confidence[some], accuracy, spread, marker="o", markersize=size, label=label, **style)
        edges = np.linspace(0, 1, num_bins + 1)
        below.stairs(bins.count.numpy(), edges, label=_BY[name], **style)
    title(above, f"{len(y):,} data; bars: one standard error; bins of {MIN_COUNT} data or more")
    super_title(figure, chains_title(idata, "the mean of their probabilities"))
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
    inputs = group(idata, "constant_data").data_vars
    images = [values for values in inputs.values() if values.ndim == 3]
    if not images:
        shapes = ", ".join(f"{name} has shape {values.shape}" for name, values in inputs.items())
        raise ValueError(f"idata: {shapes}, wanted images [N, rows, columns]")
    x = images[0].values
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
    super_title(figure, chains_title(idata, "the mean of their probabilities"))
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
