"""Mixtures of experts: MLPs of which a router picks a few for each token.

    logits = x W_r,   p = softmax(logits),   y = Σ_{e among the k likeliest} w_e expert_e(x)

w_e = p_e in Switch Transformers (k = 1; Fedus et al. 2021, arXiv:2101.03961, eq. 1–2), and p_e over the sum of the chosen in
Mixtral (k = 2; Jiang et al. 2024, arXiv:2401.04088, §2.1). A mixture can stand wherever an MLP can.

Every expert reads every token here, and those that were not chosen get weight 0: so each hook fires once in a run, and an edit
of the weights reaches experts that the router left out. The price is the work of all experts.

Must not know: attention, blocks, how models are trained.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from jaxtyping import Float
from torch import Tensor, nn

from interp.errors import ModelError
from interp.models.lens import HookPoint
from interp.models.parts import ACTIVATIONS, Linear, Part
from interp.models.runs import hooked


class Gated(Part):
    """(f(x W_gate) ∘ (x W_in)) W_out without biases, as Mixtral's experts are (Shazeer 2020, arXiv:2002.05202)."""

    aliases = {"hook_pre": "gate.hook_out", "hook_pre_linear": "in.hook_out", "hook_post": "out.hook_in"}

    def __init__(self, d_model: int, d_mlp: int, *, act_fn: str, generator: torch.Generator) -> None:
        super().__init__()
        self.gate = Linear(d_model, d_mlp, bias=False, generator=generator)
        self.add_module("in", Linear(d_model, d_mlp, bias=False, generator=generator))
        self.out = Linear(d_mlp, d_model, bias=False, generator=generator)
        self.act_fn = ACTIVATIONS[act_fn]

    def forward(self, x: Float[Tensor, "*rows d_model"]) -> Float[Tensor, "*rows d_model"]:
        x = self.hook_in(x)
        return self.hook_out(self.out(self.act_fn(self.gate(x)) * getattr(self, "in")(x)))


class Experts(Part):
    """A router and its experts, modules from d_model to d_model.

    top_k: experts for each token. renormalised: whether the weights of the chosen are made to sum to 1; with one expert that
    would leave the router without a gradient.

    `hook_router_logits` and `hook_expert_weights`, [… expert], and the experts' own hooks (`experts.2.hook_out`) all act; the
    weights of experts that were not chosen are 0. Raises ModelError for more experts per token than there are, or none.
    """

    def __init__(
        self, d_model: int, experts: Sequence[nn.Module], *, top_k: int, renormalised: bool, generator: torch.Generator
    ) -> None:
        super().__init__()
        _require_choice(top_k, len(experts))
        self.router = Linear(d_model, len(experts), bias=False, generator=generator)
        self.experts = nn.ModuleList(experts)
        self.top_k, self.renormalised = top_k, renormalised
        self.hook_router_logits, self.hook_expert_weights = HookPoint(), HookPoint()

    def forward(self, x: Float[Tensor, "*rows d_model"]) -> Float[Tensor, "*rows d_model"]:
        x = self.hook_in(x)
        logits = self.hook_router_logits(self.router(x))
        weights = self.hook_expert_weights(expert_weights(logits, top_k=self.top_k, renormalised=self.renormalised))
        written = torch.stack([expert(x) for expert in self.experts], -2)
        return self.hook_out((weights[..., None] * written).sum(-2))


def expert_weights(logits: Float[Tensor, "*rows expert"], *, top_k: int, renormalised: bool) -> Float[Tensor, "*rows expert"]:
    """The weight of every expert: its probability if it is among the `top_k` likeliest, else 0; made to sum to 1 if asked.

    Raises ModelError for more experts per token than there are, or none.
    """
    probability = logits.softmax(-1)
    best, chosen = probability.topk(_require_choice(top_k, logits.shape[-1]), -1)
    if renormalised:
        best = best / best.sum(-1, keepdim=True)
    return torch.zeros_like(probability).scatter(-1, chosen, best)


def balance_loss(logits: Float[Tensor, "*rows expert"], *, top_k: int) -> Float[Tensor, ""]:
    """n Σ_e f_e P_e: f the shares of the choices that fall to each of n experts, P the mean router probabilities.

    1 where both are uniform, n where one expert gets everything (Fedus et al. 2021, eq. 4–6, without their factor α). Choices
    carry no gradient. For k > 1 shares are of k choices per token, so that uniform stays 1; Hugging Face's is k times as large.
    """
    probability = logits.softmax(-1)
    chosen = probability.topk(_require_choice(top_k, logits.shape[-1]), -1).indices
    shares = torch.bincount(chosen.flatten(), minlength=logits.shape[-1]).to(probability) / chosen.numel()
    return logits.shape[-1] * (shares * probability.flatten(0, -2).mean(0)).sum()


@contextmanager
def router_logits(module: nn.Module) -> Iterator[list[Float[Tensor, "*rows expert"]]]:
    """Within the block, collects what every router of a module says, with its gradient: what `balance_loss` is taken of."""
    found: list[Tensor] = []
    routers = [part.hook_router_logits for part in module.modules() if isinstance(part, Experts)]
    with hooked((point, lambda value, *, hook: found.append(value)) for point in routers):
        yield found


def _require_choice(top_k: int, experts: int) -> int:
    if not 1 <= top_k <= experts:
        raise ModelError(f"top_k={top_k} of {experts} experts: each token can have 1 to {experts}")
    return top_k
