"""Where TransformerLens goes wrong in silence, and what the door does instead. Each test shows both."""

import copy
import warnings

import pytest
import torch
from model_shapes import build, case_of, hf_module
from transformer_lens.model_bridge.sources import build_bridge_from_module

from interp.errors import HookError, ModelError
from interp.models.hooked import Edit, Model


def bridge_of(shape):
    """TransformerLens's bridge, with nothing of ours around it."""
    module = hf_module(shape)
    module.set_attn_implementation("eager")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return build_bridge_from_module(module, type(module).__name__, hf_config=module.config)


def in_hugging_faces_words(beside):
    return {name.replace("decoder_input", "decoder_input_ids"): value for name, value in beside.items()}


def first_token_only(pattern):
    """All attention to the first key."""
    return torch.nn.functional.one_hot(torch.zeros_like(pattern[..., 0], dtype=torch.long), pattern.shape[-1]).to(pattern)


PATTERNS = {
    "bert": ["blocks.0.attn.hook_pattern"],
    **{
        shape: [
            "encoder_blocks.1.attn.hook_pattern",
            "decoder_blocks.0.self_attn.hook_pattern",
            "decoder_blocks.1.cross_attn.hook_pattern",
        ]
        for shape in ("t5", "bart", "marian")
    },
}


@pytest.mark.parametrize("shape, hook", [(shape, hook) for shape, hooks in PATTERNS.items() for hook in hooks])
def test_patterns_that_transformerlens_leaves_inert_are_live(shape, hook):
    case = case_of(shape)
    bridge, beside = bridge_of(shape), in_hugging_faces_words(case.beside)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        edited = bridge.run_with_hooks(case.tokens, fwd_hooks=[(hook, lambda value, hook: first_token_only(value))], **beside)
    assert torch.equal(edited, bridge(case.tokens, **beside))  # the trap
    site = hook.removesuffix(".hook_pattern")
    read = [f"{site}.hook_v", f"{site}.hook_z", hook]
    found = case.run(read=read, edits=[Edit(hook, first_token_only)]).activations
    torch.testing.assert_close(found[f"{site}.hook_z"], found[f"{site}.hook_v"][:, :1].expand_as(found[f"{site}.hook_z"]))
    plain = case.run(read=read).activations
    exact = torch.einsum("bhqk,bkhd->bqhd", plain[hook], plain[f"{site}.hook_v"])
    torch.testing.assert_close(plain[f"{site}.hook_z"], exact)


@pytest.mark.parametrize("shape", ["bert", "t5", "bart", "marian"])
def test_attention_made_live_computes_what_hugging_face_does_padding_included(shape):
    case, module = case_of(shape), hf_module(shape)
    mask = torch.ones_like(case.tokens)
    mask[0, 5:] = 0
    beside = in_hugging_faces_words(case.beside)
    with torch.no_grad():
        expected = module(case.tokens, attention_mask=mask, **beside).logits
    torch.testing.assert_close(case.run(attention_mask=mask).logits, expected)


def test_scores_are_scores_where_transformerlens_gives_the_pattern():
    case, bridge = case_of("bert"), bridge_of("bert")
    names = ["blocks.0.attn.hook_attn_scores", "blocks.0.attn.hook_pattern"]
    _, cache = bridge.run_with_cache(case.tokens)
    assert torch.equal(cache[names[0]], cache[names[1]])  # the trap
    found = case.run(read=names).activations
    torch.testing.assert_close(found[names[0]].softmax(-1), found[names[1]])
    assert found[names[0]].min() < 0


def test_scores_that_are_the_pattern_on_native_models_are_refused():
    case = case_of("native")
    name = "blocks.0.attn.hook_attn_scores"
    _, cache = case.model.bridge.run_with_cache(case.tokens)
    assert torch.equal(cache[name], cache["blocks.0.attn.hook_pattern"])  # the trap
    for how in ({"read": [name]}, {"edits": [Edit(name, torch.zeros_like)]}):
        with pytest.raises(HookError, match="hook_attn_scores holds the pattern here.*read the pattern's hook, or q and k"):
            case.run(**how)


def test_a_misspelt_name_among_others_is_told():
    case = case_of("native")
    names = ["blocks.0.hook_resid_pre", "blocks.0.hook_resid_past"]
    _, cache = case.model.bridge.run_with_cache(case.tokens, names_filter=names)
    assert names[1] not in cache  # the trap: silently dropped
    with pytest.raises(HookError, match=r"no hook 'blocks.0.hook_resid_past' on this model \(did you mean blocks.0.hook_resid_p"):
        case.run(read=names)


def test_one_name_gives_one_activation():
    case, name = case_of("native"), "blocks.0.hook_resid_post"
    _, cache = case.model.bridge.run_with_cache(case.tokens, names_filter=name)
    assert len(cache.cache_dict) == 2  # the trap: the alias too
    assert list(case.run(read=[name, name]).activations) == [name]


@pytest.mark.parametrize("shape", ["t5", "bart"])
def test_encoder_decoders_stop_early_too(shape):
    case = case_of(shape)
    reached = []
    handle = case.model.bridge.decoder_blocks[0].register_forward_pre_hook(lambda *_: reached.append(1))
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            case.model.bridge.run_with_cache(case.tokens, decoder_input=case.beside["decoder_input"], stop_at_layer=1)
        assert reached  # the trap: stop_at_layer is ignored
        case.model.resolve(["encoder_blocks.0.hook_out"])
        reached.clear()
        case.run(read=["encoder_blocks.0.hook_out"])
        assert not reached
    finally:
        handle.remove()


def test_an_encoder_decoder_without_decoder_input_is_refused():
    case = case_of("t5")
    assert case.model.bridge(case.tokens).shape[1] == case.tokens.shape[1]  # the trap: the source, shifted, stands in
    with pytest.raises(ModelError, match=r"an encoder-decoder needs the decoder's tokens too: run\(tokens, decoder_input=…\)"):
        case.model.run(case.tokens)


@pytest.mark.parametrize("shape", ["mixtral", "qwen2moe"])
def test_experts_survive_saving(shape, tmp_path):
    case = case_of(shape)
    names = " ".join(case.model.bridge.state_dict())
    assert "experts" not in names  # the trap
    case.model.save(tmp_path)
    again = Model.load(str(tmp_path))
    assert torch.equal(again.run(case.tokens).logits, case.run().logits)
    assert again.fingerprint == case.model.fingerprint


def test_routing_that_cannot_be_edited_is_refused():
    case = case_of("mixtral")
    point = case.model.bridge.hook_dict["blocks.0.mlp.gate.hook_out"]
    handle = point.add_hook(lambda value, hook: torch.zeros_like(value))
    try:
        assert torch.equal(case.model.bridge(case.tokens), case.run().logits)  # the trap: router logits are computed again
    finally:
        handle.hook.remove()
        point.fwd_hooks.remove(handle)
    with pytest.raises(HookError, match="blocks.0.mlp.gate.hook_out is inert on this model: no edit there changes the output"):
        case.run(edits=[Edit("blocks.0.mlp.gate.hook_out", torch.zeros_like)])
    weights = "blocks.0.mlp.hook_expert_weights"
    assert not torch.equal(case.run(edits=[Edit(weights, torch.zeros_like)]).logits, case.run().logits)


def test_models_that_normalise_after_adding_have_no_plain_unembedding():
    case = case_of("bert")
    _, cache = case.model.bridge.run_with_cache(case.tokens)
    parts = cache.decompose_resid(-1)
    total = cache["blocks.1.hook_resid_post"]
    assert not torch.allclose(parts.sum(0), total, atol=0.1)  # the trap: a wrong sum, no error
    with pytest.raises(ModelError, match=r"not just its final norm and unembedding; use run\(…, logits=True\)"):
        case.model.unembed(total)


def test_the_loss_of_an_encoder_cannot_be_asked_for():
    case = case_of("bert")
    loss, logits = case.model.bridge(case.tokens, return_type="loss"), case.run().logits
    shifted = torch.nn.functional.cross_entropy(logits[:, :-1].flatten(0, 1), case.tokens[:, 1:].flatten())
    torch.testing.assert_close(loss, shifted)  # the trap: the next token's loss, of a model that sees it
    with pytest.raises(ModelError, match="this model takes no return_type"):
        case.model.run(case.tokens, return_type="loss")
    assert case.model.kind == "encoder"


@pytest.mark.parametrize("option", ["tie_word_embeddings", "parallel_attn_mlp", "use_local_attn", "use_attn_result"])
def test_options_that_native_models_ignore_are_refused(option):
    with pytest.raises(ModelError, match=f"native models ignore {option}; leave them out"):
        build_native({option: True})


def test_unknown_fields_of_an_architecture_are_told():
    with pytest.raises(ModelError, match=r"no field 'd_modell' \(did you mean d_model"):
        build_native({"d_modell": 3})


def build_native(extra):
    from model_shapes import NATIVE

    return Model.native(NATIVE | extra, seed=0)


def test_weights_that_were_processed_are_not_saved_as_if_they_were_the_models(tmp_path):
    model = build("gpt2")
    model.bridge.enable_compatibility_mode(disable_warnings=True)
    with pytest.raises(ModelError, match="weights were processed"):
        model.save(tmp_path)


def test_wrapping_sets_eager_attention_without_which_patterns_never_fire():
    module = hf_module("bert")
    assert module.config._attn_implementation == "sdpa"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        bridge = build_bridge_from_module(copy.deepcopy(module), "BertForMaskedLM", hf_config=copy.deepcopy(module.config))
    tokens = torch.ones(1, 4, dtype=torch.long)
    _, cache = bridge.run_with_cache(tokens, names_filter="blocks.0.attn.hook_pattern")
    read = ["blocks.0.attn.hook_pattern"]
    assert Model.wrap(module).run(tokens, read=read).activations[read[0]].shape == (1, 2, 4, 4)
    assert Model.wrap(bridge).run(tokens, read=read).activations[read[0]].shape == (1, 2, 4, 4)


@pytest.mark.parametrize("shape, block", [("bert", "blocks.0"), ("bart", "encoder_blocks.1"), ("marian", "encoder_blocks.0")])
def test_a_middle_of_the_residual_that_holds_its_end_is_refused(shape, block):
    case = case_of(shape)
    bridge, beside = bridge_of(shape), in_hugging_faces_words(case.beside)
    seen = bridge.run_with_cache(case.tokens, **beside)[1]
    given, added = seen[f"{block}.ln1.hook_out"], seen[f"{block}.hook_mlp_out"]
    torch.testing.assert_close(seen[f"{block}.hook_resid_mid"], given + added)  # the trap
    with pytest.raises(HookError, match="holds the residual after the MLP here"):
        case.run(read=[f"{block}.hook_resid_mid"])
