"""Where text comes from: one resolver for the built-in corpus, files, folders, data sets and lists of strings.

Must not know: tokenizers, models.
"""

from __future__ import annotations

import hashlib
import json
import re
import tokenize
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

from interp.errors import CorpusError
from interp.text import stdlib
from interp.text.stdlib import Document
from interp.text.tokenizer import Tokenizer

SUFFIXES = (".txt", ".py", ".jsonl", ".parquet")
"""Files that can be read, alone or in a folder."""

_KINDS = 'use "stdlib", "stdlib:heldout", a .txt, .py, .jsonl or .parquet file, a folder of such, or "hf:org/name"'
_LONGEST_TEXT = 4_000_000  # characters; a longer file is cut at line ends, so that memory stays constant
_HUB_FORM = "hf:org/name@revision#split?text=column"
_HUB = re.compile(r"hf:(?P<name>[^@#]+)(@(?P<revision>[^#]+))?(#(?P<split>.+))?")


@dataclass(frozen=True)
class Corpus:
    """Documents that can be read again and again, one at a time.

    name: what it was asked for by.
    revision: which text it is; equal revisions are equal documents. SHA-256 in hex, of a hub data set the commit.
    documents: opens it anew. Documents without text are left out. Raises CorpusError where the text cannot be read, or
        where there is none at all.
    """

    name: str
    revision: str
    documents: Callable[[], Iterator[Document]]

    def __iter__(self) -> Iterator[Document]:
        return self.documents()

    def up_to(self, tokens: int, tokenizer: Tokenizer) -> Corpus:
        """Its first documents, as many as it takes to hold so many tokens."""

        def first() -> Iterator[Document]:
            left = tokens
            for document in self.documents():
                if left <= 0:
                    return
                left -= len(tokenizer.encode(document.text).ids)
                yield document

        return Corpus(self.name, self.revision, first)


def resolve(spec: str | Path | Iterable[str] | Iterable[Document]) -> Corpus:
    """The corpus that `spec` stands for::

        "stdlib"            the running Python's standard library, but for the modules held out of the shipped model's training
        "stdlib:heldout"    the held-out documents that travel with the package, the same everywhere
        "notes.txt"         one document (more than one if it is over 4 million characters: it is cut at line ends); .py alike
        "rows.jsonl"        a document per line; "rows.parquet" a document per row
        "folder/"           every file of these sorts below it, in the order of their paths
        "hf:org/name@rev#split?text=column"     a data set of the Hugging Face hub, streamed; "train" unless a split is given;
                            "hf:/folder#split" reads a local one
        strings, documents  any iterable; it is read once and kept

    Tables take the column "text" unless "?text=column" ends the spec ("&config=name" names a hub data set's configuration).

    Raises CorpusError for what is not there, has no such column or split, or holds no text.
    """
    if isinstance(spec, (str, Path)):
        return _named(str(spec))
    items = enumerate(spec)
    documents = (item if isinstance(item, Document) else Document(str(i), _checked(item, f"item {i}")) for i, item in items)
    return _in_memory("memory", tuple(documents))


def _named(spec: str) -> Corpus:
    if spec in ("stdlib", "stdlib:heldout"):
        documents = stdlib.installed(held_out=False) if spec == "stdlib" else stdlib.shipped_held_out()
        return _in_memory(spec, tuple(documents))
    where, options = _split_options(spec)
    if where.startswith("hf:"):
        return _data_set(spec, where, options)
    if "config" in options:
        raise CorpusError(f"{spec}: ?config= is for hub data sets only; leave it out")
    return _files(spec, Path(where), options.get("text"))


def _split_options(spec: str) -> tuple[str, dict[str, str]]:
    where, mark, query = spec.rpartition("?")
    if not mark:
        return spec, {}
    options = {key: value for key, _, value in (part.partition("=") for part in query.split("&"))}
    if not set(options) <= {"text", "config"} or not all(options.values()):
        raise CorpusError(f'{spec}: cannot read the options "?{query}"; expected ?text=column or ?text=column&config=name')
    return where, options


def _in_memory(name: str, documents: tuple[Document, ...]) -> Corpus:
    if not any(document.text for document in documents):
        raise CorpusError(f"the corpus {name!r} has no text; give at least one document that is not empty")
    return Corpus(name, stdlib.corpus_hash(list(documents)), lambda: _with_text(name, documents))


def _with_text(name: str, documents: Iterable[Document]) -> Iterator[Document]:
    """The documents that have text, of which there must be one."""
    empty = True
    for document in documents:
        if document.text:
            empty = False
            yield document
    if empty:
        raise CorpusError(f"the corpus {name!r} has no text; give at least one document that is not empty")


def _checked(value: object, where: str) -> str:
    if not isinstance(value, str):
        raise CorpusError(f"{where} is {type(value).__name__}, expected text; choose another column or turn it into strings")
    return value


def _files(name: str, path: Path, column: str | None) -> Corpus:
    if path.is_dir():
        paths = sorted(each for each in path.rglob("*") if each.suffix in SUFFIXES and each.is_file())
        if not paths:
            raise CorpusError(f"the folder {path} has no {', '.join(SUFFIXES)} file in it; give one that has")
        names = [each.relative_to(path).as_posix() for each in paths]
    elif path.is_file():
        if path.suffix not in SUFFIXES:
            raise CorpusError(f"cannot read {path}: its suffix is {path.suffix!r}, expected one of {', '.join(SUFFIXES)}")
        paths, names = [path], [path.name]
    else:
        raise CorpusError(f"no corpus {name!r}: no such file or folder; {_KINDS}; put text itself in a list")
    if column is not None and not any(each.suffix in _TABLES for each in paths):
        raise CorpusError(f"{name}: ?text={column} names a column, and only .jsonl and .parquet have columns; leave it out")
    for each in paths:
        if each.suffix == ".parquet":
            _parquet_file(each, column or "text")

    def documents() -> Iterator[Document]:
        for each, title in zip(paths, names, strict=True):
            read = _TABLES.get(each.suffix)
            yield from read(each, title, column or "text") if read else _text(each, title)

    return Corpus(name, _hash_files(paths, names), lambda: _with_text(name, documents()))


def _hash_files(paths: list[Path], names: list[str]) -> str:
    """SHA-256 over the names and contents, a mebibyte in memory at a time."""
    whole = hashlib.sha256()
    for path, name in zip(paths, names, strict=True):
        one = hashlib.sha256()
        with path.open("rb") as file:
            while block := file.read(2**20):
                one.update(block)
        whole.update(json.dumps([name, one.hexdigest()]).encode())
    return whole.hexdigest()


def _text(path: Path, name: str) -> Iterator[Document]:
    """The file as Python reads text: ends of line become "\\n". A module's own encoding is honoured."""
    try:
        with tokenize.open(path) if path.suffix == ".py" else path.open(encoding="utf-8-sig") as file:
            part = file.read(_LONGEST_TEXT)
            number = 0
            while part:
                part += file.readline() if len(part) == _LONGEST_TEXT else ""
                following = file.read(_LONGEST_TEXT)
                yield Document(f"{name}#{number}" if number or following else name, part)
                part, number = following, number + 1
    except (UnicodeDecodeError, SyntaxError) as error:
        raise CorpusError(_undecodable(path, error)) from None


def _jsonl(path: Path, name: str, column: str) -> Iterator[Document]:
    try:
        with path.open(encoding="utf-8-sig") as file:
            for number, line in enumerate(file, start=1):
                where = f"{path}, line {number}"
                if not line.strip():
                    continue
                try:
                    row = json.loads(line)
                except json.JSONDecodeError as error:
                    raise CorpusError(f"{where}: not JSON ({error.msg}); expected one JSON object per line") from None
                if not isinstance(row, dict):
                    raise CorpusError(f'{where}: a JSON {type(row).__name__}, expected one object per line, as {{"text": …}}')
                if column not in row:
                    raise CorpusError(_no_column(where, column, list(row)))
                if row[column] is not None:
                    yield Document(f"{name}#{number}", _checked(row[column], f"{where}, {column!r}"))
    except UnicodeDecodeError as error:
        raise CorpusError(_undecodable(path, error)) from None


def _parquet_file(path: Path, column: str) -> Any:
    """The open file, which has such a column."""
    parquet = import_module("pyarrow.parquet")
    arrow = import_module("pyarrow")
    try:
        file = parquet.ParquetFile(path)
    except (arrow.ArrowInvalid, OSError) as error:
        raise CorpusError(f"{path} is not a parquet file that can be read: {_first_line(error)}") from None
    if column not in file.schema_arrow.names:
        raise CorpusError(_no_column(str(path), column, file.schema_arrow.names))
    return file


def _parquet(path: Path, name: str, column: str) -> Iterator[Document]:
    """A row group is read at a time, and of it a thousand rows."""
    with _parquet_file(path, column) as file:
        number = 0
        for batch in file.iter_batches(batch_size=1000, columns=[column]):
            for value in batch.column(0).to_pylist():
                number += 1
                if value is not None:
                    yield Document(f"{name}#{number}", _checked(value, f"{path}, row {number}, {column!r}"))


_TABLES = {".jsonl": _jsonl, ".parquet": _parquet}


def _data_set(spec: str, where: str, options: dict[str, str]) -> Corpus:
    match = _HUB.fullmatch(where)
    if match is None:
        raise CorpusError(f"cannot read {spec!r}; expected {_HUB_FORM}, of which all but the name may be left out")
    name, column = match["name"], options.get("text", "text")
    with _reaching(spec):
        rows = _load(name, match["revision"], match["split"] or "train", options.get("config"))
        columns = list(rows.column_names or next(iter(rows), {}))
        revision = _revision(name, match["revision"])
    if columns and column not in columns:
        raise CorpusError(_no_column(spec, column, columns))

    def documents() -> Iterator[Document]:
        with _reaching(spec):
            for number, row in enumerate(rows):
                if row[column] is not None:
                    yield Document(f"{name}#{number}", _checked(row[column], f"{spec}, row {number}, {column!r}"))

    return Corpus(spec, revision, lambda: _with_text(spec, documents()))


@contextmanager
def _reaching(spec: str) -> Iterator[None]:
    """Turns what `datasets` and the hub raise into one clear line."""
    try:
        yield
    except CorpusError:
        raise
    except ImportError as error:
        raise CorpusError(f"{spec} needs the package {error.name}; pip install 'interp[hub]'") from None
    except (KeyError, ValueError) as error:
        raise CorpusError(f"{spec}: {_first_line(error)}; expected {_HUB_FORM}") from None
    except (OSError, RuntimeError) as error:
        mend = "check the name, go online, or give hf:/folder of a local data set"
        raise CorpusError(f"{spec} cannot be reached ({_first_line(error)}); {mend}") from None


def _load(name: str, revision: str | None, split: str, config: str | None) -> Any:
    """The data set's rows, streamed; also those of a folder written by `save_to_disk`."""
    datasets = import_module("datasets")
    folder = Path(name)
    if folder.is_absolute() and not folder.is_dir():
        raise FileNotFoundError("no such folder")
    if (folder / "dataset_dict.json").is_file() or (folder / "state.json").is_file():
        whole = datasets.load_from_disk(name)
        return (whole[split] if isinstance(whole, dict) else whole).to_iterable_dataset()
    return datasets.load_dataset(name, config, split=split, revision=revision, streaming=True)


def _revision(name: str, revision: str | None) -> str:
    """The commit of a hub data set; the hash of the files of a local one."""
    folder = Path(name)
    if folder.is_dir():
        paths = sorted(path for path in folder.rglob("*") if path.is_file())
        return _hash_files(paths, [path.relative_to(folder).as_posix() for path in paths])
    return import_module("huggingface_hub").HfApi().dataset_info(name, revision=revision).sha


def _no_column(where: str, column: str, columns: Iterable[str]) -> str:
    return f"{where} has no column {column!r}; its columns are {', '.join(columns)}: choose one with ?text=column"


def _undecodable(path: Path, error: UnicodeDecodeError | SyntaxError) -> str:
    byte = f"byte {error.object[error.start]:#04x}" if isinstance(error, UnicodeDecodeError) else _first_line(error)
    return f"{path} cannot be decoded ({byte}); expected UTF-8 text: save it so or leave it out"


def _first_line(error: BaseException) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]
