"""Multi-head attention with a hook at every step (Vaswani et al. 2017, arXiv:1706.03762, §3.2).

    q = x W_Q + b_Q, k = y W_K + b_K, v = y W_V + b_V     y = x (self-attention) or another stream (cross-attention)
    pattern = softmax(score(q, k) + mask),  z = pattern v,  output = Σ_heads z_h W_O[h] + b_O

Fewer key-value heads than query heads give grouped-query attention (Ainslie et al. 2023, arXiv:2305.13245), one of them
multi-query attention (Shazeer 2019, arXiv:1911.02150): query head h reads key-value head h // (heads per group).

Two seams. A `Score` says how well a key answers a query (`interp.models.scores`). A `Mixer` takes the place of scores and softmax
altogether, as linear attention does. Must not know: blocks, positions other than rotary, how models are trained.
"""

from __future__ import annotations

from typing import Protocol

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from interp.errors import ModelError
from interp.models.lens import HookPoint
from interp.models.parts import Linear, Part
from interp.models.positions import rotated


class Score(Protocol):
    """How well each key answers each query, before mask and softmax. A module."""

    def __call__(
        self, q: Float[Tensor, "batch query head d_head"], k: Float[Tensor, "batch key head d_head"]
    ) -> Float[Tensor, "batch head query key"]: ...


class Mixer(Protocol):
    """What attention gives each query, in place of scores, softmax and weighted sum. A module.

    k and v have as many heads as q. causal: query i sees keys 0 … i only. seen: keys that are no padding; None means all.
    """

    def __call__(
        self,
        q: Float[Tensor, "batch query head d_head"],
        k: Float[Tensor, "batch key head d_head"],
        v: Float[Tensor, "batch key head d_head"],
        *,
        causal: bool,
        seen: Bool[Tensor, "batch key"] | None,
    ) -> Float[Tensor, "batch query head d_head"]: ...


class Attention(Part):
    """Attention of `n_heads` query heads over `n_key_value_heads` heads of keys and values, each of width `d_head`.

    score, mixer: modules; exactly one of them is given. causal: a query sees no later key. rotary: turns q and k by position.
    `hook_attn_scores` holds masked scores and `hook_pattern` their softmax; edits of both act. A mixer has hooks of its own.
    """

    aliases = {"hook_q": "q.hook_out", "hook_k": "k.hook_out", "hook_v": "v.hook_out", "hook_z": "o.hook_in"}

    def __init__(
        self,
        d_model: int,
        n_heads: int,
        n_key_value_heads: int,
        d_head: int,
        *,
        causal: bool,
        rotary: bool,
        score: nn.Module | None,
        mixer: nn.Module | None,
        generator: torch.Generator,
    ) -> None:
        super().__init__()
        self.n_heads, self.n_key_value_heads, self.causal, self.rotary = n_heads, n_key_value_heads, causal, rotary
        assert (score is None) != (mixer is None)
        self.score, self.mixer = score, mixer
        if rotary:
            self.hook_rot_q, self.hook_rot_k = HookPoint(), HookPoint()
        if score is not None:
            self.hook_attn_scores, self.hook_pattern = HookPoint(), HookPoint()
        self.q = Linear(d_model, n_heads * d_head, heads_out=n_heads, generator=generator)
        self.k = Linear(d_model, n_key_value_heads * d_head, heads_out=n_key_value_heads, generator=generator)
        self.v = Linear(d_model, n_key_value_heads * d_head, heads_out=n_key_value_heads, generator=generator)
        self.o = Linear(n_heads * d_head, d_model, heads_in=n_heads, generator=generator)

    def forward(
        self,
        x: Float[Tensor, "batch query d_model"],
        memory: Float[Tensor, "_ key d_model"] | None = None,
        *,
        mask: Int[Tensor, "_ _"] | None = None,
    ) -> Float[Tensor, "batch query d_model"]:
        """memory: the stream that keys and values are read from; x without it. mask [batch key]: 1 for keys, 0 for padding.

        Raises ModelError for a mask of another shape than the keys, and for unequal batches.
        """
        x = self.hook_in(x)
        source = x if memory is None else memory
        _check(x, source, mask)
        q = self.q(x).unflatten(-1, (self.n_heads, -1))
        k, v = (part(source).unflatten(-1, (self.n_key_value_heads, -1)) for part in (self.k, self.v))
        if self.rotary:
            q, k = self.hook_rot_q(rotated(q)), self.hook_rot_k(rotated(k))
        groups = self.n_heads // self.n_key_value_heads
        k, v = k.repeat_interleave(groups, 2), v.repeat_interleave(groups, 2)
        seen = None if mask is None else mask.bool()
        z = self._attend(q, k, v, seen) if self.mixer is None else self.mixer(q, k, v, causal=self.causal, seen=seen)
        return self.hook_out(self.o(z.flatten(-2)))

    def _attend(self, q: Tensor, k: Tensor, v: Tensor, seen: Tensor | None) -> Float[Tensor, "batch query head d_head"]:
        assert self.score is not None
        scores = self.score(q, k)
        visible = torch.ones(scores.shape[-2:], dtype=torch.bool, device=scores.device)
        visible = visible.tril() if self.causal else visible
        visible = visible if seen is None else visible & seen[:, None, None]
        # The lowest finite number, not −∞: a query that sees nothing then attends evenly instead of becoming NaN.
        scores = self.hook_attn_scores(scores.masked_fill(~visible, torch.finfo(scores.dtype).min))
        return torch.einsum("bhqk,bkhd->bqhd", self.hook_pattern(scores.softmax(-1)), v)

    @property
    def W_Q(self) -> Float[Tensor, "head d_model d_head"]:
        return _by_head(self.q)

    @property
    def W_K(self) -> Float[Tensor, "kv_head d_model d_head"]:
        return _by_head(self.k)

    @property
    def W_V(self) -> Float[Tensor, "kv_head d_model d_head"]:
        return _by_head(self.v)

    @property
    def W_O(self) -> Float[Tensor, "head d_head d_model"]:
        return self.o.weight.T.unflatten(0, (self.n_heads, -1))

    @property
    def b_Q(self) -> Float[Tensor, "head d_head"]:
        return _bias(self.q).unflatten(0, (self.n_heads, -1))

    @property
    def b_K(self) -> Float[Tensor, "kv_head d_head"]:
        return _bias(self.k).unflatten(0, (self.n_key_value_heads, -1))

    @property
    def b_V(self) -> Float[Tensor, "kv_head d_head"]:
        return _bias(self.v).unflatten(0, (self.n_key_value_heads, -1))

    @property
    def b_O(self) -> Float[Tensor, " d_model"]:
        return _bias(self.o)


def _by_head(part: Linear) -> Float[Tensor, "head d_model d_head"]:
    assert part.heads_out is not None
    return part.weight.unflatten(0, (part.heads_out, -1)).transpose(1, 2)


def _bias(part: Linear) -> Float[Tensor, " d_out"]:
    assert part.bias is not None
    return part.bias


def _check(x: Tensor, source: Tensor, mask: Tensor | None) -> None:
    if len(x) != len(source):
        raise ModelError(f"{len(x)} target rows attend to {len(source)} source rows; give as many of each")
    if mask is not None and mask.shape != source.shape[:2]:
        raise ModelError(f"the mask has shape {list(mask.shape)}, the keys {list(source.shape[:2])}; give one number per key")
