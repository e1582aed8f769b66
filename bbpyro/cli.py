"""The command line: parse, call, print."""

import dataclasses
import json
import shlex
import statistics
import sys
import tomllib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, NoReturn

import tyro
from rich.console import Console
from rich.table import Table

from bbpyro import data, runs
from bbpyro.training import NonFiniteLossError
from bbpyro.version import __version__

RunFolders = Annotated[tuple[Path, ...], tyro.conf.arg(metavar="RUN [RUN ...]")]


@dataclass(frozen=True)
class Train(runs.TrainConfig):
    """`bbpyro train`."""

    run: Path | None = None
    """The run folder to write; by default runs/DATASET-DATE-TIME."""
    resume: Path | None = None
    """Go on with this run, with its own settings, from its newest checkpoint."""
    force: bool = False
    """Replace the run folder if it exists."""
    num_samples: int = 100
    """Monte Carlo draws of the masks for the scores at the end."""
    config: Path | None = None
    """Read settings from this TOML file; flags override it."""
    print_config: bool = False
    """Print the settings as TOML, for --config, and exit."""

    def settings(self) -> runs.TrainConfig:
        """The part that decides the numbers."""
        return runs.TrainConfig(**{f.name: getattr(self, f.name) for f in dataclasses.fields(runs.TrainConfig)})


@dataclass(frozen=True)
class Evaluate:
    """`bbpyro evaluate`."""

    runs: tyro.conf.Positional[RunFolders]
    """The run folder, or several, such as one for each seed."""
    num_samples: int = 100
    """Monte Carlo draws of the masks."""


@dataclass(frozen=True)
class DataList:
    """List the data sets, and which of them are on this machine."""

    data_dir: Path | None = None
    """Where downloaded data sets are kept; by default $BBPYRO_DATA or the user's cache folder."""


@dataclass(frozen=True)
class DataFetch:
    """Fetch a data set and check it, e.g. bbpyro data fetch mnist."""

    name: tyro.conf.Positional[str]
    """mnist or fashion-mnist."""
    data_dir: Path | None = None
    """Where to keep it; by default $BBPYRO_DATA or the user's cache folder."""


@dataclass(frozen=True)
class Data:
    """`bbpyro data`."""

    action: Annotated[DataList, tyro.conf.subcommand("list")] | Annotated[DataFetch, tyro.conf.subcommand("fetch")]


TRAIN = tyro.conf.subcommand(
    "train",
    description="""Train a network with Beta-Bernoulli dropout, and write a run folder.

examples:
  bbpyro train                                  LeNet-500-300 on MNIST
  bbpyro train --dataset mine.npz               your own arrays x and y
  bbpyro train --dataset bars --gate-learning-rate 0.05
                                                half a minute, and no network needed
  bbpyro train --resume runs/mnist-20260101-120000
  bbpyro train --gate-learning-rate 0.02 --print-config > sparser.toml
  bbpyro train --config sparser.toml --seed 1""",
)
EVALUATE = tyro.conf.subcommand(
    "evaluate",
    description="""Print the scores and the kept units of a run, by mean mask and by Monte Carlo;
of several runs, their mean and range.

examples:
  bbpyro evaluate runs/mnist-20260101-120000
  bbpyro evaluate runs/mnist-20260101-120000 --num-samples 500
  bbpyro evaluate runs/seed-0 runs/seed-1 runs/seed-2""",
)
DATA = tyro.conf.subcommand("data", description="List the data sets, or fetch one.")
Command = Annotated[Train, TRAIN] | Annotated[Evaluate, EVALUATE] | Annotated[Data, DATA]
_PARSER: dict[str, Any] = {
    "prog": "bbpyro",
    "description": "Beta-Bernoulli dropout: learn which units of a network are needed, and keep only those.",
    "config": (tyro.conf.OmitArgPrefixes, tyro.conf.OmitSubcommandPrefixes, tyro.conf.FlagCreatePairsOff),
}


def main(argv: Sequence[str] | None = None) -> None:
    """The `bbpyro` command; exits with 2 on a user's error, 1 on a failed run, 130 on Ctrl-C."""
    args = list(sys.argv[1:] if argv is None else argv)
    if args == ["--version"]:
        print(f"bbpyro {__version__}")
        return
    try:
        command = _parse(args or ["--help"])
        if isinstance(command, Train):
            _train(command)
        elif isinstance(command, Evaluate):
            _evaluate(command)
        elif isinstance(command.action, DataList):
            _list_data(command.action)
        else:
            _fetch_data(command.action)
    except ValueError as error:
        _fail(str(error), 2)
    except KeyboardInterrupt:
        _fail("interrupted", 130)
    except BrokenPipeError:  # the reader of our output, such as head, has gone
        sys.stderr.close()
        sys.exit(1)
    except (NonFiniteLossError, OSError) as error:
        _fail(str(error), 1)


def _parse(args: list[str]) -> Train | Evaluate | Data:
    command: Train | Evaluate | Data = tyro.cli(Command, args=args, **_PARSER)
    if not isinstance(command, Train) or command.config is None:
        return command
    try:
        settings = tomllib.loads(command.config.read_text())
        from_file = runs.TrainConfig.from_json({key.replace("-", "_"): value for key, value in settings.items()})
    except (OSError, ValueError) as error:
        raise ValueError(f"config: {command.config} is no file of settings ({error}); see --print-config") from None
    defaults = Train(**{f.name: getattr(from_file, f.name) for f in dataclasses.fields(from_file)})
    again: Train = tyro.cli(Command, args=args, default=defaults, **_PARSER)
    return again


def _fail(message: str, status: int) -> NoReturn:
    print(f"bbpyro: error: {' '.join(message.split())}", file=sys.stderr)
    sys.exit(status)


def _train(command: Train) -> None:
    config = command.settings()
    if command.num_samples < 1:
        raise ValueError(f"num_samples is {command.num_samples}, wanted at least 1")
    if command.print_config:
        config.validate()
        print("".join(f"{k} = {json.dumps(v)}\n" for k, v in config.to_json().items() if v is not None), end="")
        return
    console = _console()
    if command.resume is not None:
        _check_resume(command)
        folder = command.resume
        runs.check(folder)
    else:
        folder = command.run or runs.default_folder(config)
        runs.create(folder, config, command.force)
    _print(console, f"run folder: {folder}")
    try:
        run = runs.train(folder, console, _EpochPrinter(console))
        with console.status("scoring"):
            summary = runs.summarize(run, command.num_samples)
    except KeyboardInterrupt:
        _fail(f"interrupted; go on with: bbpyro train --resume {shlex.quote(str(folder))}", 130)
    except NonFiniteLossError as error:
        kept = (folder / runs.CHECKPOINT).exists()
        _fail(f"{error}{f'. The checkpoint of the last good epoch is in {folder}' if kept else ''}", 1)
    _print_summary(console, summary, run.dataset.note)
    _warn_of_loss(console, run)
    seconds, gib = summary["training_seconds"], summary["peak_memory_mib"] / 1024
    time = f"{seconds:.0f} seconds" if seconds < 120 else f"{seconds / 60:.1f} minutes"
    _print(console, f"\n{summary['epochs']} epochs in {time}, at most {gib:.2f} GiB of memory")
    _print(console, f"wrote {folder}: summary.json, metrics.jsonl, checkpoint.safetensors, figures/")


def _warn_of_loss(console: Console, run: runs.Run) -> None:
    """Say so where SVI left the network worse than pretraining did: with few data the KL outweighs them."""
    before = [r["held_out_nll"] for r in run.history if r["phase"] == "pretraining"]
    after = run.history[-1]["held_out_nll"]
    if before and after > 1.5 * before[-1]:
        _print(
            console,
            f"warning: the {run.config.scored_on} NLL rose from {before[-1]:.4f} after pretraining to {after:.4f}: "
            f"{len(run.dataset.x):,} data in {run.config.epochs} epochs did not outweigh the prior; "
            "try more --epochs, a smaller --batch-size or --kl-warmup-epochs",
        )


def _check_resume(command: Train) -> None:
    allowed = {"resume", "num_samples"}
    for field in dataclasses.fields(Train):
        if field.name not in allowed and getattr(command, field.name) != field.default:
            flag = field.name.replace("_", "-")
            raise ValueError(f"--resume goes on with the run's own settings; leave out --{flag}")


class _EpochPrinter:
    """One line an epoch, under a header for each phase."""

    def __init__(self, console: Console) -> None:
        self.console, self.phase = console, ""

    def __call__(self, record: dict[str, Any], num_epochs: int, scored_on: str) -> None:
        if record["phase"] != self.phase:
            self.phase = record["phase"]
            _print(self.console, f"\n{self.phase}")
            gates = "  KL[q(π)||p(π)] by layer, nats / units kept by layer" if "kl" in record else ""
            _print(
                self.console, f"{'epoch':>7}  {'lr':<15}  {'train nll, acc':<14}  {scored_on + ' nll, acc':<14}{gates}"
            )
        rates = " ".join(f"{rate:.1e}" for rate in record["learning_rate"])
        scores = "  ".join(
            f"{record[f'{split}_nll']:.4f} {record[f'{split}_accuracy']:7.2%}" for split in ("train", "held_out")
        )
        gates = ""
        if "kl" in record:
            kl = " ".join(f"{value:.0f}" for value in record["kl"].values())
            gates = f"  {kl} / {'-'.join(str(n) for n in record['active'].values())}"
        epoch = f"{record['epoch']}/{num_epochs}"
        _print(self.console, f"{epoch:>7}  {rates:<15}  {scores}{gates}  {record['seconds']:.1f} s")


def _evaluate(command: Evaluate) -> None:
    if command.num_samples < 1:
        raise ValueError(f"num_samples is {command.num_samples}, wanted at least 1")
    if not command.runs:
        raise ValueError("name at least one run folder")
    console = _console()
    scores = []
    for folder in command.runs:
        with console.status(f"scoring {folder}"):
            run = runs.load(folder)
            scores.append(runs.score(run, command.num_samples))
        if not run.is_complete:
            last = run.history[-1]
            _print(console, f"{folder} is still in training: scores after {last['phase']} epoch {last['epoch']}")
    if len(scores) == 1:
        _print_summary(console, scores[0], run.dataset.note)
    else:
        _print_comparison(console, dict(zip(map(str, command.runs), scores, strict=True)))


def _print_comparison(console: Console, scores: dict[str, dict[str, Any]]) -> None:
    table = Table("run", "error", "NLL", "ECE", "error, MC", "NLL, MC", "ECE, MC")
    table.add_column("units kept", no_wrap=True)
    rows = [
        [
            *(s[by][score] for by in ("mean_mask", "monte_carlo") for score in ("error", "nll", "ece")),
            *s["kept"].values(),
        ]
        for s in scores.values()
    ]
    for name, row in zip(scores, rows, strict=True):
        table.add_row(name, *_cells(row))
    if len({len(row) for row in rows}) == 1:
        columns = list(zip(*rows, strict=True))
        table.add_section()
        for label, of in (("mean", statistics.mean), ("lowest", min), ("highest", max)):
            table.add_row(label, *_cells([of(column) for column in columns]))
    console.print(table)
    _print(console, "by mean mask, and by Monte Carlo (MC) over the masks; units kept on the input of each layer")


def _cells(row: list[float]) -> list[str]:
    errors_first = [f"{value:.2%}" if i % 3 == 0 else f"{value:.4f}" for i, value in enumerate(row[:6])]
    return [*errors_first, "-".join(f"{kept:.0f}" for kept in row[6:])]


def _print_summary(console: Console, summary: dict[str, Any], note: str) -> None:
    scores = Table(
        f"{summary['scored_on']} data ({summary['num_scored']:,})",
        "error",
        "NLL",
        "ECE",
        title="scores",
        title_justify="left",
    )
    num_samples = summary["monte_carlo"]["num_samples"]
    for label, key in (("mean mask", "mean_mask"), (f"Monte Carlo, {num_samples} draws of the masks", "monte_carlo")):
        row = summary[key]
        scores.add_row(label, f"{row['error']:.2%}", f"{row['nll']:.4f}", f"{row['ece']:.4f}")
    units = Table(
        "layer", "units kept", "of", "percent", title="units kept on the input of each layer", title_justify="left"
    )
    for name, kept in summary["kept"].items():
        total = summary["total"][name]
        units.add_row(name.removesuffix(".gate"), str(kept), str(total), f"{kept / total:.2%}")
    for table in (scores, units):
        for column in table.columns[1:]:
            column.justify = "right"
        console.print()
        console.print(table)
    if note:
        _print(console, f"note: {note}")


def _list_data(command: DataList) -> None:
    table = Table("name", "what", "here")
    for name, description in data.DESCRIPTIONS.items():
        table.add_row(name, description, "yes" if data.is_here(name, command.data_dir) else "no: fetched when needed")
    console = _console()
    console.print(table)
    _print(console, f"files are kept in {command.data_dir or data.default_data_dir()}")


def _fetch_data(command: DataFetch) -> None:
    console = _console()
    with console.status(f"fetching {command.name}"):
        folder = data.fetch(command.name, command.data_dir)
    _print(console, f"{command.name} is whole, in {folder}")


def _console() -> Console:
    """Of the terminal's width; where there is no terminal, wide enough for every table."""
    return Console() if sys.stdout.isatty() else Console(width=120)


def _print(console: Console, text: str) -> None:
    console.print(text, soft_wrap=True, highlight=False, markup=False)
