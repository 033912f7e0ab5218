"""E02 at full size, and its parts against slow references."""

from __future__ import annotations

from types import ModuleType

import numpy as np
import pytest
from experiment_cases import assert_claims_hold, module_of

from interp.report import Report


@pytest.fixture(scope="module")
def e02() -> ModuleType:
    return module_of("E02")


@pytest.fixture(scope="module")
def report(e02: ModuleType) -> Report:
    report = Report("E02", "scaling")
    e02.run(e02.Config(), report)
    return report


def test_every_claim_holds_at_full_size(report: Report) -> None:
    assert {claim.id: claim.verdict for claim in report.claims} == {
        f"E02.{slug}": "PASS" for slug in ("variance", "slope", "control-unit-norm", "jacobian-scaled", "jacobian-raw")
    }


def test_every_control_misses_the_target_of_its_claim(report: Report) -> None:
    assert_claims_hold(report)


def test_the_report_shows_both_curves_with_their_data(report: Report) -> None:
    assert [figure.name for figure in report.blocks("figure")] == ["variance", "jacobian"]
    assert [table.n_rows for table in report.blocks("table")] == [21, 14]


def test_slope_of_a_power_law_is_its_exponent(e02: ModuleType) -> None:
    widths = np.array([16, 32, 128])
    slope = e02.log_log_slope(np.stack([3 * widths**1.5, 5 * widths**1.5]), widths, seed=0)
    assert (slope.value, slope.low, slope.high) == pytest.approx((1.5, 1.5, 1.5))


def test_the_envelope_holds_the_worst_value_and_all_intervals(e02: ModuleType) -> None:
    found = e02.envelope([e02.Estimate(1.01, 0.99, 1.03, 9), e02.Estimate(0.96, 0.95, 0.97, 9)], centre=1.0)
    assert (found.value, found.low, found.high) == (0.96, 0.95, 1.03)
