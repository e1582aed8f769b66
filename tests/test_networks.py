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


def test_vgg16_is_the_papers():
    net = networks.vgg16(10)
    convolutions = [m for m in net.modules() if isinstance(m, nn.Conv2d)]
    dense = [m for m in net.modules() if isinstance(m, nn.Linear)]
    counted = [*(m.out_channels for m in convolutions), *(m.in_features for m in dense)]
    assert counted == [64, 64, 128, 128, 256, 256, 256, *[512] * 8]  # as published results count them
    assert len([m for m in net.modules() if isinstance(m, nn.BatchNorm2d)]) == len(convolutions) + 1
    assert net(torch.rand(2, 3, 32, 32)).shape == (2, 10)


def test_vgg16_standardises_the_colours():
    colours = networks.vgg16(10, width=1 / 64).train().colours
    images = torch.rand(100, 3, 32, 32) * torch.tensor([0.1, 1.0, 3.0])[:, None, None]
    for _ in range(200):  # of where its averages began, 0.9^200 is left
        colours(images)
    standard = colours.eval()(images).transpose(0, 1).flatten(1)
    assert (standard.mean(1).abs() < 0.01).all() and ((standard.std(1) - 1).abs() < 0.01).all()


def test_a_narrower_vgg16_has_fewer_channels_and_at_least_one():
    net = networks.vgg16(4, width=1 / 64)
    assert [m.out_channels for m in net.modules() if isinstance(m, nn.Conv2d)][:5] == [1, 1, 2, 2, 4]
    with pytest.raises(ValueError, match="width is 0.01, wanted at least 1/64"):
        networks.vgg16(4, width=0.01)
