"""What may be wrong with a prior of the user's, told when a network is made with it."""

from typing import Any

import torch

from bbpyro.exclusive import one_at_a_time
from bbpyro.priors.keep_probability import Prior
from bbpyro.priors.weights import WeightPrior


@one_at_a_time  # it draws
def check_prior(gate: str, num_units: int, prior: Prior) -> None:
    """Raise a ValueError unless this is a prior of keep probabilities for so many units.

    One that brings no guide of its own must have a density wherever q(π) has one, which is everywhere in (0, 1).
    """
    try:
        made: Any = prior(num_units)
        shape = getattr(made, "batch_shape", None), getattr(made, "event_shape", None)
        with torch.random.fork_rng(devices=[]):
            draw: Any = made.sample((max(1, 1000 // num_units),)) if None not in shape else None
    except Exception as error:  # whatever a user's prior does
        raise ValueError(f"prior: that of gate {gate!r} fails ({type(error).__name__}: {error})") from error
    if shape not in (((num_units,), ()), ((), (num_units,))):
        raise ValueError(
            f"prior: for gate {gate!r} it gives a {type(made).__name__} of batch shape {shape[0]} and event shape "
            f"{shape[1]}, wanted a distribution of one number a unit: ({num_units},) and (), or () and ({num_units},)"
        )
    if not bool(((draw >= 0) & (draw <= 1)).all()):
        raise ValueError(f"prior: for gate {gate!r} it drew keep probabilities outside [0, 1]")
    if shape[1] == () and not hasattr(prior, "guide"):
        _check_support(gate, num_units, made)


def _check_support(gate: str, num_units: int, made: Any) -> None:
    for pi in (1e-3, 0.01, 0.05, 0.25, 0.5, 0.75, 0.95, 0.99, 0.999):
        try:
            log_density = made.log_prob(torch.full((num_units,), pi))
        except ValueError:  # which torch's validation raises of what is outside of the support
            log_density = torch.tensor(-torch.inf)
        if not bool((log_density > -torch.inf).all()):
            raise ValueError(
                f"prior: for gate {gate!r} the density of its {type(made).__name__} is 0 at π = {pi:g}, where q(π) may "
                "be, so that the ELBO would be -inf; wanted one on all of (0, 1): a Beta with its mass where you "
                "want it, say"
            )


def check_weight_prior(name: str, shape: torch.Size, prior: WeightPrior) -> None:
    """Raise a ValueError unless this is a prior of a whole weight tensor."""
    try:
        made = prior(shape)
        found = made.batch_shape, made.event_shape
    except Exception as error:  # whatever a user's prior does
        raise ValueError(f"weight_prior: for {name!r} it fails ({type(error).__name__}: {error})") from error
    if found != ((), shape):
        raise ValueError(
            f"weight_prior: for {name!r} it gives batch shape {tuple(found[0])} and event shape {tuple(found[1])}, "
            f"wanted one distribution of the whole tensor: () and {tuple(shape)}"
        )
