"""The verdict rule, its errors, and the ledger's entry of the contract."""

import json
import math

import numpy as np
import pytest

from interp.errors import ReportError
from interp.report import Report
from interp.report.claims import overall
from interp.report.ledger import bar
from interp.stats import Estimate

INTERVAL = Estimate(0.85, 0.80, 0.90, 50)


def claim(estimate, **target):
    return Report("E1", "t").claim("c", "text", estimate, **target)


@pytest.mark.parametrize(
    ("estimate", "target", "verdict", "text"),
    [
        (INTERVAL, {"at_least": 0.80}, "PASS", "≥ 0.80"),
        (INTERVAL, {"at_least": 0.81}, "FAIL", "≥ 0.81"),  # the value reaches it, the lower end does not
        (INTERVAL, {"at_most": 0.90}, "PASS", "≤ 0.90"),
        (INTERVAL, {"at_most": 0.89}, "FAIL", "≤ 0.89"),
        (INTERVAL, {"between": (0.8, 0.9)}, "PASS", "between 0.80 and 0.90"),
        (INTERVAL, {"between": (0.81, 1)}, "FAIL", "between 0.81 and 1"),
        (INTERVAL, {"between": (0, 0.89)}, "FAIL", "between 0 and 0.89"),
        (INTERVAL, {"equals": 0.86, "tolerance": 0.0625}, "PASS", "= 0.86 ± 0.0625"),
        (INTERVAL, {"equals": 0.86, "tolerance": 0.05}, "FAIL", "= 0.86 ± 0.05"),
        (0.81, {"at_least": 0.81}, "PASS", "≥ 0.81"),
        (np.float32(0.5), {"at_least": 0.51}, "FAIL", "≥ 0.51"),
        (3, {"equals": 3}, "PASS", "= 3"),
        (3.1, {"equals": 3}, "FAIL", "= 3"),
        (-2.5, {"at_most": -2}, "PASS", "≤ −2"),
    ],
)
def test_the_whole_interval_must_reach_the_target(estimate, target, verdict, text):
    made = claim(estimate, **target)
    assert (made.verdict, made.record()["target"]) == (verdict, text)


def test_an_interval_without_ends_fails_and_says_why_and_stays_strict_json():
    made = claim(Estimate(5.0, -math.inf, math.inf, 1), at_least=0.1)
    record = json.loads(json.dumps(made.record(), allow_nan=False))
    assert record["verdict"] == "FAIL"
    assert (record["value"], record["low"], record["high"]) == (5.0, None, None)
    assert "too few independent examples" in record["note"]


def test_the_record_is_the_contract():
    made = Report("E08", "t").claim(
        "prefix-score", "It matches", INTERVAL, at_least=0.8, unit="u", source="s", control=0.1, control_text="w"
    )
    assert made.record() == {
        "id": "E08.prefix-score",
        "text": "It matches",
        "value": 0.85,
        "low": 0.80,
        "high": 0.90,
        "target": "≥ 0.80",
        "unit": "u",
        "source": "s",
        "verdict": "PASS",
        "control": 0.1,
        "control_text": "w",
    }


def test_a_claim_that_was_not_run_has_no_numbers_but_a_reason():
    made = Report("E1", "t").not_run("c", "text", "needs a GPU")
    record = made.record()
    assert (record["verdict"], record["value"], record["target"], record["note"]) == ("NOT RUN", None, "", "needs a GPU")


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        ({"estimate": 1.0}, "claim E1.c: no target given; give one of at_least, at_most, between, equals"),
        ({"estimate": 1.0, "at_least": 1, "at_most": 2}, "claim E1.c: at_least and at_most given; give one of"),
        ({"estimate": 1.0, "at_least": 1, "tolerance": 0.1}, "claim E1.c: tolerance=0.1 goes with equals, not with at_least"),
        ({"estimate": 1.0, "between": (2, 1)}, "claim E1.c: between=(2, 1) is empty; give the lower end first"),
        ({"estimate": 1.0, "equals": 1, "tolerance": -0.1}, "claim E1.c: tolerance=-0.1 is negative; give a size, such as 0.1"),
        ({"estimate": 1.0, "at_least": math.nan}, "claim E1.c: at_least is nan; expected a finite number"),
        ({"estimate": math.inf, "at_least": 1}, "claim E1.c: value is inf; expected a finite number"),
        ({"estimate": np.ones(2), "at_least": 1}, "claim E1.c: value is array([1., 1.]); expected a number"),
        (
            {"estimate": Estimate(1.0, math.nan, 2.0, 3), "at_least": 1},
            "claim E1.c: value has the interval [nan, 2.0]; expected numbers",
        ),
        ({"estimate": 1.0, "at_least": 1, "control": math.nan}, "claim E1.c: control is nan; expected a finite number"),
    ],
)
def test_a_claim_that_cannot_be_judged_is_an_error_that_names_it(arguments, error):
    with pytest.raises(ReportError) as caught:
        claim(**arguments)
    assert str(caught.value).startswith(error)


def test_a_refused_claim_leaves_no_trace():
    report = Report("E1", "t")
    with pytest.raises(ReportError):
        report.claim("c", "text", math.nan, at_least=1)
    assert report.claims == []
    assert report.claim("c", "text", 1.0, at_least=1).verdict == "PASS"


@pytest.mark.parametrize(
    ("verdicts", "expected"),
    [
        ([], "NOT RUN"),
        (["PASS", "PASS"], "PASS"),
        (["PASS", "NOT RUN"], "NOT RUN"),
        (["PASS", "NOT RUN", "FAIL"], "FAIL"),
    ],
)
def test_a_run_passes_only_when_every_claim_does(verdicts, expected):
    assert overall(verdicts) == expected


@pytest.mark.parametrize("target", [{"at_least": 0.8}, {"at_most": 0.8}, {"between": (0.1, 0.2)}, {"equals": 0.85}])
def test_the_bar_draws_a_pass_inside_the_target_and_everything_on_the_axis(target):
    made = Report("E1", "t").claim("c", "text", INTERVAL, control=-4.0, **target)
    drawn = bar(made)
    assert drawn is not None and drawn.control is not None
    assert drawn.low <= drawn.value <= drawn.high
    assert all(0 <= place <= 200 for place in (drawn.low, drawn.high, drawn.control, drawn.accept_low, drawn.accept_high))
    assert (drawn.accept_low <= drawn.low and drawn.high <= drawn.accept_high) == (made.verdict == "PASS")
