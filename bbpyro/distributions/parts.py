"""The distribution of some of a number of independent units."""

import copy
from typing import Any

import torch
from pyro.distributions.torch_distribution import TorchDistribution
from torch import Tensor


def units_of(distribution: TorchDistribution, kept: Tensor) -> TorchDistribution | None:
    """The distribution of some of K independent units; None where that cannot be told.

    Args:
        distribution: of batch shape `[K]`, on [0, 1]; it is left as it is.
        kept: the indices of those units, int64.
    """
    size = distribution.batch_shape.numel()
    if distribution.event_shape or distribution.batch_shape != (size,):
        return None
    part: TorchDistribution = _part(distribution, kept, size, {})
    return part if is_part(part, distribution, kept) else None


def _part(value: Any, kept: Tensor, size: int, done: dict[int, Any]) -> Any:
    """`done` holds what is taken already, by its original."""
    if isinstance(value, Tensor):
        return value[kept] if value.dim() and len(value) == size else value
    if isinstance(value, torch.Size):
        return torch.Size([len(kept), *value[1:]]) if value and value[0] == size else value
    if isinstance(value, list):
        return [_part(each, kept, size, done) for each in value]
    if not isinstance(value, torch.distributions.Distribution | torch.distributions.Transform):
        return value
    if id(value) not in done:
        done[id(value)] = copy.copy(value)
        for name, part in vars(value).items():
            vars(done[id(value)])[name] = _part(part, kept, size, done)
    return done[id(value)]


@torch.no_grad()
def is_part(part: TorchDistribution, whole: TorchDistribution, kept: Tensor) -> bool:
    """Whether one is the other's of the units `kept`: of the same density, at numbers that differ by unit."""
    size = torch.Size([len(kept)])
    if whole.event_shape or part.event_shape or part.batch_shape != size:
        return False
    generator = torch.Generator("cpu").manual_seed(0)
    for _ in range(3):
        values = torch.rand(whole.batch_shape, generator=generator, device="cpu", dtype=torch.float64)
        values = values.to(kept.device, torch.float32)
        try:
            wanted, found = whole.log_prob(values)[kept], part.log_prob(values[kept])
        except (AttributeError, IndexError, RuntimeError, TypeError, ValueError):
            return False
        if found.shape != size or not bool(torch.isclose(found, wanted, rtol=1e-4, atol=1e-4, equal_nan=True).all()):
            return False
    return True
