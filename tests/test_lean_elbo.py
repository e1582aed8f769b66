"""LeanTraceELBO: the losses and gradients of Pyro's Trace_ELBO for the same draws."""

import math

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro import poutine
from pyro.infer import SVI, Trace_ELBO
from torch import nn

import bbpyro
from bbpyro import priors
from bbpyro.training import KLWarmup, LeanTraceELBO

NUM_DATA, BATCH = 50, 10


def net():
    return nn.Sequential(nn.Linear(6, 5), nn.ReLU(), nn.Linear(5, 4), nn.ReLU(), nn.Linear(4, 3))


def network(net=net, **kwargs):
    return bbpyro.BetaBernoulliNetwork(bbpyro.insert_dropout(net()), num_data=NUM_DATA, **kwargs)


def frozen():
    made = net()
    made[2].requires_grad_(False)
    return made


def shared():
    layer = nn.Linear(6, 6)
    return nn.Sequential(layer, nn.ReLU(), layer, nn.ReLU(), nn.Linear(6, 3))


class Noisy(nn.Module):
    """y ~ N(output, σ²), with a σ that is learnt."""

    def __init__(self):
        super().__init__()
        self.log_sigma = nn.Parameter(torch.zeros(()))

    def forward(self, output):
        return dist.Normal(output, self.log_sigma.exp()).to_event(1)


NETWORKS = {
    "default": {},
    "double": {},
    "frozen": {"net": frozen},
    "shared": {"net": shared},
    "normal": {"weight_guide": "normal"},
    "laplace": {"weight_prior": "Laplace(0.1)"},
    "priors": {"prior": {"0.gate": priors.IndianBuffet(2.0), "*": priors.Beta(0.1, 0.5)}},
    "likelihood": {"likelihood": Noisy()},
}


def gradients(elbo, bnn, model, guide, x, y):
    pyro.set_rng_seed(3)
    bnn.zero_grad()
    with pyro.validation_enabled(False):
        loss = elbo.loss_and_grads(model, guide, x, y)
    return loss, [p.grad for p in bnn.parameters()]


def check(bnn, x, y, change=lambda program: program):
    found = [
        gradients(elbo, bnn, change(bnn.model), change(bnn.guide), x, y) for elbo in (Trace_ELBO(), LeanTraceELBO())
    ]
    (loss, of_traces), (lean_loss, lean) = found
    assert lean_loss == pytest.approx(loss, rel=1e-6) and isinstance(lean_loss, float)
    for one, other in zip(of_traces, lean, strict=True):
        assert (one is None) == (other is None)
        if one is not None:
            torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", NETWORKS)
def test_losses_and_gradients_are_those_of_trace_elbo(name):
    bnn, x = network(**NETWORKS[name]), torch.randn(BATCH, 6)
    y = torch.randn(BATCH, 3) if name == "likelihood" else torch.randint(3, (BATCH,))
    if name == "double":
        bnn, x = bnn.double(), x.double()
    check(bnn, x, y)


def warmed(program):
    warmup = KLWarmup({"0.gate": 0.0, "2.gate": 3.0})
    warmup.share = 0.25
    return warmup(program)


CHANGES = {
    "warm-up": warmed,
    "scale": lambda program: poutine.scale(program, 0.25),
    "scale, a tensor": lambda program: poutine.scale(program, torch.tensor(0.25)),
    "mask": lambda program: poutine.mask(program, torch.tensor(True)),
    "masked data": lambda program: poutine.mask(program, torch.arange(BATCH) < 4),
}


@pytest.mark.parametrize("name", CHANGES)
def test_handlers_weigh_the_sites_as_under_trace_elbo(name):
    check(network(), torch.randn(BATCH, 6), torch.randint(3, (BATCH,)), CHANGES[name])


def test_gradients_are_added_to_those_that_are_there():
    bnn, x, y = network(), torch.randn(BATCH, 6), torch.randint(3, (BATCH,))
    _, once = gradients(LeanTraceELBO(), bnn, bnn.model, bnn.guide, x, y)
    once = [grad.clone() for grad in once]
    pyro.set_rng_seed(3)
    with pyro.validation_enabled(False):
        LeanTraceELBO().loss_and_grads(bnn.model, bnn.guide, x, y)
    for p, grad in zip(bnn.parameters(), once, strict=True):
        torch.testing.assert_close(p.grad, 2 * grad)


def test_a_hook_on_a_weight_sees_all_of_its_gradient():
    bnn, x, y = network(), torch.randn(BATCH, 6), torch.randint(3, (BATCH,))
    seen = []
    bnn.net[0].weight.register_hook(lambda grad: seen.append(grad.clone()))
    _, grads = gradients(LeanTraceELBO(), bnn, bnn.model, bnn.guide, x, y)
    torch.testing.assert_close(sum(seen), dict(zip(dict(bnn.named_parameters()), grads, strict=True))["net.0.weight"])


def test_a_hook_after_accumulation_sees_all_of_a_weights_gradient():
    bnn, x, y = network(), torch.randn(BATCH, 6), torch.randint(3, (BATCH,))
    seen = {}
    weight = bnn.net[0].weight
    weight.register_post_accumulate_grad_hook(lambda leaf: seen.update(grad=leaf.grad.clone()))
    gradients(LeanTraceELBO(), bnn, bnn.model, bnn.guide, x, y)
    torch.testing.assert_close(seen["grad"], weight.grad)


def test_gates_of_which_one_is_given_are_scored_each_by_itself():
    pi = {"2.gate.pi": torch.rand(5)}
    check(
        network(),
        torch.randn(BATCH, 6),
        torch.randint(3, (BATCH,)),
        lambda program: program if program.method.__name__ == "guide" else poutine.condition(program, pi),
    )


@pytest.mark.parametrize("num_particles", [1, 3])
@pytest.mark.parametrize("validate", [True, False])
def test_svi_trains_by_it(num_particles, validate):
    bnn, x, y = network(), torch.randn(BATCH, 6), torch.randint(3, (BATCH,))
    before = {name: p.clone() for name, p in bnn.named_parameters()}
    svi = SVI(bnn.model, bnn.guide, pyro.optim.Adam({"lr": 1e-2}), LeanTraceELBO(num_particles=num_particles))
    with pyro.validation_enabled(validate):
        assert all(math.isfinite(svi.step(x, y)) for _ in range(3))
    assert all((p - before[name]).abs().max() > 1e-3 for name, p in bnn.named_parameters())


def test_a_draw_that_is_not_reparameterised_is_left_to_trace_elbo():
    logit = torch.zeros((), requires_grad=True)

    def model():
        z = pyro.sample("z", dist.Bernoulli(0.5))
        pyro.sample("y", dist.Normal(z, 0.1), obs=torch.tensor(1.0))

    def guide():
        pyro.sample("z", dist.Bernoulli(logits=pyro.param("logit", logit)))

    svi = SVI(model, guide, pyro.optim.Adam({"lr": 0.1}), LeanTraceELBO())
    with pyro.validation_enabled(False):
        for _ in range(100):
            svi.step()
    assert pyro.param("logit").item() > 1  # by the score function: the posterior is z = 1


def test_a_model_without_parameters_has_a_loss_and_no_gradient():
    loc = torch.zeros((), requires_grad=True)

    def program():
        pyro.sample("z", dist.Normal(loc, 1.0))

    with pyro.validation_enabled(False):
        assert LeanTraceELBO().loss_and_grads(program, program) == 0
    assert loc.grad is None
