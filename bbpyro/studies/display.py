"""What is seen of a study while it is trained."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from bbpyro import runs
from bbpyro.studies import task


@contextmanager
def display(folder: Path, tasks: dict[str, runs.TrainConfig], progress: bool | Console) -> Iterator[None]:
    """A bar of all epochs of all runs, and a line for each run that is being trained, read off their files."""
    if not progress:
        yield
        return
    console = progress if isinstance(progress, Console) else None
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("epochs,"),
        TimeElapsedColumn(),
        TextColumn("gone,"),
        TimeRemainingColumn(),
        TextColumn("left"),
    )
    with Progress(*columns, console=console, transient=True) as bar:
        watch = _Watch(folder, tasks, bar)
        stop = threading.Event()

        def poll() -> None:
            while not stop.wait(1.0):
                watch.update()

        watch.update()
        thread = threading.Thread(target=poll, daemon=True)
        thread.start()
        try:
            yield
        finally:
            stop.set()
            thread.join()
            watch.update()


class _Watch:
    """The progress of a study's runs, by the lines of their metrics.jsonl."""

    def __init__(self, folder: Path, tasks: dict[str, runs.TrainConfig], bar: Progress) -> None:
        self.folder, self.bar = folder, bar
        self.epochs = {
            name: sum(each.epochs + (0 if each.pretrained else each.pretrain_epochs) for each in config.trainings())
            for name, config in tasks.items()
        }
        self.lines: dict[str, Any] = {}
        self.told = {name for name in tasks if self._is_done(name)}
        self.all = bar.add_task("", total=sum(self.epochs.values()))

    def update(self) -> None:
        done = {name: self._epochs_done(name) for name in self.epochs}
        finished = [name for name in self.epochs if self._is_done(name)]
        for name in finished:
            if name not in self.told:
                self.told.add(name)
                self.bar.console.print(f"done: {name}", soft_wrap=True, highlight=False, markup=False)
        self.bar.update(
            self.all, completed=sum(done.values()), description=f"{len(finished)} of {len(self.epochs)} runs done"
        )
        for name, total in self.epochs.items():
            if name in finished and name in self.lines:
                self.bar.remove_task(self.lines.pop(name))
            elif name not in finished and done[name]:
                if name not in self.lines:
                    self.lines[name] = self.bar.add_task(f"  {name}", total=total)
                self.bar.update(self.lines[name], completed=done[name])

    def _is_done(self, name: str) -> bool:
        return (self.folder / "runs" / name / task.RESULT).is_file()

    def _epochs_done(self, name: str) -> int:
        run = self.folder / "runs" / name
        return sum(_num_lines(path / "metrics.jsonl") for path in (run / runs.STARTS).glob("[0-9]*")) or _num_lines(
            run / "metrics.jsonl"
        )


def _num_lines(path: Path) -> int:
    try:
        return path.read_bytes().count(b"\n")
    except OSError:
        return 0
