"""How much of each input position reaches each output position: by attention alone, and truly.

Rollout and flow read attention as a weighted graph over positions and layers (Abnar & Zuidema 2020, arXiv:2005.00928); they know
nothing of values, norms or MLPs. True influence asks the model: the norm of the Jacobian of a residual stream, or what changes
when a token is exchanged. Wherever the first two are shown, the last two should stand beside them.

Must not know: figures, reports, where tokens come from.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from jaxtyping import Float, Int
from scipy import sparse
from scipy.sparse.csgraph import maximum_flow
from torch import Tensor

from interp.errors import ConfigError
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
    model: Model, tokens: Int[Tensor, "example pos"], edits: Sequence[Edit] = ()
) -> Float[np.ndarray, "example layer head query key"]:
    """Attention patterns of every head of a decoder or an encoder."""
    hooks = [f"blocks.{layer}.attn.hook_pattern" for layer in range(model.n_layers)]
    run = model.run(tokens, read=hooks, edits=edits)
    return torch.stack([run.activations[hook].double() for hook in hooks], 1).cpu().numpy()


def influence(model: Model, residual: Float[Tensor, "example pos d_model"], *, edits: Sequence[Edit] = ()) -> Measurement:
    """‖∂out_query / ∂in_key‖_F from the stream before the first block to that after the last: Measurement(example, query, key).

    Exact: one backward pass for every output number of a row, over all examples at once. `edits` are those of `Model.run`.
    """
    last = f"blocks.{model.n_layers - 1}.hook_resid_post"
    leaf = residual.detach().clone().requires_grad_()
    out = model.run_from(0, leaf, read=[last], edits=edits, grad=True).activations[last]
    squares = torch.zeros(*out.shape[:2], out.shape[1], dtype=torch.float64)
    for query in range(out.shape[1]):
        for component in range(out.shape[2]):
            (slope,) = torch.autograd.grad(out[:, query, component].sum(), leaf, retain_graph=True)
            squares[:, query] += slope.double().square().sum(-1).cpu()
    return Measurement("influence", squares.sqrt().numpy(), DIMS)


def exchange(
    model: Model, tokens: Int[Tensor, "example pos"], others: Int[Tensor, "example pos"], *, edits: Sequence[Edit] = ()
) -> Measurement:
    """‖out_query − out_query with the key's token exchanged for that of `others`‖: Measurement(example, query, key).

    Raises ConfigError where a token would be exchanged for itself.
    """
    if tokens.shape != others.shape or bool((tokens == others).any()):
        raise ConfigError("a token can only be exchanged for another; give `others` of the same shape that differ everywhere")
    last = f"blocks.{model.n_layers - 1}.hook_resid_post"
    before = model.run(tokens, read=[last], edits=edits).activations[last]
    columns = []
    for key in range(tokens.shape[1]):
        changed = tokens.clone()
        changed[:, key] = others[:, key]
        after = model.run(changed, read=[last], edits=edits).activations[last]
        columns.append((after - before).double().norm(dim=-1))
    return Measurement("exchange", torch.stack(columns, -1).cpu().numpy(), DIMS)


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
