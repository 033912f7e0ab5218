"""E14 in a reduced form that still asserts, and its parts against made-up tables."""

from __future__ import annotations

from types import ModuleType

import pandas as pd
import pytest
from experiment_cases import module_of

from interp.report import Report


@pytest.fixture(scope="module")
def e14() -> ModuleType:
    return module_of("E14")


def table(**scores: list[float]) -> pd.DataFrame:
    """Two rates by two seeds for every method: its four scores in that order."""
    where = [(0.5, 0), (0.5, 1), (2.0, 0), (2.0, 1)]
    lines = [
        {"problem": "apart", "method": method, "rate": rate, "seed": seed, "found": value, "dead": 1.0}
        for method, values in scores.items()
        for (rate, seed), value in zip(where, values, strict=True)
    ]
    return pd.DataFrame(lines)


def test_every_method_is_judged_at_its_own_best_rate_and_the_best_comes_first(e14: ModuleType) -> None:
    best = e14.best_rates(table(a=[0.1, 0.3, 0.2, 0.1], b=[0.2, 0.2, 0.5, 0.7]), "found")
    assert list(zip(best.method, best.rate, best.found, strict=True)) == [
        ("b", 2.0, 0.5),
        ("b", 2.0, 0.7),
        ("a", 0.5, 0.1),
        ("a", 0.5, 0.3),
    ]


def test_a_lead_is_over_the_best_of_the_others_seed_by_seed(e14: ModuleType) -> None:
    best = e14.best_rates(table(a=[0.9, 0.8, 0.0, 0.0], b=[0.7, 0.1, 0.0, 0.0], c=[0.1, 0.6, 0.0, 0.0]), "found")
    lead = e14.ahead(best, "a", ["b", "c"], "found", seed=0)
    assert (lead.value, lead.low, lead.high) == pytest.approx((0.2, 0.2, 0.2))
    assert e14.ahead(best, "b", ["a"], "found", seed=0).high < 0


def test_a_summary_has_one_line_per_method_with_its_interval(e14: ModuleType) -> None:
    best = e14.best_rates(table(a=[0.1, 0.3, 0.0, 0.0], b=[0.0, 0.0, 0.5, 0.7]), "found")
    lines = e14.summary(best, "found", seed=0)
    assert list(lines.method) == ["b", "a"] and list(lines.found) == pytest.approx([0.6, 0.2])
    assert list(lines.low) == pytest.approx([0.5, 0.1]) and list(lines.dead) == [1.0, 1.0]


def test_looking_along_the_way_costs_no_time_and_changes_nothing(e14: ModuleType) -> None:
    problem = e14.Problem.draw("tiny", 20_000, 1, 0)
    trained, again = e14.alternating(problem), e14.alternating(problem)
    assert [point["tokens"] for point in trained.curve][-1] == trained.tokens == 39 * 512
    assert trained.curve[-1]["seconds"] <= trained.seconds
    assert trained.curve[-1]["found"] > trained.curve[0]["found"]
    assert (trained.sae.W_dec == again.sae.W_dec).all()


@pytest.fixture(scope="module")
def report(e14: ModuleType) -> Report:
    report = Report("E14", "planted features")
    with pytest.MonkeyPatch.context() as patch:
        few = {name: e14.ARCHITECTURES[name] for name in ("batchtopk", "lista-matryoshka")}
        patch.setattr(e14, "ARCHITECTURES", few)
        patch.setattr(e14, "LASSO_ROWS", 1024)
        patch.setattr(e14, "BLOCK_ROWS", 2048)
        patch.setattr(e14, "SCORED", 4)
        settings = {"apart": "tiny", "apart_tokens": 40_000, "together_tokens": 60_000, "rates": (2.0,), "seeds": 2}
        e14.run(e14.Config(**settings), report)
    return report


@pytest.mark.slow
def test_in_reduced_form_pursuit_finds_what_fires_apart_and_nesting_helps_where_features_hang_together(report: Report) -> None:
    verdicts = {claim.id.removeprefix("E14."): claim.verdict for claim in report.claims}
    expected = ("mmcs", "per-token", "f1-ordering")
    assert {slug: verdicts[slug] for slug in expected} == dict.fromkeys(expected, "PASS")
    assert set(verdicts) - set(expected) == {"found", "mcc"}


@pytest.mark.slow
def test_a_random_dictionary_meets_no_target(report: Report) -> None:
    for claim in report.claims:
        assert claim.target is not None and claim.control is not None
        assert not claim.target.holds(*claim.control.ends), claim.id


@pytest.mark.slow
def test_the_report_shows_every_method_and_where_features_were_found(report: Report) -> None:
    assert [figure.name for figure in report.blocks("figure")] == ["found-by-tokens", "found-by-seconds", "f1"]
    tables = {each.name: each for each in report.blocks("table")}
    assert set(tables) == {"apart", "together", "all-runs"}
    methods = {row[0] for row in tables["together"].rows}
    assert methods == {
        "batchtopk",
        "lista-matryoshka",
        "alternating",
        "k-SVD",
        "online lasso",
        "ICA",
        "PCA",
        "random dictionary",
    }
