"""Claims about harvesting a corpus to disk: the rows are those of the text, and an interrupted harvest ends as an uninterrupted
one does."""

from __future__ import annotations

import pytest
import torch
from fake_activations import HEADS, HOOK

from interp.activations import ActivationStore, collect, contents, harvest_to_store, writer
from interp.activations.log import HEADER_FILE
from interp.errors import CorpusError, HookError, StoreError
from interp.text.tokenizer import Encoding

TEXTS = ["an activation store", "keeps what a model thought", "", "of every token"] * 4
LENGTH = sum(len(text) for text in TEXTS)


class Letters:
    """One token per character."""

    bos_id, pad_id, d_vocab, fingerprint = 0, None, 300, "b" * 64

    def encode(self, text):
        return Encoding([ord(c) for c in text], [(i, i + 1) for i in range(len(text))])

    def decode(self, ids):
        return "".join(map(chr, ids))


@pytest.fixture
def model(model):
    model.tokenizer = Letters()
    return model


def text_of(store):
    rows = list(store.sequential(HOOK))
    documents = torch.cat([b.document for b in rows])
    tokens = torch.cat([b.tokens for b in rows])
    return ["".join(map(chr, tokens[documents == d])) for d in documents.unique().tolist()]


@pytest.mark.parametrize("bos", ["row", "document", "none"])
def test_the_rows_are_the_text_whatever_the_packing(tmp_path, model, bos):
    store = harvest_to_store(model, TEXTS, hooks=[HOOK, HEADS], out=tmp_path / "s", context=9, batch=3, bos=bos)
    assert text_of(store) == [text for text in TEXTS if text]
    assert store.header.packing["bos"] == bos
    assert (store.header.model, store.header.corpus, store.header.context) == ("fake", "memory", 9)
    assert ActivationStore.open(tmp_path / "s", model=model, tokenizer=model.tokenizer, hook=HOOK).rows == LENGTH


def test_max_tokens_is_exact_and_progress_counts_up_to_it(tmp_path, model):
    seen = []
    store = harvest_to_store(model, TEXTS, hooks=[HOOK], out=tmp_path / "s", batch=2, max_tokens=70, progress=seen.append)
    assert store.rows == 70
    assert seen[-1] == 70
    assert sorted(set(seen)) == seen
    assert len(model.runs) == len(seen) == 3


@pytest.mark.parametrize("stop", [1, 2, 5])
def test_an_interrupted_harvest_ends_like_one_that_was_not(tmp_path, model, stop, monkeypatch):
    monkeypatch.setattr(writer, "SHARD_BYTES", 1)

    def interrupt(tokens):
        if len(model.runs) == stop:
            raise KeyboardInterrupt

    options = {"hooks": [HOOK], "batch": 2, "max_tokens": 200}
    with pytest.raises(KeyboardInterrupt):
        harvest_to_store(model, TEXTS, out=tmp_path / "s", progress=interrupt, **options)
    resumed = harvest_to_store(model, TEXTS, out=tmp_path / "s", resume=True, **options)
    runs = len(model.runs)
    whole = harvest_to_store(model, TEXTS, out=tmp_path / "whole", **options)
    assert runs == len(model.runs) - runs  # no batch was run twice
    assert text_of(resumed) == text_of(whole)
    assert resumed.rows == 200


def test_resume_starts_what_is_not_there_and_opens_what_is_finished(tmp_path, model):
    first = harvest_to_store(model, TEXTS, hooks=[HOOK], out=tmp_path / "s", resume=True)
    runs = len(model.runs)
    again = harvest_to_store(model, TEXTS, hooks=[HOOK], out=tmp_path / "s", resume=True)
    assert (again.rows, len(model.runs)) == (first.rows, runs)
    with pytest.raises(
        StoreError, match="holds another harvest: max_tokens None in the store, 7 now; write to another directory"
    ):
        harvest_to_store(model, TEXTS, hooks=[HOOK], out=tmp_path / "s", resume=True, max_tokens=7)
    with pytest.raises(StoreError, match="holds another harvest: corpus_revision"):
        harvest_to_store(model, TEXTS[1:], hooks=[HOOK], out=tmp_path / "s", resume=True)


def test_bad_input_is_refused_before_anything_is_written(tmp_path, model):
    out = tmp_path / "s"
    with pytest.raises(HookError, match="no hook blocks.7"):
        harvest_to_store(model, TEXTS, hooks=["blocks.7"], out=out)
    with pytest.raises(CorpusError, match="context=17 is longer than the 16 tokens that fake takes; use at most 16"):
        harvest_to_store(model, TEXTS, hooks=[HOOK], out=out, context=17)
    with pytest.raises(StoreError, match="max_tokens=0: a harvest takes at least one token"):
        harvest_to_store(model, TEXTS, hooks=[HOOK], out=out, max_tokens=0)
    with pytest.raises(StoreError, match="dtype 'int4' cannot be stored"):
        harvest_to_store(model, TEXTS, hooks=[HOOK], out=out, dtype="int4")
    model.tokenizer = None
    with pytest.raises(CorpusError, match="fake has no tokenizer to read text with"):
        harvest_to_store(model, TEXTS, hooks=[HOOK], out=out)
    assert not out.exists()


def test_an_empty_corpus_and_unknown_tokens_are_corpus_errors(tmp_path, model):
    with pytest.raises(CorpusError):
        harvest_to_store(model, [""], hooks=[HOOK], out=tmp_path / "empty")
    with pytest.raises(CorpusError, match="beyond the model's vocabulary of 300"):
        harvest_to_store(model, ["日本"], hooks=[HOOK], out=tmp_path / "beyond")
    assert not (tmp_path / "empty" / HEADER_FILE).exists()


def test_contents_say_what_a_store_holds(tmp_path, model):
    store = harvest_to_store(model, TEXTS, hooks=[HOOK, HEADS], out=tmp_path / "s", dtype="bfloat16")
    table = contents(store).set_index("quantity")["value"]
    assert table["state"] == "finished"
    assert table["rows"] == f"{LENGTH:,}"
    assert table[HEADS] == "3 × 4 bfloat16"
    assert table["model"] == "fake (ffffffffffff)"
    assert table["bos"] == "row"


def test_a_real_model_gives_the_activations_of_its_own_run(tmp_path):
    Model = pytest.importorskip("interp.models.hooked").Model
    config = {
        "d_model": 16,
        "d_head": 4,
        "n_heads": 4,
        "n_layers": 2,
        "n_ctx": 12,
        "d_vocab": 300,
        "d_mlp": 32,
        "act_fn": "gelu",
        "normalization_type": "LN",
    }
    native = Model.native(config, seed=0)
    native.tokenizer = Letters()
    hooks = ["blocks.0.hook_resid_post", "blocks.1.attn.hook_z", "blocks.1.mlp.hook_post"]
    store = harvest_to_store(native, TEXTS, hooks=hooks, out=tmp_path / "s", batch=2)
    assert store.header.shapes == {hooks[0]: (16,), hooks[1]: (4, 4), hooks[2]: (32,)}
    batch = next(iter(collect.pack(collect.resolve(TEXTS).documents(), native.tokenizer, context=12, batch=2)))
    run = native.run(batch.tokens, read=hooks)
    stored = next(iter(store.sequential(hooks, rows=int(batch.is_text.sum()))))
    for hook in hooks:
        assert torch.equal(stored.activations[hook], run.activations[hook].flatten(2)[batch.is_text])
    with pytest.raises(StoreError, match="was harvested from"):
        ActivationStore.open(tmp_path / "s", model=native.untrained(1))
