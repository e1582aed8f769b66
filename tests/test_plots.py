import numpy as np
import pytest
import torch
from torch import nn

import bbpyro
from bbpyro import plots


@pytest.fixture
def bnn():
    net = nn.Sequential(nn.Linear(12, 5), nn.ReLU(), nn.Linear(5, 3))
    bnn = bbpyro.BetaBernoulliNetwork(bbpyro.insert_dropout(net), num_data=10)
    with torch.no_grad():
        bnn.gates["0.gate"].unconstrained_concentration1[[1, 7]] = -12.0
    return bnn


def test_a_strip_a_layer_shows_the_means_of_kept_units_and_hides_the_dropped(bnn):
    figure = plots.keep_probability(bnn)
    strips = [axis for axis in figure.axes if axis.images]
    assert [axis.get_title(loc="left") for axis in strips] == [
        "input of 0: 10 of 12 units kept (83.3%)",
        "input of 2: 5 of 5 units kept (100.0%)",
    ]
    shown = strips[0].images[0].get_array()
    assert np.flatnonzero(shown.mask[0]).tolist() == [1, 7]
    mean = bnn.gates["0.gate"].keep_probability().detach().numpy()
    np.testing.assert_allclose(shown.compressed(), np.delete(mean, [1, 7]), rtol=1e-6)


def test_the_input_map_puts_the_units_where_the_pixels_are(bnn):
    figure = plots.input_map(bnn, (3, 4))
    shown = figure.axes[0].images[0].get_array()
    assert shown.shape == (3, 4)
    assert [tuple(at) for at in np.argwhere(shown.mask)] == [(0, 1), (1, 3)]


def test_the_input_map_wants_a_shape_that_fits(bnn):
    with pytest.raises(ValueError, match=r"shape \(5, 5\) has 25 pixels, the first gate 12 units"):
        plots.input_map(bnn, (5, 5))


def test_figures_are_written(bnn, tmp_path):
    plots.save(plots.keep_probability(bnn), tmp_path / "strips.png")
    assert (tmp_path / "strips.png").read_bytes().startswith(b"\x89PNG")
