"""Ways to choose a circuit find the one that was built in; what hangs loose does nothing; faithfulness is what it says."""

from dataclasses import replace

import numpy as np
import pytest
from model_shapes import case_of

from interp import stats
from interp.errors import ConfigError, ModelError
from interp.heads import circuits, faithfulness, paths
from interp.heads.faithfulness import Curve, Kept
from interp.heads.graph import Edge, Graph
from interp.measurement import Measurement
from interp.models import compiled
from interp.tasks.contrast import Contrast

METRIC = Contrast.logit_difference


@pytest.fixture(scope="module")
def built():
    return compiled.induction(noise=0.01)


@pytest.fixture(scope="module")
def graph(built):
    return Graph.of(built.model)


@pytest.fixture(scope="module")
def contrast(built):
    return built.contrast(24, seed=0)


@pytest.fixture(scope="module")
def ready(built, graph, contrast):
    return paths.Ready(built.model, graph, contrast)


@pytest.fixture(scope="module")
def effects(built, contrast):
    return paths.effects(built.model, contrast, METRIC)


@pytest.fixture(scope="module")
def truth(built, graph):
    return frozenset(graph.select(built.circuits["corrupt"]))


# ---- choosing ----


@pytest.mark.parametrize("choose", [circuits.top, circuits.greedy])
def test_the_five_strongest_edges_are_the_circuit_that_was_built_in(choose, graph, effects, truth):
    assert choose(graph, effects, 5) == truth


def test_a_threshold_keeps_what_is_at_least_that_strong(graph, effects):
    strength = circuits.strengths(graph, effects)
    fifth = abs(strength[circuits.ranked(graph, effects)[4]])
    assert circuits.above(graph, effects, fifth) == circuits.top(graph, effects, 5)
    assert circuits.above(graph, effects, np.nextafter(fifth, np.inf)) == circuits.top(graph, effects, 4)


def test_pruning_leaves_the_circuit_that_was_built_in_and_fewer_edges_the_higher_the_threshold(built, graph, contrast, truth):
    whole = contrast.at_positions(built.model.run(contrast.clean).logits)
    ready = paths.Ready(built.model, graph, replace(contrast, reference=whole))
    found = [circuits.pruned(ready, Contrast.divergence, threshold) for threshold in (0.05, 1e9)]
    assert found == [truth, frozenset()]


class Accumulating(paths.Ready):
    """Every edge that is out costs as much as any other."""

    def __init__(self, graph):
        self.graph = graph

    def effects(self, metric, sets):
        return np.array([[0.04 * len(list(edges))] for edges in sets])


def test_pruning_holds_every_edge_against_what_is_left_not_against_the_whole(graph):
    assert circuits.pruned(Accumulating(graph), METRIC, 0.05) == frozenset()
    assert circuits.pruned(Accumulating(graph), METRIC, 0.04 - 1e-9) == frozenset(graph.edges)


def test_every_edge_of_a_greedy_circuit_reaches_the_logits_and_larger_ones_hold_smaller_ones(graph, effects):
    noise = replace(effects, values=np.random.default_rng(0).normal(size=effects.values.shape))
    before = frozenset()
    for n in range(0, 81, 8):
        found = circuits.greedy(graph, noise, n)
        assert len(found) == n and before <= found
        sources = {edge.source for edge in found}
        assert all(edge.target == "logits" or edge.target in sources for edge in found)
        before = found


def test_greedy_takes_a_weak_bridge_where_the_strongest_edges_hang_loose(graph, effects):
    strong = {"input->a0.h2<v>": 9.0, "a0.h2->a1.h3<k>": 8.0, "a1.h3->logits": 0.1, "a1.h0->logits": 5.0}
    values = np.array([[strong.get(str(edge), 0.0)] for edge in graph.edges])
    planted = Measurement("edge effect", values, ("edge", "example"), {"edge": list(map(str, graph.edges))})
    names = {str(edge) for edge in circuits.greedy(graph, planted, 4)}
    assert names == set(strong)
    assert circuits.connected(graph, circuits.top(graph, planted, 2)) == frozenset()


def test_a_random_circuit_reaches_the_logits_and_follows_its_generator(graph):
    one, same, other = (circuits.drawn(graph, 12, stats.generator(seed, "circuit")) for seed in (0, 0, 1))
    assert one == same != other and len(one) == 12


def test_taking_out_what_hangs_loose_changes_no_logit(graph, ready):
    for seed in range(3):
        chosen = stats.generator(seed, "edges").permutation(len(graph.edges))[:25]
        circuit = frozenset(graph.edges[i] for i in chosen)
        kept = circuits.connected(graph, circuit)
        assert kept < circuit
        everything = frozenset(graph.edges)
        logits = [ready.logits(everything - each) for each in (circuit, kept)]
        assert (logits[0] - logits[1]).abs().max() < 1e-4


def test_with_shared_keys_an_edge_into_the_group_serves_every_head_of_it():
    graph = Graph.of(case_of("gated").model)
    chain = ["input->a0.kv0<v>", "a0.h1->logits"]
    assert {str(edge) for edge in circuits.connected(graph, chain)} == set(chain)
    assert circuits.links(graph, chain[0]) == [("input", "a0.h0", "v"), ("input", "a0.h1", "v")]


@pytest.mark.parametrize("shape", ["native", "neox", "t5"])
def test_every_edge_leads_to_a_higher_level(shape):
    graph = Graph.of(case_of(shape).model)
    level = circuits.levels(graph)
    assert set(level) == set(graph.nodes)
    assert all(level[source] < level[node] for edge in graph.edges for source, node, _ in circuits.links(graph, edge))
    assert {level[name] for name in graph.nodes if name.endswith("input")} == {0}


@pytest.mark.parametrize(
    ("break_it", "fault"),
    [
        (lambda e: replace(e, dims=("edge", "pos")), r"effects run over \('edge', 'pos'\); give them over"),
        (lambda e: replace(e, values=e.values * np.nan), "81 of 81 edges have effects that are not finite"),
        (lambda e: replace(e, values=e.values[:3], coords={"edge": e.coords["edge"][:3]}), "78 of 81 edges have no effect given"),
    ],
)
def test_effects_that_do_not_fit_the_graph_are_refused(break_it, fault, graph, effects):
    with pytest.raises(ConfigError, match=fault):
        circuits.top(graph, break_it(effects), 3)


def test_edges_thresholds_and_numbers_that_cannot_be_are_refused(graph, effects, ready):
    with pytest.raises(ConfigError, match="n=82 edges; the graph has 81, give 0 to 81"):
        circuits.top(graph, effects, 82)
    with pytest.raises(ConfigError, match="threshold=0; give one above 0"):
        circuits.pruned(ready, METRIC, 0)
    with pytest.raises(ModelError, match="no edge 'a0.h9->logits'"):
        circuits.connected(graph, ["a0.h9->logits"])


# ---- how good one is ----


def test_the_circuit_that_was_built_in_keeps_all_and_its_complement_nothing(ready, truth):
    (f,) = faithfulness.kept(ready, METRIC, [truth]).faithfulness()
    assert f.value == pytest.approx(1, abs=0.02) and f.low > 0.95
    assert faithfulness.completeness(ready, METRIC, truth).value == pytest.approx(1, abs=0.05)


def test_faithfulness_is_the_metric_kept_over_the_metric_to_keep(built, graph, contrast, ready):
    half = frozenset(graph.edges[::2])
    found = faithfulness.kept(ready, METRIC, [half, frozenset(), frozenset(graph.edges)])
    runs = [paths.run_with(built.model, graph, contrast, frozenset(graph.edges) - each) for each in (half, frozenset())]
    of_half, of_none = (METRIC(contrast, logits).mean() for logits in runs)
    of_all, of_twin = (METRIC(contrast, built.model.run(tokens).logits).mean() for tokens in (contrast.clean, contrast.corrupt))
    assert float(of_none) == pytest.approx(float(of_twin), abs=1e-3), "with no edge kept it is the corrupted run"
    assert [f.value for f in found.faithfulness()] == pytest.approx(
        [float((of_half - of_none) / (of_all - of_none)), 0, 1], abs=1e-4
    )


def test_an_edge_s_share_is_what_is_lost_without_it_and_an_idle_one_has_none(graph, ready, truth):
    idle = graph.edge("a0.h2->logits")
    shares = faithfulness.minimality(ready, METRIC, truth | {idle}).mean("example")
    by_edge = dict(zip(shares.coords["edge"], shares.values, strict=True))
    assert abs(by_edge.pop(str(idle))) < 0.01
    assert min(by_edge.values()) > 0.3


def test_random_circuits_of_the_same_size_keep_less(graph, ready):
    generator = stats.generator(0, "random circuits")
    drawn = [circuits.drawn(graph, 5, generator) for _ in range(10)]
    assert np.mean([f.value for f in faithfulness.kept(ready, METRIC, drawn).faithfulness()]) < 0.2


def a_curve(f, shares=(0.0, 0.5, 1.0), examples=6):
    whole = np.linspace(1, 2, examples)
    return Curve(shares, tuple(range(len(shares))), Kept(np.outer(f, whole), whole))


def test_areas_under_a_curve_are_those_of_its_trapezoids():
    found = a_curve([0.0, 1.5, 1.0])
    assert found.cpr().value == pytest.approx(0.5 * 0.75 + 0.5 * 1.25)
    assert found.cmd().value == pytest.approx(0.5 * 0.75 + 0.5 * 0.25), "too much counts against it as too little does"
    assert found.cmd().low == pytest.approx(found.cmd().high), "every example has the same f here"


def test_a_curve_that_keeps_all_from_the_start_has_no_distance():
    assert (a_curve([1.0, 1.0, 1.0]).cpr().value, a_curve([1.0, 1.0, 1.0]).cmd().value) == pytest.approx((1.0, 0.0))


def test_the_curve_of_the_built_in_circuit_rises_as_soon_as_it_can(graph, ready, effects):
    found = faithfulness.curve(ready, METRIC, lambda n: circuits.greedy(graph, effects, n))
    assert found.sizes == (0, 0, 0, 1, 2, 4, 8, 16, 40, 81)
    assert found.cpr().low > 0.9 and found.cmd().high < 0.1


def test_a_metric_that_the_corruption_does_not_change_on_the_whole_is_refused(ready):
    def balanced(contrast, logits):
        return contrast.logit_difference(logits) * (1 - 2 * (contrast.clean[:, 1] % 2))

    with pytest.raises(
        ConfigError, match=r"with all edges the metric is .* above that with none, which may be 0: there is nothing"
    ):
        faithfulness.kept(ready, balanced, [frozenset()])


def test_shares_that_do_not_rise_are_refused(ready):
    with pytest.raises(ConfigError, match=r"shares=\(0.5, 0.1\); give two or more that rise, from 0 to 1"):
        faithfulness.curve(ready, METRIC, lambda n: frozenset[Edge](), shares=(0.5, 0.1))
