"""Error against size: a study's curve, other methods' curves by the same count, and the published points.

    python benchmarks/front.py runs/front-fashion-mnist --output docs/front/fashion-mnist
    python benchmarks/front.py runs/front-lenet-500-300 --rivals docs/front/rivals.csv --output docs/front/lenet-500-300
    python benchmarks/front.py runs/families-lenet-500-300 runs/dependent-lenet-500-300 --output docs/families/new
    python benchmarks/front.py docs/front/lenet-500-300.csv --rivals docs/front/rivals.csv --output docs/front/new

Writes OUTPUT.png and OUTPUT.md: a row a setting of the studies, and of what benchmarks/pruning_methods.py --test wrote,
with the epochs that a network took, the minutes of its fastest seed, for others may have shared the machine, mean and
range over the seeds, and the units kept; and, of test data, a row a published network. MACs x: the dense network's
multiply-accumulates over those that are left. OUTPUT.csv has the studies' rows, from which both can be made again, with
other rivals, where the studies are no more. Nothing is trained here.
"""

import argparse
import shlex
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

MARKERS = "ov^D"  # the next where there are more methods than colors
OURS = "Beta-Bernoulli dropout"
RIVALS_NETWORK = "lenet-500-300"
MEASURES = {"error": ".2f", "nll": ".4f", "macs_x": ".1f", "parameters_x": ".1f"}
RANGES = [f"{name}{of}" for name in MEASURES for of in ("", "_low", "_high")]
COLUMNS = ["network", "dataset", "scored_on", "method", "setting", "epochs", "minutes", "kept", *RANGES]
TITLES = ["method", "setting", "epochs", "minutes", "error, %", "NLL", "kept", "MACs x", "parameters x"]
TICKS = [tick * 10**power for power in range(5) for tick in (1, 1.5, 2, 3, 5, 7)]


def of_study(study: studies.Study) -> pd.DataFrame:
    """A row a run that ended with units in every layer, in the columns of this table."""
    runs = study.runs.dropna(subset="error")
    runs = runs[~runs.apply(lambda run: "emptied" in faults(run), axis=1)]
    made_of = {name: each for each in study.config.candidates() for name in study.config.runs_of(each)}
    keys = [key for key in study.config.keys if key in runs]
    kept = [column for column in runs if column.startswith("kept ")]
    return pd.DataFrame(
        {
            "method": runs["run"].map(lambda name: _method(made_of[name].config.family)),
            "setting": [setting_name(keys, tuple(row)) for row in runs[keys].itertuples(index=False)],
            "epochs": runs["run"].map(lambda name: made_of[name].budget),
            "minutes": runs["seconds"] / 60,
            "error": 100 * runs["error"],
            "nll": runs["nll"],
            "kept": [tuple(map(int, row)) for row in runs[kept].itertuples(index=False)],
            "macs_x": 1 / runs["macs_left"],
            "parameters_x": 1 / runs["parameters_left"],
        }
    )


def _method(family: str) -> str:
    """What a family of masks is called here: SBP, VIB without its gamma, or, where gates have several, all of it."""
    name = family if family.startswith("{") else family.partition("(")[0]
    return OURS if name == "BetaBernoulli" else name


def of_rivals(path: Path, dataset: str) -> pd.DataFrame:
    """The rows of benchmarks/pruning_methods.py that were scored on this test set; a ValueError without any."""
    try:
        rows = pd.read_csv(path, dtype={"setting": str, "kept": str})
        rows = rows[rows["scored_on"] == f"{dataset}: test"]
        if rows.empty:
            raise ValueError(f"it has no row of {dataset}'s test set; benchmarks/pruning_methods.py --test adds some")
        dense = published.parameters(published.NETWORKS[RIVALS_NETWORK][0].kept)
        kept = [tuple(map(int, text.split("-"))) for text in rows["kept"]]
        if {len(units) for units in kept} != {3}:
            raise ValueError("kept is not of three layers")
        return pd.DataFrame(
            {
                **{name: rows[name] for name in ("method", "setting", "minutes", "nll", "macs_x")},
                "epochs": rows["epochs"].astype(str),
                "error": 100 * rows["error"],
                "kept": kept,
                "parameters_x": dense / rows["parameters"],
            }
        ).astype(dict.fromkeys(["minutes", *MEASURES], float))
    except (AttributeError, KeyError, OSError, TypeError, ValueError) as error:
        raise ValueError(f"rivals: {path} is no table of benchmarks/pruning_methods.py ({error})") from None


def settings(rows: pd.DataFrame) -> pd.DataFrame:
    """A row a setting, by size within a method: the mean over its seeds, the least and the most."""
    found = []
    for (method, setting), group in rows.groupby(["method", "setting"], sort=False):
        kept = "-".join(f"{sum(units) / len(group):.0f}" for units in zip(*group["kept"], strict=True))
        row = {"method": method, "setting": setting, "epochs": group["epochs"].iloc[0], "kept": kept}
        for name in MEASURES:
            of = group[name]
            row |= {name: of.mean(), f"{name}_low": of.min(), f"{name}_high": of.max()}
        found.append({**row, "minutes": group["minutes"].min()})
    return by_size(pd.DataFrame(found))


def by_size(rows: pd.DataFrame) -> pd.DataFrame:
    """The rows of one method after those of another, each by what is left."""
    methods = list(rows["method"].unique())
    return rows.sort_values(
        ["method", "macs_x"], key=lambda column: column.map(methods.index) if column.name == "method" else column
    )


def table(of_settings: pd.DataFrame) -> str:
    """The table in Markdown."""
    lines = [TITLES, ["---"] * len(TITLES)]
    for _, row in of_settings.iterrows():
        error, nll, *sizes = (
            f"{row[name]:{form}} ({row[f'{name}_low']:{form}} - {row[f'{name}_high']:{form}})"
            for name, form in MEASURES.items()
        )
        minutes = f"{row['minutes']:.1f}"
        lines.append([row["method"], row["setting"], row["epochs"], minutes, error, nll, row["kept"], *sizes])
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def published_rows(network: str) -> str:
    """What was published of this network, as rows of the same table."""
    rows = published.NETWORKS.get(network, ())
    lines = []
    for row in rows:
        sizes = [f"{count(rows[0].kept) / count(row.kept):.1f}" for count in (published.macs, published.parameters)]
        error = "" if row.error is None else f"{row.error:.2f}"
        lines.append([f"published, {row.method}", row.source, "", "", error, "", "-".join(map(str, row.kept)), *sizes])
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def draw(of_settings: pd.DataFrame, behind: Mapping[str, Sequence[tuple[float, float]]], scored_on: str) -> Figure:
    """The curves through the means of the settings, bars for the seeds; ours and published points by name."""
    figure = Figure(figsize=(9, 5.2), layout="constrained")
    axis = figure.subplots()
    names: list[tuple[str, Any]] = []
    for method, points in behind.items():
        for error, macs_x in points:
            axis.plot(macs_x, error, "s", color="grey", fillstyle="none", markersize=5)
            names.append((method, (macs_x, error)))
    for i, (method, group) in enumerate(of_settings.groupby("method", sort=False)):
        color, is_ours = plots.COLORS[i % len(plots.COLORS)], method == OURS
        style: dict[str, Any] = {"linewidth": 2.2 if is_ours else 1.2, "markersize": 7 if is_ours else 5}
        marker = MARKERS[i // len(plots.COLORS) % len(MARKERS)]
        axis.plot(group["macs_x"], group["error"], f"{marker}-", color=color, label=method, **style)
        bars: dict[str, Any] = {f"{way}err": _beside(group, name) for way, name in (("x", "macs_x"), ("y", "error"))}
        axis.errorbar(group["macs_x"], group["error"], **bars, fmt="none", color=color, elinewidth=1, alpha=0.6)
        if is_ours:
            names += [(str(row["setting"]), (row["macs_x"], row["error"])) for _, row in group.iterrows()]
    if behind:
        axis.plot([], [], "s", color="grey", fillstyle="none", label="published")
    axis.set_xscale("log")
    axis.xaxis.set_major_locator(FixedLocator(TICKS))
    axis.xaxis.set_minor_locator(NullLocator())
    axis.xaxis.set_major_formatter(FuncFormatter(lambda x, _: f"{x:g}x"))
    axis.set_xlabel("multiply-accumulates: the dense network's over those left")
    axis.set_ylabel(f"error on {scored_on} data, %")
    axis.set_title("lower right is better; a point the mean of its seeds, bars from the least to the most", fontsize=10)
    axis.legend(frameon=False)
    name_points(figure, axis, names)
    return figure


def _beside(group: pd.DataFrame, name: str) -> list[Any]:
    """How far the seeds go to both sides of their mean; not below zero where a mean is rounded."""
    return [(group[name] - group[f"{name}_low"]).clip(0), (group[f"{name}_high"] - group[name]).clip(0)]


def kept_study(path: Path) -> pd.DataFrame:
    """The OUTPUT.csv that was written of a study; a ValueError where it is none."""
    try:
        texts = dict.fromkeys(["network", "dataset", "scored_on", "method", "setting", "epochs", "kept"], str)
        found = pd.read_csv(path, dtype=texts | dict.fromkeys(["minutes", *RANGES], float))[COLUMNS]
        if (
            found.empty
            or found.isna().any(axis=None)
            or len(found[["network", "dataset", "scored_on"]].drop_duplicates()) > 1
        ):
            raise ValueError("wanted rows without gaps, of one network, data set and scored_on")
        return found
    except (OSError, ValueError, KeyError) as error:
        raise ValueError(f"{path} is no table of this script ({error})") from None


def finished_study(folder: Path) -> tuple[pd.DataFrame, list[str]]:
    """The settings of a study of one network and data set, and what there is to say of its runs.

    Raises:
        ValueError: there is none, none of its runs is of use, or they are of several networks or data sets.
    """
    study = studies.load(folder)
    if not study.results:
        raise ValueError(f"{folder}: none of its runs has ended yet; go on with {_resuming(folder)}")
    made_of = {(each.config.network, each.config.dataset) for each in study.config.candidates()}
    if len(made_of) > 1:
        raise ValueError(f"{folder}: its runs are of several networks or data sets, and a front is of one")
    (network, dataset), runs = made_of.pop(), of_study(study)
    if runs.empty:
        raise ValueError(f"{folder}: in each of its runs {MARKS['emptied'][1]}")
    scored_on = " and ".join(study.runs["scored_on"].dropna().unique())
    found = settings(runs).assign(network=network, dataset=dataset, scored_on=scored_on)
    missing, emptied = len(study.config.tasks()) - len(study.results), len(study.results) - len(runs)
    notes = [f"missing runs: {missing}; to train them: {_resuming(folder)}"] if missing else []
    return found, notes + ([f"runs left out: {emptied}, for {MARKS['emptied'][1]}"] if emptied else [])


def _resuming(folder: Path) -> str:
    return f"bbpyro compare --resume {shlex.quote(str(folder))}"


def all_studies(paths: Sequence[Path]) -> tuple[pd.DataFrame, list[str]]:
    """The settings of all of them, and what there is to say; a ValueError where they do not go together."""
    found = [(kept_study(path), []) if path.is_file() else finished_study(path) for path in paths]
    for path, (rows, _) in zip(paths, found, strict=True):
        of, first = (" ".join(each.iloc[0][["dataset", "scored_on", "network"]]) for each in (rows, found[0][0]))
        if of != first:
            raise ValueError(f"{path} is of {of}, and {paths[0]} of {first}; draw each on its own")
    rows, notes = zip(*found, strict=True)
    return by_size(pd.concat(rows, ignore_index=True).drop_duplicates()), [line for each in notes for line in each]


def main(arguments: Sequence[str] | None = None) -> None:
    """Write the figure and the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    one = "a folder of bbpyro compare, or the OUTPUT.csv that was made of one"
    parser.add_argument("study", type=Path, nargs="+", help=f"{one}; of several all rows are drawn")
    parser.add_argument("--rivals", type=Path, help="a csv of benchmarks/pruning_methods.py --test")
    parser.add_argument("--output", type=Path, required=True, help="where to write, without .png, .md and .csv")
    chosen = parser.parse_args(arguments)
    try:
        ours, notes = all_studies(chosen.study)
        network, dataset, scored_on = ours.iloc[0][["network", "dataset", "scored_on"]]
        if chosen.rivals and scored_on != "test":
            raise ValueError(f"rivals: they are scored on test data, and {chosen.study[0]} on {scored_on} data")
        if chosen.rivals and network != RIVALS_NETWORK:
            raise ValueError(f"rivals: they are of {RIVALS_NETWORK}, and {chosen.study[0]} is of {network}")
        rivals = [settings(of_rivals(chosen.rivals, dataset))] if chosen.rivals else []
    except ValueError as error:
        parser.error(str(error))
    rows = pd.concat([ours, *rivals], ignore_index=True)
    behind = published.behind(network, dataset) if scored_on == "test" else {}
    title = f"# {network} on {dataset}: error on {scored_on} data, mean and range of the seeds\n\n"
    text = title + table(rows) + (published_rows(network) if behind else "")
    to = str(chosen.output).removesuffix(".png").removesuffix(".md").removesuffix(".csv")
    try:
        Path(to).parent.mkdir(parents=True, exist_ok=True)
        plots.save(draw(rows, behind, scored_on), Path(f"{to}.png"))
        checkpoint.write_atomic(Path(f"{to}.md"), text.encode())
        checkpoint.write_atomic(Path(f"{to}.csv"), ours[COLUMNS].to_csv(index=False, float_format="%.7g").encode())
    except OSError as error:
        parser.error(f"output: {error}")
    wide_console().print(text, markup=False, highlight=False)
    print("\n".join(notes), end="\n" if notes else "")


if __name__ == "__main__":
    main()
