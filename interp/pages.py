"""Dashboards of autoencoder features, and what all dashboards share: what the rooms found, turned into the report's views.

Must not know: where anything is written, experiments.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float
from scipy import sparse
from torch import Tensor

from interp.association import auroc
from interp.models.hooked import Model
from interp.models.norms import folded
from interp.report import Example, Feature, FeatureDashboard, Rule
from interp.sae import features
from interp.sae.autoencoder import SparseAutoencoder
from interp.text.labelled import LabelledText

Named = list[tuple[str, float]]

BEFORE, AFTER = 16, 8
"""Tokens shown before and after an example."""


def examples(
    text: LabelledText, values: Float[np.ndarray, " row"], document: np.ndarray, position: np.ndarray, group: str
) -> list[Example]:
    """Stretches of text around the given places, coloured by `values` (one per token of `text`); document -1 is no place."""
    there = document >= 0
    found = []
    for row in text.first[document[there]] + position[there]:
        part = text.window(int(row), before=BEFORE, after=AFTER)
        name, start = text.names[text.document[row]], int(text.position[part.start])
        found.append(
            Example(
                token_ids=text.tokens[part].tolist(),
                activations=values[part],
                document=name,
                position=start,
                focus=int(row) - part.start,
                group=group,
            )
        )
    return found


def feature_dashboard(
    model: Model,
    sae: SparseAutoencoder,
    hook: str,
    text: LabelledText,
    codes: sparse.csc_array,
    book: features.FeatureBook,
    best: pd.DataFrame,
    explained: pd.DataFrame,
) -> FeatureDashboard:
    """The features in `book`: examples, densities, logit effects, neighbours, heads, rules, and the labels each tells best.

    hook: where the autoencoder stands. codes: its codes on every token of `text`, [row d_sae].
    best: rows of `association.best_columns` for the features themselves: label, column, f1.
    explained: as `rules.explain` gives it, its columns being features.
    """
    chosen = book.features
    labels = text.common_labels()
    areas = np.nan_to_num(auroc(codes[:, chosen], np.stack(list(labels.values()), axis=1)))
    directions = sae.W_dec.detach()[chosen.tolist()]
    written = _in_residual(model, hook, directions)
    effects = None if written is None else features.logit_effects(written, folded(model, "ln_final", model.W_U))
    near, together = features.nearest_by_decoder(sae, chosen, 5), book.coactivation(5)
    measure, heads = _heads(model, hook, directions)
    told = rules_by_column(explained)
    pages = []
    for index, feature in enumerate(chosen.tolist()):
        first = best[best.column == feature]
        page = Feature(
            id=feature,
            density=float(book.density[index]),
            examples=_grouped(text, codes[:, [feature]].toarray()[:, 0], book, index),
            histogram=(book.histogram[index], np.arange(book.histogram.shape[1] + 1) * book.bin_width[index]),
            boosted=[] if effects is None else _strongest(effects[index]),
            suppressed=[] if effects is None else [(token, -size) for token, size in _strongest(-effects[index])],
            neighbours={"decoder cosine": near[index], "co-activation": together[index]},
            labels=[(list(labels)[place], float(areas[index, place])) for place in np.argsort(-areas[index])[:4]],
            attribution=heads[index],
            metrics={"F1": float(first.f1.max())} if len(first) else {},
            rule=told.get(feature),
            explanation=f"The best of all features for {' and '.join(first.label)}." if len(first) else None,
        )
        pages.append(page)
    return FeatureDashboard(
        title=f"Features of {hook}",
        caption="The best feature for every label, and others drawn at random.",
        features=pages,
        vocabulary=text.vocabulary,
        label_score="AUROC",
        attribution_score=measure,
        tokens_scanned=book.tokens,
        dead=book.dead,
        total=sae.d_sae,
    )


def rules_by_column(explained: pd.DataFrame) -> dict[int, Rule]:
    """The rule of every column that has one, beside its null. explained: as `rules.explain` gives it."""
    null = explained[explained.source == "shuffled"].set_index("column")
    return {
        int(row["column"]): Rule(
            text=row["rule"],
            precision=row["precision"],
            recall=row["recall"],
            null_precision=float(null.precision[row["column"]]),
            null_recall=float(null.recall[row["column"]]),
        )
        for row in explained.query("source == 'columns' and rule != ''").to_dict("records")
    }


def _in_residual(model: Model, hook: str, directions: Float[Tensor, "feature d"]) -> Float[Tensor, "feature d_model"] | None:
    """What directions at a hook add to the residual stream: heads side by side go through W_O. None for hooks elsewhere."""
    if re.fullmatch(r"[\w.]*hook_(resid_pre|resid_mid|resid_post|attn_out|mlp_out)", hook):
        return directions
    if found := re.fullmatch(r"blocks\.(\d+)\.attn\.hook_z", hook):
        by_head = directions.unflatten(1, (model.n_heads, -1))
        return torch.einsum("fhd,hdm->fm", by_head, model.weight(f"blocks.{found[1]}.attn.W_O"))
    return None


def _heads(model: Model, hook: str, directions: Float[Tensor, "feature d"], n: int = 6) -> tuple[str, list[Named]]:
    """Per direction the heads that write most of it, among those that write into `hook`; and what that is measured by."""
    nothing: tuple[str, list[Named]] = "", [[] for _ in directions]
    found = re.fullmatch(r"blocks\.(\d+)\.(?:attn\.)?hook_(z|attn_out|resid_pre|resid_mid|resid_post)", hook)
    if found is None:
        return nothing
    layer, kind = int(found[1]), found[2]
    layers = [layer] if kind in ("z", "attn_out") else list(range(layer + (kind != "resid_pre")))
    if not layers:
        return nothing
    if kind == "z":
        values = features.head_shares(directions, model.n_heads)
        measure = f"share of the direction (chance {1 / model.n_heads:.2f})"
    else:
        values = features.head_cosines(directions, torch.cat([model.weight(f"blocks.{each}.attn.W_O") for each in layers]))
        measure = f"cosine with what each can write (chance {(model.d_head / model.d_model) ** 0.5:.2f})"
    names = [f"L{each}H{head}" for each in layers for head in range(model.n_heads)]
    return measure, [[(names[place], float(row[place])) for place in np.argsort(-row, kind="stable")[:n]] for row in values]


def _grouped(text: LabelledText, values: np.ndarray, book: features.FeatureBook, index: int) -> list[Example]:
    quantiles = [(f"Quantile {place + 1} of {len(book.quantiles)}", found) for place, found in enumerate(book.quantiles)]
    groups = [("Top activations", book.top), *quantiles, ("Random negatives", book.negatives)]
    return [
        example
        for group, found in groups
        for example in examples(text, values, found.document[index], found.position[index], group)
    ]


def _strongest(effects: Sequence[float] | np.ndarray, n: int = 8) -> list[tuple[int, float]]:
    return [(int(token), float(effects[token])) for token in np.argsort(-np.asarray(effects), kind="stable")[:n]]
