"""One step of gradient descent as one head of linear attention (von Oswald et al. 2023, arXiv:2212.07677, proposition 1).

Tokens are vectors (x, y); the last asks, with 0 in the place of its y (`interp.tasks.regression`). With neither softmax nor
normaliser a head sums over tokens, and what it adds to the asked y can be the answer of a step of size η from w = 0:

    z = Σ_j (q·k_j) v_j,   W_Q = W_K = identity on x,   W_V = identity on y,   W_O = η:     ŷ = x_query · η Σ_j y_j x_j

Must not know: analyses, how models are trained.
"""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from interp.models.hooked import Model
from interp.models.lens import HookedRootModule, HookPoint
from interp.models.multihead import Attention


class Products(nn.Module):
    """z_i = Σ_j (q_i·k_j) v_j over all positions, a mixer: attention with neither softmax nor normaliser."""

    def __init__(self) -> None:
        super().__init__()
        self.hook_pattern = HookPoint()

    def forward(
        self,
        q: Float[Tensor, "batch pos head d_head"],
        k: Float[Tensor, "batch pos head d_head"],
        v: Float[Tensor, "batch pos head d_head"],
        *,
        causal: bool,
        seen: Bool[Tensor, "batch pos"] | None,
    ) -> Float[Tensor, "batch pos head d_head"]:
        assert not causal and seen is None
        return torch.einsum("bhqk,bkhd->bqhd", self.hook_pattern(torch.einsum("bqhd,bkhd->bhqk", q, k)), v)


class LinearHead(HookedRootModule):
    """One head of linear attention beside the tokens (x, y) of width d + 1; the last y is the answer. Biases stay 0."""

    def __init__(self, d: int, *, generator: torch.Generator) -> None:
        super().__init__()
        size = d + 1
        mixer = Products()
        self.attn = Attention(size, 1, 1, size, causal=False, rotary=False, score=None, mixer=mixer, generator=generator)
        for name, parameter in self.named_parameters():
            parameter.requires_grad_(not name.endswith("bias"))
        self.setup()

    def forward(self, tokens: Float[Tensor, "batch pos width"]) -> Float[Tensor, " batch"]:
        return (tokens + self.attn(tokens))[:, -1, -1]

    def answers(self, tokens: Float[Tensor, "batch pos width"]) -> Float[Tensor, " batch"]:
        """The same to rounding, without hooks, for training: t_query W_Q W_Kᵀ Σ_j t_j (t_jᵀ W_V W_O)_y, from right to left."""
        attn = self.attn
        written = tokens @ (attn.v.weight.T @ attn.o.weight[-1])  # what the values of each token write to y
        gathered = torch.einsum("bp,bpi->bi", written, tokens)
        asked = tokens[:, -1]
        return asked[:, -1] + ((asked @ attn.q.weight.T @ attn.k.weight) * gathered).sum(1)


def descent_step(d: int, rate: float) -> Model:
    """The step as weights: queries and keys are x, values are y, and what is summed is multiplied by the rate."""
    module = LinearHead(d, generator=torch.Generator())
    with torch.no_grad():
        for part in (module.attn.q, module.attn.k):
            part.weight.copy_(torch.diag(torch.tensor([1.0] * d + [0.0])))
        module.attn.v.weight.copy_(torch.diag(torch.tensor([0.0] * d + [1.0])))
        module.attn.o.weight.copy_(rate * torch.eye(d + 1))
    return Model.wrap(module.eval(), name="a step of gradient descent")


def best_rate(shown: int, d: int) -> float:
    """The step that makes the expected loss least on `shown` pairs of x ~ U(−1, 1)^d: 3 / (N + d − 1/5).

    That is tr E[S] / tr E[S²] of S = Σ x_i x_iᵀ, with E[x²] = 1/3 and E[x⁴] = 1/5.
    """
    return 3 / (shown + d - 1 / 5)


def step_of(model: Model) -> Float[Tensor, "d width"]:
    """W_Q W_Kᵀ of a `LinearHead`, times what a token's y writes to y through W_V W_O: by hand, rate · identity.

    The row of the query's own y is left out: that y is 0.
    """
    attn = model.bridge.attn
    with torch.no_grad():
        return (attn.W_Q[0] @ attn.W_K[0].T)[:-1] * (attn.W_V[0] @ attn.W_O[0])[-1, -1]
