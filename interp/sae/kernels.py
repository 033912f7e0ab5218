"""Exact sparse algebra for codes with a fixed number of active latents per row: forward and backward touch active latents only.

With B rows, k active latents per row and m latents, nothing of size B × m outlives a chunk of rows, and nothing of size
B × k × d exists. Both weight gradients are one sparse-transpose-times-dense product each, and share one ordering by latent.

Must not know: autoencoders, optimizers, models.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache, cached_property
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn import functional as F

CHUNK = 512
"""Rows encoded at once: their pre-activations stay near the cache, in one buffer used again and again."""


class Support:
    """Which latents are active in each row, and their values when they were chosen."""

    def __init__(self, indices: Int[Tensor, "row k"], values: Float[Tensor, "row k"], d_sae: int) -> None:
        self.indices = indices
        self.values = values
        self.d_sae = d_sae

    @cached_property
    def _by_latent(self) -> tuple[Tensor, Tensor, Tensor]:
        """Compressed rows of the transpose [latent row]: pointers, columns, and the order that sorts flat entries by latent."""
        latents, order = self.indices.flatten().sort(stable=True)
        pointers = torch.searchsorted(latents, torch.arange(self.d_sae + 1, device=latents.device))
        return pointers, order // self.indices.shape[1], order

    def gather_rows(self, weights: Float[Tensor, "row k"], rows: Float[Tensor, "row d"]) -> Float[Tensor, "d_sae d"]:
        """For each latent, the weighted sum of the rows it was active on: Σ weights[b, j] rows[b] over indices[b, j] = latent."""
        pointers, columns, order = self._by_latent
        return _csr(pointers, columns, weights.flatten()[order], (self.d_sae, len(rows))) @ rows

    def total(self, weights: Float[Tensor, "row k"]) -> Float[Tensor, "d_sae"]:
        """For each latent, the sum of its weights."""
        return weights.new_zeros(self.d_sae).index_add_(0, self.indices.flatten(), weights.flatten())


@torch.no_grad()
def select_topk(rows: Float[Tensor, "row d"], weight: Float[Tensor, "d d_sae"], bias: Float[Tensor, "d_sae"], k: int) -> Support:
    """The k largest of relu(rows @ weight + bias) in each row. Fewer than k positive ones leave entries of value 0."""
    n_rows, d_sae = len(rows), weight.shape[1]
    buffer = rows.new_empty(min(CHUNK, n_rows), d_sae)
    values, indices = rows.new_empty(n_rows, k), torch.empty(n_rows, k, dtype=torch.long, device=rows.device)
    for start in range(0, n_rows, CHUNK):
        part = slice(start, start + CHUNK)
        pre = torch.addmm(bias, rows[part], weight, out=buffer[: len(rows[part])])
        torch.topk(pre, k, dim=-1, sorted=False, out=(values[part], indices[part]))
    return Support(indices, values.relu_(), d_sae)


def encode(
    rows: Float[Tensor, "row d"],
    weight: Float[Tensor, "d d_sae"],
    b_enc: Float[Tensor, "d_sae"],
    b_dec: Float[Tensor, "d"],
    k: int,
) -> tuple[Float[Tensor, "row k"], Support]:
    """topk(relu((rows - b_dec) @ weight + b_enc)) as values and support, differentiable in all four tensors.

    The latents are chosen outside the graph; their values carry the gradient, which is zero where relu cut.
    """
    support = select_topk(rows.detach(), weight.detach(), (b_enc - b_dec @ weight).detach(), k)
    return _Encode.apply(rows, weight, b_enc, b_dec, support), support


def decode(values: Float[Tensor, "row k"], support: Support, weight: Float[Tensor, "d_sae d"]) -> Float[Tensor, "row d"]:
    """Σ_j values[b, j] weight[indices[b, j]], differentiable in values and weight."""
    return _Decode.apply(values, weight, support)


def _csr(pointers: Tensor, columns: Tensor, values: Tensor, shape: tuple[int, int]) -> Tensor:
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Sparse CSR tensor support is in beta state")
        return torch.sparse_csr_tensor(pointers, columns, values, shape, check_invariants=False)


def _dot(rows: Tensor, weight: Tensor, indices: Tensor) -> Tensor:
    """rows[b] · weight[indices[b, j]] -> [row k]: the dense product sampled where a latent is active."""
    n_rows, k = indices.shape
    pointers = torch.arange(0, n_rows * k + 1, k, device=rows.device)
    pattern = _csr(pointers, indices.flatten(), rows.new_zeros(n_rows * k), (n_rows, len(weight)))
    return torch.sparse.sampled_addmm(pattern, rows, weight.T, beta=0.0).values().view(n_rows, k)


class _Encode(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, rows: Tensor, weight: Tensor, b_enc: Tensor, b_dec: Tensor, support: Support) -> Tensor:
        ctx.save_for_backward(rows, weight, b_dec)
        ctx.support = support
        return support.values.clone()

    @staticmethod
    def backward(ctx: Any, *gradients: Any) -> tuple[Tensor | None, ...]:
        (gradient,) = gradients
        rows, weight, b_dec = ctx.saved_tensors
        support: Support = ctx.support
        gradient = gradient * (support.values > 0)
        g_bias = support.total(gradient)
        g_weight = support.gather_rows(gradient, rows).addr_(g_bias, b_dec, alpha=-1).T
        g_rows = None
        if ctx.needs_input_grad[0]:
            g_rows = F.embedding_bag(support.indices, weight.T.contiguous(), mode="sum", per_sample_weights=gradient)
        return g_rows, g_weight, g_bias, -(weight @ g_bias), None


class _Decode(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, values: Tensor, weight: Tensor, support: Support) -> Tensor:
        ctx.save_for_backward(values, weight)
        ctx.support = support
        return F.embedding_bag(support.indices, weight, mode="sum", per_sample_weights=values)

    @staticmethod
    def backward(ctx: Any, *gradients: Any) -> tuple[Tensor | None, ...]:
        (gradient,) = gradients
        gradient = gradient.contiguous()
        values, weight = ctx.saved_tensors
        return _dot(gradient, weight, ctx.support.indices), ctx.support.gather_rows(values, gradient), None


@cache
def _medium_is_float32() -> bool:
    """Whether PyTorch's "medium" float32 products keep float32 accuracy on this CPU (oneDNN may also round to bfloat16)."""
    generator = torch.Generator().manual_seed(0)
    a, b = torch.randn(2, 256, 256, generator=generator, dtype=torch.float64)
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("medium")
    try:
        error = (a.float() @ b.float()).double() - a @ b
    finally:
        torch.set_float32_matmul_precision(before)
    return float(error.abs().max()) < 1e-3


@contextmanager
def fast_float32(device: torch.device) -> Iterator[None]:
    """Takes the faster float32 matrix products on a CPU where they are as accurate; restores the setting afterwards.

    On AVX-512 machines "medium" goes through oneDNN, about twice as fast as the default there and equally exact.
    """
    before = torch.get_float32_matmul_precision()
    if device.type == "cpu" and _medium_is_float32():
        torch.set_float32_matmul_precision("medium")
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before)
