"""Exact posteriors of small problems, that guides can be held against: NUTS of a network, Gibbs of latent features."""

from bbpyro.mcmc.gibbs import GibbsSampler, gibbs
from bbpyro.mcmc.nuts import MAX_UNITS, SummedOut, nuts

__all__ = ["MAX_UNITS", "GibbsSampler", "SummedOut", "gibbs", "nuts"]
