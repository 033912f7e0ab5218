"""What turns pre-activations into codes: modules, so that they may hold parameters and travel with the weights.

A tensor of an activation is one number, or has one entry per latent along its only axis.

Must not know: autoencoders, losses, training.
"""

from __future__ import annotations

from typing import Protocol

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from interp.errors import TrainingError

ADAPTATION = 0.05
"""Weight of the newest batch in BatchTopK's running threshold."""


class Activation(Protocol):
    """An activation function over latents. One that treats each entry by itself also takes entries with their latents."""

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
        _check(k)
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


class ReLU(nn.Module):
    """The positive pre-activations."""

    def forward(self, pre: Float[Tensor, "*entry"], latents: Int[Tensor, "entry"] | None = None) -> Float[Tensor, "*entry"]:
        return pre.relu()

    def rescaled(self, factor: float | Float[Tensor, "d_sae"]) -> ReLU:
        return self


class JumpReLU(nn.Module):
    """Pre-activations strictly above their latent's threshold: f = h · 1[h > θ] (Rajamanoharan et al. 2024, arXiv:2407.14435).

    threshold: where θ starts, one per latent, not negative. Training moves log θ, so θ stays positive.
    """

    def __init__(self, threshold: Float[Tensor, "d_sae"]) -> None:
        super().__init__()
        self.log_threshold = nn.Parameter(threshold.detach().log())

    @property
    def threshold(self) -> Float[Tensor, "d_sae"]:
        return self.log_threshold.exp()

    def forward(self, pre: Float[Tensor, "*entry"], latents: Int[Tensor, "entry"] | None = None) -> Float[Tensor, "*entry"]:
        return pre * (pre > _at(self.threshold, latents))

    def rescaled(self, factor: float | Float[Tensor, "d_sae"]) -> JumpReLU:
        return JumpReLU(self.threshold * factor)


class BatchTopK(nn.Module):
    """The k · rows largest positive pre-activations of a batch (Bussmann et al. 2024, arXiv:2412.06410).

    Only training chooses among a batch (`objectives.Reconstruction`), and it keeps a running mean of the smallest value kept:
    `threshold`, a buffer. Everywhere else a row's codes are its pre-activations strictly above that threshold, so that they do
    not depend on the rows beside it.
    """

    threshold: Tensor

    def __init__(self, k: float, *, threshold: float = 0.0) -> None:
        super().__init__()
        _check(k)
        self.k = k
        self.register_buffer("threshold", torch.tensor(float(threshold)))

    def forward(self, pre: Float[Tensor, "*entry"], latents: Int[Tensor, "entry"] | None = None) -> Float[Tensor, "*entry"]:
        return pre * (pre > self.threshold)

    @torch.no_grad()
    def observe(self, smallest: Float[Tensor, ""]) -> None:
        """Takes the smallest value that a batch kept into the running mean. The first one sets it."""
        self.threshold.lerp_(smallest.to(self.threshold), 1.0 if self.threshold == 0 else ADAPTATION)

    def rescaled(self, factor: float | Float[Tensor, "d_sae"]) -> BatchTopK | JumpReLU:
        if isinstance(factor, Tensor) and factor.ndim:
            return JumpReLU(self.threshold * factor)
        return BatchTopK(self.k, threshold=float(self.threshold * factor))

    def extra_repr(self) -> str:
        return f"k={self.k}"


class Gated(nn.Module):
    """One path decides whether a latent fires, another how strongly (Rajamanoharan et al. 2024, arXiv:2404.16014).

        f = 1[h > 0] · relu(e^r · h + c)

    h holds the gate's bias: b_enc = b_gate. The paper's magnitude bias is b_mag = e^r · b_gate + c, and r is its r_mag.
    """

    def __init__(self, log_gain: Float[Tensor, "d_sae"], shift: Float[Tensor, "d_sae"]) -> None:
        super().__init__()
        self.log_gain = nn.Parameter(log_gain.detach().clone())
        self.shift = nn.Parameter(shift.detach().clone())

    def forward(self, pre: Float[Tensor, "*entry"], latents: Int[Tensor, "entry"] | None = None) -> Float[Tensor, "*entry"]:
        return (pre > 0) * (_at(self.log_gain, latents).exp() * pre + _at(self.shift, latents)).relu()

    def rescaled(self, factor: float | Float[Tensor, "d_sae"]) -> Gated:
        return Gated(self.log_gain, self.shift * factor)


def _at(values: Tensor, latents: Tensor | None) -> Tensor:
    return values if latents is None else values[latents]


def _check(k: float) -> None:
    if k < 1:
        raise TrainingError(f"k={k} leaves no active latent; use k of 1 or more")
