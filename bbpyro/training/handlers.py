"""What stands between SVI and the model: one optimizer for all parameters, KL warm-up, a running score, precision."""

import contextlib
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch
from pyro.optim import PyroOptim
from pyro.poutine.messenger import Messenger
from torch import Tensor, nn

from bbpyro import nests, processes
from bbpyro.distributions import Masks
from bbpyro.layers import device_of
from bbpyro.likelihoods import Likelihood, is_classification
from bbpyro.nests import Nest


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
    """An effect handler that weighs log p(π) and log q(π), and so the KL; of other families what their masks cost.

    Args:
        starts: gate -> the weight its KL begins with; other gates' weigh 1.
    """

    share = 1.0  # of the way from those weights to 1

    def __init__(self, starts: Mapping[str, float]) -> None:
        super().__init__()
        self.starts = dict(starts)

    def weight(self, gate: str) -> float:
        """Of a gate's KL, just now."""
        return self.starts.get(gate, 1.0) * (1 - self.share) + self.share

    def _pyro_sample(self, msg: Any) -> None:
        gate = msg["name"].rpartition(".")[0]
        if self.share != 1.0 and gate in self.starts and not isinstance(msg["fn"], Masks):  # whose p and q are one
            msg["scale"] = msg["scale"] * self.weight(gate)


class Scorecard(Messenger):
    """An effect handler that keeps the running nll, and accuracy where y is a class, of the observed minibatches."""

    def __init__(self, split: str = "train") -> None:
        super().__init__()
        self.split = split
        self._clear()

    def _clear(self) -> None:
        self._num_data = 0
        self._nll: Any = 0.0  # this and the next stay on the device, for a look at them waits for it
        self._num_right: Any = None

    def _pyro_post_sample(self, msg: Any) -> None:
        if msg["name"] == "y" and msg["is_observed"]:
            self.observe(msg["fn"], msg["value"])

    def observe(self, distribution: Any, y: Tensor) -> Tensor:
        """Count a minibatch; returns its log-likelihoods."""
        log_prob: Tensor = distribution.log_prob(y)
        with torch.no_grad():
            self._num_data += len(y)
            self._nll = self._nll - log_prob.detach().sum(dtype=torch.float64)
            if is_classification(distribution):
                scores = getattr(distribution, "scores", None)
                right = ((distribution.logits if scores is None else scores).argmax(-1) == y).sum()
                self._num_right = right if self._num_right is None else self._num_right + right
        return log_prob

    def take(self) -> dict[str, float]:
        """The scores of all processes since the last call: nll, nats a datum, and accuracy where y is a class."""
        of_classes = self._num_right is not None
        nll, right = (s.item() if isinstance(s, Tensor) else s or 0 for s in (self._nll, self._num_right))
        num_data, nll, num_right, are_classes = processes.total(self._num_data, nll, right, of_classes)
        scores = {f"{self.split}_nll": nll / num_data}
        if are_classes:
            scores[f"{self.split}_accuracy"] = num_right / num_data
        self._clear()
        return scores


class MeanLoss(nn.Module):
    """The mean -log p(y) of a minibatch under a network without gates, nats a datum, kept in a running score."""

    def __init__(self, net: nn.Module, likelihood: Likelihood, score: Scorecard) -> None:
        super().__init__()
        self.net, self.likelihood, self.score = net, likelihood, score

    def forward(self, x: Nest, y: Tensor, weight: float = 1.0) -> Tensor:
        """The loss of x, y, which weighs this; data that weigh nothing are not counted in the score."""
        distribution = self.likelihood(nests.call(self.net, x))
        log_prob: Tensor = self.score.observe(distribution, y) if weight else distribution.log_prob(y)
        return -log_prob.mean() * weight


@torch.no_grad()
def held_out_score(
    net: nn.Module,
    likelihood: Likelihood,
    held_out: tuple[Nest, Tensor] | None,
    batch_size: int = 1000,
    read: Callable[[Nest], Nest] | None = None,
) -> dict[str, float]:
    """The scores of a plain forward pass over held-out x and y: for a gated network, of the mean mask.

    The network is given what `read` makes of x.
    """
    if held_out is None:
        return {}
    score = Scorecard("held_out")
    device = device_of(net)
    part = nests.rows(tuple(held_out), slice(processes.rank(), None, processes.size()))
    for batch in nests.split(part, batch_size):
        x, y = nests.to_device(batch, device)
        score.observe(likelihood(nests.call(net, read(x) if read else x)), y)
    return score.take()


PRECISIONS = ("float32", "bf16")


@contextlib.contextmanager
def mixed_precision(net: nn.Module, precision: str) -> Iterator[None]:
    """For a while, have `net` compute in bfloat16 what torch.autocast thinks safe, wherever it is being trained.

    Only the network: masks, densities and the likelihood, of an output in float32, keep their precision.
    """
    if precision == "float32":
        yield
        return
    entered: list[torch.autocast] = []

    def enter(net: nn.Module, args: Any) -> None:
        entered.append(
            torch.autocast(device_of(net).type, torch.bfloat16, enabled=net.training and torch.is_grad_enabled())
        )
        entered[-1].__enter__()

    def leave(net: nn.Module, args: Any, output: Any) -> Any:
        entered.pop().__exit__(None, None, None)
        return nests.map_tensors(lambda t: t.float() if t.dtype == torch.bfloat16 else t, output)

    handles = net.register_forward_pre_hook(enter), net.register_forward_hook(leave, always_call=True)
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
