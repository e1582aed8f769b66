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
