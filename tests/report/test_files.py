"""The run folder is whole or not finished, and result.json is a contract."""

import errno
import json
import os

import pytest

from interp.errors import ReportError
from interp.report import Report, files, write


def test_the_folder_holds_what_the_report_says(report_about, tmp_path):
    page = write(report_about("x"), tmp_path / "run", {"command": "c"}, seconds=1.0)
    found = sorted(path.relative_to(tmp_path / "run").as_posix() for path in (tmp_path / "run").rglob("*") if path.is_file())
    assert found == ["data/facts.csv", "data/figure-sizes.csv", "figures/sizes.svg", "report.html", "result.json"]
    assert page == tmp_path / "run" / "report.html"


def test_result_json_is_the_contract(report_about, tmp_path):
    write(report_about("x"), tmp_path, {}, seconds=12.34567)
    result = json.loads((tmp_path / "result.json").read_text(), parse_constant=lambda name: pytest.fail(f"{name} is not JSON"))
    assert list(result) == ["schema", "experiment", "title", "quick", "seed", "seconds", "claims", "tables", "figures"]
    assert (result["schema"], result["experiment"], result["quick"], result["seed"], result["seconds"]) == (
        1,
        "E99",
        True,
        3,
        12.346,
    )
    contract = {"id", "text", "value", "low", "high", "target", "unit", "source", "verdict"}
    assert all(contract <= set(claim) for claim in result["claims"])
    assert [claim["verdict"] for claim in result["claims"]] == ["PASS", "NOT RUN"]
    assert result["tables"] == [{"name": "facts", "caption": "x", "path": "data/facts.csv", "data": "data/facts.csv"}]
    assert result["figures"] == [{"name": "sizes", "caption": "x", "path": "figures/sizes.svg", "data": "data/figure-sizes.csv"}]
    assert all((tmp_path / entry[key]).is_file() for entry in result["tables"] + result["figures"] for key in ("path", "data"))


def test_result_json_is_written_last(report_about, tmp_path, monkeypatch):
    written = []
    monkeypatch.setattr(files, "write_text", lambda path, text: written.append(path.name))
    write(report_about("x"), tmp_path, {}, seconds=1.0)
    assert written[-2:] == ["report.html", "result.json"]


def test_a_full_disk_is_one_clear_line_and_loses_nothing_written_before(tmp_path, monkeypatch):
    write(Report("E1", "old"), tmp_path, {}, seconds=1.0)
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}

    def full(*_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "replace", full)
    with pytest.raises(
        ReportError, match=r"cannot write .*report.html: No space left on device; free space or choose another folder"
    ):
        write(Report("E1", "new"), tmp_path, {}, seconds=1.0)
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_a_folder_that_cannot_be_made_is_one_clear_line(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(ReportError, match="cannot write"):
        write(Report("E1", "t"), tmp_path / "file" / "run", {}, seconds=1.0)
