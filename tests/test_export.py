import functools
import io
import json
import subprocess
import sys
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from small_networks import NETWORKS, call, half_dead
from torch import Tensor, nn
from torch.nn.utils.parametrizations import weight_norm

import bbpyro
from bbpyro import checkpoint, export
from bbpyro.checkpoint import CheckpointError
from bbpyro.compaction import SelectUnits, UnsupportedModuleError
from bbpyro.nests import rows, tensors_of


def dense(widths: list[int], bias: bool, activation: type[nn.Module]) -> nn.Sequential:
    layers: list[nn.Module] = [nn.Flatten()]
    for before, after in zip(widths, widths[1:], strict=False):
        layers += [nn.Linear(before, after, bias), activation()]
    return nn.Sequential(*layers)


@st.composite
def networks(draw: st.DrawFn) -> tuple[nn.Module, Tensor]:
    """A random network, dense or convolutional, with batch norm that has seen data, and inputs for it."""
    torch.manual_seed(draw(st.integers(0, 2**16)))
    bias = draw(st.booleans())
    activation = draw(st.sampled_from([nn.ReLU, nn.Tanh, nn.GELU, nn.SiLU]))
    if draw(st.booleans()):
        widths = draw(st.lists(st.integers(1, 12), min_size=2, max_size=4))
        net, x = dense(widths, bias, activation), torch.randn(5, widths[0])
        kept = sorted(draw(st.sets(st.integers(0, widths[0] - 1), min_size=1)))
        if draw(st.booleans()):
            first = nn.Linear(len(kept), widths[1], bias)
            net[1] = nn.Sequential(OrderedDict(select=SelectUnits(torch.tensor(kept)), linear=first))
    else:
        channels = draw(st.lists(st.integers(1, 6), min_size=2, max_size=3))
        layers: list[nn.Module] = []
        for before, after in zip(channels, channels[1:], strict=False):
            layers += [nn.Conv2d(before, after, 3, padding=1, bias=bias), nn.BatchNorm2d(after), activation()]
        net = nn.Sequential(*layers, nn.MaxPool2d(2), nn.Flatten(), nn.Linear(channels[-1] * 9, 3))
        x = torch.randn(5, channels[0], 6, 6)
        with torch.no_grad():
            net(x)
    return net.eval(), x


@settings(max_examples=40, deadline=None)
@given(networks())
def test_a_network_comes_back_from_safetensors_as_it_was(tmp_path_factory: pytest.TempPathFactory, made) -> None:
    net, x = made
    path = tmp_path_factory.mktemp("export") / "net.safetensors"
    bbpyro.save_compact(net, path)
    loaded = bbpyro.load_compact(path)
    assert not loaded.training and repr(loaded) == repr(net)
    assert torch.equal(loaded(x), net(x))


# Older torch's load makes tensors of bytes, and warns of it once a process.
of_older_torch = pytest.mark.filterwarnings("ignore:The given buffer is not writable")


@of_older_torch
@settings(max_examples=5, deadline=None)
@given(networks())
def test_a_network_comes_back_from_pt2_and_onnx_as_it_was(tmp_path_factory: pytest.TempPathFactory, made) -> None:
    net, x = made
    path = tmp_path_factory.mktemp("export") / "net.pt2"
    path.write_bytes(export.to_pt2(net, x[:2]))
    again = torch.export.load(path).module()
    onnx = export.onnx_network(export.to_onnx(net, x[:2]))
    with torch.no_grad():
        wanted = net(x)
        for found in (again(x), onnx(x)):
            assert (found - wanted).abs().max() <= 1e-5 * max(1, wanted.abs().max())
        assert again(x[:1]).shape == onnx(x[:1]).shape == wanted[:1].shape


def every_layer() -> list[nn.Module]:
    arguments = {
        "Linear": (3, 2, False),
        "PReLU": (4,),
        "LeakyReLU": (0.2,),
        "Hardtanh": (-2.0, 3.0),
        "Softplus": (2.0,),
        "GELU": ("tanh",),
        "Softmax": (-1,),
        "LogSoftmax": (1,),
        "Unflatten": (1, (2, 3)),
        "Flatten": (2,),
        "LayerNorm": ((2, 3),),
        "GroupNorm": (2, 4),
        "ZeroPad2d": ((1, 0, 2, 3),),
        "Dropout": (0.3,),
    }
    layers = []
    for name, layer in export._LAYERS.items():
        if name.startswith("Conv"):
            layers.append(layer(4, 6, 3, 2, 1, 1, 2, False, "reflect"))
        elif name.startswith("BatchNorm"):
            layers.append(layer(4, 1e-3, 0.2))
        elif name.startswith(("MaxPool", "AvgPool", "AdaptiveAvgPool", "AdaptiveMaxPool")):
            layers.append(layer(3))
        else:
            layers.append(layer(*arguments.get(name, ())))
    return layers


def test_every_layer_of_an_architecture_keeps_its_arguments(tmp_path: Path) -> None:
    for layer in every_layer():
        bbpyro.save_compact(nn.Sequential(layer), tmp_path / "net")
        loaded = bbpyro.load_compact(tmp_path / "net")[0]
        assert type(loaded) is type(layer) and repr(loaded) == repr(layer)
        assert {k: v.shape for k, v in loaded.state_dict().items()} == {
            k: v.shape for k, v in layer.state_dict().items()
        }
        for argument, value in vars(layer).items():
            if isinstance(value, int | float | str | tuple) and argument != "training":
                assert getattr(loaded, argument) == value, (layer, argument)


def test_half_precision_and_frozen_weights_come_back(tmp_path: Path) -> None:
    net = dense([4, 3, 2], True, nn.ReLU).half().eval()
    net[1].weight.requires_grad_(False)
    bbpyro.save_compact(net, tmp_path / "net")
    assert {p.dtype for p in bbpyro.load_compact(tmp_path / "net").parameters()} == {torch.float16}


class OwnForward(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(2, 2)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.layer(x)


def test_what_an_architecture_cannot_hold_is_refused_by_name(tmp_path: Path) -> None:
    with pytest.raises(UnsupportedModuleError, match=r"^1: OwnForward is none of .*bbpyro.export.to_pt2"):
        bbpyro.save_compact(nn.Sequential(nn.ReLU(), OwnForward()), tmp_path / "net")
    gated = bbpyro.insert_dropout(nn.Sequential(OrderedDict(fc=nn.Linear(2, 2))))
    with pytest.raises(UnsupportedModuleError, match="^fc: it has a hook"):
        bbpyro.save_compact(gated, tmp_path / "net")
    assert not list(tmp_path.iterdir())


def test_what_is_there_twice_is_written_twice(tmp_path: Path) -> None:
    torch.manual_seed(0)
    relu, linear = nn.ReLU(), nn.Linear(4, 4)
    net = nn.Sequential(linear, relu, linear, relu, nn.Linear(4, 3)).eval()
    bbpyro.save_compact(net, tmp_path / "net")
    x = torch.randn(5, 4)
    assert (
        torch.equal(bbpyro.load_compact(tmp_path / "net")(x), net(x))
        and len(bbpyro.load_compact(tmp_path / "net")) == 5
    )


def test_what_a_layer_has_beside_its_class_is_refused(tmp_path: Path) -> None:
    class Selects(SelectUnits):
        pass

    other_forward, buffer = nn.Linear(2, 2), nn.Sequential(nn.Linear(2, 2))
    other_forward.forward = lambda x: 5 * x
    buffer[0].register_buffer("more", torch.ones(2))
    for net, message in (
        (nn.Sequential(other_forward), "^0: it has a hook"),
        (nn.Sequential(Selects(torch.arange(2))), "^0: Selects is none of"),
        (buffer, "^0.more: its layer does not have this tensor"),
    ):
        with pytest.raises(UnsupportedModuleError, match=message):
            bbpyro.save_compact(net, tmp_path / "net")
    assert not list(tmp_path.iterdir())


def test_a_path_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    for path in (tmp_path / "nowhere" / "net", tmp_path):
        with pytest.raises(ValueError, match="^path: '.*' cannot be written"):
            bbpyro.save_compact(nn.Sequential(nn.ReLU()), path)


@of_older_torch
def test_exports_hold_nothing_of_the_example_and_nothing_of_this_machine(tmp_path: Path) -> None:
    net = dense([4, 3, 2], True, nn.ReLU)
    net.insert(1, nn.Dropout(0.5))
    x = torch.rand(500, 4)
    for content in (export.to_pt2(net.train(), x[:1]), export.to_onnx(net.train(), x[:1])):
        assert net.training and len(content) < 40_000 and b".py" not in content
    (tmp_path / "net.pt2").write_bytes(export.to_pt2(net.train(), x[:1]))
    loaded = torch.export.load(tmp_path / "net.pt2")
    assert not any(tensor.any() for tensor in loaded.example_inputs[0])
    assert torch.equal(loaded.module()(x), net.eval()(x))  # without the dropout


def saved(tmp_path: Path) -> Path:
    bbpyro.save_compact(dense([4, 3, 2], True, nn.ReLU), tmp_path / "net")
    return tmp_path / "net"


@pytest.mark.parametrize("damage", ["missing", "empty", "half", "a bit", "text", "folder"])
def test_a_damaged_artefact_is_refused(tmp_path: Path, damage: str) -> None:
    path = saved(tmp_path)
    content = bytearray(path.read_bytes())
    if damage == "missing":
        path.unlink()
    elif damage == "a bit":
        content[-3] ^= 1
        path.write_bytes(content)
    elif damage == "folder":
        path = tmp_path
    else:
        path.write_bytes({"empty": b"", "half": content[: len(content) // 2], "text": b"hello"}[damage])
    with pytest.raises(CheckpointError, match=r"no checkpoint|truncated|altered"):
        bbpyro.load_compact(path)


def test_an_artefact_of_a_newer_version_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checkpoint, "FORMAT", checkpoint.FORMAT + 1)
    path = saved(tmp_path)
    monkeypatch.undo()
    with pytest.raises(CheckpointError, match="newer bbpyro"):
        bbpyro.load_compact(path)


def test_an_artefact_of_something_else_or_that_does_not_fit_is_refused(tmp_path: Path) -> None:
    net = dense([4, 3, 2], True, nn.ReLU)
    architecture = json.loads(json.dumps(export._describe(net, "")))
    broken = {
        "no compact network": {"history": []},
        "layer Attention, which this bbpyro does not know": {"architecture": {"type": "Attention"}},
        "do not fit": {"architecture": {**architecture, "children": architecture["children"][:2]}},
        r"do not fit \(": {"architecture": {"type": "Linear", "arguments": {"in_features": -1, "out_features": 2}}},
        "modulo by zero": {"architecture": {"type": "GroupNorm", "arguments": {"num_groups": 0, "num_channels": 3}}},
        "not fit": {"architecture": {"type": "Linear", "arguments": {"in_features": 10**9, "out_features": 10**9}}},
    }
    for message, meta in broken.items():
        checkpoint.save(tmp_path / "net", net.state_dict(), meta)
        with pytest.raises(CheckpointError, match=message):
            bbpyro.load_compact(tmp_path / "net")


def test_int8_weights_are_a_quarter_of_the_size_and_nearly_the_same(tmp_path: Path) -> None:
    torch.manual_seed(0)
    net = dense([200, 300, 10], True, nn.ReLU).eval()
    x = torch.rand(50, 200)
    file = export.to_onnx(net, x[:2])
    small = export.to_int8(file)
    with torch.no_grad():
        wanted = net(x)
    difference = (export.onnx_network(small)(x) - wanted).abs().max() / wanted.abs().max()
    assert len(small) < 0.3 * len(file)
    assert 0 < difference < 0.05  # a weight and an activation of eight bits each, and not those of 32


def test_an_onnx_file_runs_without_torch_and_says_nothing_of_this_machine(tmp_path: Path) -> None:
    net = dense([6, 5, 3], True, nn.ReLU).eval()
    x = torch.randn(4, 6)
    content = export.to_onnx(net, x[:2])
    assert b".py" not in content
    (tmp_path / "net.onnx").write_bytes(content)
    np.save(tmp_path / "x.npy", x.numpy())
    code = f"""
import sys
sys.modules["torch"] = sys.modules["bbpyro"] = None
import numpy, onnxruntime
session = onnxruntime.InferenceSession({str(tmp_path / "net.onnx")!r})
numpy.save({str(tmp_path / "y.npy")!r}, session.run(None, {{"x": numpy.load({str(tmp_path / "x.npy")!r})}})[0])
"""
    subprocess.run([sys.executable, "-c", code], check=True)
    with torch.no_grad():
        np.testing.assert_allclose(np.load(tmp_path / "y.npy"), net(x).numpy(), rtol=1e-4, atol=1e-6)


def test_writing_onnx_says_nothing_where_torchvision_is_not_installed_either() -> None:
    code = """
import sys
sys.modules["torchvision"] = None
import torch
from bbpyro import export
net = torch.nn.Sequential(torch.nn.Linear(6, 5), torch.nn.ReLU())
export.to_int8(export.to_onnx(net, torch.rand(2, 6)))
"""
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert (done.stdout, done.stderr) == ("", "")


def test_without_the_extra_onnx_says_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "onnxruntime", None)  # what an import of it finds, then, is nothing
    net = dense([2, 2], True, nn.ReLU)
    for attempt in (lambda: export.to_onnx(net, torch.rand(2, 2)), lambda: export.to_int8(b"")):
        with pytest.raises(ValueError, match=r"pip install onnx onnxruntime onnxscript"):
            attempt()


# Networks of classes of one's own.


@functools.cache
def compacted(name: str) -> tuple[nn.Module, Any]:
    torch.manual_seed(0)
    make, example = NETWORKS[name]
    x = example()
    return bbpyro.compact(half_dead(make()), x), x


@torch.no_grad()
def assert_same(found: Callable[..., Any], wanted: nn.Module, x: Any, tolerance: float = 0.0) -> None:
    """The same outputs for these data, and for one of them."""
    for some in (x, rows(x, slice(1))):
        for one, other in zip(tensors_of(found(some)), tensors_of(call(wanted, some)), strict=True):
            torch.testing.assert_close(one, other, rtol=tolerance, atol=tolerance)


def assert_comes_back(small: nn.Module, anew: nn.Module, path: Path) -> nn.Module:
    """The network that comes out of a file of it, by its class built anew, which stays as it is."""
    before = {name: tensor.clone() for name, tensor in anew.state_dict().items() if tensor.device.type != "meta"}
    bbpyro.save_compact(small, path)
    loaded = bbpyro.load_compact(path, net=anew)
    assert not loaded.training and repr(loaded) == repr(small)
    assert {name: tuple(p.shape) for name, p in loaded.named_parameters()} == {
        name: tuple(p.shape) for name, p in small.named_parameters()
    }
    for name, tensor in before.items():
        torch.testing.assert_close(anew.state_dict()[name], tensor, rtol=0, atol=0)
    assert str(loaded.compaction) == str(small.compaction) and loaded.compaction.shapes == small.compaction.shapes
    for name, dims in small.compaction.kept.items():
        for dim, kept in dims.items():
            assert torch.equal(loaded.compaction.kept[name][dim], kept)
    return loaded


@pytest.mark.parametrize("name", NETWORKS)
def test_a_compact_network_comes_back_in_its_class_built_anew(name: str, tmp_path: Path) -> None:
    small, x = compacted(name)
    torch.manual_seed(1)
    loaded = assert_comes_back(small, NETWORKS[name][0](), tmp_path / "net")
    assert_same(lambda some: call(loaded, some), small, x)


# In torch's own words, which torch 2.11 has others for.
NOT_EXPORTED = {"dataclass output": "(Answer'> in output, which is not a known type|unhashable type: 'Answer')"}


@of_older_torch
@pytest.mark.parametrize("name", [name for name in NETWORKS if name not in NOT_EXPORTED])
def test_a_compact_network_goes_into_pt2_and_takes_any_batch(name: str) -> None:
    small, x = compacted(name)
    again = torch.export.load(io.BytesIO(export.to_pt2(small, rows(x, slice(1))))).module()
    assert_same(lambda some: call(again, some), small, x, 1e-6)


@pytest.mark.parametrize("name", NOT_EXPORTED)
def test_what_torch_cannot_export_says_why(name: str) -> None:
    small, x = compacted(name)
    for to_file in (export.to_pt2, export.to_onnx):
        with pytest.raises(UnsupportedModuleError, match=rf"^torch.export does not take .*{NOT_EXPORTED[name]}\)$"):
            to_file(small, x)


@pytest.mark.parametrize(
    ("name", "inputs", "outputs"),
    [
        ("patches", ["x"], ["output"]),  # its forward asks for len(x)
        ("grouped convolution", ["x"], ["output"]),
        ("tokens", ["x"], ["output"]),
        ("two inputs", ["x", "context"], ["output"]),
        ("keyword inputs", ["x", "context"], ["output"]),
        ("tuple output", ["x"], ["output[0]", "output[1]"]),
        ("dict output", ["x"], ["logits", "hidden"]),
    ],
)
def test_a_compact_network_goes_into_onnx_and_takes_any_batch(name: str, inputs: list[str], outputs: list[str]) -> None:
    import onnx

    small, x = compacted(name)
    content = export.to_onnx(small, x)
    graph = onnx.load_from_string(content).graph
    assert [one.name for one in graph.input] == inputs and [one.name for one in graph.output] == outputs
    for one in (*graph.input, *graph.output):
        assert one.type.tensor_type.shape.dim[0].dim_param == "batch"
    network = export.onnx_network(content)
    assert_same(network, small, x, 1e-5)
    kind = type(call(small, x))
    assert isinstance(network(x), Tensor if kind is Tensor else kind)
    if isinstance(x, dict):
        assert_same(network, small, dict(reversed(x.items())), 1e-5)


class Batch(nn.Module):
    """Takes its dict whole."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.out = nn.Linear(4, 6), nn.Linear(3, 6), nn.Linear(6, 2)

    def forward(self, batch: dict[str, Any]) -> dict[str, Any]:
        h = (self.a(batch["a"]) + self.b(batch["more"][0])).relu()
        return {"logits": self.out(h), "parts": (h, batch["a"])}


def test_onnx_has_the_places_of_what_is_nested() -> None:
    torch.manual_seed(0)
    net, x = Batch().eval(), {"a": torch.randn(3, 4), "more": (torch.randn(3, 3),)}
    network = export.onnx_network(export.to_onnx(net, x))
    found, wanted = network(dict(reversed(x.items()))), net(x)
    assert list(found) == ["logits", "parts[0]", "parts[1]"]
    torch.testing.assert_close(found["logits"], wanted["logits"])
    torch.testing.assert_close(found["parts[0]"], wanted["parts"][0])
    with pytest.raises(ValueError, match=r"^x has the tensors a, wanted a, more\[0\]$"):
        network({"a": x["a"]})


class Lazy(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.norm, self.b = nn.LazyLinear(8), nn.BatchNorm1d(8), nn.LazyLinear(3)

    def forward(self, x: Tensor) -> Tensor:
        return self.b(self.norm(self.a(x)).relu())


class Parametrized(nn.Module):
    """With what else a module may have: a buffer that no state_dict has, a state of its own, a layer of no bias."""

    offset: Tensor

    def __init__(self, scale: float = 1.0) -> None:
        super().__init__()
        self.a, self.b = weight_norm(nn.Linear(4, 8)), nn.Linear(8, 3, bias=False)
        self.register_buffer("offset", torch.randn(8), persistent=False)
        self.scale = scale

    def forward(self, x: Tensor) -> Tensor:
        return self.scale * self.b((self.a(x) + self.offset).relu())

    def get_extra_state(self) -> Any:
        return {"scale": self.scale}

    def set_extra_state(self, state: Any) -> None:
        self.scale = state["scale"]


@pytest.mark.parametrize(
    ("net", "make"),
    [(Lazy, Lazy), (functools.partial(Parametrized, 3.0), Parametrized), (functools.partial(nn.Linear, 4, 3),) * 2],
)
def test_a_class_may_have_whatever_torch_has(net: Callable[[], Any], make: Callable[[], Any], tmp_path: Path) -> None:
    torch.manual_seed(0)
    given, x = net(), torch.randn(5, 4)
    given(x)
    small = bbpyro.compact(half_dead(given), x)
    bbpyro.save_compact(small, tmp_path / "net")
    assert_same(bbpyro.load_compact(tmp_path / "net", net=make()), small, x)


def test_a_state_that_json_does_not_hold_is_refused(tmp_path: Path) -> None:
    small = bbpyro.compact(half_dead(Parametrized(torch.tensor(2.0))), torch.randn(5, 4))
    with pytest.raises(UnsupportedModuleError, match="^the network: JSON does not hold its extra state"):
        bbpyro.save_compact(small, tmp_path / "net")


def test_a_class_may_be_built_without_memory_or_of_another_precision(tmp_path: Path) -> None:
    torch.manual_seed(0)
    x = {"a": torch.randn(5, 4), "more": (torch.randn(5, 3),)}
    small = bbpyro.compact(half_dead(Batch()), (x,))
    with torch.device("meta"):
        net = Batch()
    loaded = assert_comes_back(small, net, tmp_path / "net")
    assert {p.device.type for p in loaded.parameters()} == {"cpu"} and next(net.parameters()).is_meta
    for name, wanted in small(x).items():
        assert all(map(torch.equal, tensors_of(loaded(x)[name]), tensors_of(wanted)))
    frozen = Batch().double()
    frozen.b.requires_grad_(False)
    loaded = assert_comes_back(small, frozen, tmp_path / "net")
    assert {p.dtype for p in loaded.parameters()} == {torch.float32}  # as it was saved
    assert all(p.requires_grad == (".b." not in f".{n}") for n, p in loaded.named_parameters())


def test_what_is_compacted_again_comes_back_too(tmp_path: Path) -> None:
    torch.manual_seed(0)
    make, example = NETWORKS["two inputs"]
    net, x = make(), example()
    smaller = bbpyro.compact(half_dead(bbpyro.compact(half_dead(net), x)), x)
    loaded = assert_comes_back(smaller, make(), tmp_path / "net")
    assert_same(lambda some: call(loaded, some), smaller, x)
    assert dict(loaded.compaction.shapes) == {name: tuple(p.shape) for name, p in net.named_parameters()}


def test_standard_layers_come_back_with_and_without_their_class(tmp_path: Path) -> None:
    torch.manual_seed(0)
    shared = nn.Linear(8, 8)
    layers = [nn.Linear(4, 8), nn.ReLU(), shared, nn.ReLU(), shared, nn.ReLU(), nn.Linear(8, 3)]
    small, x = bbpyro.compact(half_dead(nn.Sequential(*layers))), torch.randn(5, 4)
    assert_same(assert_comes_back(small, nn.Sequential(*layers), tmp_path / "net"), small, x)
    loaded = bbpyro.load_compact(tmp_path / "net")
    assert_same(loaded, small, x)
    assert str(loaded.compaction) == str(small.compaction)


class Normed(nn.Module):
    """A norm that holds nothing, and yet has a number of channels."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.norm, self.b = nn.Conv2d(2, 6, 3), nn.InstanceNorm2d(6), nn.Conv2d(6, 3, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.b(self.norm(self.a(x)).relu()).mean((2, 3))


def test_a_norm_that_holds_nothing_says_how_many_channels_it_has(tmp_path: Path) -> None:
    torch.manual_seed(0)
    x = torch.randn(5, 2, 8, 8)
    small = bbpyro.compact(half_dead(Normed()), x)
    loaded = assert_comes_back(small, Normed(), tmp_path / "net")
    assert_same(loaded, small, x)
    assert loaded.norm.num_features == loaded.a.out_channels == 3


class TwoHeads(nn.Module):
    def __init__(self, width: int = 8, bias: bool = True, more: bool = False) -> None:
        super().__init__()
        self.enter, self.leave = nn.Linear(4, width), nn.Linear(width, 3, bias)
        self.more = nn.Linear(2, 2) if more else None

    def forward(self, x: Tensor) -> Tensor:
        return x[:, :3] + self.leave(self.enter(x).relu())


def saved_own(tmp_path: Path) -> Path:
    bbpyro.save_compact(bbpyro.compact(half_dead(TwoHeads()), torch.randn(5, 4)), tmp_path / "net")
    return tmp_path / "net"


@pytest.mark.parametrize(
    ("net", "error", "message"),
    [
        (None, CheckpointError, r"is of the class TwoHeads, whose forward no file holds: .* net=TwoHeads\(\)$"),
        (TwoHeads, TypeError, "^net is <class .*TwoHeads'>, wanted an nn.Module: your class built anew"),
        (TwoHeads(9), CheckpointError, r"'enter.weight' has shape \(8, 4\), this network wants \(9, 4\)"),
        (TwoHeads(7), CheckpointError, r"'enter.weight' has shape \(8, 4\), this network wants \(7, 4\)"),
        (TwoHeads(bias=False), CheckpointError, "has a tensor 'leave.bias' that this network has not"),
        (TwoHeads(more=True), CheckpointError, "has no tensor 'more.weight'; it is of another network"),
        (half_dead(TwoHeads()).net, CheckpointError, "has no tensor 'enter.gate.unconstrained_concentration"),
    ],
)
def test_a_network_that_does_not_fit_is_refused(net: Any, error: type[Exception], message: str, tmp_path: Path) -> None:
    path = saved_own(tmp_path)
    with pytest.raises(error, match=message) as raised:
        bbpyro.load_compact(path, net=net)
    assert "\n" not in str(raised.value)


def test_a_file_that_says_nothing_of_another_network_takes_none(tmp_path: Path) -> None:
    path = saved(tmp_path)
    with pytest.raises(CheckpointError, match="says nothing of another network .* without net$"):
        bbpyro.load_compact(path, net=dense([4, 3, 2], True, nn.ReLU))


@pytest.mark.parametrize("damage", ["half", "a bit", "selection", "tensor", "kept", "name", "shared"])
def test_a_damaged_file_of_a_class_is_refused(damage: str, tmp_path: Path) -> None:
    path = saved_own(tmp_path)
    content = bytearray(path.read_bytes())
    tensors, meta = checkpoint.load(path)
    if damage == "half":
        path.write_bytes(content[: len(content) // 2])
    elif damage == "a bit":
        content[-3] ^= 1
        path.write_bytes(content)
    else:  # made so, with a digest that fits
        if damage == "selection":
            tensors["enter.select.indices"] += 100
        elif damage == "tensor":
            del tensors["enter.linear.weight"]
        elif damage == "name":
            tensors["__class__"] = torch.zeros(2)
        elif damage == "kept":
            meta["compaction"]["kept"] = {"enter.weight": {"0": "all"}}
        else:
            meta["shared"] = {"enter.linear.weight": "nowhere"}
        checkpoint.save(path, tensors, meta)
    with pytest.raises(CheckpointError):
        bbpyro.load_compact(path, net=TwoHeads())
