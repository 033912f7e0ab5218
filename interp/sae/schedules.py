"""How the numbers of training change over its steps: plain functions of the step, and one controller.

Must not know: networks, losses, data.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from interp.errors import TrainingError

REACH = 10.0
"""How many e-folds `controlled` can move a coefficient in one training."""


@dataclass(frozen=True)
class Schedule:
    """A factor over the steps: a linear rise over the share `warmup` of them, 1, and a linear fall to 0 over the last `decay`.

    With warmup 0.05 and decay 1 it rises over the first 5 % and falls from there on; with decay 0 it stays.
    """

    warmup: float = 0.05
    decay: float = 1.0

    def __post_init__(self) -> None:
        if not (0 <= self.warmup <= 1 and 0 <= self.decay <= 1):
            raise TrainingError(
                f"warmup={self.warmup}, decay={self.decay}: both are shares of the steps; use numbers from 0 to 1"
            )

    def at(self, step: int, steps: int) -> float:
        """The factor at one step (from 0) of `steps`."""
        rise = (step + 1) / max(1.0, self.warmup * steps)
        fall = (steps - step) / max(1.0, self.decay * steps) if self.decay > 0 else 1.0
        return min(1.0, rise, fall)


def default_learning_rate(d_in: int) -> float:
    """2e-2 · √(64 / d_in): Adam moves every weight by about the rate, and a unit decoder row has weights of about 1/√d_in.

    Share of planted features found (cosine > 0.9) at half this rate, at it, and at twice it or nearly so:
    n = 512, d = 64, k = 3, 2M tokens: .96, .98, .99; n = 2048, d = 256, k = 8, 1M tokens: .95, .99, .99 (with a worse fvu).
    """
    return 2e-2 * math.sqrt(64 / d_in)


def controlled(coefficient: float, l0: float, target: float, *, steps: int) -> float:
    """The sparsity coefficient after a batch with `l0` active latents per row: integral control of its logarithm.

    λ ← λ · exp(REACH / steps · clip(ln(l0 / target), -1, 1)). It moves slowly on purpose: features are found while many latents
    are active. Planted features found (n = 512, d = 64, l0 = 3, 0.8M tokens) and the l0 of the last tenth of the steps, with a
    reach of 4, 8 and 16: ReLU .90, .82, .75 (3.2, 2.9, 3.0); Gated .83, .84, .80 (2.9, 2.8, 3.0); JumpReLU .01, .62, .81 (6.9,
    2.2, 2.3).
    """
    excess = math.log(max(l0, 1e-6) / target)
    return coefficient * math.exp(REACH / steps * max(-1.0, min(1.0, excess)))
