"""What there is to train: the parameters of the network and its likelihood, and those they have in Pyro's store."""

import warnings
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import pyro
import pyro.poutine as poutine
import torch
from pyro.util import check_model_guide_match
from torch import Tensor, nn

from bbpyro import nests, parameters
from bbpyro.checks import in_eval_mode
from bbpyro.layers import called_gates, device_of
from bbpyro.likelihoods import Likelihood
from bbpyro.model import BetaBernoulliNetwork
from bbpyro.nests import Nest
from bbpyro.objective import leaves
from bbpyro.warn import warn


@dataclass(frozen=True)
class Trained:
    """The parameters that are trained, in groups of one learning rate each.

    Attributes:
        groups: as a torch optimizer takes them; none is empty.
        stored: those that belong to no module, but to Pyro's parameter store, by their names there.
        has_unused: whether the loss does not depend on some of them.
    """

    groups: list[dict[str, Any]]
    stored: dict[str, Tensor]
    has_unused: bool

    @torch.no_grad()
    def load(self, kept: Mapping[str, Tensor]) -> None:
        """Give those of the store the values that they had."""
        for name, tensor in self.stored.items():
            if name in kept:
                tensor.copy_(kept[name])


def of_network(
    bnn: BetaBernoulliNetwork, x: Nest, y: Tensor, learning_rate: float, gate_learning_rate: float
) -> Trained:
    """What :func:`bbpyro.fit` trains, from one trial of model and guide; warns of what it cannot train.

    Raises:
        ValueError: there is nothing to train, for all is frozen.
    """
    with left_as_it_was(bnn), _trial(bnn, x, y) as (x_trial, y_trial), _all_gates_called(bnn):
        guide = poutine.trace(bnn.guide).get_trace(x_trial, y_trial)
        model = poutine.trace(poutine.replay(bnn.model, trace=guide)).get_trace(x_trial, y_trial)
        check_model_guide_match(model, guide)
        loss = model.log_prob_sum() - guide.log_prob_sum()
    gates = [p for gate in bnn.gates.values() for p in gate.parameters()]
    weights = [*bnn.weights.values(), *bnn.unconstrained_scales.values()]
    stored = _in_store(bnn, (*guide.nodes.values(), *model.nodes.values()))
    others = [*_without(bnn.parameters(), [*weights, *gates]), *stored.values()]
    return _trained(loss, stored, (weights, learning_rate), (gates, gate_learning_rate), (others, learning_rate))


def of_plain_network(
    net: nn.Module, likelihood: Likelihood, x: Nest, y: Tensor, learning_rate: float, weight_decay: float
) -> Trained:
    """The same of a network without gates and its likelihood, whose own parameters do not decay."""
    with _trial(net, x, y) as (x_trial, y_trial):
        with poutine.trace() as tracing:
            distribution: Any = likelihood(nests.call(net, x_trial))
        loss = distribution.log_prob(y_trial).sum()
    stored = _in_store(net, tracing.trace.nodes.values())
    weights = list(net.parameters())
    of_likelihood = list(likelihood.parameters()) if isinstance(likelihood, nn.Module) else []
    others = [*_without(of_likelihood, weights), *stored.values()]
    trained = _trained(loss, stored, (weights, learning_rate), (others, learning_rate))
    for group, decay in zip(trained.groups, (weight_decay, 0.0), strict=False):
        group["weight_decay"] = decay
    return trained


@contextmanager
def _trial(net: nn.Module, x: Nest, y: Tensor) -> Iterator[tuple[Nest, Tensor]]:
    """Two data, with nothing left behind but what the likelihood puts into Pyro's store."""
    with (
        in_eval_mode(net),
        poutine.block(),  # a handler around fit() sees its steps alone
        torch.random.fork_rng(),
        torch.enable_grad(),
        pyro.validation_enabled(False),
        warnings.catch_warnings(),
    ):
        warnings.filterwarnings("ignore", message="Encountered (NaN|\\+?-?inf)")  # for the first step to tell
        yield nests.to_device(nests.rows((x, y), slice(2)), device_of(net))


@contextmanager
def _all_gates_called(bnn: BetaBernoulliNetwork) -> Iterator[None]:
    """Warns of gates that nothing calls within."""
    with called_gates(bnn.net) as called:
        yield
    uncalled = [name for name in bnn.gates if name not in called]
    if uncalled:
        layers = [name.removesuffix("gate").removesuffix(".") for name in uncalled]
        warn(
            f"net: the gates of {', '.join(layers)} are not called, so the data say nothing of their units, which go "
            "to the prior; forward uses the weight otherwise than by calling the layer, or only while training: "
            f"insert_dropout(net, exclude={layers}) leaves them without a gate",
        )


def _in_store(net: nn.Module, nodes: Iterable[Any]) -> dict[str, Tensor]:
    """The store's parameters in a trace, but for those that are a module's."""
    own = {id(parameter) for parameter in net.parameters()}
    found = {node["name"]: node["value"].unconstrained() for node in nodes if node["type"] == "param"}
    return {name: tensor for name, tensor in found.items() if id(tensor) not in own}


def _without(tensors: Iterable[Tensor], known: Iterable[Tensor]) -> list[Tensor]:
    ids = {id(tensor) for tensor in known}
    return [tensor for tensor in tensors if id(tensor) not in ids]


def _trained(loss: Tensor, stored: dict[str, Tensor], *groups: tuple[list[Any], float]) -> Trained:
    learnt: list[dict[str, Any]] = [
        {"params": [p for p in params if p.requires_grad], "lr": rate} for params, rate in groups
    ]
    learnt = [group for group in learnt if group["params"]]
    if not learnt:
        raise ValueError("net: all its parameters are frozen, so there is nothing to train; requires_grad_(True) thaws")
    known, reached = [p for group in learnt for p in group["params"]], leaves(loss)
    unknown = _without(reached, known)
    if unknown:
        shapes = ", ".join(str(list(tensor.shape)) for tensor in unknown)
        warn(
            f"not trained: the loss depends on parameters of shape {shapes} that are neither the network's nor in "
            "Pyro's store; make a likelihood or prior that has them an nn.Module, and they are trained and saved",
        )
    return Trained(learnt, stored, has_unused=bool(_without(known, reached)))


@contextmanager
def left_as_it_was(bnn: BetaBernoulliNetwork) -> Iterator[None]:
    """See that Pyro's store has the network's parameters at the end if they were in it before, and else not."""
    was_there = parameters.are_registered(bnn)
    try:
        yield
    finally:
        if was_there:
            parameters.register(bnn, bnn.name)
        else:
            parameters.forget(bnn)
