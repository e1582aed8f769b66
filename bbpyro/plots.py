"""The figures: each a function that takes a network and returns a matplotlib figure."""

from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.image import AxesImage

from bbpyro.layers import BetaBernoulliDropout
from bbpyro.model import BetaBernoulliNetwork

_DROPPED = "#e4e0dc"  # a light grey: viridis, which is safe for the colour-blind, has none
_COLORMAP = "viridis"


def keep_probability(bnn: BetaBernoulliNetwork) -> Figure:
    """E[π] of every unit: one heat strip a gate, units in their own order, dropped units in grey."""
    figure = Figure(figsize=(9, 0.9 + 0.95 * len(bnn.gates)), layout="constrained")
    axes = figure.subplots(len(bnn.gates), 1, squeeze=False)[:, 0]
    for axis, (name, gate) in zip(axes, bnn.gates.items(), strict=True):
        image = axis.imshow(_kept_only(gate)[None, :], aspect="auto", interpolation="nearest", **_style())
        num_kept = int(gate.kept().sum())
        axis.set_title(
            f"input of {name.removesuffix('.gate')}: {num_kept} of {gate.num_features} units kept "
            f"({num_kept / gate.num_features:.1%})",
            fontsize=10,
            loc="left",
        )
        axis.set_yticks([])
    axes[-1].set_xlabel("unit")
    _colorbar(figure, image, list(axes))
    return figure


def input_map(bnn: BetaBernoulliNetwork, shape: tuple[int, int]) -> Figure:
    """E[π] of the first gate's units as an image of `shape`: which input pixels the network looks at.

    Raises:
        ValueError: `shape` has not as many pixels as the gate has units.
    """
    gate = next(iter(bnn.gates.values()))
    if shape[0] * shape[1] != gate.num_features:
        raise ValueError(f"shape {shape} has {shape[0] * shape[1]} pixels, the first gate {gate.num_features} units")
    figure = Figure(figsize=(4.6, 4.2), layout="constrained")
    axis = figure.subplots()
    image = axis.imshow(_kept_only(gate).reshape(shape), interpolation="nearest", **_style())
    axis.set_title(f"input pixels: {int(gate.kept().sum())} of {gate.num_features} kept", fontsize=10, loc="left")
    axis.set_xlabel("pixel column")
    axis.set_ylabel("pixel row")
    _colorbar(figure, image, [axis])
    return figure


def save(figure: Figure, path: Path) -> None:
    """Write a figure as a PNG."""
    figure.savefig(path, dpi=150)


def _kept_only(gate: BetaBernoulliDropout) -> np.ma.MaskedArray:
    mean, kept = gate.keep_probability().detach().cpu().numpy(), gate.kept().cpu().numpy()
    return np.ma.masked_array(mean, ~kept)


def _style() -> dict[str, Any]:
    return {"vmin": 0.0, "vmax": 1.0, "cmap": matplotlib.colormaps[_COLORMAP].with_extremes(bad=_DROPPED)}


def _colorbar(figure: Figure, image: AxesImage, axes: list[Axes]) -> None:
    figure.colorbar(image, ax=axes, label="keep probability E[π]; grey: dropped", pad=0.02)
