"""The induction circuit of a model: which heads it is made of, how they meet, and what they carry.

A head of an earlier layer marks every token with the one before it; a later head looks by its key for the token that was marked
with the present one, and copies it (Elhage et al. 2021; Olsson et al. 2022, arXiv:2209.11895). Heads are named "layer.head".

Must not know: figures, reports, how a model was trained.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from interp import stats
from interp.errors import ModelError
from interp.heads import ablation, composition, patterns
from interp.heads.ablation import Head
from interp.models.hooked import Edit, Model
from interp.tasks.repeated import Repeated

KINDS = ("previous_token", "induction")
WAYS: tuple[composition.Way, ...] = ("Q", "K", "V")


@dataclass(frozen=True)
class Circuit:
    """The head that marks tokens with the one before, and those that look for the mark, best first."""

    previous: Head
    induction: list[Head]

    @property
    def writer(self) -> str:
        """The previous-token head by name."""
        return label(self.previous)

    @property
    def reader(self) -> str:
        """The best induction head by name."""
        return label(self.induction[0])

    def composition(self, model: Model) -> dict[composition.Way, float]:
        """Q-, K- and V-composition of the previous-token head with the best induction head."""
        pair = {"from": self.writer, "to": self.reader}
        return {way: float(composition.composition_scores(model, way).sel(**pair).values) for way in WAYS}

    def key_lead(self, model: Model) -> float:
        """Largest K-composition of the previous-token head with an induction head, less the largest of all other pairs."""
        table = composition.composition_scores(model, "K").table()
        score = {(early, late): value for early, late, value in table.itertuples(index=False)}
        own = [score.pop((self.writer, label(head))) for head in self.induction]
        return max(own) - max(score.values())


def find(model: Model, on: Repeated) -> Circuit:
    """The circuit as attention shows it on rows that repeat.

    The previous-token head is the best one before the last layer. An induction head is of a later layer and scores at least
    half as much as the best there. Some heads are always named, an untrained model's too: see what their scores are.

    Raises ModelError for a model of one layer.
    """
    if model.n_layers < 2:
        raise ModelError(f"{model.name} has {model.n_layers} layer; the circuit takes two, so give a model with at least 2")
    scores = {kind: found.mean("example").values for kind, found in patterns.scores(model, on.tokens, kinds=KINDS).items()}
    layer, head = np.unravel_index(scores["previous_token"][:-1].argmax(), scores["previous_token"][:-1].shape)
    later = scores["induction"][layer + 1 :]
    ranked = [np.unravel_index(place, later.shape) for place in np.argsort(-later, axis=None, kind="stable")]
    induction = [(int(layer + 1 + at), int(number)) for at, number in ranked if later[at, number] >= later.max() / 2]
    return Circuit((int(layer), int(head)), induction)


def best_prefix(model: Model, choosing: Repeated, measuring: Repeated, *, seed: int = 0) -> stats.Estimate:
    """Prefix score of a model's best head: chosen on some prompts, measured on others."""
    layer, head = patterns.induction_scores(model, choosing.tokens).mean("example").top(1)[0]
    return patterns.induction_scores(model, measuring.tokens).sel(layer=layer, head=head).estimate(seed=seed)


def copy_loss(model: Model, on: Repeated, edits: Sequence[Edit] = ()) -> Float[np.ndarray, " example"]:
    """Loss of every example on the tokens that an earlier copy determines, in nats."""
    return ablation.loss(model, on.tokens, edits=edits, predicted=on.is_copy).values


def gain_removed(
    whole: Float[np.ndarray, " example"], without: Float[np.ndarray, " example"], d_vocab: int, *, seed: int = 0
) -> stats.Estimate:
    """Share of the in-context gain that goes: Σ (without − whole) / Σ (ln(d_vocab − 1) − whole), prompts resampled together.

    The gain is what a model saves on copied tokens against an even guess among all tokens but BOS.
    """
    return stats.ratio(without - whole, math.log(d_vocab - 1) - whole, seed=seed)


def label(head: Head) -> str:
    """A head as tables and circuits name it: "layer.head"."""
    return f"{head[0]}.{head[1]}"
