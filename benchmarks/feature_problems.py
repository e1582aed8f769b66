"""Small tables for benchmarks/feature_selection.py: made ones, of which is known what y depends on, and real ones.

An input is *relevant* where y depends on it by enough to be seen: where the best predictor without it would lose at
least 20 nats of log-likelihood on the training data, twice what a unit costs under the default prior. One that y
depends on by less, such as the fourth input of Friedman's second and third problem, counts neither as found nor as
kept.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from sklearn import datasets
from sklearn.model_selection import train_test_split
from torch import Tensor

NUM_TEST = 2000  # of a made problem
Rows = tuple[np.ndarray, np.ndarray]


@dataclass(frozen=True)
class Problem:
    """A table, its inputs and a y that is a number of mean 0 and variance 1, scaled by the training data.

    Attributes:
        x, y: training data `[N, K]`, `[N]`.
        x_test, y_test: held-out data.
        num_classes: C, or 0 where y is a number.
        relevant: the columns that y depends on; None where nobody knows.
        weak: columns on which it depends by too little to be seen.
    """

    x: Tensor
    y: Tensor
    x_test: Tensor
    y_test: Tensor
    num_classes: int
    relevant: frozenset[int] | None
    weak: frozenset[int] = frozenset()

    @property
    def irrelevant(self) -> frozenset[int]:
        """The columns that say nothing of y; of a real table those that are constant."""
        if self.relevant is None:
            return frozenset(np.flatnonzero((self.x == self.x[0]).all(0)).tolist())
        return frozenset(range(self.x.shape[1])) - self.relevant - self.weak


@dataclass(frozen=True)
class Made:
    """A made problem: `draw` makes so many rows; the columns come in the order that the seed shuffles them to."""

    draw: Callable[[np.random.Generator, int], Rows]
    num_data: int
    relevant: tuple[int, ...]
    weak: tuple[int, ...] = ()
    num_classes: int = 0

    def make(self, seed: int) -> Problem:
        """Its training and held-out data of a seed."""
        rng = np.random.default_rng(seed)
        x, y = self.draw(rng, self.num_data + NUM_TEST)
        order = rng.permutation(x.shape[1])
        place = {int(column): i for i, column in enumerate(order)}
        relevant, weak = (frozenset(place[j] for j in of) for of in (self.relevant, self.weak))
        n = self.num_data
        return _scaled((x[:n, order], y[:n]), (x[n:, order], y[n:]), self.num_classes, relevant, weak)


@dataclass(frozen=True)
class Real:
    """A table that scikit-learn ships, of which the seed holds out a quarter."""

    load: Callable[..., Rows]
    num_classes: int = 0

    def make(self, seed: int) -> Problem:
        """Its training and held-out data of a seed."""
        x, y = self.load(return_X_y=True)
        x, x_test, y, y_test = train_test_split(x, y, random_state=seed, stratify=y if self.num_classes else None)
        return _scaled((x, y), (x_test, y_test), self.num_classes, None)


def _scaled(
    rows: Rows, held_out: Rows, num_classes: int, relevant: frozenset[int] | None, weak: frozenset[int] = frozenset()
) -> Problem:
    (x, y), (x_test, y_test) = rows, held_out
    mean, scale = x.mean(0), x.std(0)
    scale[scale == 0] = 1.0
    x, x_test = ((part - mean) / scale for part in (x, x_test))
    if not num_classes:
        y, y_test = ((part - y.mean()) / y.std() for part in (y, y_test))
    kind = torch.long if num_classes else torch.float32
    inputs = [torch.tensor(part, dtype=torch.float32) for part in (x, x_test)]
    labels = [torch.tensor(part, dtype=kind) for part in (y, y_test)]
    return Problem(inputs[0], labels[0], inputs[1], labels[1], num_classes, relevant, weak)


def _with_noise(
    make: Callable[..., Rows], num_noise: int, uniform: bool = False, **options: float
) -> Callable[[np.random.Generator, int], Rows]:
    """One of scikit-learn's problems, with columns of noise behind its own."""

    def draw(rng: np.random.Generator, n: int) -> Rows:
        x, y = make(n_samples=n, random_state=int(rng.integers(2**31)), **options)
        noise = rng.uniform(size=(n, num_noise)) if uniform else rng.normal(size=(n, num_noise))
        return np.hstack([x, noise]), y

    return draw


def _linear(num_inputs: int, num_relevant: int, correlation: float) -> Callable[[np.random.Generator, int], Rows]:
    """Y = ±x_1 ± ... + noise of sd 1; x of variance 1, with correlation ρ^|i-j|, the relevant ones spread evenly."""

    def draw(rng: np.random.Generator, n: int) -> Rows:
        x = _chain(rng, n, num_inputs, correlation)
        every = num_inputs // num_relevant
        signs = rng.choice([-1.0, 1.0], num_relevant)
        return x, x[:, : num_relevant * every : every] @ signs + rng.normal(size=n)

    return draw


def _chain(rng: np.random.Generator, n: int, num_inputs: int, correlation: float) -> np.ndarray:
    x = rng.normal(size=(n, num_inputs))
    for i in range(1, num_inputs):
        x[:, i] = correlation * x[:, i - 1] + np.sqrt(1 - correlation**2) * x[:, i]
    return x


def _xor(num_relevant: int, num_inputs: int = 20, correlation: float = 0.0) -> Callable[..., Rows]:
    """The parity of the signs of the first inputs; under a correlation each noise input follows one of them."""

    def draw(rng: np.random.Generator, n: int) -> Rows:
        x = rng.normal(size=(n, num_inputs))
        for i in range(num_relevant, num_inputs) if correlation else ():
            x[:, i] = correlation * x[:, i % num_relevant] + np.sqrt(1 - correlation**2) * x[:, i]
        return x, (x[:, :num_relevant] > 0).sum(1) % 2

    return draw


def _spiral(rng: np.random.Generator, n: int) -> Rows:
    """Two arms of one turn and a half, in the first two of 20 columns."""
    y = rng.integers(2, size=n)
    turn = np.sqrt(rng.uniform(size=n)) * 3 * np.pi
    arm = turn[:, None] * np.stack([np.cos(turn + np.pi * y), np.sin(turn + np.pi * y)], 1)
    return np.hstack([arm + 0.4 * rng.normal(size=(n, 2)), rng.normal(size=(n, 18))]), y


def _madelon(num_inputs: int) -> Callable[[np.random.Generator, int], Rows]:
    """Clusters on the corners of a cube of five dimensions, which is how the madelon of NIPS 2003 was made."""

    def draw(rng: np.random.Generator, n: int) -> Rows:
        x, y = datasets.make_classification(
            n, num_inputs, n_informative=5, n_redundant=0, n_clusters_per_class=4, class_sep=2.0, flip_y=0.01,
            shuffle=False, random_state=int(rng.integers(2**31)),
        )  # fmt: skip
        order = rng.permutation(n)  # they come a cluster after the other
        return x[order], y[order]

    return draw


def _friedman(number: int, n: int) -> Made:
    """Friedman's problems (1991) with noise inputs: 5 of 20 matter, or 2 or 3 of 20 (and others by next to nothing)."""
    if number == 1:
        return Made(_with_noise(datasets.make_friedman1, 10, uniform=True, noise=1.0), n, (0, 1, 2, 3, 4))
    if number == 2:
        return Made(_with_noise(datasets.make_friedman2, 16, noise=125.0), n, (1, 2), (0, 3))
    return Made(_with_noise(datasets.make_friedman3, 16, noise=0.1), n, (0, 1, 2), (3,))


PROBLEMS: dict[str, Made | Real] = {
    **{f"friedman{i}-{n}": _friedman(i, n) for i in (1, 2, 3) for n in (200, 1000)},
    "friedman1-10000": _friedman(1, 10_000),
    **{f"xor2-{n}": Made(_xor(2), n, (0, 1), num_classes=2) for n in (200, 1000, 10_000)},
    "xor2-correlated-1000": Made(_xor(2, correlation=0.8), 1000, (0, 1), num_classes=2),
    "xor3-2000": Made(_xor(3), 2000, (0, 1, 2), num_classes=2),
    "xor4-10000": Made(_xor(4), 10_000, (0, 1, 2, 3), num_classes=2),
    **{f"spiral-{n}": Made(_spiral, n, (0, 1), num_classes=2) for n in (1000, 5000)},
    **{f"linear-{n}": Made(_linear(100, 5, 0.0), n, tuple(range(0, 100, 20))) for n in (200, 1000)},
    "linear-correlated-1000": Made(_linear(100, 5, 0.9), 1000, tuple(range(0, 100, 20))),
    "madelon-2000": Made(_madelon(50), 2000, (0, 1, 2, 3, 4), num_classes=2),
    "madelon-200-inputs-2000": Made(_madelon(200), 2000, (0, 1, 2, 3, 4), num_classes=2),
    "breast-cancer": Real(datasets.load_breast_cancer, 2),
    "wine": Real(datasets.load_wine, 3),
    "digits": Real(datasets.load_digits, 10),
    "diabetes": Real(datasets.load_diabetes),
}
