"""Several vectors drawn as one: a draw of each costs as much as one of all, where vectors are short."""

from collections.abc import Sequence
from typing import Protocol

import torch
from torch import Tensor


class Whole(Protocol):
    """A distribution of all the vectors end to end."""

    def _draw(self, shape: torch.Size) -> tuple[Tensor, ...]: ...


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
            drawn = self.whole._draw(torch.Size([*shape[:-1], sum(self.sizes)]))
            self._drawn_as = wanted
            self._parts = dict(enumerate(zip(*(tensor.split(self.sizes, -1) for tensor in drawn), strict=True)))
        return self._parts.pop(index, None) if self._drawn_as == wanted else None
