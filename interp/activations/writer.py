"""`StoreWriter`: commits rows to a store as they come, shard by shard, and continues where an earlier writer stopped.

The order of a commit: shard to a temporary file → fsync → rename → fsync of the directory → log line → fsync. A crash at any
point leaves the committed shards, and at most leftovers that the next writer removes. Must not know: models, text, how a store
is read.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path
from types import TracebackType

import torch

from interp.activations import shards
from interp.activations.batch import ActivationBatch
from interp.activations.files import TEMPORARY, WriterDirectory
from interp.activations.log import (
    HEADER_FILE,
    LOG_FILE,
    Header,
    Log,
    ShardRecord,
    encode_header,
    end_line,
    read_header,
    read_log,
    shard_line,
    shard_name,
)
from interp.errors import StoreError

SHARD_BYTES = 64 << 20


class StoreWriter:
    """A context that takes batches and commits a shard whenever `shard_bytes` of them have come together.

    Leaving the context normally commits the rest and marks the store finished; leaving it by an exception, Ctrl-C included,
    commits the whole batches that have come, and leaves the store to be resumed. `batches_committed` says at which batch a
    resumed harvest goes on.

    Raises StoreError when `path` holds a store already (without `resume`), one with another header (with it), a finished one,
    or other files; when another process is writing there; and when the disk refuses.
    """

    def __init__(self, path: Path | str, header: Header, *, resume: bool = False, shard_bytes: int = SHARD_BYTES) -> None:
        self.path = Path(path)
        self._header = header
        self._dtype = getattr(torch, header.dtype)
        self._shard_bytes = shard_bytes
        self._pending: list[ActivationBatch] = []
        self._pending_bytes = 0
        self._log, self._whole = Log(), True
        with self._explained("open"):
            self._directory = WriterDirectory(self.path)
        try:
            self._begin(resume)
        except BaseException:
            self._directory.close()
            raise

    @property
    def batches_committed(self) -> int:
        """Batches, from the start of the harvest, whose rows are safe on the disk."""
        return self._log.batches

    @property
    def rows_committed(self) -> int:
        """Rows that are safe on the disk."""
        return self._log.rows

    def append(self, batch: ActivationBatch) -> None:
        """Takes the next batch. Raises StoreError when hooks or shapes differ from the store's, or values do not fit its
        dtype."""
        self._check_shapes(batch)
        activations = {hook: batch.activations[hook].to("cpu", self._dtype) for hook in self._header.hooks}
        for hook, values in activations.items():
            if not torch.isfinite(values).all():
                number = self._log.batches + len(self._pending)
                mend = "check the model" if not torch.isfinite(batch.activations[hook]).all() else "store float32 or bfloat16"
                raise StoreError(f"batch {number}, {hook}: values that are not finite as {self._header.dtype}; {mend}")
        rows = {field: getattr(batch, field).cpu() for field in shards.ROW_TENSORS}
        self._pending.append(replace(batch, activations=activations, **rows))
        self._pending_bytes += sum(values.nbytes for values in activations.values())
        if self._pending_bytes >= self._shard_bytes:
            self._commit()

    def __enter__(self) -> StoreWriter:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        try:
            if self._whole:
                self._commit()
                if kind is None:
                    self._finish()
        finally:
            self._directory.close()

    def _begin(self, resume: bool) -> None:
        present = {file.name for file in self.path.iterdir() if not file.name.endswith(TEMPORARY)}
        if HEADER_FILE not in present:
            if present:
                raise StoreError(
                    f"{self.path} is not empty and not an activation store ({sorted(present)[0]} …); write to another directory"
                )
            return
        if not resume:
            raise StoreError(
                f"{self.path} holds an activation store already; resume it, delete it, or write to another directory"
            )
        stored = read_header(self.path)
        if differences := stored.differences(self._header):
            raise StoreError(f"{self.path} cannot be resumed: {'; '.join(differences)}")
        log = read_log(self.path)
        if log.finished:
            raise StoreError(f"{self.path} is finished, with {log.rows} rows; write to another directory")
        for record in log.shards:
            shards.check_size(self.path, record)
        self._header, self._log = stored, log
        with self._explained("tidy"):
            self._directory.collect({HEADER_FILE, LOG_FILE, *(record.name for record in log.shards)})
            if LOG_FILE in present:
                self._directory.cut(LOG_FILE, log.length)

    def _check_shapes(self, batch: ActivationBatch) -> None:
        shapes = {hook: tuple(batch.shapes[hook]) for hook in self._header.hooks if hook in batch.shapes}
        if missing := [hook for hook in self._header.hooks if hook not in shapes]:
            raise StoreError(f"{self.path}: the batch lacks {', '.join(missing)}; it has {', '.join(batch.shapes)}")
        if not self._header.shapes:
            versions = {name: version(name) for name in ("torch", "safetensors")}
            header = replace(self._header, shapes=shapes, versions=versions)
            with self._explained(HEADER_FILE):
                self._directory.put(HEADER_FILE, encode_header(header))
            self._header = header
        elif shapes != self._header.shapes:
            raise StoreError(f"{self.path}: shapes {self._header.shapes} in the store, {shapes} in the batch")

    def _commit(self) -> None:
        rows = sum(len(batch) for batch in self._pending)
        if rows == 0:
            return
        self._whole = False  # an interrupt from here on may come after the log line: never commit these rows again
        data, layout = shards.encode(self._pending, self._header.hooks)
        record = ShardRecord(
            name=shard_name(len(self._log.shards)),
            bytes=len(data),
            rows=rows,
            first_row=self._log.rows,
            batches=self._log.batches + len(self._pending),
            tensors=layout,
            **shards.checksums(data),
        )
        with self._explained(record.name):
            self._directory.put(record.name, data)
            self._directory.append(LOG_FILE, shard_line(record))
        self._log.add(record)
        self._pending, self._pending_bytes = [], 0
        self._whole = True

    def _finish(self) -> None:
        if self._log.rows == 0:
            raise StoreError(f"{self.path}: no rows came, so there is nothing to store; the corpus is empty")
        with self._explained(LOG_FILE):
            self._directory.append(LOG_FILE, end_line(self._log))

    @contextmanager
    def _explained(self, what: str) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            reason = error.strerror or str(error)
            safe = f"{self._log.rows} rows in {len(self._log.shards)} shards are safe; mend it and resume"
            raise StoreError(f"{self.path}: {what} cannot be written ({reason}); {safe}") from error
