"""Heads taken out of a model, and what that costs on every example.

A head is a pair (layer, head). Ablation replaces its output before the output projection (`hook_z`): with zeros, or with
its mean over a set of tokens, which keeps what the head writes everywhere and removes what it says about the context.

Must not know: figures, reports, where tokens come from.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from functools import partial

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from interp.errors import ModelError
from interp.measurement import Measurement
from interp.models.hooked import Edit, Model

Head = tuple[int, int]
Means = Float[Tensor, "layer head d_head"]


def zero(model: Model, heads: Iterable[Head]) -> list[Edit]:
    """Edits under which the heads write nothing.

    Raises ModelError for heads that the model does not have.
    """
    return _replace(model, heads, torch.zeros(model.n_layers, model.n_heads, model.d_head))


def mean(model: Model, heads: Iterable[Head], means: Means) -> list[Edit]:
    """Edits under which the heads write their mean (`mean_outputs`), whatever the context.

    Raises ModelError for heads that the model does not have.
    """
    return _replace(model, heads, means)


def mean_outputs(
    model: Model, tokens: Int[Tensor, "example pos"], *, positions: Bool[Tensor, "example pos"] | None = None, batch: int = 32
) -> Means:
    """Mean of every head's z over examples and positions; over those marked in `positions`, where it is given.

    A head may write something else where it has nothing to do (at BOS, say): for what it writes while at work, mark those
    positions. Raises ModelError when none is marked.
    """
    hooks = [_hook_z(layer) for layer in range(model.n_layers)]
    counted = torch.ones_like(tokens, dtype=torch.bool) if positions is None else positions
    if not counted.any():
        raise ModelError("no position is marked to take the mean over; mark at least one")
    total = torch.zeros(model.n_layers, model.n_heads, model.d_head, dtype=torch.float64)
    for part, kept in zip(tokens.split(batch), counted.split(batch), strict=True):
        activations = model.run(part, read=hooks).activations
        total += torch.stack([activations[hook][kept.to(activations[hook].device)].double().sum(0).cpu() for hook in hooks])
    return (total / counted.sum().cpu()).float()


def loss(
    model: Model,
    tokens: Int[Tensor, "example pos"],
    *,
    edits: Sequence[Edit] = (),
    predicted: Bool[Tensor, "example pos"] | None = None,
    batch: int = 32,
) -> Measurement:
    """Mean −ln p(token | tokens before it) of every example, in nats: Measurement(example).

    predicted: the tokens whose prediction counts; all but each row's first without it.

    Raises ModelError for an example in which none counts.
    """
    counted = torch.ones_like(tokens, dtype=torch.bool) if predicted is None else predicted
    counted = counted[:, 1:]
    if not counted.any(1).all():
        raise ModelError(
            f"example {int((~counted.any(1)).nonzero()[0])} has no predicted token; mark at least one after the first"
        )
    parts = []
    for part, kept in zip(tokens.split(batch), counted.split(batch), strict=True):
        logits = model.run(part, edits=edits, logits=True).logits[:, :-1].float()
        nats = torch.nn.functional.cross_entropy(logits.transpose(1, 2), part[:, 1:].to(logits.device), reduction="none")
        kept = kept.to(nats)
        parts.append((nats * kept).sum(1) / kept.sum(1))
    return Measurement("loss", torch.cat(parts).cpu().double().numpy(), ("example",), unit="nats")


def _replace(model: Model, heads: Iterable[Head], values: Means) -> list[Edit]:
    chosen: dict[int, list[int]] = defaultdict(list)
    for layer, head in heads:
        if not (0 <= layer < model.n_layers and 0 <= head < model.n_heads):
            raise ModelError(
                f"{model.name} has no head ({layer}, {head}); it has layers 0–{model.n_layers - 1} of heads 0–{model.n_heads - 1}"
            )
        chosen[layer].append(head)
    return [
        Edit(_hook_z(layer), partial(_write, heads=picked, values=values[layer, picked]))
        for layer, picked in sorted(chosen.items())
    ]


def _write(
    z: Float[Tensor, "batch pos head d_head"], *, heads: list[int], values: Float[Tensor, "chosen d_head"]
) -> Float[Tensor, "batch pos head d_head"]:
    edited = z.clone()
    edited[:, :, heads] = values.to(z)
    return edited


def _hook_z(layer: int) -> str:
    return f"blocks.{layer}.attn.hook_z"
