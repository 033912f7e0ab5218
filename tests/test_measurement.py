"""A measurement keeps its axes straight through selection, reduction, ranking and tables."""

import numpy as np
import pytest

from interp.measurement import Measurement


@pytest.fixture
def scores() -> Measurement:
    values = np.arange(2 * 3 * 4, dtype=float).reshape(2, 3, 4)
    return Measurement("score", values, ("layer", "head", "example"), coords={"head": ["a", "b", "c"]}, unit="nats")


def test_the_table_has_one_row_per_value_and_says_where_it_stood(scores):
    table = scores.table()
    assert list(table.columns) == ["layer", "head", "example", "score"]
    row = table[(table.layer == 1) & (table["head"] == "b") & (table.example == 2)]
    assert row.score.item() == scores.values[1, 1, 2]
    assert len(table) == scores.values.size


def test_selection_agrees_with_indexing_and_keeps_the_other_axes(scores):
    part = scores.sel(head="c", layer=0)
    assert part.dims == ("example",)
    assert np.array_equal(part.values, scores.values[0, 2])


def test_top_names_the_largest_places_first(scores):
    assert scores.mean("example").top(2) == [(1, "c"), (1, "b")]


def test_an_interval_needs_exactly_one_axis_of_examples(scores):
    estimate = scores.sel(layer=0, head="a").estimate()
    assert estimate.value == 1.5
    assert estimate.low <= 1.5 <= estimate.high
    with pytest.raises(ValueError, match="use sel or mean first"):
        scores.estimate()


def test_wrong_axes_and_labels_are_refused_by_name(scores):
    with pytest.raises(ValueError, match=r"score has no axis 'heads'; it has \('layer', 'head', 'example'\)"):
        scores.mean("heads")
    with pytest.raises(ValueError, match=r"score has no head='z'; it has \['a', 'b', 'c'\]"):
        scores.sel(head="z")
    with pytest.raises(ValueError, match=r"values of shape \(2,\) do not fit dims \('a', 'b'\)"):
        Measurement("x", np.zeros(2), ("a", "b"))
    with pytest.raises(ValueError, match="2 coordinates for a, which has 3"):
        Measurement("x", np.zeros(3), ("a",), coords={"a": [1, 2]})
