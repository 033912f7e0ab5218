"""MLPs as key–value memories: MLP(x) = Σᵢ mᵢ vᵢ + b, where mᵢ says how well x fits key kᵢ (Geva et al. 2021, arXiv:2012.14913).

One view of every kind of MLP, so that no analysis needs to ask which it has:

    plain        mᵢ = f(x·kᵢ + cᵢ)
    gated        mᵢ = f(x·gᵢ) (x·kᵢ + cᵢ)
    SoLU         m = LN(a ∘ softmax a), a = K x + c
    mixture      mᵢ = r f(x·gᵢ) (x·kᵢ), for the neurons of the experts that x is routed to with weight r, else 0

Must not know: text, what is done with the memories.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, cast

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from interp.activations import ActivationBatch, harvest
from interp.errors import ModelError
from interp.models.hooked import Model
from interp.models.norms import folded
from interp.text.packing import TokenBatch


@dataclass(frozen=True)
class Memories:
    """The neurons of one layer as vectors of the residual stream, with what the norm before the MLP does folded into what
    they read (`models.norms`).

    keys: columns of W_in. gates: of W_gate, None unless the MLP is gated. values: rows of W_out. bias: what is added whatever
    the neurons do, None for none. expert: of which expert each neuron is, None unless the layer is a mixture.
    """

    keys: Float[Tensor, "neuron d_model"]
    gates: Float[Tensor, "neuron d_model"] | None
    values: Float[Tensor, "neuron d_model"]
    bias: Float[Tensor, " d_model"] | None
    expert: Int[Tensor, " neuron"] | None


def memories(model: Model, layer: int) -> Memories:
    """The memories of one layer. Raises ModelError for a layer that is not there or has no MLP."""
    require_layer(model, layer)
    if (experts := _experts(model, layer)) is not None:
        keys, gates, values = experts.keys.flatten(0, 1), experts.gates.flatten(0, 1), experts.values.flatten(0, 1)
        numbers = torch.arange(len(experts.keys)).repeat_interleave(experts.keys.shape[1])
        return Memories(_reading(model, layer, keys), _reading(model, layer, gates), values, None, numbers)
    block = f"blocks.{layer}.mlp"
    gates = _optional(model, f"{block}.W_gate")
    return Memories(
        keys=_reading(model, layer, model.weight(f"{block}.W_in").float().T),
        gates=None if gates is None else _reading(model, layer, gates.T),
        values=model.weight(f"{block}.W_out").float(),
        bias=_optional(model, f"{block}.b_out"),
        expert=None,
    )


def require_layer(model: Model, layer: int) -> None:
    """Raises ModelError unless `layer` is a block of the model, and has an MLP."""
    if not hasattr(model.bridge, "blocks"):
        raise ModelError(f"{model.name} has two stacks of blocks; its MLPs cannot be read as one: give a decoder or an encoder")
    if not 0 <= layer < model.n_layers:
        raise ModelError(f"no layer {layer} in {model.name}; layers are 0 to {model.n_layers - 1}")
    if f"blocks.{layer}.mlp.hook_post" in model.hooks:
        return
    if f"blocks.{layer}.mlp.hook_expert_weights" in model.hooks:
        raise ModelError(
            f"{model.name} has experts that may write biases of their own, which are no memories; ablate whole experts instead"
        )
    raise ModelError(f"{model.name} has no MLPs, so no neurons to read; give a model with MLPs")


def require_one_mlp(model: Model, layer: int) -> None:
    """Raises ModelError unless the layer has one MLP, whose neurons are seen at `hook_post` and write the rows of W_out."""
    if source(model, layer).name != f"blocks.{layer}.mlp.hook_post":
        raise ModelError(
            f"layer {layer} of {model.name} is a mixture of experts, whose neurons have no hook and no W_out of their own; "
            "give a model with one MLP in a layer"
        )


@dataclass(frozen=True)
class Source:
    """Where a layer's neuron activations m come from: the hook to read, and what makes m of what is read there.

    hook: TransformerLens's `hook_post`, or for a mixture of experts (whose `hook_post` is the layer's output) what the MLP reads.
    name: of the activations; the hook, or `blocks.l.mlp.experts`.
    """

    hook: str
    name: str
    activations: Callable[[Float[Tensor, "*rows _"]], Float[Tensor, "*rows neuron"]]


def source(model: Model, layer: int) -> Source:
    """Where the activations of one layer come from. Raises ModelError for a layer that is not there or has no MLP."""
    require_layer(model, layer)
    block = f"blocks.{layer}.mlp"
    if (experts := _experts(model, layer)) is not None:
        return Source(f"{block}.hook_in", f"{block}.experts", experts.activations)
    return Source(f"{block}.hook_post", f"{block}.hook_post", lambda values: values)


def activations(model: Model, batches: Iterable[TokenBatch]) -> Iterator[ActivationBatch]:
    """The activations m of all neurons of all layers on text, batch by batch, by the names of their `source`.

    Raises ModelError for a model without MLPs, before anything runs.
    """
    sources = [source(model, layer) for layer in range(model.n_layers)]
    return (_named(batch, sources) for batch in harvest(model, batches, [each.hook for each in sources]))


def columns(
    model: Model, batches: Iterable[TokenBatch], chosen: Mapping[int, Sequence[int] | Int[np.ndarray, " shown"]]
) -> dict[int, Float[Tensor, "row shown"]]:
    """The activations of some neurons on every token of a text, for all layers in one pass: layer → a column for each.

    chosen: layer → its neurons. Raises ModelError for layers and neurons that are not there.
    """
    names, wanted = {}, {}
    for layer, neurons in chosen.items():
        names[layer], wanted[layer] = source(model, layer).name, torch.as_tensor(np.asarray(neurons, dtype=np.int64))
        require_neurons(model, layer, neurons)
    parts: dict[int, list[Tensor]] = {layer: [] for layer in chosen}
    for batch in activations(model, batches):
        for layer, name in names.items():
            parts[layer].append(batch.activations[name][:, wanted[layer]].cpu())
    return {layer: torch.cat(found) for layer, found in parts.items()}


def require_neurons(model: Model, layer: int, neurons: Sequence[int] | np.ndarray) -> None:
    """Raises ModelError unless the layer has all these neurons."""
    width = len(memories(model, layer).values)
    wrong = [neuron for neuron in neurons if not 0 <= neuron < width]
    if wrong:
        raise ModelError(f"no neuron {layer}.{wrong[0]} in {model.name}; neurons of a layer are 0 to {width - 1}")


def routing(model: Model, layer: int, x: Float[Tensor, "row d_model"]) -> Float[Tensor, "row expert"]:
    """The weight with which each row is routed to each expert; x is what the MLP reads, `blocks.l.mlp.hook_in`.

    Raises ModelError for a layer that is no mixture of experts.
    """
    require_layer(model, layer)
    if (experts := _experts(model, layer)) is None:
        raise ModelError(f"layer {layer} of {model.name} is one MLP, not a mixture of experts, and routes nothing")
    return experts.routing(x)


# ---- behind them ----


def _named(batch: ActivationBatch, sources: list[Source]) -> ActivationBatch:
    found = {each.name: each.activations(batch.activations[each.hook]) for each in sources}
    return replace(batch, activations=found, shapes={name: tuple(values.shape[1:]) for name, values in found.items()})


@dataclass(frozen=True)
class _Experts:
    """The experts of one layer, before the norm is folded in."""

    keys: Float[Tensor, "expert d_expert d_model"]
    gates: Float[Tensor, "expert d_expert d_model"]
    values: Float[Tensor, "expert d_expert d_model"]
    function: Callable[[Tensor], Tensor]
    router: Callable[[Tensor], tuple[Tensor, Tensor, Tensor]]  # logits, weights and numbers of the experts chosen

    @torch.no_grad()
    def routing(self, x: Float[Tensor, "row d_model"]) -> Float[Tensor, "row expert"]:
        _, weights, chosen = self.router(x)
        return x.new_zeros(len(x), len(self.keys)).scatter(1, chosen, weights.to(x))

    @torch.no_grad()
    def activations(self, x: Float[Tensor, "*rows d_model"]) -> Float[Tensor, "*rows neuron"]:
        gate, key = (torch.einsum("...d,end->...en", x, part.to(x)) for part in (self.gates, self.keys))
        weights = self.routing(x.flatten(0, -2)).view(*x.shape[:-1], -1, 1)
        return (weights * self.function(gate) * key).flatten(-2)


def _experts(model: Model, layer: int) -> _Experts | None:
    """The experts of a layer whose weights are kept as Hugging Face keeps them: gates and keys stacked, one expert a slice."""
    mlp = model.bridge.blocks[layer].mlp
    for module in mlp.modules():
        both, down = (getattr(module, name, None) for name in ("gate_up_proj", "down_proj"))
        if isinstance(both, Tensor) and isinstance(down, Tensor) and both.ndim == 3:
            if any("shared" in name for name, _ in mlp.named_modules()):
                raise ModelError(
                    f"{model.name} has an expert that all tokens share, which is not read here; give a model without"
                )
            gates, keys = both.detach().float().chunk(2, dim=1)
            values = down.detach().float().transpose(1, 2)
            return _Experts(keys, gates, values, cast(Any, module).act_fn, mlp.gate.original_component)
    return None


def _reading(model: Model, layer: int, vectors: Float[Tensor, "neuron d_model"]) -> Float[Tensor, "neuron d_model"]:
    """Vectors that read the MLP's input, as they read the residual stream: with the norm in front of the MLP, if there is one."""
    before = model.hooks[: model.hooks.index(f"blocks.{layer}.mlp.hook_pre")]
    norm = next((name for name in ("ln2", "ln1") if f"blocks.{layer}.{name}.hook_normalized" in before), None)
    return vectors if norm is None else folded(model, f"blocks.{layer}.{norm}", vectors.T).T


def _optional(model: Model, name: str) -> Tensor | None:
    """A weight that only some models have."""
    try:
        return model.weight(name).float()
    except ModelError:
        return None
