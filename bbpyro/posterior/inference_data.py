"""to_arviz(): from a network to the groups that ArviZ knows, and a few that it has no name for."""

import contextlib
import re
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pyro
import torch
import xarray as xr
from rich.console import Console
from torch import Tensor, nn

from bbpyro import nests
from bbpyro.checks import in_eval_mode
from bbpyro.denormals import flushed
from bbpyro.distributions import remembered_log_odds, with_exact_tails
from bbpyro.drawing import Guide, Source
from bbpyro.exclusive import one_at_a_time
from bbpyro.model import BetaBernoulliNetwork
from bbpyro.nests import Nest
from bbpyro.posterior import container
from bbpyro.posterior.arguments import (
    History,
    check_attrs,
    check_chains,
    check_data,
    check_guides,
    check_histories,
    check_numbers,
)
from bbpyro.posterior.chains import each_chain, joined, made_by, of_history
from bbpyro.posterior.coordinates import unit_coords
from bbpyro.posterior.predictive import predictive_groups, sweep_thresholds, to_numpy
from bbpyro.posterior.reading import side_of


@one_at_a_time
@flushed()
@torch.no_grad()
def network_to_arviz(
    bnn: BetaBernoulliNetwork | Sequence[BetaBernoulliNetwork],
    x: Nest | None = None,
    y: Tensor | None = None,
    num_samples: int = 1000,
    *,
    num_predictive_samples: int | None = None,
    num_masks: int = 1,
    history: History | Sequence[History] | None = None,
    attrs: Mapping[str, Any] | None = None,
    seed: int | None = None,
    batch_size: int = 1000,
    guide: Guide | Sequence[Guide] | None = None,
    feature_names: Sequence[str] | None = None,
    progress: bool | Console = True,
) -> Any:
    """The posterior of a network for ArviZ: an InferenceData where ArviZ is 0.x, an xarray.DataTree where it is 1.x.

    Of S draws, a gate of K units, N data and C classes it holds these groups; variables have the model's names:

    - posterior, prior: `fc1.gate.pi` `[chain, S, K]`, float64, along dimension `fc1.gate_unit` (of another family of
      masks what its paper calls it, such as `fc1.gate.theta`; no prior where that has none). Where the gate sees
      the pixels of x themselves, its units also have the coordinates `fc1.gate_row` and `fc1.gate_column` (where
      ArviZ is 1.x in the guide alone: its summary fails on them); with feature_names the coordinate `fc1.gate_name`.
    - guide: q(π) itself `[chain, K]`: `fc1.gate.concentration1` and `concentration0` (of the sticks, under
      StickBreaking; not under FixedRate), `keep_probability`, which is the exact E[π], and the gate's `threshold`
      `[chain]`; of another family its parameters by their own names, and what the threshold is of. The attribute
      `side` says whether the gate is on the "input" or the "output" of its layer.
    - with x: posterior_predictive (y), constant_data (x; of a nest x.NAME or x.0), and for classes
      class_probability: `[chain, N, C]` by mean_mask, and by monte_carlo, averaged over the draws.
    - with y too: observed_data (y), log_likelihood (y: of each datum, nats, not scaled by N/B), and, of Beta-Bernoulli
      dropout, threshold_sweep: the kept units, and the NLL and, of classes, error of the mean mask, at 33 thresholds.
    - with history: training, the records of :func:`bbpyro.fit` along dimension `epoch`.

    az.loo leaves out data that q was fitted to, so give it training data; num_masks of 16 or more, because importance
    weights of one draw of z a datum are too wild for it (see its Pareto k); and reff=1.0, since draws of q are
    independent (of several chains ArviZ would estimate it, wrongly where num_predictive_samples is smaller than S).

    Args:
        bnn: the network; or several, restarts of the same model, each of which becomes a chain.
        x: inputs `[N, ...]` to predict, a tensor or a nest of them, see :class:`bbpyro.BetaBernoulliNetwork`.
        y: what was observed there, `[N, ...]`.
        num_samples: S, draws of every π.
        num_predictive_samples: by how many of them, evenly spaced, x is predicted; by default by all.
        num_masks: draws of z, within each draw of π, over which class probabilities and likelihoods are averaged:
            with 1 the log-likelihood is of y given π and z, with many it is of y given π.
        history: what `fit` returned, for each network.
        attrs: texts, numbers or lists of them to note beside versions, seed and priors, e.g. {"dataset": "mnist"}.
        seed: of the draws; by default drawn from torch's global generator, which is left as it was.
        guide: of each network, a guide of your own that W was trained with, see :func:`bbpyro.predict`; where it has
            sites of π, they are the draws. The group guide, and kept units, are the gates' in any case.
        feature_names: of the numbers of x, such as the columns of a table, in their order.
        batch_size: data predicted at once; beside the result itself, memory is that of one batch.
        progress: a progress bar for predictions, or the rich console to draw it on.

    Raises:
        ImportError: ArviZ is missing or older than 0.21.
        TypeError: x is no tensor or nest of them, y no tensor, bnn no network, guide no callable, or a feature's name
            no text.
        ValueError: a number is out of range, x or y is not finite or does not fit the network, y is given without
            x, the networks are not restarts of one model, a history is not of its network, a guide lacks a weight,
            there are not as many names as features, or an attribute is none that a file holds or is noted anyway.
    """
    container.import_arviz()  # so that its absence is known before minutes of drawing
    chains = [bnn] if isinstance(bnn, nn.Module) else list(bnn)
    histories = [] if history is None else each_chain(history)
    num_predictive = num_samples if num_predictive_samples is None else num_predictive_samples
    check_numbers(num_samples, num_predictive, num_masks, batch_size)
    check_chains(chains)
    if history is not None:
        check_histories(histories, chains)
    guides = check_guides(chains, guide, x)
    check_data(chains, x, y)
    seed = int(torch.randint(2**31, ()) if seed is None else seed)
    noted = {**_describe(chains, seed), **({} if guide is None else {"weight_guide": type(guides[0]).__name__})}
    described = {**check_attrs(attrs or {}, noted), **noted}
    with torch.random.fork_rng(), contextlib.ExitStack() as stack, pyro.validation_enabled(False):
        stack.enter_context(torch.inference_mode(False))
        stack.enter_context(torch.no_grad())  # which leaving inference mode ends
        for network in chains:
            stack.enter_context(in_eval_mode(network))
        coords = unit_coords(chains[0], x, feature_names)
        torch.manual_seed(seed)
        sources = [Source(network, g, x, seed) for network, g in zip(chains, guides, strict=True)]
        drawn = [source.log_odds(num_samples) for source in sources]
        groups = {
            "posterior": _of_latents([_draw(*each, num_samples) for each in zip(chains, drawn, strict=True)], coords),
            "prior": _of_latents([_draw_prior(network, num_samples) for network in chains], coords),
            "guide": joined([_of_guide(network, coords) for network in chains]),
        }
        if x is not None:
            thinned = np.arange(num_predictive) * num_samples // num_predictive
            by_chain = predictive_groups(sources, drawn, x, y, thinned, num_masks, batch_size, progress)
            groups |= {name: joined([chain[name] for chain in by_chain]) for name in by_chain[0]}
            groups |= _of_data(x, y)
        if x is not None and y is not None and chains[0].gates_by_family[0]:
            groups["threshold_sweep"] = joined([sweep_thresholds(source, x, y, batch_size) for source in sources])
    if not groups["prior"].data_vars:  # masks that have none
        del groups["prior"]
    if histories:
        groups["training"] = joined([of_history(records) for records in histories])
    return container.make({name: group.assign_attrs(described) for name, group in groups.items()}, described)


def _of_latents(draws: list[dict[str, tuple[str, Tensor]]], coords: dict[str, Any]) -> xr.Dataset:
    """The name of what is drawn, and draws of it `[S, K]`, by gate; one dictionary a chain."""
    variables = {
        f"{g}.{latent}": (
            ("chain", "draw", f"{g}_unit"),
            torch.stack([chain[g][1].double() for chain in draws]).cpu().numpy(),
        )
        for g, (latent, _) in draws[0].items()
    }
    num_samples = len(next(iter(draws[0].values()))[1]) if draws[0] else 0
    return xr.Dataset(variables, {"chain": np.arange(len(draws)), "draw": np.arange(num_samples), **coords})


def _draw(bnn: BetaBernoulliNetwork, odds: dict[str, Tensor], num_samples: int) -> dict[str, tuple[str, Tensor]]:
    return {
        g: (gate.latent, torch.sigmoid(odds[g]) if g in odds else gate.draws(num_samples))
        for g, gate in bnn.gates.items()
    }


def _draw_prior(bnn: BetaBernoulliNetwork, num_samples: int) -> dict[str, tuple[str, Tensor]]:
    draws = {}
    with_pi, _ = bnn.gates_by_family
    for g, gate in bnn.gates.items():
        draw = gate.prior_draws(num_samples)
        if g in with_pi:
            draw = with_exact_tails(bnn.prior_of(g)).sample((num_samples,))
            exact = remembered_log_odds(draw)
            draw = draw if exact is None else torch.sigmoid(exact)
        if draw is not None:
            draws[g] = gate.latent, draw
    return draws


def _of_guide(bnn: BetaBernoulliNetwork, coords: dict[str, Any]) -> xr.Dataset:
    variables: dict[str, Any] = {}
    for g, gate in bnn.gates.items():
        where = {"side": side_of(gate)}
        named = gate.described()
        variables |= {f"{g}.{name}": ((f"{g}_unit",), to_numpy(value), where) for name, value in named.items()}
        of = {"latent": gate.latent, "measure": gate.measure_name, "measure_label": gate.measure_label}
        variables[f"{g}.threshold"] = ((), gate.threshold, of)
    return xr.Dataset(variables, coords)


def _of_data(x: Nest, y: Tensor | None) -> dict[str, xr.Dataset]:
    def of(tensors: dict[str, Tensor]) -> xr.Dataset:
        variables = {
            name: (("datum", *(f"{name}_dim_{i}" for i in range(value.dim() - 1))), to_numpy(value))
            for name, value in tensors.items()
        }
        return xr.Dataset(variables, {"datum": np.arange(nests.num_rows(x))})

    inputs = {_dotted(place): leaf for place, leaf in nests.leaves(x, "x") if leaf is not None}
    return {"constant_data": of(inputs)} | ({} if y is None else {"observed_data": of({"y": y})})


def _dotted(place: str) -> str:
    """A name for a variable of a place in x: x.mask of x["mask"], x.0 of x[0]."""
    return re.sub(r"\[\W?(.*?)\W?\]", r".\1", place).replace("/", "_")


def _describe(chains: list[BetaBernoulliNetwork], seed: int) -> dict[str, Any]:
    bnn = chains[0]
    untrained = any(all(gate.is_untrained for gate in network.gates.values()) for network in chains)
    return {
        **made_by(seed),
        "trained": "no: q(π) is as it was made; bbpyro.fit comes first" if untrained else "yes",
        "prior": repr(bnn.prior) if bnn.gates_by_family[0] else "none",
        "weight_prior": repr(bnn.weight_prior),
        "weight_guide": bnn.weight_guide,
        "temperature": bnn.temperature,
        "num_data": bnn.num_data,
    }
