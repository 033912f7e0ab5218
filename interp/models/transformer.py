"""The Transformer of "Attention is all you need" and its halves, hooked (Vaswani et al. 2017, arXiv:1706.03762).

One `TransformerConfig` describes a decoder (causal, next token), an encoder (sees both ways) or an encoder–decoder. Normed after
every sublayer as in the paper ("post"), or before ("pre", Xiong et al. 2020, arXiv:2002.04745; a last norm follows the stack):

    post   x ← LN(x + Dropout(f(x)))          pre   x ← x + Dropout(f(LN(x)))

Hooks and parts are named as TransformerLens names those of bridged models, so every analysis that takes a `Model` takes these:
`blocks.0.attn.hook_pattern`, or `encoder_blocks.0.attn`, `decoder_blocks.0.self_attn` and `.cross_attn`. The residual stream
between sublayers is `hook_resid_mid` (and `hook_resid_mid2` after cross-attention), with either place of the norm.

Must not know: analyses, training, tasks.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, fields
from typing import Any, Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from interp.errors import ModelError
from interp.models.experts import Experts
from interp.models.lens import HookedRootModule, HookPoint
from interp.models.linear_attention import DeltaRule, EluPlusOne, Favor, LinearAttention, UnitRelu
from interp.models.multihead import Attention
from interp.models.parts import ACTIVATIONS, Dropout, Embed, Linear, Mlp, Norm, Part
from interp.models.positions import Positions
from interp.models.scores import Additive, Bilinear, Dot, ScaledDot
from interp.names import did_you_mean


@dataclass(frozen=True, kw_only=True)
class TransformerConfig:
    """All that a Transformer is but its weights, as plain values. Names are TransformerLens's where it has them.

    n_layers: of each stack. n_ctx: the longest row. d_mlp: hidden width of an MLP. n_key_value_heads: as many as n_heads (None),
    fewer (grouped queries), or 1 (multi-query). tied: one matrix for all embeddings and the unembedding, and embeddings times
    √d_model (§3.4). dropout: of embeddings and of what sublayers write (§5.4). score, mixer, mlp: names in `SCORES`, `MIXERS`
    and `MLPS`; a mixer takes the place of scores and softmax in every self-attention. n_experts, experts_per_token: of a mixture
    of experts, each an MLP of width d_mlp; with several per token their weights are made to sum to 1.

    Raises ModelError, with every fault, for values that do not fit together.
    """

    kind: Literal["decoder", "encoder", "encoder-decoder"]
    d_model: int
    n_heads: int
    n_layers: int
    d_mlp: int
    d_vocab: int
    n_ctx: int
    n_key_value_heads: int | None = None
    norm: Literal["pre", "post"] = "pre"
    positions: Literal["sinusoidal", "learned", "rotary", "none"] = "sinusoidal"
    tied: bool = False
    act_fn: str = "relu"
    dropout: float = 0.0
    score: str = "scaled_dot"
    mixer: str | None = None
    mlp: str = "plain"
    n_experts: int = 4
    experts_per_token: int = 1
    eps: float = 1e-5

    def __post_init__(self) -> None:
        faults = list(self._faults())
        if faults:
            raise ModelError("; ".join(faults))

    @classmethod
    def of(cls, values: Mapping[str, Any]) -> TransformerConfig:
        """From plain values, as JSON holds them. Raises ModelError for unknown names and missing ones."""
        known = [each.name for each in fields(cls)]
        unknown = [f"{name!r}{did_you_mean(name, known)}" for name in values if name not in known]
        if unknown:
            raise ModelError(f"no field {', no field '.join(unknown)}")
        try:
            return cls(**values)
        except TypeError as error:
            raise ModelError(f"bad architecture: {error}") from None

    # What analyses ask of TransformerLens's configurations.

    @property
    def d_head(self) -> int:
        """Width of one head."""
        return self.d_model // self.n_heads

    @property
    def normalization_type(self) -> str:
        return "LN"

    @property
    def attention_dir(self) -> str:
        return "bidirectional" if self.kind == "encoder" else "causal"

    @property
    def is_encoder_decoder(self) -> bool:
        return self.kind == "encoder-decoder"

    def _faults(self) -> Iterator[str]:
        for name in ("d_model", "n_heads", "n_layers", "d_mlp", "d_vocab", "n_ctx"):
            if getattr(self, name) < 1:
                yield f"{name}={getattr(self, name)} must be 1 or more"
        choices = {
            "kind": ("decoder", "encoder", "encoder-decoder"),
            "norm": ("pre", "post"),
            "positions": ("sinusoidal", "learned", "rotary", "none"),
            "act_fn": ACTIVATIONS,
            "score": SCORES,
            "mixer": [None, *MIXERS],
            "mlp": MLPS,
        }
        for name, known in choices.items():
            if getattr(self, name) not in known:
                yield f"{name}={getattr(self, name)!r} is none of {', '.join(map(repr, known))}"
        if not 0 <= self.dropout < 1:
            yield f"dropout={self.dropout} must be 0 or more and less than 1"
        if self.n_heads > 0 and self.d_model % self.n_heads:
            near = max(1, self.d_model // self.n_heads) * self.n_heads
            yield f"d_model={self.d_model} is not a multiple of n_heads={self.n_heads}; use {near} or {near + self.n_heads}"
        elif self.n_heads > 0 and self.positions == "rotary" and self.d_head % 2:
            yield f"rotary positions turn pairs, but d_head = d_model / n_heads = {self.d_head} is odd"
        if self.positions == "sinusoidal" and self.d_model % 2:
            yield f"sinusoidal positions come in pairs, but d_model={self.d_model} is odd; use {self.d_model + 1}"
        if self.mixer == "delta" and self.kind != "decoder":
            yield f"mixer='delta' writes token by token and cannot see both ways, as an {self.kind} must; use a decoder"
        if self.mlp == "experts" and not 1 <= self.experts_per_token <= self.n_experts:
            yield f"experts_per_token={self.experts_per_token} of n_experts={self.n_experts}; use 1 to {self.n_experts}"
        groups = self.n_key_value_heads
        if groups is not None and (groups < 1 or self.n_heads % groups):
            yield f"n_heads={self.n_heads} query heads cannot share n_key_value_heads={groups} evenly; use a divisor"


Maker = Callable[[TransformerConfig, torch.Generator], nn.Module]
SCORES: dict[str, Maker] = {
    "scaled_dot": lambda config, generator: ScaledDot(),
    "dot": lambda config, generator: Dot(),
    "bilinear": lambda config, generator: Bilinear(config.n_heads, config.d_head, generator=generator),
    "additive": lambda config, generator: Additive(config.n_heads, config.d_head, hidden=config.d_head, generator=generator),
}
"""Score functions by name: what each attention of a configuration gets."""
MIXERS: dict[str, Maker] = {
    "linear": lambda config, generator: LinearAttention(EluPlusOne()),
    "favor": lambda config, generator: LinearAttention(
        Favor(config.d_head, 4 * config.d_head, orthogonal=True, generator=generator)
    ),
    "delta": lambda config, generator: DeltaRule(config.n_heads, config.d_head, UnitRelu(), generator=generator),
}
"""What can take the place of scores and softmax, by name; the delta rule in decoders only."""


def _plain(config: TransformerConfig, generator: torch.Generator) -> Mlp:
    return Mlp(config.d_model, config.d_mlp, act_fn=config.act_fn, generator=generator)


def _experts(config: TransformerConfig, generator: torch.Generator) -> Experts:
    each = [_plain(config, generator) for _ in range(config.n_experts)]
    top_k = config.experts_per_token
    return Experts(config.d_model, each, top_k=top_k, renormalised=top_k > 1, generator=generator)


MLPS: dict[str, Maker] = {"plain": _plain, "experts": _experts}
"""What can follow attention in a block, by name."""


class _Sublayers(Part):
    """What all blocks do: run a sublayer beside the residual stream, and norm before it or after the sum."""

    def __init__(self, config: TransformerConfig) -> None:
        super().__init__()
        self.pre = config.norm == "pre"
        self.dropout = Dropout(config.dropout)

    def _add(self, x: Tensor, norm: nn.Module, sublayer: Callable[[Tensor], Tensor]) -> Float[Tensor, "batch pos d_model"]:
        if self.pre:
            return x + self.dropout(sublayer(norm(x)))
        return norm(x + self.dropout(sublayer(x)))


class Block(_Sublayers):
    """Self-attention, then the MLP."""

    aliases = {
        "hook_resid_pre": "hook_in",
        "hook_attn_out": "attn.hook_out",
        "hook_mlp_out": "mlp.hook_out",
        "hook_resid_post": "hook_out",
    }

    def __init__(self, config: TransformerConfig, generator: torch.Generator) -> None:
        super().__init__(config)
        self.ln1, self.ln2 = (Norm(config.d_model, eps=config.eps) for _ in range(2))
        self.attn = _attention(config, generator, causal=config.kind == "decoder")
        self.mlp = MLPS[config.mlp](config, generator)
        self.hook_resid_mid = HookPoint()

    def forward(
        self, x: Float[Tensor, "batch pos d_model"], mask: Int[Tensor, "_ _"] | None = None
    ) -> Float[Tensor, "batch pos d_model"]:
        x = self._add(self.hook_in(x), self.ln1, lambda y: self.attn(y, mask=mask))
        return self.hook_out(self._add(self.hook_resid_mid(x), self.ln2, self.mlp))


class DecoderBlock(_Sublayers):
    """Causal self-attention, attention to the encoder's output, then the MLP."""

    aliases = {**Block.aliases, "hook_attn_out": "self_attn.hook_out", "hook_cross_attn_out": "cross_attn.hook_out"}

    def __init__(self, config: TransformerConfig, generator: torch.Generator) -> None:
        super().__init__(config)
        self.ln1, self.ln2, self.ln3 = (Norm(config.d_model, eps=config.eps) for _ in range(3))
        self.self_attn = _attention(config, generator, causal=True)
        self.cross_attn = _attention(config, generator, causal=False, cross=True)
        self.mlp = MLPS[config.mlp](config, generator)
        self.hook_resid_mid, self.hook_resid_mid2 = HookPoint(), HookPoint()

    def forward(
        self,
        x: Float[Tensor, "batch pos d_model"],
        memory: Float[Tensor, "_ source d_model"],
        mask: Int[Tensor, "_ _"] | None = None,
        memory_mask: Int[Tensor, "_ _"] | None = None,
    ) -> Float[Tensor, "batch pos d_model"]:
        x = self._add(self.hook_in(x), self.ln1, lambda y: self.self_attn(y, mask=mask))
        x = self._add(self.hook_resid_mid(x), self.ln2, lambda y: self.cross_attn(y, memory, mask=memory_mask))
        return self.hook_out(self._add(self.hook_resid_mid2(x), self.ln3, self.mlp))


class _Ends(HookedRootModule):
    """What tokens come in through and logits go out through, with the weights there."""

    def __init__(self, config: TransformerConfig, generator: torch.Generator) -> None:
        super().__init__()
        self.config = self.cfg = config
        self.embed, self.pos_embed = _embeddings(config, generator)
        self.dropout = Dropout(config.dropout)
        self.unembed = Linear(config.d_model, config.d_vocab, bias=False, generator=generator)
        if config.tied:
            self.unembed.weight = self.embed.weight

    @property
    def W_E(self) -> Float[Tensor, "d_vocab d_model"]:
        """The table as it is stored; tied embeddings write it times √d_model."""
        return self.embed.weight

    @property
    def W_pos(self) -> Float[Tensor, "n_ctx d_model"]:
        if self.pos_embed is None:
            raise AttributeError(f"{self.config.positions} positions have no table")
        return self.pos_embed.weight

    @property
    def W_U(self) -> Float[Tensor, "d_model d_vocab"]:
        return self.unembed.weight.T

    @property
    def b_U(self) -> Float[Tensor, " d_vocab"]:
        """The unembedding has no bias."""
        return torch.zeros_like(self.unembed.weight[:, 0])


class Transformer(_Ends):
    """A decoder or an encoder: embeddings and positions, blocks, a last norm where the norm stands before, unembedding.

    Weights are a function of the configuration and the seed. Made by `transformer`, and used through `Model.wrap`.
    """

    def __init__(self, config: TransformerConfig, generator: torch.Generator) -> None:
        super().__init__(config, generator)
        self.blocks = nn.ModuleList(Block(config, generator) for _ in range(config.n_layers))
        if config.norm == "pre":
            self.ln_final = Norm(config.d_model, eps=config.eps)
        _name_hooks(self)

    def forward(
        self, tokens: Int[Tensor, "batch pos"], attention_mask: Int[Tensor, "_ _"] | None = None
    ) -> Float[Tensor, "batch pos d_vocab"]:
        """attention_mask [batch pos]: 1 for tokens, 0 for padding.

        Raises ModelError for a mask of another shape and rows longer than the table.
        """
        x = self.dropout(_placed(tokens, self.embed, self.pos_embed))
        for block in self.blocks:
            x = block(x, attention_mask)
        return self.unembed(self.ln_final(x) if self.config.norm == "pre" else x)


class EncoderDecoder(_Ends):
    """An encoder that reads the source both ways, and a decoder that writes the target from left to right and looks at it.

    Weights are a function of the configuration and the seed. Made by `transformer`, and used through `Model.wrap`.
    """

    def __init__(self, config: TransformerConfig, generator: torch.Generator) -> None:
        super().__init__(config, generator)
        self.decoder_embed, self.decoder_pos_embed = _embeddings(config, generator)
        if config.tied:
            self.decoder_embed.weight = self.embed.weight
        self.encoder_blocks = nn.ModuleList(Block(config, generator) for _ in range(config.n_layers))
        self.decoder_blocks = nn.ModuleList(DecoderBlock(config, generator) for _ in range(config.n_layers))
        if config.norm == "pre":
            self.encoder_ln_final, self.decoder_ln_final = (Norm(config.d_model, eps=config.eps) for _ in range(2))
        _name_hooks(self)

    def forward(
        self,
        tokens: Int[Tensor, "batch source"],
        decoder_input: Int[Tensor, "_ pos"],
        attention_mask: Int[Tensor, "_ _"] | None = None,
        decoder_attention_mask: Int[Tensor, "_ _"] | None = None,
    ) -> Float[Tensor, "batch pos d_vocab"]:
        """decoder_input: the target so far, led by a start token. Masks [batch pos]: 1 for tokens, 0 for padding.

        Raises ModelError for unequal numbers of sources and targets, masks of another shape, and rows longer than the table.
        """
        pre = self.config.norm == "pre"
        memory = self.dropout(_placed(tokens, self.embed, self.pos_embed))
        for block in self.encoder_blocks:
            memory = block(memory, attention_mask)
        memory = self.encoder_ln_final(memory) if pre else memory
        x = self.dropout(_placed(decoder_input, self.decoder_embed, self.decoder_pos_embed))
        for block in self.decoder_blocks:
            x = block(x, memory, decoder_attention_mask, attention_mask)
        return self.unembed(self.decoder_ln_final(x) if pre else x)


def transformer(config: TransformerConfig, seed: int) -> Transformer | EncoderDecoder:
    """A fresh Transformer, in training mode; a function of the configuration and the seed alone."""
    generator = torch.Generator().manual_seed(seed)
    return (EncoderDecoder if config.is_encoder_decoder else Transformer)(config, generator)


def _attention(config: TransformerConfig, generator: torch.Generator, *, causal: bool, cross: bool = False) -> Attention:
    mixed = config.mixer is not None and not cross
    return Attention(
        config.d_model,
        config.n_heads,
        config.n_heads if config.n_key_value_heads is None else config.n_key_value_heads,
        config.d_head,
        causal=causal,
        rotary=config.positions == "rotary" and not cross,
        score=None if mixed else SCORES[config.score](config, generator),
        mixer=MIXERS[config.mixer](config, generator) if config.mixer is not None and mixed else None,
        generator=generator,
    )


def _embeddings(config: TransformerConfig, generator: torch.Generator) -> tuple[Embed, Positions | None]:
    embed = Embed(config.d_vocab, config.d_model, scale=config.d_model**0.5 if config.tied else 1.0, generator=generator)
    if config.positions not in ("sinusoidal", "learned"):
        return embed, None
    return embed, Positions(config.n_ctx, config.d_model, learned=config.positions == "learned", generator=generator)


def _placed(tokens: Tensor, embed: nn.Module, positions: nn.Module | None) -> Float[Tensor, "batch pos d_model"]:
    return embed(tokens) if positions is None else embed(tokens) + positions(tokens)


def _name_hooks(root: HookedRootModule) -> None:
    """Fills `root.hook_dict`: every hook by its path, and by the aliases of the parts it lies in."""
    root.setup()
    for path, part in list(root.named_modules()):
        for alias, target in getattr(part, "aliases", {}).items():
            root.hook_dict[f"{path}.{alias}"] = root.hook_dict[f"{path}.{target}"]
    for alias, target in {"hook_embed": "embed", "hook_pos_embed": "pos_embed", "hook_unembed": "unembed"}.items():
        if f"{target}.hook_out" in root.hook_dict:
            root.hook_dict[alias] = root.hook_dict[f"{target}.hook_out"]
