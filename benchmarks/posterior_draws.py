"""What the posterior of LeNet-500-300 costs: draws of π, and predictions by them, beside a plain forward pass.

python benchmarks/posterior_draws.py
"""

from collections.abc import Callable

import torch
from measuring import interleaved

import bbpyro
from bbpyro.posterior.container import import_arviz

ROUNDS, NUM_DATA, NUM_PREDICTIVE = 7, 1000, 10


def main() -> None:
    """Medians of interleaved rounds, on one thread."""
    torch.set_num_threads(1)
    import_arviz()  # whose import takes a second, once
    net = bbpyro.networks.lenet_500_300()
    bnn = bbpyro.BetaBernoulliNetwork(bbpyro.insert_dropout(net), num_data=60_000)
    x = torch.rand(NUM_DATA, 28, 28)
    net.requires_grad_(False)
    cases: dict[str, Callable[[], object]] = {
        "plain": lambda: net(x),
        "draws": lambda: bbpyro.to_arviz(bnn, num_samples=1000),
        "predictions": lambda: bbpyro.predict(bnn, x, NUM_PREDICTIVE),
    }
    median = interleaved(cases, ROUNDS)
    print(f"to_arviz, 1000 draws of each of 1584 π, prior and posterior: {median['draws']:.2f} s")
    each = median["predictions"] / NUM_PREDICTIVE
    print(f"a draw's predictions of {NUM_DATA} images: {each / median['plain']:.1f} times a plain forward pass")


if __name__ == "__main__":
    main()
