"""Labelled data, split."""

import hashlib
from dataclasses import dataclass, replace

import torch
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

    def with_validation(self, size: int, fold: int = 0) -> "Dataset":
        """`size` of the training data in place of the test set, for choosing hyper-parameters.

        Args:
            size: how many.
            fold: which, counted from the end: the last are fold 0, those before them fold 1, and so on.

        Raises:
            ValueError: `size` is not between 1 and N-1, or there are not so many folds.
        """
        num_data = len(self.x)
        if not 1 <= size < num_data:
            raise ValueError(f"validation_size is {size}, wanted between 1 and {num_data - 1}, or 0 for none")
        if not 0 <= fold < num_data // size:
            last, parts = num_data // size - 1, f"there are {num_data} training data, in parts of {size}"
            wanted = f"wanted 0 to {last}" if last else "wanted 0"
            raise ValueError(f"validation_fold is {fold}, {wanted}: {parts}")
        end = num_data - fold * size
        held_out = slice(end - size, end)
        which = f"last {size} training data" if fold == 0 else f"training data {end - size + 1} to {end}"
        return replace(
            self,
            x=_without(self.x, held_out),
            y=_without(self.y, held_out),
            x_test=self.x[held_out],
            y_test=self.y[held_out],
            note=f"scores are of the {which}, held out; the test set was not touched",
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


def _without(tensor: Tensor, part: slice) -> Tensor:
    """A tensor without a part of it; where that is its end, without a copy."""
    return tensor[: part.start] if part.stop == len(tensor) else torch.cat([tensor[: part.start], tensor[part.stop :]])
