"""Numbers too small for float to tell from 0 in any result, which cost up to a hundred times the work of a 0.

The weights of a unit that nothing reads decay under their Gaussian prior, past what their type has full precision for
(1.2e-38 in float32): such numbers are called denormal, and many processors compute with them in microcode.
"""

import contextlib
from collections.abc import Iterable, Iterator

import torch
import torch.nn.functional as F
from torch import Tensor


def negligible(dtype: torch.dtype) -> float:
    """Up to which absolute value a number of this type is as good as 0: 8e-25 in float32.

    What lies above it stays clear of the denormals even in a product with eps², the square of the type's rounding.
    float16 has none: it is computed with in float32.
    """
    if dtype == torch.float16 or not dtype.is_floating_point:
        return 0.0
    limits = torch.finfo(dtype)
    return limits.tiny / limits.eps**2


@torch.no_grad()
def zero_negligible(tensors: Iterable[Tensor]) -> None:
    """Make every negligible number of these tensors 0, in place; a tensor that has none is not written to."""
    for tensor in tensors:
        bound = negligible(tensor.dtype)
        if bound and tensor.device.type != "meta" and bool(((tensor != 0) & (tensor.abs() <= bound)).any()):
            tensor.copy_(F.hardshrink(tensor, bound))


def are_flushed() -> bool:
    """Whether this thread's arithmetic makes 0 of what is denormal."""
    tiny = torch.tensor(torch.finfo(torch.float32).tiny, dtype=torch.float32, device="cpu")
    return (tiny / 2).item() == 0


@contextlib.contextmanager
def flushed() -> Iterator[None]:
    """For a while, have this thread's arithmetic make 0 of what is denormal, where the processor can."""
    before = are_flushed()
    torch.set_flush_denormal(True)
    try:
        yield
    finally:
        torch.set_flush_denormal(before)
