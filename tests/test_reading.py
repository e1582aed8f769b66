"""Reading a posterior: where its units are, what they are called, how sure it is, and of which chain that is said."""

import arviz as az
import numpy as np
import pandas as pd
import pyro.distributions as dist
import pytest
import scipy.stats
import torch
from torch import nn

import bbpyro
from bbpyro import plots, posterior
from bbpyro.posterior import container

AT = np.array([1e-6, 1e-3, 0.1, 0.5, 0.9, 0.99])


def make_network(**options: object) -> bbpyro.BetaBernoulliNetwork:
    net = nn.Sequential(nn.Linear(12, 5), nn.Tanh(), nn.Linear(5, 3))
    bnn = bbpyro.BetaBernoulliNetwork(bbpyro.insert_dropout(net), num_data=100, **options)
    with torch.no_grad():
        for gate in bnn.gates.values():
            gate.unconstrained_concentration1.uniform_(-3, 3)
            gate.unconstrained_concentration0.uniform_(0, 3)
    return bnn


# --- where a gate is ---------------------------------------------------------------------------------------


def test_the_file_says_on_which_side_of_its_layer_a_gate_is(tmp_path):
    net = nn.Sequential(nn.Conv1d(1, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(16, 2))
    bnn = bbpyro.BetaBernoulliNetwork(bbpyro.insert_dropout(net), num_data=10)
    posterior.save(bbpyro.to_arviz(bnn, num_samples=5), tmp_path / "posterior.nc")
    idata = az.from_netcdf(tmp_path / "posterior.nc")
    assert [posterior.side(idata, g) for g in posterior.gates(idata)] == ["output", "input"]
    first, second = posterior.in_words(idata).splitlines()
    assert first.startswith("output of 0: of 4 units") and second.startswith("input of 3: of 16 units")


def test_a_file_of_before_is_of_inputs():
    idata = bbpyro.to_arviz(make_network(), num_samples=5)
    for variable in idata["guide"].data_vars.values():
        variable.attrs.clear()
    assert posterior.place(idata, "0.gate") == "input of 0"


def test_a_gate_placed_by_hand_is_on_neither_side_of_a_layer():
    net = nn.Sequential(nn.Linear(4, 3), bbpyro.BetaBernoulliDropout(3), nn.Linear(3, 2))
    idata = bbpyro.to_arviz(bbpyro.BetaBernoulliNetwork(net, num_data=10), num_samples=5)
    assert posterior.place(idata, "1") == "gate 1"
    assert plots.intervals(idata).axes[0].get_title("left").startswith("gate 1: ")


# --- P(π > t) ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("prior", "above"),
    [
        ("Beta(1e-4, 1)", scipy.stats.beta(1e-4, 1).sf(AT)),
        ("IndianBuffet(5)", scipy.stats.beta(5 / 12, 1).sf(AT)),
        ("Jeffreys", scipy.stats.beta(0.5, 0.5).sf(AT)),
        ("Beta(2, 0.01)", scipy.stats.beta(2, 0.01).sf(AT)),
        ("LogitNormal(-4, 2)", scipy.stats.norm(-4, 2).sf(np.log(AT / (1 - AT)))),
        ("SpikeAndSlab(0.3)", 0.3 * (1 - AT) + 0.7 * scipy.stats.beta(1e-4, 1).sf(AT)),
        ("{'0.*': Uniform, '*': Jeffreys}", 1 - AT),
    ],
)
def test_the_priors_share_is_exact_with_one_draw_or_a_thousand(prior, above):
    bnn = make_network(prior=prior)
    for num_samples in (1, 1000):
        idata = bbpyro.to_arviz(bnn, num_samples=num_samples, seed=0)
        np.testing.assert_allclose(posterior.share_above(idata, "0.gate", AT, "prior"), above, atol=2e-5)


def test_the_posteriors_share_is_exact_and_is_that_of_all_chains():
    networks = [make_network(), make_network()]
    idata = bbpyro.to_arviz(networks, num_samples=2)
    expected = []
    for bnn in networks:
        q = bnn.gates["0.gate"].posterior()
        a, b = (c.detach().double().numpy()[:, None] for c in (q.concentration1, q.concentration0))
        expected.append((1 - AT**a) ** b)
    np.testing.assert_allclose(posterior.probability_above(idata, "0.gate", AT), expected, rtol=1e-5)
    share = posterior.share_above(idata, "0.gate", AT)
    np.testing.assert_allclose(share, np.mean(expected, (0, 1)), rtol=1e-5)


@pytest.mark.parametrize(
    "prior", ["StickBreaking(5)", dist.Beta(0.5, 2.0)], ids=["sticks", "a distribution of one's own"]
)
def test_where_only_draws_are_known_their_share_is_smooth_and_near_theirs(prior):
    idata = bbpyro.to_arviz(make_network(prior=prior), num_samples=300, seed=0)
    at = 1 / (1 + np.exp(-np.linspace(-8, 4, 200)))
    for name in ("prior", "posterior"):
        draws = idata[name]["0.gate.pi"].values
        share = posterior.share_above(idata, "0.gate", at, name)
        np.testing.assert_allclose(share, [(draws > t).mean() for t in at], atol=0.03)
        assert (np.diff(share) <= 1e-12).all() and np.abs(np.diff(share, 2)).max() < 0.004


def test_a_point_mass_is_a_step():
    idata = bbpyro.to_arviz(make_network(prior="FixedRate(0.25)"), num_samples=5)
    for name in ("prior", "posterior"):
        assert posterior.share_above(idata, "0.gate", [0.1, 0.74, 0.76], name).tolist() == [1, 1, 0]


def test_what_is_sure_is_not_left_to_the_draws():
    bnn = make_network()
    with torch.no_grad():  # b = 1 and P(π > 1e-3) = 1 - 1e-3^a: 0.945 and 0.935, either side of 0.94
        bnn.gates["0.gate"].unconstrained_concentration0.fill_(float(np.log(np.e - 1)))
        for units, above in ((slice(0, 6), 0.945), (slice(6, 12), 0.935)):
            a = np.log(1 - above) / np.log(1e-3)
            bnn.gates["0.gate"].unconstrained_concentration1[units] = float(np.log(np.expm1(a)))
    row = posterior.decisions(bbpyro.to_arviz(bnn, num_samples=3)).loc["0.gate"]
    assert (row.surely_in, row.undecided, row.surely_out) == (6, 6, 0)


# --- one level ---------------------------------------------------------------------------------------------


def test_one_level_holds_for_the_table_the_figures_and_what_is_sure():
    idata = bbpyro.to_arviz(make_network(), num_samples=50, seed=0)
    table = posterior.extremes(idata)
    hdi = az.hdi(idata["posterior"], posterior.CI_PROB)["0.gate.pi"].values
    first = posterior.order(idata, "0.gate")[0]
    np.testing.assert_allclose(table.iloc[0, 2:4].astype(float), hdi[first], atol=6e-4)
    shown = f"{posterior.CI_PROB:.0%} of the posterior"
    assert shown in plots.forest(idata).get_suptitle() and shown in plots.intervals(idata).get_suptitle()
    pd.testing.assert_frame_equal(posterior.decisions(idata), posterior.decisions(idata, ci_prob=posterior.CI_PROB))


def test_another_level_is_one_argument_everywhere():
    idata = bbpyro.to_arviz(make_network(), num_samples=50, seed=0)
    assert posterior.extremes(idata, ci_prob=0.5).columns.tolist() != posterior.extremes(idata).columns.tolist()
    assert "thin: 80%" in plots.forest(idata, ci_prob=0.8).get_suptitle()
    assert "band: 80%" in plots.intervals(idata, ci_prob=0.8).get_suptitle()
    loose, strict = (posterior.decisions(idata, ci_prob=p).undecided.sum() for p in (0.6, 0.999))
    assert loose < strict


@pytest.mark.parametrize(
    "call", [posterior.decisions, posterior.in_words, posterior.extremes, plots.forest, plots.intervals]
)
def test_a_level_out_of_range_is_refused(call):
    idata = bbpyro.to_arviz(make_network(), num_samples=5)
    for ci_prob in (0.0, 1.0, 94):
        with pytest.raises(ValueError, match=f"ci_prob is {ci_prob}, wanted a number between"):
            call(idata, ci_prob=ci_prob)


# --- chains and names --------------------------------------------------------------------------------------


def test_every_row_of_several_chains_says_of_which_it_is():
    networks = [make_network(), make_network()]
    idata = bbpyro.to_arviz(networks, num_samples=50, seed=0)
    table = posterior.extremes(idata, num_units=1)
    for chain in range(2):
        first = posterior.order(idata, "0.gate", chain)[0]
        draws = idata["posterior"]["0.gate.pi"].values[chain, :, first]
        assert float(table.loc[f"0.gate.pi[{first}], chain {chain}", "mean"]) == pytest.approx(draws.mean(), abs=6e-4)
    assert len(table) == 8 and table.index.is_unique
    assert posterior.extremes(idata, 1, chain=1).index.tolist() == table.index[4:].tolist()
    with pytest.raises(ValueError, match="chain is 2, wanted 0 to 1"):
        posterior.extremes(idata, chain=2)


def test_what_the_threshold_matters_is_said_of_each_chain():
    x, y = torch.randn(40, 12), torch.randint(3, (40,))
    idata = bbpyro.to_arviz([make_network(), make_network()], x, y, 5, seed=0, progress=False)
    said = posterior.in_words(idata).splitlines()[-2:]
    for chain, sentence in enumerate(said):
        error = idata["threshold_sweep"]["error"].values[chain]
        bad = np.flatnonzero(error > error[0] + 0.001)
        at = idata["threshold_sweep"]["threshold"].values[bad[0] - 1 if len(bad) else -1]
        assert sentence == f"Any threshold up to {at:.2g} costs chain {chain} at most 0.1 points of error."


def test_inputs_are_called_by_their_names_where_they_have_some():
    idata = bbpyro.to_arviz(make_network(), num_samples=20, seed=0)
    names = ["age", "height [cm]", *(f"column {k}" for k in range(10))]
    groups = {name: posterior.group(idata, name) for name in idata}
    groups["guide"] = groups["guide"].assign_coords({"0.gate_name": ("0.gate_unit", names)})
    idata = container.make(groups, idata.attrs)
    table = posterior.extremes(idata, num_units=2)
    order, kept = posterior.order(idata, "0.gate"), int(posterior.decisions(idata).loc["0.gate", "kept"])
    shown = order if kept + 2 >= 12 else (*order[: max(kept, 2)], *order[-2:])  # each that is kept has a row
    assert table.index[: len(shown)].tolist() == [f"0.gate.pi[{names[k]}]" for k in shown]
    first_hidden = table.index[len(shown)]
    assert first_hidden.startswith("2.gate.pi[") and first_hidden[10:-1].isdigit()
