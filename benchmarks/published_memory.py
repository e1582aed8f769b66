"""LeNet-5's memory as the authors of arXiv 1805.10896 count it, for runs and for what they published.

python benchmarks/published_memory.py runs/lenet5-0 runs/lenet5-1 runs/lenet5-2

Numbers held: the weights of every layer, and of a convolution also its unrolled input, K² C for each output pixel.
Their count has three input channels, though MNIST has one; that is kept, or their 16.2% would be another number.
"""

import argparse
import json
from collections.abc import Sequence
from pathlib import Path

PUBLISHED = {
    "BB 1e-2": (13, 25, 156, 54),
    "BB 2e-2": (12, 23, 128, 40),
    "DBB 1e-2, its own gates apart": (13, 24, 53, 27),
}
ORIGINAL = (20, 50, 800, 500)


def memory(kept: Sequence[int]) -> int:
    """Numbers held by a LeNet-5 with these channels of conv1 and conv2 and inputs of fc1 and fc2."""
    conv1, conv2, fc1, fc2 = kept
    unrolled = 25 * 3 * 24**2 + 25 * conv1 * 8**2
    weights = 25 * 3 * conv1 + conv1 + 25 * conv1 * conv2 + conv2 + fc1 * fc2 + fc2 + fc2 * 10 + 10
    return unrolled + weights


def main() -> None:
    """Print one line a network."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", nargs="*", type=Path, help="folders of bbpyro train --network lenet5-caffe")
    found: dict[str, tuple[int, ...]] = dict(PUBLISHED)
    for folder in parser.parse_args().runs:
        kept = tuple(json.loads((folder / "summary.json").read_text())["kept"].values())
        if len(kept) != len(ORIGINAL):
            parser.error(f"{folder} is no run of lenet5-caffe")
        found[str(folder)] = kept
    for name, kept in found.items():
        print(f"{name:<32} {'-'.join(map(str, kept)):<14} {memory(kept) / memory(ORIGINAL):.2%}")


if __name__ == "__main__":
    main()
