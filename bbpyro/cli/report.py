"""What is printed: lines of epochs, tables of scores, of kept units and of the posterior."""

import statistics
from collections.abc import Mapping
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from bbpyro import posterior, runs, studies


class EpochPrinter:
    """One line an epoch, under a header for each phase; by layer where the console is wide enough, else in all."""

    def __init__(self, console: Console) -> None:
        self.console, self.phase, self.by_layer = console, "", True

    def __call__(self, record: dict[str, Any], num_epochs: int, scored_on: str) -> None:
        """Print an epoch's record."""
        if record["phase"] != self.phase:
            self.phase = record["phase"]
            self._print_header(record, num_epochs, scored_on)
        print_line(self.console, self._line(record, num_epochs))

    def _print_header(self, record: dict[str, Any], num_epochs: int, scored_on: str) -> None:
        self.by_layer = True
        self.by_layer = len(self._line(record, num_epochs)) <= self.console.width
        how = "by layer" if self.by_layer else "of all layers together"
        told = f", with KL[q(π)||p(π)] in nats and units kept, {how}" if "kl" in record else ""
        print_line(self.console, f"\n{self.phase}{told}")
        rates = "lr of W, gates" if "kl" in record else "lr"
        rate = len(self._rates(record))
        kl = f" {'KL':<{len(self._kl(record))}} kept" if "kl" in record else ""
        scores = f"{'train nll, acc':<14} {_short(scored_on) + ' nll, acc':<14}"
        print_line(self.console, f"{'epoch':>7} {rates:<{rate}} {scores}{kl}".rstrip())

    def _line(self, record: dict[str, Any], num_epochs: int) -> str:
        epoch = f"{record['epoch']}/{num_epochs}".rjust(7)
        scores = (f"{record[f'{s}_nll']:.4f} {record[f'{s}_accuracy']:7.2%}" for s in ("train", "held_out"))
        gates = [self._kl(record), self._kept(record)] if "kl" in record else []
        return " ".join([epoch, self._rates(record), *scores, *gates])

    def _rates(self, record: dict[str, Any]) -> str:
        return " ".join(f"{rate:.1e}" for rate in record["learning_rate"])

    def _kl(self, record: dict[str, Any]) -> str:
        values = list(record["kl"].values())
        return " ".join(f"{value:4.0f}" for value in (values if self.by_layer else [sum(values)]))

    def _kept(self, record: dict[str, Any]) -> str:
        kept = list(record["active"].values())
        return "-".join(map(str, kept)) if self.by_layer else f"{sum(kept):,}"


def _short(scored_on: str) -> str:
    return "val." if scored_on == "validation" else scored_on


def print_comparison(console: Console, scores: dict[str, dict[str, Any]]) -> None:
    """The scores of several runs, with their mean and range."""
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
        table.add_row(escape(name), *_cells(row))
    if len({len(row) for row in rows}) == 1:
        columns = list(zip(*rows, strict=True))
        table.add_section()
        for label, of in (("mean", statistics.mean), ("lowest", min), ("highest", max)):
            table.add_row(label, *_cells([of(column) for column in columns]))
    console.print(table)
    print_line(console, "by mean mask, and by Monte Carlo (MC) over the masks; units kept on the input of each layer")


def _cells(row: list[float]) -> list[str]:
    errors_first = [f"{value:.2%}" if i % 3 == 0 else f"{value:.4f}" for i, value in enumerate(row[:6])]
    return [*errors_first, "-".join(f"{kept:.0f}" for kept in row[6:])]


def print_summary(console: Console, summary: dict[str, Any], note: str) -> None:
    """The scores and the kept units of a run."""
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
        print_line(console, f"note: {note}")


def print_inspection(console: Console, found: runs.Inspection) -> None:
    """The posterior of single units, of the layers in numbers and in words, and how far to believe it."""
    summary = posterior.extremes(found.idata, num_units=3)
    extremes = Table("π", *map(str, summary.columns), title="az.summary of the largest and the smallest E[π]")
    for unit, row in summary.iterrows():
        extremes.add_row(str(unit), *(f"{float(value):.3f}" for value in row))
    decisions = Table("layer", "units", "kept", "surely in", "undecided", "surely out", title="what is decided")
    for label, row in posterior.decisions(found.idata).iterrows():
        decisions.add_row(posterior.layer(label), *(str(count) for count in row))
    observed = posterior.group(found.idata, "observed_data")
    scored_on, num_scored = observed.attrs["predicted"], observed.sizes["datum"]
    scores = Table(f"{scored_on} ({num_scored:,})", "error", "NLL", "ECE", title="predictions")
    for label, score in found.scores.items():
        scores.add_row(label, f"{score.error:.2%}", f"{score.nll:.4f}", f"{score.ece:.4f}")
    for table in (extremes, decisions, scores):
        table.title_justify, table.columns[0].overflow = "left", "fold"
        for column in table.columns[1:]:
            column.justify = "right"
    console.print(extremes)
    console.print()
    console.print(decisions)
    print_line(
        console,
        "kept: E[π] above the threshold; surely: 95% of the posterior of π is on that side of it. In is a low bar: "
        "a π of 0.01 is in, and used for one datum in a hundred\n",
    )
    print_line(console, posterior.in_words(found.idata) + "\n")
    console.print(scores)
    print_line(console, f"\nPSIS-LOO on training data, with z averaged out\n{found.loo}")
    by_loo, by_held_out = (f"{mean:.4f} ± {se:.4f}" for mean, se in (found.by_loo, found.by_held_out))
    print_line(
        console,
        f"log predictive density, nats a datum: {by_loo} by LOO, {by_held_out} on the {scored_on}. LOO is no better "
        "than its Pareto k, and cannot take a datum back out of W, which is one point fitted to all of them: where the "
        "two differ, believe the held-out data.",
    )


def print_shrunk(console: Console, run: runs.Run, shrunk: runs.Shrunk) -> None:
    """What a compacted run keeps, costs and predicts."""
    kept = [f"{int(gate.kept().sum())} of {gate.num_features}" for gate in run.bnn.gates.values()]
    print_line(console, f"units kept on the input of each layer: {', '.join(kept)}\n")
    first = shrunk.rows["original"]
    assert first.size and first.file_bytes
    scored = f"{run.config.scored_on} data ({len(run.dataset.y_test):,})"
    sizes = Table("", "parameters", "FLOPs a datum", "bytes", "error", "NLL", title=f"size, and scores on {scored}")
    times = Table("", *map(str, runs.BATCH_SIZES), title="milliseconds a call by batch size, one thread, medians")
    for name, row in shrunk.rows.items():
        sizes.add_row(
            name,
            _saved(first.size.parameters, row.size.parameters if row.size else None),
            _saved(first.size.flops, row.size.flops if row.size else None),
            _saved(first.file_bytes, row.file_bytes),
            "" if row.error is None else f"{row.error:.2%}",
            "" if row.nll is None else f"{row.nll:.4f}",
        )
        times.add_row(name, *(_saved(1000 * first.seconds[n], 1000 * row.seconds[n], ".3f") for n in runs.BATCH_SIZES))
    for table in (sizes, times):
        table.title_justify = "left"
        for column in table.columns[1:]:
            column.justify, column.overflow = "right", "fold"
        console.print(table)
    exported = "fine-tuned" if "fine-tuned" in shrunk.rows else "compact"
    onnx = f", and ONNX Runtime's against the {exported} one" if "ONNX Runtime" in shrunk.rows else ""
    print_line(
        console,
        "x: how many times less than the original, which is the plain network that SVI started from. The compact "
        f"network was checked against the mean mask{onnx}, on all of these data.",
    )
    if any(not gate.kept().any() for gate in run.bnn.gates.values()):
        print_line(console, "warning: a layer lost all its units, so this network answers the same to every input")


def _saved(before: float, after: float | None, form: str = ",") -> str:
    return "" if after is None else f"{after:{form}} {before / after:5.2f}x"


def print_study(console: Console, study: studies.Study) -> None:
    """What each prior costs and keeps: the mean over its seeds, and the range below it; then what failed."""
    scored_on = next((result["scored_on"] for result in study.results.values()), "no")
    what = f"{study.config.network} on {study.config.dataset}"
    for title, scores in ((f"{what}, {scored_on} data", studies.tables.PREDICTIONS), (what, studies.tables.COSTS)):
        units = list(study.total.values())
        table = Table("prior", "runs", *(studies.tables.label(score, units) for score in scores), title=title)
        for prior, row in study.table.iterrows():
            cells = [studies.tables.cell(row, score) for score in scores] if row["runs"] else []
            spans = [span if span.startswith("-") else span.replace(" - ", "-") for _, span in cells]  # no room
            shown = [
                mean + (f"\n[dim]{span}[/dim]" if row["runs"] > 1 else "")
                for (mean, _), span in zip(cells, spans, strict=True)
            ]
            failed = f"\n{row['failed']:.0f} failed" if row["failed"] else ""
            table.add_row(escape(str(prior)), f"{row['runs']:.0f}{failed}", *shown)
        table.title_justify = "left"
        for i, column in enumerate(table.columns):
            column.overflow, column.justify = "fold", "right" if i else "left"
        console.print(table)
    print_line(console, studies.tables.NOTE)
    for failure in study.failures:
        print_line(console, f"failed: {failure.task}: {failure.reason}; see {failure.log}")


def print_line(console: Console, text: str) -> None:
    """A line as it is, not wrapped and not coloured."""
    console.print(text, soft_wrap=True, highlight=False, markup=False)


def print_collapse(console: Console, results: Mapping[str, Mapping[str, Any]]) -> None:
    """Say, of runs that learnt nothing or lost a layer, what they are to be held against; `results` by run's name."""
    reasons = {name: reason for name, result in results.items() if (reason := runs.collapse(result))}
    for name, reason in list(reasons.items())[:5]:
        print_line(console, f"warning: {f'{name}: ' if name else ''}{reason}")
    if len(results) > 1 and reasons:
        print_line(console, f"warning: {len(reasons)} of {len(results)} runs learnt nothing, or lost a layer")
