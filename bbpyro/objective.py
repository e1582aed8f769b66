"""-ELBO as an nn.Module, for a loop of one's own and for DistributedDataParallel."""

from collections.abc import Callable
from typing import Any

from pyro.poutine.messenger import Messenger
from torch import Tensor, nn

from bbpyro.nests import Nest


class ELBOModule(nn.Module):
    """-ELBO of a minibatch by a Pyro estimator, whose parameters are the network's, from the start and all of them.

    Every parameter gets a gradient, of zeros where the ELBO does not depend on it, so that DistributedDataParallel
    takes it as it is.

    Args:
        network: the :class:`bbpyro.BetaBernoulliNetwork`.
        elbo: such as `Trace_ELBO()`.

    Raises:
        TypeError: `elbo` is no such estimator.
    """

    def __init__(self, network: Any, elbo: Any) -> None:
        super().__init__()
        if isinstance(elbo, type) or not hasattr(elbo, "differentiable_loss"):
            raise TypeError(f"elbo is {elbo!r}, wanted an estimator with a differentiable loss, such as Trace_ELBO()")
        self.network, self.elbo = network, elbo
        self._idle: list[Tensor] | None = None

    def forward(self, x: Nest, y: Tensor | None = None, weight: float = 1.0) -> Tensor:
        """-ELBO in nats, differentiable, with the likelihood of x `[B, ...]`, y `[B]` scaled by weight · N/B."""
        with Weighed(weight, _is_of_data):
            loss: Tensor = self.elbo.differentiable_loss(self.network.model, self.network.guide, x, y)
        if self._idle is None and loss.requires_grad:
            reached = {id(leaf) for leaf in leaves(loss)}
            self._idle = [p for p in self.parameters() if p.requires_grad and id(p) not in reached]
        for parameter in self._idle or ():
            loss = loss + 0.0 * parameter.sum()
        return loss


def _is_of_data(site: Any) -> bool:
    return any(frame.name == "data" for frame in site["cond_indep_stack"])


class Weighed(Messenger):
    """An effect handler that weighs the log-densities of some sites.

    Args:
        weight: by which they are multiplied.
        is_chosen: whether a site is one of them.
    """

    def __init__(self, weight: float, is_chosen: Callable[[Any], bool]) -> None:
        super().__init__()
        self.weight, self.is_chosen = weight, is_chosen

    def _pyro_sample(self, msg: Any) -> None:
        if self.weight != 1.0 and self.is_chosen(msg):
            msg["scale"] = msg["scale"] * self.weight


def leaves(loss: Tensor) -> list[Tensor]:
    """The tensors that a gradient of the loss would reach."""
    found: list[Tensor] = []
    waiting: list[Any] = [loss.grad_fn]
    seen: set[Any] = set()
    while waiting:
        node: Any = waiting.pop()
        if node is not None and node not in seen:
            seen.add(node)
            found += [node.variable] if hasattr(node, "variable") else []
            waiting += [following[0] for following in node.next_functions]
    return found
