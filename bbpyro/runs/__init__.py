"""Runs: settings in, a folder with a trained network out."""

from bbpyro.runs.config import NETWORKS, PRIORS, TrainConfig
from bbpyro.runs.inspection import POSTERIOR, Inspection, inspect
from bbpyro.runs.run import CHECKPOINT, Run, check, create, default_folder, load, score, summarize, train
from bbpyro.runs.shrinking import BATCH_SIZES, COMPACT, Shrunk, shrink

__all__ = [
    "BATCH_SIZES",
    "CHECKPOINT",
    "COMPACT",
    "NETWORKS",
    "POSTERIOR",
    "PRIORS",
    "Inspection",
    "Run",
    "Shrunk",
    "TrainConfig",
    "check",
    "create",
    "default_folder",
    "inspect",
    "load",
    "score",
    "shrink",
    "summarize",
    "train",
]
