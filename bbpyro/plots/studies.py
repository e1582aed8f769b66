"""Figures of a study: what each setting, such as a prior, costs and keeps, and where it puts π."""

import itertools
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

from bbpyro.plots.labels import name_points
from bbpyro.plots.marks import MARKS, faults, signs
from bbpyro.plots.style import (
    GREY,
    PALE,
    PRIOR_STYLE,
    colors,
    curve,
    epoch_axis,
    label,
    legend,
    log_odds_axis,
    new_figure,
    odds_range,
    panels,
    super_title,
    title,
    wrapped,
)
from bbpyro.posterior import elpd, gates, num_chains, place, place_of, share_above
from bbpyro.posterior.container import elpd_pointwise

_BEHIND = "published, "
_STOPS = "osD^vP*X<>"
_SAME_PLACE = 3.0  # points of a figure, 1/72 inch, within which two rings of one size look like one


def setting(keys: Sequence[str], values: Any) -> str:
    """What a setting of a study is called: "Jeffreys(), gate learning rate 0.01"; `values` are those of the `keys`."""
    parts = []
    for key, value in zip(keys, values if isinstance(values, tuple) else (values,), strict=True):
        shown = value if isinstance(value, str) else f"{value:.12g}"
        parts.append(shown if key in ("prior", "point") else f"{key.replace('_', ' ')} {shown}")
    return ", ".join(parts)


def error_macs(
    runs: pd.DataFrame,
    published: Mapping[str, Sequence[tuple[float, float]]] | None = None,
    keys: Sequence[str] = ("prior",),
) -> Figure:
    """Error against multiply-accumulates left: each seed a ring, each prior a colour and a size, so that none hides.

    Where a number varies, or points have names, its values are the points of a curve, each the mean of its seeds with
    their range; of several such settings the first. Families, or other texts, are no points of one curve. Runs
    that are no better than the most frequent class, or have a layer without units, are marked.

    Args:
        runs: `Study.runs`; its columns plain_error and majority_error, where there are any, become lines.
        published: points to put behind, by method: (error in percent, how many times fewer multiply-accumulates).
        keys: the columns of `runs` that tell settings apart, `Study.table.index.names`.

    Raises:
        ValueError: `runs` has no column macs_left, as the runs.csv of an earlier version has not.
    """
    if "macs_left" not in runs:
        raise ValueError(
            "runs has no column macs_left: a study of an earlier version has it once it is read again, by "
            "bbpyro compare --resume FOLDER, or bbpyro.studies.load(FOLDER).runs"
        )
    figure = new_figure(8.5, 4.8)
    (axis,) = panels(figure, 1, 1)
    behind = {method: np.array(points).T for method, points in (published or {}).items()}
    for method, (error, fewer) in behind.items():
        style: dict[str, Any] = {"color": GREY, "markersize": 5, "fillstyle": "none", "zorder": 4, "clip_on": False}
        axis.plot(100 / fewer, error, "s", **style, label=_BEHIND + method, gid=_BEHIND)
    low = min(
        [0.8 * 100 * share for share in runs["macs_left"] if share > 0]
        + [80 / n for _, m in behind.values() for n in m]
    )
    runs = runs.assign(macs_left=np.maximum(runs["macs_left"], low / 100))  # a logarithm has no 0
    along = next((key for key in keys if key == "point" or pd.api.types.is_numeric_dtype(runs[key])), None)
    curves = _split(runs, [key for key in keys if key != along])
    rings = _draw_curves(axis, curves, along) if along else _draw_rings(axis, curves)
    values = np.concatenate([line.get_ydata() for line in axis.lines])
    _macs_axis(axis, min(low, 50))
    _error_axis(axis, values)
    for name, text, dashes in (("plain_error", "plain network", "--"), ("majority_error", "most frequent class", ":")):
        if name in runs and runs[name].notna().any():
            error = 100 * pd.to_numeric(runs[name]).mean()  # a run that began from weights in a file has None
            above = "" if error <= axis.get_ylim()[1] else ", above the axis"
            axis.axhline(error, color="black", linestyle=dashes, linewidth=1, label=f"{text}, {error:.2f}%{above}")
    axis.set_ylabel(f"error on {' and '.join(runs['scored_on'].unique())} data, mean mask, %")
    found = _annotate(figure, axis, rings)
    told = [f"{sign}: {text}" for name, (sign, text) in MARKS.items() if name in found]
    marks = "a point the mean of its seeds, and their range;\na ring a seed" if along else "a ring a seed"
    title(axis, "\n".join([f"lower left is better; {marks}, ×2 two of them in one place", *told]))
    _legend_beside(axis)
    published_points = [
        (str(line.get_label()).removeprefix(_BEHIND), xy)
        for line in axis.lines
        if line.get_gid() == _BEHIND
        for xy in np.asarray(line.get_xydata())
    ]
    name_points(figure, axis, published_points)
    return figure


def _split(runs: pd.DataFrame, keys: Sequence[str]) -> dict[str, pd.DataFrame]:
    """The runs of each setting, by what it is called; those of numbers from the least on."""
    if not keys:
        return {"": runs}
    groups = list(runs.groupby(list(keys), sort=False))
    if all(isinstance(value, int | float | np.number) for key, _ in groups for value in key):
        groups.sort(key=lambda each: each[0])
    return {setting(keys, key): group for key, group in groups}


def _draw_rings(axis: Axes, priors: Mapping[str, pd.DataFrame]) -> list[tuple[pd.DataFrame, Any]]:
    """A ring a run, each prior in a colour and size; returns the runs of each, and its rings."""
    sizes = np.linspace(6 + 2.5 * (len(priors) - 1), 6, len(priors))
    rings = []
    for (prior, group), shade, size in zip(priors.items(), colors(len(priors)), sizes, strict=True):
        style = {"color": shade, "markersize": size, "fillstyle": "none", "markeredgewidth": 1.6, "clip_on": False}
        rings += [(group, _place(axis, group, "o", label=label(prior), **style))]
    return rings


def _draw_curves(axis: Axes, curves: Mapping[str, pd.DataFrame], along: str) -> list[tuple[pd.DataFrame, Any]]:
    """A curve through the means of each, along the values of one column; returns the runs of a point, and its rings."""
    stops = _split(pd.concat(curves.values()), [along])
    of_curves, of_stops = colors(len(curves)), colors(len(stops))
    is_one = len(curves) == 1
    shapes = dict.fromkeys(stops, "o") if is_one else dict(zip(stops, itertools.cycle(_STOPS), strict=False))
    number = len(curves) * len(stops)
    sizes = iter(np.linspace(7 + min(1.2 * (number - 1), 6), 7, number))  # so that none hides another
    rings = []
    for (name, runs), shade in zip(curves.items(), of_curves, strict=True):
        points = _split(runs, [along])
        means = pd.DataFrame({stop: group[["macs_left", "error"]].mean() for stop, group in points.items()}).T
        shade = GREY if is_one else shade
        _place(axis, means, "-", color=shade, linewidth=1.2, zorder=1.5, label=label(name) or None)
        for stop, group in points.items():
            own = of_stops[list(stops).index(stop)] if is_one else shade
            style: dict[str, Any] = {"color": own, "clip_on": False}
            rings += [(group, _place(axis, group, shapes[stop], markersize=4, fillstyle="none", **style))]
            x, y = 100 * group["macs_left"], 100 * group["error"]
            axis.plot([x.min(), x.max()], [y.mean()] * 2, "-", linewidth=1, **style)
            axis.plot([x.mean()] * 2, [y.min(), y.max()], "-", linewidth=1, **style)
            named = label(_with_budget(stop, along, group)) if is_one else None
            _place(axis, means.loc[[stop]], shapes[stop], markersize=next(sizes), zorder=3, label=named, **style)
    for stop, group in {} if is_one else stops.items():
        named = label(_with_budget(stop, along, group))
        axis.plot([], [], shapes[stop], color=GREY, markersize=7, label=named)
    return rings


def _place(axis: Axes, runs: pd.DataFrame, form: str, **style: Any) -> Any:
    (line,) = axis.plot(100 * runs["macs_left"], 100 * runs["error"], form, **style)
    return line


def _with_budget(name: str, key: str, runs: pd.DataFrame) -> str:
    """What a point is called, with the epochs it took where those differ from point to point."""
    if key in ("epochs", "pretrain_epochs") or "budget" not in runs or runs["budget"].nunique() > 1:
        return name
    return f"{name}: {runs['budget'].iloc[0]} epochs"


error_flops = error_macs  # the name that it had while it counted otherwise


def _macs_axis(axis: Axes, low: float) -> None:
    axis.set_xscale("log")
    axis.set_xlim(low, 100)
    axis.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5) if low > 0.5 else (1,)))
    axis.xaxis.set_minor_locator(LogLocator(subs=range(1, 10)))
    minor = "{:g}" if low > 25 else ""  # or hardly a tick would have a number
    for set_formatter, text in ((axis.xaxis.set_major_formatter, "{:g}"), (axis.xaxis.set_minor_formatter, minor)):
        set_formatter(FuncFormatter(lambda x, _, text=text: text.format(x)))
    axis.set_xlabel("multiply-accumulates left, %")


def _error_axis(axis: Axes, values: Any) -> None:
    """From a little below the least error to a little above the largest; logarithmic where they differ much."""
    least, largest = float(values.min()), float(values.max())
    if least > 0 and largest > 8 * least:
        axis.set_yscale("log")
        axis.set_ylim(0.8 * least, min(1.25 * largest, 100))
        axis.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axis.yaxis.set_major_formatter(FuncFormatter(lambda y, _: f"{y:g}"))
        axis.yaxis.set_minor_formatter(NullFormatter())
        return
    margin = max(0.08 * (largest - least), 0.02 * largest, 0.05)
    axis.set_ylim(max(least - margin, 0), min(largest + margin, 100))
    axis.ticklabel_format(axis="y", useOffset=False)


def _annotate(figure: Figure, axis: Axes, rings: Sequence[tuple[pd.DataFrame, Any]]) -> set[str]:
    """Say where rings of one setting are in one place, and which runs have faults; returns which faults there are."""
    figure.draw_without_rendering()  # which puts the axes in their place
    points = 72 / figure.dpi
    said: list[Any] = []  # where there is a text already, and how many
    found: set[str] = set()
    for runs, ring in rings:
        group = runs.to_dict("records")
        at = points * axis.transData.transform(ring.get_xydata())
        left = list(range(len(group)))
        while left:
            same = [i for i in left if np.hypot(*(at[i] - at[left[0]])) < _SAME_PLACE]
            left = [i for i in left if i not in same]
            of_same = {name for i in same for name in faults(group[i])}
            found |= of_same
            text = " ".join(filter(None, (f"×{len(same)}" if len(same) > 1 else "", signs(of_same))))
            if text:
                line = sum(bool(np.hypot(*(at[same[0]] - place)) < 30) for place in said)
                said.append(at[same[0]])
                is_high = axis.transAxes.inverted().transform(at[same[0]] / points)[1] > 0.8
                up = (ring.get_markersize() / 2 + 2 + 9 * line) * (-1 if is_high else 1)
                put: dict[str, Any] = {"ha": "center", "va": "top" if is_high else "bottom", "fontsize": 8}
                xy = tuple(ring.get_xydata()[same[0]])
                axis.annotate(text, xy, (0, up), textcoords="offset points", color=ring.get_color(), **put)
    return found


def kept_epochs(
    histories: Mapping[str, Sequence[Sequence[Mapping[str, Any]]]],
    total: Mapping[str, int],
    sides: Mapping[str, str] | None = None,
) -> Figure:
    """Units kept after each epoch, a panel a layer, a colour a prior or other setting, a line a seed.

    Args:
        histories: by prior, or other setting, for each seed the records of :func:`bbpyro.fit`.
        total: by gate, its units.
        sides: by gate, the side of its layer that it is on, "input" or "output"; by default "input".
    """
    places = [place_of(gate, (sides or {}).get(gate, "input")) for gate in total]
    figure, axes = _grid(
        list(histories), [f"{each}, {n} units" for each, n in zip(places, total.values(), strict=True)]
    )
    for row, (own, _), shade in zip(axes, histories.items(), colors(len(histories)), strict=True):
        for axis, (gate, units) in zip(row, total.items(), strict=True):
            for prior, seeds in sorted(histories.items(), key=lambda each: each[0] == own):  # its own on top
                style = {"color": shade, "linewidth": 1.6} if prior == own else {"color": PALE, "linewidth": 1.0}
                for records in seeds:
                    kept = [100 * record["active"][gate] / units for record in records]
                    named = prior if prior == own and records is seeds[0] else None
                    curve(axis, [record["epoch"] for record in records], kept, clip_on=False, label=named, **style)
            axis.set_ylim(-6, 103)  # what is 0 is above the frame
        row[0].set_ylabel("kept, %")
    for axis in axes[-1]:
        epoch_axis(axis, "epoch of SVI")
    super_title(figure, "units kept, a line a seed; grey: the others")
    return figure


def priors_posteriors(studied: Mapping[str, Any]) -> Figure:
    """How much of each prior, and of its posterior, lies above each value of π: a row a setting, a column a layer.

    Args:
        studied: by prior, or other setting, what :func:`bbpyro.to_arviz` returned, a chain a seed.
    """
    first = next(iter(studied.values()))
    names = gates(first)
    figure, axes = _grid(list(studied), [place(first, gate) for gate in names])
    at = odds_range(1e-6, 0.99)
    for row, (prior, idata), shade in zip(axes, studied.items(), colors(len(studied)), strict=True):
        for axis, gate in zip(row, names, strict=True):
            # The prior is on top, in dashes: where the two are the same, both are seen.
            for name, style in (("posterior", {"color": shade, "linewidth": 3}), ("prior", PRIOR_STYLE)):
                axis.plot(at, share_above(idata, gate, at, name), **style, clip_on=False, label=f"{name}, {prior}")
            log_odds_axis(axis, 1e-6, 0.99)
            axis.set_ylim(-0.06, 1.03)  # a share of 0 is above the frame
            axis.tick_params("x", labelrotation=45)
        row[0].set_ylabel("share above")
    for axis in axes[-1]:
        axis.set_xlabel("keep probability π, even in log-odds")
    super_title(figure, f"how much of π lies above each value\nline: posterior{_seeds(first)}, dashed: prior")
    return figure


def _seeds(idata: Any) -> str:
    return f" of {num_chains(idata)} seeds together" if num_chains(idata) > 1 else ""


def _grid(priors: Sequence[str], columns: Sequence[str]) -> tuple[Figure, Any]:
    """A figure with a row for each setting, under its name, and a column for each layer: axes `[priors, columns]`."""
    width = min(3.2 * len(columns), max(13.0, 1.5 * len(columns)))
    figure = new_figure(max(6.0, width), 1.0 + 1.55 * len(priors))
    axes = np.array(panels(figure, len(priors), len(columns), sharex=True, sharey=True)).reshape(len(priors), -1)
    for row, prior in zip(axes, priors, strict=True):
        title(row[0], wrapped(prior, int(10 * figure.get_figwidth())))
    for axis, text in zip(axes[0], columns, strict=True):
        above = axis.annotate(text, (0.5, 1), (0, 22), "axes fraction", "offset points", ha="center")
        above.set_parse_math(False)
    return figure, axes


def _legend_beside(axis: Axes) -> None:
    """Far enough to the right for rings at 100%, and with room between the largest."""
    found = list(zip(*axis.get_legend_handles_labels(), strict=True))
    behind = [handle for handle, _ in found if handle.get_gid() == _BEHIND]  # whose names are beside them
    shown = [(handle, "published") for handle in behind[:1]]
    shown += [(handle, wrapped(name, 36)) for handle, name in found if handle not in behind]
    named = {"handles": [handle for handle, _ in shown], "labels": [name for _, name in shown]}
    legend(axis, **named, loc="center left", bbox_to_anchor=(1.05, 0.5), labelspacing=0.9, frameon=False)


def loo_compare(loos: Mapping[str, Any]) -> Figure:
    """The elpd of each setting by az.loo and its standard error; in grey that of its difference to the best.

    Args:
        loos: by prior, or other setting, what :func:`bbpyro.posterior.loo` returned.
    """
    figure = new_figure(8, 1.2 + 0.5 * len(loos))
    (axis,) = panels(figure, 1, 1)
    ranked = sorted(loos, key=lambda prior: -elpd(loos[prior]))
    best = elpd_pointwise(loos[ranked[0]])
    for y, prior in enumerate(ranked):
        total, difference = elpd(loos[prior]), elpd_pointwise(loos[prior]) - best
        axis.errorbar(total, y, xerr=float(loos[prior].se), fmt="o", color="black", markersize=5)
        if y:
            axis.errorbar(total, y - 0.25, xerr=len(best) ** 0.5 * difference.std(), fmt="^", color=GREY, markersize=5)
    axis.axvline(best.sum(), color=GREY, linestyle="--", linewidth=1, zorder=0)
    axis.set_yticks(range(len(ranked)), [wrapped(prior, 36) for prior in ranked], fontsize=8, parse_math=False)
    axis.set_ylim(len(ranked) - 0.5, -0.5)
    axis.set_xlabel(f"elpd_loo of {len(best)} training data, nats")
    super_title(
        figure,
        "az.loo of all seeds' draws together: elpd_loo ± its standard error; grey: that of the difference to the "
        "best,\n"
        "of data that a point W was fitted to: too good, and no ground to choose by",
    )
    return figure
