"""What autoencoders read and write while they train: rows of a stream, checked and scaled once for all that share them.

Must not know: models, losses, optimizers.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from interp.errors import TrainingError
from interp.sae.autoencoder import SparseAutoencoder
from interp.sae.batches import Hook, pair_of

CALIBRATION = 4096
"""Rows at the head of the stream from which the scales and the starting b_dec are measured."""


@dataclass(frozen=True)
class Rows:
    """One batch, scaled (for an autoencoder inputs and targets are one tensor), and what its targets add to the spread."""

    inputs: Float[Tensor, "row d_in"]
    targets: Float[Tensor, "row d_out"]
    squares: Float[Tensor, ""]  # Σ‖y‖²
    total: Float[Tensor, "d_out"]  # Σy

    def __len__(self) -> int:
        return len(self.inputs)


class Feed:
    """Rows of certain hooks for autoencoders of one shape. The scales are one number for each part (`sae.parts`): centred rows
    of a part then have a mean squared norm of 1 over the number of parts."""

    def __init__(self, sae: SparseAutoencoder, hook: Hook, target: Hook) -> None:
        self.hook, self.target = hook, target
        self._sae = sae  # for shapes, dtype and device, which all that share this feed agree on
        self._scales = (sae.scale, sae.scale_out)
        self._buffers: tuple[Tensor, Tensor] | None = None

    @staticmethod
    def key(sae: SparseAutoencoder, hook: Hook, target: Hook) -> tuple[Any, ...]:
        """Autoencoders with equal keys may share a feed."""
        shape = (sae.d_in, sae.d_out, sae.transcodes, tuple(sae.parts.items()), sae.W_dec.dtype, sae.W_dec.device)
        return (*shape, *(name if name is None or isinstance(name, str) else tuple(name) for name in (hook, target)))

    def count(self, batch: Any) -> int:
        """How many rows a batch has."""
        return len(pair_of(batch, self.hook, self.target)[0])

    @torch.no_grad()
    def measure(self, head: Iterable[Any], saes: Iterable[SparseAutoencoder]) -> None:
        """Sets the scales and the starting b_dec of `saes` from the first batches of the stream."""
        pairs = [self._checked(batch, index) for index, batch in enumerate(head)]
        inputs, targets = (torch.cat(side).double() for side in zip(*pairs, strict=True))
        parts = list(self._sae.parts.values())
        whole = [self._sae.d_in] if self._sae.transcodes else parts
        scale, scale_out = (_scale(sample, sizes) for sample, sizes in ((inputs, whole), (targets, parts)))
        for sae in saes:
            sae.scale, sae.scale_out = scale.to(sae.scale), scale_out.to(sae.scale_out)
            sae.b_dec.copy_(targets.mean(0) * scale_out)
        self.adopt(self._sae)

    def adopt(self, sae: SparseAutoencoder) -> None:
        """Takes the scales that `sae` holds."""
        self._scales = (sae.scale.clone(), sae.scale_out.clone())

    @torch.no_grad()
    def rows(self, batch: Any, index: int) -> Rows:
        """The scaled rows of a batch, valid until the next call: they lie in a buffer that is used again.

        Raises TrainingError, naming the batch, for rows of another shape or type and for values that are not finite.
        """
        inputs, targets = self._checked(batch, index)
        if self._buffers is None or len(self._buffers[0]) != len(inputs):
            self._buffers = (torch.empty_like(inputs), torch.empty_like(targets if targets is not inputs else inputs[:0]))
        scaled = torch.mul(inputs, self._scales[0], out=self._buffers[0])
        goal = scaled if targets is inputs else torch.mul(targets, self._scales[1], out=self._buffers[1])
        return Rows(scaled, goal, torch.linalg.vector_norm(goal).double().square(), goal.sum(0))

    def _checked(self, batch: Any, index: int) -> tuple[Tensor, Tensor]:
        inputs, targets = pair_of(batch, self.hook, self.target)
        sae = self._sae
        if sae.transcodes == (targets is inputs):
            raise TrainingError(
                f"batch {index} has no targets for a transcoder; pass pairs (inputs, targets), or name the target hook"
                if sae.transcodes
                else f"batch {index} has targets, but an autoencoder reconstructs what it reads; build a transcoder"
            )
        same = targets is inputs
        inputs = _fit(inputs, sae.d_in, "d_in", sae, index)
        targets = inputs if same else _fit(targets, sae.d_out, "d_out", sae, index)
        if len(inputs) != len(targets):
            raise TrainingError(
                f"batch {index} has {len(inputs)} rows of inputs and {len(targets)} of targets; pair them row by row"
            )
        return inputs, targets


def _fit(rows: Tensor, width: int, name: str, sae: SparseAutoencoder, index: int) -> Tensor:
    """`rows` on the device and in the type of `sae`, if they can be trained on."""
    if rows.shape[-1:] != (width,) or not rows.is_floating_point():
        raise TrainingError(
            f"batch {index} of shape {tuple(rows.shape)} and type {rows.dtype} does not fit {name}={width}; "
            f"use activations with {width} dimensions, or build the autoencoder with {name}={rows.shape[-1] if rows.ndim else 1}"
        )
    if rows.ndim != 2 or len(rows) == 0:
        raise TrainingError(
            f"batch {index} has shape {tuple(rows.shape)}; training wants rows [row d]: flatten batch and position first"
        )
    rows = rows.to(sae.W_dec.device, sae.W_dec.dtype)
    if not math.isfinite(rows.sum()) and (bad := int((~rows.isfinite()).sum())):  # one pass over good rows
        raise TrainingError(
            f"batch {index} holds {bad} non-finite values of {rows.numel()}; drop those rows, or cache the layer in a wider type"
        )
    return rows


def _scale(sample: Float[Tensor, "row d"], sizes: list[int]) -> Float[Tensor, "*d"]:
    """1 / √(mean squared norm of the centred part · parts), as one number, or per dimension where there are several parts."""
    centred = sample - sample.mean(0)
    spread = torch.stack([part.square().sum(1).mean() for part in centred.split(sizes, dim=1)]) * len(sizes)
    factors = torch.where(spread == 0, 1.0, spread.clamp_min(torch.finfo(spread.dtype).tiny).rsqrt())
    return factors[0] if len(sizes) == 1 else factors.repeat_interleave(torch.tensor(sizes, device=factors.device))
