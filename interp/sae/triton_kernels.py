"""The sparse algebra on CUDA: selections and orderings by PyTorch's operations, sums over entries by Triton programs.

One program makes one row of a result, a block of `d` at a time, in float32 whatever the tensors are.

Must not know: autograd, autoencoders.
"""

from __future__ import annotations

from functools import cache
from importlib.util import find_spec
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from interp.sae.torch_kernels import above as above
from interp.sae.torch_kernels import topk as topk
from interp.sae.torch_kernels import transpose as transpose

WIDTH = 1024
"""Numbers of a row that a program holds at once."""


def available() -> bool:
    """Whether Triton is installed and there is a CUDA device."""
    return find_spec("triton") is not None and torch.cuda.is_available()


def serves(tensor: Tensor) -> bool:
    """Whether they take a tensor of this kind."""
    return tensor.is_cuda and tensor.dtype in (torch.float32, torch.bfloat16)


def combine(
    values: Float[Tensor, "entry"],
    pointers: Int[Tensor, "row_1"],
    latents: Int[Tensor, "entry"],
    weight: Float[Tensor, "d_sae d"],
    base: Float[Tensor, "row d"] | None = None,
) -> Float[Tensor, "row d"]:
    """For each row, the weighted sum of its latents, added to `base`: Σ values[e] weight[latents[e]] over the row's entries."""
    out = weight.new_empty(len(pointers) - 1, weight.shape[1])
    d, block = weight.shape[1], _block(weight)
    grid = (len(out), -(-d // block))
    _programs().combine[grid](values.contiguous(), pointers, latents, weight.contiguous(), out, d, BLOCK=block)
    return out if base is None else out.add_(base)


def gather(
    weights: Float[Tensor, "entry"],
    transposed: tuple[Int[Tensor, "d_sae_1"], Int[Tensor, "entry"], Int[Tensor, "entry"]],
    rows: Float[Tensor, "row d"],
    centre: Float[Tensor, "d"] | None = None,
) -> Float[Tensor, "d_sae d"]:
    """For each latent, the weighted sum of the rows it is active on: Σ weights[e] (rows[row of e] - centre) over its entries."""
    pointers, columns, order = transposed
    sorted_weights = weights[order]
    out = combine(sorted_weights, pointers, columns, rows)
    if centre is None:
        return out
    totals = torch.segment_reduce(sorted_weights, "sum", offsets=pointers)
    return out.addr_(totals, centre, alpha=-1)


def dots(
    rows: Float[Tensor, "row d"], weight: Float[Tensor, "d_sae d"], pointers: Int[Tensor, "row_1"], latents: Int[Tensor, "entry"]
) -> Float[Tensor, "entry"]:
    """rows[row of e] · weight[latents[e]] for every entry: the dense product, sampled where a latent is active."""
    out = rows.new_empty(len(latents))
    grid = (len(rows),)
    _programs().dots[grid](rows.contiguous(), weight.contiguous(), pointers, latents, out, rows.shape[1], BLOCK=_block(rows))
    return out


def _block(matrix: Tensor) -> int:
    return min(WIDTH, 1 << (matrix.shape[1] - 1).bit_length())


@cache
def _programs() -> Any:
    """The Triton programs: Triton is imported only where it is used, and compiles them at their first launch."""
    from interp.sae import triton_programs

    return triton_programs
