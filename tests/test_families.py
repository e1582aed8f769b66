"""Families of masks: their ELBO, what they keep and drop, and what else knows them only as gates."""

import inspect
import math
import shutil
from pathlib import Path

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro import poutine
from pyro.infer import Predictive, Trace_ELBO, TraceMeanField_ELBO
from scipy import integrate
from torch import nn
from torch.func import functional_call

import bbpyro
from bbpyro import data, families, posterior, runs
from bbpyro.checkpoint import CheckpointError
from bbpyro.cli import main
from bbpyro.training import FitWarning, LeanTraceELBO

SITES = {  # of a mask, by family
    "L0(3)": "z",
    "SBP": "theta",
    "VIB(0.02)": "z",
    "ConcreteDropout": "z",
    "GeneralizedDropout(0.5, 2)": "z",
    "DependentBetaBernoulli": "u",
}
SPELLED = list(SITES)


def gated(family, num_inputs=4, num_data=20, seed=0):
    torch.manual_seed(seed)
    net = nn.Sequential(nn.Linear(num_inputs, 3), nn.Tanh(), nn.Linear(3, 2))
    return bbpyro.BetaBernoulliNetwork(bbpyro.insert_dropout(net, family=family), num_data=num_data)


def scattered(bnn):
    """The network with the parameters of its gates somewhere, some units out."""
    for gate in bnn.gates.values():
        for parameter in gate.parameters():
            with torch.no_grad():
                parameter.add_(2 * torch.randn(len(parameter)))
    return bnn


@pytest.fixture(scope="module")
def few():
    torch.manual_seed(1)
    return torch.randn(20, 4), torch.randint(2, (20,))


# --- the ELBO ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("family", SPELLED)
def test_a_loss_by_draws_is_that_by_closed_divergences_in_expectation(family, few):
    bnn = scattered(gated(family))
    losses = {}
    for elbo in (Trace_ELBO(), TraceMeanField_ELBO()):
        torch.manual_seed(0)
        losses[type(elbo)] = torch.tensor([elbo.loss(bnn.model, bnn.guide, *few) for _ in range(120)]).double()
    difference = losses[Trace_ELBO].mean() - losses[TraceMeanField_ELBO].mean()
    error = sum(loss.var() / len(loss) for loss in losses.values()).sqrt()
    assert abs(difference) < 4 * error
    assert error < 2


@pytest.mark.parametrize("family", SPELLED)
def test_the_loss_is_the_likelihood_and_what_the_masks_and_weights_cost(family, few):
    bnn = scattered(gated(family))
    elbo, nll = [], []
    for _ in range(100):
        trace = poutine.trace(bnn.guide).get_trace(*few)
        y = poutine.trace(poutine.replay(bnn.model, trace)).get_trace(*few).nodes["y"]
        nll.append(-y["fn"].log_prob(y["value"]).sum().item())
        elbo.append(TraceMeanField_ELBO().loss(bnn.model, bnn.guide, *few))
    nll, elbo = torch.tensor(nll).double(), torch.tensor(elbo).double()
    cost = sum(kl.item() for kl in bnn.kl().values()) + bnn.weights_kl().item()
    error = (nll.var() / len(nll) + elbo.var() / len(elbo)).sqrt()
    assert abs(elbo.mean() - nll.mean() - cost) < 4 * error


@pytest.mark.parametrize("family", SPELLED)
def test_what_fit_runs_is_pyros_own_loss_and_gradient(family, few):
    bnn = scattered(gated(family))
    found = []
    for elbo in (Trace_ELBO(), LeanTraceELBO()):
        torch.manual_seed(3)
        bnn.zero_grad()
        with pyro.validation_enabled(False):
            loss = elbo.loss_and_grads(bnn.model, bnn.guide, *few)
        found.append((loss, [p.grad.clone() for p in bnn.parameters()]))
    assert found[0][0] == pytest.approx(found[1][0], rel=1e-5)
    for one, other in zip(found[0][1], found[1][1], strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("family", SPELLED)
def test_a_minibatch_stands_for_all_data(family, few):
    bnn = scattered(gated(family))
    x, y = few
    whole = torch.tensor([TraceMeanField_ELBO().loss(bnn.model, bnn.guide, x, y) for _ in range(60)]).double()
    parts = torch.stack(
        [
            torch.tensor([TraceMeanField_ELBO().loss(bnn.model, bnn.guide, x[n::4], y[n::4]) for n in range(4)]).mean()
            for _ in range(60)
        ]
    ).double()
    error = (whole.var() / len(whole) + parts.var() / len(parts)).sqrt()
    assert abs(whole.mean() - parts.mean()) < 4 * error


def test_the_cost_of_l0_is_the_probability_of_a_mask_that_is_not_zero():
    gate = families.L0(5, penalty=7.0, temperature=0.5)
    with torch.no_grad():
        gate.log_alpha.copy_(torch.tensor([-8.0, -1.0, 0.0, 1.0, 6.0]))
    wanted = [7 / (1 + math.exp(-(a - 0.5 * math.log(0.1 / 1.1)))) for a in gate.log_alpha.tolist()]
    assert gate.kl(1000).tolist() == pytest.approx(wanted, rel=1e-5)


def test_the_cost_of_vib_is_the_divergence_from_the_best_gaussian_of_mean_zero():
    gate = families.VIB(3, gamma=1e-3)
    with torch.no_grad():
        gate.mu.copy_(torch.tensor([1.0, -2.0, 0.3]))
        gate.log_variance.copy_(torch.tensor([-9.0, 0.0, 1.0]))
    for k in range(3):
        q = dist.Normal(gate.mu[k].double(), (gate.log_variance[k].double() / 2).exp())
        scales = torch.logspace(-3, 1, 4001, dtype=torch.float64)
        least = torch.distributions.kl_divergence(q, dist.Normal(0.0, scales)).min()
        assert gate.kl(500)[k].item() == pytest.approx(1e-3 * 500 * least.item(), rel=1e-4)


def test_the_cost_of_sbp_is_its_divergence_by_quadrature():
    gate = families.SBP(3)
    with torch.no_grad():
        gate.mu.copy_(torch.tensor([-1.0, 2.0, -30.0]))
        gate.log_sigma.copy_(torch.tensor([0.5, 1.0, 2.0]))
    for k in range(3):
        kl = divergence_from_log_uniform(gate.mu[k].item(), gate.log_sigma[k].exp().item())
        assert gate.kl(1)[k].item() == pytest.approx(kl, rel=1e-4, abs=1e-5)


def divergence_from_log_uniform(mu, sigma):
    """KL of a normal log θ cut to [-20, 0] from the uniform one."""

    def density(t):
        return math.exp(-((t - mu) ** 2) / (2 * sigma**2))

    peak = [min(max(mu, -20.0), 0.0)]
    mass, _ = integrate.quad(density, -20, 0, points=peak, limit=200)

    def excess(t):
        return density(t) / mass * math.log(20 * density(t) / mass) if density(t) > 0 else 0.0

    return integrate.quad(excess, -20, 0, points=peak, limit=200)[0]


# --- the best guide of a problem that is small enough ----------------------------------------------------------


def one_unit(family, y, scale, num_steps=1000):
    """A unit whose mask is all that y depends on: y_n ~ N(z_n, scale)."""
    net = nn.Linear(1, 1, bias=False)
    nn.init.ones_(net.weight)
    net.weight.requires_grad_(False)
    model = bbpyro.insert_dropout(net, family=family)
    bnn = bbpyro.BetaBernoulliNetwork(
        nn.Sequential(model, nn.Flatten(0)), lambda output: dist.Normal(output, scale), num_data=len(y)
    )
    optimizer = torch.optim.Adam(bnn.parameters(), lr=0.05)
    for _ in range(num_steps):
        loss = TraceMeanField_ELBO().differentiable_loss(bnn.model, bnn.guide, torch.ones(len(y), 1), y)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return next(iter(bnn.gates.values()))


def test_vib_finds_the_best_gaussian():
    """E over z of Σ (y - z)²/2s² + γ N ½ log(1 + μ²/σ²) has its least where a search of μ and σ has it."""
    y, scale, gamma = torch.full((50,), 0.8), 1.5, 0.3
    mu, log_variance = torch.meshgrid(torch.linspace(0, 1.5, 301), torch.linspace(-6, 2, 321), indexing="ij")
    variance = log_variance.exp()
    loss = 50 * (((0.8 - mu) ** 2 + variance) / (2 * scale**2) + gamma / 2 * torch.log1p(mu**2 / variance))
    best = loss.argmin()
    gate = one_unit(f"VIB({gamma})", y, scale)
    mu_found, variance_found = gate.mu.item(), gate.log_variance.exp().item()
    found = 50 * (
        ((0.8 - mu_found) ** 2 + variance_found) / (2 * scale**2) + gamma / 2 * math.log1p(mu_found**2 / variance_found)
    )
    assert found == pytest.approx(loss.flatten()[best].item(), abs=0.15)


@pytest.mark.parametrize(("penalty", "is_kept"), [(1.0, True), (200.0, False)])
def test_l0_keeps_a_unit_that_is_worth_its_penalty(penalty, is_kept):
    """50 data at 1 with a scale of 0.7: a mask of 1 is worth 50 / (2 · 0.49) = 51 nats."""
    gate = one_unit(f"L0({penalty})", torch.ones(50), 0.7, num_steps=600)
    assert gate.kept().tolist() == [is_kept]


@pytest.mark.parametrize(("level", "is_kept"), [(0.9, True), (0.0, False)])
def test_sbp_keeps_a_unit_that_the_data_want(level, is_kept):
    gate = one_unit("SBP", torch.full((50,), level), 0.5, num_steps=600)
    assert gate.kept().tolist() == [is_kept]
    if is_kept:
        assert gate.mean_mask().item() == pytest.approx(level, abs=0.1)


# --- gradients at both ends, what is kept -----------------------------------------------------------------------


@pytest.mark.parametrize("family", SPELLED)
@pytest.mark.parametrize("shift", [-12.0, 12.0])
def test_gradients_of_gates_far_out_are_finite_and_the_costs_is_alive(family, shift, few):
    bnn = gated(family)
    for gate in bnn.gates.values():
        with torch.no_grad():
            next(gate.parameters()).add_(shift)
    for elbo in (Trace_ELBO(), TraceMeanField_ELBO()):
        bnn.zero_grad()
        assert math.isfinite(elbo.loss_and_grads(bnn.model, bnn.guide, *few))
        assert all(bool(p.grad.isfinite().all()) for p in bnn.parameters())
    bnn.zero_grad()
    sum(bnn.kl().values()).backward()
    assert all(bool((next(gate.parameters()).grad != 0).all()) for gate in bnn.gates.values())


@pytest.mark.parametrize(
    ("family", "num_epochs"), [("L0(8)", 40), ("SBP", 40), ("VIB(3e-3)", 40), ("GeneralizedDropout(1e-4, 10)", 60)]
)
def test_the_pixels_that_carry_nothing_are_out_and_the_others_are_in(family, num_epochs):
    bars = data.bars(num_train=2000)
    net = nn.Sequential(nn.Flatten(), nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 4))
    bbpyro.pretrain(net, bars.x, bars.y, num_epochs=5, learning_rate=3e-3, seed=1, progress=False)
    bnn = bbpyro.BetaBernoulliNetwork(bbpyro.insert_dropout(net, family=family), num_data=len(bars.x))
    bbpyro.fit(bnn, bars.x, bars.y, num_epochs=num_epochs, gate_learning_rate=0.05, seed=0, progress=False)
    kept = bnn.gates["1.gate"].kept().reshape(8, 8)
    relevant = data.bars_relevant()
    assert bool(kept[relevant].all())
    assert int(kept[~relevant].sum()) <= 2
    assert bbpyro.evaluate(bnn, bars.x_test, bars.y_test, None).error < 0.06
    small = bbpyro.compact(bnn, bars.x[:2])
    torch.testing.assert_close(small(bars.x_test), bnn.eval()(bars.x_test), rtol=1e-4, atol=1e-4)
    assert sum(p.numel() for p in small.parameters()) < 1500


# --- everything else knows them as gates ------------------------------------------------------------------------


@pytest.mark.parametrize("family", SPELLED)
def test_a_trained_network_is_predicted_by_kept_and_read(family, few, tmp_path):
    bnn = gated(family)
    history = bbpyro.fit(bnn, *few, num_epochs=3, batch_size=10, seed=0, progress=False)
    assert set(history[-1]["kl"]) == set(bnn.gates)
    probs = bbpyro.predict(bnn, few[0], 50)
    assert probs.shape == (20, 2) and torch.allclose(probs.sum(1), torch.ones(20), atol=1e-5)
    draws = bbpyro.predictive_draws(bnn, few[0], 30)
    assert draws.shape == (30, 20)
    assert Predictive(bnn.model, guide=bnn.guide, num_samples=3)(few[0])[f"0.gate.{SITES[family]}"].shape == (3, 20, 4)
    idata = bbpyro.to_arviz(bnn, *few, 40, history=history, seed=0, progress=False)
    assert posterior.gates(idata) == ["0.gate", "2.gate"]
    gate = bnn.gates["0.gate"]
    assert posterior.latent(idata, "0.gate") == f"0.gate.{gate.latent}"
    assert posterior.measure(idata, "0.gate") == pytest.approx(gate.measure().detach().numpy())
    table = posterior.decisions(idata)
    assert table["kept"].tolist() == [int(gate.kept().sum()) for gate in bnn.gates.values()]
    has_pi = posterior.latent(idata, "0.gate") == "0.gate.pi"
    assert table["surely_in"].isna().all() != has_pi
    for figure in (bbpyro.plots.keep_probability, bbpyro.plots.intervals, bbpyro.plots.forest, bbpyro.plots.elbo):
        assert figure(idata).axes
    if not has_pi:
        with pytest.raises(ValueError, match="has no keep probabilities; it goes by"):
            posterior.keep_probability(idata, "0.gate")
    posterior.save(idata, tmp_path / "posterior.nc")


def test_all_intervals_of_a_forest_are_in_view(few):
    bnn = gated("SBP")
    with torch.no_grad():
        bnn.gates["0.gate"].mu[:] = torch.tensor([-0.1, -0.2, -15.0, -30.0])
        bnn.gates["0.gate"].log_sigma[2:] = 1.5  # of which the signal is lost in noise
    idata = bbpyro.to_arviz(bnn, *few, 100, seed=0, progress=False)
    figure = bbpyro.plots.forest(idata, "0.gate", num_units=1)
    assert len(figure.axes) == 3
    for axis in figure.axes:
        low, high = axis.get_xlim()
        (points,) = (line.get_xdata() for line in axis.lines)
        assert all(low < point < high for point in points)


def test_prediction_is_by_the_posterior_and_not_by_the_prior(few):
    bnn = gated("VIB(0.02)")
    with torch.no_grad():
        for gate in bnn.gates.values():
            gate.mu.fill_(1.0)
            gate.log_variance.fill_(-20.0)
    by_mean, by_draws = (bbpyro.predict(bnn, few[0], n) for n in (None, 40))
    torch.testing.assert_close(by_mean, by_draws, rtol=1e-2, atol=1e-3)


@pytest.mark.parametrize("num_samples", [1, 7])
def test_draws_of_few_data_at_once_are_of_masks_of_their_own(few, num_samples):
    bnn = gated({"0.gate": "BetaBernoulli", "*": "SBP"})
    torch.manual_seed(0)
    at_once = bbpyro.predictive_draws(bnn, few[0][:2], num_samples, batch_size=1000)
    assert at_once.shape == (num_samples, 2)


def test_each_gate_may_be_of_a_family_of_its_own(few):
    bnn = gated({"0.gate": "SBP", "*": "BetaBernoulli"})
    assert [type(gate).__name__ for gate in bnn.gates.values()] == ["SBP", "BetaBernoulliDropout"]
    bbpyro.fit(bnn, *few, num_epochs=3, batch_size=10, seed=0, progress=False)
    idata = bbpyro.to_arviz(bnn, *few, 30, seed=0, progress=False)
    assert list(posterior.group(idata, "posterior").data_vars) == ["0.gate.theta", "2.gate.pi"]
    assert list(posterior.group(idata, "prior").data_vars) == ["0.gate.theta", "2.gate.pi"]
    assert set(bnn.kl()) == {"0.gate", "2.gate"}


class Halving(families.Gate):
    """A family of one's own: a mask of ½ plus noise, which costs what it is far from 0."""

    unit_parameters = ("strength",)
    latent, measure_name, measure_label = "z", "strength_now", "strength"

    def __init__(self, num_features, dim=-1):
        super().__init__(0.1, dim)
        self.begin_at("strength", 0.5, num_features)

    def model(self, name, data):
        with data:
            return {"z": pyro.sample(f"{name}.z", dist.Normal(0.0, 1.0).expand([self.num_features]).to_event(1))}

    def guide(self, name, data):
        with data:
            pyro.sample(f"{name}.z", dist.Normal(self.strength, 0.1).to_event(1))

    def kl(self, num_data):
        q = dist.Normal(self.strength, 0.1)
        return num_data * torch.distributions.kl_divergence(q, dist.Normal(0.0, 1.0))

    def draws(self, num_samples):
        return dist.Normal(self.strength, 0.1).sample((num_samples,))

    def measure(self):
        return self.strength

    def mean_mask(self):
        return torch.where(self.kept(), self.strength, 0.0)


@pytest.mark.parametrize("family", [Halving, f"{__name__}:Halving"])
def test_a_family_of_ones_own(family, few):
    bnn = gated(family)
    with pytest.warns(FitWarning, match="Units left: 0 of 4 on 0"):
        bbpyro.fit(bnn, *few, num_epochs=30, batch_size=10, gate_learning_rate=0.1, seed=0, progress=False)
    assert bnn.gates["0.gate"].strength.abs().max() < 0.5  # N nats each pull it to 0
    assert bbpyro.to_arviz(bnn, num_samples=10, seed=0, progress=False)


# --- bad input --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("family", "message"),
    [
        ("Vib", "'Vib': there is no Vib; known are .*SBP"),
        ("L0(-1)", "L0: penalty is -1, wanted a number from 0 to"),
        ("L0(1, 2)", "L0: keep_probability is 2, wanted"),
        ("SBP(1, 5)", "SBP: low is 5, wanted a number from -80 to -0.001"),
        ("VIB('x')", "'x' is no"),
        ("VIB(1, 2)", "VIB takes gamma"),
        (3, "3 is no family of masks; known are"),
        ({"0.gate": "SBP"}, "family: none of '0.gate' is the gate '2.gate'; add '[*]' for the rest"),
        ({"9.gate": "SBP", "*": "SBP"}, "family: '9.gate' is none of the gates 0.gate, 2.gate"),
        ("absent:family", "'absent:family' cannot be imported"),
    ],
)
def test_what_is_no_family_is_refused(family, message):
    with pytest.raises(ValueError, match=message):
        gated(family)


def test_what_is_of_beta_bernoulli_dropout_alone_is_refused():
    net = nn.Linear(3, 2)
    with pytest.raises(ValueError, match="threshold is of a keep probability, and gate '0.gate' goes by the signal-to"):
        bbpyro.compact(gated("SBP"), threshold=0.1)
    points = gated("GeneralizedDropout(1e-4, 10)")  # whose π is a keep probability too
    pi = torch.cat([gate.measure() for gate in points.gates.values()])
    reports = bbpyro.compact(points, threshold=pi.max().item()).compaction.gates.values()
    assert all(report.dead == report.units for report in reports)
    with pytest.raises(ValueError, match="NUTS is of Beta-Bernoulli dropout alone, and has no masks of '0.gate' .SBP."):
        bbpyro.mcmc.nuts(gated("SBP"), torch.randn(20, 4), torch.randint(2, (20,)), num_samples=4)
    with pytest.raises(ValueError, match="threshold is of Beta-Bernoulli dropout, and no gate is of that"):
        bbpyro.insert_dropout(net, 0.01, family="SBP")
    with pytest.raises(ValueError, match="initial_keep_probability is of Beta-Bernoulli dropout"):
        bbpyro.insert_dropout(net, family="SBP", initial_keep_probability=0.9)
    with pytest.raises(ValueError, match="prior: gates of the family SBP have no π, so they take no prior"):
        bbpyro.BetaBernoulliNetwork(bbpyro.insert_dropout(net, family="SBP"), num_data=3, prior="Jeffreys")
    mixed = bbpyro.insert_dropout(nn.Sequential(nn.Linear(3, 3), net), family={"0.gate": "SBP", "*": "BetaBernoulli"})
    with pytest.raises(ValueError, match="prior: '0.gate' is of gates that have none"):
        bbpyro.BetaBernoulliNetwork(mixed, num_data=3, prior={"0.gate": "Jeffreys", "*": "Jeffreys"})
    bbpyro.BetaBernoulliNetwork(mixed, num_data=3, prior="Jeffreys")


# --- runs and studies -------------------------------------------------------------------------------------------

QUICK = {"batch_size": 50, "pretrain_epochs": 1, "epochs": 2}


@pytest.fixture(scope="module")
def study(npz, tmp_path_factory):
    """One of three families."""
    return bbpyro.compare(
        seeds=1, vary={"family": ["BetaBernoulli", "SBP()", "DependentBetaBernoulli()"]}, dataset=str(npz),
        network="mlp-64-64", gate_learning_rate=0.1, folder=tmp_path_factory.mktemp("families") / "study",
        progress=False, **QUICK,
    )  # fmt: skip


def test_a_study_has_a_row_a_family(study):
    assert not study.failures
    assert study.table.index.tolist() == ["BetaBernoulli", "SBP()", "DependentBetaBernoulli()"]
    assert study.runs["error"].notna().all()
    assert (study.folder / "figures" / "priors_posteriors.png").exists()


def test_a_run_of_a_family_is_read_again_as_it_was(npz, tmp_path, capsys):
    folder = tmp_path / "run"
    arguments = [
        "train",
        "--dataset",
        str(npz),
        "--network",
        "mlp-64-64",
        "--family",
        "VIB(1e-3)",
        "--run",
        str(folder),
    ]
    main([*arguments, "--batch-size", "50", "--pretrain-epochs", "1", "--epochs", "2"])
    run = runs.load(folder)
    assert run.config.family == "VIB(0.001)"
    assert {type(gate) for gate in run.bnn.gates.values()} == {families.VIB}
    main(["evaluate", str(folder)])
    main(["posterior", str(folder), "--num-samples", "20"])
    main(["compact", str(folder)])
    assert (folder / "posterior.nc").exists() and (folder / "compact.safetensors").exists()
    assert "of 64 units" in capsys.readouterr().out
    text = (folder / "config.json").read_text()
    (folder / "config.json").write_text(text.replace("VIB(0.001)", "SBP"))
    with pytest.raises(CheckpointError):
        runs.load(folder)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--family", "Vib"], "family: 'Vib': there is no Vib; known are"),
        (["--family", "SBP", "--prior", "Jeffreys"], "prior: gates of the family SBP have no π"),
        (["--family", "SBP", "--threshold", "0.1"], "threshold is of Beta-Bernoulli dropout"),
        (["--family", "SBP", "--initial-keep-probability", "0.9"], "initial_keep_probability is of Beta-Bernoulli"),
    ],
)
def test_the_command_line_refuses_in_one_line(npz, tmp_path, capsys, arguments, message):
    with pytest.raises(SystemExit) as stop:
        main(["train", "--dataset", str(npz), "--run", str(tmp_path / "run"), "--epochs", "2", *arguments])
    assert stop.value.code == 2
    printed = capsys.readouterr().err
    assert message in " ".join(printed.split())
    assert not (tmp_path / "run").exists()


# --- dependent Beta-Bernoulli dropout ---------------------------------------------------------------------------


def test_the_masks_of_dependent_dropout_are_bernoulli_of_pi_times_phi():
    gate = families.DependentBetaBernoulli(3).eval()
    with torch.no_grad():
        gate.eta.copy_(torch.tensor([0.1, 0.5, 2.0]))
        gate.gamma.fill_(0.2)
    x, pi, u = torch.randn(50_000, 3), torch.tensor([0.9, 0.6, 0.3]), torch.rand(50_000, 3)
    z = torch.bernoulli(pi.expand(50_000, 3))
    out = functional_call(gate, {"z": z, "u": u, "beta": gate.eta.detach()}, (torch.ones_like(x),))
    phi = (0.2 / (1 + 1e-5) ** 0.5 + torch.tensor([0.1, 0.5, 2.0])).clamp(1e-4, 1 - 1e-4)
    assert set(out.unique().tolist()) <= {0.0, 1.0}
    error = (out.mean(0) - pi * phi).abs() / (pi * phi * (1 - pi * phi) / 50_000).sqrt()
    assert error.max() < 4


def test_a_datum_keeps_the_units_it_needs_and_starts_from_a_trained_network():
    """y is the sign of x_1 where x_0 is positive, else that of x_2."""
    torch.manual_seed(0)
    x = torch.randn(600, 6)
    y = torch.where(x[:, 0] > 0, x[:, 1] > 0, x[:, 2] > 0).long()
    net = nn.Sequential(nn.Linear(6, 16), nn.ReLU(), nn.Linear(16, 2))
    bbpyro.pretrain(net, x, y, num_epochs=60, batch_size=50, seed=0, progress=False)
    first = bbpyro.BetaBernoulliNetwork(bbpyro.insert_dropout(net, initial_keep_probability=0.9), num_data=600)
    bbpyro.fit(first, x, y, num_epochs=60, batch_size=50, gate_learning_rate=0.03, seed=0, progress=False)
    gated_net = bbpyro.insert_dropout(net, family="DependentBetaBernoulli")
    missing = gated_net.load_state_dict(first.net.state_dict(), strict=False)
    assert not missing.unexpected_keys
    second = bbpyro.BetaBernoulliNetwork(gated_net, num_data=600)
    bbpyro.fit(second, x, y, num_epochs=60, batch_size=50, seed=0, progress=False)
    assert bbpyro.evaluate(second, x, y, None).error < bbpyro.evaluate(first, x, y, None).error + 0.02
    gate, hidden = second.gates["2.gate"], second.net[:2](x)
    masks = gate.mean_mask() * gate.phi(hidden)
    assert (masks > gate.threshold).float().mean() <= (gate.mean_mask() > 0).float().mean()
    with pytest.raises(bbpyro.compaction.UnsupportedModuleError, match="0.gate: the masks of Dependent.* each datum"):
        bbpyro.compact(second, x[:2])


def test_a_run_of_dependent_dropout_starts_from_one_of_beta_bernoulli_dropout(npz, tmp_path, capsys):
    shared = ["train", "--dataset", str(npz), "--network", "mlp-64-64", "--epochs", "2", "--num-samples", "2"]
    first, second = tmp_path / "first", tmp_path / "second"
    main([*shared, "--pretrain-epochs", "1", "--gate-learning-rate", "0.1", "--run", str(first)])
    start = ["--family", "DependentBetaBernoulli", "--pretrained", str(first)]
    still = ["--learning-rate", "1e-30", "--gate-learning-rate", "1e-30"]
    main([*shared, *start, *still, "--run", str(second)])
    one, two = (runs.load(folder).bnn for folder in (first, second))
    for name, gate in two.gates.items():
        assert isinstance(gate, families.DependentBetaBernoulli)
        assert torch.equal(gate.keep_probability(), one.gates[name].keep_probability())
        assert not gate.is_untrained
    assert torch.equal(two.net.fc2.weight, one.net.fc2.weight)
    assert runs.load(second).config.pretrained == first
    hint = "DependentBetaBernoulli is to begin where BetaBernoulli ended: --pretrained RUN_FOLDER"
    assert hint not in " ".join(capsys.readouterr().out.split())
    main([*shared, *start[:2], "--epochs", "1", "--run", str(tmp_path / "alone")])
    assert hint in " ".join(capsys.readouterr().out.split())
    for family in ("VIB", "SBP"):
        with pytest.raises(SystemExit) as stop:
            main([*shared, "--family", family, "--pretrained", str(first), "--run", str(tmp_path / "third")])
        assert stop.value.code == 2
        told = " ".join(capsys.readouterr().err.split())
        assert f"first has a gate 'fc1.gate' that {family} cannot start from" in told


@pytest.fixture(scope="module")
def first(npz, tmp_path_factory):
    """A run of Beta-Bernoulli dropout on all data."""
    folder = tmp_path_factory.mktemp("runs") / "first"
    runs.create(
        folder, runs.TrainConfig(dataset=str(npz), network="mlp-64-64", epochs=1, pretrain_epochs=1, weights="normal")
    )
    runs.train(folder)
    return folder


def test_a_run_is_not_replaced_by_one_that_starts_from_it(npz, first, capsys):
    for inside in (first, first / "checkpoint.safetensors"):
        with pytest.raises(SystemExit):
            main(["train", "--dataset", str(npz), "--run", str(first), "--force", "--pretrained", str(inside)])
        assert "is in the run folder" in " ".join(capsys.readouterr().err.split())
    assert runs.load(first).is_complete


def test_a_run_of_gaussian_weights_is_a_start_too(npz, first, tmp_path):
    config = runs.TrainConfig(
        dataset=str(npz), network="mlp-64-64", epochs=1, weights="normal", pretrained=first, learning_rate=1e-30
    )
    runs.create(tmp_path / "run", config)
    run = runs.train(tmp_path / "run")
    assert torch.equal(run.bnn.net.fc1.weight, runs.load(first).bnn.net.fc1.weight)


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        ({"validation_size": 20}, "first was trained on data that this run holds out; train it with the same --valid"),
        ({"initial_keep_probability": 0.9}, "initial_keep_probability is 0.9, but gates begin where those of the run"),
        ({"pretrained": "."}, "is no run; give a run's folder, or a file"),
    ],
)
def test_what_cannot_start_from_a_run_is_said_before_anything_is_made(npz, first, tmp_path, settings, told):
    settings = {"pretrained": first, **settings}
    config = runs.TrainConfig(dataset=str(npz), **{**settings, "pretrained": Path(settings["pretrained"])})
    with pytest.raises((ValueError, CheckpointError), match=told):
        runs.create(tmp_path / "run", config)
    assert not (tmp_path / "run").exists()


def test_a_layer_of_the_users_own_may_be_called_gate(npz, tmp_path, monkeypatch):
    (tmp_path / "gating.py").write_text(
        "from torch import nn\nclass Net(nn.Module):\n    def __init__(self):\n        super().__init__()\n"
        "        self.gate, self.out = nn.Linear(64, 8), nn.Linear(8, 4)\n"
        "    def forward(self, x):\n        return self.out(self.gate(x.flatten(1)).relu())\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    shared = {"dataset": str(npz), "network": "gating:Net", "epochs": 1}
    runs.create(tmp_path / "one", runs.TrainConfig(**shared, pretrain_epochs=1))
    one = runs.train(tmp_path / "one")
    runs.create(tmp_path / "two", runs.TrainConfig(**shared, pretrained=tmp_path / "one", learning_rate=1e-30))
    assert torch.equal(runs.train(tmp_path / "two").bnn.net.gate.weight, one.bnn.net.gate.weight)


def test_a_study_that_is_done_wants_its_pretrained_run_no_more(npz, first, tmp_path):
    copy = tmp_path / "copy"
    shutil.copytree(first, copy)
    settings = {"dataset": str(npz), "network": "mlp-64-64", "epochs": 1, "vary": {"pretrained": ["none", str(copy)]}}
    study = bbpyro.compare(seeds=1, folder=tmp_path / "study", progress=False, **settings)
    shutil.rmtree(copy)
    again = bbpyro.compare(seeds=1, folder=tmp_path / "study", progress=False, **settings)
    assert again.results.keys() == study.results.keys() and len(again.results) == 2
    with pytest.raises((ValueError, CheckpointError), match="copy"):
        bbpyro.compare(seeds=2, folder=tmp_path / "study", progress=False, **settings)


@pytest.mark.parametrize("dim", [-1, 1])
def test_the_units_a_datum_keeps_are_those_that_come_through_its_gate(dim):
    torch.manual_seed(0)
    gate = families.DependentBetaBernoulli(5, threshold=0.2, dim=dim).eval()
    with torch.no_grad():
        gate.unconstrained_concentration1.copy_(torch.tensor([-5.0, -1.0, 0.0, 1.0, 3.0]))
        gate.eta.copy_(torch.linspace(-1, 1, 5))
    x = torch.rand(40, 5) if dim == -1 else torch.rand(40, 5, 3, 2)
    came_through = gate(x) > 0
    came_through = came_through if dim == -1 else came_through.flatten(2).all(-1)
    assert torch.equal(gate.kept_for(x), came_through)
    assert 0 < came_through.sum() < came_through.numel()
    alike = gate.for_all_data()
    assert type(alike) is families.BetaBernoulliDropout and alike.dim == dim
    assert torch.equal(alike.mean_mask(), gate.mean_mask())
    assert families.VIB(5).for_all_data().kept_for(x).shape == (40, 5)


def test_a_study_has_what_a_datum_keeps_beside_what_can_be_stored(study):
    first, _, second = study.results.values()
    assert first["active"] == {} and second["active"].keys() == second["kept"].keys()
    run = runs.load(study.folder / "runs" / list(study.results)[2])
    x = run.dataset.x_test.flatten(1)
    assert second["active"]["fc1.gate"] == pytest.approx(run.bnn.gates["fc1.gate"].kept_for(x).sum(1).float().mean())
    kept = [*second["kept"].values(), 4]  # of 64-64-64 units, without those that are out for all data
    macs = sum(a * b for a, b in zip(kept, kept[1:], strict=False))
    assert second["macs_left"] == pytest.approx(macs / (64 * 64 + 64 * 64 + 64 * 4))
    table = (study.folder / "table.md").read_text()
    assert "| kept of 64-64-64 | kept by a datum | MACs left |" in table
    assert f"| {'-'.join(f'{count:.0f}' for count in second['active'].values())} |" in table
    summary = runs.summarize(run, num_samples=2)
    assert summary["active"] == pytest.approx(second["active"])


class Own(families.Gate):
    """A family as a user would write it."""

    unit_parameters = ("mu",)
    latent, measure_name, measure_label = "z", "mean", "|μ|"

    def __init__(self, num_features, dim=-1, cost=1.0):
        super().__init__(0.1, dim)
        self.cost = cost
        self.begin_at("mu", 1.0, num_features)

    def model(self, name, data):
        pyro.factor(f"{name}.cost", -self.kl(data.size).sum())
        with data:
            return {"z": pyro.sample(f"{name}.z", dist.Normal(self.mu, 0.1).to_event(1))}

    def guide(self, name, data):
        with data:
            pyro.sample(f"{name}.z", dist.Normal(self.mu, 0.1).to_event(1))

    def kl(self, num_data):
        return self.cost * self.mu.abs()

    def draws(self, num_samples):
        return dist.Normal(self.mu, 0.1).sample((num_samples,))

    def measure(self):
        return self.mu.abs()

    def mean_mask(self):
        return self.mu * self.kept()


def other_site(self, name, data):
    with data:
        pyro.sample(f"{name}.zz", dist.Normal(self.mu, 0.1).to_event(1))


WRONG = [
    ({"__init__": lambda self, num_features: None}, "takes no number of units and dim=-1 or 1"),
    (
        {"model": lambda self, name, data: torch.ones(4)},
        r"model\(\) of Wrong returns a Tensor, wanted .* \{.z.: masks\}",
    ),
    ({"kl": None}, r"Wrong lacks kl\(\)"),
    (
        {"kl": lambda self, num_data: self.mu.sum()},
        r"kl\(\) of Wrong gives shape \[\], wanted .* each of 4 units, \[4\]",
    ),
    ({"kl": lambda self, num_data: 1.0}, r"Wrong fails where it is tried \(AttributeError: 'float'"),
    ({"measure": lambda self: 1.0}, r"measure\(\) of Wrong gives a float, wanted"),
    ({"mean_mask": lambda self: self.mu[:3]}, r"mean_mask\(\) of Wrong gives shape \[3\], wanted"),
    ({"guide": other_site}, r"guide\(\) of Wrong samples gate.zz, and its model\(\) gate.z; wanted the same names"),
    ({"guide": lambda self, name, data: None}, r"guide\(\) of Wrong samples nothing, and its model"),
    ({"draws": lambda self, num_samples: self.absent, "measure": lambda self: self.absent}, r"Wrong fails .*absent"),
]


@pytest.mark.parametrize(("change", "message"), WRONG)
def test_what_a_family_of_ones_own_does_wrong_is_said_before_it_is_trained(change, message):
    net = nn.Sequential(nn.Linear(4, 2))
    before = torch.get_rng_state()
    assert isinstance(bbpyro.insert_dropout(net, family=Own)[0].gate, Own)
    with pytest.raises(ValueError, match=f"^family: .*{message}"):
        bbpyro.insert_dropout(net, family=type("Wrong", (Own,), change))
    assert torch.equal(torch.get_rng_state(), before)


CHANGED = [
    ("cost=1.0", "cost=500.0", True),
    ("self.mu.abs()", "self.mu.square()", True),
    ("0.1).to_event", "0.2).to_event", True),
    ("class Own", "# a comment\nANOTHER = 3\n\n\nclass Own", False),
    ("A family as a user would write it.", "Another docstring.", False),
]


@pytest.mark.parametrize(("old", "new", "is_another"), CHANGED)
def test_a_run_goes_on_with_the_family_that_it_was_made_with(tmp_path, monkeypatch, npz, old, new, is_another):
    monkeypatch.chdir(tmp_path)
    code = "import pyro\nimport pyro.distributions as dist\nfrom bbpyro import families\n\n\n" + inspect.getsource(Own)
    (tmp_path / "own_family.py").write_text(code)
    settings = {"epochs": 1, "pretrain_epochs": 0, "network": "mlp-64-64"}
    runs.create(tmp_path / "run", runs.TrainConfig(dataset=str(npz), family="own_family:Own", **settings))
    runs.train(tmp_path / "run")
    assert old in code
    (tmp_path / "own_family.py").write_text(code.replace(old, new))
    if not is_another:
        runs.load(tmp_path / "run")
        return
    with pytest.raises(ValueError, match="own_family:Own changed since run .* was made; restore what it was, or"):
        runs.load(tmp_path / "run")


def test_what_a_family_of_ones_own_lacks_is_said_before_it_is_trained():
    net = nn.Sequential(nn.Linear(4, 2))

    class Plain(families.Gate):
        def __init__(self, num_features, dim=-1):
            super().__init__(0.0, dim)

    with pytest.raises(ValueError, match=r"Plain lacks unit_parameters, latent, .* model\(\), guide\(\), kl\(\)"):
        bbpyro.insert_dropout(net, family=Plain)
    with pytest.raises(ValueError, match=r"family: it makes a Dropout, wanted a subclass of bbpyro.families.Gate"):
        bbpyro.insert_dropout(net, family=lambda num_features, dim: nn.Dropout())
