"""What a whole training costs: bbpyro.fit, shed and not, beside the plain and the nn.Dropout network, in one run.

    python benchmarks/training_cost.py --output cost.csv --figure docs/cost.png         # make train's: some 20 minutes
    python benchmarks/training_cost.py --network lenet5-caffe --output lenet5.csv
    python benchmarks/training_cost.py --epochs 5 --num-data 6000 --output short.csv    # a minute, and says nothing
    python benchmarks/training_cost.py --report cost.csv --figure docs/cost.png         # of what is there by now

The settings are those of `bbpyro train --network NAME`. All four start from the same pretrained network, are trained
for as many epochs, and are scored on the test data after each, as bbpyro train does. Each is a process of its own; they
take turns, an epoch each, so that a busy machine slows all of them alike, and memory is each one's own. An epoch is
written to --output as soon as it is over: what is cut off is not lost, and --report makes the table of it.

seconds      CPU time of all epochs after pretraining; a busy machine moves it less than wall time, which is in the file
             too.
first, last  the median of so many epochs at either end.
peak         the most memory that was resident, imports and data included; training: how far that is above where it
             stood before the training (Linux only).
error        on the test data in the last epoch, of bbpyro by the mean mask.
"""

import argparse
import contextlib
import csv
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from matplotlib.figure import Figure
from measuring import (
    MIB,
    TakingTurns,
    Tell,
    begin_at_rest,
    markdown,
    memory,
    processor,
    wide_console,
    with_nn_dropout,
)
from rich.progress import Progress
from rich.table import Table
from torch import nn

import bbpyro
from bbpyro import runs
from bbpyro.data import Dataset
from bbpyro.plots import style
from bbpyro.runs.origins import gated_network
from bbpyro.training import TrainingState, pretrain

COLORS = {
    "plain": style.GREY,
    "nn.Dropout": style.COLORS[4],
    "bbpyro": style.COLORS[0],
    "bbpyro, shed": style.COLORS[1],
}
VARIANTS = tuple(COLORS)
SETTINGS = ("dataset", "epochs", "pretrain_epochs", "batch_size", "seed", "threads")
COLUMNS = ("variant", "epoch", "seconds", "cpu_seconds", "peak_mib", "training_mib", "error", "kept")


def train_by_turns(tell: Tell, variant: str, config: runs.TrainConfig, num_data: int | None, weights: Path) -> None:
    """Train one of the networks, an epoch a turn."""
    dataset = load_data(config, num_data)
    plain = runs.plain_network(config, dataset)
    plain.load_state_dict(torch.load(weights))
    rest = begin_at_rest()
    began = time.process_time()

    def after_epoch(state: TrainingState) -> None:
        nonlocal began
        record = state.history[-1]
        peak = memory("VmHWM")
        tell(
            {
                "variant": variant,
                "epoch": record["epoch"],
                "seconds": round(record["seconds"], 4),
                "cpu_seconds": round(time.process_time() - began, 4),
                "peak_mib": round(peak / MIB, 1),
                "training_mib": round((peak - rest) / MIB, 1),
                "error": round(1 - record["held_out_accuracy"], 6),
                "kept": "-".join(map(str, record.get("active", {}).values())),
            }
        )
        began = time.process_time()

    train(variant, plain, dataset, config, on_epoch=after_epoch)


def train(variant: str, plain: nn.Module, dataset: Dataset, config: runs.TrainConfig, **options: Any) -> None:
    """Train one of the networks, which starts from the plain one, as the settings say."""
    x, y = dataset.x, dataset.y
    options |= {"held_out": (dataset.x_test, dataset.y_test), "num_epochs": config.epochs, "schedule": config.schedule}
    options |= {"batch_size": config.batch_size, "learning_rate": config.learning_rate, "seed": config.seed}
    if not variant.startswith("bbpyro"):
        net = plain if variant == "plain" else with_nn_dropout(plain, x[0].numel())
        pretrain(net, x, y, progress=False, **options)
        return
    bbpyro.fit(
        gated_network(config, plain, dataset),
        x,
        y,
        gate_learning_rate=config.gate_learning_rate,
        kl_warmup_epochs=config.kl_warmup_epochs,
        kl_start=config.kl_weights(),
        shed=variant == "bbpyro, shed",
        progress=False,
        **options,
    )


def pretrain_by_turns(tell: Tell, config: runs.TrainConfig, num_data: int | None, weights: Path) -> None:
    """Train the plain network that all start from, an epoch a turn, and write its weights."""
    dataset = load_data(config, num_data)
    net = runs.plain_network(config, dataset)
    if config.pretrain_epochs:
        pretrain(
            net,
            dataset.x,
            dataset.y,
            num_epochs=config.pretrain_epochs,
            batch_size=config.batch_size,
            learning_rate=config.learning_rate,
            seed=config.seed,
            on_epoch=lambda state: tell(state.history[-1]["epoch"]),
            progress=False,
        )
    torch.save(net.state_dict(), weights)


def load_data(config: runs.TrainConfig, num_data: int | None) -> Dataset:
    """The data set; or the first so many of its training data, and a like part of its test data."""
    dataset = runs.load_data(config)
    num_test = num_data and max(1, len(dataset.x_test) * num_data // len(dataset.x))
    first = {"x": num_data, "y": num_data, "x_test": num_test, "y_test": num_test}
    return replace(dataset, **{name: getattr(dataset, name)[:number] for name, number in first.items()})


def measure(config: runs.TrainConfig, num_data: int | None, output: Path) -> None:
    """Train all of them, and write a line an epoch."""
    with (
        tempfile.TemporaryDirectory() as folder,
        Progress(transient=True) as bar,
        contextlib.ExitStack() as block,
    ):

        def begin(work: Callable[..., None], *which: str) -> TakingTurns:
            weights = Path(folder) / "weights.pt"
            return block.enter_context(TakingTurns(work, *which, config, num_data, weights, threads=config.threads))

        first = begin(pretrain_by_turns)
        for _ in bar.track(range(config.pretrain_epochs + 1), description="pretraining"):
            first.turn()
        workers = [begin(train_by_turns, name) for name in VARIANTS]
        with output.open("x") as file:
            file.write(f"# {describe(config, num_data)}\n")
            writer = csv.DictWriter(file, COLUMNS, lineterminator="\n")
            writer.writeheader()
            for _ in bar.track(range(config.epochs), description="epochs"):
                for worker in workers:
                    writer.writerow(worker.turn())
                    file.flush()


def describe(config: runs.TrainConfig, num_data: int | None) -> str:
    """What was trained, and where."""
    data = f"{config.dataset}, {num_data:,} data" if num_data else config.dataset
    threads = "one thread" if config.threads == 1 else f"{config.threads} threads"
    epochs = f"{config.pretrain_epochs} + {config.epochs} epochs"
    return f"{config.network} on {data}, {epochs}, batch {config.batch_size}, {threads}, {processor()}"


def read(path: Path) -> tuple[str, pd.DataFrame]:
    """What an output says of itself, and a row for each epoch that all have done; a ValueError where there is none."""
    title = path.read_text().split("\n", 1)[0].removeprefix("# ")
    epochs = pd.read_csv(path, skiprows=1, dtype={"kept": str}).fillna({"kept": ""})
    done = epochs.groupby("variant")["epoch"].max()
    if not set(VARIANTS) <= set(done.index):
        raise ValueError(f"{path}: no epoch is over for all of the networks")
    return title, epochs[epochs["epoch"] <= done.min()]


def costs_table(epochs: pd.DataFrame) -> Table:
    """A row a network."""
    trainings = {str(name): training for name, training in epochs.groupby("variant", sort=False)}
    total = {name: training["cpu_seconds"].sum() for name, training in trainings.items()}
    ends = min(5, int(epochs["epoch"].max()))
    ratios = ("plain", "nn.Dropout", "bbpyro")
    heads = ("seconds", *(f"/ {name}" for name in ratios), f"first {ends}, s", f"last {ends}, s", "last / first")
    table = markdown("network", *heads, "peak, MiB", "/ nn.Dropout", "training, MiB", "error", "kept")
    for name, training in trainings.items():
        first, last = training["cpu_seconds"].head(ends).median(), training["cpu_seconds"].tail(ends).median()
        end, peak = training.iloc[-1], training["peak_mib"].max()
        table.add_row(
            name,
            f"{total[name]:.1f}",
            *(f"{total[name] / total[other]:.2f}" for other in ratios),
            f"{first:.2f}",
            f"{last:.2f}",
            f"{last / first:.2f}",
            f"{peak:.0f}",
            f"{peak / trainings['nn.Dropout']['peak_mib'].max():.2f}",
            f"{training['training_mib'].max():.0f}",
            f"{end['error']:.2%}",
            end["kept"],
        )
    return table


def draw(title: str, epochs: pd.DataFrame) -> Figure:
    """Seconds an epoch over the epochs."""
    figure = style.new_figure(7, 3.6)
    (axis,) = style.panels(figure, 1, 1)
    for name, training in epochs.groupby("variant", sort=False):
        style.curve(axis, training["epoch"], training["cpu_seconds"], color=COLORS[str(name)], label=name)
    axis.set_ylim(bottom=0)
    axis.set_ylabel("CPU seconds an epoch")
    style.epoch_axis(axis)
    style.title(axis, title)
    style.legend(axis)
    return figure


def start(options: argparse.Namespace) -> None:
    """Train as the options say, until control-C at most; a ValueError where they are wrong."""
    if options.output.exists():
        raise ValueError(f"--output {options.output} exists; --report {options.output} makes the table of it")
    given = {name: getattr(options, name) for name in SETTINGS if getattr(options, name) is not None}
    config = replace(runs.recipe(options.network), **given)
    runs.check_settings(config)
    with contextlib.suppress(KeyboardInterrupt):
        measure(config, options.num_data, options.output)


def main(arguments: Sequence[str] | None = None) -> None:
    """Train, print the table and draw the figure."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--network", default="lenet-500-300", choices=tuple(runs.NETWORKS))
    parser.add_argument("--dataset", help="by default the network's, as bbpyro train has it")
    parser.add_argument("--epochs", type=int, help="with gates, and as many without; by default the network's")
    parser.add_argument("--pretrain-epochs", type=int, help="of the plain network that all start from")
    parser.add_argument("--num-data", type=int, help="train on the first so many, score on a like part; by default all")
    parser.add_argument("--batch-size", type=int)
    parser.add_argument("--seed", type=int)
    parser.add_argument("--threads", type=int, help="of each process")
    files = parser.add_mutually_exclusive_group(required=True)
    files.add_argument("--output", type=Path, help="CSV file for a line an epoch; it must not exist yet")
    files.add_argument("--report", type=Path, help="train nothing; make the table, and the figure, of such a file")
    parser.add_argument("--figure", type=Path, help="PNG file for the seconds an epoch")
    options = parser.parse_args(arguments)
    try:
        if options.output:
            start(options)
        title, epochs = read(options.report or options.output)
    except (ValueError, OSError) as error:
        parser.error(str(error))
    console = wide_console()
    console.print(title)
    console.print(costs_table(epochs))
    if options.figure:
        style.save(draw(title, epochs), options.figure)


if __name__ == "__main__":
    main()
