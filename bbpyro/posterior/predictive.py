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

from bbpyro.distributions import remember_log_odds
from bbpyro.layers import BetaBernoulliDropout, device_of
from bbpyro.likelihoods import is_classification
from bbpyro.model import BetaBernoulliNetwork
from bbpyro.prediction import draw_weights, draw_y, predict
from bbpyro.training.handlers import held_out_score


def predictive_groups(
    chains: list[BetaBernoulliNetwork],
    log_odds: list[dict[str, Tensor]],
    x: Tensor,
    y: Tensor | None,
    draws: Any,
    num_masks: int,
    batch_size: int,
    progress: bool | Console,
) -> list[dict[str, xr.Dataset]]:
    """For each chain posterior_predictive, with classes class_probability, and with y log_likelihood.

    Args:
        chains: the networks.
        log_odds: of draws of π `[S, K]`, by gate, for each chain.
        x: inputs `[N, ...]`.
        y: what was observed there, if it was.
        draws: which of the S draws to predict by.
        num_masks: draws of z to average over within each.
        batch_size: data at once.
        progress: a bar, or the console to draw it on.
    """
    records = [_Record(bnn, x, draws) for bnn in chains]
    steps = [(record, odds, s) for record, odds in zip(records, log_odds, strict=True) for s in range(len(draws))]
    console = progress if isinstance(progress, Console) else None
    for record, odds, s in track(steps, "predicting", console=console, disable=not progress, transient=True):
        gates = record.bnn.gates
        pi = {g: remember_log_odds(odds[g][draws[s]], gates[g].unconstrained_concentration1.dtype) for g in odds}
        W = draw_weights(record.bnn)
        for start in range(0, len(x), batch_size):
            batch = slice(start, start + batch_size)
            x_batch, y_batch = (None if data is None else data[batch].to(device_of(record.bnn)) for data in (x, y))
            assert x_batch is not None
            record.add(s, batch, _draw(record.bnn, pi, W, x_batch, y_batch, num_masks))
    return [record.groups(batch_size) for record in records]


def _draw(
    bnn: BetaBernoulliNetwork,
    pi: dict[str, Tensor],
    W: dict[str, Tensor],
    x: Tensor,
    y: Tensor | None,
    num_masks: int,
) -> dict[str, Tensor]:
    """A y given π and W; and, averaged over the masks, the probability of each class and of the y that was observed."""
    drawn = [draw_y(bnn, x, pi, W) for _ in range(num_masks)]
    result = {"y": drawn[0][1]}
    if is_classification(drawn[0][0]):
        result["class_probability"] = torch.stack([distribution.probs for distribution, _ in drawn]).mean(0)
    if y is not None:
        log_prob = torch.stack([distribution.log_prob(y) for distribution, _ in drawn])
        result["log_likelihood"] = log_prob.logsumexp(0) - math.log(num_masks)
    return result


def to_numpy(tensor: Tensor) -> Any:
    """An array of a tensor anywhere; NumPy has no bfloat16."""
    return (tensor.float() if tensor.dtype == torch.bfloat16 else tensor).detach().cpu().numpy()


class _Record:
    """Arrays for all draws and data of one chain, filled batch by batch."""

    def __init__(self, bnn: BetaBernoulliNetwork, x: Tensor, draws: Any) -> None:
        self.bnn, self.x, self.draws = bnn, x, draws
        self.each: dict[str, Any] = {}  # of every draw
        self.class_probability: Any = None  # of all draws together

    def add(self, s: int, batch: slice, drawn: dict[str, Tensor]) -> None:
        values = {name: to_numpy(tensor) for name, tensor in drawn.items()}
        probability = values.pop("class_probability", None)
        if probability is not None:
            if self.class_probability is None:
                self.class_probability = np.zeros((len(self.x), probability.shape[1]))
            self.class_probability[batch] += probability / len(self.draws)
            values["y"] = values["y"].astype(np.min_scalar_type(-probability.shape[1]))  # ten classes fit a byte
        for name, value in values.items():
            if name not in self.each:
                self.each[name] = np.empty((len(self.draws), len(self.x), *value.shape[1:]), value.dtype)
            self.each[name][s, batch] = value

    def groups(self, batch_size: int) -> dict[str, xr.Dataset]:
        datum = {"datum": np.arange(len(self.x))}
        y = self.each["y"]
        dims = ("draw", "datum", *(f"y_dim_{i}" for i in range(y.ndim - 2)))
        groups = {"posterior_predictive": xr.Dataset({"y": (dims, y)}, {"draw": self.draws, **datum})}
        if "log_likelihood" in self.each:
            log_likelihood = ("draw", "datum"), self.each["log_likelihood"]
            groups["log_likelihood"] = xr.Dataset({"y": log_likelihood}, {"draw": self.draws, **datum})
        if self.class_probability is not None:
            by_mean = to_numpy(predict(self.bnn, self.x, None, batch_size))
            by = {"mean_mask": by_mean, "monte_carlo": self.class_probability.astype(np.float32)}
            groups["class_probability"] = xr.Dataset(
                {name: (("datum", "class"), probability) for name, probability in by.items()},
                {**datum, "class": np.arange(by_mean.shape[1])},
            )
        return groups


NUM_THRESHOLDS = 33


def sweep_thresholds(bnn: BetaBernoulliNetwork, x: Tensor, y: Tensor, batch_size: int) -> xr.Dataset:
    """The units kept, and the mean mask's NLL and error on x, y, at thresholds evenly spaced in log-odds.

    The network itself is left as it is.
    """
    thresholds = torch.sigmoid(torch.linspace(math.log(1e-5), -math.log(1e-2), NUM_THRESHOLDS)).tolist()
    net = copy.deepcopy(bnn.net).eval()
    gates = {name: module for name, module in net.named_modules() if isinstance(module, BetaBernoulliDropout)}
    kept: list[dict[str, int]] = []
    scores: list[dict[str, float]] = []
    for threshold in thresholds:
        for gate in gates.values():
            gate.threshold = threshold
        kept.append({name: int(gate.kept().sum()) for name, gate in gates.items()})
        same = scores and kept[-1] == kept[-2]
        scores.append(scores[-1] if same else held_out_score(net, bnn.likelihood, (x, y), batch_size))
    variables: dict[str, Any] = {f"{name}.kept": ("threshold", [k[name] for k in kept]) for name in gates}
    variables["nll"] = ("threshold", [score["held_out_nll"] for score in scores])
    if "held_out_accuracy" in scores[0]:
        variables["error"] = ("threshold", [1 - score["held_out_accuracy"] for score in scores])
    return xr.Dataset(variables, {"threshold": thresholds})
