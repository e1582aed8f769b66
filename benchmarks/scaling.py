"""What the gates cost over the size of a network: time and memory of one training step, as bbpyro.fit runs it.

    python benchmarks/scaling.py                                          # some minutes
    python benchmarks/scaling.py --width 1e3 1e4 --batch 100 --rounds 3 --processes
    python benchmarks/scaling.py --width --processes 2 4                  # several processes alone
    MALLOC_MMAP_MAX_=0 MALLOC_TRIM_THRESHOLD_=-1 python benchmarks/scaling.py   # the allocator keeps what is freed

The network is K-16-10: Linear(K, 16), ReLU, Linear(16, 10), so that K gates stand before a layer that costs little. It
is trained by bbpyro.fit, by bbpyro.training.pretrain with nn.Dropout in place of the gates, and by pretrain as it is.
Each is a process of its own, of one thread; they take turns, a short training each, whose first step does not count.

ms           CPU time of a step, the median over the rounds; a machine that is busy beside moves it less than wall time.
beyond       bbpyro's step without the nn.Dropout network's: what learning the rates costs.
a mask       that, by B·K.
unit, datum  beyond a unit, as a multiple of what it is at the K before; and beyond a datum, at the batch before. Linear
             growth is 1; below it, costs that do not depend on the size are still shared out by more units.
MiB          how far a process's resident memory rose during its steps, at its highest (Linux only).

Slopes are of the growth above the smallest size, in log-log, over the sizes that cost at least half as much again; 1 is
linear.

Several processes (--processes) share each minibatch, as torchrun has them, by gloo. Their table is of LeNet-500-300 and
of a wide network, with the time of a step by the clock, and how many times as many data a second that makes as one
process. It wants as many idle cores.
"""

import argparse
import contextlib
import itertools
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from measuring import (
    MIB,
    TakingTurns,
    Tell,
    begin_at_rest,
    markdown,
    memory,
    processor,
    reset_peak_trimmed,
    wide_console,
    with_nn_dropout,
)
from rich.progress import track
from rich.table import Table
from torch import Tensor, nn

import bbpyro
from bbpyro.training import pretrain

HIDDEN, NUM_CLASSES = 16, 10
VARIANTS = ("plain", "nn.Dropout", "bbpyro")


@dataclass(frozen=True)
class Size:
    """Of a network, its minibatch, and how many processes share that."""

    width: int
    batch: int
    hidden: tuple[int, ...] = (HIDDEN,)
    processes: int = 1

    @property
    def masks(self) -> int:
        """B·K: how many z of the inputs a step draws."""
        return self.batch * self.width

    @property
    def network(self) -> str:
        """Its name."""
        return "-".join(map(str, (self.width, *self.hidden, NUM_CLASSES)))

    def make(self) -> nn.Sequential:
        """The plain network."""
        widths = (self.width, *self.hidden, NUM_CLASSES)
        layers: list[nn.Module] = []
        for inputs, outputs in itertools.pairwise(widths):
            layers += [nn.Linear(inputs, outputs), nn.ReLU()]
        return nn.Sequential(*layers[:-1])


SHARED = (Size(784, 200, (500, 300)), Size(10_000, 1000))  # what several processes are timed with


@dataclass(frozen=True)
class Step:
    """What one step took: seconds of the processor, and by the clock; and how far memory rose, in bytes."""

    cpu: float
    wall: float
    rise: float


@dataclass(frozen=True)
class Cost:
    """Of one step of the three networks at one size: by variant, the steps of each round."""

    size: Size
    steps: dict[str, list[Step]]

    def beyond(self, variant: str) -> float:
        """Seconds of bbpyro's step without another's."""
        pairs = zip(self.steps["bbpyro"], self.steps[variant], strict=True)
        return statistics.median(ours.cpu - theirs.cpu for ours, theirs in pairs)

    def cpu(self, variant: str) -> float:
        """Seconds of the processor."""
        return statistics.median(step.cpu for step in self.steps[variant])

    def wall(self, variant: str) -> float:
        """Seconds by the clock."""
        return statistics.median(step.wall for step in self.steps[variant])

    def rise(self, variant: str) -> float:
        """Bytes by which memory rose."""
        return self.steps[variant][0].rise


def train_by_turns(tell: Tell, variant: str, size: Size, rank: int, meeting: Path) -> None:
    """A short training a turn, with the other processes; tells what its steps took."""
    torch.manual_seed(0)
    num_steps = min(15, max(3, 2_000_000 // size.masks))
    num_data = (num_steps + 1) * size.batch
    x, y = torch.rand(num_data, size.width), torch.randint(NUM_CLASSES, (num_data,))
    train = training(variant, size, x, y)
    begin_at_rest()
    if size.processes > 1:
        torch.distributed.init_process_group("gloo", f"file://{meeting}", rank=rank, world_size=size.processes)
    rests: list[float] = []
    while True:
        began: list[tuple[float, float]] = []

        def note(x: Tensor, began: list[tuple[float, float]] = began) -> Tensor:
            if len(x) > -(-size.batch // size.processes):
                raise RuntimeError(f"{len(x)} data of a minibatch of {size.batch} in one of {size.processes} processes")
            if not rests:
                rests.append(reset_peak_trimmed())
            began.append((time.process_time(), time.perf_counter()))
            return x

        train(note)
        cpu, wall = np.median(np.diff(np.array(began[1:]), axis=0), axis=0)
        tell(Step(cpu, wall, memory("VmHWM") - rests[0]))


def training(variant: str, size: Size, x: Tensor, y: Tensor) -> Callable[[Callable[[Tensor], Tensor]], object]:
    """One epoch of a network; it is given what is called with each minibatch before its step."""
    plain = size.make()
    if variant != "bbpyro":
        net = plain if variant == "plain" else with_nn_dropout(plain, size.width)
        return lambda each: pretrain(net, x, y, num_epochs=1, batch_size=size.batch, augment=each, progress=False)
    bnn = bbpyro.BetaBernoulliNetwork(bbpyro.insert_dropout(plain), num_data=len(x))
    return lambda each: bbpyro.fit(bnn, x, y, num_epochs=1, batch_size=size.batch, augment=each, progress=False)


def measure(size: Size, rounds: int) -> Cost:
    """The cost at one size; the first round does not count, but for memory."""
    with tempfile.TemporaryDirectory() as folder, contextlib.ExitStack() as block:
        teams = {
            name: [
                block.enter_context(TakingTurns(train_by_turns, name, size, rank, Path(folder) / name))
                for rank in range(size.processes)
            ]
            for name in VARIANTS
        }
        turns = [{name: turn_of(team) for name, team in teams.items()} for _ in range(rounds + 1)]
    first = turns[0]
    steps = {name: [replace(each[name], rise=first[name].rise) for each in turns[1:]] for name in VARIANTS}
    return Cost(size, steps)


def turn_of(team: Sequence[TakingTurns]) -> Step:
    """What the first process of those that work together tells."""
    for worker in team:
        worker.begin()
    told: list[Step] = [worker.end() for worker in team]
    return told[0]


def growth(cost: Cost, before: Cost | None) -> float:
    """How bbpyro's step without nn.Dropout's grew from one size to another, by how the size did."""
    if before is None:
        return float("nan")
    return cost.beyond("nn.Dropout") / before.beyond("nn.Dropout") / (cost.size.masks / before.size.masks)


def slope(sizes: Sequence[float], seconds: Sequence[float]) -> float:
    """In log-log, of what is above the first; nan where fewer than two cost half as much again."""
    above = [
        (size - sizes[0], cost - seconds[0])
        for size, cost in zip(sizes, seconds, strict=True)
        if cost > 1.5 * seconds[0]
    ]
    if len(above) < 2:
        return float("nan")
    logs = np.log(np.array(above))
    return float(np.polyfit(logs[:, 0], logs[:, 1], 1)[0])


def costs_table(costs: dict[tuple[int, int], Cost], widths: Sequence[int], batches: Sequence[int]) -> Table:
    """A row a size."""
    titles = ("K", "batch", *(f"{name}, ms" for name in VARIANTS), "/ nn.Dropout", "beyond, ms", "a mask, ns")
    table = markdown(*titles, "unit", "datum", *(f"{name}, MiB" for name in VARIANTS))
    smaller_width, smaller_batch = (dict(itertools.pairwise(sizes[::-1])) for sizes in (widths, batches))
    for (width, batch), cost in costs.items():
        ours, theirs, beyond = cost.cpu("bbpyro"), cost.cpu("nn.Dropout"), cost.beyond("nn.Dropout")
        growths = (
            growth(cost, costs.get((smaller_width.get(width, 0), batch))),
            growth(cost, costs.get((width, smaller_batch.get(batch, 0)))),
        )
        table.add_row(
            f"{width:,}",
            f"{batch:,}",
            *(f"{1e3 * cost.cpu(name):.2f}" for name in VARIANTS),
            f"{ours / theirs:.2f}",
            f"{1e3 * beyond:.2f}",
            f"{1e9 * beyond / cost.size.masks:.1f}",
            *(f"{ratio:.2f}" if ratio == ratio else "" for ratio in growths),
            *(f"{cost.rise(name) / MIB:.0f}" for name in VARIANTS),
        )
    return table


def slopes_table(costs: dict[tuple[int, int], Cost]) -> Table:
    """A row a line of sizes."""
    table = markdown("bbpyro's step grows with", "at", "beyond nn.Dropout's", "beyond the plain one's")
    for index, (name, other) in enumerate((("K", "batch"), ("batch", "K"))):
        lines: dict[int, list[Cost]] = {}
        for size, cost in costs.items():
            lines.setdefault(size[1 - index], []).append(cost)
        for fixed, line in sorted(lines.items()):
            sizes = [(cost.size.width, cost.size.batch)[index] for cost in line]
            slopes = [slope(sizes, [cost.beyond(variant) for cost in line]) for variant in ("nn.Dropout", "plain")]
            table.add_row(name, f"{other} {fixed:,}", *(f"{each:.2f}" if each == each else "" for each in slopes))
    return table


def processes_table(sizes: Sequence[Size], rounds: int) -> Table:
    """A row a network and a number of processes."""
    titles = (f"{name}{what}" for name in VARIANTS for what in (", ms", ", data a second"))
    table = markdown("network", "batch", "processes", *titles)
    alone: dict[str, Cost] = {}
    for size in track(sizes, "timing", transient=True):
        cost = measure(size, rounds)
        one = alone.setdefault(size.network, cost)
        cells = [(f"{1e3 * cost.wall(name):.2f}", f"{one.wall(name) / cost.wall(name):.2f}x") for name in VARIANTS]
        table.add_row(size.network, f"{size.batch:,}", str(size.processes), *itertools.chain(*cells))
    return table


def number(text: str) -> int:
    """A whole number, be it written as 1e4."""
    return int(float(text))


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure every size and print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--width", nargs="*", type=number, default=[100, 1000, 10_000, 100_000], help="units K, e.g. 1e2 1e3"
    )
    parser.add_argument("--batch", nargs="*", type=number, default=[10, 100, 1000], help="data in a minibatch, B")
    parser.add_argument("--largest", type=float, default=1e7, help="leave out sizes of more masks B·K than this")
    parser.add_argument("--processes", nargs="*", type=int, default=[2], help="that train together; none: leave it out")
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args(arguments)
    widths, batches = sorted(options.width), sorted(options.batch)
    sizes = [(width, batch) for batch in batches for width in widths if width * batch <= options.largest]
    console = wide_console()
    console.print(f"{processor()}, one thread a process")
    if sizes:
        costs = {size: measure(Size(*size), options.rounds) for size in track(sizes, "timing", transient=True)}
        console.print(costs_table(costs, widths, batches))
        console.print(slopes_table(costs))
    shared = [replace(size, processes=processes) for size in SHARED for processes in (1, *options.processes)]
    if options.processes:
        console.print(processes_table(shared, options.rounds))


if __name__ == "__main__":
    main()
