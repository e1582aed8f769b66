"""The figures: each a function of what to_arviz returned, or of a study, that returns a matplotlib figure."""

from bbpyro.plots.check import guide_check
from bbpyro.plots.gates import forest, input_map, intervals, keep_probability, prior_posterior
from bbpyro.plots.predictions import predictions, reliability, threshold_sweep
from bbpyro.plots.published import PUBLISHED
from bbpyro.plots.studies import error_flops, error_macs, kept_epochs, loo_compare, priors_posteriors
from bbpyro.plots.style import COLORS, save
from bbpyro.plots.training import elbo, kept_units

__all__ = [
    "COLORS",
    "PUBLISHED",
    "elbo",
    "error_flops",
    "error_macs",
    "forest",
    "guide_check",
    "input_map",
    "intervals",
    "keep_probability",
    "kept_epochs",
    "kept_units",
    "loo_compare",
    "predictions",
    "prior_posterior",
    "priors_posteriors",
    "reliability",
    "save",
    "threshold_sweep",
]
