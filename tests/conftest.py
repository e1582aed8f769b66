from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyro
import pytest
import torch

from bbpyro import data
from bbpyro.runs import shrinking

torch.set_num_threads(1)

# The files that take longest: begun last, one of them would leave the other workers idle.
SLOW = ("notebooks", "studies", "studies_vary", "runs", "cli", "vgg", "shrinking", "inspection")


def pytest_configure(config: pytest.Config) -> None:
    """Leave the order of files to the next function: pytest-xdist would begin with those of most tests."""
    if hasattr(config.option, "loadscopereorder"):
        config.option.loadscopereorder = False


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Slow files first."""
    place = {f"test_{name}.py": i for i, name in enumerate(SLOW)}
    items.sort(key=lambda item: place.get(item.path.name, len(SLOW)))


@pytest.fixture(scope="session", autouse=True)
def one_round() -> Iterator[None]:
    """`bbpyro compact` times each form once, not fifteen times; tests look at what is told of times, not at those."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(shrinking, "_SECONDS_A_BATCH_SIZE", 0.0)
        yield


@pytest.fixture(autouse=True)
def fresh_start():
    """Every test from the same seed, with nothing in Pyro's global store."""
    pyro.clear_param_store()
    pyro.set_rng_seed(0)


@pytest.fixture(scope="session")
def npz(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data set that trains in no time."""
    path = tmp_path_factory.mktemp("data") / "bars.npz"
    bars = data.bars(num_train=60, num_test=50)
    np.savez(path, **{name: getattr(bars, name).numpy() for name in ("x", "y", "x_test", "y_test")})
    return path
