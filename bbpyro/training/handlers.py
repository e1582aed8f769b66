"""What stands between SVI and the model: one optimizer for all parameters, KL warm-up, a running score."""

from typing import Any

import torch
from pyro.optim import PyroOptim
from pyro.poutine.messenger import Messenger
from torch import Tensor

from bbpyro.likelihoods import is_classification


class SingleOptimizer(PyroOptim):
    """One torch optimizer over all parameters, for SVI, which wants a PyroOptim (Pyro's own is one a parameter)."""

    def __init__(self, optimizer: torch.optim.Optimizer) -> None:
        super().__init__(type(optimizer), {})
        self.optimizer = optimizer

    def __call__(self, params: Any, *args: Any, **kwargs: Any) -> None:
        """Step the optimizer and clear the gradients, which spares SVI from filling them with zeros."""
        self.optimizer.step()
        self.optimizer.zero_grad()


class KLWarmup(Messenger):
    """An effect handler that weighs log p(π) and log q(π), and so the KL between them."""

    weight = 1.0

    def _pyro_sample(self, msg: Any) -> None:
        if self.weight != 1.0 and msg["name"].endswith(".pi"):
            msg["scale"] = msg["scale"] * self.weight


class Scorecard(Messenger):
    """An effect handler that keeps the running nll, and accuracy where y is a class, of the observed minibatches."""

    def __init__(self) -> None:
        super().__init__()
        self._clear()

    def _clear(self) -> None:
        self._num_data, self._nll, self._num_right = 0, 0.0, 0

    def _pyro_post_sample(self, msg: Any) -> None:
        if msg["name"] == "y" and msg["is_observed"]:
            with torch.no_grad():
                self.observe(msg["fn"], msg["value"])

    def observe(self, distribution: Any, y: Tensor) -> Tensor:
        """Count a minibatch; returns its log-likelihoods."""
        log_prob: Tensor = distribution.log_prob(y)
        self._num_data += len(y)
        self._nll -= log_prob.sum().item()
        if is_classification(distribution):
            self._num_right += int((distribution.logits.argmax(-1) == y).sum())
        return log_prob

    def take(self) -> dict[str, float]:
        """The scores since the last call."""
        scores = {"train_nll": self._nll / self._num_data, "train_accuracy": self._num_right / self._num_data}
        self._clear()
        return scores
