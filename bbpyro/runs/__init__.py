"""Runs: settings in, a folder with a trained network out."""

from bbpyro.runs.config import NETWORKS, Settings, TrainConfig, recipe
from bbpyro.runs.inspection import POSTERIOR, Inspection, inspect, leave_one_out
from bbpyro.runs.run import (
    ARTEFACTS,
    Run,
    check,
    check_settings,
    create,
    default_folder,
    load,
    plain_network,
    score,
    summarize,
    train,
    write_figures,
)
from bbpyro.runs.saved import CHECKPOINT
from bbpyro.runs.shrinking import BATCH_SIZES, Shrunk, shrink

__all__ = [
    "ARTEFACTS",
    "BATCH_SIZES",
    "CHECKPOINT",
    "NETWORKS",
    "POSTERIOR",
    "Inspection",
    "Run",
    "Settings",
    "Shrunk",
    "TrainConfig",
    "check",
    "check_settings",
    "create",
    "default_folder",
    "inspect",
    "leave_one_out",
    "load",
    "plain_network",
    "recipe",
    "score",
    "shrink",
    "summarize",
    "train",
    "write_figures",
]
