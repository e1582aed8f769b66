"""What the posterior predicts: y by its draws, y by the mean mask, and by the mean mask at other thresholds."""

import copy
import math
from typing import Any

import numpy as np
import torch
import xarray as xr
from rich.console import Console
from rich.progress import track
from torch import Tensor

from bbpyro import nests
from bbpyro.bars import is_drawn
from bbpyro.distributions import remember_log_odds
from bbpyro.drawing import Source, distribution_of_y, draw_weights, mean_network, mean_weights
from bbpyro.families import Gate
from bbpyro.layers import device_of
from bbpyro.likelihoods import expectation, is_classification
from bbpyro.model import BetaBernoulliNetwork
from bbpyro.nests import Nest
from bbpyro.smaller import Living, living_part
from bbpyro.training.handlers import held_out_score


def predictive_groups(
    sources: list[Source],
    log_odds: list[dict[str, Tensor]],
    x: Nest,
    y: Tensor | None,
    draws: Any,
    num_masks: int,
    batch_size: int,
    progress: bool | Console,
) -> list[dict[str, xr.Dataset]]:
    """For each chain posterior_predictive, with classes class_probability, and with y log_likelihood.

    Args:
        sources: of W, for each chain.
        log_odds: of draws of π `[S, K]`, by gate, for each chain.
        x: inputs `[N, ...]`, a tensor or a nest of them.
        y: what was observed there, if it was.
        draws: which of the S draws to predict by.
        num_masks: draws of z to average over within each.
        batch_size: data at once.
        progress: a bar, or the console to draw it on.
    """
    records = [
        _Record(source, x, draws, living_part(source.bnn, [_pi(odds, draws)], x, num_masks * len(draws)))
        for source, odds in zip(sources, log_odds, strict=True)
    ]
    num_data = nests.num_rows(x)
    num_repeats = max(1, batch_size // num_data)  # of the data, which fit in a batch
    at_once = max(1, num_repeats // num_masks) if all(source.is_point for source in sources) else 1
    chunks = [range(start, min(start + at_once, len(draws))) for start in range(0, len(draws), at_once)]
    steps = [(record, odds, chunk) for record, odds in zip(records, log_odds, strict=True) for chunk in chunks]
    console = progress if isinstance(progress, Console) else None
    for record, odds, chunk in track(
        steps, "predicting", console=console, disable=not is_drawn(progress), transient=True
    ):
        device = device_of(record.bnn)
        of_chunk, W = record.drawn({g: odds[g][draws[chunk]] for g in odds}, draws[chunk.start])
        for start in range(0, num_data, batch_size):
            batch = slice(start, start + batch_size)
            x_batch, y_batch = nests.to_device(nests.rows((x, y), batch), device)
            x_batch = record.small.read(x_batch) if record.small else x_batch
            network = record.small.bnn if record.small else record.bnn
            drawn = _draw(network, of_chunk, len(chunk), W, x_batch, y_batch, num_masks, num_repeats)
            record.add(chunk, batch, drawn)
    return [record.groups(batch_size) for record in records]


def _pi(log_odds: dict[str, Tensor], draws: Any) -> dict[str, Tensor]:
    return {g: torch.sigmoid(odds[draws]) for g, odds in log_odds.items()}


def _draw(
    bnn: BetaBernoulliNetwork,
    log_odds: dict[str, Tensor],
    num_draws: int,
    W: dict[str, Tensor],
    x: Nest,
    y: Tensor | None,
    num_masks: int,
    num_repeats: int,
) -> dict[str, Tensor]:
    """A y given W and each of S draws of π, `[S, N, ...]`.

    And, averaged over the masks, the probability of each class and of the y that was observed.
    """
    found: dict[str, list[Tensor]] = {"y": [], "class_probability": [], "log_likelihood": []}
    for num in torch.arange(num_masks).split(max(1, num_repeats // num_draws)):

        def by_draw(values: Tensor, num: int = len(num)) -> Tensor:
            return values.unflatten(0, (num_draws, num, -1))

        pi = {
            g: remember_log_odds(odds.repeat_interleave(len(num), 0), bnn.gates[g].like.dtype)
            for g, odds in log_odds.items()
        }
        distribution = distribution_of_y(bnn, x, pi, W, num_draws * len(num))
        if not found["y"]:
            found["y"].append(by_draw(distribution.sample())[:, 0])
        if is_classification(distribution):
            found["class_probability"].append(by_draw(distribution.probs))
        if y is not None:
            observed = y.repeat(num_draws * len(num), *[1] * (y.dim() - 1))
            found["log_likelihood"].append(by_draw(distribution.log_prob(observed)))
    result = {"y": found["y"][0]}
    if found["class_probability"]:
        result["class_probability"] = torch.cat(found["class_probability"], 1).mean(1)
    if y is not None:
        result["log_likelihood"] = torch.cat(found["log_likelihood"], 1).logsumexp(1) - math.log(num_masks)
    return result


def to_numpy(tensor: Tensor) -> Any:
    """An array of a tensor anywhere; NumPy has no bfloat16."""
    return (tensor.float() if tensor.dtype == torch.bfloat16 else tensor).detach().cpu().numpy()


class _Record:
    """Arrays for all draws and data of one chain, filled batch by batch."""

    def __init__(self, source: Source, x: Nest, draws: Any, small: Living | None) -> None:
        self.source, self.bnn, self.x, self.draws, self.small = source, source.bnn, x, draws, small
        self.num_data = nests.num_rows(x)
        self.each: dict[str, Any] = {}  # of every draw
        self.class_probability: Any = None  # of all draws together

    def drawn(self, log_odds: dict[str, Tensor], s: int) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """Draws of π, and W of the s-th, for the network that is predicted by."""
        if self.small is None:
            return log_odds, self.source.weights(s)
        W = draw_weights(self.small.bnn) if self.source.is_point else self.small.of_weights(self.source.weights(s))
        return self.small.of_units(log_odds), W

    def add(self, chunk: range, batch: slice, drawn: dict[str, Tensor]) -> None:
        values = {name: to_numpy(tensor) for name, tensor in drawn.items()}
        probability = values.pop("class_probability", None)
        if probability is not None:
            if self.class_probability is None:
                self.class_probability = np.zeros((self.num_data, probability.shape[2]))
            self.class_probability[batch] += probability.sum(0) / len(self.draws)
            values["y"] = values["y"].astype(np.min_scalar_type(-probability.shape[2]))  # ten classes fit a byte
        for name, value in values.items():
            if name not in self.each:
                self.each[name] = np.empty((len(self.draws), self.num_data, *value.shape[2:]), value.dtype)
            self.each[name][chunk.start : chunk.stop, batch] = value

    def groups(self, batch_size: int) -> dict[str, xr.Dataset]:
        datum = {"datum": np.arange(self.num_data)}
        y = self.each["y"]
        dims = ("draw", "datum", *(f"y_dim_{i}" for i in range(y.ndim - 2)))
        groups = {"posterior_predictive": xr.Dataset({"y": (dims, y)}, {"draw": self.draws, **datum})}
        if "log_likelihood" in self.each:
            log_likelihood = ("draw", "datum"), self.each["log_likelihood"]
            groups["log_likelihood"] = xr.Dataset({"y": log_likelihood}, {"draw": self.draws, **datum})
        if self.class_probability is not None:
            mean, device = mean_network(self.bnn, self.source.guide, self.x), device_of(self.bnn)
            batches = (nests.to_device(batch, device) for batch in nests.split(self.x, batch_size))
            distributions = (self.bnn.likelihood(mean(batch)) for batch in batches)
            by_mean = np.concatenate([to_numpy(expectation(distribution)) for distribution in distributions])
            by = {"mean_mask": by_mean, "monte_carlo": self.class_probability.astype(np.float32)}
            groups["class_probability"] = xr.Dataset(
                {name: (("datum", "class"), probability) for name, probability in by.items()},
                {**datum, "class": np.arange(by_mean.shape[1])},
            )
        return groups


NUM_THRESHOLDS = 33


def sweep_thresholds(source: Source, x: Nest, y: Tensor, batch_size: int) -> xr.Dataset:
    """The units kept, and the mean mask's NLL and error on x, y, at thresholds evenly spaced in log-odds.

    The network itself is left as it is. Gates of another family than Beta-Bernoulli dropout keep their own threshold.
    """
    thresholds = torch.sigmoid(torch.linspace(math.log(1e-5), -math.log(1e-2), NUM_THRESHOLDS)).tolist()
    bnn = source.bnn
    net = copy.deepcopy(bnn.net).eval()
    if source.guide is not None:
        net.load_state_dict(mean_weights(bnn, source.guide, x), strict=False)
    gates = {name: module for name, module in net.named_modules() if isinstance(module, Gate)}
    with_pi, _ = bnn.gates_by_family
    kept: list[dict[str, int]] = []
    scores: list[dict[str, float]] = []
    for threshold in thresholds:
        for name in with_pi:
            gates[name].threshold = threshold
        kept.append({name: int(gate.kept().sum()) for name, gate in gates.items()})
        same = scores and kept[-1] == kept[-2]
        scores.append(scores[-1] if same else held_out_score(net, bnn.likelihood, (x, y), batch_size))
    variables: dict[str, Any] = {f"{name}.kept": ("threshold", [k[name] for k in kept]) for name in gates}
    variables["nll"] = ("threshold", [score["held_out_nll"] for score in scores])
    if "held_out_accuracy" in scores[0]:
        variables["error"] = ("threshold", [1 - score["held_out_accuracy"] for score in scores])
    return xr.Dataset(variables, {"threshold": thresholds})
