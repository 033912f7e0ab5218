"""Tiny models of every supported shape, random and built from configurations, so that nothing is fetched."""

from dataclasses import dataclass

import torch
import transformers

from interp.models.hooked import Model
from interp.models.transformer import TransformerConfig, transformer

NATIVE = {
    "d_model": 16,
    "d_head": 8,
    "n_heads": 2,
    "n_layers": 2,
    "n_ctx": 32,
    "d_vocab": 50,
    "d_mlp": 40,
    "act_fn": "gelu",
    "normalization_type": "LN",
}
GATED = NATIVE | {
    "act_fn": "silu",
    "gated_mlp": True,
    "n_key_value_heads": 1,
    "positional_embedding_type": "rotary",
    "rotary_dim": 8,
    "normalization_type": "RMS",
}
SMALL = {"hidden_size": 16, "num_hidden_layers": 2, "intermediate_size": 32, "vocab_size": 50, "max_position_embeddings": 32}
GROUPED = SMALL | {"num_attention_heads": 4, "num_key_value_heads": 2}
STACKS = {
    "encoder_layers": 2,
    "decoder_layers": 2,
    "encoder_attention_heads": 2,
    "decoder_attention_heads": 2,
    "encoder_ffn_dim": 32,
    "decoder_ffn_dim": 32,
}
HF = {
    "gpt2": ("GPT2LMHeadModel", {"n_embd": 16, "n_layer": 2, "n_head": 2, "n_positions": 32, "vocab_size": 50}),
    "llama": ("LlamaForCausalLM", GROUPED),
    "neox": ("GPTNeoXForCausalLM", SMALL | {"num_attention_heads": 2}),
    "mixtral": ("MixtralForCausalLM", GROUPED | {"num_local_experts": 4}),
    "qwen2moe": (
        "Qwen2MoeForCausalLM",
        GROUPED | {"moe_intermediate_size": 16, "shared_expert_intermediate_size": 16, "num_experts": 4},
    ),
    "bert": ("BertForMaskedLM", SMALL | {"num_attention_heads": 2}),
    "t5": (
        "T5ForConditionalGeneration",
        {"d_model": 16, "d_kv": 8, "num_layers": 2, "num_heads": 2, "d_ff": 32, "vocab_size": 50, "decoder_start_token_id": 0},
    ),
    "bart": ("BartForConditionalGeneration", {"d_model": 16, "vocab_size": 50, "max_position_embeddings": 32} | STACKS),
    "marian": (
        "MarianMTModel",
        {"d_model": 16, "vocab_size": 50, "max_position_embeddings": 32, "pad_token_id": 0, "decoder_start_token_id": 0} | STACKS,
    ),
}
OWN = {"d_model": 16, "n_heads": 2, "n_layers": 2, "d_mlp": 40, "d_vocab": 50, "n_ctx": 32}
OWNS = {
    "decoder": OWN | {"kind": "decoder", "n_heads": 4, "n_key_value_heads": 2, "positions": "rotary", "act_fn": "gelu"},
    "decoder-post": OWN | {"kind": "decoder", "norm": "post", "tied": True, "dropout": 0.1},
    "encoder": OWN | {"kind": "encoder", "positions": "learned"},
    "vaswani": OWN | {"kind": "encoder-decoder", "norm": "post", "tied": True, "dropout": 0.1},
    "vaswani-pre": OWN | {"kind": "encoder-decoder", "positions": "learned"},
}
NATIVES = {"native": NATIVE, "attention-only": NATIVE | {"attn_only": True}, "gated": GATED}
SHAPES = [*NATIVES, *HF, *OWNS]
DECODERS = [*NATIVES, "gpt2", "llama", "neox", "mixtral", "qwen2moe", "decoder"]


def hf_module(shape):
    """A bare Hugging Face model with random weights, the same every time."""
    kind, config = HF[shape]
    cls = getattr(transformers, kind)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return cls(cls.config_class(**config)).eval()


def build(shape):
    if shape in OWNS:
        return Model.wrap(transformer(TransformerConfig(**OWNS[shape]), seed=0), name=shape)
    return Model.native(NATIVES[shape], seed=0, name=shape) if shape in NATIVES else Model.wrap(hf_module(shape), name=shape)


@dataclass(frozen=True)
class Case:
    """A model with inputs it takes."""

    model: Model
    tokens: torch.Tensor
    beside: dict

    def run(self, **how):
        return self.model.run(self.tokens, **how, **self.beside)


_cases = {}


def case_of(shape):
    if shape not in _cases:
        model = build(shape)
        generator = torch.Generator().manual_seed(1)
        tokens = torch.randint(3, 50, (2, 7), generator=generator)
        beside = {"decoder_input": torch.randint(3, 50, (2, 5), generator=generator)} if model.kind == "encoder-decoder" else {}
        _cases[shape] = Case(model, tokens, beside)
    return _cases[shape]
