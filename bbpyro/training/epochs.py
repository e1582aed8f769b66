"""The loop over epochs that pretraining and SVI share, and the state from which it goes on."""

import contextlib
import math
import time
import warnings
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from torch import Tensor, nn

from bbpyro import nests, processes
from bbpyro.bars import is_drawn
from bbpyro.denormals import flushed, zero_denormal
from bbpyro.layers import device_of
from bbpyro.nests import Nest
from bbpyro.training import parallel
from bbpyro.training.trained import Trained


class NonFiniteLossError(ArithmeticError):
    """The loss became nan or infinite; no step was taken with it.

    Attributes:
        epoch: the epoch, counted from 1.
        step: the minibatch within it, counted from 1.
        layer: the first layer whose parameters or output are not finite.
    """

    def __init__(self, epoch: int, step: int, layer: str) -> None:
        super().__init__(
            f"the loss is not finite in epoch {epoch}, step {step}; the first layer that is not is {layer!r}. "
            "A smaller learning rate is the usual remedy"
        )
        self.epoch, self.step, self.layer = epoch, step, layer


@dataclass
class TrainingState:
    """What training needs, beside the network's own state_dict, to go on exactly where it stopped.

    Attributes:
        seed: every epoch's data order and noise follow from it and from the epoch's number alone.
        history: one record an epoch that is done.
        optimizer: the optimizer's tensors, by name.
        stored: what is trained in Pyro's parameter store alone, such as a `pyro.param` of the likelihood, by name.
        idle: at how many looks on end each unit of a gate was idle, by gate, where training sheds units.
        start: how good the network was that training started from, see :mod:`bbpyro.training.judging`.
    """

    seed: int
    history: list[dict[str, Any]] = field(default_factory=list)
    optimizer: dict[str, Tensor] = field(default_factory=dict)
    stored: dict[str, Tensor] = field(default_factory=dict)
    idle: dict[str, Tensor] = field(default_factory=dict)
    start: dict[str, Tensor] = field(default_factory=dict)


@dataclass(frozen=True)
class Learner:
    """What an epoch trains, and how.

    Attributes:
        module: the network.
        optimizer: of its parameters, in groups of one rate each.
        step: takes a step by a minibatch x, y, or by this process's part of it, and what a datum of that weighs, see
            :func:`bbpyro.processes.share`; returns its loss, a datum.
        x: the inputs that minibatches are taken of.
        prepare: what is made of the inputs of a minibatch before the step.
        read: what is made of inputs as they are given to the whole network, for this one.
        offset: what the loss of a step leaves out, a datum.
    """

    module: nn.Module
    optimizer: torch.optim.Optimizer
    step: Callable[[Nest, Tensor, float], float]
    x: Nest
    prepare: Callable[[Nest], Nest] | None = None
    read: Callable[[Nest], Nest] | None = None
    offset: float = 0.0


class Trainee:
    """What the epochs train: the whole of a network, unless a subclass leaves some of it out.

    Args:
        whole: all of it.
        tell: is called with each epoch's number, counted from 0, before it begins.
    """

    def __init__(self, whole: Learner, tell: Callable[[int], None] = lambda epoch: None) -> None:
        self.whole, self.tell = whole, tell

    def begin(self, state: TrainingState) -> Learner:
        """What the epoch after those of `state` trains."""
        self.tell(len(state.history))
        return self.whole

    def end(self, learner: Learner, state: TrainingState) -> dict[str, Tensor]:
        """Have the whole network be what was learnt; returns what the next state says is idle."""
        return {}

    def close(self) -> None:
        """Called at the end, also of a training that failed."""


@dataclass
class Epochs:
    """The loop that both phases share: batches, schedule, progress bar, history."""

    label: str
    y: Tensor
    num_epochs: int
    batch_size: int
    schedule: Callable[[float], float]
    progress: bool | Console
    on_epoch: Callable[[TrainingState], None] | None

    def run(
        self, trainee: Trainee, trained: Trained, report: Callable[[Learner], dict[str, Any]], state: TrainingState
    ) -> list[dict[str, Any]]:
        """Train from the end of `state` to num_epochs, leaving torch's global generator as it was.

        Args:
            trainee: what is trained.
            trained: its parameters.
            report: what a record says, beside the loss, after an epoch that trained this.
            state: where to go on from.
        """
        whole = trainee.whole
        base_rates = [group["lr"] for group in whole.optimizer.param_groups]
        settings = {"num_epochs": self.num_epochs, "batch_size": self.batch_size, "learning_rate": base_rates}
        settings |= {"seed": state.seed, "epochs": len(state.history), "shed": type(trainee).__name__}
        parallel.check_same((whole.x, self.y), **settings)
        _load_optimizer(whole.optimizer, state.optimizer)
        trained.load(state.stored)
        parallel.take_from_first(trained.stored.values())
        _clean(whole)  # what was trained elsewhere, or by an earlier version
        with (
            flushed(),
            self._bar(len(state.history)) as advance,
            torch.random.fork_rng(),
            torch.enable_grad(),
            warnings.catch_warnings(),
            contextlib.closing(trainee),
        ):
            warnings.filterwarnings("ignore", message="Encountered (NaN|\\+?-?inf)")  # step raises instead
            for epoch in range(len(state.history), self.num_epochs):
                started = time.perf_counter()
                self._seed(epoch, state.seed)
                learner = trainee.begin(state)
                factor = self.schedule(epoch / self.num_epochs)
                for group, rate in zip(learner.optimizer.param_groups, base_rates, strict=True):
                    group["lr"] = rate * factor
                learner.module.train()
                self._seed(epoch, state.seed)  # again, for a resumed run makes anew what this one has
                loss = self._one_pass(epoch, state.seed, learner, advance)
                learner.module.eval()
                parallel.take_from_first(learner.module.buffers())
                _clean(learner)
                idle = processes.broadcast(trainee.end(learner, state))
                record = {
                    "phase": self.label,
                    "epoch": epoch + 1,
                    "learning_rate": [group["lr"] for group in learner.optimizer.param_groups],
                    "loss": loss + learner.offset,
                    **report(learner),
                    "seconds": time.perf_counter() - started,
                }
                history = [*state.history, processes.broadcast(record)]
                stored = {name: tensor.detach() for name, tensor in trained.stored.items()}
                state = TrainingState(
                    state.seed, history, _optimizer_tensors(whole.optimizer), stored, idle, state.start
                )
                if self.on_epoch:
                    self.on_epoch(state)
        return state.history

    def _seed(self, epoch: int, seed: int, *process: int) -> None:
        # The epoch's randomness follows from (seed, phase, epoch), so a resumed run needs no generator's state.
        entropy = [seed, *self.label.encode(), epoch, *process]
        torch.manual_seed(int(np.random.SeedSequence(entropy).generate_state(1)[0]))

    def _one_pass(self, epoch: int, seed: int, learner: Learner, advance: Callable[[int, int], None]) -> float:
        batches = torch.randperm(len(self.y), device="cpu").split(self.batch_size)
        if not processes.is_first():  # the same order in all of them, and noise of its own in each
            self._seed(epoch, seed, processes.rank())
        device = device_of(learner.module)
        total = 0.0
        for i, batch in enumerate(batches):
            part, weight = processes.share(batch)
            x, y = nests.to_device(nests.rows((learner.x, self.y), part), device)
            x = learner.prepare(x) if learner.prepare else x
            try:
                total += learner.step(x, y, weight) * len(batch)
            except ArithmeticError as error:
                layer = _first_non_finite(learner.module, x) or "the gates' masks or the ELBO"
                raise NonFiniteLossError(epoch + 1, i + 1, layer) from error
            advance(epoch, len(batches))
        broken = _first_non_finite(learner.module, x)  # by the last step, whose loss nobody has seen
        if broken is not None:
            raise NonFiniteLossError(epoch + 1, len(batches), broken)
        return processes.total(total)[0] / processes.size() / len(self.y)

    @contextlib.contextmanager
    def _bar(self, epochs_done: int) -> Iterator[Callable[[int, int], None]]:
        if not is_drawn(self.progress) or not processes.is_first():
            yield lambda epoch, num_batches: None
            return
        columns = (
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("steps,"),
            TimeRemainingColumn(),
            TextColumn("left"),
        )
        console = self.progress if isinstance(self.progress, Console) else None
        steps_an_epoch = math.ceil(len(self.y) / self.batch_size)
        with Progress(*columns, console=console, transient=True) as bar:
            task = bar.add_task(
                self.label, total=self.num_epochs * steps_an_epoch, completed=epochs_done * steps_an_epoch
            )

            def advance(epoch: int, num_batches: int) -> None:
                bar.update(task, advance=1, description=f"{self.label} epoch {epoch + 1}/{self.num_epochs}")

            yield advance


def augmented(augment: Callable[[Nest], Any], x: Nest, read: Callable[[Nest], Nest] | None = None) -> Nest:
    """What `augment`, and then `read`, makes of a minibatch; a ValueError where that is not as many data."""
    changed = augment(x)
    if {tensor.shape[:1] for tensor in nests.tensors_of(changed)} != {nests.first(x).shape[:1]}:
        shapes = nests.map_tensors(lambda tensor: list(tensor.shape), changed)
        got = shapes if shapes and isinstance(changed, Tensor | tuple | list | dict) else type(changed).__name__
        wanted = nests.map_tensors(lambda tensor: list(tensor.shape), x)
        raise ValueError(f"augment: of a minibatch {wanted} it made {got}, wanted as many data")
    return read(changed) if read else changed


def fused_adam(groups: list[dict[str, Any]], weight_decay: float = 0.0) -> torch.optim.Adam:
    """One Adam over all parameters, in one kernel."""
    return torch.optim.Adam(groups, weight_decay=weight_decay, fused=True)


def _clean(learner: Learner) -> None:
    """Make 0 of weights and of Adam's moments that have decayed to nothing."""
    zero_denormal((*learner.module.parameters(), *_optimizer_tensors(learner.optimizer).values()))


def _optimizer_tensors(optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    state = optimizer.state_dict()["state"]
    return {f"{index}.{name}": tensor for index, slots in state.items() for name, tensor in slots.items()}


def _load_optimizer(optimizer: torch.optim.Optimizer, tensors: Mapping[str, Tensor]) -> None:
    slots: dict[int, dict[str, Tensor]] = {}
    for key, tensor in tensors.items():
        index, name = key.split(".", 1)
        slots.setdefault(int(index), {})[name] = tensor
    parameters = dict(enumerate(p for group in optimizer.param_groups for p in group["params"]))
    for i, named in slots.items():
        shapes = {tensor.shape for tensor in named.values() if tensor.dim()}
        if i not in parameters or shapes - {parameters[i].shape}:
            raise ValueError("resume_from: it is the state of another network; give the one that it was made with")
    optimizer.load_state_dict({**optimizer.state_dict(), "state": slots})


def starting_state(seed: int | None, resume_from: TrainingState | None) -> TrainingState:
    """Where training starts: a given state, or a fresh one with a seed."""
    if resume_from is not None:
        return resume_from
    if seed is None:
        seed = processes.broadcast(int(torch.randint(2**31, (), device="cpu")))
    return TrainingState(seed)


def _first_non_finite(module: nn.Module, x: Nest) -> str | None:
    """The first layer, in the order of the forward pass, whose parameters or output are not finite, if any."""
    found: list[str] = []

    def hook(name: str) -> Callable[..., None]:
        def check(layer: nn.Module, args: Any, output: Any) -> None:
            outputs = [output] if isinstance(output, Tensor) and not output.is_nested else []  # those torch cannot ask
            tensors = [*layer.parameters(recurse=False), *outputs]
            if not all(bool(tensor.isfinite().all()) for tensor in tensors):
                found.append(name)

        return check

    was_training = module.training
    module.eval()  # or batch norm would count this batch again
    handles = [layer.register_forward_hook(hook(name)) for name, layer in module.named_modules() if name]
    try:
        with torch.no_grad():
            nests.call(module, x)
    finally:
        module.train(was_training)
        for handle in handles:
            handle.remove()
    return found[0].removeprefix("net.") if found else None
