"""Priors: what π, and W, may be before the data are seen, and how they are spelled."""

from bbpyro.priors.keep_probability import (
    Beta,
    FixedRate,
    IndianBuffet,
    Jeffreys,
    LogitNormal,
    Prior,
    PriorLike,
    SpikeAndSlab,
    StickBreaking,
    Uniform,
    as_prior,
    spell,
    threshold_under,
)
from bbpyro.priors.weights import HorseshoeLike, Laplace, Normal, StudentT, WeightPrior, as_weight_prior, matching_l2

__all__ = [
    "Beta",
    "FixedRate",
    "HorseshoeLike",
    "IndianBuffet",
    "Jeffreys",
    "Laplace",
    "LogitNormal",
    "Normal",
    "Prior",
    "PriorLike",
    "SpikeAndSlab",
    "StickBreaking",
    "StudentT",
    "Uniform",
    "WeightPrior",
    "as_prior",
    "as_weight_prior",
    "matching_l2",
    "spell",
    "threshold_under",
]
