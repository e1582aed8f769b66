"""to_arviz(): from a network to the groups that ArviZ knows, and a few that it has no name for."""

import contextlib
import datetime
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pyro
import torch
import xarray as xr
from rich.console import Console
from torch import Tensor

from bbpyro.distributions import remembered_log_odds
from bbpyro.model import BetaBernoulliNetwork
from bbpyro.posterior import container
from bbpyro.posterior.predictive import predictive_groups, sweep_thresholds
from bbpyro.prediction import in_eval_mode
from bbpyro.training.epochs import check_likelihood
from bbpyro.version import __version__

History = Sequence[Mapping[str, Any]]


@torch.no_grad()
def to_arviz(
    bnn: BetaBernoulliNetwork | Sequence[BetaBernoulliNetwork],
    x: Tensor | None = None,
    y: Tensor | None = None,
    num_samples: int = 1000,
    *,
    num_predictive_samples: int | None = None,
    num_masks: int = 1,
    history: History | Sequence[History] | None = None,
    attrs: Mapping[str, Any] | None = None,
    seed: int | None = None,
    batch_size: int = 1000,
    progress: bool | Console = True,
) -> Any:
    """The posterior of a network for ArviZ: an InferenceData where ArviZ is 0.x, an xarray.DataTree where it is 1.x.

    Of S draws, a gate of K units, N data and C classes it holds these groups; variables have the model's names:

    - posterior, prior: `fc1.gate.pi` `[chain, S, K]`, float64, along dimension `fc1.gate_unit`. Where the gate sees
      the pixels of x themselves, its units also have the coordinates `fc1.gate_row` and `fc1.gate_column` (where
      ArviZ is 1.x in the guide alone: its summary fails on them).
    - guide: q(π) itself `[chain, K]`: `fc1.gate.concentration1` and `concentration0`, `keep_probability`, which is
      the exact E[π], and the gate's `threshold` `[chain]`.
    - with x: posterior_predictive (y), constant_data (x), and for classes class_probability: `[chain, N, C]` by
      mean_mask, and by monte_carlo, averaged over the draws.
    - with y too: observed_data (y), log_likelihood (y: of each datum, nats, not scaled by N/B), and threshold_sweep:
      the kept units, and the NLL and error of the mean mask, at 33 thresholds.
    - with history: training, the records of :func:`bbpyro.fit` along dimension `epoch`.

    az.loo leaves out data that q was fitted to, so give it training data; and num_masks of 16 or more, because
    importance weights of one draw of z a datum are too wild for it (see its Pareto k).

    Args:
        bnn: the network; or several, restarts of the same model, each of which becomes a chain.
        x: inputs `[N, ...]` to predict.
        y: what was observed there, `[N, ...]`.
        num_samples: S, draws of every π.
        num_predictive_samples: by how many of them, evenly spaced, x is predicted; by default by all.
        num_masks: draws of z, within each draw of π, over which class probabilities and likelihoods are averaged:
            with 1 the log-likelihood is of y given π and z, with many it is of y given π.
        history: what `fit` returned, for each network.
        attrs: texts, numbers or lists of them to note beside versions, seed and priors, e.g. {"dataset": "mnist"}.
        seed: of the draws; by default drawn from torch's global generator, which is left as it was.
        batch_size: data predicted at once; beside the result itself, memory is that of one batch.
        progress: a progress bar for predictions, or the rich console to draw it on.

    Raises:
        ImportError: ArviZ is missing or older than 0.21.
        TypeError: x or y is no tensor.
        ValueError: a number is out of range, x or y does not fit the network, y is given without x, or the
            networks are not restarts of one model.
    """
    container.import_arviz()  # so that its absence is known before minutes of drawing
    chains = [bnn] if isinstance(bnn, BetaBernoulliNetwork) else list(bnn)
    num_predictive = num_samples if num_predictive_samples is None else num_predictive_samples
    _check_numbers(num_samples, num_predictive, num_masks, batch_size)
    _check_chains(chains, history)
    _check_data(chains[0], x, y)
    seed = int(torch.randint(2**31, ())) if seed is None else seed
    with torch.random.fork_rng(), contextlib.ExitStack() as stack, pyro.validation_enabled(False):
        for network in chains:
            stack.enter_context(in_eval_mode(network))
        torch.manual_seed(seed)
        log_odds = [_draw_log_odds(network, num_samples) for network in chains]
        coords = _unit_coords(chains[0], x)
        groups = {
            "posterior": _of_pi([{g: torch.sigmoid(odds[g]) for g in odds} for odds in log_odds], coords),
            "prior": _of_pi([_draw_prior(network, num_samples) for network in chains], coords),
            "guide": _stack([_of_guide(network, coords) for network in chains]),
        }
        if x is not None:
            thinned = np.arange(num_predictive) * num_samples // num_predictive
            by_chain = predictive_groups(chains, log_odds, x, y, thinned, num_masks, batch_size, progress)
            groups |= {name: _stack([chain[name] for chain in by_chain]) for name in by_chain[0]}
            groups |= _of_data(x, y)
        if x is not None and y is not None:
            groups["threshold_sweep"] = _stack([sweep_thresholds(network, x, y, batch_size) for network in chains])
    if history is not None:
        groups["training"] = _stack([_of_history(records) for records in _by_chain(history)])
    described = {**_describe(chains, seed), **(attrs or {})}
    return container.make({name: group.assign_attrs(described) for name, group in groups.items()}, described)


def _of_pi(draws: list[dict[str, Tensor]], coords: dict[str, Any]) -> xr.Dataset:
    """Draws of π `[S, K]` by gate, one dictionary a chain."""
    variables = {
        f"{g}.pi": (("chain", "draw", f"{g}_unit"), torch.stack([chain[g] for chain in draws]).cpu().numpy())
        for g in draws[0]
    }
    num_samples = len(next(iter(draws[0].values())))
    return xr.Dataset(variables, {"chain": np.arange(len(draws)), "draw": np.arange(num_samples), **coords})


def _draw_log_odds(bnn: BetaBernoulliNetwork, num_samples: int) -> dict[str, Tensor]:
    """Exact log-odds of π `[S, K]` by gate, float64."""
    log_odds = {}
    for g, gate in bnn.gates.items():
        exact = remembered_log_odds(gate.posterior().rsample((num_samples,)))
        assert exact is not None  # which a Kumaraswamy's draw always has
        log_odds[g] = exact
    return log_odds


def _draw_prior(bnn: BetaBernoulliNetwork, num_samples: int) -> dict[str, Tensor]:
    return {g: bnn.prior(gate.num_features).sample((num_samples,)).double() for g, gate in bnn.gates.items()}


def _of_guide(bnn: BetaBernoulliNetwork, coords: dict[str, Any]) -> xr.Dataset:
    variables: dict[str, Any] = {}
    for g, gate in bnn.gates.items():
        q = gate.posterior()
        named = {"concentration1": q.concentration1, "concentration0": q.concentration0, "keep_probability": q.mean}
        variables |= {f"{g}.{name}": ((f"{g}_unit",), value.cpu().numpy()) for name, value in named.items()}
        variables[f"{g}.threshold"] = ((), gate.threshold)
    return xr.Dataset(variables, coords)


def _of_data(x: Tensor, y: Tensor | None) -> dict[str, xr.Dataset]:
    def of(name: str, value: Tensor) -> xr.Dataset:
        dims = ("datum", *(f"{name}_dim_{i}" for i in range(value.dim() - 1)))
        return xr.Dataset({name: (dims, value.cpu().numpy())}, {"datum": np.arange(len(value))})

    return {"constant_data": of("x", x)} | ({} if y is None else {"observed_data": of("y", y)})


def _of_history(records: History) -> xr.Dataset:
    """Every number of the records along the epochs; of a number for each gate, one variable a gate."""
    flat = [
        {
            name: number
            for key, value in record.items()
            for name, number in (
                {f"{gate}.{key}": n for gate, n in value.items()} if isinstance(value, Mapping) else {key: value}
            ).items()
            if isinstance(number, int | float) and key != "epoch"
        }
        for record in records
    ]
    variables = {name: ("epoch", np.array([record.get(name, np.nan) for record in flat])) for name in flat[-1]}
    return xr.Dataset(variables, {"epoch": [record["epoch"] for record in records]})


def _by_chain(history: Any) -> list[History]:
    return [history] if isinstance(history[0], Mapping) else list(history)


def _stack(chains: list[xr.Dataset]) -> xr.Dataset:
    """One Dataset, of one for each chain."""
    stacked = xr.concat(chains, "chain", data_vars="all", coords="minimal", compat="override", join="outer")
    return stacked.assign_coords(chain=np.arange(len(chains)))


def _unit_coords(bnn: BetaBernoulliNetwork, x: Tensor | None) -> dict[str, Any]:
    """A number for each unit, and for a gate on the pixels of x their places."""
    coords: dict[str, Any] = {f"{g}_unit": np.arange(gate.num_features) for g, gate in bnn.gates.items()}
    if x is None or x.dim() not in (3, 4):
        return coords
    for g in _gates_on_input(bnn, x[:1]):
        places = np.unravel_index(coords[f"{g}_unit"], tuple(x.shape[1:]))
        for name, place in zip(("column", "row", "channel"), reversed(places), strict=False):
            coords[f"{g}_{name}"] = (f"{g}_unit", place)
    return coords


def _gates_on_input(bnn: BetaBernoulliNetwork, x: Tensor) -> list[str]:
    """The gates whose units are the numbers of the input, in their order."""
    found = []
    for name, gate in bnn.gates.items():

        def look(module: Any, args: tuple[Tensor, ...], name: str = name) -> None:
            if torch.equal(args[0].flatten(), x.flatten()):
                found.append(name)

        handle = gate.register_forward_pre_hook(look)
        try:
            bnn(x)
        finally:
            handle.remove()
    return found


def _describe(chains: list[BetaBernoulliNetwork], seed: int) -> dict[str, Any]:
    bnn = chains[0]
    untrained = any(all(gate.is_untrained for gate in network.gates.values()) for network in chains)
    return {
        "created_at": datetime.datetime.now(datetime.UTC).isoformat(),
        "inference_library": "bbpyro",
        "inference_library_version": __version__,
        "arviz_version": container.import_arviz().__version__,
        "pyro_version": pyro.__version__,
        "torch_version": str(torch.__version__),
        "seed": seed,
        "trained": "no: q(π) is as it was made; bbpyro.fit comes first" if untrained else "yes",
        "prior": repr(bnn.prior),
        "weight_prior": repr(bnn.weight_prior),
        "temperature": bnn.temperature,
        "num_data": bnn.num_data,
    }


# --- what may be wrong with the arguments ------------------------------------------------------------------


def _check_numbers(num_samples: int, num_predictive_samples: int, num_masks: int, batch_size: int) -> None:
    for name, number in (("num_samples", num_samples), ("num_masks", num_masks), ("batch_size", batch_size)):
        if number < 1:
            raise ValueError(f"{name} is {number}, wanted at least 1")
    if not 1 <= num_predictive_samples <= num_samples:
        raise ValueError(
            f"num_predictive_samples is {num_predictive_samples}, wanted between 1 and num_samples, {num_samples}"
        )


def _check_chains(chains: list[BetaBernoulliNetwork], history: Any) -> None:
    if not chains:
        raise ValueError("bnn: it is an empty list, wanted a network, or several")
    units = [{g: gate.num_features for g, gate in bnn.gates.items()} for bnn in chains]
    for other, bnn in zip(units, chains, strict=True):
        if other != units[0] or repr(bnn.prior) != repr(chains[0].prior):
            raise ValueError(
                f"bnn: chains must be restarts of one model, but one has the gates {units[0]} under {chains[0].prior} "
                f"and another {other} under {bnn.prior}"
            )
    if history is not None and len(history) == 0:
        raise ValueError("history: it is empty, wanted what bbpyro.fit returned")
    if history is not None and len(_by_chain(history)) != len(chains):
        raise ValueError(f"history: it is of {len(_by_chain(history))} networks, wanted one for each of {len(chains)}")


def _check_data(bnn: BetaBernoulliNetwork, x: Any, y: Any) -> None:
    for name, value in (("x", x), ("y", y)):
        if value is not None and not isinstance(value, Tensor):
            raise TypeError(f"{name} is a {type(value).__name__}, wanted a tensor; torch.as_tensor makes one")
    if x is None:
        if y is not None:
            raise ValueError("y was given without x; give both, or x alone for predictions")
        return
    if x.dim() < 1 or len(x) == 0:
        raise ValueError(f"x has shape {tuple(x.shape)}, wanted at least one datum, [N, ...]")
    if y is not None and (y.dim() < 1 or len(y) != len(x)):
        raise ValueError(f"y has shape {tuple(y.shape)}, wanted one row for each of the {len(x)} data of x")
    try:
        with in_eval_mode(bnn):
            bnn(x[:1])
    except RuntimeError as error:
        reason = str(error).splitlines()[0]
        raise ValueError(
            f"x has shape {tuple(x.shape)} and dtype {x.dtype}, which the network cannot take ({reason}); "
            "wanted data like those it was trained on, [N, ...]"
        ) from error
    if y is not None:
        with in_eval_mode(bnn):
            check_likelihood(bnn.likelihood, bnn, x, y)
