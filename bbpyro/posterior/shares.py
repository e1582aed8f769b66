"""P(π > t) of the prior and of the posterior: exact where the distribution is known, else from its draws."""

import fnmatch
from typing import Any

import numpy as np
import pyro
import torch
import torch.nn.functional as F

from bbpyro import priors
from bbpyro.distributions import Delta, Kumaraswamy, remember_log_odds, with_exact_tails
from bbpyro.posterior.container import group

_STEP, _HIGHEST = 0.02, 60.0  # of the log-odds over which a density is summed; beyond, it falls exponentially


def probability_above(idata: Any, gate: str, at: Any) -> Any:
    """P(π > t) of each unit under the posterior `[chain, K, T]`, at the numbers t in [0, 1].

    Exact where q(π) is Kumaraswamy; else the share of the draws.
    """
    at = np.atleast_1d(np.asarray(at, dtype=float))
    exact = _kumaraswamy_above(idata, gate, at)
    if exact is not None:
        return exact
    draws = group(idata, "posterior")[f"{gate}.pi"].values
    return np.stack([(draws > t).mean(1) for t in at], -1)


def share_above(idata: Any, gate: str, at: Any, name: str = "posterior") -> Any:
    """The share of a gate's π, of all units and chains together, above each of the numbers t: `[T]`.

    Exact where q(π) is Kumaraswamy, or the prior has a density for each unit; else of the draws, smoothed over their
    log-odds.

    Args:
        idata: what :func:`bbpyro.to_arviz` returned.
        gate: its name.
        at: numbers in (0, 1).
        name: "posterior" or "prior".
    """
    at = np.atleast_1d(np.asarray(at, dtype=float))
    draws = group(idata, name)[f"{gate}.pi"].values.ravel()
    if name == "posterior":
        exact = _kumaraswamy_above(idata, gate, at)
        shares = None if exact is None else exact.mean((0, 1))
    else:
        shares = _prior_above(idata, gate, at)
        # A density that is not what was drawn from (a spike too narrow for the sum, say) is no better than the draws.
        if shares is not None and np.abs(shares - _empirical(draws, at)).max() > 3 / np.sqrt(len(draws)):
            shares = None
    return _smoothed(draws, at) if shares is None else shares


def _kumaraswamy_above(idata: Any, gate: str, at: Any) -> Any | None:
    """(1 - t^a)^b `[chain, K, T]`, unless q(π) is not the Kumaraswamy of its two concentrations."""
    guide = group(idata, "guide")
    if f"{gate}.concentration1" not in guide:
        return None
    a, b = (guide[f"{gate}.concentration{i}"].values.astype(float) for i in (1, 0))
    mean = Kumaraswamy(torch.from_numpy(a), torch.from_numpy(b), validate_args=False).mean.numpy()
    if not np.allclose(mean, guide[f"{gate}.keep_probability"].values, rtol=1e-2, atol=1e-4):
        return None  # they are of something else, such as sticks
    with np.errstate(divide="ignore"):  # log 0
        log_t = np.log(at)
    return (-np.expm1(a[..., None] * log_t)) ** b[..., None]


def _prior_above(idata: Any, gate: str, at: Any) -> Any | None:
    """The mean of the units' P(π > t), by summing the density; None where the prior is not known, or has none."""
    num_units = group(idata, "prior").sizes[f"{gate}_unit"]
    text = str(group(idata, "prior").attrs.get("prior", ""))
    try:
        prior: Any = priors.as_prior(text)
    except (ImportError, ValueError):  # a function of the user's
        return None
    if isinstance(prior, dict):
        prior = next((each for pattern, each in prior.items() if fnmatch.fnmatchcase(gate, pattern)), None)
    distribution = None if prior is None else with_exact_tails(prior(num_units))
    if isinstance(distribution, Delta) or distribution is None or distribution.event_shape:
        return None
    wanted = torch.from_numpy(np.log(at) - np.log1p(-at))
    grid = torch.arange(wanted.min().item(), _HIGHEST, _STEP, dtype=torch.float64)
    with torch.no_grad(), pyro.validation_enabled(False):
        log_density = torch.cat([_log_density(distribution, odds) for odds in grid.split(256)])
    density = log_density.exp().mean(-1)
    between = (density[1:] + density[:-1]) * (_STEP / 2)
    rate = (log_density[-2] - log_density[-1]) / _STEP
    beyond = torch.where(rate > 0, log_density[-1].exp() / rate, 0.0).mean()
    above = beyond + torch.cat([between.flip(0).cumsum(0).flip(0), torch.zeros(1, dtype=torch.float64)])
    return np.interp(wanted.numpy(), grid.numpy(), above.numpy()).clip(0, 1)


def _log_density(distribution: Any, odds: Any) -> Any:
    """Of the log-odds `[T, K]`: that of π, and the logarithm of dπ/dodds = π (1 - π)."""
    pi = remember_log_odds(odds[:, None], torch.float64)
    log_prob = distribution.log_prob(pi).double()
    return log_prob.expand(len(odds), -1) - F.softplus(odds)[:, None] - F.softplus(-odds)[:, None]


def _empirical(draws: Any, at: Any) -> Any:
    return 1 - np.searchsorted(np.sort(draws), at, side="right") / len(draws)


def _smoothed(draws: Any, at: Any) -> Any:
    """The share of the draws above, averaged over a Gaussian in log-odds of Silverman's width; of a point mass none."""
    inside = draws[(draws > 1e-7) & (draws < 1 - 1e-7)]
    if len(inside) < 2:
        return _empirical(draws, at)
    odds = np.log(inside) - np.log1p(-inside)
    low, high = np.quantile(odds, (0.25, 0.75))
    width = 0.9 * min(odds.std(), (high - low) / 1.34) * len(inside) ** -0.2
    if width < 1e-6:
        return _empirical(draws, at)
    nodes = np.linspace(-3, 3, 61)
    weights = np.exp(-(nodes**2) / 2)
    wanted = np.log(at) - np.log1p(-at)
    shares = _empirical(draws, 1 / (1 + np.exp(-(wanted[:, None] + width * nodes))))
    return shares @ weights / weights.sum()
