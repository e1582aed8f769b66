"""The latent feature model: each datum is made of a few of K latent features, and the data say how many there are.

π_k ~ Beta(α/K, 1)      w_k ~ N(0, s² I)      z_nk | π_k ~ Bernoulli(π_k)      d_n ~ p(d | f(Σ_k z_nk w_k))

q(π, W, z) = Π_k Kumaraswamy(π_k; a_k, b_k) · N(W; m, v) · Π_nk Bernoulli(z_nk; λ_nk)

With K → ∞ the matrix z is an Indian buffet process (Griffiths and Ghahramani 2011).
"""

import math
from typing import Any

import pyro
import pyro.distributions as dist
import torch
import torch.nn.functional as F
from pyro.distributions.torch_distribution import TorchDistribution, TorchDistributionMixin
from torch import Tensor, nn

from bbpyro import parameters, priors
from bbpyro.checks import in_eval_mode
from bbpyro.distributions import AveragedBernoulli, AveragedNormal, Bernoulli, drawn_from, with_exact_tails
from bbpyro.families.beta_bernoulli import MIN_CONCENTRATION, kumaraswamy
from bbpyro.likelihoods import Likelihood, of_each
from bbpyro.priors.checks import check_prior
from bbpyro.program import program

_START = {"logits": -2.0, "scale": 0.1, "concentration1": math.log(2.0), "concentration0": 1.0}
_SPREAD = 0.5  # of W where training starts


class LatentFeatureModel(nn.Module):
    """Data of a few of K latent features each, d_n = f(Σ_k z_nk w_k), as a Pyro model and guide.

    x, the data, is a tensor `[N, D]`, or `[N, ...]` with a decoder of one's own; what of it is nan was not observed.

    Of z the guide has a Bernoulli for each datum and feature. Their KL is exact. Where f is the identity and the
    likelihood a Normal around it, of one scale for all data, so is the expectation of log p(x | z, W) over z; elsewhere
    it is that of a draw of 0 and 1, with a gradient straight through it. These averages are for ELBOs alone, see
    :class:`bbpyro.distributions.AveragedBernoulli`.

    Args:
        num_features: K, the most features there may be.
        likelihood: from f's output `[N, D]` to the distribution of each number of x, such as
            `lambda output: dist.Normal(output, 0.5)` or :class:`bbpyro.likelihoods.Bernoulli`; its parameters are
            trained where it is an nn.Module.
        num_data: N.
        num_dims: D, the numbers of a w_k.
        prior: of the keep probabilities π, as of :class:`bbpyro.BetaBernoulliNetwork`; by default IndianBuffet(1).
        weight_scale: s, the scale of w_k a priori.
        decoder: f, from `[N, D]` to what the likelihood wants; by default the identity.
        encoder: from x `[B, ...]`, 0 where it was not observed, to the log-odds of λ `[B, K]`; by default each datum
            has its own, which are trained, so that all data go into each call, in their order.
        temperature: of the gradient through z, where the expectation is not exact.
        name: under which Pyro's parameter store knows the parameters.

    Raises:
        ValueError: a number is out of range, or the prior is none of K keep probabilities.
    """

    def __init__(
        self,
        num_features: int,
        likelihood: Likelihood,
        *,
        num_data: int,
        num_dims: int,
        prior: priors.PriorLike | None = None,
        weight_scale: float = 1.0,
        decoder: nn.Module | None = None,
        encoder: nn.Module | None = None,
        temperature: float = 0.3,
        name: str | None = None,
    ) -> None:
        super().__init__()
        for argument, number in (("num_features", num_features), ("num_data", num_data), ("num_dims", num_dims)):
            if number < 1:
                raise ValueError(f"{argument} is {number}, wanted at least 1")
        for argument, scale in (("weight_scale", weight_scale), ("temperature", temperature)):
            if not 0 < scale < math.inf:
                raise ValueError(f"{argument} is {scale}, wanted a positive number")
        self.num_data, self.weight_scale, self.temperature, self.name = num_data, weight_scale, temperature, name
        self.likelihood, self.decoder, self.encoder = likelihood, decoder, encoder
        made = priors.as_prior(priors.IndianBuffet(1.0) if prior is None else prior)
        if isinstance(made, dict):
            raise ValueError(f"prior is a mapping of {', '.join(made)}: all features have one prior")
        self.prior = made
        check_prior("pi", num_features, self.prior)
        sizes: dict[str, tuple[int, ...]] = {
            "loc": (num_features, num_dims),
            "unconstrained_scale": (num_features, num_dims),
        }
        sizes |= {f"unconstrained_concentration{i}": (num_features,) for i in (0, 1)}
        sizes |= {} if encoder is not None else {"logits": (num_data, num_features)}
        for parameter, size in sizes.items():
            self.register_parameter(parameter, nn.Parameter(torch.empty(size)))
        self.reset_parameters()

    loc: nn.Parameter
    unconstrained_scale: nn.Parameter
    unconstrained_concentration0: nn.Parameter
    unconstrained_concentration1: nn.Parameter
    logits: nn.Parameter

    @property
    def num_features(self) -> int:
        """K."""
        return len(self.loc)

    @torch.no_grad()
    def reset_parameters(self) -> None:
        """Begin anew, W and z at random."""
        self.loc.normal_(0, _SPREAD)
        self.unconstrained_scale.fill_(math.log(math.expm1(_START["scale"])))
        for i in (0, 1):
            start = _START[f"concentration{i}"]
            getattr(self, f"unconstrained_concentration{i}").fill_(math.log(math.expm1(start)))
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
            output = self._f(z.to(W) @ W)
            of_x = self._likelihood(output, z, W)
            pyro.sample("x", _observed(of_x, x), obs=None if x is None else _filled(x, of_x))
        return output

    @program
    def guide(self, x: Tensor | None = None) -> None:
        """q(π, W, z) = Kumaraswamy(π) · N(W) · Bernoulli(z)."""
        parameters.register(self, self.name)
        pyro.sample("pi", _joint(self.q_pi()))
        pyro.sample("W", self.q_weights().to_event(2))
        with self._data(x):
            pyro.sample("z", AveragedBernoulli(self.temperature, self.z_logits(x)).to_event(1))

    def q_pi(self) -> TorchDistribution:
        """q(π) of the K features, as that of a gate."""
        a, b = (F.softplus(getattr(self, f"unconstrained_concentration{i}")) + MIN_CONCENTRATION for i in (1, 0))
        family: Any = getattr(self.prior, "guide", kumaraswamy)
        q: TorchDistribution = family(a, b)
        return q

    def q_weights(self) -> dist.Normal:
        """q(W), batch shape `[K, D]`; its parameters are in units of `weight_scale`."""
        s = self.weight_scale
        return dist.Normal(s * self.loc, s * (F.softplus(self.unconstrained_scale) + 1e-6), validate_args=False)

    def z_logits(self, x: Tensor | None = None) -> Tensor:
        """The log-odds of λ `[B, K]` of data x; without an encoder those of all data.

        Raises:
            ValueError: the encoder gives another shape, or wants x; or, without one, x is not all of the data.
        """
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
        return logits

    @torch.no_grad()
    def num_used(self, x: Tensor | None = None) -> int:
        """K₊, the features that some datum has, with λ above one half; an encoder is in evaluation mode for it."""
        with in_eval_mode(self):
            return int((self.z_logits(x) > 0).any(0).sum())

    def _data(self, x: Tensor | None) -> Any:
        if x is not None:
            check_floats(x)
            if len(x) > self.num_data:
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

    def _f(self, sums: Tensor) -> Tensor:
        output: Tensor = sums if self.decoder is None else self.decoder(sums)
        return output

    def _likelihood(self, output: Tensor, z: Tensor, W: Tensor) -> TorchDistribution:
        """That of each number of x: averaged over a z that remembers what it was drawn from, where that is exact."""
        given: TorchDistribution = of_each(self.likelihood(output))
        if not isinstance(given, TorchDistributionMixin):
            raise ValueError(f"likelihood gives torch's {type(given).__name__}; give that of pyro.distributions")
        drawn_with = drawn_from(z)
        if drawn_with is None or self.decoder is not None or not _is_around(given, output):
            return given
        share = torch.sigmoid(drawn_with)
        variance = (share * torch.sigmoid(-drawn_with)) @ W.square()
        return AveragedNormal(given.loc, given.scale, share @ W, variance)


def _is_around(given: Any, output: Tensor) -> bool:
    """Whether it is a Normal whose loc is the output itself, and whose scale is one for all data."""
    if type(given) is not dist.Normal or given.loc.shape != output.shape:
        return False
    is_output = given.loc.data_ptr() == output.data_ptr() and given.loc.stride() == output.stride()
    return is_output and given.scale.stride(0) == 0


def _filled(x: Tensor, of_x: Any) -> Tensor:
    """What was observed of x, and a draw, which is in the support, where nothing was."""
    hidden = x.isnan()
    return torch.where(hidden, of_x.sample().to(x), x) if bool(hidden.any()) else x


def check_floats(x: Tensor) -> None:
    """Raise a ValueError unless x is of floats `[N, D]`, or `[N, ...]`."""
    if x.dim() < 2 or not x.is_floating_point():
        raise ValueError(f"x is {x.dtype} of shape {tuple(x.shape)}, wanted floats [N, D], or [N, ...]")


def _observed(of_each_number: TorchDistribution, x: Tensor | None) -> Any:
    """The distribution of a datum, of which what is nan in x says nothing."""
    dims = len(of_each_number.batch_shape) - 1
    if x is None:
        return of_each_number.to_event(dims)
    if of_each_number.batch_shape != x.shape:
        raise ValueError(
            f"x has shape {tuple(x.shape)}, and the likelihood gives numbers of shape "
            f"{tuple(of_each_number.batch_shape)}; num_dims, the decoder and x are to go together"
        )
    return of_each_number.mask(~x.isnan()).to_event(dims)


def _joint(pi: TorchDistribution) -> Any:
    """The distribution of all features' π as one event."""
    return pi.to_event(1 - len(pi.event_shape))
