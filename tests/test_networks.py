import pytest
import torch
from torch import nn

import bbpyro
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


@pytest.mark.parametrize("shape", [(5, 28, 28), (5, 784), (5, 1, 28, 28)])
def test_the_small_lenet5_is_6_16_400_120_84_of_images_in_any_shape(shape):
    net = networks.lenet5(3)
    assert net(torch.rand(shape)).shape == (5, 3)
    gates = bbpyro.insert_dropout(net).state_dict()
    units = {name.split(".")[0]: len(tensor) for name, tensor in gates.items() if name.endswith("concentration1")}
    assert units == {"conv1": 6, "conv2": 16, "fc1": 400, "fc2": 120, "fc3": 84}


def multiply_accumulates(net):
    """Of one image, layer by layer, biases left out."""
    counts = {}
    for name, layer in net.named_modules():
        if isinstance(layer, nn.Linear | nn.Conv2d):
            layer.register_forward_hook(
                lambda m, _, y, name=name: counts.update({name: y[0].numel() * m.weight[0].numel()})
            )
    net(torch.rand(1, 28, 28))
    return counts


def test_the_small_lenet5_costs_what_spams_does():
    assert multiply_accumulates(networks.lenet5()) == {
        "conv1": 86_400,  # 24·24·6·25
        "conv2": 86_400,  # 10·10·16·(6·9)
        "fc1": 48_000,
        "fc2": 10_080,
        "fc3": 840,
    }  # 231,720, as SpaM's logs have it


@pytest.mark.parametrize(
    ("channels", "macs"), [((5, 13, 96), 170_604), ((4, 10, 72), 118_488), ((3, 7, 48), 75_372), ((2, 5, 36), 46_164)]
)
def test_spams_sparse_networks_are_this_one_with_fewer_channels(channels, macs):
    net, (first, second, third) = networks.lenet5(), channels
    net.conv1, net.conv2 = nn.Conv2d(1, first, 5), nn.Conv2d(first, second, 3)
    net.fc1, net.fc2 = nn.Linear(25 * second, third), nn.Linear(third, 84)
    assert sum(multiply_accumulates(net).values()) == macs


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
