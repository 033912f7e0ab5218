"""Exact sparse algebra for codes with few active latents per row: forward and backward touch active latents only.

With B rows, k active latents per row and m latents, nothing of size B × m outlives a chunk of rows, and nothing of size
B × k × d exists. Both weight gradients are one sparse-transpose-times-dense product each, and share one ordering by latent.

Latents are selected outside the graph (`select_…`), their pre-activations carry the gradient (`preactivations`), what becomes
of them is plain PyTorch on one number per entry, and `decode` brings them back to rows.

Must not know: autoencoders, optimizers, models.
"""

from __future__ import annotations

import os
from functools import cached_property
from types import ModuleType
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn import functional as F

from interp.errors import ConfigError
from interp.sae import native, torch_kernels, triton_kernels

BACKENDS = {"native": native, "triton": triton_kernels, "torch": torch_kernels}
"""Where the sparse algebra can be computed: modules with the same functions, the fastest first."""

FORCED = "INTERP_KERNELS"
"""The environment variable that names the only one to use, instead of the fastest that serves."""


def backend(tensor: Tensor) -> str:
    """Which of `BACKENDS` computes with tensors of this kind: "native" | "triton" | "torch".

    Raises ConfigError when `INTERP_KERNELS` asks for one that is unknown, or not to be had here.
    """
    forced = os.environ.get(FORCED)
    if not forced:
        return next(name for name, module in BACKENDS.items() if module.serves(tensor) and module.available())
    if forced not in BACKENDS:
        raise ConfigError(f"{FORCED}={forced} names no kernels; use one of {', '.join(BACKENDS)}, or unset it")
    if not BACKENDS[forced].available():
        raise ConfigError(f"{FORCED}={forced} asks for kernels that are not to be had here; unset it, or use {FORCED}=torch")
    return forced if BACKENDS[forced].serves(tensor) else "torch"


def kernels_for(tensor: Tensor) -> ModuleType:
    """The functions of `torch_kernels`, as this tensor's `backend` has them."""
    return BACKENDS[backend(tensor)]


class Support:
    """Which latents are active in each row, as compressed rows, and their pre-activations when they were chosen.

    pointers [row+1]: row r owns the entries pointers[r] to pointers[r + 1]. latents, values: one per entry.
    """

    def __init__(
        self, pointers: Int[Tensor, "row_1"], latents: Int[Tensor, "entry"], values: Float[Tensor, "entry"], d_sae: int
    ) -> None:
        self.pointers, self.latents, self.values, self.d_sae = pointers, latents, values, d_sae

    @property
    def n_rows(self) -> int:
        """How many rows there are, empty ones included."""
        return len(self.pointers) - 1

    @cached_property
    def rows(self) -> Int[Tensor, "entry"]:
        """The row of each entry."""
        return torch_kernels.rows_of(self.pointers, len(self.latents))

    def keep(self, mask: Bool[Tensor, "entry"]) -> Support:
        """The entries of `mask` alone."""
        before = F.pad(mask.cumsum(0), (1, 0))
        return Support(before[self.pointers], self.latents[mask], self.values[mask], self.d_sae)

    def total(self, weights: Float[Tensor, "entry"]) -> Float[Tensor, "d_sae"]:
        """For each latent, the sum of its weights."""
        return weights.new_zeros(self.d_sae).index_add_(0, self.latents, weights)

    def gather_rows(
        self, weights: Float[Tensor, "entry"], rows: Float[Tensor, "row d"], centre: Float[Tensor, "d"] | None = None
    ) -> Float[Tensor, "d_sae d"]:
        """For each latent, the weighted sum of the rows it is active on: Σ weights[e] (rows[self.rows[e]] - centre) over its
        entries e."""
        return kernels_for(rows).gather(weights, self._transposed, rows, centre)

    @cached_property
    def _transposed(self) -> tuple[Tensor, Tensor, Tensor]:
        return kernels_for(self.values).transpose(self.pointers, self.latents, self.d_sae)


@torch.no_grad()
def select_topk(rows: Float[Tensor, "row d"], weight: Float[Tensor, "d d_sae"], bias: Float[Tensor, "d_sae"], k: int) -> Support:
    """The k largest of rows @ weight + bias in each row, whatever their sign: exactly k entries per row."""
    values, latents = kernels_for(rows).topk(rows.detach(), weight.detach().T, bias.detach(), k)
    pointers = torch.arange(0, values.numel() + 1, k, device=rows.device)
    return Support(pointers, latents.flatten(), values.flatten(), weight.shape[1])


@torch.no_grad()
def select_above(
    rows: Float[Tensor, "row d"],
    weight: Float[Tensor, "d d_sae"],
    bias: Float[Tensor, "d_sae"],
    threshold: float | Float[Tensor, "#d_sae"],
) -> Support:
    """All of rows @ weight + bias that exceed the threshold, which is one number or one per latent."""
    bound = torch.as_tensor(threshold, dtype=rows.dtype, device=rows.device).detach().reshape(-1)
    pointers, latents, values = kernels_for(rows).above(rows.detach(), weight.detach().T, bias.detach(), bound)
    return Support(pointers, latents, values, weight.shape[1])


@torch.no_grad()
def select_batch_topk(
    rows: Float[Tensor, "row d"], weight: Float[Tensor, "d d_sae"], bias: Float[Tensor, "d_sae"], k: float
) -> Support:
    """The k · row largest positive values of rows @ weight + bias, wherever they lie; all positive ones if there are fewer.

    The 2k largest of each row hold nearly all of them, and their threshold is at most the right one: a row whose 2k largest all
    reach it is looked at again, in full.
    """
    wanted, each = round(k * len(rows)), min(weight.shape[1], max(1, round(2 * k)))
    support = select_topk(rows, weight, bias, each)
    threshold = _kth_largest(support.values, wanted).clamp_min(0.0)
    smallest = support.values.view(-1, each).amin(1)
    full = ~(smallest < threshold)
    if bool(full.any()) and each < weight.shape[1]:
        again = select_above(rows[full], weight, bias, torch.nextafter(threshold, threshold - 1))
        support = _merged(support.keep(~full[support.rows] & (support.values >= threshold)), again, full)
    support = support.keep(support.values > 0)
    if len(support.values) <= wanted:
        return support
    kept = support.values.topk(wanted, sorted=False).indices
    return support.keep(torch.zeros_like(support.latents, dtype=torch.bool).index_fill_(0, kept, True))


def preactivations(
    rows: Float[Tensor, "row d"],
    weight: Float[Tensor, "d d_sae"],
    b_enc: Float[Tensor, "d_sae"],
    b_in: Float[Tensor, "d"] | None,
    support: Support,
) -> Float[Tensor, "entry"]:
    """(rows - b_in) @ weight + b_enc at the entries of the support, differentiable in all four tensors.

    Their values are those that the support was chosen by.
    """
    return _Preactivations.apply(rows, weight, b_enc, b_in, support)


def decode(
    values: Float[Tensor, "entry"],
    support: Support,
    weight: Float[Tensor, "d_sae d"],
    base: Float[Tensor, "row d"] | None = None,
) -> Float[Tensor, "row d"]:
    """base + Σ values[e] weight[latents[e]] over each row's entries, differentiable in values, weight and base.

    An error y - ŷ is `decode(-codes, support, W_dec, base=y)`, in one pass over memory.
    """
    return _Decode.apply(values, weight, base, support)


def mean_square(error: Float[Tensor, "row d"]) -> Float[Tensor, ""]:
    """Mean over rows of ‖error‖², in one pass over memory forward and one backward."""
    return _MeanSquare.apply(error)


def _kth_largest(values: Tensor, k: int) -> Tensor:
    return values.topk(min(k, len(values)), sorted=False).values.amin(0, keepdim=True)


def _merged(some: Support, others: Support, where: Tensor) -> Support:
    """The rows of `some`, with those of `others` in the places where `where` is true and `some` has empty rows."""
    counts = some.pointers.diff()
    counts[where] = others.pointers.diff()
    rows = torch.cat([some.rows, where.nonzero()[:, 0][others.rows]])
    order = rows.argsort(stable=True)
    latents, values = torch.cat([some.latents, others.latents]), torch.cat([some.values, others.values])
    return Support(F.pad(counts.cumsum(0), (1, 0)), latents[order], values[order], some.d_sae)


class _MeanSquare(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, error: Tensor) -> Tensor:
        ctx.save_for_backward(error)
        return torch.linalg.vector_norm(error).square() / len(error)

    @staticmethod
    def backward(ctx: Any, *gradients: Any) -> Tensor:
        (gradient,), (error,) = gradients, ctx.saved_tensors
        return error * (2 / len(error) * gradient)


class _Preactivations(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, rows: Tensor, weight: Tensor, b_enc: Tensor, b_in: Tensor | None, support: Support) -> Tensor:
        ctx.save_for_backward(rows, weight, b_in)
        ctx.support = support
        return support.values.clone()

    @staticmethod
    def backward(ctx: Any, *gradients: Any) -> tuple[Tensor | None, ...]:
        (gradient,) = gradients
        rows, weight, b_in = ctx.saved_tensors
        support: Support = ctx.support
        g_bias = support.total(gradient)
        g_weight = support.gather_rows(gradient, rows, b_in)
        g_in = None if b_in is None else -(weight @ g_bias)
        g_rows = None
        if ctx.needs_input_grad[0]:
            g_rows = kernels_for(rows).combine(gradient, support.pointers, support.latents, weight.T.contiguous())
        return g_rows, g_weight.T, g_bias, g_in, None


class _Decode(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, values: Tensor, weight: Tensor, base: Tensor | None, support: Support) -> Tensor:
        ctx.save_for_backward(values, weight)
        ctx.support = support
        return kernels_for(weight).combine(values, support.pointers, support.latents, weight, base)

    @staticmethod
    def backward(ctx: Any, *gradients: Any) -> tuple[Tensor | None, ...]:
        (gradient,) = gradients
        gradient = gradient.contiguous()
        values, weight = ctx.saved_tensors
        support: Support = ctx.support
        g_values, g_weight, g_base = None, None, None
        if ctx.needs_input_grad[0]:
            g_values = kernels_for(weight).dots(gradient, weight, support.pointers, support.latents)
        if ctx.needs_input_grad[1]:
            g_weight = support.gather_rows(values, gradient)
        if ctx.needs_input_grad[2]:
            g_base = gradient
        return g_values, g_weight, g_base, None
