"""What a training step costs: 784-500-300-10, batch 100, one thread, medians of interleaved rounds.

Every variant runs in turn in each round, so that a busy machine slows all of them; the ratios are what to quote.

    python benchmarks/step_cost.py [--rounds 30] [--steps 20]
"""

import argparse
import statistics
import time
import warnings
from collections.abc import Callable
from typing import Any

import pyro
import pyro.distributions as dist
import torch
from pyro.infer import SVI, Trace_ELBO, TraceMeanField_ELBO
from pyro.optim import PyroOptim
from rich.console import Console
from rich.progress import track
from rich.table import Table
from torch import Tensor, nn

import bbpyro
from bbpyro.training import SingleOptimizer

NUM_DATA = 60_000
Step = Callable[[torch.Tensor, torch.Tensor], object]


def plain_step(net: nn.Module, fused: bool = True) -> Step:
    """Cross entropy and Adam."""
    optimizer = torch.optim.Adam(net.parameters(), weight_decay=1e-4, fused=fused)

    def step(x: torch.Tensor, y: torch.Tensor) -> None:
        nn.functional.cross_entropy(net(x), y).backward()
        optimizer.step()
        optimizer.zero_grad()

    return step


def dropout_net() -> nn.Module:
    """The same network with nn.Dropout before each layer."""
    net = bbpyro.networks.lenet_500_300()
    layers: list[nn.Module] = []
    for module in net:
        layers += [nn.Dropout(0.5), module] if isinstance(module, nn.Linear) else [module]
    return nn.Sequential(*layers)


def network() -> bbpyro.BetaBernoulliNetwork:
    """LeNet-500-300 with gates."""
    return bbpyro.BetaBernoulliNetwork(bbpyro.insert_dropout(bbpyro.networks.lenet_500_300()), num_data=NUM_DATA)


def svi_step(elbo: Trace_ELBO) -> Step:
    """What fit() runs."""
    bnn = network()
    optimizer = torch.optim.Adam(bnn.parameters(), fused=True)
    svi = SVI(bnn.model, bnn.guide, SingleOptimizer(optimizer), elbo)

    def step(x: torch.Tensor, y: torch.Tensor) -> None:
        with pyro.validation_enabled(False):
            svi.step(x, y)

    return step


def elbo_module_step() -> Step:
    """The same model and guide in Pyro's ELBOModule, with a plain torch loop."""
    bnn = network()
    estimator: Any = Trace_ELBO()  # typed for modules, and works for methods
    elbo = estimator(bnn.model, bnn.guide)
    optimizer = torch.optim.Adam(bnn.parameters(), fused=True)

    def step(x: torch.Tensor, y: torch.Tensor) -> None:
        with pyro.validation_enabled(False):
            elbo(x, y).backward()
        optimizer.step()
        optimizer.zero_grad()

    return step


def naive_step() -> Step:
    """The slide, with Pyro's own distributions and optimizer; its parameters are soon nan, it is timed all the same."""
    sizes = [784, 500, 300, 10]

    def forward(x: Tensor, weights: list[Tensor], masks: list[Tensor]) -> Tensor:
        for i, (w, z) in enumerate(zip(weights, masks, strict=True)):
            x = (x * z) @ w.T
            x = x.relu() if i < 2 else x
        return x

    def sample_masks(pi: list[Tensor], guide: bool) -> list[Tensor]:
        relaxed = dist.RelaxedBernoulliStraightThrough
        return [
            pyro.sample(
                f"z{i}",
                (relaxed(torch.tensor(0.1), probs=p) if guide else dist.Bernoulli(p, validate_args=False)).to_event(1),
            )
            for i, p in enumerate(pi)
        ]

    def model(x: Tensor, y: Tensor) -> None:
        weights = [
            pyro.sample(f"w{i}", dist.Normal(torch.zeros(o, n), 0.4).to_event(2))
            for i, (n, o) in enumerate(zip(sizes[:-1], sizes[1:], strict=True))
        ]
        pi = [
            pyro.sample(f"pi{i}", dist.Beta(torch.full((n,), 1e-4), 1.0).to_event(1)) for i, n in enumerate(sizes[:-1])
        ]
        with pyro.plate("data", NUM_DATA, subsample=x):
            logits = forward(x, weights, sample_masks(pi, guide=False))
            pyro.sample("y", dist.Categorical(logits=logits), obs=y)

    def guide(x: Tensor, y: Tensor) -> None:
        positive = dist.constraints.positive
        for i, (n, o) in enumerate(zip(sizes[:-1], sizes[1:], strict=True)):
            pyro.sample(f"w{i}", dist.Delta(pyro.param(f"naive.w{i}", 0.05 * torch.randn(o, n)), event_dim=2))
        pi = [
            pyro.sample(
                f"pi{i}",
                dist.Kumaraswamy(
                    pyro.param(f"naive.a{i}", torch.full((n,), 0.3), constraint=positive),
                    pyro.param(f"naive.b{i}", torch.ones(n), constraint=positive),
                ).to_event(1),
            )
            for i, n in enumerate(sizes[:-1])
        ]
        with pyro.plate("data", NUM_DATA, subsample=x):
            sample_masks(pi, guide=True)

    svi = SVI(model, guide, PyroOptim(torch.optim.Adam, {"lr": 1e-3}), Trace_ELBO())

    def step(x: torch.Tensor, y: torch.Tensor) -> None:
        with pyro.validation_enabled(False):
            svi.step(x, y)

    return step


def main() -> None:
    """Time every variant and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=30)
    parser.add_argument("--steps", type=int, default=20)
    options = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    variants = {
        "plain net, fused Adam": plain_step(bbpyro.networks.lenet_500_300()),
        "plain net, torch's default Adam": plain_step(bbpyro.networks.lenet_500_300(), fused=False),
        "nn.Dropout, fused Adam": plain_step(dropout_net()),
        "bbpyro, SVI + Trace_ELBO (fit)": svi_step(Trace_ELBO()),
        "bbpyro, SVI + TraceMeanField_ELBO": svi_step(TraceMeanField_ELBO()),
        "bbpyro, ELBOModule": elbo_module_step(),
        "naive Pyro program": naive_step(),
    }
    batches = [(torch.rand(100, 784), torch.randint(10, (100,))) for _ in range(options.steps)]
    seconds: dict[str, list[float]] = {name: [] for name in variants}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the naive program's nan
        for _ in track(range(options.rounds), "timing", transient=True):
            for name, step in variants.items():
                start = time.perf_counter()
                for x, y in batches:
                    step(x, y)
                seconds[name].append((time.perf_counter() - start) / options.steps)
    medians = {name: statistics.median(times[1:] or times) for name, times in seconds.items()}
    table = Table("step", "ms (median)", "/ plain", "/ nn.Dropout")
    for name, median in medians.items():
        ratios = (median / medians[key] for key in ("plain net, fused Adam", "nn.Dropout, fused Adam"))
        table.add_row(name, f"{1e3 * median:.2f}", *(f"{ratio:.2f}" for ratio in ratios))
    Console().print(table)


if __name__ == "__main__":
    main()
