"""Studies: priors times seeds, trained side by side, and compared in a table and its figures."""

from bbpyro.studies import tables
from bbpyro.studies.compare import (
    BACKENDS,
    Failure,
    Study,
    check_workers,
    compare,
    default_folder,
    is_study,
    load,
    prepare,
    read_config,
    train,
)
from bbpyro.studies.config import StudyConfig

__all__ = [
    "BACKENDS",
    "Failure",
    "Study",
    "StudyConfig",
    "check_workers",
    "compare",
    "default_folder",
    "is_study",
    "load",
    "prepare",
    "read_config",
    "tables",
    "train",
]
