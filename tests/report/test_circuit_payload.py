"""What the drawing of a circuit carries, and what it refuses."""

import base64
import gzip
import json

import numpy as np
import pytest

from interp.errors import ReportError
from interp.report import CircuitView, Report

ROWS = {"input": 0, "a0.h0": 1, "logits": 2}


def unpacked(view):
    raw = gzip.decompress(base64.b64decode(view.payload()))
    length = int.from_bytes(raw[:4], "little")
    header = json.loads(raw[4 : 4 + length])
    arrays = {}
    for name, kind in (("source", "<u2"), ("target", "<u2"), ("weight", "<f4")):
        place = header["arrays"][name]
        arrays[name] = np.frombuffer(raw, kind, place["length"], 4 + length + place["offset"]).tolist()
    return header, arrays


def test_edges_travel_strongest_first_with_their_ends_by_number():
    edges = [("input", "a0.h0", "q", 0.5), ("a0.h0", "logits", "", -2.0), ("input", "logits", "", 1.0)]
    header, arrays = unpacked(CircuitView(rows=ROWS, edges=edges))
    assert header["nodes"] == ["input", "a0.h0", "logits"] and header["rows"] == [0, 1, 2]
    assert header["ways"] == ["", "", "q"]
    assert arrays == {"source": [1, 0, 0], "target": [2, 2, 1], "weight": [-2.0, 1.0, 0.5]}


@pytest.mark.parametrize(
    ("edges", "fault"),
    [
        ([], "a circuit of 0 edges cannot be drawn; give 1 to 2,000, the strongest"),
        ([("input", "logits", "", 1.0)] * 2001, "a circuit of 2,001 edges cannot be drawn"),
        ([("input", "a0.h1", "", 1.0)], r"the edge input->a0.h1 has no node 'a0.h1' in rows \(did you mean a0.h0"),
        ([("logits", "input", "", 1.0)], "the edge logits->input does not lead upwards: rows 2 and 0"),
        ([("input", "logits", "", float("nan"))], "weights of edges: 1 of 1 values are not finite"),
    ],
)
def test_what_cannot_be_drawn_is_refused(edges, fault):
    with pytest.raises(ReportError, match=fault):
        Report("E1", "t").view(CircuitView(rows=ROWS, edges=edges))
