"""Several starts of one training, of which the one with the highest ELBO is kept.

The ELBO of a gated network has many optima, and where a training begins decides in which of them it ends. Of a small
table a network that was pretrained for long knows much of the noise by heart, and its gates keep the inputs that this
came from; one that was pretrained for short may not know yet what is hard to learn, and its gates let go of it. Which
of the two a table wants, held-out data do not tell beforehand. The ELBO does afterwards: both ends are posteriors of
one model, of the same data (docs/feature_selection.md). It can be wrong where W is a point, which costs it nothing for
what it knows by heart: of one table of 24 there, linear-1000 of one seed of four, it preferred the noise.
"""

import math
import warnings
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from torch import Tensor, nn

from bbpyro import processes
from bbpyro.checks import check_is
from bbpyro.model import BetaBernoulliNetwork
from bbpyro.nests import Nest
from bbpyro.training.epochs import NonFiniteLossError, TrainingState
from bbpyro.training.inference import _what_may_help, fit
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
        TypeError: `bnns` is no list or generator of BetaBernoulliNetworks.
        ValueError: there is no network, two share a parameter, or there is a `resume_from`; or as :func:`bbpyro.fit`.
        NonFiniteLossError: the loss of all became nan or infinite. A network of which that is so is left out.
    """
    if not isinstance(bnns, Iterable) or isinstance(bnns, nn.Module):
        raise TypeError(f"bnns is a {type(bnns).__name__}, wanted a list or generator of BetaBernoulliNetworks")
    if settings.get("resume_from") is not None:
        raise ValueError("resume_from is the state of one network, and here are several; bbpyro.fit goes on with it")
    found: list[tuple[float, BetaBernoulliNetwork, list[dict[str, Any]]]] = []
    starts: list[Mapping[str, Tensor]] = []
    failed: list[NonFiniteLossError] = []
    seen: set[int] = set()
    on_epoch = settings.pop("on_epoch", None)

    def after_epoch(state: TrainingState) -> None:
        starts[len(found) :] = [state.start]
        if on_epoch:
            on_epoch(state)

    kept = []  # for an id is that of one tensor only while it lives
    for bnn in bnns:
        check_is("bnns", bnn, BetaBernoulliNetwork)
        if seen & {id(parameter) for parameter in bnn.parameters()}:
            raise ValueError(
                "bnns: two of the networks share a parameter; give each a network and likelihood of its own"
            )
        kept.append(bnn)
        seen |= {id(parameter) for parameter in bnn.parameters()}
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", FitWarning)  # the one that is kept is judged below
                history = fit(bnn, x, y, on_epoch=after_epoch, **settings)
        except NonFiniteLossError as error:
            failed.append(error)
            continue
        found.append((final_loss(history), bnn, history))
    if not found:
        raise failed[0] if failed else ValueError("bnns is empty, wanted a network for each start")
    _, bnn, history = min(found, key=lambda each: each[0])
    batch_size, held_out = settings.get("batch_size", 100), settings.get("held_out")
    verdict = Judge(bnn, x, y, held_out, batch_size).verdict(best_start(starts[: len(found)]))
    if verdict and processes.is_first():
        helps = _what_may_help(bnn, y, batch_size, len(history), settings.get("kl_start", 0.0), held_out)
        warnings.warn(f"{verdict}. {helps}", FitWarning, stacklevel=2)
    return bnn, history


def final_loss(history: Sequence[Mapping[str, Any]]) -> float:
    """-ELBO/N, the mean of the last twentieth of the epochs, each of which has noise of its own."""
    last = history[-math.ceil(len(history) / 20) :]
    return sum(record["loss"] for record in last) / len(last)


def best_start(starts: Sequence[Mapping[str, Tensor]]) -> dict[str, Tensor]:
    """Of the scores that networks began with, those of the best."""
    return dict(min(starts, key=lambda start: start["nll"].mean().item()))
