import pytest
import torch
from small_networks import NETWORKS, FrozenBatchNorm, OwnBatchNorm, shaken
from torch import Tensor, nn

import bbpyro
from bbpyro.compaction import compact
from bbpyro.layers import gates_of


class Stages(nn.Module):
    """Two residual blocks of one stage, and a head that reads it."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.stem_norm = nn.Conv2d(3, 6, 3, padding=1), nn.BatchNorm2d(6)
        self.blocks = nn.ModuleList(
            nn.Sequential(
                nn.Conv2d(6, 5, 3, padding=1), nn.BatchNorm2d(5), nn.ReLU(), nn.Conv2d(5, 6, 1), nn.BatchNorm2d(6)
            )
            for _ in range(2)
        )
        self.head = nn.Linear(6, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem_norm(self.stem(x)).relu()
        for block in self.blocks:
            x = (x + block(x)).relu()
        return self.head(x.mean((2, 3)))


def images() -> Tensor:
    return torch.randn(8, 3, 6, 6)


def test_layers_whose_units_can_only_go_together_have_one_gate() -> None:
    gated = bbpyro.insert_dropout(Stages(), tie="residual", example_input=images())
    stage = [gated.stem_norm.gate, gated.blocks[0][4].gate, gated.blocks[1][4].gate]
    assert len(set(map(id, stage))) == 1
    assert list(gates_of(gated)) == ["stem_norm.gate", "blocks.0.1.gate", "blocks.1.1.gate", "head.gate"]
    assert len(gates_of(bbpyro.insert_dropout(Stages()))) == 6
    assert not any(gates_of(module) for module in [Stages()])


def test_what_dies_in_a_stage_is_removed_there() -> None:
    x = images()
    bnn = bbpyro.BetaBernoulliNetwork(
        bbpyro.insert_dropout(Stages(), tie="residual", example_input=x), num_data=8
    ).eval()
    with torch.no_grad():
        bnn.gates["stem_norm.gate"].unconstrained_concentration1[:4] = -12
    small = compact(bnn, x)
    assert small.stem.out_channels == 2 and small.head.in_features == 2
    assert [block[3].out_channels for block in small.blocks] == [2, 2]
    with torch.no_grad():
        torch.testing.assert_close(small(x), bnn(x))


def test_a_network_with_shared_gates_is_trained_saved_and_loaded(tmp_path) -> None:
    x, y = images(), torch.randint(4, (8,))

    def make() -> bbpyro.BetaBernoulliNetwork:
        torch.manual_seed(0)
        net = bbpyro.insert_dropout(Stages(), tie="residual", example_input=x)
        return bbpyro.BetaBernoulliNetwork(net, num_data=8)

    bnn = make()
    before = {name: gate.keep_probability().clone() for name, gate in bnn.gates.items()}
    bbpyro.fit(bnn, x, y, num_epochs=2, progress=False, seed=0)
    assert all(not torch.equal(gate.keep_probability(), before[name]) for name, gate in bnn.gates.items())
    other = make()
    torch.save(bnn.state_dict(), tmp_path / "state")
    other.load_state_dict(torch.load(tmp_path / "state"))
    bnn.eval()
    other.eval()
    torch.testing.assert_close(other(x), bnn(x))
    idata = bbpyro.to_arviz(bnn, num_samples=5, seed=0)
    assert [str(name) for name in idata.posterior.data_vars if "stem_norm" in str(name)]


def test_without_an_addition_each_layer_keeps_a_gate_of_its_own() -> None:
    torch.manual_seed(0)
    make, example = NETWORKS["prelu"]
    alone = bbpyro.insert_dropout(make())
    assert list(gates_of(bbpyro.insert_dropout(make(), tie="residual", example_input=example()))) == list(
        gates_of(alone)
    )


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"tie": "all"}, "tie is 'all', wanted None or 'residual'"),
        ({"tie": "residual"}, "example_input is missing: tie wants the other too"),
        ({"example_input": images()}, "tie is None: example_input wants the other too"),
        ({"tie": "residual", "example_input": torch.randn(2, 5)}, "example_input: the network cannot take it"),
    ],
)
def test_a_wrong_tie_is_named(options, message) -> None:
    with pytest.raises(ValueError, match=message):
        bbpyro.insert_dropout(Stages(), **options)


class Particular(nn.Sequential):
    """A network that asserts, without a word, what it takes."""

    def forward(self, x: Tensor) -> Tensor:
        if x.shape[1:] != (5,) or x.dtype != torch.float32:
            raise AssertionError  # pytest would give a word to an assert of this file
        return super().forward(x)


def test_a_network_that_asserts_what_it_takes_is_like_one_that_raises() -> None:
    net = Particular(nn.Linear(5, 4), nn.ReLU(), nn.Linear(4, 2))
    bnn, x = bbpyro.BetaBernoulliNetwork(bbpyro.insert_dropout(net), num_data=8), torch.randn(8, 3)
    with pytest.raises(ValueError, match=r"example_input: the network cannot take it \(AssertionError\)"):
        bbpyro.insert_dropout(net, tie="residual", example_input=x)
    with pytest.raises(ValueError, match=r"example_input: the network cannot take one of shape .*\(AssertionError\)"):
        compact(bnn, x)
    with pytest.raises(ValueError, match=r"x has shape .*, which the network cannot take \(AssertionError\)"):
        bbpyro.fit(bnn, x, torch.arange(8) % 2, num_epochs=1, progress=False)
    x = torch.randn(8, 5)
    torch.testing.assert_close(compact(bnn, x)(x), bnn(x))  # which cannot be checked in double precision


@pytest.mark.parametrize("norm", [FrozenBatchNorm, OwnBatchNorm])
def test_a_gate_comes_after_a_frozen_or_subclassed_batch_norm_too(norm) -> None:
    net = shaken(
        lambda: nn.Sequential(
            nn.Conv2d(3, 6, 3), norm(6), nn.ReLU(), nn.Conv2d(6, 4, 3, padding=1), nn.Flatten(), nn.Linear(64, 2)
        )
    )
    bnn, x = bbpyro.BetaBernoulliNetwork(bbpyro.insert_dropout(net), num_data=8).eval(), images()
    assert list(bnn.gates) == ["1.gate", "3.gate", "5.gate"]
    with torch.no_grad():
        bnn.gates["1.gate"].unconstrained_concentration1[:4] = -12
        small = compact(bnn, x)
        torch.testing.assert_close(small(x), bnn(x))
    assert small[0].out_channels == 2 and small[3].in_channels == 2  # though the next one pads
    assert isinstance(small[1].weight, nn.Parameter) == isinstance(net[1].weight, nn.Parameter)


def test_gates_are_tied_after_batch_norms_without_weights_too() -> None:
    def make() -> nn.Module:
        torch.manual_seed(0)
        net = Stages()
        net.stem_norm = nn.BatchNorm2d(6, affine=False)
        return net

    gated = bbpyro.insert_dropout(make(), tie="residual", example_input=images())
    assert gated.stem_norm.gate is gated.blocks[1][4].gate
