"""What SVI finds of latent features, beside Gibbs sampling: features, held-out pixels, time.

    python benchmarks/latent_features.py --output docs/latent_features.csv          # all, some hours of a core
    python benchmarks/latent_features.py --problems shapes-500-0.5 --seeds 1        # some minutes
    python benchmarks/latent_features.py --report docs/latent_features.csv          # the table of what is there

A tenth of the pixels, drawn at random, is held out. A row, of a problem, a seed and a method, is written to --output as
soon as it is done; the same command goes on with the others.

shapes-N-σ   N images of 6x6 pixels of four shapes, with noise σ (Griffiths and Ghahramani 2011).
bars-N-σ     N images of 6x6 pixels of twelve bars, rows and columns, each in a third of them.
svi          bbpyro.fit of 12 features (of bars 20) by its defaults, IndianBuffet(2), σ known: coordinate ascent from
             eight starts, and SVI from the best.
svi, learnt  the same with a σ that is learnt.
svi alone    the same as svi without coordinate ascent, three starts of 800 steps each.
svi, drawn   svi alone with a likelihood of drawn z, straight through, in place of its average over z.
gibbs        500 sweeps to warm up and 500 more; features are those of the last sweep.
found        true features of which one that is used has a cosine of 0.95 or more.
used         K₊, the features that some datum has: of svi where λ is above one half, of gibbs the mean of its draws.
elbo         of the training data, nats a datum: -loss/N, with z 0 or 1, averaged over 200 draws.
nll          -log p of a held-out pixel, nats, over 200 draws of q, or the 500 sweeps.
seconds      one thread; of gibbs also until the nll of the later half of its sweeps so far is within 2% of the last.
"""

import argparse
import functools
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
import torch.nn.functional as F
from pyro.infer import Trace_ELBO
from rich.progress import track
from torch import Tensor, nn

import bbpyro
from bbpyro.data import LatentData

PROBLEMS = ("shapes-500-0.5", "shapes-500-0.05", "shapes-100-0.5", "shapes-100-0.05", "bars-500-0.25")
WARMUP, SWEEPS, DRAWS = 500, 500, 200


def made(problem: str, seed: int) -> tuple[LatentData, Tensor, float]:
    """The data, which pixels are held out, and σ."""
    kind, num_data, noise = problem.split("-")
    generate = bbpyro.data.shapes if kind == "shapes" else bbpyro.data.overlapping_bars
    data = generate(int(num_data), noise=float(noise), seed=seed)
    held_out = torch.rand(data.x.shape, generator=torch.Generator().manual_seed(1000 + seed)) < 0.1
    return data, held_out, float(noise)


def model_of(problem: str, noise: float | None, is_drawn: bool = False) -> bbpyro.LatentFeatureModel:
    """The model, of a known σ or of one that is learnt; with an f that is not known to be linear where z is drawn."""
    num_features = 12 if problem.startswith("shapes") else 20
    decoder: dict[str, Any] = {"decoder": nn.Identity(), "num_dims": 36} if is_drawn else {}
    return bbpyro.LatentFeatureModel(num_features, bbpyro.likelihoods.Normal(noise), "IndianBuffet(2)", **decoder)


def num_found(features: Tensor, truth: Tensor) -> int:
    """How many of the true features `[K, D]` are among these."""
    if not len(features):
        return 0
    cosine = F.normalize(features, dim=1) @ F.normalize(truth, dim=1).T
    return int((cosine.max(0).values >= 0.95).sum())


def svi(problem: str, seed: int, is_learnt: bool = False, is_drawn: bool = False, **settings: Any) -> dict[str, Any]:
    """The row of bbpyro.fit."""
    data, held_out, noise = made(problem, seed)
    model = model_of(problem, None if is_learnt else noise, is_drawn)
    started = time.perf_counter()
    bbpyro.fit(model, data.x, observed=~held_out, seed=seed, progress=False, **settings)
    seconds = time.perf_counter() - started
    torch.manual_seed(seed)
    seen = data.x.masked_fill(held_out, torch.nan)
    with torch.no_grad():
        losses = [Trace_ELBO().loss(model.model, model.guide, seen) for _ in range(DRAWS)]
    is_used = (model.z_logits() > 0).any(0)
    return {
        "found": num_found(model.q_weights().mean[is_used].detach(), data.W),
        "used": float(is_used.sum()),
        "elbo": -float(np.mean(losses)) / len(seen),
        "nll": -model.log_predictive(seen, data.x, DRAWS)[held_out].mean().item(),
        "seconds": seconds,
        "seconds_within": seconds,
    }


def gibbs(problem: str, seed: int) -> dict[str, Any]:
    """The row of the sampler, sweep by sweep."""
    data, held_out, noise = made(problem, seed)
    torch.manual_seed(seed)
    sampler = bbpyro.mcmc.GibbsSampler(model_of(problem, noise), data.x.masked_fill(held_out, torch.nan))
    log_probs, used, started, seconds = [], [], 0.0, []
    for _ in range(WARMUP + SWEEPS):
        started = time.perf_counter()
        sampler.sweep()
        seconds.append(time.perf_counter() - started)
        of_x = torch.distributions.Normal((sampler.z @ sampler.W)[held_out], noise)
        log_probs.append(of_x.log_prob(data.x[held_out].double()))
        used.append(sampler.z.any(0).sum().item())
    drawn = torch.stack(log_probs)
    nll = mean_nll(drawn[WARMUP:])
    within = next(t for t in range(1, len(drawn) + 1) if mean_nll(drawn[t // 2 : t]) <= nll + 0.02 * abs(nll))
    features = sampler.W[sampler.z.any(0)].float()
    return {
        "found": num_found(features, data.W),
        "used": float(np.mean(used[WARMUP:])),
        "nll": nll,
        "seconds": sum(seconds),
        "seconds_within": sum(seconds[:within]),
    }


def mean_nll(log_probs: Tensor) -> float:
    """-log of the mean probability of each pixel over draws `[S, H]`, nats, the mean over pixels."""
    return -(log_probs.logsumexp(0) - np.log(len(log_probs))).mean().item()


METHODS: dict[str, Callable[[str, int], dict[str, Any]]] = {
    "svi": svi,
    "svi, learnt": functools.partial(svi, is_learnt=True),
    "svi alone": functools.partial(svi, num_sweeps=0, num_starts=3, kl_start=5.0),
    "svi, drawn": functools.partial(svi, is_drawn=True, num_sweeps=0, num_starts=3, kl_start=5.0),
    "gibbs": gibbs,
}
ALONE = ("svi alone", "svi, drawn")  # by default of the first problem alone


def report(rows: pd.DataFrame) -> str:
    """A table in Markdown: means over seeds, and the range of what is found."""
    names = ("problem", "method", "seeds", "found", "used", "ELBO", "held-out nll", "seconds", "until within 2%")
    lines = ["| " + " | ".join(names) + " |", "|" + "---|" * len(names)]
    for (problem, method), group in rows.groupby(["problem", "method"], sort=False):
        of = "4" if str(problem).startswith("shapes") else "12"
        least, most = int(group.found.min()), int(group.found.max())
        found = f"{least} of {of}" if least == most else f"{least} - {most} of {of}"
        elbo = "" if group.elbo.isna().all() else f"{group.elbo.mean():.2f}"
        cells = [problem, method, len(group), found, f"{group.used.mean():.1f}", elbo, f"{group.nll.mean():.4f}"]
        cells += [f"{group.seconds.median():.1f}", f"{group.seconds_within.median():.1f}"]
        lines.append("| " + " | ".join(map(str, cells)) + " |")
    return "\n".join(lines)


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--problems", nargs="+", default=PROBLEMS, choices=PROBLEMS, metavar="PROBLEM")
    parser.add_argument("--methods", nargs="+", choices=list(METHODS), metavar="METHOD")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--output", type=Path, help="a table that rows are added to; by default none is kept")
    parser.add_argument("--report", type=Path, help="print what this table has, and do nothing else")
    arguments = parser.parse_args()
    if arguments.report:
        print(report(pd.read_csv(arguments.report)))
        return
    torch.set_num_threads(1)
    is_there = arguments.output and arguments.output.exists()
    rows = pd.read_csv(arguments.output).to_dict("records") if is_there else []
    done = {(row["problem"], row["seed"], row["method"]) for row in rows}
    wanted = [
        (problem, seed, method)
        for problem in arguments.problems
        for seed in range(arguments.seeds)
        for method in arguments.methods or METHODS
        if arguments.methods or problem == PROBLEMS[0] or method not in ALONE
    ]
    for problem, seed, method in track([each for each in wanted if each not in done], "fitting"):
        rows.append({"problem": problem, "seed": seed, "method": method, **METHODS[method](problem, seed)})
        if arguments.output:
            pd.DataFrame(rows).to_csv(arguments.output, index=False, float_format="%.5g")
    print(report(pd.DataFrame(rows)))


if __name__ == "__main__":
    main()
