"""What networks cost: multiply-accumulates and parameters, and the FLOPs of arXiv 1805.10896's authors."""

from collections.abc import Sequence

import pytest
import small_networks
import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from bbpyro import data, networks
from bbpyro.compaction import Size, measure
from bbpyro.nests import Nest, call, num_rows
from bbpyro.plots import PUBLISHED, published


class First(nn.Module):
    """The first n of the inputs."""

    def __init__(self, n: int) -> None:
        super().__init__()
        self.n = n

    def forward(self, x: Tensor) -> Tensor:
        return x[:, : self.n]


def dense(kept: Sequence[int]) -> Size:
    a, b, c = kept
    layers = [nn.Linear(a, b), nn.ReLU(), nn.Linear(b, c), nn.ReLU(), nn.Linear(c, 10)]
    return measure(nn.Sequential(*layers), torch.rand(3, a))


def lenet5(kept: Sequence[int]) -> Size:
    a, b, c, d = kept
    first = [nn.Conv2d(1, a, 5), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(a, b, 5), nn.ReLU(), nn.MaxPool2d(2)]
    last = [nn.Flatten(), First(c), nn.Linear(c, d), nn.ReLU(), nn.Linear(d, 10)]
    return measure(nn.Sequential(*first, *last), torch.rand(2, 1, 28, 28))


def vgg16(kept: Sequence[int]) -> Size:
    layers: list[nn.Module] = []
    for i, (into, out) in enumerate(zip((3, *kept[:12]), kept[:13], strict=True)):
        layers += [nn.Conv2d(into, out, 3, padding=1, bias=False), nn.BatchNorm2d(out), nn.ReLU()]
        layers += [nn.MaxPool2d(2)] * (i in (1, 3, 6, 9, 12))
    fc1, fc2 = kept[13:]
    layers += [nn.Flatten(), First(fc1), nn.Linear(fc1, fc2, bias=False), nn.BatchNorm1d(fc2), nn.Linear(fc2, 10)]
    return measure(nn.Sequential(*layers), torch.rand(2, 3, 32, 32))


def torchs_count(net: nn.Module, x: Nest) -> int:
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        call(net.eval(), x)
    return int(counter.get_total_flops())


# Networks that are published by their kept units; how many times fewer MACs, and parameters where a source says so.
DENSE = [
    ("slides", (358, 209, 152), 5.0),
    ("BB", (437, 189, 123), 5.1),
    ("BB", (332, 117, 90), 10.8),
    ("BB", (294, 110, 71), 13.3),
    ("BB", (260, 100, 49), 17.4),
    ("BB", (227, 66, 37), 30.6),
    ("SBP", (255, 100, 43), 18.0),
    ("SBP", (320, 115, 84), 11.5),
    ("VIB", (139, 101, 28), 31.8),
    ("VIB", (205, 105, 44), 20.5),
    ("Generalized Dropout", (488, 142, 136), 6.1),
    ("Sparse VD", (536, 64, 35), 14.8),
    ("SSL", (473, 46, 33), 23.1),
    ("SBP '17", (245, 160, 55), 11.2),
    ("SSL '17", (434, 174, 78), 6.1),
    ("Sparse VD '17", (537, 217, 130), 3.7),
    ("slimming", (784, 100, 60), 6.4),
    ("dense", (784, 500, 300), 1.0),
]
CONVOLUTIONAL = [
    ("BB", (13, 25, 156, 54), 3.2, None),
    ("BB", (12, 23, 128, 40), 3.7, None),
    ("SBP", (10, 18, 128, 38), 5.2, None),
    ("VIB", (12, 18, 82, 34), 4.4, 48),
    ("SBP '17", (3, 18, 284, 283), 10.8, 5.1),
    ("BC-GNJ", (8, 13, 88, 13), 8.1, 105),
    ("BC-GHS", (5, 10, 76, 16), 15.0, 154),
    ("L0", (20, 25, 45, 462), 2.1, 11),
    ("L0-sep", (9, 18, 65, 25), 5.9, 69),
    ("dense", (20, 50, 800, 500), 1.0, 1),
]
SPAM = [((4, 10, 250, 72, 84), 118_488), ((3, 7, 175, 48, 84), 75_372), ((2, 5, 125, 36, 84), 46_164)]  # as printed
BB_VGG16 = (64, 64, 128, 126, 251, 174, 41, 89, 81, 13, 118, 108, 23, 23, 68)


@pytest.mark.parametrize(
    ("net", "shape", "macs", "parameters"),
    [
        (networks.lenet_500_300(), (784,), 545_000, 545_810),
        (networks.lenet5_caffe(), (784,), 2_293_000, 431_080),
        (networks.vgg16(), (3, 32, 32), 313_463_808, 14_987_210),
    ],
    ids=["lenet-500-300", "lenet5-caffe", "vgg16"],
)
def test_the_papers_networks_cost_what_is_published(
    net: nn.Module, shape: tuple[int, ...], macs: int, parameters: int
) -> None:
    size = measure(net, torch.rand(2, *shape))
    assert (size.macs, size.parameters) == (macs, parameters)
    assert 2 * 2 * macs == torchs_count(net, torch.rand(2, *shape))


@pytest.mark.parametrize(("method", "kept", "times"), DENSE)
def test_dense_networks_that_were_published(method: str, kept: tuple[int, ...], times: float) -> None:
    size = dense(kept)
    assert (size.macs, size.parameters) == (published.macs(kept), published.parameters(kept))
    assert round(545_000 / size.macs, 1) == times
    assert any((row.method, row.kept) == (method, kept) for row in published.NETWORKS["lenet-500-300"])


@pytest.mark.parametrize(("kept", "macs"), [((6, 16, 400, 120, 84), 231_720), *SPAM])
def test_spams_networks_that_were_published(kept: tuple[int, ...], macs: int) -> None:
    conv1, conv2, _, fc1, fc2 = kept
    net = nn.Sequential(
        *(nn.Conv2d(1, conv1, 5), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(conv1, conv2, 3), nn.ReLU(), nn.MaxPool2d(2)),
        *(nn.Flatten(), nn.Linear(25 * conv2, fc1), nn.ReLU(), nn.Linear(fc1, fc2), nn.ReLU(), nn.Linear(fc2, 10)),
    )
    size = measure(net, torch.zeros(1, 1, 28, 28))
    assert size.macs == macs == published.macs(kept)
    assert size.parameters == published.parameters(kept)
    assert any(row.kept == kept for row in published.NETWORKS["lenet5"])


def test_published_points_stand_behind_their_own_network_and_data() -> None:
    assert published.behind("lenet5", "fashion-mnist")["SpaM"][0] == (12.30, 231_720 / 118_488)
    assert published.behind("lenet5", "mnist") == published.behind("vgg16", "cifar10") == {}
    assert published.behind("lenet-500-300", "mnist") == PUBLISHED["lenet-500-300"]


@pytest.mark.parametrize(("method", "kept", "times", "smaller"), CONVOLUTIONAL)
def test_convolutional_networks_that_were_published(
    method: str, kept: tuple[int, ...], times: float, smaller: float | None
) -> None:
    size = lenet5(kept)
    assert (size.macs, size.parameters) == (published.macs(kept), published.parameters(kept))
    assert round(2_293_000 / size.macs, 1) == times
    assert smaller is None or round(431_080 / size.parameters, 1 if smaller < 10 else None) == smaller
    assert any((row.method, row.kept) == (method, kept) for row in published.NETWORKS["lenet5-caffe"])


def test_vgg16_as_bb_left_it() -> None:
    size = vgg16(BB_VGG16)
    assert round(313_463_808 / size.macs, 2) == 2.16 and round(14_987_210 / size.parameters, 1) == 11.9
    whole = vgg16((64, 64, 128, 128, *(256,) * 3, *(512,) * 8))
    assert whole.macs == 313_463_808


@pytest.mark.parametrize(
    ("kept", "macs"), [((97, 71, 33), 9_560), ((266, 88, 33), 26_642), ((245, 160, 55), 48_550)], ids=str
)
def test_networks_of_300_and_100_units(kept: tuple[int, ...], macs: int) -> None:
    assert dense(kept).macs == macs and dense((784, 300, 100)).macs == 266_200


def test_published_points_are_those_whose_error_is_printed() -> None:
    """As (error, how many times fewer MACs), every method's; none of DBB, whose kept units are an average of data's."""
    for name, rows in (("lenet-500-300", DENSE), ("lenet5-caffe", [row[:3] for row in CONVOLUTIONAL])):
        found = sorted((method, round(x, 1)) for method, points in PUBLISHED[name].items() for _, x in points)
        errors = {(row.method, row.kept): row.error for row in published.NETWORKS[name]}
        assert found == sorted((m, x) for m, kept, x in rows if errors[m, kept] is not None)
    assert [error for error, _ in PUBLISHED["lenet-500-300"]["BB"]] == [1.26, 1.35, 1.33, 1.42, 1.60]
    assert PUBLISHED["lenet5-caffe"]["BC-GHS"] == [(1.0, pytest.approx(14.95, abs=0.01))]
    assert "VIB" not in PUBLISHED["lenet-500-300"] and "DBB" not in PUBLISHED["lenet5-caffe"]


# --- the count ---------------------------------------------------------------------------------------------

LAYERS: list[tuple[nn.Module, tuple[int, ...], int]] = [
    (nn.Linear(4, 3), (2, 4), 12),
    (nn.Linear(4, 3), (2, 5, 4), 5 * 12),
    (nn.Conv1d(4, 6, 3), (2, 4, 9), 7 * 6 * 4 * 3),
    (nn.Conv1d(4, 6, 3, groups=2), (2, 4, 9), 7 * 6 * 2 * 3),
    (nn.Conv2d(2, 5, 3), (4, 2, 8, 8), 36 * 5 * 2 * 9),
    (nn.Conv2d(6, 6, 3, groups=6, padding=1, stride=2), (2, 6, 8, 8), 16 * 6 * 9),
    (nn.Conv3d(2, 3, (1, 2, 3), dilation=2), (2, 2, 5, 5, 5), 5 * 3 * 1 * 3 * 2 * 6),
    (nn.ConvTranspose1d(4, 6, 3), (2, 4, 9), 9 * 4 * 6 * 3),
    (nn.ConvTranspose2d(4, 6, 3, groups=2, stride=2, padding=1), (2, 4, 5, 5), 25 * 4 * 3 * 9),
    (nn.ConvTranspose3d(4, 6, 2, bias=False), (2, 4, 3, 3, 3), 27 * 4 * 6 * 8),
    (nn.BatchNorm2d(3), (2, 3, 4, 4), 0),
    (nn.ReLU(), (2, 3), 0),
    (nn.LSTM(16, 8, 2, batch_first=True, bidirectional=True), (2, 5, 16), 5 * 4 * 8 * 2 * (16 + 8 + 16 + 8)),
    (nn.GRU(16, 8, batch_first=True), (2, 5, 16), 5 * 3 * 8 * (16 + 8)),
    (
        nn.TransformerEncoderLayer(16, 4, 32, batch_first=True),
        (2, 5, 16),
        5 * (4 * 16**2 + 2 * 16 * 32) + 2 * 16 * 5**2,
    ),
]


@pytest.mark.parametrize(("net", "shape", "macs"), LAYERS, ids=[str(type(net).__name__) for net, *_ in LAYERS])
def test_a_layer_costs_what_its_products_cost(net: nn.Module, shape: tuple[int, ...], macs: int) -> None:
    size = measure(net, torch.rand(shape))
    assert (size.macs, size.parameters) == (macs, sum(parameter.numel() for parameter in net.parameters()))


# Into fused attention torch's counter does not see: "transformer encoder" is counted by hand above.
@pytest.mark.parametrize("name", sorted({*small_networks.NETWORKS} - {"transformer encoder"}))
def test_a_mac_is_two_flops_of_torchs(name: str) -> None:
    make, example = small_networks.NETWORKS[name]
    net, x = make(), example()
    assert 2 * num_rows(x) * measure(net, x).macs == torchs_count(net, x)


def test_so_it_is_of_torchvisions() -> None:
    data.import_torchvision_datasets()  # which works beside a CPU-only torch, as a plain import need not
    from torchvision.models import get_model

    for name in ("resnet18", "mobilenet_v3_small"):
        net, x = get_model(name), torch.rand(1, 3, 64, 64)
        assert 2 * measure(net, x).macs == torchs_count(net, x) > 1e7


class Functional(nn.Module):
    """A forward that multiplies without layers, and looks up without multiplying."""

    def __init__(self) -> None:
        super().__init__()
        self.table, self.weight = nn.Embedding(100, 4), nn.Parameter(torch.randn(3, 4))

    def forward(self, words: Tensor, scale: Tensor) -> Tensor:
        return torch.relu(nn.functional.linear(self.table(words), self.weight)) * scale


def test_products_without_a_layer_count_look_ups_do_not_and_inputs_may_be_several() -> None:
    x = {"words": torch.randint(100, (2, 7)), "scale": torch.rand(2, 1, 1)}
    assert measure(Functional(), x) == Size(412, 7 * 12, 7 * 12 + 7 * 3)


def test_measuring_leaves_everything_as_it_was() -> None:
    norm = nn.BatchNorm1d(3)
    net = nn.Sequential(nn.Linear(4, 3), norm, nn.Dropout())
    x = torch.rand(5, 4)
    fast, state = torch.backends.mha.get_fastpath_enabled(), torch.get_rng_state()
    measure(net, x)
    assert net.training and norm.num_batches_tracked == 0
    assert torch.backends.mha.get_fastpath_enabled() == fast and torch.get_rng_state().equal(state)
    with torch.inference_mode():
        assert measure(net, x).macs == 12


def test_an_example_without_data_is_told_of() -> None:
    with pytest.raises(ValueError, match=r"example_input has shape \(0, 4\), wanted at least one datum"):
        measure(nn.Linear(4, 3), torch.rand(0, 4))


# --- the authors' count ------------------------------------------------------------------------------------


def authors_dense(n: Sequence[int]) -> int:
    """compute_flops_lenet.py of OpenXAIProject/Variational_Dropouts, in their words."""
    return sum(i * o + o + o for i, o in ((n[0], n[1]), (n[1], n[2]))) + n[2] * 10 + 10


def authors_lenet5(n: Sequence[int]) -> int:
    """So too: n products and n - 1 sums, a bias a filter, a rectifier a number, a maximum a number."""
    conv1 = n[0] * 24**2 * (2 * 25 - 1) + n[0] + n[0] * 24**2 + n[0] * 12**2
    conv2 = n[1] * 8**2 * (2 * 25 * n[0] - 1) + n[1] + n[1] * 8**2 + n[1] * 4**2
    return conv1 + conv2 + n[2] * n[3] + 2 * n[3] + n[3] * 10 + 10


@pytest.mark.parametrize("kept", [row[1] for row in DENSE])
def test_dense_networks_by_the_authors_count(kept: tuple[int, ...]) -> None:
    assert dense(kept).authors_flops == authors_dense(kept)


@pytest.mark.parametrize("kept", [row[1] for row in CONVOLUTIONAL])
def test_convolutional_networks_by_the_authors_count(kept: tuple[int, ...]) -> None:
    assert lenet5(kept).authors_flops == authors_lenet5(kept)


def test_the_authors_figures_are_met() -> None:
    """13.3x of 294-110-71; of LeNet-5 2.94x, 3.39x and 4.81x, where MACs say 3.2x, 3.7x and 5.2x."""
    whole = measure(networks.lenet5_caffe(), torch.rand(2, 784)).authors_flops
    kept = ((13, 25, 156, 54), (12, 23, 128, 40), (10, 18, 128, 38))
    assert [round(whole / lenet5(each).authors_flops, 2) for each in kept] == [2.94, 3.39, 4.81]
    assert round(dense((784, 500, 300)).authors_flops / dense((294, 110, 71)).authors_flops, 1) == 13.3


def test_flops_that_were_nobodys_are_deprecated() -> None:
    with pytest.warns(DeprecationWarning, match="take macs, of which it is twice as many now, or authors_flops"):
        assert Size(1, 21, 40).flops == 42
