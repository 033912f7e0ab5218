"""Dead latents get a new life: the directions of inputs that are reconstructed badly.

Must not know: schedules, data beyond one batch, models.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn import functional as F

from interp.errors import TrainingError
from interp.sae.autoencoder import SparseAutoencoder

ENCODER_SHARE = 0.5
"""Norm of a resampled encoder column, against the mean of the live ones. Bricken et al. take 0.2. Planted features found without
AuxK (n = 512, d = 64, 0.6M tokens) with 0.2, 0.5 and 1: JumpReLU .65, .80, .65; TopK .86, .88, .86; ReLU .76, .76, .77.
"""


@dataclass(frozen=True)
class Resampling:
    """Resample dead latents after every `every` steps, up to the share `until` of the training."""

    every: int
    until: float = 0.8

    def __post_init__(self) -> None:
        if self.every < 1 or not 0 < self.until <= 1:
            raise TrainingError(f"every={self.every}, until={self.until}: use 1 step or more, and a share above 0 and up to 1")

    def due(self, step: int, steps: int) -> bool:
        """Whether it is time, once step `step` (from 0) is taken."""
        return (step + 1) % self.every == 0 and step + 1 <= self.until * steps


@torch.no_grad()
def resample(
    sae: SparseAutoencoder,
    inputs: Float[Tensor, "row d_in"],
    error: Float[Tensor, "row d_out"],
    dead: Bool[Tensor, "d_sae"],
    *,
    seed: int,
) -> Int[Tensor, "latent"]:
    """Gives dead latents new weights, in place, and returns which: as many as the batch has rows at most.

    Each takes a row of the batch, drawn without replacement with probability ∝ ‖y - ŷ‖⁴ (the squared loss). Its decoder row
    becomes the direction of that row's error, its encoder column reads the same direction (a transcoder's: the input's) at
    `ENCODER_SHARE` of the mean norm of live columns, its bias becomes 0, and what the activation holds per latent (a
    threshold) the mean over the live ones.

    The caller forgets the optimizer's moments for them. After Bricken et al. 2023 ("Towards Monosemanticity", neuron
    resampling), who take the direction of the input; rows come from the batch at hand instead of 819,200 inputs.
    """
    weight = error.double().square().sum(1).square()
    latents = dead.nonzero()[:, 0][: int((weight > 0).sum())]
    if len(latents) == 0:
        return latents
    generator = torch.Generator().manual_seed(seed)
    picked = torch.multinomial(weight.cpu() / weight.sum().cpu(), len(latents), generator=generator).to(error.device)
    direction = F.normalize(error[picked], dim=1)
    reading = F.normalize(inputs[picked], dim=1) if sae.transcodes else direction
    live = ~dead
    size = sae.W_enc[:, live].norm(dim=0).mean() if bool(live.any()) else sae.W_enc.norm(dim=0).mean()
    sae.W_dec[latents] = direction * (sae.W_dec[live].norm(dim=1).mean() if bool(live.any()) else 1.0)
    sae.W_enc[:, latents] = (ENCODER_SHARE * size * reading).T
    sae.b_enc[latents] = 0.0
    state = sae.state_dict()
    for name in sae.latent_axes().keys() - {"W_enc", "W_dec", "b_enc"}:
        if bool(live.any()):
            state[name][latents] = state[name][live].mean()
    return latents
