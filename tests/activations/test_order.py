"""Claims about the shuffled order: every row once, state is one integer, a batch draws on many sequences."""

import numpy as np
import pytest

from interp.activations import order


@pytest.mark.parametrize(
    "rows", [1, 2, 15, 16, 17, 1000, 4097, order.WINDOW - 1, order.WINDOW, order.WINDOW + 1, 2 * order.WINDOW + 1001]
)
def test_every_row_comes_exactly_once(rows):
    result = order.shuffled(np.arange(rows), rows=rows, seed=0)
    assert np.array_equal(np.sort(result), np.arange(rows))


def test_a_place_has_the_same_row_however_the_places_are_asked_for():
    rows = order.WINDOW + 5000
    whole = order.shuffled(np.arange(rows), rows=rows, seed=3)
    assert np.array_equal(order.shuffled(np.arange(rows - 9000, rows - 10), rows=rows, seed=3), whole[rows - 9000 : rows - 10])
    places = np.random.default_rng(0).permutation(rows)[:1000]
    assert np.array_equal(order.shuffled(places, rows=rows, seed=3), whole[places])


def test_seeds_and_epochs_give_different_orders():
    orders = {
        order.shuffled(np.arange(500), rows=500, seed=seed, epoch=epoch).tobytes() for seed in range(5) for epoch in range(5)
    }
    assert len(orders) == 25


def test_a_batch_of_a_large_store_draws_on_3600_sequences():
    """4,096 rows from 134 M rows of sequences of 128 tokens; drawing freely would give about 4,088 sequences."""
    rows, context = 1 << 27, 128
    starts = (0, 400_000, rows // 2 + 77, rows - 4096)
    distinct = [
        len(np.unique(order.shuffled(np.arange(start, start + 4096), rows=rows, seed=seed) // context))
        for seed in range(3)
        for start in starts
    ]
    assert min(distinct) >= 3_600


def test_the_order_is_as_even_as_chance():
    """Over many seeds, the first place holds each of 8 rows equally often, and neighbours stay neighbours no more often than by
    chance."""
    first = [int(order.shuffled(np.arange(1), rows=8, seed=seed)[0]) for seed in range(4000)]
    counts = np.bincount(first, minlength=8)
    assert ((counts - 500) ** 2 / 500).sum() < 30  # chi-squared with 7 degrees of freedom: p < 0.0001
    result = order.shuffled(np.arange(10_000), rows=10_000, seed=0)
    assert np.sum(np.diff(result) == 1) < 10
    assert abs(np.corrcoef(np.arange(10_000), result)[0, 1]) < 0.05


def test_the_order_is_the_same_on_every_machine():
    """Pinned, because a change would silently break every resumed run."""
    assert order.shuffled(np.arange(8), rows=8, seed=0).tolist() == [6, 4, 0, 1, 5, 3, 7, 2]
