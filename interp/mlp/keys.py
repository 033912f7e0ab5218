"""Keys: what fires each neuron (Geva et al. 2021, arXiv:2012.14913, section 3), in one pass over a stream of activations.

Kept are the strongest examples of every neuron, how often it fires, and a random sample of tokens with the activations of all
neurons; memory is neurons × (top + sampled), however long the corpus. The result does not depend on how the stream was cut
into batches, ordered, or shared out.

Must not know: figures, reports, text (an example is a document and a position).
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from interp import stats
from interp.activations.batch import ActivationBatch
from interp.errors import ConfigError
from interp.streaming import Density, Sample, TopK

_POSITIONS = 32
"""A row's id is its document and, in the lower 32 bits, its position in it."""


@dataclass(frozen=True)
class Places:
    """Tokens of a corpus, with an activation each: the document, and the index of the token in it."""

    document: Int[np.ndarray, " example"]
    position: Int[np.ndarray, " example"]
    value: Float[np.ndarray, " example"]


@dataclass(frozen=True)
class Triggers:
    """What fires the neurons of one hook. The trigger is the text of a document up to the token at a position.

    value, document, position: the `top` strongest examples of each neuron, strongest first.
    density: share of tokens with an activation above 0. rows: tokens seen.
    sample_value, sample_document, sample_position: tokens drawn at random, with the activations of all neurons.
    """

    value: Float[Tensor, "top neuron"]
    document: Int[Tensor, "top neuron"]
    position: Int[Tensor, "top neuron"]
    density: Float[Tensor, " neuron"]
    rows: int
    sample_value: Float[Tensor, "drawn neuron"]
    sample_document: Int[Tensor, " drawn"]
    sample_position: Int[Tensor, " drawn"]

    def strongest(self, neuron: int, n: int) -> Places:
        """The n top examples of a neuron, strongest first; only those on which it is above 0."""
        fired = self.value[:n, neuron] > 0
        return Places(*(part[:n][fired, neuron].numpy() for part in (self.document, self.position, self.value)))

    def strata(self, neuron: int, *, groups: int = 4, each: int = 3) -> list[Places]:
        """Random examples from every quarter (or other share) of a neuron's own positive activations, strongest first.

        They show what the top leaves out: at which strength a neuron stops meaning what its top examples say.
        """
        value = self.sample_value[:, neuron]
        rows = np.flatnonzero((value > 0).numpy())
        ranked = rows[np.argsort(-value.numpy()[rows], kind="stable")]
        return [self._drawn(np.sort(part)[:each], neuron) for part in np.array_split(ranked, groups)]

    def silent(self, neuron: int, n: int) -> Places:
        """Up to n random tokens on which a neuron is not above 0: the negatives."""
        return self._drawn(np.flatnonzero((self.sample_value[:, neuron] <= 0).numpy())[:n], neuron)

    def _drawn(self, rows: np.ndarray, neuron: int) -> Places:
        parts = self.sample_document[rows], self.sample_position[rows], self.sample_value[rows, neuron]
        return Places(*(part.numpy() for part in parts))


class TriggerStream:
    """The running state behind `triggers`: `update` with batches, `merge` with the state of another shard, `compute`.

    top: examples kept of every neuron. sampled: tokens drawn at random, by `seed`. Shards must use the same three.
    """

    def __init__(self, *, top: int = 25, sampled: int = 256, seed: int = 0) -> None:
        self.top, self.sampled, self.seed = top, sampled, seed
        self._hooks: dict[str, _Hook] = {}

    def update(self, batch: ActivationBatch) -> TriggerStream:
        """Takes in more rows; returns itself."""
        ids = (batch.document.long() << _POSITIONS) | batch.position.long()
        for hook, activations in batch.activations.items():
            self._state(hook).update(activations, ids)
        return self

    def merge(self, other: TriggerStream) -> TriggerStream:
        """Takes in the rows that `other` saw; returns itself. Raises ConfigError when the two keep different things."""
        mine, theirs = ((each.top, each.sampled, each.seed) for each in (self, other))
        if mine != theirs:
            raise ConfigError(
                f"streams that keep (top, sampled, seed) = {mine} and {theirs} cannot be merged; use the same on every shard"
            )
        for hook, state in other._hooks.items():
            self._state(hook).merge(state)
        return self

    def compute(self) -> dict[str, Triggers]:
        """Hook → Triggers. Raises ConfigError before the first row."""
        if not any(state.rows for state in self._hooks.values()):
            raise ConfigError("triggers got no activations; give at least one batch")
        return {hook: state.compute() for hook, state in self._hooks.items()}

    def _state(self, hook: str) -> _Hook:
        return self._hooks.setdefault(hook, _Hook(TopK(self.top), Sample(self.sampled, seed=self.seed), Density()))


def triggers(batches: Iterable[ActivationBatch], *, top: int = 25, sampled: int = 256, seed: int = 0) -> dict[str, Triggers]:
    """Top trigger examples, random examples and firing density of every neuron, in one pass: hook → Triggers.

    batches: activations of neurons (`memories.activations`, a harvest of `blocks.l.mlp.hook_post`, or a store); of any other
    hook a column counts as a neuron. No place may come twice.

    Raises ConfigError when there are none.
    """
    stream = TriggerStream(top=top, sampled=sampled, seed=seed)
    for batch in batches:
        stream.update(batch)
    return stream.compute()


def moved(found: Triggers, lengths: Int[np.ndarray, " document"], *, seed: int) -> Triggers:
    """The null for whatever is read off triggers: every one moved along its document, which is taken as a circle.

    All triggers in a document move by the same random amount, so documents, strengths and distances between triggers stay as
    they are, and only what the text says there changes. lengths: tokens of every document.
    """
    offsets = torch.from_numpy(stats.generator(seed, "move triggers").integers(1, np.maximum(lengths, 2)))
    size = torch.from_numpy(np.asarray(lengths))
    return replace(found, position=(found.position + offsets[found.document]) % size[found.document])


@dataclass
class _Hook:
    """What is kept of one hook."""

    strongest: TopK
    sample: Sample
    density: Density
    rows: int = 0

    def update(self, activations: Float[Tensor, "row neuron"], ids: Int[Tensor, " row"]) -> None:
        self.rows += len(ids)
        self.strongest.update(activations, ids)
        self.sample.update(activations, ids)
        self.density.update(activations)

    def merge(self, other: _Hook) -> None:
        self.rows += other.rows
        self.strongest.merge(other.strongest)
        self.sample.merge(other.sample)
        self.density.merge(other.density)

    def compute(self) -> Triggers:
        top, drawn = self.strongest.compute(), self.sample.compute()
        return Triggers(
            top.values.cpu(),
            *_places(top.ids.cpu()),
            density=self.density.compute().cpu(),
            rows=self.rows,
            sample_value=drawn.values.float().cpu(),
            sample_document=_places(drawn.ids)[0],
            sample_position=_places(drawn.ids)[1],
        )


def _places(ids: Tensor) -> tuple[Tensor, Tensor]:
    return ids >> _POSITIONS, ids & ((1 << _POSITIONS) - 1)
