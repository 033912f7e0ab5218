"""The files that say what a store holds: `header.json`, written once, and `log.jsonl`, one checksummed line per committed shard
and one at the end.

What the log does not name does not exist. Must not know: tensors, models.
"""

from __future__ import annotations

import hashlib
import json
import re
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

from interp.errors import StoreError

HEADER_FILE, LOG_FILE = "header.json", "log.jsonl"
FORMAT = 1
DTYPES = ("float32", "float16", "bfloat16")
_MAX_HEADER = 1 << 20
_CHECK = 16
"""Hex digits of the sha256 that starts every log line."""


@dataclass(frozen=True, kw_only=True)
class Header:
    """Where the rows of a store come from; all of it must agree before a harvest is resumed.

    hooks: hook names, stored as `dtype` ("float32", "float16" or "bfloat16").
    context: tokens per row of the model's input. packing: how documents became such rows ("bos", "batch" …).
    corpus, corpus_revision: what `text.resolve` said. max_tokens: where the harvest was told to stop.
    shapes: hook → shape of one token's activation in the model; the writer fills it in, like `versions`.
    """

    model: str
    model_fingerprint: str
    tokenizer_fingerprint: str | None = None
    hooks: tuple[str, ...]
    dtype: str = "float32"
    context: int
    packing: dict[str, Any] = field(default_factory=dict)
    corpus: str = ""
    corpus_revision: str = ""
    max_tokens: int | None = None
    shapes: dict[str, tuple[int, ...]] = field(default_factory=dict)
    versions: dict[str, str] = field(default_factory=dict)
    format: int = FORMAT

    def __post_init__(self) -> None:
        if self.dtype not in DTYPES:
            raise StoreError(f"dtype {self.dtype!r} cannot be stored; use one of {', '.join(DTYPES)}")
        if not self.hooks or len(set(self.hooks)) != len(self.hooks):
            raise StoreError(f"a store needs one or more different hooks, got {list(self.hooks)}")

    def differences(self, other: Header) -> list[str]:
        """What keeps `other` from continuing this store, one phrase each, naming both sides."""
        names = [f.name for f in fields(Header) if f.name not in ("shapes", "versions")]
        pairs = [(name, getattr(self, name), getattr(other, name)) for name in names]
        return [f"{name} {here!r} in the store, {there!r} now" for name, here, there in pairs if here != there]


def encode_header(header: Header) -> bytes:
    """`header.json`: the header and its sha256, for people to read."""
    content = json.loads(json.dumps(asdict(header)))
    return (json.dumps({"sha256": _digest(_canonical(content)), "header": content}, indent=1) + "\n").encode()


def read_header(path: Path) -> Header:
    """The header of the store at `path`. Raises StoreError if there is none, or none that this version can read."""
    file = path / HEADER_FILE
    if not file.is_file():
        raise StoreError(f"{path} is not an activation store: it has no {HEADER_FILE}")
    try:
        outer = json.loads(_head(file))
        content = outer["header"]
        if _digest(_canonical(content)) != outer["sha256"]:
            raise ValueError("its checksum does not fit")
        if content["format"] != FORMAT:
            raise StoreError(f"{file} has format {content['format']}; this version reads format {FORMAT}")
        shapes = {hook: tuple(shape) for hook, shape in content["shapes"].items()}
        return Header(**content | {"hooks": tuple(content["hooks"]), "shapes": shapes})
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        if isinstance(error, StoreError):
            raise
        raise StoreError(f"{file} is damaged ({error}); the store cannot be trusted: harvest it again") from None


def _head(file: Path) -> bytes:
    with file.open("rb") as handle:
        return handle.read(_MAX_HEADER)


@dataclass(frozen=True, kw_only=True)
class ShardRecord:
    """A committed shard: rows first_row … first_row + rows − 1, and all the batches up to `batches` from the start of the
    harvest.

    tensors: name → (safetensors dtype, shape), exactly. sha256 and xxh3 (128 bits) are over the whole file of `bytes` bytes.
    """

    name: str
    bytes: int
    sha256: str
    xxh3: str
    rows: int
    first_row: int
    batches: int
    tensors: dict[str, tuple[str, tuple[int, ...]]]


class Log:
    """What is committed: shards in order with their sums, whether the harvest came to its end, and how many bytes of the log
    say so."""

    def __init__(self) -> None:
        self.shards: list[ShardRecord] = []
        self.rows = 0
        self.batches = 0
        self.length = 0
        self.finished = False

    def add(self, record: ShardRecord) -> None:
        """Takes in the next shard. Raises ValueError when it does not follow the ones before."""
        expected = shard_name(len(self.shards))
        if record.name != expected or record.first_row != self.rows or record.batches <= self.batches or record.rows < 1:
            raise ValueError(
                f"{record.name!r} from row {record.first_row} does not follow {len(self.shards)} shards of {self.rows} rows"
            )
        self.shards.append(record)
        self.rows += record.rows
        self.batches = record.batches


def shard_name(index: int) -> str:
    """`shard-000000.safetensors` and on."""
    return f"shard-{index:06d}.safetensors"


def shard_line(record: ShardRecord) -> bytes:
    """The log line that commits a shard."""
    return _line({"shard": asdict(record)})


def end_line(log: Log) -> bytes:
    """The log line that ends a harvest."""
    return _line({"end": _end(log)})


def read_log(path: Path) -> Log:
    """What the log of the store at `path` commits; a last line that was torn in writing commits nothing. Raises StoreError for
    any other damage."""
    file = path / LOG_FILE
    data = file.read_bytes() if file.exists() else b""
    log = Log()
    log.length = data.rfind(b"\n") + 1
    for number, line in enumerate(data[: log.length].splitlines(keepends=True), start=1):
        try:
            _take(log, _content(line))
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
            raise StoreError(
                f"{file}, line {number} is damaged ({error}); the store cannot be trusted: harvest it again"
            ) from None
    return log


def _take(log: Log, record: dict[str, Any]) -> None:
    if log.finished:
        raise ValueError("it comes after the end")
    if "end" in record:
        if record["end"] != _end(log):
            raise ValueError(f"it ends a log of {record['end']}, not of {_end(log)}")
        log.finished = True
    else:
        content = record["shard"]
        tensors = {name: (str(dtype), tuple(int(n) for n in shape)) for name, (dtype, shape) in content["tensors"].items()}
        log.add(ShardRecord(**content | {"tensors": tensors}))


def _end(log: Log) -> dict[str, int]:
    return {"shards": len(log.shards), "rows": log.rows}


def _line(record: dict[str, Any]) -> bytes:
    text = _canonical(record)
    return f"{_digest(text)[:_CHECK]} {text}\n".encode()


def _content(line: bytes) -> dict[str, Any]:
    match = re.fullmatch(rb"([0-9a-f]{%d}) (.*)\n" % _CHECK, line)
    if match is None or hashlib.sha256(match[2]).hexdigest()[:_CHECK].encode() != match[1]:
        raise ValueError("its checksum does not fit")
    return json.loads(match[2])


def _canonical(content: Any) -> str:
    return json.dumps(content, sort_keys=True, separators=(",", ":"))


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()
