"""The distributions of Beta-Bernoulli dropout, for Pyro, and their divergences, registered with torch.

A draw remembers its log-odds: π or z that float32 rounds to 0 or 1 keeps them, in a tensor attribute, and every
distribution here reads them from it. They are lost by any operation on the draw (a slice, a copy); then the
log-odds are those of the rounded value.
"""

import math
from typing import Any

import pyro.distributions as dist
import torch
from pyro.distributions.torch_distribution import TorchDistribution
from torch import Tensor
from torch.distributions import constraints, kl_divergence, register_kl
from torch.distributions.utils import broadcast_all, lazy_property

from bbpyro import functional as f


def remember_log_odds(log_odds: Tensor, dtype: torch.dtype) -> Tensor:
    """sigmoid(log_odds) in `dtype`, strictly inside (0, 1), remembering its exact log-odds."""
    draw = torch.sigmoid(log_odds).to(dtype)
    limits = torch.finfo(dtype)
    draw = draw.clamp(limits.tiny, 1 - limits.eps / 2)
    draw._log_odds = log_odds  # type: ignore[attr-defined]
    return draw


def remembered_log_odds(value: Tensor) -> Tensor | None:
    """The exact log-odds of a draw, or None for any other tensor."""
    return getattr(value, "_log_odds", None)


def log_odds(value: Tensor) -> Tensor:
    """The exact log-odds of a draw; of any other tensor, those of its value, kept finite at 0 and 1."""
    exact = remembered_log_odds(value)
    if exact is not None:
        return exact
    limits = torch.finfo(value.dtype)
    return torch.logit(value.clamp(limits.tiny, 1 - limits.eps / 2))


class Kumaraswamy(TorchDistribution):
    """Kumaraswamy's distribution on [0, 1], close to Beta and with a closed-form inverse CDF.

    Density ``a b π^(a-1) (1-π^a)^(b-1)`` (arXiv 1805.10896). Accurate, with gradients, for a and b in
    [1e-6, 1e3], in float32 and float64. ``mode`` is nan where the density has no single finite peak.

    Args:
        concentration1: a > 0, of any shape; broadcasts with concentration0 to the batch shape.
        concentration0: b > 0.
        validate_args: as everywhere in torch.distributions.

    Raises:
        ValueError: a concentration is not positive, or a value lies outside [0, 1], with validation on.
    """

    arg_constraints = {"concentration1": constraints.positive, "concentration0": constraints.positive}
    support = constraints.unit_interval
    has_rsample = True
    _own_draw: tuple[Tensor, Tensor] | None = None  # the last reparameterised draw and its log-density

    def __init__(self, concentration1: Any, concentration0: Any, validate_args: bool | None = None) -> None:
        self.concentration1, self.concentration0 = broadcast_all(concentration1, concentration0)
        super().__init__(self.concentration1.shape, validate_args=validate_args)

    def expand(self, batch_shape: Any, _instance: Any = None) -> "Kumaraswamy":
        """The same distribution with a larger batch shape."""
        new = self._get_checked_instance(Kumaraswamy, _instance)
        new.concentration1 = self.concentration1.expand(batch_shape)
        new.concentration0 = self.concentration0.expand(batch_shape)
        super(Kumaraswamy, new).__init__(torch.Size(batch_shape), validate_args=False)
        new._validate_args = self._validate_args
        return new

    def rsample(self, sample_shape: Any = ()) -> Tensor:
        """Reparameterised draws, `sample_shape + batch_shape`, that remember their log-odds."""
        shape = self._extended_shape(torch.Size(sample_shape))
        exponential = torch.empty(shape, dtype=torch.float64, device=self.concentration1.device).exponential_()
        exponential = exponential.clamp_min(torch.finfo(torch.float64).tiny)
        a, b = self.concentration1.expand(shape), self.concentration0.expand(shape)
        odds, log_prob = f.kumaraswamy_draw(exponential, a, b)
        draw = remember_log_odds(odds, self.concentration1.dtype)
        self._own_draw = (draw, log_prob) if log_prob.requires_grad else None
        return draw

    def log_prob(self, value: Tensor) -> Tensor:
        """Log-density of `value`, exact for a draw even where float rounds it to 0 or 1."""
        if self._own_draw is not None and value is self._own_draw[0]:
            return self._own_draw[1].to(value.dtype)
        if self._validate_args:
            self._validate_sample(value)
        return f.kumaraswamy_log_prob(_log_surprise(value), self.concentration1, self.concentration0)

    def cdf(self, value: Tensor) -> Tensor:
        """Probability of a draw below `value`."""
        if self._validate_args:
            self._validate_sample(value)
        return f.kumaraswamy_cdf(_log_surprise(value), self.concentration1, self.concentration0)

    def icdf(self, value: Tensor) -> Tensor:
        """The quantile of probability `value`."""
        return f.kumaraswamy_icdf(value, self.concentration1, self.concentration0)

    @property
    def mean(self) -> Tensor:
        """E[π]: the keep probability of each unit."""
        return f.kumaraswamy_mean(self.concentration1, self.concentration0)

    @property
    def variance(self) -> Tensor:
        """Var[π]."""
        return f.kumaraswamy_variance(self.concentration1, self.concentration0)

    @property
    def mode(self) -> Tensor:
        """The interior peak, or nan where there is none."""
        return f.kumaraswamy_mode(self.concentration1, self.concentration0)

    def entropy(self) -> Tensor:
        """Differential entropy, in nats."""
        return f.kumaraswamy_entropy(self.concentration1, self.concentration0)


def _log_surprise(value: Tensor) -> Tensor:
    exact = remembered_log_odds(value)
    return f.log_neg_log(value) if exact is None else f.log_softplus(-exact)


class RelaxedBernoulli(TorchDistribution):
    """The relaxed (concrete) Bernoulli: z = sigmoid((logits + logit u) / τ), u uniform (arXiv 1611.00712).

    torch's own clamps the logits to ±16, which kills the gradient to a keep probability near 0 or 1; here they
    arrive as they are. Given `probs` that are a draw of :class:`Kumaraswamy`, its exact log-odds are used.

    Args:
        temperature: τ > 0, a number or a tensor that broadcasts.
        probs: keep probabilities in [0, 1]; or
        logits: their log-odds. Exactly one of the two.
        validate_args: as everywhere in torch.distributions.

    Raises:
        ValueError: not exactly one of `probs` and `logits` is given, or an argument is out of range.
    """

    arg_constraints = {
        "temperature": constraints.positive,
        "probs": constraints.unit_interval,
        "logits": constraints.real,
    }
    support = constraints.unit_interval
    has_rsample = True

    def __init__(
        self,
        temperature: Any,
        probs: Any = None,
        logits: Any = None,
        validate_args: bool | None = None,
    ) -> None:
        if (probs is None) == (logits is None):
            raise ValueError("RelaxedBernoulli wants exactly one of probs and logits")
        if logits is None:
            self.probs = _floating(probs)
            logits = log_odds(self.probs).to(self.probs.dtype)
        self.logits = _floating(logits)
        self.temperature = torch.as_tensor(temperature, dtype=self.logits.dtype, device=self.logits.device)
        self._scaled_logits = self.logits / self.temperature  # before expand() makes them many
        self.is_tied = False
        super().__init__(self._scaled_logits.shape, validate_args=validate_args)

    @lazy_property
    def probs(self) -> Tensor:
        """Keep probabilities, the sigmoid of the logits."""
        return torch.sigmoid(self.logits)

    def expand(self, batch_shape: Any, _instance: Any = None) -> "RelaxedBernoulli":
        """The same distribution with a larger batch shape."""
        new = self._get_checked_instance(RelaxedBernoulli, _instance)
        new.logits, new._scaled_logits = self.logits.expand(batch_shape), self._scaled_logits.expand(batch_shape)
        new.temperature, new.is_tied = self.temperature, self.is_tied
        super(RelaxedBernoulli, new).__init__(torch.Size(batch_shape), validate_args=False)
        new._validate_args = self._validate_args
        return new

    def tied(self) -> "RelaxedBernoulli":
        """The same distribution, for a guide whose q(z|π) is the model's p(z|π).

        The two log-densities of such a draw are one number, subtracted from itself in the ELBO. A tied draw says
        so, and `log_prob` of it is 0 on both sides, in no time.
        """
        new = self.expand(self.batch_shape)
        new.is_tied = True
        return new

    def rsample(self, sample_shape: Any = ()) -> Tensor:
        """Reparameterised draws, `sample_shape + batch_shape`, that remember their log-odds."""
        shape = self._extended_shape(torch.Size(sample_shape))
        uniform = torch.rand(shape, dtype=self.logits.dtype, device=self.logits.device)
        noise = uniform.logit_(eps=torch.finfo(uniform.dtype).tiny).div_(self.temperature)
        z_log_odds = self._scaled_logits + noise
        z = torch.sigmoid(z_log_odds)
        z._log_odds, z._is_tied = z_log_odds, self.is_tied  # type: ignore[attr-defined]
        return z

    def log_prob(self, value: Tensor) -> Tensor:
        """Log-density of `value`; of a tied draw, 0."""
        if getattr(value, "_is_tied", False):
            return value.new_zeros(()).expand(value.shape)
        if self._validate_args:
            self._validate_sample(value)
        return f.relaxed_bernoulli_log_prob(log_odds(value), self.temperature, self.logits)


def _floating(value: Any) -> Tensor:
    tensor = torch.as_tensor(value)
    return tensor if tensor.is_floating_point() else tensor.to(torch.get_default_dtype())


class Beta(dist.Beta):
    """torch's Beta in log-odds: draws remember theirs, and the log-density of such a draw is taken in them.

    torch's own draw is a ratio of Gamma variables that underflow: of Beta(1e-4, 1e-4), which is all 0 and 1, it
    makes ½ in most cases.
    """

    _kept_constants: tuple[Tensor, Tensor, Tensor, bool] | None = None

    def rsample(self, sample_shape: Any = ()) -> Tensor:
        """Draws that remember their log-odds; reparameterised where the concentrations are being learnt."""
        if self._dirichlet.concentration.requires_grad:
            return super().rsample(sample_shape)
        shape = self._extended_shape(torch.Size(sample_shape))
        log_gamma1, log_gamma0 = (f.log_gamma_draw(c.expand(shape)) for c in (self.concentration1, self.concentration0))
        return remember_log_odds(log_gamma1 - log_gamma0, self.concentration1.dtype)

    def log_prob(self, value: Tensor) -> Tensor:
        """Log-density of `value`, exact for a draw even where float rounds it to 0 or 1."""
        odds = remembered_log_odds(value)
        if odds is None:
            return super().log_prob(value)
        c1, c0, log_beta, is_power = self._constants
        log_prob = (1 - c1) * f.softplus(-odds) - log_beta
        return (log_prob if is_power else log_prob + (1 - c0) * f.softplus(odds)).to(value.dtype)

    @property
    def _constants(self) -> tuple[Tensor, Tensor, Tensor, bool]:
        """(c1, c0, log B(c1, c0), c0 is 1), kept from call to call unless they are being learnt."""
        if self._kept_constants is not None:
            return self._kept_constants
        c1, c0 = self.concentration1.double(), self.concentration0.double()
        log_beta = torch.lgamma(c1) + torch.lgamma(c0) - torch.lgamma(c1 + c0)
        if self._dirichlet.concentration.requires_grad:
            return c1, c0, log_beta, False
        self._kept_constants = c1, c0, log_beta, bool((c0 == 1).all())
        return self._kept_constants


class LogitNormal(TorchDistribution):
    """π = sigmoid(N(loc, scale²)): Gaussian log-odds. Density ``N(logit π; loc, scale²) / (π (1-π))``.

    Args:
        loc: of the log-odds, of any shape; broadcasts with scale to the batch shape.
        scale: of the log-odds, > 0.
        validate_args: as everywhere in torch.distributions.
    """

    arg_constraints = {"loc": constraints.real, "scale": constraints.positive}
    support = constraints.unit_interval
    has_rsample = True

    def __init__(self, loc: Any, scale: Any, validate_args: bool | None = None) -> None:
        self.loc, self.scale = broadcast_all(_floating(loc), _floating(scale))
        super().__init__(self.loc.shape, validate_args=validate_args)

    def expand(self, batch_shape: Any, _instance: Any = None) -> "LogitNormal":
        """The same distribution with a larger batch shape."""
        return LogitNormal(self.loc.expand(batch_shape), self.scale.expand(batch_shape), validate_args=False)

    def rsample(self, sample_shape: Any = ()) -> Tensor:
        """Draws that remember their log-odds, `sample_shape + batch_shape`."""
        shape = self._extended_shape(torch.Size(sample_shape))
        noise = torch.randn(shape, dtype=torch.float64, device=self.loc.device)
        return remember_log_odds(self.loc + self.scale * noise, self.loc.dtype)

    def log_prob(self, value: Tensor) -> Tensor:
        """Log-density of `value`, exact for a draw even where float rounds it to 0 or 1."""
        if self._validate_args:
            self._validate_sample(value)
        odds = log_odds(value).double()
        standard = (odds - self.loc) / self.scale
        normal = -0.5 * standard.square() - self.scale.double().log() - 0.5 * math.log(2 * math.pi)
        return (normal + f.softplus(odds) + f.softplus(-odds)).to(value.dtype)


class BetaMixture(TorchDistribution):
    """π of one of two Betas: ``weight · first + (1 - weight) · second``.

    Args:
        weight: of the first, in (0, 1).
        first: a Beta.
        second: a Beta of the same batch shape.
    """

    arg_constraints: dict[str, constraints.Constraint] = {}
    support = constraints.unit_interval

    def __init__(self, weight: float, first: Beta, second: Beta) -> None:
        self.weight, self.first, self.second = weight, first, second
        super().__init__(first.batch_shape, validate_args=False)

    def expand(self, batch_shape: Any, _instance: Any = None) -> "BetaMixture":
        """The same distribution with a larger batch shape."""
        return BetaMixture(self.weight, self.first.expand(batch_shape), self.second.expand(batch_shape))

    def sample(self, sample_shape: Any = ()) -> Tensor:
        """Draws that remember their log-odds, `sample_shape + batch_shape`; not reparameterised."""
        with torch.no_grad():
            first, second = (log_odds(beta.sample(sample_shape)).double() for beta in (self.first, self.second))
            is_first = torch.rand(first.shape, device=first.device) < self.weight
            return remember_log_odds(torch.where(is_first, first, second), self.first.concentration1.dtype)

    def log_prob(self, value: Tensor) -> Tensor:
        """Log-density of `value`, exact for a draw even where float rounds it to 0 or 1."""
        first = self.first.log_prob(value) + math.log(self.weight)
        return torch.logaddexp(first, self.second.log_prob(value) + math.log1p(-self.weight))


class Delta(dist.Delta):
    """A point mass whose own draw costs nothing to score (Pyro's compares every element with itself)."""

    def rsample(self, sample_shape: Any = ()) -> Tensor:
        """The point, `sample_shape + v.shape`."""
        return self.v if len(sample_shape) == 0 else super().rsample(torch.Size(sample_shape))

    def log_prob(self, x: Tensor) -> Tensor:
        """`log_density` at the point, -inf elsewhere."""
        return self.log_density if x is self.v else super().log_prob(x)


class SphericalNormal(TorchDistribution):
    """N(0, scale² I) over a whole tensor, scored as one factor instead of one an element.

    Args:
        scale: standard deviation of every element, > 0.
        event_shape: shape of the tensor.
    """

    arg_constraints: dict[str, constraints.Constraint] = {}
    has_rsample = True

    def __init__(self, scale: float, event_shape: Any) -> None:
        self.scale = scale
        super().__init__(torch.Size(), torch.Size(event_shape), validate_args=False)

    @constraints.dependent_property
    def support(self) -> constraints.Constraint:
        """All real tensors of the event shape."""
        return constraints.independent(constraints.real, self.event_dim)

    def expand(self, batch_shape: Any, _instance: Any = None) -> Any:
        """The same distribution with a larger batch shape."""
        return self if len(batch_shape) == 0 else super().expand(batch_shape)

    def rsample(self, sample_shape: Any = ()) -> Tensor:
        """Draws of shape `sample_shape + event_shape`."""
        return self.scale * torch.randn(self._extended_shape(torch.Size(sample_shape)))

    def log_prob(self, value: Tensor) -> Tensor:
        """Log-density of the whole tensor: one number for each sample."""
        if value.shape == self.event_shape:
            return f.spherical_normal_log_prob(value, self.scale)
        batch = value.shape[: value.dim() - self.event_dim]
        if value.shape[len(batch) :] != self.event_shape:
            raise ValueError(f"value has shape {tuple(value.shape)}, wanted it to end in {tuple(self.event_shape)}")
        elements = dist.Normal(0.0, self.scale, validate_args=False).log_prob(value)
        return elements.reshape(*batch, -1).sum(-1)


class ContinuedTails(TorchDistribution):
    """Any distribution on [0, 1], its density continued as a power law where its own arithmetic ends.

    Below π = 1e-30, and above 1 - 2^-20, the log-density goes on linearly in log π, or in log(1-π), with the
    slope it has there. For Beta, Kumaraswamy and Uniform that is what the density does.
    """

    arg_constraints: dict[str, constraints.Constraint] = {}
    support = constraints.unit_interval

    _LOW = (1e-30, 1e-36)
    _HIGH = (1 - 2.0**-20, 1 - 2.0**-23)

    def __init__(self, base_dist: TorchDistribution) -> None:
        self.base_dist = base_dist
        super().__init__(base_dist.batch_shape, base_dist.event_shape, validate_args=False)

    def expand(self, batch_shape: Any, _instance: Any = None) -> "ContinuedTails":
        """The same distribution with a larger batch shape."""
        return ContinuedTails(self.base_dist.expand(batch_shape))

    @property
    def has_rsample(self) -> bool:  # type: ignore[override]
        """Whether the base distribution has reparameterised draws."""
        return self.base_dist.has_rsample

    def sample(self, sample_shape: Any = ()) -> Tensor:
        """Draws of the base distribution."""
        return self.base_dist.sample(torch.Size(sample_shape))

    def rsample(self, sample_shape: Any = ()) -> Tensor:
        """Reparameterised draws of the base distribution, where it has them."""
        return self.base_dist.rsample(torch.Size(sample_shape))

    def log_prob(self, value: Tensor) -> Tensor:
        """The base's log-density, or its continuation for a draw that float rounds to an end."""
        odds = remembered_log_odds(value)
        if odds is None:
            return self.base_dist.log_prob(value)
        inside = self.base_dist.log_prob(value.clamp(self._LOW[0], self._HIGH[0]))
        log_pi, log_complement = -f.softplus(-odds), -f.softplus(odds)
        low = torch.log(torch.tensor(self._LOW, dtype=torch.float64))
        high = torch.log1p(-torch.tensor(self._HIGH, dtype=torch.float64))
        tails = self._slope(self._LOW, low) * (log_pi - low[0]).clamp_max(0)
        tails = tails + self._slope(self._HIGH, high) * (log_complement - high[0]).clamp_max(0)
        return inside + tails.to(inside.dtype)

    def _slope(self, knots: tuple[float, float], logs: Tensor) -> Tensor:
        first, second = (self.base_dist.log_prob(torch.tensor(knot)) for knot in knots)
        return (first.double() - second.double()) / (logs[0] - logs[1])


def with_exact_tails(distribution: TorchDistribution) -> TorchDistribution:
    """A distribution on [0, 1] that can score a remembered draw: itself, its twin here, or its continuation."""
    if isinstance(distribution, Beta | BetaMixture | Kumaraswamy | LogitNormal | ContinuedTails):
        return distribution
    if isinstance(distribution, torch.distributions.Beta):
        return Beta(distribution.concentration1, distribution.concentration0)
    if isinstance(distribution, torch.distributions.Kumaraswamy):
        return Kumaraswamy(distribution.concentration1, distribution.concentration0)
    return ContinuedTails(distribution)


@register_kl(Kumaraswamy, torch.distributions.Beta)
def _kl_kumaraswamy_beta(q: Kumaraswamy, p: torch.distributions.Beta) -> Tensor:
    return f.kl_kumaraswamy_beta(q.concentration1, q.concentration0, p.concentration1, p.concentration0)


@register_kl(Kumaraswamy, Kumaraswamy)
def _kl_kumaraswamy_kumaraswamy(q: Kumaraswamy, p: Kumaraswamy) -> Tensor:
    return f.kl_kumaraswamy_kumaraswamy(q.concentration1, q.concentration0, p.concentration1, p.concentration0)


@register_kl(Kumaraswamy, ContinuedTails)
def _kl_kumaraswamy_continued(q: Kumaraswamy, p: ContinuedTails) -> Tensor:
    return kl_divergence(q, p.base_dist)
