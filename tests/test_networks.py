import pytest
import torch
from torch import nn

from bbpyro import networks


def test_lenet_500_300_takes_any_inputs_and_classes():
    net = networks.lenet_500_300(12, 3)
    assert net(torch.rand(5, 3, 4)).shape == (5, 3)
    assert [m.out_features for m in net.modules() if isinstance(m, nn.Linear)] == [500, 300, 3]


@pytest.mark.parametrize("shape", [(5, 28, 28), (5, 784), (5, 1, 28, 28)])
def test_lenet5_is_20_50_800_500_of_images_in_any_shape(shape):
    net = networks.lenet5_caffe(784, 3)
    assert net(torch.rand(shape)).shape == (5, 3)
    assert [m.out_channels for m in net.modules() if isinstance(m, nn.Conv2d)] == [20, 50]
    assert [m.in_features for m in net.modules() if isinstance(m, nn.Linear)] == [800, 500]


def test_lenet5_says_what_images_it_takes():
    with pytest.raises(ValueError, match="in_features is 64: LeNet-5 takes images of 28x28"):
        networks.lenet5_caffe(64)
