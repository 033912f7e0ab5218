"""Ablation, against weights edited by hand and values put in by hand, on every kind of model."""

from __future__ import annotations

import pytest
import torch
from model_shapes import SHAPES, Case, case_of

from interp.errors import ConfigError, HookError, ModelError
from interp.heads import ablation
from interp.heads.ablation import Place
from interp.models.hooked import Model
from interp.tasks.contrast import Contrast


@pytest.fixture(scope="module")
def model() -> Model:
    config = {
        "d_model": 16,
        "d_head": 4,
        "n_heads": 4,
        "n_layers": 2,
        "n_ctx": 16,
        "d_vocab": 12,
        "attn_only": True,
        "act_fn": "gelu",
        "normalization_type": "LN",
    }
    return Model.native(config, seed=0)


@pytest.fixture(scope="module")
def tokens() -> torch.Tensor:
    return torch.randint(12, (7, 10), generator=torch.Generator().manual_seed(0))


def test_zero_ablation_equals_removing_the_head_from_the_residual_stream(model: Model, tokens: torch.Tensor) -> None:
    hooks = ["blocks.1.attn.hook_z", "blocks.1.hook_resid_post"]
    whole = model.run(tokens, read=hooks).activations
    cut = model.run(tokens, read=hooks, edits=ablation.zero(model, [(1, 2)])).activations
    head = torch.einsum("bpd,dm->bpm", whole[hooks[0]][:, :, 2], model.weight("blocks.1.attn.W_O")[2])
    torch.testing.assert_close(whole[hooks[1]] - cut[hooks[1]], head, rtol=1e-4, atol=1e-5)


def test_ablating_two_heads_of_a_layer_is_one_edit(model: Model) -> None:
    edits = ablation.zero(model, [(0, 1), (1, 0), (0, 3)])
    assert [edit.hook for edit in edits] == ["blocks.0.attn.hook_z", "blocks.1.attn.hook_z"]
    z = torch.ones(1, 1, 4, 4)
    assert edits[0].apply(z)[0, 0].sum(-1).tolist() == [4, 0, 4, 0]
    assert (z == 1).all(), "an edit must not change what it is given"


def test_mean_outputs_are_the_mean_over_tokens_whatever_the_batch(model: Model, tokens: torch.Tensor) -> None:
    z = model.run(tokens, read=["blocks.1.attn.hook_z"]).activations["blocks.1.attn.hook_z"]
    means = ablation.mean_outputs(model, tokens, batch=3)
    torch.testing.assert_close(means["blocks.1.attn.hook_z"][0, 0], z.mean((0, 1)), rtol=1e-4, atol=1e-6)
    hook = "blocks.0.attn.hook_z"
    cut = model.run(tokens, read=[hook], edits=ablation.replaced(model, [(0, 2)], means)).activations[hook]
    torch.testing.assert_close(cut[:, :, 2], means[hook][:, :, 2].expand_as(cut[:, :, 2]))


def test_mean_outputs_over_marked_positions_leave_the_others_out(model: Model, tokens: torch.Tensor) -> None:
    z = model.run(tokens, read=["blocks.1.attn.hook_z"]).activations["blocks.1.attn.hook_z"]
    marked = tokens > 5
    means = ablation.mean_outputs(model, tokens, positions=marked, batch=3)
    torch.testing.assert_close(means["blocks.1.attn.hook_z"][0, 0], z[marked].mean(0), rtol=1e-4, atol=1e-6)
    with pytest.raises(ModelError, match="no position is marked to take the mean over; mark at least one"):
        ablation.mean_outputs(model, tokens, positions=torch.zeros_like(marked))


def test_position_means_are_the_mean_over_examples_at_each_position(model: Model, tokens: torch.Tensor) -> None:
    hooks = ["blocks.1.attn.hook_v", "blocks.1.attn.hook_pattern"]
    found = model.run(tokens, read=hooks).activations
    means = ablation.mean_outputs(model, tokens, hooks, by_position=True, batch=3)
    for hook in hooks:
        torch.testing.assert_close(means[hook], found[hook].mean(0, keepdim=True), rtol=1e-4, atol=1e-6)
    marked = torch.ones_like(tokens, dtype=torch.bool)
    marked[2:, 4] = False
    means = ablation.mean_outputs(model, tokens, hooks, positions=marked, by_position=True)
    torch.testing.assert_close(means[hooks[1]][0, :, 4], found[hooks[1]][:2, :, 4].mean(0), rtol=1e-4, atol=1e-6)
    marked[:, 3] = False
    with pytest.raises(ModelError, match="a position is marked in no example to take the mean over"):
        ablation.mean_outputs(model, tokens, hooks, positions=marked, by_position=True)


def places_of(case: Case) -> list[Place]:
    """A head of every attention, by everything that one has, and one position of every stream."""
    names = ("hook_q", "hook_k", "hook_v", "hook_z", "hook_pattern")
    heads = [Place(hook, 0, 3) for hook in case.model.hooks if ".1." in hook and hook.endswith(names)]
    streams = ("hook_attn_out", "hook_mlp_out", "hook_resid_pre", "hook_resid_post", "cross_attn.hook_out")
    return heads + [Place(hook, pos=3) for hook in case.model.hooks if ".1." in hook and hook.endswith(streams)]


@pytest.mark.parametrize("shape", SHAPES)
def test_on_every_model_exactly_the_place_named_is_replaced_and_the_output_follows(shape: str) -> None:
    case = case_of(shape)
    places = places_of(case)
    assert len(places) >= 8
    before = case.run(read=[place.hook for place in places], logits=True)
    for place in places:
        value = before.activations[place.hook].flip(0) + 2
        after = case.run(read=[place.hook], edits=ablation.replaced(case.model, [place], {place.hook: value}), logits=True)
        known = ablation.axes(place.hook)
        expected = before.activations[place.hook].clone()
        heads = slice(None) if place.head is None else [place.head]
        if known.get("head") == 1:
            expected[:, heads, 3] = value[:, heads, 3]
        else:
            index = (slice(None), 3, heads) if "head" in known else (slice(None), 3)
            expected[index] = value[index]
        torch.testing.assert_close(after.activations[place.hook], expected)
        assert not torch.equal(after.logits, before.logits), place


def test_what_the_twins_have_is_what_a_run_of_them_reads() -> None:
    case = case_of("bart")
    other = {"decoder_input": case.beside["decoder_input"].flip(1)}
    contrast = Contrast(
        clean=case.tokens, corrupt=case.tokens.flip(1), answers=torch.tensor([3, 4]), beside=case.beside, beside_corrupt=other
    )
    hook = "decoder_blocks.1.cross_attn.hook_z"
    found = ablation.corrupted(case.model, contrast, [hook])
    expected = case.model.run(contrast.corrupt, read=[hook], **other).activations
    assert torch.equal(found[hook], expected[hook])
    assert not torch.equal(found[hook], case.run(read=[hook]).activations[hook])


def test_shuffled_values_are_those_of_another_example_and_of_the_same_one_at_every_hook() -> None:
    values = {"a": torch.arange(9.0)[:, None], "b": torch.arange(9.0)[:, None, None] * 10}
    for seed in range(20):
        found = ablation.shuffled(values, seed=seed)
        assert sorted(found["a"].flatten().tolist()) == list(range(9))
        assert (found["a"] != values["a"]).all()
        assert torch.equal(found["b"][..., 0], found["a"] * 10)
    assert not torch.equal(ablation.shuffled(values, seed=0)["a"], ablation.shuffled(values, seed=1)["a"])
    with pytest.raises(ConfigError, match="another example's values need at least 2 examples"):
        ablation.shuffled({"a": torch.ones(1, 2)}, seed=0)


def test_noise_has_the_scale_declared_and_depends_on_the_seed_alone() -> None:
    generator = torch.Generator().manual_seed(0)
    values = {"a": torch.randn(40, 50, generator=generator) * 3, "b": torch.randn(40, 50, generator=generator)}
    added = {hook: found - values[hook] for hook, found in ablation.noisy(values, scale=0.5, seed=0).items()}
    assert float(added["a"].std()) == pytest.approx(1.5, rel=0.1) and float(added["b"].std()) == pytest.approx(0.5, rel=0.1)
    assert abs(float((added["a"] * added["b"]).mean())) < 0.1, "noise at two hooks must not be the same"
    again = ablation.noisy(values, scale=0.5, seed=0)
    torch.testing.assert_close(again["a"] - values["a"], added["a"])
    assert not torch.allclose(ablation.noisy(values, scale=0.5, seed=1)["a"], again["a"])
    for scale in (0.0, -1.0):
        with pytest.raises(ConfigError, match=f"scale={scale:g} is no noise; give standard deviations above 0"):
            ablation.noisy(values, scale=scale, seed=0)


def test_the_loss_of_each_example_is_the_mean_cross_entropy_of_the_counted_tokens(model: Model, tokens: torch.Tensor) -> None:
    logits = model.run(tokens, logits=True).logits
    nats = -logits.log_softmax(-1)[:, :-1].gather(2, tokens[:, 1:, None])[..., 0]
    assert ablation.loss(model, tokens, batch=2).values == pytest.approx(nats.mean(1).tolist(), rel=1e-5)
    predicted = torch.zeros_like(tokens, dtype=torch.bool)
    predicted[:, 5:] = True
    found = ablation.loss(model, tokens, predicted=predicted)
    assert found.dims == ("example",) and found.unit == "nats"
    assert found.values == pytest.approx(nats[:, 4:].mean(1).tolist(), rel=1e-5)


def test_a_head_that_does_not_exist_is_refused(model: Model) -> None:
    with pytest.raises(ModelError, match=r"has no head \(2, 0\); it has layers 0–1 of heads 0–3"):
        ablation.zero(model, [(0, 0), (2, 0)])


def test_places_that_a_run_does_not_have_are_refused(model: Model, tokens: torch.Tensor) -> None:
    def run(place: Place) -> None:
        model.run(tokens, edits=ablation.zero(model, [place]))

    with pytest.raises(ModelError, match="blocks.0.attn.hook_k has no head 4; it has head 0–3 in this run"):
        run(Place("blocks.0.attn.hook_k", head=4))
    with pytest.raises(ModelError, match="blocks.0.attn.hook_pattern has no pos 10; it has pos 0–9 in this run"):
        run(Place("blocks.0.attn.hook_pattern", head=0, pos=10))
    with pytest.raises(ModelError, match="blocks.0.hook_attn_out has no heads; leave the head out"):
        run(Place("blocks.0.hook_attn_out", head=1))
    with pytest.raises(HookError, match=r"no hook 'blocks.0.attn.hook_y' on this model .did you mean"):
        ablation.zero(model, [Place("blocks.0.attn.hook_y")])


def test_values_that_do_not_fit_or_are_not_there_are_refused(model: Model, tokens: torch.Tensor) -> None:
    hook = "blocks.0.attn.hook_z"
    values = model.run(tokens, read=[hook]).activations
    with pytest.raises(
        ModelError, match=r"values of shape \[7, 10, 4, 4\] do not fit blocks.0.attn.hook_z, which is \[3, 10, 4, 4\]"
    ):
        model.run(tokens[:3], edits=ablation.replaced(model, [(0, 1)], values))
    with pytest.raises(ModelError, match="no values for blocks.1.attn.hook_z; there are some for blocks.0.attn.hook_z"):
        ablation.replaced(model, [(0, 1), (1, 1)], values)


def test_a_head_by_number_is_ambiguous_where_a_layer_has_several_attentions() -> None:
    with pytest.raises(ModelError, match="t5 has several attentions in a layer; name the hook"):
        ablation.zero(case_of("t5").model, [(0, 0)])


def test_an_example_without_predicted_tokens_is_refused(model: Model, tokens: torch.Tensor) -> None:
    with pytest.raises(ModelError, match="example 0 has no predicted token; mark at least one after the first"):
        ablation.loss(model, tokens, predicted=torch.zeros_like(tokens, dtype=torch.bool))
