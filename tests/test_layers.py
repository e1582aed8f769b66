import copy
from collections import OrderedDict

import pytest
import torch
from pyro.nn import PyroModule
from torch import nn
from torch.func import functional_call
from torch.nn.utils import parametrizations, parametrize

import bbpyro
from bbpyro.families import SBP, BetaBernoulliDropout, GeneralizedDropout
from bbpyro.insertion import remove_dropout


def set_concentrations(gate, a, b=1.0):
    start = BetaBernoulliDropout(gate.num_features, concentration1=a, concentration0=b)
    gate.load_state_dict(start.state_dict())


def small_net():
    return nn.Sequential(OrderedDict(first=nn.Linear(6, 4), act=nn.ReLU(), last=nn.Linear(4, 3)))


def test_gate_starts_at_the_given_concentrations():
    posterior = BetaBernoulliDropout(3, concentration1=0.7, concentration0=40.0).posterior()
    torch.testing.assert_close(posterior.concentration1, torch.full((3,), 0.7))
    torch.testing.assert_close(posterior.concentration0, torch.full((3,), 40.0))


def test_unbound_gate_multiplies_by_the_mean_of_kept_units_and_drops_the_others():
    gate = BetaBernoulliDropout(3, threshold=0.2)
    with torch.no_grad():
        gate.unconstrained_concentration1[0] = -8.0  # a = 3e-4: E[π] = a / (a + 1) at b = 1
    a = gate.posterior().concentration1
    assert gate.kept().tolist() == [False, True, True]
    expected = torch.where(torch.tensor([False, True, True]), a / (a + 1), torch.zeros(3))
    torch.testing.assert_close(gate(torch.ones(2, 3)), expected.expand(2, 3))


@pytest.mark.parametrize("shape", [(5, 3), (5, 2, 3), (5, 2, 4, 3)])
def test_bound_mask_is_one_a_datum_shared_by_the_dimensions_between(shape):
    gate, x = BetaBernoulliDropout(3), torch.randn(shape)
    z = torch.rand(5, 3)
    out = functional_call(gate, {"z": z}, (x,))
    for n in range(5):
        torch.testing.assert_close(out[n], x[n] * z[n])
    assert gate.z is None


def test_gate_refuses_an_input_of_another_width():
    with pytest.raises(ValueError, match=r"BetaBernoulliDropout\(3\).*\(2, 4\).*must be 3"):
        BetaBernoulliDropout(3)(torch.ones(2, 4))


@pytest.mark.parametrize(
    ("arguments", "name"),
    [
        ({"num_features": 0}, "num_features"),
        ({"num_features": 2, "threshold": 1.0}, "threshold"),
        ({"num_features": 2, "threshold": -0.1}, "threshold"),
        ({"num_features": 2, "concentration1": 0.0}, "concentration1"),
        ({"num_features": 2, "concentration0": float("nan")}, "concentration0"),
    ],
)
def test_gate_names_the_argument_that_is_out_of_range(arguments, name):
    with pytest.raises(ValueError, match=name):
        BetaBernoulliDropout(**arguments)


@pytest.mark.parametrize("threshold", [1.0, -0.1, float("nan"), "0.5"])
@pytest.mark.parametrize("family", [BetaBernoulliDropout, SBP, GeneralizedDropout])
def test_a_threshold_is_held_to_its_range_whenever_it_is_set(family, threshold):
    gate = family(2)
    gate.threshold = 0.5
    threshold = 1e10 if family is SBP and threshold == 1.0 else threshold
    with pytest.raises(ValueError, match=rf"{family.__name__}: threshold is {threshold}, wanted a number in \[0, 1"):
        gate.threshold = threshold
    assert gate.threshold == 0.5


def test_insert_dropout_gates_every_linear_of_a_copy_and_keeps_the_weights_names():
    net = small_net()
    gated = bbpyro.insert_dropout(net)
    gates = {name for name, module in gated.named_modules() if isinstance(module, BetaBernoulliDropout)}
    assert gates == {"first.gate", "last.gate"}
    assert not any(isinstance(module, BetaBernoulliDropout) for module in net.modules())
    assert set(net.state_dict()) <= set(gated.state_dict())
    with torch.no_grad():
        gated.first.weight.zero_()
    assert net.first.weight.abs().sum() > 0


def test_inserted_gates_act_on_the_inputs_of_their_layers():
    net, x = small_net(), torch.randn(7, 6)
    gated = bbpyro.insert_dropout(net)
    z = {"first.gate.z": torch.rand(7, 6), "last.gate.z": torch.rand(7, 4)}
    hidden = torch.relu(nn.functional.linear(x * z["first.gate.z"], net.first.weight, net.first.bias))
    expected = nn.functional.linear(hidden * z["last.gate.z"], net.last.weight, net.last.bias)
    torch.testing.assert_close(functional_call(gated, z, (x,)), expected)


def test_insert_dropout_works_in_a_nested_module_with_its_own_forward():
    class Residual(nn.Module):
        def __init__(self):
            super().__init__()
            self.block = nn.Sequential(nn.Linear(4, 4), nn.Tanh())

        def forward(self, x):
            return x + self.block(x)

    gated = bbpyro.insert_dropout(nn.Sequential(Residual(), nn.Linear(4, 2)))
    set_concentrations(gated[0].block[0].gate, 1e3)
    x = torch.randn(3, 4)
    block = gated[0].block[0]
    mean = block.gate.keep_probability()
    expected = x + torch.tanh(nn.functional.linear(x * mean, block.weight, block.bias))
    torch.testing.assert_close(gated[0](x), expected)


def test_insert_dropout_leaves_alone_linears_whose_forward_is_never_called():
    # MultiheadAttention multiplies by out_proj's weight itself, so a gate there would be sampled and never used.
    gated = bbpyro.insert_dropout(nn.ModuleList([nn.MultiheadAttention(8, 2), nn.Linear(8, 8)]))
    assert sum(isinstance(module, BetaBernoulliDropout) for module in gated.modules()) == 1


def test_gated_network_survives_a_copy():
    gated = bbpyro.insert_dropout(small_net())
    twin, x = copy.deepcopy(gated), torch.randn(2, 6)
    torch.testing.assert_close(twin(x), gated(x))
    set_concentrations(twin.first.gate, 5.0)
    assert not torch.allclose(twin(x), gated(x))


def test_gates_take_the_dtype_of_their_layer():
    gated = bbpyro.insert_dropout(small_net().double())
    assert gated(torch.randn(2, 6, dtype=torch.float64)).dtype == torch.float64


def test_insert_dropout_says_what_it_wants():
    with pytest.raises(ValueError, match=r"no nn\.Linear"):
        bbpyro.insert_dropout(nn.ReLU())
    with pytest.raises(ValueError, match="already has"):
        bbpyro.insert_dropout(bbpyro.insert_dropout(small_net()))


def test_gates_act_on_an_input_given_by_name():
    gated, x = bbpyro.insert_dropout(small_net()), torch.randn(2, 6)
    torch.testing.assert_close(gated.first(input=x), gated.first(x))


@pytest.mark.parametrize("dtype", [torch.float16, torch.float32, torch.float64])
def test_a_gate_is_untrained_until_a_parameter_moves(dtype):
    gate = bbpyro.BetaBernoulliDropout(3, concentration1=0.7, concentration0=40.0).to(dtype)
    assert gate.is_untrained
    with torch.no_grad():
        gate.unconstrained_concentration0[1] += 0.1
    assert not gate.is_untrained


def test_a_gate_on_channels_multiplies_whole_channels():
    gate, x, z = BetaBernoulliDropout(3, dim=1), torch.randn(5, 3, 2, 4), torch.rand(5, 3)
    torch.testing.assert_close(functional_call(gate, {"z": z}, (x,)), x * z[:, :, None, None])
    torch.testing.assert_close(gate(x), x * gate.mean_mask()[None, :, None, None])
    with pytest.raises(ValueError, match=r"\(5, 4, 3\); its channel dimension must be 3"):
        gate(torch.randn(5, 4, 3))
    with pytest.raises(ValueError, match="dim is 2"):
        BetaBernoulliDropout(3, dim=2)


def conv_net():
    return nn.Sequential(
        OrderedDict(
            conv1=nn.Conv2d(1, 4, 3),
            norm1=nn.BatchNorm2d(4),
            relu1=nn.ReLU(),
            conv2=nn.Conv2d(4, 3, 3),
            relu2=nn.ReLU(),
            flatten=nn.Flatten(),
            fc=nn.Linear(48, 2),
        )
    )


def gates_of(net):
    return {name: m.num_features for name, m in net.named_modules() if isinstance(m, BetaBernoulliDropout)}


def test_a_convolution_is_gated_on_its_channels_after_its_batch_norm():
    gated, x = bbpyro.insert_dropout(conv_net()).eval(), torch.randn(5, 1, 8, 8)
    assert gates_of(gated) == {"norm1.gate": 4, "conv2.gate": 3, "fc.gate": 48}
    z = {"norm1.gate.z": torch.rand(5, 4), "conv2.gate.z": torch.rand(5, 3), "fc.gate.z": torch.rand(5, 48)}
    h = nn.functional.conv2d(x, gated.conv1.weight, gated.conv1.bias) / (1 + 1e-5) ** 0.5
    h = torch.relu(h * z["norm1.gate.z"][:, :, None, None])
    h = nn.functional.conv2d(h, gated.conv2.weight, gated.conv2.bias)
    h = torch.relu(h) * z["conv2.gate.z"][:, :, None, None]  # before or after a ReLU is the same
    expected = nn.functional.linear(h.flatten(1) * z["fc.gate.z"], gated.fc.weight, gated.fc.bias)
    torch.testing.assert_close(functional_call(gated, z, (x,)), expected)


def test_only_and_exclude_choose_layers_by_name():
    assert set(gates_of(bbpyro.insert_dropout(conv_net(), only=["conv*"]))) == {"norm1.gate", "conv2.gate"}
    assert set(gates_of(bbpyro.insert_dropout(conv_net(), exclude=["conv1", "fc"]))) == {"conv2.gate"}
    for option in ("only", "exclude"):
        with pytest.raises(ValueError, match=rf"{option}: 'fc9' is none of the layers conv1, conv2, fc"):
            bbpyro.insert_dropout(conv_net(), **{option: ["fc9"]})


def test_a_convolution_that_is_the_answer_is_left_alone():
    net = nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Conv2d(4, 10, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    assert gates_of(bbpyro.insert_dropout(net)) == {"0.gate": 4}


def test_remove_dropout_undoes_insert_dropout():
    net, x = conv_net().eval(), torch.randn(2, 1, 8, 8)
    gated = bbpyro.insert_dropout(net)
    for name in ("norm1", "conv2", "fc"):
        remove_dropout(gated.get_submodule(name))
    assert gates_of(gated) == {}
    torch.testing.assert_close(gated(x), net(x))


def test_of_two_batch_norms_in_a_row_neither_is_guessed_and_names_may_be_one_text():
    net = nn.ModuleList([nn.Conv2d(1, 4, 3), nn.Conv2d(4, 4, 3), nn.BatchNorm2d(4), nn.BatchNorm2d(4), nn.Linear(4, 2)])
    assert set(gates_of(bbpyro.insert_dropout(net))) == {"0.gate", "1.gate", "4.gate"}
    assert set(gates_of(bbpyro.insert_dropout(net, only="4"))) == {"4.gate"}
    with pytest.raises(ValueError, match="only and exclude leave none of the layers 0, 1, 4"):
        bbpyro.insert_dropout(net, exclude="*")


def test_training_can_start_from_another_keep_probability():
    net = nn.Sequential(nn.Conv2d(1, 3, 3), nn.Flatten(), nn.Linear(12, 2))
    for p in (0.05, 0.5, 0.97):
        gated = bbpyro.insert_dropout(net, initial_keep_probability=p)
        gates = [m for m in gated.modules() if isinstance(m, BetaBernoulliDropout)]
        for gate in gates:
            assert torch.allclose(gate.keep_probability(), torch.tensor(p), rtol=1e-4) and gate.is_untrained
        assert len(gates) == 2
    for p in (0.0, 1.0, -1.0, 1e-9, float("nan")):
        with pytest.raises(ValueError, match="initial_keep_probability is"):
            bbpyro.insert_dropout(net, initial_keep_probability=p)


def test_patches_folded_into_the_batch_are_refused_by_name():
    class Patches(nn.Module):
        def __init__(self):
            super().__init__()
            self.fc = nn.Linear(4, 3)

        def forward(self, x):
            return self.fc(x.reshape(-1, 4)).reshape(len(x), 2, 3).sum(1)

    bnn = bbpyro.BetaBernoulliNetwork(bbpyro.insert_dropout(Patches()), num_data=6)
    assert bnn(torch.rand(6, 8)).shape == (6, 3)  # the mean mask is the same for all of them
    with pytest.raises(ValueError, match="got 12 rows where z has a mask for each of 6 data; time or patches"):
        bnn.model(torch.rand(6, 8), torch.arange(6) % 3)
    with pytest.raises(ValueError, match=r"gate 'fc.gate' gets .* nothing folded into the batch"):
        bbpyro.fit(bnn, torch.rand(6, 8), torch.arange(6) % 3, num_epochs=1, progress=False)


def mlp(first: nn.Module) -> nn.Sequential:
    return nn.Sequential(OrderedDict(fc1=first, relu=nn.ReLU(), fc2=nn.Linear(5, 3)))


class Scaled(nn.Linear):
    """A layer that uses its weight otherwise."""

    def forward(self, x):
        return super().forward(2 * x)


@pytest.mark.parametrize(
    ("net", "message"),
    [
        (mlp(PyroModule[nn.Linear](4, 5)), r"'fc1' is a PyroModule, .* such as nn.Linear, .* as weight_prior"),
        (nn.Sequential(PyroModule[nn.Conv2d](1, 2, 3)), r"'0' is a PyroModule, .* such as nn.Conv2d"),
        (nn.Sequential(parametrizations.weight_norm(nn.Linear(4, 5))), r"weight of '0' .*remove_parametrizations\("),
        (parametrizations.spectral_norm(nn.Linear(4, 5)), r"weight of '' .*remove_parametrizations\("),
        (nn.Sequential(Scaled(4, 5)), r"'0' \(Scaled\) may use its weight otherwise; place BetaBernoulliDropout"),
        (mlp(nn.LazyLinear(5)), r"'fc1' is lazy and has no weights yet; call the network on some data first"),
        (nn.Sequential(OrderedDict({"a/b": nn.Linear(4, 5)})), r"a module is named 'a/b', .* rename it, to 'a_b'"),
    ],
    ids=["PyroModule", "PyroModule of a convolution", "weight_norm", "spectral_norm", "subclass", "lazy", "slash"],
)
def test_a_refusal_names_the_layer_the_reason_and_the_remedy(net, message):
    with pytest.raises(ValueError, match=message):
        bbpyro.insert_dropout(net)


def test_the_remedies_lead_on():
    normed = nn.Sequential(parametrizations.weight_norm(nn.Linear(4, 5)))
    parametrize.remove_parametrizations(normed[0], "weight")
    lazy = mlp(nn.LazyLinear(5))
    lazy(torch.rand(2, 4))
    for net in (normed, lazy):
        bnn = bbpyro.BetaBernoulliNetwork(bbpyro.insert_dropout(net), num_data=6)
        bbpyro.fit(bnn, torch.rand(6, 4), torch.arange(6) % 3, num_epochs=1, progress=False)


def test_what_cannot_be_in_a_network_is_refused_there_too_if_gates_were_placed_by_hand():
    net = nn.Sequential(bbpyro.BetaBernoulliDropout(4), PyroModule[nn.Linear](4, 5))
    with pytest.raises(ValueError, match="'1' is a PyroModule"):
        bbpyro.BetaBernoulliNetwork(net, num_data=6)
