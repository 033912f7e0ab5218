"""The folder of a training: checkpoints, of which the last good one survives any crash, and a log of all rows.

    checkpoint-00001000.safetensors     all tensors of the state
    checkpoint-00001000.json            the rest of it, the settings, and the sha256 of both: written last, it commits
    log.jsonl                           one line per run and row of its history

Must not know: autoencoders, losses, streams. A state is a tree of dictionaries, lists, tensors and plain values.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load as load_tensors
from safetensors.torch import save as dump_tensors
from torch import Tensor

from interp.activations.files import TEMPORARY, WriterDirectory
from interp.errors import StoreError

LOG = "log.jsonl"
FORMAT = 1
KEPT = 2
"""Checkpoints that stay in the folder: the last, and one before it."""

_NAME = re.compile(r"checkpoint-(\d{8,})\.json")


@dataclass(frozen=True)
class Checkpoint:
    """What was committed after `step` steps."""

    step: int
    state: Any


class TrainingFolder:
    """A context that holds the folder against other writers.

    settings: what a training is, as plain values; a checkpoint made with others is refused.

    Raises StoreError when the folder cannot be written, when another process writes there, and when it holds checkpoints and
    `resume` is not set.
    """

    def __init__(self, path: str | Path, settings: Mapping[str, Any], *, resume: bool) -> None:
        self.path = Path(path)
        self._settings = json.loads(json.dumps(settings))
        self._last: int | None = None
        with self._explained("the folder"):
            self._directory = WriterDirectory(self.path)
        try:
            if (steps := self._steps()) and not resume:
                raise StoreError(
                    f"{self.path} holds a training at step {steps[-1]}; pass resume=True, or choose another directory"
                )
            with self._explained(LOG):
                if not steps:
                    self._directory.put(LOG, b"")
                for leftover in self.path.glob(f"*{TEMPORARY}"):
                    leftover.unlink()
        except BaseException:
            self._directory.close()
            raise

    def __enter__(self) -> TrainingFolder:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._directory.close()

    def load(self) -> Checkpoint | None:
        """The last checkpoint, or None. Raises StoreError for a damaged one, and, naming each, for settings that differ."""
        if not (steps := self._steps()):
            return None
        file = self.path / f"{_stem(steps[-1])}.json"
        before = f", which falls back to step {steps[-2]}" if len(steps) > 1 else ", and start again"
        with _damage(file, before):
            content = _opened(file.read_bytes())
            if content["format"] != FORMAT:
                raise StoreError(f"{file} has format {content['format']}; this version reads format {FORMAT}")
        if differences := list(_differences(content["settings"], self._settings)):
            raise StoreError(f"{file} was made with other settings: {'; '.join(differences)}; use those, or another directory")
        weights = file.with_suffix(".safetensors")
        with _damage(weights, before):
            data = weights.read_bytes()
            if hashlib.sha256(data).hexdigest() != content["sha256"]:
                raise ValueError("its checksum does not fit")
            state = _unpacked(content["state"], load_tensors(data))
        self._last = steps[-1]
        return Checkpoint(steps[-1], state)

    def save(self, step: int, state: Any) -> None:
        """Commits the state after `step` steps; then removes older checkpoints. Raises StoreError when the disk refuses."""
        tensors: dict[str, Tensor] = {}
        plain = _packed(state, tensors, "")
        data = dump_tensors(tensors)
        content = {"format": FORMAT, "settings": self._settings, "state": plain, "sha256": hashlib.sha256(data).hexdigest()}
        with self._explained(f"the checkpoint of step {step}"):
            self._directory.put(f"{_stem(step)}.safetensors", data)
            self._directory.put(f"{_stem(step)}.json", _closed(content))
            self._last = step
            for old in self._steps()[:-KEPT]:
                for suffix in (".json", ".safetensors"):  # json first: no checkpoint is ever without its tensors
                    (self.path / f"{_stem(old)}{suffix}").unlink(missing_ok=True)

    def log(self, rows: list[dict[str, Any]]) -> None:
        """Appends rows to the log. Raises StoreError when the disk refuses."""
        with self._explained(LOG):
            self._directory.append(LOG, _lines(rows))

    def restart_log(self, rows: list[dict[str, Any]]) -> None:
        """Makes these rows the log: what came after the checkpoint has not happened."""
        with self._explained(LOG):
            self._directory.put(LOG, _lines(rows))

    def _steps(self) -> list[int]:
        return sorted(int(match[1]) for file in self.path.iterdir() if (match := _NAME.fullmatch(file.name)))

    @contextmanager
    def _explained(self, what: str) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            safe = "" if self._last is None else f"; the checkpoint of step {self._last} is safe"
            raise StoreError(
                f"{self.path}: {what} cannot be written ({error.strerror or error}){safe}; mend it, or choose another directory"
            ) from error


def _stem(step: int) -> str:
    return f"checkpoint-{step:08d}"


def _lines(rows: list[dict[str, Any]]) -> bytes:
    return "".join(json.dumps(row) + "\n" for row in rows).encode()


def _closed(content: dict[str, Any]) -> bytes:
    text = json.dumps(content)
    return json.dumps({"sha256": hashlib.sha256(text.encode()).hexdigest(), "checkpoint": text}).encode()


def _opened(data: bytes) -> dict[str, Any]:
    outer = json.loads(data)
    if hashlib.sha256(outer["checkpoint"].encode()).hexdigest() != outer["sha256"]:
        raise ValueError("its checksum does not fit")
    return json.loads(outer["checkpoint"])


@contextmanager
def _damage(file: Path, fallback: str) -> Iterator[None]:
    """Says of whatever goes wrong in reading a file that it is damaged, and what to do."""
    try:
        yield
    except StoreError:
        raise
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError, SafetensorError) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        raise StoreError(f"{file} is damaged ({reason}); delete {file.stem}.json{fallback}") from None


def _packed(tree: Any, tensors: dict[str, Tensor], place: str) -> Any:
    """The tree as plain JSON; its tensors go to `tensors` under the names of their places."""
    if isinstance(tree, Tensor):
        tensors[place] = tree.detach().cpu().contiguous()
        return {"tensor": place}
    if isinstance(tree, Mapping):  # pairs, because keys may be numbers
        return {"map": [[key, _packed(value, tensors, f"{place}/{key}")] for key, value in tree.items()]}
    if isinstance(tree, list | tuple):
        return [_packed(value, tensors, f"{place}/{index}") for index, value in enumerate(tree)]
    return tree


def _unpacked(plain: Any, tensors: Mapping[str, Tensor]) -> Any:
    if isinstance(plain, list):
        return [_unpacked(value, tensors) for value in plain]
    if not isinstance(plain, dict):
        return plain
    if "tensor" in plain:
        return tensors[plain["tensor"]]
    return {key: _unpacked(value, tensors) for key, value in plain["map"]}


def _differences(there: Any, here: Any, name: str = "") -> Iterator[str]:
    """Every setting that differs, by its dotted name, with both sides."""
    if isinstance(there, dict) and isinstance(here, dict):
        for key in sorted(there.keys() | here.keys()):
            yield from _differences(there.get(key, "nothing"), here.get(key, "nothing"), f"{name}.{key}" if name else key)
    elif there != here:
        yield f"{name} {there!r} in the checkpoint, {here!r} now"
