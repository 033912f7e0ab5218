"""What heads can make of positions: tables as shifts and as waves, scores as functions of distance.

    shift      PE(p + k) = M_k PE(p)          a table whose shifts are linear maps lets a head look k tokens back at any p
    wave       P_f = Σ_d |Σ_p t[p, d] e^(−2πi f p / n)|²          how much of a table turns f times over its n rows
    distance   s[i, j] = g(i − j)             scores that rotary positions give where all tokens are alike

Sources: Vaswani et al. 2017 (arXiv:1706.03762), §3.5; Su et al. 2021 (arXiv:2104.09864), §3.4.1. Must not know: figures, reports.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from interp.errors import ModelError
from interp.measurement import Measurement

Shift = Callable[[int, int], Tensor]
"""(k, d_model) -> the matrix that should take the vector of position p to that of p + k."""


def shift_errors(table: Float[Tensor, "pos d_model"], shift: Shift) -> Measurement:
    """max over p and components of |t[p + k] − M_k t[p]|: Measurement(distance), for k = 1 … pos − 1.

    Raises ModelError for fewer than two positions.
    """
    n, width = table.shape
    if n < 2:
        raise ModelError(f"a table of {n} positions has no two to compare; give 2 or more")
    errors = [float((table[k:] - table[:-k] @ shift(k, width).to(table).T).abs().max()) for k in range(1, n)]
    return Measurement("error", np.array(errors), ("distance",), {"distance": range(1, n)})


def power_by_frequency(table: Float[Tensor, "pos d_model"]) -> Measurement:
    """Share of a table's power at each frequency, its mean over positions aside: Measurement(frequency), summing to 1.

    Frequencies are in turns over the whole table, 1 … pos / 2. Raises ModelError for a table that is the same in every row.
    """
    waves = torch.fft.rfft(table.double() - table.double().mean(0), dim=0)[1:]
    power = waves.abs().square().sum(1)
    if len(table) % 2 == 0:
        power[-1] /= 2  # every other frequency stands for its negative as well
    if not float(power.sum()) > 0:
        raise ModelError(f"the {len(table)} rows of this table are all alike, so it has no frequency")
    return Measurement("share", (power / power.sum()).numpy(), ("frequency",), {"frequency": range(1, len(power) + 1)})


def by_distance(scores: Float[Tensor, "*batch query key"]) -> Float[Tensor, "*batch distance"]:
    """Mean score at every distance query − key = 0 … n − 1."""
    return torch.stack([each.mean(-1) for each in _diagonals(scores)], -1)


def beyond_distance(scores: Float[Tensor, "*batch query key"]) -> Float[Tensor, "*batch"]:
    """Largest difference between two scores at one distance, over that between any two scores on or behind the query.

    0 exactly where a score is a function of the distance alone.
    """
    diagonals = _diagonals(scores)
    within = torch.stack([each.amax(-1) - each.amin(-1) for each in diagonals], -1).amax(-1)
    everything = torch.cat(diagonals, -1)
    return within / (everything.amax(-1) - everything.amin(-1))


def _diagonals(scores: Tensor) -> list[Tensor]:
    return [scores.diagonal(-distance, -2, -1) for distance in range(scores.shape[-1])]
