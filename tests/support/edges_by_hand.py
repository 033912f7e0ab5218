"""Edges replaced the slow, obvious way: a forward pass of a native model written out, in which every reader has its own residual.

Stands beside `interp.heads.paths` as a second opinion, and knows only native models with relu and without grouped queries.
"""

from __future__ import annotations

from collections.abc import Collection

import torch
from torch import Tensor

from interp.models.hooked import Model
from interp.tasks.contrast import Contrast


def edges(model: Model) -> list[str]:
    """Every edge of the model, by name."""
    earlier, names = ["input"], []
    for layer in range(model.n_layers):
        heads = [f"a{layer}.h{head}" for head in range(model.n_heads)]
        names += [f"{source}->{head}<{way}>" for head in heads for way in "qkv" for source in earlier]
        earlier += heads
        if _has_mlp(model, layer):
            names += [f"{source}->m{layer}" for source in earlier]
            earlier.append(f"m{layer}")
    return [*names, *(f"{source}->logits" for source in earlier)]


def effects(model: Model, contrast: Contrast, replacement: str, names: Collection[str] | None = None) -> dict[str, Tensor]:
    """Logit difference with each edge alone replaced, less that without, per example."""
    corrupt = writes(model, contrast.corrupt)
    clean = contrast.logit_difference(forward(model, contrast.clean))
    found = {}
    for name in edges(model) if names is None else names:
        after = forward(model, contrast.clean, edges=[name], instead=stand_ins(corrupt, replacement))
        found[name] = contrast.logit_difference(after) - clean
    return found


def stand_ins(corrupt: dict[str, Tensor], replacement: str) -> dict[str, Tensor]:
    """What replaces each component's writing."""
    if replacement == "corrupt":
        return corrupt
    if replacement == "zero":
        return {name: torch.zeros_like(value) for name, value in corrupt.items()}
    return {name: value.mean(0, keepdim=True).expand_as(value) for name, value in corrupt.items()}


def writes(model: Model, tokens: Tensor) -> dict[str, Tensor]:
    """What every component writes into the residual stream, [batch pos d_model]."""
    return _pass(model, tokens, (), {})[1]


def forward(model: Model, tokens: Tensor, *, edges: Collection[str] = (), instead: dict[str, Tensor] | None = None) -> Tensor:
    """Logits of a run in which the given edges carry what is given instead."""
    return _pass(model, tokens, edges, instead or {})[0]


def _pass(model: Model, tokens: Tensor, edges: Collection[str], instead: dict[str, Tensor]) -> tuple[Tensor, dict[str, Tensor]]:
    written = {"input": model.W_E[tokens] + model.W_pos[: tokens.shape[1]]}
    bias = torch.zeros(model.d_model)

    def read(reader: str) -> Tensor:
        swapped = [source for source in written if f"{source}->{reader}" in edges]
        return sum(written.values()) + bias + sum(instead[source] - written[source] for source in swapped)

    def normed(part: str, value: Tensor) -> Tensor:
        return model.apply(part, value) if model.config.get("normalization_type", "LN") else value

    for layer in range(model.n_layers):
        new = {}
        for head in range(model.n_heads):
            inputs = {way: normed(f"blocks.{layer}.ln1", read(f"a{layer}.h{head}<{way}>")) for way in "qkv"}
            new[f"a{layer}.h{head}"] = _head(model, layer, head, inputs)
        written |= new
        bias = bias + model.weight(f"blocks.{layer}.attn.b_O")
        if _has_mlp(model, layer):
            mlp = {name: model.weight(f"blocks.{layer}.mlp.{name}") for name in ("W_in", "b_in", "W_out", "b_out")}
            hidden = normed(f"blocks.{layer}.ln2", read(f"m{layer}")) @ mlp["W_in"] + mlp["b_in"]
            written[f"m{layer}"] = hidden.relu() @ mlp["W_out"]
            bias = bias + mlp["b_out"]
    return normed("ln_final", read("logits")) @ model.W_U, written


def _head(model: Model, layer: int, head: int, inputs: dict[str, Tensor]) -> Tensor:
    q, k, v = (
        inputs[way] @ model.weight(f"blocks.{layer}.attn.W_{way.upper()}")[head]
        + model.weight(f"blocks.{layer}.attn.b_{way.upper()}")[head]
        for way in "qkv"
    )
    scores = q @ k.mT / model.d_head**0.5
    if model.kind == "decoder":
        scores = scores.masked_fill(torch.ones_like(scores, dtype=torch.bool).triu(1), float("-inf"))
    return scores.softmax(-1) @ v @ model.weight(f"blocks.{layer}.attn.W_O")[head]


def _has_mlp(model: Model, layer: int) -> bool:
    return any(name.startswith(f"blocks.{layer}.mlp") for name in model.hooks)
