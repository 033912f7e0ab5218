"""Dashboards of neurons and autoencoder features: what the rooms found, turned into the report's views.

Must not know: where anything is written, experiments.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd
from jaxtyping import Float
from scipy import sparse

from interp.association import auroc
from interp.mlp import neurons
from interp.models.hooked import Model
from interp.report import Example, Feature, FeatureDashboard
from interp.sae import features
from interp.sae.autoencoder import SparseAutoencoder
from interp.text.labelled import LabelledText

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


def neuron_dashboard(
    model: Model,
    layer: int,
    text: LabelledText,
    active: Float[np.ndarray, "row d_mlp"],
    found: neurons.Triggers,
    best: pd.DataFrame,
    *,
    shown: int = 64,
) -> FeatureDashboard:
    """The neurons of one layer that tell some label best.

    active: activations of the layer's neurons on every token of `text`. found: their triggers.
    best: rows of `association.best_columns` for the neurons themselves: label, column, f1.
    """
    best = best.sort_values("f1", ascending=False)
    logits = neurons.value_logits(model, layer)
    promoted, suppressed = neurons.value_tokens(model, layer, top=8)

    def page(neuron: int) -> Feature:
        places = found.document[:, neuron].numpy(), found.position[:, neuron].numpy()
        return Feature(
            id=neuron,
            density=float(found.density[neuron]),
            examples=examples(text, active[:, neuron].clip(min=0), *places, "Top activations"),
            boosted=[(int(token), float(logits[neuron, token])) for token in promoted[neuron]],
            suppressed=[(int(token), float(logits[neuron, token])) for token in suppressed[neuron]],
            labels=list(best.loc[best.column == neuron, ["label", "f1"]].itertuples(index=False, name=None)),
        )

    return FeatureDashboard(
        noun="neuron",
        title=f"Neurons of layer {layer}",
        caption="The neurons that tell some label best.",
        features=[page(neuron) for neuron in list(dict.fromkeys(best.column.tolist()))[:shown]],
        vocabulary=text.vocabulary,
        label_score="F1",
        tokens_scanned=found.rows,
        dead=int((found.density == 0).sum()),
    )


def feature_dashboard(
    model: Model,
    sae: SparseAutoencoder,
    text: LabelledText,
    codes: sparse.csc_array,
    book: features.FeatureBook,
    best: pd.DataFrame,
    *,
    title: str,
) -> FeatureDashboard:
    """The features in `book`: examples, densities, logit effects, neighbours, and the labels each tells best.

    codes: the autoencoder's codes on every token of `text`, [row d_sae]. best: as in `neuron_dashboard`.
    """
    chosen = book.features
    labels = text.common_labels()
    areas = np.nan_to_num(auroc(codes[:, chosen], np.stack(list(labels.values()), axis=1)))
    effects = features.logit_effects(sae.W_dec[chosen.tolist()], model.W_U, gain=model.weight("ln_final.w"))
    near, together = features.nearest_by_decoder(sae, chosen, 5), book.coactivation(5)
    pages = []
    for index, feature in enumerate(chosen.tolist()):
        told = best[best.column == feature]
        page = Feature(
            id=feature,
            density=float(book.density[index]),
            examples=_grouped(text, codes[:, [feature]].toarray()[:, 0], book, index),
            histogram=(book.histogram[index], np.arange(book.histogram.shape[1] + 1) * book.bin_width[index]),
            boosted=_strongest(effects[index]),
            suppressed=[(token, -size) for token, size in _strongest(-effects[index])],
            neighbours={"decoder cosine": near[index], "co-activation": together[index]},
            labels=[(list(labels)[place], float(areas[index, place])) for place in np.argsort(-areas[index])[:4]],
            metrics={"F1": float(told.f1.max())} if len(told) else {},
            explanation=f"the best of all features for {' and '.join(told.label)}" if len(told) else None,
        )
        pages.append(page)
    return FeatureDashboard(
        title=title,
        caption="The best feature for every label, and others drawn at random.",
        features=pages,
        vocabulary=text.vocabulary,
        label_score="AUROC",
        tokens_scanned=book.tokens,
        dead=book.dead,
    )


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
