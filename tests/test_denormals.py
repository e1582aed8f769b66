import copy
import math

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro.infer import SVI, Trace_ELBO
from torch import Tensor, nn

import bbpyro
from bbpyro import denormals
from bbpyro.denormals import are_flushed, flushed, negligible, zero_denormal

NUM_DATA, IN, UNREAD = 60, 6, 3


def count_denormal(tensors) -> int:
    """How many numbers are neither 0 nor of full precision."""
    return sum(int(((t != 0) & (t.abs() < torch.finfo(t.dtype).tiny)).sum()) for t in tensors if t.is_floating_point())


@pytest.fixture
def data() -> tuple[Tensor, Tensor]:
    """Labels by the first of six numbers; the last three are always 0, as the border pixels of MNIST are."""
    x = torch.randn(NUM_DATA, IN)
    x[:, -UNREAD:] = 0
    return x, (x[:, 0] > 0).long()


def plain(dtype: torch.dtype = torch.float32) -> nn.Module:
    return nn.Sequential(nn.Linear(IN, 8), nn.ReLU(), nn.Linear(8, 2)).to(dtype)


def decayed(dtype: torch.dtype = torch.float32) -> nn.Module:
    """A network as a training without flushing leaves it: the weights of what is not read have decayed."""
    net = plain(dtype)
    with torch.no_grad():
        net[0].weight[:, -UNREAD:] *= torch.finfo(dtype).tiny / 100
        net[2].weight[:, :2] = torch.finfo(dtype).tiny
    assert count_denormal(net.parameters()) > 0
    return net


def network(net: nn.Module | None = None, **options) -> bbpyro.BetaBernoulliNetwork:
    return bbpyro.BetaBernoulliNetwork(bbpyro.insert_dropout(net or plain()), num_data=NUM_DATA, **options)


def spoil(bnn: bbpyro.BetaBernoulliNetwork) -> None:
    """Give a network, in place, weights as another program may have left them."""
    with torch.no_grad():
        bnn.net[0].weight[:, -UNREAD:] = 1e-40
        bnn.net[2].weight[:, :2] = -1e-42


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_denormal_numbers_become_zero_and_others_stay_as_they_are(dtype):
    tiny = torch.finfo(dtype).tiny
    numbers = [0.0, -0.0, tiny / 4, -tiny / 2, tiny, -tiny, 1e3 * tiny, 1.0, math.inf, math.nan]
    tensor = torch.tensor(numbers, dtype=dtype)
    zero_denormal([tensor])
    expected = torch.tensor([0.0] * 4 + numbers[4:], dtype=dtype)
    torch.testing.assert_close(tensor, expected, rtol=0, atol=0, equal_nan=True)


def test_half_precision_and_whole_numbers_are_left_alone():
    half, whole = torch.tensor([6e-8, 1e-5], dtype=torch.float16), torch.tensor([1, 2])
    expected = copy.deepcopy([half, whole])
    zero_denormal([half, whole, torch.empty(3, device="meta")])
    assert torch.equal(half, expected[0]) and torch.equal(whole, expected[1])


def test_a_tensor_without_denormal_numbers_is_not_written_to():
    tensor = torch.tensor([0.0, 1.0])
    zero_denormal([tensor])
    assert tensor._version == 0


@pytest.mark.parametrize("before", [False, True])
def test_flushing_ends_as_it_began_even_after_an_error(before):
    torch.set_flush_denormal(before)
    try:
        with pytest.raises(ZeroDivisionError), flushed():
            assert are_flushed()
            raise ZeroDivisionError
        assert are_flushed() is before
    finally:
        torch.set_flush_denormal(False)


def test_masks_are_never_denormal():
    log_odds = torch.linspace(-12, 0, 1000)
    z = bbpyro.RelaxedBernoulli(0.1, logits=log_odds).tied().rsample((200,))
    assert count_denormal([z]) == 0 and (z == 0).any()
    kept = z[z > 0]
    assert kept.min() > negligible(torch.float32)
    exact = torch.sigmoid(z._log_odds)
    assert torch.equal(kept, exact[z > 0]) and exact[z == 0].max() <= negligible(torch.float32)


def moments(state) -> list[Tensor]:
    return list(state.optimizer.values())


@pytest.mark.filterwarnings("ignore::bbpyro.training.FitWarning")  # nine steps from spoilt weights teach nothing
@pytest.mark.parametrize("can_flush", [True, False], ids=["flushing", "a processor that cannot flush"])
@pytest.mark.parametrize("weight_guide", ["delta", "normal"])
def test_fit_leaves_no_denormal_weight_and_no_denormal_moment(data, monkeypatch, can_flush, weight_guide):
    if not can_flush:
        monkeypatch.setattr(torch, "set_flush_denormal", lambda on: False)
    bnn = network(weight_guide=weight_guide)
    spoil(bnn)
    states = []
    bbpyro.fit(bnn, *data, num_epochs=3, batch_size=20, progress=False, on_epoch=states.append)
    assert count_denormal(bnn.parameters()) == 0
    assert count_denormal(tensor for state in states for tensor in moments(state)) == 0
    assert not are_flushed()


def test_a_state_with_denormal_moments_goes_on_without_them(data):
    bnn, states = network(), []
    bbpyro.fit(bnn, *data, num_epochs=1, progress=False, on_epoch=states.append)
    old = copy.deepcopy(states[-1])
    for name, tensor in old.optimizer.items():
        if "exp_avg" in name:
            tensor.flatten()[0] = 1e-42
    later = []
    bbpyro.fit(bnn, *data, num_epochs=2, progress=False, on_epoch=later.append, resume_from=old)
    assert count_denormal(moments(later[-1])) == 0


def test_what_is_not_read_decays_without_becoming_denormal_in_weights_or_moments(data):
    net, states = plain(), []
    with torch.no_grad():
        net[0].weight[:, -UNREAD:] *= 1e-18
    # Without flushing and cleaning these 900 steps end with weights of 1e-37 and moments among the denormals.
    options = {"num_epochs": 30, "batch_size": 2, "learning_rate": 1e-6, "weight_decay": 1e-3, "seed": 0}
    bbpyro.pretrain(net, *data, **options, progress=False, on_epoch=states.append)
    assert net[0].weight[:, -UNREAD:].abs().max() < 1e-25
    assert count_denormal(net.parameters()) == 0 and count_denormal(moments(states[-1])) == 0


def test_pretrain_and_fine_tuning_start_without_denormals(data):
    net = decayed()
    bbpyro.pretrain(net, *data, num_epochs=1, progress=False)
    assert count_denormal(net.parameters()) == 0


def test_gating_a_network_cleans_the_copy_alone():
    net = decayed()
    before = count_denormal(net.parameters())
    assert count_denormal(bbpyro.insert_dropout(net).parameters()) == 0
    assert count_denormal(net.parameters()) == before


class Shifted(nn.Module):
    """A likelihood with parameters of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.shift = nn.Parameter(torch.zeros(2))

    def forward(self, output: Tensor) -> dist.Categorical:
        return dist.Categorical(logits=output + self.shift)


@pytest.mark.parametrize("assign", [False, True])
@pytest.mark.parametrize("part", ["", "net"])
def test_loading_a_checkpoint_of_before_cleans_all_of_it(assign, part):
    bnn, old = (network(weight_guide="normal", likelihood=Shifted()) for _ in range(2))
    bnn.net[0].requires_grad_(False)
    loaded, state = bnn.get_submodule(part), old.get_submodule(part).state_dict()
    for tensor in state.values():
        tensor.flatten()[0] = 1e-41
    loaded.load_state_dict(state, assign=assign)
    assert count_denormal(loaded.parameters()) == 0


def test_whether_it_flushes_is_asked_of_the_processor_whatever_the_programs_default_device():
    with torch.device("meta"), flushed():
        assert are_flushed()
    assert not are_flushed()


def test_compact_and_the_files_it_makes_have_none(data, tmp_path):
    bnn = network()
    spoil(bnn)
    small = bbpyro.compact(bnn, data[0][:2])
    assert count_denormal(small.parameters()) == 0
    torch.testing.assert_close(small(data[0]), bnn(data[0]))
    with torch.no_grad():
        small[0][1].weight[0, 0] = 1e-41  # as an earlier version wrote it
    bbpyro.save_compact(small, tmp_path / "small.safetensors")
    assert count_denormal(bbpyro.load_compact(tmp_path / "small.safetensors").parameters()) == 0


def test_plain_svi_is_rid_of_them_now_and_then(data, monkeypatch):
    monkeypatch.setattr("bbpyro.model._CALLS_BETWEEN_CLEANINGS", 5)
    bnn = network()
    svi = SVI(bnn.model, bnn.guide, pyro.optim.SGD({"lr": 1e-9}), Trace_ELBO())
    spoil(bnn)
    for calls in range(1, 6):
        assert (count_denormal(bnn.parameters()) > 0) is (calls <= 5)
        svi.step(*data)
    assert count_denormal(bnn.parameters()) == 0


@pytest.mark.parametrize(
    "call",
    [
        lambda bnn, x, y: bbpyro.predict(bnn, x, 2),
        lambda bnn, x, y: bbpyro.predict(bnn, x, None),
        lambda bnn, x, y: bbpyro.to_arviz(bnn, x, y, 20, progress=False),
        lambda bnn, x, y: bbpyro.training.elbo(bnn, x, y),
    ],
    ids=["predict, draws", "predict, mean mask", "to_arviz", "elbo"],
)
def test_whatever_only_reads_a_network_flushes_while_it_computes(data, call):
    bnn, seen = network(), []
    spoil(bnn)
    weights = bnn.net[0].weight.clone()
    bnn.net[0].register_forward_hook(lambda *_: seen.append(are_flushed()))
    call(bnn, *data)
    assert seen[-1] and not are_flushed()  # the first are of the check of x
    assert torch.equal(bnn.net[0].weight, weights)


def test_where_nothing_is_denormal_flushing_changes_no_digit_of_a_training(data, monkeypatch):
    def trained() -> list[float]:
        torch.manual_seed(0)
        net = plain()
        bbpyro.pretrain(net, *data, num_epochs=2, seed=0, progress=False)
        bnn = network(net)
        return [record["loss"] for record in bbpyro.fit(bnn, *data, num_epochs=3, seed=0, progress=False)]

    flushed_losses = trained()
    monkeypatch.setattr(torch, "set_flush_denormal", lambda on: False)
    monkeypatch.setattr(denormals, "_smallest", lambda dtype: 0.0)
    assert trained() == flushed_losses
