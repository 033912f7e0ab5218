"""Norms folded into matrices: what is folded is what the model's own norm does."""

from typing import Any

import pytest
import torch
import transformers
from model_shapes import DECODERS, SMALL, case_of

from interp.models.hooked import Model
from interp.models.norms import folded, gain, takes_mean_out


def gemma():
    """A model whose norms multiply by 1 + weight."""
    sizes: dict[str, Any] = {**SMALL, "num_attention_heads": 2, "num_key_value_heads": 1, "head_dim": 8}
    config = transformers.GemmaConfig(**sizes)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return Model.wrap(transformers.GemmaForCausalLM(config).eval(), name="gemma")


@pytest.mark.parametrize("shape", [*DECODERS, "gemma"])
def test_what_is_folded_reads_as_the_norm_and_the_matrix_do_but_for_the_scale(shape):
    model, generator = gemma() if shape == "gemma" else case_of(shape).model, torch.Generator().manual_seed(0)
    before = model.bridge.ln_final.weight.detach().clone()
    with torch.no_grad():
        model.bridge.ln_final.weight.uniform_(0.5, 2.0, generator=generator)
        x, matrix = torch.randn(1, 5, 16, generator=generator), torch.randn(16, 7, generator=generator)
        normed = model.apply("ln_final", 100 * x) - model.apply("ln_final", torch.zeros(1, 1, 16))
        centred = x - x.mean(-1, keepdim=True) if takes_mean_out(model) else x
        expected = normed @ matrix * centred.square().mean(-1, keepdim=True).sqrt()
        torch.testing.assert_close(x @ folded(model, "ln_final", matrix), expected, rtol=1e-4, atol=1e-4)
        model.bridge.ln_final.weight.copy_(before)


def test_models_without_norms_have_a_gain_of_one():
    model = Model.native(
        {"d_model": 6, "d_head": 2, "n_heads": 3, "n_layers": 1, "n_ctx": 4, "d_vocab": 5, "attn_only": True}
        | {"normalization_type": None},
        seed=0,
    )
    assert torch.equal(gain(model, "blocks.0.ln1"), torch.ones(6))


def test_an_odd_width_has_a_gain_too():
    model = Model.native(
        {"d_model": 7, "d_head": 2, "n_heads": 3, "n_layers": 1, "n_ctx": 4, "d_vocab": 5, "attn_only": True}
        | {"normalization_type": "LN"},
        seed=0,
    )
    with torch.no_grad():
        model.bridge.ln_final.weight.copy_(torch.arange(1.0, 8.0))
    torch.testing.assert_close(gain(model, "ln_final"), torch.arange(1.0, 8.0))
