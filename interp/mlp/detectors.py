"""Which neurons tell what a token is: by what they read, and by what they write.

Both sides are columns that are scored against yes-or-no labels (`interp.association`): a neuron's activations on tokens of the
text, and its value's logits on tokens of the vocabulary.

Must not know: figures, reports.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import pandas as pd
from jaxtyping import Float
from torch import Tensor

from interp import association
from interp.errors import ConfigError
from interp.mlp.keys import Triggers
from interp.mlp.values import value_logits
from interp.models.hooked import Model
from interp.text.labelled import LabelledText


def reading(
    own: Sequence[Triggers],
    text: LabelledText,
    *,
    others: Mapping[str, Sequence[Triggers]],
    turned: Mapping[str, Float[Tensor, "neuron neuron"]],
    seed: int = 0,
    resamples: int = 50,
) -> pd.DataFrame:
    """`association.best_columns` of activations on each layer's sample of tokens, with a column `layer`.

    Controls: other models' samples of the same tokens; and one's own activations turned by a rotation of all neurons.
    Raises ConfigError for samples of other tokens.
    """
    parts = []
    for layer, here in enumerate(own):
        for name, found in others.items():
            if not (here.sample_document.equal(found[layer].sample_document) and
                    here.sample_position.equal(found[layer].sample_position)):  # fmt: skip
                raise ConfigError(f"{name} was sampled on other tokens; draw its triggers with the same text and seed")
        rows = text.first[here.sample_document.numpy()] + here.sample_position.numpy()
        labels = {name: one[rows] for name, one in text.common_labels().items()}
        controls = {name: here.sample_value @ rotation for name, rotation in turned.items()}
        controls |= {name: found[layer].sample_value for name, found in others.items()}
        scored = association.best_columns(
            here.sample_value, labels, text.document[rows], controls=controls, seed=seed, resamples=resamples
        )
        parts.append(scored.assign(layer=layer))
    return pd.concat(parts, ignore_index=True)


def writing(model: Model, text: LabelledText, *, others: Mapping[str, Model], seed: int = 0, resamples: int = 50) -> pd.DataFrame:
    """`association.best_columns` of value logits on the tokens of the vocabulary that the text has, with a column `layer`.

    A label holds for a token that mostly has it in the text (`LabelledText.labels_of_tokens`). Controls: other models' values.
    """
    (known, labels), parts = text.labels_of_tokens(), []
    for layer in range(model.n_layers):
        own, *rest = (value_logits(one, layer).T[known].cpu().numpy() for one in (model, *others.values()))
        controls = dict(zip(others, rest, strict=True))
        scored = association.best_columns(own, labels, known, controls=controls, seed=seed, resamples=resamples)
        parts.append(scored.assign(layer=layer))
    return pd.concat(parts, ignore_index=True)
