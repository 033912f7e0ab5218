"""One run in which edges carry something else. What an edge is, and why, is told in `interp.heads.paths`.

Several sets of edges run side by side: the rows of a run are set-major, [set example]. What was written before the first
replaced edge is what the clean run wrote, so a run resumes there where the model can.

Must not know: metrics, how edges are chosen.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from interp.heads.graph import Edge, Graph
from interp.models.anatomy import STACKS, Stream, Way, read, read_each, stepped, written
from interp.models.hooked import Edit, Model
from interp.tasks.contrast import Contrast


@dataclass(frozen=True)
class Ground:
    """Some examples, what stands at the hooks of their clean run (`watched`), and what takes its place where edges are replaced.

    where: the positions at which edges are replaced, in every stream by its prefix; everywhere without.
    """

    contrast: Contrast
    clean: Mapping[str, Tensor]
    logits: Float[Tensor, "example pos d_vocab"]
    instead: Mapping[str, Tensor]
    where: Mapping[str, Bool[Tensor, "example pos"]] | None = None


def watched(graph: Graph) -> list[str]:
    """The hooks of everything that is written, and of the residuals that a run can resume from."""
    hooks = dict.fromkeys(hook for sublayer in graph.anatomy.sublayers for hook in (sublayer.writes, sublayer.out))
    starts = [stream.start for stream in graph.anatomy.streams.values()]
    ends = [hook for stream in graph.anatomy.streams.values() for hook in stream.ends.values()]
    return [*starts, *hooks, *ends]


def first_block(graph: Graph, edges: Iterable[Edge]) -> int:
    """The block before which nothing is replaced; 0 where a run cannot resume."""
    blocks = [int(graph.readers[edge.target, edge.way].way.hook.split(".")[1]) for edge in edges]
    return min(blocks, default=0) if list(graph.anatomy.streams) == [""] else 0


def replaced(
    model: Model, graph: Graph, ground: Ground, sets: Sequence[Sequence[Edge]]
) -> Float[Tensor, "set example pos d_vocab"]:
    """Logits of the run in which the edges of a set are replaced, for every set."""
    if not any(sets):
        return ground.logits.expand(len(sets), *ground.logits.shape)
    return _Pass(model, graph, ground, sets).logits()


@dataclass
class _Reading:
    """What is to be put in at a reader's hook: for every set and head, the replaced writes as (depth, entry at that depth)."""

    way: Way
    terms: dict[tuple[int, int | None], list[tuple[int, int]]]


class _Pass:
    """One run. It remembers what has been written so far."""

    def __init__(self, model: Model, graph: Graph, ground: Ground, sets: Sequence[Sequence[Edge]]) -> None:
        self.model, self.graph, self.ground, self.sets = model, graph, ground, sets
        self._readings: dict[str, _Reading] = {}
        self._entries: dict[tuple[str, int], dict[tuple[int, str], int]] = {}  # (stream, depth) -> (set, source) -> its place
        for number, edges in enumerate(sets):
            for edge in edges:
                writer, reader = graph.writers[edge.source], graph.readers[edge.target, edge.way]
                entries = self._entries.setdefault((writer.stream, writer.depth), {})
                entry = entries.setdefault((number, edge.source), len(entries))
                reading = self._readings.setdefault(reader.way.hook, _Reading(reader.way, {}))
                reading.terms.setdefault((number, reader.head), []).append((writer.depth, entry))
        self._seen: dict[str, Tensor] = {}
        self._residuals: dict[str, list[Tensor]] = {}
        self._changes: dict[tuple[str, int], Tensor] = {}

    def logits(self) -> Float[Tensor, "set example pos d_vocab"]:
        contrast, copies = self.ground.contrast, len(self.sets)
        beside: dict[str, Any] = {
            name: tensor.repeat(copies, *(1,) * (tensor.ndim - 1)) for name, tensor in contrast.beside.items()
        }
        edits = [*self._observers(), *(Edit(hook, partial(self._put, reading)) for hook, reading in self._readings.items())]
        block = first_block(self.graph, (edge for edges in self.sets for edge in edges))
        if block:
            residual = self.ground.clean[f"{STACKS['']}.{block - 1}.hook_resid_post"].repeat(copies, 1, 1)
            run = self.model.run_from(block, residual, edits=edits, logits=True, **beside)
        else:
            run = self.model.run(contrast.clean.repeat(copies, 1), edits=edits, logits=True, **beside)
        return run.logits.unflatten(0, (copies, -1))

    def _observers(self) -> list[Edit]:
        """Edits that change nothing, but remember what is written between the first replaced edge and the last."""
        sublayers = self.graph.anatomy.sublayers
        reading = [number for number, sublayer in enumerate(sublayers) if self._reads(sublayer.ways.values())]
        last = len(sublayers) if self._reads([self.graph.anatomy.logits]) else reading[-1]
        between = sublayers[min([*reading, last]) : last]
        hooks = dict.fromkeys(hook for sublayer in between for hook in (sublayer.writes, sublayer.out))
        return [Edit(hook, partial(self._remember, hook)) for hook in hooks]

    def _reads(self, ways: Iterable[Way]) -> bool:
        return any(way.hook in self._readings for way in ways)

    def _remember(self, hook: str, value: Tensor) -> Tensor:
        self._seen[hook] = value.unflatten(0, (len(self.sets), -1))
        return value

    def _put(self, reading: _Reading, value: Tensor) -> Tensor:
        numbers = torch.tensor([number for number, _ in reading.terms], device=value.device)
        residual = self._residual(reading, numbers)
        value = value.unflatten(0, (len(self.sets), -1))
        heads = [head for _, head in reading.terms if head is not None]
        if reading.way.heads is None:
            value[numbers] = read(self.model, reading.way, residual)
        else:
            value[numbers, :, :, heads] = read_each(self.model, reading.way, heads, residual)
        return value.flatten(0, 1)

    def _residual(self, reading: _Reading, numbers: Tensor) -> Float[Tensor, "reader example pos d_model"]:
        """The residual that every reader gets: this run's, with the replaced writes in it.

        What a replaced write changes in the residual stays as it is up to the reader, or to the next norm of the stream.
        """
        stream, last = self.graph.anatomy.streams[reading.way.stream], reading.way.depth
        depths = sorted({depth for terms in reading.terms.values() for depth, _ in terms})
        change = torch.zeros_like(self._at(stream, last)[numbers])
        for depth in range(depths[0], last + 1):
            if depth in depths:
                change = change + self._change(stream, depth, reading)
            sublayer = stream.sublayers[depth - 1] if depth else None
            if sublayer is not None and sublayer.renorm is not None:
                before = self._at(stream, depth - 1)[numbers] + change
                change = (
                    stepped(self.model, sublayer, before, self._now(sublayer.out)[numbers]) - self._at(stream, depth)[numbers]
                )
        return self._at(stream, last)[numbers] + change

    def _at(self, stream: Stream, depth: int) -> Float[Tensor, "set example pos d_model"]:
        """The residual of this run after so many sublayers."""
        residuals = self._residuals.setdefault(stream.prefix, [self._now(stream.start)])
        while len(residuals) <= depth:
            sublayer = stream.sublayers[len(residuals) - 1]
            residuals.append(stepped(self.model, sublayer, residuals[-1], self._now(sublayer.out)))
        return residuals[depth]

    def _now(self, hook: str) -> Float[Tensor, "set example *rest"]:
        """What stands at a hook in this run: what was seen, or, before the first replaced edge, the clean run's."""
        if hook in self._seen:
            return self._seen[hook]
        clean = self.ground.clean[hook]
        return clean.expand(len(self.sets), *clean.shape)

    def _change(self, stream: Stream, depth: int, reading: _Reading) -> Float[Tensor, "reader example pos d_model"]:
        """What the replaced edges from one depth change in what every reader gets."""
        changes = self._written_change(stream, depth)
        carries = torch.zeros(len(reading.terms), len(changes))
        for row, terms in enumerate(reading.terms.values()):
            carries[row, [entry for at, entry in terms if at == depth]] = 1
        return torch.tensordot(carries.to(changes), changes, 1)

    def _written_change(self, stream: Stream, depth: int) -> Float[Tensor, "entry example pos d_model"]:
        """replacement - u for every source u at one depth and every set in which it is replaced."""
        key = (stream.prefix, depth)
        if key not in self._changes:
            writers = [self.graph.writers[source] for _, source in self._entries[key]]
            sublayer, hook = writers[0].sublayer, writers[0].hook
            numbers = torch.tensor([number for number, _ in self._entries[key]])
            instead, now = self.ground.instead[hook], self._now(hook)
            if sublayer is None or sublayer.heads is None:
                change = instead - now[numbers]
            else:
                heads = [writer.head for writer in writers if writer.head is not None]
                change = written(self.model, sublayer, heads, instead[:, :, heads].movedim(2, 0) - now[numbers, :, :, heads])
            where = self.ground.where
            self._changes[key] = change if where is None else change * where[stream.prefix][..., None]
        return self._changes[key]
