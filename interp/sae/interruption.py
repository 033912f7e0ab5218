"""SIGINT and SIGTERM, held back until a step is finished and a checkpoint is written.

Must not know: what is being trained.
"""

from __future__ import annotations

import signal
import threading
from types import FrameType, TracebackType
from typing import Any

from interp.errors import TrainingError

_SIGNALS = (signal.SIGINT, signal.SIGTERM)


class Interruption:
    """A context in which the first SIGINT or SIGTERM only sets `requested`; a second one acts as it did before.

    Where it is not `active`, and outside the main thread, where Python handles no signals, it does nothing.
    """

    def __init__(self, *, active: bool) -> None:
        self.requested: signal.Signals | None = None
        self._active = active and threading.current_thread() is threading.main_thread()
        self._before: dict[signal.Signals, Any] = {}

    def __enter__(self) -> Interruption:
        if self._active:
            self._before = {number: signal.signal(number, self._note) for number in _SIGNALS}
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._release()

    def act(self, state: str) -> None:
        """Raises KeyboardInterrupt after SIGINT and TrainingError after SIGTERM, with `state` as the message; else nothing."""
        if self.requested is signal.SIGINT:
            raise KeyboardInterrupt(state)
        if self.requested is not None:
            raise TrainingError(f"{self.requested.name}: {state}")

    def _note(self, number: int, frame: FrameType | None) -> None:
        self.requested = signal.Signals(number)
        self._release()

    def _release(self) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)
        self._before = {}
