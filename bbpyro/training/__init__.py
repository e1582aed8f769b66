"""Training: fit() with SVI, and pretrain() before it."""

from bbpyro.training.epochs import NonFiniteLossError, TrainingState
from bbpyro.training.handlers import PRECISIONS, KLWarmup, Scorecard, SingleOptimizer
from bbpyro.training.inference import ELBOS, SCHEDULES, cosine, elbo, fit, kl_starts, pretrain, steps

__all__ = [
    "ELBOS",
    "PRECISIONS",
    "SCHEDULES",
    "KLWarmup",
    "NonFiniteLossError",
    "Scorecard",
    "SingleOptimizer",
    "TrainingState",
    "cosine",
    "elbo",
    "fit",
    "kl_starts",
    "pretrain",
    "steps",
]
