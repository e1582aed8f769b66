import re

import matplotlib.text
import numpy as np
import pytest
import scipy.stats
import torch
from matplotlib.figure import Figure
from torch import nn

import bbpyro
from bbpyro import mcmc, plots, posterior
from bbpyro.posterior import container
from bbpyro.prediction import score

NUM_DATA = 60
OF_STUDIES = (
    "PUBLISHED",
    "error_flops",
    "error_macs",
    "kept_epochs",
    "loo_compare",
    "priors_posteriors",
)  # see test_studies.py
ALL = [name for name in plots.__all__ if name not in ("COLORS", "save", "guide_check", *OF_STUDIES)]


def make_network() -> bbpyro.BetaBernoulliNetwork:
    """A gate of 12 pixels, of which 1 and 7 are dropped, and a gate of 5 units."""
    net = nn.Sequential(nn.Flatten(), nn.Linear(12, 5), nn.ReLU(), nn.Linear(5, 3))
    bnn = bbpyro.BetaBernoulliNetwork(bbpyro.insert_dropout(net), num_data=NUM_DATA)
    with torch.no_grad():
        for gate in bnn.gates.values():
            gate.unconstrained_concentration1.uniform_(-1, 3)
        bnn.gates["1.gate"].unconstrained_concentration1[[1, 7]] = -12.0
    return bnn


@pytest.fixture(scope="module")
def bnn():
    torch.manual_seed(0)
    return make_network()


@pytest.fixture(scope="module")
def history():
    return [
        {
            "phase": "SVI",
            "epoch": epoch,
            "loss": 3.0 / epoch,
            "train_nll": 1.0 / epoch,
            "held_out_nll": 2.0 / epoch,
            "weights_nll": 6.0,
            "kl": {"1.gate": 12.0 * epoch, "3.gate": 6.0},
            "active": {"1.gate": 12 - epoch // 2, "3.gate": 5},
        }
        for epoch in range(1, 5)
    ]


@pytest.fixture(scope="module")
def idata(bnn, history):
    x, y = torch.randn(NUM_DATA, 3, 4), torch.randint(3, (NUM_DATA,))
    return bbpyro.to_arviz(bnn, x, y, 200, history=history, seed=0, progress=False)


@pytest.mark.parametrize("name", ALL)
def test_every_figure_of_one_chain_and_of_two_is_drawn_and_written(idata, history, name, tmp_path):
    x, y = torch.randn(NUM_DATA, 3, 4), torch.randint(3, (NUM_DATA,))
    two = bbpyro.to_arviz([make_network(), make_network()], x, y, 20, history=[history, history], progress=False)
    for source in (idata, two):
        figure = getattr(plots, name)(source)
        assert isinstance(figure, Figure)
        plots.save(figure, tmp_path / "figure.png")
        assert (tmp_path / "figure.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize("name", ALL)
def test_every_axis_says_what_it_shows(idata, name):
    figure = getattr(plots, name)(idata)
    figure.canvas.draw()
    shown = [axis for axis in figure.axes if axis.get_visible() and len(axis.get_yticks()) and not axis.images]
    assert all(
        axis.get_xlabel() or axis.get_ylabel() or axis.get_title("left") or name == "predictions" for axis in shown
    )


def test_a_strip_a_layer_shows_the_means_of_kept_units_and_hides_the_dropped(idata, bnn):
    figure = plots.keep_probability(idata)
    strips = [axis for axis in figure.axes if axis.images]
    assert [axis.get_title(loc="left") for axis in strips] == [
        "input of 1: 10 of 12 units kept (83.3%)",
        "input of 3: 5 of 5 units kept (100.0%)",
    ]
    shown = strips[0].images[0].get_array()
    assert np.flatnonzero(shown.mask[0]).tolist() == [1, 7]
    mean = bnn.gates["1.gate"].keep_probability().detach().numpy()
    np.testing.assert_allclose(shown.compressed(), np.delete(mean, [1, 7]), rtol=1e-6)


def test_the_units_of_a_strip_are_counted_in_whole_numbers():
    net = bbpyro.insert_dropout(nn.Sequential(nn.Linear(20, 1), nn.ReLU(), nn.Linear(1, 3)))
    idata = bbpyro.to_arviz(bbpyro.BetaBernoulliNetwork(net, num_data=NUM_DATA), num_samples=20, progress=False)
    ticks = [tick for strip in plots.keep_probability(idata).axes if strip.images for tick in strip.get_xticks()]
    assert ticks and all(tick == int(tick) for tick in ticks)  # there is no unit 2.5


def test_the_input_map_puts_the_units_and_their_spread_where_the_pixels_are(idata):
    mean, spread = (axis.images[0].get_array() for axis in plots.input_map(idata).axes if axis.images)
    assert mean.shape == spread.shape == (3, 4)
    assert [tuple(at) for at in np.argwhere(mean.mask)] == [(0, 1), (1, 3)]
    draws = idata["posterior"]["1.gate.pi"].values[0]
    assert spread[2, 1] == pytest.approx(draws[:, 9].std())


def test_what_is_dropped_is_grey_and_nothing_else_is(idata):
    for figure in (plots.input_map(idata), plots.keep_probability(idata)):
        for image in (image for axis in figure.axes for image in axis.images):
            shades = image.cmap(np.linspace(0, 1, 256))[:, :3]
            assert np.ptp(shades, axis=1).min() > 0.25  # none is near a grey
            assert np.ptp(image.cmap(np.nan)[:3]) < 0.05


def test_the_input_map_wants_to_know_the_shape(bnn):
    idata = bbpyro.to_arviz(bnn, num_samples=5)
    assert plots.input_map(idata, (4, 3)).axes[0].images[0].get_array().shape == (4, 3)
    with pytest.raises(ValueError, match=r"shape \(5, 5\) has 25 pixels, the first gate 12 units"):
        plots.input_map(idata, (5, 5))
    with pytest.raises(ValueError, match=r"not known; give shape=\(rows, columns\)"):
        plots.input_map(idata)


def test_intervals_run_from_the_largest_mean_to_the_smallest(idata, bnn):
    axis = plots.intervals(idata).axes[0]
    mean = bnn.gates["1.gate"].keep_probability().detach().numpy()
    np.testing.assert_allclose(axis.lines[0].get_ydata(), np.sort(mean)[::-1])
    assert axis.lines[1].get_xdata()[0] == 10.5
    assert axis.get_title("left") == "input of 1: 10 of 12 kept"


def named(units):
    return [f"{unit} ({unit // 4}, {unit % 4})" for unit in units]


def labels_of(figure):
    return [[label.get_text() for label in axis.get_yticklabels()] for axis in figure.axes]


def test_a_forest_shows_the_first_the_last_kept_and_the_last(idata):
    order = posterior.order(idata, "1.gate").tolist()
    figure = plots.forest(idata, num_units=3)
    assert labels_of(figure) == [named(order[:3]), named(order[7:10]), named(order[-2:])]
    assert {order[-2], order[-1]} == {1, 7}  # the two that are dropped
    low, high = figure.axes[0].collections[0].get_segments()[0][:, 0]
    draws = idata["posterior"]["1.gate.pi"].values[0, :, order[0]]
    np.testing.assert_allclose((low, high), np.quantile(draws, (0.03, 0.97)))
    assert "thin: 94%" in figure.get_suptitle()


def test_no_unit_stands_in_two_panels_of_a_forest_and_none_that_is_dropped_among_the_largest(idata):
    order = posterior.order(idata, "1.gate").tolist()
    assert labels_of(plots.forest(idata, num_units=7)) == [named(order[:7]), named(order[7:10]), named(order[-2:])]
    assert labels_of(plots.forest(idata, num_units=11)) == [named(order[:10]), named(order[-2:])]


def test_a_forest_of_few_units_is_one_panel_and_of_an_unknown_gate_an_error(idata):
    assert len(plots.forest(idata, "3.gate").axes) == 1
    with pytest.raises(ValueError, match=r"gate is 'fc9', wanted one of 1\.gate, 3\.gate"):
        plots.forest(idata, "fc9")


def test_prior_and_posterior_are_the_exact_shares_above(idata, bnn):
    axis = plots.prior_posterior(idata).axes[0]
    lines = {line.get_label(): line for line in axis.lines}
    at = lines["posterior"].get_xdata()
    q = bnn.gates["1.gate"].posterior()
    a, b = (c.detach().double().numpy()[:, None] for c in (q.concentration1, q.concentration0))
    exact = {"prior": scipy.stats.beta(1e-4, 1).sf(at), "posterior": ((1 - at**a) ** b).mean(0)}
    for name, share in exact.items():
        np.testing.assert_allclose(lines[name].get_ydata(), share, atol=1e-5)
    assert f"prior {scipy.stats.beta(1e-4, 1).sf(1e-3):.2%}, posterior" in axis.get_title("left")


def test_a_prior_that_is_its_own_posterior_is_seen_beside_it():
    """Of equal curves the thinner one is dashed and on top; and a share of 0 or 1 is not hidden by the frame."""
    net = bbpyro.insert_dropout(nn.Linear(6, 2))
    bnn = bbpyro.BetaBernoulliNetwork(net, num_data=10, prior="FixedRate(0.5)")
    posterior_line, prior_line = plots.prior_posterior(bbpyro.to_arviz(bnn, num_samples=5)).axes[0].lines[:2]
    assert (prior_line.get_label(), posterior_line.get_label()) == ("prior", "posterior")
    np.testing.assert_allclose(prior_line.get_ydata(), posterior_line.get_ydata())
    assert prior_line.get_linewidth() < posterior_line.get_linewidth() and prior_line.get_linestyle() == "--"
    low, high = prior_line.axes.get_ylim()
    assert low < -0.02 and high > 1.01


@pytest.mark.parametrize("name", ["keep_probability", "input_map", "intervals", "forest"])
def test_a_chain_is_shown_at_a_time_and_named(name, history):
    x = torch.randn(NUM_DATA, 3, 4)
    networks = [make_network(), make_network()]
    with torch.no_grad():
        networks[1].gates["1.gate"].unconstrained_concentration1[[2, 3]] = -12.0
    idata = bbpyro.to_arviz(networks, x, num_samples=20, num_predictive_samples=1, progress=False)
    figure = getattr(plots, name)(idata, chain=1)
    texts = [text.get_text() for text in figure.findobj(matplotlib.text.Text)]
    assert any("chain 1 of 2" in text for text in texts)
    if name != "forest":
        assert any("8 of 12" in text for text in texts)
    with pytest.raises(ValueError, match="chain is 2, wanted 0 to 1"):
        getattr(plots, name)(idata, chain=2)


def test_the_sweep_is_in_percent(idata):
    above, below = plots.threshold_sweep(idata).axes
    sweep = idata["threshold_sweep"].isel(chain=0)
    np.testing.assert_allclose(above.lines[0].get_ydata(), 100 * sweep["1.gate.kept"] / 12)
    np.testing.assert_allclose(below.lines[0].get_ydata(), 100 * sweep["error"])


def test_each_chain_has_a_sweep_of_its_own_and_a_mean_of_chains_is_called_one(history):
    x, y = torch.randn(NUM_DATA, 3, 4), torch.randint(3, (NUM_DATA,))
    networks = [make_network(), make_network()]
    with torch.no_grad():
        networks[1].gates["1.gate"].unconstrained_concentration1[[2, 3]] = -12.0
    two = bbpyro.to_arviz(networks, x, y, 5, history=[history, history], seed=0, progress=False)
    figure = plots.threshold_sweep(two)
    for axis, swept, units in zip(figure.axes, ("1.gate.kept", "error"), (12, 1), strict=True):
        for line, chain in zip(axis.lines, two["threshold_sweep"][swept].values, strict=False):
            np.testing.assert_allclose(line.get_ydata(), 100 * chain / units)
    assert figure.get_suptitle() == "2 chains, a line each"
    for name in ("predictions", "reliability"):
        assert getattr(plots, name)(two).get_suptitle() == "2 chains, the mean of their probabilities"
    assert "2 chains, their units all together" in plots.prior_posterior(two).get_suptitle()


def test_a_sweep_marks_the_threshold_of_each_layer_where_they_differ():
    net = nn.Sequential(nn.Flatten(), nn.Linear(12, 100), nn.ReLU(), nn.Linear(100, 3))
    bnn = bbpyro.BetaBernoulliNetwork(bbpyro.insert_dropout(net), num_data=NUM_DATA, prior="IndianBuffet(0.1)")
    x, y = torch.randn(NUM_DATA, 3, 4), torch.randint(3, (NUM_DATA,))
    axis = plots.threshold_sweep(bbpyro.to_arviz(bnn, x, y, 5, progress=False)).axes[1]
    marked = {line.get_label().split()[0]: line.get_xdata()[0] for line in axis.lines[1:]}
    assert marked == pytest.approx({"1": bnn.gates["1.gate"].threshold, "3": bnn.gates["3.gate"].threshold})
    assert marked["1"] > 2 * marked["3"]


class Convolutional(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4)
        self.conv2, self.fc = nn.Conv2d(4, 5, 1), nn.Linear(10, 3)

    def forward(self, x):
        return self.fc(self.conv2(self.bn1(self.conv1(x[:, None]))).relu().flatten(1))


@pytest.mark.parametrize("name", ["keep_probability", "intervals", "prior_posterior", "kept_units", "threshold_sweep"])
def test_a_convolutions_gate_is_on_its_output_and_a_dense_layers_on_its_input(name):
    bnn = bbpyro.BetaBernoulliNetwork(bbpyro.insert_dropout(Convolutional()), num_data=NUM_DATA)
    x, y = torch.randn(NUM_DATA, 3, 4), torch.randint(3, (NUM_DATA,))
    history = bbpyro.fit(bnn, x, y, num_epochs=1, progress=False)
    idata = bbpyro.to_arviz(bnn, x, y, 5, history=history, progress=False)
    texts = " ".join(text.get_text() for text in getattr(plots, name)(idata).findobj(matplotlib.text.Text))
    assert all(place in texts for place in ("output of bn1", "output of conv2", "input of fc"))
    assert not any(place in texts for place in ("input of bn1", "input of conv2", "output of fc"))
    assert "output of conv2" in plots.forest(idata, "conv2.gate").get_suptitle()


def test_a_forest_calls_inputs_by_their_names(bnn):
    idata = bbpyro.to_arviz(bnn, num_samples=20, seed=0)
    names = [rf"column $\frac{chr(97 + k)}$" for k in range(12)]
    idata = with_names(idata, "1.gate", names)
    order = posterior.order(idata, "1.gate")
    figure = plots.forest(idata)
    assert labels_of(figure)[0] == [names[unit] for unit in order]
    assert figure.axes[0].get_ylabel() == "input"
    figure.draw_without_rendering()  # of a formula it would say that it is none


def with_names(idata, gate, names):
    groups = {name: posterior.group(idata, name) for name in idata}
    groups["guide"] = groups["guide"].assign_coords({f"{gate}_name": (f"{gate}_unit", names)})
    return container.make(groups, idata.attrs)


def test_reliability_shows_the_bins_and_the_calibration_error_of_the_score(idata):
    above = plots.reliability(idata, num_bins=4).axes[0]
    labels = [text.get_text() for text in above.get_legend().get_texts()]
    y = torch.from_numpy(idata["observed_data"]["y"].values)
    for name, label in (("monte_carlo", "Monte Carlo"), ("mean_mask", "mean mask")):
        probs = torch.from_numpy(idata["class_probability"][name].values[0])
        assert f"{label}, ECE {score(probs, y, 4).ece:.4f}" in labels


def test_predictions_show_the_most_confident_mistakes_first(idata):
    figure = plots.predictions(idata, num_each=2)
    probs, y = idata["class_probability"]["monte_carlo"].values[0], idata["observed_data"]["y"].values
    wrong = np.flatnonzero(probs.argmax(-1) != y)
    worst = wrong[probs[wrong].max(-1).argmax()]
    image, bars = figure.subfigs[0].axes[0], figure.subfigs[0].axes[2]
    assert image.get_title() == f"image {worst}: true {y[worst]}"
    np.testing.assert_array_equal(image.images[0].get_array(), idata["constant_data"]["x"].values[worst])
    np.testing.assert_allclose([bar.get_height() for bar in bars.patches], probs[worst], rtol=1e-6)


def test_predictions_say_which_data_an_image_is_of(bnn):
    x, y = torch.randn(8, 3, 4), torch.randint(3, (8,))
    idata = bbpyro.to_arviz(bnn, x, y, 5, attrs={"predicted": "validation data"}, progress=False)
    titles = [part.axes[0].get_title() for part in plots.predictions(idata, num_each=1).subfigs]
    assert titles and all(re.fullmatch(r"validation image \d: true \d", text) for text in titles)


def test_predictions_want_images():
    bnn = bbpyro.BetaBernoulliNetwork(bbpyro.insert_dropout(nn.Linear(4, 2)), num_data=10)
    idata = bbpyro.to_arviz(bnn, torch.randn(10, 4), torch.zeros(10).long(), 5, progress=False)
    with pytest.raises(ValueError, match=r"x has shape \(10, 4\), wanted images"):
        plots.predictions(idata)


def test_counts_below_one_are_refused_and_one_will_do(idata):
    assert plots.predictions(idata, num_each=1).axes
    for name, option in (("predictions", "num_each"), ("reliability", "num_bins"), ("forest", "num_units")):
        with pytest.raises(ValueError, match=f"{option} is 0, wanted at least 1"):
            getattr(plots, name)(idata, **{option: 0})


def test_twelve_layers_with_dollars_in_their_names_have_twelve_colours_and_fit(tmp_path):
    net = nn.Sequential(nn.Flatten(), *(nn.Linear(12, 12) for _ in range(12)))
    named = nn.Sequential()
    for i, module in enumerate(net):
        named.add_module(f"a$^$b{i}", module)
    bnn = bbpyro.BetaBernoulliNetwork(bbpyro.insert_dropout(named), num_data=NUM_DATA)
    x, y = torch.randn(NUM_DATA, 3, 4), torch.randint(12, (NUM_DATA,))
    history = bbpyro.fit(bnn, x, y, num_epochs=1, progress=False)
    idata = bbpyro.to_arviz(bnn, x, y, 10, history=history, progress=False)
    assert len({tuple(np.atleast_1d(line.get_color())) for line in plots.kept_units(idata).axes[0].lines}) == 12
    for name in ALL:
        figure = getattr(plots, name)(idata)
        plots.save(figure, tmp_path / f"{name}.png")
        assert figure.get_size_inches().max() < 15


def test_chains_of_different_length_are_counted_at_their_own_ends(history):
    networks = [make_network(), make_network()]
    idata = bbpyro.to_arviz(networks, num_samples=2, history=[history, history[:2]])
    assert plots.kept_units(idata).axes[0].lines[0].get_label() == "input of 1: 10-11 of 12"


def lines_of(figure):
    return {line.get_label(): line for axis in figure.axes for line in axis.lines}


def test_the_parts_of_the_elbo_are_per_datum(idata):
    lines = {label: line.get_ydata() for label, line in lines_of(plots.elbo(idata)).items()}
    np.testing.assert_allclose(lines["-ELBO"], [3, 1.5, 1, 0.75])
    np.testing.assert_allclose(lines["E[-log p(y)]"], [1, 1 / 2, 1 / 3, 1 / 4])
    np.testing.assert_allclose(lines["held out, mean mask"], [2, 1, 2 / 3, 1 / 2])
    np.testing.assert_allclose(lines["KL[q(π)||p(π)]"], (12 * np.arange(1, 5) + 6) / NUM_DATA)
    np.testing.assert_allclose(lines["-log p(W)"], 6 / NUM_DATA)


def test_no_part_of_the_elbo_hides_another(bnn, history):
    """A -log p(W) that is a thousand times the rest, as of many weights and few data, leaves the rest readable."""
    records = [{**record, "loss": record["loss"] + 5e3, "weights_nll": 5e3 * NUM_DATA} for record in history]
    figure = plots.elbo(bbpyro.to_arviz(bnn, num_samples=5, history=records))
    figure.draw_without_rendering()
    for axis in figure.axes:
        for line in axis.lines:
            height = np.ptp(axis.transAxes.inverted().transform(axis.transData.transform(line.get_xydata()))[:, 1])
            assert height > 0.3 or line.get_label() == "-log p(W)"  # which does not change


def test_one_epoch_is_a_dot_not_a_line_of_no_length(bnn, history):
    one = bbpyro.to_arviz(bnn, num_samples=5, history=history[:1])
    ended_early = bbpyro.to_arviz([make_network(), make_network()], num_samples=5, history=[history, history[:1]])
    for idata, dots in ((one, {0: True}), (ended_early, {0: False, 1: True})):
        for name in ("elbo", "kept_units"):
            for axis in getattr(plots, name)(idata).axes:
                markers = [line.get_marker() for line in axis.lines]
                assert markers == [("o" if dots[i % len(dots)] else "None") for i in range(len(markers))]


def test_kept_units_are_in_percent_and_counted_at_the_end(idata):
    first, second = plots.kept_units(idata).axes[0].lines
    np.testing.assert_allclose(first.get_ydata(), 100 * np.array([12, 11, 11, 10]) / 12)
    assert (first.get_label(), second.get_label()) == ("input of 1: 10 of 12", "input of 3: 5 of 5")


def test_a_figure_of_what_was_not_asked_for_says_how_to_ask(bnn):
    idata = bbpyro.to_arviz(bnn, num_samples=5)
    with pytest.raises(ValueError, match="no group 'training'; give bbpyro.to_arviz history="):
        plots.elbo(idata)
    with pytest.raises(ValueError, match="no group 'class_probability'; give bbpyro.to_arviz x"):
        plots.reliability(idata)


def test_the_guide_check_names_both_spreads_and_the_most_dependent_pair():
    net = nn.Sequential(nn.Linear(3, 2))
    bnn = bbpyro.BetaBernoulliNetwork(bbpyro.insert_dropout(net), num_data=8, prior=bbpyro.priors.Beta(0.5, 0.5))
    x, y = torch.randn(8, 3), torch.randint(2, (8,))
    exact = mcmc.nuts(bnn, x, y, num_samples=30, warmup_steps=20, num_chains=1, progress=False)
    idata = bbpyro.to_arviz(bnn, num_samples=100, seed=0)
    figure = plots.guide_check(idata, exact)
    assert [axis.get_title("left") for axis in figure.axes[:3]] == ["unit 0", "unit 1", "unit 2"]
    draws = exact["posterior"]["0.gate.pi"].values.reshape(-1, 3)
    labels = [text.get_text() for text in figure.axes[1].get_legend().get_texts()]
    assert f"NUTS, sd {draws[:, 1].std():.2f}" in labels
    correlation = np.corrcoef(draws.T)
    pair = max(((0, 1), (0, 2), (1, 2)), key=lambda pair: abs(correlation[pair]))
    assert figure.axes[3].get_title("left") == f"unit {pair[1]} against unit {pair[0]}"
    names = [rf"$\frac{k}$" for k in range(3)]
    named = plots.guide_check(with_names(idata, "0.gate", names), exact)
    assert named.axes[3].get_xlabel() == f"π of unit {names[pair[0]]}"
    named.draw_without_rendering()
    with pytest.raises(ValueError, match="gate is 'fc9'"):
        plots.guide_check(idata, exact, "fc9")
    wide = bbpyro.BetaBernoulliNetwork(bbpyro.insert_dropout(nn.Sequential(nn.Linear(4, 2))), num_data=8)
    with pytest.raises(ValueError, match=r"gate '0\.gate' has 4 units in idata and 3 in exact"):
        plots.guide_check(bbpyro.to_arviz(wide, num_samples=5), exact)


def test_layers_of_which_all_is_kept_are_seen_within_each_other(bnn, history):
    records = [{**record, "active": {"1.gate": 12, "3.gate": 5}} for record in history]
    for num_epochs in (1, 4):
        axis = plots.kept_units(bbpyro.to_arviz(bnn, num_samples=5, history=records[:num_epochs])).axes[0]
        first, second = axis.lines
        assert first.get_linewidth() > 1.5 * second.get_linewidth() and first.get_markersize() > second.get_markersize()
        assert all(tick == round(tick) for tick in axis.get_xticks())
