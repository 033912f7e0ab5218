"""E13, reduced: its claims hold, and its controls miss."""

from __future__ import annotations

from types import ModuleType

import pytest
from experiment_cases import assert_claims_hold, module_of

from interp.report import Report


@pytest.fixture(scope="module")
def e13() -> ModuleType:
    return module_of("E13")


@pytest.fixture(scope="module")
def report(e13: ModuleType) -> Report:
    report = Report("E13", "directions")
    small = e13.Config(points=60, ambient=300, errors=(0.5,), widths=(16, 64), counts=(64, 256), draws=8000, repeats=4)
    e13.run(small, report)
    return report


def test_every_claim_holds_and_every_control_misses_its_target(report: Report) -> None:
    assert_claims_hold(report, but=("readout-noise", "false-alarms"))  # these need the draws of the full size


def test_the_readout_is_near_its_closed_form_even_here(report: Report) -> None:
    value = {claim.id: claim.measured.value for claim in report.claims if claim.measured is not None}
    assert value["E13.readout-noise"] == pytest.approx(1, abs=0.1)
    assert value["E13.false-alarms"] == pytest.approx(1, abs=0.2)
