"""From whatever carries activations to plain rows: tensors as they are, or one hook of an activation batch.

Must not know: models, autoencoders.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import count
from typing import Any, Protocol

import torch
from jaxtyping import Float
from torch import Tensor

from interp.errors import TrainingError
from interp.stats import torch_seed

Batches = Iterable[Any]
"""Tensors [row d], or batches with `.activations[hook]` (`interp.activations.ActivationBatch`)."""


def rows_of(batch: Any, hook: str | None) -> Tensor:
    """The rows of one batch, in whatever shape and type: their user checks them.

    `hook` may be None for tensors, and for batches that hold a single hook. Raises TrainingError for a hook that is not there.
    """
    if isinstance(batch, Tensor):
        return batch
    held = batch.activations
    if hook is None and len(held) == 1:
        return next(iter(held.values()))
    if hook not in held:
        raise TrainingError(f"hook {hook!r} is not in these activations, which hold {', '.join(held)}; pass hook= one of them")
    return held[hook]


class Store(Protocol):
    """An activation store, as far as training is concerned (`interp.activations.ActivationStore`)."""

    @property
    def rows(self) -> int: ...

    def batches(self, hooks: str, *, rows: int, seed: int, start: int) -> Iterable[Any]: ...


def epochs(store: Store, hook: str, *, rows: int, seed: int = 0) -> Iterator[Float[Tensor, "row d"]]:
    """The rows of a store over and over, in a new order each time, in float32 batches of exactly `rows`. Endless.

    Raises TrainingError for a store with fewer rows than that.
    """
    if store.rows < rows:
        raise TrainingError(
            f"the store holds {store.rows} rows, fewer than one batch of {rows}; harvest more, or pass rows={store.rows}"
        )
    for epoch in count():
        for batch in store.batches(hook, rows=rows, seed=seed, start=epoch * store.rows):
            if len(batch) == rows:
                yield batch.activations[hook].float()


def shuffled(
    batches: Batches, *, rows: int, buffer: int, hook: str | None = None, seed: int = 0
) -> Iterator[Float[Tensor, "row d"]]:
    """Batches of exactly `rows` rows, drawn at random from a buffer of `buffer` rows that the stream keeps filling.

    Neighbouring rows of a harvest come from one document; training on them in that order gives batches that are not
    independent. A stored cache is read shuffled already. What is left at the end is given out down to the last full batch.
    """
    generator = torch.Generator().manual_seed(torch_seed(seed, "shuffle buffer"))
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
