"""A network to predict by, without the units that are in no mask of the draws that it is predicted by."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from bbpyro import nests
from bbpyro.distributions import remember_log_odds, remembered_log_odds
from bbpyro.layers import device_of
from bbpyro.model import BetaBernoulliNetwork
from bbpyro.nests import Nest
from bbpyro.smaller.leaving import Reading, decide
from bbpyro.smaller.part import Part, part_of

_NEVER = 1e-12  # of π: of 1e9 masks drawn, one in a thousand times one would be 1
_LONG = 20_000  # data times masks of each, from where it pays to find the smaller network
_NUM_EXAMPLES = 8  # by which the network is followed


class Living:
    """The network without some units, and what it is given in place of what the whole one is.

    Attributes:
        bnn: the network.
        read: what it is called with, of x.
    """

    def __init__(self, part: Part, read: Reading) -> None:
        self.bnn, self.read, self._part = part.bnn, read, part

    def of_pi(self, pi: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Draws of π `[K]`, or `[S, K]`, of the units that stay, which remember their log-odds."""
        return {g: _chosen(value, self._part.units[g]) if g in self._part.units else value for g, value in pi.items()}

    def of_units(self, values: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Numbers of each unit, `[..., K]` by gate, of those that stay."""
        units = self._part.units
        return {g: value[..., units[g].to(value.device)] if g in units else value for g, value in values.items()}

    def of_weights(self, W: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """What stays of each weight."""
        places = self._part.places
        return {n: w.flatten()[places[f"net.{n}"]] if f"net.{n}" in places else w for n, w in W.items()}


def _is_never(pi: Tensor) -> Tensor:
    return (pi < _NEVER).view(-1, pi.shape[-1]).all(0)


def _chosen(pi: Tensor, units: Tensor) -> Tensor:
    exact, units = remembered_log_odds(pi), units.to(pi.device)
    return pi[..., units] if exact is None else remember_log_odds(exact[..., units], pi.dtype)


def living_part(
    bnn: BetaBernoulliNetwork, draws: Sequence[Mapping[str, Tensor]], x: Nest, num_masks: int
) -> Living | None:
    """The network without the units whose π is as good as 0 in each of these draws; None where that spares little.

    Args:
        bnn: the network, in evaluation.
        draws: of π, by gate, `[K]` or `[S, K]`.
        x: inputs `[N, ...]`.
        num_masks: of each datum.
    """
    if not draws or num_masks * nests.num_rows(x) < _LONG:
        return None
    dead = {g: torch.stack([_is_never(draw[g]) for draw in draws]).all(0) for g in draws[0]}
    if not dead or sum(out.sum().item() for out in dead.values()) < sum(map(len, dead.values())) / 5:
        return None
    example: Any = nests.to_device(nests.rows(x, slice(_NUM_EXAMPLES)), device_of(bnn))
    found = decide(bnn.net, dead, example)
    if found is None:
        return None
    removal, reading = found
    try:
        return Living(part_of(bnn, removal), reading)
    except ValueError:  # a prior that cannot be had of some units
        return None
