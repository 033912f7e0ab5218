"""Progress on stderr: a bar on a terminal, a plain line every ten seconds anywhere else."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterable, Iterator, Sized
from typing import TypeVar

T = TypeVar("T")
EVERY = 10.0
"""Seconds between plain lines."""


def progress(items: Iterable[T], description: str, *, total: int | None = None, every: float = EVERY) -> Iterator[T]:
    """The items, one by one, while stderr says how far it is.

    total: the number of items, where `items` has no length.
    every: seconds between lines when stderr is no terminal. What is done sooner says nothing.
    """
    if total is None and isinstance(items, Sized):
        total = len(items)
    if sys.stderr.isatty():
        from tqdm import tqdm

        yield from tqdm(items, desc=description, total=total, leave=False)
        return
    started = said = time.monotonic()
    for done, item in enumerate(items):
        now = time.monotonic()
        if now - said >= every:
            said = now
            left = "" if total is None or done == 0 else f", about {(now - started) * (total - done) / done:.0f} s left"
            note(f"{description}: {done}{'' if total is None else f' of {total}'}, {now - started:.0f} s{left}")
        yield item


def note(line: str) -> None:
    """One line on stderr, at once."""
    sys.stderr.write(line + "\n")
    sys.stderr.flush()
