"""What to_arviz does alike for networks and for latent features: chains, histories, and what made them."""

import datetime
from collections.abc import Mapping
from typing import Any

import numpy as np
import pyro
import torch
import xarray as xr

from bbpyro.posterior import container
from bbpyro.posterior.arguments import History
from bbpyro.version import __version__


def made_by(seed: int) -> dict[str, Any]:
    """The attributes of any result: when, by which versions, and from which seed."""
    return {
        "created_at": datetime.datetime.now(datetime.UTC).isoformat(),
        "inference_library": "bbpyro",
        "inference_library_version": __version__,
        "arviz_version": container.import_arviz().__version__,
        "pyro_version": pyro.__version__,
        "torch_version": str(torch.__version__),
        "seed": seed,
    }


def of_history(records: History) -> xr.Dataset:
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


def each_chain(history: Any) -> list[History]:
    """One list of records a network, of what may be just one such list."""
    records = list(history)
    return [records] if not records or isinstance(records[0], Mapping) else [list(each) for each in records]


def joined(chains: list[xr.Dataset]) -> xr.Dataset:
    """One Dataset, of one for each chain."""
    stacked = xr.concat(chains, "chain", data_vars="all", coords="minimal", compat="override", join="outer")
    return stacked.assign_coords(chain=np.arange(len(chains)))
