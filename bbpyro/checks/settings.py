"""What may be wrong with the settings of training."""

import math
from collections.abc import Collection
from typing import Any

import numpy as np
import torch
from torch import nn

from bbpyro import processes


def check_settings(num_epochs: int, batch_size: int, *learning_rates: float) -> None:
    """Raise a ValueError that names what training cannot go by."""
    if torch.is_inference_mode_enabled():
        raise ValueError("this cannot run under torch.inference_mode(), which knows no gradients; leave it first")
    check_positive(num_epochs=num_epochs, batch_size=batch_size)
    for rate in learning_rates:
        if not 0 < rate < math.inf:
            raise ValueError(f"a learning rate is {rate}, wanted a positive number")


def check_is(name: str, value: Any, kind: Any) -> None:
    """Raise a TypeError unless an argument of this name is of a class, or of one of several."""
    if not isinstance(value, kind):
        kinds = [each for each in getattr(kind, "__args__", (kind,)) if each is not type(None)]
        raise TypeError(f"{name} is {_briefly(value)}, wanted a {' or '.join(each.__name__ for each in kinds)}")


def _briefly(value: Any) -> str:
    text = repr(value)
    return text if len(text) < 40 and not isinstance(value, nn.Module) else f"a {type(value).__name__}"


def check_positive(**numbers: int) -> None:
    """Raise a ValueError that names the first number below 1."""
    for name, number in numbers.items():
        if not isinstance(number, int | np.integer) or isinstance(number, bool):
            raise TypeError(f"{name} is {number!r}, wanted a whole number, at least 1")
        if number < 1:
            raise ValueError(f"{name} is {number}, wanted at least 1")


def check_batch_norm(net: nn.Module, num_data: int, batch_size: int) -> None:
    """Raise a ValueError where one datum would be all of a minibatch, or of a process's part, for a batch norm."""
    number = processes.size()
    is_single = batch_size < 2 * number or 0 < num_data % batch_size < 2 * number
    each = f" for one of {number} processes" if number > 1 else ""
    if is_single and any(isinstance(module, nn.BatchNorm1d) for module in net.modules()):
        raise ValueError(
            f"batch_size is {batch_size}: of {num_data} data that leaves a minibatch of one{each}, of which batch norm "
            "learns nothing; choose another"
        )


def check_choice(name: str, value: str, known: Collection[str]) -> None:
    """Raise a ValueError, with the known values, unless `value` is one of them."""
    if value not in known:
        raise ValueError(f"{name} is {value!r}, wanted one of {', '.join(known)}")
