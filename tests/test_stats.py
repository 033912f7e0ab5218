"""Intervals cover the truth as often as they say; seeds give independent, repeatable streams."""

import numpy as np
import pytest

from interp import stats


def test_a_95_percent_interval_covers_the_true_mean_about_95_times_in_100():
    rng = np.random.default_rng(0)
    covered = 0
    for trial in range(200):
        estimate = stats.bootstrap(rng.normal(3.0, 2.0, size=40), resamples=400, seed=trial)
        covered += estimate.low <= 3.0 <= estimate.high
    assert 180 <= covered <= 198


def test_resampling_whole_groups_widens_the_interval_of_examples_that_hang_together():
    rng = np.random.default_rng(1)
    groups = np.repeat(np.arange(20), 30)
    values = rng.normal(size=20)[groups] + 0.1 * rng.normal(size=600)
    alone, together = stats.bootstrap(values, resamples=400), stats.bootstrap(values, groups=groups, resamples=400)
    assert together.value == pytest.approx(alone.value)
    assert together.n == 20
    assert together.high - together.low > 3 * (alone.high - alone.low)


def test_the_paired_difference_is_tighter_than_its_unpaired_parts():
    rng = np.random.default_rng(2)
    base = rng.normal(0, 5, size=100)
    difference = stats.paired_difference(base + 1 + 0.1 * rng.normal(size=100), base)
    assert difference.low < 1 < difference.high
    assert difference.high - difference.low < 0.1


def test_one_example_gives_no_interval_at_all():
    estimate = stats.bootstrap([0.7])
    assert (estimate.value, estimate.low, estimate.high) == (0.7, -np.inf, np.inf)


def test_the_same_purpose_repeats_its_stream_and_another_purpose_does_not_share_it():
    first, again, other = (stats.generator(7, purpose).normal(size=1000) for purpose in ("data", "data", "init"))
    assert np.array_equal(first, again)
    assert abs(np.corrcoef(first, other)[0, 1]) < 0.1
    assert stats.torch_seed(7, "data") == stats.torch_seed(7, "data") != stats.torch_seed(8, "data")


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ([], r"bootstrap wants a non-empty vector of examples, got shape \(0,\)"),
        ([1.0, float("nan")], "bootstrap got 1 non-finite values of 2"),
    ],
)
def test_bad_examples_are_refused_by_name(values, message):
    with pytest.raises(ValueError, match=message):
        stats.bootstrap(values)


def test_unpaired_examples_are_refused():
    with pytest.raises(ValueError, match=r"paired examples must match: \(2,\) against \(3,\)"):
        stats.paired_difference([1, 2], [1, 2, 3])
