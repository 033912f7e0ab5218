"""Attention as message passing: a mask is a graph, a layer a round of messages on it (Battaglia et al. 2018, arXiv:1806.01261).

A graph is [query key], true where a node may attend to another; nodes are positions. What L layers make of it can be computed
in two ways that must agree: all pairs at once with a mask (`masked`), or one node at a time from its neighbours (`gathered`).
Both hold for models in which a node's place is no part of a score: neither rotary positions nor biases of distance.

Must not know: figures, reports, where graphs come from.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from interp import stats
from interp.errors import ConfigError, ModelError
from interp.models.hooked import Edit, Model

Graph = Bool[Tensor, "query key"]


def hops(graph: Graph) -> Int[np.ndarray, "query key"]:
    """Fewest edges from each node to each other. Raises ConfigError where some nodes cannot reach each other."""
    reached, distance = torch.eye(len(graph), dtype=torch.bool), torch.zeros(graph.shape, dtype=torch.int64)
    while not reached.all():
        further = (reached.double() @ graph.double()) > 0
        if bool((further == reached).all()):
            lost = int((~reached).sum())
            raise ConfigError(f"the graph falls apart: {lost} of {reached.numel()} pairs cannot reach each other; add edges")
        distance += ~reached
        reached = further
    return distance.numpy()


def masked(model: Model, graph: Graph, *, closed: float = -math.inf) -> list[Edit]:
    """Edits that leave each node its neighbours alone: softmax over q·k/√d, with `closed` added where there is no edge.

    Raises ModelError for a model whose attention is anything but that.
    """
    _require_plain(model)
    shut = torch.where(graph, 0.0, closed)
    edits = []
    for layer in range(model.n_layers):
        seen: dict[str, Tensor] = {}

        def keeping(name: str, seen: dict[str, Tensor] = seen) -> Callable[[Tensor], Tensor]:
            def keep(value: Tensor) -> Tensor:
                seen[name] = value
                return value

            return keep

        def attend(_: Tensor, seen: dict[str, Tensor] = seen) -> Tensor:
            keys = _for_each_query(seen["k"], model)
            scores = torch.einsum("eqhd,ekhd->ehqk", seen["q"], keys) / math.sqrt(model.d_head)
            return (scores + shut.to(scores)).softmax(-1)

        attn = f"blocks.{layer}.attn"
        edits += [
            Edit(f"{attn}.hook_q", keeping("q")),
            Edit(f"{attn}.hook_k", keeping("k")),
            Edit(f"{attn}.hook_pattern", attend),
        ]
    return edits


def gathered(model: Model, stream: Float[Tensor, "node d_model"], graph: Graph) -> Float[Tensor, "node d_model"]:
    """The stream after the last block, one node at a time: gather what neighbours send, weigh it, take the mean. Nothing else is
    ever computed.

    stream: what the first block is given. Raises as `masked`.
    """
    _require_plain(model)
    return _gathered(model, stream, graph)


def _gathered(model: Model, stream: Float[Tensor, "node d_model"], graph: Graph) -> Float[Tensor, "node d_model"]:
    neighbours = [row.nonzero()[:, 0] for row in graph]
    for layer in range(model.n_layers):
        block = f"blocks.{layer}"
        normed = model.apply(f"{block}.ln1", stream[None])
        sent = (model.apply(f"{block}.attn.{part}", normed)[0].unflatten(-1, (-1, model.d_head)) for part in "qkv")
        query, key, value = (_for_each_query(one, model) for one in sent)
        means = [_mean_message(query[node], key[near], value[near]) for node, near in enumerate(neighbours)]
        stream = stream + model.apply(f"{block}.attn.o", torch.stack(means).flatten(-2)[None])[0]
        if f"{block}.hook_mlp_out" in model.hooks:
            stream = stream + model.apply(f"{block}.mlp", model.apply(f"{block}.ln2", stream[None]))[0]
    return stream


def _mean_message(
    query: Float[Tensor, "head d_head"], keys: Float[Tensor, "near head d_head"], values: Float[Tensor, "near head d_head"]
) -> Float[Tensor, "head d_head"]:
    """Σ_j w_j v_j over the neighbours, w = softmax(q·k_j/√d)."""
    weight = ((keys * query).sum(-1) / math.sqrt(query.shape[-1])).softmax(0)
    return (weight[..., None] * values).sum(0)


def _for_each_query(heads: Float[Tensor, "*rows head d_head"], model: Model) -> Float[Tensor, "*rows query_head d_head"]:
    """Keys or values for every query head, where several share one."""
    return heads.repeat_interleave(model.n_heads // heads.shape[-2], -2)


def _require_plain(model: Model) -> None:
    """Raises ModelError unless three nodes, gathered as the model's own mask lets them see, come out as the model has them."""
    if model.kind == "encoder-decoder":
        raise ModelError(f"{model.name} has two streams; give a model of one, a decoder or an encoder")
    nodes = torch.randn(3, model.d_model, generator=stats.torch_generator(0, "three nodes")).to(model.W_E)
    graph = torch.ones(3, 3, dtype=torch.bool, device=nodes.device)
    last = f"blocks.{model.n_layers - 1}.hook_resid_post"
    own = model.run_from(0, nodes[None], read=[last]).activations[last][0]
    graph = graph if model.kind == "encoder" else graph.tril()
    if not torch.allclose(_gathered(model, nodes, graph), own, rtol=1e-5, atol=1e-5):
        raise ModelError(
            f"{model.name} attends by more than softmax(q·k/√d) of normed nodes: rotary positions, biases of distance or norms "
            "after what is written; give a model with learned positions and norms before"
        )
