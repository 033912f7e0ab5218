"""`ActivationStore`: activations on disk, read back in a keyed shuffled order or in the order they were written.

A store is a directory: `header.json` (what was harvested), `log.jsonl` (which shards are committed) and safetensors shards.
Only what the log commits is read.

Must not know: models beyond their fingerprint, text, what is done with the rows.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import numpy as np
import torch
from torch import Tensor

from interp.activations import order, shards
from interp.activations.batch import ActivationBatch
from interp.activations.log import Header, Log, read_header, read_log
from interp.activations.writer import SHARD_BYTES, StoreWriter
from interp.errors import StoreError
from interp.names import did_you_mean


@runtime_checkable
class Fingerprinted(Protocol):
    """A model or tokenizer, as far as a store is concerned."""

    @property
    def fingerprint(self) -> str: ...


class ActivationStore:
    """Committed rows of one harvest, as they were when the store was opened; rows that a writer adds meanwhile are not seen."""

    def __init__(self, path: Path, header: Header, log: Log) -> None:
        self.path = path
        self.header = header
        self.finished = log.finished
        self.rows = log.rows
        self._shards = log.shards
        self._ends = np.cumsum([shard.rows for shard in log.shards])
        self._loaded: dict[int, dict[str, Tensor]] = {}

    @classmethod
    def open(
        cls,
        path: Path | str,
        *,
        model: Fingerprinted | None = None,
        hook: str | None = None,
        tokenizer: Fingerprinted | None = None,
        unfinished: bool = False,
    ) -> ActivationStore:
        """The store at `path`, checked to be for this model, hook and tokenizer where they are given.

        unfinished: also open a store whose harvest has not come to its end; the rows committed so far are then its rows.

        Raises StoreError, naming both sides, for a store of something else; for a missing or cut-off shard, a damaged header or
        log; and for an unfinished harvest. A shard's content is checked when its first row is read.
        """
        path = Path(path)
        header, log = read_header(path), read_log(path)
        for record in log.shards:
            shards.check_size(path, record)
        store = cls(path, header, log)
        store._check_origin(model, tokenizer)
        if hook is not None:
            store._check_hooks([hook])
        if not log.finished and not unfinished:
            raise StoreError(
                f"{path} is half-written: {log.rows} rows in {len(log.shards)} shards are committed; "
                "resume its harvest, or open it as unfinished"
            )
        return store

    @staticmethod
    def write(
        path: Path | str, batches: Iterable[ActivationBatch], header: Header, *, shard_bytes: int = SHARD_BYTES
    ) -> ActivationStore:
        """Writes a new store from `batches` and opens it. Raises StoreError as StoreWriter does."""
        with StoreWriter(path, header, shard_bytes=shard_bytes) as writer:
            for batch in batches:
                writer.append(batch)
        return ActivationStore.open(path)

    @property
    def hooks(self) -> tuple[str, ...]:
        return self.header.hooks

    @property
    def bytes(self) -> int:
        """Size of the shards on disk."""
        return sum(shard.bytes for shard in self._shards)

    def batches(
        self, hooks: str | Sequence[str], *, rows: int = 4096, seed: int = 0, start: int = 0
    ) -> Iterator[ActivationBatch]:
        """Batches in shuffled order, from place `start` of the stream to the end of that epoch; every row comes once per epoch.

        The stream is endless: place p lies in epoch p // store.rows, and each epoch has its own order. To resume, pass as
        `start` the number of rows taken so far. The order depends on `seed` and the number of rows in the store alone, not on
        the batch size.
        """
        names = self._check_request(hooks, rows, start)
        epoch, first = divmod(start, self.rows)
        return (
            self._gather(
                names, order.shuffled(np.arange(place, min(place + rows, self.rows)), rows=self.rows, seed=seed, epoch=epoch)
            )
            for place in range(first, self.rows, rows)
        )

    def sequential(self, hooks: str | Sequence[str], *, rows: int = 4096) -> Iterator[ActivationBatch]:
        """Batches in the order the rows were written."""
        names = self._check_request(hooks, rows, 0)
        return (self._gather(names, np.arange(place, min(place + rows, self.rows))) for place in range(0, self.rows, rows))

    def verify(self) -> int:
        """Reads every shard again and compares its sha256 with the log; gives the number of bytes checked. Raises one
        StoreError that lists all damaged shards."""
        faults = []
        for record in self._shards:
            try:
                shards.check_content(self.path, record, algorithm="sha256")
                shards.load(self.path, record)
            except StoreError as error:
                faults.append(str(error))
        if faults:
            raise StoreError("; ".join(faults))
        return self.bytes

    def _check_origin(self, model: Fingerprinted | None, tokenizer: Fingerprinted | None) -> None:
        if model is not None and model.fingerprint != self.header.model_fingerprint:
            here = f"{self.header.model} ({self.header.model_fingerprint[:12]})"
            asked = f"{getattr(model, 'name', 'this model')} ({model.fingerprint[:12]})"
            raise StoreError(f"{self.path} was harvested from {here}, not from {asked}")
        if tokenizer is not None and tokenizer.fingerprint != self.header.tokenizer_fingerprint:
            here = (self.header.tokenizer_fingerprint or "none")[:12]
            raise StoreError(f"{self.path} was harvested with tokenizer {here}, not with {tokenizer.fingerprint[:12]}")

    def _check_hooks(self, hooks: Sequence[str]) -> None:
        for hook in hooks:
            if hook not in self.hooks:
                raise StoreError(f"{self.path} holds {', '.join(self.hooks)}, not {hook}{did_you_mean(hook, self.hooks)}")

    def _check_request(self, hooks: str | Sequence[str], rows: int, start: int) -> tuple[str, ...]:
        names = (hooks,) if isinstance(hooks, str) else tuple(hooks)
        self._check_hooks(names)
        if rows < 1 or start < 0:
            raise StoreError(f"rows={rows}, start={start}: a batch takes at least one row, and the stream starts at 0")
        if self.rows == 0:
            raise StoreError(f"{self.path} has no committed rows yet; resume its harvest")
        return names

    def _gather(self, hooks: tuple[str, ...], rows: np.ndarray) -> ActivationBatch:
        """The given rows, in the given order."""
        places = np.argsort(rows, kind="stable")
        owners = np.searchsorted(self._ends, rows[places], side="right")
        names = (*hooks, *shards.ROW_TENSORS.values())
        columns: dict[str, list[Tensor]] = {name: [] for name in names}
        for owner, part in _runs(owners, rows[places]):
            tensors = self._shard(owner)
            inside = torch.from_numpy(part - self._shards[owner].first_row)
            for name in names:
                columns[name].append(tensors[name].index_select(0, inside))
        back = torch.from_numpy(np.argsort(places, kind="stable"))
        gathered = {name: torch.cat(parts).index_select(0, back) for name, parts in columns.items()}
        origin: dict[str, Any] = {field: gathered[name].long() for field, name in shards.ROW_TENSORS.items()}
        return ActivationBatch(
            {hook: gathered[hook] for hook in hooks}, shapes={hook: self.header.shapes[hook] for hook in hooks}, **origin
        )

    def _shard(self, index: int) -> dict[str, Tensor]:
        if index not in self._loaded:
            self._loaded[index] = shards.load(self.path, self._shards[index])
        return self._loaded[index]


def _runs(owners: np.ndarray, rows: np.ndarray) -> Iterator[tuple[int, np.ndarray]]:
    cuts = np.flatnonzero(np.diff(owners)) + 1
    for part_owners, part in zip(np.split(owners, cuts), np.split(rows, cuts), strict=True):
        yield int(part_owners[0]), part
