import copy
import warnings

import hypothesis
import hypothesis.strategies as st
import pytest
import torch
from small_networks import half_dead
from torch import Tensor, nn

import bbpyro
from bbpyro.compaction import SelectUnits, UnsupportedModuleError, compact


def make_network(net: nn.Module, kept: dict[str, list[bool]] | float = 0.5) -> bbpyro.BetaBernoulliNetwork:
    """A gated network, some of whose units are dead: those given, or a random share."""
    bnn = bbpyro.BetaBernoulliNetwork(bbpyro.insert_dropout(net), num_data=10).eval()
    with torch.no_grad():
        for name, gate in bnn.gates.items():
            alive = torch.tensor(kept[name]) if isinstance(kept, dict) else torch.rand(gate.num_features) < kept
            gate.unconstrained_concentration1.uniform_(-1, 3)
            gate.unconstrained_concentration1[~alive] = -12.0
    return bnn


def assert_same(small: nn.Module, bnn: bbpyro.BetaBernoulliNetwork, x: torch.Tensor) -> None:
    with torch.no_grad():
        wanted, found = bnn(x), small(x)
    assert (found - wanted).abs().max() <= 1e-5 * wanted.abs().max()
    assert not [m for m in small.modules() if isinstance(m, bbpyro.BetaBernoulliDropout)]


def shapes(net: nn.Module) -> dict[str, tuple[int, int]]:
    found: dict[str, tuple[int, int]] = {}
    for name, module in net.named_modules():
        if isinstance(module, nn.Linear):
            found[name.removesuffix(".linear")] = (module.in_features, module.out_features)
        elif isinstance(module, nn.Conv2d):
            found[name] = (module.in_channels, module.out_channels)
    return found


ACTIVATIONS = (nn.ReLU, nn.Tanh, nn.Sigmoid, nn.GELU)


@st.composite
def networks(draw: st.DrawFn) -> tuple[nn.Module, dict[str, list[bool]]]:
    """A random MLP, with batch norm here and there, and a random mask for each of its gates."""
    widths = draw(st.lists(st.integers(1, 9), min_size=2, max_size=5))
    torch.manual_seed(draw(st.integers(0, 2**31)))
    layers: list[nn.Module] = []
    kept = {}
    for into, out in zip(widths, widths[1:], strict=False):
        kept[f"{len(layers)}.gate"] = draw(st.lists(st.booleans(), min_size=into, max_size=into))
        layers.append(nn.Linear(into, out, bias=draw(st.booleans())))
        if draw(st.booleans()):
            layers.append(norm := nn.BatchNorm1d(out))
            nn.init.uniform_(norm.weight, 0.5, 2)
            nn.init.normal_(norm.bias)
            norm.running_mean.normal_()
            norm.running_var.uniform_(0.5, 2)
        layers.append(draw(st.sampled_from(ACTIVATIONS))())
    return nn.Sequential(*layers), kept


@hypothesis.settings(deadline=None, max_examples=60)
@hypothesis.given(networks())
def test_any_mlp_with_any_mask_computes_what_its_mean_mask_does_with_as_few_units(made) -> None:
    net, kept = made
    bnn = make_network(net, kept)
    x = torch.randn(7, len(kept["0.gate"]))
    small = compact(bnn, x)
    assert_same(small, bnn, x)
    alive = [max(1, sum(mask)) for mask in kept.values()]
    wanted = list(zip(alive, [*alive[1:], bnn(x).shape[-1]], strict=True))
    found = list(shapes(small).values())
    assert all(
        one <= most
        for pair, at_most in zip(found, wanted, strict=True)
        for one, most in zip(pair, at_most, strict=True)
    )
    if all(any(mask) for mask in kept.values()):  # else what comes after is constant, and may be zero
        assert found == wanted


def test_lenet_is_small_by_its_masks_and_selects_its_pixels() -> None:
    bnn = make_network(bbpyro.networks.lenet_500_300(), 0.4)
    kept = [int(gate.kept().sum()) for gate in bnn.gates.values()]
    small = compact(bnn)
    assert_same(small, bnn, torch.rand(20, 28, 28))
    assert shapes(small) == {"fc1": (kept[0], kept[1]), "fc2": (kept[1], kept[2]), "fc3": (kept[2], 10)}
    select = small.get_submodule("fc1.select")
    assert isinstance(select, SelectUnits)
    assert select.indices.tolist() == bnn.gates["fc1.gate"].kept().nonzero()[:, 0].tolist()


class Residual(nn.Module):
    """Units of `enter` are read by `hidden` and, added to those of `hidden`, by `leave`."""

    def __init__(self) -> None:
        super().__init__()
        self.enter, self.hidden, self.leave = nn.Linear(4, 6), nn.Linear(6, 6), nn.Linear(6, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        h = torch.relu(self.enter(x))
        return self.leave(h + torch.relu(self.hidden(h)))


def test_units_tied_by_an_addition_go_only_where_every_reader_does_without() -> None:
    kept = {
        "enter.gate": [True] * 4,
        "hidden.gate": [True, False, True, False, True, True],
        "leave.gate": [True, True, False, False, True, False],
    }
    bnn, x = make_network(Residual(), kept), torch.randn(9, 4)
    small = compact(bnn, x)
    assert_same(small, bnn, x)
    assert shapes(small) == {"enter": (4, 5), "hidden": (4, 5), "leave": (3, 3)}  # unit 3 alone is gone for all


class AlsoOut(nn.Module):
    """Its hidden units are part of its output."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.ModuleDict({"first": nn.Linear(4, 6), "second": nn.Linear(6, 3)})

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        h = torch.tanh(self.body["first"](x))
        return torch.cat([self.body["second"](h), h], -1)


class Normed(nn.Module):
    """A layer norm and a softmax mix units, so that none can be removed before them."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.norm, self.second = nn.Linear(4, 6), nn.LayerNorm(6), nn.Linear(6, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.second(torch.softmax(self.norm(self.first(x)), -1))


@pytest.mark.parametrize("make", [AlsoOut, Normed])
def test_units_that_something_else_needs_stay_where_they_are_made(make: type[nn.Module]) -> None:
    bnn, x = make_network(make(), 0.5), torch.randn(9, 4)
    small = compact(bnn, x)
    assert_same(small, bnn, x)
    (_, made), (read, _) = shapes(small).values()
    assert made == 6 and read == max(1, int(list(bnn.gates.values())[1].kept().sum()))


def test_softmax_alone_keeps_its_units_too() -> None:
    bnn, x = make_network(nn.Sequential(nn.Linear(4, 6), nn.Softmax(-1), nn.Linear(6, 3))), torch.randn(9, 4)
    small = compact(bnn, x)
    assert_same(small, bnn, x)
    assert shapes(small)["0"][1] == 6


def test_a_layer_used_twice_is_right_or_refused() -> None:
    class Twice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.again, self.last = nn.Linear(4, 5), nn.Linear(5, 5), nn.Linear(5, 3)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.last(torch.tanh(self.again(torch.tanh(self.again(torch.tanh(self.first(x)))))))

    bnn, x = make_network(Twice(), 0.6), torch.randn(9, 4)
    assert_same(compact(bnn, x), bnn, x)


def test_a_weight_that_is_used_outside_of_its_layer_is_refused_by_name() -> None:
    class Tied(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.encode, self.decode = nn.Linear(6, 3), nn.Linear(3, 2)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return torch.cat([self.decode(self.encode(x)), x @ self.encode.weight.T], -1)

    kept = {"encode.gate": [True, False] * 3, "decode.gate": [True] * 3}
    with pytest.raises(UnsupportedModuleError, match="encode"):
        compact(make_network(Tied(), kept), torch.randn(9, 6))


def test_a_gate_that_stands_by_itself_is_refused_by_name() -> None:
    net = nn.Sequential(nn.Linear(4, 5), bbpyro.BetaBernoulliDropout(5), nn.ReLU(), nn.Linear(5, 2))
    with pytest.raises(UnsupportedModuleError, match="1: a gate that stands by itself"):
        compact(bbpyro.BetaBernoulliNetwork(net, num_data=10), torch.randn(2, 4))


def test_where_all_units_died_a_constant_is_left() -> None:
    bnn, x = make_network(nn.Sequential(nn.Linear(4, 5), nn.Sigmoid(), nn.Linear(5, 3)), 0.0), torch.randn(9, 4)
    small = compact(bnn, x)
    assert_same(small, bnn, x)
    assert shapes(small) == {"0": (1, 1), "2": (1, 3)}


def test_the_threshold_is_each_gates_own_or_the_one_given() -> None:
    bnn, x = make_network(nn.Sequential(nn.Linear(8, 9), nn.ReLU(), nn.Linear(9, 3)), 1.0), torch.randn(9, 8)
    means = [gate.keep_probability().detach() for gate in bnn.gates.values()]
    cut = float(means[0].median())
    small = compact(bnn, x, threshold=cut)
    assert shapes(small)["0"] == (int((means[0] > cut).sum()), int((means[1] > cut).sum()))
    assert shapes(compact(bnn, x)) == {"0": (8, 9), "2": (9, 3)}
    for gate in bnn.gates.values():
        gate.threshold = cut
    assert_same(small, bnn, x)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float16, torch.bfloat16])
def test_the_dtype_is_kept(dtype: torch.dtype) -> None:
    bnn = make_network(nn.Sequential(nn.Linear(8, 9), nn.ReLU(), nn.Linear(9, 3)))
    bnn.to(dtype)
    small = compact(bnn)
    assert {p.dtype for p in small.parameters()} == {dtype}
    x = torch.randn(4, 8, dtype=dtype)
    with torch.no_grad():
        wanted = bnn(x)
        # E[π] is rounded into the weights here and into x there: each is a rounding of the terms, not of a small sum.
        rounding = 2 * torch.finfo(dtype).eps * wanted.abs().max().item()
        torch.testing.assert_close(small(x), wanted, rtol=0, atol=rounding)


def test_frozen_layers_stay_frozen_and_the_original_is_left_alone() -> None:
    bnn = make_network(nn.Sequential(nn.Linear(8, 9), nn.ReLU(), nn.Linear(9, 3)))
    bnn.net[0].weight.requires_grad_(False)
    bnn.train()
    before = copy.deepcopy(bnn.state_dict())
    small = compact(bnn, torch.randn(3, 8))
    flags = {name.replace(".linear", ""): p.requires_grad for name, p in small.named_parameters()}
    assert flags == {"0.weight": False, "0.bias": True, "2.weight": True, "2.bias": True}
    assert bnn.training and all(torch.equal(value, before[name]) for name, value in bnn.state_dict().items())


def test_a_compact_network_can_be_trained_further_and_exported() -> None:
    bnn, x = make_network(bbpyro.networks.lenet_500_300(20, 3)), torch.randn(12, 20)
    small = compact(bnn, x)
    bbpyro.pretrain(small, x, torch.randint(3, (12,)), num_epochs=1, progress=False)
    exported = torch.export.export(small, (x,)).module()
    torch.testing.assert_close(exported(x), small(x))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"threshold": 1.0}, "threshold is 1.0"),
        ({"threshold": -0.1}, "threshold is -0.1"),
        ({"example_input": torch.randn(3, 7)}, r"example_input: the network cannot take one of shape \(3, 7\)"),
    ],
)
def test_bad_arguments_are_named(options: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        compact(make_network(nn.Sequential(nn.Linear(8, 2))), **options)


# --- convolutions ------------------------------------------------------------------------------------------


def shake(norm: nn.BatchNorm2d) -> nn.BatchNorm2d:
    """Statistics and weights that are not those of a new batch norm."""
    nn.init.uniform_(norm.weight, 0.5, 2)
    nn.init.normal_(norm.bias)
    assert norm.running_mean is not None and norm.running_var is not None
    norm.running_mean.normal_()
    norm.running_var.uniform_(0.5, 2)
    return norm


@st.composite
def conv_stacks(draw: st.DrawFn) -> tuple[nn.Module, float, int]:
    """Convolutions with batch norm and pooling here and there, and a dense layer at the end."""
    torch.manual_seed(draw(st.integers(0, 2**31)))
    layers: list[nn.Module] = []
    channels = draw(st.integers(1, 3))
    first = channels
    for _ in range(draw(st.integers(1, 3))):
        out = draw(st.integers(1, 6))
        layers.append(nn.Conv2d(channels, out, 3, padding=1, bias=draw(st.booleans())))
        if draw(st.booleans()):
            layers.append(shake(nn.BatchNorm2d(out)))
        layers.append(draw(st.sampled_from(ACTIVATIONS))())
        channels = out
    pooled = draw(st.booleans())
    if pooled:
        layers.append(nn.AvgPool2d(2))
    side = 3 if pooled else 6
    return nn.Sequential(*layers, nn.Flatten(), nn.Linear(channels * side * side, 3)), draw(st.floats(0, 1)), first


@hypothesis.settings(deadline=None, max_examples=40)
@hypothesis.given(conv_stacks())
def test_any_stack_of_convolutions_computes_what_its_mean_mask_does(made) -> None:
    net, kept, channels = made
    bnn, x = make_network(net, kept), torch.randn(4, channels, 6, 6)
    assert_same(compact(bnn, x), bnn, x)


def test_lenet5_is_small_by_its_masks() -> None:
    bnn = make_network(bbpyro.networks.lenet5_caffe(), 0.5)
    kept = {name: gate.kept() for name, gate in bnn.gates.items()}
    small = compact(bnn, torch.rand(2, 28, 28))
    assert_same(small, bnn, torch.rand(20, 28, 28))
    read = kept["fc1.gate"].reshape(50, 16)
    channels = kept["conv2.gate"] & read.any(1)  # one that no dense unit reads goes, too
    assert shapes(small) == {
        "conv1": (1, int(kept["conv1.gate"].sum())),
        "conv2": (int(kept["conv1.gate"].sum()), int(channels.sum())),
        "fc1": (int(read[channels].sum()), int(kept["fc2.gate"].sum())),
        "fc2": (int(kept["fc2.gate"].sum()), 10),
    }


def test_the_small_lenet5_is_small_by_its_masks() -> None:
    bnn = make_network(bbpyro.networks.lenet5(), 0.5)
    kept = {name: gate.kept() for name, gate in bnn.gates.items()}
    small = compact(bnn, torch.rand(2, 28, 28))
    assert_same(small, bnn, torch.rand(20, 28, 28))
    read = kept["fc1.gate"].reshape(16, 25)
    channels = kept["conv2.gate"] & read.any(1)
    count = {name: int(units.sum()) for name, units in kept.items()}
    assert shapes(small) == {
        "conv1": (1, count["conv1.gate"]),
        "conv2": (count["conv1.gate"], int(channels.sum())),
        "fc1": (int(read[channels].sum()), count["fc2.gate"]),
        "fc2": (count["fc2.gate"], count["fc3.gate"]),
        "fc3": (count["fc3.gate"], 10),
    }


@pytest.mark.parametrize("padding", [0, 1])
def test_what_a_sigmoid_makes_of_dead_channels_goes_into_a_bias_but_where_there_is_a_border(padding: int) -> None:
    conv = nn.Conv2d(4, 3, 3, padding=padding, bias=padding == 1)
    net = nn.Sequential(
        nn.Conv2d(1, 4, 3), nn.Sigmoid(), conv, nn.ReLU(), nn.AdaptiveAvgPool2d(4), nn.Flatten(), nn.Linear(48, 2)
    )
    kept = {"0.gate": [True, False, True, False], "2.gate": [True, True, False], "6.gate": [True] * 48}
    bnn, x = make_network(net, kept), torch.randn(5, 1, 8, 8)
    small = compact(bnn, x)
    assert_same(small, bnn, x)
    channels = 4 if padding else 2
    assert shapes(small) == {"0": (1, channels), "2": (channels, 2), "6": (32, 2)}
    assert small.get_submodule("2").bias is not None


class Block(nn.Module):
    """A residual block: its second convolution is added to its input."""

    def __init__(self) -> None:
        super().__init__()
        self.enter = nn.Conv2d(2, 6, 3, padding=1)
        self.conv1, self.norm1 = nn.Conv2d(6, 6, 3, padding=1), shake(nn.BatchNorm2d(6))
        self.conv2, self.norm2 = nn.Conv2d(6, 6, 3, padding=1), shake(nn.BatchNorm2d(6))
        self.head = nn.Linear(6, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        h = torch.relu(self.enter(x))
        inside = self.norm2(self.conv2(torch.relu(self.norm1(self.conv1(h)))))
        return self.head(torch.relu(h + inside).mean((2, 3)))


def test_inside_a_residual_block_channels_go_and_at_the_addition_only_together() -> None:
    kept = {
        "enter.gate": [True, False, True, False, False, True],
        "norm1.gate": [True, False, False, False, True, True],
        "norm2.gate": [False, True, True, False, False, True],
        "head.gate": [True, True, True, True, True, False],
    }
    bnn, x = make_network(Block(), kept), torch.randn(5, 2, 6, 6)
    small = compact(bnn, x)
    assert_same(small, bnn, x)
    # 3 and 4 are dead on both sides of the addition; 5, which the head does not read, is selected away there.
    assert shapes(small) == {"enter": (2, 4), "conv1": (4, 3), "conv2": (3, 4), "head": (3, 3)}


def test_a_depthwise_convolution_loses_the_channels_that_are_dead_before_it() -> None:
    net = nn.Sequential(
        nn.Conv2d(1, 4, 3),
        nn.ReLU(),
        nn.Conv2d(4, 8, 3, groups=4, bias=False),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(128, 2),
    )
    kept = {"0.gate": [True, False, True, True], "2.gate": [True] * 8, "5.gate": [True] * 128}
    bnn, x = make_network(net, kept), torch.randn(5, 1, 8, 8)
    small = compact(bnn, x)
    assert_same(small, bnn, x)
    assert shapes(small) == {"0": (1, 3), "2": (3, 6), "5": (96, 2)}
    assert small.get_submodule("2").groups == 3


def test_of_each_group_of_a_convolution_as_many_channels_stay() -> None:
    net = nn.Sequential(
        nn.Conv2d(1, 6, 3), nn.ReLU(), nn.Conv2d(6, 8, 3, groups=2), nn.ReLU(), nn.Flatten(), nn.Linear(128, 2)
    )
    kept = {
        "0.gate": [True, False, False, False, True, True],  # two of one group are dead and one of the other
        "2.gate": [False, True, True, True, False, False, True, True],  # one of one group and two of the other
        "5.gate": [True] * 128,
    }
    bnn, x = make_network(net, kept), torch.randn(5, 1, 8, 8)
    small = compact(bnn, x)
    assert_same(small, bnn, x)
    assert shapes(small) == {"0": (1, 4), "2": (4, 6), "5": (96, 2)}
    assert small.get_submodule("2").weight.shape == (6, 2, 3, 3)


# --- what two inputs would not have told -------------------------------------------------------------------


class Shortcut(nn.Module):
    """A gated convolution beside one without a gate, nearly but not quite silent."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.short, self.fc = nn.Conv2d(1, 8, 3, padding=1), nn.Conv2d(1, 8, 1), nn.Linear(8, 3)
        nn.init.constant_(self.short.bias, -8.0)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.fc(torch.relu(self.a(x) + self.short(x)).mean((2, 3)))


class Transposed(nn.Module):
    """A transposed convolution that reads the same channels, and hardly ever says so."""

    def __init__(self) -> None:
        super().__init__()
        self.c, self.ct, self.fc = nn.Conv2d(1, 6, 3), nn.ConvTranspose2d(6, 3, 3), nn.Linear(6, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        h = torch.relu(self.c(x))
        return self.fc(h.mean((2, 3))) + torch.relu(self.ct(h) - 50).mean((2, 3))


def late() -> nn.Conv2d:
    """A convolution that, before a ReLU, says nothing of inputs that are not large."""
    conv = nn.Conv2d(8, 6, 3)
    assert conv.bias is not None
    nn.init.constant_(conv.bias, -3000.0)
    return conv


@pytest.mark.parametrize(
    ("net", "options"),
    [
        (Shortcut(), {"only": ["a", "fc"]}),
        (Transposed(), {"exclude": ["c"]}),
        (
            nn.Sequential(
                nn.Conv2d(1, 16, 3),
                nn.ReLU(),
                nn.LocalResponseNorm(5),
                nn.Conv2d(16, 8, 3),
                nn.Flatten(),
                nn.Linear(128, 4),
            ),
            {},
        ),
        (
            nn.Sequential(
                nn.Conv2d(1, 8, 3), nn.Softmax(1), nn.Conv2d(8, 6, 3), nn.ReLU(), nn.Flatten(), nn.Linear(96, 3)
            ),
            {},
        ),
        (nn.Sequential(nn.Conv2d(1, 8, 3), nn.Softplus(), late(), nn.ReLU(), nn.Flatten(), nn.Linear(96, 3)), {}),
        (
            nn.Sequential(
                nn.Conv2d(1, 8, 3),
                nn.ReLU(),
                shake(nn.BatchNorm2d(8)),
                shake(nn.BatchNorm2d(8)),
                late(),
                nn.ReLU(),
                nn.Flatten(),
            ),
            {},
        ),
    ],
    ids=[
        "an ungated maker",
        "a transposed reader",
        "local response norm",
        "softmax",
        "a softplus",
        "a later batch norm",
    ],
)
def test_units_that_something_unknown_ties_are_not_removed(net: nn.Module, options: dict) -> None:
    bnn = bbpyro.BetaBernoulliNetwork(bbpyro.insert_dropout(net, **options), num_data=10).eval()
    with torch.no_grad():
        for gate in bnn.gates.values():
            gate.unconstrained_concentration1[torch.rand(gate.num_features) < 0.5] = -12.0
    small = compact(bnn, torch.rand(2, 1, 8, 8))
    for scale in (0.1, 1.0, 100.0, 4e3, 1e4, 3e4):
        assert_same(small, bnn, scale * torch.randn(20, 1, 8, 8))


def test_what_is_trainable_stays_so_whatever_its_name_and_a_mixed_dtype_stays_mixed() -> None:
    root = make_network(nn.Linear(8, 3))
    assert all(p.requires_grad for p in compact(root, torch.randn(2, 8)).parameters())

    class Mixed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.linear, self.last = nn.Linear(4, 5), nn.Linear(5, 2).double()

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.last(self.linear(x).double())

    bnn, x = make_network(Mixed()), torch.randn(6, 4)
    small = compact(bnn, x)
    assert all(p.requires_grad for p in small.parameters())
    assert_same(small, bnn, x)


def test_half_precision_decides_by_its_own_masks() -> None:
    bnn = make_network(nn.Sequential(nn.Linear(200, 50), nn.ReLU(), nn.Linear(50, 3)), 1.0)
    with torch.no_grad():
        for gate in bnn.gates.values():
            gate.unconstrained_concentration1.normal_(0.5, 0.1)
    bnn.to(torch.bfloat16)
    small = compact(bnn, threshold=0.5)
    for gate in bnn.gates.values():
        gate.threshold = 0.5
    kept = [int(gate.kept().sum()) for gate in bnn.gates.values()]
    assert shapes(small) == {"0": (kept[0], kept[1]), "2": (kept[1], 3)}


@pytest.mark.parametrize(
    ("forward", "message"),
    [
        (lambda self, x: self.a(x).argmax(-1), "output has no tensor of real numbers"),
        (lambda self, x: self.a(x) + torch.rand(()), "forward is random"),
    ],
)
def test_what_has_no_one_output_is_refused(forward, message: str) -> None:
    net_type = type("Net", (nn.Module,), {"forward": forward})
    net = net_type()
    net.a = nn.Linear(4, 3)
    with pytest.raises(UnsupportedModuleError, match=message):
        compact(make_network(net), torch.randn(2, 4))


def test_a_network_that_takes_positive_numbers_alone_is_not_shown_others() -> None:
    class Logs(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a = nn.Linear(4, 3)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            assert x.min() >= 0
            return self.a(x.log())

    bnn, x = make_network(Logs()), torch.rand(5, 4) + 0.1
    assert_same(compact(bnn, x), bnn, x)


class Tied(nn.Module):
    """Two layers of one weight, and a third."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.c = nn.Linear(4, 4), nn.Linear(4, 4), nn.Linear(4, 3)
        self.b.weight = self.a.weight

    def forward(self, x: Tensor) -> Tensor:
        return self.c(self.b(self.a(x).relu()).relu())


def test_layers_that_share_a_weight_are_compacted_each_by_its_own_gate():
    bnn, x = half_dead(Tied()), torch.randn(5, 4)
    small = bbpyro.compact(bnn, x)
    torch.testing.assert_close(small(x), bnn(x))
    assert sum(p.numel() for p in small.parameters()) < 30 and bnn.net.a.weight is bnn.net.b.weight


@pytest.mark.parametrize("norm", ["weight_norm", "spectral_norm"])
def test_a_weight_that_was_parametrized_later_is_compacted_and_the_network_left_as_it_is(norm):
    bnn, x = half_dead(nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 3))), torch.randn(5, 4)
    getattr(nn.utils.parametrizations, norm)(bnn.net[0])
    bnn.eval()
    wanted = bnn(x)
    small = bbpyro.compact(bnn, x)
    torch.testing.assert_close(small(x), wanted)
    assert small[2].weight.shape == (3, 3)
    assert nn.utils.parametrize.is_parametrized(bnn.net[0]) and torch.equal(bnn(x), wanted)


def test_a_weight_that_a_hook_computes_is_refused_with_a_remedy_that_leads_on():
    bnn, x = half_dead(nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 3))), torch.randn(5, 4)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # torch prefers its parametrization
        nn.utils.weight_norm(bnn.net[0])
    with pytest.raises(UnsupportedModuleError, match=r"0: its weight is no parameter .*remove_weight_norm\(layer\)"):
        bbpyro.compact(bnn, x)
    nn.utils.remove_weight_norm(bnn.net[0])
    torch.testing.assert_close(bbpyro.compact(bnn, x)(x), bnn(x))


@pytest.mark.parametrize("dtype", [torch.bool, torch.int64, torch.float16])
def test_an_example_that_only_the_gates_can_take_is_refused_by_its_type(dtype):
    bnn, x = half_dead(nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 3))), torch.randn(5, 4)
    with pytest.raises(ValueError, match=rf"dtype {dtype}, .* numbers are torch.float32; give example_input.float\(\)"):
        bbpyro.compact(bnn, x.to(dtype))
    with pytest.raises(ValueError, match="example_input has shape .0, 4., wanted at least one datum"):
        bbpyro.compact(bnn, x[:0])


def test_a_half_network_of_tokens_is_compacted():
    net = nn.Sequential(nn.Embedding(10, 4), nn.Flatten(), nn.Linear(12, 6), nn.ReLU(), nn.Linear(6, 3)).bfloat16()
    bnn, tokens = half_dead(net), torch.randint(10, (5, 3))
    torch.testing.assert_close(bbpyro.compact(bnn, tokens)(tokens), bnn(tokens), rtol=0.05, atol=0.05)
