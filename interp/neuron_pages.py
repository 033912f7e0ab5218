"""Pages of single neurons: what fires each, at which strength, what it writes, and what the census says of it.

Must not know: where anything is written, experiments.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd
from jaxtyping import Float

from interp.mlp.keys import Triggers
from interp.mlp.patterns import patterns
from interp.mlp.values import value_logits
from interp.models.hooked import Model
from interp.pages import examples, rules_by_column
from interp.report import Example, Feature, FeatureDashboard
from interp.text.labelled import LabelledText

METRICS = ("in_out_z", "kurtosis", "confidence", "value_norm", "twin_cosine")
"""Columns of the census that a page shows."""
_EFFECTS, _BINS = 8, 24


def dashboard(
    model: Model,
    layer: int,
    text: LabelledText,
    found: Triggers,
    neurons: Sequence[int] | np.ndarray,
    active: Float[np.ndarray, "row shown"],
    *,
    census: pd.DataFrame | None = None,
    best: pd.DataFrame | None = None,
    explained: pd.DataFrame | None = None,
) -> FeatureDashboard:
    """A page for each of some neurons of one layer.

    neurons: which, in the order in which they are shown. active: their activations on every token of `text`. found: the
    triggers of the layer on this text. census: rows of `census.census` (of any layers). best: rows of
    `association.best_columns` for all neurons of the layer: label, column, f1. explained: rows of `rules.explain`, whose
    columns are neurons of the layer.

    Each page has the strongest examples, random ones from every quarter of the neuron's positive activations, and random places
    where it is silent; the distribution of its positive activations on a random sample of tokens; the tokens that its value
    promotes and suppresses, read alone through the final norm; its most significant patterns in words, and its rule.
    """
    logits = value_logits(model, layer)[np.asarray(neurons)].cpu().numpy()
    said = patterns(found, text)
    told = {} if explained is None else rules_by_column(explained)
    known = None if census is None else census[census.layer == layer].set_index("neuron")

    def page(shown: int, neuron: int) -> Feature:
        order = np.argsort(-logits[shown], kind="stable")
        labels = () if best is None else best.loc[best.column == neuron, ["label", "f1"]].itertuples(index=False, name=None)
        return Feature(
            id=neuron,
            density=float(found.density[neuron]),
            examples=_examples(text, active[:, shown].clip(min=0), found, neuron),
            histogram=_histogram(found.sample_value[:, neuron].numpy()),
            boosted=[(int(token), float(logits[shown, token])) for token in order[:_EFFECTS]],
            suppressed=[(int(token), float(logits[shown, token])) for token in order[: -_EFFECTS - 1 : -1]],
            neighbours={}
            if known is None
            else {"key and value cosine": [(int(known.twin[neuron]), float(known.twin_cosine[neuron]))]},
            labels=list(labels),
            metrics={} if known is None else {name.replace("_", " "): float(known[name][neuron]) for name in METRICS},
            rule=told.get(neuron),
            explanation=in_words(said.query("neuron == @neuron")),
        )

    return FeatureDashboard(
        name=f"layer-{layer}",
        noun="neuron",
        title=f"Neurons of layer {layer}",
        caption="Strongest examples, random ones from each quarter of the positive activations, and random places of silence.",
        features=[page(shown, int(neuron)) for shown, neuron in enumerate(neurons)],
        vocabulary=text.vocabulary,
        label_score="F1",
        tokens_scanned=found.rows,
        dead=int((found.density == 0).sum()),
        total=len(found.density),
    )


def in_words(patterns: pd.DataFrame, *, most: int = 3) -> str | None:
    """The most significant patterns of one neuron; None when there are none."""
    shown = [
        f"{row['pattern']} in {row['count']} of {row['triggers']} strongest examples ({row['expected']:.2g} by chance)"
        for row in patterns.head(most).to_dict("records")
    ]
    return "; ".join(shown) if shown else None


def _examples(text: LabelledText, values: np.ndarray, found: Triggers, neuron: int) -> list[Example]:
    strata = found.strata(neuron)
    groups = {
        "Top activations": found.strongest(neuron, 12),
        **{f"Quantile {place + 1} of {len(strata)}": part for place, part in enumerate(strata)},
        "Random negatives": found.silent(neuron, 3),
    }
    return [one for group, at in groups.items() for one in examples(text, values, at.document, at.position, group)]


def _histogram(values: np.ndarray) -> tuple[np.ndarray, np.ndarray] | None:
    positive = values[values > 0]
    return np.histogram(positive, bins=_BINS, range=(0, float(positive.max()))) if len(positive) else None
