"""What happens when along training: measures of the weights kept on the way, when a curve has fallen, and how suddenly.

Olsson et al. 2022 (arXiv:2209.11895) see a phase change: a bump in the loss of transformers while their induction heads form.
A curve is [step], taken as straight between two measured steps.

Must not know: how anything is trained.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
import pandas as pd
from jaxtyping import Float
from torch import Tensor

from interp import stats
from interp.errors import TrainingError
from interp.models.hooked import Model
from interp.stats import Estimate

Curve = Float[np.ndarray, " step"]


@dataclass(frozen=True)
class Curves:
    """Measures along training, example by example."""

    steps: Curve
    values: dict[str, Float[np.ndarray, "example step"]]

    def table(self, names: Mapping[str, str], value: str = "value", by: str = "measure") -> pd.DataFrame:
        """Means over examples of the curves in `names`, each under its name there: columns step, `value` and `by`."""
        parts = [pd.DataFrame({"step": self.steps, value: self.values[name].mean(0), by: text}) for name, text in names.items()]
        return pd.concat(parts, ignore_index=True)

    def ratio_of_falls(self, one: str, other: str, *, resamples: int = 200, seed: int = 0) -> Estimate:
        """The step at which the mean of one curve is `half_fallen` over that of another, of the same examples.

        Raises TrainingError for curves of different numbers of examples.
        """
        first, second = self.values[one], self.values[other]
        if len(first) != len(second):
            raise TrainingError(f"{one} has {len(first)} examples and {other} {len(second)}; compare curves of the same examples")

        def compared(rows: np.ndarray) -> float:
            picked = rows.astype(int)
            falls = (half_fallen(self.steps, each[picked].mean(0)) for each in (first, second))
            return next(falls) / next(falls)

        return stats.bootstrap(np.arange(len(first)), statistic=compared, resamples=resamples, seed=seed)


def measured(
    model: Model,
    states: Mapping[int, Mapping[str, Tensor]],
    measure: Callable[[Model], Mapping[str, Float[np.ndarray, " example"]]],
) -> Curves:
    """What `measure` says of the model with each of the weights that were kept (`Course.states`), in order of steps."""
    steps = sorted(states)
    found = [measure(model.with_weights(states[step], name=f"after {step} steps")) for step in steps]
    return Curves(np.array(steps, dtype=float), {name: np.stack([each[name] for each in found], 1) for name in found[0]})


def half_fallen(steps: Curve, curve: Curve) -> float:
    """The last step at which a curve is half fallen from its largest value to its last; the last of all if it does not fall.

    Give −curve for one that rises.
    Raises TrainingError for a curve of one value.
    """
    if len(curve) < 2:
        raise TrainingError("a curve of one value cannot fall; measure it at more steps")
    level = (curve.max() + curve[-1]) / 2
    if curve[-1] >= level:
        return float(steps[-1])
    above = int(np.flatnonzero(curve > level).max())
    return float(np.interp(-level, -curve[above : above + 2], steps[above : above + 2]))


def crossing(steps: Curve, curve: Curve, level: float) -> float:
    """The first step at which a curve has gone a share `level` of the way from its first value to its last.

    Raises TrainingError for a curve that ends where it began.
    """
    way = curve[-1] - curve[0]
    if not way:
        raise TrainingError(f"a curve of {len(curve)} steps ends at {curve[0]:g}, where it began; give one that changes")
    progress = (curve - curve[0]) / way
    after = max(int(np.argmax(progress >= level)), 1)
    return float(np.interp(level, progress[after - 1 : after + 1], steps[after - 1 : after + 1]))


def place_in_fall(steps: Curve, loss: Curve, score: Curve) -> float:
    """When the score is half risen, on a scale from 0 (a tenth of the loss's fall is done) to 1 (nine tenths are)."""
    start, end = crossing(steps, loss, 0.1), crossing(steps, loss, 0.9)
    return (crossing(steps, score, 0.5) - start) / (end - start)


def steepest_share(steps: Curve, loss: Curve, *, window: float) -> float:
    """The largest share of the whole fall that happens within a window of steps; `window / steps[-1]` for an even fall."""
    starts = np.linspace(steps[0], steps[-1] - window, 200)
    falls = np.interp(starts, steps, loss) - np.interp(starts + window, steps, loss)
    return float(falls.max() / (loss[0] - loss[-1]))
