"""The latent feature model: each datum is made of a few of K latent features, and the data say how many there are.

π_k ~ Beta(α/K, 1)      w_k ~ N(0, s² I)      z_nk | π_k ~ Bernoulli(π_k)      d_n ~ p(d | f(Σ_k z_nk w_k))

q(π, W, z) = Π_k Kumaraswamy(π_k; a_k, b_k) · N(W; m, v) · Π_nk Bernoulli(z_nk; λ_nk)

With K → ∞ the matrix z is an Indian buffet process (Griffiths and Ghahramani 2011).
"""

import functools
import math
from typing import Any, NamedTuple

import pyro
import pyro.distributions as dist
import torch
from pyro.distributions.torch_distribution import TorchDistribution, TorchDistributionMixin
from torch import Tensor, nn
from torch.nn.modules.lazy import LazyModuleMixin
from torch.nn.parameter import UninitializedParameter

from bbpyro import parameters, priors
from bbpyro.checks import check_is, check_positive, in_eval_mode
from bbpyro.distributions import AveragedBernoulli, AveragedNormal, Bernoulli, drawn_from, with_exact_tails
from bbpyro.families.beta_bernoulli import kumaraswamy
from bbpyro.latent_features.entries import check_floats, filled, log_prob_of_each, observed_of
from bbpyro.likelihoods import Likelihood, of_each
from bbpyro.priors.checks import check_prior
from bbpyro.program import program

_START = {"logits": -2.0, "scale": 0.1, "concentration1": math.log(2.0), "concentration0": 1.0}
_SPREAD = 0.5  # of W where training starts


class Draw(NamedTuple):
    """A draw of q(π, W, z), and what it makes of data: π `[K]`, W `[K, D]`, z `[B, K]`, and p(x | z, W)."""

    pi: Tensor
    W: Tensor
    z: Tensor
    of_x: TorchDistribution


class LatentFeatureModel(LazyModuleMixin, nn.Module):
    """Data of a few of K latent features each, d_n = f(Σ_k z_nk w_k), as a Pyro model and guide.

    x, the data, is a tensor `[N, D]`, or `[N, ...]` with a decoder of one's own; what of it is nan was not observed.
    :func:`bbpyro.fit`, :func:`bbpyro.predict` and :func:`bbpyro.to_arviz` take it as they take a network, without y.

    Of z the guide has a Bernoulli for each datum and feature. Their KL is exact. Where f is the identity and the
    likelihood a Normal around it, of one scale for all data, so is the expectation of log p(x | z, W) over z; elsewhere
    it is that of a draw of 0 and 1, with a gradient straight through it. These averages are for ELBOs alone, see
    :class:`bbpyro.distributions.AveragedBernoulli`.

    Args:
        num_features: K, the most features there may be.
        likelihood: from f's output `[N, D]` to the distribution of each number of x, such as
            :class:`bbpyro.likelihoods.Normal` or :class:`bbpyro.likelihoods.Bernoulli`; its parameters are trained
            where it is an nn.Module.
        prior: of the keep probabilities π, as of :class:`bbpyro.BetaBernoulliNetwork`; by default IndianBuffet(1).
        decoder: f, from `[N, D]` to what the likelihood wants; by default the identity.
        encoder: from x `[B, ...]`, 0 where it was not observed, to the log-odds of λ `[B, K]`; by default each datum
            has its own, which are trained, so that all data go into each call, in their order.
        num_data: N; by default that of the data it is first given. With an encoder these may be a minibatch, so that
            whoever does not use `fit` says it here.
        num_dims: D, the numbers of a w_k; by default those of a datum. With a decoder it has to be said.
        weight_scale: s, the scale of w_k a priori.
        temperature: of the gradient through z, where the expectation is not exact.
        name: under which Pyro's parameter store knows the parameters.

    Raises:
        TypeError: the likelihood cannot be called, or the decoder or encoder is no module.
        ValueError: a number is out of range, or the prior is none of K keep probabilities.
    """

    loc: nn.Parameter
    log_scale: nn.Parameter
    log_concentration1: nn.Parameter
    log_concentration0: nn.Parameter
    logits: nn.Parameter

    def __init__(
        self,
        num_features: int,
        likelihood: Likelihood,
        prior: priors.PriorLike | None = None,
        decoder: nn.Module | None = None,
        *,
        encoder: nn.Module | None = None,
        num_data: int | None = None,
        num_dims: int | None = None,
        weight_scale: float = 1.0,
        temperature: float = 0.3,
        name: str | None = None,
    ) -> None:
        super().__init__()
        for argument, number in (("num_features", num_features), ("num_data", num_data), ("num_dims", num_dims)):
            if number is not None:
                check_positive(**{argument: number})
        for argument, scale in (("weight_scale", weight_scale), ("temperature", temperature)):
            if not 0 < scale < math.inf:
                raise ValueError(f"{argument} is {scale}, wanted a positive number")
        if not callable(likelihood):
            raise TypeError(f"likelihood is {likelihood!r}, wanted a callable, such as bbpyro.likelihoods.Normal(0.5)")
        for argument, module in (("decoder", decoder), ("encoder", encoder)):
            check_is(argument, module, nn.Module | None)
        if decoder is not None and num_dims is None:
            raise ValueError("num_dims: with a decoder x does not tell it; say how many numbers a feature w_k has")
        self.num_features, self._num_data, self._num_dims = num_features, num_data, num_dims
        self.weight_scale, self.temperature, self.name = weight_scale, temperature, name
        self.likelihood, self.decoder, self.encoder = likelihood, decoder, encoder
        made = priors.as_prior(priors.IndianBuffet(1.0) if prior is None else prior)
        if isinstance(made, dict):
            raise ValueError(f"prior is a mapping of {', '.join(made)}: all features have one prior")
        self.prior = made
        check_prior("pi", num_features, self.prior)
        names = ["loc", "log_scale", "log_concentration1", "log_concentration0"]
        for parameter in names if encoder is not None else [*names, "logits"]:
            setattr(self, parameter, UninitializedParameter())
        self.register_load_state_dict_post_hook(_check_loaded)
        if num_dims is not None and (num_data is not None or encoder is not None):
            self.initialize_parameters()

    @property
    def num_data(self) -> int:
        """N.

        Raises:
            ValueError: it was not said, and no data were given yet.
        """
        if self._num_data is not None:
            return self._num_data
        if self.encoder is None and not isinstance(self.logits, UninitializedParameter):
            return len(self.logits)
        raise ValueError(
            "num_data is not known: say it where the model is made"
            + (", for with an encoder x may be a minibatch" if self.encoder is not None else ", or give all data first")
        )

    def initialize_parameters(self, x: Tensor | None = None, *, is_all: bool = False) -> None:
        """Make the parameters, where there are none yet, of the size that x `[N, ...]` wants, and begin.

        Args:
            x: the data; without an encoder all of them.
            is_all: whether they are all of them.
        """
        if x is not None:
            check_floats(x)
            if self._num_data is None and is_all and (self.encoder is not None or self.has_uninitialized_params()):
                self._num_data = len(x)
        if not self.has_uninitialized_params():
            return
        num_data, num_dims = self._num_data, self._num_dims
        if x is not None:
            num_data = len(x) if num_data is None else num_data
            if num_dims is None and x.dim() > 2:
                raise ValueError(f"x has shape {tuple(x.shape)}, wanted [N, D]; x.flatten(1) makes it so")
            num_dims = x.shape[1] if num_dims is None else num_dims
        if num_dims is None or (num_data is None and self.encoder is None):
            raise ValueError("num_data and num_dims are not known yet: say them where the model is made, or give x")
        sizes = {"loc": (self.num_features, num_dims), "logits": (num_data, self.num_features)}
        sizes["log_scale"] = sizes["loc"]
        for name, parameter in self.named_parameters(recurse=False):
            lazy: Any = parameter
            lazy.materialize(sizes.get(name, (self.num_features,)))
        self.reset_parameters()

    @torch.no_grad()
    def reset_parameters(self) -> None:
        """Begin anew, W and z at random."""
        self.loc.normal_(0, _SPREAD)
        for name in ("scale", "concentration1", "concentration0"):
            getattr(self, f"log_{name}").fill_(math.log(_START[name]))
        if self.encoder is None:
            self.logits.normal_(_START["logits"], 0.1)
            return
        for module in self.encoder.modules():
            reset: Any = getattr(module, "reset_parameters", None)
            if reset is not None:
                reset()

    @program
    def model(self, x: Tensor | None = None) -> Tensor:
        """p(π, W, z, x), of all data or a minibatch `[B, ...]`; returns f's output."""
        data = self._data(x)
        pi = pyro.sample("pi", _joint(with_exact_tails(self.prior(self.num_features))))
        W = self._one(pyro.sample("W", dist.Normal(torch.zeros_like(self.loc), self.weight_scale).to_event(2)))
        with data:
            z = pyro.sample("z", Bernoulli(pi).to_event(1))
            output = self.decoded(z.to(W) @ W)
            of_x = self._likelihood(output, z, W)
            pyro.sample("x", observed_of(of_x, x), obs=None if x is None else filled(x, of_x))
        return output

    @program
    def guide(self, x: Tensor | None = None) -> None:
        """q(π, W, z) = Kumaraswamy(π) · N(W) · Bernoulli(z)."""
        data = self._data(x)
        parameters.register(self, self.name)
        pyro.sample("pi", _joint(self.q_pi()))
        pyro.sample("W", self.q_weights().to_event(2))
        with data:
            pyro.sample("z", AveragedBernoulli(self.temperature, self.z_logits(x)).to_event(1))

    def q_pi(self) -> TorchDistribution:
        """q(π) of the K features, as that of a gate."""
        family: Any = getattr(self.prior, "guide", kumaraswamy)
        q: TorchDistribution = family(self.log_concentration1.exp(), self.log_concentration0.exp())
        return q

    def q_weights(self) -> dist.Normal:
        """q(W), batch shape `[K, D]`; its parameters are in units of `weight_scale`."""
        self._check_sized()
        s = self.weight_scale
        return dist.Normal(s * self.loc, s * self.log_scale.exp(), validate_args=False)

    def z_logits(self, x: Tensor | None = None) -> Tensor:
        """The log-odds of λ `[B, K]` of data x; without an encoder those of all data.

        Raises:
            ValueError: the encoder gives another shape, or wants x; or, without one, x is not all of the data.
        """
        self._check_sized()
        if self.encoder is None:
            if x is not None and len(x) != self.num_data:
                raise ValueError(
                    f"x has {len(x)} data, but each of all {self.num_data} has a z of its own: give them all"
                )
            return self.logits
        if x is None:
            raise ValueError("x: the encoder wants it")
        logits: Tensor = self.encoder(x.nan_to_num())
        if logits.shape != (len(x), self.num_features):
            raise ValueError(
                f"encoder: it gives shape {tuple(logits.shape)}, wanted the log-odds of {self.num_features} features "
                f"of {len(x)} data, {(len(x), self.num_features)}"
            )
        if not bool(logits.isfinite().all()):
            raise ValueError("encoder: it gives log-odds that are nan or infinite")
        return logits

    def _check_sized(self) -> None:
        if self.has_uninitialized_params():
            raise ValueError("the model has no sizes yet: fit it to data, or say num_data and num_dims")

    @torch.no_grad()
    def draw(self, x: Tensor | None = None) -> Draw:
        """A draw of q(π, W, z), for data x; without an encoder all of them."""
        if x is not None:
            x = self.as_data(x)
        logits = self.z_logits(x)
        pi, W, z = self.q_pi().sample(), self.q_weights().sample(), torch.bernoulli(torch.sigmoid(logits))
        return Draw(pi, W, z, of_each(self.likelihood(self.decoded(z @ W))))

    @torch.no_grad()
    def log_predictive(self, x: Tensor, x_new: Tensor, num_samples: int = 100) -> Tensor:
        """The log-probability log p(x_new | x) of each number, nats, averaged over draws of q.

        Args:
            x: what was seen of the data, `[N, ...]`, nan where nothing was.
            x_new: of the same data, of the same shape; nan where that is not asked for, and so is the result.
            num_samples: draws of q(W, z).
        """
        check_positive(num_samples=num_samples)
        x, x_new = self.as_data(x), self.as_data(x_new, "x_new")
        if x_new.shape != x.shape:
            raise ValueError(f"x_new has shape {tuple(x_new.shape)}, wanted that of x, {tuple(x.shape)}")
        with in_eval_mode(self):
            draws = (log_prob_of_each(self.draw(x).of_x, x_new) for _ in range(num_samples))
            total = functools.reduce(torch.logaddexp, draws)
        return total - math.log(num_samples)

    @torch.no_grad()
    def num_used(self, x: Tensor | None = None) -> int:
        """The features that some datum has with λ above one half; an encoder is in evaluation mode for it.

        A draw of z may have more: many data with a small λ each have a feature that none has for sure.
        """
        with in_eval_mode(self):
            return int((self.z_logits(x) > 0).any(0).sum())

    def as_data(self, x: Tensor, name: str = "x", *, is_all: bool = False) -> Tensor:
        """The data in the model's precision, and the model of their size.

        Raises:
            TypeError: it is no tensor.
            ValueError: it is not of floats `[N, D]`, or `[N, ...]`, has no data or infinite numbers, or is not of the
                model's sizes.
        """
        check_is(name, x, Tensor)
        check_floats(x, name)
        if not x.numel():
            raise ValueError(f"{name} has shape {tuple(x.shape)}: there are no data in it")
        if bool(x.isinf().any()):
            raise ValueError(f"{name} has infinite numbers; what was not observed is nan")
        self.initialize_parameters(x, is_all=is_all)
        if self.decoder is None and x.shape[1:] != self.loc.shape[1:]:
            raise ValueError(
                f"{name} has shape {tuple(x.shape)}, and num_dims is {self.loc.shape[1]}; without a decoder they are "
                "to agree"
            )
        return x.to(self.loc.dtype)

    def _data(self, x: Tensor | None) -> Any:
        self.initialize_parameters(x)
        if x is not None and len(x) > self.num_data:
            raise ValueError(f"x has {len(x)} data, more than num_data, {self.num_data}")
        return pyro.plate("data", self.num_data, subsample=x)

    def _one(self, W: Tensor) -> Tensor:
        """One draw of W `[K, D]`, which Predictive hands back with a dimension in front."""
        if W.numel() != self.loc.numel():
            raise ValueError(
                f"W has shape {tuple(W.shape)}: the model takes one draw at a time, so leave out "
                "vectorize_particles=True, or Predictive's parallel=True"
            )
        return W.reshape(self.loc.shape)

    def decoded(self, sums: Tensor) -> Tensor:
        """What f makes of the sums Σ_k z_nk w_k `[N, D]`."""
        output: Tensor = sums if self.decoder is None else self.decoder(sums)
        return output

    def _likelihood(self, output: Tensor, z: Tensor, W: Tensor) -> TorchDistribution:
        """That of each number of x: averaged over a z that remembers what it was drawn from, where that is exact."""
        given, is_linear = self.likelihood_of(output)
        drawn_with = drawn_from(z)
        if drawn_with is None or not is_linear:
            return given
        share = torch.sigmoid(drawn_with)
        variance = (share * torch.sigmoid(-drawn_with)) @ W.square()
        return AveragedNormal(given.loc, given.scale, share @ W, variance)

    def likelihood_of(self, output: Tensor) -> tuple[Any, bool]:
        """The distribution of each number given f's output; whether it is a Normal around the very sums, of one scale.

        Raises:
            ValueError: it is none of Pyro's distributions.
        """
        before = output._version
        given: Any = of_each(self.likelihood(output))
        if not isinstance(given, TorchDistributionMixin):
            raise ValueError(f"likelihood gives torch's {type(given).__name__}; give that of pyro.distributions")
        return given, output._version == before and self._is_linear(given, output)

    def _is_linear(self, given: Any, output: Tensor) -> bool:
        if self.decoder is not None or type(given) is not dist.Normal or given.loc.shape != output.shape:
            return False
        is_output = given.loc.data_ptr() == output.data_ptr() and given.loc.stride() == output.stride()
        return is_output and given.scale.stride(0) == 0


def _check_loaded(model: LatentFeatureModel, incompatible_keys: Any) -> None:
    """Raise a ValueError where what was loaded is of other sizes than the model says; torch takes any, at first."""
    if isinstance(model.loc, UninitializedParameter):
        return
    wanted = (model.num_features, model.loc.shape[1] if model._num_dims is None else model._num_dims)
    if tuple(model.loc.shape) != wanted:
        raise ValueError(f"state_dict: its W has shape {tuple(model.loc.shape)}, and the model's has {wanted}")


def _joint(pi: TorchDistribution) -> Any:
    """The distribution of all features' π as one event."""
    return pi.to_event(1 - len(pi.event_shape))
