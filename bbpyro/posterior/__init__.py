"""The posterior as ArviZ knows it, and how to read it."""

from bbpyro.posterior.arguments import describe_model
from bbpyro.posterior.container import elpd, good_k, group, loo, save
from bbpyro.posterior.inference_data import to_arviz
from bbpyro.posterior.reading import decisions, extremes, gates, in_words, keep_probability, layer, order

__all__ = [
    "decisions",
    "describe_model",
    "elpd",
    "extremes",
    "gates",
    "good_k",
    "group",
    "in_words",
    "keep_probability",
    "layer",
    "loo",
    "order",
    "save",
    "to_arviz",
]
