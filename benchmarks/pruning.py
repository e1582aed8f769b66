"""LeNet-500-300 pruned as its users would: by magnitude, by network slimming, by a group lasso.

What each method does, and with what budget, benchmarks/pruning_methods.py says, which trains and scores them.
"""

import copy
import functools
import math
import time
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
import torch.nn.functional as F
import torch_pruning as tp
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_linear_bn_eval

from bbpyro.compaction.selection import SelectUnits
from bbpyro.training.inference import constant, cosine

HIDDEN = (500, 300)
NEAR_ZERO = 0.05  # of the largest in its layer: a scale, or a norm of weights, as good as 0
NUM_STEPS = 5  # in which magnitude takes units away


@dataclass(frozen=True)
class Setting:
    """How a method is run.

    Attributes:
        strength: the units to keep, or the penalty's weight.
        dropout: rates of the pixels and of the hidden units.
        learning_rate: Adam's.
        weight_decay: L2 on the mean loss, of the dense layers' weights.
    """

    method: str
    strength: str
    dropout: tuple[float, float]
    learning_rate: float = 1e-3
    weight_decay: float = 1e-4

    def check(self, num_pixels: int) -> None:
        """Raise a ValueError where the strength, or a rate, cannot be."""
        if self.method == "magnitude":
            units(self.strength, num_pixels)
        elif not 0 <= float(self.strength) < math.inf:
            raise ValueError(f"the weight of the penalty is {self.strength}, wanted at least 0")
        if not all(0 <= rate < 1 for rate in self.dropout):
            raise ValueError(f"dropout rates are {self.dropout}, wanted from 0 to below 1")
        if not (self.learning_rate > 0 and self.weight_decay >= 0):
            raise ValueError(f"the learning rate is {self.learning_rate}, the weight decay {self.weight_decay}")

    def __str__(self) -> str:
        rates = "/".join(f"{rate:g}" for rate in self.dropout)
        return f"{self.strength} dropout {rates} rate {self.learning_rate:g} decay {self.weight_decay:g}"


@dataclass(frozen=True, eq=False)
class Training:
    """What the networks of one seed are trained with.

    Attributes:
        x: inputs `[N, pixels]`.
        y: labels `[N]`.
        num_classes: C.
        epochs: of all phases together.
        batch_size: of a step.
        seed: of the first weights, the order of the data and the noise.
        on_epoch: called after each epoch.
    """

    x: Tensor
    y: Tensor
    num_classes: int
    epochs: int
    batch_size: int
    seed: int
    on_epoch: Callable[[], None]


class Scale(nn.Module):
    """A factor of its own for each number of a datum, as network slimming has for channels."""

    def __init__(self, num_features: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(num_features))

    def forward(self, x: Tensor) -> Tensor:
        """The scaled numbers."""
        return x * self.weight


def network(num_pixels: int, num_classes: int, setting: Setting) -> nn.Sequential:
    """LeNet-500-300 with what the method trains it with."""
    layers: OrderedDict[str, nn.Module] = OrderedDict(pixels=SelectUnits(torch.arange(num_pixels)))
    slim = setting.method == "slimming"
    if slim:
        layers["scale"] = Scale(num_pixels)
    width, rate = num_pixels, setting.dropout[0]
    for i, next_width in enumerate((*HIDDEN, num_classes), 1):
        layers[f"dropout{i}"] = nn.Dropout(rate)
        layers[f"fc{i}"] = nn.Linear(width, next_width)
        if i <= len(HIDDEN):
            if slim:
                layers[f"norm{i}"] = nn.BatchNorm1d(next_width)
            layers[f"relu{i}"] = nn.ReLU()
        width, rate = next_width, setting.dropout[1]
    return nn.Sequential(layers)


def dense_layers(net: nn.Module) -> list[nn.Linear]:
    """The network's, in order."""
    return [layer for layer in net.modules() if isinstance(layer, nn.Linear)]


def kept(net: nn.Module) -> list[int]:
    """How many inputs each dense layer has."""
    return [layer.in_features for layer in dense_layers(net)]


def macs(net: nn.Module) -> int:
    """Multiply-accumulates of a datum in the dense layers."""
    return sum(layer.in_features * layer.out_features for layer in dense_layers(net))


@torch.no_grad()
def plain(net: nn.Sequential) -> nn.Sequential:
    """The selection of pixels, dense layers and ReLUs that compute what this network does; scales and norms folded."""
    net = copy.deepcopy(net).eval()
    layers: list[nn.Module] = []
    for layer in net:
        if isinstance(layer, nn.BatchNorm1d):
            before = layers.pop()
            assert isinstance(before, nn.Linear)
            layers.append(fuse_linear_bn_eval(before, layer))
        elif not isinstance(layer, Scale | nn.Dropout):
            layers.append(layer)
    for scale in net.modules():
        if isinstance(scale, Scale):
            dense_layers(nn.Sequential(*layers))[0].weight *= scale.weight
    return nn.Sequential(*layers)


def remove(net: nn.Sequential, alive: Sequence[Tensor]) -> None:
    """Take away, in place, the inputs of each dense layer that are not alive, with all that makes and reads them."""
    first, *others = dense_layers(net)
    keep_pixels(net, alive[0].nonzero().flatten())
    body = after_pixels(net)
    graph = tp.DependencyGraph().build_dependency(body, torch.zeros(2, first.in_features))
    for before, lives in zip((first, *others), alive[1:], strict=False):
        dead = (~lives).nonzero().flatten().tolist()
        if dead:
            graph.get_pruning_group(before, tp.prune_linear_out_channels, dead).prune()


def after_pixels(net: nn.Sequential) -> nn.Sequential:
    """What comes after selection, scale and dropout of the pixels: the part that torch-pruning can follow."""
    layers = list(net)
    return nn.Sequential(*layers[layers.index(dense_layers(net)[0]) :]).eval()


@torch.no_grad()
def keep_pixels(net: nn.Sequential, chosen: Tensor) -> None:
    """Let the network read only some of the pixels that it reads, in place; torch-pruning leaves inputs alone."""
    first = dense_layers(net)[0]
    first.weight = nn.Parameter(first.weight[:, chosen].clone())
    first.in_features = len(chosen)
    for layer in net:
        if isinstance(layer, SelectUnits):
            layer.indices = layer.indices[chosen]
        elif isinstance(layer, Scale):
            layer.weight = nn.Parameter(layer.weight[chosen].clone())


def prune_by_magnitude(net: nn.Sequential, wanted: Sequence[int]) -> None:
    """Leave so many inputs of each dense layer, in place: those of the largest norms."""
    first, *others = dense_layers(net)
    importance = first.weight.detach().norm(dim=0)
    keep_pixels(net, importance.topk(wanted[0]).indices.sort().values)
    # half a unit more, as the pruner rounds down what it keeps
    ratios = {
        layer: 1 - (number + 0.5) / layer.out_features
        for layer, number in zip((first, *others), wanted[1:], strict=False)
        if number < layer.out_features
    }
    pruner = tp.pruner.BasePruner(
        after_pixels(net),
        torch.zeros(2, first.in_features),
        importance=tp.importance.GroupMagnitudeImportance(p=2),
        pruning_ratio_dict=ratios,
        pruning_ratio=0.0,
        ignored_layers=[others[-1]],
    )
    pruner.step()


def sizes(net: nn.Sequential, method: str) -> list[Tensor]:
    """How large each input of each dense layer is: by its scale, or by the norm of the weights that read it."""
    if method == "slimming":
        return [parameter.detach().abs() for parameter in scales(net)]
    return [layer.weight.detach().norm(dim=0) for layer in dense_layers(net)]


def scales(net: nn.Module) -> list[nn.Parameter]:
    """Of the pixels, and of the units of each hidden layer."""
    return [layer.weight for layer in net.modules() if isinstance(layer, Scale | nn.BatchNorm1d)]


def train(
    net: nn.Sequential,
    training: Training,
    setting: Setting,
    between: tuple[float, float],
    schedule: Callable[[float], float],
    penalise: Callable[[], None] | None = None,
) -> None:
    """Train over some of the epochs, from one share of them to another, in place; with a new Adam."""
    x, y, size = training.x, training.y, training.batch_size
    torch.manual_seed(1000 * training.seed + round(100 * between[0]))
    steps_an_epoch = math.ceil(len(x) / size)
    first, last = (round(share * training.epochs * steps_an_epoch) for share in between)
    decayed = [layer.weight for layer in dense_layers(net)]
    others = [p for p in net.parameters() if not any(p is q for q in decayed)]
    groups: list[dict[str, Any]] = [{"params": decayed, "weight_decay": setting.weight_decay}, {"params": others}]
    adam = torch.optim.Adam(groups, lr=setting.learning_rate, fused=True)
    net.train()
    batches: list[Tensor] = []
    for step in range(last - first):
        if not batches:
            batches = list(torch.randperm(len(x)).split(size))
        batch = batches.pop()
        for group in adam.param_groups:
            group["lr"] = setting.learning_rate * schedule(step / (last - first))
        adam.zero_grad()
        F.cross_entropy(net(x[batch]), y[batch]).backward()
        if penalise:
            penalise()
        adam.step()
        if (first + step + 1) % steps_an_epoch == 0:
            training.on_epoch()


def lower_dropout(net: nn.Sequential, setting: Setting, start: Sequence[int]) -> None:
    """Make each dropout rate, in place, the setting's times the share that is left of the units at the start."""
    dropouts = [layer for layer in net if isinstance(layer, nn.Dropout)]
    for i, (dropout, left, of) in enumerate(zip(dropouts, kept(net), start, strict=True)):
        dropout.p = setting.dropout[i > 0] * left / of


def penalty(net: nn.Sequential, setting: Setting) -> Callable[[], None]:
    """What adds the gradient of the method's penalty to the parameters' own."""
    weight = float(setting.strength)

    @torch.no_grad()
    def on_scales() -> None:
        for scale in scales(net):
            assert scale.grad is not None
            scale.grad.add_(scale.sign(), alpha=weight)

    @torch.no_grad()
    def on_groups() -> None:
        for layer in dense_layers(net):
            assert layer.weight.grad is not None
            norms = layer.weight.norm(dim=0).clamp(min=1e-12)
            layer.weight.grad.addcdiv_(layer.weight, norms, value=weight * layer.out_features**0.5)

    return on_scales if setting.method == "slimming" else on_groups


@functools.lru_cache(maxsize=1)
def with_dropout(training: Training, setting: Setting) -> tuple[nn.Sequential, float]:
    """The nn.Dropout network before any pruning, which is the same for all units wanted, and its CPU minutes."""
    began = time.process_time()
    torch.manual_seed(training.seed)
    net = network(training.x.shape[1], training.num_classes, setting)
    train(net, training, setting, (0, 3 / 7), constant)
    return net, (time.process_time() - began) / 60


def by_magnitude(training: Training, setting: Setting) -> tuple[nn.Sequential, float]:
    """The network with nn.Dropout, pruned and fine-tuned, and its CPU minutes."""
    before, minutes = with_dropout(training, replace(setting, strength=""))
    began = time.process_time()
    net = copy.deepcopy(before)
    start, wanted = kept(net), units(setting.strength, training.x.shape[1])
    for step in range(1, NUM_STEPS + 1):
        now = [whole - (whole - few) * step // NUM_STEPS for whole, few in zip(start, wanted, strict=True)]
        prune_by_magnitude(net, now)
        lower_dropout(net, setting, start)
        is_last = step == NUM_STEPS
        between = ((3 + 0.4 * (step - 1)) / 7, 1 if is_last else (3 + 0.4 * step) / 7)
        train(net, training, setting, between, cosine if is_last else constant)
    return net, minutes + (time.process_time() - began) / 60


def by_penalty(training: Training, setting: Setting) -> tuple[nn.Sequential, float]:
    """The network trained with a penalty, pruned and fine-tuned, and its CPU minutes."""
    began = time.process_time()
    torch.manual_seed(training.seed)
    net = network(training.x.shape[1], training.num_classes, setting)
    train(net, training, setting, (0, 4 / 7), cosine, penalty(net, setting))
    start = kept(net)
    remove(net, [size >= NEAR_ZERO * size.max() for size in sizes(net, setting.method)])
    lower_dropout(net, setting, start)
    train(net, training, setting, (4 / 7, 1), cosine)
    return net, (time.process_time() - began) / 60


def units(strength: str, num_pixels: int) -> list[int]:
    """The units to keep, as 336-174-121; a ValueError where they are not."""
    whole = (num_pixels, *HIDDEN)
    wanted = [int(number) if number.isdecimal() else 0 for number in strength.split("-")]
    if len(wanted) != len(whole) or not all(1 <= few <= of for few, of in zip(wanted, whole, strict=True)):
        raise ValueError(f"the units to keep are {strength}, wanted as in 294-110-71, of {'-'.join(map(str, whole))}")
    return wanted


def pruned(training: Training, setting: Setting) -> tuple[nn.Sequential, float]:
    """The plain network that a method ends with, and the CPU minutes that it took."""
    net, minutes = (by_magnitude if setting.method == "magnitude" else by_penalty)(training, setting)
    return plain(net), minutes
