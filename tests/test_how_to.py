import ast
import contextlib
import importlib.util
import io
import re
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch

import bbpyro

FOLDER = Path(__file__).parents[1] / "docs" / "how-to"
# Adam's first steps are as large as its rate: two of these send gates to either end.
FAST = "--images 200 --test-images 50 --pretrain-epochs 2 --epochs 1 --gate-learning-rate 10".split()
OWN = "## Your own network"


@pytest.fixture(scope="module")
def script() -> ModuleType:
    spec = importlib.util.spec_from_file_location("resnet18_cifar10", FOLDER / "resnet18_cifar10.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def blocks(text: str, language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", text, re.DOTALL)


def without_space(code: str) -> str:
    return "".join(code.split())


def test_resnet18_trains_prunes_and_compacts_to_a_file_that_answers_alike(script: ModuleType, tmp_path: Path) -> None:
    file = tmp_path / "small.pt2"
    with contextlib.redirect_stdout(io.StringIO()) as out:
        script.main([*FAST, "--output", str(file)])
    printed = out.getvalue()
    accuracies = dict(re.findall(r"^(.+): accuracy (.+)%$", printed, re.MULTILINE))
    assert list(accuracies) == ["plain", "with gates", "compact"]
    assert accuracies["compact"] == accuracies["with gates"]
    parameters, macs = (
        [int(number.replace(",", "")) for number in re.findall(rf"([\d,]+) {unit}", printed)]
        for unit in ("parameters", "multiply-accumulates an image")
    )
    assert parameters[0] == 11_181_642 and parameters[1] < 0.95 * parameters[0]
    assert macs[0] == 37_016_576 and macs[1] < 0.95 * macs[0]
    removed = {
        line.split()[0]: int(line.split()[3])
        for line in printed.splitlines()
        if line.startswith("layer") and "." in line.split()[0]
    }
    assert len(removed) == 19 and all(removed[f"layer{i}.{j}.bn1"] for i in range(1, 5) for j in range(2))

    cifar10 = bbpyro.data.load("cifar10")
    small = torch.export.load(file).module()
    assert f"{script.accuracy(small, cifar10.x_test[:50], cifar10.y_test[:50]):.2%}" == f"{accuracies['compact']}%"


def test_the_script_says_what_it_takes(script: ModuleType, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        script.main(["--help"])
    printed = capsys.readouterr().out
    assert stop.value.code == 0 and "--images" in printed and "--epochs" in printed


def test_the_how_to_shows_the_script() -> None:
    text = (FOLDER / "compact-a-resnet.md").read_text().split(OWN)[0]
    shown = blocks(text, "python")
    assert len(shown) >= 5
    for block in shown:
        assert without_space(block) in without_space((FOLDER / "resnet18_cifar10.py").read_text()), block


def test_what_it_says_of_a_network_of_ones_own_runs(script: ModuleType) -> None:
    text = (FOLDER / "compact-a-resnet.md").read_text().split(OWN)[1]
    gating, compacting = blocks(text, "python")
    names = {"bbpyro": bbpyro, "net": script.resnet18(), "x": torch.rand(4, 3, 32, 32), "num_data": 4}
    exec(gating, names)
    gates = names["bnn"].gates
    assert list(gates) == [*(f"layer{i}.{j}.bn1.gate" for i in range(1, 5) for j in range(2)), "fc.gate"]
    (exclude,) = re.findall(r"`exclude=(\[.*?\])`", text)
    assert list(gates) == [
        *bbpyro.layers.gates_of(bbpyro.insert_dropout(names["net"], exclude=ast.literal_eval(exclude)))
    ]

    with torch.no_grad():
        for gate in gates.values():
            gate.unconstrained_concentration1[:13] = -12.0
    with contextlib.redirect_stdout(io.StringIO()) as out:
        exec(compacting, names)
    small = names["small"]
    assert small.layer1[0].conv1.out_channels == 56 and small.layer4[1].conv1.out_channels == 504  # not 51 and 499
    assert re.search(r"^layer1.0.bn1 13 8 \{.*: 5\}$", out.getvalue(), re.MULTILINE)


def test_the_families_of_the_page_run_and_one_of_ones_own_takes_forty_lines() -> None:
    using, own, putting_in = blocks((FOLDER / "write-a-mask-family.md").read_text(), "python")
    assert len([line for line in own.splitlines() if line.strip()]) <= 42
    names: dict[str, Any] = {}
    exec(using + own + putting_in, names)
    torch.manual_seed(0)
    x, y = torch.randn(300, 20), torch.randint(3, (300,))
    y[x[:, 0] > 0] = 0
    bnn = bbpyro.BetaBernoulliNetwork(names["gated"], num_data=300)
    history = bbpyro.fit(bnn, x, y, num_epochs=5, progress=False, seed=0)
    assert history[-1]["kl"]["0.gate"] > 0
    assert bbpyro.compact(bnn, x[:2])(x).shape == (300, 3)
    assert bbpyro.to_arviz(bnn, num_samples=10, progress=False)


def test_the_page_of_families_names_each() -> None:
    text = (FOLDER / "write-a-mask-family.md").read_text()
    assert all(f"`{name}" in text for name in bbpyro.families.spelled.KNOWN)
