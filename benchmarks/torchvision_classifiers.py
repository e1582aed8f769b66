"""torchvision's classifiers with random weights, and how to make their outputs depend on the image."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

import bbpyro
from bbpyro.data import import_torchvision_datasets

Convolution = nn.Conv1d | nn.Conv2d | nn.Conv3d
BatchNorm = nn.BatchNorm1d | nn.BatchNorm2d | nn.BatchNorm3d


def _torchvision(name: str, pixels: int = 64, **settings: Any) -> tuple[Callable[[], nn.Module], int]:
    def make() -> nn.Module:
        import_torchvision_datasets()  # which makes torchvision work beside a CPU-only torch
        from torchvision.models import get_model

        return get_model(name, weights=None, **settings)

    return make, pixels


NETWORKS = {
    "resnet18": _torchvision("resnet18"),
    "resnet50": _torchvision("resnet50"),
    "wide_resnet50_2": _torchvision("wide_resnet50_2"),
    "resnext50_32x4d": _torchvision("resnext50_32x4d"),
    "googlenet": _torchvision("googlenet", aux_logits=False, init_weights=True),
    "inception_v3": _torchvision("inception_v3", 96, aux_logits=False, init_weights=True),  # it wants 75 at least
    "regnet_y_400mf": _torchvision("regnet_y_400mf"),
    "mobilenet_v2": _torchvision("mobilenet_v2"),
    "mobilenet_v3_small": _torchvision("mobilenet_v3_small"),
    "efficientnet_b0": _torchvision("efficientnet_b0"),
    "mnasnet1_0": _torchvision("mnasnet1_0"),
    "densenet121": _torchvision("densenet121"),
    "convnext_tiny": _torchvision("convnext_tiny"),
    "vit_b_16": _torchvision("vit_b_16", image_size=64),
    "swin_t": _torchvision("swin_t"),
    "maxvit_t": _torchvision("maxvit_t", 224),  # its windows of 7 divide nothing smaller, whatever input_size says
    "alexnet": _torchvision("alexnet"),
    "vgg11_bn": _torchvision("vgg11_bn"),
    "shufflenet_v2_x1_0": _torchvision("shufflenet_v2_x1_0"),
    "squeezenet1_1": _torchvision("squeezenet1_1"),
}


def last_layer(net: nn.Module) -> nn.Module:
    """The classifier, whose units are the answer."""
    return [module for module in net.modules() if isinstance(module, nn.Linear | Convolution)][-1]


@torch.no_grad()
def liven(net: nn.Module, images: Tensor) -> None:
    """Give a gated network, in place, nothing that is 0 or 1 or all alike, and activations that images decide about.

    A network of random weights half of whose units are dead says the same of every image, and no comparison of its
    outputs would find a fault. So each layer is scaled as it is passed, until its outputs differ by about 1 from image
    to image, and batch norms get the statistics of these images, a little off. Their biases are about 1, so that most
    of a ReLU's inputs are above 0: around 0 a deep network is chaotic, and rounding alone moves its outputs by 1e-4.
    """
    norms: list[Any] = [module for module in net.modules() if isinstance(module, BatchNorm)]
    layers: list[Any] = [module for module in net.modules() if isinstance(module, nn.Linear | Convolution)]
    for module in net.modules():
        for name, parameter in module.named_parameters(recurse=False):
            if isinstance(module, bbpyro.BetaBernoulliDropout):
                continue
            if name.endswith("bias"):
                parameter.normal_(*(1, 0.5) if isinstance(module, BatchNorm) else (0, 0.1))
            elif parameter.dim() == 1 or (parameter == parameter.flatten()[0]).all():  # norms, layer scales, new tokens
                is_matrix = isinstance(module, nn.Linear)  # the vision transformer's last one begins as zeros
                nn.init.kaiming_normal_(parameter) if is_matrix else parameter.uniform_(0.5, 1.5)
    handles = [layer.register_forward_hook(scale_to_unit) for layer in layers]
    handles += [norm.register_forward_pre_hook(take_statistics) for norm in norms]
    net(images)
    for handle in handles:
        handle.remove()


def scale_to_unit(layer: Any, inputs: Any, output: Tensor) -> Tensor:
    """A forward hook: scale a layer, and this output of it, so that images differ by about 1 in it."""
    scale = output.std(0).mean().clamp(min=1e-3)
    for parameter in layer.parameters(recurse=False):
        parameter /= scale
    return output / scale


def take_statistics(norm: Any, inputs: tuple[Tensor]) -> None:
    """A forward pre-hook: give a batch norm the statistics of its input, a little off."""
    channels_first = inputs[0].transpose(0, 1).flatten(1)
    off = torch.empty(2, norm.num_features)
    norm.running_mean.copy_(channels_first.mean(1) * off[0].uniform_(0.7, 1.3))
    norm.running_var.copy_(channels_first.var(1).clamp(min=0.01) * off[1].uniform_(0.7, 1.4))
