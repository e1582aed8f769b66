"""What LeNet-5 costs, as published and in runs of ours, by one count; and as the authors of arXiv 1805.10896 count.

    python benchmarks/published_memory.py runs/lenet5-0 runs/lenet5-1 runs/lenet5-2

The columns, a row for each published network and each run, all from the units kept (of the two convolutions on their
output, of the two dense layers on their input):

error           on MNIST's test images, by the mean mask; of published rows what the source prints.
MACs x          multiply-accumulates of the dense network over those of the kept one, biases and activations left out.
parameters x    the same of weights and biases.
their FLOPs x   by the authors' code, in which a convolution's MAC is 2 and a dense layer's 1: `Size.authors_flops`.
their memory    what the authors' code counts as memory, as a share of the dense network's: the weights of every layer,
                and of a convolution also its unrolled input, K² C for each output pixel. Their count has three input
                channels, though MNIST has one; that is kept, or their 16.2% would be another number.
"""

import argparse
import json
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import nn

from bbpyro.compaction import SelectUnits, Size, measure
from bbpyro.plots.published import NETWORKS

ORIGINAL = (20, 50, 800, 500)
HEADER = " " * 30 + "error  kept            MACs x  parameters x  their FLOPs x  their memory"


def size(kept: Sequence[int]) -> Size:
    """What a plain LeNet-5 costs with these channels of conv1 and conv2 and inputs of fc1 and fc2."""
    conv1, conv2, fc1, fc2 = kept
    net = nn.Sequential(
        *(nn.Conv2d(1, conv1, 5), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(conv1, conv2, 5), nn.ReLU(), nn.MaxPool2d(2)),
        *(nn.Flatten(), SelectUnits(torch.arange(fc1)), nn.Linear(fc1, fc2), nn.ReLU(), nn.Linear(fc2, 10)),
    )
    return measure(net, torch.zeros(1, 1, 28, 28))


def memory(kept: Sequence[int]) -> int:
    """Numbers held, as the authors count them."""
    conv1, conv2, fc1, fc2 = kept
    unrolled = 25 * 3 * 24**2 + 25 * conv1 * 8**2
    weights = 25 * 3 * conv1 + conv1 + 25 * conv1 * conv2 + conv2 + fc1 * fc2 + fc2 + fc2 * 10 + 10
    return unrolled + weights


def line(name: str, error: float | None, kept: Sequence[int]) -> str:
    """A row; `error` in percent."""
    before, after = size(ORIGINAL), size(kept)
    cells = (
        f"{before.macs / after.macs:>7.1f}",
        f"{before.parameters / after.parameters:>13.1f}",
        f"{before.authors_flops / after.authors_flops:>14.2f}",
        f"{memory(kept) / memory(ORIGINAL):>13.1%}",
    )
    shown = "" if error is None else f"{error:.2f}%"
    return f"{name:<28} {shown:>6}  {'-'.join(map(str, kept)):<14} {' '.join(cells)}"


def main(arguments: Sequence[str] | None = None) -> None:
    """Print one line a network."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", nargs="*", type=Path, help="folders of bbpyro train --network lenet5-caffe")
    print(HEADER)
    for row in NETWORKS["lenet5-caffe"]:
        print(line(f"published, {row.method}", row.error, row.kept))
    for folder in parser.parse_args(arguments).runs:
        summary = json.loads((folder / "summary.json").read_text())
        kept = tuple(summary["kept"].values())
        if len(kept) != len(ORIGINAL):
            parser.error(f"{folder} is no run of lenet5-caffe")
        print(line(str(folder), 100 * summary["mean_mask"]["error"], kept))


if __name__ == "__main__":
    main()
