"""A network without the units that are out, for what is done with it again and again: training, and prediction."""

from bbpyro.smaller.leaving import Reading, decide
from bbpyro.smaller.living import Living, living_part
from bbpyro.smaller.part import Part, named_tensors, part_of

__all__ = ["Living", "Part", "Reading", "decide", "living_part", "named_tensors", "part_of"]
