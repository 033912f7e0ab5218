"""The sparse algebra in PyTorch's own operations: every device, every floating-point type.

Entries are compressed rows: `pointers` [row+1] says where each row's entries begin, `latents` [entry] which latents they are.
Weights lie latent by latent. The compiled kernels offer the same functions under the same names.

Must not know: autograd, autoencoders.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn import functional as F

from interp.sae import rounding

BUFFER = {"cpu": 1 << 24, "cuda": 1 << 30}
"""Bytes of pre-activations computed at once, in one buffer used again and again: on a CPU they stay in the cache."""

BLOCK = 16
"""Latents in a block of `_listed`."""


def available() -> bool:
    """Always."""
    return True


def serves(tensor: Tensor) -> bool:
    """Every tensor."""
    return True


def topk(
    rows: Float[Tensor, "row d"], weight: Float[Tensor, "d_sae d"], bias: Float[Tensor, "d_sae"], k: int
) -> tuple[Float[Tensor, "row k"], Int[Tensor, "row k"]]:
    """The k largest of rows @ weightᵀ + bias in each row, in any order: values and latents.

    Where bfloat16 products pay they find the candidates: all that rounding leaves a chance. Exact values then decide.
    """
    values, latents = rows.new_empty(len(rows), k), torch.empty(len(rows), k, dtype=torch.long, device=rows.device)
    for part, pre, slack in _readings(rows, weight, bias, rounded=rounding.pays(rows, len(weight), k)):
        if len(weight) < max(rounding.MANY, 4 * k * BLOCK):
            torch.topk(pre, k, dim=-1, sorted=False, out=(values[part], latents[part]))
            continue
        # the k-th largest of 4k maxima is hardly less than the k-th largest of all
        coarse = pre[:, : len(weight) // (4 * k) * 4 * k].unflatten(1, (-1, 4 * k)).amax(1)
        bound = coarse.topk(k, dim=-1, sorted=False).values.amin(1).to(slack.dtype)
        pointers, found, read = _listed(pre, rounding.lowered(bound, slack))
        if pre.dtype != rows.dtype:
            read = dots(rows[part], weight, pointers, found) + bias[found]
        values[part], latents[part] = _largest(read, pointers, found, k)
    return values, latents


def above(
    rows: Float[Tensor, "row d"],
    weight: Float[Tensor, "d_sae d"],
    bias: Float[Tensor, "d_sae"],
    threshold: Float[Tensor, "#d_sae"],
) -> tuple[Int[Tensor, "row_1"], Int[Tensor, "entry"], Float[Tensor, "entry"]]:
    """All of rows @ weightᵀ + bias that exceed the threshold, or are no numbers: pointers, latents and values.

    In float32 throughout: exact values decide.
    """
    counts, latents, values = [], [], []
    threshold = threshold.expand(len(weight))
    for _, pre, _ in _readings(rows, weight, bias - threshold, rounded=False):
        pointers, found, excess = _listed(pre, pre.new_zeros(len(pre)))
        sure = ~(excess <= 0)
        counts.append(F.pad(sure.cumsum(0), (1, 0))[pointers].diff())
        latents.append(found[sure])
        values.append(excess[sure] + threshold[found[sure]])
    return F.pad(torch.cat(counts).cumsum(0), (1, 0)), torch.cat(latents), torch.cat(values)


def combine(
    values: Float[Tensor, "entry"],
    pointers: Int[Tensor, "row_1"],
    latents: Int[Tensor, "entry"],
    weight: Float[Tensor, "d_sae d"],
    base: Float[Tensor, "row d"] | None = None,
) -> Float[Tensor, "row d"]:
    """For each row, the weighted sum of its latents, added to `base`: Σ values[e] weight[latents[e]] over the row's entries."""
    out = F.embedding_bag(latents, weight, pointers, mode="sum", per_sample_weights=values, include_last_offset=True)
    return out if base is None else out.add_(base)


def dots(
    rows: Float[Tensor, "row d"], weight: Float[Tensor, "d_sae d"], pointers: Int[Tensor, "row_1"], latents: Int[Tensor, "entry"]
) -> Float[Tensor, "entry"]:
    """rows[row of e] · weight[latents[e]] for every entry: the dense product, sampled where a latent is active."""
    pattern = _csr(pointers, latents, rows.new_zeros(len(latents)), (len(rows), len(weight)))
    return torch.sparse.sampled_addmm(pattern, rows, weight.T, beta=0.0).values()


def transpose(
    pointers: Int[Tensor, "row_1"], latents: Int[Tensor, "entry"], d_sae: int
) -> tuple[Int[Tensor, "d_sae_1"], Int[Tensor, "entry"], Int[Tensor, "entry"]]:
    """The same entries latent by latent, in the order of their rows: pointers, rows, and where each was before."""
    # a stable sort of 32-bit whole numbers is a radix sort
    ordered, order = latents.int().sort(stable=True)
    by_latent = torch.searchsorted(ordered, torch.arange(d_sae + 1, device=latents.device, dtype=torch.int32))
    return by_latent, rows_of(pointers, len(latents))[order], order


def rows_of(pointers: Int[Tensor, "row_1"], entries: int) -> Int[Tensor, "entry"]:
    """The row of each entry."""
    rows = torch.arange(len(pointers) - 1, device=pointers.device)
    return rows.repeat_interleave(pointers.diff(), output_size=entries)


def gather(
    weights: Float[Tensor, "entry"],
    transposed: tuple[Int[Tensor, "d_sae_1"], Int[Tensor, "entry"], Int[Tensor, "entry"]],
    rows: Float[Tensor, "row d"],
    centre: Float[Tensor, "d"] | None = None,
) -> Float[Tensor, "d_sae d"]:
    """For each latent, the weighted sum of the rows it is active on: Σ weights[e] (rows[row of e] - centre) over its entries."""
    pointers, columns, order = transposed
    matrix = _csr(pointers, columns, weights[order], (len(pointers) - 1, len(rows)))
    out = matrix @ rows
    return out if centre is None else out.addr_(matrix @ rows.new_ones(len(rows)), centre, alpha=-1)


def _readings(rows: Tensor, weight: Tensor, bias: Tensor, *, rounded: bool) -> Iterator[tuple[slice, Tensor, Tensor]]:
    """(which rows, their pre-activations, by how much these may be off) of one chunk after another; each overwrites the last.

    In bfloat16 if `rounded`.
    """
    slack = rows.new_zeros(len(rows))
    if rounded:
        left, right = rounding.rounded(rows), rounding.rounded(weight)
        slack = rounding.doubt(left, right) + 2 * rounding.PART * bias.abs().max()
        rows, weight, bias = left.narrow, right.narrow, bias.bfloat16()
    chunk = max(1, min(len(rows), BUFFER.get(rows.device.type, 1 << 28) // (len(weight) * rows.itemsize)))
    buffer = rows.new_empty(chunk, len(weight))
    for start in range(0, len(rows), chunk):
        part = slice(start, start + chunk)
        yield part, torch.addmm(bias, rows[part], weight.T, out=buffer[: len(rows[part])]), slack[part]


def _listed(pre: Tensor, threshold: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """The entries that are not below their row's threshold: pointers, latents, and what `pre` says. Skips blocks without any."""
    count = pre.shape[1] // BLOCK
    # block i holds the latents i, i + count, i + 2·count …, so that maxima are taken over whole rows of memory
    blocks, rest = pre[:, : BLOCK * count].unflatten(1, (BLOCK, count)), pre[:, BLOCK * count :]
    row, block = (~(blocks.amax(1) < threshold[:, None])).nonzero(as_tuple=True)
    inside = blocks[row, :, block]
    entry, place = (~(inside < threshold[row, None])).nonzero(as_tuple=True)
    rows, latents, values = row[entry], place * count + block[entry], inside[entry, place]
    if rest.numel():
        row, place = (~(rest < threshold[:, None])).nonzero(as_tuple=True)
        rows, order = torch.cat([rows, row]).sort(stable=True)
        latents = torch.cat([latents, place + BLOCK * count])[order]
        values = torch.cat([values, rest[row, place]])[order]
    return F.pad(rows.bincount(minlength=len(pre)).cumsum(0), (1, 0)), latents, values


def _largest(values: Tensor, pointers: Tensor, latents: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """The k largest entries of each row, which has at least as many."""
    row = rows_of(pointers, len(values))
    wide = values.new_full((len(pointers) - 1, int(pointers.diff().max())), -torch.inf)
    wide[row, torch.arange(len(values), device=values.device) - pointers[row]] = values
    top, best = wide.topk(k, dim=-1, sorted=False)
    return top, latents[pointers[:-1, None] + best]


def _csr(pointers: Tensor, columns: Tensor, values: Tensor, shape: tuple[int, int]) -> Tensor:
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Sparse")
        return torch.sparse_csr_tensor(pointers, columns, values, shape, check_invariants=False)
