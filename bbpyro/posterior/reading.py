"""Reading a posterior: which units are in, which are out, and which it has not decided on."""

from typing import Any

import numpy as np
import pandas as pd

from bbpyro.posterior.container import group, import_arviz


def gates(idata: Any) -> list[str]:
    """The names of the gates, in the network's order."""
    return [str(name).removesuffix(".pi") for name in group(idata, "posterior").data_vars]


def decisions(idata: Any, probability: float = 0.95) -> pd.DataFrame:
    """How sure the posterior is of each unit, counted by gate.

    A unit is surely in where P(π > threshold) under the posterior is at least `probability`, surely out where it is
    at most 1 - `probability`, and else undecided. `kept` counts E[π] > threshold, which is what compaction goes by.

    Args:
        idata: what :func:`bbpyro.to_arviz` returned.
        probability: in (0.5, 1).

    Returns:
        A row for each gate, with columns units, kept, surely_in, undecided and surely_out. Of several chains a row
        for each gate and chain: a hidden unit of one restart has no counterpart in another.

    Raises:
        ValueError: `probability` is out of range.
    """
    if not 0.5 < probability < 1:
        raise ValueError(f"probability is {probability}, wanted a number between 0.5 and 1")
    posterior, guide = group(idata, "posterior"), group(idata, "guide")
    rows: dict[Any, dict[str, int]] = {}
    for g in gates(idata):
        threshold = guide[f"{g}.threshold"]
        above = (posterior[f"{g}.pi"] > threshold).mean("draw").values
        kept = (guide[f"{g}.keep_probability"] > threshold).sum(f"{g}_unit").values
        for chain in range(len(above)):
            surely_in, surely_out = (above[chain] >= probability).sum(), (above[chain] <= 1 - probability).sum()
            rows[(g, chain) if len(above) > 1 else g] = {
                "units": above.shape[1],
                "kept": int(kept[chain]),
                "surely_in": int(surely_in),
                "undecided": int(above.shape[1] - surely_in - surely_out),
                "surely_out": int(surely_out),
            }
    return pd.DataFrame.from_dict(rows, orient="index")


def in_words(idata: Any, probability: float = 0.95) -> str:
    """:func:`decisions` in a sentence for each row, and, where labels were given, what the threshold matters."""
    sentences = []
    for label, row in decisions(idata, probability).iterrows():
        undecided = "none is undecided" if row.undecided == 0 else f"{row.undecided} undecided"
        sentences.append(
            f"{layer(label)}: of {row.units} units {row.surely_in} are surely in, "
            f"{row.surely_out} surely out, {undecided}."
        )
    sweep = group(idata, "threshold_sweep").mean("chain") if "threshold_sweep" in idata else {}
    if "error" in sweep:
        error, at = sweep["error"].values, sweep["threshold"].values
        first_bad = int(np.argmax(error > error[0] + 0.001))  # 0 where there is none
        sentences.append(f"Any threshold up to {at[first_bad - 1]:.2g} costs at most 0.1 points of error.")
    return "\n".join(sentences)


def layer(label: Any) -> str:
    """What a reader calls a row of :func:`decisions`: the layer whose input it is on, and the chain if it has one."""
    gate, *chain = label if isinstance(label, tuple) else (label,)
    return gate.removesuffix(".gate") + "".join(f", chain {number}" for number in chain)


def keep_probability(idata: Any, gate: str, chain: int = 0) -> Any:
    """The exact E[π] of a gate's units `[K]`, as an array.

    Raises:
        ValueError: there is no such chain.
    """
    mean = group(idata, "guide")[f"{gate}.keep_probability"]
    if not 0 <= chain < mean.sizes["chain"]:
        raise ValueError(f"chain is {chain}, wanted 0 to {mean.sizes['chain'] - 1}")
    return mean.isel(chain=chain).values


def order(idata: Any, gate: str, chain: int = 0) -> Any:
    """The units of a gate from the largest E[π] to the smallest, as numbers."""
    return np.argsort(-keep_probability(idata, gate, chain), kind="stable")


def extremes(idata: Any, num_units: int = 5, chain: int = 0) -> pd.DataFrame:
    """az.summary(kind="stats") of the units of each gate with the largest E[π], and with the smallest.

    Args:
        idata: what :func:`bbpyro.to_arviz` returned.
        num_units: how many at either end of each gate.
        chain: which.
    """
    if num_units < 1:
        raise ValueError(f"num_units is {num_units}, wanted at least 1")
    posterior = group(idata, "posterior")
    summaries = []
    for g in gates(idata):
        units = order(idata, g, chain)
        shown = units if len(units) <= 2 * num_units else np.concatenate([units[:num_units], units[-num_units:]])
        part = posterior[[f"{g}.pi"]].isel(chain=[chain]).sel({f"{g}_unit": shown})
        summaries.append(import_arviz().summary(part, kind="stats"))
    return pd.concat(summaries)
