"""Beta-Bernoulli dropout with Pyro: learn which units of a network are needed, and keep only those."""

from bbpyro import families, likelihoods, mcmc, networks, plots, posterior, priors
from bbpyro.compaction import compact
from bbpyro.distributions import Kumaraswamy, RelaxedBernoulli
from bbpyro.export import load_compact, save_compact
from bbpyro.families import BetaBernoulliDropout
from bbpyro.insertion import insert_dropout
from bbpyro.latent_features import LatentFeatureModel
from bbpyro.model import BetaBernoulliNetwork
from bbpyro.posterior import to_arviz
from bbpyro.prediction import evaluate, predict, predictive_draws, score, uncertainty
from bbpyro.studies import compare
from bbpyro.training import fit, fit_best, pretrain
from bbpyro.version import __version__

__all__ = [
    "__version__",
    "BetaBernoulliDropout",
    "BetaBernoulliNetwork",
    "Kumaraswamy",
    "LatentFeatureModel",
    "RelaxedBernoulli",
    "compact",
    "compare",
    "evaluate",
    "families",
    "fit",
    "fit_best",
    "insert_dropout",
    "likelihoods",
    "load_compact",
    "mcmc",
    "networks",
    "plots",
    "posterior",
    "predict",
    "predictive_draws",
    "pretrain",
    "priors",
    "save_compact",
    "score",
    "to_arviz",
    "uncertainty",
]
