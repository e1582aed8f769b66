"""Labelled data, split."""

import hashlib
from dataclasses import dataclass, replace

from torch import Tensor


@dataclass(frozen=True)
class Dataset:
    """Labelled data, split.

    Attributes:
        name: as the user gave it.
        x: training inputs, float32 `[N, ...]`.
        y: training labels, int64 `[N]`, in 0..C-1.
        x_test: test inputs.
        y_test: test labels.
        num_classes: C.
        note: what a reader of the results should know about the split, or nothing.
        feature_names: of the numbers of a datum, where they are known.
    """

    name: str
    x: Tensor
    y: Tensor
    x_test: Tensor
    y_test: Tensor
    num_classes: int
    note: str = ""
    feature_names: tuple[str, ...] = ()

    def with_validation(self, size: int) -> "Dataset":
        """The last `size` training data in place of the test set, for choosing hyper-parameters.

        Raises:
            ValueError: `size` is not between 1 and N-1.
        """
        if not 1 <= size < len(self.x):
            raise ValueError(f"validation_size is {size}, wanted between 1 and {len(self.x) - 1}, or 0 for none")
        return replace(
            self,
            x=self.x[:-size],
            y=self.y[:-size],
            x_test=self.x[-size:],
            y_test=self.y[-size:],
            note=f"scores are of the last {size} training data, held out; the test set was not touched",
        )

    @property
    def scale_note(self) -> str:
        """A sentence where the inputs are of a scale on which training starts badly, and how to change it; or nothing.

        Training starts from weights that are made for inputs of about 1.
        """
        low, high = (end.item() for end in self.x.aminmax())
        typical, largest = self.x.norm().item() / self.x.numel() ** 0.5, max(-low, high)
        if typical <= 10 and (largest >= 0.01 or largest == 0):
            return ""
        return (
            f"x reaches from {low:.4g} to {high:.4g}, and training starts best where it is about 1: "
            f"divide it, as by x / {largest:.4g}, or standardise it, (x - mean) / std, before it is saved"
        )

    def fingerprint(self) -> str:
        """A digest of every number in it, to tell whether a run is resumed on the same data."""
        digest = hashlib.sha256()
        for tensor in (self.x, self.y, self.x_test, self.y_test):
            digest.update(repr(tuple(tensor.shape)).encode())
            digest.update(tensor.contiguous().numpy().data)
        return digest.hexdigest()
