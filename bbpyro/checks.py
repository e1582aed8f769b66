"""What may be wrong with data and settings, each told with its remedy before anything is computed."""

import math
from collections.abc import Collection
from typing import Any

import pyro
import torch
from torch import Tensor, nn

from bbpyro.layers import device_of
from bbpyro.likelihoods import Likelihood, is_classification


def check_data(
    net: nn.Module, likelihood: Likelihood, x: Tensor, y: Tensor, num_data: int | None = None, name: str = ""
) -> None:
    """Raise a ValueError unless x and y are data that `net` can take and `likelihood` describe.

    Args:
        net: the network, with gates or without.
        likelihood: from its output to the distribution of y.
        x: inputs `[N, ...]`.
        y: what was observed there, `[N, ...]`.
        num_data: how many data there should be, if that is known.
        name: of the argument that holds both, if they are one.
    """
    check_tensors(x, y, num_data)
    check_likelihood(likelihood, net, x, y)


def check_held_out(net: nn.Module, likelihood: Likelihood, held_out: tuple[Tensor, Tensor] | None) -> None:
    """The same of held-out data, if there are any."""
    if held_out is not None:
        check_data(net, likelihood, *held_out, name="held_out")


def check_tensors(x: Tensor, y: Tensor, num_data: int | None) -> None:
    """Raise a ValueError unless x and y are as many data, `num_data` if that is given."""
    if len(x) == 0 or len(x) != len(y):
        raise ValueError(f"x and y: lengths are {len(x)} and {len(y)}, wanted the same number of data, at least 1")
    if num_data is not None and len(x) != num_data:
        raise ValueError(f"x: it holds {len(x)} data but the network was made for num_data={num_data}")
    for name, tensor in (("x", x), ("y", y)):
        if tensor.is_floating_point() and not bool(tensor.isfinite().all()):
            raise ValueError(f"{name}: it holds nan or inf; remove or replace those data")


@torch.no_grad()
def check_likelihood(likelihood: Likelihood, net: nn.Module, x: Tensor, y: Tensor) -> None:
    """Raise a ValueError unless the likelihood of `net`'s output describes one datum a row of y, labels in range."""
    if torch.is_inference_mode_enabled():
        raise ValueError("this cannot run under torch.inference_mode(); leave it first")
    net.eval()
    with pyro.validation_enabled(False):  # what is not finite is for the first step to report
        distribution: Any = likelihood(net(x[:2].to(device_of(net))))
    described = distribution.batch_shape + distribution.event_shape
    if described != y[:2].shape or len(distribution.batch_shape) != 1:
        raise ValueError(
            f"y: two data of it have shape {tuple(y[:2].shape)}, but the likelihood describes {tuple(described)} with "
            f"batch shape {tuple(distribution.batch_shape)}; wanted one datum a row, the rest as .to_event()"
        )
    if is_classification(distribution):
        last = distribution.logits.shape[-1] - 1
        if not bool((y == y.long()).all()):
            raise ValueError("y holds labels that are no whole numbers; a regression wants another likelihood")
        if not bool(((y >= 0) & (y <= last)).all()):
            raise ValueError(f"y holds labels {y.min()} to {y.max()}, wanted 0 to {last}")


def check_settings(num_epochs: int, batch_size: int, *learning_rates: float) -> None:
    """Raise a ValueError that names the setting out of range."""
    for name, number in (("num_epochs", num_epochs), ("batch_size", batch_size)):
        if number < 1:
            raise ValueError(f"{name} is {number}, wanted at least 1")
    for rate in learning_rates:
        if not 0 < rate < math.inf:
            raise ValueError(f"a learning rate is {rate}, wanted a positive number")


def check_batch_norm(net: nn.Module, num_data: int, batch_size: int) -> None:
    """Raise a ValueError where a minibatch would be one datum, of which nn.BatchNorm1d learns nothing."""
    is_single = batch_size == 1 or num_data % batch_size == 1
    if is_single and any(isinstance(module, nn.BatchNorm1d) for module in net.modules()):
        raise ValueError(
            f"batch_size is {batch_size}: of {num_data} data that leaves a minibatch of one, of which batch norm "
            "learns nothing; choose another"
        )


def check_choice(name: str, value: str, known: Collection[str]) -> None:
    """Raise a ValueError, with the known values, unless `value` is one of them."""
    if value not in known:
        raise ValueError(f"{name} is {value!r}, wanted one of {', '.join(known)}")
