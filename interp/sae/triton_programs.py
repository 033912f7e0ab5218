"""Triton's programs for `triton_kernels`: importing this needs Triton."""

import triton  # pyright: ignore[reportMissingImports]
import triton.language as tl  # pyright: ignore[reportMissingImports]


@triton.jit
def combine(values, pointers, latents, weight, out, d, BLOCK: tl.constexpr):
    """out[row] = Σ values[e] weight[latents[e]] over the entries of the row; one program per row and block of d."""
    row = tl.program_id(0).to(tl.int64)
    column = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    inside = column < d
    total = tl.zeros((BLOCK,), dtype=tl.float32)
    for entry in range(tl.load(pointers + row), tl.load(pointers + row + 1)):
        latent = tl.load(latents + entry)
        line = tl.load(weight + latent * d + column, mask=inside, other=0.0).to(tl.float32)
        total += tl.load(values + entry).to(tl.float32) * line
    tl.store(out + row * d + column, total, mask=inside)


@triton.jit
def dots(rows, weight, pointers, latents, out, d, BLOCK: tl.constexpr):
    """out[e] = rows[row of e] · weight[latents[e]]; one program per row."""
    row = tl.program_id(0).to(tl.int64)
    column = tl.arange(0, BLOCK)
    for entry in range(tl.load(pointers + row), tl.load(pointers + row + 1)):
        latent = tl.load(latents + entry)
        total = tl.zeros((BLOCK,), dtype=tl.float32)
        for start in range(0, d, BLOCK):
            inside = start + column < d
            left = tl.load(rows + row * d + start + column, mask=inside, other=0.0).to(tl.float32)
            right = tl.load(weight + latent * d + start + column, mask=inside, other=0.0).to(tl.float32)
            total += left * right
        tl.store(out + entry, tl.sum(total, axis=0))
