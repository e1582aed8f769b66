"""Runs: settings in, a folder with a trained network out."""

from bbpyro.runs.config import SEED, Settings, TrainConfig, as_written, recipe
from bbpyro.runs.inspection import POSTERIOR, Inspection, inspect, leave_one_out
from bbpyro.runs.limits import check_num_samples
from bbpyro.runs.lock import hold
from bbpyro.runs.networks import NETWORKS
from bbpyro.runs.origins import check_same, check_settings, describe, load_data, plain_network
from bbpyro.runs.run import ARTEFACTS, STARTS, Run, check, create, default_folder, load, read_config, train
from bbpyro.runs.saved import CHECKPOINT
from bbpyro.runs.scores import collapse, score, summarize, write_figures
from bbpyro.runs.shrinking import BATCH_SIZES, Shrunk, shrink

__all__ = [
    "ARTEFACTS",
    "BATCH_SIZES",
    "CHECKPOINT",
    "NETWORKS",
    "POSTERIOR",
    "SEED",
    "STARTS",
    "Inspection",
    "Run",
    "Settings",
    "Shrunk",
    "TrainConfig",
    "check",
    "check_num_samples",
    "check_same",
    "check_settings",
    "collapse",
    "create",
    "default_folder",
    "describe",
    "hold",
    "inspect",
    "leave_one_out",
    "load",
    "load_data",
    "plain_network",
    "as_written",
    "read_config",
    "recipe",
    "score",
    "shrink",
    "summarize",
    "train",
    "write_figures",
]
