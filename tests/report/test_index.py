"""The index is rebuilt from what the runs left behind, whatever state they are in."""

import json
import re

import html5lib
import pytest

from interp.errors import ReportError
from interp.report import Report, rebuild_index, write


def index(folder):
    text = rebuild_index(folder).read_text(encoding="utf-8")
    return text, html5lib.parse(text, namespaceHTMLElements=False)


def rows(parsed):
    (body,) = parsed.iter("tbody")
    return body


def run(folder, experiment, *, value=1.0, title="Question"):
    report = Report(experiment, title)
    report.claim("c", "text", value, at_least=0.5)
    write(report, folder, {}, seconds=75)


def test_each_run_is_a_row_with_its_verdict_and_a_relative_link(tmp_path):
    run(tmp_path / "b" / "2", "E2", value=0.1)
    run(tmp_path / "a run" / "1", "E1")
    _, parsed = index(tmp_path)
    read = [" ".join("".join(row.itertext()).split()) for row in rows(parsed).iter("tr")]
    assert [re.sub(r"\d{4}-\d\d-\d\d \d\d:\d\d", "DATE", row) for row in read] == [
        "E1 Question ✓ PASS 1 pass DATE 1 min 15 s 0 JSON",
        "E2 Question ✗ FAIL 1 fail DATE 1 min 15 s 0 JSON",
    ]
    links = [node.attrib["href"] for node in rows(parsed).iter("a")]
    assert links == ["./a%20run/1/report.html", "./a%20run/1/result.json", "./b/2/report.html", "./b/2/result.json"]


def test_the_first_figure_is_the_thumbnail_and_is_in_the_file(report_about, tmp_path):
    write(report_about("x"), tmp_path / "run", {}, seconds=1)
    _, parsed = index(tmp_path)
    (image,) = parsed.iter("img")
    assert image.attrib["src"].startswith("data:image/svg+xml;base64,")


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("{", "JSONDecodeError"),
        ("[]", "TypeError"),
        ("{}", "KeyError: 'schema'"),
        ('{"schema": 2}', "ReportError: schema 2, expected 1"),
    ],
)
def test_a_broken_result_is_listed_and_does_not_hide_the_others(tmp_path, text, reason):
    run(tmp_path / "good", "E1")
    (tmp_path / "bad").mkdir()
    (tmp_path / "bad" / "result.json").write_text(text)
    shown, parsed = index(tmp_path)
    assert len(list(rows(parsed).iter("tr"))) == 1
    (listed,) = ("".join(section.itertext()) for section in parsed.iter("section"))
    assert "bad/result.json" in listed and reason in listed


def test_a_result_cannot_reach_outside_its_folder_or_inject(tmp_path):
    run(tmp_path / "run", "E1")
    (tmp_path / "secret.svg").write_text("secret")
    path = tmp_path / "run" / "result.json"
    result = json.loads(path.read_text())
    result |= {"title": "<script>alert(1)</script>", "experiment": "<b>", "figures": [{"path": "../secret.svg"}]}
    path.write_text(json.dumps(result))
    _, parsed = index(tmp_path)
    assert not list(parsed.iter("img")) and not list(parsed.iter("b"))[4:]
    assert len(list(parsed.iter("script"))) == 1


def test_an_index_of_nothing_says_so(tmp_path):
    assert "No runs yet." in index(tmp_path)[0]
    with pytest.raises(ReportError, match="there is no reports folder .*nowhere; run an experiment first"):
        rebuild_index(tmp_path / "nowhere")
