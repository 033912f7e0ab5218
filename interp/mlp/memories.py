"""MLPs as key–value memories: MLP(x) = Σᵢ mᵢ vᵢ + b, where mᵢ says how well x fits key kᵢ (Geva et al. 2021, arXiv:2012.14913).

One view of every kind of MLP, so that no analysis needs to ask which it has:

    plain        mᵢ = f(x·kᵢ + cᵢ)
    gated        mᵢ = f(x·gᵢ) (x·kᵢ + cᵢ)
    SoLU         m = LN(a ∘ softmax a), a = K x + c
    mixture      mᵢ as above times the weight with which x is routed to its expert (`mlp.expert_memories`)

Layers count within a stack of blocks. An encoder–decoder has two, and every function that is given one wants to know which:
stack="encoder" or stack="decoder". All other models have one, and no name for it.

Must not know: text, what is done with the memories.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from interp.activations import ActivationBatch, TokenPairs, harvest
from interp.errors import ModelError
from interp.mlp.expert_memories import expert_memories
from interp.models.hooked import Model
from interp.models.norms import folded
from interp.text.packing import TokenBatch

STACKS = ("encoder", "decoder")


@dataclass(frozen=True)
class Memories:
    """The neurons of one layer as vectors of the residual stream, with what the norm before the MLP does folded into what
    they read (`models.norms`).

    keys: columns of W_in. gates: of W_gate, None unless the MLP is gated. values: rows of W_out. bias: what is added whatever
    the neurons do, None for none and for mixtures, where the bias of each expert is its last memory, with a key of zeros.
    expert: of which expert each neuron is, None unless the layer is a mixture.
    """

    keys: Float[Tensor, "neuron d_model"]
    gates: Float[Tensor, "neuron d_model"] | None
    values: Float[Tensor, "neuron d_model"]
    bias: Float[Tensor, " d_model"] | None
    expert: Int[Tensor, " neuron"] | None


def memories(model: Model, layer: int, *, stack: str | None = None) -> Memories:
    """The memories of one layer. Raises ModelError for a layer that is not there or has no MLP."""
    block = require_layer(model, layer, stack=stack)
    mlp = f"{block}.mlp"
    if (experts := expert_memories(model, mlp)) is not None:
        gates = None if experts.gates is None else _reading(model, block, experts.gates)
        return Memories(_reading(model, block, experts.keys), gates, experts.values, None, experts.numbers)
    gates = _optional(model, f"{mlp}.W_gate")
    return Memories(
        keys=_reading(model, block, model.weight(f"{mlp}.W_in").float().T),
        gates=None if gates is None else _reading(model, block, gates.T),
        values=model.weight(f"{mlp}.W_out").float(),
        bias=_optional(model, f"{mlp}.b_out"),
        expert=None,
    )


def blocks(model: Model, stack: str | None) -> str:
    """What the blocks of a stack are called. Raises ModelError for a stack that is not there, and where it is not said which."""
    choices = " or ".join(f'stack="{name}"' for name in STACKS)
    if model.kind != "encoder-decoder":
        if stack is not None:
            raise ModelError(f"{model.name} has one stack of blocks, and {stack!r} is none of two; leave stack out")
        if not hasattr(model.bridge, "blocks"):
            raise ModelError(f"{model.name} has no stack of blocks, so no layers; give a Transformer")
        return "blocks"
    if stack is None:
        raise ModelError(f"{model.name} has two stacks of blocks, and layers of both; say which you mean: {choices}")
    if stack not in STACKS:
        raise ModelError(f"{model.name} has no stack {stack!r}; choose {choices}")
    return f"{stack}_blocks"


def layers(model: Model, stack: str | None = None) -> range:
    """The layers of a stack. Raises ModelError as `blocks` does."""
    return range(len(getattr(model.bridge, blocks(model, stack))))


def require_layer(model: Model, layer: int, *, stack: str | None = None) -> str:
    """The name of a block, as "blocks.0" or "decoder_blocks.0". Raises ModelError unless the model has it, and with an MLP."""
    block, there = f"{blocks(model, stack)}.{layer}", layers(model, stack)
    if layer not in there:
        raise ModelError(f"no layer {layer} in {_named(model, stack)}; layers are 0 to {len(there) - 1}")
    if not any(hook.startswith(f"{block}.mlp.") for hook in model.hooks):
        raise ModelError(f"{model.name} has no MLPs, so no neurons to read; give a model with MLPs")
    return block


def require_one_mlp(model: Model, layer: int, *, stack: str | None = None) -> str:
    """The name of a block that has one MLP, whose neurons are seen at `mlp.hook_post` and write the rows of `mlp.W_out`.

    Raises ModelError as `require_layer` does, and for mixtures of experts.
    """
    block = require_layer(model, layer, stack=stack)
    if expert_memories(model, f"{block}.mlp") is not None:
        raise ModelError(
            f"layer {layer} of {_named(model, stack)} is a mixture of experts, whose neurons do not share one hook and one W_out;"
            " give a model with one MLP in a layer"
        )
    return block


@dataclass(frozen=True)
class Source:
    """Where a layer's neuron activations m come from: the hook to read, and what makes m of what is read there.

    hook: TransformerLens's `hook_post`, or for a mixture of experts (whose `hook_post` is the layer's output) what the MLP reads.
    name: of the activations; the hook, or `blocks.l.mlp.experts`.
    """

    hook: str
    name: str
    activations: Callable[[Float[Tensor, "*rows _"]], Float[Tensor, "*rows neuron"]]


def source(model: Model, layer: int, *, stack: str | None = None) -> Source:
    """Where the activations of one layer come from. Raises ModelError for a layer that is not there or has no MLP."""
    mlp = f"{require_layer(model, layer, stack=stack)}.mlp"
    if (experts := expert_memories(model, mlp)) is not None:
        return Source(f"{mlp}.hook_in", f"{mlp}.experts", experts.activations)
    return Source(f"{mlp}.hook_post", f"{mlp}.hook_post", lambda values: values)


def activations(
    model: Model, batches: Iterable[TokenBatch | TokenPairs], *, stack: str | None = None
) -> Iterator[ActivationBatch]:
    """The activations m of all neurons of all layers on text, batch by batch, by the names of their `source`.

    Raises ModelError for a model without MLPs, before anything runs.
    """
    sources = [source(model, layer, stack=stack) for layer in layers(model, stack)]
    return (_made(batch, sources) for batch in harvest(model, batches, [each.hook for each in sources]))


def columns(
    model: Model,
    batches: Iterable[TokenBatch | TokenPairs],
    chosen: Mapping[int, Sequence[int] | Int[np.ndarray, " shown"]],
    *,
    stack: str | None = None,
) -> dict[int, Float[Tensor, "row shown"]]:
    """The activations of some neurons on every token of a text, for all layers in one pass: layer → a column for each.

    chosen: layer → its neurons. Raises ModelError for layers and neurons that are not there.
    """
    names, wanted = {}, {}
    for layer, neurons in chosen.items():
        names[layer], wanted[layer] = source(model, layer, stack=stack).name, torch.as_tensor(np.asarray(neurons, dtype=np.int64))
        require_neurons(model, layer, neurons, stack=stack)
    parts: dict[int, list[Tensor]] = {layer: [] for layer in chosen}
    for batch in activations(model, batches, stack=stack):
        for layer, name in names.items():
            parts[layer].append(batch.activations[name][:, wanted[layer]].cpu())
    return {layer: torch.cat(found) for layer, found in parts.items()}


def require_neurons(model: Model, layer: int, neurons: Sequence[int] | np.ndarray, *, stack: str | None = None) -> None:
    """Raises ModelError unless the layer has all these neurons."""
    width = len(memories(model, layer, stack=stack).values)
    wrong = [neuron for neuron in neurons if not 0 <= neuron < width]
    if wrong:
        raise ModelError(f"no neuron {layer}.{wrong[0]} in {_named(model, stack)}; neurons of a layer are 0 to {width - 1}")


# ---- behind them ----


def _named(model: Model, stack: str | None) -> str:
    return model.name if stack is None else f"the {stack} of {model.name}"


def _made(batch: ActivationBatch, sources: list[Source]) -> ActivationBatch:
    found = {each.name: each.activations(batch.activations[each.hook]) for each in sources}
    return replace(batch, activations=found, shapes={name: tuple(values.shape[1:]) for name, values in found.items()})


def _reading(model: Model, block: str, vectors: Float[Tensor, "neuron d_model"]) -> Float[Tensor, "neuron d_model"]:
    """Vectors that read the MLP's input, as they read the residual stream: through the last norm of the block before the MLP."""
    entry = next(place for place, hook in enumerate(model.hooks) if hook.startswith(f"{block}.mlp."))
    norm = re.compile(rf"({re.escape(block)}\.ln\d)\.hook_normalized")
    before = [found[1] for hook in model.hooks[:entry] if (found := norm.fullmatch(hook))]
    return folded(model, before[-1], vectors.T).T if before else vectors


def _optional(model: Model, name: str) -> Tensor | None:
    """A weight that only some models have."""
    try:
        return model.weight(name).float()
    except ModelError:
        return None
