"""One pretraining for all runs of a study that begin alike: whichever comes first lends the others what it has.

The plain network knows nothing of gates: what it becomes depends on the data, the seed and a few settings, and not on
what is compared most often, a prior, a family of masks, a rate of the gates. A run that begins with another's
pretraining has the same numbers as one that pretrained by itself, bit for bit, and counts its epochs and seconds.
"""

import contextlib
import hashlib
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from bbpyro import checkpoint, runs
from bbpyro.checkpoint import CheckpointError

FOLDER = "pretrained"
# All other settings decide it, those too that there will be one day.
WITHOUT_EFFECT = (
    "prior",
    "family",
    "weight_prior",
    "weights",
    "temperature",
    "threshold",
    "initial_keep_probability",
    "epochs",
    "gate_learning_rate",
    "schedule",
    "kl_warmup_epochs",
    "kl_start",
    "elbo",
    "shed",
)


def file_of(folder: Path, config: runs.TrainConfig, made_from: Mapping[str, Any]) -> Path | None:
    """Where a study keeps the pretraining of a run; None where it has none to share.

    Args:
        folder: of the study.
        config: of the run.
        made_from: what :func:`bbpyro.runs.describe` says of its data and network.
    """
    if config.pretrained is not None or not config.pretrain_epochs or config.starts > 1:
        return None
    settings = {name: value for name, value in config.to_json().items() if name not in WITHOUT_EFFECT}
    made = {"settings": settings, "data": made_from.get("data"), "network": made_from.get("network")}
    digest = hashlib.sha256(json.dumps(made, sort_keys=True).encode()).hexdigest()
    return folder / FOLDER / f"{digest[:16]}.safetensors"


def borrow(shared: Path, run: Path, config: runs.TrainConfig) -> None:
    """Give a run that has not begun the pretraining that another has lent; one that cannot be read is made anew."""
    checkpoint.clear_unfinished(shared.parent, shared.name)  # of a process that was killed as it lent it
    if (run / runs.CHECKPOINT).exists() or not shared.exists():
        return
    with contextlib.suppress(CheckpointError):
        tensors, meta = checkpoint.load(shared)
        checkpoint.save(run / runs.CHECKPOINT, tensors, {**meta, "config": config.to_json()})


def lend(shared: Path, run: Path) -> Callable[[dict[str, Any], int, str], None]:
    """What is called after each epoch of a run, and keeps its checkpoint for others as pretraining ends."""

    def after_epoch(record: dict[str, Any], num_epochs: int, scored_on: str) -> None:
        if record["phase"] == "pretraining" and record["epoch"] == num_epochs:
            shared.parent.mkdir(exist_ok=True)
            checkpoint.write_atomic(shared, checkpoint.read_bytes(run / runs.CHECKPOINT))

    return after_epoch
