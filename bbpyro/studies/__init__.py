"""Studies: priors and other settings times seeds, trained side by side, and compared in a table and its figures."""

from bbpyro.studies import axes, tables
from bbpyro.studies.compare import (
    BACKENDS,
    Failure,
    Study,
    check_workers,
    compare,
    default_folder,
    load,
    train,
)
from bbpyro.studies.config import StudyConfig
from bbpyro.studies.folder import is_study, prepare, read_config

__all__ = [
    "BACKENDS",
    "Failure",
    "Study",
    "StudyConfig",
    "axes",
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
