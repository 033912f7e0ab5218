"""Circuits: the edges of a model's graph that a behaviour is said to need, and four ways to choose them.

A circuit is a frozenset of `graph.Edge`. By the effects of edges, however those were found: the strongest ones (`top`), all above
a threshold (`above`), or the strongest that reach the logits, grown from there (`greedy`). By trying: `pruned`, which takes
every edge out in turn. `connected` leaves out what no input reaches or no logit sees; under replacement by corrupted values that
changes nothing, because such an edge carries the corrupted value already, or carries it to where nobody looks. `drawn` is the
control: as many edges, grown as `greedy` grows them, by chance.

Must not know: how effects are found, how good a circuit is (`faithfulness`), figures, reports.
"""

from __future__ import annotations

import heapq
from collections import defaultdict
from collections.abc import Iterable, Mapping
from typing import TypeAlias

import numpy as np

from interp.errors import ConfigError
from interp.heads.graph import Edge, EdgeLike, Graph
from interp.heads.paths import Ready
from interp.measurement import Measurement
from interp.tasks.contrast import Metric

Circuit: TypeAlias = frozenset[Edge]


def strengths(graph: Graph, effects: Measurement) -> dict[Edge, float]:
    """Each edge's effect, mean over examples: (edge, example) with one value for every edge of the graph, in any order.

    Raises ConfigError for effects that are not finite, of no example axis, or of other edges than the graph's.
    """
    if effects.dims != ("edge", "example"):
        raise ConfigError(f"effects run over {effects.dims}; give them over ('edge', 'example')")
    means = effects.values.mean(1)
    if not np.isfinite(means).all():
        raise ConfigError(f"{int((~np.isfinite(means)).sum())} of {means.size} edges have effects that are not finite")
    found = dict(zip(graph.select(map(str, effects.coords["edge"])), means.tolist(), strict=True))
    if missing := [edge for edge in graph.edges if edge not in found]:
        raise ConfigError(f"{len(missing)} of {len(graph.edges)} edges have no effect given, such as {missing[0]}")
    return found


def ranked(graph: Graph, effects: Measurement) -> list[Edge]:
    """All edges, by |mean effect|, largest first; ties in the graph's order."""
    found = strengths(graph, effects)
    return sorted(graph.edges, key=lambda edge: -abs(found[edge]))


def top(graph: Graph, effects: Measurement, n: int) -> Circuit:
    """The `n` edges of the largest |mean effect|. Some may hang loose: see `connected`."""
    return frozenset(ranked(graph, effects)[: _count(graph, n)])


def above(graph: Graph, effects: Measurement, threshold: float) -> Circuit:
    """The edges whose |mean effect| is at least `threshold`."""
    return frozenset(edge for edge, strength in strengths(graph, effects).items() if abs(strength) >= threshold)


def greedy(graph: Graph, effects: Measurement, n: int) -> Circuit:
    """`n` edges grown from the logits: the strongest edge into what is reached so far, again and again.

    Every edge reaches the logits through others (Hanna et al. 2024, arXiv:2403.17806, §3.2). Fewer than `n` where the graph has
    no more.
    """
    return frozenset(grown(graph, strengths(graph, effects))[: _count(graph, n)])


def drawn(graph: Graph, n: int, generator: np.random.Generator) -> Circuit:
    """`n` edges grown from the logits at random: as `greedy`, with effects that are noise."""
    noise = dict(zip(graph.edges, generator.random(len(graph.edges)).tolist(), strict=True))
    return frozenset(grown(graph, noise)[: _count(graph, n)])


def grown(graph: Graph, strength: Mapping[Edge, float]) -> list[Edge]:
    """All edges that reach the logits, in the order in which `greedy` takes them."""
    place, into = {edge: number for number, edge in enumerate(graph.edges)}, _into(graph)
    waiting: list[tuple[float, int, Edge]] = []
    reached, order, met = set[str](), list[Edge](), set[Edge]()

    def reach(node: str) -> None:
        for edge in [] if node in reached else into[node]:
            if edge not in met:
                met.add(edge)
                heapq.heappush(waiting, (-abs(strength[edge]), place[edge], edge))
        reached.add(node)

    reach("logits")
    while waiting:
        edge = heapq.heappop(waiting)[2]
        order.append(edge)
        reach(edge.source)
    return order


def connected(graph: Graph, edges: Iterable[EdgeLike]) -> Circuit:
    """The edges on some path from an input to the logits that goes along these edges alone."""
    kept = set(graph.select(edges))
    while True:
        fed = {node for edge in kept for node in graph.readers[edge.target, edge.way].feeds}
        heard = {edge.source for edge in kept}
        loose = {
            edge
            for edge in kept
            if not (graph.writers[edge.source].sublayer is None or edge.source in fed)
            or not any(node == "logits" or node in heard for node in graph.readers[edge.target, edge.way].feeds)
        }
        if not loose:
            return frozenset(kept)
        kept -= loose


def pruned(ready: Ready, loss: Metric, threshold: float) -> Circuit:
    """What is left when every edge whose removal raises the loss by less than `threshold` is taken out, one after the other.

    Edges are tried from the logits backwards; one that is removed stays replaced. Those into a node that no longer reaches the
    logits go without a trial. `loss` is lower the better, as `Contrast.divergence` from the whole model's logits, and its mean
    over examples counts (ACDC, Conmy et al. 2023, arXiv:2304.14997, algorithm 1).

    Raises ConfigError for a threshold that is not above 0.
    """
    if threshold <= 0:
        raise ConfigError(f"threshold={threshold}; give one above 0, the rise in loss from which an edge stays")
    graph = ready.graph
    kept, out, now = set(graph.edges), set[Edge](), 0.0
    for edge in reversed(graph.edges):
        readers = graph.readers[edge.target, edge.way].feeds
        if "logits" in readers or any(other.source in readers for other in kept):
            without = float(ready.effects(loss, [{*out, edge}]).mean())
            if without - now >= threshold:
                continue
            now = without
        kept.discard(edge)
        out.add(edge)
    return frozenset(kept)


def levels(graph: Graph) -> dict[str, int]:
    """The level of every node, for drawings: inputs at 0, every other node above all that it may read."""
    level: dict[str, int] = {}
    into = _into(graph)
    for node in graph.nodes:
        level[node] = 1 + max((level[edge.source] for edge in into[node]), default=-1)
    return level


def links(graph: Graph, edge: EdgeLike) -> list[tuple[str, str, str]]:
    """(source, node, way) for every node that reads by this edge: several where query heads share keys and values."""
    known = graph.edge(edge)
    return [(known.source, node, known.way) for node in graph.readers[known.target, known.way].feeds]


def _into(graph: Graph) -> defaultdict[str, list[Edge]]:
    """Edges by the nodes that read them."""
    into: defaultdict[str, list[Edge]] = defaultdict(list)
    for edge in graph.edges:
        for node in graph.readers[edge.target, edge.way].feeds:
            into[node].append(edge)
    return into


def _count(graph: Graph, n: int) -> int:
    if not 0 <= n <= len(graph.edges):
        raise ConfigError(f"n={n} edges; the graph has {len(graph.edges)}, give 0 to {len(graph.edges)}")
    return n
