"""Heads by what they attend to: a class for every head that beats chance clearly, and none for the others.

For every head and kind of target, the excess is the score less its null on the same example: the same attention held against
the targets of shuffled tokens, or, for kinds of positions alone, against as many keys drawn at random. A one-sided t-test over
examples asks whether the mean excess is above `least`, so that a trace of attention makes no class. Holm's rule over all heads
and kinds (Holm 1979) holds the chance of even one false class at `level`.

Must not know: figures, reports, where tokens come from.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
from jaxtyping import Float, Int
from scipy import stats as distributions
from torch import Tensor

from interp import stats
from interp.errors import ConfigError
from interp.heads import patterns
from interp.heads.targets import KINDS
from interp.measurement import Measurement
from interp.models.hooked import Model

LEAST, LEVEL = 0.1, 0.05
NONE = "none"


def tested(
    model: Model,
    tokens: Int[Tensor, "example pos"],
    *,
    attention: str = "self",
    special: tuple[int, ...] = (),
    least: float = LEAST,
    batch: int = 32,
    seed: int = 0,
    **beside: Any,
) -> pd.DataFrame:
    """Every head and kind: layer, head, kind, score with its interval (low, high), null, excess, and p after Holm's rule.

    attention, special, beside: as in `patterns.scores`. least: the excess of attention that a class must be above.
    Raises ConfigError for fewer than 2 examples, and as `patterns.scores`.
    """
    if len(tokens) < 2:
        raise ConfigError(f"{len(tokens)} example says nothing about chance; give at least 2, better 16")
    looked = patterns.attention_of(model, attention)
    common: dict[str, Any] = {"special": special, "batch": batch} | beside
    found = patterns.scores(model, tokens, attention=attention, **common)
    seeded = stats.torch_seed(seed, "shuffled targets", attention)
    nulls = patterns.shuffled_scores(model, tokens, attention=attention, seed=seeded, **common)
    nulls |= patterns.uniform_scores(
        looked.sight(tokens, beside), kinds=[kind for kind in looked.kinds if not KINDS[kind].of_tokens], special=special
    )
    tables = [
        _rows(scores, np.broadcast_to(nulls[kind].values, scores.values.shape), least, seed) for kind, scores in found.items()
    ]
    table = pd.concat(tables, ignore_index=True)
    return table.assign(p=holm(table.p.to_numpy()))


def classes(table: pd.DataFrame, *, level: float = LEVEL) -> pd.DataFrame:
    """One row per head of a table of `tested`: the class, the row it stands on, and the other kinds that pass.

    The class is the kind with the largest excess among those with p ≤ level; a head without one is "none", with its best row.
    """
    rows = []
    for _, head in table.groupby(["layer", "head"], sort=True):
        passed = head.query("p <= @level").sort_values("excess", ascending=False)
        best = (passed if len(passed) else head.sort_values("excess", ascending=False)).iloc[0]
        also = ", ".join(passed.kind.iloc[1:])
        rows.append(best.to_dict() | {"class": best.kind if len(passed) else NONE, "also": also})
    first = ["layer", "head", "class", "also"]
    found = pd.DataFrame(rows)
    return found.filter(items=first + [name for name in found.columns if name not in first])


def holm(p: Float[np.ndarray, " test"]) -> Float[np.ndarray, " test"]:
    """p-values such that rejecting those up to a level keeps the chance of any false rejection at that level (Holm 1979)."""
    order = np.argsort(p, kind="stable")
    adjusted = np.maximum.accumulate(p[order] * np.arange(len(p), 0, -1))
    return np.minimum(adjusted, 1.0)[np.argsort(order, kind="stable")]


def _rows(scores: Measurement, null: Float[np.ndarray, "layer head example"], least: float, seed: int) -> pd.DataFrame:
    """Every head for one kind."""
    layers, heads, n = scores.values.shape
    own, chance = (values.reshape(-1, n).astype(np.float64) for values in (scores.values, null))
    low, high = _intervals(own, seed)
    return pd.DataFrame(
        {
            "layer": np.repeat(scores.coords["layer"], heads),
            "head": np.tile(np.arange(heads), layers),
            "kind": scores.name,
            "score": own.mean(1),
            "low": low,
            "high": high,
            "null": chance.mean(1),
            "excess": (own - chance).mean(1),
            "p": [_above(row, least) for row in own - chance],
        }
    )


def _intervals(values: Float[np.ndarray, "row example"], seed: int, resamples: int = 2000) -> Float[np.ndarray, "2 row"]:
    """Of every row what `stats.bootstrap` gives for its mean, in one product: how often each resample has each example."""
    n = values.shape[1]
    picks = stats.generator(seed, "bootstrap", resamples).integers(n, size=(resamples, n))
    counts = np.stack([np.bincount(row, minlength=n) for row in picks])
    return np.quantile(values @ counts.T / n, [0.025, 0.975], axis=1)


def _above(values: Float[np.ndarray, " example"], least: float) -> float:
    """p of a one-sided t-test that the mean is above `least`; values that are all alike leave no doubt."""
    spread = values.std(ddof=1) / np.sqrt(len(values))
    if spread < 1e-12:
        return float(values.mean() <= least)
    return float(distributions.t.sf((values.mean() - least) / spread, len(values) - 1))
