"""Feature absorption: where a label holds, is it told by its own latents, or by more special ones that swallowed it?

As in SAEBench (Karvonen et al. 2025, arXiv:2503.09532; Chanin et al. 2024, arXiv:2409.14507), on labels of tokens instead of
first letters of words. For a label with probe direction p, main latents M, and codes f on an activation x:

    main = Σ_{j∈M} f_j d_j·p      absorbers = the 3 largest f_j d_j·p > 0 of other latents with cos(d_j, p) ≥ 0.1
    fraction = a / (a + main), a = min(Σ absorbers, x·p - main);   0 if main ≥ x·p or Σ absorbers < 0.4 x·p;   1 if main ≤ 0
    full = no main latent fires, and the latent with the largest f_j d_j·p has cos ≥ 0.025 and gives at least 0.4 x·p

The published code takes f_j cos(d_j, p), which is this for unit decoder rows; here, the lengths of rows do not matter.

Must not know: models, how labels were made.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd
from jaxtyping import Bool, Float, Int
from scipy import sparse
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import f1_score

from interp import stats
from interp.association import Columns, split_documents
from interp.errors import ConfigError

ABSORBERS, ABSORBER_COSINE, FULL_COSINE, PROPORTION = 3, 0.1, 0.025, 0.4
MAIN, JUMP = 10, 0.03
"""Main latents: at most so many, each worth that much F1 of a probe on them."""


def absorption(
    x: Float[np.ndarray, "row d"],
    codes: Columns,
    decoder: Float[np.ndarray, "d_sae d"],
    labels: Mapping[str, Bool[np.ndarray, "row"]],
    groups: Int[np.ndarray, "row"],
    *,
    seed: int = 0,
) -> pd.DataFrame:
    """How much of each label is absorbed, on the documents that probe and main latents were not chosen on.

    x: activations; codes: the autoencoder's codes of the same rows, dense or sparse; decoder: its rows, of any length; groups:
    documents.

    Gives one row per label: absorption (mean fraction) and full (share of tokens) with the ends of their intervals (bootstrap
    over documents), over the `tokens` held-out tokens that have the label and on which the probe finds it; main (latents) with
    main_f1 and the probe's probe_f1. Labels without such tokens are left out; where probe_f1 is low, the rest means little.

    Raises ConfigError for lengths that differ and for fewer than two documents.
    """
    matrix: Any = sparse.csc_array(codes)
    lengths = {len(x), matrix.shape[0], len(groups), *map(len, labels.values())}
    if len(lengths) > 1 or matrix.shape[1] != len(decoder):
        raise ConfigError(
            f"activations {x.shape}, codes {matrix.shape}, decoder {decoder.shape}, labels of {sorted(lengths)} rows do not fit; "
            "give the codes and labels of the same rows"
        )
    half = split_documents(groups, seed=seed)
    rows = []
    for name, truth in labels.items():
        if min(truth[half].sum(), (~truth)[half].sum()) < MAIN:
            continue
        probe = LogisticRegression(max_iter=300, tol=1e-3).fit(x[half], truth[half])
        found = probe.predict(x[~half])
        main, main_f1 = _main_latents(matrix, truth, half)
        counts = np.flatnonzero(~half)[truth[~half] & found]
        if len(counts) == 0:
            continue
        fraction, full = _absorbed(x[counts], matrix[counts], decoder, probe.coef_[0], main)
        row = {"label": name, "tokens": len(counts)}
        for score, values in (("absorption", fraction), ("full", full)):
            mean = stats.bootstrap(values, groups=groups[counts], seed=seed)
            row |= {score: mean.value, f"{score}_low": mean.low, f"{score}_high": mean.high}
        rows.append(row | {"main": tuple(main.tolist()), "main_f1": main_f1, "probe_f1": f1_score(truth[~half], found)})
    return pd.DataFrame(rows)


def _main_latents(codes: Any, truth: np.ndarray, half: np.ndarray) -> tuple[Int[np.ndarray, "main"], float]:
    """The latents whose means differ most with the label, as many as a probe on them gains from; and its held-out F1."""
    train = codes[half]
    count = train.shape[0]
    mean, square = train.sum(0) / count, train.power(2).sum(0) / count
    spread = np.sqrt(np.maximum(square - mean**2, 0))
    centred = truth[half] - truth[half].mean()
    strength = np.divide(centred @ train, spread, out=np.zeros_like(spread), where=spread > 1e-12)
    ranked = np.argsort(-strength, kind="stable")[:MAIN]
    ranked = ranked[: max(1, int((strength[ranked] > 0).sum()))]
    chosen, kept, known = 0, 0.0, 0.0
    for k in range(1, len(ranked) + 1):
        columns = codes[:, ranked[:k]].toarray() / np.maximum(spread[ranked[:k]], 1e-12)
        probe = LogisticRegression(max_iter=300, tol=1e-3).fit(columns[half], truth[half])
        f1 = f1_score(truth[half], probe.predict(columns[half]))
        if k > 1 and f1 - known < JUMP:
            break
        chosen, known = k, f1
        kept = f1_score(truth[~half], probe.predict(columns[~half]))
    return ranked[:chosen], float(kept)


def _absorbed(
    x: np.ndarray, codes: Any, decoder: np.ndarray, direction: np.ndarray, main: np.ndarray
) -> tuple[Float[np.ndarray, "row"], Float[np.ndarray, "row"]]:
    """Absorption fraction and full absorption of every row."""
    probe = direction / np.linalg.norm(direction)
    along = decoder @ probe
    cosine = along / np.maximum(np.linalg.norm(decoder, axis=1), 1e-12)
    others = np.ones(len(decoder), bool)
    others[main] = False
    fraction, full = np.zeros(len(x)), np.zeros(len(x))
    for first in range(0, len(x), 1024):
        part = slice(first, first + 1024)
        given = codes[part].toarray()
        written, whole = given * along, x[part] @ probe
        own = written[:, main].sum(1)
        pool = np.where(others & (cosine >= ABSORBER_COSINE), np.maximum(written, 0), 0)
        n = min(ABSORBERS, pool.shape[1])
        swallowed = np.partition(pool, -n, axis=1)[:, -n:].sum(1)
        taken = np.clip(np.minimum(swallowed, whole - own), 0, None)
        total = taken + np.maximum(own, 0)
        share = np.divide(taken, total, out=np.zeros_like(total), where=total > 0)
        fraction[part] = np.where(
            (whole <= 0) | (own >= whole) | (swallowed < PROPORTION * whole), 0, np.where(own <= 0, 1.0, share)
        )
        top = written.argmax(1)
        enough = np.take_along_axis(written, top[:, None], 1)[:, 0] >= PROPORTION * whole
        full[part] = (given[:, main] == 0).all(1) & (cosine[top] >= FULL_COSINE) & (whole > 0) & enough
    return fraction, full
