"""The exact posterior of a problem small enough for NUTS: what the guide can be held against."""

import itertools
from typing import Any

import numpy as np
import pyro
import pyro.poutine as poutine
import torch
import xarray as xr
from pyro.infer import MCMC, NUTS
from torch import Tensor
from torch.nn.functional import logsigmoid

from bbpyro import nests
from bbpyro.checks import check_data, in_eval_mode
from bbpyro.distributions import Delta, StickBreaking, remember_log_odds
from bbpyro.exclusive import one_at_a_time
from bbpyro.model import BetaBernoulliNetwork
from bbpyro.nests import Nest
from bbpyro.posterior import container

MAX_UNITS = 10


class SummedOut:
    """-log p(W, π, y | x) of a network with its masks summed out, over W and the log-odds of π.

    Each datum has its own mask z_n of all K units, 0 or 1, so p(y_n | W, π) is a sum of 2^K terms. All of them are
    taken from one call of `bnn.model`, conditioned on W, on π and on every mask there is.

    Args:
        bnn: the network; its temperature plays no part.
        x: inputs `[N, ...]`, a tensor or a nest of them.
        y: what was observed there, `[N, ...]`.

    Raises:
        TypeError: x is no tensor or nest of them, or y no tensor.
        ValueError: there are more than 10 units, not `bnn.num_data` data, they do not fit the network, or the prior is
            FixedRate or StickBreaking, or a gate is of another family of masks.
    """

    def __init__(self, bnn: BetaBernoulliNetwork, x: Nest, y: Tensor) -> None:
        num_units = sum(gate.num_features for gate in bnn.gates.values())
        if num_units > MAX_UNITS:
            raise ValueError(f"bnn has {num_units} units, so 2^{num_units} masks a datum; wanted at most {MAX_UNITS}")
        if others := bnn.gates_by_family[1]:
            names = ", ".join(f"{g!r} ({type(gate).__name__})" for g, gate in others.items())
            raise ValueError(f"bnn: NUTS is of Beta-Bernoulli dropout alone, and has no masks of {names}")
        for g in bnn.gates:
            if isinstance(bnn.prior_of(g), Delta | StickBreaking):
                raise ValueError(
                    f"prior: {bnn.prior!r} has no density of each π of gate {g!r} alone in (0, 1), which NUTS wants"
                )
        check_data(bnn, bnn.likelihood, x, y, bnn.num_data)
        self.bnn, self.num_data = bnn, len(y)
        masks = torch.tensor(list(itertools.product((0.0, 1.0), repeat=num_units)), dtype=_dtype(bnn))
        self.x, self.y = nests.repeat((x, y), len(masks))
        widths = [gate.num_features for gate in bnn.gates.values()]
        by_gate = masks.repeat_interleave(len(y), 0).split(widths, -1)
        self.z = {f"{g}.z": mask for g, mask in zip(bnn.gates, by_gate, strict=True)}

    def __call__(self, latents: dict[str, Tensor]) -> Tensor:
        """The potential energy; `latents` are the weights by name, and the log-odds `[K]` of each gate by its name."""
        weights = {name: latents[name] for name in self.bnn.weights}
        log_odds = {g: latents[g] for g in self.bnn.gates}
        pi = {f"{g}.pi": remember_log_odds(odds.double(), odds.dtype) for g, odds in log_odds.items()}
        model = poutine.condition(self.bnn.model, data={**weights, **pi, **self.z})
        nodes: Any = poutine.trace(model).get_trace(self.x, self.y).nodes
        log_joint = sum(nodes[name]["fn"].log_prob(nodes[name]["value"]).sum() for name in (*weights, *pi))
        for odds in log_odds.values():
            log_joint = log_joint + (logsigmoid(odds) + logsigmoid(-odds)).sum()  # the Jacobian of π in its log-odds
        log_z_y = sum(nodes[name]["fn"].log_prob(nodes[name]["value"]) for name in (*self.z, "y"))
        return -(log_joint + log_z_y.reshape(-1, self.num_data).logsumexp(0).sum())


@one_at_a_time
def nuts(
    bnn: BetaBernoulliNetwork,
    x: Nest,
    y: Tensor,
    *,
    num_samples: int = 1000,
    warmup_steps: int = 500,
    num_chains: int = 2,
    seed: int = 0,
    progress: bool = True,
) -> Any:
    """The posterior of W and π by NUTS, with the masks summed out exactly, for ArviZ.

    Nothing here is variational: W has a distribution, π_k of different units depend on each other, and z is 0 or 1.
    Chains start at uniform points in [-2, 2], π in log-odds.

    Args:
        bnn: the network; its parameters are left as they are.
        x: inputs `[N, ...]`, a tensor or a nest of them.
        y: what was observed there, `[N, ...]`.
        num_samples: draws of each chain, after warm-up; at least 4.
        warmup_steps: steps of adaptation.
        num_chains: how many, one after the other.
        seed: of starting points and draws; torch's global generator is left as it was.
        progress: Pyro's progress bar.

    Returns:
        What ArviZ works on, with a posterior group like that of :func:`bbpyro.to_arviz`, and the weights in it.

    Raises:
        TypeError: x is no tensor or nest of them, or y no tensor.
        ValueError: the network has more than 10 units, a gate is of another family, or under FixedRate or
            StickBreaking, which give no unit a density of its own, there are not `bnn.num_data` data, they do not fit
            the network, or a number is out of range.
    """
    check_steps(num_samples, warmup_steps, num_chains)
    potential = SummedOut(bnn, x, y)
    sizes = {
        **{name: w.shape for name, w in bnn.weights.items()},
        **{g: (m.num_features,) for g, m in bnn.gates.items()},
    }
    chains: list[dict[str, Tensor]] = []
    num_divergences = 0
    with torch.random.fork_rng(), pyro.validation_enabled(False), in_eval_mode(bnn), torch.enable_grad():
        torch.manual_seed(seed)
        for _ in range(num_chains):
            start = {name: torch.empty(shape, dtype=_dtype(bnn)).uniform_(-2, 2) for name, shape in sizes.items()}
            sampler = MCMC(
                NUTS(potential_fn=potential),
                num_samples=num_samples,
                warmup_steps=warmup_steps,
                initial_params=start,
                disable_progbar=not progress,
            )
            sampler.run()
            chains.append(sampler.get_samples())
            num_divergences += sum(len(found) for found in sampler.diagnostics()["divergences"].values())
    return container.make(
        {"posterior": _of_draws(bnn, chains)},
        {"inference_library": "pyro", "prior": repr(bnn.prior), "seed": seed, "num_divergences": num_divergences},
    )


def check_steps(num_samples: int, warmup_steps: int, num_chains: int) -> None:
    """Raise a ValueError that names the first of a sampler's numbers that is too small."""
    for name, number, least in (
        ("num_samples", num_samples, 4),
        ("warmup_steps", warmup_steps, 0),
        ("num_chains", num_chains, 1),
    ):
        if number < least:
            raise ValueError(f"{name} is {number}, wanted at least {least}")


def _dtype(bnn: BetaBernoulliNetwork) -> torch.dtype:
    return next(iter(bnn.gates.values())).like.dtype


def _of_draws(bnn: BetaBernoulliNetwork, chains: list[dict[str, Tensor]]) -> xr.Dataset:
    draws = {name: torch.stack([chain[name] for chain in chains]).cpu() for name in chains[0]}
    variables: dict[str, Any] = {
        f"{g}.pi": (("chain", "draw", f"{g}_unit"), torch.sigmoid(draws[g].double()).numpy()) for g in bnn.gates
    }
    for name in bnn.weights:
        dims = ("chain", "draw", *(f"{name}_dim_{i}" for i in range(draws[name].dim() - 2)))
        variables[name] = (dims, draws[name].numpy())
    num_chains, num_samples = next(iter(draws.values())).shape[:2]
    units = {f"{g}_unit": np.arange(gate.num_features) for g, gate in bnn.gates.items()}
    return xr.Dataset(variables, {"chain": np.arange(num_chains), "draw": np.arange(num_samples), **units})
