"""One run of a study, in whatever process it may be: trained from where it stopped, scored, and kept."""

import os
import threading
import time
import traceback
from pathlib import Path
from typing import Any

import filelock
import torch

from bbpyro import checkpoint, posterior, runs, training
from bbpyro.compaction import compact, measure

RESULT = "result.json"
LOO = "loo.nc"
NUM_SAMPLES = 100
_WATCH = "watch of the study's process"


def is_done(folder: Path) -> bool:
    """Whether a run of a study was trained and scored."""
    return (folder / RESULT).is_file()


def perform(folder: Path, log: Path, config: runs.TrainConfig, study_process: int, started_in: Path) -> str | None:
    """Train a run to its end and score it, unless that was done; returns what went wrong, if anything did.

    Of two processes that are given the same run, one waits for the other.

    Args:
        folder: of the run; made if need be.
        log: where what went wrong is told in full.
        config: of the run.
        study_process: which started this; if this is a child of it, it ends with it.
        started_in: the working directory there, where the modules of priors may be.
    """
    _die_with(study_process)
    if started_in.is_dir():
        os.chdir(started_in)  # a worker may be left from an earlier study
    folder.parent.mkdir(parents=True, exist_ok=True)
    log.parent.mkdir(parents=True, exist_ok=True)
    with filelock.FileLock(folder.with_name(f".{folder.name}.lock")):
        if is_done(folder):
            return None
        try:
            if not folder.exists():
                runs.create(folder, config)
            run = runs.train(folder)
            checkpoint.write_json(folder / RESULT, _result(run))
            log.unlink(missing_ok=True)
            return None
        except Exception as error:  # whatever it is, the study goes on and tells
            reason = " ".join(f"{type(error).__name__}: {error}".split())
            log.write_text(f"{reason}\n\n{time.strftime('%Y-%m-%d %H:%M:%S')}, {folder}\n{traceback.format_exc()}")
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
    example, bnn = run.dataset.x_test[:2], run.bnn
    before = measure(runs.plain_network(run.config, run.dataset), example)
    after = measure(compact(bnn.cpu(), example), example)
    bnn.to(run.config.torch_device())
    with torch.random.fork_rng():
        torch.manual_seed(run.config.seed)
        elbo = training.elbo(bnn, run.dataset.x, run.dataset.y)
    return {
        **summary["mean_mask"],
        **{f"{name}_monte_carlo": summary["monte_carlo"][name] for name in ("error", "nll", "ece")},
        "scored_on": summary["scored_on"],
        "kept": summary["kept"],
        "total": summary["total"],
        "flops": after.flops,
        "flops_left": after.flops / before.flops,
        "parameters": after.parameters,
        "parameters_left": after.parameters / before.parameters,
        "elbo": elbo,
        "elpd_loo": posterior.elpd(loo) / len(loo.pareto_k),
        "pareto_k_bad": float((loo.pareto_k > 0.7).mean()),
        "seconds": summary["training_seconds"],
        "peak_memory_mib": summary["peak_memory_mib"],
        "versions": summary["versions"],
        "config": run.config.to_json(),
    }
