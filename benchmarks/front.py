"""Error against size: a study's curve, other methods' curves by the same count, and the published points.

    python benchmarks/front.py runs/front-fashion-mnist --output docs/front/fashion-mnist
    python benchmarks/front.py runs/front-lenet-500-300 --rivals docs/front/rivals.csv --output docs/front/lenet-500-300

Writes OUTPUT.png and OUTPUT.md: a row a setting of the study, and of what benchmarks/pruning_methods.py --test wrote,
with the epochs that a network took, the minutes of its fastest seed, for others may have shared the machine, mean and
range over the seeds, and the units kept; and a row a published network. MACs x: the dense network's
multiply-accumulates over those that are left. Nothing is trained here.
"""

import argparse
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator
from measuring import wide_console

from bbpyro import checkpoint, plots, studies
from bbpyro.plots import published
from bbpyro.plots.labels import name_points
from bbpyro.plots.marks import MARKS, faults
from bbpyro.plots.studies import setting as setting_name

OURS = "Beta-Bernoulli dropout"
RIVALS_NETWORK = "lenet-500-300"
COLUMNS = ["method", "setting", "epochs", "minutes", "error", "nll", "kept", "macs_x", "parameters_x"]
TITLES = ["method", "setting", "epochs", "minutes", "error, %", "NLL", "kept", "MACs x", "parameters x"]
TICKS = [tick * 10**power for power in range(5) for tick in (1, 1.5, 2, 3, 5, 7)]


def of_study(study: studies.Study) -> pd.DataFrame:
    """A row a run that ended with units in every layer, in the columns of this table."""
    runs = study.runs.dropna(subset="error")
    runs = runs[~runs.apply(lambda run: "emptied" in faults(run), axis=1)]
    budgets = {name: each.budget for each in study.config.candidates() for name in study.config.runs_of(each)}
    keys = [key for key in study.config.keys if key in runs]
    kept = [column for column in runs if column.startswith("kept ")]
    return pd.DataFrame(
        {
            "method": OURS,
            "setting": [setting_name(keys, tuple(row)) for row in runs[keys].itertuples(index=False)],
            "epochs": runs["run"].map(budgets),
            "minutes": runs["seconds"] / 60,
            "error": 100 * runs["error"],
            "nll": runs["nll"],
            "kept": [tuple(map(int, row)) for row in runs[kept].itertuples(index=False)],
            "macs_x": 1 / runs["macs_left"],
            "parameters_x": 1 / runs["parameters_left"],
        }
    )


def of_rivals(path: Path, dataset: str, total: Sequence[int]) -> pd.DataFrame:
    """The rows of benchmarks/pruning_methods.py that were scored on this test set; a ValueError without any."""
    try:
        rows = pd.read_csv(path, dtype={"setting": str, "kept": str})
        rows = rows[rows["scored_on"] == f"{dataset}: test"]
    except (OSError, ValueError, KeyError) as error:
        raise ValueError(f"rivals: {path} is no table of benchmarks/pruning_methods.py ({error})") from None
    if rows.empty:
        raise ValueError(
            f"rivals: {path} has no row of {dataset}'s test set; benchmarks/pruning_methods.py --test adds some"
        )
    dense = sum(a * b + b for a, b in zip(total, [*total[1:], 10], strict=True))
    return pd.DataFrame(
        {
            **{name: rows[name] for name in ("method", "setting", "minutes", "nll", "macs_x")},
            "epochs": rows["epochs"].astype(str),
            "error": 100 * rows["error"],
            "kept": [tuple(map(int, text.split("-"))) for text in rows["kept"]],
            "parameters_x": dense / rows["parameters"],
        }
    )


def table(rows: pd.DataFrame) -> str:
    """The table in Markdown: of each setting the mean over the seeds, and the range; by size within a method."""
    lines = [TITLES, ["---"] * len(TITLES)]
    of_settings = [part for _, of_method in rows.groupby("method", sort=False) for part in _by_size(of_method)]
    for (method, setting), group in of_settings:
        kept = "-".join(f"{sum(units) / len(group):.0f}" for units in zip(*group["kept"], strict=True))
        numbers = [
            f"{group[name].mean():{form}} ({group[name].min():{form}} - {group[name].max():{form}})"
            for name, form in (("error", ".2f"), ("nll", ".4f"), ("macs_x", ".1f"), ("parameters_x", ".1f"))
        ]
        minutes = f"{group['minutes'].min():.1f}"
        lines.append([method, setting, group["epochs"].iloc[0], minutes, *numbers[:2], kept, *numbers[2:]])
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def _by_size(rows: pd.DataFrame) -> list[tuple[tuple[str, str], pd.DataFrame]]:
    """The rows of each setting of a method, the largest network first."""
    groups: list[Any] = list(rows.groupby(["method", "setting"], sort=False))
    return sorted(groups, key=lambda group: group[1]["macs_x"].mean())


def published_rows(network: str) -> str:
    """What was published of this network, as rows of the same table."""
    rows = published.NETWORKS.get(network, ())
    lines = []
    for row in rows:
        sizes = [f"{count(rows[0].kept) / count(row.kept):.1f}" for count in (published.macs, published.parameters)]
        error = "" if row.error is None else f"{row.error:.2f}"
        lines.append([f"published, {row.method}", row.source, "", "", error, "", "-".join(map(str, row.kept)), *sizes])
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def draw(rows: pd.DataFrame, behind: Mapping[str, Sequence[tuple[float, float]]], scored_on: str) -> Figure:
    """The curves, each through the means of its settings; a ring a seed, a name our settings and published points."""
    figure = Figure(figsize=(9, 5.2), layout="constrained")
    axis = figure.subplots()
    names: list[tuple[str, Any]] = []
    for method, points in behind.items():
        for error, macs_x in points:
            axis.plot(macs_x, error, "s", color="grey", fillstyle="none", markersize=5)
            names.append((method, (macs_x, error)))
    for i, (method, group) in enumerate(rows.groupby("method", sort=False)):
        color, is_ours = plots.COLORS[i % len(plots.COLORS)], method == OURS
        means = group.groupby("setting", sort=False)[["macs_x", "error"]].mean().sort_values("macs_x")
        axis.plot(group["macs_x"], group["error"], "o", color=color, fillstyle="none", markersize=4, alpha=0.7)
        style: dict[str, Any] = {"linewidth": 2.2 if is_ours else 1.2, "markersize": 7 if is_ours else 5}
        axis.plot(means["macs_x"], means["error"], "o-", color=color, label=method, **style)
        if is_ours:
            names += [(str(setting), tuple(point)) for setting, point in means.iterrows()]
    if behind:
        axis.plot([], [], "s", color="grey", fillstyle="none", label="published")
    axis.set_xscale("log")
    axis.xaxis.set_major_locator(FixedLocator(TICKS))
    axis.xaxis.set_minor_locator(NullLocator())
    axis.xaxis.set_major_formatter(FuncFormatter(lambda x, _: f"{x:g}x"))
    axis.set_xlabel("multiply-accumulates: the dense network's over those left")
    axis.set_ylabel(f"error on {scored_on} data, %")
    axis.set_title("lower right is better; a point the mean of its seeds, a ring a seed", fontsize=10)
    axis.legend(frameon=False)
    name_points(figure, axis, names)
    return figure


def read(folder: Path, rivals: Path | None) -> tuple[studies.Study, pd.DataFrame, tuple[str, str]]:
    """The study, a row a run that ended, of rivals too, and the network and data set that all are of.

    Raises:
        ValueError: there is none, or they are of several, or not of the rivals'.
    """
    study = studies.load(folder)
    if not study.results:
        raise ValueError(f"{folder}: none of its runs has ended yet; go on with bbpyro compare --resume {folder}")
    made_of = {(each.config.network, each.config.dataset) for each in study.config.candidates()}
    if len(made_of) > 1:
        raise ValueError(f"{folder}: its runs are of several networks or data sets, and a front is of one")
    network, dataset = made_of.pop()
    if rivals and network != RIVALS_NETWORK:
        raise ValueError(f"rivals: they are of {RIVALS_NETWORK}, and {folder} is of {network}")
    parts = [of_study(study)]
    if parts[0].empty:
        raise ValueError(f"{folder}: in each of its runs {MARKS['emptied'][1]}")
    if rivals:
        parts.append(of_rivals(rivals, dataset, list(study.total.values())))
    return study, pd.concat(parts, ignore_index=True), (network, dataset)


def main(arguments: Sequence[str] | None = None) -> None:
    """Write the figure and the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("study", type=Path, help="a folder of bbpyro compare")
    parser.add_argument("--rivals", type=Path, help="a csv of benchmarks/pruning_methods.py --test")
    parser.add_argument("--output", type=Path, required=True, help="where to write, without .png and .md")
    chosen = parser.parse_args(arguments)
    try:
        study, rows, made_of = read(chosen.study, chosen.rivals)
    except ValueError as error:
        parser.error(str(error))
    behind = published.behind(*made_of)
    scored_on = " and ".join(study.runs["scored_on"].dropna().unique())
    title = f"# {made_of[0]} on {made_of[1]}: error on {scored_on} data, mean and range of the seeds\n\n"
    text = title + table(rows) + (published_rows(made_of[0]) if behind else "")
    to = str(chosen.output).removesuffix(".png").removesuffix(".md")
    try:
        Path(to).parent.mkdir(parents=True, exist_ok=True)
        plots.save(draw(rows, behind, scored_on), Path(f"{to}.png"))
        checkpoint.write_atomic(Path(f"{to}.md"), text.encode())
    except OSError as error:
        parser.error(f"output: {error}")
    wide_console().print(text, markup=False, highlight=False)
    missing, emptied = len(study.config.tasks()) - len(study.results), len(study.results) - sum(rows["method"] == OURS)
    if missing:
        print(f"{missing} runs are missing; they are trained by: bbpyro compare --resume {chosen.study}")
    if emptied:
        print(f"{emptied} runs are left out: {MARKS['emptied'][1]}")


if __name__ == "__main__":
    main()
