"""Which inputs bbpyro finds in small tables, by its defaults, beside the lasso, a forest and stochastic gates.

    python benchmarks/feature_selection.py --output table.csv --jobs 2              # all, 5 seeds: some hours of a core
    python benchmarks/feature_selection.py --problems xor2-1000 --seeds 1 --output short.csv        # some minutes
    python benchmarks/feature_selection.py --report table.csv --docs docs/feature_selection.md     # of what is there

It needs scikit-learn (pip install scikit-learn), which makes the problems (see feature_problems.py) and ships the real
tables. A row, of a problem, a seed and a method, is written to --output as soon as it is done; the same command goes on
with the others.

All networks are 64-64 with ReLU, of batches of 100; a regression's σ is learnt.

plain     bbpyro.pretrain, by its defaults.
bbpyro    the same network through insert_dropout and fit, by their defaults; by the mean mask. Of two starts, from a
          pretraining of 500 and of 100 steps, the one with the higher ELBO, as of few data bbpyro train does. fit is
          given the held-out data to judge itself by; nothing is chosen by them.
lasso     LassoCV, or LogisticRegressionCV with l1: linear models, by cross-validation.
forest    a random forest of 300 trees, which keeps all inputs.
gates     stochastic gates on the inputs (Yamada et al. 2020, arXiv 1810.04247): λ of four by a fifth of the training
          data, then trained on all of them; each in 3,000 steps.
loss      on held-out data: nats a datum of classes, squared error of a y of variance 1.
chance    the error of the most frequent class, or 1, the squared error of the mean.
"""

import argparse
import fnmatch
import itertools
import math
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import joblib
import numpy as np
import pandas as pd
import torch
from feature_problems import PROBLEMS, Problem
from rich.console import Console
from rich.progress import track
from sklearn.ensemble import RandomForestClassifier, RandomForestRegressor
from sklearn.linear_model import LassoCV, LogisticRegressionCV
from torch import Tensor, nn
from torch.nn import functional as F

import bbpyro
from bbpyro.training import FitWarning

COLUMNS = [
    *("problem", "seed", "method", "num_data", "loss", "error", "chance", "inputs", "found", "relevant", "kept"),
    *("irrelevant", "units", "steps", "warning", "start"),
]
STARTS = (500, 100)  # steps of pretraining
PENALTIES = (0.003, 0.01, 0.03, 0.1)  # λ of stochastic gates
GATE_STEPS = 3000
BATCH_SIZE = 100


def network(problem: Problem) -> tuple[nn.Sequential, Any]:
    """A fresh network, and its likelihood."""
    layers: list[nn.Module] = [nn.Linear(problem.x.shape[1], 64), nn.ReLU(), nn.Linear(64, 64), nn.ReLU()]
    if problem.num_classes:
        return nn.Sequential(*layers, nn.Linear(64, problem.num_classes)), bbpyro.likelihoods.Categorical()
    return nn.Sequential(*layers, nn.Linear(64, 1), nn.Flatten(0)), bbpyro.likelihoods.Normal()


def pretrained(problem: Problem, seed: int, steps: int) -> tuple[nn.Sequential, Any]:
    """A network after so many steps, or some more to make whole epochs, and its likelihood."""
    torch.manual_seed(seed)
    net, likelihood = network(problem)
    epochs = math.ceil(steps / math.ceil(len(problem.x) / BATCH_SIZE))
    bbpyro.pretrain(net, problem.x, problem.y, likelihood=likelihood, num_epochs=epochs, seed=seed, progress=False)
    return net.eval(), likelihood


def plain(problem: Problem, seed: int) -> dict[str, Any]:
    """The row of the plain network, which is bbpyro's first start."""
    return scores(problem, pretrained(problem, seed, STARTS[0])[0])


def beta_bernoulli(problem: Problem, seed: int) -> dict[str, Any]:
    """The row of the gated network, of the better of the starts."""
    begun: dict[int, int] = {}  # by network, its steps of pretraining

    def start(steps: int) -> bbpyro.BetaBernoulliNetwork:
        net, likelihood = pretrained(problem, seed, steps)
        bnn = bbpyro.BetaBernoulliNetwork(bbpyro.insert_dropout(net), likelihood, num_data=len(problem.x))
        begun[id(bnn)] = steps
        return bnn

    starts = [start(steps) for steps in STARTS]
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", FitWarning)
        held_out = problem.x_test, problem.y_test
        bnn, history = bbpyro.fit_best(starts, problem.x, problem.y, held_out=held_out, seed=seed, progress=False)
    return {
        **scores(problem, bnn.eval(), bnn.gates["0.gate"].kept().numpy()),
        "units": "-".join(map(str, history[-1]["active"].values())),
        "steps": len(history) * math.ceil(len(problem.x) / BATCH_SIZE),
        "warning": " ".join(str(each.message).split(": ")[0] for each in caught if each.category is FitWarning),
        "start": begun[id(bnn)],
    }


def lasso(problem: Problem, seed: int) -> dict[str, Any]:
    """The row of a linear model with an l1 penalty."""
    x, x_test, y = problem.x.numpy(), problem.x_test.numpy(), problem.y.numpy()
    model: Any = LassoCV(random_state=seed)
    if problem.num_classes:
        model = LogisticRegressionCV(
            l1_ratios=(1.0,), solver="saga", Cs=7, cv=3, scoring="neg_log_loss", max_iter=300, random_state=seed
        )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that saga has not converged to the last digit
        model.fit(x, y)
    kept = np.abs(np.atleast_2d(model.coef_)).max(0) > 0
    return scores(problem, _predictor(model, x_test), kept)


def forest(problem: Problem, seed: int) -> dict[str, Any]:
    """The row of a random forest."""
    kind = RandomForestClassifier if problem.num_classes else RandomForestRegressor
    model = kind(300, random_state=seed).fit(problem.x.numpy(), problem.y.numpy())
    return scores(problem, _predictor(model, problem.x_test.numpy()))


def _predictor(model: Any, x_test: np.ndarray) -> Callable[[Tensor], Tensor]:
    """A model of scikit-learn's as a network: log-probabilities, or numbers, of the held-out data."""
    found = model.predict_proba(x_test) if hasattr(model, "predict_proba") else model.predict(x_test)
    output = torch.tensor(found, dtype=torch.float32)
    return lambda x: output.clamp_min(1e-3).log() if output.dim() == 2 else output


class StochasticGates(nn.Module):
    """A network with gates on its inputs, clamp(μ + ε, 0, 1) with ε ~ N(0, 1/4) (arXiv 1810.04247, eq. 5)."""

    def __init__(self, problem: Problem) -> None:
        super().__init__()
        self.net, self.likelihood = network(problem)
        self.mu = nn.Parameter(torch.full((problem.x.shape[1],), 0.5))

    def forward(self, x: Tensor) -> Tensor:
        """The network's output, in evaluation by the gates without noise."""
        noise = 0.5 * torch.randn_like(x) if self.training else 0.0
        return self.net(x * (self.mu + noise).clamp(0, 1))

    def num_open(self) -> Tensor:
        """How many gates are open, in expectation: Σ Φ(μ / σ)."""
        return torch.special.ndtr(self.mu / 0.5).sum()

    def train_on(self, x: Tensor, y: Tensor, penalty: float) -> "StochasticGates":
        """Minimise the mean loss + λ · num_open(), with Adam at the rates and the schedule of bbpyro.fit."""
        gates = [self.mu]
        others = [p for name, p in self.named_parameters() if name != "mu"]
        optimizer = torch.optim.Adam([{"params": others, "lr": 1e-3}, {"params": gates, "lr": 1e-2}], fused=True)
        schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: bbpyro.training.cosine(step / GATE_STEPS))
        batches: list[Tensor] = []
        for _ in range(GATE_STEPS):
            batches = batches or list(torch.randperm(len(x)).split(BATCH_SIZE))
            batch = batches.pop()
            loss = -self.likelihood(self(x[batch])).log_prob(y[batch]).mean() + penalty * self.num_open()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
        return self.eval()


def stochastic_gates(problem: Problem, seed: int) -> dict[str, Any]:
    """The row of stochastic gates, with the λ that is best on a fifth of the training data."""
    torch.manual_seed(seed)
    order = torch.randperm(len(problem.x))
    chosen, rest = order[: len(order) // 5], order[len(order) // 5 :]
    losses = {}
    for penalty in PENALTIES:
        tried = StochasticGates(problem).train_on(problem.x[rest], problem.y[rest], penalty)
        with torch.no_grad():
            losses[penalty] = _loss(problem, tried(problem.x[chosen]), problem.y[chosen])
    best = StochasticGates(problem).train_on(problem.x, problem.y, min(losses, key=losses.__getitem__))
    return {**scores(problem, best, (best.mu.detach() > 0).numpy()), "steps": GATE_STEPS}


def _loss(problem: Problem, output: Tensor, y: Tensor) -> float:
    return (F.cross_entropy(output, y) if problem.num_classes else F.mse_loss(output, y)).item()


def scores(problem: Problem, net: Callable[[Tensor], Tensor], kept: np.ndarray | None = None) -> dict[str, Any]:
    """How good a network is on held-out data, and which of the inputs it should keep it does."""
    with torch.no_grad():
        output = net(problem.x_test)
    row: dict[str, Any] = {"loss": _loss(problem, output, problem.y_test), "chance": 1.0}
    if problem.num_classes:
        most_frequent = problem.y.mode().values
        row["error"] = (output.argmax(-1) != problem.y_test).double().mean().item()
        row["chance"] = (problem.y_test != most_frequent).double().mean().item()
    if kept is None:
        return row
    columns = set(np.flatnonzero(kept).tolist())
    row |= {"inputs": len(columns), "kept": len(columns & problem.irrelevant), "irrelevant": len(problem.irrelevant)}
    if problem.relevant is not None:
        row |= {"found": len(columns & problem.relevant), "relevant": len(problem.relevant)}
    return row


METHODS: dict[str, Callable[[Problem, int], dict[str, Any]]] = {
    "plain": plain,
    "bbpyro": beta_bernoulli,
    "lasso": lasso,
    "forest": forest,
    "gates": stochastic_gates,
}


def row_of(name: str, seed: int, method: str) -> dict[str, Any]:
    """The row of a problem, a seed and a method."""
    torch.set_num_threads(1)
    problem = PROBLEMS[name].make(seed)
    row = METHODS[method](problem, seed)
    return {"problem": name, "seed": seed, "method": method, "num_data": len(problem.x), **row}


def done(output: Path) -> pd.DataFrame:
    """What is there by now."""
    return pd.read_csv(output) if output.exists() else pd.DataFrame(columns=COLUMNS)


def run(names: Sequence[str], seeds: int, methods: Sequence[str], jobs: int, output: Path) -> None:
    """Add the rows that are not there yet."""
    there = set(zip(*(done(output)[column] for column in ("problem", "seed", "method")), strict=True))
    wanted = itertools.product(range(seeds), names, methods)
    todo = [(name, seed, method) for seed, name, method in wanted if (name, seed, method) not in there]
    work = (joblib.delayed(row_of)(*each) for each in todo)
    found = joblib.Parallel(jobs, return_as="generator_unordered")(work)
    for row in track(found, "rows", len(todo), console=Console(stderr=True), disable=not todo):
        table = pd.DataFrame([row], columns=COLUMNS)
        table.to_csv(output, mode="a", header=not output.exists(), index=False)


def to_markdown(table: pd.DataFrame) -> str:
    """A line a problem, the seeds taken together, and what came of the targets."""
    head = ["problem", "N", *(f"{of} {m}" for of in ("found", "kept") for m in ("bbpyro", "gates", "lasso"))]
    lines = [[*head, *(f"loss {m}" for m in METHODS), "units left", "warned"]]
    lines.append(["---"] * len(lines[0]))
    for name in [name for name in PROBLEMS if name in set(table["problem"])]:
        of = table[table["problem"] == name].set_index("method")
        counts = [_counted(of, m, *pair) for pair in _PAIRS for m in ("bbpyro", "gates", "lasso")]
        losses = [f"{of.loc[[m], 'loss'].mean():.3f}" for m in METHODS]
        ours = of.loc[["bbpyro"]]
        units = [[int(n) for n in text.split("-")] for text in ours["units"]]
        left = "-".join(f"{sum(column) / len(units):.0f}" for column in zip(*units, strict=True))
        warned = f"{ours['warning'].notna().sum()} of {len(ours)}"
        lines.append([name, f"{ours['num_data'].iloc[0]:,}", *counts, *losses, left, warned])
    return "".join(f"| {' | '.join(line)} |\n" for line in lines) + "\n" + "".join(f"- {t}\n" for t in _targets(table))


_PAIRS = (("found", "relevant"), ("kept", "irrelevant"))


def _counted(of: pd.DataFrame, method: str, count: str, out_of: str) -> str:
    rows = of.loc[[method]]
    total = rows[out_of].sum()
    return f"{rows[count].sum():.0f} of {total:.0f}" if total else ""


def _targets(table: pd.DataFrame) -> list[str]:
    keys = ["problem", "seed"]
    ours, plain, gates = (table[table["method"] == m].set_index(keys) for m in ("bbpyro", "plain", "gates"))
    knows = plain["error"].fillna(plain["loss"]) < 0.9 * plain["chance"]
    large = ours[(ours["num_data"] >= 1000) & knows.reindex(ours.index) & ours["relevant"].notna()]
    lost = large[large["found"] < large["relevant"]]
    lasso = table[table["method"] == "lasso"].set_index(keys)
    theirs = [int((of["relevant"] - of["found"]).reindex(large.index).sum()) for of in (gates, lasso)]
    names = ", ".join(f"{name} of seed {seed}" for name, seed in sorted(lost.index))
    worse = ours[ours["loss"] > 1.05 * plain["loss"].reindex(ours.index)]
    silent = worse[worse["warning"].isna()]
    told = ", ".join(
        f"{name} of seed {seed}, {plain.loc[(name, seed), 'loss']:.4f} to {row['loss']:.4f}"
        for (name, seed), row in silent.iterrows()
    )
    chosen = gates.index.intersection(ours.index)
    kept, others = (int(of.loc[chosen, "kept"].sum()) for of in (ours, gates))
    return [
        f"Relevant inputs lost where N >= 1,000 and the plain network beats chance (its error is below nine tenths of "
        f"it): {int((lost['relevant'] - lost['found']).sum())} of {int(large['relevant'].sum())}, in {len(lost)} of "
        f"{len(large)} trainings"
        + (f" ({names})." if names else ".")
        + f" Of the same, stochastic gates lose {theirs[0]}, the lasso {theirs[1]}.",
        f"Irrelevant inputs kept, all problems and seeds: {kept} by bbpyro, {others} by stochastic gates, of "
        f"{int(ours.loc[chosen, 'irrelevant'].sum())}.",
        f"Held-out loss more than 5% above the plain network's: {len(worse)} of {len(ours)} trainings, "
        f"{len(silent)} of them without fit's warning" + (f" ({told})." if told else "."),
    ]


INTRODUCTION = """# Which inputs are found in small tables

`python benchmarks/feature_selection.py --output {csv}` trains what is in this page, and with
`--report {csv} --docs {docs}` in its place writes it. [The script](../benchmarks/feature_selection.py) says what the
methods are, [feature_problems.py](../benchmarks/feature_problems.py) what the problems are.

{seeds} seeds. Found: relevant inputs that are kept. Kept: irrelevant inputs that are kept, the fewer the better. Both
are sums over the seeds, losses means. Units left: of bbpyro's three layers. Warned: how often fit warned that the
network ends worse than it began. bbpyro is the better of two starts by its ELBO, as `bbpyro train` of few data is.

"""


def main(argv: Sequence[str] | None = None) -> None:
    """Run what is asked for, or make the table of what is there."""
    formatter = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=formatter)
    parser.add_argument("--output", type=Path, help="the csv that rows are added to")
    parser.add_argument("--problems", nargs="+", default=["*"], help=f"with * for any text: {', '.join(PROBLEMS)}")
    parser.add_argument("--seeds", type=int, default=5, help="0 to this less one")
    parser.add_argument("--methods", nargs="+", choices=[*METHODS], default=[*METHODS])
    parser.add_argument("--jobs", type=int, default=1, help="processes at once")
    parser.add_argument("--report", type=Path, help="make the table of this csv")
    parser.add_argument("--docs", type=Path, help="write it into this file too")
    options = parser.parse_args(argv)
    if (options.output is None) == (options.report is None):
        parser.error("give --output to run, or --report for the table of what has run")
    unknown = [pattern for pattern in options.problems if not fnmatch.filter(PROBLEMS, pattern)]
    if unknown:
        parser.error(f"--problems: {unknown[0]!r} is none of {', '.join(PROBLEMS)}")
    if options.output:
        names = [name for name in PROBLEMS if any(fnmatch.fnmatch(name, each) for each in options.problems)]
        run(names, options.seeds, options.methods, options.jobs, options.output)
    table = done(options.report or options.output)
    if table.empty:
        parser.error(f"there is nothing in {options.report or options.output} yet")
    text = to_markdown(table)
    print(text)
    if options.docs:
        said = {"csv": options.report, "docs": options.docs, "seeds": table["seed"].nunique()}
        options.docs.write_text(INTRODUCTION.format(**said) + text, encoding="utf-8")


if __name__ == "__main__":
    main()
