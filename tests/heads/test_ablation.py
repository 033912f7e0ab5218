"""Ablation of heads, against weights edited by hand."""

from __future__ import annotations

import pytest
import torch

from interp.errors import ModelError
from interp.heads import ablation
from interp.models.hooked import Model


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
    torch.testing.assert_close(means[1], z.mean((0, 1)), rtol=1e-4, atol=1e-6)
    hook = "blocks.0.attn.hook_z"
    cut = model.run(tokens, read=[hook], edits=ablation.mean(model, [(0, 2)], means)).activations[hook]
    torch.testing.assert_close(cut[:, :, 2], means[0, 2].expand_as(cut[:, :, 2]))


def test_mean_outputs_over_marked_positions_leave_the_others_out(model: Model, tokens: torch.Tensor) -> None:
    z = model.run(tokens, read=["blocks.1.attn.hook_z"]).activations["blocks.1.attn.hook_z"]
    marked = tokens > 5
    means = ablation.mean_outputs(model, tokens, positions=marked, batch=3)
    torch.testing.assert_close(means[1], z[marked].mean(0), rtol=1e-4, atol=1e-6)
    with pytest.raises(ModelError, match="no position is marked to take the mean over; mark at least one"):
        ablation.mean_outputs(model, tokens, positions=torch.zeros_like(marked))


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


def test_an_example_without_predicted_tokens_is_refused(model: Model, tokens: torch.Tensor) -> None:
    with pytest.raises(ModelError, match="example 0 has no predicted token; mark at least one after the first"):
        ablation.loss(model, tokens, predicted=torch.zeros_like(tokens, dtype=torch.bool))
