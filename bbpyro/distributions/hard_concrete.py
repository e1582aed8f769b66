"""The hard concrete, of masks z that are exactly 0 or 1 much of the time."""

import math
from typing import Any

import torch
import torch.nn.functional as F
from pyro.distributions.torch_distribution import TorchDistribution
from torch import Tensor
from torch.distributions import constraints
from torch.distributions.utils import lazy_property

from bbpyro import functional as f
from bbpyro.distributions.masks import OfMasks
from bbpyro.distributions.relaxed_bernoulli import RelaxedBernoulli
from bbpyro.distributions.remembering import floating, is_tied


class HardConcrete(OfMasks, TorchDistribution):
    """The hard concrete: a relaxed Bernoulli, stretched beyond [0, 1] and cut off at both ends (arXiv 1712.01312).

    With u uniform::

        s = sigmoid((logits + logit u) / τ)      s̄ = s (high - low) + low      z = min(1, max(0, s̄))

    so that z is 0 and 1 with a probability of its own each, and has a density in between. `log_prob` is with respect
    to the sum of a unit mass at 0, a unit mass at 1, and length on (0, 1): log P(z = 0), log P(z = 1), and the
    log-density of s̄. L0 regularisation adds λ Σ `prob_nonzero` to the loss; model and guide then have this one
    distribution, and a :meth:`tied` draw spares them its density.

    Probabilities are computed in float64, and given in the dtype of the logits: a gate that is all but sure to be
    open still has its gradient.

    Args:
        temperature: τ > 0, a number or a tensor that broadcasts; the paper's β, there 2/3.
        logits: the paper's log α, of any shape; broadcasts with the temperature to the batch shape.
        low: where s is stretched to at its lower end, a number < 0; the paper's γ.
        high: the same at its upper end, a number > 1; the paper's ζ.
        validate_args: as everywhere in torch.distributions.

    Raises:
        ValueError: low is no finite number below 0, high none above 1, or another argument is out of range.
    """

    arg_constraints = {"temperature": constraints.positive, "logits": constraints.real}
    support = constraints.unit_interval
    has_rsample = True
    is_tied = False

    def __init__(
        self,
        temperature: Any,
        logits: Any,
        low: float = -0.1,
        high: float = 1.1,
        validate_args: bool | None = None,
    ) -> None:
        if not (all(isinstance(x, int | float) for x in (low, high)) and -math.inf < low < 0 and 1 < high < math.inf):
            raise ValueError(
                f"HardConcrete: low is {low!r} and high is {high!r}, wanted two finite numbers, low < 0 and high > 1"
            )
        self.low, self.high = float(low), float(high)
        self.logits = self._odds = floating(logits)
        self._relaxed = RelaxedBernoulli(temperature, logits=self._odds, validate_args=False)
        self.temperature = self._relaxed.temperature
        super().__init__(self._relaxed.batch_shape, validate_args=validate_args)

    @lazy_property
    def logits(self) -> Tensor:
        """Log-odds of s at a temperature of 1, the paper's log α."""
        return self._odds.expand(self.batch_shape)

    def expand(self, batch_shape: Any, _instance: Any = None) -> "HardConcrete":
        """The same distribution with a larger batch shape."""
        new = self._get_checked_instance(HardConcrete, _instance)
        new.low, new.high, new.is_tied = self.low, self.high, self.is_tied
        new._odds, new.temperature = self._odds, self.temperature
        new._relaxed = self._relaxed.expand(batch_shape)
        super(HardConcrete, new).__init__(torch.Size(batch_shape), validate_args=False)
        new._validate_args = self._validate_args
        return new

    def tied(self) -> "HardConcrete":
        """The same distribution, for a guide whose q(z) is the model's p(z), as in :meth:`RelaxedBernoulli.tied`."""
        new = self.expand(self.batch_shape)
        new.is_tied = True
        return new

    def rsample(self, sample_shape: Any = ()) -> Tensor:
        """Reparameterised draws, `sample_shape + batch_shape`; where z is 0 or 1, its gradient to the logits is 0."""
        z = self._cut(self._relaxed.rsample(sample_shape))
        z._is_tied = self.is_tied  # type: ignore[attr-defined]
        return z

    def log_prob(self, value: Tensor) -> Tensor:
        """Log P(z = 0) at 0, log P(z = 1) at 1, the log-density of s̄ in between; of a tied draw, 0."""
        if is_tied(value):
            return value.new_zeros(()).expand(value.shape)
        if self._validate_args:
            self._validate_sample(value)
        odds = (value - self.low).log() - (self.high - value).log()
        inside = f.relaxed_bernoulli_log_prob(odds, self.temperature, self._odds) - math.log(self.high - self.low)
        at_zero, at_one = F.logsigmoid(-self._excess(self._odds_at(0))), F.logsigmoid(self._excess(self._odds_at(1)))
        at_end = torch.where(value > 0, at_one, at_zero).to(inside.dtype)
        return torch.where((value > 0) & (value < 1), inside, at_end).expand(self._extended(value))

    def cdf(self, value: Tensor) -> Tensor:
        """P(z ≤ `value`): at 0 it jumps from 0 to P(z = 0), at 1 to 1."""
        if self._validate_args:
            self._validate_sample(value)
        v = value.double().clamp(0, 1)
        below = _probability(-self._excess((v - self.low).log() - (self.high - v).log()))
        below = torch.where(value < 0, 0.0, torch.where(value < 1, below, 1.0))
        return below.to(self.temperature.dtype).expand(self._extended(value))

    @property
    def prob_nonzero(self) -> Tensor:
        """P(z ≠ 0) = sigmoid(logits - τ log(-low/high)); its sum is the expected L0 norm (the paper's equation 12)."""
        return self._filled(_probability(self._excess(self._odds_at(0))))

    @property
    def prob_one(self) -> Tensor:
        """P(z = 1) = sigmoid(logits - τ log((1-low)/(high-1)))."""
        return self._filled(_probability(self._excess(self._odds_at(1))))

    @property
    def mean(self) -> Tensor:
        """E[z] = ∫ P(z > t) dt over [0, 1], by Gauss-Legendre panels in the log-odds of s."""
        start, end = self._odds_at(0), self._odds_at(1)
        nodes, weights = f.gauss_legendre_panels(self._odds.device)
        odds = start + (end - start) * nodes
        weights = weights * torch.sigmoid(odds) * torch.sigmoid(-odds)  # dt is as s (1 - s) d(log-odds)
        return self._filled((_probability(self._excess(odds, dims=1)) * weights).sum(-1) / weights.sum())

    @property
    def deterministic(self) -> Tensor:
        """The mask for testing: min(1, max(0, sigmoid(logits) (high - low) + low)), without τ (the paper's eq. 13)."""
        return self._filled(self._cut(torch.sigmoid(self._odds.double())))

    def _cut(self, s: Tensor) -> Tensor:
        """Z of s. Unlike that of clamp, the gradient of hardtanh is 0 at the very ends."""
        return F.hardtanh(s * (self.high - self.low) + self.low, 0.0, 1.0)

    def _odds_at(self, t: float) -> float:
        """Log-odds of the s that is stretched to t."""
        return math.log((t - self.low) / (self.high - t))

    def _excess(self, odds: Tensor | float, dims: int = 0) -> Tensor:
        """`logits - τ odds`, the log-odds of s having larger ones, float64; `dims` dimensions of `odds` at the end."""
        logits, temperature = (x.double()[(..., *[None] * dims)] for x in (self._odds, self.temperature))
        return logits - temperature * odds

    def _filled(self, found: Tensor) -> Tensor:
        """What was found, in the dtype and of the shape that are wanted."""
        return found.to(self.temperature.dtype).expand(self.batch_shape)

    def _extended(self, value: Tensor) -> torch.Size:
        """The shape of a density of `value`."""
        return torch.broadcast_shapes(value.shape, self.batch_shape)


def _probability(log_odds: Tensor) -> Tensor:
    """sigmoid(log_odds), whose gradient is not lost where it is rounded to 1."""
    return F.logsigmoid(log_odds).exp()
