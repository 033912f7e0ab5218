"""E08 in a reduced form that still asserts, and its parts against planted curves."""

from __future__ import annotations

from types import ModuleType, SimpleNamespace

import numpy as np
import pytest
import torch
from experiment_cases import module_of

from interp.report import Report
from interp.tasks.repeated import repeated_random


@pytest.fixture(scope="module")
def e08() -> ModuleType:
    return module_of("E08")


STEPS = np.linspace(0, 100, 101)
SUDDEN = 4 - 4 / (1 + np.exp(-(STEPS - 60)))  # falls from 4 to 0 around step 60


def test_a_curve_crosses_between_two_checkpoints(e08: ModuleType) -> None:
    assert e08.crossing(np.array([0.0, 10, 20]), np.array([5.0, 5, 1]), 0.25) == pytest.approx(12.5)
    assert e08.crossing(np.array([0.0, 10]), np.array([0.0, 2]), 0.5) == pytest.approx(5)


def test_a_score_that_rises_with_the_fall_lies_inside_it_and_others_outside(e08: ModuleType) -> None:
    assert e08.place_in_fall(STEPS, SUDDEN, -SUDDEN) == pytest.approx(0.5, abs=0.01)
    assert e08.place_in_fall(STEPS, SUDDEN, 1 / (1 + np.exp(-(STEPS - 90)))) > 1
    assert e08.place_in_fall(STEPS, SUDDEN, STEPS) < 0


def test_a_sudden_fall_is_steep_and_an_even_one_is_not(e08: ModuleType) -> None:
    assert e08.steepest_share(STEPS, SUDDEN, window=15) > 0.95
    assert e08.steepest_share(STEPS, 4 - STEPS / 25, window=15) == pytest.approx(0.15)


def test_the_gain_removed_is_extra_loss_over_what_is_saved_against_an_even_guess(e08: ModuleType) -> None:
    study = SimpleNamespace(model=SimpleNamespace(d_vocab=49), seed=0)
    whole = np.array([0.0, 1.0, 2.0])
    half_way = (whole + np.log(48)) / 2
    found = e08.gain_removed(study, whole, half_way)
    assert (found.value, found.low, found.high) == pytest.approx((0.5, 0.5, 0.5))


def test_in_the_twin_nothing_earlier_matches_the_last_token_and_all_else_is_as_it_was(e08: ModuleType) -> None:
    drawn = repeated_random(40, 48, 49, generator=torch.Generator().manual_seed(0))
    contrast = e08.without_matches(drawn, 49)
    last = drawn.tokens[:, -2:-1]
    match = drawn.tokens[:, :-2] == last
    assert match.any(1).all() and torch.equal(contrast.answers, drawn.tokens[:, -1])
    assert torch.equal(contrast.clean, drawn.tokens[:, :-1]) and torch.equal(contrast.corrupt[:, -1:], last)
    assert not (contrast.corrupt[:, :-1] == last).any()
    assert torch.equal(contrast.corrupt[:, :-1][~match], drawn.tokens[:, :-2][~match])
    put = contrast.corrupt[:, :-1].masked_fill(~match, -1).amax(1, keepdim=True)
    assert not (drawn.tokens == put).any(), "what is put there must not be a token of the prompt"


@pytest.fixture(scope="module")
def report(e08: ModuleType) -> Report:
    report = Report("E08", "induction")
    e08.run(e08.Config(steps=400, checkpoints=17, prompts=16, window=100), report)
    return report


@pytest.mark.slow
def test_in_reduced_form_two_layers_match_prefixes_at_once_and_one_layer_does_not(report: Report) -> None:
    verdicts = {claim.id.removeprefix("E08."): claim.verdict for claim in report.claims}
    expected = ("prefix-score", "one-layer-prefix", "one-layer-loss", "induction-ablation", "phase-steep", "phase-together")
    assert {slug: verdicts[slug] for slug in expected} == dict.fromkeys(expected, "PASS")
    others = {"k-composition", "composition-way", "composition-together", "head-patching", "key-path", "other-ways"}
    assert set(verdicts) - set(expected) == others | {"previous-token-ablation"}


@pytest.mark.slow
def test_controls_of_the_same_quantity_miss_the_target(report: Report) -> None:
    claims = {claim.id.removeprefix("E08."): claim for claim in report.claims}
    assert all(claim.control is not None for claim in claims.values())
    same = ("prefix-score", "one-layer-prefix", "one-layer-loss", "k-composition", "composition-way", "previous-token-ablation")
    for slug in (*same, "head-patching", "key-path", "other-ways", "phase-steep", "composition-together"):
        target, control = claims[slug].target, claims[slug].control
        assert target is not None and control is not None and not target.holds(*control.ends), slug


@pytest.mark.slow
def test_the_report_shows_the_phase_change_and_the_heads_at_work(report: Report) -> None:
    figures = [figure.name for figure in report.blocks("figure")]
    weights, patched = ["prefix-scores", "k-composition"], ["ablation", "head-patching", "paths"]
    assert figures == [*weights, *patched, "phase-loss", "phase-scores", "phase-composition"]
    assert [block.view.title for block in report.blocks("view")] == ["Attention on one prompt"]
    curves = next(figure for figure in report.blocks("figure") if figure.name == "phase-loss")
    assert curves.data.n_rows == 2 * 17
