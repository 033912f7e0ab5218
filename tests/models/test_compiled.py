"""The closed-form induction model does what it declares, and exactly the declared edges matter."""

from __future__ import annotations

import edges_by_hand as by_hand
import pytest
import torch

from interp.errors import ConfigError
from interp.models.compiled import BOS, HEADS, Compiled, induction


@pytest.fixture(scope="module")
def planted() -> Compiled:
    return induction()


def test_it_says_what_followed_the_last_token_and_bos_when_that_is_new(planted):
    contrast = planted.contrast(200, seed=0)
    logits = planted.model.run(contrast.clean).logits[:, -1]
    assert torch.equal(logits.argmax(-1), contrast.answers)
    for row, answer in zip(contrast.clean.tolist(), contrast.answers.tolist(), strict=True):
        expected = row[row.index(row[-1]) + 1] if row[-1] in row[:-1] else BOS
        assert answer == expected


def test_both_heads_attend_to_one_position_alone(planted):
    hooks = ["blocks.0.attn.hook_pattern", "blocks.1.attn.hook_pattern"]
    contrast = planted.contrast(40, seed=0)
    first, second = (planted.model.run(contrast.clean, read=hooks).activations[hook][:, 0] for hook in hooks)
    assert first.diagonal(-1, 1, 2).min() > 0.99999
    assert second[:, -1].amax(-1).min() > 0.99999


def test_attention_is_that_of_a_softmax_over_match_rest_and_others():
    contrast = induction().contrast(4, seed=0)[:3]
    hook = "blocks.1.attn.hook_pattern"
    top = induction(sharpness=8.0).model.run(contrast.clean, read=[hook]).activations[hook][:, 0, -1].amax(-1)
    length = contrast.clean.shape[1]
    previous = 1 / (1 + torch.arange(length) * torch.exp(torch.tensor(-8.0)))  # how sure the first head is, at each position
    assert torch.all(top > 0.9) and torch.all(top < 1 / (1 + torch.exp(torch.tensor(-4.0)) * previous.min()))


@pytest.mark.parametrize("ablation", ["corrupt", "zero", "mean"])
def test_exactly_the_declared_edges_matter(planted, ablation):
    effects = by_hand.effects(planted.model, planted.contrast(16, seed=3), ablation)
    assert len(effects) == 81
    assert {name for name, effect in effects.items() if effect.abs().max() > 1e-4} == planted.circuits[ablation]
    assert min(float(effects[name].abs().max()) for name in planted.circuits[ablation]) > 1


def test_what_does_not_depend_on_tokens_is_invisible_to_resampling(planted):
    assert len(planted.circuits["zero"]) == 8
    hidden = planted.circuits["zero"] - planted.circuits["corrupt"]
    assert hidden == {"input->a0.h0<q>", "input->a0.h0<k>", "input->a1.h0<k>"}


def test_decoys_are_all_edges_of_the_other_heads_and_they_write(planted):
    heads = [f"a{layer}.h{head}" for layer in range(2) for head in range(1, HEADS)]
    touched = {edge for edge in by_hand.edges(planted.model) if any(head in edge for head in heads)}
    assert planted.decoys == touched
    writes = by_hand.writes(planted.model, planted.contrast(2, seed=0).clean)
    assert all(writes[head].norm() > 1 for head in heads)


def test_every_dimension_of_the_residual_is_labelled_by_what_it_holds(planted):
    tokens = planted.contrast(1, seed=0).clean
    held = by_hand.writes(planted.model, tokens)
    last = held["input"][0, -1] + held["a0.h0"][0, -1]
    named = {planted.labels[i] for i in last.nonzero().flatten().tolist() if last[i] > 0.99}
    assert named == {f"tok={int(tokens[0, -1])}", f"pos={tokens.shape[1] - 1}", f"prev={int(tokens[0, -2])}"}
    assert len(planted.labels) == planted.model.d_model


def test_noise_moves_every_weight_matrix_by_its_deviation_and_follows_its_seed():
    plain, noisy, other = induction(), induction(noise=0.01), induction(noise=0.01, seed=1)
    moved = noisy.model.W_Q - plain.model.W_Q
    assert moved.std() == pytest.approx(0.01, rel=0.05)
    assert not torch.equal(noisy.model.W_Q, other.model.W_Q)
    assert torch.equal(noisy.model.W_U, induction(noise=0.01).model.W_U)
    assert torch.equal(noisy.model.b_Q, plain.model.b_Q)


def test_the_contrast_follows_its_seed_and_its_twins_differ_everywhere_but_at_bos(planted):
    contrast = planted.contrast(20, seed=5)
    assert torch.equal(contrast.clean, planted.contrast(20, seed=5).clean)
    assert not torch.equal(contrast.clean, planted.contrast(20, seed=6).clean)
    assert torch.all(contrast.clean[:, 1:] != contrast.corrupt[:, 1:])
    assert torch.all(contrast.corrupt[:, 0] == BOS) and torch.all(contrast.corrupt[:, 1:] != BOS)


def test_settings_out_of_range_are_refused(planted):
    with pytest.raises(ConfigError, match=r"sharpness=0, noise=0.0: sharpness must be above 0, noise 0 or more"):
        induction(sharpness=0)
    with pytest.raises(ConfigError, match=r"n=0 examples; ask for 1 or more"):
        planted.contrast(0, seed=0)
