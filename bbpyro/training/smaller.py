"""A smaller network to train in place of another: without units that are out, and what it learns is the other's."""

from collections.abc import Iterator, Mapping
from typing import Any

import torch
import torch.nn.functional as F
from pyro.distributions.torch_distribution import TorchDistribution
from torch import Tensor, nn
from torch.distributions import constraints

from bbpyro.distributions import placed_like
from bbpyro.model import BetaBernoulliNetwork
from bbpyro.nests import FAILURES
from bbpyro.smaller import named_tensors, part_of
from bbpyro.structure import Removal, sliced

_SETTINGS = ("num_data", "temperature", "name")  # of a network, that may be assigned anew


class Smaller:
    """A network without some units of another, trained in its place, which gives it what it has learnt.

    The weights of the other that it does not have are what their prior has most of; its gates keep q(π) of all units.

    Args:
        whole: the other.
        optimizer: of its parameters, whose state goes along.
        removal: what is to go, as :func:`bbpyro.smaller.decide` says.

    Attributes:
        bnn: the smaller network. Its likelihood, and priors that are modules, are the other's own.
        optimizer: of its parameters, in the same groups.
    """

    def __init__(self, whole: BetaBernoulliNetwork, optimizer: torch.optim.Optimizer, removal: Removal) -> None:
        self._whole, self._whole_optimizer = whole, optimizer
        part = part_of(whole, removal)
        self._places, self.bnn = part.places, part.bnn
        _put_to_rest(whole, optimizer, self._places)
        small = dict(self.bnn.named_parameters())
        self._counterpart = {id(p): small.get(name, p) for name, p in whole.named_parameters()}
        self.optimizer = self._make_optimizer()

    def _make_optimizer(self) -> torch.optim.Optimizer:
        groups = [
            {**group, "params": [self._small(p) for p in group["params"]]}
            for group in self._whole_optimizer.param_groups
        ]
        optimizer = type(self._whole_optimizer)(groups)  # type: ignore[call-arg]
        for name, p, small in self._trained():
            for slot, tensor in self._whole_optimizer.state.get(p, {}).items():
                own = tensor.clone() if tensor.shape != p.shape else self._part(name, tensor)
                optimizer.state[small][slot] = own
        return optimizer

    @torch.no_grad()
    def take(self) -> None:
        """Be what the other network is now, which may have been changed since it was given back."""
        whole = dict(named_tensors(self._whole))
        for name, small in named_tensors(self.bnn):
            if name in whole and small is not whole[name]:
                small.copy_(self._part(name, whole[name]))
                if isinstance(small, nn.Parameter):
                    small.requires_grad_(whole[name].requires_grad)
        for name in _SETTINGS:
            vars(self.bnn)[name] = getattr(self._whole, name)

    @torch.no_grad()
    def give_back(self) -> None:
        """Have the other network, and its optimizer, be what this one and its optimizer are."""
        whole = dict(named_tensors(self._whole))
        for name, small in named_tensors(self.bnn):
            if name in whole and small is not whole[name]:
                self._put(name, whole[name], small)
        for name, p, small in self._trained():
            slots = self._whole_optimizer.state[p]
            for slot, tensor in self.optimizer.state.get(small, {}).items():
                if tensor.shape != small.shape:
                    slots[slot] = tensor.clone()
                else:
                    self._put(name, slots.setdefault(slot, torch.zeros_like(p)), tensor)

    def _trained(self) -> Iterator[tuple[str, Tensor, Tensor]]:
        """The name of each parameter that is trained, itself, and the smaller network's."""
        names = {id(p): name for name, p in self._whole.named_parameters()}
        for group in self._whole_optimizer.param_groups:
            yield from ((names.get(id(p), ""), p, self._small(p)) for p in group["params"])

    def _small(self, p: Tensor) -> Tensor:
        return self._counterpart.get(id(p), p)

    def _part(self, name: str, tensor: Tensor) -> Tensor:
        return tensor.flatten()[self._places[name]] if name in self._places else tensor.clone()

    def _put(self, name: str, whole: Tensor, small: Tensor) -> None:
        if name in self._places:
            places = self._places[name].flatten()
            small = whole.flatten().index_copy(0, places, small.flatten()).reshape(whole.shape)
        whole.copy_(small)


@torch.no_grad()
def has_priors_of_its_own(whole: BetaBernoulliNetwork, removal: Removal) -> bool:
    """Whether the weight prior says of what stays of each weight what it says of that in the whole weight."""
    generator = torch.Generator("cpu").manual_seed(0)
    for name, w in whole.weights.items():
        if name not in removal.kept and name not in removal.grouped:
            continue
        places = sliced(torch.arange(w.numel(), device=w.device).view(w.shape), name, removal)
        found = []
        for part in torch.randn((2, *places.shape), generator=generator, device="cpu").to(w):
            padded = torch.ones(w.numel(), dtype=w.dtype, device=w.device)
            padded[places.flatten()] = part.flatten()
            try:
                own = placed_like(whole.weight_prior(places.shape), w).log_prob(part)
            except FAILURES:  # it knows the weights of the whole network alone
                return False
            found.append(whole._weight_prior(name, w).log_prob(padded.view(w.shape)) - own)
        if not torch.allclose(found[0], found[1], rtol=1e-4, atol=1e-2):
            return False
    return True


@torch.no_grad()
def _put_to_rest(whole: BetaBernoulliNetwork, optimizer: torch.optim.Optimizer, places: Mapping[str, Tensor]) -> None:
    """Have q(W) of the weights that nothing reads be what their prior alone would make of it, and at rest."""
    for name, w in whole.weights.items():
        full_name = f"net.{name}"
        prior, scales = whole._weight_prior(name, w), whole.unconstrained_scales
        if full_name in places and _is_on_all_numbers(prior):
            is_unread = torch.ones(w.numel(), dtype=torch.bool, device=w.device)
            is_unread[places[full_name].flatten()] = False
            is_unread = is_unread.view(w.shape)
            w.copy_(torch.where(is_unread, _moment(prior, "mode", torch.zeros_like(w)), w))
            if (key := name.replace(".", "/")) in scales and whole.weight_guide == "normal":
                scale = _moment(prior, "stddev", F.softplus(scales[key]))
                scales[key].copy_(torch.where(is_unread, scale + torch.log(-torch.expm1(-scale)), scales[key]))
    named = dict(whole.named_parameters())
    for name, where in places.items():
        slots = optimizer.state.get(named[name], {}) if name in named else {}
        for tensor in slots.values():
            if tensor.shape == named[name].shape:
                still = torch.zeros_like(tensor).flatten()
                tensor.copy_(still.index_copy(0, where.flatten(), tensor.flatten()[where.flatten()]).view_as(tensor))


def _is_on_all_numbers(prior: TorchDistribution) -> bool:
    """Whether each real number is possible under a prior; under another, such as a Uniform, a weight stays as it is."""
    try:
        support: Any = prior.support
    except (AttributeError, NotImplementedError):
        return False
    while hasattr(support, "base_constraint"):
        support = support.base_constraint
    return isinstance(support, type(constraints.real))


def _moment(prior: TorchDistribution, name: str, default: Tensor) -> Tensor:
    """The mode, or the standard deviation, of a prior, where it has one that is finite."""
    try:
        found: Tensor = getattr(prior, name).expand(default.shape)
    except (AttributeError, NotImplementedError, RuntimeError):
        return default
    return torch.where(found.isfinite(), found, default)
