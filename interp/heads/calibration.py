"""How well a method finds a circuit that is known: its scores beside the declared truth and beside performed interventions.

A *method* is a function of (model, contrast, metric) that gives a number per edge (or node) and example. By the mean over
examples it is asked four things:

- `auroc`: whether what matters gets larger sizes than what does not (1; ½ by chance);
- `spearman`: whether the sizes are in the order of the exact effects (1);
- `relative_l1`: Σ |method − exact| / Σ |exact|, how far the numbers are off (0);
- `margin`: (the smallest size within the circuit − the largest among the decoys) / the largest of all, how far apart they are.

One of them alone misleads: a method can rank every edge right and give one of them a thousandth of its effect.
Cost is counted in forward passes of all examples through all blocks; a backward pass counts as two.

Must not know: how models were made, figures, reports.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, fields
from typing import Any, TypeAlias

import numpy as np
import pandas as pd
from scipy import stats as ranks
from torch import Tensor

from interp import stats
from interp.association import rank_correlation
from interp.errors import ConfigError
from interp.heads import paths
from interp.heads.graph import Graph
from interp.measurement import Measurement
from interp.models.anatomy import STACKS
from interp.models.compiled import Compiled
from interp.models.hooked import Model
from interp.tasks.contrast import Contrast, Metric

Method: TypeAlias = Callable[[Model, Contrast, Metric], Measurement]
"""Gives Measurement(edge, example), or (node, example)."""


@dataclass(frozen=True)
class Scores:
    """What one method reached on one circuit; a score that does not exist (Spearman of constants) is NaN."""

    auroc: float
    spearman: float
    relative_l1: float
    margin: float


SCORES = tuple(each.name for each in fields(Scores))


def score(found: Measurement, exact: Measurement, circuit: Collection[str], decoys: Collection[str]) -> Scores:
    """A method's numbers beside exact ones, over the same edges (or nodes) in any order.

    circuit: names of those that matter. decoys: names held against them for the margin; without any, all that do not matter.
    A method whose numbers are nowhere negative has no sign, and its sizes are held against those of the exact effects.
    Raises ConfigError for other edges than the exact ones, a circuit of none or all of them, and numbers that are not finite.
    """
    effects, true = _means(found), _means(exact)
    _require(effects, true, circuit)
    names = list(true)
    values, expected = (np.array([each[name] for name in names]) for each in (effects, true))
    if found.values.min() >= 0:
        expected = np.abs(expected)
    within = np.array([name in circuit for name in names])
    beside = np.array([name in decoys for name in names]) if decoys else ~within
    sizes = np.abs(values)
    return Scores(
        auroc=auroc(sizes, within),
        spearman=rank_correlation(sizes, np.abs(expected)),
        relative_l1=float(np.abs(values - expected).sum() / np.abs(expected).sum()),
        margin=float((sizes[within].min() - sizes[beside].max()) / sizes.max()) if sizes.max() else 0.0,
    )


def auroc(sizes: np.ndarray, within: np.ndarray) -> float:
    """The chance that one within has a larger size than one without; equal sizes count half (Mann & Whitney 1947)."""
    inside, outside = int(within.sum()), int((~within).sum())
    return float((ranks.rankdata(sizes)[within].sum() - inside * (inside + 1) / 2) / (inside * outside))


def exact_edges(model: Model, contrast: Contrast, metric: Metric) -> Measurement:
    """Every edge's effect by performing the intervention (`paths.effects`)."""
    return paths.effects(model, contrast, metric)


def exact_nodes(model: Model, contrast: Contrast, metric: Metric) -> Measurement:
    """Every node's effect by replacing all edges out of it: Measurement("node effect", (node, example))."""
    graph = Graph.of(model)
    nodes = list(graph.writers)
    values = paths.Ready(model, graph, contrast).effects(metric, [graph.out_of(node) for node in nodes])
    return Measurement("node effect", values, ("node", "example"), {"node": nodes})


def sources(edges: Collection[str]) -> frozenset[str]:
    """The nodes that edges come from: what matters among nodes, where these edges do."""
    return frozenset(edge.partition("->")[0] for edge in edges)


def calibrate(
    make: Callable[[int], Compiled],
    methods: Mapping[str, Method],
    *,
    exact: Method = exact_edges,
    seeds: Sequence[int],
    examples: int = 32,
    metric: Metric = Contrast.logit_difference,
) -> pd.DataFrame:
    """Every method on a known circuit, once per seed: columns method, seed, the four scores, forwards. The first is "exact".

    make: the known circuit of a seed, whose contrasts follow the same seed; its edges under replacement by corrupted values are
    the truth. exact: `exact_edges`, or `exact_nodes` for methods that score nodes; decoys are then the nodes that only decoy
    edges leave.
    """
    rows = []
    for seed in seeds:
        known = make(seed)
        contrast = known.contrast(examples, seed=seed)
        with forwards(known.model, examples) as cost:
            true = exact(known.model, contrast, metric)
        circuit, decoys = known.circuits["corrupt"], known.decoys
        if true.dims[0] == "node":
            circuit, decoys = sources(circuit), sources(decoys) - sources(known.circuits["zero"])
        rows.append({"method": "exact", "seed": seed} | vars(score(true, true, circuit, decoys)) | {"forwards": cost()})
        for name, method in methods.items():
            with forwards(known.model, examples) as cost:
                found = method(known.model, contrast, metric)
            rows.append({"method": name, "seed": seed} | vars(score(found, true, circuit, decoys)) | {"forwards": cost()})
    return pd.DataFrame(rows)


def summary(table: pd.DataFrame, *, seed: int = 0) -> pd.DataFrame:
    """The mean of every score and its interval over seeds: columns method, score, value, low, high. NaN if it is in any seed."""
    rows = []
    for method, part in table.groupby("method", sort=False):
        for name in (*SCORES, "forwards"):
            values = part[name].to_numpy(dtype=float)
            known = bool(np.isfinite(values).all())
            found = stats.bootstrap(values, seed=seed) if known else stats.Estimate(np.nan, np.nan, np.nan, len(values))
            rows.append({"method": method, "score": name} | found.cells())
    return pd.DataFrame(rows)


@contextmanager
def forwards(model: Model, examples: int) -> Iterator[Callable[[], float]]:
    """Within the `with` block, counts passes of `examples` rows through all blocks; blocks that are skipped do not count."""
    blocks = [block for stack in STACKS.values() for block in getattr(model.bridge, stack, ())]
    if not blocks:
        raise ConfigError(f"{model.name} has no blocks whose passes could be counted")
    passed = 0.0

    def add(rows: float) -> None:
        nonlocal passed
        passed += rows / (examples * len(blocks))

    def seen(_: Any, given: tuple[Any, ...], output: Any) -> None:
        out = output[0] if isinstance(output, tuple) else output
        if any(value is out for value in given):
            return  # passed over
        add(len(out))
        if isinstance(out, Tensor) and out.requires_grad:
            out.register_hook(lambda gradient: add(2 * len(gradient)))

    handles = [block.register_forward_hook(seen) for block in blocks]
    try:
        yield lambda: passed
    finally:
        for handle in handles:
            handle.remove()


def _means(measured: Measurement) -> dict[str, float]:
    """The mean over examples by name."""
    if len(measured.dims) != 2 or measured.dims[1] != "example":
        raise ConfigError(f"{measured.name} runs over {measured.dims}; give it over ('edge', 'example') or ('node', 'example')")
    names = map(str, measured.coords[measured.dims[0]])
    return dict(zip(names, measured.values.mean(1).tolist(), strict=True))


def _require(effects: Mapping[str, float], true: Mapping[str, float], circuit: Collection[str]) -> None:
    if differ := sorted(set(effects) ^ set(true)):
        raise ConfigError(
            f"{len(differ)} edges or nodes are in one measurement alone, such as {differ[0]}; measure the same ones"
        )
    wrong = [name for name, value in effects.items() if not np.isfinite(value)]
    if wrong:
        raise ConfigError(f"{len(wrong)} effects are not finite, such as that of {wrong[0]}")
    inside = len(set(circuit) & set(true))
    if inside < len(circuit) or inside in (0, len(true)):
        raise ConfigError(
            f"{inside} of the circuit's {len(circuit)} edges or nodes are among the {len(true)} measured; "
            "give a circuit that is part of them, and not all"
        )
