"""The relaxed Bernoulli, of the masks z."""

from typing import Any

import torch
import torch.nn.functional as F
from pyro.distributions.torch_distribution import TorchDistribution
from torch import Tensor
from torch.distributions import constraints
from torch.distributions.utils import lazy_property

from bbpyro import functional as f
from bbpyro.denormals import negligible
from bbpyro.distributions.remembering import floating, is_tied, log_odds


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
            self.probs = floating(probs)
            logits = log_odds(self.probs).to(self.probs.dtype)
        self.logits = floating(logits)
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
        """Reparameterised draws, `sample_shape + batch_shape`, that remember their log-odds; a negligible one is 0."""
        shape = self._extended_shape(torch.Size(sample_shape))
        uniform = torch.rand(shape, dtype=self.logits.dtype, device=self.logits.device)
        noise = uniform.logit_(eps=torch.finfo(uniform.dtype).tiny).div_(self.temperature)
        z_log_odds = self._scaled_logits + noise
        z = torch.sigmoid(z_log_odds)
        F.threshold(z.data, negligible(z.dtype), 0.0, inplace=True)  # its gradient, z (1 - z) / τ, is as negligible
        z._log_odds, z._is_tied = z_log_odds, self.is_tied  # type: ignore[attr-defined]
        return z

    def log_prob(self, value: Tensor) -> Tensor:
        """Log-density of `value`; of a tied draw, 0."""
        if is_tied(value):
            return value.new_zeros(()).expand(value.shape)
        if self._validate_args:
            self._validate_sample(value)
        return f.relaxed_bernoulli_log_prob(log_odds(value), self.temperature, self.logits)
