"""What a report accepts, refuses, and keeps."""

import pandas as pd
import pytest

from interp import figures
from interp.errors import ReportError
from interp.report import Report, TokenView


@pytest.fixture
def report() -> Report:
    return Report("E1", "Question")


def test_every_kind_of_name_is_used_once(report):
    table = pd.DataFrame({"a": [1, 2]})
    drawing = figures.histogram(table, "a", bins=2)
    adds = {
        "claim 'E1.x'": lambda: report.claim("x", "t", 1.0, at_least=0),
        "section 'X'": lambda: report.section("X"),
        "table 'x'": lambda: report.table("x", table),
        "figure 'x'": lambda: report.figure("x", drawing, caption="c", alt="a", data=table),
        "view 'x'": lambda: report.view(TokenView(name="x", tokens=["a"], values={"v": [1.0]})),
    }
    for add in adds.values():
        add()
    for what, add in adds.items():
        with pytest.raises(ReportError, match=f"{what} is in the report already"):
            add()
    assert len(report.claims) == 1 and len(report.sections[-1].blocks) == 3


@pytest.mark.parametrize("slug", ["", "Prefix", "a b", "../up", "a/b", "-a", "ä"])
def test_names_that_are_no_slugs_are_refused_with_an_example(report, slug):
    with pytest.raises(ReportError, match="use lower-case letters, digits, - and _, such as 'prefix-score'"):
        report.claim(slug, "t", 1.0, at_least=0)
    with pytest.raises(ReportError, match="table name"):
        report.table(slug, [{"a": 1}])


def test_a_figure_must_say_what_it_shows(report):
    table = pd.DataFrame({"a": [1, 2]})
    with pytest.raises(ReportError, match="figure 'f' has no alt text; say in a sentence what it shows"):
        report.figure("f", figures.histogram(table, "a"), caption="c", alt=" ", data=table)


def test_a_reason_is_asked_of_a_claim_that_was_not_run(report):
    with pytest.raises(ReportError, match=r"claim E1\.c was not run, for no reason given"):
        report.not_run("c", "t", "")


def test_a_table_without_columns_is_refused(report):
    with pytest.raises(ReportError, match="table 't' has no columns"):
        report.table("t", [])


def test_a_long_table_is_cut_on_the_page_and_whole_in_its_csv(report):
    report.table("t", pd.DataFrame({"i": range(1000)}))
    (table,) = report.blocks("table")
    assert (len(table.rows), table.n_rows, table.csv.count("\n")) == (200, 1000, 1001)


def test_a_meaningful_index_becomes_a_column(report):
    report.table("t", pd.DataFrame({"a": [1.5]}, index=pd.Index(["row"], name="which")))
    (table,) = report.blocks("table")
    assert table.columns == ["which", "a"]
    assert table.csv == "which,a\nrow,1.5\n"


def test_the_caller_s_table_is_left_alone(report):
    frame = pd.DataFrame({"a": [1.5, 2.5]}, index=[7, 8])
    before = frame.copy()
    report.table("t", frame)
    pd.testing.assert_frame_equal(frame, before)
