"""E22 at full size, and its parts on cases that are known."""

from __future__ import annotations

from types import ModuleType

import numpy as np
import pandas as pd
import pytest
import torch
from experiment_cases import assert_claims_hold, module_of

from interp import stats
from interp.report import Report


@pytest.fixture(scope="module")
def e22() -> ModuleType:
    return module_of("E22")


@pytest.mark.slow
def test_every_claim_holds_at_full_size_and_every_control_misses_its_target(e22: ModuleType) -> None:
    report = Report("E22", "linear attention")
    e22.run(e22.Config(), report)
    assert {claim.id for claim in report.claims} == {
        *(f"E22.forms-{kind}" for kind in ("linear", "favor", "delta")),
        *(f"E22.{slug}" for slug in ("capacity", "overflow", "overwrite", "favor-slope", "orthogonal", "linear-work")),
    }
    assert_claims_hold(report)


@pytest.mark.parametrize("seed", range(20))
def test_what_can_be_proved_holds_on_every_seed(e22: ModuleType, seed: int) -> None:
    report = Report("E22", "linear attention")
    config = e22.Config(seeds=1, length=64, seed=seed)
    e22.report_forms(config, report)
    e22.report_capacity(config, report)
    assert_claims_hold(report)


def test_the_error_of_independent_features_is_that_of_the_closed_form(e22: ModuleType) -> None:
    config = e22.Config(features=(10,), draws=600)
    errors = e22.kernel_errors("independent", config)
    q, k = e22.SPREAD * torch.randn(2, config.pairs, config.width, generator=stats.torch_generator(0, "E22", "pairs"))
    both = (q[:, None] + k).square().sum(-1) / config.width**0.5
    assert errors.mean() == pytest.approx(float((both.exp() - 1).mean()) / 10, rel=0.1)


@pytest.mark.parametrize(("n", "d"), [(5, 4), (17, 16), (9, 4), (32, 16)])
def test_harmonic_keys_have_length_one_and_meet_welchs_bound(e22: ModuleType, n: int, d: int) -> None:
    keys = e22.harmonic(n, d)
    torch.testing.assert_close(keys.norm(dim=1), torch.ones(n, dtype=torch.float64))
    assert float((keys @ keys.T).square().sum()) == pytest.approx(n * n / d)


def test_keys_one_more_than_dimensions_are_the_corners_of_a_simplex(e22: ModuleType) -> None:
    keys = e22.harmonic(5, 4)
    products = (keys @ keys.T)[~torch.eye(5, dtype=torch.bool)]
    torch.testing.assert_close(products, torch.full((20,), -1 / 4, dtype=torch.float64))


def test_what_a_key_reads_errs_by_its_products_with_the_others(e22: ModuleType) -> None:
    keys = torch.tensor([[1.0, 0.0], [0.6, 0.8], [0.0, 1.0]], dtype=torch.float64)
    assert e22.reading_errors(keys).tolist() == pytest.approx([0.36, 0.36 + 0.64, 0.64])


def test_the_slope_is_that_of_the_power(e22: ModuleType) -> None:
    features = (16, 64, 256)
    found = e22.slope(np.array([[3 / m, 3 / m, 3 / m] for m in features]).T * np.ones((3, 1)), features, seed=0)
    assert (found.value, found.low, found.high) == pytest.approx((-1, -1, -1))


def test_forms_that_take_all_pairs_do_the_work_of_the_softmax_and_a_memory_keeps_its_size(e22: ModuleType) -> None:
    rows = {(row["attention"], n): row for n in (64, 128) for row in e22.costs(n, e22.Config(width=4, chunk=8))}
    assert rows[e22.PAIRS, 64]["work"] == rows[e22.SOFTMAX, 64]["work"] == 2 * 2 * 64 * 64 * 4
    assert rows[e22.CHUNKS, 128]["work"] == 2 * rows[e22.CHUNKS, 64]["work"]
    assert rows[e22.CHUNKS, 128]["keeps"] == rows[e22.CHUNKS, 64]["keeps"] == 4 * 5
    assert all(row["ms"] > 0 for row in rows.values())


def test_growth_is_the_slope_between_the_longest_rows(e22: ModuleType) -> None:
    table = pd.DataFrame({"length": [2, 4, 8], "work": [1.0, 10.0, 40.0]})
    assert e22.growth_of(table, "work") == pytest.approx(2)
