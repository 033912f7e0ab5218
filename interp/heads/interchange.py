"""Interchange interventions: is this the place where the model keeps a variable of a high-level program?

A base input runs with part of one activation taken from a source input, h' = h_base + (h_source − h_base) B Bᵀ with orthonormal
columns B, or all of it. If the model then answers as the program does with that one variable taken from the source, the part
carries the variable; the share of such answers is the interchange-intervention accuracy (IIA, Geiger et al. 2021,
arXiv:2106.02997).

The intervention is that of `transformer_lens.tools.analysis.interchange`, made as an `Edit`, so that one that cannot act is an
error. A high accuracy proves little by itself: hold it against a random subspace of the same size (`random_basis`).

Must not know: how a program is written, figures, reports.
"""

from __future__ import annotations

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from interp.errors import ConfigError
from interp.heads.ablation import Place, corrupted, replaced
from interp.heads.asked import require_fits
from interp.measurement import Measurement
from interp.models.hooked import Model
from interp.tasks.contrast import Contrast


def interchanged(
    model: Model, contrast: Contrast, place: Place, *, basis: Float[Tensor, "d rank"] | None = None
) -> Float[Tensor, "example pos d_vocab"]:
    """Logits of the clean (base) inputs with the place, or its part along `basis`, as on the corrupted (source) ones.

    Raises ConfigError for a basis that does not fit or is not orthonormal, ModelError for a place that does not exist and a
    contrast that does not fit the model, HookError for a hook that cannot be edited.
    """
    require_fits(model, contrast)
    beside: dict[str, Any] = dict(contrast.beside)
    values = dict(corrupted(model, contrast, [place.hook]))
    if basis is not None:
        source = values[place.hook]
        _require_orthonormal(basis, source.shape[-1], place.hook)
        base = model.run(contrast.clean, read=[place.hook], **beside).activations[place.hook]
        values[place.hook] = base + (source - base) @ basis.to(base) @ basis.to(base).T
    return model.run(contrast.clean, edits=replaced(model, [place], values), **beside).logits


def accuracy(model: Model, contrast: Contrast, place: Place, *, basis: Float[Tensor, "d rank"] | None = None) -> Measurement:
    """1 where the likeliest token after the interchange is the answer, 0 elsewhere: Measurement(example).

    `contrast.answers` are what the program says about the base with the variable taken from the source. Raises as
    `interchanged`.
    """
    logits = contrast.at_positions(interchanged(model, contrast, place, basis=basis))
    right = logits.argmax(-1) == contrast.answers.to(logits.device)
    return Measurement("interchange accuracy", right.double().cpu().numpy(), ("example",))


def random_basis(d: int, rank: int, generator: torch.Generator) -> Float[Tensor, "d rank"]:
    """Orthonormal columns in random directions: the control for a basis of the same rank."""
    return torch.linalg.qr(torch.randn(d, rank, generator=generator)).Q


def _require_orthonormal(basis: Float[Tensor, "d rank"], width: int, hook: str) -> None:
    if len(basis) != width:
        raise ConfigError(f"a basis of {len(basis)} rows does not fit {hook}, which is {width} wide")
    if not torch.allclose(basis.T @ basis, torch.eye(basis.shape[1]).to(basis), atol=1e-4):
        raise ConfigError("the columns of the basis are not orthonormal; those of torch.linalg.qr(basis).Q are")
