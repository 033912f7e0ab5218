"""Training small native transformers: a fast forward over the bare module, and the optimiser they are trained with.

The forward is the native model's own function written for speed (no hooks, one pass over the heads, half the memory
traffic in the rotation); a test holds it against the hooked model's logits.

Must not know: hooks, analyses, reports.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn


def fast_logits(module: Any, tokens: Int[Tensor, "batch pos"]) -> Float[Tensor, "batch pos d_vocab"]:
    """Logits of a native decoder-only module, equal to its hooked forward to rounding.

    Serves pre-LN models with standard or rotary positions, plain MLPs or none. Runs in whatever autocast it is called
    under.
    """
    residual = module.tok_embed(tokens)
    length = tokens.shape[1]
    if module.pos is not None:
        residual = residual + module.pos.weight[:length]
    hidden = torch.full((length, length), float("-inf"), device=tokens.device).triu(1)
    for block in module.layers:
        residual = residual + _attention(block.attn, block.ln1(residual), hidden)
        if not block.cfg.attn_only:
            residual = residual + block.mlp(block.ln2(residual))
    return module.head(module.ln_out(residual))


def _attention(attn: Any, x: Float[Tensor, "batch pos d_model"], hidden: Float[Tensor, "pos pos"]) -> Tensor:
    q, k, v = (linear(x).unflatten(-1, (attn.n_heads, attn.d_head)).transpose(1, 2) for linear in (attn.q, attn.k, attn.v))
    if attn.rotary is not None:
        q, k = _rotate(attn.rotary, q), _rotate(attn.rotary, k)
    scores = (q / attn.scale) @ k.transpose(-1, -2)
    pattern = torch.softmax(scores + hidden.to(scores.dtype), dim=-1, dtype=scores.dtype)
    return attn.o((pattern @ v).transpose(1, 2).flatten(-2))


def _rotate(rotary: Any, x: Float[Tensor, "batch head pos d_head"]) -> Tensor:
    cos, sin = (table[: x.shape[-2], ::2].to(x.dtype) for table in (rotary.cos_cached, rotary.sin_cached))
    even, odd = x.unflatten(-1, (-1, 2)).unbind(-1)
    return torch.stack((even * cos - odd * sin, odd * cos + even * sin), -1).flatten(-2)


def fit(
    module: nn.Module,
    batches: Iterable[Int[Tensor, "batch pos"]],
    *,
    learning_rate: float,
    warmup: int,
    weight_decay: float,
) -> Iterator[Float[Tensor, "batch pos-1"]]:
    """One optimiser step on the mean next-token loss of each batch; yields the loss of every token but the first, in nats.

    AdamW with β = (0.9, 0.98), linear warm-up over `warmup` steps and then a constant rate; gradients clipped to norm 1.
    The losses are those before the step; when an iteration ends, `module` has taken it.
    """
    optimizer = torch.optim.AdamW(module.parameters(), lr=learning_rate, betas=(0.9, 0.98), weight_decay=weight_decay)
    for step, tokens in enumerate(batches):
        for group in optimizer.param_groups:
            group["lr"] = learning_rate * min(1.0, (step + 1) / warmup)
        losses = F.cross_entropy(fast_logits(module, tokens)[:, :-1].transpose(1, 2), tokens[:, 1:], reduction="none")
        optimizer.zero_grad()
        losses.mean().backward()
        nn.utils.clip_grad_norm_(module.parameters(), 1.0)
        optimizer.step()
        yield losses.detach()
