"""The figures: each a function that takes what to_arviz returned and returns a matplotlib figure."""

from bbpyro.plots.check import guide_check
from bbpyro.plots.gates import forest, input_map, intervals, keep_probability, prior_posterior
from bbpyro.plots.predictions import predictions, reliability, threshold_sweep
from bbpyro.plots.style import COLORS, save
from bbpyro.plots.training import elbo, kept_units

__all__ = [
    "COLORS",
    "elbo",
    "forest",
    "guide_check",
    "input_map",
    "intervals",
    "keep_probability",
    "kept_units",
    "predictions",
    "prior_posterior",
    "reliability",
    "save",
    "threshold_sweep",
]
