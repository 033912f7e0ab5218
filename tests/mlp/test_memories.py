"""Every kind of MLP is the sum of its memories, and its keys are what it reads."""

from __future__ import annotations

import pytest
import torch
from edge_cases import shaken
from mlp_cases import batch_of, model_of, tokens
from model_shapes import OWN, case_of

from interp.activations import TokenPairs
from interp.errors import ModelError
from interp.mlp.memories import STACKS, activations, columns, layers, memories, require_layer, source
from interp.models.hooked import Edit, Model
from interp.models.lens import HookedRootModule
from interp.models.mixtures import mixtures
from interp.models.transformer import TransformerConfig, transformer

TWO_STACKS = ["t5", "bart", "marian", "vaswani", "vaswani-pre"]
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


@pytest.mark.parametrize("stack", STACKS)
@pytest.mark.parametrize("kind", TWO_STACKS)
def test_the_memories_of_both_stacks_sum_to_what_their_mlps_write(kind, stack):
    case = case_of(kind)
    held, made = memories(case.model, 1, stack=stack), source(case.model, 1, stack=stack)
    written = f"{stack}_blocks.1.mlp.out.hook_out"
    pair = TokenPairs.of(case.tokens, case.beside["decoder_input"])
    (batch,) = activations(case.model, [pair], stack=stack)
    output = case.run(read=[written]).activations[written][getattr(pair, "source" if stack == "encoder" else "target").is_text]
    summed = batch.activations[made.name] @ held.values + (0 if held.bias is None else held.bias)
    torch.testing.assert_close(summed, output, rtol=1e-5, atol=1e-7)
    column = columns(case.model, [pair], {1: [3]}, stack=stack)[1]
    assert torch.equal(column[:, 0], batch.activations[made.name][:, 3])


@pytest.mark.parametrize("stack", STACKS)
@pytest.mark.parametrize(
    ("kind", "norms"), [("t5", (2, 3)), ("vaswani-pre", (2, 3)), ("vaswani", (1, 2)), ("bart", (1, 2)), ("marian", (1, 2))]
)
def test_keys_of_both_stacks_read_through_the_norm_in_front_of_their_mlp(kind, norms, stack):
    """x·k/σ + c, with x and σ those of that norm; T5's is an RMS norm, whatever its hook_scale says."""
    case, model, block = case_of(kind), shaken(kind), f"{stack}_blocks.1"
    norm = f"{block}.ln{norms[STACKS.index(stack)]}"
    read = [f"{norm}.hook_in", f"{norm}.hook_scale", f"{block}.mlp.hook_pre"]
    seen = model.run(case.tokens, read=read, **case.beside).activations
    x, held = seen[f"{norm}.hook_in"], memories(model, 1, stack=stack)
    scale = x.square().mean(-1, keepdim=True).sqrt() if kind == "t5" else seen[f"{norm}.hook_scale"]
    constant = seen[f"{block}.mlp.hook_pre"] - x / scale @ held.keys.T
    torch.testing.assert_close(constant, constant[:1, :1].expand_as(constant), rtol=1e-4, atol=1e-5)


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
    mixture = mixtures(model)["blocks.0.mlp"]
    _, weights = mixture.decided(model.run(tokens(), read=mixture.reads).activations)
    assert torch.equal(active, weights.reshape(14, 4) > 0)
    assert active.sum(1).tolist() == [2] * 14


def plain_experts(kind: str = "decoder") -> Model:
    """A model of ours with experts that have biases, every weight drawn."""
    config = TransformerConfig.of(OWN | {"kind": kind, "mlp": "experts", "experts_per_token": 2})
    module = transformer(config, seed=0).eval()
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter += 0.3 * torch.randn(parameter.shape, generator=generator)
    return Model.wrap(module, name="experts")


def test_each_neuron_and_bias_of_a_plain_expert_is_as_strong_as_its_expert_is_chosen():
    """Held against the experts' own hooks, which the memories are not made from."""
    model = plain_experts()
    held, made = memories(model, 1), source(model, 1)
    fired = [f"blocks.1.mlp.experts.{expert}.hook_post" for expert in range(4)]
    read = [made.hook, "blocks.1.mlp.hook_expert_weights", "blocks.1.mlp.hook_out", *fired]
    seen = model.run(tokens(), read=read).activations
    weights, m = seen["blocks.1.mlp.hook_expert_weights"], made.activations(seen[made.hook]).unflatten(-1, (4, 41))
    neurons = torch.stack([seen[hook] for hook in fired], -2)
    torch.testing.assert_close(m[..., :40], weights[..., None] * neurons)
    torch.testing.assert_close(m[..., 40], weights)
    assert (held.keys.unflatten(0, (4, 41))[:, 40] == 0).all()
    torch.testing.assert_close(
        made.activations(seen[made.hook]) @ held.values, seen["blocks.1.mlp.hook_out"], rtol=1e-5, atol=1e-5
    )


def test_the_experts_of_an_encoder_decoder_are_read_in_both_stacks():
    model = plain_experts("encoder-decoder")
    for stack in STACKS:
        held, made = memories(model, 0, stack=stack), source(model, 0, stack=stack)
        written = f"{stack}_blocks.0.mlp.hook_out"
        seen = model.run(tokens(), read=[made.hook, written], decoder_input=tokens(context=5)).activations
        torch.testing.assert_close(made.activations(seen[made.hook]) @ held.values, seen[written], rtol=1e-5, atol=1e-5)


def test_the_expert_that_all_tokens_share_comes_last_and_fires_for_all():
    """Taken out of the model, its memories' share goes, and nothing else does."""
    case = case_of("qwen2moe")
    held, made = memories(case.model, 0), source(case.model, 0)
    assert held.expert is not None and held.expert.bincount().tolist() == [16] * 5
    out = "blocks.0.mlp.hook_out"
    seen = case.run(read=[made.hook, out]).activations
    m = made.activations(seen[made.hook])
    torch.testing.assert_close(m @ held.values, seen[out], rtol=1e-5, atol=1e-7)
    without = case.run(read=[out], edits=[Edit("blocks.0.mlp.shared_expert.hook_post", torch.zeros_like)]).activations[out]
    shared = held.expert == 4
    torch.testing.assert_close(m[..., shared] @ held.values[shared], seen[out] - without, rtol=1e-4, atol=1e-7)
    assert (m[..., shared] != 0).all()


def test_what_has_no_memories_to_read_is_refused():
    fault = "attention-only has no MLPs, so no neurons to read; give a model with MLPs"
    with pytest.raises(ModelError, match=fault):
        memories(model_of("attention-only"), 0)
    with pytest.raises(ModelError, match=fault):
        activations(model_of("attention-only"), [])


def test_a_shared_expert_of_another_make_is_refused(monkeypatch):
    model = model_of("qwen2moe")
    shared = model.bridge.blocks[0].mlp.original_component
    monkeypatch.setitem(shared._modules, "shared_experts", torch.nn.Identity())
    with pytest.raises(
        ModelError, match="qwen2moe shares shared_expert, shared_expert_gate, shared_experts among all tokens in a"
    ):
        memories(model, 0)


def test_two_stacks_must_be_told_apart_and_one_has_no_name():
    with pytest.raises(
        ModelError, match='t5 has two stacks of blocks, .* say which you mean: stack="encoder" or stack="decoder"'
    ):
        memories(model_of("t5"), 0)
    with pytest.raises(ModelError, match='t5 has no stack \'blocks\'; choose stack="encoder" or stack="decoder"'):
        layers(model_of("t5"), "blocks")
    with pytest.raises(ModelError, match="gelu has one stack of blocks, and 'decoder' is none of two; leave stack out"):
        memories(model_of("gelu"), 0, stack="decoder")
    with pytest.raises(ModelError, match="no layer 2 in the encoder of t5; layers are 0 to 1"):
        require_layer(model_of("t5"), 2, stack="encoder")


def test_a_module_without_blocks_has_no_layers():
    class Bare(HookedRootModule):
        def forward(self, x):
            return x

    bare = Bare()
    bare.setup()
    with pytest.raises(ModelError, match="bare has no stack of blocks, so no layers; give a Transformer"):
        memories(Model.wrap(bare, name="bare"), 0)


def test_a_layer_that_is_not_there_is_refused():
    with pytest.raises(ModelError, match="no layer 2 in gelu; layers are 0 to 1"):
        memories(model_of("gelu"), 2)
