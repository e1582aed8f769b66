"""What is known of a tensor while a network runs."""

from dataclasses import dataclass

from torch import Tensor


@dataclass
class Followed:
    """What is known of a tensor that comes of the data.

    Attributes:
        units: for each number, the slice that it belongs to; 0: none.
        varies: whether each number depends on the data.
        why: why those that belong to none do not.
    """

    units: Tensor
    varies: Tensor
    why: str
