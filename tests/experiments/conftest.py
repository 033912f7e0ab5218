"""Fixtures of the experiments' tests."""

import pytest

from interp import figures
from interp.report import Report


@pytest.fixture
def without_figures(monkeypatch):
    """Sections report their claims and draw nothing: for tests of many seeds, where drawing would take most of the time."""
    for drawn in ("lines", "bars", "heatmap", "histogram", "scatter"):
        monkeypatch.setattr(figures, drawn, lambda *args, **options: None)
    monkeypatch.setattr(Report, "figure", lambda *args, **options: None)
