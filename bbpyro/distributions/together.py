"""Several vectors drawn as one: a draw of each costs as much as one of all, where vectors are short."""

from collections.abc import Iterable, Sequence
from typing import Any, Protocol

import pyro.distributions as dist
import torch
from torch import Tensor


class Whole(Protocol):
    """A distribution of all the vectors end to end."""

    def _draw_parts(self, shape: torch.Size, sizes: list[int]) -> list[tuple[Tensor, ...]]: ...


class Together:
    """One draw of several vectors, of which each takes its part once.

    Args:
        whole: what all of them end to end are drawn from.
        sizes: of the vectors.
    """

    def __init__(self, whole: Whole, sizes: Sequence[int]) -> None:
        self.whole, self.sizes = whole, list(sizes)
        self._drawn_as: tuple[torch.Size, bool] | None = None
        self._parts: dict[int, tuple[Tensor, ...]] = {}

    def take(self, index: int, shape: torch.Size) -> tuple[Tensor, ...] | None:
        """The part of one vector, of this shape; None where it has been taken, or the draw was of another shape."""
        wanted = shape[:-1], torch.is_grad_enabled()
        if self._drawn_as is None:
            drawn = self.whole._draw_parts(torch.Size([*shape[:-1], sum(self.sizes)]), self.sizes)
            self._drawn_as = wanted
            self._parts = dict(enumerate(drawn))
        return self._parts.pop(index, None) if self._drawn_as == wanted else None


def mark_parts(whole: Tensor, parts: Sequence[Tensor]) -> None:
    """Have each part remember what it is a part of, and which."""
    for i, part in enumerate(parts):
        part._part_of = whole, i, len(parts)  # type: ignore[attr-defined]


def whole_of(parts: Iterable[Tensor]) -> Tensor | None:
    """The one draw of which these are the parts, all and in order; None where there is none."""
    marks = [getattr(part, "_part_of", None) for part in parts]
    if not marks or marks[0] is None:
        return None
    whole, _, count = marks[0]
    is_whole = len(marks) == count and all(
        mark is not None and mark[0] is whole and mark[1] == i for i, mark in enumerate(marks)
    )
    return whole if is_whole else None


def is_part_of_draw(fn: Any, value: Tensor) -> bool:
    """Whether `fn` is the distribution of one vector of independent numbers, and the value was drawn with others."""
    return type(fn) is dist.Independent and hasattr(value, "_part_of") and len(fn.base_dist.batch_shape) == 1


def joint_log_prob(distributions: Sequence[Any], parts: Sequence[Tensor]) -> Tensor | None:
    """The log-densities of vectors that are all parts of one draw, in order, end to end.

    None where they are not, or where such distributions cannot be taken as one.
    """
    whole, joined = whole_of(parts), getattr(type(distributions[0]), "joined", None)
    distribution = joined(distributions) if whole is not None and joined else None
    log_prob: Tensor | None = None if distribution is None else distribution.log_prob(whole)
    return log_prob
