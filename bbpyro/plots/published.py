"""What others published for three LeNets, by one count: multiply-accumulates of the dense kept network."""

import itertools
from dataclasses import dataclass


@dataclass(frozen=True)
class Published:
    """A network that a source prints.

    Attributes:
        method: whose it is, in few letters.
        kept: its units: of a convolution on its output, of a dense layer on its input.
        error: on the test images, percent; None where the source prints none.
        source: where it was read, and at which setting.
    """

    method: str
    kept: tuple[int, ...]
    error: float | None
    source: str


_AUTHORS = "the code of arXiv 1805.10896, OpenXAIProject/Variational_Dropouts: medians of 5 runs"
_NECLUDOV = "necludov/group-sparsity-sbp, README"
_TANG = "Tang et al. 2018; KarenUllrich/Tutorial_BayesianCompressionForDL"
_SPAM = "SpaM, arXiv 2402.15978, fortuinlab/spam-pruning: pruned once and trained for 5 epochs more"

# By the name of the network; the first is the dense one. Of DBB no dense network is printed: its units are a datum's.
NETWORKS = {
    "lenet-500-300": (
        Published("dense", (784, 500, 300), 1.56, _AUTHORS),
        Published("slides", (358, 209, 152), 1.24, "the slides this library follows: one run, threshold 1e-2"),
        Published("BB", (437, 189, 123), 1.26, f"{_AUTHORS}, rate of the gates 1e-3"),
        Published("BB", (332, 117, 90), 1.35, f"{_AUTHORS}, rate of the gates 5e-3"),
        Published("BB", (294, 110, 71), 1.33, f"{_AUTHORS}, rate of the gates 1e-2, the default"),
        Published("BB", (260, 100, 49), 1.42, f"{_AUTHORS}, rate of the gates 2e-2"),
        Published("BB", (227, 66, 37), 1.60, f"{_AUTHORS}, rate of the gates 5e-2"),
        Published("SBP", (320, 115, 84), 1.53, f"{_AUTHORS}, 1e-3"),
        Published("SBP", (255, 100, 43), 1.60, f"{_AUTHORS}, 1e-2"),
        Published("VIB", (205, 105, 44), None, f"{_AUTHORS}, 1e-3"),
        Published("VIB", (139, 101, 28), None, f"{_AUTHORS}, 1e-2"),
        Published("Generalized Dropout", (488, 142, 136), None, f"{_AUTHORS}, 1e-2"),
        Published("Sparse VD", (536, 64, 35), 1.51, f"{_AUTHORS}, 1e-2"),
        Published("SSL", (473, 46, 33), 1.94, f"{_AUTHORS}, 5e-5"),
        Published("SBP '17", (245, 160, 55), 1.55, _NECLUDOV),
        Published("SSL '17", (434, 174, 78), 1.49, _NECLUDOV),
        Published("Sparse VD '17", (537, 217, 130), 1.57, _NECLUDOV),
        Published("slimming", (784, 100, 60), 1.49, "Liu et al. 2017, network slimming, which is not Bayesian"),
    ),
    "lenet5-caffe": (
        Published("dense", (20, 50, 800, 500), 0.70, f"{_AUTHORS}, with a rectifier on the logits"),
        Published("BB", (13, 25, 156, 54), 0.57, f"{_AUTHORS}, rate of the gates 1e-2; so too"),
        Published("BB", (12, 23, 128, 40), 0.65, f"{_AUTHORS}, rate of the gates 2e-2; so too"),
        Published("SBP", (10, 18, 128, 38), 0.82, f"{_AUTHORS}, 1e-2"),
        Published("VIB", (12, 18, 82, 34), None, f"{_AUTHORS}, 1e-2"),
        Published("SBP '17", (3, 18, 284, 283), 0.86, _NECLUDOV),
        Published("BC-GNJ", (8, 13, 88, 13), 1.0, _TANG),
        Published("BC-GHS", (5, 10, 76, 16), 1.0, _TANG),
        Published("L0", (20, 25, 45, 462), 0.9, "Tang et al. 2018"),
        Published("L0-sep", (9, 18, 65, 25), 1.0, "Tang et al. 2018"),
    ),
    "lenet5": (
        Published("dense", (6, 16, 400, 120, 84), 13.70, _SPAM),
        Published("SpaM", (4, 10, 250, 72, 84), 12.30, _SPAM),
        Published("SpaM", (3, 7, 175, 48, 84), 13.92, _SPAM),
        Published("SpaM", (2, 5, 125, 36, 84), 14.80, _SPAM),
    ),
}
DATASETS = {"lenet-500-300": "mnist", "lenet5-caffe": "mnist", "lenet5": "fashion-mnist"}  # what each was trained on


def macs(kept: tuple[int, ...]) -> int:
    """Multiply-accumulates: of LeNet-500-300 by three numbers of units, of LeNet-5 by four, of SpaM's by five."""
    convolutions, dense = _layers(kept)
    return sum(weights * pixels for _, weights, pixels in convolutions) + sum(a * b for a, b in dense)


def parameters(kept: tuple[int, ...]) -> int:
    """Weights and biases of the same."""
    convolutions, dense = _layers(kept)
    return sum(weights + channels for channels, weights, _ in convolutions) + sum((a + 1) * b for a, b in dense)


def _layers(kept: tuple[int, ...]) -> tuple[list[tuple[int, int, int]], list[tuple[int, int]]]:
    """Of each convolution the channels, the weights and a channel's pixels; of each dense layer inputs and outputs."""
    if len(kept) == 3:
        return [], list(itertools.pairwise((*kept, 10)))
    conv1, conv2, *dense = kept
    area, pixels = (5**2, 8**2) if len(kept) == 4 else (3**2, 10**2)
    convolutions = [(conv1, 5**2 * conv1, 24**2), (conv2, area * conv1 * conv2, pixels)]
    return convolutions, list(itertools.pairwise((*dense, 10)))


def _points(network: tuple[Published, ...]) -> dict[str, list[tuple[float, float]]]:
    points: dict[str, list[tuple[float, float]]] = {}
    for each in network:
        if each.error is not None:
            points.setdefault(each.method, []).append((each.error, macs(network[0].kept) / macs(each.kept)))
    return points


# By network and method: (error in percent, how many times fewer multiply-accumulates than the dense network).
PUBLISHED = {name: _points(network) for name, network in NETWORKS.items()}


def behind(network: str, dataset: str) -> dict[str, list[tuple[float, float]]]:
    """The points of a network on a dataset, in the form of PUBLISHED[network]; none where nothing was published."""
    return PUBLISHED[network] if DATASETS.get(network) == dataset else {}
