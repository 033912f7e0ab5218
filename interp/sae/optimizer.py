"""Adam for an autoencoder: the part of the decoder's gradient along each row is removed, gradients are clipped together,
and decoder rows return to unit length, in one step.

Must not know: objectives, schedules, data.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.optim.adam import adam

from interp.sae import kernels, native
from interp.sae.autoencoder import SparseAutoencoder

EPSILON = 1e-8
"""Adam's: keeps steps finite where gradients vanish."""

TINY = 1e-6
"""Keeps the clipping factor finite where they do."""


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
        self.sae, self.unit_decoder, self.max_gradient_norm, self.betas = sae, unit_decoder, max_gradient_norm, betas
        self._parameters = dict(sae.named_parameters())
        self._steps = 0
        self._first = {name: torch.zeros_like(parameter) for name, parameter in self._parameters.items()}
        self._second = {name: torch.zeros_like(parameter) for name, parameter in self._parameters.items()}

    @torch.no_grad()
    def step(self, learning_rate: float) -> float:
        """Takes the gradients in `.grad`, moves the parameters, and frees the gradients. Returns their norm before clipping.

        Parameters without a gradient stay as they are; if the norm is no finite number, all of them do, and so do the moments.
        """
        if self.sae.W_dec.grad is None:
            raise AssertionError("the objective did not reach the decoder")
        gradients = {name: laid_like(each.grad, each) for name, each in self._parameters.items() if each.grad is not None}
        norm = (self._step_natively if kernels.backend(self.sae.W_dec) == "native" else self._step_in_torch)(
            gradients, learning_rate
        )
        for parameter in self._parameters.values():
            parameter.grad = None
        return norm

    def _step_in_torch(self, gradients: dict[str, Tensor], learning_rate: float) -> float:
        if self.unit_decoder:
            gradients["W_dec"] -= (gradients["W_dec"] * self.sae.W_dec).sum(1, keepdim=True) * self.sae.W_dec
        norm = torch.nn.utils.get_total_norm(gradients.values())
        if not bool(norm.isfinite()):
            return float(norm)
        self._steps += 1
        for gradient in gradients.values():
            gradient *= (self.max_gradient_norm / (norm + TINY)).clamp_max(1.0)
        adam(
            [self._parameters[name] for name in gradients],  # pyright: ignore[reportArgumentType]
            list(gradients.values()),
            [self._first[name] for name in gradients],
            [self._second[name] for name in gradients],
            [],
            [torch.tensor(self._steps - 1.0, device=norm.device) for _ in gradients],
            fused=True,
            amsgrad=False,
            beta1=self.betas[0],
            beta2=self.betas[1],
            lr=learning_rate,
            weight_decay=0.0,
            eps=EPSILON,
            maximize=False,
        )
        if self.unit_decoder:
            self.sae.normalize_decoder()
        return float(norm)

    def _step_natively(self, gradients: dict[str, Tensor], learning_rate: float) -> float:
        along, total = {}, 0.0
        for name, gradient in gradients.items():
            unit = self.sae.W_dec.detach() if name == "W_dec" and self.unit_decoder else None
            squares, along[name] = native.squares(by_rows(gradient), unit)
            total += float(squares)
        norm = math.sqrt(total)
        if not math.isfinite(norm):
            return norm
        self._steps += 1
        for name, gradient in gradients.items():
            native.adam(
                by_rows(self._parameters[name].detach()),
                by_rows(gradient),
                (by_rows(self._first[name]), by_rows(self._second[name])),
                along[name],
                clip=min(1.0, self.max_gradient_norm / (norm + TINY)),
                rate=learning_rate,
                betas=self.betas,
                epsilon=EPSILON,
                step=self._steps,
            )
        return norm

    @torch.no_grad()
    def reset(self, latents: Int[Tensor, "latent"]) -> None:
        """Forgets the moments of these latents: their encoder columns, decoder rows and biases."""
        for name, axis in self._latent_axes():
            for moments in (self._first, self._second):
                moments[name].index_fill_(axis, latents, 0.0)

    @torch.no_grad()
    def permute(self, order: Int[Tensor, "latent"]) -> None:
        """Follows `sae.permute(order)`: latent i has the moments that latent order[i] had."""
        for name, axis in self._latent_axes():
            for moments in (self._first, self._second):
                moments[name].copy_(moments[name].index_select(axis, order))

    def state_dict(self) -> dict[str, Any]:
        """Moments and step count: all that a resumed run needs."""
        return {"steps": self._steps, "first": dict(self._first), "second": dict(self._second)}

    @torch.no_grad()
    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Takes up what `state_dict` gave."""
        self._steps = state["steps"]
        for ours, theirs in ((self._first, state["first"]), (self._second, state["second"])):
            for name, moment in ours.items():
                moment.copy_(theirs[name])

    def _latent_axes(self) -> list[tuple[str, int]]:
        return [(name, axis) for name, axis in self.sae.latent_axes().items() if name in self._parameters]


def laid_like(gradient: Tensor, parameter: Tensor) -> Tensor:
    """The gradient in the parameter's memory layout: what goes through memory in order must find both in the same order."""
    if gradient.stride() == parameter.stride():
        return gradient
    return torch.empty_like(parameter).copy_(gradient)


def by_rows(tensor: Tensor) -> Float[Tensor, "row d"]:
    """A view whose rows lie one after another in memory: W_enc is stored latent by latent, and a vector is one row."""
    if tensor.ndim == 1:
        return tensor[None]
    return tensor if tensor.is_contiguous() else tensor.T
