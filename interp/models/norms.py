"""Norms folded into the matrices that read through them: one convention for every analysis of weights.

A pre-norm block reads n(x) W, with n(x) = g ∘ (x − mean x)/σ(x) + b for layer norm (no mean taken out for RMS norm). All of
it but the positive scale 1/σ(x) and the constant b W is linear: n(x) W = x F / σ(x) + b W with F = P diag(g) W, where P
takes the mean out. F is what the functions here give.

Must not know: analyses, reports.
"""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from interp.models.hooked import Model


def folded(model: Model, norm: str, matrix: Float[Tensor, "*heads d_model n"]) -> Float[Tensor, "*heads d_model n"]:
    """The linear part F of reading x through a norm ("blocks.0.ln1", "ln_final") and then a matrix."""
    matrix = gain(model, norm).to(matrix)[:, None] * matrix
    return matrix - matrix.mean(-2, keepdim=True) if takes_mean_out(model) else matrix


def gain(model: Model, norm: str) -> Float[Tensor, "d_model"]:
    """What a norm multiplies each dimension by: g, or ones where it has none.

    Asked of the norm, since not every one multiplies by its weight (Gemma's by 1 + weight): with x of mean 0, so large that ε is
    nothing, g = (n(x) − n(−x)) σ(x) / 2x.
    """
    if model.bridge.cfg.normalization_type is None:
        return torch.ones(model.d_model, device=model.device)
    x = torch.ones(model.d_model, device=model.device, dtype=next(model.bridge.parameters()).dtype)
    x[1::2] = -1
    if model.d_model % 2:
        x[-3:] = x.new_tensor([1, 1, -2])
    with torch.no_grad():
        up, down = (model.apply(norm, sign * 1024 * x[None, None])[0, 0] for sign in (1, -1))
    return (up - down) * x.square().mean().sqrt() / (2 * x)


def takes_mean_out(model: Model) -> bool:
    """Whether the model's norms are layer norms."""
    return model.bridge.cfg.normalization_type in ("LN", "LNPre")


def read_alone(model: Model, vectors: Float[Tensor, "*rows d_model"]) -> Float[Tensor, "*rows d_model"]:
    """What a norm makes of vectors standing alone in the residual stream, before gain and bias; as they are without norms.

    Centred for layer norm, then scaled to a root mean square of 1; zero vectors stay zero.
    """
    if takes_mean_out(model):
        vectors = vectors - vectors.mean(-1, keepdim=True)
    if model.bridge.cfg.normalization_type is None:
        return vectors
    return vectors / vectors.square().mean(-1, keepdim=True).sqrt().clamp_min(torch.finfo(vectors.dtype).tiny)
