"""The built-in corpus: Python's own standard library, the one text that is on every machine with Python.

Documents are the modules of the running interpreter's standard library and the topics of `pydoc_data`. Which
modules are held out is decided by a hash of the module's name, so a module is on the same side under every
Python version, and `test_x` is on the side of `x`. The held-out documents of the corpus that the shipped
language model was trained on travel with the package, so its figures can be reproduced under any Python.

Must not know: tokenizers, models.
"""

from __future__ import annotations

import ast
import gzip
import hashlib
import importlib
import json
import sysconfig
import tokenize
from collections.abc import Iterator
from dataclasses import dataclass
from importlib import resources
from pathlib import Path

HELD_OUT_SHARE = 1 / 20
"""Share of module names that are held out of training."""

# Tables and deliberately broken sources rather than code that somebody wrote to be read.
_SKIPPED = ("site-packages/", "dist-packages/", "encodings/", "lib2to3/tests/data/", "pydoc_data/", "test/encoded_modules/")
_TEST_PARTS = {"test", "tests", "idle_test"}
_MAX_CHARACTERS = 400_000


@dataclass(frozen=True)
class Document:
    """One text with the name it is known by (`json/decoder.py`, `topics/assert`)."""

    name: str
    text: str


def is_held_out(name: str) -> bool:
    """Whether the document called `name` (a path below the standard library) is kept from training."""
    digest = hashlib.sha256(_unit(name).encode()).digest()
    return int.from_bytes(digest[:8], "big") < HELD_OUT_SHARE * 2**64


def installed(*, held_out: bool, tests: bool = False) -> Iterator[Document]:
    """The documents of the running interpreter's standard library, in name order, without duplicates.

    held_out: the documents kept from training, else the others.
    tests: also the modules of the test suite (many distributions leave them out).
    """
    seen: set[str] = set()
    for document in (*_modules(tests), *_topics()):
        digest = hashlib.sha256(document.text.encode()).hexdigest()
        if is_held_out(document.name) == held_out and digest not in seen:
            seen.add(digest)
            yield document


def shipped_held_out() -> Iterator[Document]:
    """The held-out documents that came with the shipped language model (Python 3.11's), the same on every machine."""
    packed = resources.files("interp.text").joinpath("heldout.jsonl.gz").read_bytes()
    for line in gzip.decompress(packed).decode().splitlines():
        yield Document(**json.loads(line))


def corpus_hash(documents: list[Document]) -> str:
    """SHA-256 over names and texts, in order: two corpora are the same text exactly when their hashes are equal."""
    digest = hashlib.sha256()
    for document in documents:
        digest.update(json.dumps([document.name, document.text]).encode())
    return digest.hexdigest()


def _unit(name: str) -> str:
    """`json/scanner.py` and `test/test_json/test_scanner.py` are both `scanner`; an `__init__.py` goes by the package's name."""
    *folders, last = name.split("/")
    stem = last.removesuffix(".py")
    if stem == "__init__" and folders:
        stem = folders[-1]
    return stem.lstrip("_").removeprefix("test_")


def _modules(tests: bool) -> Iterator[Document]:
    root = Path(sysconfig.get_paths()["stdlib"])
    for path in sorted(root.rglob("*.py")):
        name = path.relative_to(root).as_posix()
        if name.startswith(_SKIPPED) or "/site-packages/" in name:
            continue
        is_test = bool(_TEST_PARTS & set(name.split("/")[:-1])) or name.split("/")[-1].startswith("test_")
        if is_test and not tests:
            continue
        text = _source(path)
        if text is not None:
            yield Document(name, text)


def _source(path: Path) -> str | None:
    """The text of a module that parses and is neither empty nor a giant table; None for any other file."""
    try:
        with tokenize.open(path) as file:
            text = file.read()
        ast.parse(text)
    except (SyntaxError, UnicodeDecodeError, ValueError, OSError, RecursionError, MemoryError):
        return None
    return text if 200 <= len(text) <= _MAX_CHARACTERS else None


def _topics() -> Iterator[Document]:
    topics = importlib.import_module("pydoc_data.topics").topics
    for name in sorted(topics):
        yield Document(f"topics/{name}", topics[name])
