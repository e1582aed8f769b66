"""The posterior as ArviZ knows it, and how to read it."""

from bbpyro.posterior.arguments import describe_model
from bbpyro.posterior.container import elpd, good_k, group, loo, save
from bbpyro.posterior.coordinates import kept_features
from bbpyro.posterior.features import features_to_arviz
from bbpyro.posterior.inference_data import network_to_arviz
from bbpyro.posterior.reading import (
    decisions,
    extremes,
    gates,
    has_pi,
    in_words,
    keep_probability,
    latent,
    layer,
    measure,
    measure_label,
    num_chains,
    order,
    place,
    place_of,
    side,
    side_of,
    unit_names,
)
from bbpyro.posterior.shares import probability_above, share_above
from bbpyro.posterior.svi import from_svi, pareto_k
from bbpyro.prediction import CI_PROB
from bbpyro.verbs import of_either

to_arviz = of_either("to_arviz", network_to_arviz, features_to_arviz)

__all__ = [
    "CI_PROB",
    "decisions",
    "describe_model",
    "elpd",
    "extremes",
    "from_svi",
    "gates",
    "good_k",
    "group",
    "has_pi",
    "in_words",
    "keep_probability",
    "latent",
    "measure",
    "measure_label",
    "kept_features",
    "layer",
    "loo",
    "num_chains",
    "pareto_k",
    "order",
    "place",
    "place_of",
    "probability_above",
    "save",
    "share_above",
    "side",
    "side_of",
    "to_arviz",
    "unit_names",
]
