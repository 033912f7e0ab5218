"""E19 at full size but for the two slow programs; and its controls alone."""

from __future__ import annotations

from types import ModuleType

import pytest
from experiment_cases import assert_claims_hold, assert_claims_hold_on_seeds, module_of

from interp.models.rasp_circuits import compiled_task
from interp.report import Report


@pytest.fixture(scope="module")
def e19() -> ModuleType:
    return module_of("E19")


@pytest.mark.slow
def test_every_claim_holds_and_every_control_misses_its_target(e19: ModuleType) -> None:
    report = Report("E19", "programs")
    e19.run(e19.Config(programs=("hist", "reverse", "sort", "frac_prevs"), examples=32), report)
    assert {claim.id for claim in report.claims} == {
        f"E19.{slug}" for slug in ("outputs", "wrong-program", "circuits", "recovered")
    }
    assert_claims_hold(report)


def test_shuffled_dimensions_break_a_model_and_leave_the_original_alone(e19: ModuleType) -> None:
    program = compiled_task("hist")
    inputs = program.inputs()
    broken = e19.permuted(program.compiled.model, 0)
    assert e19.disagreement(program, program.compiled.model, inputs) < 1e-4
    assert e19.disagreement(program, broken, inputs) > 0.5
    assert program.error(inputs) < 1e-4


def test_a_model_is_wrong_by_another_program_on_most_inputs(e19: ModuleType) -> None:
    reverse, sort = compiled_task("reverse"), compiled_task("sort")
    assert e19.wrong_share(reverse, reverse) == 0
    palindromes = sum(list(words) == list(words[::-1]) == sorted(words) for words in reverse.inputs())
    assert 0.5 < e19.wrong_share(reverse, sort) <= 1 - palindromes / len(reverse.inputs())


@pytest.mark.slow
def test_circuits_are_as_declared_on_twenty_seeds(e19: ModuleType, without_figures: None) -> None:
    compiled = {name: compiled_task(name) for name in ("hist", "frac_prevs")}
    assert_claims_hold_on_seeds(e19, lambda config: [lambda report: e19.report_circuits(config, report, compiled)], examples=4)
