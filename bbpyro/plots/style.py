"""What the figures share: colours that the colour-blind can tell apart, and how a layer is named."""

import io
import math
import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from bbpyro import checkpoint, posterior
from bbpyro.posterior import group

# Okabe and Ito's palette, in the order in which neighbours differ most.
COLORS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")
GREY, PALE = "#8a8580", "#cfcac4"
DROPPED = "#e4e0dc"  # a light grey; neither scale has a grey, and both are safe for the colour-blind
COLORMAP, SPREAD_COLORMAP = "viridis", "plasma"
_SHOWN = " "  # before a label that begins with _
PRIOR_STYLE = {"color": "black", "linewidth": 1.2, "linestyle": "--"}  # thin, to be drawn over the posterior's line


class NotebookFigure(Figure):
    """A figure that belongs to no window, and that a notebook shows all the same, pyplot imported or not."""

    def _repr_png_(self) -> bytes:
        png = io.BytesIO()
        self.savefig(png, format="png", dpi=80)
        return png.getvalue()


def new_figure(width: float, height: float) -> Figure:
    """An empty figure, in inches."""
    return NotebookFigure(figsize=(width, height), layout="constrained")


def panels(figure: Figure, rows: int, columns: int, **options: Any) -> Sequence[Axes]:
    """Axes in reading order, without the frame's upper and right edge."""
    axes: list[Axes] = list(figure.subplots(rows, columns, squeeze=False, **options).ravel())
    for axis in axes:
        axis.spines[["top", "right"]].set_visible(False)
    return axes


def title(axis: Axes, text: str) -> None:
    """A title at the left edge."""
    axis.set_title(text, fontsize=10, loc="left", parse_math=False)


def super_title(figure: Figure, text: str) -> None:
    """A title over all panels; none where there is nothing to say."""
    if text:
        figure.suptitle(text, fontsize=10, parse_math=False)


def curve(axis: Axes, x: Any, y: Any, linewidth: float = 1.5, **options: Any) -> None:
    """A line; where one point is all there is, a dot, since a line through one point shows nothing."""
    is_point = np.isfinite(np.asarray(y, dtype=float)).sum() == 1
    axis.plot(x, y, marker="o" if is_point else None, markersize=3 + 2 * linewidth, linewidth=linewidth, **options)


def widths(count: int) -> Any:
    """Of so many lines that may coincide, so that each is seen within the one before."""
    return np.linspace(1.2 + 1.4 * min(count - 1, 4), 1.2, count)


def whole_numbers(axis: Axes) -> None:
    """A horizontal axis of whole numbers, be it one."""
    axis.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))


def epoch_axis(axis: Axes, text: str = "epoch") -> None:
    """A horizontal axis of epochs, be it one."""
    whole_numbers(axis)
    axis.set_xlabel(text)


def legend(axis: Axes, **options: Any) -> None:
    """A small legend on white, without a frame; of many lines, beside the axes."""
    if len(axis.get_legend_handles_labels()[1]) > len(COLORS) + 1:
        options = {"loc": "center left", "bbox_to_anchor": (1, 0.5)} | options
    shown = axis.legend(fontsize=8, edgecolor="none", framealpha=0.85, **options)
    for text in shown.get_texts():
        text.set_parse_math(False)
        text.set_text(text.get_text().removeprefix(_SHOWN))


def label(name: str) -> str:
    """A label of a user's name that :func:`legend` shows as it is; matplotlib leaves out those that begin with _."""
    return f"{_SHOWN}{name}" if name.startswith("_") else name


def colors(count: int) -> Sequence[Any]:
    """A colour for each layer, of so many."""
    if count <= len(COLORS):
        return COLORS[:count]
    return list(matplotlib.colormaps[COLORMAP](np.linspace(0, 0.95, count)))


def panel_each(count: int, height: float) -> tuple[Figure, Sequence[Axes]]:
    """A figure with a panel for each layer, four in a row."""
    columns, rows = min(count, 4), math.ceil(count / 4)
    figure = new_figure(max(5.5, 3.2 * columns), height * rows)
    axes = panels(figure, rows, columns, sharey=True)
    for axis in axes[count:]:
        axis.set_visible(False)
    return figure, axes[:count]


def chain_note(idata: Any, chain: int) -> str:
    """Which chain is shown, where there are several."""
    count = posterior.num_chains(idata)
    return f", chain {chain} of {count}" if count > 1 else ""


def chains_title(idata: Any, text: str) -> str:
    """What is said of several chains in one figure, `text` with their number before it; of one nothing."""
    count = posterior.num_chains(idata)
    return f"{count} chains, {text}" if count > 1 else ""


def threshold_of(idata: Any, gate: str) -> float:
    """The gate's threshold."""
    return float(group(idata, "guide")[f"{gate}.threshold"][0])


def kept_of(idata: Any, gate: str, chain: int) -> Any:
    """Which units have a measure, E[π], above the threshold."""
    return posterior.measure(idata, gate, chain) > threshold_of(idata, gate)


def draws_of(idata: Any, gate: str, chain: int | None = None, name: str = "posterior") -> Any:
    """Draws of π, or of what the gate has in its place, `[S, K]`; of one chain, or of all of them together."""
    draws = group(idata, name)[posterior.latent(idata, gate)].values
    return draws.reshape(-1, draws.shape[-1]) if chain is None else draws[chain]


def mark_threshold(axis: Axes, threshold: float, label: str = "threshold", color: Any = "black") -> None:
    """A vertical line where units are cut."""
    axis.axvline(threshold, color=color, linestyle=":", linewidth=1, label=f"{label} {threshold:.3g}")


def log_odds_axis(axis: Axes, low: float = 1e-5, high: float = 0.99) -> None:
    """A horizontal axis of probabilities, even in their log-odds, on which both ends can be seen."""
    axis.set_xscale("logit")
    axis.set_xlim(low, high)
    ticks = [t for t in (1e-6, 1e-5, 1e-4, 1e-3, 1e-2, 0.1, 0.5, 0.9, 0.99) if low <= t <= high]
    axis.set_xticks(ticks, [f"{t:g}" for t in ticks])
    axis.set_xticks([], minor=True)


def odds_range(low: float, high: float, count: int = 300) -> Any:
    """Probabilities evenly spaced in log-odds."""
    return 1 / (1 + np.exp(-np.linspace(np.log(low / (1 - low)), np.log(high / (1 - high)), count)))


def wrapped(text: str, width: int) -> str:
    """Text broken into lines at the ends of words, as the name of a prior is."""
    return "\n".join(textwrap.wrap(text, width, break_long_words=False, break_on_hyphens=False))


def save(figure: Figure, path: Path | str) -> None:
    """Write a figure as a PNG, whole or not at all."""
    checkpoint.replace_atomic(Path(path), lambda temporary: figure.savefig(temporary, dpi=150, format="png"))


def check_positive(name: str, number: int) -> None:
    """Raise a ValueError unless a count is at least 1."""
    if number < 1:
        raise ValueError(f"{name} is {number}, wanted at least 1")


def masked(values: Any, shown: Any) -> Any:
    """The values that are shown; the others are left blank."""
    return np.ma.masked_array(values, ~shown)
