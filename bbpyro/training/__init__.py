"""Training: fit() with SVI, and pretrain() before it."""

from bbpyro.training import inference
from bbpyro.training.epochs import NonFiniteLossError, TrainingState
from bbpyro.training.features import fit_features
from bbpyro.training.handlers import PRECISIONS, KLWarmup, Scorecard, SingleOptimizer
from bbpyro.training.inference import ELBOS, SCHEDULES, cosine, elbo, kl_starts, pretrain, steps
from bbpyro.training.judging import FitWarning, Judge
from bbpyro.training.lean_elbo import LeanTraceELBO
from bbpyro.training.starts import best_start, final_loss, fit_best
from bbpyro.verbs import of_either

fit = of_either("fit", inference.fit, fit_features)

__all__ = [
    "ELBOS",
    "PRECISIONS",
    "SCHEDULES",
    "FitWarning",
    "Judge",
    "KLWarmup",
    "LeanTraceELBO",
    "NonFiniteLossError",
    "Scorecard",
    "SingleOptimizer",
    "TrainingState",
    "best_start",
    "cosine",
    "elbo",
    "final_loss",
    "fit",
    "fit_best",
    "kl_starts",
    "pretrain",
    "steps",
]
