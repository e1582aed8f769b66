"""The structure of small networks that hang together as real ones do, found by running them."""

import hypothesis
import hypothesis.strategies as st
import pytest
import torch
from small_networks import NETWORKS, call
from torch import Tensor, nn

import bbpyro
from bbpyro.compaction import SelectUnits, compact
from bbpyro.nests import map_tensors, tensors_of

LAYER_NORM = "layer_norm mixes them"
# The gates whose dead units, every other one, cannot all go or be left out, and why.
STAY = {
    "convnext block": {"enter": {LAYER_NORM: 3}, "depthwise": {LAYER_NORM: 3}},
    "roll and flip": {"hidden": {"another layer uses it": 4}},  # each is added to a mirror image that is alive
    "transformer encoder": {"layer.linear1": {LAYER_NORM: 4}},  # torch looks at its weight, so none is selected
}


def with_dead(net: nn.Module, dead: dict[str, Tensor] | None = None) -> bbpyro.BetaBernoulliNetwork:
    """A gated network of which the units given, or every other one, are dead."""
    bnn = bbpyro.BetaBernoulliNetwork(bbpyro.insert_dropout(net), num_data=10).eval()
    with torch.no_grad():
        for name, gate in bnn.gates.items():
            gate.unconstrained_concentration1.uniform_(-1, 3)
            mask = torch.arange(gate.num_features) % 2 == 0 if dead is None else dead[name]
            gate.unconstrained_concentration1[mask] = -12.0
    return bnn


def difference(small: nn.Module, bnn: bbpyro.BetaBernoulliNetwork, example) -> float:
    """The largest, as a part of the largest number of its output."""
    with torch.no_grad():
        pairs = zip(tensors_of(call(small, example)), tensors_of(call(bnn.net, example)), strict=True)
        return max(float((found - wanted).abs().max() / wanted.abs().max()) for found, wanted in pairs)


def new_data(example):
    """Others than those that the units were followed by."""
    return map_tensors(lambda x: torch.randn_like(x) if x.is_floating_point() else x.flip(0), example)


@pytest.mark.parametrize("name", NETWORKS)
def test_every_dead_unit_goes_or_is_left_out_unless_there_is_a_reason(name: str) -> None:
    torch.manual_seed(0)
    make, make_example = NETWORKS[name]
    net, example = make(), make_example()
    bnn = with_dead(net)
    small = compact(bnn, example)
    assert difference(small, bnn, example) < 1e-6
    assert difference(small, bnn, new_data(example)) < 1e-6
    gates = small.compaction.gates
    assert {gate: dict(report.reasons) for gate, report in gates.items() if report.reasons} == STAY.get(name, {})
    assert all(report.removed + report.left_out >= report.dead for gate, report in gates.items() if not report.reasons)
    sizes = [sum(p.numel() for p in n.parameters()) for n in (small, net)]
    assert sizes[0] < 0.82 * sizes[1]


@pytest.mark.parametrize("name", NETWORKS)
@hypothesis.settings(deadline=None, max_examples=5)
@hypothesis.given(data=st.data())
def test_whatever_units_are_dead_the_network_computes_the_same_in_double_precision(name: str, data) -> None:
    make, make_example = NETWORKS[name]
    torch.manual_seed(data.draw(st.integers(0, 2**31)))
    net = make().double()
    gates = bbpyro.BetaBernoulliNetwork(bbpyro.insert_dropout(net), num_data=10).gates
    share = data.draw(st.sampled_from([0.2, 0.5, 0.8, 1.0]))
    bnn = with_dead(net, {name: torch.rand(gate.num_features) < share for name, gate in gates.items()})
    example = map_tensors(lambda x: x.double() if x.is_floating_point() else x, make_example())
    small = compact(bnn, example)
    assert difference(small, bnn, new_data(example)) < 1e-9


# --- operations, each tried rather than listed -------------------------------------------------------------

KEEPING = {  # a dead channel in, a dead channel out
    "abs": torch.abs,
    "celu": nn.functional.celu,
    "channel dropout": nn.Dropout2d(),
    "clone": torch.clone,
    "cosine minus one": lambda x: x.cos() - 1,
    "crop": lambda x: x[..., 1:-1, :],
    "cumulative sum over rows": lambda x: x.cumsum(2),
    "erf": torch.erf,
    "expand and mean": lambda x: x[:, :, None].expand(-1, -1, 3, -1, -1).mean(2),
    "fractional power": lambda x: x.abs() ** 0.3,
    "hardswish": nn.functional.hardswish,
    "instance norm": nn.InstanceNorm2d(6),
    "leaky relu in place": lambda x: nn.functional.leaky_relu_(x.clone(), 0.1),
    "local maximum": nn.MaxPool2d(3, 1, 1),
    "logsumexp over pixels, less its own": lambda x: x - x.logsumexp((2, 3), keepdim=True),
    "maximum with half": lambda x: torch.maximum(x, x / 2),
    "permute and back": lambda x: x.permute(0, 2, 3, 1).contiguous().sin().permute(0, 3, 1, 2),
    "reflection": nn.ReflectionPad2d(1),
    "repeat": lambda x: x.repeat(1, 1, 2, 1),
    "roll over pixels": lambda x: x.roll((1, 1), (2, 3)),
    "selu": nn.functional.selu,
    "sign times square root": lambda x: x.sign() * x.abs().sqrt(),
    "soft shrinkage": nn.functional.softshrink,
    "softmax over pixels": lambda x: x.flatten(2).softmax(-1).view_as(x) * x,
    "sorted pixels": lambda x: x.flatten(2).sort(-1).values,
    "stack and unbind": lambda x: torch.stack([x, -x]).unbind(0)[1],
    "take every other pixel": lambda x: x[:, :, ::2, 1::2],
    "tanh of itself times itself": lambda x: x * x.tanh(),
    "top two pixels": lambda x: x.flatten(2).topk(2, -1).values,
    "unfold": lambda x: x.unfold(2, 2, 1).amax(-1),
    "upsample": nn.Upsample(scale_factor=2, mode="bilinear"),
    "where": lambda x: torch.where(x > 0, x, 0.1 * x),
    "write into a part": lambda x: _written(x),
}
MIXING = {
    "layer norm": lambda x: nn.functional.layer_norm(x, x.shape[1:]),
    "maximum over channels": lambda x: x - x.amax(1, keepdim=True),
    "softmax over channels": lambda x: x.softmax(1),
    "group norm": nn.GroupNorm(2, 6),
    "cumulative sum over channels": lambda x: x.cumsum(1),
    "normalised over channels": lambda x: nn.functional.normalize(x, dim=1),
}


def _written(x: Tensor) -> Tensor:
    y = torch.zeros_like(x)
    y[..., 1:] = x[..., :-1]
    y[..., :1].add_(x[..., :1])
    return y


class Between(nn.Module):
    def __init__(self, operation) -> None:
        super().__init__()
        self.enter, self.operation, self.leave = nn.Conv2d(2, 6, 3), operation, nn.LazyLinear(3)

    def forward(self, x: Tensor) -> Tensor:
        return self.leave(self.operation(self.enter(x)).flatten(1))


def dead_channels(operation) -> tuple[nn.Module, bbpyro.BetaBernoulliNetwork, Tensor]:
    net, x = Between(operation), torch.randn(3, 2, 8, 8)
    net.eval()(x)
    dead = {"enter.gate": torch.tensor([True, False, True, True, False, False])}
    dead["leave.gate"] = torch.zeros(net.leave.in_features, dtype=torch.bool)
    bnn = with_dead(net, dead)
    return compact(bnn, x), bnn, x


@pytest.mark.parametrize("operation", KEEPING.values(), ids=KEEPING)
def test_a_dead_channel_passes_an_operation_that_keeps_channels_apart(operation) -> None:
    small, bnn, x = dead_channels(operation)
    assert difference(small, bnn, new_data(x)) < 1e-6
    assert small.get_submodule("enter").out_channels == 3
    assert small.get_submodule("leave").in_features == bnn.net.get_submodule("leave").in_features // 2


@pytest.mark.parametrize("operation", MIXING.values(), ids=MIXING)
def test_a_dead_channel_stays_before_an_operation_that_mixes_channels(operation) -> None:
    small, bnn, x = dead_channels(operation)
    assert difference(small, bnn, new_data(x)) < 1e-6
    assert small.get_submodule("enter").out_channels == 6
    (reason,) = small.compaction.gates["enter"].reasons
    assert "mixes them" in reason


def test_a_number_of_units_that_is_written_in_forward_keeps_that_layer_alone() -> None:
    class Written(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b, self.c = nn.Linear(4, 6), nn.Linear(6, 8), nn.Linear(8, 3)

        def forward(self, x: Tensor) -> Tensor:
            return self.c(self.b(self.a(x).relu()).reshape(len(x), 8).relu())

    bnn, x = with_dead(Written()), torch.randn(3, 4)
    small = compact(bnn, x)
    assert difference(small, bnn, new_data(x)) < 1e-6
    assert small.get_submodule("a.linear").out_features == 3 and small.get_submodule("b").out_features == 8
    assert isinstance(small.get_submodule("c.select"), SelectUnits)


def test_numbers_of_units_are_rounded_up_and_the_report_says_so() -> None:
    net = nn.Sequential(nn.Linear(5, 20), nn.ReLU(), nn.Linear(20, 10), nn.ReLU(), nn.Linear(10, 2))
    dead = {"0.gate": torch.arange(5) < 2, "2.gate": torch.arange(20) < 9, "4.gate": torch.arange(10) < 5}
    bnn, x = with_dead(net, dead), torch.randn(3, 5)
    small = compact(bnn, x, round_to=4)
    assert difference(small, bnn, new_data(x)) < 1e-6
    assert [layer.in_features for layer in small.modules() if isinstance(layer, nn.Linear)] == [4, 12, 8]
    assert dict(small.compaction.gates["2"].reasons) == {"for a round number": 1}
    with pytest.raises(ValueError, match="round_to is 0, wanted 1 or more"):
        compact(bnn, x, round_to=0)
    small = compact(with_dead(net, {name: torch.ones_like(mask) for name, mask in dead.items()}), x, round_to=4)
    assert [layer.in_features for layer in small.modules() if isinstance(layer, nn.Linear)] == [4, 4, 4]


def test_a_network_that_is_no_bnn_is_named() -> None:
    with pytest.raises(TypeError, match="bnn is a Sequential, wanted a BetaBernoulliNetwork"):
        compact(bbpyro.insert_dropout(nn.Sequential(nn.Linear(4, 2))), torch.randn(2, 4))


def test_a_network_that_makes_single_precision_itself_is_compacted_in_it() -> None:
    class Single(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = nn.Linear(4, 6), nn.Linear(6, 3)

        def forward(self, x: Tensor) -> Tensor:
            return self.b(self.a(x).float().relu())

    bnn, x = with_dead(Single()), torch.randn(3, 4)
    small = compact(bnn, x)
    assert difference(small, bnn, new_data(x)) < 1e-6
    assert small.get_submodule("b").in_features == 3


def test_a_layer_that_is_used_twice_leaves_a_constant_to_neither_bias() -> None:
    class Twice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b, self.c = nn.Linear(4, 5), nn.Linear(5, 5), nn.Linear(5, 3)

        def forward(self, x: Tensor) -> Tensor:
            return self.c(self.b(torch.sigmoid(self.b(torch.sigmoid(self.a(x))))))

    net = bbpyro.insert_dropout(Twice(), only=["a", "c"])
    bnn = bbpyro.BetaBernoulliNetwork(net, num_data=10).eval()
    with torch.no_grad():
        net.a.weight[2], net.a.bias[2] = 0, 0  # sigmoid makes a half of it, and only its first use reads that
        bnn.gates["c.gate"].unconstrained_concentration1[1] = -12
    x = torch.randn(3, 4)
    small = compact(bnn, x)
    assert difference(small, bnn, new_data(x)) < 1e-6
    assert small.get_submodule("b").weight.shape == (5, 5)


RARE = {  # what a few data may not show of an operation
    "equal to zero": lambda x: (x.relu() == 0).to(x.dtype),
    "any of two": lambda x: torch.stack([x > 0, x > 1]).any(0).to(x.dtype),
    "clipped far out": lambda x: x.clamp(min=100.0),
    "above a brightness": lambda x: (x > 100).to(x.dtype),
    "difference of two that are zero": lambda x: (x - 1).relu() - (2 * x - 3).relu(),
}


@pytest.mark.parametrize("operation", RARE.values(), ids=RARE)
def test_what_two_data_do_not_show_is_no_constant(operation) -> None:
    net = Between(operation).double()
    net.eval()(x := torch.rand(2, 2, 4, 4).double())
    with torch.no_grad():
        net.enter.weight.copy_(torch.rand_like(net.enter.weight) + 0.1)
        net.enter.bias.fill_(0.1)
    dead = {"enter.gate": torch.arange(6) < 2, "leave.gate": torch.zeros(net.leave.in_features, dtype=torch.bool)}
    bnn = with_dead(net, dead)
    small = compact(bnn, x / 1000)
    assert max(difference(small, bnn, scale * torch.randn(2, 2, 4, 4).double()) for scale in (1, 10, 1000)) < 1e-9
    assert small.get_submodule("enter").out_channels == 4


NORMS = {
    "instance norm with statistics": nn.InstanceNorm2d(6, affine=True, track_running_stats=True),
    "group norm of each channel": nn.GroupNorm(6, 6),
    "layer norm over pixels, as many as channels": nn.LayerNorm([6, 6]),
    "random slope": nn.RReLU(),
    "made empty": lambda x: torch.empty_like(x).copy_(x),
}


@pytest.mark.parametrize("operation", NORMS.values(), ids=NORMS)
def test_a_dead_channel_passes_a_norm_of_each(operation) -> None:
    small, bnn, x = dead_channels(operation)
    assert difference(small, bnn, new_data(x)) < 1e-6
    assert small.get_submodule("enter").out_channels == 3


class Experts(nn.Module):
    """A mixture of experts, of which a few data reach some only."""

    def __init__(self) -> None:
        super().__init__()
        self.enter, self.router, self.leave = nn.Linear(4, 6), nn.Linear(6, 4), nn.Linear(6, 3)
        self.experts = nn.ModuleList(nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 6)) for _ in range(4))

    def forward(self, x: Tensor) -> Tensor:
        h = self.enter(x).relu()
        chosen, out = self.router(h).argmax(-1), torch.zeros_like(h)
        for k, expert in enumerate(self.experts):
            out[chosen == k] = expert(h[chosen == k])
        return self.leave(out + h)


@pytest.mark.parametrize("num_data", [2, 40])
def test_an_expert_that_the_example_does_not_reach_keeps_its_units(num_data: int) -> None:
    torch.manual_seed(1)
    bnn, x = with_dead(Experts().double()), torch.randn(num_data, 4).double()
    small = compact(bnn, x)
    assert difference(small, bnn, torch.randn(500, 4).double()) < 1e-9
    assert any(gate.removed for gate in small.compaction.gates.values())


def test_a_layer_that_only_other_data_are_given_to_gets_its_mask_all_the_same() -> None:
    class Rare(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b, self.c = nn.Linear(4, 6), nn.Linear(6, 6), nn.Linear(6, 3)

        def forward(self, x: Tensor) -> Tensor:
            h = self.a(x)
            return self.c(self.b(h) if x.amax() > 1000 else h)

    net = bbpyro.insert_dropout(Rare(), only=["a", "b"])
    bnn = bbpyro.BetaBernoulliNetwork(net, num_data=10).eval()
    small = compact(bnn, torch.randn(3, 4))
    assert difference(small, bnn, 2000 * torch.rand(3, 4) + 1001) < 1e-6
    assert small.compaction.gates["b"].reasons == {"its gate is never called": 6}


@pytest.mark.parametrize("first", [torch.arange(0.5, 12.5).double()[3:9], torch.ones(1).double().expand(6)])
def test_buffers_that_are_parts_of_one_tensor_are_told_apart(first: Tensor) -> None:
    class Scaled(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b, self.c = nn.Linear(4, 6), nn.Linear(6, 6), nn.Linear(6, 3)
            self.register_buffer("first", first)
            self.register_buffer("second", torch.as_strided(first, (6,), first.stride(), 0))

        def forward(self, x: Tensor) -> Tensor:
            return self.c((self.b((self.a(x) * self.first).relu()) * self.second).relu())

    bnn, x = with_dead(Scaled().double()), torch.randn(3, 4).double()
    small = compact(bnn, x)
    assert difference(small, bnn, new_data(x)) < 1e-9
    assert small.get_submodule("b").weight.shape == (3, 3)
    assert small.first.shape == small.second.shape == (3,)


@pytest.mark.parametrize("groups", [2, 6])
def test_a_transposed_convolution_in_groups_holds_its_channels(groups: int) -> None:
    net = nn.Sequential(nn.Conv2d(3, 6, 3), nn.ReLU(), nn.ConvTranspose2d(6, 12, 3, 2, output_padding=1, groups=groups))
    bnn, x = with_dead(net.append(nn.Conv2d(12, 2, 1)).double()), torch.randn(2, 3, 8, 8).double()
    small = compact(bnn, x)
    assert difference(small, bnn, new_data(x)) < 1e-9
    assert small.compaction.gates["0"].reasons == {"a convolution in groups holds them": 3}


def test_a_batch_norm_without_weights_is_given_its_mask_as_one() -> None:
    norm = nn.BatchNorm2d(6, affine=False)
    net = nn.Sequential(nn.Conv2d(3, 6, 3), norm, nn.ReLU(), nn.Conv2d(6, 2, 1))
    bnn, x = with_dead(net), torch.randn(3, 3, 8, 8)
    small = compact(bnn, x)
    assert difference(small, bnn, new_data(x)) < 1e-6
    assert small.get_submodule("0").out_channels == small.get_submodule("1").num_features == 3
    assert norm.weight is None and bnn.net.get_submodule("1").weight is None


class Filled(nn.Module):
    """Hidden layers on a tensor that the network writes, or makes, of its data by itself."""

    def __init__(self, fill) -> None:
        super().__init__()
        self.a, self.b, self.c, self.d = nn.Linear(4, 4), nn.Linear(6, 32), nn.Linear(32, 64), nn.Linear(64, 3)
        self.fill = fill

    def forward(self, x: Tensor) -> Tensor:
        return self.d(self.c(self.b(self.fill(self.a(x))).relu()).relu())


def _in_a_part(h: Tensor) -> Tensor:
    made = torch.zeros(len(h), 6, dtype=h.dtype)
    made[:, 1:5] = h
    return made


def _in_views(h: Tensor) -> Tensor:
    made = torch.empty(len(h), 6, dtype=h.dtype)
    for part, other in zip(made.chunk(3, 1), (h[:, :2], h[:, 1:3], h[:, 2:]), strict=True):
        part.copy_(other)
    return made


def _out(h: Tensor) -> Tensor:
    made = torch.empty(len(h), 6, dtype=h.dtype)
    torch.cat([h, h[:, :2]], 1, out=made)
    return made


def _of_numbers(h: Tensor) -> Tensor:
    return torch.tensor([[*row, 0, 1] for row in h.tolist()], dtype=h.dtype)


@pytest.mark.parametrize("fill", [_in_a_part, _in_views, _out, _of_numbers])
def test_a_tensor_of_the_networks_own_that_data_go_into_is_data(fill) -> None:
    for seed in range(5):
        torch.manual_seed(seed)
        net = bbpyro.insert_dropout(Filled(fill).double(), only=["d"])
        bnn, x = bbpyro.BetaBernoulliNetwork(net, num_data=10).eval(), torch.randn(2, 4).double()
        with torch.no_grad():
            bnn.gates["d.gate"].unconstrained_concentration1[:10] = -12
        small = compact(bnn, x)
        assert difference(small, bnn, torch.randn(100, 4).double()) < 1e-9
        assert small.get_submodule("d").in_features == 54


def test_a_network_that_takes_as_many_data_as_it_has_nodes() -> None:
    class Graph(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b, self.c = nn.Linear(4, 6), nn.Linear(6, 6), nn.Linear(6, 3)
            self.register_buffer("adjacency", (torch.rand(5, 5) > 0.5).double().to_sparse())

        def forward(self, x: Tensor) -> Tensor:
            return self.c(torch.mm(self.adjacency, self.b(self.a(x).relu())).relu())

    bnn, x = with_dead(Graph().double()), torch.randn(5, 4).double()
    small = compact(bnn, x)
    assert difference(small, bnn, new_data(x)) < 1e-9
    assert small.get_submodule("c").in_features == 3


def test_numbers_seen_as_complex_ones_stay() -> None:
    def turned(h: Tensor) -> Tensor:
        turn = torch.polar(torch.ones(4, dtype=h.dtype), torch.arange(4).to(h))
        return torch.view_as_real(torch.view_as_complex(h.unflatten(-1, (4, 2))) * turn).flatten(-2)

    class Rotary(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = nn.Linear(4, 8), nn.Linear(8, 3)

        def forward(self, x: Tensor) -> Tensor:
            return self.b(turned(self.a(x)))

    bnn, x = with_dead(Rotary().double()), torch.randn(5, 4).double()
    assert difference(compact(bnn, x), bnn, new_data(x)) < 1e-9


@pytest.mark.filterwarnings("ignore:`torch.jit")  # but what it makes is still about
def test_a_part_that_is_compiled_is_left_alone() -> None:
    compiled = torch.jit.trace(nn.Sequential(nn.ReLU(), nn.Sigmoid()), torch.randn(2, 8))
    bnn, x = with_dead(nn.Sequential(nn.Linear(4, 8), compiled, nn.Linear(8, 3))), torch.randn(5, 4)
    small = compact(bnn, x)
    assert difference(small, bnn, new_data(x)) < 1e-6
    assert small.get_submodule("2").in_features == 4


def test_why_the_only_unit_of_a_layer_stays() -> None:
    net = nn.Sequential(nn.Linear(4, 1), nn.ReLU(), nn.Linear(1, 1), nn.ReLU(), nn.Linear(1, 3))
    dead = {"0.gate": torch.zeros(4, dtype=torch.bool)} | {f"{k}.gate": torch.tensor([True]) for k in (2, 4)}
    gates = compact(with_dead(net, dead), torch.randn(5, 4)).compaction.gates
    assert gates["2"].reasons == gates["4"].reasons == {"it is the only one of its layer": 1}
