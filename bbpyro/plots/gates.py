"""Figures of the posterior of π: which units are kept, and how sure that is."""

from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from bbpyro import posterior
from bbpyro.plots.style import (
    COLORMAP,
    DROPPED,
    PRIOR_STYLE,
    SPREAD_COLORMAP,
    chain_note,
    chains_title,
    check_positive,
    colors,
    draws_of,
    kept_of,
    log_odds_axis,
    mark_threshold,
    masked,
    new_figure,
    odds_range,
    panel_each,
    panels,
    super_title,
    threshold_of,
    title,
    whole_numbers,
    wrapped,
)
from bbpyro.posterior import CI_PROB, gates, group, has_pi, order, place, share_above, unit_names


def keep_probability(idata: Any, chain: int = 0) -> Figure:
    """E[π] of every unit: one heat strip a gate, units in their own order, dropped units in grey.

    Of gates of another family of masks it is the mean of what these have in place of π.

    Args:
        idata: what :func:`bbpyro.to_arviz` returned.
        chain: which; a hidden unit of one restart has no counterpart in another, so chains are not averaged.
    """
    names = gates(idata)
    figure = new_figure(9, 0.9 + 0.95 * len(names))
    axes = figure.subplots(len(names), 1, squeeze=False)[:, 0]
    for axis, gate in zip(axes, names, strict=True):
        mean, kept = _mean(idata, gate, chain), kept_of(idata, gate, chain)
        image = axis.imshow(masked(mean, kept)[None, :], aspect="auto", interpolation="nearest", **_scale_of(mean))
        text = f"{place(idata, gate)}: {kept.sum()} of {len(kept)} units kept ({kept.mean():.1%})"
        title(axis, text + chain_note(idata, chain))
        axis.set_yticks([])
        whole_numbers(axis)
    axes[-1].set_xlabel("unit")
    figure.colorbar(image, ax=list(axes), label=f"{_mean_label(idata, names[0])}; grey: dropped", pad=0.02)
    return figure


def input_map(idata: Any, shape: tuple[int, int] | None = None, chain: int = 0) -> Figure:
    """E[π] of the input's pixels as an image, and how uncertain each is: its posterior standard deviation.

    Args:
        idata: what :func:`bbpyro.to_arviz` returned.
        shape: rows and columns of the input; not needed where to_arviz was given images as x.
        chain: which.

    Raises:
        ValueError: `shape` is not known, or has not as many pixels as the first gate has units, or there is no
            such chain.
    """
    gate = gates(idata)[0]
    mean, kept = _mean(idata, gate, chain), kept_of(idata, gate, chain)
    shape = shape or _image_shape(idata, gate)
    if shape[0] * shape[1] != len(mean):
        raise ValueError(f"shape {shape} has {shape[0] * shape[1]} pixels, the first gate {len(mean)} units")
    figure = new_figure(9, 3.9)
    axes = figure.subplots(1, 2)
    sd = draws_of(idata, gate, chain).std(0)
    text = f"input pixels: {kept.sum()} of {len(kept)} kept{chain_note(idata, chain)}"
    shown = (
        (mean, text, _mean_label(idata, gate), _scale_of(mean)),
        (
            sd,
            "how uncertain",
            f"standard deviation of {_symbol(idata, gate)}",
            _scale(max(float(sd.max()), 0.01), SPREAD_COLORMAP),
        ),
    )
    for axis, (values, text, label, scale) in zip(axes, shown, strict=True):
        image = axis.imshow(masked(values, kept).reshape(shape), interpolation="nearest", **scale)
        title(axis, text)
        axis.set_xlabel("pixel column")
        axis.set_ylabel("pixel row")
        figure.colorbar(image, ax=axis, label=f"{label}; grey: dropped", shrink=0.85)
    return figure


def _image_shape(idata: Any, gate: str) -> tuple[int, int]:
    coords = group(idata, "guide").coords
    if f"{gate}_row" not in coords or f"{gate}_channel" in coords:
        raise ValueError(
            f"shape: the rows and columns of {gate!r} are not known; give shape=(rows, columns), "
            "or give to_arviz x as images [N, rows, columns]"
        )
    return int(coords[f"{gate}_row"].max()) + 1, int(coords[f"{gate}_column"].max()) + 1


def intervals(idata: Any, chain: int = 0, ci_prob: float = CI_PROB) -> Figure:
    """E[π] of every unit from the largest to the smallest, with the central interval of its posterior.

    Args:
        idata: what :func:`bbpyro.to_arviz` returned.
        chain: which.
        ci_prob: of the interval.

    Raises:
        ValueError: `ci_prob` is not between 0 and 1, or there is no such chain.
    """
    low_tail, high_tail = _tails(ci_prob)
    names = gates(idata)
    figure, axes = panel_each(len(names), 3.2)
    for axis, gate, shade in zip(axes, names, colors(len(names)), strict=True):
        units = order(idata, gate, chain)
        low, high = np.quantile(draws_of(idata, gate, chain)[:, units], (low_tail, high_tail), axis=0)
        rank = np.arange(1, len(units) + 1)
        axis.fill_between(rank, low, high, color=shade, alpha=0.3, linewidth=0, step="mid")
        mean = _mean(idata, gate, chain)[units]
        axis.plot(rank, mean, color=shade, marker="o" if len(units) == 1 else "")
        num_kept = int(kept_of(idata, gate, chain).sum())
        axis.axvline(num_kept + 0.5, color="black", linestyle=":", linewidth=1)
        title(axis, f"{place(idata, gate)}: {num_kept} of {len(units)} kept")
        axis.set_xlabel(f"units, by {_by(idata, gate)}")
        if has_pi(idata, gate):
            axis.set_ylim(0, 1)
    axes[0].set_ylabel(_latent_label(idata, names[0]))
    text = f"line: E[{_symbol(idata, names[0])}], band: {ci_prob:.0%} of the posterior, dotted: where units are cut"
    super_title(figure, text + chain_note(idata, chain))
    return figure


def forest(
    idata: Any, gate: str | None = None, num_units: int = 40, chain: int = 0, ci_prob: float = CI_PROB
) -> Figure:
    """Intervals of single units: the largest E[π], the smallest that are still kept, and the smallest of all.

    Args:
        idata: what :func:`bbpyro.to_arviz` returned.
        gate: which; by default the first.
        num_units: how many in each panel. A gate with no more than that is one panel.
        chain: which.
        ci_prob: of the wider interval; the narrower is of ½.

    Raises:
        ValueError: there is no such gate or chain, or `ci_prob` is not between 0 and 1.
    """
    check_positive("num_units", num_units)
    tails = _tails(ci_prob)
    names = gates(idata)
    gate = gate or names[0]
    if gate not in names:
        raise ValueError(f"gate is {gate!r}, wanted one of {', '.join(names)}")
    note = chain_note(idata, chain)
    units = order(idata, gate, chain)
    kept = units[kept_of(idata, gate, chain)[units]]
    shown = {"all units": units}
    if len(units) > num_units:
        shown = {f"largest {_by(idata, gate)}": kept[:num_units], "least, of those kept": kept[num_units:][-num_units:]}
        shown["least of all"] = units[len(kept) :][-num_units:]
    shown = {text: chosen for text, chosen in shown.items() if len(chosen)}
    figure = new_figure(max(5.0, 3.2 * len(shown) + 0.6), 1.2 + 0.16 * max(map(len, shown.values())))
    for axis, (text, chosen) in zip(panels(figure, 1, len(shown), sharex=True), shown.items(), strict=True):
        _forest_panel(axis, idata, gate, chosen, chain, tails, colors(len(names))[names.index(gate)])
        title(axis, text)
        axis.set_xlabel(_latent_label(idata, gate))
    figure.axes[0].set_ylabel(_unit_label(idata, gate))
    text = f"dot: E[{_symbol(idata, gate)}], thick: 50%, thin: {ci_prob:.0%} of the posterior"
    super_title(figure, f"{place(idata, gate)}{note}\n{text}")
    return figure


def _tails(ci_prob: float) -> tuple[float, float]:
    """Where the central interval of that probability begins and ends."""
    if not 0 < ci_prob < 1:
        raise ValueError(f"ci_prob is {ci_prob}, wanted a number between 0 and 1")
    return (1 - ci_prob) / 2, (1 + ci_prob) / 2


def _unit_label(idata: Any, gate: str) -> str:
    coords = group(idata, "guide").coords
    if f"{gate}_name" in coords:
        return "input"
    return "unit (row, column)" if f"{gate}_row" in coords else "unit"


def _forest_panel(
    axis: Axes, idata: Any, gate: str, units: Any, chain: int, tails: tuple[float, float], shade: str
) -> None:
    rows, of_units = np.arange(len(units)), draws_of(idata, gate, chain)[:, units]
    low, q1, q3, high = np.quantile(of_units, (tails[0], 0.25, 0.75, tails[1]), axis=0)
    axis.hlines(rows, low, high, color=shade, linewidth=1)
    axis.hlines(rows, q1, q3, color=shade, linewidth=3)
    axis.plot(_mean(idata, gate, chain)[units], rows, "o", color="black", markersize=3)
    coords = group(idata, "guide").coords
    names = unit_names(idata, gate)
    labels = [names[unit] for unit in units]
    if f"{gate}_row" in coords and f"{gate}_name" not in coords:
        row, column = (coords[f"{gate}_{name}"].values[units] for name in ("row", "column"))
        labels = [f"{unit} ({r}, {c})" for unit, r, c in zip(units, row, column, strict=True)]
    axis.set_yticks(rows, labels, fontsize=6, parse_math=False)
    axis.set_ylim(len(units) - 0.3, -0.7)
    if has_pi(idata, gate):  # other masks may be any number
        axis.set_xlim(-0.02, 1.02)


def prior_posterior(idata: Any) -> Figure:
    """How much of the prior, and of the posterior, of all units of a gate lies above each value of π.

    Raises:
        ValueError: it is of a family of masks that has no π.
    """
    names = [gate for gate in gates(idata) if has_pi(idata, gate)]
    if not names:
        raise ValueError("idata: it is of a family of masks that has no π")
    figure, axes = panel_each(len(names), 3.4)
    at = odds_range(1e-6, 0.99)
    for axis, gate, shade in zip(axes, names, colors(len(names)), strict=True):
        threshold, above = threshold_of(idata, gate), list[str]()
        # The prior is on top, in dashes: where the two are the same, both are seen.
        for name, style in (("posterior", {"color": shade, "linewidth": 3}), ("prior", PRIOR_STYLE)):
            axis.plot(at, share_above(idata, gate, at, name), **style, clip_on=False, label=name)
            above.insert(0, f"{name} {share_above(idata, gate, threshold, name)[0]:.2%}")
        log_odds_axis(axis, 1e-6, 0.99)
        mark_threshold(axis, threshold)
        title(axis, f"{place(idata, gate)}; above {threshold:.3g}:\n{', '.join(above)}")
        axis.set_xlabel("keep probability π, even in log-odds")
        axis.set_ylim(-0.04, 1.02)
        axis.tick_params("x", labelrotation=45)
    axes[0].set_ylabel("share of π above")
    prior = group(idata, "prior").attrs.get("prior", "")
    of_chains = chains_title(idata, "their units all together")
    text = "line: posterior, dotted: threshold, dashed: prior"
    super_title(figure, "\n".join(filter(None, (text, of_chains, wrapped(prior, 90)))))
    return figure


def _symbol(idata: Any, gate: str) -> str:
    """What the variable of a gate's units is called in a figure."""
    name = posterior.latent(idata, gate).rpartition(".")[2]
    return {"pi": "π", "theta": "θ"}.get(name, name)


def _latent_label(idata: Any, gate: str) -> str:
    return f"{'keep probability' if has_pi(idata, gate) else 'mask'} {_symbol(idata, gate)}"


def _mean_label(idata: Any, gate: str) -> str:
    return f"{'keep probability' if has_pi(idata, gate) else 'mask'} E[{_symbol(idata, gate)}]"


def _by(idata: Any, gate: str) -> str:
    """What the units of a gate are put in order by."""
    return "E[π]" if has_pi(idata, gate) else posterior.measure_label(idata, gate)


def _mean(idata: Any, gate: str, chain: int) -> Any:
    """The exact E[π] of each unit; of another family the mean of the draws."""
    if has_pi(idata, gate):
        return posterior.keep_probability(idata, gate, chain)
    posterior.measure(idata, gate, chain)  # which says so where there is no such chain
    return draws_of(idata, gate, chain).mean(0)


def _scale_of(mean: Any) -> dict[str, Any]:
    return _scale(max(1.0, float(mean.max())))


def _scale(highest: float = 1.0, name: str = COLORMAP) -> dict[str, Any]:
    return {"vmin": 0.0, "vmax": highest, "cmap": matplotlib.colormaps[name].with_extremes(bad=DROPPED)}
