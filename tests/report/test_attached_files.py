"""A report can carry texts for other programs, in the page and in the run folder."""

import base64
import re

import pytest

from interp.errors import ReportError
from interp.report import Report, write

HOSTILE = "</script><script>alert(1)</script>\n"


def test_a_file_stands_in_the_run_folder_and_in_the_page(tmp_path):
    report = Report("E1", "Question")
    report.file("circuit.dot", HOSTILE, caption=f"for Graphviz {HOSTILE}")
    page = write(report, tmp_path, {}, seconds=1.0).read_text(encoding="utf-8")
    assert (tmp_path / "data" / "circuit.dot").read_text(encoding="utf-8") == HOSTILE
    (link,) = re.findall(r'download="circuit.dot" href="data:text/plain;charset=utf-8;base64,([^"]*)"', page)
    assert base64.b64decode(link).decode() == HOSTILE
    assert "alert(1)</script>" not in page


def test_a_long_file_is_linked_in_the_run_folder(tmp_path):
    report = Report("E1", "Question")
    report.file("circuit.json", "x" * 1_000_001, caption="all of it")
    page = write(report, tmp_path, {}, seconds=1.0).read_text(encoding="utf-8")
    assert 'href="data/circuit.json"' in page and len(page) < 500_000


@pytest.mark.parametrize("name", ["", "dot", "../up.dot", "A.dot", "a.dot/b", "a b.json"])
def test_names_that_are_no_files_are_refused_with_an_example(name):
    with pytest.raises(ReportError, match="use lower-case letters, digits and -, then an ending, such as 'circuit.dot'"):
        Report("E1", "Question").file(name, "x", caption="")


def test_a_file_is_there_once():
    report = Report("E1", "Question")
    report.file("a.dot", "x", caption="")
    with pytest.raises(ReportError, match=r"file 'a.dot' is in the report already"):
        report.file("a.dot", "y", caption="")
