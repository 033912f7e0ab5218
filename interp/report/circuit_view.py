"""A circuit as a drawing: nodes in rows from the input up to the logits, edges by weight and sign, and the edges as a list.

Must not know: models, graphs of models, HTML.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar, SupportsFloat

import numpy as np

from interp.errors import ReportError
from interp.names import did_you_mean
from interp.report import payload
from interp.report.views import View

MAX_EDGES = 2_000

Drawn = tuple[str, str, str, SupportsFloat]
"""An edge: source, target, by which way it is read ("q", "k", "v" or ""), weight."""


@dataclass(frozen=True, kw_only=True)
class CircuitView(View):
    """Nodes and weighted edges between them; a slider leaves out the weak ones.

    rows: the row of every node, 0 at the bottom; every edge leads upwards.
    edges: (source, target, way, weight), in any order.
    unit: of the weights.
    """

    kind: ClassVar[str] = "circuit"
    name: str = "circuit"
    title: str = "Circuit"
    rows: Mapping[str, int]
    edges: Sequence[Drawn]
    unit: str = ""

    def payload(self) -> str:
        faults = list(self._faults())
        if faults:
            raise ReportError("; ".join(faults[:3]))
        weights = payload.finite([float(weight) for *_, weight in self.edges], what="weights of edges")
        order = np.argsort(-np.abs(weights), kind="stable")
        place = {name: number for number, name in enumerate(self.rows)}
        source, target = (np.array([place[self.edges[i][end]] for i in order], np.uint16) for end in (0, 1))
        ways = [self.edges[i][2] for i in order]
        header = {"nodes": list(self.rows), "rows": list(self.rows.values()), "ways": ways, "unit": self.unit}
        return payload.pack(header, {"source": source, "target": target, "weight": weights[order].astype(np.float32)})

    def _faults(self) -> Iterator[str]:
        if not 0 < len(self.edges) <= MAX_EDGES:
            yield f"a circuit of {len(self.edges):,} edges cannot be drawn; give 1 to {MAX_EDGES:,}, the strongest"
        for source, target, *_ in self.edges:
            unknown = [node for node in (source, target) if node not in self.rows]
            if unknown:
                yield f"the edge {source}->{target} has no node {unknown[0]!r} in rows{did_you_mean(unknown[0], self.rows)}"
            elif self.rows[source] >= self.rows[target]:
                yield f"the edge {source}->{target} does not lead upwards: rows {self.rows[source]} and {self.rows[target]}"
