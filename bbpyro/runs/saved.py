"""What a run keeps of its training, epoch by epoch."""

import json
import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from bbpyro import checkpoint, training
from bbpyro.checkpoint import CheckpointError
from bbpyro.runs.config import TrainConfig, as_written

CHECKPOINT = "checkpoint.safetensors"
METRICS = "metrics.jsonl"


def state_dict_of(net: nn.Module) -> dict[str, Tensor]:
    """The tensors of a network, with or without gates, by their names in the plain one where they have one."""
    return {name.removeprefix("net."): tensor for name, tensor in net.state_dict().items()}


@dataclass(frozen=True)
class Saved:
    """What a checkpoint holds: the network in training, its optimizer, all records, idle units, scores at the start."""

    network: dict[str, Tensor]
    optimizer: dict[str, Tensor]
    history: list[dict[str, Any]]
    idle: dict[str, Tensor] = field(default_factory=dict)
    start: dict[str, Tensor] = field(default_factory=dict)

    @property
    def phase(self) -> str:
        """What was being trained: "pretraining" or "SVI"."""
        phase: str = self.history[-1]["phase"]
        return phase

    def records(self, phase: str) -> list[dict[str, Any]]:
        """The records of a phase."""
        return [record for record in self.history if record["phase"] == phase]

    def state(self, seed: int) -> training.TrainingState:
        """What training goes on from."""
        return training.TrainingState(seed, self.records(self.phase), self.optimizer, idle=self.idle, start=self.start)

    def load_into(self, net: nn.Module, folder: Path) -> None:
        """Give `net` these weights; a CheckpointError names the first that does not fit."""
        wanted = state_dict_of(net)
        checkpoint.check_state_dict(f"the checkpoint of {folder}", self.network, wanted)
        names = net.state_dict()
        net.load_state_dict({name: self.network[short] for name, short in zip(names, wanted, strict=True)})

    def write(self, folder: Path, config: TrainConfig, num_new: int = 1) -> None:
        """Write the checkpoint into a run folder, and then a line for each new epoch below those that are there."""
        groups = {"network": self.network, "optimizer": self.optimizer, "idle": self.idle, "start": self.start}
        tensors = {f"{group}.{name}": t for group, named in groups.items() for name, t in named.items()}
        checkpoint.save(folder / CHECKPOINT, tensors, {"config": config.to_json(), "history": self.history})
        checkpoint.append(folder / METRICS, b"".join(map(_line, self.history[-num_new:])))

    def write_metrics(self, folder: Path) -> None:
        """Write a line an epoch in place of those that are there."""
        checkpoint.write_atomic(folder / METRICS, b"".join(map(_line, self.history)))

    @classmethod
    def read(cls, folder: Path, config: TrainConfig) -> "Saved | None":
        """The newest checkpoint of a run, if it has one; a CheckpointError where it is damaged or of another run."""
        if not (folder / CHECKPOINT).exists():
            return None
        tensors, meta = checkpoint.load(folder / CHECKPOINT)
        if TrainConfig.from_json(as_written(meta["config"])) != config:
            raise CheckpointError(
                f"{folder}: {CHECKPOINT} is of another network or run, or config.json was altered: settings differ"
            )
        groups: dict[str, dict[str, Tensor]] = {"network": {}, "optimizer": {}, "idle": {}, "start": {}}
        for full_name, tensor in tensors.items():
            group, name = full_name.split(".", 1)
            groups[group][name] = tensor
        return cls(groups["network"], groups["optimizer"], meta["history"], groups["idle"], groups["start"])


class Pace:
    """When a checkpoint is due: after each epoch that takes a second, and of shorter ones after each hundredth more.

    A checkpoint holds all records: of 8,000 epochs of five data, of five milliseconds each, the last takes a tenth of a
    second to write.
    """

    def __init__(self) -> None:
        self.num_new = 0  # epochs that are not written
        self._written = -math.inf

    def is_due(self, num_done: int, now: float) -> bool:
        """Whether to write after one more epoch, which makes so many, at this time in seconds."""
        self.num_new += 1
        return num_done % max(1, num_done // 100) == 0 or now - self._written >= 1

    def wrote(self, now: float) -> None:
        """All epochs are written now."""
        self.num_new, self._written = 0, now


def _line(record: dict[str, Any]) -> bytes:
    return (json.dumps(record) + "\n").encode()
