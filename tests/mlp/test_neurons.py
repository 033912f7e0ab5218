"""Neurons: triggers against sorting everything, value readings against a run, cosines of planted neurons."""

from __future__ import annotations

import pytest
import torch

from interp.activations.batch import ActivationBatch
from interp.errors import ConfigError, ModelError
from interp.mlp import neurons
from interp.models.hooked import Model

SHAPE = {"d_model": 16, "d_head": 8, "n_heads": 2, "n_layers": 2, "n_ctx": 16, "d_vocab": 20, "act_fn": "gelu"}
HOOK = "blocks.0.mlp.hook_post"


@pytest.fixture(scope="module")
def model() -> Model:
    model = Model.native(SHAPE | {"d_mlp": 64, "normalization_type": "LN"}, seed=0)
    with torch.no_grad():
        model.bridge.blocks[0].ln2.weight.add_(torch.linspace(-0.5, 0.5, 16))
        model.bridge.ln_final.weight.add_(torch.linspace(-0.5, 0.5, 16))
    return model


def stream(rows: int = 230, width: int = 6, batch: int = 50) -> tuple[torch.Tensor, list[ActivationBatch]]:
    """Activations of a planted corpus: row i is token i % 7 at position i % 10 of document i // 10."""
    values = torch.randn(rows, width, generator=torch.Generator().manual_seed(0))
    i = torch.arange(rows)
    parts = [torch.arange(rows)[start : start + batch] for start in range(0, rows, batch)]
    return values, [ActivationBatch({HOOK: values[p]}, i[p] % 7, i[p] // 10, i[p] % 10, {HOOK: (width,)}) for p in parts]


def test_triggers_equal_sorting_all_activations() -> None:
    values, batches = stream()
    found = neurons.triggers(iter(batches), top=8)[HOOK]
    slow = values.sort(dim=0, descending=True)
    torch.testing.assert_close(found.value, slow.values[:8])
    rows = slow.indices[:8]
    assert torch.equal(found.document * 10 + found.position, rows)
    assert torch.equal(found.token, rows % 7)
    torch.testing.assert_close(found.density, (values > 0).double().mean(0), check_dtype=False)
    assert found.rows == 230


def test_memory_does_not_grow_with_the_corpus() -> None:
    values, batches = stream()
    state = neurons._Gathering(top=4)
    for batch in batches * 10:
        state.update(batch.activations[HOOK], batch)
        assert len(state.places) <= 4 * values.shape[1]


def test_a_corpus_shorter_than_top_gives_all_of_it() -> None:
    _, batches = stream(rows=3)
    assert neurons.triggers(batches, top=8)[HOOK].value.shape == (3, 6)


def test_no_activations_are_refused() -> None:
    with pytest.raises(ConfigError, match="triggers got no activations; give at least one batch"):
        neurons.triggers([])


def test_value_logits_are_the_logits_of_a_residual_stream_that_is_the_value(model: Model) -> None:
    """Set the final residual to a large multiple of each value: what the model then says is the reading, biases apart."""
    from interp.models.hooked import Edit

    values = model.weight("blocks.1.mlp.W_out").detach()
    tokens = torch.zeros(64, 2, dtype=torch.long)
    alone = Edit("blocks.1.hook_resid_post", lambda residual: (1000 * values)[:, None].expand_as(residual))
    logits = model.run(tokens, edits=[alone], logits=True).logits[:, -1]
    torch.testing.assert_close(neurons.value_logits(model, 1), logits - logits.mean(-1, keepdim=True), rtol=1e-3, atol=1e-4)


def test_value_tokens_are_the_ends_of_the_reading(model: Model) -> None:
    promoted, suppressed = neurons.value_tokens(model, 0, top=3)
    order = neurons.value_logits(model, 0).argsort(dim=1, descending=True)
    assert torch.equal(promoted, order[:, :3])
    assert torch.equal(suppressed, order.flip(1)[:, :3])


def test_cosine_agrees_with_the_explicit_key_and_has_the_null_spread_in_an_untrained_model(model: Model) -> None:
    found = neurons.in_out_cosine(model)
    assert found.values.shape == (2, 64)
    key = model.bridge.blocks[0].ln2.weight * model.weight("blocks.0.mlp.W_in")[:, 5]
    slow = torch.cosine_similarity(key - key.mean(), model.weight("blocks.0.mlp.W_out")[5], dim=0)
    assert found.values[0, 5] == pytest.approx(float(slow.detach()), abs=1e-5)
    assert found.values.std() == pytest.approx(16**-0.5, rel=0.25)


def test_a_model_without_mlps_is_refused() -> None:
    model = Model.native(SHAPE | {"attn_only": True, "normalization_type": None}, seed=0)
    with pytest.raises(ModelError, match="has no MLPs, so no neurons to read; give a model with MLPs"):
        neurons.in_out_cosine(model)
