"""What a BetaBernoulliNetwork is given: checked whenever it is assigned, and looked up where it is used."""

import fnmatch
import math
from collections.abc import Callable, Mapping
from typing import Any

from pyro.distributions.torch_distribution import TorchDistribution
from torch import Tensor, nn

from bbpyro import priors
from bbpyro.distributions import with_exact_tails
from bbpyro.families import Gate
from bbpyro.families.beta_bernoulli import BetaBernoulliDropout, kumaraswamy
from bbpyro.layers import check_modules, gates_of, weights_of
from bbpyro.priors.checks import check_prior, check_weight_prior
from bbpyro.priors.placed import PlacedPriors


class Given(nn.Module):
    """A network with gates, the number of data, and the priors; each may be assigned anew.

    The gates are told which family the prior wants q(π) to be of, and up to which E[π] a unit is out.
    """

    net: nn.Module
    num_data: int
    temperature: float
    prior: priors.Prior | dict[str, priors.Prior]
    weight_prior: priors.WeightPrior

    def __init__(self) -> None:
        super().__init__()
        self._placed = PlacedPriors()

    def __setattr__(self, name: str, value: Any) -> None:
        # No properties: torch would register what is an nn.Module, and so can be learnt, without asking them.
        if name not in _READERS:
            self._assign(name, value)
            return
        if name == "weight_prior" and value is None:
            value = priors.matching_l2(1e-4, self.num_data)
        before: Any = getattr(self, name, None)
        self._assign(name, _READERS[name](value))
        try:
            self._take(name, before)
        except ValueError:
            self._assign(name, before)
            raise

    def _assign(self, name: str, value: Any) -> None:
        if not isinstance(value, nn.Module):  # torch lets nothing else take a module's place
            self.__dict__.get("_modules", {}).pop(name, None)
        super().__setattr__(name, value)

    def _take(self, name: str, before: Any) -> None:
        if name == "prior":
            self._take_prior()
        elif name == "weight_prior":
            for weight, w in self.weights.items():
                check_weight_prior(weight, w.shape, self.weight_prior)
        elif name == "num_data" and before is not None and self.weight_prior == priors.matching_l2(1e-4, before):
            self.weight_prior = priors.matching_l2(1e-4, self.num_data)  # the default goes by it

    def _take_prior(self) -> None:
        """Check each gate's prior, and have what of them can be learnt among the network's modules."""
        gates, prior = gates_of(self.net), self.prior
        with_pi = self._with_pi(gates)
        for pattern in prior if isinstance(prior, dict) else ():
            if not fnmatch.filter(gates, pattern):
                raise ValueError(f"prior: {pattern!r} is none of the gates {', '.join(gates)}")
            if not fnmatch.filter(with_pi, pattern):
                raise ValueError(f"prior: {pattern!r} is of gates that have none, of the family {_families(gates)}")
        if not with_pi and prior != priors.Beta():
            raise ValueError(
                f"prior: gates of the family {_families(gates)} have no π, so they take no prior; leave it out"
            )
        self._tell(with_pi)
        each = prior.values() if isinstance(prior, dict) else ()
        self.learnt_priors = nn.ModuleList([one for one in each if isinstance(one, nn.Module)])

    @staticmethod
    def _with_pi(gates: Mapping[str, Gate]) -> dict[str, BetaBernoulliDropout]:
        """The gates that have keep probabilities π, of which there is a prior."""
        return {name: gate for name, gate in gates.items() if isinstance(gate, BetaBernoulliDropout)}

    def _tell(self, gates: Mapping[str, BetaBernoulliDropout]) -> None:
        """Tell gates which family q(π) is of and up to which E[π] a unit is out, once all that is checked."""
        for name, gate in gates.items():
            check_prior(name, gate.num_features, self._prior_on(name))
            gate.check_family(name, self._family(name))
        for name, gate in gates.items():
            gate.family = self._family(name)
            gate.threshold = priors.threshold_under(self._prior_on(name), gate.own_threshold, gate.num_features)

    @property
    def gates(self) -> dict[str, Gate]:
        """The gates by name, in the network's order."""
        gates = gates_of(self.net)
        with_pi = self._with_pi(gates)
        self._tell({name: gate for name, gate in with_pi.items() if not gate.is_of(self._family(name))})
        return gates

    @property
    def gates_by_family(self) -> tuple[dict[str, BetaBernoulliDropout], dict[str, Gate]]:
        """The gates of which Beta-Bernoulli dropout samples π and z, and those that have sites of their own."""
        gates = self.gates
        return self._with_pi(gates), {n: gate for n, gate in gates.items() if type(gate).model is not Gate.model}

    @property
    def weights(self) -> dict[str, nn.Parameter]:
        """W, every parameter of the network that is no gate's and not frozen, by name; under "normal" the means."""
        return weights_of(self.net)

    def prior_of(self, gate: str) -> TorchDistribution:
        """The prior of the keep probabilities of a gate's K units, batch shape `[K]` or event shape `[K]`.

        Raises:
            ValueError: the gate is of a family of masks that has no π.
        """
        if gate not in self._with_pi(gates := self.gates):
            raise ValueError(f"gate {gate!r} is of the family {type(gates[gate]).__name__}, which has no prior of π")
        return self._prior_on(gate)(self.gates[gate].num_features)

    def _prior_on(self, gate: str) -> priors.Prior:
        if not isinstance(self.prior, dict):
            return self.prior
        fitting = [each for name, each in self.prior.items() if fnmatch.fnmatchcase(gate, name)]
        if not fitting:
            names = ", ".join(map(repr, self.prior))
            raise ValueError(f"prior: none of {names} is the gate {gate!r}; add '*' for the rest")
        return fitting[0]

    def _family(self, gate: str) -> Any:
        return getattr(self._prior_on(gate), "guide", kumaraswamy)

    def _prior(self, name: str, gate: BetaBernoulliDropout) -> TorchDistribution:
        """The prior of a gate's π, as it stands in the model."""
        prior, like = self._prior_on(name), gate.unconstrained_concentration1
        return self._placed.get(f"{name}.pi", prior, like, lambda: with_exact_tails(prior(gate.num_features)))

    def _weight_prior(self, name: str, w: Tensor) -> TorchDistribution:
        """The prior of one weight tensor, as it stands in the model."""
        return self._placed.get(name, self.weight_prior, w, lambda: self.weight_prior(w.shape))


def _families(gates: Mapping[str, Gate]) -> str:
    """The families of gates that have no π, in words."""
    others = {type(gate).__name__ for gate in gates.values() if not isinstance(gate, BetaBernoulliDropout)}
    return " and ".join(sorted(others))


def _net(net: nn.Module) -> nn.Module:
    check_modules(net)
    return net


def _num_data(num_data: int) -> int:
    if num_data < 1:
        raise ValueError(f"num_data is {num_data}, wanted the number of training data, at least 1")
    return num_data


def _temperature(temperature: float) -> float:
    if not 0 < temperature < math.inf:
        raise ValueError(f"temperature is {temperature}, wanted a positive number (0.1 is usual)")
    return temperature


_READERS: dict[str, Callable[[Any], Any]] = {
    "net": _net,
    "num_data": _num_data,
    "temperature": _temperature,
    "prior": priors.as_prior,
    "weight_prior": priors.as_weight_prior,
}
