"""Figures of a training: the ELBO, its parts, and the units that are left."""

import math
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from bbpyro.plots.style import (
    COLORS,
    chains_title,
    colors,
    curve,
    epoch_axis,
    legend,
    new_figure,
    panels,
    super_title,
    title,
    widths,
)
from bbpyro.posterior import gates, group, has_pi, place


def elbo(idata: Any) -> Figure:
    """-ELBO/N and its parts over the epochs, each on an axis of its own, and the NLL of the held-out data."""
    training = group(idata, "training")
    num_data = training.attrs["num_data"]
    kl = sum(training[f"{gate}.kl"] for gate in gates(idata))
    likelihood = {"E[-log p(y)]": training["train_nll"]}
    if "held_out_nll" in training:
        likelihood["held out, mean mask"] = training["held_out_nll"]
    shown: dict[str, dict[str, Any]] = {
        "what SVI minimises, per datum": {"-ELBO": training["loss"]},
        "negative log-likelihood": likelihood,
        "cost of the masks, per datum": {"KL[q(π)||p(π)]" if has_pi(idata) else "KL of the masks": kl / num_data},
    }
    for name, label in (("weights_nll", "-log p(W)"), ("weights_kl", "KL[q(W)||p(W)]")):
        if name in training:
            shown["cost of the weights, per datum"] = {label: training[name] / num_data}
    figure = new_figure(9, 3.0 * math.ceil(len(shown) / 2))
    axes = panels(figure, math.ceil(len(shown) / 2), 2)
    shades = iter(("black", *COLORS))
    for axis, (text, lines) in zip(axes, shown.items(), strict=False):
        for (label, values), shade in zip(lines.items(), shades, strict=False):
            for chain in range(values.sizes["chain"]):
                named = label if chain == 0 else None
                curve(axis, training["epoch"].values, values.isel(chain=chain).values, color=shade, label=named)
        epoch_axis(axis)
        axis.set_ylabel("nats a datum")
        title(axis, text)
        legend(axis)
        values = np.concatenate([np.ravel(values) for values in lines.values()])
        if len(lines) > 1 and np.nanmin(values) > 0 and np.nanmax(values) > 10 * np.nanmin(values):
            axis.set_yscale("log")
        else:
            axis.ticklabel_format(axis="y", useOffset=False)
    for axis in axes[len(shown) :]:
        axis.set_visible(False)
    super_title(figure, chains_title(idata, "a line each"))
    return figure


def kept_units(idata: Any) -> Figure:
    """The share of units with E[π] > threshold after each epoch, by layer."""
    training = group(idata, "training")
    figure = new_figure(6.5, 3.6)
    (axis,) = panels(figure, 1, 1)
    names = gates(idata)
    for gate, shade, width in zip(names, colors(len(names)), widths(len(names)), strict=True):
        units = group(idata, "posterior").sizes[f"{gate}_unit"]
        kept = training[f"{gate}.active"]
        for chain in range(kept.sizes["chain"]):
            label = f"{place(idata, gate)}: {_range(kept)} of {units}" if chain == 0 else None
            share = 100 * kept.isel(chain=chain).values / units
            curve(axis, training["epoch"].values, share, color=shade, linewidth=width, clip_on=False, label=label)
    axis.set_ylim(0, 102)
    epoch_axis(axis)
    axis.set_ylabel("units kept, %")
    title(axis, chains_title(idata, "a line each"))
    legend(axis, title="at the end", title_fontsize=8, alignment="left")
    return figure


def _range(kept: Any) -> str:
    last = np.unique([chain[np.isfinite(chain)][-1] for chain in kept.values]).astype(int)
    return str(last[0]) if len(last) == 1 else f"{last[0]}-{last[-1]}"
