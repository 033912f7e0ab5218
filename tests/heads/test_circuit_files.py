"""Circuits as text: ours reads back to the same, DOT parses, circuit-tracer's schema is kept."""

import json
from typing import Any

import pydot
import pytest
from model_shapes import case_of

from interp.errors import ConfigError, ModelError
from interp.heads import circuit_files
from interp.heads.circuit_files import Found
from interp.heads.graph import Graph

EDGES = {"input->a0.h1<v>": 0.5, "a0.h1->a1.h0<k>": -1.25, "a0.h1->a1.h0<q>": 0.25, "a1.h0->m1": 2.0, "m1->logits": 1e-7}


def found(**more):
    settings = {"model": "toy", "fingerprint": "00ff", "method": "exact", "unit": "logits", "edges": EDGES} | more
    return Found(**settings)


@pytest.fixture(scope="module")
def graph():
    return Graph.of(case_of("native").model)


def test_a_circuit_in_json_reads_back_to_an_equal_one(graph):
    again = circuit_files.from_json(circuit_files.to_json(found()))
    assert again == found()
    assert {str(edge) for edge in again.circuit(graph)} == set(EDGES)


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("[]", "not a circuit in JSON"),
        ("{", "not a circuit in JSON"),
        ('{"format": "other"}', "not a circuit of format 'interp circuit 1'"),
        ('{"format": "interp circuit 1", "model": "x", "edges": {}}', "not a circuit in JSON.*fingerprint"),
        ('{"format": "interp circuit 1", "edges": {"a": "much"}}', "not a circuit in JSON.*much"),
    ],
)
def test_other_text_is_refused(text, fault):
    with pytest.raises(ConfigError, match=fault):
        circuit_files.from_json(text)


def test_edges_of_another_model_are_refused(graph):
    with pytest.raises(ModelError, match=r"no edge 'a7.h0->logits'"):
        found(edges={"a7.h0->logits": 1.0}).circuit(graph)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # pydot's own
def test_dot_parses_to_the_same_edges_and_ranks(graph):
    parsed: Any = (pydot.graph_from_dot_data(circuit_files.to_dot(graph, found())) or [None])[0]
    edges = {(e.get_source().strip('"'), e.get_destination().strip('"'), e.get("label").strip('"')) for e in parsed.get_edges()}
    assert edges == {
        ("input", "a0.h1", "v 0.5"),
        ("a0.h1", "a1.h0", "k -1.25"),
        ("a0.h1", "a1.h0", "q 0.25"),
        ("a1.h0", "m1", "2"),
        ("m1", "logits", "1e-07"),
    }
    dashed = [e.get("label") for e in parsed.get_edges() if e.get("style") == "dashed"]
    assert dashed == ['"k -1.25"'], "the one that lowers the metric"
    ranks = [[node.get_name().strip('"') for node in part.get_nodes()] for part in parsed.get_subgraphs()]
    assert ranks == [["input"], ["a0.h1"], ["a1.h0"], ["m1"], ["logits"]]


def test_circuit_tracer_s_graph_has_its_fields_and_no_loose_end(graph):
    record = json.loads(circuit_files.to_circuit_tracer(graph, found(), slug="toy", tokens=["a", " b"]))
    assert set(record) == {"metadata", "qParams", "nodes", "links"}
    assert {"slug", "scan", "transcoder_list", "prompt_tokens", "prompt", "schema_version"} <= set(record["metadata"])
    assert {"pinnedIds", "supernodes", "linkType", "clickedId", "sg_pos"} == set(record["qParams"])
    nodes = {node["node_id"]: node for node in record["nodes"]}
    assert len(nodes) == 5
    for node in nodes.values():
        assert {"feature", "layer", "ctx_idx", "feature_type", "jsNodeId", "clerp", "is_target_logit"} <= set(node)
        assert node["node_id"].split("_")[0] == node["layer"] and node["ctx_idx"] == 1
    weights = {(nodes[link["source"]]["clerp"], nodes[link["target"]]["clerp"]): link["weight"] for link in record["links"]}
    assert weights["a0.h1", "a1.h0"] == pytest.approx(-1.0), "queries and keys summed"
    kinds = {node["clerp"]: (node["layer"], node["feature_type"]) for node in nodes.values()}
    assert kinds == {
        "input": ("E", "embedding"),
        "a0.h1": ("0", "attention head"),
        "a1.h0": ("1", "attention head"),
        "m1": ("1", "mlp"),
        "logits": ("3", "logit"),
    }


def test_an_edge_into_a_group_is_drawn_to_every_head_of_it():
    graph = Graph.of(case_of("gated").model)
    dot = circuit_files.to_dot(graph, found(edges={"input->a0.kv0<k>": 1.0}))
    assert '"input" -> "a0.h0"' in dot and '"input" -> "a0.h1"' in dot and "kv" not in dot
