# What bbpyro has at its top level: for type checkers, and for __init__.py, which imports each where it is first used.
from . import (
    checkpoint,
    compaction,
    data,
    distributions,
    export,
    families,
    layers,
    likelihoods,
    mcmc,
    networks,
    plots,
    posterior,
    priors,
    runs,
    studies,
    training,
)
from .compaction import compact
from .distributions import Kumaraswamy, RelaxedBernoulli
from .export import load_compact, save_compact
from .families import BetaBernoulliDropout
from .insertion import insert_dropout
from .latent_features import LatentFeatureModel
from .model import BetaBernoulliNetwork
from .posterior import to_arviz
from .prediction import evaluate, predict, predictive_draws, score, uncertainty
from .studies import compare
from .training import fit, fit_best, pretrain
from .version import __version__

__all__ = [
    "BetaBernoulliDropout",
    "BetaBernoulliNetwork",
    "Kumaraswamy",
    "LatentFeatureModel",
    "RelaxedBernoulli",
    "__version__",
    "checkpoint",
    "compact",
    "compaction",
    "compare",
    "data",
    "distributions",
    "evaluate",
    "export",
    "families",
    "fit",
    "fit_best",
    "insert_dropout",
    "layers",
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
    "runs",
    "save_compact",
    "score",
    "studies",
    "to_arviz",
    "training",
    "uncertainty",
]
