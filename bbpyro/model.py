"""Beta-Bernoulli dropout: the model and the guide, with every sample of W, π, z and y (arXiv 1805.10896).

W ~ N(0, λI)        π_k ~ Beta(α/K, 1)        z_nk | π_k ~ Bernoulli(π_k)        y_n ~ p(y | f(x_n; z_n ⊗ W))

q(W, z, π) = δ(W) · Π_k Kumaraswamy(π_k; a_k, b_k) · Π_nk q(z_nk | π_k)
"""

import math
from collections.abc import Mapping
from typing import Any

import pyro
import pyro.distributions as dist
import torch
import torch.nn.functional as F
from pyro.distributions.torch_distribution import TorchDistribution
from pyro.infer import Trace_ELBO
from torch import Tensor, nn
from torch.distributions import kl_divergence
from torch.func import functional_call

from bbpyro import nests, parameters, priors
from bbpyro.denormals import are_flushed, zero_denormal
from bbpyro.distributions import Bernoulli, Delta, relaxed_bernoullis
from bbpyro.families.beta_bernoulli import posteriors
from bbpyro.given import Given
from bbpyro.likelihoods import Categorical, Likelihood
from bbpyro.nests import Nest
from bbpyro.objective import ELBOModule
from bbpyro.program import program

WEIGHT_GUIDES = ("delta", "normal")
_INITIAL_SCALE = math.log(math.expm1(1e-2))  # of q(W), where it is a Normal, unconstrained
_CALLS_BETWEEN_CLEANINGS = 1000  # of decayed weights, where no fit() does so


class BetaBernoulliNetwork(Given):
    """A network whose units are kept or dropped by a learnt posterior, as a Pyro model and guide.

    The gates of `net` are told which family the prior wants q(π) to be of, and up to which E[π] a unit is out; that is
    not in their state_dict, so weights are to be loaded into a network made with the same prior.

    Everything else is looked up where it is used: which layers and parameters are there, which of them are frozen, the
    priors. Any argument may be assigned anew, and is checked as the first was; without a weight_prior it follows
    num_data.

    x, the inputs, is a tensor, or a nest of tensors `[N, ...]`: a tuple or list of several inputs, which the network is
    called with as `net(*x)`, or a dict of them by name, `net(**x)`; see :mod:`bbpyro.nests`. The output is for the
    likelihood to read, and may be of any kind.

    Args:
        net: a module with :class:`bbpyro.BetaBernoulliDropout` gates, e.g. from :func:`bbpyro.insert_dropout`.
        likelihood: from the network's output to the distribution of y. One that is an nn.Module is part of the
            network: its parameters, such as a σ of its own, are trained and saved with it.
        num_data: N, the number of training data; a minibatch's log-likelihood is scaled by N over its size.
        prior: of the keep probabilities π, see :mod:`bbpyro.priors`: a prior, its spelling such as "Beta(1e-4, 1)", or
            any distribution on [0, 1]; or a mapping from the names of gates, with * for any characters, to those: the
            first name that fits a gate counts.
        weight_prior: from a weight's shape to its distribution, or its spelling such as "Laplace(0.1)"; by default
            N(0, 1 / (1e-4 N)), which is the source's L2 of 1e-4 on the mean loss.
        weight_guide: q(W): "delta", a point; or "normal", a Gaussian for each number, with W its mean.
        temperature: τ of the guide's relaxed Bernoulli.
        name: under which Pyro's parameter store knows the parameters, each as `NAME.PARAMETER`; by default "bbpyro",
            with a number where the store has another network's there.

    Raises:
        ValueError: `net` has no gates, or gates in use under another family of q(π), or a module that cannot be in
            such a network; `num_data` < 1, `temperature` ≤ 0, `weight_guide` is not known; the prior is not a
            distribution of one number in [0, 1] for each unit, or a mapping leaves a gate without one or names one
            that is not there.
    """

    takes_nests = True  # forward(x) itself calls the network as x wants it

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
        name: str | None = None,
    ) -> None:
        super().__init__()
        if weight_guide not in WEIGHT_GUIDES:
            raise ValueError(f"weight_guide is {weight_guide!r}, wanted one of {', '.join(WEIGHT_GUIDES)}")
        self.num_data, self.temperature, self.name, self.weight_guide = num_data, temperature, name, weight_guide
        self.net = net
        self.likelihood = likelihood or Categorical()
        self.prior = priors.as_prior(priors.Beta() if prior is None else prior)
        self.weight_prior = priors.as_weight_prior(weight_prior or priors.matching_l2(1e-4, num_data))
        self.unconstrained_scales = nn.ParameterDict()
        self._make_scales()
        self._as_made, self._is_by_another_guide = self._sums(), False
        self._calls = 0
        for module in (self, self.net):
            module.register_load_state_dict_post_hook(_clean)

    @program
    def model(self, x: Nest, y: Tensor | None = None) -> Any:
        """p(W, π, z, y | x) of a minibatch x `[B, ...]`, y `[B]`; returns the network's output."""
        weights, (gates, others) = self.weights, self.gates_by_family
        data = pyro.plate("data", self.num_data, subsample=nests.first(x))
        W = {name: pyro.sample(name, self._weight_prior(name, w)) for name, w in weights.items()}
        pi = {g: pyro.sample(f"{g}.pi", _joint(self._prior(g, gate))) for g, gate in gates.items()}
        of_others = {g: gate.model(g, data) for g, gate in others.items()}
        with data:
            z = {g: pyro.sample(f"{g}.z", Bernoulli(pi[g]).to_event(1)) for g in pi}
            output = self._call(x, self._bound(W, weights), z, of_others)
            pyro.sample("y", self.likelihood(output), obs=y)
        return output

    @program
    def guide(self, x: Nest, y: Tensor | None = None) -> None:
        """q(W, π, z) = δ(W) · Kumaraswamy(π) · q(z | π): p(z | π) again, relaxed so that it has a gradient."""
        self._register_parameters()
        gates, others = self.gates_by_family
        data = pyro.plate("data", self.num_data, subsample=nests.first(x))
        for name, w in self.weights.items():
            pyro.sample(name, self._weight_posterior(name, w))
        pi = {g: pyro.sample(f"{g}.pi", _joint(q)) for g, q in posteriors(gates).items()}
        for g, gate in others.items():
            gate.guide(g, data)
        with data:
            for g, q in relaxed_bernoullis(self.temperature, pi).items():
                pyro.sample(f"{g}.z", q.tied().to_event(1))

    def elbo_module(self, elbo: Any = None) -> ELBOModule:
        """-ELBO as an nn.Module of (x, y), whose parameters are this network's: for loops of one's own.

        It goes into `torch.nn.parallel.DistributedDataParallel` as it is: each process calls that with data of its own,
        as many as the others, and its own noise; `num_data` stays N, that of all data.

        Args:
            elbo: a Pyro estimator, by default Trace_ELBO(). JitTrace_ELBO cannot compile this model.
        """
        self._make_scales()
        return ELBOModule(self, elbo or Trace_ELBO())

    def weight_posterior(self, name: str) -> TorchDistribution:
        """q(W) of one weight tensor, event shape that of the tensor."""
        return self._weight_posterior(name, self.weights[name])

    def _weight_posterior(self, name: str, w: nn.Parameter) -> TorchDistribution:
        if self.weight_guide == "delta":
            return Delta(w, event_dim=w.dim(), validate_args=False)
        return dist.Normal(w, self._scale(name, w), validate_args=False).to_event(w.dim())

    def _scale(self, name: str, w: nn.Parameter) -> Tensor:
        """The scale of q(W) of a weight; of one that is new, or was frozen, where all began."""
        scales, key = self.unconstrained_scales, name.replace(".", "/")  # a module's parameter has no dot in its name
        if key not in scales or scales[key].shape != w.shape:
            scales[key] = torch.full_like(w, _INITIAL_SCALE)
        return F.softplus(scales[key])

    def _make_scales(self) -> None:
        for name, w in self.weights.items() if self.weight_guide == "normal" else ():
            self._scale(name, w)

    def kl(self) -> dict[str, Tensor]:
        """KL[q(π) || p(π)] of each gate in nats, closed where it is registered, else from 1000 draws.

        Of a gate of another family it is what that says its masks cost.
        """
        gates, others = self.gates_by_family
        kl = {g: [kl_of(gate.posterior(), self._prior(g, gate)).sum()] for g, gate in gates.items()}
        for g, gate in others.items():
            kl.setdefault(g, []).append(gate.kl(self.num_data).sum())
        return {g: torch.stack(kl[g]).sum() for g in self.gates}

    def weights_kl(self) -> Tensor:
        """What W costs, nats: -log p(W) under a Delta guide; KL[q(W) || p(W)], or 10 draws of it, under a Normal."""
        weights = self.weights.items()
        costs = [kl_of(self._weight_posterior(n, w), self._weight_prior(n, w), 10).sum() for n, w in weights]
        return torch.stack(costs).sum() if costs else torch.zeros(())

    def forward(self, x: Nest) -> Any:
        """The network's output by the mean mask: thresholded E[π] in place of z."""
        return nests.call(self.net, x)

    def _call(self, x: Nest, W: dict[str, Tensor], z: dict[str, Tensor], others: dict[str, dict[str, Tensor]]) -> Any:
        """The network's output with W, where that is not its own, each gate's z, and what other gates are bound to."""
        bound = W | {f"{g}.z": mask for g, mask in z.items()}
        bound |= {f"{g}.{name}": value for g, values in others.items() for name, value in values.items()}
        return functional_call(self.net, bound, *nests.arguments(self.net, x), tie_weights=bool(W))

    def _bound(self, W: dict[str, Tensor], own: dict[str, nn.Parameter]) -> dict[str, Tensor]:
        """What of W is to be bound to the network's layers: what is not their own, as it is under the delta guide."""
        bound = {name: w for name, w in W.items() if w is not own[name]}
        for name, w in bound.items():
            self._is_by_another_guide |= w.requires_grad and self.weight_guide == "delta"
            if w.numel() != own[name].numel():
                raise ValueError(
                    f"{name} has shape {tuple(w.shape)}: the network takes one draw at a time, so leave out "
                    "vectorize_particles=True, or Predictive's parallel=True"
                )
            # pyro.infer.Predictive hands weights back with a leading dimension of size 1, where the plate would be.
            bound[name] = w if w.shape == own[name].shape else w.reshape(own[name].shape)
        return bound

    def _register_parameters(self) -> None:
        """Tell Pyro of this network's parameters; and now and then make 0 of weights that have decayed to nothing."""
        self._make_scales()
        self._calls += 1
        if self._calls % _CALLS_BETWEEN_CLEANINGS == 0 and not are_flushed():
            zero_denormal(self.weights.values())
        parameters.register(self, self.name)

    @property
    def has_untrained_weights(self) -> bool:
        """Whether the gates were trained beside a guide of the user's that has a W of its own, and W here was not."""
        if not self._is_by_another_guide or all(gate.is_untrained for gate in self.gates.values()):
            return False
        return self._sums() == self._as_made

    def _sums(self) -> dict[str, float]:
        """What tells whether W is as it was: to train a weight changes its sum."""
        return {name: w.double().sum().item() for name, w in self.weights.items() if not w.is_meta}


def kl_of(q: Any, p: Any, num_samples: int = 1000) -> Tensor:
    """KL[q || p] in nats, closed where it is registered, else from so many draws."""
    try:
        return kl_divergence(q, p)
    except NotImplementedError:
        draw = q.rsample((num_samples,))
        return (q.log_prob(draw) - p.log_prob(draw)).mean(0)


def _clean(loaded: nn.Module, incompatible_keys: Any) -> None:
    zero_denormal(loaded.parameters())


def _joint(pi: TorchDistribution) -> TorchDistribution:
    """The distribution of a gate's units as one event."""
    return pi.to_event(1 - len(pi.event_shape))
