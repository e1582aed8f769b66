"""A distribution in another precision, or on another device."""

import copy
from typing import Any, TypeVar

import torch
from torch import Tensor

Placed = TypeVar("Placed")


def placed_like(distribution: Placed, tensor: Tensor) -> Placed:
    """The same distribution with its numbers, and so its draws, of the dtype and on the device of `tensor`.

    Args:
        distribution: any, also one built of others or of transforms; it is left as it is.
        tensor: of a floating type.
    """
    placed = copy.copy(distribution)
    for name, value in vars(distribution).items():
        vars(placed)[name] = _placed(value, tensor)
    return placed


def _placed(value: Any, tensor: Tensor) -> Any:
    if isinstance(value, Tensor):
        return value.to(tensor if value.is_floating_point() else tensor.device)
    if isinstance(value, torch.distributions.Distribution | torch.distributions.Transform):
        return placed_like(value, tensor)
    if isinstance(value, list):
        return [_placed(each, tensor) for each in value]
    return value
