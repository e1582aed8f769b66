"""The one check of data: a network is tried on a few of them, and left as it was."""

import contextlib
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn

from bbpyro import nests
from bbpyro.checks.likelihood import Trial, apply, check_shape, check_values
from bbpyro.checks.tensors import check_nest, check_tensor, describe, of_wrong_dtype, runs, sample
from bbpyro.families import Gate
from bbpyro.layers import device_of
from bbpyro.likelihoods import Likelihood
from bbpyro.nests import Nest, tensors_of

_TRIALS = (2, 3)  # data: a size that follows both is the number of data, and no coincidence


def check_data(
    net: nn.Module, likelihood: Likelihood, x: Nest, y: Tensor, num_data: int | None = None, name: str = ""
) -> Trial:
    """Raise a TypeError or ValueError unless x and y are data that `net` can take and `likelihood` describe.

    The network is tried on two and on three data, and left as it was.

    Args:
        net: the network, with gates or without.
        likelihood: from its output to the distribution of y.
        x: inputs `[N, ...]`, a tensor or a nest of them.
        y: what was observed there, `[N, ...]`.
        num_data: how many data there should be, if that is known.
        name: of the argument that holds both, if they are one.
    """
    x_name, y_name = (f"{name}[0]", f"{name}[1]") if name else ("x", "y")
    check_device(net)
    check_nest(x_name, x)
    check_tensor(y_name, y)
    found = nests.num_rows(x)
    if len(y) != found:
        is_list = isinstance(x, tuple | list) and len(x) == len(y)
        remedy = f"; torch.stack({x_name}) makes one tensor of one for each datum" if is_list else ""
        raise ValueError(
            f"{x_name} and {y_name}: lengths are {found} and {len(y)}; {y_name} has shape {tuple(y.shape)}, "
            f"wanted one row for each of the {found} data of {x_name}{remedy}"
        )
    if num_data is not None and found != num_data:
        raise ValueError(f"{x_name}: it holds {found} data but the network was made for num_data={num_data}")
    with as_it_was(net):
        trials = _try_all(net, likelihood, x, x_name)
        for trial, n in zip(trials, _TRIALS, strict=True):
            check_shape(trial, sample(y, n), n, y_name)
        check_values(trials[0], y, y_name)
    return trials[0]


def check_inputs(net: nn.Module, likelihood: Likelihood, x: Nest) -> Trial:
    """The same of x alone."""
    check_device(net)
    check_nest("x", x)
    with as_it_was(net):
        trials = _try_all(net, likelihood, x, "x")
    for trial, n in zip(trials, _TRIALS, strict=True):
        check_shape(trial, None, n, "y")
    return trials[0]


def check_held_out(net: nn.Module, likelihood: Likelihood, held_out: tuple[Nest, Tensor] | None) -> None:
    """The same of held-out data, if there are any."""
    if held_out is None:
        return
    if not isinstance(held_out, tuple | list) or len(held_out) != 2:
        raise TypeError(f"held_out is a {type(held_out).__name__}, wanted a pair of tensors, (x, y)")
    check_data(net, likelihood, *held_out, name="held_out")


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


def _try_all(net: nn.Module, likelihood: Likelihood, x: Nest, name: str) -> list[Trial]:
    trials = [_try(net, likelihood, x, n, name) for n in _TRIALS]
    of_batches = any(getattr(module, "track_running_stats", True) is False for module in net.modules())  # so chosen
    is_mixing = not of_batches and _differ(*trials)
    if is_mixing and not _differ(trials[0], _try(net, likelihood, x, _TRIALS[0], name)):  # as by noise of its own
        raise ValueError(
            f"{name}: what the network makes of a datum depends on the others in its batch, as where a recurrent layer "
            "or attention runs over the data; it must be batch first, [N, ...] (batch_first=True)"
        )
    _try_extremes(net, likelihood, x, name)
    return trials


def _try_extremes(net: nn.Module, likelihood: Likelihood, x: Nest, name: str) -> None:
    """Try the data with the smallest and the largest whole number of an input, such as a token that is not known."""
    for place, leaf in nests.leaves(x, name):
        if leaf is None or leaf.dtype not in _WHOLE or not leaf.numel():
            continue
        each = leaf.reshape(len(leaf), -1)
        extremes = torch.stack((each.amin(1).argmin(), each.amax(1).argmax())).cpu()
        try:
            _try(net, likelihood, nests.rows(x, extremes), 2, name)
        except ValueError as error:
            raise ValueError(f"{place} holds {leaf.min()} to {leaf.max()}; {error}") from error


_WHOLE = (torch.int8, torch.int16, torch.int32, torch.int64, torch.uint8)


def _differ(one: Trial, other: Trial) -> bool:
    """Whether two trials make different things of the data that both have, the last ones, by more than rounding."""
    for a, b in zip(tensors_of(one.output), tensors_of(other.output), strict=True):
        if not (a.is_floating_point() and a.dim() and len(a) >= 2 and a.shape[1:] == b.shape[1:]) or len(b) < len(a):
            continue
        tolerance = 3 * torch.finfo(a.dtype).eps ** 0.5 * a.abs().max()
        if bool(((a - b[len(b) - len(a) :]).abs() > tolerance).any()):
            return True
    return False


def check_device(net: nn.Module) -> None:
    """Raise a ValueError where a network's parameters have no numbers."""
    if device_of(net).type != "meta":
        return
    try:
        torch.empty((), device="meta").item()  # does no harm where somebody stands them in for a GPU's
    except RuntimeError:
        raise ValueError(
            "net is on the meta device, where tensors hold no numbers; load_state_dict(…, assign=True) gives it some, "
            'or .to_empty(device="cpu") and then load_state_dict'
        ) from None


def _try(net: nn.Module, likelihood: Likelihood, x: Nest, n: int, name: str) -> Trial:
    for place, leaf in nests.leaves(x, name):
        if leaf is not None and leaf.is_meta:
            raise ValueError(
                f"{place} is on the meta device, where tensors hold no numbers; load it onto the CPU or a GPU"
            )
    seen: list[tuple[str, Any, Tensor]] = []
    gates = {gate: g.removeprefix("net.") for g, gate in net.named_modules() if isinstance(gate, Gate)}
    handles = [
        gate.register_forward_pre_hook(lambda gate, args: seen.append((gates[gate], gate, args[0]))) for gate in gates
    ]
    try:
        output = nests.call(net, nests.to_device(sample(x, n), device_of(net)))
    except nests.FAILURES as error:
        raise ValueError(_why_not(net, x, name, error)) from error
    finally:
        for handle in handles:
            handle.remove()
    for gate_name, gate, given in seen:
        _check_gate(gate_name, gate, given, n, x, name)
    return Trial(output, apply(likelihood, output))


def _check_gate(gate_name: str, gate: Any, given: Tensor, n: int, x: Nest, name: str) -> None:
    wanted = gate.like.dtype
    for place, leaf in nests.leaves(x, name):
        if leaf is not None and given.dtype == leaf.dtype != wanted:
            raise ValueError(of_wrong_dtype(place, leaf, wanted))
    if given.dim() < 2 or len(given) != n:
        raise ValueError(
            f"{name}: of {n} data the gate {gate_name!r} gets an input of shape {list(given.shape)}, whose first "
            f"dimension is not the data's; a mask is of one datum, so the network must be batch first, [N, ...], with "
            "time or patches in a dimension of their own (batch_first=True, no transpose before the layer, nothing "
            "folded into the batch)"
        )


def wrong_dtype(net: nn.Module, x: Nest, name: str) -> str | None:
    """Of an x that `net` failed on, whether a cast of one tensor, or of those of one type, mends it, told with it."""
    float_type = next((p.dtype for p in net.parameters() if p.is_floating_point()), torch.float32)
    datum = _one_datum(net, x)
    if runs(lambda x: nests.call(net, x), datum):  # what it failed on is another datum
        return None
    tensors = [(place, leaf) for place, leaf in nests.leaves(datum, name) if leaf is not None]
    for wanted in (float_type, torch.int64):
        others = [each for each in tensors if each[1].dtype != wanted]
        alike = [[each for each in others if each[1].dtype == other.dtype] for _, other in others]
        for chosen in (*([each] for each in others), *alike):
            if runs(lambda x: nests.call(net, x), _cast(datum, [tensor for _, tensor in chosen], wanted)):
                return of_wrong_dtype(*chosen[0], wanted)
    return None


def _one_datum(net: nn.Module, x: Nest) -> Nest:
    return nests.to_device(nests.rows(x, slice(1)), device_of(net))


def _cast(datum: Nest, chosen: list[Tensor], wanted: torch.dtype) -> Nest:
    ids = set(map(id, chosen))
    return nests.map_tensors(lambda tensor: tensor.to(wanted) if id(tensor) in ids else tensor, datum)


def _why_not(net: nn.Module, x: Nest, name: str, error: Exception) -> str:
    """Why the network failed on x, and what mends it."""
    of_dtype = wrong_dtype(net, x, name)
    if of_dtype:
        return of_dtype
    try:
        nests.call(net, _one_datum(net, x))
    except Exception as of_one:  # any is a reason, and of one datum it is the shortest
        error = of_one
    if isinstance(x, Tensor) and "missing" in str(error) and "argument" in str(error):
        return (
            f"{name}: the network's forward wants more than one input ({error}); give them as a tuple, or as a dict "
            "by its names for them"
        )
    called = "" if isinstance(x, Tensor) else f" as net({_stars(net, x)}{name})"
    return (
        f"{describe(name, x)}, which the network cannot take{called} ({nests.reason_of(error)}); "
        "wanted data like those it was made for"
    )


def _stars(net: Any, x: Nest) -> str:
    return nests.stars(net.net if getattr(net, "takes_nests", False) else net, x)
