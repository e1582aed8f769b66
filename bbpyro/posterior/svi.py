"""from_svi(): InferenceData of any Pyro model and guide, and whether the guide can be trusted (Pareto k̂)."""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import pyro
import torch
import xarray as xr
from pyro import poutine
from pyro.poutine.util import site_is_subsample
from rich.console import Console
from rich.progress import track
from torch import Tensor

from bbpyro.bars import is_drawn
from bbpyro.checks import check_positive
from bbpyro.posterior import container
from bbpyro.posterior.chains import made_by
from bbpyro.warn import warn

FEWEST = 25  # draws of which a fifth are a tail that a generalised Pareto distribution can be fitted to


@torch.no_grad()
def from_svi(
    model: Callable[..., Any],
    guide: Callable[..., Any],
    *args: Any,
    num_samples: int = 1000,
    dims: Mapping[str, Sequence[str]] | None = None,
    coords: Mapping[str, Sequence[Any]] | None = None,
    seed: int | None = None,
    progress: bool | Console = True,
    **kwargs: Any,
) -> Any:
    """Draws of any Pyro model and guide for ArviZ: an InferenceData where it is 0.x, a DataTree where it is 1.x.

    Of S draws from the guide, as one chain, it holds these groups:

    - posterior: each latent site `[1, S, ...]`, and each pyro.deterministic.
    - sample_stats: log_p, the joint log-density of the draw and the data, and log_q, that of the draw under the guide,
      nats, `[1, S]`; :func:`pareto_k` goes by them.
    - posterior_predictive, and log_likelihood, of each observed site; the latter by datum of its batch shape, nats.
    - prior and prior_predictive: S draws of the model alone.
    - observed_data.

    A dimension that is a pyro.plate's has the plate's name. The guide is called as it is, under its plates' own
    subsampling, so give it all data. Each draw is one call of the guide, and one of the model by poutine.replay:
    models need not be vectorised.

    Args:
        model: a Pyro model. An argument of the model's own that is named as one here, such as seed, can be bound to it
            by functools.partial.
        guide: its guide, trained.
        args: what both are called with; what is observed among them.
        num_samples: S, at least 1.
        dims: of a site, the names of its dimensions after chain and draw, in place of the plates' names.
        coords: labels along a dimension, by its name.
        seed: of the draws; by default drawn from torch's global generator, which is left as it was.
        progress: a progress bar, or the rich console to draw it on.
        kwargs: what both are called with, too.

    Warns:
        UserWarning: the Pareto k̂ of the guide is above what so many draws can be trusted with; a plate subsamples; or a
            latent site is not in the guide, so that nothing was learnt of it, and it is left out.

    Raises:
        ImportError: ArviZ is missing or older than 0.21.
        ValueError: num_samples is below 1, dims or coords do not fit, no latent site of the model is in
            the guide, or the shape of a site differs from draw to draw.
    """
    container.import_arviz()
    check_positive(num_samples=num_samples)
    seed = int(torch.randint(2**31, ()) if seed is None else seed)
    console = progress if isinstance(progress, Console) else None
    found: dict[str, dict[str, list[Any]]] = {name: {} for name in _GROUPS}
    shapes = _Shapes(dims or {}, coords or {})
    with torch.random.fork_rng(), pyro.validation_enabled(False):
        torch.manual_seed(seed)
        steps = track(range(num_samples), "drawing", console=console, disable=not is_drawn(progress), transient=True)
        for _ in steps:
            of_guide = poutine.trace(guide).get_trace(*args, **kwargs)
            joint = poutine.trace(poutine.replay(model, of_guide)).get_trace(*args, **kwargs)
            free = poutine.trace(poutine.uncondition(poutine.replay(model, of_guide))).get_trace(*args, **kwargs)
            alone = poutine.trace(poutine.uncondition(model)).get_trace(*args, **kwargs)
            _gather(found, shapes, _Draw(of_guide, joint, free, alone))
    if not shapes.learnt:
        raise ValueError("model: no latent site of it is in the guide, so that there is no posterior")
    _warn_of_sites(shapes)
    observed = {name: xr.Variable(shapes.of(name, value), value) for name, value in shapes.observed.items()}
    described = made_by(seed)
    groups = {name: shapes.dataset(name, sites, described) for name, sites in found.items() if sites}
    if observed:
        groups["observed_data"] = shapes.labelled(xr.Dataset(observed, attrs=described))
    idata = container.make(groups, described)
    if num_samples >= FEWEST:
        _warn_of_k(pareto_k(idata), num_samples)
    return idata


def pareto_k(idata: Any) -> float:
    """The Pareto k̂ of importance weights p / q of the draws (Yao et al. 2018, arXiv 1802.02538, section 3).

    Below 0.7 the guide's draws, weighted, can stand for the posterior; above it they miss a part of it. A site that is
    a point under the guide, as AutoDelta's are, is held there: k̂ is of the other sites given it, nan where there are
    none.

    Args:
        idata: what :func:`from_svi` returned, of at least 25 draws.

    Raises:
        ValueError: it has no log_p and log_q, or too few draws.
    """
    stats = container.group(idata, "sample_stats")
    if not {"log_p", "log_q"} <= set(stats):
        raise ValueError("idata: its sample_stats have no log_p and log_q; make it with bbpyro.posterior.from_svi")
    log_weights = (stats["log_p"] - stats["log_q"]).values.astype(float).ravel()
    if len(log_weights) < FEWEST:
        raise ValueError(f"idata: it has {len(log_weights)} draws, wanted at least {FEWEST}; give a larger num_samples")
    posterior = container.group(idata, "posterior")
    if all(np.ptp(posterior[name].values, axis=(0, 1)).max(initial=0) == 0 for name in posterior.data_vars):
        return math.nan
    if not np.isfinite(log_weights).all():
        return math.inf
    if np.ptp(log_weights) < 1e-3:
        return -math.inf  # q is the posterior, but for rounding
    return container.pareto_tail(log_weights)


_GROUPS = ("posterior", "sample_stats", "posterior_predictive", "log_likelihood", "prior", "prior_predictive")


class _Draw:
    """The traces of a draw: of the guide; of the model given it, with the data and without; and of the model alone."""

    def __init__(self, guide: Any, joint: Any, free: Any, alone: Any) -> None:
        self.guide, self.joint, self.free, self.alone = (_sites(trace) for trace in (guide, joint, free, alone))
        for trace in (guide, joint):
            trace.compute_log_prob()
        self.unguided = {n for n, site in self.joint.items() if _is_latent(site) and n not in self.guide}
        # What the guide has not was drawn from the model, so that its density is in both.
        beside = sum((self.joint[name]["log_prob_sum"] for name in self.unguided), torch.zeros(()))
        self.log_p = sum((site["log_prob_sum"] for site in self.joint.values()), torch.zeros(()))
        self.log_q = beside + sum((site["log_prob_sum"] for site in self.guide.values()), torch.zeros(()))


def _sites(trace: Any) -> dict[str, Any]:
    return {n: site for n, site in trace.nodes.items() if site["type"] == "sample" and not site_is_subsample(site)}


def _is_deterministic(site: Any) -> bool:
    return bool(site["infer"].get("_deterministic"))


def _is_latent(site: Any) -> bool:
    return not site["is_observed"] and not _is_deterministic(site)


def _is_data(site: Any) -> bool:
    """Whether it is observed; pyro.factor's sites are auxiliary."""
    return bool(site["is_observed"]) and not _is_deterministic(site) and not site["infer"].get("is_auxiliary")


def _density_of_each(site: Any) -> Tensor:
    """The log-densities of what was observed, unscaled, 0 where it is masked."""
    density: Tensor = site["unscaled_log_prob"]
    return density if site["mask"] is None else torch.where(torch.as_tensor(site["mask"]), density, 0.0)


class _Shapes:
    """The dimensions of each site, its labels, and what is to be warned of."""

    def __init__(self, dims: Mapping[str, Sequence[str]], coords: Mapping[str, Sequence[Any]]) -> None:
        self.dims, self.coords = {name: tuple(names) for name, names in dims.items()}, coords
        self.plates: dict[str, dict[int, tuple[str, int]]] = {}  # of a site: by dimension from the right of its batch
        self.event_dims: dict[str, int] = {}
        self.observed: dict[str, Any] = {}
        self.learnt: set[str] = set()
        self.unguided: set[str] = set()
        self.subsampled: set[str] = set()

    def see(self, sites: Mapping[str, Any]) -> None:
        """Note the plates of a draw's sites."""
        for name, site in sites.items():
            frames = [frame for frame in site["cond_indep_stack"] if frame.vectorized]
            self.plates[name] = {frame.dim: (frame.name, frame.size) for frame in frames}
            # Pyro has no batch in a deterministic, whatever plates it is in.
            self.event_dims[name] = 0 if _is_deterministic(site) else site["fn"].event_dim
            self.subsampled |= {frame.name for frame in frames if frame.full_size not in (None, frame.size)}

    def of(self, name: str, value: Any, is_density: bool = False) -> tuple[str, ...]:
        """The names of the dimensions of a site's value, or of its densities, which have those of its batch alone."""
        num_event = 0 if is_density else self.event_dims[name]
        if name in self.dims:
            if len(self.dims[name]) != value.ndim + (self.event_dims[name] - num_event):
                raise ValueError(f"dims: {name} has {value.ndim} dimensions, and {len(self.dims[name])} names")
            return self.dims[name][: value.ndim]
        return tuple(
            self._plate_of(name, i - value.ndim + num_event, n) or f"{name}_dim_{i}" for i, n in enumerate(value.shape)
        )

    def _plate_of(self, name: str, dim: int, size: int) -> str | None:
        """The plate at a dimension of a site's batch, from the right; one that is called as a site is has no name."""
        plate, of_plate = self.plates[name].get(dim, ("", None)) if dim < 0 else ("", None)
        return plate if size == of_plate and plate not in self.event_dims else None

    def dataset(self, group: str, values: Mapping[str, Sequence[Any]], attrs: Mapping[str, Any]) -> xr.Dataset:
        """Draws of sites as one chain of a group."""
        variables = {}
        for name, drawn in values.items():
            if len({value.shape for value in drawn}) > 1:
                raise ValueError(f"model: site {name} has another shape in each draw, which no array holds")
            own = () if group == "sample_stats" else self.of(name, drawn[0], group == "log_likelihood")
            variables[name] = xr.Variable(("chain", "draw", *own), np.stack(drawn)[None])
            num_draws = len(drawn)
        return self.labelled(xr.Dataset(variables, {"chain": [0], "draw": np.arange(num_draws)}, dict(attrs)))

    def labelled(self, found: xr.Dataset) -> xr.Dataset:
        """With the labels that are the user's."""
        for dim, labels in self.coords.items():
            if dim in found.sizes and found.sizes[dim] != len(labels):
                raise ValueError(f"coords: {dim} has {found.sizes[dim]} places, and {len(labels)} labels")
        return found.assign_coords({dim: list(labels) for dim, labels in self.coords.items() if dim in found.sizes})


def _gather(found: dict[str, dict[str, list[Any]]], shapes: _Shapes, draw: _Draw) -> None:
    """Add the numbers of one draw."""

    def add(group: str, name: str, value: Tensor) -> None:
        found[group].setdefault(name, []).append(value.detach().cpu().numpy())

    shapes.see(draw.joint)
    shapes.learnt |= {n for n, site in draw.joint.items() if _is_latent(site)} - draw.unguided
    shapes.unguided |= draw.unguided
    for name, site in draw.joint.items():
        if _is_data(site):
            shapes.observed.setdefault(name, torch.as_tensor(site["value"]).detach().cpu().numpy())
            add("log_likelihood", name, _density_of_each(site))
            add("posterior_predictive", name, draw.free[name]["value"])
            add("prior_predictive", name, draw.alone[name]["value"])
        elif name not in draw.unguided and not site["infer"].get("is_auxiliary"):
            add("posterior", name, site["value"])
            add("prior", name, draw.alone[name]["value"])
    add("sample_stats", "log_p", draw.log_p)
    add("sample_stats", "log_q", draw.log_q)


def _warn_of_sites(shapes: _Shapes) -> None:
    if shapes.unguided:
        names = ", ".join(sorted(shapes.unguided))
        warn(f"{names}: not in the guide, so that nothing was learnt of it; it is left out")
    if shapes.subsampled:
        names = ", ".join(sorted(shapes.subsampled))
        warn(
            f"{names}: this plate subsamples, and every draw sees other data; give all data and no subsample_size",
        )


def _warn_of_k(k: float, num_samples: int) -> None:
    limit = container.good_k(num_samples)
    if k > limit:
        warn(
            f"guide: its Pareto k̂ is {k:.2f}, above {limit:.2f}: it misses a part of the posterior, or is too narrow; "
            "try another guide, more steps, or MCMC",
        )
