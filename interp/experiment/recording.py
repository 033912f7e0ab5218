"""What a run notes about itself while it goes: how long its stages took, which models and texts it read.

Must not know: what is done with the notes.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any

from interp.experiment.progress import note


@dataclass
class Recording:
    """The notes of one run: stages in the order they ended, sources by name."""

    stages: list[dict[str, Any]] = field(default_factory=list)
    sources: dict[str, str] = field(default_factory=dict)


_current: ContextVar[Recording | None] = ContextVar("recording", default=None)


@contextlib.contextmanager
def recording() -> Iterator[Recording]:
    """A fresh recording that `stage` and `source` write to inside the block."""
    notes = Recording()
    token = _current.set(notes)
    try:
        yield notes
    finally:
        _current.reset(token)


@contextlib.contextmanager
def stage(name: str) -> Iterator[None]:
    """Times a block, `with experiment.stage("train the autoencoder"):`, for the manifest; says on stderr that it began."""
    note(f"{name} …")
    started = time.perf_counter()
    try:
        yield
    finally:
        if (notes := _current.get()) is not None:
            notes.stages.append({"stage": name, "seconds": round(time.perf_counter() - started, 3)})


def source(name: str, revision: str) -> None:
    """Notes a model or a corpus that the run reads, with its revision: `source("corpus stdlib", corpus.revision)`."""
    if (notes := _current.get()) is not None:
        notes.sources[name] = revision
