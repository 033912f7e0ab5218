"""How far products of bfloat16 roundings can be from exact ones: what makes a selection by them provable.

Must not know: what is selected.
"""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

UNIT = 2.0**-9
"""bfloat16 has 8 significant bits: rounding moves a number by at most this share of it."""

PART = 1.01 * UNIT
"""Share of a product by which rounding of the product itself may move it."""

CROSSOVER = 64
"""Latents per active latent from which on choosing by bfloat16 products is faster."""

MANY = 2048
"""Latents from which on it is."""


class Rounded(NamedTuple):
    """The bfloat16 roundings of a matrix; of each row its length, and the length of what rounding took from it."""

    narrow: Tensor  # [row d]
    length: Float[Tensor, "row"]
    lost: Float[Tensor, "row"]


def rounded(matrix: Float[Tensor, "row d"]) -> Rounded:
    """The matrix in bfloat16."""
    narrow = matrix.bfloat16()
    lost = narrow.float().sub_(matrix)
    return Rounded(narrow, torch.linalg.vector_norm(matrix, dim=1), torch.linalg.vector_norm(lost, dim=1))


def doubt(rows: Rounded, weight: Rounded) -> Float[Tensor, "row"]:
    """For each row x, how far its product with any row w of `weight` can be from that of their bfloat16 roundings x̂ and ŵ.

    |x·w - x̂·ŵ| ≤ ‖x‖ ‖w - ŵ‖ + ‖x - x̂‖ ‖ŵ‖, and summing twice in float32 adds at most d 2⁻²³ ‖x‖ ‖w‖.
    """
    length, lost = weight.length.max(), weight.lost.max()
    return 1.01 * (rows.length * lost + rows.lost * length + rows.narrow.shape[1] * 2.0**-23 * rows.length * length)


def lowered(bound: Float[Tensor, "row"], slack: Float[Tensor, "row"]) -> Float[Tensor, "row"]:
    """What a rounded reading must reach, if k readings reach `bound`, for the exact value to be among the k largest.

    Readings are off by `slack`, and by `PART` of themselves: once for those k, once for this one. Without slack they are exact.
    """
    least = bound - PART * bound.abs() - 2 * slack
    return torch.where(slack > 0, least - 1.02 * PART * least.abs(), bound)


def pays(rows: Float[Tensor, "row d"], d_sae: int, k: int) -> bool:
    """Whether to choose k of d_sae latents by bfloat16 products of such rows."""
    return rows.dtype == torch.float32 and d_sae >= max(MANY, CROSSOVER * k) and (rows.is_cuda or _has_instructions())


@cache
def _has_instructions() -> bool:
    try:
        return any(name in Path("/proc/cpuinfo").read_text() for name in ("avx512_bf16", "amx_bf16"))
    except OSError:
        return False
