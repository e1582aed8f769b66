"""Draws that remember the log-odds which float rounds away."""

from typing import Any

import torch
from pyro.ops.provenance import detach_provenance, get_provenance, track_provenance
from torch import Tensor


def remember_log_odds(log_odds: Tensor, dtype: torch.dtype) -> Tensor:
    """sigmoid(log_odds) in `dtype`, strictly inside (0, 1), remembering its exact log-odds."""
    draw = torch.sigmoid(log_odds).to(dtype)
    limits = torch.finfo(dtype)
    draw = draw.clamp(limits.tiny, 1 - limits.eps / 2)
    draw._log_odds = log_odds  # type: ignore[attr-defined]
    return draw


def remembered_log_odds(value: Tensor) -> Tensor | None:
    """The exact log-odds of a draw, or None for any other tensor."""
    # TraceGraph_ELBO wraps a draw, to know what depends on it; what it remembers is on the draw inside.
    exact: Tensor | None = getattr(detach_provenance(value), "_log_odds", None)
    return None if exact is None else track_provenance(exact, get_provenance(value))


def is_tied(value: Tensor) -> bool:
    """Whether a mask is a draw of :meth:`bbpyro.RelaxedBernoulli.tied`."""
    return getattr(detach_provenance(value), "_is_tied", False)


def log_odds(value: Tensor) -> Tensor:
    """The exact log-odds of a draw; of any other tensor, those of its value, kept finite at 0 and 1."""
    exact = remembered_log_odds(value)
    if exact is not None:
        return exact
    limits = torch.finfo(value.dtype)
    return torch.logit(value.clamp(limits.tiny, 1 - limits.eps / 2))


def floating(value: Any) -> Tensor:
    """A tensor of a floating type."""
    tensor = torch.as_tensor(value)
    return tensor if tensor.is_floating_point() else tensor.to(torch.get_default_dtype())
