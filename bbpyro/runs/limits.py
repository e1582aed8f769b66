"""Numbers that no machine, or not this one, can do anything with: refused before any work is begun."""

import contextlib
import math
import os
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from bbpyro import data, memory
from bbpyro.runs import networks
from bbpyro.runs.config import TrainConfig
from bbpyro.runs.networks import RECIPES

MAX_SAMPLES = 1_000_000
MAX_EPOCHS = 1_000_000
_AT_MOST = {"epochs": MAX_EPOCHS, "pretrain_epochs": MAX_EPOCHS, "batch_size": 1_000_000_000}
_BATCH = 1000  # that predictions are made in
_DRAWS = 1000  # of the posterior of a run's figures
_PROCESS = 400 * 2**20  # bytes that Python and torch take


def check_num_samples(name: str, number: int) -> None:
    """Raise a ValueError unless so many draws are some, and can be made in a lifetime."""
    if not 1 <= number <= MAX_SAMPLES:
        raise ValueError(f"{name} is {number}, wanted at least 1, at most {MAX_SAMPLES:,}")


def check_numbers(config: TrainConfig) -> None:
    """Raise a ValueError where a run that is to be made would never end, or do with a number what nobody meant."""
    for name, most in _AT_MOST.items():
        if getattr(config, name) > most:
            raise ValueError(f"{name} is {getattr(config, name)}, wanted at most {most:,}")
    if config.threads > num_cores():
        raise ValueError(f"threads is {config.threads}, wanted at most {num_cores()}, the cores of this machine")
    warmup, own = config.kl_warmup_epochs, RECIPES.get(config.network, {}).get("kl_warmup_epochs")
    if warmup > config.epochs and warmup != own:
        raise ValueError(f"kl_warmup_epochs is {warmup}, wanted at most the {config.epochs} epochs of SVI")


def num_cores() -> int:
    """The cores of this machine."""
    return os.cpu_count() or 1


def check_training(config: TrainConfig, dataset: data.Dataset, jobs: int = 1) -> None:
    """Raise a ValueError where training the network would take more memory than is free.

    Args:
        config: of the run.
        dataset: its data.
        jobs: how many such runs at once, each in a process of its own, which loads the data again.
    """
    wanted = training_bytes(config, dataset)
    if jobs > 1:
        data_bytes = sum(tensor.nbytes for tensor in (dataset.x, dataset.y, dataset.x_test, dataset.y_test))
        memory.check(jobs * (wanted + data_bytes + _PROCESS), f"jobs: {jobs:,} runs at once", "take fewer --jobs")
    what = f"network {config.network}, of inputs of shape {list(dataset.x.shape[1:])} in batches of {config.batch_size}"
    memory.check(wanted, what, "take fewer inputs, a smaller batch_size or a smaller network")


def check_posterior(
    num_units: Sequence[int], num_data: int, num_chains: int, num_samples: int, num_predictive_samples: int
) -> None:
    """Raise a ValueError where a posterior of so many draws, of gates of so many units, would not fit into memory."""
    check_num_samples("num_samples", num_samples)
    check_num_samples("num_predictive_samples", num_predictive_samples)
    for name, number, each in (
        ("num_samples", num_samples, _posterior_bytes(sum(num_units), 1)),
        ("num_predictive_samples", num_predictive_samples, 16 * num_data),
    ):
        memory.check(num_chains * number * each, f"{name} is {number}: so many draws", f"take a smaller {name}")


def _posterior_bytes(num_units: int, num_draws: int) -> int:
    """The draws of π, those of its prior and their log-odds, in double precision, and copies on their way."""
    return 5 * 8 * num_units * num_draws


def training_bytes(config: TrainConfig, dataset: data.Dataset) -> int:
    """About what training takes at its peak: parameters and all that goes with each, and a batch of activations."""
    net = _without_memory(config, dataset)
    parameters = sum(parameter.nbytes for parameter in net.parameters())
    # The plain network, the one with gates, its gradients and Adam's two moments, and those once and again as they are
    # written into a checkpoint; a Gaussian for each weight has as many scales.
    copies = 11 if config.weights == "delta" else 21
    num_units, largest, outputs, masks = _measure(net, dataset.x)
    batch, predicted = min(config.batch_size, len(dataset.x)), min(_BATCH, len(dataset.x_test))
    training = batch * (2 * outputs + 6 * masks)
    predicting = predicted * (3 * largest + 6 * masks)
    ending = 2 * parameters + _posterior_bytes(num_units, _DRAWS)
    return max(copies * parameters + 4 * max(training, predicting), ending)


def _without_memory(config: TrainConfig, dataset: data.Dataset) -> nn.Module:
    """The network on torch's meta device, where tensors have a shape and no numbers."""
    shape = dataset.x.shape[1:]
    try:
        with torch.device("meta"):
            net = networks.make(config.network, shape, dataset.num_classes)
    except ValueError:
        if config.network in networks.NETWORKS:  # it is not for such data
            raise
        net = networks.make(config.network, shape, dataset.num_classes)  # it looks at its numbers
    return net.to("meta")


def _measure(net: nn.Module, x: Tensor) -> tuple[int, int, int, int]:
    """Of one datum: the units of all gates, the numbers of the largest layer, of all layers, and of all masks."""
    units, largest, outputs, masks = 0, 0, 0, 0

    def look(layer: nn.Module, args: Any, output: Any) -> None:
        nonlocal units, largest, outputs, masks
        before, after = (sum(math.prod(t.shape[1:]) for t in ts if isinstance(t, Tensor)) for ts in (args, [output]))
        largest, outputs = max(largest, before + after), outputs + after
        if isinstance(layer, nn.Linear):
            units, masks = units + layer.in_features, masks + before
        elif isinstance(layer, nn.Conv1d | nn.Conv2d | nn.Conv3d):
            units, masks = units + layer.out_channels, masks + layer.out_channels

    leaves = [module for module in net.modules() if not any(module.children())]
    handles = [leaf.register_forward_hook(look) for leaf in leaves]
    with contextlib.suppress(Exception):  # of a user's own, that cannot be run so: what was seen by then is a start
        net.eval()(torch.empty((1, *x.shape[1:]), device="meta"))
    for handle in handles:
        handle.remove()
    return units, largest, outputs, masks
