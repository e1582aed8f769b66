"""What a network computes, and whether another one computes the same."""

import warnings

import torch
from torch import Tensor, nn

from bbpyro.compaction.errors import UnsupportedModuleError
from bbpyro.nests import FAILURES, Nest, call, map_tensors, tensors_of

TOLERANCE = 1e-5  # of the largest output, in float32
_MOST_ROUNDING = 1e-3


def tolerance(rounding: float) -> float:
    """How far two networks may differ, as a part of the largest output, where so much of it is lost by rounding."""
    return min(max(TOLERANCE, 3 * rounding), _MOST_ROUNDING)


class Wanted:
    """The outputs of a network on the example and on noise, and whether another network has the same.

    Args:
        net: the network.
        example: its inputs.
        tolerance: of the largest number of each output.

    Raises:
        UnsupportedModuleError: its output has no tensor of real numbers.
    """

    def __init__(self, net: nn.Module, example: Nest, tolerance: float) -> None:
        self.tolerance = tolerance
        outputs = list(tensors_of(call(net, example)))
        if not any(output.is_floating_point() for output in outputs):
            raise UnsupportedModuleError("the network's output has no tensor of real numbers")
        self.inputs, self.outputs = [example], [outputs]
        noise = _noise_like(example)
        try:
            outputs = list(tensors_of(call(net, noise)))
        except FAILURES:  # a network may refuse what is no data
            return
        if all(bool(output.isfinite().all()) for output in outputs):
            self.inputs.append(noise)
            self.outputs.append(outputs)

    def difference(self, net: nn.Module) -> float:
        """The largest difference, as a part of the largest number of its output; inf where the network fails."""
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # of what is only tried
                found = [list(tensors_of(call(net, x))) for x in self.inputs]
        except FAILURES:
            return float("inf")
        return max(_distance(*pair) for pair in zip(found, self.outputs, strict=True))

    @property
    def dtypes(self) -> set[torch.dtype]:
        """Of the real outputs."""
        return {output.dtype for output in self.outputs[0] if output.is_floating_point()}

    def check_repeats(self, net: nn.Module) -> None:
        """Raise an UnsupportedModuleError unless the network itself computes the same again."""
        if not all(map(torch.equal, self.outputs[0], tensors_of(call(net, self.inputs[0])))):
            raise UnsupportedModuleError("the network's forward is random, in evaluation mode too")

    def equals(self, net: nn.Module) -> bool:
        """Whether another network has these outputs."""
        return self.difference(net) <= self.tolerance


def _distance(found: list[Tensor], wanted: list[Tensor]) -> float:
    if [f.shape for f in found] != [w.shape for w in wanted]:
        return float("inf")
    largest = 0.0
    for one, other in zip(found, wanted, strict=True):
        if other.is_floating_point() and other.numel():
            difference = (one - other).abs().max() / other.abs().max().clamp_min(torch.finfo(other.dtype).tiny)
            largest = max(largest, float(difference.nan_to_num(torch.inf)))
        elif not torch.equal(one, other):
            return float("inf")
    return largest


def _noise_like(example: Nest) -> Nest:
    """As many numbers, of all sizes from small to large."""
    generator = torch.Generator("cpu").manual_seed(0)

    def noise(leaf: Tensor) -> Tensor:
        if not leaf.is_floating_point():
            return leaf
        normal, scale = torch.randn((2, *leaf.shape), generator=generator, device="cpu")
        return (normal * (2 * scale).exp()).to(leaf)

    return map_tensors(noise, example)
