"""Which tokens attention brings something from: by what it moves, and by what is lost when it must look away.

    moved      ‖Σ_h A_h[query, key] v_h[key] W_O,h‖       attention times what it moves (Kobayashi et al. 2020, arXiv:2004.10102)
    hidden     p ← p · seen / Σ p · seen                  the softmax without some keys (Geva et al. 2023, arXiv:2304.14767)
    pointed    p ← links / Σ links                        all attention where it is told to go

`brought` sets what is lost beside what each token brings straight to a logit, and what its embedding brings by gradients.
Attention itself (`patterns`) tells where a head looks and not what it finds there.

Must not know: alignments, figures, reports.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from interp.errors import ConfigError
from interp.heads import direct, gradients
from interp.heads.asked import ask, require_fits
from interp.heads.patterns import attention_of
from interp.measurement import Measurement
from interp.models.hooked import Edit, Model
from interp.tasks.contrast import Contrast, Metric


def moved(
    model: Model,
    tokens: Int[Tensor, "example pos"],
    *,
    attention: str = "self",
    edits: Sequence[Edit] = (),
    batch: int = 32,
    **beside: Any,
) -> Measurement:
    """The length of what all heads of a layer together move from a key to a query: Measurement(layer, query, key, example).

    attention: which of `patterns.attentions(model)`; with "cross", keys are the source's tokens. Values have their bias; the bias
    of the output comes from no key. Norms after the sum are not in it. Raises ConfigError for an attention that there is not.
    """
    looked, found = attention_of(model, attention), []
    hooks = [f"{path}.hook_{leaf}" for path in looked.paths.values() for leaf in ("pattern", "v")]
    for start in range(0, len(tokens), batch):
        rows = slice(start, start + batch)
        run = model.run(tokens[rows], read=hooks, edits=edits, **{name: value[rows] for name, value in beside.items()})
        read = run.activations
        layers = [_moved(model, path, read[f"{path}.hook_pattern"], read[f"{path}.hook_v"]) for path in looked.paths.values()]
        found.append(torch.stack(layers))
    values = torch.cat(found, 1).permute(0, 2, 3, 1).cpu().numpy()
    return Measurement("moved", values, ("layer", "query", "key", "example"), {"layer": list(looked.paths)})


def hidden(model: Model, links: Bool[Tensor, "example query key"], *, attention: str = "self") -> list[Edit]:
    """Edits under which queries do not see the keys they are linked to, in any head or layer of an attention.

    A query with no key left attends to nothing. Raises ConfigError for an attention that there is not, and, when they are used,
    for links that do not fit the pattern.
    """
    paths = attention_of(model, attention).paths.values()
    return [Edit(f"{path}.hook_pattern", partial(_unseen, links=links)) for path in paths]


def pointed(model: Model, links: Bool[Tensor, "example query key"], *, attention: str = "self") -> list[Edit]:
    """Edits under which queries that have links attend to nothing else, evenly, in every head and layer of an attention.

    Queries without links look where they did. Raises as `hidden`.
    """
    paths = attention_of(model, attention).paths.values()
    return [Edit(f"{path}.hook_pattern", partial(_on, links=links)) for path in paths]


def knockout(
    model: Model,
    contrast: Contrast,
    metric: Metric = Contrast.logit_difference,
    *,
    attention: str = "self",
    batch: int = 32,
) -> Measurement:
    """m(the query asked about does not see a key) − m, for every key: Measurement("knockout effect", (key, example)).

    The query is the contrast's position; all others see what they saw. The corrupted twins are not used. Raises ModelError for a
    contrast that does not fit the model, ConfigError as `hidden` and for a metric that is not a number per example.
    """
    require_fits(model, contrast, twins=False)
    looked, columns = attention_of(model, attention), []
    for part in gradients.split(contrast, batch):
        beside: dict[str, Any] = dict(part.beside)
        sight = looked.sight(part.clean, beside)
        before = ask(metric, part, model.run(part.clean, **beside).logits)
        effects = []
        for key in range(sight.keys.shape[1]):
            links = torch.zeros(len(part), *sight.visible.shape, dtype=torch.bool)
            links[torch.arange(len(part)), part.positions, key] = True
            after = model.run(part.clean, edits=hidden(model, links, attention=attention), **beside).logits
            effects.append(ask(metric, part, after) - before)
        columns.append(torch.stack(effects).double().cpu())
    return Measurement("knockout effect", torch.cat(columns, 1).numpy(), ("key", "example"))


def brought(model: Model, contrast: Contrast, *, attention: str = "self", steps: int = 4, batch: int = 32) -> Measurement:
    """What each token brings to the logit difference, asked in three ways: Measurement("brought", (way, key, example)), in nats.

    "straight": what attention brings of it straight to the logits (`direct.by_source`, all heads and layers). "gradients": its
    embedding in the place of its twin's, by integrated gradients in `steps` steps, through everything. "unseen": what is lost
    when the position asked about does not see it (`knockout`). With "cross", tokens are the source's.

    Raises as `direct.by_source`, `gradients.integrated` and `knockout`, ConfigError without wrong answers.
    """
    beside: dict[str, Any] = dict(contrast.beside)
    question = direct.Question(contrast.answers, contrast.wrong, contrast.positions)
    straight = direct.by_source(model, contrast.clean, question, attention=attention, batch=batch, **beside).values.sum((0, 1))
    unseen = -knockout(model, contrast, attention=attention, batch=batch).values
    moves = gradients.integrated(model, contrast, parts=("input",), by_position=True, steps=steps, batch=batch)
    prefix = {"self": "", "cross": "enc.", "encoder": "enc.", "decoder": "dec."}[attention]
    embedded = -moves.sel(node=f"{prefix}input").values.T[: len(unseen)]
    values = np.stack([straight, embedded, unseen])
    return Measurement("brought", values, ("way", "key", "example"), {"way": ["straight", "gradients", "unseen"]}, "nats")


def _moved(
    model: Model, path: str, pattern: Float[Tensor, "example head query key"], v: Float[Tensor, "example key group d_head"]
) -> Float[Tensor, "example query key"]:
    """‖Σ_h A_h v_h W_O,h‖ from the products of what the heads would move: no vector for every query and key is built."""
    v = v.double().repeat_interleave(pattern.shape[1] // v.shape[2], dim=2)
    each = torch.einsum("ekhd,hdm->ekhm", v, model.weight(f"{path}.W_O").double())
    products = each @ each.mT
    pattern = pattern.double()
    return torch.einsum("ehqk,ekhg,egqk->eqk", pattern, products, pattern).clamp_min(0).sqrt()


def _unseen(pattern: Float[Tensor, "example head query key"], *, links: Bool[Tensor, "_ _ _"]) -> Tensor:
    links = _fitting(links, pattern)
    seen = pattern.masked_fill(links, 0.0)
    without = seen / seen.sum(-1, keepdim=True).clamp_min(torch.finfo(seen.dtype).tiny)
    return torch.where(links.any(-1, keepdim=True), without, pattern)


def _on(pattern: Float[Tensor, "example head query key"], *, links: Bool[Tensor, "_ _ _"]) -> Tensor:
    links = _fitting(links, pattern)
    count = links.sum(-1, keepdim=True)
    return torch.where(count > 0, links.to(pattern) / count.clamp_min(1), pattern)


def _fitting(links: Tensor, pattern: Tensor) -> Bool[Tensor, "example 1 query key"]:
    if links.shape != pattern[:, 0].shape:
        raise ConfigError(
            f"links of shape {list(links.shape)} do not fit an attention of {list(pattern[:, 0].shape)} "
            "[example query key]; give one for every query and key of every example"
        )
    return links[:, None].to(pattern.device)
