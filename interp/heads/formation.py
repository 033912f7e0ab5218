"""How an induction circuit forms along training: its loss, its heads' scores and their composition at every checkpoint.

Olsson et al. 2022 (arXiv:2209.11895) see all of them change in one short stretch. Intervals are over prompts, which are resampled
together at all checkpoints.

Must not know: figures, reports, how a model was trained.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from interp import stats
from interp.heads import patterns
from interp.heads.composition import Way
from interp.heads.induction import KINDS, WAYS, Circuit, copy_loss
from interp.models import courses
from interp.models.hooked import Model
from interp.tasks.repeated import Repeated

Along = Float[np.ndarray, "checkpoint example"]


@dataclass(frozen=True)
class Formation:
    """A circuit at every checkpoint.

    loss: on copied tokens, in nats. previous, prefix: attention of the previous-token head and of the best induction head.
    composition: of these two, from the weights, by way.
    """

    steps: Float[np.ndarray, " checkpoint"]
    loss: Along
    previous: Along
    prefix: Along
    composition: dict[Way, Float[np.ndarray, " checkpoint"]]

    def steepest_share(self, window: float, *, seed: int = 0) -> stats.Estimate:
        """`courses.steepest_share` of the mean loss."""
        return self._over(lambda rows: courses.steepest_share(self.steps, self.loss[:, rows].mean(1), window=window), seed)

    def prefix_in_fall(self, *, seed: int = 0) -> stats.Estimate:
        """`courses.place_in_fall` of the mean prefix score in the fall of the mean loss."""

        def place(rows: np.ndarray) -> float:
            return courses.place_in_fall(self.steps, self.loss[:, rows].mean(1), self.prefix[:, rows].mean(1))

        return self._over(place, seed)

    def key_lead(self, level: float, *, seed: int = 0) -> stats.Estimate:
        """K-composition less the larger of Q and V, when a share `level` of the fall of the loss is done."""
        lead = self.composition["K"] - np.maximum(self.composition["Q"], self.composition["V"])

        def then(rows: np.ndarray) -> float:
            return float(np.interp(courses.crossing(self.steps, self.loss[:, rows].mean(1), level), self.steps, lead))

        return self._over(then, seed)

    def _over(self, statistic: Callable[[np.ndarray], float], seed: int) -> stats.Estimate:
        return stats.resampled(self.loss.shape[1], statistic, seed=seed)


def follow(checkpoints: Sequence[tuple[int, Model]], circuit: Circuit, on: Repeated) -> Formation:
    """The circuit along checkpoints (steps taken, the model then), on rows that repeat."""
    heads = dict(zip(KINDS, (circuit.previous, circuit.induction[0]), strict=True))
    scores, ways = [], []
    for _, model in checkpoints:
        found = patterns.scores(model, on.tokens, kinds=KINDS)
        scores.append([found[kind].sel(layer=layer, head=head).values for kind, (layer, head) in heads.items()])
        ways.append(circuit.composition(model))
    previous, prefix = np.stack(scores, axis=1)
    return Formation(
        steps=np.array([step for step, _ in checkpoints], dtype=float),
        loss=np.stack([copy_loss(model, on) for _, model in checkpoints]),
        previous=previous,
        prefix=prefix,
        composition={way: np.array([each[way] for each in ways]) for way in WAYS},
    )
