"""Addition modulo p in nine neurons, written by hand (after Gromov 2023, arXiv:2301.02679, §3).

Neurons square the sum of two waves of one frequency w = 2πk/p, one of a and one of b, and write a wave of the answer c whose
phase is the sum of theirs:

    logit(c | a, b) = Σ_n (cos(w a + φ_n) + cos(w b + ψ_n))² cos(w c + φ_n + ψ_n)

With (φ, ψ) on a grid of three times three phases, 0, 2π/3 and 4π/3, all that does not depend on a + b − c cancels, and what is
left is 9/2 · cos(w (a + b − c)), exactly. Gromov draws phases at random, which needs many neurons to come near.

Must not know: analyses, how models are trained.
"""

from __future__ import annotations

import math

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from interp.errors import ConfigError
from interp.models.hooked import Model
from interp.models.lens import HookedRootModule, HookPoint
from interp.models.parts import Linear


class QuadraticMlp(HookedRootModule):
    """logits = (W_a[a] + W_b[b])² W_out over tokens (a, b), without biases: one layer of neurons that square.

    `hook_pre` and `hook_post` are the neurons before and after the square, [batch neuron]; `out.hook_out` the logits, [batch p].
    """

    def __init__(self, p: int, width: int, *, generator: torch.Generator) -> None:
        super().__init__()
        self.W_a, self.W_b = (nn.Parameter(torch.randn(p, width, generator=generator) / width**0.5) for _ in range(2))
        self.out = Linear(width, p, bias=False, generator=generator)
        self.hook_pre, self.hook_post = HookPoint(), HookPoint()
        self.setup()

    def forward(self, tokens: Int[Tensor, "batch 2"]) -> Float[Tensor, "batch p"]:
        a, b = tokens.unbind(1)
        return self.out(self.hook_post(self.hook_pre(self.W_a[a] + self.W_b[b]).square()))


def adder(p: int, frequency: int, phases: Float[Tensor, "neuron 2"]) -> Model:
    """Neurons of one frequency which read a and b at the phases given, and write at their sum.

    Raises ConfigError for p < 2 and for a frequency that shares a divisor with p, for then different sums share an angle.
    """
    if p < 2 or math.gcd(p, frequency) != 1:
        raise ConfigError(f"frequency={frequency} does not tell all sums modulo p={p} apart; use one that has no divisor with p")
    module = QuadraticMlp(p, len(phases), generator=torch.Generator())
    angles = 2 * torch.pi * frequency / p * torch.arange(p)[:, None]
    with torch.no_grad():
        module.W_a.copy_(torch.cos(angles + phases[:, 0]))
        module.W_b.copy_(torch.cos(angles + phases[:, 1]))
        module.out.weight.copy_(torch.cos(angles + phases.sum(1)))
    return Model.wrap(module.eval(), name=f"adder modulo {p}")


def grid() -> Float[Tensor, "neuron 2"]:
    """The nine pairs of phases that make `adder` exact."""
    thirds = 2 * torch.pi / 3 * torch.arange(3)
    return torch.cartesian_prod(thirds, thirds)


def drawn(width: int, *, generator: torch.Generator) -> Float[Tensor, "neuron 2"]:
    """Pairs of phases uniform on the circle, as Gromov draws them."""
    return 2 * torch.pi * torch.rand(width, 2, generator=generator)
