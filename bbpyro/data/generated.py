"""Data sets made by a generator, whose relevant inputs are known."""

import math
from typing import NamedTuple

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


class LatentData(NamedTuple):
    """Data x `[N, D]` that latent features W `[K, D]` made, and which datum has which, z `[N, K]`."""

    x: Tensor
    z: Tensor
    W: Tensor


_SHAPES = ("010 111 010", "111 101 111", "100 110 111", "111 010 010")


def shapes(num_data: int = 100, noise: float = 0.5, seed: int = 0) -> LatentData:
    """Images of 6x6 pixels, of four shapes in its quarters, each in half of them, and Gaussian noise of this scale.

    As those of Griffiths and Ghahramani (2011), whose N is 100 and whose noise 0.5.
    """
    W = torch.zeros(4, 6, 6)
    for k, text in enumerate(_SHAPES):
        row, column = 3 * (k // 2), 3 * (k % 2)
        W[k, row : row + 3, column : column + 3] = torch.tensor([[float(c) for c in line] for line in text.split()])
    return _superposed(W.flatten(1), 0.5, num_data, noise, seed)


def overlapping_bars(num_data: int = 500, side: int = 6, noise: float = 0.25, seed: int = 0) -> LatentData:
    """Images of side x side pixels, each row and each column a bar that two images in `side` have, and noise.

    Bars add up where they cross (Földiák 1990, with the superposition of Griffiths and Ghahramani).
    """
    lines = torch.eye(side)
    rows, columns = lines[:, :, None].expand(-1, -1, side), lines[:, None, :].expand(-1, side, -1)
    return _superposed(torch.cat([rows, columns]).flatten(1), 2 / side, num_data, noise, seed)


def _superposed(W: Tensor, share: float, num_data: int, noise: float, seed: int) -> LatentData:
    if not (isinstance(num_data, int) and num_data > 0):
        raise ValueError(f"num_data is {num_data!r}, wanted a whole number, at least 1")
    if not 0 <= noise < math.inf:
        raise ValueError(f"noise is {noise}, wanted 0 or more")
    generator = torch.Generator().manual_seed(seed)
    z = (torch.rand(num_data, len(W), generator=generator) < share).float()
    return LatentData(z @ W + noise * torch.randn(num_data, W.shape[1], generator=generator), z, W)
