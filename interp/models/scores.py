"""Attention score functions: how well a key answers a query, before the softmax.

    dot          e_ij = q_i · k_j                          (Luong et al. 2015, arXiv:1508.04025, §3.1)
    scaled dot   e_ij = q_i · k_j / √d_head                (Vaswani et al. 2017, arXiv:1706.03762, eq. 1)
    bilinear     e_ij = q_iᵀ W k_j                         ("general" in Luong et al. 2015, §3.1)
    additive     e_ij = v · tanh(W q_i + U k_j)            (Bahdanau et al. 2015, arXiv:1409.0473, §A.1.2)

All are modules of one shape, q [batch query head d_head] and k [batch key head d_head] to scores [batch head query key], so
that an attention can take any of them. The first three are linear in the key: scores of one head have rank d_head at most,
and log-attention, which takes one number off each row, d_head + 1 (after Bhojanapalli et al. 2020, arXiv:2002.07028). Additive
scores are not bounded so.

Must not know: attention, masks, models.
"""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor, nn

from interp.errors import ModelError
from interp.models.lens import HookPoint


class Dot(nn.Module):
    """e_ij = q_i · k_j."""

    def forward(
        self, q: Float[Tensor, "batch query head d_head"], k: Float[Tensor, "batch key head d_head"]
    ) -> Float[Tensor, "batch head query key"]:
        return torch.einsum("bqhd,bkhd->bhqk", q, k)


class ScaledDot(nn.Module):
    """e_ij = q_i · k_j / √d_head."""

    def forward(
        self, q: Float[Tensor, "batch query head d_head"], k: Float[Tensor, "batch key head d_head"]
    ) -> Float[Tensor, "batch head query key"]:
        return torch.einsum("bqhd,bkhd->bhqk", q / q.shape[-1] ** 0.5, k)


class Bilinear(nn.Module):
    """e_ij = q_iᵀ W k_j, a matrix W for each head; it starts near the scaled dot product, W = 1/√d_head + noise.

    generator: of the noise. Raises ModelError for fewer than one head or dimension.
    """

    def __init__(self, n_heads: int, d_head: int, *, generator: torch.Generator) -> None:
        super().__init__()
        _require_positive(n_heads=n_heads, d_head=d_head)
        noise = torch.randn(n_heads, d_head, d_head, generator=generator) / d_head
        self.W = nn.Parameter(torch.eye(d_head) / d_head**0.5 + 0.1 * noise)

    def forward(
        self, q: Float[Tensor, "batch query head d_head"], k: Float[Tensor, "batch key head d_head"]
    ) -> Float[Tensor, "batch head query key"]:
        return torch.einsum("bqhd,hde,bkhe->bhqk", q, self.W, k)


class Additive(nn.Module):
    """e_ij = v · tanh(W q_i + U k_j): an MLP with one hidden layer for each head, and no biases, as in the paper.

    `hook_hidden` is the hidden layer after the tanh, [batch head query key hidden]: time and memory grow with it.
    generator: of the weights. Raises ModelError for fewer than one head, dimension or hidden unit.
    """

    def __init__(self, n_heads: int, d_head: int, *, hidden: int, generator: torch.Generator) -> None:
        super().__init__()
        _require_positive(n_heads=n_heads, d_head=d_head, hidden=hidden)
        self.W = nn.Parameter(torch.randn(n_heads, d_head, hidden, generator=generator) / d_head**0.5)
        self.U = nn.Parameter(torch.randn(n_heads, d_head, hidden, generator=generator) / d_head**0.5)
        self.v = nn.Parameter(torch.randn(n_heads, hidden, generator=generator) / hidden**0.5)
        self.hook_hidden = HookPoint()

    def forward(
        self, q: Float[Tensor, "batch query head d_head"], k: Float[Tensor, "batch key head d_head"]
    ) -> Float[Tensor, "batch head query key"]:
        asked = torch.einsum("bqhd,hdm->bhqm", q, self.W)
        offered = torch.einsum("bkhd,hdm->bhkm", k, self.U)
        hidden = self.hook_hidden(torch.tanh(asked[:, :, :, None] + offered[:, :, None]))
        return torch.einsum("bhqkm,hm->bhqk", hidden, self.v)


def _require_positive(**sizes: int) -> None:
    wrong = [f"{name}={size}" for name, size in sizes.items() if size < 1]
    if wrong:
        raise ModelError(f"{', '.join(wrong)}: a score function needs sizes of 1 or more")
