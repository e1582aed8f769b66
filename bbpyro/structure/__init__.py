"""How the units of a network hang together: which slices of which parameters are one unit, and what goes with it."""

from bbpyro.structure.following import follow_few, follow_units, largest_removal
from bbpyro.structure.surgery import say_sizes, sliced, without
from bbpyro.structure.units import Removal, Units

__all__ = ["Removal", "Units", "follow_few", "follow_units", "largest_removal", "say_sizes", "sliced", "without"]
