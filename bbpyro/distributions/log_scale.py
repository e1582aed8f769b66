"""The distributions of Structured Bayesian Pruning: θ on a log scale, log-uniform and truncated log-normal.

A draw remembers log θ, in float64 and in a tensor attribute, and both distributions read it from there. It is lost
by any operation on the draw (a slice, a copy); then the logarithm is that of the rounded value.
"""

import functools
from typing import Any

import torch
from pyro.distributions.torch_distribution import TorchDistribution
from pyro.ops.provenance import detach_provenance, get_provenance, track_provenance
from torch import Tensor
from torch.distributions import constraints, register_kl
from torch.distributions.utils import broadcast_all

from bbpyro.distributions.remembering import floating
from bbpyro.distributions.truncated_normal import TruncatedNormal

_SLACK = 2.0**-21  # of θ: what float32, or another exp(), makes of an end is that end


class _LogScale(TorchDistribution):
    """θ = e^x of x on [low, high]; what both distributions share."""

    has_rsample = True
    _parameters: tuple[str, ...]
    low: Tensor
    high: Tensor

    def __init__(self, *parameters: Any, validate_args: bool | None = None) -> None:
        values = broadcast_all(*(floating(each) if isinstance(each, Tensor) else each for each in parameters))
        dtype = functools.reduce(torch.promote_types, (value.dtype for value in values))
        for name, value in zip(self._parameters, values, strict=True):
            setattr(self, name, value.to(dtype))
        super().__init__(self.low.shape, validate_args=validate_args)
        if self._validate_args:
            self._check_interval()

    def _check_interval(self) -> None:
        is_wrong = ~((self.low < self.high) & self.low.isfinite() & self.high.isfinite())
        if bool(is_wrong.any()):
            low, high = self.low[is_wrong][0].item(), self.high[is_wrong][0].item()
            raise ValueError(
                f"low, the smallest log θ, is {low:g} and high is {high:g}: wanted finite numbers, and low < high"
            )

    @constraints.dependent_property(is_discrete=False, event_dim=0)
    def support(self) -> constraints.Constraint:
        """θ in [e^low, e^high]."""
        lowest, highest = (end.double().exp() for end in (self.low, self.high))
        dtype = self.low.dtype
        return constraints.interval((lowest * (1 - _SLACK)).to(dtype), (highest * (1 + _SLACK)).to(dtype))

    def expand(self, batch_shape: Any, _instance: Any = None) -> Any:
        """The same distribution with a larger batch shape."""
        new = self._get_checked_instance(type(self), _instance)
        for name in self._parameters:
            setattr(new, name, getattr(self, name).expand(batch_shape))
        super(_LogScale, new).__init__(torch.Size(batch_shape), validate_args=False)
        new._validate_args = self._validate_args
        return new

    def _log_of(self, value: Tensor) -> tuple[Tensor, Tensor]:
        """Log θ in [low, high], float64, and whether `value` lies there; one that rounds to an end does."""
        if self._validate_args:
            self._validate_sample(value)
        low, high = self._ends
        remembered = _remembered_log(value)
        x = value.double().clamp_min(torch.finfo(torch.float64).tiny).log() if remembered is None else remembered
        is_inside = (x >= low - 2 * _SLACK) & (x <= high + 2 * _SLACK)
        if remembered is None:
            exact = torch.where(value > low.exp().to(value.dtype), x, low)
            exact = torch.where(value < high.exp().to(value.dtype), exact, high)
            x = x + (exact.clamp(low, high) - x).detach()
        return x, is_inside

    @property
    def _ends(self) -> list[Tensor]:
        """Low and high, float64; of a plate's data, which share a unit's, once."""
        return [end.double() for end in _without_copies(self.low, self.high)]

    def _scored(self, log_density: Tensor, x: Tensor, is_inside: Tensor) -> Tensor:
        """The log-density of θ, from that of log θ."""
        log_density = log_density - x
        if not bool(is_inside.all()):
            log_density = torch.where(is_inside, log_density, -torch.inf)
        return self._of_whole_batch(log_density.to(self.low.dtype))

    def _of_whole_batch(self, result: Tensor) -> Tensor:
        """With a plate's data, which share a unit's computation, and a value that broadcasts, each for itself."""
        return result.expand(torch.broadcast_shapes(result.shape, self.batch_shape))

    def _remembering(self, x: Tensor) -> Tensor:
        draw = x.exp().to(self.low.dtype)
        draw._log = x  # type: ignore[attr-defined]
        return draw

    def _uniform(self, sample_shape: Any) -> Tensor:
        shape = self._extended_shape(torch.Size(sample_shape))
        return torch.rand(shape, dtype=torch.float64, device=self.low.device)


def _remembered_log(value: Tensor) -> Tensor | None:
    """Log θ of a draw, or None for any other tensor."""
    # TraceGraph_ELBO wraps a draw, to know what depends on it; what it remembers is on the draw inside.
    exact: Tensor | None = getattr(detach_provenance(value), "_log", None)
    return None if exact is None else track_provenance(exact, get_provenance(value))


class LogUniform(_LogScale):
    """Log θ is uniform on [low, high]: SBP's prior of a unit's noise θ (arXiv 1705.07283).

    Density ``1 / (θ (high - low))`` for θ in [e^low, e^high].

    Args:
        low: the smallest log θ, of any shape; broadcasts with high to the batch shape.
        high: the largest log θ.
        validate_args: as everywhere in torch.distributions.

    Raises:
        ValueError: low is not below high, or a value lies outside [e^low, e^high], with validation on.
    """

    arg_constraints = {"low": constraints.real, "high": constraints.real}
    _parameters = ("low", "high")

    def __init__(self, low: Any = -20.0, high: Any = 0.0, validate_args: bool | None = None) -> None:
        super().__init__(low, high, validate_args=validate_args)

    @property
    def _width(self) -> Tensor:
        return self.high.double() - self.low.double()

    def rsample(self, sample_shape: Any = ()) -> Tensor:
        """Reparameterised draws, `sample_shape + batch_shape`, that remember their logarithms."""
        return self._remembering(self.low.double() + self._width * self._uniform(sample_shape))

    def log_prob(self, value: Tensor) -> Tensor:
        """Log-density of `value`; -inf outside the support, with validation off."""
        x, is_inside = self._log_of(value)
        low, high = self._ends
        return self._scored(-(high - low).log(), x, is_inside)

    def cdf(self, value: Tensor) -> Tensor:
        """Probability of a draw below `value`."""
        x, _ = self._log_of(value)
        return ((x - self.low) / self._width).to(self.low.dtype)

    def icdf(self, value: Tensor) -> Tensor:
        """The quantile of probability `value`."""
        return self._remembering(self.low.double() + self._width * value.double())

    @property
    def mean(self) -> Tensor:
        """E[θ] = (e^high - e^low) / (high - low)."""
        return self._mean.to(self.low.dtype)

    @property
    def _mean(self) -> Tensor:
        return self.high.double().exp() * -torch.expm1(-self._width) / self._width

    @property
    def variance(self) -> Tensor:
        """Var[θ] = E[θ]² (t / tanh t - 1), with t = (high - low) / 2."""
        t = self._width / 2
        return (self._mean.square() * (t / t.tanh() - 1)).to(self.low.dtype)

    def entropy(self) -> Tensor:
        """Differential entropy of θ, in nats: log(high - low) + (low + high) / 2."""
        return (self._width.log() + (self.low.double() + self.high) / 2).to(self.low.dtype)


class TruncatedLogNormal(_LogScale):
    """Log θ ~ N(loc, scale²) on [low, high]: SBP's posterior of a unit's noise θ (arXiv 1705.07283).

    Density ``N(log θ; loc, scale²) / (θ Z)`` for θ in [e^low, e^high], where Z is N(loc, scale²)'s mass on
    [low, high]. Accurate, with gradients, for loc in [-60, 40] and scale in [1e-4, 1e3] with the default ends, in
    float32 and float64. low and high are constants: no gradient of what is computed with them goes there.

    Args:
        loc: of log θ before it is truncated, of any shape; all four broadcast to the batch shape.
        scale: of log θ before it is truncated, > 0.
        low: the smallest log θ.
        high: the largest log θ.
        validate_args: as everywhere in torch.distributions.

    Raises:
        ValueError: scale is not positive, low is not below high, or a value lies outside [e^low, e^high], with
            validation on.
    """

    arg_constraints = {
        "loc": constraints.real,
        "scale": constraints.positive,
        "low": constraints.real,
        "high": constraints.real,
    }
    _parameters = ("loc", "scale", "low", "high")
    loc: Tensor
    scale: Tensor

    def __init__(
        self, loc: Any, scale: Any, low: Any = -20.0, high: Any = 0.0, validate_args: bool | None = None
    ) -> None:
        super().__init__(loc, scale, low, high, validate_args=validate_args)

    @property
    def _log(self) -> TruncatedNormal:
        """The distribution of log θ, once for the copies that expand() makes: a plate's data share a unit's."""
        loc, scale, low, high = (each.double() for each in _without_copies(self.loc, self.scale, self.low, self.high))
        return TruncatedNormal(loc, scale, low.detach(), high.detach())

    def _given(self, result: Tensor) -> Tensor:
        return result.to(self.loc.dtype).expand(self.batch_shape)

    def rsample(self, sample_shape: Any = ()) -> Tensor:
        """Reparameterised draws, `sample_shape + batch_shape`, that remember their logarithms."""
        return self._remembering(self._log.quantile(self._uniform(sample_shape)))

    def log_prob(self, value: Tensor) -> Tensor:
        """Log-density of `value`, exact for a draw however float rounds it; -inf outside, with validation off."""
        x, is_inside = self._log_of(value)
        return self._scored(self._log.log_density(x), x, is_inside)

    def cdf(self, value: Tensor) -> Tensor:
        """Probability of a draw below `value`."""
        return self._of_whole_batch(self._log.cdf(self._log_of(value)[0]).to(self.loc.dtype))

    def icdf(self, value: Tensor) -> Tensor:
        """The quantile of probability `value`."""
        return self._remembering(self._log.quantile(value.double()))

    @property
    def mean(self) -> Tensor:
        """E[θ]."""
        log = self._log
        return self._given(log.likeliest.exp() * (1 + log.expectation(torch.expm1)))

    @property
    def variance(self) -> Tensor:
        """Var[θ]."""
        log = self._log
        return self._given((2 * log.likeliest).exp() * _relative_moments(log)[1])

    @property
    def signal_to_noise(self) -> Tensor:
        """E[θ] / sqrt(Var[θ]): SBP takes a unit out where it is below 1 (arXiv 1705.07283)."""
        mean, variance = _relative_moments(self._log)
        return self._given(mean / variance.sqrt())

    def entropy(self) -> Tensor:
        """Differential entropy of θ, in nats: that of log θ and E[log θ]."""
        log = self._log
        return self._given(log.entropy() + log.likeliest + log.expectation(lambda d: d))


def _without_copies(*tensors: Tensor) -> list[Tensor]:
    """The tensors, of one shape, without the dimensions' repetitions that expand() has put there."""
    for dim in range(tensors[0].dim()):
        if tensors[0].shape[dim] > 1 and not any(tensor.stride(dim) for tensor in tensors):
            tensors = tuple(tensor.narrow(dim, 0, 1) for tensor in tensors)
    return list(tensors)


def _relative_moments(log: TruncatedNormal) -> tuple[Tensor, Tensor]:
    """Mean and variance of θ / e^r, r the likeliest log θ."""
    excess = log.expectation(torch.expm1)
    return 1 + excess, log.expectation(lambda d: (torch.expm1(d) - excess).square())


@register_kl(TruncatedLogNormal, LogUniform)
def _kl_truncated_log_normal_log_uniform(q: TruncatedLogNormal, p: LogUniform) -> Tensor:
    """log(high - low) of p, less the entropy of log θ under q; infinite where q reaches beyond p."""
    kl = p._width.log() - q._log.entropy()
    is_within = (q.low >= p.low) & (q.high <= p.high)
    return torch.where(is_within, kl, torch.inf).to(q.loc.dtype)
