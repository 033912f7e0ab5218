"""The network: two matrices, two biases, input and output scales, and an activation that is passed in.

    codes  f = activation((s_in∘x - b_in) W_enc + b_enc) / u          ŷ = (u·f W_dec + b_dec) / s_out  [+ s_in∘x W_skip / s_out]

An autoencoder reconstructs what it reads: ŷ stands for x, b_in is b_dec, both scales are one. A transcoder (`d_out` given)
writes somewhere else: b_in is 0. A crosscoder is an autoencoder over several activations laid side by side, each with a scale
of its own. `s` are the scales it was trained at and u is the mean of s_out: codes come back in the units of what is written,
so the decoder keeps unit rows and folding the scales changes neither codes nor reconstructions.

Must not know: models, text, how it was trained.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional as F

from interp.errors import TrainingError
from interp.sae.activation_functions import BatchTopK, TopK
from interp.stats import torch_generator

ENCODER_START = 0.1
"""Size of the encoder against the tied decoder at the start. Small codes let the encoder turn before the decoder settles."""


class SparseAutoencoder(nn.Module):
    """Dictionary of `d_sae` latents that reads activations of size `d_in` and writes activations of size `d_out`.

    d_out: None for an autoencoder, which reconstructs what it reads; a size for a transcoder, even where it equals d_in.
    skip: gives a transcoder a linear path of its own, W_skip [d_in d_out], 0 at the start (Paulo et al. 2025, arXiv:2501.18823).
    parts: names and sizes of the activations that a crosscoder writes side by side; they add up to its d_out.
    refinement: step η of a second look at the input, after first codes (`refined`); 0 for none. The activation of the first
    codes, `draft`, has a threshold of its own.

    Parameters: W_enc [d_in d_sae] (stored latent by latent), W_dec [d_sae d_out] with unit rows, b_enc [d_sae], b_dec [d_out];
    buffers `scale` and `scale_out`, what inputs and targets are multiplied by: one number, or one per dimension (1 until
    training measures them). The encoder starts as the transpose of a random unit-norm decoder, drawn from `seed`, times
    `ENCODER_START`; a transcoder's two matrices are drawn apart.
    """

    scale: Tensor
    scale_out: Tensor

    def __init__(
        self,
        d_in: int,
        d_sae: int,
        *,
        activation: nn.Module,
        d_out: int | None = None,
        skip: bool = False,
        parts: Mapping[str, int] | None = None,
        refinement: float = 0.0,
        seed: int = 0,
    ) -> None:
        super().__init__()
        self.d_in, self.d_sae, self.d_out = d_in, d_sae, d_in if d_out is None else d_out
        self.transcodes, self.activation = d_out is not None, activation
        self.parts = {"all": self.d_out} if parts is None else dict(parts)
        self.refinement = refinement
        self.draft = copy.deepcopy(activation) if refinement else None
        self._check(skip)
        generator = torch_generator(seed, "sae weights")
        directions = F.normalize(torch.randn(d_sae, self.d_out, generator=generator), dim=1)
        read = F.normalize(torch.randn(d_sae, d_in, generator=generator), dim=1) if self.transcodes else directions
        self.W_dec = nn.Parameter(directions)
        self.W_enc = nn.Parameter(ENCODER_START * read.T)
        self.b_enc = nn.Parameter(torch.zeros(d_sae))
        self.b_dec = nn.Parameter(torch.zeros(self.d_out))
        self.W_skip = nn.Parameter(torch.zeros(d_in, self.d_out)) if skip else None
        self.register_buffer("scale", torch.ones(()))
        self.register_buffer("scale_out", torch.ones(()))

    @property
    def b_in(self) -> Float[Tensor, "d_in"] | None:
        """What is taken off the scaled input before it is read: b_dec, or None for a transcoder."""
        return None if self.transcodes else self.b_dec

    def encode(self, x: Float[Tensor, "*batch d_in"]) -> Float[Tensor, "*batch d_sae"]:
        """Codes, in the units of what is written. Raises TrainingError when x has another size than `d_in`."""
        rows = self.checked(x).reshape(-1, self.d_in) * self.scale
        if self.draft is not None:
            rows = self.refined(rows, self.draft(self._pre(rows)) @ self.W_dec)
        return (self.activation(self._pre(rows)) / self.scale_out.mean()).reshape(*x.shape[:-1], self.d_sae)

    def _pre(self, rows: Tensor) -> Tensor:
        bias = self.b_enc if self.b_in is None else self.b_enc - self.b_in @ self.W_enc
        return torch.addmm(bias, rows, self.W_enc)

    def refined(self, rows: Float[Tensor, "row d_in"], written: Float[Tensor, "row d_in"]) -> Float[Tensor, "row d_in"]:
        """What the encoder reads a second time, after first codes that wrote `written` (b_dec left out): x + η (x - x̂₀).

        Its pre-activations are h + η (x - x̂₀) W_enc, one step of a learned ISTA from the first codes (Gregor & LeCun 2010).
        """
        return rows + self.refinement * (rows - written - self.b_dec)

    def decode(self, codes: Float[Tensor, "*batch d_sae"]) -> Float[Tensor, "*batch d_out"]:
        """What the codes write, without the skip."""
        return (codes @ self.W_dec) * (self.scale_out.mean() / self.scale_out) + self.b_dec / self.scale_out

    def forward(self, x: Float[Tensor, "*batch d_in"]) -> Float[Tensor, "*batch d_out"]:
        """Reconstructions: what the codes write, and what the skip does."""
        written = self.decode(self.encode(x))
        return written if self.W_skip is None else written + (x * self.scale) @ self.W_skip / self.scale_out

    @torch.no_grad()
    def pruned(
        self, x: Float[Tensor, "*batch d_in"], codes: Float[Tensor, "*batch d_sae"], *, threshold: float
    ) -> Float[Tensor, "*batch d_sae"]:
        """The codes without those that hardly matter: f_j stays where (x - x̂ + f_j w_j) · w_j > threshold, w_j its decoder row.

        For a unit row that is the best code of latent j, the others given; `threshold` is in the units of codes. Each latent is
        judged while all the others stay (leave-one-out).

        Raises TrainingError for a transcoder, and where parts have scales of their own.
        """
        if self.transcodes or self.scale_out.ndim:
            raise TrainingError("pruning compares x with its reconstruction in one unit; use a plain autoencoder")
        missed = (self.checked(x) - self.decode(codes)) @ self.W_dec.T
        return codes * (missed + codes * self.W_dec.square().sum(1) > threshold)

    def checked(self, x: Tensor) -> Tensor:
        """x itself, if its last axis has the right size and it lies in a floating-point type."""
        if x.shape[-1] != self.d_in or not x.is_floating_point():
            raise TrainingError(
                f"activations of shape {tuple(x.shape)} and type {x.dtype} do not fit an autoencoder with d_in={self.d_in}; "
                f"use activations of a hook with {self.d_in} dimensions, or build the autoencoder with d_in={x.shape[-1]}"
            )
        return x.to(self.W_dec.dtype)

    def part_norms(self) -> Float[Tensor, "d_sae part"]:
        """The length of each decoder row within each part."""
        return torch.stack([rows.norm(dim=1) for rows in self.W_dec.split(list(self.parts.values()), dim=1)], dim=1)

    def latent_axes(self) -> dict[str, int]:
        """The axis that runs over latents, of every parameter and buffer that has one, by its name in `state_dict`."""
        inside = {
            f"activation.{name}": 0 for name, tensor in self.activation.state_dict().items() if tensor.shape == (self.d_sae,)
        }
        return {"W_enc": 1, "W_dec": 0, "b_enc": 0} | inside

    @torch.no_grad()
    def permute(self, order: Int[Tensor, "latent"]) -> None:
        """Renumbers the latents in place: latent i becomes what latent order[i] was. Reconstructions stay the same."""
        state = self.state_dict()
        for name, axis in self.latent_axes().items():
            state[name].copy_(state[name].index_select(axis, order))

    @torch.no_grad()
    def absorb_decoder_norms(self) -> None:
        """Makes decoder rows unit, in place, and lets the codes carry their lengths. Reconstructions stay the same.

        Raises TrainingError for an activation that compares latents with each other (TopK), and for a refined encoder.
        """
        norm = self.W_dec.norm(dim=1).clamp_min(1e-12)
        if self.refinement:
            raise TrainingError("a refined encoder's second look depends on decoder lengths; train it with unit rows")
        self.activation = self.activation.rescaled(norm)  # pyright: ignore[reportCallIssue]
        self.W_dec /= norm[:, None]
        self.W_enc *= norm
        self.b_enc *= norm

    @torch.no_grad()
    def normalize_decoder(self) -> None:
        """Gives every decoder row length 1."""
        self.W_dec /= self.W_dec.norm(dim=1, keepdim=True).clamp_min(1e-12)

    def untrained(self, seed: int) -> SparseAutoencoder:
        """As many random directions, read with the same activation, scales and mean: a control."""
        random = SparseAutoencoder(
            self.d_in,
            self.d_sae,
            activation=copy.deepcopy(self.activation),
            d_out=self.d_out if self.transcodes else None,
            skip=self.W_skip is not None,
            parts=self.parts,
            refinement=self.refinement,
            seed=seed,
        )
        random.draft = copy.deepcopy(self.draft)
        with torch.no_grad():
            random.b_dec.copy_(self.b_dec)
            random.scale, random.scale_out = self.scale.clone(), self.scale_out.clone()
        return random

    @torch.no_grad()
    def folded(self) -> SparseAutoencoder:
        """A copy with scales of 1 and the same codes and reconstructions.

        Decoder rows keep unit length where s_out is one number; where it is one per dimension they do not.
        """
        same, read, write, unit = copy.deepcopy(self), self.scale, self.scale_out, self.scale_out.mean()
        same.W_enc *= (read / unit)[..., None] if read.ndim else read / unit
        same.W_dec *= unit / write
        same.b_enc /= unit
        same.b_dec /= write
        if same.W_skip is not None:
            same.W_skip *= (read[..., None] if read.ndim else read) / write
        same.activation = self.activation.rescaled(1 / float(unit))  # pyright: ignore[reportCallIssue]
        if self.draft is not None:
            same.draft = self.draft.rescaled(1 / float(unit))  # pyright: ignore[reportCallIssue]
        same.scale, same.scale_out = torch.ones_like(unit), torch.ones_like(unit)
        return same

    def _check(self, skip: bool) -> None:
        if skip and not self.transcodes:
            raise TrainingError("skip=True would let an autoencoder copy its input; pass d_out= to build a transcoder")
        if isinstance(self.activation, TopK | BatchTopK):
            if self.activation.k > self.d_sae:
                raise TrainingError(
                    f"k={self.activation.k} is more than d_sae={self.d_sae} latents; use k of at most {self.d_sae}, "
                    "or a wider autoencoder"
                )
        elif self.refinement:
            raise TrainingError(f"refinement={self.refinement} needs TopK or BatchTopK, not {self.activation}; use refinement=0")
        if self.refinement and self.transcodes:
            raise TrainingError(
                "refinement compares the reconstruction with the input, which a transcoder does not; use refinement=0"
            )
        if sum(self.parts.values()) != self.d_out:
            sizes = " + ".join(f"{name}={size}" for name, size in self.parts.items())
            raise TrainingError(f"the parts {sizes} do not add up to d_out={self.d_out}; give each part its number of dimensions")
