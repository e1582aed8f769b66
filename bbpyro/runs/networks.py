"""The networks that runs are made of: those with a name, and the user's own."""

import copy
import inspect
import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from bbpyro import networks
from bbpyro.checks import in_eval_mode
from bbpyro.families import Gate
from bbpyro.priors.spelled import is_path, parse

# From the shape of one input and the number of classes.
NETWORKS: dict[str, Callable[[Sequence[int], int], nn.Module]] = {
    "lenet-500-300": lambda shape, num_classes: networks.lenet_500_300(math.prod(shape), num_classes),
    "mlp-64-64": lambda shape, num_classes: networks.mlp(math.prod(shape), num_classes),
    "lenet5-caffe": lambda shape, num_classes: _lenet5_caffe(shape, num_classes),
    "lenet5": lambda shape, num_classes: _lenet5(shape, num_classes),
    "vgg16": lambda shape, num_classes: _vgg16(shape, num_classes),
}
OF_FEW_DATA = "mlp-64-64"  # by default; the units of a larger one cost more nats than few data can tell
# Where a network's own settings differ from the defaults; chosen on a validation split, vgg16's in a test size only.
RECIPES: dict[str, dict[str, Any]] = {
    "lenet5-caffe": {
        "initial_keep_probability": 0.95,
        "gate_learning_rate": 0.05,
        "kl_start": (("conv1*", 400.0), ("conv2*", 120.0), ("fc*", 20.0)),
        "kl_warmup_epochs": 6,
    },
    "lenet5": {
        "dataset": "fashion-mnist",
        "epochs": 40,
        "batch_size": 200,
        "learning_rate": 1.5e-3,
        "initial_keep_probability": 0.95,
        "gate_learning_rate": 0.05,
        "kl_start": (("conv1*", 1500.0), ("conv2*", 500.0), ("fc*", 30.0)),
        "kl_warmup_epochs": 6,
    },
    "vgg16": {"dataset": "cifar10", "augmentation": "crop-flip", "initial_keep_probability": 0.97},
}


def check_name(name: str) -> None:
    """Raise a ValueError unless this names a network, or spells module:name, which can be imported."""
    if is_path(name):
        _imported(name)
    elif name not in NETWORKS:
        raise ValueError(f"network is {name!r}, wanted one of {', '.join(NETWORKS)}, or module:name for one of yours")


def make(name: str, shape: Sequence[int], num_classes: int) -> nn.Module:
    """A network without gates, its weights drawn from torch's global generator.

    Args:
        name: of a network, or module:name of an nn.Module, or of what makes one: it is called without arguments if it
            needs none, else with the next two.
        shape: of one input.
        num_classes: C.

    Raises:
        ValueError: it cannot be made for these, or is none.
    """
    if name in NETWORKS:
        return NETWORKS[name](shape, num_classes)
    found = _imported(name)
    if isinstance(found, nn.Module):
        return copy.deepcopy(found)
    wanted = "wanted an nn.Module, or what gives one without arguments, or of a shape and a number of classes"
    if not callable(found):
        raise ValueError(f"network: {name!r} is a {type(found).__name__}, {wanted}")
    try:
        made: Any = found() if _needs_nothing(found) else found(tuple(shape), num_classes)
    except Exception as error:  # whatever the user's code does
        raise ValueError(
            f"network: {name!r} fails for inputs of shape {list(shape)} and {num_classes} classes "
            f"({type(error).__name__}: {error}); {wanted}"
        ) from error
    if not isinstance(made, nn.Module):
        raise ValueError(f"network: {name!r} gives a {type(made).__name__}, {wanted}")
    return made


def check_output(name: str, net: nn.Module, x: Tensor, num_classes: int) -> None:
    """Raise a ValueError unless a network of the user's own makes a number a class of the data x `[N, ...]`."""
    if any(isinstance(module, Gate) for module in net.modules()):
        raise ValueError(
            f"network: {name!r} has gates already; wanted it without, for bbpyro puts them in; a tied one is "
            "trained from Python"
        )
    shape = ", ".join(map(str, ("N", *x.shape[1:])))
    try:
        with torch.no_grad(), in_eval_mode(net):
            output: Any = net(x)
    except Exception as error:
        reason = " ".join(f"{type(error).__name__}: {error}".split())
        raise ValueError(f"network: {name!r} cannot take inputs of shape [{shape}] ({reason})") from error
    if not isinstance(output, Tensor) or output.shape != (len(x), num_classes):
        got = list(output.shape) if isinstance(output, Tensor) else type(output).__name__
        raise ValueError(
            f"network: {name!r} makes {got} of {len(x)} inputs, wanted [{len(x)}, {num_classes}], a number a class"
        )


def describe(net: nn.Module, x: Tensor) -> dict[str, Any]:
    """What tells one network from another, as JSON can hold it: its layers, and what it makes of the data x."""
    with torch.no_grad(), torch.random.fork_rng(devices=[]):
        outputs = []
        for training in (False, True):
            torch.manual_seed(0)
            outputs += copy.deepcopy(net).train(training)(x).flatten().tolist()
    return {
        "layers": str(net),
        "tensors": {name: list(tensor.shape) for name, tensor in net.state_dict().items()},
        "outputs": outputs,
    }


def _imported(name: str) -> Any:
    try:
        return parse(name, {})
    except ValueError as error:
        raise ValueError(f"network: {error}") from None


def _needs_nothing(make: Callable[..., Any]) -> bool:
    try:
        inspect.signature(make).bind()
    except (TypeError, ValueError):  # ValueError: of what is written in C nothing is known
        return False
    return True


def _lenet5_caffe(shape: Sequence[int], num_classes: int) -> nn.Module:
    _check_28x28("lenet5-caffe", shape)
    return networks.lenet5_caffe(784, num_classes)


def _lenet5(shape: Sequence[int], num_classes: int) -> nn.Module:
    _check_28x28("lenet5", shape)
    return networks.lenet5(num_classes)


def _check_28x28(name: str, shape: Sequence[int]) -> None:
    if tuple(shape) not in ((28, 28), (1, 28, 28), (784,)):
        raise ValueError(f"network: {name} takes images of shape [28, 28], but the data have {list(shape)}")


def _vgg16(shape: Sequence[int], num_classes: int) -> nn.Module:
    if tuple(shape) != (3, 32, 32):
        raise ValueError(f"network: vgg16 takes images of shape [3, 32, 32], but the data have {list(shape)}")
    return networks.vgg16(num_classes)
