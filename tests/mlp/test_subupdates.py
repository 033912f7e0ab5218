"""Sub-updates sum to what the MLP adds and are checked by taking memories out; composition and steering against planted cases."""

from __future__ import annotations

import pytest
import torch
from mlp_cases import model_of, tokens
from model_shapes import case_of

from interp.errors import ModelError
from interp.mlp.memories import STACKS
from interp.mlp.subupdates import CASES, composition, scaled, steering, sub_updates
from interp.models.hooked import Edit, Model

EVERYWHERE = torch.ones(2, 7, dtype=torch.bool)


def frozen_logits(model: Model, residual: torch.Tensor, scale: torch.Tensor) -> torch.Tensor:
    """Logits of a residual stream with the final norm's scale given: unembed a stream that has this very scale.

    Written down for layer norm with a bias and for RMS norm, so as not to use `norms.folded` again.
    """
    norm, config = model.bridge.ln_final, model.bridge.cfg
    if config.normalization_type is None:
        return residual @ model.W_U
    centred = residual - residual.mean(-1, keepdim=True) if config.normalization_type == "LN" else residual
    return (centred / scale * norm.weight) @ model.W_U


@pytest.mark.parametrize("kind", ["gelu", "relu", "solu", "gated", "no norms", "gpt2", "llama", "neox", "mixtral", "qwen2moe"])
def test_sub_updates_sum_to_what_the_mlp_adds_to_every_logit(kind):
    model, t = model_of(kind), tokens()
    found = sub_updates(model, t, 1)
    read = ["blocks.1.hook_mlp_out", "blocks.1.hook_resid_post"]
    seen = model.run(t, read=read).activations
    written, residual = (seen[name] for name in read)
    scale = found.scale[..., None]
    added = frozen_logits(model, residual, scale) - frozen_logits(model, residual - written, scale)
    total = torch.stack([torch.stack([found.total(row, pos) for pos in range(7)]) for row in range(2)])
    torch.testing.assert_close(total, added, rtol=1e-4, atol=1e-5)
    single = found.logits(1, 3, range(len(found.values))).sum(0) + found.bias @ found.unembedding / found.scale[1, 3]
    torch.testing.assert_close(single, total[1, 3], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("kind", ["t5", "vaswani-pre"])
def test_sub_updates_of_a_decoder_beside_an_encoder_sum_to_what_its_last_mlp_adds(kind):
    """Held against a run without that MLP: logits are n(x) σ read alike, so σ·logits differ by what it adds, in its logits."""
    case, block = case_of(kind), "decoder_blocks.1"
    found = sub_updates(case.model, case.tokens, 1, stack="decoder", **case.beside)
    without = [Edit(f"{block}.hook_mlp_out", torch.zeros_like)]
    last = f"{block}.hook_resid_post"
    whole, rest = (case.run(read=[last], edits=edits, logits=True) for edits in ([], without))
    sigma = [_sigma(run.activations[last], kind) for run in (whole, rest)]
    constant = case.model.apply("decoder_ln_final", torch.zeros(1, 1, 16)) @ case.model.W_U
    difference = sigma[0] * (whole.logits - constant) - sigma[1] * (rest.logits - constant)
    total = torch.stack([torch.stack([found.total(row, pos) for pos in range(5)]) for row in range(2)])
    torch.testing.assert_close(total * found.scale[..., None], difference, rtol=1e-3, atol=1e-5)
    torch.testing.assert_close(found.scale, sigma[0][..., 0], rtol=1e-4, atol=1e-5)


def _sigma(x: torch.Tensor, kind: str) -> torch.Tensor:
    centred = x if kind == "t5" else x - x.mean(-1, keepdim=True)
    return centred.square().mean(-1, keepdim=True).sqrt()


@pytest.mark.parametrize("kind", ["t5", "vaswani-pre"])
def test_composition_of_a_decoder_beside_an_encoder_is_told_by_the_logits(kind):
    case = case_of(kind)
    found = composition(case.model, case.tokens, torch.ones(2, 5, dtype=torch.bool), stack="decoder", **case.beside)
    block = "decoder_blocks.1"
    run = case.run(edits=[Edit(f"{block}.hook_mlp_out", torch.zeros_like)])
    same = run.logits.argmax(-1) == case.run().logits.argmax(-1)
    assert found.sel(property="saturated", layer=1).values.tolist() == same.flatten().double().tolist()


@pytest.mark.parametrize(
    ("kind", "stack", "fault"),
    [
        ("t5", "encoder", 'the encoder of t5 writes no logits; read what the decoder writes: stack="decoder"'),
        ("bart", "decoder", "the logits of bart are not just its final norm and unembedding; use run"),
        ("vaswani", "decoder", "the logits of vaswani are not just its final norm and unembedding; use run"),
    ],
)
def test_stacks_whose_stream_no_logits_read_are_refused(kind, stack, fault):
    case = case_of(kind)
    with pytest.raises(ModelError, match=fault):
        sub_updates(case.model, case.tokens, 0, stack=stack, **case.beside)


def test_a_sub_update_is_what_taking_the_memory_out_takes_away():
    """In the last layer, up to the change of the final norm's scale, which is undone here."""
    model, t = model_of("gelu"), tokens()
    found, last = sub_updates(model, t, 1), "blocks.1.hook_resid_post"
    strongest = int(found.ranked(1, 6)[0])
    before = model.run(t, read=[last]).activations[last]
    after = model.run(t, read=[last], edits=scaled(model, [(1, strongest)], 0.0)).activations[last]
    scale = found.scale[..., None]
    lost = frozen_logits(model, before, scale) - frozen_logits(model, after, scale)
    torch.testing.assert_close(found.logits(1, 6, [strongest])[0], lost[1, 6], rtol=1e-3, atol=1e-5)
    assert lost[1, 6].abs().max() > 1e-3


def test_the_scale_is_that_of_the_run():
    """Sub-updates of all there is, but for constants: differences between positions are the model's own logits'."""
    model, t = model_of("gelu"), tokens()
    found, last = sub_updates(model, t, 1), "blocks.1.hook_resid_post"
    run = model.run(t, read=[last], logits=True)
    rest = run.logits - frozen_logits(model, run.activations[last], found.scale[..., None])
    torch.testing.assert_close(rest, rest[:1, :1].expand_as(rest), rtol=1e-4, atol=1e-5)


def test_memories_are_ranked_by_the_length_of_what_they_write():
    found = sub_updates(model_of("gelu"), tokens(), 0)
    written = (found.coefficient[0, 2][:, None] * found.values).norm(dim=1)
    torch.testing.assert_close(found.lengths(0, 2), written)
    assert torch.equal(found.ranked(0, 2), written.argsort(descending=True, stable=True))
    table = found.table(0, 2, [f"t{i}" for i in range(50)], memories=4, tokens=2)
    assert table.neuron.tolist() == found.ranked(0, 2)[:4].tolist()
    top = found.logits(0, 2, [int(table.neuron[0])])[0].topk(2).indices.tolist()
    assert table.promoted[0] == " ".join(f"'t{token}'" for token in top)
    assert table.share.sum() < 1


def test_every_position_is_one_case_of_composition_and_the_last_layer_is_told_by_the_logits():
    model, t = model_of("gelu"), tokens()
    found = composition(model, t, EVERYWHERE)
    assert found.values.shape == (6, 2, 14)
    torch.testing.assert_close(
        torch.from_numpy(sum(found.sel(property=case).values for case in CASES)), torch.ones(2, 14).double()
    )
    run = model.run(t, read=["blocks.1.hook_resid_mid"], logits=True)
    same = model.unembed(run.activations["blocks.1.hook_resid_mid"]).argmax(-1) == run.logits.argmax(-1)
    assert found.sel(property="saturated", layer=1).values.tolist() == same.flatten().double().tolist()


def test_an_mlp_that_writes_nothing_leaves_the_residual_to_predict_and_one_that_shouts_overrules_it():
    model, t = model_of("relu"), tokens()
    quiet, loud = model_of("relu"), model_of("relu")
    with torch.no_grad():
        quiet.bridge.blocks[1].mlp.out.weight.mul_(1e-6)
        loud.bridge.blocks[1].mlp.out.weight.mul_(1e4)
    shares = {
        name: composition(one, t, EVERYWHERE).mean("example").sel(layer=1) for name, one in (("quiet", quiet), ("loud", loud))
    }
    assert shares["quiet"].sel(property="residual").values + shares["quiet"].sel(property="agreement").values == 1
    assert shares["quiet"].sel(property="saturated").values == 1
    assert shares["loud"].sel(property="mlp").values + shares["loud"].sel(property="agreement").values == 1
    assert composition(model, t, EVERYWHERE).mean("example").sel(layer=1, property="intersects").values < 1


def test_steering_moves_the_target_where_meant_and_side_effects_are_counted_elsewhere():
    """Before the second position nothing can change in a causal model when only later activations are edited."""
    model, t = model_of("gelu"), tokens()
    found = sub_updates(model, t, 1)
    neuron = int(found.logits(0, 6, range(40))[:, 9].argmax())
    meant = torch.zeros(2, 7, dtype=torch.bool)
    meant[0, 6] = True
    stronger = steering(model, t, scaled(model, [(1, neuron)], 5.0), target=9, meant=meant, others=~meant)
    without = steering(model, t, scaled(model, [(1, neuron)], 0.0), target=9, meant=meant, others=~meant)
    assert stronger.effect[0] > 0 > without.effect[0]
    assert stronger.side.shape == (13,) and (stronger.side > 0).any()
    nothing = steering(model, t, scaled(model, [(1, neuron)], 1.0), target=9, meant=meant, others=~meant)
    assert nothing.effect[0] == 0 and (nothing.side == 0).all()


def test_scaling_several_neurons_of_two_layers_equals_editing_them_by_hand():
    model, t = model_of("gelu"), tokens()

    def halve(*neurons):
        def apply(values):
            values[..., list(neurons)] *= 0.5
            return values

        return apply

    by_hand = [Edit("blocks.0.mlp.hook_post", halve(3)), Edit("blocks.1.mlp.hook_post", halve(1, 7))]
    edits = scaled(model, [(1, 7), (0, 3), (1, 1)], 0.5)
    assert torch.equal(model.run(t, edits=edits).logits, model.run(t, edits=by_hand).logits)


def test_neurons_of_both_stacks_are_scaled_at_their_own_hooks():
    case = case_of("t5")
    for stack in STACKS:
        (edit,) = scaled(case.model, [(1, 3)], 0.0, stack=stack)
        assert edit.hook == f"{stack}_blocks.1.mlp.hook_post"
        assert not torch.equal(case.run(edits=[edit]).logits, case.run().logits)
    nothing = torch.zeros(2, 5, dtype=torch.bool)
    found = steering(case.model, case.tokens, [edit], target=9, meant=~nothing, others=nothing, **case.beside)
    assert found.effect.shape == (10,) and (found.effect != 0).any()


def test_what_cannot_be_taken_apart_or_edited_is_refused():
    with pytest.raises(ModelError, match="no neuron 1.40 in gelu; neurons of a layer are 0 to 39"):
        scaled(model_of("gelu"), [(1, 40)], 0.0)
    with pytest.raises(ModelError, match="layer 0 of mixtral is a mixture of experts, whose neurons do not share one hook"):
        scaled(model_of("mixtral"), [(0, 0)], 0.0)
    with pytest.raises(ModelError, match="attention-only has no MLPs"):
        sub_updates(model_of("attention-only"), tokens(), 0)
