"""How far compact() gets on torchvision's classifiers, with random weights, beside torch-pruning.

    python benchmarks/real_networks.py                                  # all networks, both ways: an hour or more
    python benchmarks/real_networks.py resnet18 densenet121 --way free --output table.md

Half of the units of each gate are dead. "free": each gate's die at random. "alike": units that torch-pruning holds for
tied (those of a residual stage, of a depthwise convolution, of squeeze-and-excite) die in all of their gates together,
so that torch-pruning itself could take them away. Weights are random, and so are batch norms, biases, layer scales and
positional embeddings: a fresh network's zeros and ones would hide faults. Layers are scaled so that the outputs depend
on the image, though half of the units are gone.

The columns, a row for each network and way, compact() and torch-pruning each in a process of its own (torch-pruning's
may take five minutes and 8 GiB; where it ends without groups, units that are tied die at random too):

seconds     wall time of compact() in float32, once, on one thread, from an example of two images.
/ tp        that over the wall time of torch-pruning's MagnitudePruner at a ratio of 0.5 on the plain network (graph,
            importance and pruning; it compares nothing afterwards, which compact() does).
memory      how far the process's resident memory rose above where it stood when compact() began, at its highest, as a
            multiple of the plain network's parameters. The kernel counts it (VmHWM), in whole pages: the small network
            that is returned, the activations of the comparisons and what the allocator keeps are all in it, and memory
            that the process already had free is not. Linux only.
left        share of the plain network's parameters that is left, by compact(), or why there is none: "refused" (an
            UnsupportedModuleError), "failed" (any other error), "late" (--timeout).
tp left     the same by torch-pruning; with a ! where its network can no longer be called.
float32     largest |small(x) - bnn(x)| over the largest |bnn(x)|, on four images that compact() has not seen.
float64     the same of another compact(), of the network in double precision: what is not rounding shows here.
!           warnings during compact() in float32.

What was raised or warned is told under the table.
"""

import argparse
import copy
import functools
import gc
import json
import resource
import signal
import subprocess
import sys
import time
import warnings
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
import torch_pruning as tp
from measuring import memory, reset_peak
from torch import Tensor, nn
from torchvision_classifiers import NETWORKS, BatchNorm, Convolution, last_layer, liven

import bbpyro
from bbpyro.compaction import UnsupportedModuleError

WAYS = ("alike", "free")
THEIR_SECONDS, THEIR_BYTES = 300, 8 * 2**30  # of some transformers torch-pruning would take all there is
DEAD = -12.0  # unconstrained; E[π] is then 7e-6


@dataclass
class Theirs:
    """What torch-pruning did; a share is nan, and a time 0, where there is none."""

    seconds: float = 0.0
    left: float = float("nan")
    runs: bool = True
    tied: dict[str, list[int]] = field(default_factory=dict)  # by gate, for each unit: 1 dead, 0 alive, -1 not reached
    notes: list[str] = field(default_factory=list)


@dataclass
class Ours:
    """What compact() did; as above."""

    outcome: str = "done"  # or refused, failed, late
    seconds: float = 0.0
    memory: float = float("nan")
    left: float = float("nan")
    float32: float = float("nan")
    float64: float = float("nan")
    warnings: int = 0
    notes: list[str] = field(default_factory=list)


def measure_ours(name: str, tied: dict[str, list[int]], seed: int) -> Ours:
    """What compact() does with one network."""
    torch.manual_seed(seed)
    make, pixels = NETWORKS[name]
    x, unseen = torch.randn(2, 3, pixels, pixels), torch.randn(4, 3, pixels, pixels)
    plain = make().eval()
    size = sum(parameter.numel() for parameter in plain.parameters())
    bnn = bbpyro.BetaBernoulliNetwork(bbpyro.insert_dropout(plain), num_data=1000).eval()
    del plain
    kill_half(bnn, tied)
    liven(bnn.net, torch.randn(8, 3, pixels, pixels))
    wanted, ours = bnn_output(bnn, unseen), Ours()
    small = compact(bnn, x, ours, 4 * size)
    if small is not None:
        ours.left = sum(parameter.numel() for parameter in small.parameters()) / size
        ours.float32 = difference(small, wanted, unseen)
        ours.notes += what_stays(small)
        del small
        ours.float64 = in_double(bnn, x, unseen, ours)
    return ours


def what_stays(small: Any) -> list[str]:
    """How many dead units stay as zeros, and why."""
    why = Counter[str]()
    for report in small.compaction.gates.values():
        why.update(report.reasons)
    dead = sum(report.dead for report in small.compaction.gates.values())
    return [f"{count:,} of {dead:,} dead units stay: {reason}" for reason, count in why.most_common()]


def measure_theirs(name: str, seed: int) -> Theirs:
    """What torch-pruning does with one network, and half of the units of each of its groups."""
    torch.manual_seed(seed)
    make, pixels = NETWORKS[name]
    x, plain, theirs = torch.randn(2, 3, pixels, pixels), make().eval(), Theirs()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of torch-pruning, about parameters outside of layers
            tie_units(plain, x, theirs)
            prune(plain, x, theirs)
    except Exception as error:  # it may raise anything; what it did until then counts
        theirs.notes.append(f"torch-pruning: {first_line(error)}")
    return theirs


def tie_units(plain: nn.Module, x: Tensor, theirs: Theirs) -> None:
    """Choose half of the units of each group's root; a unit of two groups follows the first."""
    names = {module: name for name, module in plain.named_modules()}
    graph = tp.DependencyGraph().build_dependency(plain, example_inputs=x)
    for group in graph.get_all_groups(ignored_layers=[last_layer(plain)]):
        for name, dying in dead_of_group(graph, group, names).items():
            known = theirs.tied.setdefault(name, dying)
            theirs.tied[name] = [old if old >= 0 else new for old, new in zip(known, dying, strict=True)]


def dead_of_group(graph: Any, group: Any, names: dict[nn.Module, str]) -> dict[str, list[int]]:
    """What half of the root's units are in the gates of the layers that go with it, as `Theirs.tied` has it."""
    modules = [item.dep.target.module for item in group.items]
    num_parts = max([1, *(m.groups for m in modules if isinstance(m, Convolution) and m.groups < m.out_channels)])
    num_units = len(group.items[0].idxs)
    dead = half(num_units // num_parts).repeat(num_parts)  # of a grouped convolution the same in each of its groups
    found: dict[str, list[int]] = {}
    for item, module in zip(group.items, modules, strict=True):
        into = graph.is_in_channel_pruning_fn(item.dep.handler)
        out_of = graph.is_out_channel_pruning_fn(item.dep.handler)  # a batch norm's is either
        gated = into if isinstance(module, nn.Linear) else out_of and isinstance(module, Convolution | BatchNorm)
        if gated and module in names:
            size = module.in_features if isinstance(module, nn.Linear) else channels(module)
            units = found.setdefault(f"{names[module]}.gate", [-1] * size)
            for unit, root in zip(item.idxs, item.root_idxs, strict=True):
                units[unit] = int(dead[root])
    return found


def channels(module: Any) -> int:
    """How many units the gate behind a convolution or a batch norm has."""
    return int(module.num_features if isinstance(module, BatchNorm) else module.out_channels)


def half(num_units: int) -> Tensor:
    """A random half of the units, the smaller one of an odd number, as a boolean `[K]`."""
    return torch.randperm(num_units) < num_units // 2


@torch.no_grad()
def kill_half(bnn: bbpyro.BetaBernoulliNetwork, tied: dict[str, list[int]]) -> None:
    """Half of each gate's units get E[π] near 0, the others 0.9 to 0.99: tied ones as told, others at random."""
    for name, gate in bnn.gates_by_family[0].items():
        told = torch.tensor(tied.get(name, [-1] * gate.num_features))
        dead = torch.where(told >= 0, told == 1, half(gate.num_features))
        gate.unconstrained_concentration1.uniform_(9, 99)  # a; E[π] = a / (1 + a), as b = 1
        gate.unconstrained_concentration1[dead] = DEAD


def prune(plain: nn.Module, x: Tensor, theirs: Theirs) -> None:
    """Let torch-pruning take half of the units of a network, in place."""
    num_before = sum(parameter.numel() for parameter in plain.parameters())
    importance = tp.importance.MagnitudeImportance(p=2)
    started = time.perf_counter()
    tp.pruner.MagnitudePruner(
        plain, x, importance=importance, pruning_ratio=0.5, ignored_layers=[last_layer(plain)]
    ).step()
    theirs.seconds = time.perf_counter() - started
    theirs.left = sum(parameter.numel() for parameter in plain.parameters()) / num_before
    theirs.runs = False
    with torch.no_grad():
        plain(x)
    theirs.runs = True


@torch.no_grad()
def bnn_output(bnn: bbpyro.BetaBernoulliNetwork, x: Tensor) -> Tensor:
    """The mean-mask network's, which must depend on x for a comparison to say anything."""
    output = bnn(x)
    if not (output.isfinite().all() and output.std(0).max() > 0.01 * output.abs().max()):
        raise ValueError("the outputs are not finite, or the same for every image: the weights are no test")
    return output


@torch.no_grad()
def difference(small: nn.Module, wanted: Tensor, x: Tensor) -> float:
    """The largest, relative to the largest output."""
    return float((small(x) - wanted).abs().max() / wanted.abs().max())


def compact(bnn: bbpyro.BetaBernoulliNetwork, x: Tensor, ours: Ours, num_bytes: int) -> nn.Module | None:
    """The small network, with what it cost put into `ours`; None where there is none."""
    gc.collect()
    resident = reset_peak()
    small = None
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        started = time.perf_counter()
        try:
            small = bbpyro.compact(bnn, x)
        except Exception as error:
            ours.outcome = "refused" if isinstance(error, UnsupportedModuleError) else "failed"
            ours.notes.append(f"{ours.outcome}: {first_line(error)}")
        ours.seconds = time.perf_counter() - started
    ours.memory = (memory("VmHWM") - resident) / num_bytes
    ours.warnings = len(caught)
    if caught:
        ours.notes.append(f"{len(caught)} warnings, the first: {first_line(caught[0].message)}")
    return small


def in_double(bnn: bbpyro.BetaBernoulliNetwork, x: Tensor, unseen: Tensor, ours: Ours) -> float:
    """The difference that is left in double precision; nan, with a note, where compact() raises."""
    double = copy.deepcopy(bnn).double()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # counted in the other compact()
            small = bbpyro.compact(double, x.double())
    except Exception as error:
        ours.notes.append(f"in float64: {first_line(error)}")
        return float("nan")
    return difference(small, bnn_output(double, unseen.double()), unseen.double())


def first_line(error: object) -> str:
    """What an error or a warning says, on one line of at most 300 characters."""
    text = str(error).strip().splitlines() or [""]
    kind = "" if isinstance(error, UnsupportedModuleError | Warning) else f"{type(error).__name__}: "
    return f"{kind}{text[0]}"[:300]


# The table.

HEADS = ("network", "way", "seconds", "/ tp", "memory", "left", "tp left", "float32", "float64", "!")
WIDTHS = (18, 5, 7, 6, 6, 7, 7, 7, 7, 2)


def line(cells: tuple[str, ...]) -> str:
    """A row of a Markdown table, 95 characters wide."""
    padded = [
        cell.ljust(width) if place < 2 else cell.rjust(width)
        for place, (cell, width) in enumerate(zip(cells, WIDTHS, strict=True))
    ]
    return f"|{'|'.join(padded)}|"


def header() -> list[str]:
    """The first two lines of the table."""
    rule = ("-" * width if place < 2 else "-" * (width - 1) + ":" for place, width in enumerate(WIDTHS))
    return [line(HEADS), f"|{'|'.join(rule)}|"]


def cells(name: str, way: str, theirs: Theirs, ours: Ours) -> tuple[str, ...]:
    """One row as it is printed."""
    of_theirs = f"{ours.seconds / theirs.seconds:.2f}x" if theirs.seconds and ours.seconds else ""
    their_left = written(theirs.left, "{:.1%}") + "!" * (not theirs.runs)
    left = written(ours.left, "{:.1%}") if ours.outcome == "done" else ours.outcome
    seconds = f"{ours.seconds:.1f}" if ours.seconds else ""
    differences = (written(ours.float32, "{:.0e}"), written(ours.float64, "{:.0e}"))
    told = (written(ours.memory, "{:.1f}x"), left, their_left, *differences, str(ours.warnings or ""))
    return (name, way, seconds, of_theirs, *told)


def written(number: float, how: str) -> str:
    """The number, or nothing for nan."""
    return "" if number != number else how.format(number)


@functools.cache
def theirs_apart(name: str, seed: int) -> Theirs:
    """What torch-pruning does by a process of its own, which may take all the time and memory there is."""
    try:
        return Theirs(**by_process(name, "theirs", seed, {}, THEIR_SECONDS))
    except (RuntimeError, TimeoutError) as error:
        return Theirs(notes=[f"torch-pruning: {error}"])


def ours_apart(name: str, tied: dict[str, list[int]], seed: int, timeout: float) -> Ours:
    """What compact() does by a process of its own."""
    try:
        return Ours(**by_process(name, "ours", seed, tied, timeout))
    except TimeoutError as error:
        return Ours("late", notes=[f"late: {error}"])
    except RuntimeError as error:
        return Ours("failed", notes=[f"failed: {error}"])


def by_process(name: str, part: str, seed: int, tied: dict[str, list[int]], timeout: float) -> dict[str, Any]:
    """Measure a part by a process of its own; raises a TimeoutError or a RuntimeError that says how it ended."""
    command = [sys.executable, __file__, name, "--part", part, "--seed", str(seed)]
    try:
        done = subprocess.run(command, input=json.dumps(tied), capture_output=True, text=True, timeout=timeout)
    except subprocess.TimeoutExpired:
        raise TimeoutError(f"not done in {timeout:.0f} s") from None
    if done.returncode < 0:
        raise RuntimeError(f"killed by {signal.Signals(-done.returncode).name}")
    if done.returncode:
        raise RuntimeError((done.stderr.strip().splitlines() or [f"exit status {done.returncode}"])[-1][:300])
    return dict(json.loads(done.stdout.splitlines()[-1]))


def measure_here(name: str, part: str, seed: int) -> None:
    """What such a process does: measure, and print it as JSON."""
    torch.set_num_threads(1)
    if part == "ours":
        print(json.dumps(asdict(measure_ours(name, json.load(sys.stdin), seed))))
        return
    resource.setrlimit(resource.RLIMIT_DATA, (THEIR_BYTES, THEIR_BYTES))
    print(json.dumps(asdict(measure_theirs(name, seed))))


def main() -> None:
    """Print the table, and write it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("networks", nargs="*", metavar="NETWORK", help=f"of {', '.join(NETWORKS)}; by default all")
    parser.add_argument("--way", choices=(*WAYS, "both"), default="both", help="how units die")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--jobs", type=int, default=1, help="processes at once, of one thread each")
    parser.add_argument("--timeout", type=float, default=3600, help="seconds for one row")
    parser.add_argument("--output", type=Path, help="Markdown file for the table and its notes")
    parser.add_argument("--part", choices=("ours", "theirs"), help=argparse.SUPPRESS)  # see measure_here
    options = parser.parse_args()
    names = options.networks or list(NETWORKS)
    if unknown := [name for name in names if name not in NETWORKS]:
        parser.error(f"no network {unknown[0]!r}; there are {', '.join(NETWORKS)}")
    if options.part:
        return measure_here(names[0], options.part, options.seed)
    lines, notes = header(), []
    print(*lines, sep="\n", flush=True)
    cases = [(name, way) for name in names for way in (WAYS if options.way == "both" else (options.way,))]

    def measure(case: tuple[str, str]) -> tuple[Theirs, Ours]:
        theirs = theirs_apart(case[0], options.seed)
        return theirs, ours_apart(case[0], theirs.tied if case[1] == "alike" else {}, options.seed, options.timeout)

    with ThreadPoolExecutor(options.jobs) as pool:
        for (name, way), (theirs, ours) in zip(cases, pool.map(measure, cases), strict=True):
            lines.append(line(cells(name, way, theirs, ours)))
            print(lines[-1], flush=True)
            notes += [f"- {name}, {way}: {note}" for note in theirs.notes + ours.notes]
            if options.output:
                options.output.write_text("\n".join([*lines, "", *notes]).strip() + "\n")
    print("", *notes, sep="\n")


if __name__ == "__main__":
    main()
