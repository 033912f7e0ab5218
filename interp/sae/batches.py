"""From whatever carries activations to plain rows: tensors as they are, or hooks of an activation batch.

Must not know: models, autoencoders.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import count
from typing import Any, Protocol

import torch
from jaxtyping import Float
from torch import Tensor

from interp.errors import TrainingError
from interp.stats import torch_generator

Batches = Iterable[Any]
"""Tensors [row d]; pairs of them, inputs and targets; or batches with `.activations[hook]` (as of `interp.activations`)."""

Hook = str | Sequence[str] | None
"""One hook; several, whose rows are laid side by side; or None for the only one there is."""


def rows_of(batch: Any, hook: Hook) -> Tensor:
    """The rows of one batch, in whatever shape and type: their user checks them.

    `hook` may be None for tensors, and for batches that hold a single hook; several hooks are laid side by side in the given
    order. Raises TrainingError for a hook that is not there.
    """
    if isinstance(batch, Tensor):
        return batch
    held = batch.activations
    if hook is None and len(held) == 1:
        return next(iter(held.values()))
    names = [hook] if hook is None or isinstance(hook, str) else list(hook)
    for name in names:
        if name not in held:
            raise TrainingError(
                f"hook {name!r} is not in these activations, which hold {', '.join(held)}; pass hook= one of them"
            )
    return held[names[0]] if len(names) == 1 else torch.cat([held[name] for name in names], dim=-1)


def pair_of(batch: Any, hook: Hook, target: Hook) -> tuple[Tensor, Tensor]:
    """Inputs and targets of one batch: one and the same tensor, unless the batch is a pair or `target` names hooks."""
    if isinstance(batch, tuple):
        inputs, targets = batch
        return inputs, targets
    inputs = rows_of(batch, hook)
    return inputs, inputs if target is None else rows_of(batch, target)


def entered(batches: Batches | Callable[[int], Batches], step: int) -> Iterator[Any]:
    """The stream from batch `step` on.

    batches: an iterable, of which the first `step` batches are read and dropped; or a function from a step to the stream from
    there, which need not read them.
    """
    if callable(batches):
        return iter(batches(step))
    stream = iter(batches)
    for _ in range(step):
        next(stream, None)
    return stream


class Store(Protocol):
    """An activation store, as far as training is concerned (`interp.activations.ActivationStore`)."""

    @property
    def rows(self) -> int: ...

    def batches(self, hooks: str | Sequence[str], *, rows: int, seed: int, start: int) -> Iterable[Any]: ...


def epochs(
    store: Store, hook: str | Sequence[str], *, rows: int, seed: int = 0, start: int = 0
) -> Iterator[Float[Tensor, "row d"]]:
    """The rows of a store over and over, in a new order each time, in float32 batches of exactly `rows`. Endless.

    start: the batch to begin with; it is the same batch that a stream from 0 gives at that place.

    Raises TrainingError for a store with fewer rows than that.
    """
    if store.rows < rows:
        raise TrainingError(
            f"the store holds {store.rows} rows, fewer than one batch of {rows}; harvest more, or pass rows={store.rows}"
        )
    first, within = divmod(start, store.rows // rows)
    for epoch in count(first):
        place = epoch * store.rows + (within * rows if epoch == first else 0)
        for batch in store.batches(hook, rows=rows, seed=seed, start=place):
            if len(batch) == rows:
                yield rows_of(batch, hook).float()


def side_by_side(*streams: Batches, hooks: Sequence[Hook] | None = None) -> Iterator[Float[Tensor, "row d"]]:
    """Rows of several streams on the same tokens, laid side by side: what a crosscoder of two models reads.

    hooks: the hook to take from each stream. Raises TrainingError where the streams differ in length.
    """
    ended = object()
    iterators = [iter(stream) for stream in streams]
    for index in count():
        parts = [next(iterator, ended) for iterator in iterators]
        if all(part is ended for part in parts):
            return
        rows = [
            None if part is ended else rows_of(part, hook) for part, hook in zip(parts, hooks or [None] * len(parts), strict=True)
        ]
        lengths = [0 if part is None else len(part) for part in rows]
        if len(set(lengths)) > 1:
            raise TrainingError(
                f"the streams have {', '.join(map(str, lengths))} rows at batch {index}; harvest them on the same tokens"
            )
        yield torch.cat([part for part in rows if part is not None], dim=-1)


def shuffled(batches: Batches, *, rows: int, buffer: int, hook: Hook = None, seed: int = 0) -> Iterator[Float[Tensor, "row d"]]:
    """Batches of exactly `rows` rows, drawn at random from a buffer of `buffer` rows that the stream keeps filling.

    Neighbouring rows of a harvest come from one document; training on them in that order gives batches that are not
    independent. A stored cache is read shuffled already. What is left at the end is given out down to the last full batch.
    """
    generator = torch_generator(seed, "shuffle buffer")
    held: list[Tensor] = []
    size = 0
    for batch in batches:
        held.append(rows_of(batch, hook))
        size += len(held[-1])
        if size >= max(buffer, 2 * rows):
            pool = torch.cat(held)[torch.randperm(size, generator=generator)]
            keep = max(size // 2, rows)
            cut = (size - keep) // rows * rows
            yield from pool[:cut].split(rows)
            held, size = [pool[cut:]], size - cut
    if size >= rows:
        pool = torch.cat(held)[torch.randperm(size, generator=generator)]
        yield from pool[: size // rows * rows].split(rows)
