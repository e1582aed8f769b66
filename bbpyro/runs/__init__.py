"""Runs: settings in, a folder with a trained network out."""

from bbpyro.runs.config import NETWORKS, PRIORS, TrainConfig, recipe
from bbpyro.runs.inspection import POSTERIOR, Inspection, inspect
from bbpyro.runs.run import ARTEFACTS, CHECKPOINT, Run, check, create, default_folder, load, score, summarize, train
from bbpyro.runs.shrinking import BATCH_SIZES, Shrunk, shrink

__all__ = [
    "ARTEFACTS",
    "BATCH_SIZES",
    "CHECKPOINT",
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
    "recipe",
    "score",
    "shrink",
    "summarize",
    "train",
]
