"""What compact() removed, what it left, and why."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import torch
from torch import Tensor, nn

from bbpyro.structure.units import Removal, Units


@dataclass(frozen=True)
class GateReport:
    """What became of one gate's units.

    Attributes:
        units: how many the gate has.
        dead: how many of them E[π] leaves out.
        removed: how many are gone, from the layer that makes them and all that read them; some of them may be alive
            by this gate, where another one let go of them.
        left_out: how many more are left out by a selection in front of the layer.
        reasons: why the other dead ones stay, as zeros, and how many for each reason.
    """

    units: int
    dead: int
    removed: int
    left_out: int
    reasons: Mapping[str, int]


@dataclass(frozen=True)
class Compaction:
    """What compact() did, as the attribute `compaction` of its result.

    Attributes:
        gates: by name of the layer that has the gate.
        kept: by name of a parameter or buffer, and by dimension, the indices of the original that are left, int64;
            whatever is not there is whole. Those of a grouped convolution's inputs are `[groups, kept]`.
        shapes: by name of a parameter or buffer, its shape in the network as it was built, before any compaction.
    """

    gates: Mapping[str, GateReport]
    kept: Mapping[str, Mapping[int, Tensor]] = field(repr=False)
    shapes: Mapping[str, tuple[int, ...]] = field(repr=False)

    def __str__(self) -> str:
        """A table of the gates, as print shows it."""
        width = max((len(name) for name in self.gates), default=5)
        lines = [f"{'layer':{width}}  units   dead  removed  left out  dead ones that stay"]
        for name, gate in self.gates.items():
            why = "; ".join(f"{count}: {reason}" for reason, count in gate.reasons.items())
            lines.append(
                f"{name:{width}} {gate.units:6d} {gate.dead:6d} {gate.removed:8d} {gate.left_out:9d}  {why}".rstrip()
            )
            if gate.dead == gate.units:
                lines.append(f"{name:{width}} has lost all its units: the network may answer the same to every input")
        return "\n".join(lines)


def report_gates(
    masks: Mapping[str, Tensor | None],
    units: Units,
    removal: Removal,
    selected: Mapping[str, Tensor],
    at_fault: Sequence[str],
    round_to: int,
) -> dict[str, GateReport]:
    """What became of each gate's units.

    Args:
        masks: by layer, the mask of its gate, or None where it is never called.
        units: what is known of the network.
        removal: what was removed.
        selected: by layer, which of its inputs are left by a selection.
        at_fault: the parameters whose slices could not go, though nothing seemed to need them.
        round_to: what numbers of units were rounded up to.
    """
    groups = units.groups()
    reasons, needed = units.reasons(groups), units.needed(groups)
    for name in at_fault:
        for dim in range(units.tensors[name].dim()):
            for group in groups[units.slices(name, dim)]:
                reasons.setdefault(int(group), "without it the network computes something else, or fails")
    found = {}
    for name, mask in masks.items():
        weight = f"{name}.weight".lstrip(".")
        dim = 1 if units.tensors[weight].dim() == 2 else 0
        slices = units.slices(weight, dim)
        stays = removal.kept.get(weight, {}).get(dim, np.arange(len(slices)))
        dead = np.zeros(len(slices), bool) if mask is None else (mask == 0).cpu().numpy()
        left = stays if name not in selected else stays[selected[name].cpu().numpy()]
        given_back = "for a round number" if round_to > 1 else "last of its layer, or for groups of equal size"
        known = (
            {} if name in selected else {int(g): "another layer uses it" for g in groups[slices] if needed[g]} | reasons
        )
        why = [known.get(int(groups[slices[k]]), given_back) for k in left[dead[left]]]
        found[name] = GateReport(
            len(slices),
            int(dead.sum()),
            len(slices) - len(stays),
            len(stays) - len(left),
            dict(Counter(why).most_common()),
        )
        if mask is None:
            found[name] = replace(found[name], reasons={"its gate is never called": len(slices)})
    return found


def kept_indices(removal: Removal) -> dict[str, dict[int, Tensor]]:
    """The indices of the original that are left, by name and dimension."""
    kept = {name: {d: torch.from_numpy(i) for d, i in dims.items()} for name, dims in removal.kept.items()}
    for name, grouped in removal.grouped.items():
        kept.setdefault(name, {})[1] = torch.from_numpy(grouped)
    return kept


def built_shapes(plain: nn.Module) -> Mapping[str, tuple[int, ...]]:
    """The shapes of all parameters and buffers as the network was built, whether it is compacted already or not."""
    if isinstance(before := vars(plain).get("compaction"), Compaction):
        return before.shapes
    return {name: tuple(tensor.shape) for name, tensor in every_tensor(plain).items()}


def every_tensor(net: nn.Module) -> dict[str, Tensor]:
    """The parameters and buffers, those that are shared by each of their names."""
    return {**dict(net.named_parameters(remove_duplicate=False)), **dict(net.named_buffers(remove_duplicate=False))}
