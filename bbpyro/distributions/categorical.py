"""The Categorical, of labels."""

from typing import Any

import pyro.distributions as dist
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.distributions.utils import lazy_property

_NO_INDEX = -(2**63)  # a label that torch is to ignore: none


class Categorical(dist.Categorical):
    """torch's Categorical by scores, logits that need not be normalised and are so only where that is asked for.

    The log-density of y in one pass; of the same y again, what was found: training reports what it has scored.

    Args:
        scores: `[..., C]`.
        validate_args: as everywhere in torch.distributions.
    """

    scores: Tensor | None = None
    _scored: tuple[Tensor, bool, Tensor] | None = None  # the last y, whether by a graph, and its log-density

    def __init__(self, scores: Tensor, validate_args: bool | None = None) -> None:
        is_validated = torch.distributions.Distribution._validate_args if validate_args is None else validate_args
        if is_validated or scores.dim() != 2:
            super().__init__(logits=scores, validate_args=validate_args)
            return
        self.scores, self._num_events = scores, scores.shape[-1]
        torch.distributions.Distribution.__init__(self, scores.shape[:-1], validate_args=False)

    @lazy_property
    def logits(self) -> Tensor:
        """Log-probabilities, `[..., C]`."""
        assert self.scores is not None
        return self.scores - self.scores.logsumexp(-1, keepdim=True)

    @lazy_property
    def _param(self) -> Tensor:
        return self.logits

    def expand(self, batch_shape: Any, _instance: Any = None) -> "Categorical":
        """The same distribution with a larger batch shape."""
        if torch.Size(batch_shape) == self.batch_shape and _instance is None:
            return self  # as Pyro's plate asks for each time
        self.__dict__.setdefault("logits", self.logits)  # torch expands those that are there
        expanded: Categorical = super().expand(torch.Size(batch_shape), _instance or self.__new__(type(self)))
        return expanded

    def log_prob(self, value: Tensor) -> Tensor:
        """Log-probability of the labels `value`."""
        if self._scored is not None and self._scored[0] is value and self._scored[1] == torch.is_grad_enabled():
            return self._scored[2]
        if self.scores is None or value.shape != self.scores.shape[:1]:
            log_prob: Tensor = super().log_prob(value)
            return log_prob
        log_prob = -F.cross_entropy(self.scores, value.long(), reduction="none", ignore_index=_NO_INDEX)
        self._scored = value, torch.is_grad_enabled(), log_prob
        return log_prob
