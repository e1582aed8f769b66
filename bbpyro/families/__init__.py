"""Families of masks: what a gate multiplies by, and when a unit is out."""

from bbpyro.families.beta_bernoulli import BetaBernoulliDropout
from bbpyro.families.gate import Gate

__all__ = ["BetaBernoulliDropout", "Gate"]
