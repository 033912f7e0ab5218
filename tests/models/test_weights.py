"""Claims about weights: by name they are the matrices that the activations go through."""

from contextlib import suppress

import pytest
import torch

from interp.errors import ModelError
from interp.models.hooked import Model


@pytest.mark.parametrize("part", ["q", "k", "v"])
def test_queries_keys_and_values_come_from_their_weights(decoder, part):
    read = ["blocks.1.ln1.hook_out", f"blocks.1.attn.hook_{part}"]
    normed, found = decoder.run(read=read).activations.values()
    expected = torch.einsum("bpm,hmd->bphd", normed, decoder.model.weight(f"blocks.1.attn.W_{part.upper()}"))
    with suppress(ModelError):  # no bias
        expected = expected + decoder.model.weight(f"blocks.1.attn.b_{part.upper()}")
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-4)


def test_attention_writes_through_its_output_weights(decoder):
    z, out = decoder.run(read=["blocks.1.attn.hook_z", "blocks.1.hook_attn_out"]).activations.values()
    expected = torch.einsum("bphd,hdm->bpm", z, decoder.model.W_O[1])
    with suppress(ModelError):  # no bias
        expected = expected + decoder.model.b_O[1]
    torch.testing.assert_close(out, expected, atol=1e-5, rtol=1e-4)


def test_mlps_read_and_write_through_their_weights(decoder):
    if "blocks.1.mlp.hook_post" not in decoder.model.hooks or decoder.model.name in ("mixtral", "qwen2moe"):
        with pytest.raises(ModelError, match=r"this model has no weight 'blocks.0.mlp.W_in'"):
            decoder.model.W_in  # noqa: B018
        return
    hooks = ["blocks.1.ln2.hook_out", "blocks.1.mlp.hook_post", "blocks.1.hook_mlp_out"]
    normed, post, out = decoder.run(read=hooks).activations.values()
    model = decoder.model
    assert normed.shape[-1] == model.W_in.shape[1] and model.W_in.shape[2] == model.d_mlp == post.shape[-1]
    expected = post @ model.W_out[1]
    with suppress(ModelError):  # no bias
        expected = expected + model.b_out[1]
    torch.testing.assert_close(out, expected, atol=1e-5, rtol=1e-4)


def test_embedding_and_unembedding_are_the_ends_of_the_residual_stream(decoder):
    model = decoder.model
    read = ["hook_embed", "ln_final.hook_out", f"blocks.{model.n_layers - 1}.hook_resid_post"]
    run = decoder.run(read=read, logits=True)
    embedded, normed, last = (run.activations[name] for name in read)
    assert torch.equal(embedded, model.W_E[decoder.tokens])
    torch.testing.assert_close(normed @ model.W_U + model.b_U, run.logits, atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(model.unembed(last), run.logits)
    torch.testing.assert_close(model.final_norm(last), normed)


def test_grouped_queries_have_one_key_and_value_matrix_per_group(decoder):
    groups = {"llama": 2, "mixtral": 2, "qwen2moe": 2, "gated": 1, "decoder": 2}
    model = decoder.model
    shape = (model.n_layers, groups.get(model.name, model.n_heads), model.d_model, model.d_head)
    assert model.W_K.shape == model.W_V.shape == shape
    assert model.W_Q.shape == (model.n_layers, model.n_heads, model.d_model, model.d_head)


def test_positions_are_a_weight_only_where_they_are_learned(gpt2):
    assert gpt2.model.W_pos.shape == (32, 16)
    from model_shapes import case_of

    with pytest.raises(ModelError, match="this model has no weight 'W_pos'"):
        case_of("llama").model.W_pos  # noqa: B018


def test_a_misspelt_weight_lists_near_ones(gpt2):
    with pytest.raises(ModelError, match=r"this model has no weight 'blocks.0.mlp.W_outt' \(did you mean blocks.0.mlp.W_out"):
        gpt2.model.weight("blocks.0.mlp.W_outt")


def test_the_size_of_an_mlp_is_that_of_its_weights_where_the_configuration_is_wrong():
    from model_shapes import case_of

    model = case_of("t5").model
    assert model.bridge.cfg.d_mlp == 64  # TransformerLens's guess
    assert model.d_mlp == 32


def test_weights_carry_no_gradient_and_follow_the_model():
    from model_shapes import build

    model: Model = build("native")
    weight = model.weight("blocks.0.mlp.W_out")
    assert not weight.requires_grad
    weight.zero_()
    assert not model.W_out[0].any()
