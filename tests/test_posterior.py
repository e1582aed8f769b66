import re
import subprocess
import sys

import arviz as az
import numpy as np
import pandas as pd
import pyro
import pyro.distributions as dist
import pytest
import scipy.stats
import torch
import xarray as xr
from torch import nn

import bbpyro
from bbpyro import posterior

GATES = ["1.gate", "3.gate"]
ARVIZ_1 = not az.__version__.startswith("0.")


def make_network(num_data: int = 1000, **options: object) -> bbpyro.BetaBernoulliNetwork:
    """Images of 3x4 in, 5 hidden units, 3 classes out; concentrations of every size."""
    net = nn.Sequential(nn.Flatten(), nn.Linear(12, 5), nn.Tanh(), nn.Linear(5, 3))
    bnn = bbpyro.BetaBernoulliNetwork(bbpyro.insert_dropout(net), num_data=num_data, **options)
    with torch.no_grad():
        for gate in bnn.gates.values():
            gate.unconstrained_concentration1.uniform_(-3, 3)
            gate.unconstrained_concentration0.uniform_(0, 3)  # any smaller, and double rounds draws to 1
    return bnn


def set_concentrations(gate: bbpyro.BetaBernoulliDropout, a: torch.Tensor, b: torch.Tensor) -> None:
    with torch.no_grad():
        gate.unconstrained_concentration1.copy_(torch.where(a > 20, a, torch.log(torch.expm1(a - 1e-6))))
        gate.unconstrained_concentration0.copy_(torch.where(b > 20, b, torch.log(torch.expm1(b - 1e-6))))


@pytest.fixture
def bnn() -> bbpyro.BetaBernoulliNetwork:
    return make_network()


@pytest.fixture
def x() -> torch.Tensor:
    return 2 * torch.randn(40, 3, 4)


@pytest.fixture
def y() -> torch.Tensor:
    return torch.randint(3, (40,))


@pytest.fixture
def idata(bnn, x, y):
    return bbpyro.to_arviz(bnn, x, y, 60, seed=0, progress=False)


# --- draws of π --------------------------------------------------------------------------------------------


def test_draws_have_the_mean_the_interval_and_the_distribution_of_the_exact_kumaraswamy(bnn):
    num_samples = 100_000
    idata = bbpyro.to_arviz(bnn, num_samples=num_samples, seed=1)
    p_values = []
    for name, gate in bnn.gates.items():
        q = gate.posterior()
        draws = idata["posterior"][f"{name}.pi"].values[0]
        assert draws.shape == (num_samples, gate.num_features) and draws.dtype == np.float64
        for k, (a, b) in enumerate(zip(q.concentration1.tolist(), q.concentration0.tolist(), strict=True)):

            def cdf(pi, a=a, b=b):
                return -np.expm1(b * np.log1p(-(np.asarray(pi) ** a)))

            p_values.append(scipy.stats.kstest(draws[:, k], cdf).pvalue)
            moment = [b * scipy.special.beta(1 + m / a, b) for m in (1, 2)]
            standard_error = np.sqrt(max(moment[1] - moment[0] ** 2, 0) / num_samples)
            assert abs(draws[:, k].mean() - moment[0]) < 4.5 * standard_error
            low, high = np.quantile(draws[:, k], (0.05, 0.95))
            # The exact probability below an empirical quantile has a standard error of sqrt(p (1-p) / S).
            for quantile, p in ((low, 0.05), (high, 0.95)):
                assert abs(cdf(quantile) - p) < 4.5 * np.sqrt(0.05 * 0.95 / num_samples)
    # 17 tests at once; and a p-value is uniform, so their own distribution must not be off either.
    assert min(p_values) > 1e-4
    assert scipy.stats.kstest(p_values, "uniform").pvalue > 1e-3


def test_a_dead_units_draws_follow_its_law_as_far_as_double_reaches(bnn):
    gate = bnn.gates["1.gate"]
    set_concentrations(gate, torch.full((12,), 1e-4), torch.ones(12))
    draws = bbpyro.to_arviz(bnn, num_samples=5000, seed=0)["posterior"]["1.gate.pi"].values
    for at in (1e-300, 1e-30, 1e-3):
        expected = 1 - at**1e-4  # P(π > at), of Beta(1e-4, 1)
        assert abs((draws > at).mean() - expected) < 4.5 * np.sqrt(expected / draws.size)


def test_prior_draws_are_of_the_prior():
    bnn = make_network(prior=bbpyro.priors.IndianBuffet(alpha=5.0))
    prior = bbpyro.to_arviz(bnn, num_samples=2000, seed=0)["prior"]
    for name, num_units in (("1.gate", 12), ("3.gate", 5)):
        draws = prior[f"{name}.pi"].values.ravel()
        assert scipy.stats.kstest(draws, scipy.stats.beta(5.0 / num_units, 1).cdf).pvalue > 1e-4


def test_a_prior_that_is_all_0_and_1_is_drawn_so():
    bnn = make_network(prior=lambda k: dist.Beta(torch.full((k,), 1e-4), 1e-4))
    draws = bbpyro.to_arviz(bnn, num_samples=2000, seed=0)["prior"]["1.gate.pi"].values
    assert abs((draws > 0.5).mean() - 0.5) < 4.5 * 0.5 / np.sqrt(draws.size)
    assert ((draws > 0.01) & (draws < 0.99)).mean() < 0.002  # 2e-4 log(0.99/0.01) / 2 = 0.0009


def test_the_guide_group_is_exact(bnn):
    guide = bbpyro.to_arviz(bnn, num_samples=2)["guide"]
    for name, gate in bnn.gates.items():
        q = gate.posterior()
        np.testing.assert_array_equal(guide[f"{name}.concentration1"].values[0], q.concentration1.detach().numpy())
        np.testing.assert_array_equal(guide[f"{name}.concentration0"].values[0], q.concentration0.detach().numpy())
        np.testing.assert_array_equal(guide[f"{name}.keep_probability"].values[0], gate.keep_probability().detach())
        assert guide[f"{name}.threshold"].item() == gate.threshold


def test_pixels_of_the_input_have_a_row_and_a_column_and_other_units_have_not(idata):
    mean = idata["guide"]["1.gate.keep_probability"]
    assert mean.dims == ("chain", "1.gate_unit")
    assert mean.coords["1.gate_row"].values.tolist() == np.repeat(range(3), 4).tolist()
    assert mean.coords["1.gate_column"].values.tolist() == [0, 1, 2, 3] * 3
    assert set(idata["guide"]["3.gate.keep_probability"].coords) == {"chain", "3.gate_unit"}
    places = set() if ARVIZ_1 else {"1.gate_row", "1.gate_column"}
    assert idata["posterior"]["1.gate.pi"].dims == ("chain", "draw", "1.gate_unit")
    assert set(idata["posterior"]["1.gate.pi"].coords) == {"chain", "draw", "1.gate_unit"} | places
    assert set(idata["posterior"]["3.gate.pi"].coords) == {"chain", "draw", "3.gate_unit"}


def test_a_gate_that_is_as_wide_as_the_input_but_does_not_see_it_has_no_places(x):
    net = nn.Sequential(nn.Flatten(), nn.Linear(12, 12), nn.Tanh(), nn.Linear(12, 3))
    bnn = bbpyro.BetaBernoulliNetwork(bbpyro.insert_dropout(net), num_data=10)
    coords = bbpyro.to_arviz(bnn, x, num_samples=2, progress=False)["guide"].coords
    assert "1.gate_row" in coords and "3.gate_row" not in coords


def test_a_sequence_whose_last_dimension_is_gated_is_no_image():
    net = nn.Sequential(nn.Linear(4, 2), nn.Flatten(), nn.Linear(6, 3))
    bnn = bbpyro.BetaBernoulliNetwork(bbpyro.insert_dropout(net), num_data=10)
    assert "0.gate_row" not in bbpyro.to_arviz(bnn, torch.randn(5, 3, 4), num_samples=2, progress=False)["guide"].coords


def test_hidden_units_that_are_0_where_the_image_is_black_are_no_pixels():
    net = nn.Sequential(nn.Flatten(), nn.Linear(12, 12), nn.ReLU(), nn.Linear(12, 3))
    nn.init.constant_(net[1].bias, -0.01)
    bnn = bbpyro.BetaBernoulliNetwork(bbpyro.insert_dropout(net), num_data=10)
    coords = bbpyro.to_arviz(bnn, torch.zeros(5, 3, 4), num_samples=2, progress=False)["guide"].coords
    assert "1.gate_row" in coords and "3.gate_row" not in coords


def test_channels_are_told_apart():
    net = nn.Sequential(nn.Flatten(), nn.Linear(24, 3))
    bnn = bbpyro.BetaBernoulliNetwork(bbpyro.insert_dropout(net), num_data=10)
    coords = bbpyro.to_arviz(bnn, torch.randn(4, 2, 3, 4), num_samples=2, progress=False)["guide"].coords
    at = {name: coords[f"1.gate_{name}"].values[17] for name in ("channel", "row", "column")}
    assert at == {"channel": 1, "row": 1, "column": 1}


# --- predictions -------------------------------------------------------------------------------------------


def certain(bnn, kept: dict[str, torch.Tensor]) -> None:
    """Make every π as good as 1, or as good as 0."""
    for name, keep in kept.items():
        set_concentrations(
            bnn.gates[name],
            torch.where(keep, 1e3, 2e-6),
            torch.where(keep, 2e-6, torch.full_like(keep, 1, dtype=float)),
        )


def by_hand(bnn, x: torch.Tensor, masks: list[torch.Tensor]) -> torch.Tensor:
    """Log-probabilities of the classes, the layers run by hand."""
    _, first, _, last = bnn.net
    with torch.no_grad():
        hidden = torch.tanh((x.flatten(1) * masks[0]) @ first.weight.T + first.bias)
        return torch.log_softmax((hidden * masks[1]) @ last.weight.T + last.bias, -1)


def test_where_the_posterior_is_certain_the_log_likelihood_is_the_masked_networks(bnn, x, y):
    kept = {"1.gate": torch.rand(12) < 0.5, "3.gate": torch.tensor([True, False, True, True, False])}
    certain(bnn, kept)
    idata = bbpyro.to_arviz(bnn, x, y, 7, seed=0, batch_size=16, progress=False)
    expected = by_hand(bnn, x, [mask.float() for mask in kept.values()]).gather(-1, y[:, None])[:, 0]
    found = idata["log_likelihood"]["y"]
    assert found.dims == ("chain", "draw", "datum") and found.shape == (1, 7, 40)
    np.testing.assert_allclose(found.values[0], np.tile(expected, (7, 1)), atol=1e-5)


def test_each_draw_of_pi_predicts_under_its_own_number(x, y):
    """π of one gate is near 0 or near 1 from draw to draw: predictions must be by the very draw they stand under."""
    net = nn.Sequential(nn.Flatten(), nn.Linear(12, 3))
    bnn = bbpyro.BetaBernoulliNetwork(bbpyro.insert_dropout(net), num_data=10)
    set_concentrations(bnn.gates["1.gate"], torch.full((12,), 5e-4), torch.full((12,), 5e-3))
    idata = bbpyro.to_arviz(bnn, x, y, 3000, num_predictive_samples=1500, seed=0, progress=False)
    pi = idata["posterior"]["1.gate.pi"].values[0]
    numbers = idata["log_likelihood"].coords["draw"].values
    assert numbers.tolist() == list(range(0, 3000, 2))
    sure = ((pi < 1e-9) | (pi > 1 - 1e-9)).all(-1)
    checked = 0
    for i, s in enumerate(numbers):
        if sure[s]:
            logits = (x.flatten(1) * torch.tensor(pi[s] > 0.5)) @ net[1].weight.T + net[1].bias
            expected = torch.log_softmax(logits, -1).gather(-1, y[:, None])[:, 0].detach()
            np.testing.assert_allclose(idata["log_likelihood"]["y"].values[0, i], expected, atol=1e-4)
            checked += 1
    assert checked > 20
    assert len(np.unique(pi[sure] > 0.5, axis=0)) > 5  # of several different masks


def test_predictions_agree_with_predict_and_drawn_labels_with_their_probabilities(bnn, x, y):
    num_samples = 2000
    idata = bbpyro.to_arviz(bnn, x, y, num_samples, seed=0, progress=False)
    probs = idata["class_probability"]
    by_mean = bbpyro.predict(bnn, x, num_samples=None).numpy()
    np.testing.assert_allclose(probs["mean_mask"].values[0], by_mean, rtol=1e-6)
    # A probability has a standard deviation of at most 0.5 over draws; two averages differ by 0.016 standard errors.
    by_draws = bbpyro.predict(bnn, x, num_samples=num_samples).numpy()
    assert np.abs(probs["monte_carlo"].values[0] - by_draws).max() < 4.5 * 0.5 * np.sqrt(2 / num_samples)
    drawn = idata["posterior_predictive"]["y"]
    assert drawn.shape == (1, num_samples, 40) and drawn.dtype == np.int8
    shares = np.stack([(drawn.values[0] == c).mean(0) for c in range(3)], -1)
    assert np.abs(shares - probs["monte_carlo"].values[0]).max() < 4.5 * 0.5 / np.sqrt(num_samples)
    density = np.exp(idata["log_likelihood"]["y"].values[0].astype(float)).mean(0)
    np.testing.assert_allclose(density, probs["monte_carlo"].values[0][np.arange(40), y], rtol=1e-4)


def test_many_masks_average_the_likelihood_of_one(bnn, x, y):
    for gate in bnn.gates.values():  # π = 0.7, ±0.04
        set_concentrations(gate, torch.full((gate.num_features,), 20.0), torch.full((gate.num_features,), 1e3))
    one, many = (
        np.exp(bbpyro.to_arviz(bnn, x, y, 200, num_masks=m, seed=m, progress=False)["log_likelihood"]["y"].values[0])
        for m in (1, 16)
    )
    standard_error = np.sqrt((one.var(0) + many.var(0)) / 200)
    assert (np.abs(one.mean(0) - many.mean(0)) < 5 * standard_error + 1e-6).all()
    assert 0.04 < np.median(many.var(0) / one.var(0)) < 0.12  # 1/16, and a little for π's own spread


def test_no_more_data_are_predicted_at_once_than_said(bnn, x, y):
    seen = []
    bnn.net[1].register_forward_pre_hook(lambda module, args: seen.append(len(args[0])))
    bbpyro.to_arviz(bnn, x, y, 3, batch_size=16, progress=False)
    assert max(seen) == 16


def test_x_alone_gives_predictions_and_no_likelihood(bnn, x):
    idata = bbpyro.to_arviz(bnn, x, num_samples=5, progress=False)
    assert {"posterior_predictive", "constant_data", "class_probability"} <= set(idata)
    assert not {"log_likelihood", "observed_data", "threshold_sweep"} & set(idata)


def test_data_are_kept_as_they_were_given(idata, x, y):
    np.testing.assert_array_equal(idata["constant_data"]["x"].values, x)
    np.testing.assert_array_equal(idata["observed_data"]["y"].values, y)


def test_a_regression_has_its_own_likelihood_and_no_classes(x):
    net = nn.Sequential(nn.Flatten(), nn.Linear(12, 2))
    bnn = bbpyro.BetaBernoulliNetwork(
        bbpyro.insert_dropout(net), lambda output: dist.Normal(output, 0.5).to_event(1), num_data=40
    )
    certain(bnn, {"1.gate": torch.ones(12, dtype=torch.bool)})
    y = torch.randn(40, 2)
    idata = bbpyro.to_arviz(bnn, x, y, 2000, seed=0, progress=False)
    with torch.no_grad():
        mean = net(x)
    expected = scipy.stats.norm(mean, 0.5).logpdf(y).sum(-1)
    np.testing.assert_allclose(idata["log_likelihood"]["y"].values[0, 0], expected, rtol=1e-4)
    drawn = idata["posterior_predictive"]["y"]
    assert drawn.dims == ("chain", "draw", "datum", "y_dim_0")
    assert np.abs(drawn.values[0].mean(0) - mean.numpy()).max() < 4.5 * 0.5 / np.sqrt(2000)
    assert "class_probability" not in set(idata)
    assert "error" not in idata["threshold_sweep"] and np.isfinite(idata["threshold_sweep"]["nll"]).all()


def test_the_sweep_scores_the_mean_mask_at_each_threshold_and_leaves_the_network_alone(bnn, x, y):
    before = {name: tensor.clone() for name, tensor in bnn.state_dict().items()}
    sweep = bbpyro.to_arviz(bnn, x, y, 2, progress=False)["threshold_sweep"].isel(chain=0)
    assert len(sweep["threshold"]) == 33
    for t in (0, 15, 20, 25, 32):
        threshold = float(sweep["threshold"][t])
        means = [gate.keep_probability().detach() for gate in bnn.gates.values()]
        log_probs = by_hand(bnn, x, [torch.where(mean > threshold, mean, 0.0) for mean in means])
        assert [int(sweep[f"{g}.kept"][t]) for g in GATES] == [int((mean > threshold).sum()) for mean in means]
        assert float(sweep["error"][t]) == pytest.approx((log_probs.argmax(-1) != y).float().mean().item())
        assert float(sweep["nll"][t]) == pytest.approx(-log_probs.gather(-1, y[:, None]).mean().item(), rel=1e-5)
    assert all(gate.threshold == 1e-3 for gate in bnn.gates.values())
    assert all(torch.equal(tensor, before[name]) for name, tensor in bnn.state_dict().items())


# --- chains, history, attributes ---------------------------------------------------------------------------


def test_restarts_are_chains(x, y):
    networks = [make_network(), make_network()]
    history = [[{"phase": "SVI", "epoch": 1, "loss": float(i), "kl": {"1.gate": 2.0, "3.gate": 1.0}}] for i in range(2)]
    idata = bbpyro.to_arviz(networks, x, y, 50, history=history, seed=0, progress=False)
    assert idata["posterior"].sizes["chain"] == 2
    for c, bnn in enumerate(networks):
        mean = bnn.gates["1.gate"].keep_probability().detach().numpy()
        np.testing.assert_array_equal(idata["guide"]["1.gate.keep_probability"].values[c], mean)
        # A mean of 50 draws has a standard error of at most 0.5 / sqrt(50).
        assert np.abs(idata["posterior"]["1.gate.pi"].values[c].mean(0) - mean).max() < 4.5 * 0.5 / np.sqrt(50)
        by_mean = bbpyro.predict(bnn, x, num_samples=None).numpy()
        np.testing.assert_allclose(idata["class_probability"]["mean_mask"].values[c], by_mean, rtol=1e-6)
    assert idata["training"]["loss"].values.tolist() == [[0.0], [1.0]]
    assert idata["training"]["1.gate.kl"].dims == ("chain", "epoch")


def test_the_history_of_fit_becomes_a_group(x, y):
    bnn = make_network(num_data=40)
    history = bbpyro.fit(bnn, x, y, num_epochs=3, seed=0, progress=False)
    training = bbpyro.to_arviz(bnn, history=history, num_samples=2)["training"]
    assert training["epoch"].values.tolist() == [1, 2, 3]
    assert training["loss"].values[0].tolist() == [record["loss"] for record in history]
    assert training["3.gate.active"].values[0].tolist() == [record["active"]["3.gate"] for record in history]


def test_attributes_say_where_it_comes_from(bnn):
    idata = bbpyro.to_arviz(bnn, num_samples=2, seed=17, attrs={"dataset": "toy"})
    for attrs in (idata.attrs, idata["posterior"].attrs):
        assert attrs["inference_library"] == "bbpyro"
        assert attrs["inference_library_version"] == bbpyro.__version__
        assert attrs["arviz_version"] == az.__version__
        assert (attrs["seed"], attrs["dataset"], attrs["num_data"]) == (17, "toy", 1000)
        assert attrs["prior"] == "Beta(0.0001, 1)"


def test_an_untrained_network_works_and_says_so(x, y):
    net = nn.Sequential(nn.Flatten(), nn.Linear(12, 3))
    bnn = bbpyro.BetaBernoulliNetwork(bbpyro.insert_dropout(net), num_data=40)
    assert bbpyro.to_arviz(bnn, num_samples=2).attrs["trained"].startswith("no: ")
    bbpyro.fit(bnn, x, y, num_epochs=1, progress=False)
    assert bbpyro.to_arviz(bnn, num_samples=2).attrs["trained"] == "yes"


def test_a_seed_decides_the_draws_and_the_global_generator_is_left_alone(bnn, x, y):
    before = torch.get_rng_state()
    first, second = (bbpyro.to_arviz(bnn, x, y, 5, seed=3, progress=False) for _ in range(2))
    assert torch.equal(torch.get_rng_state(), before)
    for group, name in (("posterior", "1.gate.pi"), ("prior", "3.gate.pi"), ("posterior_predictive", "y")):
        np.testing.assert_array_equal(first[group][name], second[group][name])
    other = bbpyro.to_arviz(bnn, num_samples=5, seed=4)
    assert not np.array_equal(other["posterior"]["1.gate.pi"], first["posterior"]["1.gate.pi"])


def test_each_module_stays_in_its_mode(bnn, x, y):
    bnn.train()
    bnn.net[2].eval()
    bbpyro.to_arviz(bnn, x, y, 2, progress=False)
    assert bnn.training and bnn.net[1].gate.training and not bnn.net[2].training


def test_half_precision(x, y):
    bnn = make_network().to(torch.bfloat16)
    idata = bbpyro.to_arviz(bnn, x.to(torch.bfloat16), y, 5, progress=False)
    assert np.isfinite(idata["log_likelihood"]["y"]).all()


# --- ArviZ -------------------------------------------------------------------------------------------------


def test_summary(idata):
    summary = az.summary(idata, kind="stats")
    assert len(summary) == 17 and summary["mean"].between(0, 1).all()


def test_hdi(idata):
    hdi = az.hdi(idata, 0.9)
    assert hdi["1.gate.pi"].shape == (12, 2)


def test_plot_forest(idata):
    assert az.plot_forest(idata, var_names=["1.gate.pi"], combined=True) is not None


# Sixty draws of so wild a posterior are too few for importance weights, and ArviZ says so: here it is to run, no more.
few_draws = pytest.mark.filterwarnings("ignore:Estimated shape parameter of Pareto")


def test_plot_ppc(idata):
    plot = az.plot_ppc_dist(idata, kind="ecdf", num_samples=5) if ARVIZ_1 else az.plot_ppc(idata, num_pp_samples=5)
    assert plot is not None


@few_draws
def test_loo_and_its_pareto_k(idata):
    loo = az.loo(idata, pointwise=True)
    assert loo.pareto_k.shape == (40,)
    assert np.isfinite(posterior.elpd(loo))


@few_draws
@pytest.mark.parametrize("num_samples", [1, 2, 10, 29, 30])
def test_loo_of_draws_that_are_too_few_for_the_arviz_says_how_many_it_wants(bnn, x, y, num_samples):
    idata = bbpyro.to_arviz(bnn, x, y, 30, num_predictive_samples=num_samples, seed=0, progress=False)
    fewest = 30 if ARVIZ_1 else 2
    if num_samples < fewest:
        with pytest.raises(ValueError, match=f"of {num_samples} draws, wanted at least {fewest}; give bbpyro.to_arviz"):
            posterior.loo(idata)
    else:
        loo = posterior.loo(idata)
        assert np.isfinite(posterior.elpd(loo)) and not np.isnan(loo.pareto_k).any()


def test_a_datum_that_all_draws_agree_on_has_the_best_of_k(bnn, x, y):
    certain(bnn, {"1.gate": torch.rand(12) < 0.5, "3.gate": torch.rand(5) < 0.5})
    idata = bbpyro.to_arviz(bnn, x, y, 100, seed=0, progress=False)
    density = idata["log_likelihood"]["y"].values[0]
    loo = posterior.loo(idata)
    assert (loo.pareto_k < 0).all()  # bounded weights
    assert posterior.elpd(loo) == pytest.approx(density.mean(0).sum(), abs=1e-4)
    assert re.search(r"\(good\) +40 +100\.0%", str(loo))


@few_draws
@pytest.mark.filterwarnings("ignore:The inplace keyword in DataFrame:DeprecationWarning")  # ArviZ's own use of pandas
def test_compare(idata, x, y):
    other = bbpyro.to_arviz(make_network(), x, y, 60, seed=0, progress=False)
    assert set(az.compare({"one": idata, "other": other}).index) == {"one", "other"}


def test_netcdf_and_back(idata, tmp_path):
    posterior.save(idata, str(tmp_path / "posterior.nc"))
    assert [path.name for path in tmp_path.iterdir()] == ["posterior.nc"]
    again = az.from_netcdf(tmp_path / "posterior.nc")
    assert set(again) == set(idata)
    for name in idata:
        group = posterior.group(idata, name)
        places = set(group.coords) - set(group.dims) if "draw" in group.dims else set()
        assert posterior.group(again, name).identical(group.drop_vars(places))
    assert again.attrs["prior"] == idata.attrs["prior"]
    pd.testing.assert_frame_equal(posterior.decisions(again), posterior.decisions(idata))


def test_a_file_is_the_same_by_either_arviz_and_for_either(idata, tmp_path):
    """ArviZ 1.x cannot summarise draws whose units have places, and 0.x packs: neither may be seen in the file."""
    posterior.save(idata, tmp_path / "posterior.nc")
    with xr.open_datatree(tmp_path / "posterior.nc", engine="h5netcdf") as tree:
        assert set(tree["posterior"].coords) == {"chain", "draw", "1.gate_unit", "3.gate_unit"}
        assert {"1.gate_row", "1.gate_column"} < set(tree["guide"].coords)
        assert all(tree[g]["1.gate.pi"].encoding["zlib"] for g in ("posterior", "prior"))
    summary = az.summary(az.from_netcdf(tmp_path / "posterior.nc"), kind="stats")
    pd.testing.assert_frame_equal(summary, az.summary(idata, kind="stats"))


def test_a_write_that_fails_leaves_the_old_file(idata, tmp_path):
    path = tmp_path / "posterior.nc"
    posterior.save(idata, path)
    before = path.read_bytes()
    idata.attrs["broken"] = object()  # which netCDF does not take
    with pytest.raises(TypeError):
        posterior.save(idata, path)
    assert path.read_bytes() == before
    assert [entry.name for entry in tmp_path.iterdir()] == ["posterior.nc"]


# --- reading -----------------------------------------------------------------------------------------------


def test_units_are_in_out_or_undecided_by_the_mass_either_side_of_the_threshold(bnn):
    a = torch.tensor([5.0] * 6 + [1e-4] * 4 + [0.1] * 2)  # P(π > 1e-3) = 1 - 1e-3^a: 1, 0.0007, 0.5
    set_concentrations(bnn.gates["1.gate"], a, torch.ones(12))
    set_concentrations(bnn.gates["3.gate"], torch.full((5,), 5.0), torch.ones(5))
    idata = bbpyro.to_arviz(bnn, num_samples=500, seed=0)
    rows = posterior.decisions(idata)
    assert rows.loc["1.gate"].to_dict() == {
        "units": 12,
        "kept": 8,
        "surely_in": 6,
        "undecided": 2,
        "surely_out": 4,
    }
    assert posterior.in_words(idata).splitlines() == [
        "input of 1: of 12 units 6 are surely in, 4 surely out, 2 undecided.",
        "input of 3: of 5 units 5 are surely in, 0 surely out, none is undecided.",
    ]


def test_chains_are_counted_apart():
    networks = [make_network(), make_network()]
    set_concentrations(networks[0].gates["1.gate"], torch.full((12,), 5.0), torch.ones(12))
    set_concentrations(networks[1].gates["1.gate"], torch.full((12,), 1e-4), torch.ones(12))
    idata = bbpyro.to_arviz(networks, num_samples=300, seed=0)
    rows = posterior.decisions(idata)
    assert rows.index.tolist() == [("1.gate", 0), ("1.gate", 1), ("3.gate", 0), ("3.gate", 1)]
    assert rows.loc[("1.gate", 0)].tolist() == [12, 12, 12, 0, 0]
    assert rows.loc[("1.gate", 1)].tolist() == [12, 0, 0, 0, 12]
    assert "1, chain 1: of 12 units 0 are surely in, 12 surely out" in posterior.in_words(idata)
    assert posterior.extremes(idata, 2, chain=0)["mean"].iloc[0] > 0.7
    assert posterior.extremes(idata, 2, chain=1)["mean"].iloc[0] < 0.1


def test_words_about_the_threshold_are_of_the_sweep(idata):
    sweep = idata["threshold_sweep"].isel(chain=0)
    last = posterior.in_words(idata).splitlines()[-1]
    allowed = float(last.removeprefix("Any threshold up to ").split()[0])
    at, error = sweep["threshold"].values, sweep["error"].values
    good = error <= error[0] + 0.001
    assert allowed == pytest.approx(at[np.argmin(good) - 1], rel=0.05)


def test_extremes_are_the_summary_of_the_first_and_the_last(idata):
    table = posterior.extremes(idata, num_units=2)
    guide = idata["guide"]
    expected = []
    for g in GATES:
        mean = guide[f"{g}.keep_probability"].values[0]
        order = sorted(range(len(mean)), key=lambda k, mean=mean: -mean[k])
        expected += [f"{g}.pi[{k}]" for k in (*order[:2], *order[-2:])]
    assert table.index.tolist() == expected
    options = {"ci_prob": posterior.CI_PROB, "ci_kind": "hdi", "round_to": 3} if ARVIZ_1 else {}
    full = az.summary(idata, kind="stats", **options)
    pd.testing.assert_frame_equal(table, full.loc[expected])


# --- bad input ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"num_samples": 0}, "num_samples is 0, wanted at least 1"),
        ({"num_masks": 0}, "num_masks is 0"),
        ({"batch_size": 0}, "batch_size is 0"),
        ({"num_samples": 5, "num_predictive_samples": 6}, "num_predictive_samples is 6, wanted between 1 and .* 5"),
        ({"num_predictive_samples": 0}, "num_predictive_samples is 0"),
        ({"y": torch.zeros(40)}, "y was given without x"),
        ({"x": torch.zeros(0, 3, 4)}, r"x has shape \(0, 3, 4\), wanted at least one datum"),
        ({"x": torch.zeros(40, 3, 5)}, r"input of shape \(1, 15\).*must be 12"),
        ({"x": torch.zeros(40, 3, 4), "y": torch.zeros(39).long()}, r"y has shape \(39,\).*each of the 40 data"),
        ({"x": torch.zeros(40, 3, 4), "y": torch.full((40,), 3)}, "y holds labels 3 to 3, wanted 0 to 2"),
        ({"x": torch.zeros(40, 3, 4), "y": torch.zeros(40, 2).long()}, "y: two data of it have shape"),
        ({"x": torch.zeros(40, 3, 4).double()}, "float64, which the network cannot take"),
        ({"x": torch.full((40, 3, 4), torch.nan)}, "x: it holds nan or inf"),
        ({"x": torch.zeros(40, 3, 4), "y": torch.full((40,), 1.5)}, "y holds labels that are no whole numbers"),
        ({"attrs": {"num_data": 1}}, r"attrs: 'num_data' is noted anyway \(1000\)"),
        ({"attrs": {"note": None}}, "attrs: 'note' is None, wanted a text, a number, or a list of them"),
        ({"attrs": {"note": {"a": 1}}}, "attrs: 'note' is"),
        ({"history": []}, "history: it is empty"),
        (
            {"history": [{"epoch": 1, "loss": 1.0}]},
            r"history: it is of the gates \[\].*returned for \['1.gate', '3.gate'\]",
        ),
        ({"history": [[{"epoch": 1}], [{"epoch": 1}]]}, "history: it is of 2 networks, wanted one for each of 1"),
    ],
)
def test_bad_arguments_are_named_with_a_remedy(bnn, options, message):
    with pytest.raises(ValueError, match=message):
        bbpyro.to_arviz(bnn, progress=False, **options)


def test_arrays_that_are_no_tensors_are_refused_with_the_way_to_make_them(bnn):
    with pytest.raises(TypeError, match=r"x is a ndarray, wanted a tensor; torch\.as_tensor makes one"):
        bbpyro.to_arviz(bnn, np.zeros((2, 3, 4)))


def narrow() -> bbpyro.BetaBernoulliNetwork:
    net = nn.Sequential(nn.Flatten(), nn.Linear(12, 4), nn.Tanh(), nn.Linear(4, 3))
    return bbpyro.BetaBernoulliNetwork(bbpyro.insert_dropout(net), num_data=1000)


def five_classes() -> bbpyro.BetaBernoulliNetwork:
    net = nn.Sequential(nn.Flatten(), nn.Linear(12, 5), nn.Tanh(), nn.Linear(5, 5))
    return bbpyro.BetaBernoulliNetwork(bbpyro.insert_dropout(net), num_data=1000)


@pytest.mark.parametrize(
    ("make", "what"),
    [
        (lambda: make_network(prior=bbpyro.priors.IndianBuffet()), "log prior densities"),
        (lambda: make_network(num_data=999), "num_data"),
        (lambda: make_network(temperature=0.2), "temperature"),
        (narrow, "gates"),
        (five_classes, r"Categorical of an output of shape \[N, 3\] and Categorical of an output of shape \[N, 5\]"),
    ],
)
def test_chains_must_be_of_one_model(bnn, x, make, what):
    with pytest.raises(ValueError, match=f"restarts of one model.*{what}"):
        bbpyro.to_arviz([bnn, make()], x, progress=False)


def test_priors_of_units_that_change_places_are_two():
    def of(order):
        return lambda k: dist.Beta(torch.cat([torch.ones(1), torch.tensor([*range(1, k)][::order]).float()]), 1.0)

    one, same = make_network(prior=of(1)), make_network(prior=of(1))
    assert bbpyro.to_arviz([one, same], num_samples=3)["posterior"].sizes["chain"] == 2
    with pytest.raises(ValueError, match="restarts of one model.*by place"):
        bbpyro.to_arviz([one, make_network(prior=of(-1))], num_samples=3)


def test_chains_are_different_networks_and_are_networks(bnn):
    with pytest.raises(ValueError, match="empty list"):
        bbpyro.to_arviz([])
    with pytest.raises(ValueError, match="it holds a network twice"):
        bbpyro.to_arviz([bnn, bnn])
    with pytest.raises(TypeError, match="bnn is a Linear, wanted a BetaBernoulliNetwork"):
        bbpyro.to_arviz(nn.Linear(2, 3))


def test_priors_that_are_the_same_function_made_twice_are_the_same_prior():
    networks = (make_network(prior=lambda k: dist.Beta(torch.full((k,), 0.5), 0.5)) for _ in range(2))
    assert bbpyro.to_arviz(networks, num_samples=3)["posterior"].sizes["chain"] == 2


def test_an_arviz_that_is_too_old_or_missing_is_an_import_error_with_the_remedy(bnn, monkeypatch):
    monkeypatch.setattr(az, "__version__", "0.15.1")
    with pytest.raises(ImportError, match=r"ArviZ 0\.15\.1 is too old.*pip install -U 'arviz>=0\.21'"):
        bbpyro.to_arviz(bnn)
    monkeypatch.setitem(sys.modules, "arviz", None)
    with pytest.raises(ImportError, match=r"cannot be imported.*pip install"):
        bbpyro.to_arviz(bnn)


def test_a_missing_group_is_an_error_that_says_what_would_put_it_there(bnn):
    idata = bbpyro.to_arviz(bnn, num_samples=2)
    with pytest.raises(ValueError, match="no group 'training'; give bbpyro.to_arviz history="):
        posterior.group(idata, "training")
    with pytest.raises(ValueError, match="no group 'class_probability'; give bbpyro.to_arviz x"):
        posterior.group(idata, "class_probability")


def test_bbpyro_is_imported_without_arviz_which_takes_a_second():
    code = "import sys, bbpyro; assert 'arviz' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)


# --- names of features, two outputs, a guide of one's own --------------------------------------------------


NAMES = ["age", "height", "weight", "income", "größe", "x y"]


def table_network() -> bbpyro.BetaBernoulliNetwork:
    net = nn.Sequential(nn.Linear(6, 6), nn.Tanh(), nn.Linear(6, 1), nn.Flatten(0))
    return bbpyro.BetaBernoulliNetwork(bbpyro.insert_dropout(net), lambda o: dist.Normal(o, 0.5), num_data=40)


@pytest.mark.parametrize("x", [None, torch.randn(40, 6)])
def test_the_units_of_the_input_have_the_names_of_the_features_and_others_have_not(x, tmp_path):
    table = pd.DataFrame(np.zeros((1, 6)), columns=NAMES)
    idata = bbpyro.to_arviz(table_network(), x, num_samples=3, feature_names=table.columns, progress=False)
    posterior.save(idata, tmp_path / "posterior.nc")
    groups = [idata[group] for group in (("guide",) if ARVIZ_1 else ("guide", "posterior", "prior"))]
    for group in (*groups, az.from_netcdf(str(tmp_path / "posterior.nc"))["guide"]):  # a file is for ArviZ 1.x too
        assert group.coords["0.gate_name"].dims == ("0.gate_unit",)
        assert group.coords["0.gate_name"].values.tolist() == NAMES
        assert "2.gate_name" not in group.coords
    assert len(az.summary(idata, kind="stats")) == 12


def test_features_of_a_series_are_named_where_a_gate_is_on_each_step():
    net = nn.Sequential(nn.Linear(4, 2), nn.Flatten(), nn.Linear(6, 3))
    bnn = bbpyro.BetaBernoulliNetwork(bbpyro.insert_dropout(net), num_data=10)
    idata = bbpyro.to_arviz(bnn, torch.randn(5, 3, 4), num_samples=2, feature_names=list("abcd"), progress=False)
    assert idata["guide"].coords["0.gate_name"].values.tolist() == list("abcd")


@pytest.mark.parametrize(
    ("names", "x", "error", "message"),
    [
        (NAMES[:5], torch.randn(40, 6), ValueError, "feature_names: it holds 5 names, wanted 6, the features of x"),
        ([], None, ValueError, "feature_names: it holds 0 names"),
        ("abcdef", None, TypeError, "feature_names is 'abcdef', wanted a text for each feature"),
        (range(6), None, TypeError, r"feature_names is \[0, 1, 2\], wanted a text for each"),
        (NAMES[:5], None, ValueError, r"feature_names: the network takes no \[5\] of them; give x too"),
    ],
)
def test_names_that_do_not_fit_are_refused(names, x, error, message):
    with pytest.raises(error, match=message):
        bbpyro.to_arviz(table_network(), x, num_samples=2, feature_names=names, progress=False)


def test_names_of_features_that_no_gate_is_on_are_told_to_name_nothing():
    net = nn.Sequential(nn.BatchNorm1d(6), nn.Linear(6, 3))
    bnn = bbpyro.BetaBernoulliNetwork(bbpyro.insert_dropout(net), num_data=10)
    with pytest.warns(UserWarning, match="no gate is on an input of 6 features, so they name no unit"):
        bbpyro.to_arviz(bnn, 5 + torch.randn(5, 6), num_samples=2, feature_names=NAMES, progress=False)


def own_guide(bnn, with_pi):
    """W at a distance from the network's own, and π, if it has it, where the gates have it not."""

    def guide(x, y=None):
        for name, w in bnn.weights.items():
            pyro.sample(name, dist.Normal(torch.full_like(w, 3.0), 0.1).to_event(w.dim()))
        if with_pi:
            shift = pyro.sample("shift", dist.Normal(0.0, 1.0), infer={"is_auxiliary": True})
            for g, gate in bnn.gates.items():
                pi = 0.05 + 0.9 * torch.sigmoid(shift).expand(gate.num_features)
                pyro.sample(f"{g}.pi", dist.Delta(pi, event_dim=1))

    return guide


def test_a_guide_of_ones_own_draws_w(x, y):
    bnn = make_network()
    idata = bbpyro.to_arviz(bnn, x, y, 30, seed=0, guide=own_guide(bnn, False), progress=False)
    again = bbpyro.to_arviz(bnn, x, y, 30, seed=0, guide=own_guide(bnn, False), progress=False)
    own = bbpyro.to_arviz(bnn, x, y, 30, seed=0, progress=False)
    for group in ("log_likelihood", "posterior_predictive"):
        one, other = (posterior.group(each, group) for each in (idata, again))
        assert one.identical(other.assign_attrs(one.attrs))
    assert not np.allclose(idata["log_likelihood"]["y"], own["log_likelihood"]["y"])
    np.testing.assert_array_equal(idata["posterior"]["1.gate.pi"], own["posterior"]["1.gate.pi"])
    expected = bbpyro.predict(bnn, x, num_samples=None, guide=own_guide(bnn, False))
    np.testing.assert_allclose(idata["class_probability"]["mean_mask"].values[0], expected, atol=1e-5)
    assert idata["posterior"].attrs["weight_guide"] == "function" and own["posterior"].attrs["weight_guide"] == "delta"
    assert bool((idata["threshold_sweep"]["nll"] != own["threshold_sweep"]["nll"]).any())


def test_pi_of_a_guide_of_ones_own_is_the_posteriors_and_predicts_with_its_own_w(x):
    """One auxiliary number decides both π and W: draws that were mixed up would not agree."""
    net = nn.Sequential(nn.Flatten(), nn.Linear(12, 1), nn.Flatten(0))
    bnn = bbpyro.BetaBernoulliNetwork(bbpyro.insert_dropout(net), lambda o: dist.Normal(o, 1e-4), num_data=40)

    def guide(x, y=None):
        shift = pyro.sample("shift", dist.Uniform(0.2, 0.8), infer={"is_auxiliary": True})
        pyro.sample("1.weight", dist.Delta(torch.zeros(1, 12), event_dim=2))
        pyro.sample("1.bias", dist.Delta(shift.expand(1), event_dim=1))
        pyro.sample("1.gate.pi", dist.Delta(shift.expand(12), event_dim=1))

    idata = bbpyro.to_arviz(bnn, x, None, 30, num_predictive_samples=10, seed=3, guide=guide, progress=False)
    pi = idata["posterior"]["1.gate.pi"].values[0, :, 0]
    draws = idata["posterior_predictive"].coords["draw"].values
    assert len(np.unique(pi)) == 30
    np.testing.assert_allclose(idata["posterior_predictive"]["y"].values[0].mean(-1), pi[draws], atol=1e-3)


@pytest.mark.parametrize(
    ("guide", "options", "error", "message"),
    [
        (lambda x, y=None: None, {}, ValueError, "guide: it has no site '1.weight', .*wanted one for every weight"),
        ("AutoNormal", {}, TypeError, "guide is a str, wanted a callable"),
        ([None, None], {}, ValueError, "guide: there are 2 of them, wanted one for each of 1 networks"),
        (lambda x, y=None: None, {"x": None}, ValueError, "guide: it is called with data, as the model is; give x too"),
    ],
)
def test_a_guide_that_cannot_be_used_is_refused(bnn, x, guide, options, error, message):
    with pytest.raises(error, match=message):
        bbpyro.to_arviz(bnn, **{"x": x, **options}, num_samples=2, guide=guide, progress=False)
