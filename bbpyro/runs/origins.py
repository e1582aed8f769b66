"""What a run is made from: its settings, its data, and what they name that lies outside of both and may change."""

import dataclasses
import hashlib
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from bbpyro import checkpoint, data, posterior, training
from bbpyro.checkpoint import CheckpointError
from bbpyro.checks import check_batch_norm
from bbpyro.insertion import insert_dropout
from bbpyro.likelihoods import Categorical
from bbpyro.model import BetaBernoulliNetwork
from bbpyro.priors.spelled import is_path
from bbpyro.runs import limits, networks
from bbpyro.runs.config import TrainConfig
from bbpyro.runs.saved import CHECKPOINT

CONFIG = "config.json"


def load_data(config: TrainConfig) -> data.Dataset:
    """The run's data, with its validation split in place of the test set if it has one."""
    dataset = data.load(config.dataset, config.data_dir)
    if not config.validation_size:
        return dataset
    return dataset.with_validation(config.validation_size, config.validation_fold)


def plain_network(config: TrainConfig, dataset: data.Dataset) -> nn.Module:
    """The run's network without gates, as it is before any training."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.seed)
        return networks.make(config.network, dataset.x.shape[1:], dataset.num_classes)


def gated_network(config: TrainConfig, plain: nn.Module, dataset: data.Dataset) -> BetaBernoulliNetwork:
    """The run's network with gates, its weights those of the plain one."""
    return BetaBernoulliNetwork(
        insert_dropout(
            plain,
            None if config.threshold == TrainConfig.threshold else config.threshold,
            family=config.make_family(),
            initial_keep_probability=config.initial_keep_probability,
        ),
        Categorical(),
        num_data=len(dataset.x),
        prior=config.make_prior(),
        weight_prior=config.make_weight_prior(),
        weight_guide=config.weights,
        temperature=config.temperature,
    )


@dataclass(frozen=True)
class Pretrained:
    """What a run starts from: the weights of a plain network, and of a trained run its gates too.

    Args:
        path: a safetensors file, or the folder of a run.
    """

    path: Path

    def check(self, config: TrainConfig) -> None:
        """Raise a ValueError where a run of these settings cannot start from it, whatever is in it."""
        if not self.is_run:
            return
        if config.initial_keep_probability is not None:
            raise ValueError(
                f"initial_keep_probability is {config.initial_keep_probability}, but gates begin where those of the "
                f"run {self.path} ended; leave it out"
            )
        held_out = ("validation_size", "validation_fold")
        settings = self._settings()
        differ = [name for name in held_out if settings.get(name, 0) != getattr(config, name)]
        if config.validation_size and settings.get("dataset") == config.with_absolute_paths().dataset and differ:
            raise ValueError(
                f"pretrained: {self.path} was trained on data that this run holds out; train it with the same "
                "--validation-size and --validation-fold"
            )

    def weights(self, net: nn.Module) -> dict[str, Tensor]:
        """Those of the plain network; a CheckpointError where they cannot be read, or are of another network."""
        wanted = net.state_dict()
        weights = {name: t for name, t in self._tensors().items() if name in wanted or not self._is_of_gates(name)}
        checkpoint.check_state_dict(str(self.path), weights, wanted)
        return weights

    def start_gates(self, bnn: BetaBernoulliNetwork) -> None:
        """Have the gates begin where those of the run ended; a CheckpointError where they have nothing in common."""
        if not self.is_run:
            return
        found = self._tensors()
        for name, gate in bnn.gates.items():
            own, prefix = gate.state_dict(), f"{name}."
            taken = {key.removeprefix(prefix): t for key, t in found.items() if key.startswith(prefix)}
            if not taken:
                raise CheckpointError(f"{self.path} has no gate {name!r}: it is of another network, or in pretraining")
            if any(key not in own or t.shape != own[key].shape for key, t in taken.items()):
                raise CheckpointError(f"{self.path} has a gate {name!r} that {type(gate).__name__} cannot start from")
            gate.load_state_dict(taken, strict=False)

    @property
    def is_run(self) -> bool:
        """Whether it is the folder of a run."""
        return self.path.is_dir()

    def digest(self) -> str:
        """Of the bytes of its file."""
        return hashlib.sha256(checkpoint.read_bytes(self._file)).hexdigest()

    @property
    def _file(self) -> Path:
        if self.is_run and not (self.path / CONFIG).is_file():
            raise CheckpointError(f"pretrained: the folder {self.path} is no run; give a run's folder, or a file")
        return self.path / CHECKPOINT if self.is_run else self.path

    def _settings(self) -> dict[str, Any]:
        """Those of the run, as its file has them."""
        try:
            found: dict[str, Any] = json.loads(checkpoint.read_bytes(self._file.with_name(CONFIG)))["config"]
        except (ValueError, KeyError, TypeError) as error:
            raise CheckpointError(f"{self.path / CONFIG} was altered ({error})") from None
        return found

    def _is_of_gates(self, name: str) -> bool:
        """Whether a tensor is a gate's, or of a Gaussian q(W), of which the plain network has none."""
        return self.is_run and (".gate." in f".{name}" or name.startswith("unconstrained_scales."))

    def _tensors(self) -> dict[str, Tensor]:
        found = checkpoint.load_weights(self._file)
        if not self.is_run:
            return found
        return {name.removeprefix("network."): t for name, t in found.items() if name.startswith("network.")}


def check_settings(config: TrainConfig, dataset: data.Dataset | None = None, jobs: int = 1) -> data.Dataset:
    """Refuse what would fail only in training, when there is a folder already; returns the data, loaded if not given.

    Args:
        config: of the run.
        dataset: its data, if they are loaded.
        jobs: how many such runs are trained at once.

    Raises:
        ValueError: a setting is out of range, or does not fit the data, the network or this machine.
        CheckpointError: the pretrained weights do not fit the network.
    """
    config.validate()
    if config.device == "cuda" and not torch.cuda.is_available():
        raise ValueError("device is 'cuda', but torch finds no GPU here; leave it at auto, or install torch with CUDA")
    limits.check_numbers(config)
    dataset = dataset or load_data(config)
    limits.check_training(config, dataset, jobs)
    plain = plain_network(config, dataset)
    if is_path(config.network):
        networks.check_output(config.network, plain, dataset.x[:2], dataset.num_classes)
    if config.pretrained is not None:
        Pretrained(config.pretrained).check(config)
        Pretrained(config.pretrained).weights(plain)
    check_batch_norm(plain, len(dataset.x), config.batch_size)
    bnn = gated_network(config, plain, dataset)
    if config.pretrained is not None:
        Pretrained(config.pretrained).start_gates(bnn)
    training.kl_starts(bnn, config.kl_warmup_epochs, config.kl_weights())
    shape = list(dataset.x.shape[1:])
    if config.augmentation != "none" and (len(shape) != 3 or min(shape[1:]) < 8):
        raise ValueError(
            f"augmentation {config.augmentation} is for images [C, H, W] of at least 8x8; the data have {shape}"
        )
    return dataset


def describe(config: TrainConfig, dataset: data.Dataset) -> dict[str, Any]:
    """All that the numbers of a run depend on beside its settings, of which its seed is one, as JSON holds it.

    Raises:
        CheckpointError: the pretrained weights cannot be read.
    """
    config = dataclasses.replace(config, seed=0)
    described: dict[str, Any] = {"data": dataset.fingerprint()}
    settings = {setting for setting, _ in config.modules}
    if settings:
        plain = plain_network(config, dataset)
        if "network" in settings:
            described["network"] = networks.describe(plain, dataset.x[:2])
        if settings != {"network"}:
            described["model"] = posterior.describe_model(gated_network(config, plain, dataset))
    if config.pretrained is not None:
        described["pretrained"] = Pretrained(config.pretrained).digest()
    return dict(json.loads(json.dumps(described)))


def check_same(noted: Mapping[str, Any], now: Mapping[str, Any], made: str, config: TrainConfig) -> None:
    """Refuse to go on with what was made from something else.

    Args:
        noted: what :func:`describe` said then; what a bbpyro of before did not note is not checked.
        now: what it says now.
        made: what was made, e.g. "run runs/mine".
        config: its settings.

    Raises:
        ValueError: the first that differs.
    """
    differ = {name for name in now if name in noted and not _is_same(noted[name], now[name])}
    if "data" in differ:
        raise ValueError(f"dataset {config.dataset!r} is not the one that {made} was made with")
    for name, what in (("network", "network"), ("model", "prior")):
        if name in differ:
            of = ", ".join(path for setting, path in config.modules if (setting == "network") == (name == "network"))
            raise ValueError(
                f"{what}: {of} changed since {made} was made; restore what it was, or give what is new another name"
            )
    if "pretrained" in differ:
        raise ValueError(f"pretrained: {config.pretrained} has changed since {made} was made with it; restore it")


def _is_same(noted: Any, now: Any) -> bool:
    """Whether two things that JSON holds are the same, but for the rounding of another machine."""
    if isinstance(noted, dict) and isinstance(now, dict):
        return all(_is_same(noted[key], now[key]) for key in noted.keys() & now.keys())
    if isinstance(noted, list) and isinstance(now, list):
        return len(noted) == len(now) and all(map(_is_same, noted, now))
    if isinstance(noted, float) and isinstance(now, float):
        return math.isclose(noted, now, rel_tol=1e-5, abs_tol=1e-6) or (math.isnan(noted) and math.isnan(now))
    return bool(noted == now)
