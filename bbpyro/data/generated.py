"""Data sets made by a generator, whose relevant inputs are known."""

import torch
from torch import Tensor

from bbpyro.data.dataset import Dataset

_BARS_SIDE, _NUM_BARS = 8, 4


def bars(num_train: int = 4000, num_test: int = 1000, noise: float = 0.1, seed: int = 0) -> Dataset:
    """Superposed bars: a horizontal and a vertical one on the middle 4x4 pixels of an 8x8 image; which row is lit?

    Every middle pixel is lit by its row's bar and by its column's, and flipped with probability `noise`. The 48
    pixels around the middle are noise at the same rate of light, and carry nothing: see :func:`bars_relevant`.
    The label is the row, 0 to 3; the column is there to confuse.
    """
    generator = torch.Generator().manual_seed(seed)
    num_data = num_train + num_test
    row, column = torch.randint(_NUM_BARS, (2, num_data), generator=generator)
    lines = torch.arange(_NUM_BARS)
    lit = (lines[None, :, None] == row[:, None, None]) | (lines[None, None, :] == column[:, None, None])
    flipped = torch.rand(lit.shape, generator=generator) < noise
    share_lit = (2 * _NUM_BARS - 1) / _NUM_BARS**2
    rate = share_lit * (1 - noise) + (1 - share_lit) * noise
    x = (torch.rand(num_data, _BARS_SIDE, _BARS_SIDE, generator=generator) < rate).float()
    middle = slice((_BARS_SIDE - _NUM_BARS) // 2, (_BARS_SIDE + _NUM_BARS) // 2)
    x[:, middle, middle] = (lit ^ flipped).float()
    return Dataset("bars", x[:num_train], row[:num_train], x[num_train:], row[num_train:], num_classes=_NUM_BARS)


def bars_relevant() -> Tensor:
    """Which pixels of :func:`bars` carry anything about the label, a boolean `[8, 8]`."""
    relevant = torch.zeros(_BARS_SIDE, _BARS_SIDE, dtype=torch.bool)
    middle = slice((_BARS_SIDE - _NUM_BARS) // 2, (_BARS_SIDE + _NUM_BARS) // 2)
    relevant[middle, middle] = True
    return relevant
