"""Edits: exact, least in the metric asked for, made to a copy, and refused with figures when they cannot be had."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from edge_cases import shaken
from model_shapes import case_of
from planted import memory, small_world, world_model

from interp.errors import ConfigError, ModelError
from interp.mlp import editing, recall
from interp.models.hooked import Model
from interp.tasks.facts import Prompts

W_OUT = "blocks.0.mlp.W_out"


def drawn(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@pytest.fixture(scope="module")
def moment() -> torch.Tensor:
    rows = drawn(200, 12) @ drawn(12, 12, seed=1)
    return rows.T @ rows / 200


def test_one_fact_is_romes_formula(moment: torch.Tensor) -> None:
    weight, key, value = drawn(12, 5, seed=2), drawn(1, 12, seed=3), drawn(1, 5, seed=4)
    left, right = editing.least_change(weight, key, value, moment)
    direction = torch.linalg.solve(moment, key[0])
    rome = torch.outer(direction, value[0] - key[0] @ weight) / (direction @ key[0])
    torch.testing.assert_close(left @ right, rome)


def test_slack_is_memits_formula(moment: torch.Tensor) -> None:
    weight, keys, values = drawn(12, 5, seed=2), drawn(4, 12, seed=3), drawn(4, 5, seed=4)
    slack = 0.3
    left, right = editing.least_change(weight, keys, values, moment, slack=slack)
    weighed = slack * (keys @ torch.linalg.solve(moment, keys.T)).diagonal().mean()
    memit = torch.linalg.solve(weighed * moment + keys.T @ keys, keys.T @ (values - keys @ weight))
    torch.testing.assert_close(left @ right, memit)


def test_many_facts_are_met_exactly_by_a_change_of_their_rank(moment: torch.Tensor) -> None:
    weight, keys, values = drawn(12, 5, seed=2), drawn(4, 12, seed=3), drawn(4, 5, seed=4)
    left, right = editing.least_change(weight, keys, values, moment)
    torch.testing.assert_close(keys @ (weight + left @ right), values)
    assert torch.linalg.matrix_rank(left @ right, rtol=1e-9) == 4


def test_no_other_change_that_meets_the_facts_disturbs_other_keys_less(moment: torch.Tensor) -> None:
    weight, keys, values = drawn(12, 5, seed=2), drawn(3, 12, seed=3), drawn(3, 5, seed=4)
    left, right = editing.least_change(weight, keys, values, moment)

    def damage(change: torch.Tensor) -> float:
        return float((change.T @ moment @ change).trace())

    free = torch.eye(12, dtype=torch.float64) - torch.linalg.pinv(keys) @ keys  # changes here leave the facts met
    for seed in range(5):
        assert damage(left @ right) < damage(left @ right + 0.1 * free @ drawn(12, 5, seed=10 + seed))
    plain = editing.least_change(weight, keys, values, torch.eye(12))
    assert damage(left @ right) < 0.8 * damage(plain[0] @ plain[1])


def test_the_second_moment_does_not_depend_on_how_rows_were_cut() -> None:
    rows = drawn(50, 6).float() + 1
    found = editing.second_moment([rows[:7], rows[7:30], rows[30:]])
    torch.testing.assert_close(found, (rows.T @ rows / 50).double(), rtol=1e-5, atol=1e-6)


def test_an_edit_changes_a_copy_exactly_and_leaves_everything_else() -> None:
    planted = memory()
    model, prompts, before = planted.model, planted.prompts, planted.model.fingerprint
    keys = editing.subject_keys(model, 0, [prompts])
    wanted = prompts.answer.roll(1)
    values = 40.0 * model.W_U.T[wanted]
    change = editing.rewrite(model, 0, keys[3:4], values[3:4], editing.second_moment([keys]))
    edited = change.apply(model)
    assert (keys[3] @ edited.weight(W_OUT) - values[3]).norm() < 1e-5
    assert torch.linalg.matrix_rank(change.change) == 1
    assert recall.is_first(edited, prompts.asking(wanted))[3]
    assert editing.unmoved(model, edited, prompts).tolist() == [i != 3 for i in range(64)]
    assert model.fingerprint == before != edited.fingerprint


def test_values_are_sought_that_lead_to_the_answer_and_keep_the_rest() -> None:
    world, model = small_world(), world_model()
    facts = world.facts[world.facts[:, 1] == 0][:6]
    wanted = world.answers[(facts[:, 0] + 1) % 32, 0]
    wanted = torch.where(wanted == world.answers[facts[:, 0], 0], wanted.roll(1), wanted)
    contexts = [world.prompts(facts, template).asking(wanted) for template in (0, 2)]
    keep = [world.prompts(torch.stack([facts[:, 0], 1 - facts[:, 1]], 1), 0)]
    targets = editing.target_values(model, 0, contexts, keep=keep)
    assert (targets.probability > 0.9).all()
    keys = editing.subject_keys(model, 0, contexts)
    moment = editing.second_moment([editing.subject_keys(model, 0, [world.prompts(world.facts, 0)])])
    edited = editing.rewrite(model, 0, keys, targets.values, moment).apply(model)
    for template in range(4):
        assert recall.is_first(edited, world.prompts(facts, template).asking(wanted)).all()
    others = world.prompts(world.facts, 0)
    changed = torch.isin(world.facts[:, 0], facts[:, 0]) & (world.facts[:, 1] == 0)
    assert editing.unmoved(model, edited, others)[~changed].all()


def test_the_sought_change_is_cut_to_its_largest_norm() -> None:
    world, model = small_world(), world_model()
    asked = world.prompts(world.facts[:4], 0).asking(world.answers[4:8].flatten()[:4])
    plain = editing.subject_keys(model, 0, [asked]) @ model.weight(W_OUT)
    found = editing.target_values(model, 0, [asked], max_norm=0.1, steps=10)
    assert ((found.values - plain).norm(dim=1) / plain.norm(dim=1)).max() <= 0.1 + 1e-5


def test_keys_are_those_at_the_last_subject_token_averaged_over_contexts() -> None:
    case = case_of("native")
    subject = torch.zeros_like(case.tokens, dtype=torch.bool)
    subject[:, 3] = True
    prompts = Prompts(case.tokens, subject, torch.tensor([6, 6]), torch.tensor([0, 0]))
    post = case.model.run(case.tokens, read=["blocks.1.mlp.hook_post"]).activations["blocks.1.mlp.hook_post"]
    torch.testing.assert_close(editing.subject_keys(case.model, 1, [prompts, prompts]), post[:, 3])


@pytest.mark.parametrize("shape", ["native", "gated", "gpt2", "llama", "neox"])
def test_edits_reach_the_weights_of_every_family(shape: str) -> None:
    model, before = case_of(shape).model, case_of(shape).model.fingerprint
    weight = model.weight(W_OUT)
    change = editing.Rewrite(0, torch.ones(len(weight), 1), drawn(1, weight.shape[1]).float(), 0.1)
    edited = change.apply(model)
    torch.testing.assert_close(edited.weight(W_OUT), weight + change.change)
    tokens = case_of(shape).tokens
    assert not torch.allclose(model.run(tokens).logits, edited.run(tokens).logits)
    assert model.fingerprint == before


@pytest.mark.parametrize(("shape", "stack"), [("bart", "encoder"), ("t5", "decoder")])
def test_an_edit_of_either_stack_makes_an_encoder_decoder_answer_anew(shape: str, stack: str) -> None:
    """A fact at a time, other tokens' keys left alone; the opposite change does not."""
    model, case = shaken(shape), case_of(shape)
    subject = torch.zeros_like(case.tokens, dtype=torch.bool)
    subject[:, 3] = True
    logits = model.run(case.tokens, **case.beside).logits[:, -1]
    wanted = logits.topk(2).indices[:, 1]
    asked = Prompts(case.tokens, subject, torch.tensor([6, 6]), wanted)[:1]
    beside = {"decoder_input": case.beside["decoder_input"][:1]}
    assert not recall.is_first(model, asked, **beside)
    keys = editing.subject_keys(model, 0, [asked], stack=stack, **beside)
    targets = editing.target_values(model, 0, [asked], steps=20, max_norm=30.0, stack=stack, **beside)
    hook = f"{stack}_blocks.0.mlp.hook_post"
    moment = editing.second_moment([model.run(asked.tokens, read=[hook], **beside).activations[hook][0]])
    change = editing.rewrite(model, 0, keys, targets.values, moment, ridge=1e-3, max_relative_norm=100, stack=stack)
    assert recall.is_first(change.apply(model), asked, **beside)
    assert not recall.is_first(replace(change, right=-change.right).apply(model), asked, **beside)


def test_singular_moments_are_refused_with_their_rank_and_a_ridge_mends_them() -> None:
    weight, rows = drawn(12, 5, seed=2), drawn(8, 12)
    key, value = drawn(1, 12, seed=3), drawn(1, 5, seed=4)
    told = "the second moment of 12 keys is singular: rank 8, smallest eigenvalue .* stream more tokens, or use ridge=1e-4"
    with pytest.raises(ModelError, match=told):
        editing.least_change(weight, key, value, rows.T @ rows)
    left, right = editing.least_change(weight, key, value, rows.T @ rows, ridge=1e-4)
    torch.testing.assert_close(key @ (weight + left @ right), value)


def test_facts_that_share_a_key_are_refused_and_slack_meets_them_half_way(moment: torch.Tensor) -> None:
    weight, values = drawn(12, 5, seed=2), drawn(3, 5, seed=4)
    keys = drawn(3, 12, seed=3)
    keys[2] = keys[0]
    with pytest.raises(ModelError, match=r"keys of 3 facts depend on each other \(facts 0 and 2 have cosine 1.0000\); give one"):
        editing.least_change(weight, keys, values, moment)
    left, right = editing.least_change(weight, keys, values, moment, slack=1e-6)
    torch.testing.assert_close(keys[0] @ (weight + left @ right), (values[0] + values[2]) / 2, rtol=1e-3, atol=1e-3)


def test_an_edit_that_blows_up_the_norm_is_refused_and_nothing_is_changed() -> None:
    planted = memory()
    keys, before = editing.subject_keys(planted.model, 0, [planted.prompts]), planted.model.fingerprint
    with pytest.raises(
        ModelError, match=r"change W_out of layer 0 by 1.2e\+02 times its norm, more than max_relative_norm=2; ask for"
    ):
        editing.rewrite(
            planted.model, 0, keys[:1], 1000.0 * keys[:1] @ planted.model.weight(W_OUT), editing.second_moment([keys])
        )
    assert planted.model.fingerprint == before


def test_models_without_one_mlp_per_layer_and_uneven_contexts_are_refused() -> None:
    prompts = memory().prompts
    with pytest.raises(ModelError, match="layer 0 of mixtral is a mixture of experts, whose neurons do not share one hook"):
        editing.subject_keys(case_of("mixtral").model, 0, [prompts])
    with pytest.raises(ModelError, match="has no MLPs"):
        editing.subject_keys(case_of("attention-only").model, 0, [prompts])
    with pytest.raises(ConfigError, match=r"contexts hold \[3, 64\] facts; give the same facts in each, in the same order"):
        editing.subject_keys(memory().model, 0, [prompts, prompts[:3]])
    bare = Model.native(
        {"d_model": 8, "d_head": 4, "n_heads": 2, "n_layers": 1, "n_ctx": 4, "d_vocab": 64, "attn_only": True}, seed=0
    )
    with pytest.raises(ModelError, match="has no MLPs"):
        editing.rewrite(bare, 0, torch.ones(1, 8), torch.ones(1, 8), torch.eye(8))
