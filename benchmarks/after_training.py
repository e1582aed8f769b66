"""What a step and a prediction cost after training, beside before it; and the last epochs beside the first.

A fresh network hides what a long training does to its numbers: weights that nothing reads decay, and where they stop
among the denormals each product with one costs a hundred (on Intel's processors; AMD's mind less).

    bbpyro train --run runs/seed-0
    python benchmarks/after_training.py runs/seed-0

Medians of interleaved rounds, batch 100, one thread.
"""

import argparse
import contextlib
import copy
import functools
import statistics
from collections.abc import Callable
from pathlib import Path

import pyro
import torch
from measuring import interleaved, processor
from pyro.infer import SVI, Trace_ELBO
from rich.console import Console
from rich.table import Table
from torch import Tensor

import bbpyro
from bbpyro import runs
from bbpyro.denormals import flushed
from bbpyro.training import SingleOptimizer

ROUNDS, STEPS = 15, 10
Step = Callable[[Tensor, Tensor], object]
Case = tuple[str, str]  # a network, and what is done with it


def with_denormals(run: runs.Run) -> bbpyro.BetaBernoulliNetwork:
    """The trained network as it was left where decayed weights went on to be denormal."""
    bnn = runs.load(run.folder).bnn
    with torch.no_grad():
        for w in bnn.weights.values():
            w[w.abs() < 1e-20] = 1e-40
    return bnn


def untrained(run: runs.Run) -> bbpyro.BetaBernoulliNetwork:
    """The same network before any training."""
    plain = runs.plain_network(run.config, run.dataset)
    return bbpyro.BetaBernoulliNetwork(bbpyro.insert_dropout(plain), num_data=len(run.dataset.x))


def svi_step(bnn: bbpyro.BetaBernoulliNetwork) -> Step:
    """What fit() runs, at a rate that leaves the network as it is."""
    optimizer = torch.optim.Adam(bnn.parameters(), lr=1e-12, fused=True)
    svi = SVI(bnn.model, bnn.guide, SingleOptimizer(optimizer), Trace_ELBO())

    def step(x: Tensor, y: Tensor) -> None:
        with pyro.validation_enabled(False):
            svi.step(x, y)

    return step


def prediction(bnn: bbpyro.BetaBernoulliNetwork) -> Step:
    """The mean mask."""
    return torch.no_grad()(lambda x, y: bnn(x))


def share_of(bnn: bbpyro.BetaBernoulliNetwork, limits: tuple[float, float]) -> float:
    """The share of weights whose absolute value lies between two numbers, the first of them included."""
    sizes = torch.cat([w.detach().flatten().abs().double() for w in bnn.weights.values()])
    return ((sizes >= limits[0]) & (sizes < limits[1])).double().mean().item()


def time_all(cases: dict[Case, Step], batches: list[tuple[Tensor, Tensor]]) -> dict[Case, float]:
    """Median seconds of a call."""

    def all_batches(case: Case) -> None:
        with flushed() if case[1] == "flushed step" else contextlib.nullcontext():
            for batch in batches:
                cases[case](*batch)

    seconds = interleaved({case: functools.partial(all_batches, case) for case in cases}, ROUNDS)
    return {case: median / len(batches) for case, median in seconds.items()}


def print_epochs(console: Console, run: runs.Run) -> None:
    """The median seconds of a phase's first and last epochs."""
    table = Table("epochs of the run", "first five, s", "last five, s", "last / first", title="whole trainings")
    for phase in dict.fromkeys(record["phase"] for record in run.history):
        seconds = [record["seconds"] for record in run.history if record["phase"] == phase]
        first, last = statistics.median(seconds[:5]), statistics.median(seconds[-5:])
        table.add_row(f"{phase} ({len(seconds)})", f"{first:.2f}", f"{last:.2f}", f"{last / first:.2f}")
    console.print(table)


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path, help="folder of bbpyro train")
    run = runs.load(parser.parse_args().run)
    torch.set_num_threads(1)
    networks = {"before training": untrained(run), "after it": run.bnn, "after it, denormals left": with_denormals(run)}
    x, y = run.dataset.x[: 100 * STEPS], run.dataset.y[: 100 * STEPS]
    cases: dict[Case, Step] = {}
    for name, bnn in networks.items():
        cases |= {(name, "step"): svi_step(bnn), (name, "flushed step"): svi_step(copy.deepcopy(bnn))}
        cases[name, "mean mask"] = prediction(copy.deepcopy(bnn))
    median = time_all(cases, list(zip(x.split(100), y.split(100), strict=True)))
    table = Table("network", "below 1e-20", "denormal", "SVI step, ms", "as fit() runs it", "mean mask, ms")
    tiny = torch.finfo(torch.float32).tiny
    for name, bnn in networks.items():
        shares = [f"{share_of(bnn, limits):.0%}" for limits in ((0.0, 1e-20), (1e-46, tiny))]
        each = [median[name, what] for what in ("step", "flushed step", "mean mask")]
        table.add_row(name, *shares, *(f"{1000 * seconds:.2f}" for seconds in each))
    console = Console()
    console.print(processor())
    console.print(table)
    print_epochs(console, run)


if __name__ == "__main__":
    main()
