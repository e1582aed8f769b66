"""The latent feature model: each datum is made of a few of K latent features, and the data say how many there are."""

from bbpyro.latent_features.entries import check_floats, hide, log_prob_of_each
from bbpyro.latent_features.model import Draw, LatentFeatureModel
from bbpyro.latent_features.prediction import predict_features

__all__ = ["Draw", "LatentFeatureModel", "check_floats", "hide", "log_prob_of_each", "predict_features"]
