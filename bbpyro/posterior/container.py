"""ArviZ of either major: its container is an InferenceData where it is 0.x, an xarray.DataTree where it is 1.x."""

import importlib
import io
import math
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import h5netcdf
import numpy as np
import xarray as xr

from bbpyro import checkpoint

OLDEST_ARVIZ = (0, 21)
LOO_DRAWS = 30  # enough for az.loo of either major: a fifth of them is a tail, of which 1.x finds no k below 6


def import_arviz() -> Any:
    """The arviz module, imported when it is first needed: it takes a second.

    Raises:
        ImportError: it is missing or older than 0.21.
    """
    remedy = "install it with: pip install -U 'arviz>=0.21'"
    with warnings.catch_warnings():
        # Told at each import by ArviZ 0.23, of its 1.x, which this works with too.
        warnings.filterwarnings("ignore", message="\\s*ArviZ is undergoing a major refactor", category=FutureWarning)
        try:
            arviz = importlib.import_module("arviz")
        except ImportError as error:
            raise ImportError(f"ArviZ cannot be imported ({error}); {remedy}") from error
    if _version(arviz) < OLDEST_ARVIZ:
        raise ImportError(f"ArviZ {arviz.__version__} is too old for bbpyro; {remedy}")
    return arviz


def _version(arviz: Any) -> tuple[int, ...]:
    return tuple(int(number) for number in arviz.__version__.split(".")[:2])


def make(groups: Mapping[str, xr.Dataset], attrs: Mapping[str, Any]) -> Any:
    """Groups in the container of the installed ArviZ."""
    arviz = import_arviz()
    if _version(arviz) < (1, 0):
        return arviz.InferenceData(attrs=dict(attrs), **groups)
    return _tree(groups, attrs)


def _tree(groups: Mapping[str, xr.Dataset], attrs: Mapping[str, Any]) -> xr.DataTree:
    """Groups as ArviZ 1.x takes them, whose summary fails on coordinates of some variables alone: places of pixels."""
    plain = {
        name: group.reset_coords(set(group.coords) - set(group.dims), drop=True) if "draw" in group.dims else group
        for name, group in groups.items()
    }
    return xr.DataTree.from_dict({"/": xr.Dataset(attrs=dict(attrs)), **plain})


def group(idata: Any, name: str) -> xr.Dataset:
    """A group of either container.

    Raises:
        ValueError: it is not there; the message says what would have put it there.
    """
    try:
        found = idata[name]
    except KeyError:
        remedy = {
            "training": "give bbpyro.to_arviz history=, what fit returned",
            "prior": "make it with bbpyro.to_arviz(bnn)",
            "guide": "make it with bbpyro.to_arviz(bnn)",
            "class_probability": "give bbpyro.to_arviz x; only a likelihood of classes has it",
        }.get(name, "give bbpyro.to_arviz data: x, and y where labels are wanted")
        raise ValueError(f"idata: it has no group {name!r}; {remedy}") from None
    return found.to_dataset() if isinstance(found, xr.DataTree) else found


def as_chains(paths: Sequence[Path]) -> Any:
    """The draws of files that :func:`save` wrote, of restarts of one model, each of which becomes a chain."""
    groups = {}
    with h5netcdf.File(paths[0], "r") as file:
        names = [name for name in ("posterior", "prior", "log_likelihood", "guide") if name in file.groups]
    for name in names:
        each = [xr.load_dataset(path, group=name, engine="h5netcdf") for path in paths]
        joined = xr.concat(each, "chain", data_vars="all", coords="minimal", compat="override", join="override")
        groups[name] = joined.assign_coords(chain=range(len(each)))
    return make(groups, groups["posterior"].attrs)


def loo(idata: Any) -> Any:
    """az.loo of independent draws, pointwise, without its warning of a bad Pareto k, of which its table tells too.

    Raises:
        ValueError: `idata` has no log_likelihood, or of too few draws for the installed ArviZ.
    """
    likelihoods = group(idata, "log_likelihood")
    draws = likelihoods.sizes["chain"] * likelihoods.sizes["draw"]
    fewest = 2 if _version(import_arviz()) < (1, 0) else LOO_DRAWS
    if draws < fewest:
        remedy = "give bbpyro.to_arviz a larger num_samples, or num_predictive_samples"
        raise ValueError(f"idata: its log_likelihood is of {draws} draws, wanted at least {fewest}; {remedy}")
    with warnings.catch_warnings():
        # who asks for it is told k itself, datum by datum
        warnings.filterwarnings("ignore", message="Estimated shape parameter of Pareto")
        apart = make({"log_likelihood": likelihoods.map(_told_apart)}, {})
        found = import_arviz().loo(apart, pointwise=True, reff=1.0)
    if _version(import_arviz()) >= (1, 0):  # its k is nan where draws are alike about where the tail begins
        found.pareto_k = found.pareto_k.fillna(np.inf)  # not known is not to be trusted
    return found


def _told_apart(values: xr.DataArray) -> xr.DataArray:
    """Log-likelihoods of which no datum's least ones are all alike, as they are of a datum that is surely right.

    ArviZ 1.x refuses a tail of importance weights that is one number, and 0.x calls its k infinite, though equal
    weights are the best there are. A millionth of a nat makes it the bounded tail that it is, with a k below 0.
    """
    drawn = values.astype(float).stack(sample=("chain", "draw"), create_index=False).transpose("sample", ...)
    num_draws = drawn.sizes["sample"]
    tail = max(1, min(num_draws // 5, int(3 * num_draws**0.5)))  # as ArviZ has it
    least = np.sort(drawn.values, axis=0)[:tail]
    ramp = xr.DataArray(np.linspace(0, 1e-6, num_draws).reshape(values.sizes["chain"], -1), dims=("chain", "draw"))
    alike = xr.DataArray(least[-1] - least[0] < 1e-9, dims=drawn.dims[1:])
    return (values.astype(float) + ramp * alike).transpose(*values.dims)


def summary(draws: xr.Dataset, ci_prob: float) -> Any:
    """az.summary(kind="stats") of draws of one group, with the shortest intervals of that probability."""
    arviz = import_arviz()
    if _version(arviz) < (1, 0):
        return arviz.summary(draws, kind="stats", hdi_prob=ci_prob)
    return arviz.summary(draws, kind="stats", ci_prob=ci_prob, ci_kind="hdi", round_to=3)  # as 0.x does by itself


def good_k(num_draws: int) -> float:
    """Up to which Pareto k the importance weights of so many draws can be trusted (arXiv 1507.02646)."""
    return min(1 - 1 / math.log10(num_draws), 0.7)


def pareto_tail(log_weights: Any) -> float:
    """The shape k of the tail of importance weights, by a generalised Pareto distribution (arXiv 1507.02646)."""
    if _version(import_arviz()) < (1, 0):
        return float(import_arviz().psislw(log_weights)[1])
    array_stats = importlib.import_module("arviz_stats.base").array_stats
    return float(array_stats.psislw(-log_weights, axis=-1)[1])  # it takes what leave-one-out has: weights of -log p


def elpd(loo: Any) -> float:
    """The expected log predictive density that az.loo found, summed over the data, nats."""
    return float(loo.elpd_loo if _version(import_arviz()) < (1, 0) else loo.elpd)


def elpd_pointwise(loo: Any) -> Any:
    """The expected log predictive density of each datum `[N]` that az.loo found, nats."""
    return np.asarray(loo.loo_i if _version(import_arviz()) < (1, 0) else loo.elpd_i)


def save(idata: Any, path: Path | str) -> None:
    """Write `idata` as netCDF, whole or not at all: the same file by ArviZ of either major, for az.from_netcdf of both.

    Of draws it holds the numbers of units, and places of pixels in the guide alone, as :func:`bbpyro.to_arviz` says.

    Raises:
        OSError: the file cannot be written.
    """
    tree = idata if isinstance(idata, xr.DataTree) else _tree({name: idata[name] for name in idata}, idata.attrs)
    memory = io.BytesIO()  # of a full disk HDF5 takes the whole process down
    with h5netcdf.File(memory, "w") as file:
        for node in tree.subtree:
            packed = {name: {"zlib": True} for name, values in node.variables.items() if _can_be_packed(values)}
            store = xr.backends.H5NetCDFStore(file, group=node.path, mode="a")
            node.to_dataset(inherit=False).dump_to_store(store, encoding=packed)
    checkpoint.write_atomic(Path(path), memory.getvalue())


def _can_be_packed(values: xr.Variable) -> bool:
    return bool(values.dtype.kind in "biuf" and values.ndim and values.size)
