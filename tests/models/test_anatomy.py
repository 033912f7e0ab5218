"""What is said of a model's streams is what its activations show, on inputs that it was not worked out on."""

from functools import cache

import pytest
import torch
import transformers
from edge_cases import shaken
from model_shapes import SHAPES, case_of, hf_module

from interp.errors import ModelError
from interp.models.anatomy import anatomy, read, read_each, stepped, written
from interp.models.hooked import Model
from interp.models.lens import HookedRootModule, HookPoint

SMALL = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "vocab_size": 50, "max_position_embeddings": 32}


@cache
def observed(shape):
    model, case = shaken(shape), case_of(shape)
    return model, anatomy(model), model.run(case.tokens, read=model.hooks, **case.beside).activations


def residuals_of(model, stream, seen):
    residuals = [seen[stream.start]]
    for sublayer in stream.sublayers:
        residuals.append(stepped(model, sublayer, residuals[-1], seen[sublayer.out]))
    return residuals


def close(value, wanted):
    torch.testing.assert_close(value, wanted, rtol=1e-4, atol=1e-4 * max(1.0, float(wanted.abs().max())))


@pytest.mark.parametrize("shape", SHAPES)
def test_every_residual_is_what_was_written_before_it_and_every_reader_reads_it(shape):
    model, found, seen = observed(shape)
    residuals = {prefix: residuals_of(model, stream, seen) for prefix, stream in found.streams.items()}
    ends = {hook: residuals[prefix][depth] for prefix, stream in found.streams.items() for depth, hook in stream.ends.items()}
    assert len(ends) == sum("hook_resid_post" in hook for hook in seen)
    for hook, residual in ends.items():
        close(residual, seen[hook])
    ways = [way for sublayer in found.sublayers for way in sublayer.ways.values()]
    for way in ways:
        close(read(model, way, residuals[way.stream][way.depth]), seen[way.hook])
    assert {way.hook for way in ways} >= {hook for hook in seen if hook.endswith(("hook_q", "hook_k", "hook_v"))}


@pytest.mark.parametrize("shape", SHAPES)
def test_heads_write_all_that_their_attention_adds_but_its_bias(shape):
    model, found, seen = observed(shape)
    for sublayer in found.sublayers:
        if sublayer.output is not None:
            z = seen[sublayer.writes]
            rest = seen[sublayer.out] - written(model, sublayer, range(z.shape[-2]), z.movedim(-2, 0)).sum(0)
            close(rest, model.apply(sublayer.output, torch.zeros_like(z.flatten(-2))))


@pytest.mark.parametrize("shape", ["gpt2", "llama", "t5", "bert"])
def test_a_head_reads_its_own_residual_as_it_would_read_it_among_the_others(shape):
    model, found, seen = observed(shape)
    way = next(sublayer.ways["k"] for sublayer in reversed(found.sublayers) if "k" in sublayer.ways)
    heads, generator = [1, 0, 1], torch.Generator().manual_seed(0)
    several = torch.randn(3, 2, 5, model.d_model, generator=generator)
    together = [read(model, way, residual)[..., head, :] for head, residual in zip(heads, several, strict=True)]
    close(read_each(model, way, heads, several), torch.stack(together))


def test_a_parallel_block_reads_one_residual_twice_and_a_sequential_one_two():
    parallel, sequential = anatomy(shaken("neox")), anatomy(shaken("gpt2"))
    assert [way.depth for s in parallel.sublayers for way in s.ways.values()] == [0, 0, 0, 0, 2, 2, 2, 2]
    assert [way.depth for s in sequential.sublayers for way in s.ways.values()] == [0, 0, 0, 1, 2, 2, 2, 3]
    assert parallel.sublayers[1].ways[""].parts == ("blocks.0.ln2",)


def test_norms_stand_before_what_is_read_or_after_what_is_written():
    pre, post = anatomy(shaken("gpt2")).sublayers, anatomy(shaken("bert")).sublayers
    assert [s.renorm for s in pre] == [None] * 4
    assert [s.renorm for s in post] == ["blocks.0.ln1", "blocks.0.ln2", "blocks.1.ln1", "blocks.1.ln2"]
    assert pre[1].ways[""].parts == ("blocks.0.ln2",) and post[1].ways[""].parts == ()


def test_cross_attention_takes_queries_from_the_decoder_and_the_rest_from_the_end_of_the_encoder():
    cross = next(s for s in anatomy(shaken("t5")).sublayers if s.name == "dec.c1")
    assert (cross.ways["q"].stream, cross.ways["q"].depth) == ("dec.", 4)
    assert (cross.ways["k"].stream, cross.ways["k"].depth) == ("enc.", 4)
    assert cross.ways["v"].parts == ("encoder_ln_final", "decoder_blocks.1.cross_attn.v")


def test_shared_keys_and_values_are_fewer_readers_than_heads():
    attention = anatomy(shaken("llama")).sublayers[0]
    assert attention.heads == 4
    assert {letter: way.heads for letter, way in attention.ways.items()} == {"q": 4, "k": 2, "v": 2}


def test_an_anatomy_is_worked_out_once_and_follows_its_model():
    model = Model.wrap(hf_module("gpt2"))
    assert anatomy(model) is anatomy(model)
    assert anatomy(model) is not anatomy(shaken("gpt2")) and anatomy(model) == anatomy(shaken("gpt2"))


NO_SUM = (
    r"odd cannot be taken .* as pre-LN, what blocks\.0\.mlp\.hook_in .* as post-LN, no norm takes in .*; use ablation or patching"
)
ODD = {
    "Gemma2ForCausalLM": ({"intermediate_size": 32, "num_key_value_heads": 2, "head_dim": 8}, NO_SUM),  # norms what is written
    "GraniteForCausalLM": ({"intermediate_size": 32, "residual_multiplier": 0.5}, NO_SUM),  # scales it
    "MambaForCausalLM": ({"state_size": 4}, r"the parts before blocks\.1\.hook_resid_post do not add up to it"),
    "DeepseekV3ForCausalLM": (
        {
            **{"q_lora_rank": 8, "kv_lora_rank": 8, "qk_rope_head_dim": 4, "qk_nope_head_dim": 4, "v_head_dim": 8},
            **{"intermediate_size": 32, "n_routed_experts": 4, "n_group": 1, "topk_group": 1, "num_experts_per_tok": 2},
        },
        r"there is no blocks\.0\.attn\.q\.hook_in to see what is read",
    ),
}


@pytest.mark.parametrize("kind", ODD)
def test_a_model_that_is_made_otherwise_is_refused_with_the_reason(kind):
    (more, fault), cls = ODD[kind], getattr(transformers, kind)
    model = Model.wrap(cls(cls.config_class(**SMALL, **more)).eval(), name="odd")
    with pytest.raises(ModelError, match=fault):
        anatomy(model)


def test_a_sublayer_that_reads_past_its_hooks_is_refused():
    model = Model.wrap(hf_module("gpt2"), name="leaky")
    memory = []
    mlp = model.bridge.blocks[1].mlp
    model.bridge.blocks[1].register_forward_pre_hook(lambda block, given: memory.append(given[0]))
    mlp.out.register_forward_hook(lambda part, given, out: out + 0.1 * memory[-1])
    with pytest.raises(
        ModelError, match=r"leaky cannot .*: blocks\.1\.hook_mlp_out depends on more than what is known to be read"
    ):
        anatomy(model)


def test_logits_that_do_not_come_from_the_last_residual_alone_are_refused():
    model = Model.wrap(hf_module("gpt2"), name="skipping")
    memory = []
    model.bridge.blocks[0].register_forward_pre_hook(lambda block, given: memory.append(given[0]))
    model.bridge.ln_final.register_forward_hook(lambda part, given, out: out + 0.1 * memory[-1])
    with pytest.raises(ModelError, match=r"skipping cannot .*: its logits depend on more than blocks\.1\.hook_resid_post"):
        anatomy(model)


def test_a_module_without_blocks_is_refused():
    class Toy(HookedRootModule):
        def __init__(self):
            super().__init__()
            self.hook_hidden = HookPoint()
            self.setup()

        def forward(self, x):
            return self.hook_hidden(x.float())

    with pytest.raises(ModelError, match="toy cannot be taken apart .*: it has no block with a residual stream"):
        anatomy(Model.wrap(Toy(), name="toy"))
