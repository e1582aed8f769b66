"""The networks of the papers, and a perceptron for tables, in plain torch."""

import itertools
from collections import OrderedDict
from collections.abc import Sequence

from torch import nn


def lenet_500_300(in_features: int = 784, num_classes: int = 10) -> nn.Sequential:
    """LeNet-500-300: two hidden layers of rectified units (arXiv 1805.10896).

    Shapes: input `[N, ...]` with `in_features` numbers a datum, output logits `[N, num_classes]`.
    """
    return mlp(in_features, num_classes, (500, 300))


def mlp(in_features: int, num_classes: int, hidden: Sequence[int] = (64, 64)) -> nn.Sequential:
    """A multilayer perceptron: layers of so many rectified units, and one of logits.

    Shapes: input `[N, ...]` with `in_features` numbers a datum, output logits `[N, num_classes]`.
    """
    layers: dict[str, nn.Module] = {"flatten": nn.Flatten()}
    for i, (a, b) in enumerate(itertools.pairwise((in_features, *hidden)), start=1):
        layers |= {f"fc{i}": nn.Linear(a, b), f"relu{i}": nn.ReLU()}
    last = (in_features, *hidden)[-1]
    return nn.Sequential(OrderedDict(layers | {f"fc{len(hidden) + 1}": nn.Linear(last, num_classes)}))


def lenet5_caffe(in_features: int = 784, num_classes: int = 10) -> nn.Sequential:
    """LeNet-5 as Caffe has it, 20-50-800-500, with rectified units (arXiv 1805.10896).

    Shapes: input `[N, ...]` with 784 numbers a datum, an image of 28x28; output logits `[N, num_classes]`.

    Raises:
        ValueError: `in_features` is not 784.
    """
    if in_features != 784:
        raise ValueError(f"in_features is {in_features}: LeNet-5 takes images of 28x28, 784 numbers")
    return nn.Sequential(
        OrderedDict(
            pixels=nn.Flatten(),
            image=nn.Unflatten(1, (1, 28, 28)),
            conv1=nn.Conv2d(1, 20, 5),
            relu1=nn.ReLU(),
            pool1=nn.MaxPool2d(2),
            conv2=nn.Conv2d(20, 50, 5),
            relu2=nn.ReLU(),
            pool2=nn.MaxPool2d(2),
            flatten=nn.Flatten(),
            fc1=nn.Linear(800, 500),
            relu3=nn.ReLU(),
            fc2=nn.Linear(500, num_classes),
        )
    )


def lenet5(num_classes: int = 10) -> nn.Sequential:
    """LeNet-5 with the sizes of LeCun et al. 1998, 6-16-400-120-84, for images of 28x28, with rectified units.

    As the authors of SpaM prune it (arXiv 2402.15978, and its code): the second convolution is 3x3, so that images of
    28x28 leave the 400 numbers that LeNet-5 has of 32x32; of their third convolution, which sees all 5x5 pixels at
    once, the first dense layer is another name. 231,720 multiply-accumulates a datum, without biases.

    Shapes: input `[N, ...]` with 784 numbers a datum, an image of 28x28; output logits `[N, num_classes]`.
    """
    return nn.Sequential(
        OrderedDict(
            pixels=nn.Flatten(),
            image=nn.Unflatten(1, (1, 28, 28)),
            conv1=nn.Conv2d(1, 6, 5),
            relu1=nn.ReLU(),
            pool1=nn.MaxPool2d(2),
            conv2=nn.Conv2d(6, 16, 3),
            relu2=nn.ReLU(),
            pool2=nn.MaxPool2d(2),
            flatten=nn.Flatten(),
            fc1=nn.Linear(400, 120),
            relu3=nn.ReLU(),
            fc2=nn.Linear(120, 84),
            relu4=nn.ReLU(),
            fc3=nn.Linear(84, num_classes),
        )
    )


_VGG16 = (64, 64, "pool", 128, 128, "pool", *(256,) * 3, "pool", *(512,) * 3, "pool", *(512,) * 3, "pool")


def vgg16(num_classes: int = 10, width: float = 1.0) -> nn.Sequential:
    """VGG-16 for images of 3x32x32, with batch norm after each convolution and the one hidden dense layer.

    As arXiv 1805.10896 has it for CIFAR-10: 64-64-128-128-256x3-512x8, the last two 512 the inputs of the dense
    layers. The first layer standardises the colours, by averages of its own.

    Args:
        num_classes: C.
        width: the channels, and the hidden units, as a multiple of those.

    Shapes: input `[N, 3, 32, 32]`, output logits `[N, C]`.

    Raises:
        ValueError: `width` leaves a layer without channels.
    """
    if not 64 * width >= 1:
        raise ValueError(f"width is {width}, wanted at least 1/64")
    layers: OrderedDict[str, nn.Module] = OrderedDict(colours=nn.BatchNorm2d(3, affine=False))
    channels, i = 3, 1
    for step in _VGG16:
        if isinstance(step, str):
            layers[f"pool{i - 1}"] = nn.MaxPool2d(2)
            continue
        before, channels = channels, round(step * width)
        layers[f"conv{i}"] = nn.Conv2d(before, channels, 3, padding=1, bias=False)
        layers[f"bn{i}"], layers[f"relu{i}"] = nn.BatchNorm2d(channels), nn.ReLU()
        i += 1
    layers["flatten"] = nn.Flatten()
    layers["fc1"] = nn.Linear(channels, channels, bias=False)
    layers["bn14"], layers["relu14"] = nn.BatchNorm1d(channels), nn.ReLU()
    layers["fc2"] = nn.Linear(channels, num_classes)
    return nn.Sequential(layers)
