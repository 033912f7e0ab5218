"""Every kind of MLP is the sum of its memories, and its keys are what it reads."""

from __future__ import annotations

import pytest
import torch
from mlp_cases import batch_of, model_of, tokens

from interp.errors import ModelError
from interp.mlp.memories import activations, memories, routing, source

DENSE = ["gelu", "relu", "solu", "gated", "no norms", "gpt2", "llama", "neox", "bert"]


@pytest.mark.parametrize("kind", [*DENSE, "mixtral"])
def test_the_memories_sum_to_what_the_mlp_writes(kind):
    model = model_of(kind)
    held, made = memories(model, 1), source(model, 1)
    batch = next(iter(activations(model, [batch_of(tokens())])))
    written = "blocks.1.mlp.hook_out" if "blocks.1.mlp.hook_out" in model.hooks else "blocks.1.mlp.out.hook_out"
    output = model.run(tokens(), read=[written]).activations[written].flatten(0, 1)
    summed = batch.activations[made.name] @ held.values + (0 if held.bias is None else held.bias)
    torch.testing.assert_close(summed, output, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("kind", ["gelu", "gated", "no norms", "gpt2", "llama"])
def test_keys_and_gates_read_the_residual_stream_up_to_the_norms_scale_and_a_constant(kind):
    """Pre-activations are x·k/σ + c: after c is taken out, with x from the residual stream itself."""
    model = model_of(kind)
    held, normed = memories(model, 1), kind != "no norms"
    pre = "blocks.1.mlp.hook_pre" if held.gates is None else "blocks.1.mlp.hook_pre_linear"
    read = ["blocks.1.hook_resid_mid", pre, "blocks.1.mlp.hook_pre", *(["blocks.1.ln2.hook_scale"] if normed else [])]
    seen = model.run(tokens(), read=read).activations
    x = seen["blocks.1.hook_resid_mid"] / (seen["blocks.1.ln2.hook_scale"] if normed else 1.0)
    for vectors, name in [(held.keys, pre), *([(held.gates, "blocks.1.mlp.hook_pre")] if held.gates is not None else [])]:
        constant = seen[name] - x @ vectors.T
        torch.testing.assert_close(constant, constant[:1, :1].expand_as(constant), rtol=1e-4, atol=1e-5)


def test_a_mixtures_neurons_are_those_of_its_experts_and_only_the_routed_ones_are_active():
    model = model_of("mixtral")
    held = memories(model, 0)
    assert held.expert is not None
    assert held.expert.bincount().tolist() == [32] * 4
    batch = next(iter(activations(model, [batch_of(tokens())])))
    active = batch.activations["blocks.0.mlp.experts"].unflatten(1, (4, 32)).abs().sum(-1) > 0
    x = model.run(tokens(), read=["blocks.0.mlp.hook_in"]).activations["blocks.0.mlp.hook_in"].flatten(0, 1)
    weights = routing(model, 0, x)
    assert torch.equal(active, weights > 0)
    assert active.sum(1).tolist() == [2] * 14
    torch.testing.assert_close(weights.sum(1), torch.ones(14))


@pytest.mark.parametrize(
    ("kind", "fault"),
    [
        ("attention-only", "attention-only has no MLPs, so no neurons to read; give a model with MLPs"),
        ("t5", "t5 has two stacks of blocks; its MLPs cannot be read as one: give a decoder or an encoder"),
        ("qwen2moe", "qwen2moe has an expert that all tokens share, which is not read here; give a model without"),
    ],
)
def test_what_has_no_memories_to_read_is_refused(kind, fault):
    with pytest.raises(ModelError, match=fault):
        memories(model_of(kind), 0)
    with pytest.raises(ModelError, match=fault):
        activations(model_of(kind), [])


def test_a_layer_that_is_not_there_is_refused():
    with pytest.raises(ModelError, match="no layer 2 in gelu; layers are 0 to 1"):
        memories(model_of("gelu"), 2)


def test_routing_of_one_mlp_is_refused():
    with pytest.raises(ModelError, match="layer 0 of gelu is one MLP, not a mixture of experts, and routes nothing"):
        routing(model_of("gelu"), 0, torch.zeros(1, 16))
