"""What may be wrong with the arguments of to_arviz, each told with its remedy."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch

from bbpyro import checks
from bbpyro.distributions import Delta
from bbpyro.drawing import Guide, check_guide
from bbpyro.families import own
from bbpyro.model import BetaBernoulliNetwork

History = Sequence[Mapping[str, Any]]


def check_numbers(num_samples: int, num_predictive_samples: int, num_masks: int, batch_size: int) -> None:
    """Raise a ValueError that names a number out of range."""
    checks.check_positive(num_samples=num_samples, num_masks=num_masks, batch_size=batch_size)
    if not isinstance(num_predictive_samples, int | np.integer) or not 1 <= num_predictive_samples <= num_samples:
        raise ValueError(
            f"num_predictive_samples is {num_predictive_samples}, wanted between 1 and num_samples, {num_samples}"
        )


def check_chains(chains: Sequence[Any]) -> None:
    """Raise a TypeError or ValueError unless these are networks of one model."""
    if not chains:
        raise ValueError("bnn: it is an empty list, wanted a network, or several")
    for bnn in chains:
        if not isinstance(bnn, BetaBernoulliNetwork):
            raise TypeError(f"bnn is a {type(bnn).__name__}, wanted a BetaBernoulliNetwork, or a list of them")
    if len({id(bnn) for bnn in chains}) < len(chains):
        raise ValueError("bnn: it holds a network twice; chains are different restarts of one model")
    models = [describe_model(bnn) for bnn in chains]
    for name, first in models[0].items():
        for other in models[1:]:
            if other[name] != first:
                raise ValueError(
                    f"bnn: chains must be restarts of one model, but their {name} differ: {first} and {other[name]}"
                )


def check_guides(chains: list[BetaBernoulliNetwork], guide: Any, x: Any) -> list[Guide | None]:
    """A guide, or None, for each chain; raise a TypeError or ValueError unless there is one for each, or none."""
    guides = list(guide) if isinstance(guide, list | tuple) else [guide] * len(chains)
    if len(guides) != len(chains):
        raise ValueError(f"guide: there are {len(guides)} of them, wanted one for each of {len(chains)} networks")
    if guide is not None and x is None:
        raise ValueError("guide: it is called with data, as the model is; give x too")
    for bnn, each in zip(chains, guides, strict=True):
        check_guide(bnn, each)
    return guides


def describe_model(bnn: BetaBernoulliNetwork) -> dict[str, Any]:
    """What must be the same in all restarts of a model, as JSON can hold it."""
    gates, _ = bnn.gates_by_family
    at = torch.tensor([0.1, 0.5, 0.9])[:, None]
    densities = {g: bnn.prior_of(g).log_prob(at.expand(3, m.num_features)) for g, m in gates.items()}
    return {
        "gates": {g: gate.num_features for g, gate in bnn.gates.items()},
        "thresholds": {g: gate.threshold for g, gate in bnn.gates.items()},
        "log prior densities at 0.1, 0.5 and 0.9": {
            g: [round(v, 4) for v in d.reshape(3, -1)[:, 0].tolist()] for g, d in densities.items()
        },
        "log prior densities, by place": {g: _by_place(d.reshape(3, -1)) for g, d in densities.items()},
        "rates": {g: _rate(bnn.prior_of(g)) for g in gates},
        "family of q(π)": {g: type(gate.posterior()).__name__ for g, gate in gates.items()},
        "families of masks": {g: type(gate).__name__ for g, gate in bnn.gates.items()},
        "families of one's own": {g: own.described(gate) for g, gate in bnn.gates.items()},
        "weight guide": bnn.weight_guide,
        "num_data": bnn.num_data,
        "temperature": bnn.temperature,
        "log prior density of a weight": round(bnn.weight_prior((1,)).log_prob(torch.full((1,), 0.1)).item(), 4),
    }


def _by_place(of_units: torch.Tensor) -> list[float]:
    """Of numbers `[n, K]` n means that change where units change places: each unit weighs what its place is."""
    weights = torch.arange(1, of_units.shape[1] + 1, dtype=torch.float64)
    means: list[float] = (of_units.double() @ (weights / weights.sum())).tolist()
    return means


def _rate(prior: Any) -> float | None:
    """Where the prior is one point, of which densities elsewhere say nothing."""
    return float(prior.v[0]) if isinstance(prior, Delta) else None


def check_histories(histories: list[History], chains: list[BetaBernoulliNetwork]) -> None:
    """Raise a ValueError unless these are the records of the chains."""
    if len(histories) != len(chains):
        raise ValueError(f"history: it is of {len(histories)} networks, wanted one for each of {len(chains)}")
    for records, bnn in zip(histories, chains, strict=True):
        if not records:
            raise ValueError("history: it is empty, wanted what bbpyro.fit returned")
        gates = set(records[-1].get("kl", {}))
        if gates != set(bnn.gates):
            raise ValueError(
                f"history: it is of the gates {sorted(gates)}, wanted what bbpyro.fit returned for {sorted(bnn.gates)}"
            )


def check_data(chains: list[BetaBernoulliNetwork], x: Any, y: Any) -> None:
    """Raise a TypeError or ValueError unless the networks can take x, and their likelihood y."""
    if x is None:
        if y is not None:
            raise ValueError("y was given without x; give both, or x alone for predictions")
        return
    described = [
        _describe(checks.check_inputs(c, c.likelihood, x) if y is None else checks.check_data(c, c.likelihood, x, y))
        for c in chains
    ]
    for other in described:
        if other != described[0]:
            raise ValueError(f"bnn: chains must be restarts of one model, but they predict {described[0]} and {other}")


def _describe(trial: checks.Trial) -> str:
    """What a network predicts: which distribution, of an output of which shape."""
    shapes = [f"[{', '.join(['N', *map(str, output.shape[1:])])}]" for output in checks.tensors_of(trial.output)]
    return f"{type(trial.distribution).__name__} of an output of shape {' and '.join(shapes)}"


def check_attrs(attrs: Mapping[str, Any], noted: Mapping[str, Any]) -> dict[str, Any]:
    """The attributes; raise a ValueError where one is noted anyway, or is nothing that a netCDF file holds."""
    for name, value in attrs.items():
        if name in noted:
            raise ValueError(f"attrs: {name!r} is noted anyway ({noted[name]!r}); choose another name")
        elements = value if isinstance(value, list | tuple) else [value]
        if not all(isinstance(e, str | int | float | np.number) and not isinstance(e, bool) for e in elements):
            raise ValueError(f"attrs: {name!r} is {value!r}, wanted a text, a number, or a list of them")
    return dict(attrs)
