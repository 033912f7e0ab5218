"""E08 in a reduced form that still asserts."""

from __future__ import annotations

from types import ModuleType

import pytest
from experiment_cases import module_of

from interp.report import Report


@pytest.fixture(scope="module")
def e08() -> ModuleType:
    return module_of("E08")


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
