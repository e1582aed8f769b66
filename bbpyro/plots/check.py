"""The figure that holds q(π) against the exact posterior."""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from bbpyro.plots.style import COLORS, chains_title, draws_of, legend, new_figure, panels, super_title, title
from bbpyro.posterior import gates, unit_names

_GUIDE, _EXACT = COLORS[1], COLORS[0]


def guide_check(idata: Any, exact: Any, gate: str | None = None) -> Figure:
    """q(π) beside the posterior of the same model by NUTS, unit by unit, and the two units that depend most.

    Args:
        idata: what :func:`bbpyro.to_arviz` returned.
        exact: what :func:`bbpyro.mcmc.nuts` returned, of the same network.
        gate: which; by default the first.

    Raises:
        ValueError: there is no such gate in both.
    """
    gate = gate or gates(idata)[0]
    if gate not in gates(idata) or f"{gate}.pi" not in exact["posterior"]:
        raise ValueError(f"gate is {gate!r}, wanted one that idata and exact both have: {', '.join(gates(idata))}")
    q, p = draws_of(idata, gate), draws_of(exact, gate)
    if q.shape[1] != p.shape[1]:
        raise ValueError(f"gate {gate!r} has {q.shape[1]} units in idata and {p.shape[1]} in exact; wanted one network")
    num_units = q.shape[1]
    num_panels = num_units + (num_units > 1)
    columns = min(num_panels, 3)
    figure = new_figure(3.1 * columns, 2.6 * math.ceil(num_panels / columns))
    axes = panels(figure, math.ceil(num_panels / columns), columns)
    named_units = unit_names(idata, gate)
    bins = np.linspace(0, 1, 26).tolist()
    for unit, axis in zip(range(num_units), axes, strict=False):
        for draws, shade, label in ((q, _GUIDE, "q(π)"), (p, _EXACT, "NUTS")):
            named = f"{label}, sd {draws[:, unit].std():.2f}"
            axis.hist(draws[:, unit], bins, density=True, histtype="step", color=shade, label=named, linewidth=1.5)
        title(axis, f"unit {named_units[unit]}")
        axis.set_xlabel("keep probability π")
        axis.set_ylabel("density")
        legend(axis)
    if num_units > 1:
        _dependence(axes[num_units], q, p, named_units)
    for axis in axes[num_panels:]:
        axis.set_visible(False)
    super_title(figure, chains_title(idata, "their draws all together"))
    return figure


def _dependence(axis: Axes, q: Any, p: Any, names: Sequence[str]) -> None:
    """The two units whose π depend most on each other, under both."""
    correlation = np.triu(np.corrcoef(p.T), 1)
    first, second = np.unravel_index(np.abs(correlation).argmax(), correlation.shape)
    for draws, shade, label in ((q, _GUIDE, "q(π)"), (p, _EXACT, "NUTS")):
        r = np.corrcoef(draws[:, first], draws[:, second])[0, 1]
        axis.plot(
            draws[:, first], draws[:, second], ".", color=shade, markersize=2, alpha=0.5, label=f"{label}, r = {r:.2f}"
        )
    title(axis, f"unit {names[second]} against unit {names[first]}")
    axis.set_xlabel(f"π of unit {names[first]}", parse_math=False)
    axis.set_ylabel(f"π of unit {names[second]}", parse_math=False)
    axis.set_xlim(-0.02, 1.02)
    axis.set_ylim(-0.02, 1.5)
    axis.set_yticks([0, 0.5, 1])
    legend(axis, loc="upper left", markerscale=4)
