"""Claims about our own Transformers: they compute what torch's and Hugging Face's do, under TransformerLens's names."""

import dataclasses
import inspect
import re
from typing import Any, cast

import pytest
import torch
from model_shapes import OWN, OWNS, case_of, hf_module

from interp.errors import ModelError
from interp.models.hooked import Edit, Model
from interp.models.lens import HookPoint, native_module
from interp.models.multihead import Attention
from interp.models.parts import Dropout, Norm
from interp.models.positions import rotated, shift, sinusoids
from interp.models.scores import ScaledDot
from interp.models.transformer import TransformerConfig, transformer

TOLERANCE: dict[str, Any] = {"atol": 1e-5, "rtol": 1e-5}
MASK = torch.tensor([[1, 1, 1, 1, 1, 1, 1], [1, 1, 1, 1, 1, 0, 0]])


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def attention(causal=False, n_key_value_heads=4, rotary=False) -> Any:
    made = Attention(
        16, 4, n_key_value_heads, 4, causal=causal, rotary=rotary, score=ScaledDot(), mixer=None, generator=generator()
    )
    for part in (made.q, made.k, made.v, made.o):
        torch.nn.init.normal_(cast(Any, part.bias), generator=generator(1))
    return made


def copy_attention(ours, theirs):
    """Our weights into torch.nn.MultiheadAttention."""
    state = {
        "in_proj_weight": torch.cat([ours.q.weight, ours.k.weight, ours.v.weight]),
        "in_proj_bias": torch.cat([ours.q.bias, ours.k.bias, ours.v.bias]),
        "out_proj.weight": ours.o.weight,
        "out_proj.bias": ours.o.bias,
    }
    theirs.load_state_dict({name: tensor.detach() for name, tensor in state.items()})


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("cross", [False, True])
def test_attention_is_torchs_masks_included(causal, cross):
    ours, theirs = attention(causal), torch.nn.MultiheadAttention(16, 4, batch_first=True)
    copy_attention(ours, theirs)
    x = torch.randn(2, 7, 16, generator=generator(2))
    memory = torch.randn(2, 7, 16, generator=generator(3)) if cross else x
    hidden = torch.ones(7, 7, dtype=torch.bool).triu(1) if causal else None
    expected, _ = theirs(x, memory, memory, key_padding_mask=MASK == 0, attn_mask=hidden, need_weights=False)
    torch.testing.assert_close(ours(x, memory if cross else None, mask=MASK), expected, **TOLERANCE)


@pytest.mark.parametrize("groups", [1, 2])
def test_grouped_queries_are_full_attention_with_shared_keys_and_values(groups):
    ours, full = attention(True, groups), attention(True)
    for name in ("k", "v"):
        shared = getattr(ours, name)
        whole = shared.weight.unflatten(0, (groups, 4)).repeat_interleave(4 // groups, 0).flatten(0, 1)
        getattr(full, name).weight.data = whole
        getattr(full, name).bias.data = shared.bias.unflatten(0, (groups, 4)).repeat_interleave(4 // groups, 0).flatten()
    for name in ("q", "o"):
        getattr(full, name).load_state_dict(getattr(ours, name).state_dict())
    x = torch.randn(2, 7, 16, generator=generator(2))
    torch.testing.assert_close(ours(x), full(x), **TOLERANCE)


def test_a_padded_row_is_the_short_row():
    for shape in ("encoder", "decoder", "vaswani"):
        model, tokens = case_of(shape).model, case_of(shape).tokens
        target = tokens[1:, :4]
        beside, short = ({"decoder_input": target},) * 2 if shape == "vaswani" else ({}, {})
        padded = model.run(tokens[1:], attention_mask=MASK[1:], **beside).logits
        alone = model.run(tokens[1:, :5], **short).logits
        torch.testing.assert_close(padded[:, : alone.shape[1]], alone, **TOLERANCE)


def test_a_query_that_sees_nothing_stays_a_number():
    left = torch.tensor([[0, 0, 1, 1, 1, 1, 1], [1, 1, 1, 1, 1, 1, 1]])
    assert case_of("decoder").run(attention_mask=left).logits.isfinite().all()


def copy_block(ours, theirs):
    """Our weights into torch.nn.TransformerEncoderLayer or DecoderLayer."""
    copy_attention(ours.self_attn if hasattr(ours, "self_attn") else ours.attn, theirs.self_attn)
    norms = ["norm1", "norm2"]
    if hasattr(ours, "cross_attn"):
        copy_attention(ours.cross_attn, theirs.multihead_attn)
        norms.append("norm3")
    for number, name in enumerate(norms, start=1):
        getattr(theirs, name).load_state_dict(getattr(ours, f"ln{number}").state_dict())
    theirs.linear1.load_state_dict(getattr(ours.mlp, "in").state_dict())
    theirs.linear2.load_state_dict(ours.mlp.out.state_dict())


@pytest.mark.parametrize("norm", ["pre", "post"])
def test_the_encoder_decoder_is_torchs_transformer(norm):
    config = TransformerConfig(**OWNS["vaswani"] | {"norm": norm, "dropout": 0.0})
    ours: Any = transformer(config, 0).eval()
    for parameter in ours.parameters():  # gains and biases too
        parameter.data += 0.05 * torch.randn(parameter.shape, generator=generator(5))
    theirs: Any = torch.nn.Transformer(
        16, 2, 2, 2, dim_feedforward=40, dropout=0.0, norm_first=norm == "pre", batch_first=True
    ).eval()
    for mine, its in zip(
        [*ours.encoder_blocks, *ours.decoder_blocks], [*theirs.encoder.layers, *theirs.decoder.layers], strict=True
    ):
        copy_block(mine, its)
    if norm == "pre":
        theirs.encoder.norm.load_state_dict(ours.encoder_ln_final.state_dict())
        theirs.decoder.norm.load_state_dict(ours.decoder_ln_final.state_dict())
    else:
        theirs.encoder.norm = theirs.decoder.norm = None
    case = case_of("vaswani")
    source, target = case.tokens, case.beside["decoder_input"]
    embedded = [ours.W_E[tokens] * 4 + sinusoids(32, 16)[: tokens.shape[1]] for tokens in (source, target)]
    hidden = torch.nn.Transformer.generate_square_subsequent_mask(5)
    expected = theirs(*embedded, tgt_mask=hidden, src_key_padding_mask=MASK == 0, memory_key_padding_mask=MASK == 0)
    found = Model.wrap(ours).run(source, decoder_input=target, attention_mask=MASK).logits
    torch.testing.assert_close(found, (expected @ ours.W_U).detach(), **TOLERANCE)


def test_the_encoder_decoder_is_marians():
    theirs: Any = hf_module("marian")
    theirs.model.encoder.embed_scale = theirs.model.decoder.embed_scale = 4.0
    sizes = {"d_mlp": 32, "act_fn": "gelu"}
    ours: Any = transformer(TransformerConfig(**OWNS["vaswani"] | sizes), 0).eval()
    for mine, its in [
        *zip(ours.encoder_blocks, theirs.model.encoder.layers, strict=True),
        *zip(ours.decoder_blocks, theirs.model.decoder.layers, strict=True),
    ]:
        attentions = (
            {"self_attn": "self_attn", "cross_attn": "encoder_attn"} if hasattr(mine, "cross_attn") else {"attn": "self_attn"}
        )
        for name, other in attentions.items():
            for short, long in {"q": "q_proj", "k": "k_proj", "v": "v_proj", "o": "out_proj"}.items():
                getattr(getattr(mine, name), short).load_state_dict(getattr(getattr(its, other), long).state_dict())
        norms = [
            its.self_attn_layer_norm,
            *([its.encoder_attn_layer_norm] if hasattr(mine, "cross_attn") else []),
            its.final_layer_norm,
        ]
        for number, norm in enumerate(norms, start=1):
            getattr(mine, f"ln{number}").load_state_dict(norm.state_dict())
        getattr(mine.mlp, "in").load_state_dict(its.fc1.state_dict())
        mine.mlp.out.load_state_dict(its.fc2.state_dict())
    with torch.no_grad():
        ours.embed.weight.copy_(theirs.model.shared.weight)
        ours.pos_embed.weight.copy_(theirs.model.encoder.embed_positions.weight)
        ours.decoder_pos_embed.weight.copy_(theirs.model.decoder.embed_positions.weight)
        case = case_of("vaswani")
        target = case.beside["decoder_input"]
        expected = theirs(case.tokens, attention_mask=MASK, decoder_input_ids=target).logits - theirs.final_logits_bias
    found = Model.wrap(ours).run(case.tokens, decoder_input=target, attention_mask=MASK).logits
    torch.testing.assert_close(found, expected, **TOLERANCE)


def test_rotary_positions_are_the_native_models():
    ours = attention(True, rotary=True)
    x = torch.randn(2, 7, 16, generator=generator(2))
    native = (
        native_module(
            {"d_model": 16, "d_head": 4, "n_heads": 4, "n_layers": 1, "n_ctx": 32, "d_vocab": 9, "d_mlp": 8, "act_fn": "relu"}
            | {"positional_embedding_type": "rotary", "rotary_dim": 4, "normalization_type": "LN"},
            0,
        )
        .layers[0]
        .attn
    )
    for name in "qkvo":
        getattr(native, name).load_state_dict(getattr(ours, name).state_dict())
    expected = native(x)
    torch.testing.assert_close(ours(x), expected[0] if isinstance(expected, tuple) else expected, **TOLERANCE)


def test_rotated_queries_and_keys_know_the_distance_alone():
    q, k = torch.randn(2, 1, 1, 1, 8, generator=generator()).expand(2, 1, 12, 1, 8)
    products = torch.einsum("bqhd,bkhd->qk", rotated(q), rotated(k))
    for distance in range(-4, 5):
        diagonal = products.diagonal(distance)
        torch.testing.assert_close(diagonal, diagonal[:1].expand_as(diagonal), **TOLERANCE)
    assert products.diagonal(1)[0] != products.diagonal(2)[0]


@pytest.mark.parametrize("k", [-3, 0, 1, 7])
def test_sinusoids_are_shifted_by_one_matrix_everywhere(k):
    table = sinusoids(40, 16)
    torch.testing.assert_close(table[10:30] @ shift(k, 16).T, table[10 + k : 30 + k], **TOLERANCE)


def test_sinusoids_are_the_papers():
    table = sinusoids(20, 6)
    assert table[7, 2] == pytest.approx(torch.sin(torch.tensor(7 / 10000 ** (2 / 6))).item(), abs=1e-6)
    assert table[7, 5] == pytest.approx(torch.cos(torch.tensor(7 / 10000 ** (4 / 6))).item(), abs=1e-6)


def test_the_norm_is_torchs_with_live_hooks():
    norm, x = Norm(16, eps=1e-5), torch.randn(3, 16, generator=generator())
    torch.nn.init.normal_(norm.weight, generator=generator(1))
    torch.testing.assert_close(norm(x), torch.nn.functional.layer_norm(x, (16,), norm.weight, norm.bias), **TOLERANCE)


def test_dropout_keeps_the_mean_and_is_a_function_of_its_generator():
    dropout, x = Dropout(0.25), torch.ones(100_000)
    dropout.generator = generator(3)
    first = dropout(x)
    dropout.generator = generator(3)
    assert torch.equal(first, dropout(x)) and not torch.equal(first, dropout(x))
    assert first.mean() == pytest.approx(1, abs=0.01) and (first == 0).double().mean() == pytest.approx(0.25, abs=0.01)
    assert torch.equal(dropout.eval()(x), x)


def test_one_matrix_does_for_all_embeddings_when_tied():
    tied: Any = transformer(TransformerConfig(**OWNS["vaswani"]), 0)
    assert tied.embed.weight is tied.decoder_embed.weight is tied.unembed.weight
    model = case_of("vaswani").model
    embedded = case_of("vaswani").run(read=["hook_embed"]).activations["hook_embed"]
    torch.testing.assert_close(embedded, model.W_E[case_of("vaswani").tokens] * 4)
    apart: Any = transformer(TransformerConfig(**OWNS["vaswani-pre"]), 0)
    assert apart.embed.weight is not apart.decoder_embed.weight is not apart.unembed.weight


@pytest.mark.parametrize("shape", ["decoder", "decoder-post", "encoder", "vaswani", "vaswani-pre"])
def test_the_middle_of_a_block_is_the_stream_between_its_sublayers(shape):
    case = case_of(shape)
    stack = "decoder_blocks" if shape.startswith("vaswani") else "blocks"
    names = [f"{stack}.1.{name}" for name in ("hook_resid_pre", "hook_attn_out", "hook_resid_mid", "ln1.hook_out")]
    found = case.run(read=names).activations
    before, written, middle, normed = (found[name] for name in names)
    if case.model.bridge.config.norm == "pre":
        torch.testing.assert_close(middle, before + written)
    else:
        assert torch.equal(middle, normed)


def test_names_are_those_that_bridged_models_have():
    for ours, theirs in (("decoder", "gated"), ("encoder", "native"), ("vaswani-pre", "t5"), ("vaswani", "bart")):
        expected = set(case_of(theirs).model.hooks)
        absent = {name for name in expected - set(case_of(ours).model.hooks) if "pos_embed" not in name}
        allowed = re.compile(r"embed_ln|mlp\.gate|pre_linear|hook_resid_mid|hook_mlp_in|hook_embed|encoder_hook|decoder_hook")
        assert [name for name in sorted(absent) if not allowed.search(name)] == []


@pytest.mark.parametrize("shape", OWNS)
def test_scores_are_live_and_the_pattern_is_their_softmax(shape):
    case = case_of(shape)
    prefix = "decoder_blocks.0.cross_attn" if shape.startswith("vaswani") else "blocks.0.attn"
    names = [f"{prefix}.hook_attn_scores", f"{prefix}.hook_pattern"]
    scores, pattern = case.run(read=names).activations.values()
    torch.testing.assert_close(scores.softmax(-1), pattern)
    even = case.run(read=names[1:], edits=[Edit(names[0], torch.zeros_like)]).activations[names[1]]
    torch.testing.assert_close(even, torch.full_like(even, 1 / even.shape[-1]))


def test_weights_are_a_function_of_configuration_and_seed():
    before = torch.random.get_rng_state()
    config = TransformerConfig(**OWNS["vaswani"])
    first, again, other = (Model.wrap(transformer(config, seed)).fingerprint for seed in (0, 0, 1))
    assert first == again != other
    assert torch.equal(torch.random.get_rng_state(), before)


CHOICES = [
    *({"score": score} for score in ("dot", "bilinear", "additive")),
    *({"mixer": mixer} for mixer in ("linear", "favor", "delta")),
    {"mlp": "experts", "n_experts": 3, "experts_per_token": 2},
]


@pytest.mark.parametrize("choice", CHOICES)
def test_what_a_block_is_made_of_can_be_chosen_and_is_saved(choice, tmp_path):
    case = case_of("decoder")
    model = Model.wrap(transformer(TransformerConfig(**OWNS["decoder"] | choice), 0))
    logits = model.run(case.tokens).logits
    assert not torch.equal(logits, case.run().logits)
    model.save(tmp_path)
    assert torch.equal(Model.load(str(tmp_path)).run(case.tokens).logits, logits)


FAULTS = {
    "d_model=15 is not a multiple of n_heads=2; use 14 or 16": {"d_model": 15, "positions": "none"},
    "sinusoidal positions come in pairs, but d_model=15 is odd; use 16": {"d_model": 15, "n_heads": 3},
    "rotary positions turn pairs, but d_head = d_model / n_heads = 1 is odd": {"d_model": 2, "positions": "rotary"},
    "n_heads=2 query heads cannot share n_key_value_heads=3 evenly": {"n_key_value_heads": 3},
    "score='cosine' is none of 'scaled_dot', 'dot', 'bilinear', 'additive'": {"score": "cosine"},
    "mixer='delta' writes token by token and cannot see both ways, as an encoder must": {"kind": "encoder", "mixer": "delta"},
    "experts_per_token=5 of n_experts=4; use 1 to 4": {"mlp": "experts", "experts_per_token": 5},
    "n_layers=0 must be 1 or more; dropout=1.0 must be 0 or more and less than 1": {"n_layers": 0, "dropout": 1.0},
}


@pytest.mark.parametrize("told, change", FAULTS.items())
def test_what_does_not_fit_together_is_told_at_once(told, change):
    with pytest.raises(ModelError, match=re.escape(told)):
        TransformerConfig(**OWN | {"kind": "decoder"} | change)


def test_unknown_and_missing_fields_are_told():
    with pytest.raises(ModelError, match=r"no field 'd_modell' \(did you mean d_model"):
        TransformerConfig.of(OWN | {"kind": "decoder", "d_modell": 3})
    with pytest.raises(ModelError, match="bad architecture: .*kind"):
        TransformerConfig.of(OWN)


def test_inputs_that_do_not_fit_are_told():
    module = transformer(TransformerConfig(**OWNS["vaswani-pre"]), 0)
    rows = torch.ones(2, 5, dtype=torch.long)
    with pytest.raises(ModelError, match="a row of 33 tokens is longer than the table of 32 positions; cut the rows"):
        module(torch.ones(2, 33, dtype=torch.long), rows)
    with pytest.raises(ModelError, match="3 target rows attend to 2 source rows; give as many of each"):
        module(rows, torch.ones(3, 5, dtype=torch.long))
    with pytest.raises(ModelError, match=r"the mask has shape \[2, 4\], the keys \[2, 5\]; give one number per key"):
        module(rows, rows, attention_mask=torch.ones(2, 4, dtype=torch.long))
    with pytest.raises(ModelError, match="an encoder-decoder needs the decoder's tokens too"):
        Model.wrap(module).run(rows)


def test_every_hook_of_every_part_fires():
    for shape in OWNS:
        model = case_of(shape).model
        points = {id(point) for point in model.bridge.modules() if isinstance(point, HookPoint)}
        assert points == {id(model.bridge.hook_dict[name]) for name in model.hooks}


def test_a_configuration_is_plain_values():
    model = case_of("vaswani").model
    assert model.config == dataclasses.asdict(TransformerConfig(**OWNS["vaswani"]))
    assert TransformerConfig.of(model.config) == model.bridge.config
    assert "decoder_input" in inspect.signature(model.bridge.forward).parameters
