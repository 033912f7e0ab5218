"""Claims about the summary: it equals numpy on the whole array, finds what was planted, and does not see the batches."""

import numpy as np
import pandas as pd
import pytest
import torch
from fake_activations import HEADS, HOOK, batches_of
from scipy import stats as scipy_stats

from interp.activations import ActivationStore, summarise, summary
from interp.errors import StoreError


@pytest.fixture(scope="module")
def values() -> torch.Tensor:
    """Rank-2 variance, one dimension 20 times the others, one heavy-tailed dimension, and a mean."""
    rng = np.random.default_rng(0)
    array = rng.normal(size=(3000, 2)) @ rng.normal(size=(2, 12)) + 0.05 * rng.normal(size=(3000, 12)) + 0.5
    array[:, 7] *= 20
    array[:, 3] = rng.standard_t(df=5, size=3000)
    return torch.from_numpy(array.astype(np.float32))


def overview(result):
    return result.overview.set_index("quantity")["value"]


def test_summary_equals_numpy_on_the_whole_array(values):
    result, array = summarise(values.split(700)), values.double().numpy()
    table, norms = overview(result), np.linalg.norm(array, axis=1)
    mean = array.mean(0)
    eigenvalues = np.linalg.eigvalsh(np.cov(array.T, bias=True))[::-1]
    assert table["rows"] == 3000
    assert table["mean norm"] == pytest.approx(norms.mean())
    assert table["norm, quantile 0.9"] == pytest.approx(np.quantile(norms, 0.9), rel=0.005)
    assert table["cosine to mean"] == pytest.approx((array @ mean / norms / np.linalg.norm(mean)).mean())
    assert table["participation ratio"] == pytest.approx(eigenvalues.sum() ** 2 / (eigenvalues**2).sum())
    np.testing.assert_allclose(result.spectrum["variance"], eigenvalues, rtol=1e-9)
    assert result.spectrum["cumulative"].iloc[-1] == pytest.approx(1)
    np.testing.assert_allclose(result.dimensions["kurtosis"], scipy_stats.kurtosis(array, fisher=False), rtol=1e-8)
    np.testing.assert_allclose(result.dimensions["rms"], np.sqrt((array**2).mean(0)))


def test_a_planted_outlier_dimension_is_the_only_one_found(values):
    result = summarise([values])
    assert result.dimensions.query("outlier")["dimension"].tolist() == [7]
    assert overview(result)["outlier dimensions"] == 1
    even = torch.randn(2000, 12, generator=torch.Generator().manual_seed(0))
    assert overview(summarise([even]))["outlier dimensions"] == 0


def test_how_rows_are_split_makes_no_difference(values):
    whole = summarise([values])
    for split in ([3000], [1, 2999], [999, 1, 0, 2000]):
        parts = summarise(values.split(split))
        for name in ("overview", "dimensions", "spectrum"):
            pd.testing.assert_frame_equal(getattr(parts, name), getattr(whole, name), rtol=1e-7)


def test_rows_along_one_direction_have_cosine_one_and_participation_one():
    direction = torch.arange(1.0, 9.0)
    table = overview(summarise([torch.rand(500, 1, generator=torch.Generator().manual_seed(0)) * direction]))
    assert table["cosine to mean"] == pytest.approx(1)
    assert table["participation ratio"] == pytest.approx(1)
    assert table["components for 90 % of variance"] == 1


def test_a_store_is_summarised_by_hook(tmp_path, header):
    store = ActivationStore.write(tmp_path / "s", batches_of(300), header)
    assert overview(summary(store, HEADS))["dimensions"] == 12
    assert overview(summary(store, HOOK))["rows"] == 300
    with pytest.raises(StoreError, match="not blocks.3"):
        summary(store, "blocks.3")


def test_nothing_to_summarise_is_an_error():
    with pytest.raises(StoreError, match="there are no rows to summarise"):
        summarise([])
