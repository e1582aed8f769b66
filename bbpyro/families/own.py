"""A family of masks of the user's own: what it must have, before it is trained, and what is noted of it."""

import ast
import hashlib
import inspect
import textwrap
from collections.abc import Mapping
from typing import Any

import pyro
import torch
from pyro import poutine
from pyro.poutine.util import site_is_subsample
from torch import Tensor, nn

from bbpyro.families.beta_bernoulli import BetaBernoulliDropout
from bbpyro.families.gate import Gate

SAID = ("unit_parameters", "latent", "measure_name", "measure_label")
METHODS = ("model", "guide", "kl", "draws", "measure", "mean_mask")


def is_own(kind: type) -> bool:
    """Whether a class is not one of bbpyro's."""
    return not kind.__module__.startswith("bbpyro.")


def check_gate(gate: Any) -> None:
    """Raise a ValueError that says what a family of the user's lacks, or does that none may, before it is trained."""
    kind = type(gate)
    if not isinstance(gate, Gate):
        raise ValueError(f"family: it makes a {kind.__name__}, wanted a subclass of bbpyro.families.Gate")
    if isinstance(gate, BetaBernoulliDropout):
        return
    lacks = [name for name in SAID if not hasattr(gate, name)]
    lacks += [f"{name}()" for name in METHODS if getattr(kind, name) in (getattr(Gate, name), None)]
    lacks += [f"the parameter {name}" for name in getattr(gate, "unit_parameters", ()) if not hasattr(gate, name)]
    if lacks:
        raise ValueError(f"family: {kind.__name__} lacks {', '.join(lacks)}; a gate wants them")
    if is_own(kind):
        _try(gate)


@torch.no_grad()
def _try(gate: Gate) -> None:
    """Call once what training will call."""
    kind, num = type(gate).__name__, gate.num_features
    try:
        with torch.random.fork_rng(devices=[]), poutine.block(), pyro.validation_enabled(False):
            by_unit = {"kl": gate.kl(1000), "measure": gate.measure(), "mean_mask": gate.mean_mask()}
            guide = poutine.trace(gate.guide).get_trace("gate", pyro.plate("data", 2))
            model = poutine.trace(gate.model).get_trace("gate", pyro.plate("data", 2))
    except Exception as error:  # whatever the user's class does
        reason = " ".join(f"{type(error).__name__}: {error}".split())
        raise ValueError(f"family: {kind} fails where it is tried ({reason})") from error
    for name, found in by_unit.items():
        if not isinstance(found, Tensor) or found.shape != (num,):
            what = f"shape {list(found.shape)}" if isinstance(found, Tensor) else f"a {type(found).__name__}"
            raise ValueError(
                f"family: {name}() of {kind} gives {what}, wanted a number for each of {num} units, [{num}]"
            )
    bound = model.nodes["_RETURN"]["value"]
    if not isinstance(bound, Mapping):
        raise ValueError(
            f"family: model() of {kind} returns a {type(bound).__name__}, wanted what the gate multiplies by as a "
            'dict, {"z": masks}'
        )
    drawn, known = _latent(guide), _latent(model)
    if drawn != known:
        raise ValueError(
            f"family: guide() of {kind} samples {', '.join(sorted(drawn)) or 'nothing'}, and its model() "
            f"{', '.join(sorted(known)) or 'nothing'}; wanted the same names"
        )


def _latent(trace: Any) -> set[str]:
    return {
        name
        for name, site in trace.nodes.items()
        if site["type"] == "sample"
        and not (site["is_observed"] or site["infer"].get("is_auxiliary") or site_is_subsample(site))
    }


def described(gate: Gate) -> dict[str, Any] | None:
    """What a gate of a class of the user's own is, as JSON holds it: its code, and the numbers it was made with.

    Comments and docstrings do not count. What it calls outside of its class is not noted. None of bbpyro's own classes.
    """
    if not is_own(type(gate)):
        return None
    plain = vars(nn.Module())
    numbers = {
        k: v for k, v in vars(gate).items() if isinstance(v, int | float | str) and k not in plain and k[0] != "_"
    }
    classes = [each for each in type(gate).__mro__ if issubclass(each, Gate) and is_own(each)]
    return {"code": [_code(each) for each in classes], "numbers": numbers}


def _code(kind: type) -> str:
    """A digest of a class's methods and constants, of those methods whose source there is."""
    parts = []
    for name, value in sorted(vars(kind).items()):
        method = inspect.unwrap(getattr(value, "fget", getattr(value, "__func__", value)))
        if inspect.isfunction(method):
            parts.append(f"{name}: {_source(method)}")
        elif isinstance(value, int | float | str | tuple) and not name.startswith("__"):
            parts.append(f"{name} = {value!r}")
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:16]


def _source(method: Any) -> str:
    """Without comments and docstring; nothing of what was typed into a prompt."""
    try:
        tree = ast.parse(textwrap.dedent(inspect.getsource(method)))
    except (OSError, TypeError, SyntaxError):
        return ""
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef) and ast.get_docstring(node) is not None:
            node.body = node.body[1:] or [ast.Pass()]
    return ast.unparse(tree)
