"""Attention whose weights are written down rather than trained, and right at every length.

The previous-token head reads positions only and moves tokens only. A query asks for the position one before its own,

    q_p · k_j = s Σ_i cos((p − 1 − j) ω_i)          largest at j = p − 1, by the same margin at every p

which sinusoids reach with q_p = s M₋₁ PE(p), k_j = PE(j) (Vaswani et al. 2017, §3.5), and rotary positions with the same two
vectors at all positions, since they turn themselves (Su et al. 2021, arXiv:2104.09864). No table of learned vectors has a row to
read past its end. Must not know: analyses, tasks, training.
"""

from __future__ import annotations

from typing import Literal

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

from interp.errors import ModelError
from interp.models.multihead import Attention
from interp.models.positions import shift
from interp.models.scores import ScaledDot

SHARPNESS = 30.0
"""s in the equation above: the neighbours of position j score about s less than it does."""


def previous_token_head(positions: Literal["sinusoidal", "rotary"], d_vocab: int, d_position: int) -> Attention:
    """A causal head that writes the token before each: [one-hot token, position] -> [one-hot of the token before, 0].

    Its input is `with_positions(tokens, d_vocab, table)`: d_vocab dimensions for tokens, d_position for the position, which a
    rotary head leaves alone. The first token sees itself alone and writes itself.

    Raises ModelError where the head is too narrow for the tokens: d_vocab may be d_position at most.
    """
    if d_vocab > d_position:
        raise ModelError(f"d_vocab={d_vocab} tokens do not fit a head of width d_position={d_position}; use {d_vocab} or more")
    d_model = d_vocab + d_position
    rotary = positions == "rotary"
    # Every weight is overwritten, so what the generator draws is of no matter.
    head = Attention(
        d_model,
        1,
        1,
        d_position,
        causal=True,
        rotary=rotary,
        score=ScaledDot(),
        mixer=None,
        generator=torch.Generator().manual_seed(0),
    )
    scale = SHARPNESS * d_position**0.5
    weights = {name: torch.zeros_like(weight) for name, weight in head.state_dict().items()}
    if rotary:
        sideways = torch.tensor([1.0, 0.0]).repeat(d_position // 2)
        # Positions turn q and k the other way round than `shift` turns sinusoids: one turn back for q is a shift by 1.
        weights["q.bias"], weights["k.bias"] = scale * shift(1, d_position) @ sideways, sideways
    else:
        weights["q.weight"][:, d_vocab:], weights["k.weight"][:, d_vocab:] = scale * shift(-1, d_position), torch.eye(d_position)
    weights["v.weight"][:d_vocab, :d_vocab] = weights["o.weight"][:d_vocab, :d_vocab] = torch.eye(d_vocab)
    head.load_state_dict(weights)
    return head.eval().requires_grad_(False)


def with_positions(
    tokens: Int[Tensor, "batch pos"], d_vocab: int, table: Float[Tensor, "n_ctx d_position"]
) -> Float[Tensor, "batch pos d_model"]:
    """One-hot tokens beside the vectors of their positions. Raises ModelError for rows longer than the table."""
    if tokens.shape[1] > len(table):
        raise ModelError(f"a row of {tokens.shape[1]} tokens is longer than the table of {len(table)} positions; cut the rows")
    places = table[: tokens.shape[1]].expand(len(tokens), -1, -1)
    return torch.cat([F.one_hot(tokens, d_vocab).to(table), places], -1)
