"""Claims about harvesting encoder–decoders: rows of sources and of targets are told apart, padding is masked, stores and training
take the rows."""

from dataclasses import replace

import pytest
import torch
from fake_activations import HEADER, token_batch
from model_shapes import build, case_of

from interp.activations import ActivationStore, TokenPairs, harvest, harvest_to_store
from interp.errors import ConfigError, HookError, ModelError
from interp.sae import architectures, training
from interp.text.tokenizer import Encoding

SHAPES = ["t5", "bart", "marian", "vaswani", "vaswani-pre"]
SOURCE, TARGET = "encoder_blocks.1.hook_resid_post", "decoder_blocks.1.hook_resid_post"
SOURCE_HOOKS = [SOURCE, "encoder_blocks.0.attn.hook_z", "decoder_blocks.1.cross_attn.hook_v"]
TARGET_HOOKS = [TARGET, "decoder_blocks.0.self_attn.hook_k", "decoder_blocks.1.cross_attn.hook_q", "unembed.hook_in"]


def pairs(target_length: int = 5, **masks) -> TokenPairs:
    generator = torch.Generator().manual_seed(4)
    source, target = (torch.randint(3, 50, (2, length), generator=generator) for length in (7, target_length))
    return TokenPairs.of(source, target, **masks)


@pytest.mark.parametrize("shape", SHAPES)
def test_each_hook_gives_the_rows_of_its_side_also_where_both_are_equally_long(shape):
    model, given = case_of(shape).model, pairs(target_length=7)
    for hooks, own in ((SOURCE_HOOKS, given.source), (TARGET_HOOKS, given.target)):
        (rows,) = harvest(model, [given], hooks)
        seen = model.run(given.source.tokens, decoder_input=given.target.tokens, read=hooks).activations
        for hook in hooks:
            torch.testing.assert_close(rows.activations[hook], seen[hook].flatten(2)[own.is_text])
        assert torch.equal(rows.tokens, own.tokens[own.is_text])
        assert torch.equal(rows.document, own.document[own.is_text])


def test_documents_and_positions_are_kept_and_the_start_of_the_target_is_no_text():
    given = pairs(first_document=10)
    (rows,) = harvest(case_of("vaswani").model, [given], [TARGET])
    assert rows.document.tolist() == [10] * 4 + [11] * 4
    assert rows.position.tolist() == [0, 1, 2, 3] * 2
    assert torch.equal(rows.tokens, given.target.tokens[:, 1:].flatten())


@pytest.mark.parametrize("shape", SHAPES)
def test_rows_are_those_of_the_pair_without_its_padding(shape):
    model = case_of(shape).model
    source_mask, target_mask = torch.ones(2, 7).long(), torch.ones(2, 5).long()
    source_mask[1, 4:], target_mask[1, 3:] = 0, 0
    padded = pairs(attention_mask=source_mask, decoder_attention_mask=target_mask)
    alone = TokenPairs.of(padded.source.tokens[1:, :4], padded.target.tokens[1:, :3])
    for hook in (SOURCE, TARGET):
        (rows,), (wanted,) = harvest(model, [padded], [hook]), harvest(model, [alone], [hook])
        torch.testing.assert_close(rows.activations[hook][rows.document == 1], wanted.activations[hook], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("shape", SHAPES)
def test_rows_of_the_source_need_no_target(shape):
    model, given = case_of(shape).model, pairs()
    (alone,), (both,) = (harvest(model, [batch], SOURCE_HOOKS) for batch in (given.source, given))
    for hook in SOURCE_HOOKS:
        torch.testing.assert_close(alone.activations[hook], both.activations[hook])
    with pytest.raises(
        ModelError, match=f"{TARGET} has rows for the target's tokens, and there are only sources; give TokenPairs"
    ):
        list(harvest(model, [given.source], [TARGET]))


def test_rows_of_the_source_cost_no_run_of_the_decoder():
    model, ran = build("vaswani"), []
    point = model.bridge.hook_dict["decoder_blocks.0.hook_resid_pre"]
    harvested = harvest(model, [pairs()], [SOURCE])
    point.add_hook(lambda value, hook: ran.append(hook.name))
    list(harvested)
    assert ran == []
    list(harvest(model, [pairs()], [TARGET]))
    assert ran != []


def test_hooks_of_both_sides_are_no_pairs_of_rows():
    with pytest.raises(HookError, match=f"{SOURCE} has a row for each token of the source, {TARGET} for each of the target"):
        harvest(case_of("vaswani").model, [pairs()], [SOURCE, TARGET])


def test_a_table_that_is_as_long_and_as_wide_as_the_batch_is_no_row_per_token():
    """T5's relative positions are [query key head]: with as many rows as tokens they would pass for activations."""
    square = torch.randint(3, 50, (7, 7), generator=torch.Generator().manual_seed(4))
    with pytest.raises(HookError, match=r"hook_pos_embed gives shape \[8, 8, 2\], not \[1 8 …\] or \[1 6 …\]: it has no row per"):
        harvest(case_of("t5").model, [TokenPairs.of(square, square)], ["hook_pos_embed"])


def test_other_models_read_no_targets():
    with pytest.raises(ModelError, match="decoder is no encoder-decoder and reads no targets; give TokenBatch, not TokenPairs"):
        list(harvest(case_of("decoder").model, [pairs()], ["blocks.0.hook_resid_post"]))


def test_pairs_that_do_not_fit_are_refused():
    with pytest.raises(ConfigError, match="source has 2 rows and target 3; give one target for each source"):
        TokenPairs(token_batch(), token_batch(rows=3))
    with pytest.raises(ConfigError, match=r"decoder_attention_mask has shape \[2, 7\], the tokens it is for \[2, 5\]; give one"):
        pairs(decoder_attention_mask=torch.ones(2, 7).long())


def test_padding_before_the_target_is_not_its_start():
    mask = torch.tensor([[0, 1, 1], [1, 1, 1]])
    given = TokenPairs.of(torch.tensor([[4], [5]]), torch.tensor([[0, 1, 7], [1, 8, 9]]), decoder_attention_mask=mask)
    assert given.target.is_text.tolist() == [[False, False, True], [False, True, True]]
    assert given.target.position.tolist() == [[-1, -1, 0], [-1, 0, 1]]


def test_a_store_keeps_rows_of_targets_and_autoencoders_train_on_it(tmp_path):
    batches = [pairs(), pairs(first_document=2)]
    header = replace(HEADER, hooks=(TARGET,))
    store = ActivationStore.write(tmp_path / "store", harvest(case_of("vaswani").model, batches, [TARGET]), header)
    (rows,) = store.sequential(TARGET)
    assert rows.document.tolist() == [document for document in range(4) for _ in range(4)]
    sae, objective = architectures.build("topk", 16, 32, l0=4)
    before = sae.W_dec.clone()
    training.train(sae, store.batches(TARGET, rows=8), steps=2, objective=objective, hook=TARGET)
    assert not torch.equal(before, sae.W_dec)


def test_a_corpus_goes_to_disk_by_the_encoder_and_not_by_the_decoder(tmp_path):
    model = build("vaswani")
    model.tokenizer = _Letters()
    store = harvest_to_store(model, ["abcabc", "cab"], hooks=[SOURCE], out=tmp_path / "store", context=4, bos="none")
    assert store.rows == 9
    with pytest.raises(
        HookError, match=f"{TARGET} has rows for the target's tokens, and a corpus has no targets; use Activation"
    ):
        harvest_to_store(model, ["abc"], hooks=[TARGET], out=tmp_path / "other", bos="none")
    assert not (tmp_path / "other").exists()


class _Letters:
    """One token per letter of the alphabet."""

    bos_id, pad_id, d_vocab, fingerprint = None, None, 50, "b" * 64

    def encode(self, text):
        return Encoding([ord(letter) - ord("a") + 3 for letter in text], [(i, i + 1) for i in range(len(text))])

    def decode(self, ids):
        return "".join(chr(token + ord("a") - 3) for token in ids)
