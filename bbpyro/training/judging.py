"""Whether a fit has ended clearly worse than it began: one rule, for what fit() warns of and what the command prints.

Held against each other are the plain network that training starts from, which is the gated one with all units on, and
the mean mask at the end, on the same data: those held out, if fit() was given some, else those of training. At most
2,000 of them are looked at. The end is clearly worse where one of these holds:

- it is no better than one answer for every input: of labels, it is right no more often than the most frequent one, and
  of numbers, E[y] is no nearer to y than their mean. That the start was no better either is no excuse where more than
  half of a layer's units have gone (and, of labels, -log p(y) is that of their shares), nor where all have;
- on held-out data: of labels, the loss, -log p(y), is worse by more than 5%, and by more than a thousandth of their
  entropy, for 5% of next to nothing are nothing. Of numbers, the squared error of E[y] is, with y's variance for the
  entropy; or the loss, which has no zero, is worse by the log(1.05) / 2 nats that 5% more squared error cost;
- on training data, of which a plain network may know too much: of what the start explains (of the labels' entropy, of
  the variance of y) more than a quarter is lost. Of numbers without a mean, the loss is worse by what a third more
  squared error costs.

What is worse is so by more than two standard errors of the mean difference.
"""

import math
from dataclasses import dataclass
from typing import Any

import pyro
import pyro.poutine as poutine
import torch
from torch import Tensor
from torch.func import functional_call

from bbpyro import likelihoods, nests
from bbpyro.checks import in_eval_mode
from bbpyro.denormals import flushed
from bbpyro.layers import device_of
from bbpyro.model import BetaBernoulliNetwork
from bbpyro.nests import Nest
from bbpyro.training.budget import Budget

NUM_JUDGED = 2000
WORSE = 1.05  # times the loss
LOST = 0.25  # of what was explained
NOTHING = 0.01  # of what there is to explain
TRIFLE = 0.001  # of the same
_NUM_NAMED = 5  # layers


class FitWarning(UserWarning):
    """The gated network ends clearly worse than it began; see :mod:`bbpyro.training.judging`."""


@dataclass(frozen=True)
class _Scores:
    """How good answers are, by datum `[N]`: -log p(y), and wrong labels, 0 or 1, or squared errors of E[y]."""

    nll: Tensor
    miss: Tensor
    are_labels: bool = True

    @property
    def rate(self) -> float:
        """The share of wrong labels, or the mean squared error; nan where y has no mean."""
        return self.miss.mean().item()

    def explained(self, chance: "_Scores") -> float:
        """Of what one answer for every input leaves open, how much these answers tell."""
        ours, theirs = self.loss.mean(), chance.loss.mean()
        return (1 - ours / theirs).item() if theirs > 0 else math.nan

    def tells_more_than(self, chance: "_Scores") -> bool:
        """Whether these answers tell something, beyond the noise: by what they explain, or by labels that are right."""
        missed, gained = chance.miss - self.miss, chance.loss - self.loss
        return _is_above(missed, 0.0 if self.are_labels else math.inf) or (
            _is_above(gained, 0.0) and self.explained(chance) > 2 * NOTHING
        )

    @property
    def loss(self) -> Tensor:
        """What has a zero: -log p(y) of labels, the squared error of numbers."""
        return self.nll if self.are_labels else self.miss

    def told(self) -> str:
        """In words."""
        what = f"{self.rate:.2%} wrong" if self.are_labels else f"RMSE {math.sqrt(self.rate):.4g}"
        return f"NLL {self.nll.mean().item():.4f}" + ("" if math.isnan(self.rate) else f" ({what})")


class Judge:
    """Scores a network at the start and at the end of its training.

    Args:
        bnn: the network.
        x: inputs of training.
        y: what was observed there.
        held_out: other inputs and labels, by which it is judged if there are any.
        batch_size: data looked at once.
    """

    def __init__(
        self, bnn: BetaBernoulliNetwork, x: Nest, y: Tensor, held_out: tuple[Nest, Tensor] | None, batch_size: int
    ) -> None:
        self._bnn, self._batch_size, self._is_held_out = bnn, batch_size, held_out is not None
        x, y = held_out or (x, y)
        every = torch.arange(0, len(y), math.ceil(len(y) / NUM_JUDGED), device="cpu")
        self._data = nests.rows((x, y), every)
        self._numbers = y[0].numel()  # in a y

    def start(self) -> dict[str, Tensor]:
        """The scores of the plain network, all units on, for a :class:`TrainingState` to keep.

        Of gates that were trained before, those of the mean mask, if that is better.
        """
        gates = self._bnn.gates.items()
        ones = {f"{name}.z": torch.ones_like(gate.like) for name, gate in gates}
        found = min((self._score(masks)[0] for masks in (ones, {})), key=lambda scores: scores.nll.mean().item())
        return {"nll": found.nll, "miss": found.miss, "kept": self._kept()}

    def verdict(self, start: dict[str, Tensor]) -> str | None:
        """What is to be said of the network as it is now, where it is clearly worse than at the start.

        Args:
            start: what :meth:`start` returned; nothing, where that is not known.
        """
        end, chance = self._score({})
        began = _Scores(start["nll"].to(end.nll), start["miss"].to(end.miss), end.are_labels) if start else None
        was_kept = start.get("kept", torch.tensor([gate.num_features for gate in self._bnn.gates.values()]))
        has_lost = bool((2 * self._kept() < was_kept).any())
        what = self._is_of_no_use(end, began, chance, has_lost) or (began and self._is_worse(end, began, chance))
        if not what:
            return None
        before = f", {began.told()} at the start" if began else ""
        of = "held-out" if self._is_held_out else "training"
        return f"{what}: on {of} data {end.told()} by the mean mask{before}. {self._left()}"

    def _kept(self) -> Tensor:
        """How many units are left, by gate."""
        return torch.tensor([int(gate.kept().sum()) for gate in self._bnn.gates.values()])

    def _is_of_no_use(self, end: _Scores, start: _Scores | None, chance: _Scores, has_lost: bool) -> str | None:
        share, has_told = end.explained(chance), bool(start and start.tells_more_than(chance))
        if end.are_labels:
            fell = has_told and bool(start and start.rate < chance.rate)
            if end.rate >= chance.rate and (fell or (has_lost and share <= NOTHING)):
                return "the network is right no more often than the most frequent class"
        elif share <= NOTHING and (has_told or has_lost):
            return "the network is no better than the mean of y"
        return "a layer has no unit left" if has_lost and not bool(self._kept().all()) else None

    def _is_worse(self, end: _Scores, start: _Scores, chance: _Scores) -> str | None:
        has_mean = not math.isnan(start.rate)
        if has_mean and not start.tells_more_than(chance):
            return None  # a network that knew nothing has nothing to lose
        if self._is_held_out:
            least = max((WORSE - 1) * start.loss.mean().item(), TRIFLE * chance.loss.mean().item())
            is_worse = _is_above(end.loss - start.loss, least)
            if not end.are_labels:
                is_worse |= _is_above(end.nll - start.nll, self._numbers * math.log(WORSE) / 2)
        elif has_mean:
            has_lost = end.explained(chance) < (1 - LOST) * start.explained(chance)
            is_worse = has_lost and _is_above(end.loss - start.loss, 0.0)
        else:
            is_worse = _is_above(end.nll - start.nll, -self._numbers * math.log(1 - LOST) / 2)
        return "the network ends clearly worse than it began" if is_worse else None

    def _left(self) -> str:
        """Where the fewest units are left."""
        counts = {name: (int(gate.kept().sum()), gate.num_features) for name, gate in self._bnn.gates.items()}
        fewest = sorted((pair for pair in counts.items() if pair[1][0] < pair[1][1]), key=lambda pair: pair[1])
        if not fewest:
            return "All units are left"
        told = dict(fewest[:_NUM_NAMED])
        named = [
            f"{kept} of {total} on {name.removesuffix('gate').removesuffix('.') or 'the network'}"
            for name, (kept, total) in counts.items()
            if name in told
        ]
        others = f", and more on {len(fewest) - _NUM_NAMED} other layers" if len(fewest) > _NUM_NAMED else ""
        return f"Units left: {', '.join(named)}{others}"

    @torch.no_grad()
    @flushed()
    def _score(self, masks: dict[str, Tensor]) -> tuple[_Scores, _Scores]:
        """Of the network under these masks, by default the mean ones, and of one answer for every input."""
        bnn, parts, kind = self._bnn, [], ""
        with in_eval_mode(bnn), poutine.block(), pyro.validation_enabled(False), torch.random.fork_rng():
            torch.manual_seed(0)  # where a network or likelihood draws, it draws the same at the start and at the end
            for batch in nests.split(self._data, self._batch_size):
                x, y = nests.to_device(batch, device_of(bnn))
                distribution: Any = bnn.likelihood(functional_call(bnn.net, masks, *nests.arguments(bnn.net, x)))
                kind = likelihoods.kind(distribution)
                parts.append((-distribution.log_prob(y), *_missed(distribution, y, kind)))
        nll, missed, seen = (torch.cat(part) for part in zip(*parts, strict=True))
        both = (nll, missed), _of_one_answer(seen, kind)
        ours, theirs = (_Scores(_flat(p).sum(1), _flat(m).mean(1), kind != "numbers") for p, m in both)
        return ours, theirs


def _missed(distribution: Any, y: Tensor, kind: str) -> tuple[Tensor, Tensor]:
    """Wrong labels or squared errors, and y as numbers, of classes as labels."""
    try:
        expected = likelihoods.expectation(distribution)
    except ValueError:  # y has no mean
        return torch.full_like(y, math.nan), y.double()
    if kind == "classes":
        labels = y if y.dim() == expected.dim() - 1 else y.argmax(-1)
        return (expected.argmax(-1) != labels).to(expected), labels.long()
    if kind == "binary":
        y = y.to(expected)
        return ((expected > 0.5) != (y > 0.5)).to(expected), y
    return (expected.double() - y.double()).square(), y.double()  # which float32 may not hold


def _of_one_answer(y: Tensor, kind: str) -> tuple[Tensor, Tensor]:
    """-log p(y) and misses of the answer that is best if it is to be the same for every input."""
    if kind == "numbers":
        return torch.full_like(y, math.nan), (y - y.mean(0)).square()
    if kind == "binary":
        p = y.mean(0)
        return -torch.xlogy(y, p) - torch.xlogy(1 - y, 1 - p), ((p > 0.5) != (y > 0.5)).to(p)
    ones = torch.ones_like(y, dtype=torch.get_default_dtype()).flatten()
    shares = ones.new_zeros(int(y.max()) + 1).index_add_(0, y.flatten(), ones) / y.numel()
    return -shares[y].log(), (y != shares.argmax()).to(shares)


def _is_above(values: Tensor, least: float) -> bool:
    """Whether the mean is above this and two standard errors of its own, which one value alone does not tell."""
    if len(values) < 2:
        return False
    return values.mean().item() > max(least, 2 * (values.std() / math.sqrt(len(values))).item())


def _flat(values: Tensor) -> Tensor:
    return values.reshape(len(values), -1)


def remedy(
    by_default: Budget, num_epochs: int, kl_start: float, is_of_training: bool, family: str | None = None
) -> str:
    """What may help where a network ends worse than it began.

    Args:
        by_default: what fit() does with as many data.
        num_epochs: what it did.
        kl_start: the largest weight that a gate's KL began with.
        is_of_training: whether it was judged by the data of training.
        family: of its masks, where that is another than Beta-Bernoulli dropout.
    """
    if kl_start > 1:
        what = "a smaller kl_start"
    elif family:
        what = f"a family of masks that costs less than {family} does here, or a smaller network"
    elif by_default.is_of_few_data and num_epochs < by_default.epochs:
        what = f"to leave num_epochs out: so few data take {by_default.epochs:,}, and gates that begin at E[π] = 0.5"
    else:
        what = "insert_dropout(net, initial_keep_probability=0.95), a longer kl_warmup_epochs, or a smaller network"
    judged = ". By held_out=(x, y) it is judged on data of their own" if is_of_training else ""
    return f"What may help: {what}{judged}"
