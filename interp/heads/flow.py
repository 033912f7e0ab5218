"""How much of each input position reaches each output position: by attention alone, and truly.

Rollout and flow read attention as a weighted graph over positions and layers (Abnar & Zuidema 2020, arXiv:2005.00928); they know
nothing of values, norms or MLPs. True influence asks the model: the norm of the Jacobian of a residual stream, or what changes
when a token is exchanged. Wherever the first two are shown, the last two should stand beside them.

In an encoder–decoder the positions are those of the source and, after them, those of the target: one graph of both, whose
layers are those of the encoder and then, in turn, self- and cross-attention of the decoder.

Must not know: figures, reports, where tokens come from.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int
from scipy import sparse
from scipy.sparse.csgraph import maximum_flow
from torch import Tensor

from interp.errors import ConfigError
from interp.heads.patterns import attentions
from interp.measurement import Measurement
from interp.models.hooked import Edit, Model

DIMS = ("example", "query", "key")
_UNITS = 1_000_000  # a capacity of 1, for a maximum flow over integers


def mixing(patterns: Float[np.ndarray, "example layer head query key"]) -> Float[np.ndarray, "example layer query key"]:
    """Â = ½ · mean over heads + ½ · 1, one row per query that sums to 1: a layer and the residual stream beside it (§3)."""
    return 0.5 * patterns.mean(2) + 0.5 * np.eye(patterns.shape[-1])


def rollout(patterns: Float[np.ndarray, "example layer head query key"]) -> Measurement:
    """Â_L ⋯ Â_2 Â_1, the share of each key in each query if attention were all there is: Measurement(example, query, key)."""
    layers = mixing(patterns)
    product = layers[:, 0]
    for layer in range(1, layers.shape[1]):
        product = layers[:, layer] @ product
    return Measurement("rollout", product, DIMS)


def flow(patterns: Float[np.ndarray, "example layer head query key"]) -> Measurement:
    """The largest flow from a query of the last layer to a key of the first, Â as capacities: Measurement(example, query, key).

    Capacities are counted in millionths, since a maximum flow is one over integers. Every pair of positions takes one, so this is
    for short rows.
    """
    layers = mixing(patterns)
    return Measurement("flow", np.stack([_flows(each) for each in layers]), DIMS)


def patterns_of(
    model: Model, tokens: Int[Tensor, "example pos"], edits: Sequence[Edit] = (), **beside: Any
) -> Float[np.ndarray, "example layer head query key"]:
    """Attention patterns of every head, one row per position that sums to 1; a position that a layer passes over looks at itself.

    beside: what the model takes beside tokens, as in `Model.run`. Raises ModelError for a model that shows no attention pattern.
    """
    names = {f"{path}.hook_pattern": name for name, each in attentions(model).items() for path in each.paths.values()}
    hooks = [hook for hook in model.hooks if hook in names]
    run = model.run(tokens, read=hooks, edits=edits, **beside)
    source, whole = tokens.shape[1], _joint(tokens, beside).shape[1]
    first, second = slice(source), slice(source, whole)
    blocks = {"self": (first, first), "encoder": (first, first), "decoder": (second, second), "cross": (second, first)}
    return np.stack([_among(run.activations[hook].double().cpu().numpy(), blocks[names[hook]], whole) for hook in hooks], 1)


def starts(model: Model, tokens: Int[Tensor, "example pos"], **beside: Any) -> Float[Tensor, "example position d_model"]:
    """The residual streams before the first blocks, over all positions: what `influence` is asked about."""
    hooks = _starts(model)
    return torch.cat(list(model.run(tokens, read=hooks, **beside).activations.values()), 1)


def influence(
    model: Model, residual: Float[Tensor, "example position d_model"], *, edits: Sequence[Edit] = (), **beside: Any
) -> Measurement:
    """‖∂out_query / ∂in_key‖_F from the streams before the first blocks to that after the last: Measurement(example, query, key).

    Exact: one backward pass for every output number of a row, over all examples at once. `edits` and `beside` are those of
    `Model.run`: in an encoder–decoder, decoder_input says how many of the positions are the target's, which are the queries.
    """
    target = _joint(residual[:, :0, 0], beside).shape[1]
    leaf = residual.detach().clone().requires_grad_()
    parts = leaf.split([leaf.shape[1] - target, target], 1)
    put = [Edit(hook, lambda _, part=part: part) for hook, part in zip(_starts(model), parts, strict=False)]
    tokens, last = torch.zeros(parts[0].shape[:2], dtype=torch.long), _last(model)
    out = model.run(tokens, read=[last], edits=[*put, *edits], grad=True, **beside).activations[last]
    squares = torch.zeros(*out.shape[:2], leaf.shape[1], dtype=torch.float64)
    for query in range(out.shape[1]):
        for component in range(out.shape[2]):
            (slope,) = torch.autograd.grad(out[:, query, component].sum(), leaf, retain_graph=True)
            squares[:, query] += slope.double().square().sum(-1).cpu()
    return Measurement("influence", squares.sqrt().numpy(), DIMS)


def exchange(
    model: Model,
    tokens: Int[Tensor, "example pos"],
    others: Int[Tensor, "example position"],
    *,
    edits: Sequence[Edit] = (),
    **beside: Any,
) -> Measurement:
    """‖out_query − out_query with the key's token exchanged for that of `others`‖: Measurement(example, query, key).

    others: a token for every position, in an encoder–decoder of the source and then of the target, whose stream is looked at.
    Raises ConfigError where a token would be exchanged for itself.
    """
    joint, last = _joint(tokens, beside), _last(model)
    if joint.shape != others.shape or bool((joint == others).any()):
        raise ConfigError("a token can only be exchanged for another; give `others` of the same shape that differ everywhere")

    def out(all_tokens: Tensor) -> Tensor:
        target = {"decoder_input": all_tokens[:, tokens.shape[1] :]} if "decoder_input" in beside else {}
        run = model.run(all_tokens[:, : tokens.shape[1]], read=[last], edits=edits, **{**beside, **target})
        return run.activations[last]

    before, columns = out(joint), []
    for key in range(joint.shape[1]):
        changed = joint.clone()
        changed[:, key] = others[:, key]
        columns.append((out(changed) - before).double().norm(dim=-1))
    return Measurement("exchange", torch.stack(columns, -1).cpu().numpy(), DIMS)


def _joint(tokens: Tensor, beside: dict[str, Any]) -> Tensor:
    """The tokens of all positions."""
    target = beside.get("decoder_input")
    return tokens if target is None else torch.cat([tokens.to(target), target], 1)


def _among(pattern: np.ndarray, block: tuple[slice, slice], n: int) -> Float[np.ndarray, "example head query key"]:
    """A pattern of some queries and keys among all n positions, of which the others look at themselves."""
    queries, keys = block
    whole = np.broadcast_to(np.eye(n), (*pattern.shape[:2], n, n)).copy()
    whole[:, :, queries] = 0
    whole[:, :, queries, keys] = pattern
    return whole


def _starts(model: Model) -> list[str]:
    return [hook for hook in model.hooks if hook.endswith("blocks.0.hook_resid_pre")]


def _last(model: Model) -> str:
    return [hook for hook in model.hooks if hook.endswith(".hook_resid_post")][-1]


def _flows(layers: Float[np.ndarray, "layer query key"]) -> Float[np.ndarray, "query key"]:
    """Flows between all pairs of one example. Node (layer l, position p) has the number l · n + p; layer 0 is the input."""
    depth, n = layers.shape[:2]
    top, query, key = np.nonzero(np.rint(layers * _UNITS))
    capacity = np.rint(layers[top, query, key] * _UNITS).astype(np.int32)
    size = (depth + 1) * n
    graph = sparse.csr_matrix((capacity, ((top + 1) * n + query, top * n + key)), shape=(size, size))
    found = np.zeros((n, n))
    for last, first in np.argwhere(np.linalg.multi_dot([*layers[::-1], np.eye(n)]) > 0):
        found[last, first] = maximum_flow(graph, depth * n + last, first).flow_value / _UNITS
    return found
