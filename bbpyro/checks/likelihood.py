"""What may be wrong with a likelihood, and with a y for it."""

from dataclasses import dataclass
from typing import Any

import pyro
import torch
from pyro.distributions.torch_distribution import TorchDistributionMixin
from torch import Tensor, nn
from torch.distributions import Distribution, constraints

from bbpyro.checks.tensors import CASTS, runs, sample
from bbpyro.likelihoods import is_classification, of_each
from bbpyro.nests import tensors_of


@dataclass(frozen=True)
class Trial:
    """What a network makes of two data, and which distribution of y the likelihood makes of that."""

    output: Any
    distribution: Any


def apply(likelihood: Any, output: Any) -> Any:
    """The distribution of y given a network's output, if it is one that Pyro knows."""
    example = "a function from the network's output to the distribution of y: lambda output: dist.Normal(output, 1.0)"
    if isinstance(likelihood, nn.modules.loss._Loss):
        raise TypeError(f"likelihood is {likelihood}, a loss; wanted {example}")
    if not callable(likelihood):
        raise TypeError(f"likelihood is a {type(likelihood).__name__}, wanted {example}")
    finite = all(bool(tensor.isfinite().all()) for tensor in tensors_of(output))
    try:
        with pyro.validation_enabled(finite):  # what is not finite is for the first step to report
            distribution = likelihood(output)
    except Exception as error:  # whatever a user's likelihood raises
        reason = " ".join(str(error).split())
        kind = "" if isinstance(output, Tensor) else f", a {type(output).__name__},"
        raise ValueError(
            f"likelihood: it fails on the network's output{kind} ({type(error).__name__}: {reason[:300]}); wanted "
            f"{example}, with parameters in range (a scale or rate by softplus or exp)"
        ) from error
    if isinstance(distribution, Distribution) and not isinstance(distribution, TorchDistributionMixin):
        kind = type(distribution).__name__
        raise TypeError(
            f"likelihood gives torch's {kind}, wanted Pyro's: pyro.distributions.{kind}, with the same arguments"
        )
    if not isinstance(distribution, TorchDistributionMixin):
        raise TypeError(f"likelihood gives a {type(distribution).__name__}, wanted {example}")
    return distribution


def check_shape(trial: Trial, y: Tensor | None, n: int, name: str) -> None:
    """Raise a ValueError unless y, of n data, is what the likelihood describes, and that one datum a row."""
    d = trial.distribution
    described, batch = tuple(d.batch_shape + d.event_shape), tuple(d.batch_shape)
    shape = described if y is None else tuple(y.shape)
    if described == shape and batch == (n,):
        return
    number = {2: "two", 3: "three"}[n]
    if y is None:
        text = f"likelihood: of {number} data it describes {described} with batch shape {batch}"
    else:
        text = f"{name}: {number} data of it have shape {shape}, but the likelihood describes {described}"
        text += f" with batch shape {batch}"
    text += "; wanted one datum a row, "
    if y is not None and is_classification(d) and y.dim() == 2 and y.shape[1] == d.logits.shape[1] > 1:
        raise ValueError(f"{text}its label; {name} is one-hot, and {name}.argmax(-1) makes labels")
    if y is not None and shape == (*described, 1):
        raise ValueError(f"{text}so give {name}.squeeze(-1)")
    if described == (*shape, 1) or (y is None and len(described) > 1 == described[-1]):
        raise ValueError(
            f"{text}so flatten the network's output, by nn.Flatten(0) as its last layer or output.squeeze(-1) in the "
            f"likelihood (or give {name}[:, None], and the likelihood .to_event(1))"
        )
    if batch == ():
        raise ValueError(
            f"{text}so leave the data out of .to_event() (Categorical wants an output [N, C], and Bernoulli one [N])"
        )
    if described[:1] == (n,) and len(batch) > 1:
        raise ValueError(f"{text}the rest as .to_event({len(batch) - 1})")
    raise ValueError(f"{text}the rest as .to_event()")


def check_values(trial: Trial, y: Tensor, name: str) -> None:
    """Raise a ValueError unless the likelihood can give all of y a density."""
    d = trial.distribution
    if is_classification(d):
        last = d.logits.shape[-1] - 1
        if not bool((y == y.long()).all()):
            raise ValueError(f"{name} holds labels that are no whole numbers; a regression wants another likelihood")
        if not bool(((y >= 0) & (y <= last)).all()):
            more = "" if last else "; of one output a datum Bernoulli makes two classes, likelihoods.Bernoulli()"
            raise ValueError(f"{name} holds labels {y.min()} to {y.max()}, wanted 0 to {last}{more}")
    else:
        _check_support(d, y, name)
    tried = sample(y, 2).to(next((t.device for t in tensors_of(trial.output)), y.device))
    try:
        d.log_prob(tried)
    except Exception as error:
        casts = {**{dtype: cast for dtype, cast in CASTS.items()}, torch.int64: "long"}
        floats = [tensor.dtype for tensor in tensors_of(trial.output) if tensor.is_floating_point()]
        for dtype in (*floats[:1], torch.int64):
            if y.dtype != dtype and runs(d.log_prob, tried.to(dtype)):
                raise ValueError(
                    f"{name} is {y.dtype}, of which {_kind(d)} has no density; give {name}.{casts[dtype]}()"
                ) from error
        reason = " ".join(str(error).split())[:300]
        raise ValueError(f"{name}: {_kind(d)} gives it no density ({type(error).__name__}: {reason})") from error


def _check_support(distribution: Any, y: Tensor, name: str) -> None:
    try:
        support: Any = distribution.support
        fits = support.check(y)
    except (NotImplementedError, AttributeError, ValueError, RuntimeError, TypeError):
        return  # it has none, or one that differs from datum to datum
    if not bool(fits.all()):
        base = getattr(support, "base_constraint", support)
        rows = fits.reshape(len(y), -1).all(-1)
        wrong = y[int((~rows).nonzero()[0])]
        value = f"{wrong.item():.4g}" if wrong.dim() == 0 else wrong.flatten()[:5].tolist()
        raise ValueError(f"{name} holds {value}, which no {_kind(distribution)} gives; wanted {_in_words(base)}")


def _in_words(support: Any) -> str:
    whole = "whole " if support.is_discrete else ""
    if support is constraints.boolean:
        return "0 or 1"
    if isinstance(support, type(constraints.positive)):
        return f"{whole}numbers above {support.lower_bound:g}"
    if hasattr(support, "upper_bound") and hasattr(support, "lower_bound"):
        return f"{whole}numbers from {support.lower_bound:g} to {support.upper_bound:g}"
    if hasattr(support, "lower_bound"):
        return f"{whole}numbers from {support.lower_bound:g} on"
    return f"what is in {support}"


def _kind(distribution: Any) -> str:
    return type(of_each(distribution)).__name__
