"""What training lowers: from an autoencoder and a batch to a loss.

An objective sees inputs and targets that are already scaled (`s_in∘x`, `s_out∘y`; for an autoencoder they are one tensor). It
returns the loss with its graph and what the trainer keeps count of.

Must not know: optimizers, schedules, models.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn import functional as F

from interp.errors import TrainingError
from interp.sae import kernels
from interp.sae.activation_functions import TopK
from interp.sae.autoencoder import SparseAutoencoder

AUX_WEIGHT = 1 / 32
"""Weight of AuxK in the loss (Gao et al. 2024, appendix A.2)."""

LEAK = 0.1
"""Slope of AuxK's activation below zero."""


@dataclass(frozen=True)
class Moment:
    """Where training stands when a batch comes, as far as a loss may know."""

    fraction: float  # of the steps, done: 0 at the first
    dead: Bool[Tensor, "d_sae"]  # latents that have been silent for too long
    sparsity: float  # weight of the sparsity term now: the trainer warms it up, and may control it


@dataclass(frozen=True)
class Outcome:
    """One batch under an objective."""

    loss: Float[Tensor, ""]
    error: Float[Tensor, "row d_out"]  # y - ŷ, detached
    fired: Int[Tensor, "d_sae"]  # rows on which each latent's code is not zero


class Objective(Protocol):
    """A loss, as a value: what an architecture is, beside its activation function."""

    @property
    def unit_decoder(self) -> bool:
        """Whether decoder rows are held at unit length while training."""
        ...

    def __call__(
        self, sae: SparseAutoencoder, inputs: Float[Tensor, "row d_in"], targets: Float[Tensor, "row d_out"], moment: Moment
    ) -> Outcome: ...


@dataclass(frozen=True)
class Reconstruction:
    """Mean over rows of ‖y - ŷ‖², plus AuxK when latents are dead; sparse forward and backward (`kernels`)."""

    unit_decoder: bool = True

    def __call__(self, sae: SparseAutoencoder, inputs: Tensor, targets: Tensor, moment: Moment) -> Outcome:
        k = _k(sae)
        values, support = kernels.encode(inputs, sae.W_enc, sae.b_enc, sae.b_dec, k)
        error = targets - kernels.decode(values, support, sae.W_dec) - sae.b_dec
        loss = error.square().sum(-1).mean()
        error = error.detach()
        fired = support.indices[support.values > 0].bincount(minlength=sae.d_sae)
        return Outcome(loss + _auxiliary(sae, inputs, error, moment.dead), error, fired)


@dataclass(frozen=True)
class DenseReconstruction:
    """The same objective through dense matrices and autograd alone: the slow, obvious reference for `Reconstruction`."""

    unit_decoder: bool = True

    def __call__(self, sae: SparseAutoencoder, inputs: Tensor, targets: Tensor, moment: Moment) -> Outcome:
        codes = sae.activation((inputs - sae.b_dec) @ sae.W_enc + sae.b_enc)
        error = targets - codes @ sae.W_dec - sae.b_dec
        loss = error.square().sum(-1).mean()
        error = error.detach()
        return Outcome(loss + _auxiliary(sae, inputs, error, moment.dead), error, (codes != 0).sum(0))


def auxk(
    sae: SparseAutoencoder, rows: Float[Tensor, "row d"], error: Float[Tensor, "row d"], dead: Bool[Tensor, "d_sae"]
) -> Float[Tensor, ""]:
    """How badly the dead latents, at most d/2 of them per row, reconstruct what the live ones left over: ‖e - ê‖² / ‖e‖².

    ê has no bias of its own, and b_dec is held fixed: the main loss alone teaches it. The relu leaks: a latent dies because its
    pre-activations are negative, and a tight relu would pass the encoder no gradient then. Without any relu latents learn
    signed codes that they cannot use once alive. Planted features found after 0.6M tokens (n = 512, d = 64, k = 3), and
    share of 16 buried latents of 32 (bias -0.5) still dead: tight .87 and .50, no relu .79 and .16, leaking 0.1 .88 and .09.
    """
    latents = dead.nonzero()[:, 0]
    pre = (rows - sae.b_dec.detach()) @ sae.W_enc[:, latents] + sae.b_enc[latents]
    values, chosen = F.leaky_relu(pre, LEAK).topk(min(len(latents), max(1, sae.d_in // 2)), dim=-1, sorted=False)
    guess = torch.zeros_like(pre).scatter(-1, chosen, values) @ sae.W_dec[latents]
    return (error - guess).square().sum() / error.square().sum().clamp_min(1e-12)


def _auxiliary(sae: SparseAutoencoder, rows: Tensor, error: Tensor, dead: Tensor) -> Tensor | float:
    return AUX_WEIGHT * auxk(sae, rows, error, dead) if bool(dead.any()) else 0.0


def _k(sae: SparseAutoencoder) -> int:
    if not isinstance(sae.activation, TopK):
        raise TrainingError(f"the TopK objective cannot train {sae.activation}; build the autoencoder with activation=TopK(k)")
    return sae.activation.k
