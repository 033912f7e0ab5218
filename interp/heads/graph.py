"""A model as a graph: nodes that write into a residual stream, and edges to everything that reads what they wrote.

Names follow EAP (Syed et al. 2023, arXiv:2310.10348): nodes are "input" (the embeddings), "a0.h1" (a head), "m0" (an MLP, or a
layer of experts) and "logits"; an edge is "a0.h1->a1.h0<k>" (a head's queries, keys and values are read apart), "input->m0" or
"m2->logits". Encoder-decoders have "enc." and "dec." before them, two inputs, and cross-attention heads "dec.c0.h1", whose keys
and values read the encoder. Where query heads share keys and values, the group reads once: "a0.h1->a1.kv0<k>".

Must not know: how edges are measured, figures, reports.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import TypeAlias

from interp.errors import ModelError
from interp.models.anatomy import Anatomy, Stream, Sublayer, Way, anatomy
from interp.models.hooked import Model
from interp.names import did_you_mean


@dataclass(frozen=True, order=True)
class Edge:
    """What `source` writes, as `target` reads it: `way` is "q", "k" or "v" for heads, "" otherwise."""

    source: str
    target: str
    way: str = ""

    def __str__(self) -> str:
        return f"{self.source}->{self.target}" + (f"<{self.way}>" if self.way else "")


EdgeLike: TypeAlias = Edge | str
"""An edge, or its name."""


@dataclass(frozen=True)
class Writer:
    """Where what a node writes stands: at `hook`, in one head of it or in all of it.

    stream, depth: what it writes is in the residual of this stream after `depth` sublayers, and in no earlier one.
    sublayer: None for an input.
    """

    hook: str
    stream: str
    depth: int
    sublayer: Sublayer | None = None
    head: int | None = None


@dataclass(frozen=True)
class Reader:
    """How something reads a stream: one head (or key-value head) of a way, or all of it. It is part of `feeds`, nodes."""

    way: Way
    feeds: tuple[str, ...]
    head: int | None = None


@dataclass(frozen=True)
class Graph:
    """Nodes in the order in which they compute, and edges by target.

    writers: every node but "logits", by name. readers: by (target, way), as edges name them.
    """

    nodes: tuple[str, ...]
    edges: tuple[Edge, ...]
    writers: Mapping[str, Writer] = field(repr=False)
    readers: Mapping[tuple[str, str], Reader] = field(repr=False)
    anatomy: Anatomy = field(repr=False)

    @classmethod
    def of(cls, model: Model) -> Graph:
        """The graph of a model. Raises ModelError for one whose anatomy is not known (`interp.models.anatomy`)."""
        found = anatomy(model)
        writers = {name: writer for stream in found.streams.values() for name, writer in _writers(stream)}
        readers = {key: reader for sublayer in found.sublayers for key, reader in _readers(sublayer)}
        readers["logits", ""] = Reader(found.logits, ("logits",))
        edges = [
            Edge(source, target, way)
            for (target, way), reader in readers.items()
            for source, writer in writers.items()
            if writer.stream == reader.way.stream and writer.depth <= reader.way.depth
        ]
        return cls((*writers, "logits"), tuple(edges), writers, readers, found)

    def edge(self, name: EdgeLike) -> Edge:
        """The edge called `name`. Raises ModelError, with near names, if the graph has no such edge."""
        return self.select([name])[0]

    def select(self, names: Iterable[EdgeLike]) -> tuple[Edge, ...]:
        """The edges called so, each once. Raises ModelError with every fault."""
        if isinstance(names, str | Edge):
            raise ModelError(f"expected edges, got the single edge {str(names)!r}; write [{str(names)!r}]")
        wanted = list(dict.fromkeys(str(name) for name in names))
        faults = [self._fault(name) for name in wanted if name not in self._by_name]
        if faults:
            more = f"; and {len(faults) - 5} more" if len(faults) > 5 else ""
            raise ModelError("; ".join(faults[:5]) + more)
        return tuple(self._by_name[name] for name in wanted)

    def into(self, node: str) -> tuple[Edge, ...]:
        """The edges whose values the node reads, by whichever way. Raises ModelError for a node that does not exist."""
        self._require(node)
        return tuple(edge for edge in self.edges if node in self.readers[edge.target, edge.way].feeds)

    def out_of(self, node: str) -> tuple[Edge, ...]:
        """The edges that carry what the node writes. Raises ModelError for a node that does not exist."""
        self._require(node)
        return tuple(edge for edge in self.edges if edge.source == node)

    @cached_property
    def _by_name(self) -> dict[str, Edge]:
        return {str(edge): edge for edge in self.edges}

    def _require(self, node: str) -> None:
        if node not in self.nodes:
            raise ModelError(f"no node {node!r}{did_you_mean(node, self.nodes)}")

    def _fault(self, name: str) -> str:
        """Why there is no such edge."""
        source, arrow, rest = name.partition("->")
        target, _, way = rest.removesuffix(">").partition("<")
        targets = dict.fromkeys(reader for reader, _ in self.readers)
        if not arrow:
            return f"{name!r} names no edge; write it as {str(self.edges[0])!r}"
        if source not in self.writers:
            return f"no edge {name!r}: no node {source!r} writes{did_you_mean(source, self.writers)}"
        if target not in targets:
            return f"no edge {name!r}: no node {target!r} reads{did_you_mean(target, targets)}"
        if (target, way) not in self.readers:
            how = f"by {way}" if way else "without a way"
            return f"no edge {name!r}: {target} does not read {how}; {self._mend(source, target, way)}"
        return f"no edge {name!r}: {target} does not read what {source} writes, but only what stands before it in its stream"

    def _mend(self, source: str, target: str, way: str) -> str:
        """How to name what `target` reads."""
        shared = [group for (group, its_way), reader in self.readers.items() if its_way == way and target in reader.feeds]
        if shared:
            return f"its group reads as one, as {Edge(source, shared[0], way)}"
        ways = [its_way for reader, its_way in self.readers if reader == target]
        return f"it reads by {', '.join(ways)}" if any(ways) else f"it reads without a way, as {Edge(source, target)}"


def _writers(stream: Stream) -> Iterator[tuple[str, Writer]]:
    yield f"{stream.prefix}input", Writer(stream.start, stream.prefix, 0)
    for depth, sublayer in enumerate(stream.sublayers, start=1):
        for head in (None,) if sublayer.heads is None else range(sublayer.heads):
            yield _name(sublayer, head), Writer(sublayer.writes, stream.prefix, depth, sublayer, head)


def _readers(sublayer: Sublayer) -> Iterator[tuple[tuple[str, str], Reader]]:
    """Head by head, its ways in order; groups of heads that share keys and values come after the heads."""
    if sublayer.heads is None:
        yield (sublayer.name, ""), Reader(sublayer.ways[""], (sublayer.name,))
        return
    heads = [_name(sublayer, head) for head in range(sublayer.heads)]
    for head, name in enumerate(heads):
        for letter, way in sublayer.ways.items():
            if way.heads == sublayer.heads:
                yield (name, letter), Reader(way, (name,), head)
    for letter, way in sublayer.ways.items():
        if way.heads != sublayer.heads:
            assert way.heads is not None
            size = sublayer.heads // way.heads
            for group in range(way.heads):
                yield (f"{sublayer.name}.kv{group}", letter), Reader(way, tuple(heads[group * size : (group + 1) * size]), group)


def _name(sublayer: Sublayer, head: int | None) -> str:
    return sublayer.name if head is None else f"{sublayer.name}.h{head}"
