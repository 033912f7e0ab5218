"""E18, reduced, and its parts on rows that are known."""

from __future__ import annotations

from types import ModuleType

import numpy as np
import pytest
import torch
from experiment_cases import assert_claims_hold, module_of

from interp.models.rasp_circuits import CompiledProgram, compile_program
from interp.models.rasp_programs import BRACKETS
from interp.report import Report
from interp.tasks.brackets import CLOSE, CLS, NO, OPEN, YES, Brackets

MISSED = ("elevation-once", "apart-heads-once", "apart-places-once")
"""What a model that is asked once does not do, or not on every seed; the report says so."""


@pytest.fixture(scope="module")
def e18() -> ModuleType:
    return module_of("E18")


@pytest.mark.slow
def test_a_model_that_must_count_keeps_the_elevation_and_one_that_need_not_does_not(e18: ModuleType) -> None:
    report = Report("E18", "brackets")
    e18.run(e18.Config(**e18.QUICK), report)
    assert_claims_hold(report, but=MISSED)
    verdicts = {claim.id.partition(".")[2]: claim.verdict for claim in report.claims}
    assert verdicts["elevation-once"] == "FAIL"


@pytest.fixture(scope="module")
def by_hand(e18: ModuleType) -> CompiledProgram:
    return compile_program(BRACKETS, ("(", ")"), 6, name="brackets by hand", description="balance")


@pytest.mark.parametrize("seed", range(20))
def test_what_is_written_by_hand_does_what_is_claimed_on_every_seed(e18: ModuleType, by_hand: CompiledProgram, seed: int) -> None:
    report = Report("E18", "brackets")
    e18.report_by_hand(e18.Config(length=6, pairs=10, seed=seed), report, by_hand)
    assert_claims_hold(report)


def rows(*texts: str) -> Brackets:
    return Brackets(torch.tensor([[CLS, *({"(": OPEN, ")": CLOSE}[each] for each in text)] for text in texts]))


def test_the_elevation_is_the_depth_over_the_brackets_so_far(e18: ModuleType) -> None:
    torch.testing.assert_close(e18.elevation(rows("(())"))[0], torch.tensor([1, 1, 1 / 3, 0], dtype=torch.float64))


@pytest.mark.parametrize("mode", ["number", "dips", "neither"])
def test_rows_fail_in_one_way_alone_and_their_ends_do_not_tell(e18: ModuleType, mode: str) -> None:
    found = e18.failing(mode, 50, 8, torch.Generator().manual_seed(0))
    assert found.unequal.all() == (mode == "number") == found.unequal.any()
    assert found.dips.all() == (mode == "dips") == found.dips.any()
    assert (found.tokens[:, 1] == OPEN).all() and (found.tokens[:, -1] == CLOSE).all()


def test_asked_everywhere_the_answer_is_the_kind_that_leads_and_at_the_start_whether_the_row_balances(e18: ModuleType) -> None:
    targets = e18.asked_everywhere(rows("())(", "(())")).targets.tolist()
    assert targets == [[NO, OPEN, YES, CLOSE, YES], [YES, OPEN, OPEN, OPEN, YES]]


def test_heads_that_part_the_failures_are_told_from_heads_that_do_not(e18: ModuleType) -> None:
    first, second = np.zeros((1, 3, 40)), np.zeros((1, 3, 40))
    first[0, 0], second[0, 1] = 0.6, 0.4
    assert e18.parting(first, second, 0).value == pytest.approx(0.4)
    assert e18.parting(first, first, 0).value == 0
