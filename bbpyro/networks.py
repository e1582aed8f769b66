"""The networks of the papers, in plain torch."""

from collections import OrderedDict

from torch import nn


def lenet_500_300(in_features: int = 784, num_classes: int = 10) -> nn.Sequential:
    """LeNet-500-300: two hidden layers of rectified units (arXiv 1805.10896).

    Shapes: input `[N, ...]` with `in_features` numbers a datum, output logits `[N, num_classes]`.
    """
    return nn.Sequential(
        OrderedDict(
            flatten=nn.Flatten(),
            fc1=nn.Linear(in_features, 500),
            relu1=nn.ReLU(),
            fc2=nn.Linear(500, 300),
            relu2=nn.ReLU(),
            fc3=nn.Linear(300, num_classes),
        )
    )


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
