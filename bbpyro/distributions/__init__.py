"""The distributions of Beta-Bernoulli dropout, for Pyro, and their divergences, registered with torch.

A draw remembers its log-odds: π or z that float32 rounds to 0 or 1 keeps them, in a tensor attribute, and every
distribution here reads them from it. They are lost by any operation on the draw (a slice, a copy); then the
log-odds are those of the rounded value.
"""

from bbpyro.distributions.averaged import AveragedBernoulli, AveragedNormal, drawn_from
from bbpyro.distributions.bernoulli import Bernoulli
from bbpyro.distributions.categorical import Categorical
from bbpyro.distributions.exact_tails import ContinuedTails, with_exact_tails
from bbpyro.distributions.hard_concrete import HardConcrete
from bbpyro.distributions.keep_probability import Beta, BetaMixture, LogitNormal
from bbpyro.distributions.kumaraswamy import Kumaraswamy
from bbpyro.distributions.log_scale import LogUniform, TruncatedLogNormal
from bbpyro.distributions.masks import Masks
from bbpyro.distributions.parts import is_part, units_of
from bbpyro.distributions.placing import placed_like
from bbpyro.distributions.relaxed_bernoulli import RelaxedBernoulli, relaxed_bernoullis
from bbpyro.distributions.remembering import is_tied, log_odds, remember_log_odds, remembered_log_odds
from bbpyro.distributions.stick_breaking import StickBreaking
from bbpyro.distributions.together import is_part_of_draw, joint_log_prob
from bbpyro.distributions.weights import Delta, HorseshoeLike, SphericalNormal

__all__ = [
    "AveragedBernoulli",
    "AveragedNormal",
    "Bernoulli",
    "Beta",
    "BetaMixture",
    "Categorical",
    "ContinuedTails",
    "Delta",
    "HardConcrete",
    "HorseshoeLike",
    "Kumaraswamy",
    "LogUniform",
    "LogitNormal",
    "Masks",
    "RelaxedBernoulli",
    "SphericalNormal",
    "StickBreaking",
    "TruncatedLogNormal",
    "drawn_from",
    "is_tied",
    "log_odds",
    "is_part",
    "is_part_of_draw",
    "joint_log_prob",
    "placed_like",
    "relaxed_bernoullis",
    "remember_log_odds",
    "remembered_log_odds",
    "units_of",
    "with_exact_tails",
]
