"""Figures of a study: what each prior costs and keeps, and where it puts π."""

import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator

from bbpyro.plots.style import (
    GREY,
    colors,
    curve,
    draws_of,
    legend,
    log_odds_axis,
    new_figure,
    panels,
    super_title,
    title,
)
from bbpyro.posterior import gates, layer
from bbpyro.posterior.container import import_arviz

# (error %, how many times fewer FLOPs), MNIST: of the authors' sweep, arXiv 1805.10896 and its code's plots.
PUBLISHED = {
    "lenet-500-300": {
        "BB": [(1.60, 30.4), (1.42, 17.2), (1.33, 13.3), (1.35, 10.8), (1.26, 5.1)],
        "SBP": [(1.6, 17.9), (1.53, 11.5)],
        "Sparse VD": [(1.51, 14.7)],
        "SSL": [(1.94, 23.0)],
        "DBB": [(1.42, 33.5), (1.28, 10.2)],
    },
    "lenet5-caffe": {"BB": [(0.57, 2.94), (0.65, 3.39)], "SBP": [(0.82, 4.81)], "DBB": [(0.64, 2.95)]},
}
_MARKERS = "osD^v"


def error_flops(runs: pd.DataFrame, published: Mapping[str, Sequence[tuple[float, float]]] | None = None) -> Figure:
    """Error against FLOPs left: each seed a dot, each prior a colour.

    Args:
        runs: `Study.runs`.
        published: points to put behind, by method: (error in percent, how many times fewer FLOPs).
    """
    figure = new_figure(8.5, 4.2)
    (axis,) = panels(figure, 1, 1)
    for (method, points), marker in zip((published or {}).items(), _MARKERS, strict=False):
        error, saved = np.array(points).T
        axis.plot(100 / saved, error, marker, color=GREY, markersize=5, fillstyle="none", label=f"published, {method}")
    priors = list(runs["prior"].unique())
    for prior, shade in zip(priors, colors(len(priors)), strict=True):
        group = runs[runs["prior"] == prior]
        axis.plot(100 * group["flops_left"], 100 * group["error"], "o", color=shade, markersize=7, label=prior)
    axis.set_xscale("log")
    axis.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axis.xaxis.set_minor_locator(LogLocator(subs=range(1, 10)))
    low, high = axis.get_xlim()
    minor = "{:g}" if high < 4 * low else ""  # or hardly a tick would have a number
    for set_formatter, text in ((axis.xaxis.set_major_formatter, "{:g}"), (axis.xaxis.set_minor_formatter, minor)):
        set_formatter(FuncFormatter(lambda x, _, text=text: text.format(x)))
    axis.set_xlabel("FLOPs left, %")
    axis.set_ylabel(f"error on {runs['scored_on'].iloc[0]} data, mean mask, %")
    title(axis, "lower left is better; a dot a seed")
    legend(axis, loc="center left", bbox_to_anchor=(1, 0.5))
    return figure


def kept_epochs(histories: Mapping[str, Sequence[Sequence[Mapping[str, Any]]]], total: Mapping[str, int]) -> Figure:
    """Units kept after each epoch, a panel a layer, a colour a prior, a line a seed.

    Args:
        histories: by prior, for each seed the records of :func:`bbpyro.fit`.
        total: by gate, its units.
    """
    figure = new_figure(max(6.0, 3.2 * len(total)), 4.4)
    axes = panels(figure, 1, len(total))
    widths = dict(zip(histories, np.linspace(5.0, 1.0, len(histories)), strict=True))  # where lines coincide all show
    for axis, (gate, units) in zip(axes, total.items(), strict=True):
        for (prior, seeds), shade in zip(histories.items(), colors(len(histories)), strict=True):
            width = widths[prior]
            for i, records in enumerate(seeds):
                kept = [record["active"][gate] for record in records]
                epochs = [record["epoch"] for record in records]
                curve(axis, epochs, kept, color=shade, linewidth=width, label=prior if i == 0 else None)
        axis.set_ylim(0, 1.04 * units)
        axis.xaxis.set_major_locator(MaxNLocator(integer=True))
        axis.set_xlabel("epoch of SVI")
        title(axis, f"input of {layer(gate)}, {units} units")
    axes[0].set_ylabel("units kept")
    _legend_below(figure, axes[0])
    return figure


def priors_posteriors(studied: Mapping[str, Any]) -> Figure:
    """How much of each prior, and of its posterior, lies above each value of π, a column a layer.

    Args:
        studied: by prior, what :func:`bbpyro.to_arviz` returned, a chain a seed.
    """
    names = gates(next(iter(studied.values())))
    figure = new_figure(max(6.0, 3.2 * len(names)), 6.4)
    axes = np.array(panels(figure, 2, len(names), sharex=True, sharey=True)).reshape(2, -1)
    at = 1 / (1 + np.exp(-np.linspace(np.log(1e-6), -np.log(1e-2), 300)))
    for row, group in zip(axes, ("prior", "posterior"), strict=True):
        for axis, gate in zip(row, names, strict=True):
            for (prior, idata), shade in zip(studied.items(), colors(len(studied)), strict=True):
                draws = np.sort(draws_of(idata, gate, name=group).ravel())
                above = 1 - np.searchsorted(draws, at, side="right") / len(draws)
                axis.plot(at, above, color=shade, linewidth=1.5, label=prior)
            log_odds_axis(axis, 1e-6, 0.99)
            axis.tick_params("x", labelrotation=45)
            title(axis, f"{group}, input of {layer(gate)}")
        row[0].set_ylabel("share of π above")
    for axis in axes[1]:
        axis.set_xlabel("keep probability π")
    _legend_below(figure, axes[0, 0])
    return figure


def _legend_below(figure: Figure, axis: Any) -> None:
    shown = figure.legend(
        *axis.get_legend_handles_labels(), loc="outside lower left", fontsize=8, frameon=False, ncols=2
    )
    for text in shown.get_texts():
        text.set_parse_math(False)


def loo_compare(loos: Mapping[str, Any]) -> Figure:
    """az.plot_compare of az.compare.

    Args:
        loos: by prior, what :func:`bbpyro.posterior.loo` returned.
    """
    arviz = import_arviz()
    figure = new_figure(8, 1.2 + 0.5 * len(loos))
    (axis,) = panels(figure, 1, 1)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="The inplace keyword")  # of pandas, to ArviZ
        arviz.plot_compare(arviz.compare(dict(loos)), ax=axis, textsize=8, legend=False, title=False)
    axis.set_xlabel("elpd_loo of 250 training data, nats")
    axis.set_ylabel("")
    super_title(
        figure,
        "az.compare of all seeds' draws together: elpd_loo and its standard error\n"
        "of data that a point W was fitted to: too good, and no ground to choose by",
    )
    return figure
