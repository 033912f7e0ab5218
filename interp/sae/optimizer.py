"""Adam for an autoencoder: the part of the decoder's gradient along each row is removed, gradients are clipped together,
and decoder rows return to unit length, in one step.

Must not know: objectives, schedules, data.
"""

from __future__ import annotations

from typing import Any

import torch
from jaxtyping import Int
from torch import Tensor

from interp.sae.autoencoder import SparseAutoencoder


class RowAdam:
    """Adam (Kingma & Ba 2015, arXiv:1412.6980) over all parameters of one autoencoder.

    unit_decoder: whether decoder rows have unit length, now and after every step.
    """

    def __init__(
        self,
        sae: SparseAutoencoder,
        *,
        unit_decoder: bool = True,
        max_gradient_norm: float = 1.0,
        betas: tuple[float, float] = (0.9, 0.999),
    ) -> None:
        self.sae, self.unit_decoder, self.max_gradient_norm = sae, unit_decoder, max_gradient_norm
        self._adam = torch.optim.Adam(sae.parameters(), lr=0.0, betas=betas, fused=True)

    @torch.no_grad()
    def step(self, learning_rate: float) -> float:
        """Takes the gradients in `.grad`, moves the parameters, and frees the gradients. Returns their norm before clipping."""
        gradient = self.sae.W_dec.grad
        if gradient is None:
            raise AssertionError("the objective did not reach the decoder")
        if self.unit_decoder:
            gradient -= (gradient * self.sae.W_dec).sum(1, keepdim=True) * self.sae.W_dec
        norm = torch.nn.utils.clip_grad_norm_(self.sae.parameters(), self.max_gradient_norm)
        self._adam.param_groups[0]["lr"] = learning_rate
        self._adam.step()
        self._adam.zero_grad()
        if self.unit_decoder:
            self.sae.normalize_decoder()
        return float(norm)

    @torch.no_grad()
    def reset(self, latents: Int[Tensor, "latent"]) -> None:
        """Forgets the moments of these latents: their encoder columns, decoder rows and biases."""
        for parameter, axis in ((self.sae.W_enc, 1), (self.sae.W_dec, 0), (self.sae.b_enc, 0)):
            for moment in ("exp_avg", "exp_avg_sq"):
                if moment in self._adam.state.get(parameter, {}):
                    self._adam.state[parameter][moment].index_fill_(axis, latents, 0.0)

    def state_dict(self) -> dict[str, Any]:
        """Moments and step count: all that a resumed run needs."""
        return self._adam.state_dict()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Takes up what `state_dict` gave."""
        self._adam.load_state_dict(state)
