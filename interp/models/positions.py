"""How a Transformer is told where a token stands: sinusoids, learned vectors, rotations.

    sinusoidal   PE(p, 2i) = sin(p ω_i), PE(p, 2i+1) = cos(p ω_i), ω_i = 10000^(−2i/d)   (Vaswani et al. 2017, §3.5)
    learned      one vector for each of n_ctx positions                                   (Gehring et al. 2017)
    rotary       pairs of q and of k turned by p ω_i, so that q·k depends on the distance (Su et al. 2021, arXiv:2104.09864)

Positions are counted from the start of the row, padding included. Must not know: attention, blocks.
"""

from __future__ import annotations

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from interp.errors import ModelError
from interp.models.parts import Part

BASE = 10000.0


def frequencies(width: int) -> Float[Tensor, " half"]:
    """ω_i = 10000^(−2i/width) for i = 0 … width/2 − 1, in radians per position. Raises ModelError for an odd width."""
    if width < 2 or width % 2:
        raise ModelError(f"width {width} cannot be split into pairs of a sine and a cosine; use {max(2, width + width % 2)}")
    return BASE ** (-torch.arange(0, width, 2) / width)


def sinusoids(n_ctx: int, d_model: int) -> Float[Tensor, "n_ctx d_model"]:
    """Sines in the even dimensions, cosines in the odd ones. Raises ModelError for an odd width."""
    angles = torch.arange(n_ctx)[:, None] * frequencies(d_model)
    return torch.stack([angles.sin(), angles.cos()], -1).flatten(-2)


def shift(k: int, d_model: int) -> Float[Tensor, "d_model d_model"]:
    """The matrix M_k with PE(p + k) = M_k PE(p) at every p: a rotation by k ω_i in each pair of dimensions (§3.5)."""
    angles = k * frequencies(d_model)
    sines, cosines = angles.sin(), angles.cos()
    turns = torch.stack([torch.stack([cosines, sines], -1), torch.stack([-sines, cosines], -1)], -2)
    return torch.block_diag(*turns)


def rotated(x: Float[Tensor, "batch pos head d_head"]) -> Float[Tensor, "batch pos head d_head"]:
    """Every pair (x_2i, x_2i+1) at position p turned by the angle p ω_i. Raises ModelError for an odd width."""
    angles = torch.arange(x.shape[1], device=x.device)[:, None, None] * frequencies(x.shape[-1]).to(x)
    cosines, sines = angles.cos(), angles.sin()
    even, odd = x.unflatten(-1, (-1, 2)).unbind(-1)
    return torch.stack([even * cosines - odd * sines, odd * cosines + even * sines], -1).flatten(-2)


class Positions(Part):
    """A vector for every position of a row: learned ones (N(0, 1/d_model) at first), or sinusoids, which stay as they are."""

    weight: Tensor

    def __init__(self, n_ctx: int, d_model: int, *, learned: bool, generator: torch.Generator) -> None:
        super().__init__()
        if learned:
            self.weight = nn.Parameter(torch.randn(n_ctx, d_model, generator=generator) / d_model**0.5)
        else:
            self.register_buffer("weight", sinusoids(n_ctx, d_model))

    def forward(self, tokens: Int[Tensor, "batch pos"]) -> Float[Tensor, "batch pos d_model"]:
        """Raises ModelError for rows longer than the table."""
        length = tokens.shape[1]
        if length > len(self.weight):
            raise ModelError(f"a row of {length} tokens is longer than the table of {len(self.weight)} positions; cut the rows")
        return self.hook_out(self.weight[self.hook_in(torch.arange(length, device=tokens.device).expand_as(tokens))])

    @property
    def W_pos(self) -> Float[Tensor, "n_ctx d_model"]:
        return self.weight
