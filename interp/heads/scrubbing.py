"""Causal scrubbing: does a stated hypothesis leave the model free to change everything that it says does not matter?

A hypothesis names the edges that matter and, for each, what about the input matters there: a function that gives two inputs the
same label when the hypothesis holds them to be interchangeable. The model is then run as a tree, from the logits down. Whatever a
named edge carries is computed on another input of the same label, and what that needs again on others; all that is not named
comes, for every reader anew, from one input drawn at random. A true hypothesis keeps what the model does:

    recovered share = (m(scrubbed) − m(random)) / (m(model) − m(random)),

m(random) being the metric when the logits come from another input (Chan et al. 2022, "Causal Scrubbing", Alignment Forum). A
share near 1 says that nothing which matters was left out; it does not say that everything named is needed.

Must not know: figures, reports.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeAlias

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from interp import stats
from interp.errors import ConfigError, ModelError
from interp.heads.asked import ask, require_fits
from interp.heads.graph import Edge, EdgeLike, Graph
from interp.heads.replacing import watched
from interp.models.anatomy import Way, read, written
from interp.models.hooked import Edit, Model
from interp.stats import Estimate
from interp.tasks.contrast import Contrast, Metric

Label: TypeAlias = Callable[[Contrast], Int[Tensor, "example ..."]]
"""What about the inputs matters: rows that get equal numbers may stand for one another."""
Hypothesis: TypeAlias = Mapping[EdgeLike, Label]

Rows: TypeAlias = np.ndarray
"""Which input of the contrast stands in each row of a run."""


@dataclass(frozen=True)
class Scrubbed:
    """The metric of every example: in the model, scrubbed by the hypothesis, and with logits of another input."""

    model: Float[np.ndarray, " example"]
    scrubbed: Float[np.ndarray, " example"]
    random: Float[np.ndarray, " example"]

    def recovered(self, *, seed: int = 0) -> Estimate:
        """The recovered share, a ratio of sums over examples."""
        return stats.ratio(self.scrubbed - self.random, self.model - self.random, seed=seed)


def scrub(model: Model, contrast: Contrast, metric: Metric, hypothesis: Hypothesis, *, seed: int = 0) -> Scrubbed:
    """Runs the clean inputs scrubbed. Those are also what is drawn from: a label that one input has alone changes nothing there.

    Raises ModelError for edges that the graph has not, named edges that do not reach the logits, models whose stream is normed
    between sublayers or that have two stacks, and contrasts that do not fit; ConfigError for labels that are not one per example.
    """
    require_fits(model, contrast)
    graph = Graph.of(model)
    if set(graph.anatomy.streams) != {""} or any(sublayer.renorm for sublayer in graph.anatomy.sublayers):
        raise ModelError(f"{model.name} has several streams, or norms between sublayers; scrubbing needs one plain sum")
    classes = {graph.edge(name): _classes(label(contrast), len(contrast), name) for name, label in hypothesis.items()}
    _require_reaching(graph, classes)
    tree = _Tree(model, graph, contrast, classes, stats.generator(seed, "scrubbing"))
    rows = np.arange(len(contrast))
    values = {
        "model": tree.plain,
        "scrubbed": tree.logits(rows),
        "random": tree.plain[torch.from_numpy(tree.other(rows))],
    }
    return Scrubbed(**{name: ask(metric, contrast, logits).double().cpu().numpy() for name, logits in values.items()})


class _Tree:
    """The model as a tree of recomputations over the inputs of one contrast."""

    def __init__(
        self, model: Model, graph: Graph, contrast: Contrast, classes: Mapping[Edge, np.ndarray], random: np.random.Generator
    ) -> None:
        self.model, self.graph, self.contrast, self.classes, self.random = model, graph, contrast, classes, random
        run = model.run(contrast.clean, read=watched(graph), logits=True, **self._beside(np.arange(len(contrast))))
        self.plain, self._seen = run.logits, run.activations
        stream = graph.anatomy.streams[""]
        self._residuals = [self._seen[stream.start]]
        for sublayer in stream.sublayers:
            self._residuals.append(self._residuals[-1] + self._seen[sublayer.out])

    def logits(self, rows: Rows) -> Float[Tensor, "example pos d_vocab"]:
        """Logits of these inputs, scrubbed."""
        way = self.graph.anatomy.logits
        residual = self._residual(("logits", ""), way, rows)
        return self._run(rows, [Edit(way.hook, lambda _: residual)], []).logits

    def other(self, rows: Rows) -> Rows:
        """Inputs drawn at random, one for each row."""
        return self.random.integers(len(self.contrast), size=len(rows))

    def _alike(self, edge: Edge, rows: Rows) -> Rows:
        """Inputs that the hypothesis holds to be interchangeable with these as far as the edge goes, drawn at random."""
        classes = self.classes[edge]
        members = [np.flatnonzero(classes == number) for number in range(int(classes.max()) + 1)]
        return np.array([self.random.choice(members[number]) for number in classes[rows]])

    def _residual(self, reader: tuple[str, str], way: Way, rows: Rows) -> Float[Tensor, "example pos d_model"]:
        """What a reader gets: the stream of inputs drawn at random, with the named writes from inputs like these in it."""
        others = torch.from_numpy(self.other(rows))
        residual = self._residuals[way.depth][others]
        for edge in self.classes:
            if (edge.target, edge.way) == reader:
                named = self._written(edge.source, self._alike(edge, rows))
                residual = residual + named - self._parts(edge.source, self._seen[self.graph.writers[edge.source].hook][others])
        return residual

    def _written(self, node: str, rows: Rows) -> Float[Tensor, "example pos d_model"]:
        """What a node writes on these inputs when all that it reads is scrubbed."""
        writer = self.graph.writers[node]
        if writer.sublayer is None:
            return self._seen[writer.hook][torch.from_numpy(rows)]
        edits = []
        for key, reader in self.graph.readers.items():
            if node in reader.feeds:
                made = read(self.model, reader.way, self._residual(key, reader.way, rows))
                edits.append(Edit(reader.way.hook, partial(_put, made=made, head=reader.head)))
        return self._parts(node, self._run(rows, edits, [writer.hook]).activations[writer.hook])

    def _parts(self, node: str, value: Tensor) -> Float[Tensor, "example pos d_model"]:
        """What a node adds to the stream, of what stands at its hook."""
        writer = self.graph.writers[node]
        if writer.head is None or writer.sublayer is None:
            return value
        return written(self.model, writer.sublayer, [writer.head], value[:, :, writer.head][None])[0]

    def _run(self, rows: Rows, edits: list[Edit], hooks: list[str]) -> Any:
        clean = self.contrast.clean[torch.from_numpy(rows)]
        return self.model.run(clean, edits=edits, read=hooks, logits=not hooks, **self._beside(rows))

    def _beside(self, rows: Rows) -> dict[str, Any]:
        return {name: value[torch.from_numpy(rows)] for name, value in self.contrast.beside.items()}


def _put(value: Tensor, *, made: Tensor, head: int | None) -> Tensor:
    if head is None:
        return made
    value[:, :, head] = made[:, :, head]
    return value


def _classes(labels: Tensor, examples: int, edge: EdgeLike) -> np.ndarray:
    """The classes of interchangeable inputs, numbered from 0."""
    if not isinstance(labels, Tensor) or len(labels) != examples:
        raise ConfigError(f"the label of {edge} is not one row of numbers per example, of which there are {examples}")
    return labels.reshape(examples, -1).unique(dim=0, return_inverse=True)[1].numpy()


def _require_reaching(graph: Graph, edges: Mapping[Edge, Any]) -> None:
    """Raises ModelError for an edge that no chain of named edges takes on to the logits: it would never be looked at."""
    for edge in edges:
        readers = graph.readers[edge.target, edge.way].feeds
        if "logits" not in readers and not any(other.source in readers for other in edges):
            raise ModelError(f"the hypothesis names {edge}, but no edge out of {' or '.join(readers)}; name where it goes on")
