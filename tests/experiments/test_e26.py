"""E26 at full size, its closed forms on twenty seeds, and its lesson."""

from __future__ import annotations

from dataclasses import replace
from types import ModuleType

import pytest
from experiment_cases import assert_claims_hold, module_of

from interp.report import Report


@pytest.fixture(scope="module")
def e26() -> ModuleType:
    return module_of("E26")


@pytest.mark.slow
def test_every_claim_holds_at_full_size_and_every_control_misses_its_target(e26: ModuleType) -> None:
    report = Report("E26", "what changed")
    e26.run(e26.Config(), report)
    assert {claim.id.partition(".")[2] for claim in report.claims} == {
        *("learned", "kept", "the-place", "nothing-before", "neurons-carry", "features-carry", "features-read"),
    }
    assert_claims_hold(report)


@pytest.mark.parametrize("seed", range(20))
def test_what_holds_of_any_training_holds_on_every_seed(e26: ModuleType, seed: int) -> None:
    report = Report("E26", "what changed")
    lesson = e26.Lesson.of(e26.Config(seed=seed))
    adapted = lesson.taught(["blocks.1.mlp.in", "blocks.1.mlp.out"], 6, rank=4)
    e26.report_place(lesson, report, adapted, adapted)
    assert [claim.verdict for claim in report.claims] == ["PASS", "PASS"]


def test_only_the_facts_of_the_lesson_are_others(e26: ModuleType) -> None:
    lesson = e26.Lesson.of(replace(e26.Config(), people=5))
    other = lesson.old.answers != lesson.new.answers
    assert other[lesson.people, 0].all() and int(other.sum()) == 5
    assert {kind: len(facts) for kind, facts in lesson.facts.items()} == {
        "taught": 5,
        "same relation": 59,
        "other relations": 128,
    }
    assert lesson.accuracy(lesson.before, lesson.facts["taught"]).max() == 0
    assert lesson.accuracy(lesson.before, lesson.facts["other relations"]).mean() > 0.99
