"""Reading a posterior: which units are in, which are out, and which it has not decided on."""

from typing import Any

import numpy as np
import pandas as pd

from bbpyro.families import Gate
from bbpyro.posterior.container import group, summary
from bbpyro.posterior.shares import probability_above
from bbpyro.prediction import CI_PROB

_MOST_NAMED = 30  # inputs, of which each has a row of its own


def gates(idata: Any) -> list[str]:
    """The names of the gates, in the network's order."""
    return [str(v).removesuffix(".threshold") for v in group(idata, "guide").data_vars if str(v).endswith(".threshold")]


def latent(idata: Any, gate: str) -> str:
    """The variable of a gate's units that has a posterior, `fc1.gate.pi`."""
    return f"{gate}.{_of_family(idata, gate).get('latent', 'pi')}"


def has_pi(idata: Any, gate: str | None = None) -> bool:
    """Whether a gate, or each, has keep probabilities π, as those of Beta-Bernoulli dropout have."""
    return all(latent(idata, each).endswith(".pi") for each in (gates(idata) if gate is None else [gate]))


def measure_label(idata: Any, gate: str) -> str:
    """By what a gate's units are in or out, in words."""
    return str(_of_family(idata, gate).get("measure_label", "keep probability E[π]"))


def _of_family(idata: Any, gate: str) -> Any:
    """What a file says of the gate's family of masks; one that says nothing is of Beta-Bernoulli dropout."""
    return group(idata, "guide")[f"{gate}.threshold"].attrs if "guide" in idata else {}  # which NUTS has none of


def _measure(idata: Any, gate: str) -> Any:
    return group(idata, "guide")[f"{gate}.{_of_family(idata, gate).get('measure', 'keep_probability')}"]


def num_chains(idata: Any) -> int:
    """How many restarts it is of."""
    return int(group(idata, "posterior").sizes["chain"])


def decisions(idata: Any, ci_prob: float = CI_PROB) -> pd.DataFrame:
    """How sure the posterior is of each unit, counted by gate.

    A unit is surely in where P(π > threshold) under the posterior is at least `ci_prob`, surely out where it is at
    most 1 - `ci_prob`, and else undecided. `kept` counts E[π] > threshold, which is what compaction goes by.

    Args:
        idata: what :func:`bbpyro.to_arviz` returned.
        ci_prob: in (0.5, 1).

    Returns:
        A row for each gate, with columns units, kept, surely_in, undecided and surely_out. Of several chains a row
        for each gate and chain: a hidden unit of one restart has no counterpart in another. The last three are missing
        for a gate of a family of masks that has no posterior of π.

    Raises:
        ValueError: `ci_prob` is out of range.
    """
    if not 0.5 < ci_prob < 1:
        raise ValueError(f"ci_prob is {ci_prob}, wanted a number between 0.5 and 1")
    guide = group(idata, "guide")
    rows: dict[Any, dict[str, int | None]] = {}
    for g in gates(idata):
        threshold = guide[f"{g}.threshold"]
        kept = (_measure(idata, g) > threshold).sum(f"{g}_unit").values
        for chain in range(len(kept)):
            rows[(g, chain) if len(kept) > 1 else g] = {
                "units": guide.sizes[f"{g}_unit"],
                "kept": int(kept[chain]),
                **_sure(idata, g, chain, threshold.values[chain], ci_prob),
            }
    table = pd.DataFrame.from_dict(rows, orient="index")
    return table.astype("Int64") if table.isna().any(axis=None) else table


def _sure(idata: Any, gate: str, chain: int, threshold: float, ci_prob: float) -> dict[str, int | None]:
    """How many units are surely in, undecided and surely out."""
    if not has_pi(idata, gate):
        return dict.fromkeys(("surely_in", "undecided", "surely_out"))
    above = probability_above(idata, gate, threshold)[chain, :, 0]
    surely_in, surely_out = int((above >= ci_prob).sum()), int((above <= 1 - ci_prob).sum())
    undecided = len(above) - surely_in - surely_out
    return {"surely_in": surely_in, "undecided": undecided, "surely_out": surely_out}


def in_words(idata: Any, ci_prob: float = CI_PROB) -> str:
    """:func:`decisions` in a sentence for each row, and, where labels were given, what the threshold matters."""
    sentences = []
    for label, row in decisions(idata, ci_prob).iterrows():
        if pd.isna(row.surely_in):
            sentences.append(f"{place(idata, label)}: of {row.units} units {row.kept} are kept.")
            continue
        undecided = "none is undecided" if row.undecided == 0 else f"{row.undecided} undecided"
        sentences.append(
            f"{place(idata, label)}: of {row.units} units {row.surely_in} are surely in, "
            f"{row.surely_out} surely out, {undecided}."
        )
    sweep = group(idata, "threshold_sweep") if "threshold_sweep" in idata else {}
    for chain in range(num_chains(idata)) if "error" in sweep else ():
        error, at = sweep["error"].values[chain], sweep["threshold"].values
        first_bad = int(np.argmax(error > error[0] + 0.001))  # 0 where there is none
        whom = f" chain {chain}" if num_chains(idata) > 1 else ""
        sentences.append(f"Any threshold up to {at[first_bad - 1]:.2g} costs{whom} at most 0.1 points of error.")
    return "\n".join(sentences)


def layer(label: Any) -> str:
    """What a reader calls a row of :func:`decisions`: its layer, and the chain if it has one."""
    gate, *chain = label if isinstance(label, tuple) else (label,)
    return gate.removesuffix(".gate") + "".join(f", chain {number}" for number in chain)


def side_of(gate: Gate) -> str:
    """On which side of its layer a gate of :func:`bbpyro.insert_dropout` is: "output" for a convolution's channels."""
    return "output" if gate.dim == 1 else "input"


def side(idata: Any, gate: str) -> str:
    """On which side of its layer a gate is, "input" or "output"; a file that does not say so is of inputs."""
    return str(_measure(idata, gate).attrs.get("side", "input"))


def place(idata: Any, label: Any) -> str:
    """Where the units of a gate, or of a row of :func:`decisions`, are: "input of fc1", "output of conv1, chain 0"."""
    gate = label[0] if isinstance(label, tuple) else label
    return place_of(label, side(idata, gate))


def place_of(label: Any, side: str) -> str:
    """That of a gate on the `side` of its layer; a gate that was put into the network by hand is called by its name."""
    gate = label[0] if isinstance(label, tuple) else label
    is_inserted = gate == "gate" or gate.endswith(".gate")
    return f"{side} of {layer(label)}" if is_inserted else f"gate {layer(label)}"


def measure(idata: Any, gate: str, chain: int = 0) -> Any:
    """That by which a gate's units are in or out `[K]`, as an array: of Beta-Bernoulli dropout the exact E[π].

    Raises:
        ValueError: there is no such chain.
    """
    found = _measure(idata, gate)
    if not 0 <= chain < found.sizes["chain"]:
        raise ValueError(f"chain is {chain}, wanted 0 to {found.sizes['chain'] - 1}")
    return found.isel(chain=chain).values


def keep_probability(idata: Any, gate: str, chain: int = 0) -> Any:
    """The exact E[π] of a gate's units `[K]`, as an array.

    Raises:
        ValueError: there is no such chain, or the gate is of a family of masks that has no π.
    """
    if not has_pi(idata, gate):
        raise ValueError(f"gate {gate!r} has no keep probabilities; it goes by {measure_label(idata, gate)}")
    return measure(idata, gate, chain)


def order(idata: Any, gate: str, chain: int = 0) -> Any:
    """The units of a gate from the largest measure, E[π], to the smallest, as numbers."""
    return np.argsort(-measure(idata, gate, chain), kind="stable")


def unit_names(idata: Any, gate: str) -> list[str]:
    """What the units of a gate are called: by the names of the inputs where they are known, else by their numbers."""
    guide = group(idata, "guide")
    units = guide.sizes[f"{gate}_unit"]
    known = guide.coords[f"{gate}_name"].values if _are_named(idata, gate) else range(units)
    return [str(name) for name in known]


def _are_named(idata: Any, gate: str) -> bool:
    return f"{gate}_name" in group(idata, "guide").coords


def _num_kept(idata: Any, gate: str, chain: int) -> int:
    threshold = group(idata, "guide")[f"{gate}.threshold"].values[chain]
    return int((measure(idata, gate, chain) > threshold).sum())


def extremes(idata: Any, num_units: int = 5, chain: int | None = None, ci_prob: float = CI_PROB) -> pd.DataFrame:
    """az.summary(kind="stats") of the units of each gate with the largest E[π], and with the smallest.

    Args:
        idata: what :func:`bbpyro.to_arviz` returned.
        num_units: how many at either end of each gate; where inputs have names, all that are kept, up to 30.
        chain: which; by default each, one after the other.
        ci_prob: of the interval.

    Returns:
        A row for each unit, `fc1.gate.pi[7]`, or by the name of an input where inputs have names; where there are
        several chains `fc1.gate.pi[7], chain 0`, since a unit of one has no counterpart in another.

    Raises:
        ValueError: `num_units` or `ci_prob` is out of range, or there is no such chain.
    """
    if num_units < 1:
        raise ValueError(f"num_units is {num_units}, wanted at least 1")
    if not 0 < ci_prob < 1:
        raise ValueError(f"ci_prob is {ci_prob}, wanted a number between 0 and 1")
    posterior = group(idata, "posterior")
    summaries = []
    for c in range(num_chains(idata)) if chain is None else [chain]:
        for g in gates(idata):
            units, dim, names = order(idata, g, c), f"{g}_unit", unit_names(idata, g)
            first = max(num_units, min(_num_kept(idata, g, c), _MOST_NAMED)) if _are_named(idata, g) else num_units
            is_short = len(units) <= first + num_units
            shown = units if is_short else np.concatenate([units[:first], units[-num_units:]])
            variable = latent(idata, g)
            part = posterior[[variable]].isel({"chain": [c], dim: shown}).reset_coords(drop=True)
            of_chain = f", chain {c}" if num_chains(idata) > 1 else ""
            rows = [f"{variable}[{names[unit]}]{of_chain}" for unit in shown]
            summaries.append(summary(part, ci_prob).set_axis(rows))
    return pd.concat(summaries)
