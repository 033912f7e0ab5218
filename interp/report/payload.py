"""What a view carries in its page: one header of JSON and named arrays of plain numbers, gzipped, in base64.

Layout before gzip, little-endian: uint32 length of the header · header (UTF-8 JSON, padded with spaces so that arrays start at a
multiple of 8) · the arrays one after another, each padded to a multiple of 8. `header["arrays"]` gives each array's type, length
and offset. The browser reads it with `DecompressionStream` and typed arrays, without copying (templates/core.js).

Must not know: what the numbers mean, HTML.
"""

from __future__ import annotations

import base64
import gzip
import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, SupportsInt

import numpy as np

from interp.errors import ReportError
from interp.report.text import visible

_TYPES = {"uint8": "u1", "uint16": "<u2", "uint32": "<u4", "float32": "<f4"}
_SCRIPT_ESCAPES = {ord(char): f"\\u{ord(char):04x}" for char in "<>&\u2028\u2029"}


def pack(header: Mapping[str, Any], arrays: Mapping[str, np.ndarray]) -> str:
    """The payload as base64 text. Every string in the header is made visible; the same input gives the same bytes."""
    blobs, table, offset = [], {}, 0
    for name, array in arrays.items():
        kind = array.dtype.name
        blob = np.ascontiguousarray(array).astype(_TYPES[kind]).tobytes()
        table[name] = {"type": kind, "length": int(array.size), "offset": offset}
        blobs.append(_padded(blob))
        offset += len(blobs[-1])
    text = json.dumps(_clean(header) | {"arrays": table}, ensure_ascii=False, allow_nan=False, separators=(",", ":")).encode()
    text += b" " * (-(len(text) + 4) % 8)
    raw = len(text).to_bytes(4, "little") + text + b"".join(blobs)
    return base64.b64encode(gzip.compress(raw, compresslevel=9, mtime=0)).decode("ascii")


def script_json(value: Any) -> str:
    """JSON that cannot end or open an element inside `<script type="application/json">`."""
    return json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":")).translate(_SCRIPT_ESCAPES)


def script(packed: str) -> str:
    """A payload as a file that a page can load from its own folder: a script that hands it to the element that loads it.

    Pages opened from disk may not fetch files, but they may run them (templates/core.js).
    """
    return f'document.currentScript.payload="{packed}";'


def quantise(values: np.ndarray, low: float, high: float) -> np.ndarray:
    """Values as 256 even steps from low to high, uint8; the error is at most (high − low) / 510."""
    if high <= low:
        return np.zeros(values.shape, np.uint8)
    return np.rint((np.asarray(values, np.float64) - low) / (high - low) * 255).clip(0, 255).astype(np.uint8)


def rounded(value: float) -> float:
    """Four significant digits: all a page shows, and half the bytes."""
    return float(f"{float(value):.4g}")


def finite(values: Any, *, what: str) -> np.ndarray:
    """The values as a float64 array; ReportError if there is no such array or it holds anything but finite numbers."""
    try:
        array = np.asarray(values, dtype=np.float64)
    except (TypeError, ValueError):
        raise ReportError(f"{what}: expected an array of numbers, got {type(values).__name__}") from None
    if not np.isfinite(array).all():
        raise ReportError(f"{what}: {int((~np.isfinite(array)).sum())} of {array.size} values are not finite; mend or drop them")
    return array


class Vocabulary:
    """The token strings one view uses, renumbered: a page carries these and not the whole vocabulary."""

    def __init__(self, tokens: Sequence[str]) -> None:
        self._tokens = tokens
        self._index: dict[int, int] = {}

    def add(self, ids: Iterable[SupportsInt], *, what: str) -> list[int]:
        """Indices of the given token ids in `used()`. Raises ReportError for an id that is no token of the vocabulary."""
        indices = []
        for token in ids:
            token = int(token)
            if not 0 <= token < len(self._tokens):
                raise ReportError(f"{what}: token id {token} is outside the vocabulary of {len(self._tokens)} strings")
            indices.append(self._index.setdefault(token, len(self._index)))
        return indices

    def used(self) -> list[str]:
        """The strings of all tokens added so far, in the order of their indices."""
        return [self._tokens[token] for token in self._index]


def _clean(value: Any) -> Any:
    if isinstance(value, str):
        return visible(value)
    if isinstance(value, Mapping):
        return {visible(str(key)): _clean(part) for key, part in value.items()}
    if isinstance(value, list | tuple):
        return [_clean(part) for part in value]
    return value


def _padded(blob: bytes) -> bytes:
    return blob + b"\0" * (-len(blob) % 8)
