"""What a prediction is made by: draws of W and π from the posterior, and the network under them."""

from collections.abc import Callable, Mapping
from typing import Any

import pyro
import pyro.poutine as poutine
import torch
from pyro.poutine.messenger import Messenger
from torch import Tensor
from torch.func import functional_call

from bbpyro import nests
from bbpyro.distributions import log_odds, remember_log_odds, remembered_log_odds
from bbpyro.layers import device_of
from bbpyro.model import BetaBernoulliNetwork
from bbpyro.nests import Nest
from bbpyro.warn import warn

Guide = Callable[..., Any]

_NUM_DRAWS_OF_A_MEAN = 100


def check_guide(bnn: BetaBernoulliNetwork, guide: Guide | None) -> None:
    """Raise a TypeError unless `guide` can be called; warn where there is none and W itself was never trained."""
    if guide is not None and not callable(guide):
        raise TypeError(f"guide is a {type(guide).__name__}, wanted a callable with the model's arguments, (x, y=None)")
    if guide is None and bnn.has_untrained_weights:
        warn(
            "the gates were trained but the network's own W never was; give the guide that W was trained with, guide=",
        )


def num_draws_at_once(bnn: BetaBernoulliNetwork, guide: Guide | None, num_data: int, batch_size: int) -> int:
    """How many draws of π, all with the same W, predict so few data in one forward pass."""
    return max(1, batch_size // num_data) if is_point(bnn, guide) else 1


def is_point(bnn: BetaBernoulliNetwork, guide: Guide | None) -> bool:
    """Whether W is the same in every draw."""
    return guide is None and bnn.weight_guide == "delta"


def draw_weights(bnn: BetaBernoulliNetwork) -> dict[str, Tensor]:
    """One W of q(W), by name."""
    return {name: bnn.weight_posterior(name).sample() for name in bnn.weights}


def draw(
    bnn: BetaBernoulliNetwork, num_draws: int, guide: Guide | None, x: Nest
) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Draws of π of each gate that has it, `[S, K]`, or `[K]` if S is 1, and one W, by name."""
    pi = draw_pi(bnn, num_draws)
    if guide is None:
        return pi, draw_weights(bnn)
    sites = {name: node["value"] for name, node in _sites(bnn, guide, x).items()}
    return {g: sites.get(f"{g}.pi", value) for g, value in pi.items()}, {name: sites[name] for name in bnn.weights}


def draw_pi(bnn: BetaBernoulliNetwork, num_draws: int) -> dict[str, Tensor]:
    """Draws of π of each gate that has it, `[S, K]`, or `[K]` if S is 1."""
    shape = torch.Size([num_draws] if num_draws > 1 else [])
    return {g: gate.posterior().rsample(shape) for g, gate in bnn.gates_by_family[0].items()}


class Source:
    """Where the draws of W and π of a chain come from: its own q, or a guide of the user's.

    The s-th draw of a guide follows from (seed, s) alone, so that π, which is kept, and W, which is too large for that,
    are of one draw.
    """

    def __init__(self, bnn: BetaBernoulliNetwork, guide: Guide | None, x: Nest | None, seed: int) -> None:
        self.bnn, self.guide, self.x, self.seed = bnn, guide, x, seed
        self.is_point = is_point(bnn, guide)

    def log_odds(self, num_samples: int) -> dict[str, Tensor]:
        """Exact log-odds of π `[S, K]` by gate, float64."""
        in_guide = () if self.guide is None else self._draw(0)
        gates, _ = self.bnn.gates_by_family
        odds = {
            g: log_odds(gate.posterior().rsample(torch.Size([num_samples]))).double()
            for g, gate in gates.items()
            if f"{g}.pi" not in in_guide
        }
        of_guide = [g for g in gates if g not in odds]
        if of_guide:
            draws = [self._draw(s) for s in range(num_samples)]
            odds |= {g: torch.stack([log_odds(draw[f"{g}.pi"]).double() for draw in draws]) for g in of_guide}
        return {g: odds[g] for g in gates}

    def weights(self, s: int) -> dict[str, Tensor]:
        """W of the s-th draw, by name."""
        if self.guide is None:
            return draw_weights(self.bnn)
        draw = self._draw(s)
        return {name: draw[name] for name in self.bnn.weights}

    def _draw(self, s: int) -> dict[str, Tensor]:
        assert self.guide is not None and self.x is not None
        with torch.random.fork_rng():
            torch.manual_seed((self.seed + int(s)) % 2**63)
            return {name: node["value"] for name, node in _sites(self.bnn, self.guide, self.x).items()}


def _sites(bnn: BetaBernoulliNetwork, guide: Guide, x: Nest) -> dict[str, Any]:
    """What the guide draws of W and π, by name.

    Raises:
        ValueError: it lacks a weight.
    """
    nodes = poutine.trace(guide).get_trace(_first_datum(bnn, x)).nodes
    missing = [name for name in bnn.weights if name not in nodes]
    if missing:
        raise ValueError(f"guide: it has no site {', '.join(map(repr, missing))}; wanted one for every weight of bnn")
    wanted = [*bnn.weights, *(f"{g}.pi" for g in bnn.gates)]
    return {name: nodes[name] for name in wanted if name in nodes}


def _first_datum(bnn: BetaBernoulliNetwork, x: Nest) -> Nest:
    return nests.to_device(nests.rows(x, slice(1)), device_of(bnn))


class _Likelihood(Messenger):
    """An effect handler that keeps the distribution of y, and spares the draw of it."""

    distribution: Any = None

    def _pyro_sample(self, msg: Any) -> None:
        if msg["name"] == "y":
            self.distribution, msg["done"] = msg["fn"], True
            msg["value"] = torch.empty(0)  # Pyro wants some value; nobody reads it


def distribution_of_y(
    bnn: BetaBernoulliNetwork, x: Nest, pi: Mapping[str, Tensor], W: Mapping[str, Tensor], num_draws: int = 1
) -> Any:
    """The distribution of y given W, π of each gate that has it, and a draw of the masks of each datum.

    Args:
        bnn: the network.
        x: inputs `[N, ...]`, on its device.
        pi: by gate, `[K]`, or `[S, K]`, of which there are several where there are several draws.
        W: by name.
        num_draws: S; where there are several the data are taken S times, and y has batch shape `[S·N]`, draw by draw.
    """
    num_data = nests.num_rows(x)
    pi = {g: _for_each(num_data, value) if value.dim() == 2 else value for g, value in pi.items()}
    x = nests.repeat(x, num_draws) if num_draws > 1 else x
    known = {**W, **{f"{g}.pi": value for g, value in pi.items()}, **_other_masks(bnn, x)}
    with _Likelihood() as y:
        poutine.condition(bnn.model, data=known)(x)
    return y.distribution


def _other_masks(bnn: BetaBernoulliNetwork, x: Nest) -> dict[str, Tensor]:
    """What the guides of gates of other families draw for these data, by the name of the site."""
    _, others = bnn.gates_by_family
    if not others:
        return {}
    with poutine.trace() as drawn:
        data = pyro.plate("data", bnn.num_data, subsample=nests.first(x))
        for name, gate in others.items():
            gate.guide(name, data)
    sites: Any = drawn.trace.nodes
    return {site: node["value"] for site, node in sites.items() if node["type"] == "sample" and site != "data"}


def _for_each(num_data: int, pi: Tensor) -> Tensor:
    """Draws `[S, K]` for each datum, `[S·N, K]`, which remember what they did."""
    exact = remembered_log_odds(pi)
    if exact is None:
        return pi.repeat_interleave(num_data, 0)
    return remember_log_odds(exact.repeat_interleave(num_data, 0), pi.dtype)


def mean_network(bnn: BetaBernoulliNetwork, guide: Guide | None, x: Nest) -> Callable[[Nest], Any]:
    """The network by the mean mask; of a guide, by the mean of its W, and its π where it has them."""
    if guide is None:
        return bnn
    known = _means(bnn, guide, x)
    for g, gate in bnn.gates_by_family[0].items():
        mean = known.pop(f"{g}.pi", None)
        if mean is not None:
            known[f"{g}.z"] = torch.where(mean > gate.threshold, mean, 0.0)
    return lambda x: functional_call(bnn.net, known, *nests.arguments(bnn.net, x))


def mean_weights(bnn: BetaBernoulliNetwork, guide: Guide, x: Nest) -> dict[str, Tensor]:
    """The mean of W under a guide, by name; of Pyro's autoguides the median."""
    means = _means(bnn, guide, x)
    return {name: means[name] for name in bnn.weights}


def _means(bnn: BetaBernoulliNetwork, guide: Any, x: Nest) -> dict[str, Tensor]:
    """What stands for W, and for those π that the guide has."""
    sites = _sites(bnn, guide, x)
    # A Delta, as autoguides hand their draws on, has the draw for its mean.
    means = {n: node["fn"].mean for n, node in sites.items() if "Delta" not in type(node["fn"]).__name__}
    if hasattr(guide, "median"):
        medians = guide.median(_first_datum(bnn, x))
        means |= {name: medians[name] for name in bnn.weights if name in medians}
    unknown = [name for name in sites if name not in means]
    for _ in range(_NUM_DRAWS_OF_A_MEAN if unknown else 0):
        drawn = _sites(bnn, guide, x)
        for name in unknown:
            means[name] = means.get(name, 0) + drawn[name]["value"] / _NUM_DRAWS_OF_A_MEAN
    return {name: mean.detach() for name, mean in means.items()}
