"""A distribution in another precision, or on another device."""

import copy
import weakref
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
    placed: Placed = _placed(distribution, tensor, {})
    return placed


def _placed(value: Any, tensor: Tensor, done: dict[int, Any]) -> Any:
    """`done` holds what is placed already, by its original: a transform and its inverse have each other."""
    if isinstance(value, Tensor):
        return value.to(tensor if value.is_floating_point() else tensor.device)
    if isinstance(value, list):
        return [_placed(each, tensor, done) for each in value]
    if isinstance(value, weakref.ref):  # of a transform to its inverse, which is made anew when it is needed
        return None
    if not isinstance(value, torch.distributions.Distribution | torch.distributions.Transform):
        return value
    if id(value) not in done:
        done[id(value)] = copy.copy(value)
        for name, part in vars(value).items():
            vars(done[id(value)])[name] = _placed(part, tensor, done)
    return done[id(value)]
