"""Numbers for edges that neither intervene nor take gradients: weights, what is written straight into the logits, and chance.

They cost next to nothing and see little: `composition` looks at no input, `direct_effects` at the last step alone. Here they have
the form of methods that `calibration` scores. `chance` is the control.

Must not know: truths, figures, reports.
"""

from __future__ import annotations

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from interp import stats
from interp.heads import direct
from interp.heads.composition import require_one_stream
from interp.heads.graph import Edge, Graph
from interp.measurement import Measurement
from interp.models.hooked import Model
from interp.tasks.contrast import Contrast, Metric


def direct_effects(model: Model, contrast: Contrast, metric: Metric) -> Measurement:
    """The logit difference that would be lost without an edge to the logits, the final norm's scale frozen; 0 for other edges.

    Measurement("direct effect", (edge, example)), in nats. Whatever the metric, the question is the logit difference.
    Raises ModelError as `direct.by_component`.
    """
    question = direct.Question(contrast.answers, contrast.wrong, contrast.positions)
    parts, heads = (ask(model, contrast.clean, question) for ask in (direct.by_component, direct.by_head))

    def lost(edge: Edge) -> Float[np.ndarray, " example"]:
        if edge.target != "logits":
            return np.zeros(len(contrast))
        if edge.source == "input":
            embeddings = [name for name in parts.coords["component"] if name in ("embed", "pos_embed")]
            return -np.sum([parts.sel(component=name).values for name in embeddings], axis=0)
        layer, head = _place(edge.source)
        return -(parts.sel(component=f"{layer}.mlp") if head is None else heads.sel(layer=layer, head=head)).values

    edges = Graph.of(model).edges
    values = np.stack([lost(edge) for edge in edges])
    return Measurement("direct effect", values, ("edge", "example"), {"edge": list(map(str, edges))}, "nats")


def composition(model: Model, contrast: Contrast, metric: Metric) -> Measurement:
    """‖W R‖ / (‖W‖ ‖R‖) of what writes (W) and what reads (R): Measurement("composition", (edge, example)), all examples alike.

    Elhage et al. 2021, "A Mathematical Framework", with embeddings and MLPs beside heads. A query reads by W_QK, a key by its
    transpose, a value by W_OV, an MLP by W_in, the logits by W_U. Norms and the neurons' bends are left out.
    Raises ModelError for models without one residual stream.
    """
    require_one_stream(model)
    edges = Graph.of(model).edges
    values = []
    for edge in edges:
        written, read = _writes(model, edge.source), _reads(model, edge.target, edge.way)
        whole = written.norm() * read.norm()
        values.append(float((written @ read).norm() / whole) if whole else 0.0)
    columns = np.array(values)[:, None].repeat(len(contrast), 1)
    return Measurement("composition", columns, ("edge", "example"), {"edge": list(map(str, edges))})


def chance(model: Model, contrast: Contrast, metric: Metric, *, nodes: bool = False) -> Measurement:
    """A Gaussian number for every edge, or node, the same for every example. Another contrast has other ones."""
    kind, graph = "node" if nodes else "edge", Graph.of(model)
    names = list(graph.writers) if nodes else list(map(str, graph.edges))
    drawn = stats.generator(int(contrast.clean.sum()), "chance", kind).normal(size=(len(names), 1))
    return Measurement("chance", drawn.repeat(len(contrast), 1), (kind, "example"), {kind: names})


def _writes(model: Model, node: str) -> Float[Tensor, "_ d_model"]:
    """What a node writes with."""
    if node == "input":
        return torch.cat([model.weight(name).detach() for name in ("W_E", "W_pos")])
    layer, head = _place(node)
    if head is None:
        return model.weight(f"blocks.{layer}.mlp.W_out").detach()
    return (model.W_V[layer, head] @ model.W_O[layer, head]).detach()


def _reads(model: Model, node: str, way: str) -> Float[Tensor, "d_model _"]:
    """What a node reads with."""
    if node == "logits":
        return model.W_U.detach()
    layer, head = _place(node)
    if head is None:
        return model.weight(f"blocks.{layer}.mlp.W_in").detach()
    if way == "v":
        return _writes(model, node)
    scores = (model.W_Q[layer, head] @ model.W_K[layer, head].T).detach()
    return scores if way == "q" else scores.T


def _place(node: str) -> tuple[int, int | None]:
    """Layer and head of "a1.h0"; no head of "m1"."""
    layer, _, head = node[1:].partition(".h")
    return int(layer), int(head) if head else None
