"""The loop over epochs that pretraining and SVI share, and the state from which it goes on."""

import contextlib
import math
import time
import warnings
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyro
import torch
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from torch import Tensor, nn

from bbpyro.layers import device_of
from bbpyro.likelihoods import Likelihood, is_classification


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
    """

    seed: int
    history: list[dict[str, Any]] = field(default_factory=list)
    optimizer: dict[str, Tensor] = field(default_factory=dict)


@dataclass
class Epochs:
    """The loop that both phases share: batches, schedule, progress bar, history."""

    label: str
    x: Tensor
    y: Tensor
    num_epochs: int
    batch_size: int
    schedule: Callable[[float], float]
    progress: bool | Console
    on_epoch: Callable[[TrainingState], None] | None
    augment: Callable[[Tensor], Tensor] | None = None

    def run(
        self,
        module: nn.Module,
        optimizer: torch.optim.Optimizer,
        step: Callable[[Tensor, Tensor], float],
        report: Callable[[], dict[str, Any]],
        state: TrainingState,
        begin: Callable[[int], None] = lambda epoch: None,
    ) -> list[dict[str, Any]]:
        """Train from the end of `state` to num_epochs, leaving torch's global generator as it was."""
        base_rates = [group["lr"] for group in optimizer.param_groups]
        _load_optimizer(optimizer, state.optimizer)
        with (
            self._bar(len(state.history)) as advance,
            torch.random.fork_rng(),
            torch.enable_grad(),
            warnings.catch_warnings(),
        ):
            warnings.filterwarnings("ignore", message="Encountered (NaN|\\+?-?inf)")  # step raises instead
            for epoch in range(len(state.history), self.num_epochs):
                started = time.perf_counter()
                factor = self.schedule(epoch / self.num_epochs)
                for group, rate in zip(optimizer.param_groups, base_rates, strict=True):
                    group["lr"] = rate * factor
                begin(epoch)
                module.train()
                loss = self._one_pass(epoch, module, state.seed, step, advance)
                module.eval()
                record = {
                    "phase": self.label,
                    "epoch": epoch + 1,
                    "learning_rate": [group["lr"] for group in optimizer.param_groups],
                    "loss": loss,
                    **report(),
                    "seconds": time.perf_counter() - started,
                }
                state = TrainingState(state.seed, [*state.history, record], _optimizer_tensors(optimizer))
                if self.on_epoch:
                    self.on_epoch(state)
        return state.history

    def _one_pass(
        self,
        epoch: int,
        module: nn.Module,
        seed: int,
        step: Callable[[Tensor, Tensor], float],
        advance: Callable[[int, int], None],
    ) -> float:
        # The epoch's randomness follows from (seed, phase, epoch), so a resumed run needs no generator's state.
        torch.manual_seed(int(np.random.SeedSequence([seed, *self.label.encode(), epoch]).generate_state(1)[0]))
        batches = torch.randperm(len(self.x)).split(self.batch_size)
        device = device_of(module)
        total = 0.0
        for i, batch in enumerate(batches):
            x, y = self.x[batch].to(device), self.y[batch].to(device)
            x = _augmented(self.augment, x) if self.augment else x
            try:
                total += step(x, y) * len(batch)
            except ArithmeticError as error:
                layer = _first_non_finite(module, x) or "the gates' masks or the ELBO"
                raise NonFiniteLossError(epoch + 1, i + 1, layer) from error
            advance(epoch, len(batches))
        broken = _first_non_finite(module, x)  # by the last step, whose loss nobody has seen
        if broken is not None:
            raise NonFiniteLossError(epoch + 1, len(batches), broken)
        return total / len(self.x)

    @contextlib.contextmanager
    def _bar(self, epochs_done: int) -> Iterator[Callable[[int, int], None]]:
        if not self.progress:
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
        steps_an_epoch = math.ceil(len(self.x) / self.batch_size)
        with Progress(*columns, console=console, transient=True) as bar:
            task = bar.add_task(
                self.label, total=self.num_epochs * steps_an_epoch, completed=epochs_done * steps_an_epoch
            )

            def advance(epoch: int, num_batches: int) -> None:
                bar.update(task, advance=1, description=f"{self.label} epoch {epoch + 1}/{self.num_epochs}")

            yield advance


def _augmented(augment: Callable[[Tensor], Any], x: Tensor) -> Tensor:
    changed = augment(x)
    if not isinstance(changed, Tensor) or len(changed) != len(x):
        got = f"[{', '.join(map(str, changed.shape))}]" if isinstance(changed, Tensor) else type(changed).__name__
        raise ValueError(f"augment: of a minibatch {list(x.shape)} it made {got}, wanted as many data")
    return changed


def fused_adam(groups: list[dict[str, Any]], weight_decay: float = 0.0) -> torch.optim.Adam:
    """One Adam over all parameters, in one kernel."""
    return torch.optim.Adam(groups, weight_decay=weight_decay, fused=True)


def _optimizer_tensors(optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    state = optimizer.state_dict()["state"]
    return {f"{index}.{name}": tensor for index, slots in state.items() for name, tensor in slots.items()}


def _load_optimizer(optimizer: torch.optim.Optimizer, tensors: Mapping[str, Tensor]) -> None:
    slots: dict[int, dict[str, Tensor]] = {}
    for key, tensor in tensors.items():
        index, name = key.split(".", 1)
        slots.setdefault(int(index), {})[name] = tensor
    optimizer.load_state_dict({**optimizer.state_dict(), "state": slots})


def starting_state(seed: int | None, resume_from: TrainingState | None) -> TrainingState:
    """Where training starts: a given state, or a fresh one with a seed."""
    if resume_from is not None:
        return resume_from
    return TrainingState(seed=int(torch.randint(2**31, ())) if seed is None else seed)


def _first_non_finite(module: nn.Module, x: Tensor) -> str | None:
    """The first layer, in the order of the forward pass, whose parameters or output are not finite, if any."""
    found: list[str] = []

    def hook(name: str) -> Callable[..., None]:
        def check(layer: nn.Module, args: Any, output: Any) -> None:
            tensors = [*layer.parameters(recurse=False), *([output] if isinstance(output, Tensor) else [])]
            if not all(bool(tensor.isfinite().all()) for tensor in tensors):
                found.append(name)

        return check

    was_training = module.training
    module.eval()  # or batch norm would count this batch again
    handles = [layer.register_forward_hook(hook(name)) for name, layer in module.named_modules() if name]
    try:
        with torch.no_grad():
            module(x)
    finally:
        module.train(was_training)
        for handle in handles:
            handle.remove()
    return found[0].removeprefix("net.") if found else None


def check_data(x: Tensor, y: Tensor, num_data: int) -> None:
    """Raise a ValueError unless x and y are data for a network made for `num_data`."""
    if len(x) == 0 or len(x) != len(y):
        raise ValueError(f"x and y: lengths are {len(x)} and {len(y)}, wanted the same number of data, at least 1")
    if len(x) != num_data:
        raise ValueError(f"x: it holds {len(x)} data but the network was made for num_data={num_data}")
    for name, tensor in (("x", x), ("y", y)):
        if tensor.is_floating_point() and not bool(tensor.isfinite().all()):
            raise ValueError(f"{name}: it holds nan or inf; remove or replace those data")


@torch.no_grad()
def check_likelihood(likelihood: Likelihood, net: nn.Module, x: Tensor, y: Tensor) -> None:
    """Raise a ValueError unless the likelihood of `net`'s output describes one datum a row of y, labels in range."""
    if torch.is_inference_mode_enabled():
        raise ValueError("this cannot run under torch.inference_mode(); leave it first")
    net.eval()
    with pyro.validation_enabled(False):  # what is not finite is for the first step to report
        distribution: Any = likelihood(net(x[:2].to(device_of(net))))
    described = distribution.batch_shape + distribution.event_shape
    if described != y[:2].shape or len(distribution.batch_shape) != 1:
        raise ValueError(
            f"y: two data of it have shape {tuple(y[:2].shape)}, but the likelihood describes {tuple(described)} with "
            f"batch shape {tuple(distribution.batch_shape)}; wanted one datum a row, the rest as .to_event()"
        )
    if is_classification(distribution):
        last = distribution.logits.shape[-1] - 1
        if not bool((y == y.long()).all()):
            raise ValueError("y holds labels that are no whole numbers; a regression wants another likelihood")
        if not bool(((y >= 0) & (y <= last)).all()):
            raise ValueError(f"y holds labels {y.min()} to {y.max()}, wanted 0 to {last}")


def check_settings(num_epochs: int, batch_size: int, *learning_rates: float) -> None:
    """Raise a ValueError that names the setting out of range."""
    for name, number in (("num_epochs", num_epochs), ("batch_size", batch_size)):
        if number < 1:
            raise ValueError(f"{name} is {number}, wanted at least 1")
    for rate in learning_rates:
        if not 0 < rate < math.inf:
            raise ValueError(f"a learning rate is {rate}, wanted a positive number")


def check_batch_norm(net: nn.Module, num_data: int, batch_size: int) -> None:
    """Raise a ValueError where a minibatch would be one datum, of which nn.BatchNorm1d learns nothing."""
    is_single = batch_size == 1 or num_data % batch_size == 1
    if is_single and any(isinstance(module, nn.BatchNorm1d) for module in net.modules()):
        raise ValueError(
            f"batch_size is {batch_size}: of {num_data} data that leaves a minibatch of one, of which batch norm "
            "learns nothing; choose another"
        )


def check_choice(name: str, value: str, known: Collection[str]) -> None:
    """Raise a ValueError, with the known values, unless `value` is one of them."""
    if value not in known:
        raise ValueError(f"{name} is {value!r}, wanted one of {', '.join(known)}")
