"""Intervals cover the truth as often as they say; seeds give independent, repeatable streams."""

import numpy as np
import pytest
import torch

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


def test_a_generator_of_torchs_follows_its_seed_and_purpose_and_leaves_the_global_one_alone():
    before = torch.get_rng_state()
    drawn = [torch.rand(3, generator=stats.torch_generator(7, *purpose)) for purpose in (("a",), ("a",), ("a", 1), ("b",))]
    assert torch.equal(drawn[0], drawn[1])
    assert not torch.equal(drawn[0], drawn[2]) and not torch.equal(drawn[0], drawn[3])
    assert torch.equal(drawn[0], torch.rand(3, generator=torch.Generator().manual_seed(stats.torch_seed(7, "a"))))
    assert torch.equal(before, torch.get_rng_state())


def test_the_difference_of_examples_that_are_not_paired_needs_no_equal_numbers_and_covers_the_truth():
    rng = np.random.default_rng(3)
    found = stats.difference(rng.normal(2.0, 1.0, 400), rng.normal(0.5, 1.0, 100))
    assert found.low < 1.5 < found.high
    exact = stats.difference([3.0, 5.0], [1.0, 1.0, 4.0])
    assert exact.value == pytest.approx(2.0) and exact.n == 5
    assert stats.difference([1.0, 1.0, 4.0], [3.0, 5.0]).value == pytest.approx(-2.0)


def test_an_estimate_is_three_cells_of_a_row():
    assert stats.Estimate(2.0, 1.0, 4.0, 9).cells("share") == {"share": 2.0, "low": 1.0, "high": 4.0}


def test_a_statistic_of_two_columns_is_given_the_examples_to_use_and_whole_groups_stay_together():
    x, y = np.random.default_rng(4).normal(size=(2, 60))
    found = stats.resampled(60, lambda rows: float(x[rows].sum() / (y[rows] + 5).sum()))
    assert found == stats.ratio(x, y + 5)
    seen = []
    stats.resampled(6, lambda rows: float(seen.append(rows.tolist()) or 0), groups=[0, 0, 0, 1, 1, 1], resamples=20)
    assert seen[0] == [0, 1, 2, 3, 4, 5]
    assert {tuple(rows) for rows in seen} <= {(*a, *b) for a in ((0, 1, 2), (3, 4, 5)) for b in ((0, 1, 2), (3, 4, 5))}
    with pytest.raises(ValueError, match=r"groups must name one group per value: \(2,\) against \(3,\)"):
        stats.resampled(3, np.mean, groups=[0, 1])
