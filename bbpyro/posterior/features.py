"""to_arviz() of a LatentFeatureModel: its features, who has them, and what they make of the data."""

import contextlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pyro
import torch
import xarray as xr
from rich.console import Console
from rich.progress import track
from torch import Tensor

from bbpyro.bars import is_drawn
from bbpyro.checks import check_is, check_positive, in_eval_mode
from bbpyro.distributions import with_exact_tails
from bbpyro.exclusive import one_at_a_time
from bbpyro.latent_features import Draw, LatentFeatureModel, hide, log_prob_of_each
from bbpyro.posterior import container
from bbpyro.posterior.arguments import History, check_attrs
from bbpyro.posterior.chains import each_chain, joined, made_by, of_history


@one_at_a_time
@torch.no_grad()
def features_to_arviz(
    model: LatentFeatureModel | Sequence[LatentFeatureModel],
    x: Tensor | None = None,
    num_samples: int = 1000,
    *,
    observed: Tensor | None = None,
    num_predictive_samples: int | None = None,
    history: History | Sequence[History] | None = None,
    attrs: Mapping[str, Any] | None = None,
    seed: int | None = None,
    progress: bool | Console = True,
) -> Any:
    """The posterior of latent features for ArviZ: an InferenceData where ArviZ is 0.x, a DataTree where it is 1.x.

    Of S draws, K features, N data and features of D numbers it holds these groups:

    - posterior: pi `[chain, S, K]`, W `[chain, S, K, D]`, z `[chain, S, N, K]`, and num_features `[chain, S]`, K₊, the
      features that some datum has.
    - prior: pi, W and num_features.
    - guide: q itself, `[chain, ...]`: concentration1 and concentration0 of π `[K]` (of the sticks, under
      StickBreaking), weight_loc and weight_scale `[K, D]`, and share, the λ of z, `[N, K]`.
    - with x: posterior_predictive and observed_data (x), and log_likelihood (x: of what was observed of each datum
      given its z, nats). It is not one to leave data out by: a datum's z was fitted to it.
    - with history: training, the records of :func:`bbpyro.fit` along dimension `epoch`.

    Features have no order of their own, so that chains agree in num_features and in x, not in a π_k.

    Args:
        model: trained; or several, restarts of the same model, each of which becomes a chain.
        x: the data `[N, ...]`; what is nan was not observed. A model with an encoder wants them.
        num_samples: S.
        observed: booleans of x's shape, which of it was observed.
        num_predictive_samples: by how many of the S draws, evenly spaced, x is predicted; by default by 100.
        history: what `fit` returned, for each model.
        attrs: texts, numbers or lists of them to note.
        seed: of the draws; by default drawn from torch's global generator, which is left as it was.
        progress: a progress bar, or the rich console to draw it on.

    Raises:
        ImportError: ArviZ is missing or older than 0.21.
        TypeError: x is no tensor, or model no LatentFeatureModel.
        ValueError: a number is out of range, x does not fit the model, the models are of different sizes, or there is
            not a history for each of them.
    """
    container.import_arviz()
    chains = [model] if isinstance(model, LatentFeatureModel) else list(model)
    num_predictive = min(100, num_samples) if num_predictive_samples is None else num_predictive_samples
    check_positive(num_samples=num_samples, num_predictive_samples=num_predictive)
    if num_predictive > num_samples:
        raise ValueError(f"num_predictive_samples is {num_predictive}, more than num_samples, {num_samples}")
    seen = x
    if x is not None:
        check_is("x", x, Tensor)
        check_is("model", chains[0], LatentFeatureModel)
        with torch.random.fork_rng():  # one that was not fitted begins at random
            seen = chains[0].as_data(hide(x, observed))
    with torch.random.fork_rng():
        _check_chains(chains, seen)
    histories = each_chain(history) if history else []
    if history:
        _check_histories(histories, len(chains))
    seed = int(torch.randint(2**31, ()) if seed is None else seed)
    noted = {**made_by(seed), "prior": repr(chains[0].prior), "num_data": chains[0].num_data}
    described = {**check_attrs(attrs or {}, noted), **noted}
    thinned = np.arange(num_predictive) * num_samples // num_predictive
    found: dict[str, list[xr.Dataset]] = {}
    with torch.random.fork_rng(), contextlib.ExitStack() as stack, pyro.validation_enabled(False):
        torch.manual_seed(seed)
        for each in chains:
            stack.enter_context(in_eval_mode(each))
        console = progress if isinstance(progress, Console) else None
        for each in track(chains, "drawing", console=console, disable=not is_drawn(progress), transient=True):
            for name, group in _groups(each, seen, num_samples, thinned).items():
                found.setdefault(name, []).append(group)
    groups = {name: joined(of_chains).assign_attrs(described) for name, of_chains in found.items()}
    if seen is not None:
        groups["observed_data"] = xr.Dataset({"x": (_of_x(seen), seen.cpu().numpy())}, attrs=described)
    if histories:
        groups["training"] = joined([of_history(records) for records in histories]).assign_attrs(described)
    return container.make(groups, described)


def dataset(pi: Any, W: Any, z: Any) -> xr.Dataset:
    """Draws of a chain as ArviZ knows them: pi `[S, K]`, W `[S, K, D]`, z `[S, N, K]`, and from it num_features."""
    return xr.Dataset(
        {
            "pi": (("draw", "feature"), pi),
            "W": (("draw", "feature", "dim"), W),
            "z": (("draw", "datum", "feature"), z),
            "num_features": ("draw", z.any(1).sum(-1)),
        },
        {"draw": np.arange(len(pi))},
    )


def _groups(model: LatentFeatureModel, x: Tensor | None, num_samples: int, thinned: Any) -> dict[str, xr.Dataset]:
    """The groups of one chain."""
    draws: dict[str, list[Any]] = {"pi": [], "W": [], "z": []}
    of_data: dict[str, list[Any]] = {"x": [], "log_likelihood": []}
    for s in range(num_samples):
        draw: Draw = model.draw(x)
        for name, values in draws.items():
            value: Tensor = getattr(draw, name)
            values.append((value.to(torch.int8) if name == "z" else value).cpu().numpy())
        if x is not None and s in thinned:
            of_data["x"].append(draw.of_x.sample().cpu().numpy())
            of_data["log_likelihood"].append(log_prob_of_each(draw.of_x, x).flatten(1).nansum(1).cpu().numpy())
    groups = {
        "posterior": dataset(*(np.stack(values) for values in draws.values())),
        "prior": _of_prior(model, num_samples),
        "guide": _of_guide(model, x),
    }
    if x is not None:
        at = {"draw": thinned}
        groups["posterior_predictive"] = xr.Dataset({"x": (("draw", *_of_x(x)), np.stack(of_data["x"]))}, at)
        log_likelihood = ("draw", "datum"), np.stack(of_data["log_likelihood"])
        groups["log_likelihood"] = xr.Dataset({"x": log_likelihood}, at)
    return groups


def _of_prior(model: LatentFeatureModel, num_samples: int) -> xr.Dataset:
    pi = with_exact_tails(model.prior(model.num_features)).sample((num_samples,)).double().cpu()
    is_used = torch.rand(pi.shape, dtype=pi.dtype) > (1 - pi) ** model.num_data
    W = model.weight_scale * torch.randn(num_samples, *model.loc.shape)
    variables = {"pi": (("draw", "feature"), pi.numpy()), "W": (("draw", "feature", "dim"), W.numpy())}
    return xr.Dataset(
        {**variables, "num_features": ("draw", is_used.sum(-1).numpy())}, {"draw": np.arange(num_samples)}
    )


def _of_guide(model: LatentFeatureModel, x: Tensor | None) -> xr.Dataset:
    W = model.q_weights()
    parts = {f"concentration{i}": ("feature", getattr(model, f"log_concentration{i}").exp()) for i in (1, 0)}
    of_weights = {"weight_loc": W.loc, "weight_scale": W.scale}
    variables: dict[str, Any] = {name: (dims, value.cpu().numpy()) for name, (dims, value) in parts.items()}
    variables |= {name: (("feature", "dim"), value.cpu().numpy()) for name, value in of_weights.items()}
    variables["share"] = ("datum", "feature"), torch.sigmoid(model.z_logits(x)).cpu().numpy()
    return xr.Dataset(variables)


def _of_x(x: Tensor) -> tuple[str, ...]:
    return ("datum", "x_dim") if x.dim() == 2 else ("datum", *(f"x_dim_{i}" for i in range(x.dim() - 1)))


def _check_chains(chains: Sequence[Any], x: Tensor | None) -> None:
    if not chains:
        raise ValueError("model: it is an empty list, wanted a model, or several")
    for each in chains:
        check_is("model", each, LatentFeatureModel)
        each.initialize_parameters(x)
    if len({id(each) for each in chains}) < len(chains):
        raise ValueError("model: it holds a model twice; chains are different restarts of one model")
    sizes = {(tuple(each.loc.shape), each.num_data, repr(each.prior)) for each in chains}
    if len(sizes) > 1:
        raise ValueError(f"model: chains must be restarts of one model, but these differ: {sorted(map(str, sizes))}")


def _check_histories(histories: list[History], num_chains: int) -> None:
    if len(histories) != num_chains or len({len(records) for records in histories}) > 1:
        raise ValueError(f"history: wanted the records of {num_chains} models, of as many epochs each")
