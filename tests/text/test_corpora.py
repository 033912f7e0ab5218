"""One resolver for every kind of text, and one clear line for everything that can be wrong with it."""

import hashlib
import json
import sys
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from interp.errors import CorpusError
from interp.text import corpora, stdlib
from interp.text.corpora import Corpus, resolve
from interp.text.stdlib import Document
from interp.text.tokenizer import FastTokenizer

TEXTS = ["one", "two\nlines", "naïve 😀"]


def write_jsonl(path: Path, rows: list) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def write_parquet(path: Path, columns: dict, row_group: int = 2) -> Path:
    pq.write_table(pa.table(columns), path, row_group_size=row_group)
    return path


def texts(corpus: Corpus) -> list[str]:
    return [document.text for document in corpus]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "sub").mkdir()
    (tmp_path / "b.txt").write_text(TEXTS[0])
    (tmp_path / "a.py").write_text("x = 1\n")
    (tmp_path / "ignored.bin").write_bytes(b"\xff\xfe")
    write_jsonl(tmp_path / "sub" / "rows.jsonl", [{"text": text} for text in TEXTS])
    write_parquet(tmp_path / "sub" / "table.parquet", {"text": TEXTS})
    return tmp_path


def test_every_kind_gives_its_texts_again_and_again(folder: Path) -> None:
    specs = {
        str(folder / "b.txt"): TEXTS[:1],
        str(folder / "a.py"): ["x = 1\n"],
        str(folder / "sub" / "rows.jsonl"): TEXTS,
        str(folder / "sub" / "table.parquet"): TEXTS,
        str(folder): ["x = 1\n", TEXTS[0], *TEXTS, *TEXTS],
    }
    for spec, expected in specs.items():
        corpus = resolve(spec)
        assert texts(corpus) == expected == texts(corpus)
        assert corpus.name == spec
        assert resolve(Path(spec)).revision == corpus.revision
    assert [document.name for document in resolve(folder)][:4] == ["a.py", "b.txt", "sub/rows.jsonl#1", "sub/rows.jsonl#2"]


def test_a_generator_can_be_read_twice() -> None:
    corpus = resolve(text for text in TEXTS)
    assert texts(corpus) == TEXTS == texts(corpus)
    documents = [Document(str(i), text) for i, text in enumerate(TEXTS)]
    assert list(resolve(documents)) == documents
    assert resolve(documents).revision == corpus.revision == stdlib.corpus_hash(documents)


def test_the_built_in_corpus_is_the_standard_library() -> None:
    held_out = resolve("stdlib:heldout")
    assert list(held_out) == list(stdlib.shipped_held_out())
    assert held_out.revision == stdlib.corpus_hash(list(stdlib.shipped_held_out()))


def test_the_train_side_is_the_installed_library_without_the_held_out_modules(monkeypatch: pytest.MonkeyPatch) -> None:
    paths = [Path(json.__file__).parent / name for name in ("decoder.py", "encoder.py", "tool.py")]
    monkeypatch.setattr(stdlib, "_modules", lambda tests: (Document(path.name, path.read_text()) for path in paths))
    monkeypatch.setattr(stdlib, "_topics", lambda: ())
    monkeypatch.setattr(stdlib, "is_held_out", lambda name: name == "encoder.py")
    assert [document.name for document in resolve("stdlib")] == ["decoder.py", "tool.py"]


def test_a_revision_changes_with_the_text_and_with_nothing_else(folder: Path) -> None:
    before = resolve(folder).revision
    (folder / "ignored.bin").write_bytes(b"changed")
    assert resolve(folder).revision == before
    (folder / "b.txt").write_text("One")
    assert resolve(folder).revision != before


def test_the_revision_of_one_file_follows_from_its_sha256(folder: Path) -> None:
    content = hashlib.sha256((folder / "b.txt").read_bytes()).hexdigest()
    assert resolve(folder / "b.txt").revision == hashlib.sha256(json.dumps(["b.txt", content]).encode()).hexdigest()


def test_another_column_is_taken_when_asked_for(tmp_path: Path) -> None:
    write_jsonl(tmp_path / "rows.jsonl", [{"id": 1, "body": "hello"}])
    write_parquet(tmp_path / "rows.parquet", {"id": [1], "body": ["hello"]})
    for suffix in ("jsonl", "parquet"):
        assert texts(resolve(f"{tmp_path}/rows.{suffix}?text=body")) == ["hello"]


def test_rows_without_text_are_left_out_and_numbers_stay(tmp_path: Path) -> None:
    rows = [{"text": ""}, {"text": None}, {"text": "x"}]
    path = write_jsonl(tmp_path / "rows.jsonl", rows)
    assert list(resolve(path)) == [Document("rows.jsonl#3", "x")]
    write_parquet(tmp_path / "rows.parquet", {"text": ["", None, "x"]})
    assert list(resolve(tmp_path / "rows.parquet")) == [Document("rows.parquet#3", "x")]


def test_a_long_file_is_cut_at_line_ends_without_loss(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(corpora, "_LONGEST_TEXT", 10)
    text = "a\nlonger line than ten\n" * 7 + "end"
    (tmp_path / "long.txt").write_text(text)
    documents = list(resolve(tmp_path / "long.txt"))
    assert "".join(document.text for document in documents) == text
    assert len(documents) > 3
    assert all(document.text.endswith("\n") for document in documents[:-1])
    assert documents[1].name == "long.txt#1"


def test_a_module_is_read_in_its_own_encoding(tmp_path: Path) -> None:
    (tmp_path / "old.py").write_bytes("# coding: latin-1\nname = 'é'\n".encode("latin-1"))
    (tmp_path / "bom.txt").write_bytes(b"\xef\xbb\xbfplain\r\ntext")
    assert texts(resolve(tmp_path)) == ["plain\ntext", "# coding: latin-1\nname = 'é'\n"]


def test_parquet_is_read_a_row_group_at_a_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_parquet(tmp_path / "big.parquet", {"text": ["x" * 100] * 5000}, row_group=500)
    asked = []
    original = pq.ParquetFile.iter_batches
    monkeypatch.setattr(pq.ParquetFile, "iter_batches", lambda self, **how: asked.append(how) or original(self, **how))
    assert len(texts(resolve(tmp_path / "big.parquet"))) == 5000
    assert asked == [{"batch_size": 1000, "columns": ["text"]}]


FAULTS = {
    "missing": ("nowhere.txt", r"no corpus .*nowhere\.txt'?: no such file or folder; use \"stdlib\".*put text itself in a list"),
    "suffix": (
        "notes.docx",
        r"cannot read .*notes\.docx: its suffix is '\.docx', expected one of \.txt, \.py, \.jsonl, \.parquet",
    ),
    "empty folder": ("empty", r"the folder .*empty has no \.txt, \.py, \.jsonl, \.parquet file in it; give one that has"),
    "column of text": ("plain.txt?text=body", r"names a column, and only \.jsonl and \.parquet have columns; leave it out"),
    "parquet column": (
        "t.parquet?text=body",
        r"t\.parquet has no column 'body'; its columns are id, content: choose one with \?text=column",
    ),
    "default column": ("t.parquet", r"has no column 'text'; its columns are id, content"),
    "broken parquet": ("broken.parquet", r"broken\.parquet is not a parquet file that can be read: "),
    "option": ("plain.txt?txt=body", r'cannot read the options "\?txt=body"; expected \?text=column'),
    "config": ("plain.txt?config=x", r"\?config= is for hub data sets only; leave it out"),
}


@pytest.fixture
def faulty(tmp_path: Path) -> Path:
    (tmp_path / "empty").mkdir()
    (tmp_path / "notes.docx").write_text("x")
    (tmp_path / "plain.txt").write_text("x")
    (tmp_path / "broken.parquet").write_text("this is not parquet")
    write_parquet(tmp_path / "t.parquet", {"id": [1], "content": ["x"]})
    return tmp_path


@pytest.mark.parametrize("fault", FAULTS)
def test_faults_are_named_before_anything_is_read(faulty: Path, fault: str) -> None:
    spec, text = FAULTS[fault]
    with pytest.raises(CorpusError, match=text):
        resolve(f"{faulty}/{spec}")


@pytest.mark.parametrize(
    ("name", "content", "text"),
    [
        ("a.txt", b"", r"the corpus .*a\.txt' has no text; give at least one document"),
        ("a.txt", b"caf\xe9", r"a\.txt cannot be decoded \(byte 0xe9\); expected UTF-8 text: save it so or leave it out"),
        ("a.py", b"# coding: nonsense\n", r"a\.py cannot be decoded \(unknown encoding.*nonsense"),
        ("a.jsonl", b'{"text": "x"}\n{"text"\n', r"a\.jsonl, line 2: not JSON \(.*\); expected one JSON object per line"),
        ("a.jsonl", b'["x"]\n', r'line 1: a JSON list, expected one object per line, as \{"text": …\}'),
        (
            "a.jsonl",
            b'{"body": "x", "id": 1}\n',
            r"line 1 has no column 'text'; its columns are body, id: choose one with \?text=column",
        ),
        ("a.jsonl", b'{"text": 3}\n', r"line 1, 'text' is int, expected text"),
        ("a.jsonl", b'{"text": "\xff"}\n', r"a\.jsonl cannot be decoded \(byte 0xff\)"),
        ("a.jsonl", b"\n\n", r"has no text"),
    ],
)
def test_faults_inside_files_are_named_where_they_are_met(tmp_path: Path, name: str, content: bytes, text: str) -> None:
    (tmp_path / name).write_bytes(content)
    corpus = resolve(tmp_path / name)
    with pytest.raises(CorpusError, match=text):
        list(corpus)


def test_an_empty_list_and_a_list_of_something_else_are_refused() -> None:
    for nothing in ([], ["", ""]):
        with pytest.raises(CorpusError, match="the corpus 'memory' has no text"):
            resolve(nothing)
    with pytest.raises(CorpusError, match="item 1 is int, expected text"):
        resolve(iter(["x", 3]))  # pyright: ignore[reportArgumentType]


@pytest.fixture
def data_set(tmp_path: Path) -> Path:
    pytest.importorskip("datasets")
    root = tmp_path / "set"
    root.mkdir()
    write_jsonl(root / "train.jsonl", [{"id": i, "body": text} for i, text in enumerate(TEXTS)])
    write_jsonl(root / "test.jsonl", [{"id": 9, "body": "held out"}])
    return root


def test_a_local_data_set_streams(data_set: Path) -> None:
    corpus = resolve(f"hf:{data_set}#train?text=body")
    assert texts(corpus) == TEXTS == texts(corpus)
    assert texts(resolve(f"hf:{data_set}?text=body")) == TEXTS
    assert texts(resolve(f"hf:{data_set}#test?text=body")) == ["held out"]
    assert len(corpus.revision) == 64


def test_a_data_set_with_configurations_asks_for_one(data_set: Path) -> None:
    front = "---\nconfigs:\n- config_name: one\n  data_files: train.jsonl\n- config_name: two\n  data_files: test.jsonl\n---\n"
    (data_set / "README.md").write_text(front)
    assert texts(resolve(f"hf:{data_set}?text=body&config=two")) == ["held out"]
    with pytest.raises(CorpusError, match="(?i)config name is missing.*expected hf:org/name"):
        resolve(f"hf:{data_set}?text=body")


def test_a_data_set_saved_to_disk_streams(tmp_path: Path) -> None:
    datasets = pytest.importorskip("datasets")
    rows = datasets.Dataset.from_dict({"text": TEXTS})
    rows.save_to_disk(str(tmp_path / "one"))
    datasets.DatasetDict({"train": rows}).save_to_disk(str(tmp_path / "many"))
    assert texts(resolve(f"hf:{tmp_path / 'one'}")) == TEXTS
    assert texts(resolve(f"hf:{tmp_path / 'many'}#train")) == TEXTS
    with pytest.raises(CorpusError, match="dev"):
        resolve(f"hf:{tmp_path / 'many'}#dev")


def test_faults_of_a_data_set_are_one_line(data_set: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(CorpusError, match=r"has no column 'text'; its columns are id, body: choose one with \?text=column"):
        resolve(f"hf:{data_set}")
    with pytest.raises(CorpusError, match=r"#dev.*dev.*; expected hf:org/name@revision#split\?text=column"):
        resolve(f"hf:{data_set}#dev?text=body")
    with pytest.raises(CorpusError, match=r"cannot be reached \(no such folder\); check the name, go online, or give hf:/folder"):
        resolve("hf:/no/such/folder")
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(CorpusError, match=r"needs the package datasets; pip install 'interp\[hub\]'"):
        resolve(f"hf:{data_set}?text=body")


def test_a_hub_data_set_is_asked_for_by_name_revision_and_split(monkeypatch: pytest.MonkeyPatch) -> None:
    datasets = pytest.importorskip("datasets")
    hub = pytest.importorskip("huggingface_hub")
    asked = []

    def load(*args, **options):
        asked.append((args, options))
        return datasets.Dataset.from_dict({"body": TEXTS}).to_iterable_dataset()

    class Info:
        sha = "0123abc"

    monkeypatch.setattr(datasets, "load_dataset", load)
    monkeypatch.setattr(hub.HfApi, "dataset_info", lambda self, name, revision: Info)
    corpus = resolve("hf:org/name@v1#validation?text=body&config=en")
    assert asked == [(("org/name", "en"), {"split": "validation", "revision": "v1", "streaming": True})]
    assert texts(corpus) == TEXTS
    assert corpus.revision == "0123abc"


def test_a_hub_out_of_reach_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    datasets = pytest.importorskip("datasets")

    def offline(*args, **options):
        raise ConnectionError("Couldn't reach 'org/name' on the Hub\nand a long tail")

    monkeypatch.setattr(datasets, "load_dataset", offline)
    with pytest.raises(CorpusError) as raised:
        resolve("hf:org/name")
    assert str(raised.value) == (
        "hf:org/name cannot be reached (Couldn't reach 'org/name' on the Hub); "
        "check the name, go online, or give hf:/folder of a local data set"
    )


def test_the_head_of_a_corpus_is_as_many_documents_as_hold_the_tokens(tokenizer: FastTokenizer) -> None:
    corpus = resolve(["abc", "defg", "hi"])
    one, two, three = (len(tokenizer.encode(document.text).ids) for document in corpus)
    wanted = {0: 0, 1: 1, one: 1, one + 1: 2, one + two: 2, one + two + 1: 3, one + two + three + 9: 3}
    for tokens, documents in wanted.items():
        head = corpus.up_to(tokens, tokenizer)
        assert [document.text for document in head] == ["abc", "defg", "hi"][:documents] == [document.text for document in head]
        assert head.revision == corpus.revision
