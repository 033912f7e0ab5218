"""Shapes and types of every call inside `interp` are checked while tests run; files of slow tests go first, so that workers end
together; Chromium's absence is said aloud."""

import shutil
from collections import Counter

import pytest
from jaxtyping import install_import_hook

install_import_hook("interp", "typecheck.checked")

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")


def pytest_collection_modifyitems(items):
    slow = Counter(item.path for item in items if item.get_closest_marker("slow"))
    items.sort(key=lambda item: -slow[item.path])
    if CHROMIUM is None:
        for item in items:
            if item.get_closest_marker("browser"):
                item.add_marker(pytest.mark.skip(reason="no Chromium"))


def pytest_terminal_summary(terminalreporter):
    skipped = [report for report in terminalreporter.stats.get("skipped", []) if "no Chromium" in str(report.longrepr)]
    if skipped:
        terminalreporter.write_sep(
            "!", f"{len(skipped)} BROWSER TESTS DID NOT RUN: apt-get install chromium", red=True, bold=True
        )
