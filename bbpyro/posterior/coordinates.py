"""What the units of the gates on the input are: pixels at their places, or features by their names."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from bbpyro import nests
from bbpyro.layers import device_of
from bbpyro.model import BetaBernoulliNetwork
from bbpyro.nests import Nest
from bbpyro.warn import warn


def unit_coords(bnn: BetaBernoulliNetwork, x: Nest | None, feature_names: Sequence[str] | None) -> dict[str, Any]:
    """A number for each unit; of a gate on the pixels of x their places, of one on its features their names.

    Raises:
        TypeError: the names are no texts.
        ValueError: there are not as many as the input has features.
    """
    coords: dict[str, Any] = {f"{g}_unit": np.arange(gate.num_features) for g, gate in bnn.gates.items()}
    names = None if feature_names is None else _check_names(feature_names, x)
    if x is not None and any(tensor.dim() in (3, 4) for tensor in nests.tensors_of(x)):
        for g, datum in _gates_on_input(bnn, _probe(bnn, x)).items():
            if datum.dim() in (3, 4) and bnn.gates[g].num_features == datum.numel():
                places = np.unravel_index(coords[f"{g}_unit"], tuple(datum.shape[1:]))
                for name, place in zip(("column", "row", "channel"), reversed(places), strict=False):
                    coords[f"{g}_{name}"] = (f"{g}_unit", place)
    if names:
        probe = _probe(bnn, torch.empty(1, len(names)) if x is None else x)
        on_input = [g for g in _gates_on_input(bnn, probe, x is None) if bnn.gates[g].num_features == len(names)]
        if not on_input:
            warn(f"feature_names: no gate is on an input of {len(names)} features, so they name no unit")
        coords |= {f"{g}_name": (f"{g}_unit", np.array(names)) for g in on_input}
    return coords


def kept_features(bnn: BetaBernoulliNetwork, x: Tensor, feature_names: Sequence[str]) -> list[str]:
    """The features that are kept, by name or by number; of data that are no rows of numbers, none.

    Args:
        bnn: the network.
        x: inputs `[N, D]`.
        feature_names: D of them, or none.
    """
    if x.dim() != 2:
        return []
    on_input = [bnn.gates[g] for g in _gates_on_input(bnn, _probe(bnn, x)) if bnn.gates[g].num_features == x.shape[1]]
    kept = on_input[0].kept().tolist() if on_input else []
    return [name for name, is_kept in zip(feature_names or map(str, range(len(kept))), kept, strict=False) if is_kept]


def _check_names(feature_names: Sequence[str], x: Nest | None) -> list[str]:
    names = [feature_names] if isinstance(feature_names, str) else list(feature_names)
    if isinstance(feature_names, str) or not all(isinstance(name, str) for name in names):
        got = repr(feature_names) if isinstance(feature_names, str) else repr(names[:3])
        raise TypeError(f"feature_names is {got}, wanted a text for each feature, as list(map(str, table.columns))")
    wanted = {n for tensor in nests.tensors_of(x) for n in (tensor[0].numel(), *tensor.shape[1:][-1:])}
    if not names or (wanted and len(names) not in wanted):
        described = "" if x is None else f", wanted {' or '.join(map(str, sorted(wanted)))}, the features of x"
        raise ValueError(f"feature_names: it holds {len(names)} names{described}")
    return names


def _probe(bnn: BetaBernoulliNetwork, x: Nest) -> Nest:
    """An input by which gates on it are known: of two units that are both 0 for a datum, noise tells which is which."""
    parameter = next(iter(bnn.gates.values())).like

    def of(tensor: Tensor) -> Tensor:
        if tensor.is_floating_point():
            return torch.rand(1, *tensor.shape[1:], device=parameter.device, dtype=parameter.dtype)
        return tensor[:1].to(device_of(bnn))

    return nests.map_tensors(of, x)


def _gates_on_input(bnn: BetaBernoulliNetwork, x: Nest, is_of_names: bool = False) -> dict[str, Tensor]:
    """The gates whose units are the numbers of an input, in their order, each with that input."""
    found: dict[str, Tensor] = {}
    handles = []
    for name, gate in bnn.gates.items():

        def look(module: Any, args: tuple[Tensor, ...], name: str = name) -> None:
            for tensor in nests.tensors_of(x):
                if tensor.dtype == args[0].dtype and torch.equal(args[0].flatten(), tensor.flatten()):
                    found.setdefault(name, tensor)

        handles.append(gate.register_forward_pre_hook(look))
    try:
        bnn(x)
    except nests.FAILURES as error:
        if is_of_names:  # alone: there is no x
            shape = list(nests.first(x).shape[1:])
            raise ValueError(f"feature_names: the network takes no {shape} of them; give x too") from error
        return {}  # it does not take noise
    finally:
        for handle in handles:
            handle.remove()
    return found
