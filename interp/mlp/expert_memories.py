"""Mixtures of experts as memories: y = Σ_e r_e (Σᵢ mᵢ vᵢ + b_e), with the weight r_e that the router gives expert e.

An expert's memories are its neurons, each r_e times as strong as it fires in its expert, and its bias where it has one: a last
memory that reads nothing and is r_e strong. An expert that all tokens share (Qwen2-MoE: r = σ(x·g)) comes after the routed ones.

Must not know: text, what is done with the memories.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

from interp.errors import ModelError
from interp.models import weights
from interp.models.experts import Experts, expert_weights
from interp.models.hooked import Model

_SHARED, _SHARED_GATE = "shared_expert", "shared_expert_gate"


@dataclass(frozen=True)
class Expert:
    """One expert: f(x·gᵢ) (x·kᵢ + cᵢ), or f(x·kᵢ + cᵢ) without gates. values: of its neurons, then its bias if it has one."""

    keys: Float[Tensor, "neuron d_model"]
    gates: Float[Tensor, "neuron d_model"] | None
    values: Float[Tensor, "memory d_model"]
    function: Callable[[Tensor], Tensor]
    offsets: Float[Tensor, " neuron"] | None = None

    def fired(self, x: Float[Tensor, "row d_model"]) -> Float[Tensor, "row memory"]:
        """How strongly each memory fires in this expert, the bias always 1."""
        key = F.linear(x, self.keys.to(x), None if self.offsets is None else self.offsets.to(x))
        neurons = self.function(key) if self.gates is None else self.function(F.linear(x, self.gates.to(x))) * key
        return F.pad(neurons, (0, self.biases), value=1.0)

    @property
    def biases(self) -> int:
        """Memories beside the neurons: 1 for a bias, else 0."""
        return len(self.values) - len(self.keys)


@dataclass(frozen=True)
class ExpertMemories:
    """The experts of one layer, those that all tokens share last, before the norm is folded in. weights: r of all of them."""

    experts: tuple[Expert, ...]
    weights: Callable[[Float[Tensor, "row d_model"]], Float[Tensor, "row expert"]]

    @torch.no_grad()
    def activations(self, x: Float[Tensor, "*rows d_model"]) -> Float[Tensor, "*rows memory"]:
        """m of every memory, expert after expert."""
        rows = x.flatten(0, -2)
        weights = self.weights(rows)
        fired = [weight[:, None] * expert.fired(rows) for weight, expert in zip(weights.T, self.experts, strict=True)]
        return torch.cat(fired, -1).view(*x.shape[:-1], -1)

    @property
    def keys(self) -> Float[Tensor, "memory d_model"]:
        """Of every memory; zeros for a bias."""
        return torch.cat([F.pad(expert.keys, (0, 0, 0, expert.biases)) for expert in self.experts])

    @property
    def gates(self) -> Float[Tensor, "memory d_model"] | None:
        """Of every memory; zeros for a bias. None for experts without gates."""
        if any(expert.gates is None for expert in self.experts):
            return None
        return torch.cat([F.pad(expert.gates, (0, 0, 0, expert.biases)) for expert in self.experts if expert.gates is not None])

    @property
    def values(self) -> Float[Tensor, "memory d_model"]:
        """Of every memory, a bias its own."""
        return torch.cat([expert.values for expert in self.experts])

    @property
    def numbers(self) -> Tensor:
        """Of which expert each memory is."""
        sizes = torch.tensor([len(expert.values) for expert in self.experts])
        return torch.arange(len(self.experts)).repeat_interleave(sizes)


def expert_memories(model: Model, mlp: str) -> ExpertMemories | None:
    """The mixture at "blocks.0.mlp", or None for an MLP. Raises ModelError for shared experts of another make than Qwen2-MoE."""
    part = weights.part(model.bridge, mlp)
    if isinstance(part, Experts):
        return _own(model, mlp, part)
    for module in part.modules():
        if getattr(getattr(module, "gate_up_proj", None), "ndim", 0) == 3:
            return _hugging_face(model, mlp, module)
    return None


def _own(model: Model, mlp: str, part: Experts) -> ExpertMemories:
    def routed(x: Tensor) -> Tensor:
        logits = model.apply(f"{mlp}.router", x)
        return expert_weights(logits, top_k=part.top_k, renormalised=part.renormalised)

    return ExpertMemories(tuple(_expert(each) for each in part.experts), routed)


def _expert(part: Any) -> Expert:
    into, gate, out = getattr(part, "in"), getattr(part, "gate", None), part.out  # `in` is a word of Python's
    values = out.weight.T if out.bias is None else torch.cat([out.weight.T, out.bias[None]])
    return Expert(
        keys=into.weight.detach().float(),
        gates=None if gate is None else gate.weight.detach().float(),
        values=values.detach().float(),
        function=part.act_fn,
        offsets=None if into.bias is None else into.bias.detach().float(),
    )


def _hugging_face(model: Model, mlp: str, stacked: Any) -> ExpertMemories:
    """Gates and keys stacked in one weight, one expert a slice."""
    gates, keys = stacked.gate_up_proj.detach().float().chunk(2, dim=1)
    values = stacked.down_proj.detach().float().transpose(1, 2)
    experts = [Expert(*each, function=stacked.act_fn) for each in zip(keys, gates, values, strict=True)]
    gate: Any = weights.part(model.bridge, f"{mlp}.gate")
    routed, router = len(experts), gate.original_component

    def chosen(x: Tensor) -> Tensor:
        _, weight, numbers = router(x)
        return x.new_zeros(len(x), routed).scatter(1, numbers, weight.to(x))

    if not _shares(model, mlp):
        return ExpertMemories(tuple(experts), chosen)
    W_in, W_gate, W_out = (model.weight(f"{mlp}.{_SHARED}.{name}").float() for name in ("W_in", "W_gate", "W_out"))
    experts.append(Expert(W_in.T, W_gate.T, W_out, stacked.act_fn))

    def with_shared(x: Tensor) -> Tensor:
        return torch.cat([chosen(x), model.apply(f"{mlp}.{_SHARED_GATE}", x).sigmoid()], 1)

    return ExpertMemories(tuple(experts), with_shared)


def _shares(model: Model, mlp: str) -> bool:
    """Whether there is an expert that all tokens share. Raises ModelError for one that is not weighed as Qwen2-MoE's is."""
    part = weights.part(model.bridge, mlp)
    shared = {name.rpartition(".")[2] for name, _ in part.named_modules() if "shared" in name.rpartition(".")[2]}
    if shared - {_SHARED, _SHARED_GATE} or len(shared) == 1:
        raise ModelError(
            f"{model.name} shares {', '.join(sorted(shared))} among all tokens in a way that is not read here; "
            "give a mixture whose shared expert has a gate of its own"
        )
    return bool(shared)
