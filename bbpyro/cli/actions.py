"""What the commands do: parse, call, print."""

import contextlib
import dataclasses
import io
import math
import shlex
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
import tyro
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from bbpyro import data, families, processes, runs, studies
from bbpyro.cli.commands import PARSER, Command, Compact, Compare, Data, DataFetch, DataList, Evaluate, Posterior, Train
from bbpyro.cli.output import describe, fail, first_alone_prints, forgiving_streams, new_console
from bbpyro.cli.report import (
    EpochPrinter,
    print_collapse,
    print_comparison,
    print_inspection,
    print_line,
    print_shrunk,
    print_study,
    print_summary,
)
from bbpyro.cli.settings import check_resume, defaults, of_run, of_study, print_config
from bbpyro.compaction import set_threshold
from bbpyro.processes import LostProcessError
from bbpyro.training import NonFiniteLossError
from bbpyro.training.budget import of_data

_DEPENDENT = families.DependentBetaBernoulli.__name__


def run(args: list[str]) -> None:
    """Do what was typed; exit with 2 on a user's error, 1 on a failed run, 130 on Ctrl-C."""
    try:
        with processes.joined():
            _run_or_fail(args)
    except LostProcessError as error:  # of those that never met
        fail(str(error), 1)


def _run_or_fail(args: list[str]) -> None:
    try:
        with forgiving_streams(), first_alone_prints():
            _run(args)
    except ValueError as error:
        fail(str(error), 2)
    except KeyboardInterrupt as stop:
        fail(str(stop) or "interrupted", 130)
    except OSError as error:
        fail(describe(error), 1)
    except (ImportError, LostProcessError, NonFiniteLossError) as error:
        fail(str(error), 1)
    except (MemoryError, RuntimeError) as error:
        if not (isinstance(error, MemoryError | torch.OutOfMemoryError) or "allocate memory" in str(error)):
            raise
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        fail(f"out of memory ({reason}); other programs hold what was free when it began", 1)


def _run(args: list[str]) -> None:
    with contextlib.nullcontext() if processes.is_first() else contextlib.redirect_stderr(io.StringIO()):
        command = _parse(args)
    if processes.size() > 1 and not isinstance(command, Train):
        raise ValueError(f"{args[0]}: {processes.size()} processes can share bbpyro train alone; start this by itself")
    if isinstance(command, Train):
        _train(command)
    elif isinstance(command, Compare):
        _compare(command)
    elif isinstance(command, Evaluate):
        _evaluate(command)
    elif isinstance(command, Posterior):
        _posterior(command)
    elif isinstance(command, Compact):
        _compact(command)
    elif isinstance(command.action, DataList):
        _list_data(command.action)
    else:
        _fetch_data(command.action)


def _parse(args: list[str]) -> Train | Compare | Evaluate | Posterior | Compact | Data:
    command: Train | Compare | Evaluate | Posterior | Compact | Data = tyro.cli(Command, args=args, **PARSER)
    if not isinstance(command, Train | Compare):
        return command
    if command.resume is not None:
        check_resume(command, args)
        return command
    found = defaults(command, args)
    if found is None:
        return command
    fields: dict[str, Any] = {f.name: getattr(found, f.name) for f in dataclasses.fields(found)}
    if isinstance(command, Train):
        return tyro.cli(Command, args=args, default=Train(**fields), **PARSER)
    # tyro would append the priors of the command line to those of the file; they are to replace them.
    default: Any = Compare(**{**fields, "prior": (), "vary": (), "points": ()})
    flags: Compare = tyro.cli(Command, args=args, default=default, **PARSER)
    return dataclasses.replace(
        flags, prior=flags.prior or fields["prior"], vary=fields["vary"], points=fields["points"]
    )


def _train(command: Train) -> None:
    config = of_run(command)
    runs.check_num_samples("num_samples", command.num_samples)
    if command.print_config:
        print_config(config)
        return
    console = new_console()
    chosen: Any = _run_folder(command, console) if processes.is_first() else None
    folder, config = processes.broadcast(chosen)
    with runs.hold(folder):  # until its summary is written too
        if processes.is_first() and runs.read_config(folder)[0].canonical() != config.canonical():
            raise ValueError(f"run {folder} was replaced meanwhile, by another process with other settings")
        print_line(console, f"run folder: {folder}")
        if _DEPENDENT in config.family and config.pretrained is None:
            _print_note(console, f"{_DEPENDENT} is to begin where BetaBernoulli ended: --pretrained RUN_FOLDER")
        _train_and_score(folder, command.num_samples, console)


def _run_folder(command: Train, console: Console) -> tuple[Path, runs.TrainConfig]:
    """The run to train and its settings: made, unless it is there to be gone on with."""
    begun = processes.recall("run folder")  # by the processes in whose place torchrun has started these
    going_on = Path(begun) if begun else command.resume
    if going_on is not None:
        return going_on, runs.read_config(going_on)[0]
    config = of_run(command)
    folder = command.run or runs.default_folder(config)
    dataset = runs.create(folder, config, command.force)
    _print_note(console, dataset.scale_note)
    budget = of_data(len(dataset.x), config.batch_size)
    asked_for = config.epochs, config.initial_keep_probability
    if budget.is_of_few_data and asked_for == (budget.epochs, budget.initial_keep_probability):
        how = f"{config.epochs:,} epochs of {config.network}, and gates that begin at 0.5"
        print_line(console, f"{len(dataset.x):,} data are few: {how}; --epochs and --network say otherwise")
    processes.remember("run folder", str(folder))
    return folder, config


def _train_and_score(folder: Path, num_samples: int, console: Console) -> None:
    go_on = f"go on with: bbpyro train --resume {shlex.quote(str(folder))}"
    try:
        run = runs.train(folder, console, EpochPrinter(console))
        if not processes.is_first():
            return
        began = time.perf_counter()
        summary = runs.summarize(run, num_samples, console)
        scoring = time.perf_counter() - began
    except KeyboardInterrupt as stop:
        fail(f"{str(stop) or 'interrupted'}; {go_on}", 130)
    except LostProcessError as error:
        again = "torchrun starts all of them again, from the last epoch on" if processes.are_started_again() else go_on
        fail(f"{error}; {again}", 1)
    except NonFiniteLossError as error:
        kept = (folder / runs.CHECKPOINT).exists()
        fail(f"{error}{f'. The checkpoint of the last good epoch is in {folder}' if kept else ''}", 1)
    except OSError as error:
        fail(f"{describe(error)}; when that is mended, {go_on}", 1)
    print_summary(console, summary, run.dataset.note)
    _print_note(console, run.dataset.scale_note)
    training, gib = summary["training_seconds"], summary["peak_memory_mib"] / 1024
    epochs = f"{summary['epochs']} epochs"
    done = f"{len(run.starts)} starts, the kept one of {epochs}," if run.starts else epochs
    took = f"{_duration(training)}, scores and figures in {_duration(scoring)}: {_duration(training + scoring)} in all"
    print_line(console, f"\n{done} in {took}, at most {gib:.2f} GiB of memory")
    shed = sum(run.svi_history[-1].get("shed", {}).values())
    if shed:
        first, last = (run.svi_history[i]["seconds"] for i in (0, -1))
        print_line(
            console, f"{shed} units were shed: an epoch took {first:.2g} seconds at first, {last:.2g} at the end"
        )
    print_line(console, f"wrote {folder}: summary.json, metrics.jsonl, checkpoint.safetensors, figures/")
    print_collapse(console, {"": summary})
    _warn_of_fit(console, run, is_told=bool(runs.collapse(summary)))


def _print_note(console: Console, text: str) -> None:
    if text:
        print_line(console, f"note: {text}")


def _duration(seconds: float) -> str:
    return f"{seconds:.0f} seconds" if seconds < 120 else f"{seconds / 60:.1f} minutes"


def _compare(command: Compare) -> None:
    if command.print_config:
        print_config(of_study(command))
        return
    workers: dict[str, Any] = {"jobs": command.jobs, "backend": command.backend, "address": command.address}
    studies.check_workers(**workers)
    folder = command.resume or command.study or studies.default_folder()
    config = studies.read_config(folder) if command.resume else of_study(command)
    console = new_console()
    at_once = command.jobs if command.backend == "processes" else 1
    studies.prepare(folder, config, at_once, lambda note: _print_note(console, note))
    print_line(console, f"study folder: {folder}")
    try:
        with _no_traceback_of_joblib():
            study = studies.train(folder, **workers, published=command.published, progress=console)
    except KeyboardInterrupt:
        jobs = f" --jobs {command.jobs}" if command.jobs > 1 else ""
        fail(f"interrupted; go on with: bbpyro compare --resume {shlex.quote(str(folder))}{jobs}", 130)
    print_study(console, study)
    print_line(
        console, f"\nwrote {folder}: table.md, table.csv, runs.csv, figures/, and a folder for each run in runs/"
    )
    print_collapse(console, study.results)
    if study.failures:
        fail(f"{len(study.failures)} of {len(study.config.tasks())} runs failed; see the table and the logs", 1)


@contextlib.contextmanager
def _no_traceback_of_joblib() -> Iterator[None]:
    """On Ctrl-C joblib takes its processes away, and its own thread then raises a KeyError for one that it misses."""
    hook = threading.excepthook

    def tell(args: threading.ExceptHookArgs) -> None:
        if not (args.exc_type is KeyError and "ExecutorManager" in str(args.thread)):
            hook(args)

    threading.excepthook = tell
    try:
        yield
    finally:
        if not isinstance(sys.exc_info()[1], KeyboardInterrupt):  # after which the thread may still be at it
            threading.excepthook = hook


def _warn_of_fit(console: Console, run: runs.Run, *, is_told: bool) -> None:
    """Say so, unless it is told already, where the fit ends clearly worse than it began; and what may help."""
    if not (run.warning or is_told):
        return
    config, num_data = run.config, len(run.dataset.x)
    budget = of_data(num_data, config.batch_size)
    if any(start > 1 for _, start in config.kl_start):
        advice = "a smaller --kl-start"
    elif config.dataset.endswith(".npz") and budget.is_of_few_data and config.epochs < budget.epochs:
        begins = {"pretrain_epochs", "starts", *config.inapplicable} if config.pretrained else config.inapplicable
        of_few = {name: value for name, value in dataclasses.asdict(budget).items() if name not in begins}
        flags = (f"--{name.replace('_', '-')} {value}" for name, value in of_few.items())
        advice = f"{' '.join(flags)}, as without --epochs"
    else:
        start = [] if "initial_keep_probability" in config.inapplicable else ["--initial-keep-probability 0.95"]
        more = ["more --epochs"] if config.epochs < runs.Settings.epochs else []
        advice = ", ".join([*more, *start, "a longer --kl-warmup-epochs, or a smaller --network"])
    num_steps = config.epochs * math.ceil(num_data / config.batch_size)
    done = f"{num_data:,} data in {config.epochs} epochs are {num_steps:,} steps"
    warning = "" if is_told else f"warning: {run.warning}. "
    print_line(console, f"{warning}{done}; what may help: {advice}")


def _evaluate(command: Evaluate) -> None:
    runs.check_num_samples("num_samples", command.num_samples)
    if not command.runs:
        raise ValueError("name at least one run folder")
    console = new_console()
    scores = []
    for folder in command.runs:
        with console.status(escape(f"loading {folder}")):
            run = runs.load(folder)
        scores.append(runs.score(run, command.num_samples, console))
        if not run.is_complete:
            print_line(console, f"{folder} is still in training: scores after epoch {len(run.svi_history)} of SVI")
    if len(scores) == 1:
        print_summary(console, scores[0], run.dataset.note)
        _print_note(console, run.dataset.scale_note)
    else:
        print_comparison(console, dict(zip(map(str, command.runs), scores, strict=True)))


def _posterior(command: Posterior) -> None:
    if not command.runs:
        raise ValueError("name at least one run folder")
    if len(command.runs) > 1 and command.output is None:
        raise ValueError("several runs make one posterior, a chain each; say where to write it with --output FOLDER")
    folder = command.output or command.runs[0]
    console = new_console()
    with console.status("loading"):
        loaded = [runs.load(run) for run in command.runs]
    for run in loaded:
        if not run.is_complete:
            print_line(console, f"{run.folder} is still in training: its posterior after epoch {len(run.svi_history)}")
    found = runs.inspect(loaded, folder, command.num_samples, command.num_predictive_samples, console)
    print_inspection(console, found)
    print_line(console, f"\nwrote {folder}: {runs.POSTERIOR}, figures/")


def _compact(command: Compact) -> None:
    console = new_console()
    with console.status("loading"):
        run = runs.load(command.run)
    set_threshold(run.bnn.net, command.threshold)
    if not run.is_complete:
        print_line(console, f"{run.folder} is still in training: its network after epoch {len(run.svi_history)}")
    shrunk = runs.shrink(
        run,
        finetune_epochs=command.finetune_epochs,
        int8=command.int8,
        round_to=command.round_to,
        console=console,
    )
    print_shrunk(console, run, shrunk)
    written = ", ".join(f"{name} ({count:,} bytes)" for name, count in shrunk.files.items())
    print_line(console, f"\nwrote {command.run}: {written}")
    for name, reason in shrunk.missing.items():
        print_line(console, f"no {name}: {reason}")


def _list_data(command: DataList) -> None:
    table = Table("name", "what", "here")
    for name, description in data.DESCRIPTIONS.items():
        table.add_row(name, description, "yes" if data.is_here(name, command.data_dir) else "no: fetched when needed")
    console = new_console()
    console.print(table)
    print_line(console, f"files are kept in {command.data_dir or data.default_data_dir()}")


def _fetch_data(command: DataFetch) -> None:
    console = new_console()
    with console.status(f"fetching {command.name}"):
        folder = data.fetch(command.name, command.data_dir)
    print_line(console, f"{command.name} is whole, in {folder}")
