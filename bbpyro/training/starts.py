"""Several starts of one training, of which the one with the highest ELBO is kept.

The ELBO of a gated network has many optima, and where a training begins decides in which of them it ends. Of a small
table a network that was pretrained for long knows much of the noise by heart, and its gates keep the inputs that this
came from; one that was pretrained for short may not know yet what is hard to learn, and its gates let go of it. Which
of the two a table wants, held-out data do not tell beforehand. The ELBO does afterwards: both ends are posteriors of
one model, of the same data (docs/feature_selection.md).
"""

import math
import warnings
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from torch import Tensor

from bbpyro import processes
from bbpyro.model import BetaBernoulliNetwork
from bbpyro.nests import Nest
from bbpyro.training.epochs import TrainingState
from bbpyro.training.inference import fit
from bbpyro.training.judging import FitWarning, Judge


def fit_best(
    bnns: Iterable[BetaBernoulliNetwork], x: Nest, y: Tensor, **settings: Any
) -> tuple[BetaBernoulliNetwork, list[dict[str, Any]]]:
    """Fit each of several networks, and keep the one with the highest ELBO.

    They should be of one model and differ in where they begin: in their weights, by another length of
    :func:`bbpyro.pretrain` or another seed, or in their gates' E[π]. ELBOs of other priors, or of other networks, say
    nothing of each other's quality.

    Args:
        bnns: the networks, each with modules, and a likelihood, of its own; of a generator each is made when it is its
            turn.
        x: inputs `[N, ...]`.
        y: what was observed there.
        settings: all else that :func:`bbpyro.fit` takes, but for `resume_from`.

    Returns:
        The network with the least :func:`final_loss`, and its records. It is judged against the best of all starts: a
        FitWarning says where it ends clearly worse than that.

    Raises:
        ValueError: there is no network; or as :func:`bbpyro.fit`.
    """
    found: list[tuple[float, BetaBernoulliNetwork, list[dict[str, Any]]]] = []
    starts: list[Mapping[str, Tensor]] = []
    on_epoch = settings.pop("on_epoch", None)

    def after_epoch(state: TrainingState) -> None:
        starts[len(found) :] = [state.start]
        if on_epoch:
            on_epoch(state)

    for bnn in bnns:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FitWarning)
            history = fit(bnn, x, y, on_epoch=after_epoch, **settings)
        found.append((final_loss(history), bnn, history))
    if not found:
        raise ValueError("bnns is empty, wanted a network for each start")
    _, bnn, history = min(found, key=lambda each: each[0])
    judge = Judge(bnn, x, y, settings.get("held_out"), settings.get("batch_size", 100))
    verdict = judge.verdict(best_start(starts))
    if verdict and processes.is_first():
        warnings.warn(verdict, FitWarning, stacklevel=2)
    return bnn, history


def final_loss(history: Sequence[Mapping[str, Any]]) -> float:
    """-ELBO/N, the mean of the last twentieth of the epochs, each of which has noise of its own."""
    last = history[-math.ceil(len(history) / 20) :]
    return sum(record["loss"] for record in last) / len(last)


def best_start(starts: Sequence[Mapping[str, Tensor]]) -> dict[str, Tensor]:
    """Of the scores that networks began with, those of the best."""
    return dict(min(starts, key=lambda start: start["nll"].mean().item()))
