"""Views of heads carry what was given, and refuse data that do not fit together."""

from __future__ import annotations

import base64
import gzip
import json

import numpy as np
import pytest

from interp.errors import ReportError
from interp.report.views import AttentionView, AttributionView


def header(view) -> dict:
    raw = gzip.decompress(base64.b64decode(view.payload()))
    return json.loads(raw[4 : 4 + int.from_bytes(raw[:4], "little")])


def values(view) -> np.ndarray:
    raw, said = gzip.decompress(base64.b64decode(view.payload())), header(view)["arrays"]["values"]
    return np.frombuffer(raw, "<f4", said["length"], 4 + int.from_bytes(raw[:4], "little") + said["offset"])


def attribution(**changes) -> AttributionView:
    brought = np.arange(6.0).reshape(2, 3) - 2
    given = {"tokens": list("abc"), "targets": [(1, "logit of b"), (2, "logit of c")], "groups": {"heads": {"L0H0": brought}}}
    return AttributionView(**(given | changes))


def test_an_attribution_comes_back_signed_and_in_order():
    view = attribution(
        groups={"heads": {"L0H0": np.ones((2, 3)), "L0H1": -np.eye(2, 3)}, "components": {"embed": np.zeros((2, 3))}}
    )
    said = header(view)
    assert said["parts"] == [["heads", "L0H0"], ["heads", "L0H1"], ["components", "embed"]]
    assert said["targets"] == [[1, "logit of b"], [2, "logit of c"]]
    np.testing.assert_array_equal(values(view).reshape(3, 2, 3)[1], -np.eye(2, 3))


def test_cross_attention_has_the_tokens_of_both_sides():
    said = header(AttentionView(tokens=list("ab"), keys=list("xyz"), patterns=np.full((1, 2, 2, 3), 1 / 3)))
    assert (said["tokens"], said["keys"], said["classes"]) == (["a", "b"], ["x", "y", "z"], None)


def test_every_head_has_its_class():
    said = header(AttentionView(tokens=["a"], patterns=np.ones((2, 2, 1, 1)), classes=[["none", "induction"], ["none", "none"]]))
    assert said["classes"] == ["none", "induction", "none", "none"]


@pytest.mark.parametrize(
    ("view", "error"),
    [
        (
            AttentionView(tokens=["a"], keys=["x", "y"], patterns=np.ones((1, 1, 1, 1))),
            "attention patterns have shape (1, 1, 1, 1); expected [layer, head, 1, 2] for 1 tokens and 2 keys",
        ),
        (
            AttentionView(tokens=["a"], patterns=np.ones((1, 2, 1, 1)), classes=[["none"]]),
            "classes do not fit [layer, head] = (1, 2); give one word per head",
        ),
        (attribution(targets=[]), "AttributionView has nothing to show; give at least one target and one part"),
        (attribution(groups={"heads": {}}), "AttributionView has nothing to show"),
        (attribution(targets=[(1, "x"), (3, "y")]), "target position 3 is not in the text; positions are 0 to 2"),
        (
            attribution(groups={"heads": {"L0H0": np.ones((2, 2))}}),
            "attributions of 'L0H0' have shape (2, 2); expected [target, token] = (2, 3)",
        ),
        (
            attribution(groups={"heads": {"L0H0": np.full((2, 3), np.nan)}}),
            "attributions of 'L0H0': 6 of 6 values are not finite",
        ),
        (
            attribution(tokens=["a"] * 600_000),
            "1 parts × 2 targets × 600000 tokens are more than 1,000,000 values; give fewer targets, or a shorter text",
        ),
    ],
)
def test_views_whose_data_do_not_fit_are_refused(view, error):
    with pytest.raises(ReportError) as caught:
        view.payload()
    assert str(caught.value).startswith(error)
