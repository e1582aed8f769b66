"""How families of masks are spelled, as priors are: "L0(10)", "VIB(1e-5)", "module:name"."""

import inspect
from collections.abc import Callable, Mapping
from typing import Any

from bbpyro.families.beta_bernoulli import BetaBernoulliDropout
from bbpyro.families.concrete_dropout import ConcreteDropout
from bbpyro.families.dependent_beta_bernoulli import DependentBetaBernoulli
from bbpyro.families.gate import Gate
from bbpyro.families.generalized_dropout import GeneralizedDropout
from bbpyro.families.l0 import L0
from bbpyro.families.sbp import SBP
from bbpyro.families.vib import VIB
from bbpyro.priors.spelled import canonical, is_path, parse, spellings

# From a number of units and `dim`, where these are, to a gate for them.
Family = Callable[..., Gate]
FamilyLike = Family | str


class Spelled:
    """A kind of gate with arguments of its own, which prints as it is written, such as VIB(1e-05)."""

    def __init__(self, gate: type[Gate], *args: float, **kwargs: float) -> None:
        names = list(inspect.signature(gate).parameters)[1:-1]  # without num_features and dim
        if len(args) > len(names) or not kwargs.keys() <= set(names):
            raise ValueError(f"{gate.__name__} takes {', '.join(names) or 'no arguments'}")
        self.gate, self.arguments = gate, dict[str, Any](zip(names, args, strict=False)) | kwargs
        gate(1, **self.arguments)

    def __call__(self, num_features: int, dim: int = -1) -> Gate:
        """A gate for so many units."""
        return self.gate(num_features, **self.arguments, dim=dim)

    def __repr__(self) -> str:
        shown = (f"{name}={value!r}" for name, value in self.arguments.items())
        names = list(inspect.signature(self.gate).parameters)[1:-1]
        if list(self.arguments) == names[: len(self.arguments)]:
            shown = (repr(value).removesuffix(".0") for value in self.arguments.values())
        return f"{self.gate.__name__}({', '.join(shown)})"


def _of(gate: type[Gate]) -> Callable[..., Spelled]:
    return lambda *args, **kwargs: Spelled(gate, *args, **kwargs)


class BetaBernoulli(Spelled):
    """The spelling of Beta-Bernoulli dropout; what else is to be said of it are arguments of insert_dropout."""

    def __init__(self) -> None:
        super().__init__(BetaBernoulliDropout)

    def __repr__(self) -> str:
        return type(self).__name__


def is_beta_bernoulli(family: Family) -> bool:
    """Whether it is Beta-Bernoulli dropout without arguments, which takes a threshold and a start from elsewhere."""
    return family is BetaBernoulliDropout or isinstance(family, BetaBernoulli)


KNOWN: dict[str, Callable[..., Any]] = {
    "BetaBernoulli": BetaBernoulli,
    **{
        gate.__name__: _of(gate) for gate in (DependentBetaBernoulli, SBP, VIB, L0, ConcreteDropout, GeneralizedDropout)
    },
}


def as_family(family: FamilyLike | Mapping[str, FamilyLike] | None) -> dict[str, Family]:
    """A mapping from names of gates, with * for any characters, to families, of whatever says what they are.

    Args:
        family: a kind of gate, or any callable from a number of units and dim=-1 or 1 to a gate; a spelling, such as
            "VIB(1e-5)" or "module:name"; or a mapping from names of gates to those. None is BetaBernoulli.

    Raises:
        ValueError: a text spells no family, or it is none of these.
    """
    found: Any = parse(family, KNOWN) if isinstance(family, str) else family
    if not isinstance(found, Mapping):
        found = {"*": BetaBernoulli() if found is None else found}
    each = {name: parse(one, KNOWN) if isinstance(one, str) else one for name, one in found.items()}
    for one in each.values():
        if not callable(one):
            raise ValueError(f"{one!r} is no family of masks; {spellings(KNOWN)}")
    return each


def spell(family: str) -> str:
    """The one way to write what a text spells; errors as above."""
    as_family(family)
    return family.strip() if is_path(family) else canonical(family, KNOWN)
