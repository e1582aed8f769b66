"""From a trained run to a small plain network in a file that torch alone can load."""

import io
import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from bbpyro import checkpoint
from bbpyro.checkpoint import CheckpointError
from bbpyro.compaction import Size, UnsupportedModuleError, compact, measure
from bbpyro.prediction import Evaluation, score
from bbpyro.runs.run import Run, plain_network

COMPACT = "compact.pt2"
BATCH_SIZES = (1, 100, 1000)


@dataclass(frozen=True)
class Shrunk:
    """A compacted run.

    Attributes:
        network: the small network.
        scores: of the held-out data, by "mean mask" and "compact".
        sizes: by "original" and "compact".
        file_bytes: of compact.pt2.
        seconds: a call's median time, one thread, by network ("original", "mean mask", "compact") and batch size.
    """

    network: nn.Module
    scores: dict[str, Evaluation]
    sizes: dict[str, Size]
    file_bytes: int
    seconds: dict[str, dict[int, float]]


@torch.no_grad()
def shrink(run: Run) -> Shrunk:
    """Compact a run's network, check it on the held-out data, write compact.pt2 into its folder, and time it.

    Raises:
        CheckpointError: the run is still in pretraining.
        bbpyro.compaction.UnsupportedModuleError: the network cannot be compacted, or the small one does not predict
            the held-out data as the mean mask does; nothing is written then.
    """
    if not run.svi_history:
        raise CheckpointError(f"{run.folder} is still in pretraining: it has nothing to compact yet")
    x, y = run.dataset.x_test, run.dataset.y_test
    example = x[torch.arange(2) % len(x)]  # a copy: of a view the whole of x would be in the file
    small = compact(run.bnn, example)
    outputs = {"mean mask": _in_batches(run.bnn, x), "compact": _in_batches(small, x)}
    difference = (outputs["compact"] - outputs["mean mask"]).abs().max() / outputs["mean mask"].abs().max()
    if not difference <= 1e-5:
        raise UnsupportedModuleError(f"{run.folder}: the compact network is {difference:.1e} off on the held-out data")
    exported = torch.export.export(small, (example,), dynamic_shapes=({0: torch.export.Dim("batch")},))
    file = io.BytesIO()
    torch.export.save(exported, file)
    checkpoint.clear_unfinished(run.folder, COMPACT)
    checkpoint.write_atomic(run.folder / COMPACT, file.getvalue())
    original = plain_network(run.config, run.dataset).eval()
    return Shrunk(
        small,
        {name: score(torch.softmax(output, -1), y) for name, output in outputs.items()},
        {"original": measure(original, example), "compact": measure(small, example)},
        len(file.getvalue()),
        _time({"original": original, "mean mask": run.bnn, "compact": small}, x),
    )


def _in_batches(net: nn.Module, x: Tensor) -> Tensor:
    return torch.cat([net(batch) for batch in x.split(1000)])


def _time(nets: Mapping[str, Callable[[Tensor], Tensor]], x: Tensor) -> dict[str, dict[int, float]]:
    """Medians of interleaved rounds, each of some calls, on one thread."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        times: dict[str, dict[int, list[float]]] = {name: {size: [] for size in BATCH_SIZES} for name in nets}
        for size in BATCH_SIZES:
            batch = x[torch.arange(size) % len(x)]
            calls = max(1, 200 // size)
            for _ in range(15):
                for name, net in nets.items():
                    started = time.perf_counter()
                    for _ in range(calls):
                        net(batch)
                    times[name][size].append((time.perf_counter() - started) / calls)
    finally:
        torch.set_num_threads(threads)
    return {name: {size: statistics.median(each) for size, each in of.items()} for name, of in times.items()}
