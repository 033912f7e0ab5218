"""A circuit as text that other programs read: our own JSON, which can be read back, DOT, and circuit-tracer's graph JSON.

Where query heads share keys and values, an edge into the group is drawn to every head of it, with the same weight.

Must not know: folders, how a circuit was found, figures, reports.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import groupby
from typing import Any

from interp.errors import ConfigError
from interp.heads.circuits import Circuit, levels, links
from interp.heads.graph import Graph

FORMAT = "interp circuit 1"


@dataclass(frozen=True, kw_only=True)
class Found:
    """A circuit; the model, by name and fingerprint, and how it was found there.

    edges: by name, what each brings: the metric with it, less that with it replaced. An effect with its sign turned.
    """

    model: str
    fingerprint: str
    method: str
    unit: str
    edges: Mapping[str, float]

    def circuit(self, graph: Graph) -> Circuit:
        """The edges as those of a graph. Raises ModelError for edges that it has not."""
        return frozenset(graph.select(self.edges))


def to_json(found: Found) -> str:
    """JSON that `from_json` reads back to an equal value."""
    return json.dumps({"format": FORMAT} | asdict(found), indent=1, ensure_ascii=False, allow_nan=False) + "\n"


def from_json(text: str) -> Found:
    """What `to_json` wrote. Raises ConfigError for anything else."""
    try:
        record = json.loads(text)
        if record.pop("format") != FORMAT:
            raise ConfigError(f"not a circuit of format {FORMAT!r}")
        return Found(**record | {"edges": {str(edge): float(weight) for edge, weight in record["edges"].items()}})
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        if isinstance(error, ConfigError):
            raise
        raise ConfigError(f"not a circuit in JSON, as `to_json` writes it: {error}") from None


def to_dot(graph: Graph, found: Found) -> str:
    """A Graphviz graph: inputs at the bottom, a rank per level, widths by what an edge brings, dashed where it takes away."""
    drawn = _drawn(graph, found)
    used = {node for source, target, _, _ in drawn for node in (source, target)}
    largest = max((abs(weight) for *_, weight in drawn), default=0.0) or 1.0
    level = levels(graph)
    nodes = sorted(used, key=lambda node: (level[node], graph.nodes.index(node)))
    lines = ["digraph circuit {", "  rankdir=BT;", "  node [shape=box, fontname=monospace];"]
    for _, same in groupby(nodes, key=level.__getitem__):
        lines.append(f"  {{ rank=same; {' '.join(f'{_quoted(node)};' for node in same)} }}")
    for source, target, way, weight in drawn:
        style = f"style={'dashed' if weight < 0 else 'solid'}, penwidth={0.5 + 4 * abs(weight) / largest:.2f}"
        label = _quoted(f"{way} {weight:.3g}".strip())
        lines.append(f"  {_quoted(source)} -> {_quoted(target)} [label={label}, weight={_rank(weight, largest)}, {style}];")
    return "\n".join([*lines, "}", ""])


def to_circuit_tracer(graph: Graph, found: Found, *, slug: str, tokens: Sequence[str]) -> str:
    """The graph JSON of circuit-tracer and Neuronpedia (schema version 1): metadata, qParams, nodes, links.

    What an edge brings is summed over positions here, so every node stands at the last of `tokens`, the display strings of an
    example. The ways by which a head reads are summed, because a link has none.
    """
    drawn = _drawn(graph, found)
    used = [node for node in graph.nodes if any(node in (source, target) for source, target, _, _ in drawn)]
    ids = {node: _identity(graph, node, len(tokens) - 1) for node in used}
    weights: dict[tuple[str, str], float] = {}
    for source, target, _, weight in drawn:
        weights[source, target] = weights.get((source, target), 0.0) + weight
    record = {
        "metadata": {
            "slug": slug,
            "scan": found.model,
            "transcoder_list": [],
            "prompt_tokens": list(tokens),
            "prompt": "".join(tokens),
            "node_threshold": None,
            "schema_version": 1,
        },
        "qParams": {"pinnedIds": [], "supernodes": [], "linkType": "both", "clickedId": "", "sg_pos": ""},
        "nodes": [ids[node] for node in used],
        "links": [
            {"source": ids[source]["node_id"], "target": ids[target]["node_id"], "weight": weight}
            for (source, target), weight in weights.items()
        ],
    }
    return json.dumps(record, ensure_ascii=False, allow_nan=False) + "\n"


def _drawn(graph: Graph, found: Found) -> list[tuple[str, str, str, float]]:
    """(source, node, way, what it brings), strongest first."""
    drawn = [(*link, weight) for name, weight in found.edges.items() for link in links(graph, name)]
    return sorted(drawn, key=lambda each: -abs(each[3]))


def _identity(graph: Graph, node: str, position: int) -> dict[str, Any]:
    """A node as circuit-tracer names one: layer, number, position."""
    sublayer = None if node == "logits" else graph.writers[node].sublayer
    number = graph.nodes.index(node)
    if node == "logits":
        deepest = max(int(each.out.split(".")[1]) for each in graph.anatomy.sublayers)
        layer, kind = str(deepest + 2), "logit"  # circuit-tracer leaves one layer between the last block and the logits
    elif sublayer is None:
        layer, kind = "E", "embedding"
    else:
        layer, kind = sublayer.out.split(".")[1], "mlp" if sublayer.heads is None else "attention head"
    return {
        "node_id": f"{layer}_{number}_{position}",
        "jsNodeId": f"{layer}_{number}-{position}",
        "feature": number,
        "layer": layer,
        "ctx_idx": position,
        "reverse_ctx_idx": 0,
        "run_idx": 0,
        "feature_type": kind,
        "token_prob": 0.0,
        "is_target_logit": node == "logits",
        "clerp": node,
        "influence": None,
        "activation": None,
    }


def _rank(weight: float, largest: float) -> int:
    """Graphviz takes whole numbers for how straight an edge should be."""
    return max(1, round(10 * abs(weight) / largest))


def _quoted(text: str) -> str:
    return json.dumps(text, ensure_ascii=False)
