"""compact(): from a gated network to a plain one, from which the dead units are physically gone."""

from bbpyro.compaction.compact import compact, set_threshold
from bbpyro.compaction.errors import UnsupportedModuleError
from bbpyro.compaction.outputs import TOLERANCE, tolerance
from bbpyro.compaction.rebuilding import read_compaction, rebuild, take_apart
from bbpyro.compaction.report import Compaction, GateReport
from bbpyro.compaction.selection import SelectUnits
from bbpyro.compaction.size import Size, measure

__all__ = [
    "TOLERANCE",
    "Compaction",
    "GateReport",
    "SelectUnits",
    "Size",
    "UnsupportedModuleError",
    "compact",
    "measure",
    "read_compaction",
    "rebuild",
    "set_threshold",
    "take_apart",
    "tolerance",
]
