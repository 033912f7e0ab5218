"""The sparse autoencoder itself: two matrices, two biases, an input scale, and an activation that is passed in.

    codes  f = activation((s·x - b_dec) W_enc + b_enc) / s          x̂ = f W_dec + b_dec / s

`s` is the scale the inputs were trained at. Because codes are given back in the units of x, the decoder keeps unit rows
and folding s into the biases changes neither codes nor reconstructions.

Must not know: models, text, how it was trained.
"""

from __future__ import annotations

import copy
from typing import Protocol

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from interp.errors import TrainingError
from interp.stats import torch_seed

ENCODER_START = 0.1
"""Size of the encoder against the tied decoder at the start. Small codes let the encoder turn before the decoder settles."""


class Activation(Protocol):
    """What turns pre-activations into codes. A module, so that it may hold parameters (a threshold, say)."""

    def __call__(self, pre: Float[Tensor, "row d_sae"]) -> Float[Tensor, "row d_sae"]: ...

    def rescaled(self, factor: float) -> nn.Module:
        """The activation a′ with a′(factor · pre) = factor · a(pre)."""
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

    def rescaled(self, factor: float) -> TopK:
        return self  # choosing and relu commute with a positive factor

    def extra_repr(self) -> str:
        return f"k={self.k}"


class SparseAutoencoder(nn.Module):
    """Dictionary of `d_sae` latents for activations of size `d_in`.

    Parameters: W_enc [d_in d_sae] (stored latent by latent), W_dec [d_sae d_in] with unit rows, b_enc [d_sae], b_dec [d_in];
    buffer `scale`, the factor inputs are multiplied by (1 until training measures it).
    The encoder starts as the transpose of a random unit-norm decoder, drawn from `seed`, times `ENCODER_START`.
    """

    scale: Tensor

    def __init__(self, d_in: int, d_sae: int, *, activation: nn.Module, seed: int = 0) -> None:
        super().__init__()
        if isinstance(activation, TopK) and activation.k > d_sae:
            raise TrainingError(
                f"k={activation.k} is more than d_sae={d_sae} latents; use k of at most {d_sae}, or a wider autoencoder"
            )
        self.d_in, self.d_sae, self.activation = d_in, d_sae, activation
        generator = torch.Generator().manual_seed(torch_seed(seed, "sae weights"))
        directions = F.normalize(torch.randn(d_sae, d_in, generator=generator), dim=1)
        self.W_dec = nn.Parameter(directions)
        self.W_enc = nn.Parameter(ENCODER_START * directions.T)
        self.b_enc = nn.Parameter(torch.zeros(d_sae))
        self.b_dec = nn.Parameter(torch.zeros(d_in))
        self.register_buffer("scale", torch.ones(()))

    def encode(self, x: Float[Tensor, "*batch d_in"]) -> Float[Tensor, "*batch d_sae"]:
        """Codes, in the units of x. Raises TrainingError when x has another size than `d_in`."""
        rows = self.checked(x).reshape(-1, self.d_in)
        pre = torch.addmm(self.b_enc - self.b_dec @ self.W_enc, rows * self.scale, self.W_enc)
        return (self.activation(pre) / self.scale).reshape(*x.shape[:-1], self.d_sae)

    def decode(self, codes: Float[Tensor, "*batch d_sae"]) -> Float[Tensor, "*batch d_in"]:
        """Reconstructions from codes."""
        return codes @ self.W_dec + self.b_dec / self.scale

    def forward(self, x: Float[Tensor, "*batch d_in"]) -> Float[Tensor, "*batch d_in"]:
        return self.decode(self.encode(x))

    def checked(self, x: Tensor) -> Tensor:
        """x itself, if its last axis has the right size and it lies in a floating-point type."""
        if x.shape[-1] != self.d_in or not x.is_floating_point():
            raise TrainingError(
                f"activations of shape {tuple(x.shape)} and type {x.dtype} do not fit an autoencoder with d_in={self.d_in}; "
                f"use activations of a hook with {self.d_in} dimensions, or build the autoencoder with d_in={x.shape[-1]}"
            )
        return x.to(self.W_dec.dtype)

    @torch.no_grad()
    def normalize_decoder(self) -> None:
        """Gives every decoder row length 1."""
        self.W_dec /= self.W_dec.norm(dim=1, keepdim=True).clamp_min(1e-12)

    def untrained(self, seed: int) -> SparseAutoencoder:
        """As many random directions, read with the same activation, input scale and mean: a control."""
        random = SparseAutoencoder(self.d_in, self.d_sae, activation=copy.deepcopy(self.activation), seed=seed)
        with torch.no_grad():
            random.b_dec.copy_(self.b_dec)
            random.scale.copy_(self.scale)
        return random

    @torch.no_grad()
    def folded(self) -> SparseAutoencoder:
        """A copy with scale 1 and the same codes and reconstructions: both biases are divided by the scale."""
        scale = float(self.scale)
        same = copy.deepcopy(self)
        same.b_enc /= scale
        same.b_dec /= scale
        same.activation = self.activation.rescaled(1 / scale)  # pyright: ignore[reportCallIssue]
        same.scale.fill_(1.0)
        return same
