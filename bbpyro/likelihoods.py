"""Likelihoods: from a network's output to the distribution of y, and what is predicted of such a y.

Any callable does, e.g. ``lambda output: dist.Poisson(output.exp()).to_event(1)`` for counts.
"""

import math
from collections.abc import Callable
from typing import Any, Literal

import pyro.distributions as dist
import torch
from pyro.distributions.torch_distribution import TorchDistribution
from torch import Tensor, nn

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


class Normal(nn.Module):
    """y ~ N(output, scale²): regression, output and y `[N, ...]`, one scale for all of them.

    Args:
        scale: of the noise, in the unit of y; by default it is learnt.
        start: where it begins, if it is learnt; about the standard deviation of y does.

    Raises:
        ValueError: scale or start is not positive, or both are given.
    """

    def __init__(self, scale: float | None = None, *, start: float | None = None) -> None:
        super().__init__()
        if scale is not None and start is not None:
            raise ValueError("scale and start are both given; a scale that is known is not learnt")
        for name, number in (("scale", scale), ("start", start)):
            if number is not None and not (isinstance(number, int | float) and 0 < number < math.inf):
                raise ValueError(f"{name} is {number!r}, wanted a positive number")
        self.known_scale, self.start = scale, start
        if scale is None:
            self.log_scale = nn.Parameter(torch.tensor(math.log(start or 1.0)))

    @property
    def scale(self) -> Tensor:
        """Of the noise."""
        return self.log_scale.exp() if self.known_scale is None else torch.tensor(float(self.known_scale))

    def forward(self, output: Tensor) -> TorchDistribution:
        """The distribution of y, batch shape `[N]`."""
        of_each_number = dist.Normal(output, self.scale.to(output), validate_args=False)
        return of_each_number.to_event(max(0, output.dim() - 1))

    def extra_repr(self) -> str:
        """What print shows."""
        return f"{self.scale.item():.4g}{', learnt' if self.known_scale is None else ''}"


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
