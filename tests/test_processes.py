"""Several processes train one network: as one process would, and through the death of any of them."""

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest import mock

import pyro
import pyro.distributions as dist
import pytest
import torch
import torch.distributed
from pyro.infer import Trace_ELBO, TraceMeanField_ELBO
from pyro.poutine.messenger import Messenger
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from torch.utils._python_dispatch import TorchDispatchMode

import bbpyro
from bbpyro import processes, runs
from bbpyro.training import shedding

PROCESSES = 2


class NoNoise(TorchDispatchMode):
    """Noise that is a function of the unit and of the place in the whole minibatch, and so is each process's part."""

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = function(*args, **(kwargs or {}))
        name = function.overloadpacket.__name__
        if name in ("rand", "rand_like", "uniform_", "exponential_", "normal_"):
            row = torch.zeros(())
            if out.dim() == 2 and name == "rand":  # of masks, one a datum
                row = 1 + torch.arange(len(out))[:, None] * processes.size() + processes.rank()
            uniform = (0.618 * (torch.arange(out.shape[-1]).double() + 1) + 0.417 * row) % 1
            out.copy_(uniform.clamp(0.01, 0.99))
        return out


class Sigma(nn.Module):
    """A likelihood with a parameter, and another that nothing reads."""

    def __init__(self) -> None:
        super().__init__()
        self.log_sigma, self.unread = nn.Parameter(torch.zeros(()).double()), nn.Parameter(torch.ones(3))

    def __call__(self, output: Tensor) -> Any:
        return dist.Normal(output[:, 0], self.log_sigma.exp())


def stored_sigma(output: Tensor) -> Any:
    sigma = pyro.param("sigma", torch.tensor(1.0 + processes.rank()).double(), constraint=dist.constraints.positive)
    return dist.Normal(output[:, 0], sigma)


class Unread(nn.Sequential):
    """A network with a layer that forward never calls."""

    def __init__(self) -> None:
        super().__init__(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 3))
        self.unread = nn.Linear(2, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self[2](self[1](self[0](x)))


def network() -> nn.Module:
    return nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 3))


def with_batch_norm() -> nn.Module:
    return nn.Sequential(nn.Linear(6, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 3))


# Of 66 data in minibatches of 16 the last has two; of 67 its parts are not of one size; of 65 one process has none.
CASES: dict[str, dict[str, Any]] = {
    "even": {"num_data": 66},
    "odd": {"num_data": 67},
    "one without data": {"num_data": 65},
    "mean-field, warm-up": {"num_data": 67, "elbo": "mean-field", "kl_start": 3.0, "kl_warmup_epochs": 2},
    "gates without a gradient": {"num_data": 65, "prior": "FixedRate(0.3)"},
    "sticks, q(W) a Normal": {"num_data": 67, "prior": "StickBreaking(3)", "weight_guide": "normal"},
    "a likelihood's parameters": {"num_data": 65, "likelihood": Sigma},
    "a parameter in Pyro's store": {"num_data": 65, "likelihood": lambda: stored_sigma},
    "units that are shed": {"num_data": 67, "likelihood": Sigma, "num_out": 2, "num_epochs": 5, "shed": True},
    "a layer that nothing calls": {"num_data": 67, "network": Unread},
}


def numbers(
    num_data: int,
    network: Callable[[], nn.Module] = network,
    likelihood: Callable[[], Any] = bbpyro.likelihoods.Categorical,
    prior: str = "Beta(1e-4, 1)",
    weight_guide: str = "delta",
    num_epochs: int = 2,
    num_out: int = 0,
    **settings: Any,
) -> tuple[dict[str, Tensor], list[dict[str, Any]]]:
    """The network's tensors, and Pyro's, after some epochs with fixed noise, and the records."""
    pyro.clear_param_store()
    torch.manual_seed(0)
    x, y = torch.randn(num_data, 6).double(), torch.randint(3, (num_data,))
    torch.manual_seed(processes.rank())  # for the first one's start is everybody's
    net, of_output = network().double(), likelihood()
    y = y if likelihood is bbpyro.likelihoods.Categorical else y.double()
    shared: dict[str, Any] = {"batch_size": 16, "seed": 0, "held_out": (x[:1], y[:1]), "progress": False}
    history = bbpyro.pretrain(net, x, y, likelihood=of_output, num_epochs=1, **shared)
    gated = bbpyro.insert_dropout(net, exclude=["unread"] if hasattr(net, "unread") else [])
    bnn = bbpyro.BetaBernoulliNetwork(gated, of_output, num_data=num_data, prior=prior, weight_guide=weight_guide)
    for name, gate in bnn.gates.items():
        bnn.net.get_submodule(name.removesuffix(".gate")).weight.data[:, :num_out] = 0.0
        gate.unconstrained_concentration1.data[:num_out] = -9.21024  # q(π) is at the prior
        gate.unconstrained_concentration0.data[:num_out] = 0.541325
    each_epoch = mock.patch.object(shedding, "_MIN_STEPS", 1)  # after which units are looked at
    with each_epoch, NoNoise(), Masks() as masks:
        history += bbpyro.fit(bnn, x, y, num_epochs=num_epochs, **shared, **settings)
    stored = {name: value.detach() for name, value in pyro.get_param_store().items()}
    return {**bnn.state_dict(), **stored, "width": torch.tensor(masks.seen[-1].shape[-1])}, history


class Masks(Messenger):
    def __init__(self) -> None:
        super().__init__()
        self.seen: list[Tensor] = []

    def _pyro_post_sample(self, msg: Any) -> None:
        if msg["name"] == "0.gate.z":
            self.seen.append(msg["value"].detach())


def own_noise() -> Tensor:
    torch.manual_seed(0)
    x, y = torch.randn(16, 6), torch.randint(3, (16,))
    bnn = bbpyro.BetaBernoulliNetwork(bbpyro.insert_dropout(network()), num_data=16)
    with Masks() as masks:
        bbpyro.fit(bnn, x, y, num_epochs=1, batch_size=16, seed=0, progress=False)
    return masks.seen[0]


def loop_of_ones_own(elbo: Any, prior: str) -> dict[str, Tensor]:
    """What a user writes: DistributedDataParallel over the module, a part of each minibatch, an optimizer."""
    torch.manual_seed(0)
    x, y = torch.randn(20, 6), torch.randint(3, (20,))
    bnn = bbpyro.BetaBernoulliNetwork(bbpyro.insert_dropout(network()), num_data=20, prior=prior)
    module: nn.Module = bnn.elbo_module(elbo)
    if processes.size() > 1:
        module = DistributedDataParallel(module)
    optimizer = torch.optim.SGD(module.parameters(), lr=1e-4)
    for _ in range(3):
        optimizer.zero_grad()
        with NoNoise():
            loss = module(x[processes.rank() :: processes.size()], y[processes.rank() :: processes.size()])
        loss.backward()
        optimizer.step()
    return bnn.state_dict()


def norms() -> dict[str, Tensor]:
    torch.manual_seed(0)
    x, y = torch.randn(32, 6), torch.randint(3, (32,))
    net = with_batch_norm()
    bbpyro.pretrain(net, x, y, num_epochs=2, batch_size=16, seed=0, progress=False)
    return net.state_dict()


def refused(function: Callable[[], object]) -> str:
    with pytest.raises(ValueError) as told:
        function()
    return str(told.value)


def other_data() -> str:
    x, y = torch.randn(20, 6), torch.full((20,), processes.rank())
    return refused(lambda: bbpyro.pretrain(network(), x, y, num_epochs=1, progress=False))


def single_datum() -> str:
    x, y = torch.randn(19, 6), torch.randint(3, (19,))
    return refused(lambda: bbpyro.pretrain(with_batch_norm(), x, y, num_epochs=1, batch_size=16, progress=False))


LOOPS = [(Trace_ELBO, "Beta(1e-4, 1)"), (TraceMeanField_ELBO, "FixedRate(0.5)")]


def _work(rank: int, folder: Path) -> None:
    warnings.simplefilter("error")
    torch.set_num_threads(1)
    torch.distributed.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=PROCESSES)
    results = {
        "cases": {name: numbers(**case) for name, case in CASES.items()},
        "noise": own_noise(),
        "loops": [loop_of_ones_own(elbo(), prior) for elbo, prior in LOOPS],
        "norms": norms(),
        "other data": other_data(),
        "single datum": single_datum(),
    }
    torch.save(results, folder / f"{rank}.pt")
    torch.distributed.destroy_process_group()


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    """What each of the processes has in the end."""
    folder = tmp_path_factory.mktemp("processes")
    torch.multiprocessing.spawn(_work, args=(folder,), nprocs=PROCESSES)
    return [torch.load(folder / f"{rank}.pt") for rank in range(PROCESSES)]


def assert_close(found: dict[str, Tensor], wanted: dict[str, Tensor]) -> None:
    assert found.keys() == wanted.keys()
    for name, tensor in wanted.items():
        torch.testing.assert_close(found[name], tensor, rtol=1e-6, atol=1e-7, msg=lambda text, name=name: name + text)


@pytest.mark.parametrize("name", CASES)
def test_with_the_same_noise_several_processes_end_where_one_does(name: str, results: list[dict[str, Any]]) -> None:
    wanted, records = numbers(**CASES[name])
    for result in results:
        found, history = result["cases"][name]
        assert_close(found, wanted)
        for record, expected in zip(history, records, strict=True):
            assert flat(record) == pytest.approx(flat(expected), rel=1e-6)


def flat(record: dict[str, Any]) -> dict[str, Any]:
    """The numbers of a record, but for its time."""
    pairs = ((key, value if isinstance(value, dict) else {"": value}) for key, value in record.items())
    numbers = {f"{key}.{name}": value for key, named in pairs for name, value in named.items()}
    return {key: number for key, number in numbers.items() if isinstance(number, float) and key != "seconds."}


def test_all_processes_have_the_same_network_and_records_to_the_last_bit(results: list[dict[str, Any]]) -> None:
    first, second = (result["cases"] for result in results)
    for name, (tensors, records) in first.items():
        assert all(torch.equal(tensor, second[name][0][key]) for key, tensor in tensors.items())
        assert records == second[name][1]


def test_units_are_shed_in_all_processes_alike(results: list[dict[str, Any]]) -> None:
    assert [result["cases"]["units that are shed"][0]["width"] for result in results] == [4, 4]
    assert [result["cases"]["even"][0]["width"] for result in results] == [6, 6]


def test_each_process_has_its_own_noise(results: list[dict[str, Any]]) -> None:
    first, second = (result["noise"] for result in results)
    assert first.shape == second.shape == (8, 6)
    assert not torch.equal(first, second)
    assert torch.equal(own_noise()[0], first[0])  # the first one's begins as that of one process


@pytest.mark.parametrize("number", range(len(LOOPS)))
def test_the_elbo_module_goes_into_distributed_data_parallel_as_it_is(
    number: int, results: list[dict[str, Any]]
) -> None:
    elbo, prior = LOOPS[number]
    wanted = loop_of_ones_own(elbo(), prior)
    for result in results:
        assert_close(result["loops"][number], wanted)


def test_the_elbo_module_has_the_parameters_of_the_network_and_is_minus_the_elbo() -> None:
    bnn = bbpyro.BetaBernoulliNetwork(bbpyro.insert_dropout(network()), Sigma(), num_data=20, weight_guide="normal")
    module = bnn.elbo_module()
    assert {id(p) for p in module.parameters()} == {id(p) for p in bnn.parameters()}
    x, y = torch.randn(5, 6), torch.randn(5)
    torch.manual_seed(0)
    loss = module(x, y)
    torch.manual_seed(0)
    assert loss.item() == pytest.approx(Trace_ELBO().loss(bnn.model, bnn.guide, x, y), rel=1e-5)
    loss.backward()
    assert all(p.grad is not None for p in bnn.parameters())


def test_batch_norms_have_the_statistics_of_the_first_process(results: list[dict[str, Any]]) -> None:
    first, second = (result["norms"] for result in results)
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert first["1.num_batches_tracked"] == 4


def test_processes_that_were_given_different_data_are_told(results: list[dict[str, Any]]) -> None:
    for result in results:
        assert result["other data"].startswith(
            "x or y is not the same in all 2 processes; give each of them all of x and y"
        )


def test_a_part_of_one_datum_is_refused_where_a_batch_norm_is(results: list[dict[str, Any]]) -> None:
    for result in results:
        assert "of 19 data that leaves a minibatch of one for one of 2 processes" in result["single datum"]


LAST_WORDS = """
import os, signal, sys
from bbpyro import processes
with processes.joined():
    if processes.rank() == 1:
        os.kill(os.getpid(), signal.SIGKILL)
    try:
        if sys.argv[1] == "is told to end":
            os.kill(os.getpid(), signal.SIGTERM)
        while True:
            processes.gather("here")
    except (processes.LostProcessError, processes.Stopped) as error:
        os.kill(os.getpid(), signal.SIGTERM)  # as torchrun does with those that are left, at any time
        print(error, flush=True)
        os._exit(1)
"""


@pytest.mark.parametrize(
    ("how", "wanted"),
    [
        ("finds the other gone", "another of the 2 processes has ended"),
        ("is told to end", "stopped, as when another process has ended"),
    ],
)
def test_a_process_that_is_on_its_way_out_is_not_stopped_in_what_it_says(how: str, wanted: str) -> None:
    with socket.create_server(("localhost", 0)) as server:
        port = server.getsockname()[1]
    address = {**os.environ, "WORLD_SIZE": "2", "MASTER_ADDR": "localhost", "MASTER_PORT": str(port)}
    command = [sys.executable, "-c", LAST_WORDS, how]
    with contextlib.ExitStack() as stack:
        first, _ = (
            stack.enter_context(subprocess.Popen(command, env=address | {"RANK": rank}, stdout=subprocess.PIPE))
            for rank in "01"
        )
        out, _ = first.communicate(timeout=100)
    assert first.returncode == 1
    assert out.decode().startswith(wanted)


# --- the command, as torchrun starts it -------------------------------------------------------------------------


def launch(*args: str | Path, restarts: int = 0) -> subprocess.Popen[str]:
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(PROCESSES)]
    command = [*torchrun, "--max-restarts", str(restarts), "-m", "--", "bbpyro", *map(str, args)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    pipe = subprocess.PIPE
    return subprocess.Popen(command, env=environment, stdout=pipe, stderr=pipe, text=True)


def worker(launcher: subprocess.Popen[str], rank: int) -> int:
    """The process of this rank."""
    for child in Path(f"/proc/{launcher.pid}/task/{launcher.pid}/children").read_text().split():
        if f"RANK={rank}" in Path(f"/proc/{child}/environ").read_text().split("\0"):
            return int(child)
    raise LookupError


def kill_after_epochs(launcher: subprocess.Popen[str], run: Path, epochs: int, rank: int) -> None:
    metrics, give_up = run / "metrics.jsonl", time.monotonic() + 200
    while not metrics.exists() or len(metrics.read_text().splitlines()) < epochs:
        assert launcher.poll() is None and time.monotonic() < give_up, launcher.communicate()
        time.sleep(0.02)
    while True:
        with contextlib.suppress(FileNotFoundError, LookupError):  # they are just being started
            os.kill(worker(launcher, rank), signal.SIGKILL)
            return


def own_lines(err: str) -> list[str]:
    return [line for line in err.splitlines() if line.startswith("bbpyro: ")]


def epochs_of(run: Path) -> list[int]:
    records = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return [record["epoch"] for record in records if record["phase"] == "SVI"]


def test_a_run_goes_through_deaths_and_another_number_of_processes(tmp_path: Path, npz: Path) -> None:
    run, epochs = tmp_path / "run", 40
    settings = ("--dataset", npz, "--epochs", str(epochs), "--pretrain-epochs", "1", "--batch-size", "50")
    launcher = launch("train", *settings, "--run", run, restarts=1)
    kill_after_epochs(launcher, run, 3, rank=0)
    before = len(epochs_of(run)) + 1
    kill_after_epochs(launcher, run, before + 3, rank=1)  # one of those that torchrun has started again
    out, err = launcher.communicate()
    assert launcher.returncode != 0
    again, told = own_lines(err)
    assert "another of the 2 processes has ended" in again or "stopped, as when another process has ended" in again
    assert told.endswith(f"go on with: bbpyro train --resume {run}")
    assert out.count(f"run folder: {run}") == 2 and out.count(f"  1/{epochs} ") == 1
    assert [path.name for path in tmp_path.iterdir()] == ["run"]

    before = len(epochs_of(run))

    class Enough(Exception):
        pass

    def stop(record: dict[str, Any], num_epochs: int, scored_on: str) -> None:
        raise Enough

    with pytest.raises(Enough):
        runs.train(run, on_epoch=stop)  # by one process
    assert len(epochs_of(run)) == before + 1

    launcher = launch("train", "--resume", run, "--num-samples", "2")
    out, err = launcher.communicate()
    assert launcher.returncode == 0, err
    assert epochs_of(run) == list(range(1, epochs + 1))
    assert out.count("wrote ") == 1
    assert runs.load(run).is_complete
    assert not (run / ".lock").exists()
