"""What may be wrong with data and settings, each told with its remedy before anything is computed."""

from bbpyro.checks.data import (
    as_it_was,
    check_data,
    check_device,
    check_held_out,
    check_inputs,
    in_eval_mode,
    wrong_dtype,
)
from bbpyro.checks.likelihood import Trial
from bbpyro.checks.settings import check_batch_norm, check_choice, check_is, check_positive, check_settings
from bbpyro.checks.tensors import check_nest, check_some, check_tensor, runs
from bbpyro.nests import tensors_of

__all__ = [
    "Trial",
    "as_it_was",
    "check_batch_norm",
    "check_choice",
    "check_data",
    "check_device",
    "check_held_out",
    "check_inputs",
    "check_is",
    "check_nest",
    "check_positive",
    "check_settings",
    "check_some",
    "check_tensor",
    "in_eval_mode",
    "runs",
    "tensors_of",
    "wrong_dtype",
]
