"""From a trained run to a small plain network in files that need nothing of ours, and what it costs."""

import contextlib
import copy
import dataclasses
import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from rich.console import Console
from torch import Tensor, nn

from bbpyro import checkpoint, export, training
from bbpyro.compaction import TOLERANCE, Compaction, Size, UnsupportedModuleError, compact, measure, tolerance
from bbpyro.nests import FAILURES
from bbpyro.prediction import score
from bbpyro.runs.config import AUGMENTATIONS
from bbpyro.runs.limits import MAX_EPOCHS
from bbpyro.runs.lock import hold
from bbpyro.runs.origins import plain_network
from bbpyro.runs.run import Run, clear_artefacts

BATCH_SIZES = (1, 100, 1000)
FINETUNE_LEARNING_RATE = 1e-4
_SECONDS_A_BATCH_SIZE = 10.0

Network = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class Row:
    """What one form of the network costs and how well it predicts; None where that is not known.

    Attributes:
        size: its parameters and multiply-accumulates.
        file_bytes: of the file that holds it.
        error: of the held-out data, in [0, 1].
        nll: of the held-out data, nats a datum.
        seconds: a call's median time on one thread, by batch size.
    """

    size: Size | None
    file_bytes: int | None
    error: float | None
    nll: float | None
    seconds: dict[int, float]


@dataclass(frozen=True)
class Shrunk:
    """A compacted run.

    Attributes:
        network: the small network, fine-tuned if that was asked for.
        rows: by name, "original" the first.
        files: the bytes of those written, by name.
        missing: why others could not be written, by name.
        compaction: what was removed, and what was left.
    """

    network: nn.Module
    rows: dict[str, Row]
    files: dict[str, int]
    missing: dict[str, str]
    compaction: Compaction


@dataclass(frozen=True)
class _Form:
    """A form of the network: how it is called, the torch module that it is, the file that holds it."""

    call: Network
    module: nn.Module | None = None
    file: bytes | None = None


def shrink(
    run: Run, *, finetune_epochs: int = 0, int8: bool = False, round_to: int = 1, console: Console | None = None
) -> Shrunk:
    """Compact a run's network, check it on the held-out data, write it in every form, and time it.

    Written are compact.safetensors (:func:`bbpyro.load_compact`), compact.pt2 (torch alone) and, where the extra `onnx`
    is installed, compact.onnx (ONNX Runtime alone), the last two of a network that torch can export; they replace what
    an earlier call wrote.

    Args:
        run: the run.
        finetune_epochs: epochs of plain training of the small network, after it was checked.
        int8: write compact-int8.onnx too, with weights of eight bits.
        round_to: leave a multiple of this many units in each layer, as :func:`bbpyro.compact` does.
        console: where progress is shown.

    Raises:
        CheckpointError: the run is still in pretraining.
        UnsupportedModuleError: the network cannot be compacted, or the small one, or ONNX Runtime's, predicts the
            held-out data otherwise; nothing is written then.
        ValueError: finetune_epochs < 0, round_to < 1, `int8` without the extra `onnx`, or a process trains the run.
    """
    if not 0 <= finetune_epochs <= MAX_EPOCHS:
        raise ValueError(f"finetune_epochs is {finetune_epochs}, wanted 0 or more, at most {MAX_EPOCHS:,}")
    if round_to < 1:
        raise ValueError(f"round_to is {round_to}, wanted 1 or more")
    if int8:
        export.require_onnx()
    run.check_gates("it has nothing to compact yet")
    with hold(run.folder):
        return _shrink(run, finetune_epochs, int8, round_to, console)


def _shrink(run: Run, finetune_epochs: int, int8: bool, round_to: int, console: Console | None) -> Shrunk:
    x = run.dataset.x_test
    example = x[torch.arange(2) % len(x)]  # a copy: of a view the whole of x would be in the file
    run = dataclasses.replace(run, bnn=copy.deepcopy(run.bnn).cpu())
    original = plain_network(run.config, run.dataset).eval()
    with _stage(console, "compacting"):
        small = compact(run.bnn, example, round_to=round_to)
        _check_equal(small, run.bnn, x, small, f"{run.folder}: the compact network")
    forms = {"original": _plain(original), "mean mask": _Form(run.bnn), "compact": _plain(small)}
    if finetune_epochs:
        small = _finetuned(run, small, finetune_epochs, console)
        forms["fine-tuned"] = _plain(small)
    with _stage(console, "exporting"):
        files, missing = _files(small, example, int8)
        for name, form in (("compact.onnx", "ONNX Runtime"), ("compact-int8.onnx", "ONNX Runtime, int8")):
            if name in files:
                forms[form] = _Form(export.onnx_network(files[name]), file=files[name])
        if "ONNX Runtime" in forms:
            _check_equal(forms["ONNX Runtime"].call, small, x, small, f"{run.folder}: ONNX Runtime's network")
    _write(run, files)
    seconds = _time({name: form.call for name, form in forms.items()}, x, console)
    with _stage(console, "scoring"):
        rows = {name: _row(name, form, run, seconds[name]) for name, form in forms.items()}
    report: Any = small.compaction
    return Shrunk(small, rows, {name: len(content) for name, content in files.items()}, missing, report)


def _files(small: nn.Module, example: Tensor, int8: bool) -> tuple[dict[str, bytes], dict[str, str]]:
    """The files that can be made, and why others cannot."""
    made: dict[str, Callable[[], bytes]] = {
        export.COMPACT: lambda: export.to_safetensors(small),
        "compact.pt2": lambda: export.to_pt2(small, example),
        "compact.onnx": lambda: export.to_onnx(small, example),
    }
    files, missing = {}, {}
    if not export.has_onnx():
        del made["compact.onnx"]
        missing["compact.onnx"] = export.ONNX_WANTS
    for name, make in made.items():
        try:
            files[name] = make()
        except UnsupportedModuleError as error:
            missing[name] = str(error)
    if int8 and "compact.onnx" in files:
        files["compact-int8.onnx"] = export.to_int8(files["compact.onnx"])
    return files, missing


def _stage(console: Console | None, text: str) -> contextlib.AbstractContextManager[object]:
    return console.status(text) if console else contextlib.nullcontext()


def _plain(net: nn.Module) -> _Form:
    try:
        return _Form(net, net, export.to_safetensors(net))
    except UnsupportedModuleError:  # a user's own before compaction, whose forward no file of tensors holds
        return _Form(net, net, checkpoint.serialize(net.state_dict(), {}))


@torch.no_grad()
def _in_batches(call: Network, x: Tensor) -> Tensor:
    return torch.cat([call(batch) for batch in x.split(1000)])


def _check_equal(found: Network, wanted: Network, x: Tensor, small: nn.Module, what: str) -> None:
    """Raise an UnsupportedModuleError where two forms differ by more than the small network's rounding accounts for."""
    difference = _difference(_in_batches(found, x), _in_batches(wanted, x))
    if not (difference <= TOLERANCE or difference <= tolerance(_rounding(small, x))):
        raise UnsupportedModuleError(f"{what} is {difference:.1e} off on the held-out data; nothing was written")


def _difference(found: Tensor, wanted: Tensor) -> float:
    return float((found - wanted).abs().max() / wanted.abs().max())


def _rounding(net: nn.Module, x: Tensor) -> float:
    """By how much of its largest output a network differs from itself in double precision; 0 if it cannot run so."""
    exact = copy.deepcopy(net).double()
    try:
        return _difference(_in_batches(net, x), _in_batches(exact, x.double() if x.is_floating_point() else x))
    except FAILURES:  # of one that makes numbers of a precision of its own
        return 0.0


def _finetuned(run: Run, small: nn.Module, num_epochs: int, console: Console | None) -> nn.Module:
    tuned = copy.deepcopy(small).to(run.config.torch_device())
    training.pretrain(
        tuned,
        run.dataset.x,
        run.dataset.y,
        num_epochs=num_epochs,
        batch_size=run.config.batch_size,
        learning_rate=FINETUNE_LEARNING_RATE,
        schedule="cosine",
        augment=AUGMENTATIONS[run.config.augmentation],
        precision=run.config.precision,
        seed=run.config.seed,
        phase="fine-tuning",
        progress=console or False,
    )
    return tuned.eval().cpu()


def _write(run: Run, files: Mapping[str, bytes]) -> None:
    clear_artefacts(run.folder)  # all of them first: what is there together is of one network
    for name, content in files.items():
        checkpoint.write_atomic(run.folder / name, content)


def _row(name: str, form: _Form, run: Run, seconds: dict[int, float]) -> Row:
    size = measure(form.module, run.dataset.x_test[:2]) if form.module else None
    file_bytes = len(form.file) if form.file else None
    if name != "original":
        found = score(torch.softmax(_in_batches(form.call, run.dataset.x_test), -1), run.dataset.y_test)
        return Row(size, file_bytes, found.error, found.nll, seconds)
    before = [record for record in run.history if record["phase"] == "pretraining"]  # SVI goes on from the last
    error, nll = (1 - before[-1]["held_out_accuracy"], before[-1]["held_out_nll"]) if before else (None, None)
    return Row(size, file_bytes, error, nll, seconds)


@torch.no_grad()
def _time(nets: Mapping[str, Network], x: Tensor, console: Console | None) -> dict[str, dict[int, float]]:
    """Medians of interleaved rounds, each of some calls, on one thread."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        medians: dict[str, dict[int, float]] = {name: {} for name in nets}
        for size in BATCH_SIZES:
            with _stage(console, f"timing batches of {size}"):
                for name, seconds in _rounds(nets, x[torch.arange(size) % len(x)], max(1, 200 // size)).items():
                    medians[name][size] = statistics.median(seconds)
    finally:
        torch.set_num_threads(threads)
    return medians


def _rounds(nets: Mapping[str, Network], batch: Tensor, calls: int) -> dict[str, list[float]]:
    times: dict[str, list[float]] = {name: [] for name in nets}
    began = time.perf_counter()
    for _ in range(15):
        for name, net in nets.items():
            started = time.perf_counter()
            for _ in range(calls):
                net(batch)
            times[name].append((time.perf_counter() - started) / calls)
        if time.perf_counter() - began > _SECONDS_A_BATCH_SIZE:
            break
    return times
