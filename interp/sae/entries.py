"""Where codes can be: the pre-activations that an objective works on, either all of them or those of a support.

An objective is written once, element by element, over `pre`, and asks its entries for whatever crosses latents or rows.

Must not know: losses, training, models.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeAlias

import torch
from jaxtyping import Float, Int
from torch import Tensor

from interp.sae import kernels
from interp.sae.autoencoder import SparseAutoencoder

CROSSOVER = 0.1
"""Density above which dense products are faster than sparse ones, where rows are long; `above` lowers it for short ones.

Measured on one core, forward and backward of a ReLU objective: .1 at d = 512, d_sae = 8192; .02 at d = 64, d_sae = 512.
"""

PROBE = 64
"""Rows from which the density is estimated."""


@dataclass(frozen=True)
class Dense:
    """Every latent of every row is a candidate."""

    pre: Float[Tensor, "row d_sae"]

    latents = None
    """The latent of each entry: None, because the last axis runs over all of them."""

    def spread(self, values: Float[Tensor, "d_sae"]) -> Float[Tensor, "row d_sae"]:
        """A value per latent, at every entry of that latent."""
        return values.expand_as(self.pre)

    def decode(self, codes: Float[Tensor, "row d_sae"], weight: Float[Tensor, "d_sae d"]) -> Float[Tensor, "row d"]:
        """What the codes write."""
        return codes @ weight

    def missed(
        self, wanted: Float[Tensor, "row d"], codes: Float[Tensor, "row d_sae"], weight: Float[Tensor, "d_sae d"]
    ) -> Float[Tensor, "row d"]:
        """What is wanted, less what the codes write."""
        return wanted - codes @ weight

    def fired(self, codes: Float[Tensor, "row d_sae"]) -> Int[Tensor, "d_sae"]:
        """On how many rows each latent's code is not zero."""
        return (codes != 0).sum(0)


@dataclass(frozen=True)
class Sparse:
    """The entries of a support are candidates, and every other code is zero."""

    pre: Float[Tensor, "entry"]
    support: kernels.Support

    @property
    def latents(self) -> Int[Tensor, "entry"]:
        """The latent of each entry."""
        return self.support.latents

    def spread(self, values: Float[Tensor, "d_sae"]) -> Float[Tensor, "entry"]:
        """A value per latent, at every entry of that latent."""
        return values.index_select(0, self.latents)

    def decode(self, codes: Float[Tensor, "entry"], weight: Float[Tensor, "d_sae d"]) -> Float[Tensor, "row d"]:
        """What the codes write."""
        return kernels.decode(codes, self.support, weight)

    def missed(
        self, wanted: Float[Tensor, "row d"], codes: Float[Tensor, "entry"], weight: Float[Tensor, "d_sae d"]
    ) -> Float[Tensor, "row d"]:
        """What is wanted, less what the codes write: in one pass over memory."""
        return kernels.decode(-codes, self.support, weight, base=wanted)

    def fired(self, codes: Float[Tensor, "entry"]) -> Int[Tensor, "d_sae"]:
        """On how many rows each latent's code is not zero."""
        return self.latents[codes != 0].bincount(minlength=self.support.d_sae)

    def ring(self, codes: Float[Tensor, "entry"], first: int, last: int) -> tuple[Tensor, kernels.Support]:
        """The codes of the latents from `first` up to `last`, and their support."""
        inside = (self.latents >= first) & (self.latents < last)
        return codes[inside], self.support.keep(inside)


Entries: TypeAlias = Dense | Sparse


def largest(sae: SparseAutoencoder, rows: Float[Tensor, "row d_in"], k: int) -> Sparse:
    """The k largest of each row."""
    support = kernels.select_topk(rows.detach(), sae.W_enc.detach(), bias(sae).detach(), k)
    return at(sae, rows, support)


def largest_of_batch(sae: SparseAutoencoder, rows: Float[Tensor, "row d_in"], k: float) -> Sparse:
    """The k · rows largest of the batch, positive ones only."""
    support = kernels.select_batch_topk(rows.detach(), sae.W_enc.detach(), bias(sae).detach(), k)
    return at(sae, rows, support)


def above(sae: SparseAutoencoder, rows: Float[Tensor, "row d_in"], floor: Float[Tensor, "#d_sae"]) -> Entries:
    """All entries above the floor, or simply all where there are too many of those for sparse products to pay."""
    fixed = rows.detach(), sae.W_enc.detach(), bias(sae).detach()
    if float((_sample(*fixed) > floor).double().mean()) > CROSSOVER * min(1.0, sae.d_in / 512):
        return Dense(torch.addmm(bias(sae), rows, sae.W_enc))
    return at(sae, rows, kernels.select_above(*fixed, floor))


def _sample(rows: Tensor, weight: Tensor, offset: Tensor) -> Tensor:
    """Pre-activations of a few rows from all over the batch."""
    return torch.addmm(offset, rows[:: max(1, len(rows) // PROBE)][:PROBE], weight)


def at(sae: SparseAutoencoder, rows: Float[Tensor, "row d_in"], support: kernels.Support) -> Sparse:
    """The entries of a support."""
    return Sparse(kernels.preactivations(rows, sae.W_enc, sae.b_enc, sae.b_in, support), support)


def bias(sae: SparseAutoencoder) -> Float[Tensor, "d_sae"]:
    """What is added to scaled rows @ W_enc."""
    return sae.b_enc if sae.b_in is None else sae.b_enc - sae.b_in @ sae.W_enc
