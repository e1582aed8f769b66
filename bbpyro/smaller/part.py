"""A network of the same model and guide without some units of another."""

import copy
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import torch
from pyro.distributions.torch_distribution import TorchDistribution
from torch import Tensor, nn

from bbpyro.distributions import units_of
from bbpyro.layers import gates_of
from bbpyro.model import BetaBernoulliNetwork
from bbpyro.priors import Prior
from bbpyro.priors.placed import PlacedPriors
from bbpyro.structure import Removal, sliced, without


@dataclass(frozen=True)
class Part:
    """A network without some units of another.

    Attributes:
        bnn: it. Its likelihood, and priors that are modules, are the other's own.
        places: where in a tensor of the whole network, flattened, each number of this one's is; by the tensor's name.
        units: by gate, which units stay, where some do not.
    """

    bnn: BetaBernoulliNetwork
    places: dict[str, Tensor]
    units: dict[str, Tensor]


def part_of(whole: BetaBernoulliNetwork, removal: Removal) -> Part:
    """The network without what `removal` says, as :func:`bbpyro.smaller.decide` found it; its tensors are copies."""
    masks = {gate: removal.kept[f"{gate}.z"][0] for gate in whole.gates if f"{gate}.z" in removal.kept}
    kept = {name: dims for name, dims in removal.kept.items() if name.removesuffix(".z") not in masks}
    removal = Removal(kept, removal.grouped, {})
    units = {gate: torch.from_numpy(indices) for gate, indices in masks.items()}
    places = _places(whole, removal)
    return Part(_without(whole, removal, units, places), places, units)


def named_tensors(bnn: BetaBernoulliNetwork) -> Iterator[tuple[str, Tensor]]:
    """The parameters and buffers of a network by name."""
    yield from bnn.named_parameters()
    yield from bnn.named_buffers()


def _places(whole: BetaBernoulliNetwork, removal: Removal) -> dict[str, Tensor]:
    places: dict[str, Tensor] = {}
    for name, tensor in named_tensors(whole):
        own = name.removeprefix("net.")
        if own != name and (own in removal.kept or own in removal.grouped):
            numbers = torch.arange(tensor.numel(), device=tensor.device).view(tensor.shape)
            places[name] = sliced(numbers, own, removal)
            places[f"unconstrained_scales.{own.replace('.', '/')}"] = places[name]
    return places


def _without(
    whole: BetaBernoulliNetwork, removal: Removal, units: Mapping[str, Tensor], places: Mapping[str, Tensor]
) -> BetaBernoulliNetwork:
    """The network without what goes, of the same model and guide; `units` are those of the gates that stay."""
    small = copy.copy(whole)
    for name in ("_parameters", "_buffers", "_modules"):
        vars(small)[name] = dict(vars(whole)[name])
    net = without(whole.net, removal)
    gates, _ = whole.gates_by_family
    for name, gate in gates_of(net).items():
        if name in gates:
            vars(gate)["family"] = gates[name].family
    scales = {
        name: nn.Parameter(p.detach().flatten()[places[full]] if full in places else p.detach().clone())
        for name, p in whole.unconstrained_scales.items()
        for full in [f"unconstrained_scales.{name}"]
    }
    vars(small)["_modules"] |= {"net": net, "unconstrained_scales": nn.ParameterDict(scales)}
    vars(small)["_modules"].pop("prior", None)  # where it is in the mapping
    vars(small)["prior"] = {name: _prior_of(whole, name, units.get(name)) for name in gates}
    vars(small)["_placed"] = PlacedPriors()
    return small


class _OfUnits:
    """A prior of some of a gate's units."""

    def __init__(self, prior: Prior, part: TorchDistribution) -> None:
        self._part = part
        if hasattr(prior, "guide"):
            self.guide = prior.guide

    def __call__(self, num_units: int) -> TorchDistribution:
        return self._part


def _prior_of(whole: BetaBernoulliNetwork, name: str, units: Tensor | None) -> Prior:
    prior, gate = whole._prior_on(name), whole.gates_by_family[0][name]
    if units is None:
        return prior
    part = units_of(whole._prior(name, gate), units.to(gate.like.device))
    if part is None:
        raise ValueError(f"prior: that of {name!r} cannot be had of some of its units")
    return _OfUnits(prior, part)
