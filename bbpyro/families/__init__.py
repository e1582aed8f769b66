"""Families of masks: what a gate multiplies by, a priori and by its guide, and when a unit is out.

A family is a kind of :class:`Gate`, in a file of its own that reads like its paper.
"""

from bbpyro.families.beta_bernoulli import BetaBernoulliDropout
from bbpyro.families.concrete_dropout import ConcreteDropout
from bbpyro.families.dependent_beta_bernoulli import DependentBetaBernoulli
from bbpyro.families.gate import Gate
from bbpyro.families.generalized_dropout import GeneralizedDropout
from bbpyro.families.l0 import L0
from bbpyro.families.sbp import SBP
from bbpyro.families.spelled import as_family, spell
from bbpyro.families.vib import VIB

__all__ = [
    "L0",
    "SBP",
    "VIB",
    "BetaBernoulliDropout",
    "ConcreteDropout",
    "DependentBetaBernoulli",
    "Gate",
    "GeneralizedDropout",
    "as_family",
    "spell",
]
