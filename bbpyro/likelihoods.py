"""Likelihoods: from a network's output to the distribution of y, and what is predicted of such a y.

Any callable does, e.g. ``lambda output: dist.Normal(output, 0.1).to_event(1)`` for regression.
"""

from collections.abc import Callable
from typing import Any, Literal

import pyro.distributions as dist
import torch
from pyro.distributions.torch_distribution import TorchDistribution
from torch import Tensor

from bbpyro import distributions

Likelihood = Callable[[Any], TorchDistribution]
Kind = Literal["classes", "binary", "numbers"]


class Categorical:
    """y ~ Categorical(softmax(output)): classification, output `[N, C]`, y `[N]` in 0..C-1."""

    def __call__(self, output: Tensor) -> TorchDistribution:
        """The distribution of the labels, batch shape `[N]`."""
        return distributions.Categorical(output)

    def __repr__(self) -> str:
        return "Categorical()"


class Bernoulli:
    """y ~ Bernoulli(sigmoid(output)): two classes by one logit, output `[N]`, y `[N]`, 0.0 or 1.0."""

    def __call__(self, output: Tensor) -> TorchDistribution:
        """The distribution of the labels, batch shape `[N]`."""
        return dist.Bernoulli(logits=output)

    def __repr__(self) -> str:
        return "Bernoulli()"


def is_classification(distribution: TorchDistribution) -> bool:
    """Whether y is one class a datum: logits `[N, C]` and labels `[N]`."""
    if isinstance(distribution, distributions.Categorical) and distribution.scores is not None:
        return True
    logits = getattr(distribution, "logits", None)
    described = distribution.batch_shape + distribution.event_shape
    return logits is not None and logits.dim() == 2 and described == logits.shape[:1]


def kind(distribution: TorchDistribution) -> Kind:
    """What y is: classes (Categorical, or one-hot), binary (Bernoulli), or numbers (a regression, counts)."""
    base = of_each(distribution)
    if is_classification(distribution) or isinstance(base, dist.Categorical | dist.OneHotCategorical):
        return "classes"
    return "binary" if isinstance(base, torch.distributions.Bernoulli) else "numbers"


def of_each(distribution: Any) -> Any:
    """The distribution of each number of y alone, where `.to_event()` made one event of them."""
    while isinstance(distribution, torch.distributions.Independent):
        distribution = distribution.base_dist
    return distribution


def expectation(distribution: TorchDistribution) -> Tensor:
    """What is predicted of y: the probability of each class `[N, ..., C]`, P(y = 1), or E[y] `[N, ...]`.

    Raises:
        ValueError: y has no mean.
    """
    if kind(distribution) != "numbers":
        return of_each(distribution).probs
    return _moment(distribution, "mean")


def variance(distribution: TorchDistribution) -> Tensor:
    """Var[y], of the shape of :func:`expectation`: of classes that of each one's indicator, p(1 - p).

    Raises:
        ValueError: y has no variance.
    """
    if kind(distribution) != "numbers":
        probs = expectation(distribution)
        return probs * (1 - probs)
    return _moment(distribution, "variance")


def _moment(distribution: Any, name: str) -> Tensor:
    of_what = type(of_each(distribution)).__name__
    try:
        moment: Tensor = getattr(distribution, name)
    except NotImplementedError:
        raise ValueError(f"likelihood: the {name} of {of_what} is not known; draw y by predictive_draws") from None
    if bool(moment.isnan().any()):
        raise ValueError(
            f"likelihood: the {name} of {of_what} is nan: it has none, or the network's output is nan; "
            "predictive_draws gives draws of y"
        )
    return moment


def probability_below(distribution: TorchDistribution, y: Tensor, num_draws: int) -> tuple[Tensor, Tensor]:
    """P(Y < y) and P(Y ≤ y) of each number of y: by the cdf where it is continuous and has one, else by draws."""
    try:
        up_to = of_each(distribution).cdf(y)
    except NotImplementedError:
        draws = (distribution.sample() for _ in range(num_draws))  # one at a time: y may be an image
        counts = [torch.stack([draw < y, draw <= y]) for draw in draws]
        below, up_to = torch.stack(counts).double().mean(0)
        return below, up_to
    return up_to, up_to
