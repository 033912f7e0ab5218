"""How logits read the last residual stream: through the final norm, a scale in some models, and the unembedding.

    logits = c n(x) W_U + b_U,        linear in x / σ(x) but for constants:  F = c P diag(g) W_U   (`models.norms`)

Of an encoder–decoder it is the decoder's stream that is read, and T5 scales what the norm gives (c = d_model^-½ where embeddings
are tied). Its encoder writes no logits: they know of it by the decoder's cross-attention alone.

Must not know: memories, text.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from interp.errors import ModelError
from interp.models.hooked import Model
from interp.models.norms import folded, gain, takes_mean_out


@dataclass(frozen=True)
class Readout:
    """norm: the final one, None for models without. scale: c. matrix: F."""

    norm: str | None
    scale: float
    matrix: Float[Tensor, "d_model d_vocab"]


def readout(model: Model, *, stack: str | None = None) -> Readout:
    """How the logits read the residual stream of a stack.

    Raises ModelError for an encoder's, and for logits that are more than final norm and unembedding, as in BERT and where norms
    come after each part.
    """
    if stack == "encoder":
        raise ModelError(f'the encoder of {model.name} writes no logits; read what the decoder writes: stack="decoder"')
    if stack == "decoder":
        return _of_decoder(model)
    model.unembed(torch.zeros(1, model.d_model, dtype=model.W_U.dtype, device=model.device))  # raises where it is more
    return _folded(model, None if model.bridge.cfg.normalization_type is None else "ln_final", 1.0)


def logits_of(model: Model, read: Readout, residual: Float[Tensor, "*rows d_model"]) -> Float[Tensor, "*rows d_vocab"]:
    """The logits of a last residual stream, before a soft cap."""
    normed = residual if read.norm is None else model.apply(read.norm, residual)
    return read.scale * normed @ model.W_U + model.b_U


def scale_of(model: Model, read: Readout, residual: Float[Tensor, "*rows d_model"]) -> Float[Tensor, " *rows"]:
    """σ(x), by which the final norm divides; 1 for models without norms. Asked of the norm, since T5's hook_scale is another."""
    if read.norm is None:
        return torch.ones(residual.shape[:-1], device=residual.device)
    normed = model.apply(read.norm, residual) - model.apply(read.norm, torch.zeros_like(residual[..., :1, :]))
    linear = residual - residual.mean(-1, keepdim=True) if takes_mean_out(model) else residual
    linear = linear * gain(model, read.norm).to(linear)
    return linear.square().sum(-1) / (linear * normed).sum(-1)


def _of_decoder(model: Model) -> Readout:
    norm, last = "decoder_ln_final", f"decoder_blocks.{len(model.bridge.decoder_blocks) - 1}.hook_resid_post"
    if f"{norm}.hook_out" in model.hooks:
        tokens, beside = model.probe_inputs()
        run = model.run(tokens, read=[last, f"{norm}.hook_out", "unembed.hook_in"], logits=True, **beside)
        normed, given = (run.activations[hook].double() for hook in (f"{norm}.hook_out", "unembed.hook_in"))
        found = _folded(model, norm, float((normed * given).sum() / normed.square().sum()))
        slack = 1e-3 * float(run.logits.abs().max())
        if torch.allclose(logits_of(model, found, run.activations[last]), run.logits, rtol=1e-3, atol=slack):
            return found
    raise ModelError(f"the logits of {model.name} are not just its final norm and unembedding; use run(…, logits=True)")


def _folded(model: Model, norm: str | None, scale: float) -> Readout:
    matrix = scale * model.W_U.float()
    return Readout(norm, scale, matrix if norm is None else folded(model, norm, matrix))
