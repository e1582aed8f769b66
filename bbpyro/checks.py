"""What may be wrong with data and settings, each told with its remedy before anything is computed."""

import contextlib
import math
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyro
import torch
from pyro.distributions.torch_distribution import TorchDistributionMixin
from torch import Tensor, nn
from torch.distributions import Distribution, constraints

from bbpyro.layers import BetaBernoulliDropout, device_of
from bbpyro.likelihoods import Likelihood, is_classification

_TRIALS = (2, 3)  # data: a size that follows both is the number of data, and no coincidence
_CASTS = {torch.float32: "float", torch.float64: "double", torch.float16: "half", torch.bfloat16: "bfloat16"}


@dataclass(frozen=True)
class Trial:
    """What a network makes of two data, and which distribution of y the likelihood makes of that."""

    output: Any
    distribution: Any


def check_data(
    net: nn.Module, likelihood: Likelihood, x: Tensor, y: Tensor, num_data: int | None = None, name: str = ""
) -> Trial:
    """Raise a TypeError or ValueError unless x and y are data that `net` can take and `likelihood` describe.

    The network is tried on two and on three data, and left as it was.

    Args:
        net: the network, with gates or without.
        likelihood: from its output to the distribution of y.
        x: inputs `[N, ...]`.
        y: what was observed there, `[N, ...]`.
        num_data: how many data there should be, if that is known.
        name: of the argument that holds both, if they are one.
    """
    x_name, y_name = (f"{name}[0]", f"{name}[1]") if name else ("x", "y")
    _check_some(x_name, x)
    check_tensor(y_name, y)
    if len(y) != len(x):
        raise ValueError(
            f"{x_name} and {y_name}: lengths are {len(x)} and {len(y)}; {y_name} has shape {tuple(y.shape)}, "
            f"wanted one row for each of the {len(x)} data of {x_name}"
        )
    if num_data is not None and len(x) != num_data:
        raise ValueError(f"{x_name}: it holds {len(x)} data but the network was made for num_data={num_data}")
    with as_it_was(net):
        trials = [_try(net, likelihood, x, n, x_name) for n in _TRIALS]
        for trial, n in zip(trials, _TRIALS, strict=True):
            _check_shape(trial, y[_rows(y, n)], n, y_name)
        _check_values(trials[0], y, y_name)
    return trials[0]


def check_inputs(net: nn.Module, likelihood: Likelihood, x: Tensor) -> Trial:
    """The same of x alone."""
    _check_some("x", x)
    with as_it_was(net):
        trials = [_try(net, likelihood, x, n, "x") for n in _TRIALS]
    for trial, n in zip(trials, _TRIALS, strict=True):
        _check_shape(trial, None, n, "y")
    return trials[0]


def _check_some(name: str, x: Tensor) -> None:
    check_tensor(name, x)
    if len(x) == 0:
        raise ValueError(f"{name} has shape {tuple(x.shape)}, wanted at least one datum, [N, ...]")


def check_held_out(net: nn.Module, likelihood: Likelihood, held_out: tuple[Tensor, Tensor] | None) -> None:
    """The same of held-out data, if there are any."""
    if held_out is None:
        return
    if not isinstance(held_out, tuple | list) or len(held_out) != 2:
        raise TypeError(f"held_out is a {type(held_out).__name__}, wanted a pair of tensors, (x, y)")
    check_data(net, likelihood, *held_out, name="held_out")


def check_tensor(name: str, value: Any) -> None:
    """Raise a TypeError or ValueError unless `value` is a dense tensor of finite numbers with a first dimension."""
    if value is None:
        raise TypeError(f"{name} is None, wanted a tensor")
    if not isinstance(value, Tensor):
        raise TypeError(f"{name} is a {type(value).__name__}, wanted a tensor; {_tensor_from(name, value)}")
    if value.is_nested or value.layout != torch.strided:
        kind = "nested" if value.is_nested else str(value.layout).removeprefix("torch.")
        remedy = f"{name}.to_padded_tensor(0.0)" if value.is_nested else f"{name}.to_dense()"
        raise ValueError(f"{name} is a {kind} tensor, wanted a dense one; {remedy} makes one")
    if value.dim() == 0:
        raise ValueError(f"{name} is a single number, wanted a row for each datum, [N, ...]")
    if value.is_complex():
        raise ValueError(f"{name} is complex, wanted real numbers; torch.view_as_real({name}) makes two of each")
    if value.is_floating_point() and not value.is_meta and not bool(value.isfinite().all()):
        raise ValueError(f"{name}: it holds nan or inf; remove or replace those data")


def _tensor_from(name: str, value: Any) -> str:
    """How to make the tensor that was wanted, of what came."""
    module = type(value).__module__.partition(".")[0]
    if isinstance(value, torch.utils.data.DataLoader | torch.utils.data.Dataset):
        dataset = f"{name}.dataset" if isinstance(value, torch.utils.data.DataLoader) else name
        return f"pass the tensors themselves, as in x, y = {dataset}.tensors or torch.stack of its data"
    if isinstance(value, Mapping) or (
        isinstance(value, tuple | list) and any(isinstance(each, Tensor) for each in value)
    ):
        return "give several inputs as one tensor, joined by torch.cat, and split it in the network's forward"
    if module == "pandas":
        return f"torch.as_tensor({name}.to_numpy(copy=True)) makes one, and .float() of it what a network takes"
    return f"torch.as_tensor makes one: torch.as_tensor({name})"


@contextlib.contextmanager
def in_eval_mode(net: nn.Module) -> Iterator[None]:
    """Have a module, and all in it, in evaluation mode for a while."""
    was_training = {module: module.training for module in net.modules()}
    net.eval()
    try:
        yield
    finally:
        for module, training in was_training.items():
            module.training = training


@contextlib.contextmanager
def as_it_was(net: nn.Module) -> Iterator[None]:
    """Compute something by a network without a trace: no gradient, no batch counted, no random number used up."""
    devices = [device_of(net)] if device_of(net).type == "cuda" else []
    with torch.inference_mode(False), torch.no_grad(), torch.random.fork_rng(devices), in_eval_mode(net):
        yield


def _rows(data: Tensor, n: int) -> Tensor:
    """Which rows are the first n data, over again where there are fewer."""
    return torch.arange(n, device=data.device) % len(data)


def _try(net: nn.Module, likelihood: Likelihood, x: Tensor, n: int, name: str) -> Trial:
    if x.is_meta and device_of(net).type != "meta":
        raise ValueError(f"{name} is on the meta device, where tensors hold no numbers; load it onto the CPU or a GPU")
    sample = x[_rows(x, n)]
    seen: list[tuple[str, Any, Tensor]] = []
    gates = {gate: g.removeprefix("net.") for g, gate in net.named_modules() if isinstance(gate, BetaBernoulliDropout)}
    handles = [
        gate.register_forward_pre_hook(lambda gate, args: seen.append((gates[gate], gate, args[0]))) for gate in gates
    ]
    try:
        output = net(sample.to(device_of(net)))
    except (RuntimeError, ValueError, TypeError, IndexError, NotImplementedError) as error:
        raise ValueError(_why_not(net, x, name, error)) from error
    finally:
        for handle in handles:
            handle.remove()
    for gate_name, gate, given in seen:
        _check_gate(gate_name, gate, given, n, x, name)
    return Trial(output, _apply(likelihood, output))


def _check_gate(gate_name: str, gate: Any, given: Tensor, n: int, x: Tensor, name: str) -> None:
    wanted = gate.unconstrained_concentration1.dtype
    if given.dtype == x.dtype != wanted:
        raise ValueError(_wrong_dtype(name, x, wanted))
    if given.dim() < 2 or len(given) != n:
        raise ValueError(
            f"{name}: of {n} data the gate {gate_name!r} gets an input of shape {list(given.shape)}, whose first "
            f"dimension is not the data's; a mask is of one datum, so the network must be batch first, [N, ...], with "
            "time or patches in a dimension of their own (batch_first=True, no transpose before the layer, nothing "
            "folded into the batch)"
        )


def _why_not(net: nn.Module, x: Tensor, name: str, error: Exception) -> str:
    """Why the network failed on x: what a cast would mend is of the wrong dtype."""
    wanted = next((p.dtype for p in net.parameters() if p.is_floating_point()), torch.float32)
    for dtype in (wanted, torch.int64):
        if x.dtype != dtype and _runs(net, x[:1].to(device_of(net), dtype)):
            return _wrong_dtype(name, x, dtype)
    try:
        net(x[:1].to(device_of(net)))
    except Exception as of_one:  # any is a reason, and of one datum it is the shortest
        error = of_one
    if "missing" in str(error) and "positional argument" in str(error):
        return (
            f"{name}: the network's forward wants more than one input ({error}); give them as one tensor, joined by "
            "torch.cat, and split it in forward"
        )
    reason = (str(error).splitlines() or [type(error).__name__])[0]
    return f"{_described(name, x)}, which the network cannot take ({reason}); wanted data like those it was made for"


def _wrong_dtype(name: str, x: Tensor, wanted: torch.dtype) -> str:
    if not wanted.is_floating_point:
        return f"{_described(name, x)}, which the network cannot take: it wants whole numbers; give {name}.long()"
    net = f", or make the network {x.dtype} by net.{_CASTS[x.dtype]}()" if x.dtype in _CASTS else ""
    return (
        f"{_described(name, x)}, which the network cannot take: its own numbers are {wanted}; give "
        f"{name}.{_CASTS.get(wanted, 'float')}(){net}"
    )


def _described(name: str, x: Tensor) -> str:
    return f"{name} has shape [{', '.join(['N', *map(str, x.shape[1:])])}] and dtype {x.dtype}"


def _runs(function: Callable[[Tensor], Any], argument: Tensor) -> bool:
    try:
        function(argument)
    except Exception:  # whatever a network of the user's raises
        return False
    return True


def _apply(likelihood: Any, output: Any) -> Any:
    """The distribution of y given a network's output, if it is one that Pyro knows."""
    example = "a function from the network's output to the distribution of y: lambda output: dist.Normal(output, 1.0)"
    if isinstance(likelihood, nn.modules.loss._Loss):
        raise TypeError(f"likelihood is {likelihood}, a loss; wanted {example}")
    if not callable(likelihood):
        raise TypeError(f"likelihood is a {type(likelihood).__name__}, wanted {example}")
    finite = all(bool(tensor.isfinite().all()) for tensor in tensors_of(output))
    try:
        with pyro.validation_enabled(finite):  # what is not finite is for the first step to report
            distribution = likelihood(output)
    except Exception as error:  # whatever a user's likelihood raises
        reason = " ".join(str(error).split())
        raise ValueError(
            f"likelihood: it fails on the network's output ({type(error).__name__}: {reason[:300]}); wanted {example}, "
            "with parameters in range (a scale or rate by softplus or exp)"
        ) from error
    if isinstance(distribution, Distribution) and not isinstance(distribution, TorchDistributionMixin):
        kind = type(distribution).__name__
        raise TypeError(
            f"likelihood gives torch's {kind}, wanted Pyro's: pyro.distributions.{kind}, with the same arguments"
        )
    if not isinstance(distribution, TorchDistributionMixin):
        raise TypeError(f"likelihood gives a {type(distribution).__name__}, wanted {example}")
    return distribution


def tensors_of(output: Any) -> Iterator[Tensor]:
    """The tensors that a network gives: one, or several in a tuple, a list or a mapping."""
    if isinstance(output, Tensor):
        yield output
    elif isinstance(output, Mapping | tuple | list):
        for each in output.values() if isinstance(output, Mapping) else output:
            yield from tensors_of(each)


def _check_shape(trial: Trial, y: Tensor | None, n: int, name: str) -> None:
    """Raise a ValueError unless y, of n data, is what the likelihood describes, and that one datum a row."""
    d = trial.distribution
    described, batch = tuple(d.batch_shape + d.event_shape), tuple(d.batch_shape)
    shape = described if y is None else tuple(y.shape)
    if described == shape and batch == (n,):
        return
    number = {2: "two", 3: "three"}[n]
    if y is None:
        text = f"likelihood: of {number} data it describes {described} with batch shape {batch}"
    else:
        text = f"{name}: {number} data of it have shape {shape}, but the likelihood describes {described}"
        text += f" with batch shape {batch}"
    text += "; wanted one datum a row, "
    if y is not None and is_classification(d) and y.dim() == 2 and y.shape[1] == d.logits.shape[1] > 1:
        raise ValueError(f"{text}its label; {name} is one-hot, and {name}.argmax(-1) makes labels")
    if y is not None and shape == (*described, 1):
        raise ValueError(f"{text}so give {name}.squeeze(-1)")
    if described == (*shape, 1) or (y is None and len(described) > 1 == described[-1]):
        raise ValueError(
            f"{text}so flatten the network's output, by nn.Flatten(0) as its last layer or output.squeeze(-1) in the "
            f"likelihood (or give {name}[:, None], and the likelihood .to_event(1))"
        )
    if batch == ():
        raise ValueError(
            f"{text}so leave the data out of .to_event() (Categorical wants an output [N, C], and Bernoulli one [N])"
        )
    if described[:1] == (n,) and len(batch) > 1:
        raise ValueError(f"{text}the rest as .to_event({len(batch) - 1})")
    raise ValueError(f"{text}the rest as .to_event()")


def _check_values(trial: Trial, y: Tensor, name: str) -> None:
    """Raise a ValueError unless the likelihood can give all of y a density."""
    d = trial.distribution
    if is_classification(d):
        last = d.logits.shape[-1] - 1
        if not bool((y == y.long()).all()):
            raise ValueError(f"{name} holds labels that are no whole numbers; a regression wants another likelihood")
        if not bool(((y >= 0) & (y <= last)).all()):
            more = "" if last else "; of one output a datum Bernoulli makes two classes, likelihoods.Bernoulli()"
            raise ValueError(f"{name} holds labels {y.min()} to {y.max()}, wanted 0 to {last}{more}")
    else:
        _check_support(d, y, name)
    sample = y[_rows(y, 2)].to(next((t.device for t in tensors_of(trial.output)), y.device))
    try:
        d.log_prob(sample)
    except Exception as error:
        casts = {**{dtype: cast for dtype, cast in _CASTS.items()}, torch.int64: "long"}
        floats = [tensor.dtype for tensor in tensors_of(trial.output) if tensor.is_floating_point()]
        for dtype in (*floats[:1], torch.int64):
            if y.dtype != dtype and _runs(d.log_prob, sample.to(dtype)):
                raise ValueError(
                    f"{name} is {y.dtype}, of which {_kind(d)} has no density; give {name}.{casts[dtype]}()"
                ) from error
        reason = " ".join(str(error).split())[:300]
        raise ValueError(f"{name}: {_kind(d)} gives it no density ({type(error).__name__}: {reason})") from error


def _check_support(distribution: Any, y: Tensor, name: str) -> None:
    try:
        support: Any = distribution.support
        fits = support.check(y)
    except (NotImplementedError, AttributeError, ValueError, RuntimeError, TypeError):
        return  # it has none, or one that differs from datum to datum
    if not bool(fits.all()):
        base = getattr(support, "base_constraint", support)
        rows = fits.reshape(len(y), -1).all(-1)
        wrong = y[int((~rows).nonzero()[0])]
        value = f"{wrong.item():.4g}" if wrong.dim() == 0 else wrong.flatten()[:5].tolist()
        raise ValueError(f"{name} holds {value}, which no {_kind(distribution)} gives; wanted {_in_words(base)}")


def _in_words(support: Any) -> str:
    whole = "whole " if support.is_discrete else ""
    if support is constraints.boolean:
        return "0 or 1"
    if isinstance(support, type(constraints.positive)):
        return f"{whole}numbers above {support.lower_bound:g}"
    if hasattr(support, "upper_bound") and hasattr(support, "lower_bound"):
        return f"{whole}numbers from {support.lower_bound:g} to {support.upper_bound:g}"
    if hasattr(support, "lower_bound"):
        return f"{whole}numbers from {support.lower_bound:g} on"
    return f"what is in {support}"


def _kind(distribution: Any) -> str:
    while isinstance(distribution, torch.distributions.Independent):
        distribution = distribution.base_dist
    return type(distribution).__name__


def check_settings(num_epochs: int, batch_size: int, *learning_rates: float) -> None:
    """Raise a ValueError that names what training cannot go by."""
    if torch.is_inference_mode_enabled():
        raise ValueError("this cannot run under torch.inference_mode(), which knows no gradients; leave it first")
    check_positive(num_epochs=num_epochs, batch_size=batch_size)
    for rate in learning_rates:
        if not 0 < rate < math.inf:
            raise ValueError(f"a learning rate is {rate}, wanted a positive number")


def check_positive(**numbers: int) -> None:
    """Raise a ValueError that names the first number below 1."""
    for name, number in numbers.items():
        if not isinstance(number, int | np.integer) or isinstance(number, bool):
            raise TypeError(f"{name} is {number!r}, wanted a whole number, at least 1")
        if number < 1:
            raise ValueError(f"{name} is {number}, wanted at least 1")


def check_batch_norm(net: nn.Module, num_data: int, batch_size: int) -> None:
    """Raise a ValueError where a minibatch would be one datum, of which nn.BatchNorm1d learns nothing."""
    is_single = batch_size == 1 or num_data % batch_size == 1
    if is_single and any(isinstance(module, nn.BatchNorm1d) for module in net.modules()):
        raise ValueError(
            f"batch_size is {batch_size}: of {num_data} data that leaves a minibatch of one, of which batch norm "
            "learns nothing; choose another"
        )


def check_choice(name: str, value: str, known: Collection[str]) -> None:
    """Raise a ValueError, with the known values, unless `value` is one of them."""
    if value not in known:
        raise ValueError(f"{name} is {value!r}, wanted one of {', '.join(known)}")
