"""Beta-Bernoulli dropout: the model, the guide, and every pyro.sample of this library (arXiv 1805.10896).

W ~ N(0, λI)        π_k ~ Beta(α/K, 1)        z_nk | π_k ~ Bernoulli(π_k)        y_n ~ p(y | f(x_n; z_n ⊗ W))

q(W, z, π) = δ(W) · Π_k Kumaraswamy(π_k; a_k, b_k) · Π_nk q(z_nk | π_k)
"""

import fnmatch
import itertools
import math
from collections.abc import Mapping
from typing import Any

import pyro
import pyro.distributions as dist
import torch
import torch.nn.functional as F
from pyro.distributions.torch_distribution import TorchDistribution
from torch import Tensor, nn
from torch.distributions import kl_divergence
from torch.func import functional_call

from bbpyro import priors
from bbpyro.distributions import Bernoulli, Delta, RelaxedBernoulli, with_exact_tails
from bbpyro.layers import BetaBernoulliDropout, kumaraswamy
from bbpyro.likelihoods import Categorical, Likelihood

WEIGHT_GUIDES = ("delta", "normal")
_INITIAL_SCALE = 1e-2  # of q(W), where it is a Normal
_instances = itertools.count()


class BetaBernoulliNetwork(nn.Module):
    """A network whose units are kept or dropped by a learnt posterior, as a Pyro model and guide.

    The gates of `net` are told which family the prior wants q(π) to be of, and up to which E[π] a unit is out; that is
    not in their state_dict, so weights are to be loaded into a network made with the same prior.

    Args:
        net: a module with :class:`bbpyro.BetaBernoulliDropout` gates, e.g. from :func:`bbpyro.insert_dropout`.
        likelihood: from the network's output to the distribution of y.
        num_data: N, the number of training data; a minibatch's log-likelihood is scaled by N/|B|.
        prior: of the keep probabilities π, see :mod:`bbpyro.priors`: a prior, its spelling such as "Beta(1e-4, 1)", or
            any distribution on [0, 1]; or a mapping from the names of gates, with * for any characters, to those: the
            first name that fits a gate counts.
        weight_prior: from a weight's shape to its distribution, or its spelling such as "Laplace(0.1)"; by default
            N(0, 1 / (1e-4 N)), which is the source's L2 of 1e-4 on the mean loss.
        weight_guide: q(W): "delta", a point; or "normal", a Gaussian for each number, with W its mean.
        temperature: τ of the guide's relaxed Bernoulli.

    Attributes:
        gates: the gates by name, in the network's order.
        weights: W, every parameter of the network that is no gate's and not frozen, by name; under "normal" the means.

    Raises:
        ValueError: `net` has no gates, or gates in use under another family of q(π); `num_data` < 1, `temperature` ≤
            0, `weight_guide` is not known; the prior is not a distribution of one number in [0, 1] for each unit, or a
            mapping leaves a gate without one or names one that is not there.
    """

    def __init__(
        self,
        net: nn.Module,
        likelihood: Likelihood | None = None,
        *,
        num_data: int,
        prior: priors.PriorLike | Mapping[str, priors.PriorLike] | None = None,
        weight_prior: priors.WeightPrior | str | None = None,
        weight_guide: str = "delta",
        temperature: float = 0.1,
    ) -> None:
        super().__init__()
        if num_data < 1:
            raise ValueError(f"num_data is {num_data}, wanted the number of training data, at least 1")
        if not 0 < temperature < float("inf"):
            raise ValueError(f"temperature is {temperature}, wanted a positive number (0.1 is usual)")
        if weight_guide not in WEIGHT_GUIDES:
            raise ValueError(f"weight_guide is {weight_guide!r}, wanted one of {', '.join(WEIGHT_GUIDES)}")
        self.net = net
        self.likelihood = likelihood or Categorical()
        self.num_data = num_data
        self.prior = priors.as_prior(priors.Beta() if prior is None else prior)
        self.weight_prior = priors.as_weight_prior(weight_prior or priors.matching_l2(1e-4, num_data))
        self.temperature = temperature
        self._pyro_name = f"bbpyro{next(_instances)}"
        self.gates = {name: m for name, m in net.named_modules() if isinstance(m, BetaBernoulliDropout)}
        of_gates = {id(parameter) for gate in self.gates.values() for parameter in gate.parameters()}
        self.weights = {
            name: parameter
            for name, parameter in net.named_parameters()
            if id(parameter) not in of_gates and parameter.requires_grad
        }
        if not self.gates:
            raise ValueError("net: it has no BetaBernoulliDropout gate; make one with bbpyro.insert_dropout(net)")
        self._priors: dict[tuple[str, torch.device], TorchDistribution] = {}
        self._take_gates()
        for name, w in self.weights.items():
            _check_weight_prior(name, w.shape, self.weight_prior)
        self.unconstrained_scales = nn.ParameterDict()
        if weight_guide == "normal":
            start = math.log(math.expm1(_INITIAL_SCALE))
            self.unconstrained_scales.update({_key(n): torch.full_like(w, start) for n, w in self.weights.items()})

    def model(self, x: Tensor, y: Tensor | None = None) -> Tensor:
        """p(W, π, z, y | x) of a minibatch x `[B, ...]`, y `[B]`; returns the network's output."""
        W = {name: pyro.sample(name, self.weight_prior(w.shape)) for name, w in self.weights.items()}
        pi = {g: pyro.sample(f"{g}.pi", _joint(self._prior(g))) for g in self.gates}
        with pyro.plate("data", self.num_data, subsample=x):
            z = {g: pyro.sample(f"{g}.z", Bernoulli(pi[g]).to_event(1)) for g in pi}
            output = functional_call(self.net, self._bind(W, z), (x,))
            pyro.sample("y", self.likelihood(output), obs=y)
        return output

    def guide(self, x: Tensor, y: Tensor | None = None) -> None:
        """q(W, π, z) = δ(W) · Kumaraswamy(π) · q(z | π): p(z | π) again, relaxed so that it has a gradient."""
        self._register_parameters()
        for name in self.weights:
            pyro.sample(name, self.weight_posterior(name))
        pi = {g: pyro.sample(f"{g}.pi", _joint(gate.posterior())) for g, gate in self.gates.items()}
        with pyro.plate("data", self.num_data, subsample=x):
            for g in pi:
                pyro.sample(f"{g}.z", RelaxedBernoulli(self.temperature, pi[g]).tied().to_event(1))

    def weight_posterior(self, name: str) -> TorchDistribution:
        """q(W) of one weight tensor, event shape that of the tensor."""
        w = self.weights[name]
        if not self.unconstrained_scales:
            return Delta(w, event_dim=w.dim())
        scale = F.softplus(self.unconstrained_scales[_key(name)])
        return dist.Normal(w, scale, validate_args=False).to_event(w.dim())

    def kl(self) -> dict[str, Tensor]:
        """KL[q(π) || p(π)] of each gate in nats, closed where it is registered, else from 1000 draws."""
        return {name: _kl(gate.posterior(), self._prior(name)).sum() for name, gate in self.gates.items()}

    def weights_kl(self) -> Tensor:
        """What W costs, nats: -log p(W) under a Delta guide; KL[q(W) || p(W)], or 10 draws of it, under a Normal."""
        costs = (_kl(self.weight_posterior(n), self.weight_prior(w.shape), 10) for n, w in self.weights.items())
        return torch.stack([cost.sum() for cost in costs]).sum()

    def prior_of(self, gate: str) -> TorchDistribution:
        """The prior of the keep probabilities of a gate's K units, batch shape `[K]` or event shape `[K]`."""
        return self._prior_on(gate)(self.gates[gate].num_features)

    def _prior_on(self, gate: str) -> priors.Prior:
        if not isinstance(self.prior, dict):
            return self.prior
        fitting = [each for name, each in self.prior.items() if fnmatch.fnmatchcase(gate, name)]
        if not fitting:
            names = ", ".join(map(repr, self.prior))
            raise ValueError(f"prior: none of {names} is the gate {gate!r}; add '*' for the rest")
        return fitting[0]

    def _take_gates(self) -> None:
        """Check each gate's prior, and tell the gate which family q(π) is of and up to which E[π] a unit is out."""
        for pattern in self.prior if isinstance(self.prior, dict) else ():
            if not fnmatch.filter(self.gates, pattern):
                raise ValueError(f"prior: {pattern!r} is none of the gates {', '.join(self.gates)}")
        for name, gate in self.gates.items():
            prior = self._prior_on(name)
            _check_prior(name, gate.num_features, prior)
            if gate.family is not None and not _is_same(gate.family, getattr(prior, "guide", kumaraswamy)):
                raise ValueError(
                    f"net: its gate {name!r} is already in use under another family of q(π) than {self.prior!r} wants; "
                    "give each network its own gates, by insert_dropout"
                )
        for name, gate in self.gates.items():
            prior = self._prior_on(name)
            gate.family = getattr(prior, "guide", kumaraswamy)
            gate.threshold = priors.threshold_under(prior, gate.own_threshold, gate.num_features)

    def forward(self, x: Tensor) -> Tensor:
        """The network's output by the mean mask: thresholded E[π] in place of z."""
        return self.net(x)

    def _prior(self, name: str) -> TorchDistribution:
        gate = self.gates[name]
        device = gate.unconstrained_concentration1.device
        if (name, device) not in self._priors:
            with device:
                self._priors[name, device] = with_exact_tails(self.prior_of(name))
        return self._priors[name, device]

    def _bind(self, W: dict[str, Tensor], z: dict[str, Tensor]) -> dict[str, Tensor]:
        """What the network's layers are given: their weights, and each gate its z."""
        # pyro.infer.Predictive hands weights back with a leading dimension of size 1, where the plate would be.
        for name, w in W.items():
            if w.numel() != self.weights[name].numel():
                raise ValueError(
                    f"{name} has shape {tuple(w.shape)}: the network takes one draw at a time, so leave out "
                    "vectorize_particles=True, or Predictive's parallel=True"
                )
        bound = {
            name: w.reshape(self.weights[name].shape) if w.dim() != self.weights[name].dim() else w
            for name, w in W.items()
        }
        return bound | {f"{g}.z": mask for g, mask in z.items()}

    def _register_parameters(self) -> None:
        """Tell Pyro of this instance's parameters, under names no other instance has."""
        for name, parameter in self.named_parameters():
            if parameter.requires_grad:
                pyro.param(f"{self._pyro_name}.{name}", parameter)

    def __getstate__(self) -> dict[str, Any]:
        for parameter in self.parameters():  # Pyro leaves a weak reference there, which no pickle takes
            parameter.__dict__.pop("unconstrained", None)
        return self.__dict__.copy()

    def __setstate__(self, state: dict[str, Any]) -> None:
        # A copied or unpickled network is another instance: it must not share the original's parameters.
        super().__setstate__(state)
        self._pyro_name = f"bbpyro{next(_instances)}"


def _kl(q: Any, p: Any, num_samples: int = 1000) -> Tensor:
    try:
        return kl_divergence(q, p)
    except NotImplementedError:
        draw = q.rsample((num_samples,))
        return (q.log_prob(draw) - p.log_prob(draw)).mean(0)


def _joint(pi: TorchDistribution) -> TorchDistribution:
    """The distribution of a gate's units as one event."""
    return pi.to_event(1 - len(pi.event_shape))


def _is_same(one: Any, other: Any) -> bool:
    """Whether these are one function, or the methods of equal objects."""
    return all(getattr(one, a, one) == getattr(other, a, other) for a in ("__func__", "__self__"))


def _key(name: str) -> str:
    return name.replace(".", "/")  # a module's parameter has no dot in its name


def _check_prior(gate: str, num_units: int, prior: priors.Prior) -> None:
    try:
        made: Any = prior(num_units)
        shape = getattr(made, "batch_shape", None), getattr(made, "event_shape", None)
        with torch.random.fork_rng(devices=[]):
            draw: Any = made.sample((max(1, 1000 // num_units),)) if None not in shape else None
    except Exception as error:  # whatever a user's prior does
        raise ValueError(f"prior: that of gate {gate!r} fails ({type(error).__name__}: {error})") from error
    if shape not in (((num_units,), ()), ((), (num_units,))):
        raise ValueError(
            f"prior: for gate {gate!r} it gives a {type(made).__name__} of batch shape {shape[0]} and event shape "
            f"{shape[1]}, wanted a distribution of one number a unit: ({num_units},) and (), or () and ({num_units},)"
        )
    if not bool(((draw >= 0) & (draw <= 1)).all()):
        raise ValueError(f"prior: for gate {gate!r} it drew keep probabilities outside [0, 1]")


def _check_weight_prior(name: str, shape: torch.Size, prior: priors.WeightPrior) -> None:
    try:
        made = prior(shape)
        found = made.batch_shape, made.event_shape
    except Exception as error:
        raise ValueError(f"weight_prior: for {name!r} it fails ({type(error).__name__}: {error})") from error
    if found != ((), shape):
        raise ValueError(
            f"weight_prior: for {name!r} it gives batch shape {tuple(found[0])} and event shape {tuple(found[1])}, "
            f"wanted one distribution of the whole tensor: () and {tuple(shape)}"
        )
