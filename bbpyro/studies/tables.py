"""The tables of a study: a row a run, and a row a setting with the mean and the range of its seeds."""

import re
import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from bbpyro import checkpoint
from bbpyro.plots.marks import MARKS, faults
from bbpyro.studies import axes
from bbpyro.studies.axes import FOLD
from bbpyro.studies.config import StudyConfig

# What is compared, in the order of the columns, and how a number of it is written; the first two of the costs have one
# for each layer.
PREDICTIONS = {
    "error": ("error", "{:.2%}"),
    "nll": ("NLL", "{:.4f}"),
    "ece": ("ECE", "{:.4f}"),
    "nll_monte_carlo": ("NLL, MC", "{:.4f}"),
    "elbo": ("ELBO", "{:.3f}"),
    "elpd_loo": ("elpd_loo", "{:.4f}"),
}
COSTS = {
    "kept": ("kept", "{:.0f}"),
    "active": ("kept by a datum", "{:.0f}"),  # of masks that depend on the datum
    "macs_left": ("MACs left", "{:.1%}"),
    "parameters_left": ("parameters left", "{:.1%}"),
    "seconds": ("training, s", "{:.0f}"),
}
SCORES = PREDICTIONS | COSTS
NOTE = (
    "mean (range) of the seeds, by mean mask; kept: units on the input of each dense layer, on the output of each "
    "convolution; MACs: multiply-accumulates, without biases and activations; NLL, MC: by "
    "Monte Carlo over the masks; ELBO: nats a datum, log p(W) of a point W in it; elpd_loo: nats a datum, of 250 "
    "training data: too good where W is a point fitted to them, so compare the NLLs"
)


def by_run(config: StudyConfig, results: Mapping[str, Mapping[str, Any]], reasons: Mapping[str, str]) -> pd.DataFrame:
    """A row for each run that ended or failed: what was compared, seed, scores, units kept, and what went wrong.

    What was compared: prior, point, each setting that is not the same in all runs, and, where that differs, the budget.
    The column of a setting that a score has the name of is called "setting elbo".
    """
    rows = []
    candidates = config.candidates()
    is_budget = len({each.budget for each in candidates}) > 1
    for each in candidates:
        settings = {name: axes.shown(name, getattr(each.config, name)) for name in config.compared}
        own = {key: each.shown[key] for key in ("prior", "point") if key in each.shown} | settings | dict(each.shown)
        own = {axes.column(name): value for name, value in own.items()}
        own |= {"budget": each.budget} if is_budget else {}
        for name, run in config.runs_of(each).items():
            fold = {FOLD: run.validation_fold} if FOLD in config.vary else {}
            row: dict[str, Any] = {"run": name, **own, **fold, "seed": run.seed}
            if name in results:
                result = results[name]
                scalars = {k: v for k, v in result.items() if not isinstance(v, Mapping)}
                units = {
                    f"{of} {gate.removesuffix('.gate')}": count
                    for of in ("kept", "active")
                    for gate, count in result.get(of, {}).items()
                }
                rows.append({**row, **units, **scalars})
            elif name in reasons:
                rows.append({**row, "failed": reasons[name]})
    return pd.DataFrame(rows)


def by_setting(runs: pd.DataFrame, keys: Sequence[str]) -> pd.DataFrame:
    """Mean, lowest and highest of every score and of the units kept, a row for each setting in the order of the study.

    Args:
        runs: of :func:`by_run`.
        keys: the columns of it that tell settings apart; they become the table's index.
    """
    rows, index = [], []
    for key, group in runs.groupby(list(keys), sort=False) if len(runs) else ():
        scored = [c for c in runs.columns if c in SCORES or c.startswith(("kept ", "active "))]
        columns = [c for c in scored if group[c].notna().any()]
        done = group.dropna(subset=columns) if columns else group.iloc[:0]
        row: dict[str, Any] = {"budget": group["budget"].iloc[0]} if "budget" in runs else {}
        row |= {"runs": len(done), "failed": len(group) - len(done)}
        found = [fault for run in done.to_dict("records") for fault in faults(run)] if columns else []
        row |= {fault: found.count(fault) for fault in MARKS}
        for column in columns:
            for label, of in (("mean", statistics.mean), ("lowest", min), ("highest", max)):
                row[f"{column} {label}"] = of(map(float, done[column]))
        rows.append(row)
        index.append(key)
    columns_of_index = [list(each) for each in zip(*index, strict=True)] or [[] for _ in keys]
    if len(keys) == 1:
        return pd.DataFrame(rows, index=pd.Index(columns_of_index[0], name=keys[0]))
    return pd.DataFrame(rows, index=pd.MultiIndex.from_arrays(columns_of_index, names=keys))


def settings_header(table: pd.DataFrame) -> list[str]:
    """What the columns are called that say which setting a row of :func:`by_setting` is of."""
    names = [str(name).replace("_", " ") for name in table.index.names]
    return names + (["budget"] if "budget" in table else [])


def settings_cells(key: Any, row: Any) -> list[str]:
    """Which setting a row of :func:`by_setting` is of, as text; `key` is its place in the index."""
    values = [*(key if isinstance(key, tuple) else (key,)), *([row["budget"]] if "budget" in row else [])]
    return [value if isinstance(value, str) else f"{value:.12g}" for value in values]


def cell(row: Any, score: str) -> tuple[str, str]:
    """The mean of a score in a row of :func:`by_setting`, and its range, as text."""
    form = SCORES[score][1]
    names = [str(name).removesuffix(" mean") for name in row.index if str(name).endswith(" mean")]
    names = [name for name in names if name == score or name.startswith(f"{score} ")]
    names = [name for name in names if pd.notna(row[f"{name} mean"])]  # layers that another network has
    if not names:
        return "", ""
    mean, lowest, highest = (
        "-".join(form.format(row[f"{name} {which}"]) for name in names) for which in ("mean", "lowest", "highest")
    )
    return mean, f"{lowest} to {highest}" if len(names) > 1 else f"{lowest} - {highest}"


def sign(row: Any) -> str:
    """The signs of the faults that runs of a row have, as in " † ‡ 1 of 3"; of none nothing."""
    counts = {fault: row[fault] for fault in MARKS if row[fault]}
    return "".join(
        f" {MARKS[fault][0]}" + ("" if count == row["runs"] else f" {count:.0f} of {row['runs']:.0f}")
        for fault, count in counts.items()
    )


def notes(runs: pd.DataFrame) -> list[str]:
    """What the signs mean, where there are any, and what error the plain network and the most frequent class have."""
    done = runs.dropna(subset="error").to_dict("records") if "error" in runs else []
    found = {fault for run in done for fault in faults(run)}
    lines = [f"{mark}: {text}" for fault, (mark, text) in MARKS.items() if fault in found]
    for column, text in (("plain_error", "the plain network"), ("majority_error", "the most frequent class")):
        errors = [run[column] for run in done if pd.notna(run.get(column))]
        if errors:
            span = f" ({min(errors):.2%} - {max(errors):.2%})" if min(errors) < max(errors) else ""
            lines.append(f"error of {text}: {statistics.mean(errors):.2%}{span}")
    return lines


def scores_of(table: pd.DataFrame, scores: Mapping[str, tuple[str, str]] = SCORES) -> dict[str, tuple[str, str]]:
    """Those that a table has a column for: what only some families of masks have, where there is one of them."""
    has_active = any(str(column).startswith("active ") for column in table.columns)
    return {name: how for name, how in scores.items() if name != "active" or has_active}


def label(score: str, total: Sequence[int]) -> str:
    """What the column of a score is called; `total` are the units of each layer, none where networks differ."""
    return f"kept of {'-'.join(map(str, total))}" if score == "kept" and total else SCORES[score][0]


def note(runs: pd.DataFrame) -> str:
    """What the numbers of the table are."""
    return NOTE.replace("of the seeds", "of the seeds and validation folds") if FOLD in runs else NOTE


def to_markdown(table: pd.DataFrame, runs: pd.DataFrame, total: Sequence[int], told: Sequence[str] = ()) -> str:
    """The table of settings in Markdown, with `told`, and the runs that failed, below it."""
    scores = scores_of(table)
    lines = [[*settings_header(table), "runs", *(label(score, total) for score in scores)]]
    lines.append(["---"] * len(lines[0]))
    for key, row in table.iterrows():
        cells = [cell(row, score) for score in scores] if row["runs"] else [("", "")] * len(scores)
        shown = [f"{mean} ({span})" if row["runs"] > 1 and mean else mean for mean, span in cells]
        first, *others = map(_escaped, settings_cells(key, row))
        first = f"`{first}`" if table.index.names[0] == "prior" else first
        lines.append([f"{first}{sign(row)}", *others, f"{row['runs']:.0f}", *shown])
    text = "".join(f"| {' | '.join(line)} |\n" for line in lines) + f"\n{note(runs)}.\n"
    text += "".join(f"\n{line}\n" for line in [*told, *notes(runs)])
    if "failed" in runs:
        failed = runs.dropna(subset="failed")
        text += "".join(
            f"\nfailed: {run}: {reason}\n" for run, reason in zip(failed["run"], failed["failed"], strict=True)
        )
    return text


def _escaped(name: str) -> str:
    """A name as a cell of a table in Markdown holds it."""
    return re.sub(r"([\\|])", r"\\\1", " ".join(name.splitlines()))


def write(
    folder: Path, table: pd.DataFrame, runs: pd.DataFrame, total: Sequence[int], told: Sequence[str] = ()
) -> None:
    """Write runs.csv, table.csv and table.md into the study's folder; arguments as above."""
    checkpoint.write_atomic(folder / "runs.csv", runs.to_csv(index=False).encode())
    checkpoint.write_atomic(folder / "table.csv", table.to_csv().encode())
    checkpoint.write_atomic(folder / "table.md", to_markdown(table, runs, total, told).encode())
