"""What is printed: tables that fit 80 columns, and that say of which chain, at which level and on which side."""

import io
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from rich.console import Console

import bbpyro
from bbpyro import posterior, prediction, runs, studies
from bbpyro.cli import report
from bbpyro.cli.layout import broken, print_table, print_text
from bbpyro.cli.output import new_console
from bbpyro.studies import StudyConfig, tables

PRIORS = (
    "Beta(0.0001, 1)",
    "SpikeAndSlab(0.001, Beta(0.0001, 1), Beta(1, 1))",
    "{'fc1.*': FixedRate(0.2), '*': FixedRate(0.5)}",
    "laboratory.department.priors:one_that_nobody_has_written_before",
)
WORDS = re.compile(r"[A-Za-z0-9']+")


def console(width: int = 80) -> tuple[Console, io.StringIO]:
    out = io.StringIO()
    return Console(file=out, width=width), out


def result(seed: int, **changes: Any) -> dict[str, Any]:
    scores = dict.fromkeys(("error", "nll", "ece", "nll_monte_carlo"), 0.04 + 0.001 * seed)
    kept = {"fc1.gate": 339 + seed, "fc2.gate": 172, "fc3.gate": 129}
    total = {"fc1.gate": 784, "fc2.gate": 500, "fc3.gate": 300}
    costs = {"macs_left": 0.15, "parameters_left": 0.15, "seconds": 531.0 + seed}
    parts = {"elbo": -1173.308 - seed, "elpd_loo": -0.0086}
    return {**scores, **costs, **parts, "kept": kept, "total": total, "scored_on": "test", **changes}


def study(dataset: str = "mnist", priors: tuple[str, ...] = PRIORS[:3], **changes: Any) -> studies.Study:
    config = StudyConfig(prior=priors, seeds=2, dataset=dataset)
    names = config.tasks()
    results = {name: result(i % 2, **changes) for i, name in enumerate(names)}
    return studies.Study(Path("study"), config, results, [])


def printed(made: studies.Study) -> str:
    to, out = console()
    report.print_study(to, made)
    return out.getvalue()


# --- 80 columns --------------------------------------------------------------------------------------------


def test_a_studys_tables_fit_80_columns_and_names_break_between_words() -> None:
    out = printed(study())
    assert max(map(len, out.splitlines())) <= 80
    rows = [line.split("│")[1].strip() for line in out.splitlines() if line.startswith("│")]
    for prior in PRIORS[:3]:
        words = WORDS.findall(prior)
        first = next(i for i, row in enumerate(rows) if row and prior.startswith(row))
        found = " ".join(rows[first : first + 4])
        assert WORDS.findall(found)[: len(words)] == words
    for text in ("4.00%-4.10%", "-1174.308 to", "339-172-129", "kept of 784-500-300", "531-532"):
        assert text in out


def test_every_column_is_in_one_of_the_tables_a_study_is_split_into() -> None:
    out = " ".join(printed(study()).split())
    for name, _ in tables.SCORES.values():
        assert all(word in out for word in name.split())
    assert out.count("Jeffreys") == 0 and out.count("2 runs each") == 2


def test_a_data_set_in_a_file_is_called_by_the_files_name() -> None:
    out = printed(study(dataset="/home/somebody/data/my.digits.npz"))
    assert "lenet-500-300 on my.digits, test data" in out and "somebody" not in out


@pytest.mark.parametrize("width", [40, 60, 80, 200])
@pytest.mark.parametrize("count", [1, 4, 15])
def test_a_table_is_no_wider_than_the_terminal_and_loses_nothing(width: int, count: int) -> None:
    to, out = console(width)
    header = ["name", *(f"column {i}" for i in range(count))]
    rows = [[name, *(f"{1000 * i + j}" for i in range(count))] for j, name in enumerate(PRIORS)]
    print_table(to, "a title of some words, longer than the narrowest of the terminals here", header, rows)
    lines = out.getvalue().splitlines()
    assert max(map(len, lines)) <= width and all(line == line.rstrip() for line in lines)
    cells = {cell.strip() for line in lines for cell in line.split("│")}
    assert {f"{1000 * i + j}" for i in range(count) for j in range(len(PRIORS))} <= cells


def test_a_table_is_not_split_nor_broken_where_there_is_room() -> None:
    to, out = console(200)
    print_table(to, "", ["prior", "a long header", "b"], [[prior, "1", "2"] for prior in PRIORS])
    assert out.getvalue().count("┏") == 1 and all(f"│ {prior} " in out.getvalue() for prior in PRIORS)
    assert "a long header" in out.getvalue()


@pytest.mark.parametrize(
    ("text", "width", "lines"),
    [
        ("Beta(0.0001, 1)", 20, ["Beta(0.0001, 1)"]),
        ("SpikeAndSlab(0.001, Beta(0.0001, 1))", 22, ["SpikeAndSlab(0.001,", "Beta(0.0001, 1))"]),
        ("runs/mnist/seed-0", 12, ["runs/mnist/", "seed-0"]),
        ("my_module:my_prior", 10, ["my_module:", "my_prior"]),
        ("64-64-128-128-256", 9, ["64-64-", "128-128-", "256"]),
        ("-1.25 to -1.50", 8, ["-1.25 to", "-1.50"]),
        ("extraordinarily", 10, ["extraordin", "arily"]),
    ],
)
def test_a_name_breaks_at_the_end_of_a_word(text: str, width: int, lines: list[str]) -> None:
    assert broken(text, width).split("\n") == lines


def test_a_sentence_breaks_between_words_and_leaves_no_space_behind() -> None:
    to, out = console(30)
    text = "In is a low bar: a π of 0.01 is in, and used for one datum in a hundred\nand so on"
    print_text(to, text)
    lines = out.getvalue().splitlines()
    assert max(map(len, lines)) <= 30 and all(line == line.strip() for line in lines)
    assert " ".join(lines) == text.replace("\n", " ") and lines[-1] == "and so on"


def test_a_console_without_a_terminal_is_as_wide_as_a_terminal() -> None:
    assert new_console().width == 80


def score_of(kept: dict[str, int], **sides: str) -> dict[str, Any]:
    numbers = {"error": 0.0131, "nll": 0.0427, "ece": 0.0049}
    side = {gate: sides.get(gate.removesuffix(".gate"), "input") for gate in kept}
    return {
        "scored_on": "test",
        "num_scored": 10_000,
        "mean_mask": numbers,
        "monte_carlo": {"num_samples": 100, **numbers},
        "kept": kept,
        "total": dict.fromkeys(kept, 512),
        "side": side,
    }


def test_runs_of_a_deep_network_are_compared_in_80_columns() -> None:
    deep = {f"features.{i}.gate": 512 - i for i in range(15)}
    to, out = console()
    report.print_comparison(to, {f"/a/long/way/to/runs/seed-{i}": score_of(deep) for i in range(3)})
    assert max(map(len, out.getvalue().splitlines())) <= 80
    assert "│ seed-2 " in out.getvalue() and "lowest" in out.getvalue() and "498" in out.getvalue()


def test_runs_are_called_by_as_much_of_their_paths_as_tells_them_apart() -> None:
    to, out = console()
    report.print_comparison(to, {f"runs/{name}/seed-0": score_of({"fc1.gate": 3}) for name in ("a", "b")})
    assert "│ a/seed-0 " in out.getvalue() and "runs" not in out.getvalue()


# --- what is wrong with a run ------------------------------------------------------------------------------


def test_a_layer_without_units_is_marked() -> None:
    to, out = console()
    report.print_summary(to, score_of({"conv1.gate": 20, "fc1.gate": 0}, conv1="output"), "")
    assert re.search(r"│ fc1 ‡ +│ +0 │ +512 │ +0.00% │ +input │", out.getvalue())
    assert re.search(r"│ conv1 +│ +20 │ +512 │ +3.91% │ +output │", out.getvalue())
    assert "‡: a layer has no unit left" in out.getvalue()
    to, out = console()
    report.print_comparison(to, {"a": score_of({"fc1.gate": 0}), "b": score_of({"fc1.gate": 1})})
    assert "│ a ‡ " in out.getvalue() and "│ b " in out.getvalue() and "‡: " in out.getvalue()


def test_priors_whose_runs_fell_to_the_most_frequent_class_are_marked(tmp_path: Path) -> None:
    made = study(error=0.8865, majority_error=0.8865, plain_error=0.02)
    out = printed(made)
    assert "Beta(0.0001, 1) †" in out
    assert "†: no better than always answering the most frequent class" in out
    assert "error of the plain network: 2.00%" in out and "error of the most frequent class: 88.65%" in out
    tables.write(tmp_path, made.table, made.runs, list(made.total.values()))
    text = (tmp_path / "table.md").read_text()
    assert "| `Beta(0.0001, 1)` † | 2 |" in text and "\n†: no better than" in text
    assert list(made.table["at_majority"]) == [2, 2, 2] and list(made.table["emptied"]) == [0, 0, 0]


def test_of_some_runs_the_mark_says_how_many() -> None:
    made = study(priors=PRIORS[:1])
    first = next(iter(made.results.values()))
    first["kept"] = {**first["kept"], "fc2.gate": 0}
    assert "Beta(0.0001, 1) ‡ 1 of 2" in printed(made)


def test_a_study_of_before_has_no_marks() -> None:
    assert not re.search("[†‡]|most frequent|plain network", printed(study()))


# --- chains ------------------------------------------------------------------------------------------------


def test_what_is_printed_of_two_chains_says_which() -> None:
    networks = []
    for _ in range(2):
        net = bbpyro.insert_dropout(torch.nn.Sequential(torch.nn.Linear(6, 4), torch.nn.ReLU(), torch.nn.Linear(4, 3)))
        bnn = bbpyro.BetaBernoulliNetwork(net, num_data=50)
        with torch.no_grad():
            for gate in bnn.gates.values():
                gate.unconstrained_concentration1.uniform_(-2, 3)
        networks.append(bnn)
    x, y = torch.randn(40, 6), torch.randint(3, (40,))
    idata = bbpyro.to_arviz(networks, x, y, 50, attrs={"predicted": "test data"}, seed=0, progress=False)
    probs = torch.from_numpy(idata["class_probability"]["mean_mask"].mean("chain").values)
    scores = {"mean mask": prediction.score(probs, y)}
    loo = posterior.loo(idata)
    to, out = console()
    report.print_inspection(to, runs.Inspection(idata, scores, loo, (-1.0, 0.1), (-1.1, 0.1)))
    text = out.getvalue()
    said = " ".join(text.split())
    assert max(map(len, text.splitlines())) <= 80
    assert "az.summary of the largest and the smallest by keep probability E[π], of each of 2 chains" in said
    for chain in range(2):
        unit = posterior.order(idata, "0.gate", chain)[0]
        mean = idata["posterior"]["0.gate.pi"].values[chain, :, unit].mean()
        assert re.search(rf"│ 0\.gate\.pi\[{unit}\], chain {chain} │ +{mean:.3f} │", text)
        assert f"costs chain {chain} at most 0.1 points of error" in said
    assert "predictions, by the mean of 2 chains' probabilities" in said
    assert "by the draws of the 2 chains together" in said
    assert f"surely: {posterior.CI_PROB:.0%} of the posterior" in said
