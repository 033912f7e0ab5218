"""E15 in a reduced form that still asserts."""

from __future__ import annotations

from functools import partial
from types import ModuleType

import pytest
from experiment_cases import assert_claims_hold, assert_claims_hold_on_seeds, module_of

from interp.report import Report


@pytest.fixture(scope="module")
def e15() -> ModuleType:
    return module_of("E15")


@pytest.fixture(scope="module")
def report(e15: ModuleType) -> Report:
    report = Report("E15", "memory")
    e15.run(e15.Config(edited=8, draws=8, steps=400), report)
    return report


@pytest.mark.slow
def test_every_claim_holds_and_no_control_does(report: Report) -> None:
    assert len(report.claims) == 17
    assert_claims_hold(report)


@pytest.mark.slow
def test_the_report_shows_capacity_temperature_and_triples(report: Report) -> None:
    assert [figure.name for figure in report.blocks("figure")] == ["capacity", "temperature", "triples"]
    assert [table.name for table in report.blocks("table")] == ["edits", "capacity"]


def test_edits_by_the_second_moment_never_disturb_other_keys_more(e15: ModuleType) -> None:
    config = e15.Config(d_capacity=16)
    for draw in range(5):
        for decay in (0.0, 1.0):
            ours, plain = e15.edit_damage(config, draw, decay)
            assert ours <= 1.05 * plain


@pytest.mark.slow
def test_what_was_planted_is_found_on_twenty_seeds(e15: ModuleType, without_figures: None) -> None:
    sections = (e15.report_reading, e15.report_attribution, e15.report_editing)

    def of(config):
        planted = e15.planted_memory(config.keys, config.d_model, seed=config.seed)
        return [partial(section, config, planted=planted) for section in sections]

    assert_claims_hold_on_seeds(e15, of, keys=32, d_model=32, edited=2, integral=30)
