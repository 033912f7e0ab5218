"""What turns pre-activations into codes: modules, so that they may hold parameters and travel with the weights.

Must not know: autoencoders, losses, training.
"""

from __future__ import annotations

from typing import Protocol

import torch
from jaxtyping import Float
from torch import Tensor, nn

from interp.errors import TrainingError


class Activation(Protocol):
    """An activation function over latents."""

    def __call__(self, pre: Float[Tensor, "row d_sae"]) -> Float[Tensor, "row d_sae"]: ...

    def rescaled(self, factor: float | Float[Tensor, "d_sae"]) -> nn.Module:
        """The activation a′ with a′(factor · pre) = factor · a(pre), for positive factors."""
        ...


class TopK(nn.Module):
    """The k largest positive pre-activations of each row; all else is zero (Gao et al. 2024, arXiv:2406.04093).

    relu comes first, so a row with fewer than k positive pre-activations has fewer than k active latents.
    """

    def __init__(self, k: int) -> None:
        super().__init__()
        if k < 1:
            raise TrainingError(f"k={k} leaves no active latent; use k of 1 or more")
        self.k = k

    def forward(self, pre: Float[Tensor, "row d_sae"]) -> Float[Tensor, "row d_sae"]:
        values, indices = pre.relu().topk(self.k, dim=-1, sorted=False)
        return torch.zeros_like(pre).scatter(-1, indices, values)

    def rescaled(self, factor: float | Float[Tensor, "d_sae"]) -> TopK:
        if isinstance(factor, Tensor) and bool((factor != factor.flatten()[0]).any()):
            raise TrainingError("TopK compares latents with each other, so they cannot be rescaled one by one")
        return self  # choosing and relu commute with one positive factor

    def extra_repr(self) -> str:
        return f"k={self.k}"
