"""A report that has one of everything, with chosen words in every field that takes words."""

import functools
from collections.abc import Callable

import numpy as np
import pandas as pd
import pytest

from interp import figures
from interp.report import AttentionView, Example, Feature, FeatureDashboard, Report, Rule, TokenView
from interp.stats import Estimate


def full_report(words: str) -> Report:
    report = Report("E99", f"title {words}", quick=True, seed=3)
    held = Estimate(0.9, 0.85, 0.95, 20)
    report.claim(
        "held",
        f"text {words}",
        held,
        at_least=0.8,
        unit=words,
        source=words,
        control=Estimate(0.1, 0.0, 0.2, 20),
        control_text=words,
    )
    report.not_run("skipped", f"other {words}", f"reason {words}", source=words)
    report.section(f"section {words}")
    report.text(f"{words}\n\n- {words}\n- `{words}`\n\n**{words}** *{words}*")
    table = pd.DataFrame({f"name {words}": [words, "plain"], "size": [1.0, np.nan]})
    report.table("facts", table, caption=words)
    report.figure("sizes", drawing(), caption=words, alt=words or "sizes", data=table)
    patterns = np.full((2, 2, 3, 3), 1 / 3)
    report.view(AttentionView(title=words, caption=words, tokens=[words, "b", "c"], patterns=patterns, scores={words: np.eye(2)}))
    report.view(TokenView(title=words, caption=words, tokens=[words, "b"], values={words: [0.1, -2.0]}, units={words: words}))
    report.view(dashboard(words))
    return report


@functools.cache
def drawing():
    return figures.bars(pd.DataFrame({"label": ["a", "b"], "value": [1, 2]}), "label", "value")


def dashboard(words: str) -> FeatureDashboard:
    examples = [Example(token_ids=[0, 1, 1], activations=[0.0, 2.5, 1.0], document=words, position=7, group=words)]
    feature = Feature(
        id=5,
        density=0.01,
        examples=examples,
        histogram=([3, 1], [0.0, 1.0, 2.0]),
        boosted=[(0, 1.5)],
        suppressed=[(1, -0.5)],
        neighbours={words: [(6, 0.4)]},
        labels=[(words, 0.97)],
        attribution=[(words, 0.2)],
        metrics={words: 0.3},
        rule=Rule(text=words, precision=0.9, recall=0.5, null_precision=0.1, null_recall=0.1),
        explanation=words,
    )
    plain = Feature(id=6, density=0.0)
    return FeatureDashboard(
        title=words,
        caption=words,
        noun=words,
        name="feature",
        features=[feature, plain],
        vocabulary=[words, "b"],
        tokens_scanned=1000,
        dead=1,
        label_score=words,
        attribution_score=words,
    )


@pytest.fixture(scope="session")
def report_about() -> Callable[[str], Report]:
    """Makes a report whose every field of words holds the given ones."""
    return full_report
