"""A run: from its settings to a folder with a trained network."""

import contextlib
import dataclasses
import json
import os
import shlex
import shutil
import tempfile
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from torch import Tensor, nn

from bbpyro import checkpoint, data, processes, training
from bbpyro.checkpoint import CheckpointError
from bbpyro.export import COMPACT
from bbpyro.model import BetaBernoulliNetwork
from bbpyro.runs.config import AUGMENTATIONS, TrainConfig, as_written
from bbpyro.runs.limits import num_cores
from bbpyro.runs.lock import hold
from bbpyro.runs.origins import (
    Pretrained,
    check_same,
    check_settings,
    describe,
    gated_network,
    load_data,
    plain_network,
)
from bbpyro.runs.saved import CHECKPOINT, METRICS, Pace, Saved, state_dict_of
from bbpyro.version import __version__

STARTS = "starts"  # the folder, in that of a run of several starts, of a run for each
ARTEFACTS = (COMPACT, "compact.pt2", "compact.onnx", "compact-int8.onnx")  # of a compacted run


@dataclass(frozen=True)
class Run:
    """A trained network, or one in training, and what it was made from."""

    folder: Path
    config: TrainConfig
    dataset: data.Dataset
    bnn: BetaBernoulliNetwork
    history: list[dict[str, Any]]
    warning: str | None = None  # what is to be said of a training that has just ended, see training.Judge

    @property
    def svi_history(self) -> list[dict[str, Any]]:
        """The records of the epochs with gates, without those of pretraining."""
        return [record for record in self.history if record["phase"] == "SVI"]

    @property
    def starts(self) -> list[dict[str, Any]]:
        """Of a run of several starts each one's pretrain_epochs, loss (-ELBO/N at its end, or None) and seconds."""
        return self.history[-1].get("starts", []) if self.history else []

    @property
    def training_seconds(self) -> float:
        """Of all epochs, those of other starts among them."""
        of_starts = [start["seconds"] for start in self.starts]
        return sum(of_starts or (record["seconds"] for record in self.history))

    @property
    def is_complete(self) -> bool:
        """Whether training ran to its end."""
        return len(self.svi_history) == self.config.epochs

    def check_gates(self, lacks: str) -> None:
        """Raise a CheckpointError, with what the run `lacks` therefore, where training has not reached the gates."""
        if not self.svi_history:
            raise CheckpointError(
                f"{self.folder} is still in pretraining: {lacks}; go on with bbpyro train --resume "
                + shlex.quote(str(self.folder))
            )


def default_folder(config: TrainConfig) -> Path:
    """runs/DATASET-DATE-TIME, with a number appended while that exists."""
    stem = Path(config.dataset).stem
    base = Path("runs") / f"{stem}-{time.strftime('%Y%m%d-%H%M%S')}"
    candidates = [base, *(base.with_name(f"{base.name}-{i}") for i in range(2, 1000))]
    return next(folder for folder in candidates if not folder.exists())


def create(folder: Path, config: TrainConfig, force: bool = False) -> data.Dataset:
    """Make a run folder that holds its configuration from the first moment it exists; returns the run's data.

    Raises:
        ValueError: the configuration is out of range, or the folder exists and `force` is false, or a process has the
            run that is there in hand.
        CheckpointError: the pretrained weights do not fit the network.
    """
    exists = f"run folder {folder} already exists; choose another, continue it with --resume, or add --force"
    if folder.exists() and not force:
        raise ValueError(exists)
    if folder.exists() and not (folder / "config.json").is_file():
        raise ValueError(f"run folder {folder} is no run, so it is not replaced, with --force or without")
    if config.pretrained and config.pretrained.resolve().is_relative_to(folder.resolve()):
        raise ValueError(f"pretrained: {config.pretrained} is in the run folder {folder}, which this run would replace")
    dataset = check_settings(config)
    config = config.canonical()
    is_there = folder.exists()
    if is_there and not force:  # by now
        raise ValueError(exists)
    with hold(folder) if is_there else contextlib.nullcontext():
        with _beside(folder) as scratch:
            made = Path(scratch) / "run"
            made.mkdir()
            description = {"format": checkpoint.FORMAT, "bbpyro": __version__, **describe(config, dataset)}
            checkpoint.write_json(made / "config.json", {**description, "config": config.to_json()})
            if is_there:
                os.replace(folder, Path(scratch) / "old")
            try:
                os.replace(made, folder)
            except OSError:  # another process has made it meanwhile
                raise ValueError(exists) from None
    return dataset


def _beside(folder: Path) -> tempfile.TemporaryDirectory[str]:
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        return tempfile.TemporaryDirectory(dir=folder.parent, prefix=f".{folder.name[:100]}-")
    except OSError as error:
        raise ValueError(f"run folder {folder} cannot be made ({error.strerror}); choose another") from None


def load(folder: Path | str) -> Run:
    """A run as its newest checkpoint has it, its network on the device that it was made for.

    Raises:
        CheckpointError: the folder is no run, or its checkpoint is damaged or of another network.
        ValueError: its data set has changed, or cannot be had.
    """
    folder = Path(folder)
    config, dataset = _open(folder)
    saved = Saved.read(folder, config)
    if saved is None:
        go_on = f"with bbpyro train --resume {shlex.quote(str(folder))}"
        if config.starts > 1:
            raise CheckpointError(
                f"run {folder} has not ended yet; its starts are runs of their own, in {folder / STARTS}. Where nobody "
                f"trains them, go on {go_on}"
            )
        raise CheckpointError(f"run {folder} has no checkpoint yet; start it again {go_on}")
    bnn = gated_network(config, plain_network(config, dataset), dataset)
    if saved.phase == "SVI":
        saved.load_into(bnn, folder)
    return Run(folder, config, dataset, bnn.eval().to(config.torch_device()), saved.history)


OnEpoch = Callable[[dict[str, Any], int, str], None]


def check(folder: Path) -> None:
    """Raise a CheckpointError unless `folder` is a run; it need not have a checkpoint yet."""
    read_config(folder)


def train(folder: Path, console: Console | None = None, on_epoch: OnEpoch | None = None) -> Run:
    """Train the run in `folder` to its end, from its newest checkpoint if it has one.

    Every epoch leaves a checkpoint from which a killed run goes on with exactly the same numbers, unless epochs are
    many and short (:class:`bbpyro.runs.saved.Pace`). Processes that have
    joined (see :func:`bbpyro.processes.joined`) train it together: the first reads and writes the folder, each loads
    the data. A run may go on with another number of them, with other noise.

    Where the network ends clearly worse than it began, :attr:`Run.warning` says so, and nothing else does.

    Args:
        folder: made by :func:`create`.
        console: where the progress bar is drawn; None for no bar.
        on_epoch: called with each epoch's record, the number of epochs of its phase, and what "held out" means in
            it: "test" or "validation".

    Raises:
        CheckpointError: the folder is no run, or its checkpoint is damaged or of another network.
        ValueError: its data set has changed, or cannot be had; or another process has the run in hand.
        bbpyro.processes.LostProcessError: another of several processes has ended.
        bbpyro.training.NonFiniteLossError: the loss became nan; the last good checkpoint stays.
    """
    if processes.is_first():
        read_config(folder)  # of a folder that is no run nothing is locked
    with hold(folder):
        return _train(folder, console, on_epoch)


def _train(folder: Path, console: Console | None, on_epoch: OnEpoch | None) -> Run:
    config, dataset = _open(folder)
    saved = processes.broadcast(_begin(folder, config) if processes.is_first() else None)
    if config.starts > 1 and saved is None:
        saved = _best_of_starts(folder, config, console, on_epoch)
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
        pace = Pace()

        def after_epoch(state: training.TrainingState) -> None:
            if not processes.is_first():
                return
            began.update(state.start)
            if pace.is_due(len(state.history), time.monotonic()) or len(state.history) == num_epochs:
                history = [*before, *state.history]
                now = Saved(state_dict_of(net), state.optimizer, history, state.idle, state.start)
                now.write(folder, config, pace.num_new)
                pace.wrote(time.monotonic())
            if on_epoch:
                on_epoch(state.history[-1], num_epochs, config.scored_on)

        return after_epoch

    began: dict[str, Tensor] = {}
    pretraining = saved.records("pretraining") if saved else []
    pretrained = Pretrained(config.pretrained) if config.pretrained and saved is None else None
    if pretrained:
        plain.load_state_dict(pretrained.weights(plain))
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
    bnn = gated_network(config, plain, dataset)
    if pretrained:
        pretrained.start_gates(bnn)
    if saved:
        saved.load_into(bnn, folder)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", training.FitWarning)  # which the run has, for whoever prints it
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
            shed=config.shed,
            on_epoch=keep(bnn, config.epochs, pretraining),
            resume_from=saved.state(config.seed) if saved else None,
            **settings,
        )
    judge = training.Judge(bnn.eval(), dataset.x, dataset.y, settings["held_out"], config.batch_size)
    warning = judge.verdict(began or (saved.start if saved else {}))
    return Run(folder, config, dataset, bnn, [*pretraining, *history], warning)


def _best_of_starts(folder: Path, config: TrainConfig, console: Console | None, on_epoch: OnEpoch | None) -> Saved:
    """Train each start, as a run of its own in starts/, and give `folder` what the one with the highest ELBO has.

    A start whose loss becomes nan is left out; a NonFiniteLossError where all are.
    """
    trainings, failed = config.trainings(), []
    if processes.is_first():
        for unfinished in (folder / STARTS).glob(".*"):  # of a process that was killed while it made one
            shutil.rmtree(unfinished)
    for i, one in enumerate(trainings, 1):
        own = folder / STARTS / str(i)
        if processes.is_first() and not own.exists():
            create(own, one)
        processes.broadcast(None)  # from now on it is there
        try:
            train(own, console, on_epoch and _naming(f"start {i} of {len(trainings)}", on_epoch))
        except training.NonFiniteLossError as error:
            failed.append(error)
        except CheckpointError as error:
            raise CheckpointError(f"{error}; or remove {own}, and this start is trained again") from None
    if len(failed) == len(trainings):
        raise failed[0]
    kept: Any = _keep_best(folder, config) if processes.is_first() else None
    best: Saved = processes.broadcast(kept)
    return best


def _naming(start: str, on_epoch: OnEpoch) -> OnEpoch:
    return lambda record, num_epochs, scored_on: on_epoch({"start": start, **record}, num_epochs, scored_on)


def _keep_best(folder: Path, config: TrainConfig) -> Saved:
    read = (Saved.read(folder / STARTS / str(i), one) for i, one in enumerate(config.trainings(), 1))
    ended = {i: end for i, end in enumerate(read) if end and len(end.records("SVI")) == config.epochs}
    losses = {i: training.final_loss(end.records("SVI")) for i, end in ended.items()}
    best = ended[min(losses, key=losses.__getitem__)]
    best = dataclasses.replace(best, start=training.best_start([end.start for end in ended.values()]))
    best.history[-1]["starts"] = [
        {
            "pretrain_epochs": one.pretrain_epochs,
            "loss": losses.get(i),  # None where it became nan
            "seconds": sum(record["seconds"] for record in ended[i].history) if i in ended else 0.0,
        }
        for i, one in enumerate(config.trainings())
    ]
    best.write(folder, config)
    best.write_metrics(folder)
    return best


def _begin(folder: Path, config: TrainConfig) -> Saved | None:
    """What there is of the run, after its folder was put in order."""
    checkpoint.clear_unfinished(folder, CHECKPOINT, METRICS, "config.json", "summary.json", "result.json", "loo.nc")
    checkpoint.clear_unfinished(folder / "figures", "*.png")
    saved = Saved.read(folder, config)
    if saved:
        saved.write_metrics(folder)  # of which a line may be missing, or be half written
    else:
        (folder / METRICS).unlink(missing_ok=True)
    if saved is None or len(saved.records("SVI")) < config.epochs:
        clear_artefacts(folder)  # which are of the network as it was
    return saved


def clear_artefacts(folder: Path) -> None:
    """Remove what an earlier compaction of the run wrote."""
    checkpoint.clear_unfinished(folder, *ARTEFACTS)
    for name in ARTEFACTS:
        (folder / name).unlink(missing_ok=True)


def _open(folder: Path) -> tuple[TrainConfig, data.Dataset]:
    has_started = (folder / CHECKPOINT).exists()  # since when the pretrained weights are of no use to it
    read: Any = (*read_config(folder), has_started) if processes.is_first() else None
    config, noted, has_started = processes.broadcast(read)
    dataset = load_data(config)
    now = describe(dataclasses.replace(config, pretrained=None) if has_started else config, dataset)
    check_same(noted, now, f"run {folder}", config)
    cores = max(1, num_cores() // processes.on_this_machine())
    torch.set_num_threads(min(config.threads, cores))  # it may have been made on another machine
    return config, dataset


def read_config(folder: Path) -> tuple[TrainConfig, dict[str, Any]]:
    """The settings of the run in a folder, and what :func:`bbpyro.runs.origins.describe` said when it was made.

    Raises:
        CheckpointError: there is none, or its config.json was altered.
        ValueError: a module of the user's that it names cannot be imported from here.
    """
    path = folder / "config.json"
    if not path.is_file():
        raise CheckpointError(f"{folder} is no bbpyro run: {_instead(folder)}")
    try:
        description = json.loads(path.read_text(encoding="utf-8"))
        config = TrainConfig.from_json(as_written(description["config"]))
        noted = dict(description)
        if not isinstance(noted["data"], str):
            raise TypeError("data is no text")
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise _altered(path, error) from None
    try:
        config.check_modules()
    except ValueError as error:
        raise ValueError(f"run {folder}: {error}; go to the folder that the module is in") from None
    try:
        config.validate()
    except ValueError as error:
        raise _altered(path, error) from None
    return config, noted


def _instead(folder: Path) -> str:
    """What there is in place of a run."""
    if not folder.is_dir():
        return "there is no such folder"
    if (folder / "study.json").is_file():
        return f"it is a study; its runs are the folders seed-N in {folder / 'runs'}"
    return "it has no config.json"


def _altered(path: Path, error: Exception) -> CheckpointError:
    return CheckpointError(f"{path} was altered, or written by another version of bbpyro ({error})")
