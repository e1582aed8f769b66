"""The entries of the data: which were observed, and how likely each is."""

import math
from typing import Any

import torch
from pyro.distributions.torch_distribution import TorchDistribution
from torch import Tensor


def check_floats(x: Tensor, name: str = "x") -> None:
    """Raise a ValueError unless x is of floats `[N, D]`, or `[N, ...]`."""
    if x.dim() < 2 or not x.is_floating_point():
        raise ValueError(f"{name} is {x.dtype} of shape {tuple(x.shape)}, wanted floats [N, D], or [N, ...]")


def hide(x: Tensor, observed: Tensor | None, name: str = "observed") -> Tensor:
    """x, with nan where it was not observed; a ValueError unless there is a boolean for each number of it."""
    if observed is None:
        return x
    if not isinstance(observed, Tensor) or observed.dtype != torch.bool or observed.shape != x.shape:
        got = f"{observed.dtype} of shape {tuple(observed.shape)}" if isinstance(observed, Tensor) else repr(observed)
        raise ValueError(f"{name} is {got}, wanted booleans of x's shape, {tuple(x.shape)}")
    return x.masked_fill(~observed, math.nan)


def filled(x: Tensor, of_x: Any) -> Tensor:
    """What was observed of x, and a draw, which is in the support, where nothing was."""
    hidden = x.isnan()
    return torch.where(hidden, of_x.sample().to(x), x) if bool(hidden.any()) else x


def log_prob_of_each(of_x: TorchDistribution, x: Tensor) -> Tensor:
    """The log-probability of each number of x; nan where that is."""
    hidden = x.isnan()
    log_prob: Tensor = of_x.log_prob(filled(x, of_x))
    return log_prob.masked_fill(hidden, math.nan)


def observed_of(of_each_number: TorchDistribution, x: Tensor | None) -> Any:
    """The distribution of a datum, of which what is nan in x says nothing."""
    dims = len(of_each_number.batch_shape) - 1
    if x is None:
        return of_each_number.to_event(dims)
    if of_each_number.batch_shape != x.shape:
        raise ValueError(
            f"x has shape {tuple(x.shape)}, and the likelihood gives numbers of shape "
            f"{tuple(of_each_number.batch_shape)}; num_dims, the decoder and x are to go together"
        )
    return of_each_number.mask(~x.isnan()).to_event(dims)
