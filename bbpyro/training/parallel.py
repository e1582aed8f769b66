"""Training by several processes at once: what each does of a step, and what they tell each other of an epoch."""

import hashlib
from collections.abc import Iterable
from typing import Any

import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from bbpyro import processes


def distributed(module: nn.Module, has_unused: bool = False) -> nn.Module:
    """A module with a loss that has the first process's parameters, and the gradient of the processes' mean loss."""
    with processes.noticing_losses():
        return DistributedDataParallel(module, find_unused_parameters=has_unused, gradient_as_bucket_view=True)


def call(module: nn.Module, *args: Any) -> Tensor:
    """A module's loss; a LostProcessError where another process has ended."""
    with processes.noticing_losses():
        return module(*args)


def backward(loss: Tensor, stored: Iterable[Tensor]) -> None:
    """The gradient of the processes' mean loss; `stored` are parameters of no module, which torch does not look after.

    Raises:
        LostProcessError: another process has ended.
    """
    with processes.noticing_losses():
        loss.backward()
        for tensor in stored if processes.size() > 1 else ():
            if tensor.grad is not None:
                dist.all_reduce(tensor.grad)
                tensor.grad /= processes.size()


def take_from_first(tensors: Iterable[Tensor]) -> None:
    """Have tensors be what they are in the first process, such as the statistics of batch norms."""
    if processes.size() > 1:
        with processes.noticing_losses():
            for tensor in tensors:
                dist.broadcast(tensor.detach(), 0)


def check_same(y: Tensor, **settings: Any) -> None:
    """Raise a ValueError, in every process, unless all were given the same data and settings."""
    if processes.size() == 1:
        return
    settings["y"] = hashlib.sha256(repr(y.shape).encode() + y.detach().cpu().numpy().tobytes()).hexdigest()
    for name, value in settings.items():
        found = processes.gather(value)
        if any(other != value for other in found):
            raise ValueError(
                f"{name} is not the same in all {processes.size()} processes; give each of them all of x and y and the "
                "same settings: each takes its own part of every minibatch"
            )
