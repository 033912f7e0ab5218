"""Figures are made from tables, look alike, and are the same bytes each time."""

import sys
import xml.etree.ElementTree as ElementTree

import matplotlib
import numpy as np
import pandas as pd
import pytest

from interp import figures
from interp.errors import ReportError

RNG = np.random.default_rng(0)
CURVES = pd.DataFrame({"step": [0, 1, 2] * 2, "loss": RNG.random(6), "lo": -1.0, "hi": 2.0, "split": ["a"] * 3 + ["b"] * 3})
GRID = pd.DataFrame([{"layer": i, "head": j, "score": i - j} for i in range(3) for j in range(4)])
DRAW = {
    "lines": lambda: figures.lines(CURVES, "step", "loss", by="split", low="lo", high="hi", title="T", ylabel="nats"),
    "bars": lambda: figures.bars(CURVES.head(3), "step", "loss", low="lo", high="hi"),
    "heatmap": lambda: figures.heatmap(GRID, "head", "layer", "score", centre=0.0),
    "histogram": lambda: figures.histogram(CURVES, "loss", by="split", bins=5),
    "scatter": lambda: figures.scatter(CURVES, "loss", "step", by="split"),
}


@pytest.mark.parametrize("name", DRAW)
def test_svg_is_the_same_bytes_each_time_its_text_is_text_and_global_state_is_left_alone(name):
    before = dict(matplotlib.rcParams)
    first, second = (figures.svg(DRAW[name]()) for _ in range(2))
    assert first == second
    root = ElementTree.fromstring(first)
    assert list(root.iter("{http://www.w3.org/2000/svg}text"))
    assert "<dc:date>" not in first
    assert dict(matplotlib.rcParams) == before
    assert "matplotlib.pyplot" not in sys.modules or not sys.modules["matplotlib.pyplot"].get_fignums()


def test_series_differ_in_more_than_colour():
    drawn = figures.lines(CURVES, "step", "loss", by="split").axes[0].get_lines()
    assert len({str(line.get_marker()) for line in drawn}) == len({line.get_linestyle() for line in drawn}) == 2


@pytest.mark.parametrize("names", [2, 8])
def test_a_legend_lies_on_no_line_and_stands_beside_the_axes_where_there_is_no_room(names):
    step = np.arange(40)
    waves = [pd.DataFrame({"step": step, "loss": np.sin(step / 3 + name) * name, "run": f"run {name}"}) for name in range(names)]
    figure = figures.lines(pd.concat(waves), "step", "loss", by="run")
    figure.draw_without_rendering()
    axes = figure.axes[0]
    legend, room = axes.get_legend(), axes.get_window_extent()
    assert legend is not None
    box = legend.get_window_extent()
    assert (box.x0 > room.x1) == (names == 8) and (box.x1 <= room.x1) == (names == 2)


def test_cells_say_zero_without_a_sign_and_numbers_below_it_with_a_true_minus():
    table = pd.DataFrame({"x": [0, 1, 2], "y": [0, 0, 0], "score": [-0.001, -0.5, 0.25]})
    axes = figures.heatmap(table, "x", "y", "score").axes[0]
    assert [text.get_text() for text in axes.texts] == ["0.00", "−0.50", "0.25"]


def test_a_heatmap_has_words_in_the_tables_order_and_numbers_by_size():
    table = pd.DataFrame({"place": ["last", "first", "last", "first"], "layer": [1, 1, 0, 0], "score": [1.0, 2.0, 3.0, 4.0]})
    axes = figures.heatmap(table, "place", "layer", "score").axes[0]
    assert [label.get_text() for label in axes.get_xticklabels()] == ["last", "first"]
    assert [label.get_text() for label in axes.get_yticklabels()] == ["0", "1"]
    drawn = axes.images[0].get_array()
    assert drawn is not None and drawn.tolist() == [[3.0, 4.0], [1.0, 2.0]]


def test_a_heatmap_puts_each_value_in_its_cell():
    drawn = DRAW["heatmap"]().axes[0].images[0].get_array()
    np.testing.assert_array_equal(drawn, [[0, -1, -2, -3], [1, 0, -1, -2], [2, 1, 0, -1]])


def test_many_points_are_an_image_and_few_are_not():
    def size(n):
        return figures.svg(figures.scatter(pd.DataFrame({"x": np.arange(n), "y": np.arange(n) % 7}), "x", "y")).count("<use ")

    assert size(2000) > 2000 and size(2001) < 100


@pytest.mark.parametrize("label", ["$x_{", "<b>&\n", "\x00\x1b", "日本"])
def test_any_token_can_be_a_label(label):
    drawn = figures.svg(figures.bars(pd.DataFrame({"label": [label, "b"], "value": [1, 2]}), "label", "value", title=label))
    assert ElementTree.fromstring(drawn).tag.endswith("svg")


@pytest.mark.parametrize(
    ("draw", "error"),
    [
        (
            lambda: figures.lines(CURVES, "step", "accuracy"),
            "the table has no column 'accuracy'; it has step, loss, lo, hi, split",
        ),
        (lambda: figures.bars(CURVES.head(0), "step", "loss"), "the table has no rows; nothing to draw"),
        (lambda: figures.heatmap(CURVES, "step", "lo", "loss"), "heatmap: some step × lo cells occur twice; take the mean"),
    ],
)
def test_tables_that_cannot_be_drawn_are_refused(draw, error):
    with pytest.raises(ReportError) as caught:
        draw()
    assert str(caught.value).startswith(error)


def test_a_logarithmic_axis_writes_plain_numbers():
    table = pd.DataFrame({"step": [1, 10, 100, 10_000], "loss": [5.0, 2.0, 1.0, 0.5]})
    drawn = figures.svg(figures.lines(table, "step", "loss", xscale="log"))
    assert "mathdefault" not in drawn
    assert ">10,000<" in drawn
