"""Runs: settings in, a folder with a trained network out."""

from bbpyro.runs.config import NETWORKS, PRIORS, TrainConfig
from bbpyro.runs.run import CHECKPOINT, Run, check, create, default_folder, load, score, summarize, train

__all__ = [
    "CHECKPOINT",
    "NETWORKS",
    "PRIORS",
    "Run",
    "TrainConfig",
    "check",
    "create",
    "default_folder",
    "load",
    "score",
    "summarize",
    "train",
]
