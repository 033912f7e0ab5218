"""E13 at full size, its bounds on twenty seeds, its parts on cases that are known."""

from __future__ import annotations

from types import ModuleType

import pytest
from experiment_cases import assert_claims_hold, module_of

from interp.report import Report


@pytest.fixture(scope="module")
def e13() -> ModuleType:
    return module_of("E13")


@pytest.mark.slow
def test_every_claim_holds_at_full_size_and_every_control_misses_its_target(e13: ModuleType) -> None:
    report = Report("E13", "directions")
    e13.run(e13.Config(), report)
    assert {claim.id.partition(".")[2] for claim in report.claims} == {
        *("all-pairs", "projection", "union-bound", "welch", "simplex", "readout-noise", "false-alarms"),
    }
    assert_claims_hold(report)


@pytest.mark.usefixtures("without_figures")
def test_bounds_on_directions_hold_on_every_seed(e13: ModuleType) -> None:
    for seed in range(20):
        report = Report("E13", "directions")
        e13.report_directions(e13.Config(widths=(16, 64), counts=(64, 256), repeats=2, seed=seed), report)
        assert len(report.claims) == 3
        assert_claims_hold(report)


def test_a_projection_to_fewer_dimensions_breaks_more_pairs(e13: ModuleType) -> None:
    config = e13.Config(points=40, ambient=200, repeats=3)
    worst, broken = e13.projected(config, 0.3, 300)
    worse, more = e13.projected(config, 0.3, 20)
    assert len(broken) == len(more) == 3
    assert worst < worse and sum(broken) < sum(more)


def test_features_on_a_basis_raise_no_alarm(e13: ModuleType) -> None:
    config = e13.Config(readout_width=64, draws=4000)
    rng = e13.stats.generator(0, "alarms")
    assert e13.false_alarms(config, e13.np.eye(64), rng).value == 0
    assert e13.false_alarms(config, rng.standard_normal((512, 64)) / 8, rng).value == pytest.approx(1, abs=0.2)
