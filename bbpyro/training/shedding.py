"""Shedding: units that are out leave the network that is trained, so that an epoch costs what those cost that live.

A unit is idle after an epoch where three things hold: its gate has it out, E[π] ≤ threshold; its q(π) is all but at the
prior, with KL[q(π)||p(π)] within half a nat of the least that it can be; and with z = 1 in place of 0, everything else
as it is, the log-likelihood of all data would change by at most half a nat, to first order. So the ELBO could gain no
more than a nat, of some thousands, from whatever became of its q(π). A unit that is idle after each of three epochs on
end is shed: it, and all weights that only it reads or makes, are no longer trained. Where epochs have fewer than 20
steps, it is looked at after as many epochs as make 20, for to look costs as much as some steps do.

In 60 epochs of LeNet-500-300 without shedding, and in 148 of 200, no unit that was out with such a KL ever came back.
"""

import contextlib
import dataclasses
import math
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import pyro.poutine as poutine
import torch
import torch.nn.functional as F
from pyro.distributions.torch_distribution import TorchDistribution
from torch import Tensor, nn
from torch.func import functional_call

from bbpyro import nests, parameters
from bbpyro.checks import in_eval_mode
from bbpyro.distributions import is_part, placed_like, units_of
from bbpyro.families import Gate
from bbpyro.families.beta_bernoulli import MIN_CONCENTRATION, BetaBernoulliDropout, kumaraswamy
from bbpyro.layers import device_of
from bbpyro.model import BetaBernoulliNetwork, kl_of
from bbpyro.nests import Nest
from bbpyro.smaller import Reading, decide
from bbpyro.training.epochs import Learner, Trainee, TrainingState
from bbpyro.training.smaller import Smaller, has_priors_of_its_own

PATIENCE = 3  # looks on end at which a unit is idle before it is shed
_MIN_STEPS = 20  # from one look to the next
TOLERANCE = 0.5  # nats, of the KL above its floor, and of what the likelihood could gain
_NUM_JUDGED = 256  # data by which is judged what the likelihood could gain
_NUM_EXAMPLES = 8  # by which the network is followed

_OF_ONE = math.log(math.expm1(1.0))  # the unconstrained concentration that is 1

MakeLearner = Callable[[BetaBernoulliNetwork, torch.optim.Optimizer, Nest, Reading | None], Learner]


class Shedding(Trainee):
    """What the epochs train: the network without the units that are shed.

    Args:
        bnn: the whole network.
        optimizer: of its parameters.
        x: the inputs.
        y: what was observed there.
        learner: makes the learner of a network, its optimizer and the inputs that it reads.
        batch_size: data in a minibatch.
        kl_weight: of a gate's KL in the present epoch.
        tell: see :class:`Trainee`.
    """

    def __init__(
        self,
        bnn: BetaBernoulliNetwork,
        optimizer: torch.optim.Optimizer,
        x: Nest,
        y: Tensor,
        learner: MakeLearner,
        batch_size: int,
        kl_weight: Callable[[str], float],
        tell: Callable[[int], None],
    ) -> None:
        super().__init__(learner(bnn, optimizer, x, None), tell)
        self._bnn, self._optimizer, self._x, self._y = bnn, optimizer, x, y
        self._make_learner, self._batch_size, self._kl_weight = learner, batch_size, kl_weight
        self._every = math.ceil(_MIN_STEPS / math.ceil(len(y) / batch_size))  # epochs, from one look to the next
        self._learner = self.whole
        self._look()

    def _look(self) -> None:
        """Which gates' units may be shed; none is yet."""
        bnn = self._bnn
        self._given = _given(bnn)
        is_plain = type(bnn) is BetaBernoulliNetwork and not isinstance(bnn.weight_prior, nn.Module)
        is_plain = is_plain and not _hooked(bnn)  # what a hook makes of a gradient is for all of it
        gates, others = bnn.gates_by_family
        separable = [*(name for name, gate in gates.items() if _are_separable(bnn, name, gate)), *others]
        self._may_shed = [name for name in bnn.gates if is_plain and name in separable]
        self._floors: dict[str, Tensor] = {}
        self._shed: dict[str, Tensor] = {}
        self._smaller: Smaller | None = None

    def begin(self, state: TrainingState) -> Learner:
        """What the epoch after those of `state` trains."""
        super().begin(state)
        if _given(self._bnn) != self._given:  # assigned anew by on_epoch
            self._look()
            state.idle.clear()
        shed = {name: idle >= PATIENCE for name, idle in state.idle.items() if name in self._may_shed}
        shed = {name: out for name, out in shed.items() if bool(out.any())}
        if shed.keys() != self._shed.keys() or any(not torch.equal(out, self._shed[n]) for n, out in shed.items()):
            self._shed = shed
            self._shrink()
        if self._smaller is None:
            return self.whole
        self._smaller.take()
        parameters.forget(self._bnn)  # for Pyro's store to know the smaller one's by these names
        return dataclasses.replace(self._learner, offset=self._offset(self._smaller.bnn) / self._bnn.num_data)

    def _shrink(self) -> None:
        self._smaller, self._learner = None, self.whole  # and let go of the inputs that it read
        x = nests.to_device(nests.rows(self._x, torch.arange(len(self._y))[:_NUM_EXAMPLES]), device_of(self._bnn))
        found = decide(self._bnn.net, self._shed, x)
        if found is not None and has_priors_of_its_own(self._bnn, found[0]):
            removal, reading = found
            self._smaller = Smaller(self._bnn, self._optimizer, removal)
            self._learner = self._make_learner(self._smaller.bnn, self._smaller.optimizer, self._x, reading)

    @torch.no_grad()
    def _offset(self, small: BetaBernoulliNetwork) -> float:
        """What the whole network's -ELBO has and the smaller one's has not, in nats: it stays what it is."""
        kl, own = self._bnn.kl(), small.kl()
        parts = [self._kl_weight(name) * (kl[name] - own[name]) for name in own]
        parts.append(self._bnn.weights_kl() - small.weights_kl())
        return sum(0.0 if part.isnan() else part.item() for part in parts)  # nan: both are infinite

    def end(self, learner: Learner, state: TrainingState) -> dict[str, Tensor]:
        """Have the whole network be what was learnt; returns at how many looks on end each unit was idle."""
        self.close()
        if self._smaller is not None:
            self._smaller.give_back()
            self._bnn.eval()  # as an epoch leaves what it trained
        if not self._may_shed:
            return {}
        if (len(state.history) + 1) % self._every:
            return state.idle
        counts = {}
        for name, idle in self._idle_units(state.idle).items():
            before = state.idle.get(name, torch.zeros(len(idle), dtype=torch.int32))
            counts[name] = torch.where(before >= PATIENCE, before, torch.where(idle.cpu(), before + 1, 0)).int()
        return counts

    def close(self) -> None:
        """Leave nothing of the smaller network in Pyro's store."""
        if self._smaller is not None:
            parameters.forget(self._smaller.bnn)

    @torch.no_grad()
    def _idle_units(self, before: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """By gate, which units that were not shed before are idle just now, boolean `[K]`."""
        idle: dict[str, Tensor] = {}
        for name, gate in self._bnn.gates.items():
            if name in self._may_shed:
                idle[name] = ~gate.kept()
                if name in before:
                    idle[name] &= (before[name] < PATIENCE).to(idle[name].device)
                if bool(idle[name].any()):
                    idle[name] &= self._excess(name, gate) <= TOLERANCE
        if any(bool(units.any()) for units in idle.values()):
            gain = self._gain()
            idle = {name: units & (gain[name] <= TOLERANCE) for name, units in idle.items()}
        return idle

    def _excess(self, name: str, gate: Gate) -> Tensor:
        """By how much the KL of each unit is above the least that it can be; nats, `[K]`."""
        if not isinstance(gate, BetaBernoulliDropout):
            return gate.kl(self._bnn.num_data)
        p = self._bnn._prior(name, gate)
        if name not in self._floors:
            self._floors[name] = lowest_kl(gate.family or kumaraswamy, p, gate.unconstrained_concentration1)
        with _fixed_noise():
            return kl_of(gate.posterior(), p) - self._floors[name]

    def _gain(self) -> dict[str, Tensor]:
        """By how much the log-likelihood of all data would change with z = 1 of each unit, by its slope at z; nats."""
        bnn, num_data = self._bnn, nests.num_rows(self._x)
        every = torch.arange(0, num_data, max(1, num_data // _NUM_JUDGED), device="cpu")  # for they may be sorted
        data = nests.rows((self._x, self._y), every)
        masks = {f"{name}.z": _open_mask(gate) for name, gate in bnn.gates.items()}
        slopes = {name: torch.zeros_like(mask) for name, mask in masks.items()}
        with in_eval_mode(bnn), poutine.block(), torch.enable_grad(), _fixed_noise():
            for batch in nests.split(data, self._batch_size):
                x, y = nests.to_device(batch, device_of(bnn))
                z = {name: mask.repeat(len(y), 1).requires_grad_() for name, mask in masks.items()}
                try:
                    output = functional_call(bnn.net, z, *nests.arguments(bnn.net, x))
                    log_prob = bnn.likelihood(output).log_prob(y).sum()
                    found = torch.autograd.grad(log_prob, list(z.values()), allow_unused=True, materialize_grads=True)
                except nests.FAILURES:  # not to be had in evaluation, where forward may be without gradients
                    found = tuple(torch.full_like(mask, torch.inf) for mask in masks.values())
                for name, slope in zip(z, found, strict=True):
                    slopes[name] += slope.abs().sum(0)
        return {name.removesuffix(".z"): bnn.num_data / nests.num_rows(data) * s for name, s in slopes.items()}


def _open_mask(gate: Gate) -> Tensor:
    """The mean mask; of a gate that lets nothing through, 1, for behind it no unit would seem of use."""
    mask = gate.mean_mask().detach()
    return mask if bool((mask > 0).any()) else torch.ones_like(mask)


@contextlib.contextmanager
def _fixed_noise() -> Iterator[None]:
    """For a while, the same random numbers each time, and the generator as it was."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        yield


def lowest_kl(family: Any, p: TorchDistribution, like: Tensor) -> Tensor:
    """The least that KL[q || p] can be, in nats `[K]`, for q of a family of two parameters.

    Args:
        family: from concentration1 and concentration0 `[K]` to q.
        p: of batch shape `[K]`.
        like: whose dtype and device the result has.
    """
    one = torch.zeros(1, dtype=torch.int64, device=like.device)
    first = units_of(p, one)
    if first is not None and is_part(first.expand(p.batch_shape), p, torch.arange(len(like), device=like.device)):
        p, like = first, like[:1]  # each unit's is the same
    double = like.detach().double()
    p = placed_like(p, double)

    def kl(unconstrained: Tensor) -> Tensor:
        with _fixed_noise():
            return kl_of(family(*(F.softplus(unconstrained) + MIN_CONCENTRATION)), p)

    with torch.no_grad():
        starts = [torch.stack([double * 0 + log_a, double * 0 + _OF_ONE]) for log_a in range(-13, 4)]
        values = torch.stack([kl(start) for start in starts]).nan_to_num(torch.inf)
        best = torch.stack(starts).gather(0, values.argmin(0).expand(1, 2, len(double)))[0]
    best.requires_grad_()
    optimizer = torch.optim.LBFGS([best], max_iter=100, line_search_fn="strong_wolfe")

    def closure() -> Tensor:
        optimizer.zero_grad()
        loss = kl(best).sum()
        loss.backward()
        return loss

    with torch.enable_grad():
        optimizer.step(closure)
    with torch.no_grad():
        return torch.minimum(kl(best).nan_to_num(torch.inf), values.min(0).values).to(like.dtype)


def _are_separable(bnn: BetaBernoulliNetwork, name: str, gate: BetaBernoulliDropout) -> bool:
    """Whether a gate's units are independent a priori and in q, so that some of them can be had without the others."""
    if isinstance(bnn._prior_on(name), nn.Module):  # which is learnt, by all of them
        return False
    every_other = torch.arange(0, gate.num_features, 2, device=gate.unconstrained_concentration1.device)
    q = gate.posterior()
    if q.event_shape or units_of(bnn._prior(name, gate), every_other) is None:
        return False
    parameters = (gate.unconstrained_concentration1, gate.unconstrained_concentration0)
    part = (gate.family or kumaraswamy)(*(F.softplus(p[every_other]) + MIN_CONCENTRATION for p in parameters))
    return is_part(part, q, every_other)


def _given(bnn: BetaBernoulliNetwork) -> list[Any]:
    """What a smaller network is made by, beside numbers that it can take again."""
    named = [(name, id(parameter)) for name, parameter in bnn.named_parameters()]
    buffers = [name for name, _ in bnn.named_buffers()]
    return [id(bnn.prior), id(bnn.weight_prior), id(bnn.likelihood), named, buffers, _hooked(bnn)]


def _hooked(bnn: BetaBernoulliNetwork) -> list[str]:
    """The parameters whose gradient a hook is told of, as by Tensor.register_hook."""
    named = bnn.named_parameters()
    return [name for name, p in named if p._backward_hooks or getattr(p, "_post_accumulate_grad_hooks", None)]
