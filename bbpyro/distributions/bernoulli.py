"""The Bernoulli, of the masks z."""

from typing import Any

import torch
from pyro.distributions.torch_distribution import TorchDistributionMixin
from torch import Tensor
from torch.distributions.utils import lazy_property

from bbpyro.distributions.averaged import averaged_log_prob, drawn_from
from bbpyro.distributions.masks import OfMasks
from bbpyro.distributions.remembering import floating, is_tied, log_odds


class Bernoulli(OfMasks, torch.distributions.Bernoulli, TorchDistributionMixin):
    """z ~ Bernoulli(π), 0 or 1: torch's, but it takes a π that remembers its log-odds at those, however near 0 or 1.

    The draw of a tied guide (:meth:`bbpyro.RelaxedBernoulli.tied`) is relaxed, and has log-density 0 here as there:
    the two are one number, subtracted from itself in the ELBO. Of a draw of :class:`AveragedBernoulli` the log-density
    is its average over z.

    Args:
        probs: keep probabilities in [0, 1], of any shape, which is the batch shape; or
        logits: their log-odds. Exactly one of the two.
        validate_args: as everywhere in torch.distributions.

    Raises:
        ValueError: not exactly one of `probs` and `logits` is given, or an argument is out of range.
    """

    def __init__(self, probs: Any = None, logits: Any = None, validate_args: bool | None = None) -> None:
        if probs is not None and logits is None:
            self._remembering = floating(probs)
            super().__init__(self._remembering, validate_args=validate_args)
        else:
            super().__init__(probs, logits, validate_args=validate_args)

    @lazy_property
    def logits(self) -> Tensor:
        """Log-odds of the keep probabilities, exact where these remember them."""
        pi: Tensor = self._remembering
        return log_odds(pi).to(pi.dtype).expand(self.batch_shape)

    def expand(self, batch_shape: Any, _instance: Any = None) -> "Bernoulli":
        """The same distribution with a larger batch shape."""
        expanded: Bernoulli = super().expand(torch.Size(batch_shape), _instance or self.__new__(type(self)))
        if "_remembering" in vars(self):
            expanded._remembering = self._remembering
        return expanded

    @torch.no_grad()
    def sample(self, sample_shape: Any = ()) -> Tensor:
        """Draws of 0 and 1, `sample_shape + batch_shape`."""
        shape = self._extended_shape(torch.Size(sample_shape))
        return (torch.rand(shape, dtype=self.probs.dtype, device=self.probs.device) < self.probs).to(self.probs.dtype)

    def log_prob(self, value: Tensor) -> Tensor:
        """Log π where `value` is 1, log(1-π) where it is 0; of a tied draw, 0.

        Raises:
            ValueError: `value` is neither 0 nor 1, nor tied: a relaxed mask has no probability under a Bernoulli.
        """
        if is_tied(value):
            return value.new_zeros(()).expand(value.shape)
        drawn_with = drawn_from(value)
        if drawn_with is not None:
            return averaged_log_prob(drawn_with, self.logits)
        relaxed = (value != 0) & (value != 1)
        if bool(relaxed.any()):
            raise ValueError(
                f"a mask z is {value[relaxed][0].item():.3g}, wanted 0 or 1. It was relaxed, and has no probability "
                "under z ~ Bernoulli(π): a guide of your own draws it from bbpyro.RelaxedBernoulli(τ, π).tied(), and "
                "hands it on as it is (a copy is no longer tied), or draws 0 and 1, as RelaxedBernoulliStraightThrough "
                "does"
            )
        log_prob: Tensor = super().log_prob(value.to(self.logits.dtype))  # of bool, or whole numbers, too
        return log_prob
