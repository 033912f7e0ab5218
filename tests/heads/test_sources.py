"""What attention moves, against the slow formula; and hidden keys, against scores of minus infinity."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from edge_cases import contrast_of, put
from model_shapes import case_of

from interp.errors import ConfigError
from interp.heads import direct, gradients, sources

PATHS = {"encoder": "encoder_blocks.1.attn", "decoder": "decoder_blocks.1.self_attn", "cross": "decoder_blocks.1.cross_attn"}


@pytest.mark.parametrize("attention", PATHS)
@pytest.mark.parametrize("shape", ["t5", "vaswani"])
def test_what_is_moved_is_the_length_of_the_vectors_of_all_heads_together(shape, attention):
    case, path = case_of(shape), PATHS[attention]
    found = sources.moved(case.model, case.tokens, attention=attention, batch=1, **case.beside)
    seen = case.run(read=[f"{path}.hook_pattern", f"{path}.hook_v"]).activations
    vectors = torch.einsum(
        "ehqk,ekhd,hdm->eqkm", seen[f"{path}.hook_pattern"], seen[f"{path}.hook_v"], case.model.weight(f"{path}.W_O")
    )
    assert found.sel(layer=1).values == pytest.approx(vectors.norm(dim=-1).permute(1, 2, 0).numpy(), rel=1e-4, abs=1e-6)


def test_with_grouped_queries_each_head_moves_the_values_of_its_group():
    case = case_of("llama")
    found = sources.moved(case.model, case.tokens).sel(layer=0).values
    seen = case.run(read=["blocks.0.attn.o.hook_out"]).activations["blocks.0.attn.o.hook_out"]
    assert found[0, 0] == pytest.approx(seen[:, 0].norm(dim=-1).numpy(), rel=1e-4), "the first token has itself alone to look at"
    assert (found[0, 1:] == 0).all()


@pytest.mark.parametrize("attention", PATHS)
def test_a_hidden_key_is_one_whose_score_is_minus_infinity(attention):
    case, path = case_of("vaswani"), PATHS[attention]
    pattern = case.run(read=[f"{path}.hook_pattern"]).activations[f"{path}.hook_pattern"][:, 0]
    links = torch.zeros_like(pattern, dtype=torch.bool)
    links[0, 3, 1] = links[1, 4, 0] = links[1, 4, 2] = True

    def never(scores):
        return scores.masked_fill(links[:, None], float("-inf"))

    hidden = sources.hidden(case.model, links, attention=attention)
    by_hand = [replace(edit, hook=edit.hook.replace("hook_pattern", "hook_attn_scores"), apply=never) for edit in hidden]
    assert len(hidden) == 2
    found, wanted = (case.run(edits=edits).logits for edits in (hidden, by_hand))
    torch.testing.assert_close(found, wanted)
    assert not torch.allclose(found, case.run().logits, atol=1e-4)


@pytest.mark.parametrize("shape", ["native", "vaswani-pre", "t5"])
def test_a_knockout_is_the_loss_of_one_link(shape):
    contrast, model = contrast_of(shape), case_of(shape).model
    attention = "cross" if contrast.beside else "self"
    found = sources.knockout(model, contrast, attention=attention, batch=1)
    beside = dict(contrast.beside)
    before = contrast.logit_difference(model.run(contrast.clean, **beside).logits)
    path = "decoder_blocks.{}.cross_attn" if contrast.beside else "blocks.{}.attn"
    edits = []
    for layer in range(2):

        def without(pattern):
            pattern[:, :, -1, 2] = 0
            pattern[:, :, -1] /= pattern[:, :, -1].sum(-1, keepdim=True)
            return pattern

        edits.append(replace(put("", None, None), hook=f"{path.format(layer)}.hook_pattern", apply=without))
    after = contrast.logit_difference(model.run(contrast.clean, edits=edits, **beside).logits)
    assert found.values[2] == pytest.approx((after - before).numpy(), abs=1e-6)
    assert found.values.shape == contrast.clean.T.shape and np.abs(found.values).min() > 0


@pytest.mark.parametrize(("shape", "attention"), [("native", "self"), ("vaswani", "cross")])
def test_what_tokens_bring_is_what_each_way_of_asking_says(shape, attention):
    contrast, model = contrast_of(shape), case_of(shape).model
    found = sources.brought(model, contrast, attention=attention, steps=3)
    assert found.values.shape == (3, *contrast.clean.T.shape)
    question = direct.Question(contrast.answers, contrast.wrong, contrast.positions)
    heads = direct.by_head(model, contrast.clean, question, attention=attention, **dict[str, Any](contrast.beside))
    assert found.sel(way="straight").values.sum(0) == pytest.approx(heads.values.sum((0, 1)), rel=1e-5)
    moves = gradients.integrated(model, contrast, parts=("input",), by_position=True, steps=3)
    node = "input" if attention == "self" else "enc.input"
    assert (found.sel(way="gradients").values == -moves.sel(node=node).values.T).all()
    assert (found.sel(way="unseen").values == -sources.knockout(model, contrast, attention=attention).values).all()


def test_a_token_that_is_not_seen_is_not_missed():
    contrast, model = contrast_of("native"), case_of("native").model
    effects = sources.knockout(model, replace(contrast, positions=3)).values
    assert effects[4:] == pytest.approx(0, abs=1e-6) and np.abs(effects[:4]).min() > 1e-4


def test_a_query_with_no_key_left_attends_to_nothing():
    case = case_of("native")
    links = torch.zeros(2, 7, 7, dtype=torch.bool)
    links[:, 0] = True
    z = case.run(read=["blocks.1.attn.hook_z"], edits=sources.hidden(case.model, links)).activations["blocks.1.attn.hook_z"]
    assert (z[:, 0] == 0).all() and (z[:, 1:] != 0).all()


def test_a_pointer_takes_all_attention_of_the_queries_it_is_given_and_no_other() -> None:
    case, path = case_of("vaswani"), "decoder_blocks.0.cross_attn"
    links = torch.zeros(2, 5, 7, dtype=torch.bool)
    links[0, 1, 3] = links[1, 2, 0] = links[1, 2, 5] = True
    hook = f"{path}.hook_pattern"
    found, own = (
        case.run(read=[hook], edits=edits, logits=True).activations[hook]
        for edits in (sources.pointed(case.model, links, attention="cross"), [])
    )
    assert (found[0, :, 1, 3] == 1).all() and (found[1, :, 2] == links[1, 2] / 2).all()
    assert torch.equal(found[0, :, 2:], own[0, :, 2:]) and torch.equal(found[:, :, 0], own[:, :, 0])


def test_attentions_and_links_that_do_not_fit_are_refused():
    case = case_of("t5")
    with pytest.raises(ConfigError, match="t5 has no attention 'self'; it has encoder, decoder, cross"):
        sources.moved(case.model, case.tokens, **case.beside)
    edits = sources.hidden(case.model, torch.zeros(2, 7, 5, dtype=torch.bool), attention="cross")
    with pytest.raises(
        ConfigError, match=r"links of shape \[2, 7, 5\] do not fit an attention of \[2, 5, 7\] \[example query key\]"
    ):
        case.run(edits=edits)
