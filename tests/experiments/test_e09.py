"""E09 at full size, with fewer draws of the noise; and the parts that could be wrong alone."""

from __future__ import annotations

from functools import partial
from types import ModuleType

import numpy as np
import pytest
from experiment_cases import assert_claims_hold, assert_claims_hold_on_seeds, module_of

from interp.heads.graph import Graph
from interp.models.compiled import induction
from interp.report import Report
from interp.tasks.contrast import Contrast


@pytest.fixture(scope="module")
def e09() -> ModuleType:
    return module_of("E09")


@pytest.mark.slow
def test_every_claim_holds_and_every_control_misses_its_target(e09: ModuleType) -> None:
    report = Report("E09", "calibration")
    e09.run(e09.Config(seeds=3, examples=16, steps=(1, 5)), report)
    assert len(report.claims) == 13
    assert_claims_hold(report)


def test_pruning_keeps_exactly_the_visible_edges_of_the_model_without_noise(e09: ModuleType) -> None:
    known = induction()
    kept = e09.pruning(known.model, known.contrast(8, seed=0), Contrast.logit_difference, threshold=0.3)
    assert set(np.unique(kept.values)) == {0.0, 1.0}
    names = np.array(kept.coords["edge"])
    assert set(names[kept.values[:, 0] == 1]) == known.circuits["corrupt"]


def test_random_scores_follow_the_contrast(e09: ModuleType) -> None:
    known = induction()
    scores = [e09.drawn(known.model, known.contrast(4, seed=seed), Contrast.logit_difference).values for seed in (0, 0, 1)]
    assert np.array_equal(scores[0], scores[1]) and not np.array_equal(scores[0], scores[2])
    assert len(scores[0]) == len(Graph.of(known.model).edges)


def test_attention_and_answers_are_wrong_where_scores_are_soft(e09: ModuleType) -> None:
    contrast = induction().contrast(16, seed=0)
    right, attention = e09.function(induction(sharpness=1.0).model, contrast)
    assert right.mean() < 1 and attention.max() < 0.5


@pytest.mark.slow
def test_what_is_closed_form_holds_on_twenty_seeds(e09: ModuleType, without_figures: None) -> None:
    sections = (e09.report_function, e09.report_truth, e09.report_misled)
    assert_claims_hold_on_seeds(
        e09, lambda config: [partial(section, config) for section in sections], examples=4, sharpnesses=(2.0, 30.0)
    )
