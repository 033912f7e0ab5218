"""How good a circuit is: what the model still does when all other edges are replaced.

With m(C) the metric when every edge outside of C is replaced, N all edges and ∅ none,

    faithfulness f(C) = (m(C) − m(∅)) / (m(N) − m(∅)),    completeness = 1 − f(N∖C),    an edge's share = f(C) − f(C∖e).

Over circuits of growing size, CPR = ∫ f and CMD = ∫ |1 − f| over the share of edges kept, trapezoids on a linear axis (MIB,
Mueller et al. 2025, arXiv:2504.13151). f is a ratio of sums over examples, which intervals resample together.

Must not know: how circuits are chosen, figures, reports.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from interp import stats
from interp.errors import ConfigError
from interp.heads.circuits import Circuit
from interp.heads.paths import Ready
from interp.measurement import Measurement
from interp.stats import Estimate
from interp.tasks.contrast import Metric

SHARES = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0)
"""Of the edges, at which a curve is taken (MIB)."""


@dataclass(frozen=True)
class Kept:
    """What is left of a metric in some circuits: m(C) − m(∅) of each circuit and example, and m(N) − m(∅)."""

    circuits: Float[np.ndarray, "circuit example"]
    whole: Float[np.ndarray, " example"]

    def faithfulness(self, *, seed: int = 0) -> list[Estimate]:
        """f of every circuit."""
        return [stats.ratio(values, self.whole, seed=seed) for values in self.circuits]


def kept(ready: Ready, metric: Metric, circuits: Sequence[Circuit]) -> Kept:
    """Runs every circuit, all other edges replaced.

    Raises ConfigError where the metric is no higher or lower with all edges than with none, beyond chance: f would be a ratio to
    noise. ModelError for edges that the graph has not.
    """
    everything = frozenset(ready.graph.edges)
    known = [frozenset(ready.graph.select(circuit)) for circuit in circuits]
    found = ready.effects(metric, [everything, *(everything - circuit for circuit in known)])
    whole = -found[0]
    span = stats.bootstrap(whole)
    if span.value == 0 or (len(whole) > 1 and span.low <= 0 <= span.high):
        raise ConfigError(
            f"with all edges the metric is {span.value:.3g} [{span.low:.3g}, {span.high:.3g}] above that with none, "
            "which may be 0: there is nothing to keep; give inputs and a metric that the corruption changes"
        )
    return Kept(found[1:] + whole, whole)


def completeness(ready: Ready, metric: Metric, circuit: Circuit, *, seed: int = 0) -> Estimate:
    """1 − f(N∖C): 1 where what lies outside the circuit can do nothing by itself (Wang et al. 2022, arXiv:2211.00593)."""
    left = kept(ready, metric, [frozenset(ready.graph.edges) - circuit])
    return stats.ratio(left.whole - left.circuits[0], left.whole, seed=seed)


def minimality(ready: Ready, metric: Metric, circuit: Circuit) -> Measurement:
    """f(C) − f(C∖e) for every edge of the circuit: Measurement(edge, example), whose means over examples are these shares."""
    edges = [edge for edge in ready.graph.edges if edge in circuit]
    found = kept(ready, metric, [circuit, *(circuit - {edge} for edge in edges)])
    values = (found.circuits[:1] - found.circuits[1:]) / found.whole.mean()
    return Measurement("share of f", values, ("edge", "example"), {"edge": [str(edge) for edge in edges]})


@dataclass(frozen=True)
class Curve:
    """Circuits of growing size: the shares of all edges that they keep, how many those are, and what they keep of the metric."""

    shares: tuple[float, ...]
    sizes: tuple[int, ...]
    kept: Kept

    def cpr(self, *, seed: int = 0) -> Estimate:
        """∫ f: larger is better; 1 at best where no circuit does better than the whole model."""
        return stats.ratio(np.trapezoid(self.kept.circuits, self.shares, axis=0), self.kept.whole, seed=seed)

    def cmd(self, *, seed: int = 0) -> Estimate:
        """∫ |1 − f|: 0 is best."""

        def area(rows: np.ndarray) -> float:
            f = self.kept.circuits[:, rows].sum(1) / self.kept.whole[rows].sum()
            return float(np.trapezoid(np.abs(1 - f), self.shares))

        return stats.resampled(len(self.kept.whole), area, seed=seed)


def curve(ready: Ready, metric: Metric, choose: Callable[[int], Circuit], *, shares: Sequence[float] = SHARES) -> Curve:
    """f of the circuits that `choose` gives for these shares of all edges, rounded to whole ones.

    Raises ConfigError for shares that do not rise within 0 and 1.
    """
    if not all(0 <= low < high <= 1 for low, high in zip(shares, shares[1:], strict=False)) or len(shares) < 2:
        raise ConfigError(f"shares={tuple(shares)}; give two or more that rise, from 0 to 1")
    circuits = [choose(round(share * len(ready.graph.edges))) for share in shares]
    return Curve(tuple(shares), tuple(map(len, circuits)), kept(ready, metric, circuits))
