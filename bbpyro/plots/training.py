"""Figures of a training: the ELBO, its parts, and the units that are left."""

from typing import Any

import numpy as np
from matplotlib.figure import Figure

from bbpyro.plots.style import COLORS, colors, legend, new_figure, panels, title
from bbpyro.posterior import gates, group, layer


def elbo(idata: Any) -> Figure:
    """-ELBO/N and its parts over the epochs, and the NLL on the training and on the held-out data."""
    training = group(idata, "training")
    num_data = training.attrs["num_data"]
    kl = sum(training[f"{gate}.kl"] for gate in gates(idata))
    parts = {
        "-ELBO": training["loss"],
        "E[-log p(y)]": training["train_nll"],
        "KL[q(π)||p(π)]": kl / num_data,
    }
    for name, label in (("weights_nll", "-log p(W)"), ("weights_kl", "KL[q(W)||p(W)]")):
        if name in training:
            parts[label] = training[name] / num_data
    scores = {"training": training["train_nll"]}
    if "held_out_nll" in training:
        scores["held out, mean mask"] = training["held_out_nll"]
    figure = new_figure(9, 3.6)
    left, right = panels(figure, 1, 2)
    for axis, lines in ((left, parts), (right, scores)):
        for i, (label, values) in enumerate(lines.items()):
            for chain in range(values.sizes["chain"]):
                shade = "black" if label == "-ELBO" else COLORS[i - (axis is left)]
                named = label if chain == 0 else None
                axis.plot(training["epoch"], values.isel(chain=chain), color=shade, label=named)
        axis.set_xlabel("epoch")
        axis.set_ylabel("nats a datum")
        legend(axis)
    right.set_yscale("log")
    each = ", a line a chain" if training.sizes["chain"] > 1 else ""
    title(left, f"-ELBO/N and its parts{each}")
    title(right, "negative log-likelihood")
    return figure


def kept_units(idata: Any) -> Figure:
    """The share of units with E[π] > threshold after each epoch, by layer."""
    training = group(idata, "training")
    figure = new_figure(6.5, 3.6)
    (axis,) = panels(figure, 1, 1)
    names = gates(idata)
    for gate, shade in zip(names, colors(len(names)), strict=True):
        units = group(idata, "posterior").sizes[f"{gate}_unit"]
        kept = training[f"{gate}.active"]
        for chain in range(kept.sizes["chain"]):
            label = f"input of {layer(gate)}: {_range(kept)} of {units}" if chain == 0 else None
            axis.plot(training["epoch"], 100 * kept.isel(chain=chain) / units, color=shade, label=label)
    axis.set_ylim(0, 102)
    axis.set_xlabel("epoch")
    axis.set_ylabel("units kept, %")
    legend(axis, title="at the end", title_fontsize=8, alignment="left")
    return figure


def _range(kept: Any) -> str:
    last = np.unique([chain[np.isfinite(chain)][-1] for chain in kept.values]).astype(int)
    return str(last[0]) if len(last) == 1 else f"{last[0]}-{last[-1]}"
