"""Claims about harvesting: one pass, text rows only, heads side by side, memory for one batch."""

import pytest
import torch
from fake_activations import HEADS, HOOK, token_batch

from interp.activations import harvest
from interp.errors import HookError


def test_one_pass_gives_all_hooks_with_text_rows_only(model):
    batches = [token_batch(), token_batch(first_document=2, padding=3)]
    first, second = harvest(model, batches, [HOOK, HEADS])
    assert model.runs == [(HOOK, HEADS)] * 2
    assert len(first) == 14
    assert len(second) == 11
    for token, rows in zip(batches, (first, second), strict=True):
        assert torch.equal(rows.tokens, token.tokens[token.is_text])
        assert torch.equal(rows.activations[HOOK][:, 0], rows.tokens.float())
        assert torch.equal(rows.tokens, 10 * rows.document + rows.position)


def test_heads_are_laid_side_by_side_and_their_shape_is_kept(model):
    (rows,) = harvest(model, [token_batch()], [HEADS])
    assert rows.shapes == {HEADS: (3, 4)}
    heads = rows.activations[HEADS].unflatten(1, rows.shapes[HEADS])
    assert torch.equal(heads[:, 2, 3], rows.tokens.float() + 2)


def test_batches_are_taken_one_at_a_time(model):
    taken = []
    stream = (taken.append(i) or token_batch() for i in range(1000))
    harvested = harvest(model, stream, [HOOK])
    assert taken == []
    next(harvested)
    assert taken == [0]


def test_a_batch_of_padding_alone_gives_no_rows_but_still_counts(model):
    (rows,) = harvest(model, [token_batch(rows=1, padding=8)], [HOOK])
    assert len(rows) == 0
    assert rows.activations[HOOK].shape == (0, 6)


def test_models_that_see_padding_are_told_of_it(model):
    model.kind = "encoder"
    list(harvest(model, [token_batch(), token_batch(padding=2)], [HOOK]))
    assert model.inputs[0] == {}
    assert torch.equal(model.inputs[1]["attention_mask"], token_batch(padding=2).attention_mask)


@pytest.mark.parametrize("hook", ["blocks.0.attn.hook_pattern", "blocks.1.attn.hook_attn_scores"])
def test_patterns_are_refused_before_anything_runs(model, hook):
    with pytest.raises(
        HookError, match=f"{hook} has an axis for the query and one for the key, not one row per token; harvest the head's hook_z"
    ):
        harvest(model, [token_batch()], [hook])
    assert model.runs == []


@pytest.mark.parametrize(("hook", "shape"), [("hook_pos_embed", r"\[1, 8, 6\]"), ("ln_final.hook_scale", r"\[2, 8\]")])
def test_hooks_without_a_row_per_token_are_refused(model, hook, shape):
    with pytest.raises(HookError, match=rf"{hook} gives shape {shape}, not \[2 8 …\]: it has no row per token"):
        list(harvest(model, [token_batch()], [hook]))


def test_a_misspelt_hook_is_refused_before_anything_runs(model):
    with pytest.raises(HookError, match=r"no hook blocks.0.hook_resid_pst"):
        harvest(model, [token_batch()], ["blocks.0.hook_resid_pst"])
    with pytest.raises(HookError, match="one or more different hooks"):
        harvest(model, [token_batch()], [HOOK, HOOK])
