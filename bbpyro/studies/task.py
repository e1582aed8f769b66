"""One run of a study, in whatever process it may be: trained from where it stopped, scored, and kept."""

import contextlib
import copy
import dataclasses
import json
import os
import threading
import time
import traceback
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import filelock
import torch

from bbpyro import checkpoint, posterior, runs, training
from bbpyro.checkpoint import CheckpointError
from bbpyro.compaction import compact, measure
from bbpyro.studies import pretraining

RESULT = "result.json"
LOO = "loo.nc"
NUM_SAMPLES = 100
MEASURED = (
    "error",
    "nll",
    "ece",
    "nll_monte_carlo",
    "kept",
    "total",
    "macs_left",
    "parameters_left",
    "elbo",
    "elpd_loo",
    "seconds",
    "scored_on",
)
_WATCH = "watch of the study's process"


def result(folder: Path, config: runs.TrainConfig) -> dict[str, Any] | None:
    """What came out of a run of a study; None where it is not trained and scored yet, or not whole.

    Raises:
        CheckpointError: it is of other settings; or it is of before multiply-accumulates were counted, and what they
            would be counted of is gone.
    """
    try:
        found: dict[str, Any] = json.loads((folder / RESULT).read_text(encoding="utf-8"))
        made_with = runs.TrainConfig.from_json(runs.as_written(found["config"]))
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None
    if made_with != config:
        differ = [f.name for f in dataclasses.fields(config) if getattr(made_with, f.name) != getattr(config, f.name)]
        raise CheckpointError(
            f"run {folder} was made with another {', '.join(differ)} than the study has; restore study.json, or delete "
            "the run's folder to train it again"
        )
    is_older = "flops_left" in found and "macs_left" not in found
    scores = set(MEASURED) - ({"macs_left"} if is_older else set())
    is_whole = set(found) >= scores and all((folder / name).is_file() for name in (LOO, "metrics.jsonl"))
    if not is_whole:
        return None
    return _with_macs(folder, found) if is_older else found


def _with_macs(folder: Path, older: dict[str, Any]) -> dict[str, Any]:
    """An older result, which counted 2 FLOPs for a multiply-accumulate and 1 for a bias, with MACs in their place."""
    found = {name: value for name, value in older.items() if name not in ("flops", "flops_left")}
    if found["config"]["network"] == "lenet-500-300":  # each of whose weights is used once, and each unit has a bias
        after = older["flops"] - older["parameters"]
        before = round(older["flops"] / older["flops_left"]) - round(older["parameters"] / older["parameters_left"])
        return {**found, "macs": after, "macs_left": after / before}
    try:
        found |= _sizes(runs.load(folder))
    except (OSError, ValueError, ImportError) as error:
        raise CheckpointError(
            f"run {folder} was scored by an earlier bbpyro, which counted no multiply-accumulates, and they cannot be "
            f"counted now ({error}); restore what is missing, or delete the run's folder to train it again"
        ) from error
    with contextlib.suppress(OSError):  # where nothing can be written it is counted anew each time
        checkpoint.write_json(folder / RESULT, found)
    return found


def perform(
    folder: Path,
    log: Path,
    config: runs.TrainConfig,
    made_from: Mapping[str, Any],
    shared: Path | None,
    study_process: int,
    started_in: Path,
) -> str | None:
    """Train a run to its end and score it, unless that was done; returns what went wrong, if anything did.

    Of two processes that are given the same run, one waits for the other.

    Args:
        folder: of the run; made if need be.
        log: where what went wrong is told in full.
        config: of the run.
        made_from: what :func:`bbpyro.runs.describe` said when the study was started, of which hours may have gone.
        shared: the pretraining that it begins with, or that others are to begin with, if there are any.
        study_process: which started this; if this is a child of it, it ends with it.
        started_in: the working directory there, where the modules of priors may be.
    """
    _die_with(study_process)
    if started_in.is_dir():
        os.chdir(started_in)  # a worker may be left from an earlier study
    folder.parent.mkdir(parents=True, exist_ok=True)
    log.parent.mkdir(parents=True, exist_ok=True)
    with filelock.FileLock(log.with_suffix(".lock")):
        try:
            if result(folder, config) is not None:
                return None
            if not folder.exists():
                runs.create(folder, config)
            with runs.hold(folder):
                runs.check_same(made_from, runs.read_config(folder)[1], "the study", config)
                if shared:
                    pretraining.borrow(shared, folder, config)
                run = runs.train(folder, on_epoch=pretraining.lend(shared, folder) if shared else None)
                checkpoint.write_json(folder / RESULT, _result(run))
            log.unlink(missing_ok=True)
            return None
        except Exception as error:  # whatever it is, the study goes on and tells
            told = str(error).split("Trace Shapes:")[0]  # which Pyro appends
            reason = " ".join(f"{type(error).__name__}: {told}".split())
            told = f"{reason}\n\n{time.strftime('%Y-%m-%d %H:%M:%S')}, {folder}\n{traceback.format_exc()}"
            with contextlib.suppress(OSError):  # of a full disk there is no more to say
                checkpoint.write_atomic(log, told.encode())
            return reason


def _die_with(parent: int) -> None:
    """End this process soon after its parent, whatever it is at: a killed study must not go on beside the next one."""

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(0.5)
        os._exit(1)

    if os.getppid() == parent and _WATCH not in {thread.name for thread in threading.enumerate()}:
        threading.Thread(target=watch, name=_WATCH, daemon=True).start()


def _result(run: runs.Run) -> dict[str, Any]:
    """The row of a run in the study's table."""
    summary = runs.summarize(run, NUM_SAMPLES)
    loo, idata = runs.leave_one_out([run], NUM_SAMPLES)
    posterior.save(idata, run.folder / LOO)
    sizes = _sizes(run)
    run.bnn.to(run.config.torch_device())
    with torch.random.fork_rng():
        torch.manual_seed(run.config.seed)
        elbo = training.elbo(run.bnn, run.dataset.x, run.dataset.y)
    return {
        **summary["mean_mask"],
        **{f"{name}_monte_carlo": summary["monte_carlo"][name] for name in ("error", "nll", "ece")},
        "scored_on": summary["scored_on"],
        "plain_error": summary["plain_error"],
        "majority_error": summary["majority_error"],
        "kept": summary["kept"],
        "active": summary["active"],
        "total": summary["total"],
        **sizes,
        "elbo": elbo,
        "elpd_loo": posterior.elpd(loo) / len(loo.pareto_k),
        "pareto_k_bad": float((loo.pareto_k > posterior.good_k(NUM_SAMPLES)).mean()),
        "seconds": summary["training_seconds"],
        "peak_memory_mib": summary["peak_memory_mib"],
        "versions": summary["versions"],
        **({"warning": run.warning} if run.warning else {}),
        "config": run.config.to_json(),
    }


def _sizes(run: runs.Run) -> dict[str, float]:
    """What the compacted network of a run costs, and as a share of the plain one; the run's is on the CPU then.

    Masks that depend on the datum count by what can go for all data.
    """
    example = run.dataset.x_test[:2]
    before = measure(runs.plain_network(run.config, run.dataset), example)
    bnn = run.bnn.cpu()
    if any(gate.depends_on_data for gate in bnn.gates.values()):
        bnn = copy.deepcopy(bnn)
        for name, gate in bnn.gates.items():
            bnn.net.set_submodule(name, gate.for_all_data())
    after = measure(compact(bnn, example), example)
    return {
        "macs": after.macs,
        "macs_left": after.macs / before.macs,
        "parameters": after.parameters,
        "parameters_left": after.parameters / before.parameters,
    }
