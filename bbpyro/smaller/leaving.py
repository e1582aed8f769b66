"""What can be left out of a network that is being trained, and what it then reads of its inputs."""

import copy
from collections import deque
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from bbpyro.layers import gates_of
from bbpyro.nests import FAILURES, Nest, call, map_tensors, tensors_of
from bbpyro.structure import Removal, follow_few, largest_removal, without

_MOST_COLUMNS = 4096  # of an input, whose units are followed by a matrix of as many rows
_TOLERANCE = 1e-9  # of the largest output, in float64


class Reading:
    """What a smaller network reads of the inputs: they are flattened, if so said, and lose some columns.

    Args:
        is_flat: whether each datum is one row of numbers.
        columns: of each tensor of the nest, which of its last dimension stay; None: all.
    """

    def __init__(self, is_flat: bool, columns: list[Tensor | None]) -> None:
        self.is_flat, self.columns = is_flat, columns

    def __call__(self, x: Nest) -> Nest:
        """What the network is given in place of `x`."""
        columns = iter(self.columns)

        def read_one(tensor: Tensor) -> Tensor:
            kept = next(columns)
            read = tensor.detach()  # or all steps would share a graph
            read = read.flatten(1) if self.is_flat and read.dim() > 2 else read
            read = read if kept is None else read.index_select(-1, kept.to(read.device))
            return read.requires_grad_(tensor.requires_grad)

        return map_tensors(read_one, x)


class _Reader(nn.Module):
    """A network with a layer in front of each input that hands it on, so that its columns are that layer's units."""

    takes_nests = True

    def __init__(self, net: nn.Module, x: Nest) -> None:
        super().__init__()
        self.net = net
        self.inputs = nn.ModuleDict({str(i): _identity(t) for i, t in enumerate(tensors_of(x)) if _has_columns(t)})

    def forward(self, x: Nest) -> Any:
        places = iter(range(len(list(tensors_of(x)))))

        def hand_on(tensor: Tensor) -> Tensor:
            place = str(next(places))
            return self.inputs[place](tensor) if place in self.inputs else tensor

        return call(self.net, map_tensors(hand_on, x))


def _has_columns(tensor: Tensor) -> bool:
    return tensor.is_floating_point() and tensor.dim() > 1 and 1 < tensor.shape[-1] <= _MOST_COLUMNS


def _identity(like: Tensor) -> nn.Linear:
    layer = nn.Linear(like.shape[-1], like.shape[-1], bias=False, device="meta", dtype=like.dtype)
    layer.weight = nn.Parameter(torch.eye(like.shape[-1], device=like.device, dtype=like.dtype))
    return layer


@torch.no_grad()
def decide(net: nn.Module, shed: Mapping[str, Tensor], example: Nest) -> tuple[Removal, Reading] | None:
    """Which slices of a network's parameters only units read or make that are shed, and what it then reads of x.

    What its weights are just now plays no part, so that the same units always give the same answer: none of them is
    taken for zero. Left out is what :func:`bbpyro.compact` could remove, where the network while it trains would also
    compute the same, and no bias would have to change.

    Args:
        net: the network with its gates.
        shed: by gate, which units are to go, boolean `[K]`.
        example: inputs, a few of them.

    Returns:
        The removal has also the masks z of the gates, and the parameters of their q(π). None where nothing can go, or
        the network cannot be followed, or it keeps numbers of its own from call to call that are no buffers.
    """
    masked = _with_masks(net, shed)
    x = map_tensors(lambda t: t.double() if t.is_floating_point() else t, example)
    try:
        wanted = _outputs(masked, x)
        if _counts_calls(masked, x):
            return None
        flat = map_tensors(lambda t: t.flatten(1) if t.dim() > 2 else t, x)
        is_flat = _computes(masked, flat, wanted)
        given = flat if is_flat else x
        reader = _Reader(masked, given)
        units = follow_few(reader.eval(), given)
    except FAILURES:  # whatever a network raises that wants other numbers or types
        return None
    units.stick_constants()
    for name, gate in gates_of(masked).items():  # of a unit that lives q(π) goes on to be trained
        lives = torch.ones(gate.num_features, dtype=torch.bool) if name not in shed else ~shed[name].cpu()
        units.need(units.slices(f"net.{name}.z", 0)[lives.numpy()])

    def works(some: Any) -> bool:
        removal = _with_gates(units.decide(some), reader)
        read = Reading(is_flat, _columns(reader, removal, given))
        return _computes(without(reader, removal).net, read(x), wanted)

    removal = _with_gates(units.decide(), reader)
    if not works(None):
        allowed, _ = largest_removal(units, works)
        removal = _with_gates(units.decide(allowed), reader)
    reading = Reading(is_flat, _columns(reader, removal, given))
    kept = {name.removeprefix("net."): dims for name, dims in removal.kept.items() if name.startswith("net.")}
    grouped = {name.removeprefix("net."): inputs for name, inputs in removal.grouped.items()}
    return (Removal(kept, grouped, {}), reading) if any(f"{gate}.z" in kept for gate in gates_of(net)) else None


def _with_masks(net: nn.Module, shed: Mapping[str, Tensor]) -> nn.Module:
    """A copy in double precision with z = 0 where units are shed, and other numbers everywhere else."""
    generator = torch.Generator("cpu").manual_seed(0)
    copied = copy.deepcopy(net).double().eval()
    for parameter in copied.parameters():
        noise = torch.randn(parameter.shape, generator=generator, device="cpu", dtype=torch.float64)
        parameter.add_(0.01 * noise.to(parameter.device))
    for name, gate in gates_of(copied).items():
        z = 0.5 + torch.rand(gate.num_features, generator=generator, device="cpu", dtype=torch.float64)
        out = shed.get(name)
        gate.z = (z if out is None else z.masked_fill(out.cpu(), 0.0)).to(gate.like.device)
    return copied


def _with_gates(removal: Removal, net: nn.Module) -> Removal:
    """Also without the parameters of q(π) of the units that go, which have no part in what a network computes."""
    kept = dict(removal.kept)
    for name, gate in gates_of(net).items():
        if f"{name}.z" in kept:
            kept |= {f"{name}.{parameter}": kept[f"{name}.z"] for parameter in gate.unit_parameters}
    return Removal(kept, removal.grouped, removal.shifts)


def _columns(reader: _Reader, removal: Removal, x: Nest) -> list[Tensor | None]:
    found: list[Tensor | None] = []
    for i, _ in enumerate(tensors_of(x)):
        kept = removal.kept.get(f"inputs.{i}.weight", {}).get(0)
        found.append(None if kept is None else torch.from_numpy(kept))
    return found


def _outputs(net: nn.Module, x: Nest) -> list[Tensor]:
    """What a network computes in evaluation, and in training but for layers of torch's own that drop at random."""
    found: list[Tensor] = []
    for is_training in (False, True):
        trial = copy.deepcopy(net).train(is_training)
        for module in trial.modules():
            if isinstance(module, nn.modules.dropout._DropoutNd):
                module.eval()
        with torch.random.fork_rng():
            torch.manual_seed(0)
            found += tensors_of(call(trial, x))
    return found


def _counts_calls(net: nn.Module, x: Nest) -> bool:
    """Whether a call in training changes numbers, tensors or collections of a module's that are no buffers."""
    trial = copy.deepcopy(net).train()
    before = _python_numbers(trial)
    with torch.random.fork_rng():
        call(trial, x)
    return _python_numbers(trial) != before


def _python_numbers(net: nn.Module) -> dict[tuple[str, str], float]:
    found: dict[tuple[str, str], float] = {}
    for name, module in net.named_modules():
        for attribute, value in vars(module).items():
            if isinstance(value, Tensor):
                found[name, attribute] = value.double().sum().item()
            elif isinstance(value, int | float | list | dict | set | deque):
                found[name, attribute] = value if isinstance(value, int | float) else len(value)
    return found


def _computes(net: nn.Module, x: Nest, wanted: list[Tensor]) -> bool:
    """Whether a network has these outputs."""
    try:
        found = _outputs(net, x)
    except FAILURES:
        return False
    return len(found) == len(wanted) and all(map(_is_close, found, wanted))


def _is_close(one: Tensor, other: Tensor) -> bool:
    if one.shape != other.shape or not other.is_floating_point():
        return torch.equal(one, other)
    return bool(((one - other).abs() <= _TOLERANCE * other.abs().max()).all()) if other.numel() else True
