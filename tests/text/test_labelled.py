"""A labelled text keeps tokens, places and labels in one order, and shows every token as something readable."""

import numpy as np
import pytest
from scipy import sparse

from interp.text.corpora import resolve
from interp.text.display import display_vocabulary
from interp.text.labelled import LabelledText
from interp.text.stdlib import Document

DOCUMENTS = [
    Document("a.py", "def first(x):\n    return x + 1\n"),
    Document("b.py", "import os\n\nclass Second:\n    '''Says “é”.'''\n"),
    Document("c.py", "value = first(2)\n"),
]


@pytest.fixture
def text(tokenizer) -> LabelledText:
    return LabelledText.read(resolve(DOCUMENTS), tokenizer, context=12, batch=2)


def test_token_i_of_document_d_stands_at_row_first_d_plus_i(text, tokenizer):
    for index, document in enumerate(DOCUMENTS):
        ids = tokenizer.encode(document.text).ids
        rows = slice(text.first[index], text.first[index + 1])
        assert text.tokens[rows].tolist() == ids
        assert (text.document[rows] == index).all()
        assert text.position[rows].tolist() == list(range(len(ids)))
    assert len(text.tokens) == text.first[-1] == sum(int(batch.is_text.sum()) for batch in text.batches)


def test_labels_belong_to_the_tokens_they_stand_beside(text):
    keywords = [text.vocabulary[token].strip() for token in text.tokens[text.labels["keyword"]]]
    assert "def" in keywords or "d" in keywords
    marked = np.flatnonzero(text.labels["line_import"])
    assert {text.names[d] for d in text.document[marked]} == {"b.py"}


def test_a_window_never_leaves_its_document(text):
    for row in range(len(text.tokens)):
        window = text.window(row, before=5, after=3)
        assert window.start <= row < window.stop
        assert set(text.document[window]) == {text.document[row]}
        assert window.stop - window.start <= 9


def test_common_labels_leave_out_counts_and_what_is_rare_or_everywhere(text):
    found = text.common_labels(low=0.05, high=0.5)
    assert found
    assert "indent_depth" not in found
    assert all(0.05 <= values.mean() <= 0.5 for values in found.values())


def test_pieces_of_a_character_are_shown_by_number_and_everything_else_by_its_text(tokenizer):
    shown = display_vocabulary(tokenizer)
    assert len(shown) == tokenizer.d_vocab
    assert all(shown) and not any("\N{REPLACEMENT CHARACTER}" in text for text in shown)
    for token in tokenizer.encode("def é").ids:
        assert shown[token] == f"‹id {token}›" or shown[token] in "def é"
    assert any(text.startswith("‹id") for text in shown)


def written(tokens, **labels) -> LabelledText:
    """One document of these tokens and labels."""
    n, marks = len(tokens), {name: np.array(values, dtype=bool) for name, values in labels.items()}
    words = [chr(ord("a") + token) for token in range(max(tokens) + 1)]
    return LabelledText([], np.array(tokens), np.zeros(n, int), np.arange(n), marks, np.array([0, n]), ("one",), words)


def test_a_token_has_a_label_that_most_of_its_places_have():
    text = written([0, 0, 0, 1, 1, 1, 2, 2], name=[1, 1, 0, 0, 0, 1, 1, 1])
    known, labels = text.labels_of_tokens(seen=3, least=1)
    assert known.tolist() == [0, 1] and labels == {}, "name holds for more than half of the tokens: it is no common label"
    text = written([0, 0, 0, 1, 1, 1, 2, 2, 3, 3, 3, 3], name=[1, 1, 0, 0, 0, 1, 1, 1, 0, 0, 0, 0])
    known, labels = text.labels_of_tokens(seen=3, least=1)
    assert known.tolist() == [0, 1, 3] and labels["name"].tolist() == [True, False, False]
    assert text.labels_of_tokens(seen=3, least=2)[1] == {}


def test_columns_are_explained_under_their_own_numbers():
    tokens = np.random.default_rng(0).integers(0, 4, 400)
    document = np.repeat(np.arange(20), 20)
    words = list("abcd")
    text = LabelledText(
        [], tokens, document, np.tile(np.arange(20), 20), {}, np.arange(0, 401, 20), tuple(map(str, range(20))), words
    )
    fires = sparse.csc_array(np.stack([tokens == 2, tokens == 0], 1).astype(float))
    found = text.explain(fires, np.array([17, 5])).query("source == 'columns'").set_index("column")
    assert found.rule.to_dict() == {17: 'token is "c"', 5: 'token is "a"'}
