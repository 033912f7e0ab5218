"""`interp heads`: a report on all heads of any kind of model; what a kind cannot be asked is said; bad input in one line."""

from __future__ import annotations

import json
import re

import pandas as pd
import pytest
from model_shapes import case_of

from interp import cli
from interp.experiment.run import finished_runs

SMALL = ("--rows", "8", "--length", "32", "--detailed", "1")


def interp(*argv, capsys):
    """Exit code, stdout and stderr of `interp heads` with these arguments."""
    code = cli.main(["heads", *argv])
    said = capsys.readouterr()
    return code, said.out, said.err


def claims(folder):
    return {claim["id"]: claim for claim in json.loads((folder / "result.json").read_text())["claims"]}


def text_of(folder):
    return (folder / "report.html").read_text(encoding="utf-8")


@pytest.mark.slow
def test_heads_of_the_shipped_model_are_classed_and_agree_with_its_weights(tmp_path, capsys):
    text = "left = Quorn(mud, zip)\nright = Quorn(mud,"
    code, _, _ = interp("stdlib-4l", "--text", text, "--rows", "12", "--length", "64", "--out", str(tmp_path), capsys=capsys)
    assert code == 0
    (folder,) = finished_runs(tmp_path)
    found = pd.read_csv(folder / "data" / "classes.csv", keep_default_na=False)
    assert len(found) == 24
    kinds = found.groupby("class")["head"].count()
    assert kinds["induction"] >= 4 and kinds["previous_token"] >= 2
    made = claims(folder)
    assert {name: made[f"HEADS.{name}"]["verdict"] for name in ("classes", "ablation", "partners")} == dict.fromkeys(
        ("classes", "ablation", "partners"), "PASS"
    )
    assert made["HEADS.classes"]["control"] == 0
    assert "What each token brings" in text_of(folder) and "Not for this model" not in text_of(folder)


@pytest.mark.slow
@pytest.mark.parametrize("shape", ["bert", "t5", "llama"])
def test_any_kind_of_model_is_served_and_what_it_cannot_be_asked_is_said(shape, tmp_path, capsys):
    case_of(shape).model.save(tmp_path / "model")
    code, _, err = interp(str(tmp_path / "model"), *SMALL, "--out", str(tmp_path / "runs"), capsys=capsys)
    assert code == 1, err  # an untrained model has no classes, and the ledger says so
    (folder,) = finished_runs(tmp_path / "runs")
    attentions = set(pd.read_csv(folder / "data" / "classes.csv").attention)
    assert attentions == ({"encoder", "decoder", "cross"} if shape == "t5" else {"self"})
    assert len(re.findall("Not for this model", text_of(folder))) == (0 if shape == "llama" else 2)
    assert claims(folder)["HEADS.classes"]["verdict"] == "FAIL"


@pytest.mark.parametrize(
    ("argv", "fault"),
    [
        ([], "usage: interp heads MODEL"),
        (["induction-0l"], r"induction-0l.*did you mean induction-"),
        (["stdlib-4l", "--text", "x", "--corpus", "stdlib"], "--text and --corpus name different texts to look at; give one"),
        (["stdlib-4l", "--rows", "1"], "--rows 1 is too few; give 2 or more"),
        (["stdlib-4l", "--text", "x"], "the text is 1 tokens of stdlib-4l; give 2 to 95"),
        (["induction-2l", "--text", "a b c"], "induction-2l has no tokenizer to read text with; leave the text out, or give a"),
        (["stdlib-4l", "--corpus", "nowhere.txt"], "nowhere.txt"),
        (["stdlib-4l", "--prompts", "none"], "prompts"),
    ],
)
def test_bad_input_gives_one_line_and_exit_code_2(argv, fault, tmp_path, capsys):
    out = ["--out", str(tmp_path)] if argv else []
    code, said, err = interp(*argv, *out, capsys=capsys)
    assert (code, said) == (2, "")
    assert err.count("\n") == 1 and re.search(fault, err), err
