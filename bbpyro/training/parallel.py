"""Training by several processes at once: what each does of a step, and what they tell each other of an epoch."""

import hashlib
from collections.abc import Iterable
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from bbpyro import processes
from bbpyro.nests import Nest, tensors_of


class Together:
    """The loss of a module and its gradient, which in several processes is that of the mean of their losses.

    From the first call on the module has the parameters of the first process.

    Args:
        stored: parameters of no module, but of Pyro's store.
        has_unused: whether the loss does not depend on some of the module's.
    """

    def __init__(self, stored: Iterable[Tensor], has_unused: bool = False) -> None:
        self._stored, self._has_unused = list(stored), has_unused
        self._module: nn.Module | None = None
        self._distributed: nn.Module | None = None

    def loss(self, module: nn.Module, *args: Any) -> Tensor:
        """What the module returns for this process's part of a minibatch.

        Raises:
            LostProcessError: another process has ended.
        """
        if processes.size() == 1:
            return module(*args)
        with processes.noticing_losses():
            if self._module is not module or self._distributed is None:
                self._distributed = None  # first: two would both wait for the gradients of what the modules share
                self._distributed = DistributedDataParallel(
                    module, find_unused_parameters=self._has_unused, gradient_as_bucket_view=True
                )
                self._module = module
            return self._distributed(*args)

    def step(self, loss: Tensor, optimizer: torch.optim.Optimizer) -> float:
        """Take a step by the gradient of all processes; returns the loss of this one.

        Raises:
            ArithmeticError: the loss is not finite; no step was taken.
            LostProcessError: another process has ended.
        """
        self._backward(loss)
        if not loss.isfinite():
            raise ArithmeticError
        optimizer.step()
        optimizer.zero_grad()
        return loss.item()

    def _backward(self, loss: Tensor) -> None:
        with processes.noticing_losses():
            loss.backward()
            for tensor in self._stored if processes.size() > 1 else ():
                if tensor.grad is not None:
                    dist.all_reduce(tensor.grad)
                    tensor.grad /= processes.size()


def take_from_first(tensors: Iterable[Tensor]) -> None:
    """Have tensors be what they are in the first process, such as the statistics of batch norms."""
    if processes.size() > 1:
        with processes.noticing_losses():
            for tensor in tensors:
                dist.broadcast(tensor.detach(), 0)


def check_same(data: Nest, **settings: Any) -> None:
    """Raise a ValueError, in every process, unless all were given the same data and settings."""
    if processes.size() == 1:
        return
    settings["data"] = _digest(data)
    for name, value in settings.items():
        found = processes.gather(value)
        if any(other != value for other in found):
            what = "x or y" if name == "data" else name
            raise ValueError(
                f"{what} is not the same in all {processes.size()} processes; give each of them all of x and y and the "
                "same settings: each takes its own part of every minibatch"
            )


def _digest(data: Nest) -> str:
    digest = hashlib.sha256()
    for tensor in tensors_of(data):
        numbers = tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8)
        digest.update(f"{tensor.dtype} {tuple(tensor.shape)}".encode() + numbers.numpy().tobytes())
    return digest.hexdigest()
