import importlib
import json
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image
from torch import nn

import bbpyro

FOLDER = Path(__file__).parents[1] / "benchmarks"
SHORT = "--dataset bars --num-data 200 --pretrain-epochs 1 --epochs 2".split()


@pytest.fixture(autouse=True)
def importable(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.syspath_prepend(FOLDER)
    yield


def load(name: str) -> ModuleType:
    return importlib.import_module(name)


def test_a_training_of_each_network_leaves_a_line_an_epoch_a_table_and_a_figure(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    script, output, figure = load("training_cost"), tmp_path / "cost.csv", tmp_path / "cost.png"
    script.main([*SHORT, "--output", str(output), "--figure", str(figure)])
    epochs = pd.read_csv(output, skiprows=1)
    assert list(zip(epochs["epoch"], epochs["variant"], strict=True)) == [
        (epoch, name) for epoch in (1, 2) for name in script.VARIANTS
    ]
    kept = epochs["kept"].dropna()
    assert len(kept) == 4
    assert all(len(units.split("-")) == 3 for units in kept)
    assert (epochs["peak_mib"] >= epochs["training_mib"]).all() and (epochs["training_mib"] > 0).all()
    assert epochs["error"].between(0, 1).all()
    printed = capsys.readouterr().out
    assert "lenet-500-300 on bars, 200 data, 1 + 2 epochs, batch 100, one thread" in printed
    assert np.array(Image.open(figure)).std() > 1
    with pytest.raises(SystemExit):
        script.main([*SHORT, "--output", str(output)])
    assert f"--report {output} makes the table of it" in capsys.readouterr().err


def test_of_a_training_that_was_cut_off_the_epochs_count_that_all_have_done(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    script, output = load("training_cost"), tmp_path / "cost.csv"
    seconds = {"plain": 2, "nn.Dropout": 4, "bbpyro": 8, "bbpyro, shed": 3}
    rows = [(name, epoch, 99, seconds[name], 300, 20, 0.5, "1-2") for epoch in (1, 2, 3) for name in seconds]
    whole = pd.DataFrame(rows, columns=script.COLUMNS)
    output.write_text("# what it was\n" + whole[:-2].to_csv(index=False))
    script.main(["--report", str(output)])
    title, *lines = [line for line in capsys.readouterr().out.splitlines() if line.strip()]
    assert title.strip() == "what it was"
    cells = {line.split("|")[1].strip(): [cell.strip() for cell in line.split("|")[2:6]] for line in lines[2:]}
    assert cells["plain"] == ["4.0", "1.00", "0.50", "0.25"]
    assert cells["bbpyro"] == ["16.0", "4.00", "2.00", "1.00"]
    assert cells["bbpyro, shed"] == ["6.0", "1.50", "0.75", "0.38"]

    output.write_text("# what it was\n" + whole[:2].to_csv(index=False))
    with pytest.raises(SystemExit):
        script.main(["--report", str(output)])
    assert "no epoch is over for all of the networks" in capsys.readouterr().err


def test_a_step_is_timed_at_every_size(capsys: pytest.CaptureFixture[str]) -> None:
    load("scaling").main("--width 2e1 4e1 --batch 6 --largest 200 --rounds 1 --processes".split())
    rows = [line.split("|") for line in capsys.readouterr().out.splitlines() if line.startswith("| 20 ")]
    assert len(rows) == 1  # and none of 40, whose masks are more than 200
    assert all(float(cell) > 0 for cell in rows[0][3:6])


def test_the_slope_of_what_grows_linearly_is_1_whatever_it_costs_beside() -> None:
    script = load("scaling")
    sizes = [100, 1000, 10_000, 100_000]
    assert script.slope(sizes, [4 + 2e-3 * size for size in sizes]) == pytest.approx(1, abs=1e-6)
    assert script.slope(sizes, [4 + 2e-6 * size**2 for size in sizes]) > 1.9
    assert np.isnan(script.slope(sizes, [4, 4.1, 3.9, 4.2]))  # nothing to see


def test_a_process_that_fails_or_is_killed_is_told_of() -> None:
    measuring = load("measuring")
    with measuring.TakingTurns(torch.ones, "no size") as failing, pytest.raises(RuntimeError, match="TypeError"):
        failing.turn()
    with measuring.TakingTurns(torch.ones, "no size") as ended:
        pass
    with pytest.raises(RuntimeError, match="ended with status -15"):
        ended.turn()


def test_nn_dropout_stands_where_the_gates_would() -> None:
    plain = nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(16, 8), nn.ReLU(), nn.Linear(8, 2))
    net = load("measuring").with_nn_dropout(plain, 16)
    found = [type(m).__name__ + f" {m.p}" for m in net.modules() if isinstance(m, nn.Dropout | nn.Dropout2d)]
    assert found == ["Dropout2d 0.5", "Dropout 0.2", "Dropout 0.5"]
    x = torch.rand(3, 1, 4, 4)
    torch.testing.assert_close(net.eval()(x), plain(x))
    assert not any(isinstance(module, bbpyro.BetaBernoulliDropout) for module in net.modules())
    assert not torch.equal(net.train()(x), plain(x))


def test_lenet5s_cost_is_by_one_count_and_the_authors_own_is_in_a_column_that_says_so(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    kept = {"conv1.gate": 12, "conv2.gate": 16, "fc1.gate": 112, "fc2.gate": 74}
    (tmp_path / "summary.json").write_text(json.dumps({"kept": kept, "mean_mask": {"error": 0.007}}))
    load("published_memory").main([str(tmp_path)])
    header, *lines = capsys.readouterr().out.splitlines()
    assert header.split() == "error kept MACs x parameters x their FLOPs x their memory".split()
    published = {line.split(",")[1].split()[0]: line.split()[-6:] for line in lines if line.startswith("published, B")}
    assert published["BB"] == ["0.65%", "12-23-128-40", "3.7", "33.7", "3.39", "14.9%"]
    assert published["BC-GHS"] == ["1.00%", "5-10-76-16", "15.0", "154.4", "13.66", "10.7%"]
    assert lines[-1].split() == [str(tmp_path), "0.70%", "12-16-112-74", "4.7", "30.3", "4.31", "15.2%"]
    (tmp_path / "summary.json").write_text(json.dumps({"kept": {"fc1.gate": 12}, "mean_mask": {"error": 0.007}}))
    with pytest.raises(SystemExit):
        load("published_memory").main([str(tmp_path)])
    assert f"{tmp_path} is no run of lenet5-caffe" in capsys.readouterr().err


# --- which inputs are found in small tables ----------------------------------------------------------------


def feature_selection() -> ModuleType:
    pytest.importorskip("sklearn", reason="the benchmark of small tables alone needs scikit-learn, no part of bbpyro")
    return load("feature_selection")


def test_the_inputs_of_a_made_table_are_where_the_seed_has_put_them() -> None:
    problems = (feature_selection() and load("feature_problems")).PROBLEMS
    for seed in (0, 1):
        linear = problems["linear-1000"].make(seed)
        strength = (linear.x * linear.y[:, None]).mean(0).abs()
        assert set(strength.topk(5).indices.tolist()) == linear.relevant
        xor = problems["xor2-1000"].make(seed)
        i, j = sorted(xor.relevant)
        parity = (xor.x[:, [i, j]] > 0).sum(1) % 2  # the mean that was taken off turns the sign of a few
        assert (parity == xor.y).float().mean() > 0.9
    assert problems["linear-1000"].make(0).relevant != problems["linear-1000"].make(1).relevant
    madelon = problems["madelon-2000"].make(0)
    assert 0.3 < madelon.y[:500].float().mean() < 0.7  # not a cluster after the other
    friedman = problems["friedman2-1000"].make(0)
    assert len(friedman.relevant) == 2 and len(friedman.weak) == 2 and len(friedman.irrelevant) == 16
    digits = problems["digits"].make(0)
    assert digits.relevant is None and {0, 32, 39} <= digits.irrelevant  # never inked


def test_the_rival_methods_find_what_is_plain() -> None:
    script = feature_selection()
    problem = load("feature_problems").PROBLEMS["linear-1000"].make(0)
    torch.manual_seed(0)
    gates = script.StochasticGates(problem).train_on(problem.x, problem.y, 0.03)
    found = script.scores(problem, gates, (gates.mu.detach() > 0).numpy())
    assert found["found"] == 5 and found["kept"] < 30 and found["loss"] < 0.3  # the noise alone: 1/6
    lasso = script.lasso(problem, 0)
    assert lasso["found"] == 5 and lasso["loss"] < 0.2


def test_the_table_of_small_tables_says_what_was_lost(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    script, output, docs = feature_selection(), tmp_path / "table.csv", tmp_path / "table.md"
    rows = []
    for seed, (found, loss, warning) in enumerate([(2, 0.1, None), (1, 0.9, "the network ends clearly worse")]):
        same = {"problem": "xor2-1000", "seed": seed, "num_data": 1000, "chance": 0.5, "relevant": 2, "irrelevant": 18}
        for method in script.METHODS:
            rows.append({**same, "method": method, "loss": 0.3, "error": 0.1, "found": 2, "kept": 3})
        rows[-4] |= {"method": "bbpyro", "found": found, "kept": 1, "loss": loss, "units": "2-4-6", "warning": warning}
    pd.DataFrame(rows, columns=script.COLUMNS).to_csv(output, index=False)
    script.main(["--report", str(output), "--docs", str(docs)])
    printed = capsys.readouterr().out
    assert printed.strip() in docs.read_text(encoding="utf-8")
    assert "| xor2-1000 | 1,000 | 3 of 4 | 4 of 4 |" in printed and "| 2-4-6 | 1 of 2 |" in printed
    assert "1 of 4, in 1 of 2 trainings (xor2-1000 of seed 1)." in printed
    assert "2 by bbpyro, 6 by stochastic gates, of 36." in printed
    assert "1 of 2 trainings, 0 of them without fit's warning." in printed
    script.main(["--output", str(output), "--problems", "xor2-1000", "--seeds", "2"])  # nothing is left to do
    assert capsys.readouterr().out == printed
    for flags, told in (([], "give --output to run"), (["--output", "x.csv", "--problems", "q*"], "'q*' is none of")):
        with pytest.raises(SystemExit):
            script.main(flags)
        assert told in capsys.readouterr().err


def test_a_front_has_a_row_a_setting_a_rival_and_a_published_network(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    script, output, dataset = load("front"), tmp_path / "front" / "short", str(tmp_path / "bars.npz")
    bars = bbpyro.data.bars(num_train=60, num_test=50)
    np.savez(dataset, **{name: getattr(bars, name).numpy() for name in ("x", "y", "x_test", "y_test")})
    study = bbpyro.compare(
        ["Beta(1e-4, 1)"], seeds=2, dataset=dataset, epochs=1, pretrain_epochs=1,
        folder=tmp_path / "study", progress=False, points={"ours": {}, "theirs": {"family": "VIB(1e-3)"}},
    )  # fmt: skip
    monkeypatch.setitem(script.published.DATASETS, "lenet-500-300", dataset)
    columns = "method,setting,seed,epochs,scored_on,minutes,error,nll,kept,macs,macs_x,parameters"
    of_test = [
        f"lasso,3e-5,{seed},70,{dataset}: test,2,0.0{seed + 1},0.05,30-20-10,900,{seed + 1},931" for seed in (0, 1)
    ]
    other = f"lasso,1e-5,0,70,{dataset}: 50 of fold 0,2,0.5,0.05,64-20-10,1580,1,1620"
    (tmp_path / "rivals.csv").write_text("\n".join([columns, *of_test, other]) + "\n")
    script.main([str(study.folder), "--rivals", str(tmp_path / "rivals.csv"), "--output", str(output)])
    lines = [line.split(" | ") for line in output.with_suffix(".md").read_text().splitlines()]
    errors = 100 * study.runs[study.runs["point"] == "ours"]["error"]
    assert lines[0] == [f"# lenet-500-300 on {dataset}: error on test data, mean and range of the seeds"]
    ours, theirs, rival, dense, slides, *_ = lines[4:]
    assert theirs[:3] == ["| VIB", "theirs", "1 + 1"]
    assert ours[0] == "| Beta-Bernoulli dropout" and ours[2] == "1 + 1"
    assert ours[4] == f"{errors.mean():.2f} ({errors.min():.2f} - {errors.max():.2f})"
    assert rival[:5] == ["| lasso", "3e-5", "70", "2.0", "1.50 (1.00 - 2.00)"] and rival[6] == "30-20-10"
    assert (dense[0], slides[0], slides[4], slides[6]) == (
        "| published, dense",
        "| published, slides",
        "1.24",
        "358-209-152",
    )
    assert slides[7] == "5.0" and "1e-5" not in capsys.readouterr().out
    assert np.array(Image.open(output.with_suffix(".png"))).std() > 1
    script.main([str(study.folder), "--output", str(tmp_path / "v1.5")])
    assert (
        (tmp_path / "v1.5.md").exists()
        and (tmp_path / "v1.5.png").exists()
        and "missing" not in capsys.readouterr().out
    )
    again = [str(output.with_suffix(".csv")), "--rivals", str(tmp_path / "rivals.csv"), "--output", str(tmp_path / "2")]
    script.main(again)  # without the study
    assert (tmp_path / "2.md").read_text() == output.with_suffix(".md").read_text()
    assert (tmp_path / "2.csv").read_text() == output.with_suffix(".csv").read_text()
    (tmp_path / "none").mkdir()
    own = pd.read_csv(output.with_suffix(".csv"))
    own[:1].assign(setting="smaller", macs_x=50).to_csv(tmp_path / "smaller.csv", index=False)
    script.main([*(str(tmp_path / f"{name}.csv") for name in ("smaller", "2")), "--output", str(tmp_path / "both")])
    both = pd.read_csv(tmp_path / "both.csv")  # of two studies a curve a method, through both
    assert both["setting"].tolist() == ["ours", "smaller", "theirs"]
    script.main([str(tmp_path / "2.csv")] * 2 + ["--output", str(tmp_path / "twice")])
    assert (tmp_path / "twice.csv").read_text() == (tmp_path / "2.csv").read_text()
    capsys.readouterr()
    own[:0].to_csv(tmp_path / "header.csv", index=False)
    own.assign(error=np.nan).to_csv(tmp_path / "gaps.csv", index=False)
    own.assign(macs_x="abc").to_csv(tmp_path / "words.csv", index=False)
    own.assign(scored_on="validation").to_csv(tmp_path / "held-out.csv", index=False)
    rows = pd.read_csv(tmp_path / "rivals.csv")
    rows.assign(kept="").to_csv(tmp_path / "no-units.csv", index=False)
    rows.assign(error="a").to_csv(tmp_path / "no-error.csv", index=False)
    rows.assign(kept=["30-20-10", "30-20", "1-2-3"]).to_csv(tmp_path / "others.csv", index=False)
    (tmp_path / "validated.csv").write_text(f"{columns}\n{other}\n")
    (tmp_path / "empty.csv").write_text("")
    (tmp_path / "of.csv").write_text("a,b\n1,2\n")
    for flags, told in [
        ([tmp_path / "none"], "none"),
        *[([tmp_path / f"{name}.csv"], "is no table of this script") for name in ("rivals", "header", "gaps", "words")],
        ([output.with_suffix(".csv"), tmp_path / "held-out.csv"], "draw each on its own"),
        ([tmp_path / "held-out.csv", "--rivals", tmp_path / "rivals.csv"], "rivals: they are scored on test data, and"),
        *[
            ([study.folder, "--rivals", tmp_path / f"{name}.csv"], "is no table of benchmarks/pruning_methods.py")
            for name in ("no-units", "no-error", "others")
        ],
        ([study.folder, "--rivals", tmp_path / "validated.csv"], "has no row of"),
        ([study.folder, "--rivals", tmp_path / "empty.csv"], "is no table of benchmarks/pruning_methods.py"),
        ([study.folder, "--rivals", tmp_path / "of.csv"], "is no table of benchmarks/pruning_methods.py"),
        ([study.folder, "--rivals", tmp_path / "nothing.csv"], "is no table of benchmarks/pruning_methods.py"),
        ([study.folder, "--output", Path(dataset) / "y"], "output: "),
    ]:
        with pytest.raises(SystemExit) as stopped:
            script.main([*map(str, ["--output", output, *flags])])
        assert stopped.value.code == 2 and told in capsys.readouterr().err
