import pyro
import pytest
import torch

torch.set_num_threads(1)


@pytest.fixture(autouse=True)
def fresh_start():
    """Every test from the same seed, with nothing in Pyro's global store."""
    pyro.clear_param_store()
    pyro.set_rng_seed(0)
