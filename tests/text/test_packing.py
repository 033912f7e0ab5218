"""Rows for a model: nothing lost, nothing invented, and every token knows where it came from."""

import itertools
from dataclasses import asdict, replace

import jaxtyping
import numpy as np
import pytest
import torch

from interp.errors import CorpusError
from interp.text.packing import BosPolicy, Packing, TokenBatch, pack
from interp.text.stdlib import Document, shipped_held_out
from interp.text.tokenizer import FastTokenizer

DOCUMENTS = [
    Document("a", "def f(x):\n    return x\n"),
    Document("b", "é😀 " * 9),
    Document("c", ""),
    *itertools.islice(shipped_held_out(), 5),
]
POLICIES: list[BosPolicy] = ["row", "document", "none"]


def joined(batches: list[TokenBatch]) -> dict[str, torch.Tensor]:
    names = ("tokens", "document", "position", "start", "end", "is_text", "is_padding")
    return {name: torch.cat([getattr(batch, name).flatten() for batch in batches]) for name in names}


@pytest.mark.parametrize("bos", POLICIES)
@pytest.mark.parametrize(("context", "batch"), [(2, 1), (7, 3), (64, 4), (256, 100)])
def test_the_text_tokens_are_the_documents_encodings(tokenizer: FastTokenizer, bos: BosPolicy, context: int, batch: int) -> None:
    documents = DOCUMENTS[:3] if context < 64 else DOCUMENTS
    batches = list(pack(documents, tokenizer, context=context, batch=batch, bos=bos))
    assert all(each.tokens.shape[1] == context and len(each.tokens) == batch for each in batches[:-1])
    flat = joined(batches)
    for index, document in enumerate(documents):
        here = flat["is_text"] & (flat["document"] == index)
        encoding = tokenizer.encode(document.text)
        assert flat["tokens"][here].tolist() == encoding.ids
        assert flat["position"][here].tolist() == list(range(len(encoding.ids)))
        assert list(zip(flat["start"][here].tolist(), flat["end"][here].tolist(), strict=True)) == encoding.offsets


@pytest.mark.parametrize("bos", POLICIES)
def test_what_is_no_text_is_bos_or_padding(tokenizer: FastTokenizer, bos: BosPolicy) -> None:
    padded = replace(tokenizer, pad_id=5)
    batches = list(pack(DOCUMENTS, padded, context=50, batch=8, bos=bos))
    flat = joined(batches)
    assert flat["tokens"][flat["is_padding"]].unique().tolist() in ([5], [])
    is_bos = ~flat["is_text"] & ~flat["is_padding"]
    assert (flat["tokens"][is_bos] == tokenizer.bos_id).all()
    rows = sum(len(each.tokens) for each in batches)
    assert int(is_bos.sum()) == {"row": rows + len(DOCUMENTS), "document": len(DOCUMENTS), "none": 0}[bos]
    for name in ("document", "position", "start", "end"):
        assert (flat[name][~flat["is_text"]] == -1).all()


@pytest.mark.parametrize("bos", POLICIES)
def test_padding_only_ends_the_last_row_and_is_masked(tokenizer: FastTokenizer, bos: BosPolicy) -> None:
    *others, last = pack(DOCUMENTS, tokenizer, context=50, batch=8, bos=bos)
    assert all(each.attention_mask.all() for each in others)
    mask = last.attention_mask
    assert mask[:-1].all()
    assert mask[-1].diff().abs().sum() == 1
    assert mask[-1, 0] == 1
    assert (last.tokens[mask == 0] == tokenizer.bos_id).all()  # this tokenizer has no pad token


def test_dropping_the_last_row_drops_only_it(tokenizer: FastTokenizer) -> None:
    padded = joined(list(pack(DOCUMENTS, tokenizer, context=50, batch=8)))
    dropped = joined(list(pack(DOCUMENTS, tokenizer, context=50, batch=8, drop_last=True)))
    assert len(padded["tokens"]) == len(dropped["tokens"]) + 50
    for name, values in dropped.items():
        assert torch.equal(values, padded[name][: len(values)])
    assert not dropped["is_padding"].any()


def test_bos_row_makes_the_rows_the_shipped_model_was_trained_on(tokenizer: FastTokenizer) -> None:
    from interp.models.pretrain import held_out_rows  # here, because it imports TransformerLens, which takes seconds

    stream = torch.tensor([token for document in DOCUMENTS for token in (0, *tokenizer.encode(document.text).ids)])
    batches = pack(DOCUMENTS, tokenizer, context=256, batch=4, bos="row", drop_last=True)
    assert torch.equal(torch.cat([each.tokens for each in batches]), held_out_rows(stream, 256))


def test_packing_holds_one_batch_and_one_document(tokenizer: FastTokenizer) -> None:
    taken = []

    def endless():
        for index in itertools.count():
            taken.append(index)
            yield Document(str(index), "x = 1\n" * 20)

    batches = pack(endless(), tokenizer, context=16, batch=2)
    for _ in range(50):
        next(batches)
    encoded = len(tokenizer.encode("x = 1\n" * 20).ids)
    assert len(taken) <= 50 * 2 * 15 / encoded + 2


def test_a_recorded_packing_packs_again(tokenizer: FastTokenizer) -> None:
    packing = Packing(context=32, batch=3, bos="document", drop_last=True)
    first, again = (joined(list(pack(DOCUMENTS, tokenizer, **asdict(packing)))) for _ in range(2))
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert asdict(packing) == {"context": 32, "batch": 3, "bos": "document", "drop_last": True}


def test_tokens_beyond_the_models_vocabulary_are_refused(tokenizer: FastTokenizer) -> None:
    top = max(tokenizer.encode("x").ids)
    assert list(pack([Document("m.py", "x")], tokenizer, context=4, batch=1, d_vocab=top + 1))
    with pytest.raises(
        CorpusError, match=f"token {top} of document 'm.py' is beyond the model's vocabulary of {top}; tokenise with"
    ):
        list(pack([Document("m.py", "x")], tokenizer, context=4, batch=1, d_vocab=top))


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"context": 1}, "context=1 leaves no room for text with bos='row'; use at least 2"),
        ({"context": 0, "bos": "none"}, "context=0 leaves no room for text with bos='none'; use at least 1"),
        ({"batch": 0}, "batch=0 rows is too few; use at least 1"),
    ],
)
def test_options_that_do_not_fit_are_refused_before_anything_is_read(tokenizer: FastTokenizer, options: dict, text: str) -> None:
    with pytest.raises(CorpusError, match=text):
        pack(iter(()), tokenizer, **{"context": 8, "batch": 2, **options})


def test_an_unknown_policy_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)  # as for a caller, who has no type checks at run time
    with pytest.raises(CorpusError, match="bos='rows' is not a policy; use one of row, document, none"):
        Packing(context=8, batch=2, bos="rows")  # pyright: ignore[reportArgumentType]


def test_a_tokenizer_without_bos_is_refused_unless_none_is_wanted(tokenizer: FastTokenizer) -> None:
    bare = replace(tokenizer, bos_id=None)
    with pytest.raises(CorpusError, match='bos="row" needs a BOS token and the tokenizer has none; use bos="none"'):
        pack(DOCUMENTS, bare, context=8, batch=2)
    last = list(pack(DOCUMENTS[:1], bare, context=64, batch=2, bos="none"))[-1]
    assert (last.tokens[last.is_padding] == 0).all()


def test_no_text_and_too_little_text_are_refused(tokenizer: FastTokenizer) -> None:
    for documents in ([], [Document("empty", "")]):
        with pytest.raises(CorpusError, match="no document has any text"):
            list(pack(documents, tokenizer, context=8, batch=2))
    with pytest.raises(
        CorpusError, match="shorter than one row of 63 tokens and drop_last=True leaves nothing; use drop_last=False"
    ):
        list(pack(DOCUMENTS[:1], tokenizer, context=64, batch=2, drop_last=True))


def test_a_batch_moves_as_one(tokenizer: FastTokenizer) -> None:
    batch = next(pack(DOCUMENTS, tokenizer, context=8, batch=2)).to("meta")
    assert {getattr(batch, name).device.type for name in ("tokens", "document", "start", "is_padding")} == {"meta"}


def test_rows_are_int64_and_own_their_memory(tokenizer: FastTokenizer) -> None:
    first, second = itertools.islice(pack(DOCUMENTS, tokenizer, context=8, batch=2), 2)
    before = second.tokens.clone()
    first.tokens.fill_(7)
    assert torch.equal(second.tokens, before)
    assert first.tokens.dtype == torch.int64
    assert np.asarray(first.position).dtype == np.int64
