"""Names written beside the points of a figure, where they cover as little as can be."""

from collections.abc import Iterable
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.transforms import Bbox

from bbpyro.plots.style import GREY

# Where a name may be, in points of a figure from its own: right, left, above, below, and farther.
_OFFSETS = [(far * x, far * y) for far in (1, 2, 3) for x, y in ((5, 0), (-5, 0), (0, 5), (0, -5), (4, 4), (-4, 4))]


def name_points(figure: Figure, axis: Axes, points: Iterable[tuple[str, Any]]) -> None:
    """Write a name, in grey, beside each point.

    Args:
        figure: to the end of which all else is drawn.
        axis: of it.
        points: names, and places in the axis' data.
    """
    figure.draw_without_rendering()
    taken = [text.get_window_extent() for text in axis.texts]
    for line in axis.lines:
        if line.get_marker() != "None":
            half = (line.get_markersize() / 2 + 1) * figure.dpi / 72
            for x, y in axis.transData.transform(line.get_xydata()):
                taken.append(Bbox([[x - half, y - half], [x + half, y + half]]))
    for name, xy in points:
        label = axis.annotate(name, xy, (0, 0), textcoords="offset points", color=GREY, fontsize=7, zorder=5)
        label.set_parse_math(False)
        label.set_bbox({"boxstyle": "square,pad=0.1", "facecolor": "white", "edgecolor": "none", "alpha": 0.6})

        def covered(offset: tuple[float, float], label: Any = label) -> float:
            _put(label, offset)
            box = label.get_window_extent()
            outside = box.width * box.height - _overlap(box, axis.bbox)
            return outside + sum(_overlap(box, other) for other in taken) + np.hypot(*offset)  # and near

        _put(label, min(_OFFSETS, key=covered))
        taken.append(label.get_window_extent())


def _put(label: Any, offset: tuple[float, float]) -> None:
    x, y = offset
    label.xyann = offset
    label.set_ha("left" if x > 0 else "right" if x < 0 else "center")
    label.set_va("bottom" if y > 0 else "top" if y < 0 else "center")


def _overlap(one: Bbox, other: Bbox) -> float:
    """The area that two boxes share, in pixels."""
    both = Bbox.intersection(one, other)
    return float(both.width * both.height) if both else 0.0
