"""What a user would pick instead of Beta-Bernoulli dropout: LeNet-500-300 pruned in three usual ways.

    pip install torch-pruning
    python benchmarks/pruning_methods.py --output chosen.csv                       # a validation row of each setting
    python benchmarks/pruning_methods.py --output tried.csv --methods lasso --strengths 3e-6 1e-5 --dropout 0 0
    python benchmarks/pruning_methods.py --output tried.csv --methods magnitude --strengths 294-110-71 --fold 1
    python benchmarks/pruning_methods.py --output front.csv --test --seeds 3 --jobs 2      # hours: the final rows
    python benchmarks/pruning_methods.py --output short.csv --epochs 1 --num-data 8000     # a minute, and says nothing

All have one budget: as many epochs as bbpyro has with and without gates, batch 100, Adam, one thread. What is left is a
plain dense network; a unit is counted where it is the input of a dense layer, the pixels among them. No augmentation.

magnitude   the network with nn.Dropout is trained for 3/7 of the epochs, then pruned to given units in five equal steps
            4/70 of the epochs apart, and fine-tuned over the rest. Hidden units go by torch-pruning's group importance,
            pixels by the norm of what reads them.
slimming    network slimming (Liu et al. 2017, arXiv 1708.06519): an L1 penalty on the scales of the hidden units' batch
            norms, and on a scale of each pixel, for 4/7 of the epochs; what has a scale near 0 goes; fine-tuned.
lasso       a group lasso on all weights that read a unit, times the root of their number (Scardapane et al. 2017, arXiv
            1607.00485), for 4/7 of the epochs; units that nothing reads go; fine-tuned.

Where there is nn.Dropout, its rate falls as the share of the layer's units that is left does (after Han et al. 2015,
arXiv 1506.02626).

The learning rate falls to 0 over the second half of the last fine-tuning and of training with a penalty, else stays.
Settings are chosen on validation data, held out of the training data; --test takes those in CHOSEN and nothing else.
docs/front/pruning_methods.csv has what was tried.

A row a network: its setting and seed, the epochs and CPU minutes of all phases, what it is scored on, error, nll,
units kept, multiply-accumulates (macs), the dense network's over these (macs_x), and parameters. A row that is in the
file is not trained again; delete a row to have it anew.
"""

import argparse
import contextlib
import csv
import functools
import io
import multiprocessing
import os
import sys
from collections.abc import Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pandas as pd
import torch
import torch.nn.functional as F
from measuring import markdown, wide_console
from pruning import Setting, Training, kept, macs, network, pruned
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.table import Table
from torch import Tensor

from bbpyro import data

COLUMNS = "method setting seed epochs scored_on minutes error nll kept macs macs_x parameters".split()

UNITS = ("437-189-123", "336-174-121", "294-110-71", "227-66-37")
CHOSEN = {  # of what docs/front/pruning_methods.csv has
    "magnitude": [Setting("magnitude", kept_units, (0.1, 0.3)) for kept_units in UNITS],
    "slimming": [
        *(Setting("slimming", weight, (0.1, 0.2)) for weight in ("2e-3", "6e-3", "2e-2", "6e-2")),
        Setting("slimming", "2e-2", (0.0, 0.0)),
    ],
    "lasso": [Setting("lasso", weight, (0.1, 0.2)) for weight in ("3e-5", "6e-5", "1.5e-4", "3e-4")],
}


@dataclass(frozen=True)
class Plan:
    """What all networks of a call have in common, and a seed."""

    dataset: str
    num_data: int | None
    validation_size: int
    fold: int
    epochs: int
    batch_size: int
    seed: int

    @property
    def scored_on(self) -> str:
        """As a row has it."""
        trained = f", {self.num_data} data" if self.num_data else ""
        held_out = f"{self.validation_size} of fold {self.fold}" if self.validation_size else "test"
        return f"{self.dataset}{trained}: {held_out}"


@functools.lru_cache(maxsize=1)
def load(plan: Plan) -> tuple[Training, Tensor, Tensor]:
    """What to train with, and the inputs and labels to score on.

    Raises:
        ValueError: there is no such fold.
    """
    dataset = data.load(plan.dataset)
    x, y = dataset.x[: plan.num_data].flatten(1), dataset.y[: plan.num_data]
    held_out = dataset.x_test.flatten(1), dataset.y_test
    if plan.validation_size:
        last = len(x) - plan.fold * plan.validation_size
        first = last - plan.validation_size
        if first < 0 or last > len(x) or plan.validation_size == len(x):
            raise ValueError(f"--fold {plan.fold} of {plan.validation_size} data is none of {len(x)} training data")
        held_out = x[first:last], y[first:last]
        x, y = torch.cat([x[:first], x[last:]]), torch.cat([y[:first], y[last:]])
    return Training(x, y, dataset.num_classes, plan.epochs, plan.batch_size, plan.seed, count_epochs), *held_out


def row(plan: Plan, setting: Setting) -> dict[str, Any]:
    """Train, prune and score one network."""
    training, x, y = load(plan)
    Epochs.here = 0
    small, minutes = pruned(training, setting)
    count_epochs(plan.epochs - Epochs.here)  # that were another row's as well
    with torch.no_grad():
        logits = torch.cat([small(part) for part in x.split(1000)]).double()
    cost = macs(small)
    return {
        **key(plan, setting),
        "minutes": round(minutes, 2),
        "error": round((logits.argmax(1) != y).double().mean().item(), 6),
        "nll": round(F.cross_entropy(logits, y).item(), 6),
        "kept": "-".join(map(str, kept(small))),
        "macs": cost,
        "macs_x": round(macs(network(x.shape[1], training.num_classes, setting)) / cost, 2),
        "parameters": sum(parameter.numel() for parameter in small.parameters()),
    }


class Epochs:
    """How many are over: of this row, and of all rows in all processes."""

    here = 0
    everywhere: Any = None


def begin(everywhere: Any) -> None:
    """What a process does before its first row."""
    Epochs.everywhere = everywhere
    torch.set_num_threads(1)
    torch.set_flush_denormal(True)  # weights that nothing reads decay to numbers that cost a hundred times as much


def count_epochs(number: int = 1) -> None:
    """Let the one who waits see that epochs are over."""
    Epochs.here += number
    if Epochs.everywhere is not None:
        with Epochs.everywhere.get_lock():
            Epochs.everywhere.value += number


def open_rows(output: Path) -> list[dict[str, str]]:
    """Which rows are in the file, which is made if need be; a line that was cut off is taken away."""
    with contextlib.suppress(FileExistsError), output.open("x") as file:
        file.write(",".join(COLUMNS) + "\n")
    text = output.read_text()
    if text.split("\n", 1)[0] != ",".join(COLUMNS):
        raise ValueError(f"--output {output} is a file of something else; its first line is not {','.join(COLUMNS)}")
    if not text.endswith("\n"):
        os.truncate(output, len(text[: text.rindex("\n") + 1].encode()))
    with output.open(newline="") as file:
        return list(csv.DictReader(file))


def key(plan: Plan, setting: Setting) -> dict[str, Any]:
    """The part of a row that tells it from others."""
    asked = {"method": setting.method, "setting": setting, "seed": plan.seed, "epochs": plan.epochs}
    return {name: str(value) for name, value in {**asked, "scored_on": plan.scored_on}.items()}


def append(output: Path, found: dict[str, Any]) -> None:
    """Add a row, all of it or nothing, whoever else adds one."""
    line = io.StringIO()
    csv.DictWriter(line, COLUMNS, lineterminator="\n").writerow(found)
    descriptor = os.open(output, os.O_WRONLY | os.O_APPEND)
    try:
        os.write(descriptor, line.getvalue().encode())
    finally:
        os.close(descriptor)


def train_rows(todo: Sequence[tuple[Plan, Setting]], output: Path, jobs: int) -> None:
    """Train what is to do, several at once, and write a row as soon as it is there."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["measuring", "pruning", "torch._dynamo"])  # once for all
    epochs_done = context.Value("l", 0)
    columns = TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn()
    with (
        Progress(*columns, TimeRemainingColumn(), console=Console(stderr=True), transient=True) as bar,
        ProcessPoolExecutor(jobs, context, begin, (epochs_done,)) as pool,
    ):
        shown = bar.add_task("epochs", total=sum(plan.epochs for plan, _ in todo))
        pending: set[Future[dict[str, Any]]] = {pool.submit(row, *which) for which in todo}
        try:
            while pending:
                done, pending = wait(pending, timeout=0.5, return_when=FIRST_COMPLETED)
                for future in done:
                    append(output, future.result())
                bar.update(shown, completed=epochs_done.value, description=f"epochs, {len(pending)} networks to go")
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise


def means_table(rows: pd.DataFrame) -> Table:
    """A row a setting: the mean of its seeds."""
    table = markdown(
        "method", "setting", "scored on", "seeds", "error", "nll", "kept", "MACs x", "parameters", "minutes"
    )
    for (method, setting, scored_on), found in rows.groupby(["method", "setting", "scored_on"], sort=False):
        units_kept = pd.DataFrame([map(int, text.split("-")) for text in found["kept"]]).mean()
        table.add_row(
            method,
            setting,
            scored_on,
            str(len(found)),
            f"{found['error'].mean():.2%}",
            f"{found['nll'].mean():.4f}",
            "-".join(f"{number:.0f}" for number in units_kept),
            f"{found['macs_x'].mean():.1f}",
            f"{found['parameters'].mean():,.0f}",
            f"{found['minutes'].mean():.1f}",
        )
    return table


def asked_for(options: argparse.Namespace) -> list[tuple[Plan, Setting]]:
    """What the options ask for; a ValueError where they are wrong."""
    for name in ("epochs", "seeds", "jobs", "batch_size", "validation_size"):
        if getattr(options, name) < 1:
            raise ValueError(f"--{name.replace('_', '-')} is {getattr(options, name)}, wanted at least 1")
    validation_size = 0 if options.test else options.validation_size
    shared = options.dataset, options.num_data, validation_size, options.fold, options.epochs, options.batch_size
    plans = [Plan(*shared, seed=seed) for seed in range(options.seeds)]
    training, _, _ = load(plans[0])
    chosen = [changed(setting, options) for setting in settings(options)]
    for setting in chosen:
        setting.check(training.x.shape[1])
    return [(plan, setting) for plan in plans for setting in chosen]


def settings(options: argparse.Namespace) -> list[Setting]:
    """Those in CHOSEN of the methods asked for; or of one method with the strengths asked for."""
    if not options.strengths:
        return [setting for method in options.methods for setting in CHOSEN[method]]
    if len(options.methods) != 1:
        raise ValueError("--strengths are those of one method; name it with --methods")
    first = CHOSEN[options.methods[0]][0]
    return [replace(first, strength=strength) for strength in options.strengths]


def changed(setting: Setting, options: argparse.Namespace) -> Setting:
    """The setting with what the options say otherwise."""
    asked = [options.strengths, options.dropout, options.learning_rate, options.weight_decay]
    if options.test and any(value is not None for value in asked):
        raise ValueError("--test is for the settings in CHOSEN; others are tried on validation data, without --test")
    return Setting(
        setting.method,
        setting.strength,
        setting.dropout if options.dropout is None else tuple(options.dropout),
        setting.learning_rate if options.learning_rate is None else options.learning_rate,
        setting.weight_decay if options.weight_decay is None else options.weight_decay,
    )


def parse(arguments: Sequence[str] | None) -> tuple[argparse.ArgumentParser, argparse.Namespace]:
    """The options."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--output", type=Path, required=True, help="CSV file, made or gone on with, for a row a network")
    add("--methods", nargs="+", choices=tuple(CHOSEN), default=list(CHOSEN))
    add("--strengths", nargs="+", help="units to keep (as 294-110-71), or weights of the penalty; default: CHOSEN's")
    add("--dropout", nargs=2, type=float, metavar=("PIXELS", "HIDDEN"), help="rates; default: CHOSEN's")
    add("--learning-rate", type=float, help="default: CHOSEN's")
    add("--weight-decay", type=float, help="L2 on the mean loss; default: CHOSEN's")
    add("--test", action="store_true", help="train on all training data, score once on the test data")
    add("--validation-size", type=int, default=5000, help="training data held out to score on (default: 5000)")
    add("--fold", type=int, default=0, help="which: 0 for the last so many, 1 for those before them, and so on")
    add("--seeds", type=int, default=1, help="how many, from 0 on (default: 1)")
    add("--jobs", type=int, default=1, help="processes, of one thread each (default: 1)")
    add("--epochs", type=int, default=70, help="in all, bbpyro's with and without gates (default: 70)")
    add("--batch-size", type=int, default=100)
    add("--dataset", default="mnist", help="as bbpyro train has it (default: mnist)")
    add("--num-data", type=int, help="take the first so many training data; by default all")
    return parser, parser.parse_args(arguments)


def main(arguments: Sequence[str] | None = None) -> None:
    """Train what is not in the file yet, and print the means."""
    parser, options = parse(arguments)
    try:
        asked = asked_for(options)
        there = open_rows(options.output)
        todo = [which for which in asked if not any(key(*which).items() <= found.items() for found in there)]
        if todo:
            train_rows(todo, options.output, options.jobs)
    except (ValueError, OSError) as error:
        parser.error(str(error))
    except KeyboardInterrupt:
        sys.exit(f"stopped; the same command goes on with {options.output}")
    wide_console().print(means_table(pd.read_csv(options.output)))


if __name__ == "__main__":
    main()
