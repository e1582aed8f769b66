"""What is printed: lines of epochs, tables of scores, of kept units and of the posterior."""

import math
import re
import statistics
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import pandas as pd
from rich.console import Console

from bbpyro import data, posterior, runs, studies
from bbpyro.cli.layout import broken, print_table, print_text
from bbpyro.compaction import Compaction
from bbpyro.plots.marks import MARKS

_EMPTIED = MARKS["emptied"][0]
_REASON = 22  # columns, with which the table of a compaction fits a terminal
_MAX_LINES = 200  # of epochs, or so
_MOST_NAMED = 30  # inputs


class EpochPrinter:
    """One line an epoch, under a header for each phase; by layer where the console is wide enough, else in all.

    Of more than 200 epochs it is the first, the last, and every second, third ... between: some 200 lines.
    """

    def __init__(self, console: Console) -> None:
        self.console, self.phase, self.start, self.by_layer = console, "", "", True
        self.emptied: set[str] = set()  # gates of which it is told that no unit is left

    def __call__(self, record: dict[str, Any], num_epochs: int, scored_on: str) -> None:
        """Print an epoch's record."""
        if record.get("start", "") != self.start:
            self.start, self.emptied = record["start"], set()
            print_line(self.console, f"\n{self.start}")
        if record["phase"] != self.phase:
            self.phase = record["phase"]
            self._print_header(record, num_epochs, scored_on)
        if record["epoch"] in (1, num_epochs) or record["epoch"] % math.ceil(num_epochs / _MAX_LINES) == 0:
            print_line(self.console, self._line(record, num_epochs))
        emptied = {gate for gate, count in record.get("active", {}).items() if count == 0}
        if emptied - self.emptied:
            layers = ", ".join(posterior.layer(gate) for gate in record["active"] if gate in emptied)
            where = f"after epoch {record['epoch']} no unit is left on {layers}"
            print_text(
                self.console,
                f"warning: {where}, so every answer is the same. Units hardly ever come back; Ctrl-C ends it",
            )
        self.emptied |= emptied

    def _print_header(self, record: dict[str, Any], num_epochs: int, scored_on: str) -> None:
        self.by_layer = True
        self.by_layer = len(self._line(record, num_epochs)) <= self.console.width
        how = "by layer" if self.by_layer else "of all layers together"
        told = f", with the KL of the masks in nats and units kept, {how}" if "kl" in record else ""
        print_line(self.console, f"\n{self.phase}{told}")
        rates = "lr of W, gates" if "kl" in record else "lr"
        rate = len(self._rates(record))
        kl = f" {'KL':<{len(self._kl(record))}} kept" if "kl" in record else ""
        scores = f"{'train nll, acc':<14} {_short(scored_on) + ' nll, acc':<14}"
        print_line(self.console, f"{'epoch':>{_width(num_epochs)}} {rates:<{rate}} {scores}{kl}".rstrip())

    def _line(self, record: dict[str, Any], num_epochs: int) -> str:
        epoch = f"{record['epoch']}/{num_epochs}".rjust(_width(num_epochs))
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


def _width(num_epochs: int) -> int:
    return max(7, 2 * len(str(num_epochs)) + 1)


def _short(scored_on: str) -> str:
    return "val." if scored_on == "validation" else scored_on


def print_comparison(console: Console, scores: dict[str, dict[str, Any]]) -> None:
    """The scores of several runs, with their mean and range."""
    header = ["run", "error", "NLL", "ECE", "error, MC", "NLL, MC", "ECE, MC", "units kept"]
    numbers = [
        [
            *(s[by][score] for by in ("mean_mask", "monte_carlo") for score in ("error", "nll", "ece")),
            *s["kept"].values(),
        ]
        for s in scores.values()
    ]
    signs = ["" if all(s["kept"].values()) else f" {_EMPTIED}" for s in scores.values()]
    rows: list[list[str] | None] = [
        [name + sign, *_cells(row)] for name, sign, row in zip(_short_names(list(scores)), signs, numbers, strict=True)
    ]
    if len({len(row) for row in numbers}) == 1:
        columns = list(zip(*numbers, strict=True))
        rows.append(None)
        for label, of in (("mean", statistics.mean), ("lowest", min), ("highest", max)):
            rows.append([label, *_cells([of(column) for column in columns])])
    print_table(console, "", header, rows)
    sides = [side for s in scores.values() for side in s["side"].values()]
    print_text(console, f"by mean mask, and by Monte Carlo (MC) over the masks; units kept on {_sides(sides)}")
    if any(signs):
        print_text(console, f"{_EMPTIED}: {MARKS['emptied'][1]}")


def _short_names(folders: list[str]) -> list[str]:
    """The ends of paths, as short as still tells them apart."""
    parts = [Path(folder).parts for folder in folders]
    for length in range(1, max(map(len, parts)) + 1):
        names = ["/".join(each[-length:]) for each in parts]
        if len(set(names)) == len(names):
            return names
    return folders


def _cells(row: list[float]) -> list[str]:
    errors_first = [f"{value:.2%}" if i % 3 == 0 else f"{value:.4f}" for i, value in enumerate(row[:6])]
    return [*errors_first, "-".join(f"{kept:.0f}" for kept in row[6:])]


def _sides(sides: Iterable[str]) -> str:
    """Where gates are, of the side that each is on."""
    found = set(sides)
    if len(found) == 1:
        return f"the {found.pop()} of each layer"
    return "the input of each dense layer, the output of each convolution"


def print_summary(console: Console, summary: dict[str, Any], note: str) -> None:
    """The scores and the kept units of a run."""
    num_samples = summary["monte_carlo"]["num_samples"]
    scores = [
        [label, f"{row['error']:.2%}", f"{row['nll']:.4f}", f"{row['ece']:.4f}"]
        for label, row in (
            ("mean mask", summary["mean_mask"]),
            (f"Monte Carlo, {num_samples} draws of the masks", summary["monte_carlo"]),
        )
    ]
    console.print()
    header = [f"{summary['scored_on']} data ({summary['num_scored']:,})", "error", "NLL", "ECE"]
    print_table(console, "scores", header, scores)
    units = []
    for name, kept in summary["kept"].items():
        total = summary["total"][name]
        layer = posterior.layer(name) + ("" if kept else f" {_EMPTIED}")
        units.append([layer, str(kept), str(total), f"{kept / total:.2%}", summary["side"][name]])
        units[-1] += [f"{summary['active'].get(name, kept):.1f}"] if summary.get("active") else []
    console.print()
    title = f"units kept on {_sides(summary['side'].values())}"
    by_datum = ["by a datum"] if summary.get("active") else []
    print_table(console, title, ["layer", "units kept", "of", "percent", "gate on", *by_datum], units)
    features = summary.get("kept_features", [])
    if 0 < len(features) <= _MOST_NAMED:
        print_line(console, f"inputs kept: {', '.join(features)}")
    if not all(summary["kept"].values()):
        print_text(console, f"{_EMPTIED}: {MARKS['emptied'][1]}")
    if summary.get("starts"):
        least, *others = sorted(
            summary["starts"], key=lambda start: math.inf if start["loss"] is None else start["loss"]
        )
        losses = (f"{'nan' if start['loss'] is None else format(start['loss'], '.4f')}" for start in others)
        rest = "".join(f", {loss} of {start['pretrain_epochs']:,}" for loss, start in zip(losses, others, strict=True))
        best = (
            f"{least['loss']:.4f} of the start with {least['pretrain_epochs']:,} epochs of pretraining, which is kept"
        )
        print_line(console, f"-ELBO/N: {best}{rest}")
    if note:
        print_line(console, f"note: {note}")


def print_inspection(console: Console, found: runs.Inspection) -> None:
    """The posterior of single units, of the layers in numbers and in words, and how far to believe it."""
    idata, count = found.idata, posterior.num_chains(found.idata)
    summary = posterior.extremes(idata, num_units=3 if count == 1 else 1)
    rows = [[str(unit), *(f"{float(value):.3f}" for value in row)] for unit, row in summary.iterrows()]
    of_chains = f", of each of {count} chains" if count > 1 else ""
    measures = list(dict.fromkeys(posterior.measure_label(idata, gate) for gate in posterior.gates(idata)))
    title = f"az.summary of the largest and the smallest by {' or '.join(measures)}{of_chains}"
    print_table(console, title, ["unit", *map(str, summary.columns)], rows)
    console.print()
    _print_decisions(console, idata, measures)
    print_text(console, posterior.in_words(idata) + "\n")
    observed = posterior.group(idata, "observed_data")
    scored_on, num_scored = observed.attrs["predicted"], observed.sizes["datum"]
    of_mean = f", by the mean of {count} chains' probabilities" if count > 1 else ""
    scores = [[n, f"{s.error:.2%}", f"{s.nll:.4f}", f"{s.ece:.4f}"] for n, s in found.scores.items()]
    print_table(console, f"predictions{of_mean}", [f"{scored_on} ({num_scored:,})", "error", "NLL", "ECE"], scores)
    of_draws = f", by the draws of the {count} chains together" if count > 1 else ""
    print_text(console, f"\nPSIS-LOO on training data, with z averaged out{of_draws}")
    print_line(console, str(found.loo))
    by_loo, by_held_out = (f"{mean:.4f} ± {se:.4f}" for mean, se in (found.by_loo, found.by_held_out))
    print_text(
        console,
        f"log predictive density, nats a datum: {by_loo} by LOO, {by_held_out} on the {scored_on}{of_mean}. LOO is no "
        "better than its Pareto k, and cannot take a datum back out of W, which is one point fitted to all of them: "
        "where the two differ, believe the held-out data.",
    )


def _print_decisions(console: Console, idata: Any, measures: list[str]) -> None:
    """How many units of each layer are in and out; of families without a posterior of π, by their measure alone."""
    decided = posterior.decisions(idata).dropna(axis="columns", how="all")
    rows = []
    for label, row in decided.iterrows():
        gate = label[0] if isinstance(label, tuple) else str(label)
        numbers = ["" if pd.isna(number) else str(number) for number in row]
        rows.append([posterior.layer(label), *numbers, posterior.side(idata, gate)])
    header = ["layer", *(str(name).replace("_", " ") for name in decided), "gate on"]
    print_table(console, "what is decided", header, rows)
    told = f"kept: {' or '.join(measures)} above the threshold"
    if "surely_in" in decided:
        told += (
            f"; surely: {posterior.CI_PROB:.0%} of the posterior of π is on that side of it. A unit may be "
            "kept and surely out: one that is rarely above it, but then far. In is a low bar: a π of 0.01 is "
            "in, and used for one datum in a hundred"
        )
    print_text(console, told + "\n")


def print_shrunk(console: Console, run: runs.Run, shrunk: runs.Shrunk) -> None:
    """What a compacted run keeps, costs and predicts."""
    sides = {name: posterior.side_of(gate) for name, gate in run.bnn.gates.items()}
    each = {name: f"{int(gate.kept().sum())} of {gate.num_features}" for name, gate in run.bnn.gates.items()}
    if len(set(sides.values())) == 1:
        kept = f"units kept on {_sides(sides.values())}: {', '.join(each.values())}"
    else:
        kept = "units kept: " + ", ".join(f"{posterior.place_of(g, sides[g])} {count}" for g, count in each.items())
    print_text(console, f"{kept}\n")
    _print_compaction(console, shrunk.compaction)
    first = shrunk.rows["original"]
    assert first.size and first.file_bytes
    scored = f"{run.config.scored_on} data ({len(run.dataset.y_test):,})"
    sizes = [
        [
            name,
            _below(_saved(first.size.parameters, row.size.parameters if row.size else None)),
            _below(_saved(first.size.macs, row.size.macs if row.size else None)),
            _below(_saved(first.file_bytes, row.file_bytes)),
            "" if row.error is None else f"{row.error:.2%}",
            "" if row.nll is None else f"{row.nll:.4f}",
        ]
        for name, row in shrunk.rows.items()
    ]
    header = ["", "parameters", "MACs a datum", "bytes", "error", "NLL"]
    print_table(console, f"size, and scores on {scored}", header, sizes)
    times = [
        [name, *(_saved(1000 * first.seconds[n], 1000 * row.seconds[n], ".3f") for n in runs.BATCH_SIZES)]
        for name, row in shrunk.rows.items()
    ]
    title = "milliseconds a call by batch size, one thread, medians"
    print_table(console, title, ["", *map(str, runs.BATCH_SIZES)], times)
    exported = "fine-tuned" if "fine-tuned" in shrunk.rows else "compact"
    onnx = f", and ONNX Runtime's against the {exported} one" if "ONNX Runtime" in shrunk.rows else ""
    print_text(
        console,
        "MACs: multiply-accumulates, without biases and activations; x: how many times less than the original, which "
        "is the plain network that SVI started from. The compact "
        f"network was checked against the mean mask{onnx}, on all of these data.",
    )
    if any(not gate.kept().any() for gate in run.bnn.gates.values()):
        print_text(console, "warning: a layer lost all its units, so this network answers the same to every input")


def _print_compaction(console: Console, report: Compaction) -> None:
    """What became of each layer's units, and why dead ones stay, where some do."""
    why = "dead ones that stay"
    header = ["layer", "units", "dead", "removed", "left out", why]
    rows = []
    for name, gate in report.gates.items():
        numbers = (gate.units, gate.dead, gate.removed, gate.left_out)
        reasons = "\n".join(broken(f"{count}: {reason}", _REASON) for reason, count in gate.reasons.items())
        rows.append([name or "the network", *map(str, numbers), reasons])
    if not any(row[-1] for row in rows):
        header, rows = header[:-1], [row[:-1] for row in rows]
    print_table(console, "units by layer", header, rows, words={why})
    if any(gate.left_out for gate in report.gates.values()):
        print_text(console, "left out: the layer does not read them; they are there for others, or in the input")
    console.print()


def _saved(before: float, after: float | None, form: str = ",") -> str:
    return "" if after is None else f"{after:{form}} {before / after:5.2f}x"


def _below(saved: str) -> str:
    """What is saved under the number, where one line has no room for it."""
    return "\n".join(saved.split())


def print_study(console: Console, study: studies.Study) -> None:
    """What each setting costs and keeps: the mean over its seeds, and the range below it; then what failed."""
    scored_on = " and ".join(sorted({result["scored_on"] for result in study.results.values()})) or "no"
    what = f"{_of_all(study, 'network')} on {_of_all(study, 'dataset')}"
    table = study.table
    counts = {_counted(row) for _, row in table.iterrows()}
    each = f"; {counts.pop()} each" if len(counts) == 1 else ""
    names = studies.tables.settings_header(table)
    costs = f"{what}, {studies.tables.label('kept', list(study.total.values()))} units"
    for title, scores in ((f"{what}, {scored_on} data", studies.tables.PREDICTIONS), (costs, studies.tables.COSTS)):
        scores, rows = studies.tables.scores_of(table, scores), []
        for key, row in table.iterrows():
            cells = [studies.tables.cell(row, score) for score in scores] if row["runs"] else [("", "")] * len(scores)
            shown = [mean + (f"\n{_in_lines(span)}" if row["runs"] > 1 and mean else "") for mean, span in cells]
            first, *others = studies.tables.settings_cells(key, row)
            first += studies.tables.sign(row) + ("" if each else f"\n{_counted(row)}")
            rows.append([first, *others, *shown])
        console.print()
        header = [*names, *(name for name, _ in scores.values())]
        print_table(console, title + each, header, rows, num_names=len(names))
    print_text(console, studies.tables.note(study.runs))
    for note in [*study.config.told, *studies.tables.notes(study.runs)]:
        print_text(console, note)
    for failure in study.failures:
        print_line(console, f"failed: {failure.task}: {failure.reason}; see {failure.log}")


def _of_all(study: studies.Study, setting: str) -> str:
    """The network, or the data set, of a study's runs."""
    found = {getattr(each.config, setting) for each in study.config.candidates()}
    name = found.pop()
    return f"{len(found) + 1} {setting}s" if found else _data_name(name) if setting == "dataset" else name


def _data_name(dataset: str) -> str:
    """A data set's name; of one in a file the file's, without its folder and ending."""
    return dataset if dataset in data.DESCRIPTIONS else Path(dataset).stem


def _in_lines(span: str) -> str:
    """A range as narrow as can be: without spaces around its dash, or, of numbers with a dash, in two lines."""
    lowest, _, highest = re.split(r" (-|to) ", span, maxsplit=1)
    return f"{lowest}-{highest}" if "-" not in lowest + highest else f"{lowest} to\n{highest}"


def _counted(row: Any) -> str:
    failed = f", {row['failed']:.0f} failed" if row["failed"] else ""
    return f"{row['runs']:.0f} run{'' if row['runs'] == 1 else 's'}{failed}"


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
    worse = {name: result["warning"] for name, result in results.items() if "warning" in result and name not in reasons}
    for name, told in list(worse.items())[:5]:
        print_line(console, f"warning: {name}: {told}")
    if worse:
        print_line(console, f"warning: {len(worse)} of {len(results)} runs end clearly worse than they began")
