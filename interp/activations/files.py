"""Durable files in a directory with one writer: what these functions have returned from survives a crash.

Must not know: activations, tensors, what the files mean.
"""

from __future__ import annotations

import fcntl
import os
from contextlib import suppress
from pathlib import Path

from interp.errors import StoreError

TEMPORARY = ".tmp"


class WriterDirectory:
    """A directory, made if need be, and held against other writers until `close` or the end of the process.

    Methods raise OSError when the disk refuses; what was there before is then still there, unchanged.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        path.mkdir(parents=True, exist_ok=True)
        self._handle = os.open(path, os.O_RDONLY)
        try:
            fcntl.flock(self._handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(self._handle)
            raise StoreError(f"{path} is being written by another process; wait for it to end, or write elsewhere") from None

    def put(self, name: str, data: bytes) -> None:
        """Writes a whole file at once: temporary file, fsync, rename, fsync of the directory."""
        temporary = self.path / (name + TEMPORARY)
        try:
            handle = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o644)
            try:
                _write_all(handle, data)
                os.fsync(handle)
            finally:
                os.close(handle)
            os.rename(temporary, self.path / name)
        except OSError:
            with suppress(OSError):
                temporary.unlink(missing_ok=True)
            raise
        os.fsync(self._handle)

    def append(self, name: str, data: bytes) -> None:
        """Appends to a file, fsync; on failure it is cut back to the length it had."""
        handle = os.open(self.path / name, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
        try:
            length = os.fstat(handle).st_size
            try:
                _write_all(handle, data)
                os.fsync(handle)
                os.fsync(self._handle)
            except OSError:
                with suppress(OSError):
                    os.ftruncate(handle, length)
                raise
        finally:
            os.close(handle)

    def cut(self, name: str, length: int) -> None:
        """Cuts a file to its first `length` bytes."""
        handle = os.open(self.path / name, os.O_WRONLY)
        try:
            os.ftruncate(handle, length)
            os.fsync(handle)
        finally:
            os.close(handle)

    def collect(self, keep: set[str]) -> None:
        """Removes the regular files that are not in `keep`."""
        for file in self.path.iterdir():
            if file.name not in keep and file.is_file():
                file.unlink()

    def close(self) -> None:
        """Lets other writers in."""
        os.close(self._handle)


def _write_all(handle: int, data: bytes) -> None:
    rest = memoryview(data)
    while rest:
        rest = rest[os.write(handle, rest) :]
