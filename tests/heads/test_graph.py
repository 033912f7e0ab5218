"""Nodes and edges: their names, and that an edge stands exactly where writing reaches reading."""

import pytest
from edge_cases import contrast_of, put, shaken

from interp.errors import ModelError
from interp.heads.graph import Edge, Graph

ORDER = {
    "attention-only": ["input", "a0.h0", "a0.h1", "a1.h0", "a1.h1", "logits"],
    "gpt2": ["input", "a0.h0", "a0.h1", "m0", "a1.h0", "a1.h1", "m1", "logits"],
    "t5": [
        *("enc.input", "enc.a0.h0", "enc.a0.h1", "enc.m0", "enc.a1.h0", "enc.a1.h1", "enc.m1"),
        *("dec.input", "dec.a0.h0", "dec.a0.h1", "dec.c0.h0", "dec.c0.h1", "dec.m0"),
        *("dec.a1.h0", "dec.a1.h1", "dec.c1.h0", "dec.c1.h1", "dec.m1", "logits"),
    ],
}


def graph_of(shape):
    return Graph.of(shaken(shape))


@pytest.mark.parametrize("shape", ORDER)
def test_nodes_are_named_in_the_order_in_which_they_compute(shape):
    assert list(graph_of(shape).nodes) == ORDER[shape]


@pytest.mark.parametrize("shape", ["native", "neox", "llama", "bert", "t5", "vaswani"])
def test_an_edge_stands_exactly_where_a_changed_write_changes_a_read_with_all_else_held(shape):
    model, graph, contrast = shaken(shape), graph_of(shape), contrast_of(shape)
    sublayers = graph.anatomy.sublayers
    entries = {reader.way.hook for reader in graph.readers.values()}
    hooks = [*entries, *(s.out for s in sublayers), *(writer.hook for writer in graph.writers.values())]
    clean = model.run(contrast.clean, read=hooks, **contrast.beside).activations
    for source, writer in graph.writers.items():
        held = [put(s.out, None, clean[s.out]) for s in sublayers if s != writer.sublayer]
        edits = [*held, put(writer.hook, writer.head, clean[writer.hook].flip(1) + 0.1)]
        seen = model.run(contrast.clean, read=[*entries], edits=edits, logits=True, **contrast.beside).activations
        reached = {hook for hook in entries if (seen[hook] - clean[hook]).abs().max() > 1e-4 * clean[hook].abs().max()}
        assert reached == {graph.readers[edge.target, edge.way].way.hook for edge in graph.out_of(source)}


def test_an_edge_is_found_by_its_name_and_named_by_its_parts():
    graph = graph_of("gpt2")
    assert graph.edge("a0.h1->a1.h0<k>") == Edge("a0.h1", "a1.h0", "k")
    assert str(Edge("m0", "logits")) == "m0->logits"
    assert graph.select(["input->m0", Edge("m0", "m1"), "input->m0"]) == (Edge("input", "m0"), Edge("m0", "m1"))
    assert graph.select(map(str, graph.edges)) == graph.edges


def test_heads_that_share_keys_read_them_as_one():
    graph = graph_of("llama")
    assert Edge("a0.h3", "a1.kv1", "k") in graph.edges
    assert graph.readers["a1.kv1", "k"].feeds == ("a1.h2", "a1.h3")
    assert {str(edge) for edge in graph.into("a1.h3") if edge.source == "m0"} == {
        "m0->a1.h3<q>",
        "m0->a1.kv1<k>",
        "m0->a1.kv1<v>",
    }


def test_cross_attention_joins_the_streams():
    edges = {str(edge) for edge in graph_of("t5").edges}
    assert {"enc.m1->dec.c0.h0<v>", "enc.input->dec.c1.h1<k>", "dec.a0.h0->dec.c0.h0<q>"} <= edges
    assert not {"dec.input->dec.c0.h0<k>", "enc.m1->dec.a1.h0<q>", "enc.m1->logits"} & edges


def test_edges_from_a_node_and_into_it_make_up_the_graph():
    graph = graph_of("gpt2")
    assert sorted(edge for node in graph.writers for edge in graph.out_of(node)) == sorted(graph.edges)
    assert sorted(edge for node in graph.nodes for edge in graph.into(node)) == sorted(graph.edges)


@pytest.mark.parametrize(
    ("shape", "name", "fault"),
    [
        ("gpt2", "a0.h1", r"'a0\.h1' names no edge; write it as 'input->a0\.h0<q>'"),
        ("gpt2", "a0.h7->m0", r"no node 'a0\.h7' writes \(did you mean a0\.h1, a0\.h0"),
        ("gpt2", "m0->a1.h2<q>", r"no node 'a1\.h2' reads \(did you mean a1\.h1, a1\.h0"),
        ("gpt2", "logits->m0", r"no node 'logits' writes"),
        ("gpt2", "m1->m0", r"m0 does not read what m1 writes, but only what stands before it in its stream"),
        ("gpt2", "a0.h0->a0.h1<q>", r"a0\.h1 does not read what a0\.h0 writes"),
        ("neox", "a0.h0->m0", r"m0 does not read what a0\.h0 writes"),
        ("gpt2", "m0->a1.h1", r"a1\.h1 does not read without a way; it reads by q, k, v"),
        ("gpt2", "m0->m1<q>", r"m1 does not read by q; it reads without a way, as m0->m1"),
        ("llama", "m0->a1.h3<v>", r"a1\.h3 does not read by v; its group reads as one, as m0->a1\.kv1<v>"),
        ("t5", "enc.m1->dec.m0", r"dec\.m0 does not read what enc\.m1 writes"),
    ],
)
def test_an_edge_that_does_not_exist_is_refused_with_the_reason(shape, name, fault):
    with pytest.raises(ModelError, match=fault):
        graph_of(shape).edge(name)


def test_all_faults_are_told_at_once_and_a_single_name_is_no_list():
    graph = graph_of("gpt2")
    with pytest.raises(ModelError, match=r"'a9\.h0' writes.*; no edge 'm1->m0'"):
        graph.select(["a9.h0->m0", "m1->m0", "m0->m1"])
    with pytest.raises(ModelError, match=r"and 3 more$"):
        graph.select([f"m1->a0.h{head}<q>" for head in range(8)])
    with pytest.raises(ModelError, match=r"the single edge 'm0->m1'; write \['m0->m1'\]"):
        graph.select("m0->m1")
    with pytest.raises(ModelError, match=r"no node 'a1\.h5' \(did you mean a1\.h1"):
        graph.into("a1.h5")
