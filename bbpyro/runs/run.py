"""A run: from its settings to a folder with a trained network, its scores and its figures."""

import dataclasses
import json
import os
import platform
import resource
import shlex
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyro
import torch
from matplotlib.figure import Figure
from rich.console import Console
from torch import Tensor, nn

from bbpyro import checkpoint, data, plots, posterior, training
from bbpyro.checkpoint import CheckpointError
from bbpyro.export import COMPACT
from bbpyro.layers import insert_dropout
from bbpyro.likelihoods import Categorical
from bbpyro.model import BetaBernoulliNetwork
from bbpyro.prediction import evaluate
from bbpyro.runs.config import AUGMENTATIONS, NETWORKS, TrainConfig
from bbpyro.runs.saved import CHECKPOINT, Saved, state_dict_of
from bbpyro.version import __version__

ARTEFACTS = (COMPACT, "compact.pt2", "compact.onnx", "compact-int8.onnx")  # of a compacted run


@dataclass(frozen=True)
class Run:
    """A trained network, or one in training, and what it was made from."""

    folder: Path
    config: TrainConfig
    dataset: data.Dataset
    bnn: BetaBernoulliNetwork
    history: list[dict[str, Any]]

    @property
    def svi_history(self) -> list[dict[str, Any]]:
        """The records of the epochs with gates, without those of pretraining."""
        return [record for record in self.history if record["phase"] == "SVI"]

    @property
    def is_complete(self) -> bool:
        """Whether training ran to its end."""
        return len(self.svi_history) == self.config.epochs


def default_folder(config: TrainConfig) -> Path:
    """runs/DATASET-DATE-TIME, with a number appended while that exists."""
    stem = Path(config.dataset).stem
    base = Path("runs") / f"{stem}-{time.strftime('%Y%m%d-%H%M%S')}"
    candidates = [base, *(base.with_name(f"{base.name}-{i}") for i in range(2, 1000))]
    return next(folder for folder in candidates if not folder.exists())


def create(folder: Path, config: TrainConfig, force: bool = False) -> None:
    """Make a run folder that holds its configuration from the first moment it exists.

    Raises:
        ValueError: the configuration is out of range, or the folder exists and `force` is false.
        CheckpointError: the pretrained weights do not fit the network.
    """
    if folder.exists() and not force:
        raise ValueError(
            f"run folder {folder} already exists; choose another, continue it with --resume, or add --force"
        )
    if folder.exists() and not (folder / "config.json").is_file():
        raise ValueError(f"run folder {folder} is no run, so it is not replaced, with --force or without")
    dataset = check_settings(config)
    config = config.canonical()
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ValueError(f"run folder {folder} cannot be made ({error.strerror}); choose another") from None
    with tempfile.TemporaryDirectory(dir=folder.parent, prefix=f".{folder.name}-") as scratch:
        made = Path(scratch) / "run"
        made.mkdir()
        description = {"format": checkpoint.FORMAT, "bbpyro": __version__, "data": dataset.fingerprint()}
        if config.has_module:
            bnn = _network(config, plain_network(config, dataset), dataset)
            description["model"] = posterior.describe_model(bnn)
        checkpoint.write_json(made / "config.json", {**description, "config": config.to_json()})
        if folder.exists():
            os.replace(folder, Path(scratch) / "old")
        os.replace(made, folder)


def check_settings(config: TrainConfig, dataset: data.Dataset | None = None) -> data.Dataset:
    """Refuse what would fail only in training, when there is a folder already; returns the data, loaded if not given.

    Raises:
        ValueError: a setting is out of range, or does not fit the data, the network or this machine.
        CheckpointError: the pretrained weights do not fit the network.
    """
    config.validate()
    if config.device == "cuda" and not torch.cuda.is_available():
        raise ValueError("device is 'cuda', but torch finds no GPU here; leave it at auto, or install torch with CUDA")
    dataset = dataset or _load_data(config)
    plain = plain_network(config, dataset)
    if config.pretrained is not None:
        _load_pretrained(config.pretrained, plain)
    training.check_batch_norm(plain, len(dataset.x), config.batch_size)
    bnn = _network(config, plain, dataset)
    training.kl_starts(bnn, config.kl_warmup_epochs, config.kl_weights())
    shape = list(dataset.x.shape[1:])
    if config.augmentation != "none" and (len(shape) != 3 or min(shape[1:]) < 8):
        raise ValueError(
            f"augmentation {config.augmentation} is for images [C, H, W] of at least 8x8; the data have {shape}"
        )
    return dataset


def load(folder: Path) -> Run:
    """A run as its newest checkpoint has it, its network on the device that it was made for.

    Raises:
        CheckpointError: the folder is no run, or its checkpoint is damaged or of another network.
        ValueError: its data set has changed, or cannot be had.
    """
    config, dataset = _open(folder)
    saved = Saved.read(folder, config)
    if saved is None:
        raise CheckpointError(
            f"run {folder} has no checkpoint yet; start it again with bbpyro train --resume {shlex.quote(str(folder))}"
        )
    bnn = _network(config, plain_network(config, dataset), dataset)
    _check_model(folder, bnn)
    if saved.phase == "SVI":
        saved.load_into(bnn, folder)
    return Run(folder, config, dataset, bnn.eval().to(config.torch_device()), saved.history)


OnEpoch = Callable[[dict[str, Any], int, str], None]


def check(folder: Path) -> None:
    """Raise a CheckpointError unless `folder` is a run; it need not have a checkpoint yet."""
    _read_config(folder)


def train(folder: Path, console: Console | None = None, on_epoch: OnEpoch | None = None) -> Run:
    """Train the run in `folder` to its end, from its newest checkpoint if it has one.

    Every epoch leaves a checkpoint from which a killed run goes on with exactly the same numbers.

    Args:
        folder: made by :func:`create`.
        console: where the progress bar is drawn; None for no bar.
        on_epoch: called with each epoch's record, the number of epochs of its phase, and what "held out" means in
            it: "test" or "validation".

    Raises:
        CheckpointError: the folder is no run, or its checkpoint is damaged or of another network.
        ValueError: its data set has changed, or cannot be had.
        bbpyro.training.NonFiniteLossError: the loss became nan; the last good checkpoint stays.
    """
    config, dataset = _open(folder)
    checkpoint.clear_unfinished(
        folder, CHECKPOINT, "metrics.jsonl", "config.json", "summary.json", "result.json", "loo.nc"
    )
    checkpoint.clear_unfinished(folder / "figures", "*.png")
    saved = Saved.read(folder, config)
    if saved:
        saved.write_metrics(folder)
    if saved is None or len(saved.records("SVI")) < config.epochs:
        clear_artefacts(folder)  # which are of the network as it was
    plain = plain_network(config, dataset).to(config.torch_device())
    settings: dict[str, Any] = {
        "batch_size": config.batch_size,
        "learning_rate": config.learning_rate,
        "augment": AUGMENTATIONS[config.augmentation],
        "precision": config.precision,
        "held_out": (dataset.x_test, dataset.y_test),
        "seed": config.seed,
        "progress": console or False,
    }

    def keep(net: nn.Module, num_epochs: int, before: list[dict[str, Any]]) -> Callable[[training.TrainingState], None]:
        def after_epoch(state: training.TrainingState) -> None:
            Saved(state_dict_of(net), state.optimizer, [*before, *state.history]).write(folder, config)
            if on_epoch:
                on_epoch(state.history[-1], num_epochs, config.scored_on)

        return after_epoch

    pretraining = saved.records("pretraining") if saved else []
    if config.pretrained and saved is None:
        plain.load_state_dict(_load_pretrained(config.pretrained, plain))
    elif config.pretrain_epochs and not config.pretrained and (saved is None or saved.phase == "pretraining"):
        if saved:
            saved.load_into(plain, folder)
        pretraining = training.pretrain(
            plain,
            dataset.x,
            dataset.y,
            num_epochs=config.pretrain_epochs,
            on_epoch=keep(plain, config.pretrain_epochs, []),
            resume_from=saved.state(config.seed) if saved else None,
            **settings,
        )
        saved = None
    bnn = _network(config, plain, dataset)
    _check_model(folder, bnn)
    if saved:
        saved.load_into(bnn, folder)
    history = training.fit(
        bnn,
        dataset.x,
        dataset.y,
        num_epochs=config.epochs,
        gate_learning_rate=config.gate_learning_rate,
        schedule=config.schedule,
        kl_warmup_epochs=config.kl_warmup_epochs,
        kl_start=config.kl_weights(),
        elbo=config.elbo,
        on_epoch=keep(bnn, config.epochs, pretraining),
        resume_from=saved.state(config.seed) if saved else None,
        **settings,
    )
    return Run(folder, config, dataset, bnn.eval(), [*pretraining, *history])


def clear_artefacts(folder: Path) -> None:
    """Remove what an earlier compaction of the run wrote."""
    checkpoint.clear_unfinished(folder, *ARTEFACTS)
    for name in ARTEFACTS:
        (folder / name).unlink(missing_ok=True)


def score(run: Run, num_samples: int = 100) -> dict[str, Any]:
    """Scores by mean mask and by Monte Carlo (`num_samples` draws of q(z, π)), and the units kept."""
    with torch.random.fork_rng():
        torch.manual_seed(run.config.seed)
        by_mean, by_draws = (evaluate(run.bnn, run.dataset.x_test, run.dataset.y_test, n) for n in (None, num_samples))
    return {
        "scored_on": run.config.scored_on,
        "num_scored": len(run.dataset.y_test),
        "mean_mask": dataclasses.asdict(by_mean),
        "monte_carlo": {"num_samples": num_samples, **dataclasses.asdict(by_draws)},
        "kept": {name: int(gate.kept().sum()) for name, gate in run.bnn.gates.items()},
        "total": {name: gate.num_features for name, gate in run.bnn.gates.items()},
        "side": {name: posterior.side_of(gate) for name, gate in run.bnn.gates.items()},
    }


def summarize(run: Run, num_samples: int = 100) -> dict[str, Any]:
    """Score a trained run, draw its figures, and write summary.json; returns what that holds."""
    scores = score(run, num_samples)
    idata = posterior.to_arviz(run.bnn, history=run.svi_history, seed=run.config.seed)
    write_figures(run.folder, training_figures(idata, run.dataset.x.shape[1:]))
    summary = {
        **scores,
        "epochs": len(run.history),
        "training_seconds": sum(record["seconds"] for record in run.history),
        "peak_memory_mib": _peak_memory_mib(),
        "config": run.config.to_json(),
        "versions": {
            "bbpyro": __version__,
            "torch": torch.__version__,
            "pyro": pyro.__version__,
            "python": platform.python_version(),
        },
    }
    checkpoint.write_json(run.folder / "summary.json", summary)
    return summary


def training_figures(idata: Any, input_shape: Sequence[int]) -> dict[str, Figure]:
    """The figures that need no predictions, by file name; `input_shape` is that of one input."""
    figures = {
        "keep_probability": plots.keep_probability(idata),
        "elbo": plots.elbo(idata),
        "kept_units": plots.kept_units(idata),
    }
    num_units = posterior.group(idata, "guide").sizes[f"{posterior.gates(idata)[0]}_unit"]
    if len(input_shape) == 2 and num_units == input_shape[0] * input_shape[1]:
        figures["input_map"] = plots.input_map(idata, (input_shape[0], input_shape[1]))
    return figures


def write_figures(folder: Path, figures: Mapping[str, Figure]) -> None:
    """Write figures as PNG under `folder`/figures."""
    (folder / "figures").mkdir(parents=True, exist_ok=True)
    for name, figure in figures.items():
        plots.save(figure, folder / "figures" / f"{name}.png")


def _peak_memory_mib() -> float:
    """The most memory this process has held at once, MiB."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / 1024 / (1024 if sys.platform == "darwin" else 1)  # macOS counts bytes, Linux KiB


def _open(folder: Path) -> tuple[TrainConfig, data.Dataset]:
    config, fingerprint = _read_config(folder)
    dataset = _load_data(config)
    if dataset.fingerprint() != fingerprint:
        raise ValueError(f"dataset {config.dataset!r} is not the one that run {folder} was made with")
    torch.set_num_threads(config.threads)
    return config, dataset


def _read_config(folder: Path) -> tuple[TrainConfig, str]:
    path = folder / "config.json"
    if not path.is_file():
        raise CheckpointError(f"{folder} is no bbpyro run: it has no config.json")
    try:
        description = json.loads(path.read_text())
        config = TrainConfig.from_json(description["config"])
        config.validate()
        fingerprint: str = description["data"]
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise CheckpointError(f"{path} was altered, or written by another version of bbpyro ({error})") from None
    return config, fingerprint


def _check_model(folder: Path, bnn: BetaBernoulliNetwork) -> None:
    """Raise a ValueError where a prior of the user's own is not what it was when the run was made."""
    noted = json.loads((folder / "config.json").read_text()).get("model")
    if noted is not None and noted != json.loads(json.dumps(posterior.describe_model(bnn))):
        raise ValueError(f"prior: the module that run {folder} has its prior from has changed since; restore it")


def _load_data(config: TrainConfig) -> data.Dataset:
    dataset = data.load(config.dataset, config.data_dir)
    return dataset.with_validation(config.validation_size) if config.validation_size else dataset


def plain_network(config: TrainConfig, dataset: data.Dataset) -> nn.Module:
    """The run's network without gates, as it is before any training."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.seed)
        return NETWORKS[config.network](dataset.x.shape[1:], dataset.num_classes)


def _network(config: TrainConfig, plain: nn.Module, dataset: data.Dataset) -> BetaBernoulliNetwork:
    return BetaBernoulliNetwork(
        insert_dropout(plain, config.threshold, initial_keep_probability=config.initial_keep_probability),
        Categorical(),
        num_data=len(dataset.x),
        prior=config.make_prior(),
        weight_prior=config.make_weight_prior(),
        weight_guide=config.weights,
        temperature=config.temperature,
    )


def _load_pretrained(path: Path, net: nn.Module) -> dict[str, Tensor]:
    weights = checkpoint.load_weights(path)
    checkpoint.check_state_dict(str(path), weights, net.state_dict())
    return weights
