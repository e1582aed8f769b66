"""What a training step costs at each of some sizes, batch 100, one thread, medians of interleaved rounds in CPU time.

A size is that of LeNet-500-300's units: 784-500-300 is the full network. 340-172-129 and 294-110-71 are what is left of
it after training, here and in arXiv 1805.10896. Every variant runs in turn in each round, so that a busy machine slows
all of them; the ratios are what to quote.

    python benchmarks/step_cost.py [--sizes 784-500-300 340-172-129 294-110-71] [--rounds 30] [--steps 20]
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
from bbpyro.denormals import flushed
from bbpyro.training import LeanTraceELBO, SingleOptimizer

NUM_DATA, NUM_CLASSES = 60_000, 10
PLAIN, DROPOUT = "plain net, fused Adam", "nn.Dropout, fused Adam"
Step = Callable[[torch.Tensor, torch.Tensor], object]


def plain_step(net: nn.Module, fused: bool = True) -> Step:
    """Cross entropy and Adam."""
    optimizer = torch.optim.Adam(net.parameters(), weight_decay=1e-4, fused=fused)

    def step(x: torch.Tensor, y: torch.Tensor) -> None:
        nn.functional.cross_entropy(net(x), y).backward()
        optimizer.step()
        optimizer.zero_grad()

    return step


def plain_net(sizes: list[int]) -> nn.Module:
    """LeNet-500-300, with layers of other sizes."""
    inputs, first, second = sizes
    return nn.Sequential(
        nn.Flatten(),
        nn.Linear(inputs, first),
        nn.ReLU(),
        nn.Linear(first, second),
        nn.ReLU(),
        nn.Linear(second, NUM_CLASSES),
    )


def dropout_net(sizes: list[int]) -> nn.Module:
    """The same network with nn.Dropout before each layer."""
    layers: list[nn.Module] = []
    for module in plain_net(sizes).children():
        layers += [nn.Dropout(0.5), module] if isinstance(module, nn.Linear) else [module]
    return nn.Sequential(*layers)


def network(sizes: list[int]) -> bbpyro.BetaBernoulliNetwork:
    """The same network with gates."""
    return bbpyro.BetaBernoulliNetwork(bbpyro.insert_dropout(plain_net(sizes)), num_data=NUM_DATA)


def svi_step(sizes: list[int], elbo: Trace_ELBO) -> Step:
    """What fit() runs."""
    bnn = network(sizes)
    optimizer = torch.optim.Adam(bnn.parameters(), fused=True)
    svi = SVI(bnn.model, bnn.guide, SingleOptimizer(optimizer), elbo)

    def step(x: torch.Tensor, y: torch.Tensor) -> None:
        with pyro.validation_enabled(False):
            svi.step(x, y)

    return step


def elbo_module_step(sizes: list[int]) -> Step:
    """The same model and guide in Pyro's ELBOModule, with a plain torch loop."""
    bnn = network(sizes)
    estimator: Any = Trace_ELBO()  # typed for modules, and works for methods
    elbo = estimator(bnn.model, bnn.guide)
    optimizer = torch.optim.Adam(bnn.parameters(), fused=True)

    def step(x: torch.Tensor, y: torch.Tensor) -> None:
        with pyro.validation_enabled(False):
            elbo(x, y).backward()
        optimizer.step()
        optimizer.zero_grad()

    return step


def naive_step(sizes: list[int]) -> Step:
    """The slide, with Pyro's own distributions and optimizer; its parameters are soon nan, it is timed all the same."""
    sizes = [*sizes, NUM_CLASSES]
    pyro.clear_param_store()

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


def variants(sizes: list[int]) -> dict[str, Step]:
    """What is timed, by name."""
    return {
        PLAIN: plain_step(plain_net(sizes)),
        "plain net, torch's default Adam": plain_step(plain_net(sizes), fused=False),
        DROPOUT: plain_step(dropout_net(sizes)),
        "bbpyro, SVI + LeanTraceELBO (fit)": svi_step(sizes, LeanTraceELBO()),
        "bbpyro, SVI + Trace_ELBO": svi_step(sizes, Trace_ELBO()),
        "bbpyro, SVI + TraceMeanField_ELBO": svi_step(sizes, TraceMeanField_ELBO()),
        "bbpyro, ELBOModule": elbo_module_step(sizes),
        "naive Pyro program": naive_step(sizes),
    }


def medians(steps: dict[str, Step], num_inputs: int, rounds: int, num_steps: int) -> dict[str, float]:
    """Seconds of the processor a step of each, of rounds in which each takes its turn."""
    batches = [(torch.rand(100, num_inputs), torch.randint(NUM_CLASSES, (100,))) for _ in range(num_steps)]
    seconds: dict[str, list[float]] = {name: [] for name in steps}
    for _ in track(range(rounds), "timing", transient=True):
        for name, step in steps.items():
            start = time.process_time()
            for x, y in batches:
                step(x, y)
            seconds[name].append((time.process_time() - start) / num_steps)
    return {name: statistics.median(times[1:] or times) for name, times in seconds.items()}


def main() -> None:
    """Time every variant at every size and print a table for each."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", nargs="+", default=["784-500-300", "340-172-129", "294-110-71"])
    parser.add_argument("--rounds", type=int, default=30)
    parser.add_argument("--steps", type=int, default=20)
    options = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    for name in options.sizes:
        sizes = [int(size) for size in name.split("-")]
        with warnings.catch_warnings(), flushed():
            warnings.simplefilter("ignore")  # the naive program's nan
            found = medians(variants(sizes), sizes[0], options.rounds, options.steps)
        table = Table("step", "ms (median)", "/ plain", "/ nn.Dropout", title=name)
        for variant, median in found.items():
            table.add_row(variant, f"{1e3 * median:.2f}", *(f"{median / found[key]:.2f}" for key in (PLAIN, DROPOUT)))
        Console().print(table)


if __name__ == "__main__":
    main()
