"""Claims about the running statistics: they equal numpy on the whole array, however the rows were split."""

import numpy as np
import pytest
import torch
from scipy import stats as scipy_stats

from interp.streaming import Covariance, Density, Histogram, Moments, Sample, TopK

SPLITS = [[1000], [1, 999], [250, 250, 250, 250], [3, 0, 500, 497]]


@pytest.fixture
def values() -> torch.Tensor:
    rng = np.random.default_rng(0)
    return torch.from_numpy(rng.standard_t(df=8, size=(1000, 5)) * [1, 10, 0.1, 1, 1] + [0, 0, 0, 1000, -5])


@pytest.mark.parametrize("split", SPLITS)
def test_moments_equal_the_whole_array_for_every_split(values, split):
    moments = Moments()
    for part in values.split(split):
        moments.update(part)
    result, array = moments.compute(), values.numpy()
    assert result.n == 1000
    np.testing.assert_allclose(result.mean, array.mean(0), rtol=1e-12)
    np.testing.assert_allclose(result.variance, array.var(0), rtol=1e-10)
    np.testing.assert_allclose(result.kurtosis, scipy_stats.kurtosis(array, fisher=False), rtol=1e-8)


@pytest.mark.parametrize("split", SPLITS)
def test_covariance_equals_the_whole_array_for_every_split(values, split):
    covariance = Covariance()
    for part in values.split(split):
        covariance.update(part)
    result = covariance.compute()
    np.testing.assert_allclose(result.mean, values.numpy().mean(0), rtol=1e-12)
    np.testing.assert_allclose(result.covariance, np.cov(values.numpy().T, bias=True), rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("make", [Moments, Covariance])
def test_merging_two_accumulators_equals_updating_one(values, make):
    left, right = make().update(values[:300]), make().update(values[300:])
    merged, whole = left.merge(right).merge(make()).compute(), make().update(values).compute()
    for field in vars(whole):
        np.testing.assert_allclose(getattr(merged, field), getattr(whole, field), rtol=1e-8, atol=1e-9)


def test_moments_of_a_large_mean_keep_their_variance():
    values = torch.randn(1000, 1, dtype=torch.float64, generator=torch.Generator().manual_seed(0)) + 1e8
    moments = Moments()
    for part in values.split(100):
        moments.update(part)
    np.testing.assert_allclose(moments.compute().variance, values.numpy().var(0), rtol=1e-6)


def test_top_k_equals_a_full_sort_with_ties_going_to_the_lowest_id():
    rng = np.random.default_rng(1)
    values = torch.from_numpy(rng.integers(-3, 4, size=(500, 7)).astype(np.float32))
    ids = torch.from_numpy(rng.permutation(500))
    top = TopK(20)
    for part, part_ids in zip(values.split(90), ids.split(90), strict=True):
        top.update(part, part_ids)
    result = top.compute()
    for column in range(7):
        expected = np.lexsort((ids.numpy(), -values[:, column].numpy()))[:20]
        np.testing.assert_array_equal(result.values[:, column], values[expected, column])
        np.testing.assert_array_equal(result.ids[:, column], ids[expected])


def test_top_k_does_not_depend_on_the_order_of_arrival_and_merges():
    values = torch.randn(300, 4, generator=torch.Generator().manual_seed(0)).round(decimals=1)
    ids = torch.arange(300) + 2**62
    back = torch.arange(299, -1, -1)
    whole = TopK(8).update(values, ids).compute()
    parts = (
        TopK(8).update(values[back][:100], ids[back][:100]).merge(TopK(8).update(values[back][100:], ids[back][100:])).compute()
    )
    assert torch.equal(whole.values, parts.values)
    assert torch.equal(whole.ids, parts.ids)


def test_top_k_keeps_exact_values_signs_and_infinities():
    values = torch.tensor([[-0.0], [1e-38], [-1e38], [float("inf")], [-float("inf")], [3.14159]])
    result = TopK(9).update(values, torch.arange(6)).compute()
    assert result.ids[:, 0].tolist() == [3, 5, 1, 0, 2, 4]
    assert torch.equal(result.values[:, 0], values[:, 0].sort(descending=True).values)


def test_top_k_refuses_nan_and_other_sizes():
    with pytest.raises(ValueError, match="NaN has no place in an order"):
        TopK(2).update(torch.tensor([[float("nan")]]), torch.tensor([0]))
    with pytest.raises(ValueError, match="cannot merge the top 3 into the top 2"):
        TopK(2).merge(TopK(3))
    with pytest.raises(ValueError, match="row ids must lie in 0 … 2⁶³ − 1, got -1 … 0"):
        TopK(2).update(torch.zeros(2, 1), torch.tensor([0, -1]))
    with pytest.raises(ValueError, match="rows of 2 columns do not continue rows of 3"):
        TopK(2).merge(TopK(2).update(torch.zeros(1, 3), torch.tensor([0]))).update(torch.zeros(1, 2), torch.tensor([1]))


def test_top_k_of_one_slice_at_a_time_is_that_of_all_at_once(monkeypatch):
    """Columns that hardly ever fire, ties everywhere, and slices of two rows: what waits and what is kept must not differ."""
    values = torch.randn(400, 5, generator=torch.Generator().manual_seed(3)).relu().round(decimals=1)
    values[:, 0] = 0.0
    values[:, 1] = torch.arange(400) // 10  # ever new maxima
    order = torch.randperm(400, generator=torch.Generator().manual_seed(4))
    whole = TopK(7).update(values, torch.arange(400)).compute()
    monkeypatch.setattr("interp.streaming._ELEMENTS", 10)
    sliced = TopK(7).update(values[order], order).compute()
    assert torch.equal(whole.values, values.sort(dim=0, descending=True).values[:7])
    assert torch.equal(whole.values, sliced.values)
    assert torch.equal(whole.ids, sliced.ids)


def test_a_sample_does_not_depend_on_the_order_of_arrival_and_merges():
    values, ids = torch.arange(600.0)[:, None].expand(-1, 3), torch.arange(600) << 40
    whole = Sample(50, seed=1).update(values, ids).compute()
    back = torch.arange(599, -1, -1)
    parts = (
        Sample(50, seed=1)
        .update(values[back[:77]], ids[back[:77]])
        .merge(Sample(50, seed=1).update(values[back[77:]], ids[back[77:]]))
    )
    assert torch.equal(whole.ids, parts.compute().ids)
    assert torch.equal(whole.values, parts.compute().values)
    assert torch.equal(whole.values[:, 0].long(), whole.ids >> 40)
    assert not torch.equal(whole.ids, Sample(50, seed=2).update(values, ids).compute().ids)


def test_a_sample_is_uniform():
    """Every tenth of the rows gets its share of a large sample: 300 of 3,000, give or take four standard deviations."""
    ids = torch.arange(30_000)
    drawn = Sample(3_000, seed=0).update(ids[:, None].float(), ids).compute().ids
    shares = torch.bincount(drawn // 3_000, minlength=10)
    assert len(drawn.unique()) == 3_000
    assert (shares - 300).abs().max() < 4 * 300**0.5


def test_density_is_the_share_of_rows_above_zero():
    codes = torch.tensor([[0.0, 1.0, -1.0], [2.0, 1.0, 0.0], [0.0, 3.0, 0.0], [0.0, 1.0, 0.0]])
    density = Density().update(codes[:1]).merge(Density().update(codes[1:]))
    assert density.compute().tolist() == [0.25, 1.0, 0.0]


def test_histogram_quantiles_are_right_to_three_tenths_of_a_percent():
    values = torch.from_numpy(np.random.default_rng(2).lognormal(3, 2, size=20_000))
    quantiles = [0.01, 0.25, 0.5, 0.99]
    histogram = Histogram().update(values[:777]).merge(Histogram().update(values[777:]))
    exact = np.quantile(values.numpy(), quantiles, method="inverted_cdf")
    np.testing.assert_allclose(histogram.compute(quantiles), exact, rtol=0.003)
    assert histogram.compute(quantiles) == Histogram().update(values).compute(quantiles)


@pytest.mark.parametrize("make", [Moments, Covariance, lambda: TopK(3), lambda: Sample(3, seed=0), Density])
def test_compute_before_the_first_row_is_an_error(make):
    with pytest.raises(ValueError, match="no rows have been seen"):
        make().compute()


@pytest.mark.parametrize("make", [Moments, Covariance])
def test_rows_of_another_width_are_an_error(make):
    with pytest.raises(ValueError, match="rows of 2 columns do not continue rows of 3"):
        make().update(torch.zeros(4, 3)).update(torch.zeros(4, 2))
