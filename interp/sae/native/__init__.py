"""The sparse algebra in compiled C++, for float32 on a CPU: the functions of `torch_kernels` under the same names, and Adam.

Must not know: autograd, autoencoders.
"""

from __future__ import annotations

import ctypes
from collections.abc import Iterator

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn import functional as F

from interp.sae import rounding
from interp.sae.native import library

BUFFER = 1 << 24
"""Bytes of pre-activations computed at once: they stay in the cache."""


def available() -> bool:
    """Whether the compiled kernels are there; compiles them at the first call."""
    return library.load() is not None


def serves(tensor: Tensor) -> bool:
    """Whether they take a tensor of this kind."""
    return tensor.device.type == "cpu" and tensor.dtype == torch.float32


def topk(
    rows: Float[Tensor, "row d"], weight: Float[Tensor, "d_sae d"], bias: Float[Tensor, "d_sae"], k: int
) -> tuple[Float[Tensor, "row k"], Int[Tensor, "row k"]]:
    """The k largest of rows @ weightᵀ + bias in each row, in any order: values and latents.

    From bfloat16 products where that pays; what rounding leaves in doubt is computed again in float32, so the choice is exact.
    """
    (n, d), m = rows.shape, len(weight)
    values, latents = rows.new_empty(n, k), torch.empty(n, k, dtype=torch.long)
    rows, weight = rows.contiguous(), weight.contiguous()
    for part, pre, slack in _readings(rows, weight, bias, rounded=rounding.pays(rows, m, k)):
        into = values[part], latents[part]
        if slack is None:
            _call("topk", pre, bias, *into, len(pre), m, k)
        else:
            _call("topk_bf16", pre, bias, rows[part], weight, slack, rounding.PART, *into, len(pre), m, d, k)
    return values, latents


def above(
    rows: Float[Tensor, "row d"],
    weight: Float[Tensor, "d_sae d"],
    bias: Float[Tensor, "d_sae"],
    threshold: Float[Tensor, "#d_sae"],
) -> tuple[Int[Tensor, "row_1"], Int[Tensor, "entry"], Float[Tensor, "entry"]]:
    """All of rows @ weightᵀ + bias that exceed the threshold, or are no numbers: pointers, latents and values."""
    rows, weight, threshold = rows.contiguous(), weight.contiguous(), threshold.expand(len(weight)).contiguous()
    counts, found = torch.empty(len(rows), dtype=torch.long), []
    for part, pre, slack in _readings(rows, weight, bias, rounded=rounding.pays(rows, len(weight), 1)):
        name = "above" if slack is None else "above_bf16"
        slack = rows.new_zeros(len(pre)) if slack is None else slack
        head = pre, bias, threshold, slack, rounding.PART if name == "above_bf16" else 0.0, counts[part]
        _call(name, *head, None, None, len(pre), len(weight))
        pointers = F.pad(counts[part].cumsum(0), (1, 0))
        found.append(torch.empty(int(pointers[-1]), dtype=torch.long))
        _call(name, *head, pointers, found[-1], len(pre), len(weight))
    pointers, latents = F.pad(counts.cumsum(0), (1, 0)), torch.cat(found)
    values = dots(rows, weight, pointers, latents) + bias[latents]
    sure = ~(values <= threshold[latents])
    return F.pad(sure.cumsum(0), (1, 0))[pointers], latents[sure], values[sure]


def combine(
    values: Float[Tensor, "entry"],
    pointers: Int[Tensor, "row_1"],
    latents: Int[Tensor, "entry"],
    weight: Float[Tensor, "d_sae d"],
    base: Float[Tensor, "row d"] | None = None,
) -> Float[Tensor, "row d"]:
    """For each row, the weighted sum of its latents, added to `base`: Σ values[e] weight[latents[e]] over the row's entries."""
    return _combined(values, None, pointers, latents, weight, base=base)


def transpose(
    pointers: Int[Tensor, "row_1"], latents: Int[Tensor, "entry"], d_sae: int
) -> tuple[Int[Tensor, "d_sae_1"], Int[Tensor, "entry"], Int[Tensor, "entry"]]:
    """The same entries latent by latent, in the order of their rows: pointers, rows, and where each was before."""
    by_latent, rows, order = pointers.new_zeros(d_sae + 1), torch.empty_like(latents), torch.empty_like(latents)
    _call("transpose", pointers, latents, by_latent, rows, order, len(pointers) - 1, d_sae)
    return by_latent, rows, order


def gather(
    weights: Float[Tensor, "entry"],
    transposed: tuple[Int[Tensor, "d_sae_1"], Int[Tensor, "entry"], Int[Tensor, "entry"]],
    rows: Float[Tensor, "row d"],
    centre: Float[Tensor, "d"] | None = None,
) -> Float[Tensor, "d_sae d"]:
    """For each latent, the weighted sum of the rows it is active on: Σ weights[e] (rows[row of e] - centre) over its entries."""
    pointers, columns, order = transposed
    return _combined(weights, order, pointers, columns, rows, centre=centre)


def dots(
    rows: Float[Tensor, "row d"], weight: Float[Tensor, "d_sae d"], pointers: Int[Tensor, "row_1"], latents: Int[Tensor, "entry"]
) -> Float[Tensor, "entry"]:
    """rows[row of e] · weight[latents[e]] for every entry: the dense product, sampled where a latent is active."""
    out = rows.new_empty(len(latents))
    _call("dots", rows.contiguous(), weight.contiguous(), pointers, latents, out, *rows.shape)
    return out


def squares(
    gradient: Float[Tensor, "row d"], unit: Float[Tensor, "row d"] | None
) -> tuple[Float[Tensor, ""], Float[Tensor, "row"] | None]:
    """(Σ gradient², None); where `unit` has unit rows, of the gradient without its part along each row, and those parts."""
    along = None if unit is None else gradient.new_empty(len(gradient))
    sums = gradient.new_empty(len(gradient), dtype=torch.float64)
    _call("squares", gradient, unit, along, sums, *gradient.shape)
    return sums.sum(), along


def adam(
    weight: Float[Tensor, "row d"],
    gradient: Float[Tensor, "row d"],
    moments: tuple[Float[Tensor, "row d"], Float[Tensor, "row d"]],
    along: Float[Tensor, "row"] | None,
    *,
    clip: float,
    rate: float,
    betas: tuple[float, float],
    epsilon: float,
    step: int,
) -> None:
    """Moves weight and moments in place. With `along`, gradients lose that part along the weight and rows become unit."""
    beta1, beta2 = betas
    corrected, root2 = rate / (1 - beta1**step), (1 - beta2**step) ** 0.5
    _call("adam", weight, gradient, *moments, along, clip, corrected, beta1, beta2, root2, epsilon, *weight.shape)


def _combined(
    values: Tensor,
    order: Tensor | None,
    pointers: Tensor,
    columns: Tensor,
    dense: Tensor,
    *,
    centre: Tensor | None = None,
    base: Tensor | None = None,
) -> Tensor:
    out = dense.new_empty(len(pointers) - 1, dense.shape[1])
    base = None if base is None else base.contiguous()
    _call("combine", values.contiguous(), order, pointers, columns, dense.contiguous(), centre, base, out, *out.shape)
    return out


def _readings(rows: Tensor, weight: Tensor, bias: Tensor, *, rounded: bool) -> Iterator[tuple[slice, Tensor, Tensor | None]]:
    """(which rows, their products with weight, by how much these may be off) of one chunk after another, in one buffer.

    Exact products, with None, unless `rounded`.
    """
    slack = None
    if rounded:
        left, right = _rounded(rows), _rounded(weight)
        slack = rounding.doubt(left, right) + rounding.PART * bias.abs().max()
        rows, weight = left.narrow, right.narrow
    chunk = max(1, min(len(rows), max(64, BUFFER // (len(weight) * rows.itemsize))))
    buffer = rows.new_empty(chunk, len(weight))
    for start in range(0, len(rows), chunk):
        part = slice(start, start + chunk)
        pre = torch.mm(rows[part], weight.T, out=buffer[: len(rows[part])])
        yield part, pre, None if slack is None else slack[part]


def _rounded(matrix: Tensor) -> rounding.Rounded:
    """`rounding.rounded`, in one pass over memory."""
    narrow = torch.empty_like(matrix, dtype=torch.bfloat16)
    length, lost = matrix.new_empty(len(matrix)), matrix.new_empty(len(matrix))
    _call("rounded", matrix, narrow, length, lost, *matrix.shape)
    return rounding.Rounded(narrow, length, lost)


def _call(name: str, *arguments: Tensor | int | float | None) -> None:
    loaded = library.load()
    if loaded is None:
        raise AssertionError("there are no compiled kernels here")
    getattr(loaded, name)(*map(_argument, arguments), ctypes.c_int(torch.get_num_threads()))


def _argument(value: Tensor | int | float | None) -> ctypes.c_void_p | ctypes.c_int64 | ctypes.c_float:
    if isinstance(value, Tensor):
        if not value.is_contiguous():
            raise AssertionError("compiled kernels take contiguous tensors")
        return ctypes.c_void_p(value.data_ptr())
    if value is None:
        return ctypes.c_void_p(None)
    return ctypes.c_int64(value) if isinstance(value, int) else ctypes.c_float(value)
