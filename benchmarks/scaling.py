"""What the gates cost over the size of a network: time and memory of one training step, as bbpyro.fit runs it.

    python benchmarks/scaling.py                                          # some minutes
    python benchmarks/scaling.py --width 1e3 1e4 --batch 100 --rounds 3
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

Slopes are of the growth above the smallest size, in log-log, over the sizes that cost at least a fifth more; 1 is
linear.
"""

import argparse
import itertools
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

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
class Cost:
    """Of one step of the three networks at one size.

    Attributes:
        seconds: by variant, one median a round.
        bytes: by variant, the rise of memory.
    """

    width: int
    batch: int
    seconds: dict[str, list[float]]
    bytes: dict[str, float]

    @property
    def masks(self) -> int:
        """B·K: how many z a step draws."""
        return self.batch * self.width

    def beyond(self, variant: str) -> float:
        """Seconds of bbpyro's step without another's."""
        pairs = zip(self.seconds["bbpyro"], self.seconds[variant], strict=True)
        return statistics.median(ours - theirs for ours, theirs in pairs)

    def median(self, variant: str) -> float:
        """Seconds of a step."""
        return statistics.median(self.seconds[variant])


def network(width: int) -> nn.Sequential:
    """K-16-10."""
    return nn.Sequential(nn.Linear(width, HIDDEN), nn.ReLU(), nn.Linear(HIDDEN, NUM_CLASSES))


def train_by_turns(tell: Tell, variant: str, width: int, batch: int, num_steps: int) -> None:
    """A short training a turn; tells the median seconds of its steps, and the rise of memory in those of the first."""
    torch.manual_seed(0)
    num_data = (num_steps + 1) * batch
    x, y = torch.rand(num_data, width), torch.randint(NUM_CLASSES, (num_data,))
    train = training(variant, x, y, batch)
    begin_at_rest()
    rests: list[float] = []
    while True:
        began: list[float] = []

        def note(x: Tensor, began: list[float] = began) -> Tensor:
            if not rests:
                rests.append(reset_peak_trimmed())
            began.append(time.process_time())
            return x

        train(note)
        seconds = [after - before for before, after in itertools.pairwise(began)]
        rise = memory("VmHWM") - rests[0]
        tell((statistics.median(seconds[1:] or seconds), rise))


def training(variant: str, x: Tensor, y: Tensor, batch: int) -> Callable[[Callable[[Tensor], Tensor]], object]:
    """One epoch of a network; it is given what is called with each minibatch before its step."""
    plain = network(x.shape[1])
    if variant != "bbpyro":
        net = plain if variant == "plain" else with_nn_dropout(plain, x.shape[1])
        return lambda each: pretrain(net, x, y, num_epochs=1, batch_size=batch, augment=each, progress=False)
    bnn = bbpyro.BetaBernoulliNetwork(bbpyro.insert_dropout(plain), num_data=len(x))
    return lambda each: bbpyro.fit(bnn, x, y, num_epochs=1, batch_size=batch, augment=each, progress=False)


def measure(width: int, batch: int, rounds: int) -> Cost:
    """The cost at one size."""
    num_steps = min(15, max(3, 2_000_000 // (batch * width)))
    workers = {name: TakingTurns(train_by_turns, name, width, batch, num_steps) for name in VARIANTS}
    try:
        turns = [{name: worker.turn() for name, worker in workers.items()} for _ in range(rounds + 1)]
    finally:
        for worker in workers.values():
            worker.stop()
    seconds = {name: [each[name][0] for each in turns[1:]] for name in VARIANTS}
    return Cost(width, batch, seconds, {name: turns[0][name][1] for name in VARIANTS})


def growth(cost: Cost, before: Cost | None) -> float:
    """How bbpyro's step without nn.Dropout's grew from one size to another, by how the size did."""
    if before is None:
        return float("nan")
    return cost.beyond("nn.Dropout") / before.beyond("nn.Dropout") / (cost.masks / before.masks)


def slope(sizes: Sequence[float], seconds: Sequence[float]) -> float:
    """In log-log, of what is above the first; nan where fewer than two cost a fifth more than it."""
    above = [
        (size - sizes[0], cost - seconds[0])
        for size, cost in zip(sizes, seconds, strict=True)
        if cost > 1.2 * seconds[0]
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
        ours, theirs, beyond = cost.median("bbpyro"), cost.median("nn.Dropout"), cost.beyond("nn.Dropout")
        growths = (
            growth(cost, costs.get((smaller_width.get(width, 0), batch))),
            growth(cost, costs.get((width, smaller_batch.get(batch, 0)))),
        )
        table.add_row(
            f"{width:,}",
            f"{batch:,}",
            *(f"{1e3 * cost.median(name):.2f}" for name in VARIANTS),
            f"{ours / theirs:.2f}",
            f"{1e3 * beyond:.2f}",
            f"{1e9 * beyond / cost.masks:.1f}",
            *(f"{ratio:.2f}" if ratio == ratio else "" for ratio in growths),
            *(f"{cost.bytes[name] / MIB:.0f}" for name in VARIANTS),
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
            sizes = [(cost.width, cost.batch)[index] for cost in line]
            slopes = [slope(sizes, [cost.beyond(variant) for cost in line]) for variant in ("nn.Dropout", "plain")]
            table.add_row(name, f"{other} {fixed:,}", *(f"{each:.2f}" if each == each else "" for each in slopes))
    return table


def number(text: str) -> int:
    """A whole number, be it written as 1e4."""
    return int(float(text))


def main() -> None:
    """Measure every size and print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--width", nargs="+", type=number, default=[100, 1000, 10_000, 100_000], help="units K, e.g. 1e2 1e3"
    )
    parser.add_argument("--batch", nargs="+", type=number, default=[10, 100, 1000], help="data in a minibatch, B")
    parser.add_argument("--largest", type=float, default=1e7, help="leave out sizes of more masks B·K than this")
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    widths, batches = sorted(options.width), sorted(options.batch)
    sizes = [(width, batch) for batch in batches for width in widths if width * batch <= options.largest]
    costs = {size: measure(*size, options.rounds) for size in track(sizes, "timing", transient=True)}
    console = wide_console()
    console.print(f"K-{HIDDEN}-{NUM_CLASSES}, {processor()}, one thread")
    console.print(costs_table(costs, widths, batches))
    console.print(slopes_table(costs))


if __name__ == "__main__":
    main()
