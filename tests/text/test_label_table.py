"""Labels find the rows they belong to, whatever became of the rows in between."""

import itertools

import numpy as np
import pytest
import torch

from interp.errors import CorpusError
from interp.text.label_table import LabelTable
from interp.text.labels import DESCRIPTIONS, token_labels
from interp.text.packing import pack
from interp.text.stdlib import Document, shipped_held_out
from interp.text.tokenizer import FastTokenizer

DOCUMENTS = [
    Document("a.py", "def f(x):\n    return x\n"),
    Document("b", ""),
    Document("c", "No Python, 1 line"),
    *itertools.islice(shipped_held_out(), 2),
]


@pytest.fixture(scope="module")
def table(tokenizer: FastTokenizer) -> LabelTable:
    return LabelTable.build(DOCUMENTS, tokenizer)


def test_a_packed_batch_gets_each_tokens_own_labels(table: LabelTable, tokenizer: FastTokenizer) -> None:
    direct = [token_labels(document.text, tokenizer.encode(document.text).offsets) for document in DOCUMENTS]
    for batch in pack(DOCUMENTS, tokenizer, context=100, batch=16):
        labels = table.rows(batch.document, batch.position)
        assert set(labels) == set(DESCRIPTIONS)
        for row, place in itertools.product(range(len(batch.tokens)), range(0, 100, 23)):
            document, position = int(batch.document[row, place]), int(batch.position[row, place])
            if document < 0:
                assert not any(values[row, place] for values in labels.values())
            else:
                assert all(values[row, place] == direct[document][name][position] for name, values in labels.items())


def test_rows_come_back_in_any_order_and_shape(table: LabelTable) -> None:
    document, position = torch.tensor([[3, 0], [3, -1]]), torch.tensor([[5, 1], [0, -1]])
    labels = table.rows(document, position)
    flat = table.rows(document.flatten().flip(0).numpy(), position.flatten().flip(0).numpy())
    assert all(np.array_equal(flat[name], values.flatten()[::-1]) for name, values in labels.items())
    assert labels["column"].dtype == np.int32
    assert all(len(values) == 0 for values in table.rows([], []).values())


def test_only_the_labels_asked_for_are_kept(tokenizer: FastTokenizer, table: LabelTable) -> None:
    small = LabelTable.build(DOCUMENTS, tokenizer, names=["keyword", "column"])
    assert list(small.columns) == ["keyword", "column"]
    assert np.array_equal(small.columns["keyword"], table.columns["keyword"])
    with pytest.raises(CorpusError, match=r"no label 'keywords' \(did you mean keyword"):
        LabelTable.build(DOCUMENTS, tokenizer, names=["keywords"])


def test_rows_of_another_corpus_or_tokenizer_are_refused(table: LabelTable, tokenizer: FastTokenizer) -> None:
    count = len(tokenizer.encode(DOCUMENTS[0].text).ids)
    with pytest.raises(
        CorpusError, match="document 5 is beyond the table's 5 documents; build the table from the corpus the rows came from"
    ):
        table.rows([0, 5], [0, 0])
    with pytest.raises(
        CorpusError, match=rf"position {count} is beyond document 0 \(a\.py\) of {count} tokens; build the table with"
    ):
        table.rows([0], [count])
    with pytest.raises(CorpusError, match=r"must have one shape, got \(2,\) and \(1,\)"):
        table.rows([0, 0], [0])
    assert table.tokenizer == tokenizer.fingerprint


def test_a_table_of_nothing_has_no_rows(tokenizer: FastTokenizer) -> None:
    empty = LabelTable.build([], tokenizer)
    with pytest.raises(CorpusError, match="beyond the table's 0 documents"):
        empty.rows([0], [0])
