"""Runs: settings in, a folder with a trained network out."""

from bbpyro.runs.config import NETWORKS, PRIORS, TrainConfig
from bbpyro.runs.inspection import POSTERIOR, Inspection, inspect
from bbpyro.runs.run import CHECKPOINT, Run, check, create, default_folder, load, score, summarize, train

__all__ = [
    "CHECKPOINT",
    "NETWORKS",
    "POSTERIOR",
    "PRIORS",
    "Inspection",
    "Run",
    "TrainConfig",
    "check",
    "create",
    "default_folder",
    "inspect",
    "load",
    "score",
    "summarize",
    "train",
]
