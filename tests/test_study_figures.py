"""Figures of a study: every point and every curve can be seen, and runs with faults are marked."""

import io
import warnings

import matplotlib.colors
import matplotlib.image
import matplotlib.text
import numpy as np
import pandas as pd
import pytest
import torch
from torch import nn

import bbpyro
from bbpyro import plots, posterior
from bbpyro.plots.marks import faults

PRIORS = ("Beta(0.0001, 1)", "IndianBuffet(5)", "Jeffreys()", "FixedRate(0.5)")


def study(error=0.02, macs_left=0.15, seeds=2, **columns):
    rows = [
        {"prior": p, "seed": s, "error": error, "macs_left": macs_left, "scored_on": "test", "kept fc1": 9, **columns}
        for p in PRIORS
        for s in range(seeds)
    ]
    return pd.DataFrame(rows)


def pixels(figure):
    png = io.BytesIO()
    figure.savefig(png, format="png")
    png.seek(0)
    return (255 * matplotlib.image.imread(png)[..., :3]).round().astype(int)


def is_seen(picture, color):
    wanted = 255 * np.array(matplotlib.colors.to_rgb(color))
    return (np.abs(picture - wanted).max(-1) < 12).sum() > 20


def texts(figure):
    return [text.get_text() for text in figure.findobj(matplotlib.text.Text) if text.get_text()]


@pytest.mark.parametrize("macs_left", [1.0, 0.15, 1e-5])
@pytest.mark.parametrize("error", [0.0, 0.02, 0.9])
def test_priors_in_one_place_are_all_seen_and_no_axis_runs_past_what_can_be(macs_left, error):
    figure = plots.error_macs(study(error, macs_left))
    axis = figure.axes[0]
    lines = {line.get_label(): line for line in axis.lines}
    axis.get_legend().remove()
    picture = pixels(figure)
    assert all(is_seen(picture, lines[prior].get_color()) for prior in PRIORS)
    low, high = axis.get_xlim()
    assert 0 < low < 100 * macs_left <= high == 100
    assert 0 <= axis.get_ylim()[0] <= 100 * error <= axis.get_ylim()[1] <= 100
    ticks = [tick for tick in axis.get_xticks() if low <= tick <= high]
    assert ticks and max(ticks) <= 100


def test_seeds_in_one_place_are_counted_and_others_are_not():
    figure = plots.error_macs(study())
    assert sum(text.startswith("×2") for text in texts(figure)) == len(PRIORS)
    apart = study()
    apart["error"] = np.linspace(0.01, 0.08, len(apart))
    assert not any(text.startswith("×") for text in texts(plots.error_macs(apart)))


def test_a_published_point_in_the_place_of_a_ring_is_seen():
    runs = study(error=0.0126, macs_left=1 / 5.1)
    figure = plots.error_macs(runs, {"BB": [(1.26, 5.1)]})
    published, ring = figure.axes[0].lines[:2]
    assert published.get_label() == "published, BB"
    figure.axes[0].get_legend().remove()
    assert is_seen(pixels(figure), published.get_color())
    assert published.get_zorder() > ring.get_zorder() and ring.get_fillstyle() == "none"


@pytest.mark.parametrize("network", plots.PUBLISHED)
def test_every_published_point_has_its_methods_name_beside_it_where_nothing_is(network):
    runs = study(error=0.0126, seeds=1, plain_error=0.02)
    runs["macs_left"] = [0.14, 0.2, 0.5, 1.0]
    figure = plots.error_macs(runs, plots.PUBLISHED[network])
    axis = figure.axes[0]
    figure.draw_without_rendering()
    names = [text for text in axis.texts if text.get_text() in plots.PUBLISHED[network]]
    wanted = {m: [[100 / fewer, error] for error, fewer in points] for m, points in plots.PUBLISHED[network].items()}
    assert {name: sorted(map(list, (t.xy for t in names if t.get_text() == name))) for name in wanted} == {
        name: sorted(points) for name, points in wanted.items()
    }
    boxes = [text.get_window_extent().shrunk(0.9, 0.7) for text in names]
    for i, box in enumerate(boxes):
        assert axis.bbox.contains(*box.min) and axis.bbox.contains(*box.max)
        assert box.count_overlaps(boxes[i + 1 :]) == 0
        points = [axis.transData.transform(line.get_xydata()) for line in axis.lines if line.get_marker() != "None"]
        assert not box.count_contains(np.concatenate(points))
    shown = [text.get_text() for text in axis.get_legend().get_texts()]
    assert shown.count("published") == 1 and not any(text.startswith("published,") for text in shown)


def test_runs_of_an_earlier_version_are_read_again_before_they_are_drawn():
    with pytest.raises(ValueError, match="runs has no column macs_left: .* bbpyro compare --resume FOLDER"):
        plots.error_macs(study().rename(columns={"macs_left": "flops_left"}))
    assert plots.error_flops is plots.error_macs  # its name in earlier versions


def test_no_unit_left_costs_nothing_and_is_on_the_axis_all_the_same():
    runs = study()
    runs.loc[0, ["macs_left", "kept fc1"]] = 0
    figure = plots.error_macs(runs)
    low, high = figure.axes[0].get_xlim()
    assert all(low <= x <= high for line in figure.axes[0].lines for x in line.get_xdata())
    assert "‡" in texts(figure)
    assert "‡: a layer has no unit left" in figure.axes[0].get_title("left")


def test_the_plain_networks_error_and_the_most_frequent_classs_are_lines():
    runs = study(error=0.8865, plain_error=0.02, majority_error=0.8865)
    figure = plots.error_macs(runs)
    lines = {line.get_label(): line.get_ydata()[0] for line in figure.axes[0].lines if line.get_label() not in PRIORS}
    assert lines == pytest.approx({"plain network, 2.00%": 2.0, "most frequent class, 88.65%": 88.65})
    assert "†: no better than always answering the most frequent class" in figure.axes[0].get_title("left")
    assert texts(figure).count("×2 †") == len(PRIORS)
    well = plots.error_macs(study(plain_error=0.02, majority_error=0.8865))
    assert "†" not in " ".join(texts(well)) and "most frequent class, 88.65%, above the axis" in " ".join(
        " ".join(texts(well)).split()
    )
    assert well.axes[0].get_ylim()[1] < 5


def test_faults_are_of_what_a_run_says_itself():
    assert faults({"error": 0.9, "majority_error": 0.9, "kept a": 3}) == ["at_majority"]
    assert faults({"error": 0.5, "majority_error": 0.9, "kept a": 3, "kept b": 0}) == ["emptied"]
    assert faults({"error": 0.9, "kept a": 3}) == [] == faults({"error": 0.5, "majority_error": float("nan")})


def test_priors_that_keep_alike_have_a_row_each():
    histories = {p: [[{"epoch": e, "active": {"fc1.gate": 64}} for e in (1, 2)]] * 2 for p in PRIORS}
    figure = plots.kept_epochs(histories, {"fc1.gate": 64})
    picture = pixels(figure)
    assert [axis.get_title("left") for axis in figure.axes] == list(PRIORS)
    own = [
        next(line for line in axis.lines if line.get_label() == p) for axis, p in zip(figure.axes, PRIORS, strict=True)
    ]
    assert all(line.get_zorder() >= 2 and is_seen(picture, line.get_color()) for line in own)
    assert len({line.get_color() for line in own}) == len(PRIORS)


def test_one_epoch_of_a_study_is_a_dot_and_a_convolution_is_kept_on_its_output():
    histories = {p: [[{"epoch": 1, "active": {"conv1.gate": 5, "fc1.gate": 9}}]] for p in PRIORS}
    figure = plots.kept_epochs(histories, {"conv1.gate": 20, "fc1.gate": 64}, {"conv1.gate": "output"})
    assert all(line.get_marker() == "o" for axis in figure.axes for line in axis.lines)
    assert {"output of conv1, 20 units", "input of fc1, 64 units"} <= set(texts(figure))


def test_the_default_prior_is_seen_at_0_and_no_curve_lies_on_anothers():
    studied = {}
    for prior in PRIORS:
        net = bbpyro.insert_dropout(nn.Sequential(nn.Linear(30, 8), nn.ReLU(), nn.Linear(8, 2)))
        bnn = bbpyro.BetaBernoulliNetwork(net, num_data=10, prior=prior.removesuffix("()"))
        studied[prior] = bbpyro.to_arviz(bnn, num_samples=50, seed=0)
    figure = plots.priors_posteriors(studied)
    pixels(figure)
    rows = [figure.axes[i : i + 2] for i in range(0, 8, 2)]
    for prior, row in zip(PRIORS, rows, strict=True):
        assert row[0].get_title("left") == prior
        for axis in row:
            assert [line.get_label() for line in axis.lines] == [f"posterior, {prior}", f"prior, {prior}"]
            below, above = axis.lines
            assert above.get_linestyle() == "--" and above.get_linewidth() < below.get_linewidth()
    default = rows[0][0].lines[1]
    np.testing.assert_allclose(default.get_ydata(), 1 - default.get_xdata() ** 1e-4, atol=1e-5)
    frame = rows[0][0].get_window_extent().y0
    assert rows[0][0].transData.transform((0.5, 0))[1] > frame + 3  # more than three pixels above the axis


NAMES = ("up$^$x", "_hidden", "a|b", r"$\frac{$_", "published, BB", "plain network, 2.00%")


def named_as_they_are(figure, names=NAMES):
    """Whether each name is drawn, and none of them as a formula."""
    pixels(figure)
    drawn = [text for text in figure.findobj(matplotlib.text.Text) if text.get_text() in names]
    return {text.get_text() for text in drawn} == set(names) and not any(text.get_parse_math() for text in drawn)


def test_names_are_drawn_as_they_are():
    runs = pd.concat([study(seeds=1, plain_error=0.02)[:1].assign(point=name) for name in NAMES])
    runs["error"] = np.linspace(0.01, 0.02, len(runs))
    one = plots.error_macs(runs, {"a$^$b": [(1.5, 2.0)]}, keys=["point"])
    assert named_as_they_are(one, [*NAMES, "a$^$b", "published"])
    legend = [text.get_text() for text in one.axes[0].get_legend().get_texts()]
    assert sorted(legend) == sorted([*NAMES, "published", "plain network, 2.00%"])
    assert [line.get_gid() for line in one.axes[0].lines if line.get_label() == "published, BB"] == [None]
    of_priors = [runs.assign(prior=name) for name in ("_mine:prior", "Uniform()")]
    two = plots.error_macs(pd.concat(of_priors), keys=["prior", "point"])
    assert named_as_they_are(two, [*NAMES, "_mine:prior", "Uniform()"])
    assert named_as_they_are(plots.error_macs(runs.assign(prior=list(NAMES))))
    histories = {name: [[{"epoch": e, "active": {"fc1.gate": 64}} for e in (1, 2)]] for name in NAMES}
    assert named_as_they_are(plots.kept_epochs(histories, {"fc1.gate": 64}))


def test_names_of_posteriors_are_drawn_as_they_are():
    net = bbpyro.insert_dropout(nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2)))
    bnn = bbpyro.BetaBernoulliNetwork(net, likelihood=bbpyro.likelihoods.Categorical(), num_data=12)
    x, y = torch.randn(12, 3), torch.arange(12) % 2
    idata = bbpyro.to_arviz(bnn, x, y, num_samples=40, num_masks=8, seed=0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of Pareto k, of which this is no test
        loo = posterior.loo(idata)
    assert named_as_they_are(plots.loo_compare(dict.fromkeys(NAMES, loo)))
    assert named_as_they_are(plots.priors_posteriors(dict.fromkeys(NAMES, idata)))


def test_a_study_of_a_deep_network_is_no_wider_than_a_page_can_show():
    gates = {f"features.{i}.gate": 64 for i in range(15)}
    histories = {p: [[{"epoch": e, "active": gates} for e in (1, 2)]] for p in PRIORS}
    assert plots.kept_epochs(histories, gates).get_size_inches().max() < 25


def test_families_are_no_points_of_one_curve() -> None:
    rows = [
        {"prior": prior, "family": family, "error": error, "macs_left": left, "scored_on": "test"}
        for prior, family, error, left in [
            ("Beta(0.0001, 1)", "BetaBernoulli", 0.03, 0.2),
            ("no prior", "L0(10)", 0.04, 0.03),
            ("no prior", "VIB()", 0.05, 0.7),
        ]
    ]
    (axis,) = plots.error_macs(pd.DataFrame(rows), keys=("prior", "family")).axes
    rings = [line for line in axis.lines if line.get_marker() == "o"]
    assert len(rings) == 3 and len({str(ring.get_color()) for ring in rings}) == 3
    assert all(line.get_linestyle() in ("None", "") for line in rings)
    assert len(axis.lines) == 3  # and nothing joins them
