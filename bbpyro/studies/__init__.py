"""Studies: priors times seeds, trained side by side, and compared in a table and its figures."""

from bbpyro.studies import tables
from bbpyro.studies.compare import (
    BACKENDS,
    Failure,
    Study,
    compare,
    default_folder,
    is_study,
    load,
    prepare,
    read_config,
)
from bbpyro.studies.config import StudyConfig

__all__ = [
    "BACKENDS",
    "Failure",
    "Study",
    "StudyConfig",
    "compare",
    "default_folder",
    "is_study",
    "load",
    "prepare",
    "read_config",
    "tables",
]
