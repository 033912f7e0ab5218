"""Probes: what a simple model can read off activations, on documents it was not fitted on, beside what it reads off nothing.

Kinds: logistic regression (yes-or-no labels), ridge regression (counts), k-sparse (logistic regression on the k columns whose
means differ most; Gurnee et al. 2023, arXiv:2305.01610). Controls: labels whose rows are shuffled; random features (a random
vector per token id, what token identity alone gives); and any others, such as an untrained model's activations.

Must not know: models, autoencoders, where activations came from.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, Protocol

import numpy as np
import pandas as pd
from jaxtyping import Bool, Float, Int
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.metrics import roc_auc_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from interp import stats
from interp.association import split_documents
from interp.errors import ConfigError

SHUFFLED = "shuffled labels"
Scorer = Callable[[np.ndarray], float]
"""The score of some of the held-out rows, by their numbers."""


class Store(Protocol):
    """An activation store, as far as probes are concerned."""

    def batches(self, hooks: str, *, rows: int, seed: int) -> Iterable[Any]: ...


@dataclass(frozen=True)
class Rows:
    """A bounded sample of activation rows: x [row d], the token, document and position of each, and its labels."""

    x: Float[np.ndarray, "row d"]
    tokens: Int[np.ndarray, "row"]
    groups: Int[np.ndarray, "row"]
    labels: dict[str, np.ndarray]


def probe(
    x: Float[np.ndarray, "row d"],
    labels: Mapping[str, np.ndarray],
    groups: Int[np.ndarray, "row"],
    *,
    k: int = 0,
    controls: Mapping[str, np.ndarray] | None = None,
    seed: int = 0,
    resamples: int = 200,
) -> pd.DataFrame:
    """Fits one probe per label on 70 % of the documents and scores it on the rest, beside the same probe on controls.

    x: activations; labels: name → [row], bool for a logistic and int for a ridge probe; groups: the document of each row.
    k: 0 for a probe on all columns; above, a k-sparse probe, its columns chosen on the training documents.
    controls: name → [row width], other features of the same rows.

    Gives one row per label and source ("activations", the controls, "shuffled labels"): probe, metric (AUROC or R²),
    score with low and high (bootstrap over held-out documents), rate (how often the label holds, or its mean); and, for every
    source but "activations", gain: the score of "activations" minus this one, with gain_low and gain_high, paired by document.
    Labels that do not vary in one of the parts are left out.

    Raises ConfigError for lengths that differ, non-finite values, k out of range, or fewer than two documents.
    """
    _check(x, labels, groups, controls or {}, k)
    train = split_documents(groups, seed=seed, share=0.7)
    order = stats.generator(seed, "shuffle labels").permutation(len(x))
    rows = []
    for name, values in labels.items():
        y = np.asarray(values)
        if any(np.ptp(y[part].astype(np.float64)) == 0 for part in (train, ~train)):
            continue
        sources = {"activations": (x, y)} | {control: (other, y) for control, other in (controls or {}).items()}
        metric = _auroc if y.dtype == bool else _r2
        about = {
            "probe": ("logistic" if y.dtype == bool else "ridge") + (f", {k} columns" if k else ""),
            "metric": "AUROC" if y.dtype == bool else "R²",
            "rate": float(y.mean()),
            "rows": len(x),
        }
        over_documents = partial(_bootstrap, groups=groups[~train], resamples=resamples, seed=seed)
        scorers: dict[str, Scorer] = {}
        for source, (features, target) in (sources | {SHUFFLED: (x, y[order])}).items():
            scorers[source] = partial(_scored, metric, target[~train], _fit(features, target, train, k))
            score = over_documents(scorers[source])
            row = {"label": name, "source": source, "score": score.value, "low": score.low, "high": score.high}
            if source != "activations":
                gain = over_documents(partial(_difference, scorers["activations"], scorers[source]))
                row |= {"gain": gain.value, "gain_low": gain.low, "gain_high": gain.high}
            rows.append(row | about | {"documents": score.n})
    return pd.DataFrame(rows)


def rows_from_store(
    store: Store,
    hook: str,
    lookup: Callable[[np.ndarray, np.ndarray], Mapping[str, np.ndarray]],
    *,
    max_rows: int = 20_000,
    seed: int = 0,
) -> Rows:
    """A random sample of at most `max_rows` rows of a store, with their labels.

    lookup: (document, position) → labels of those tokens (`text.label_table.LabelTable.rows`).
    Raises ConfigError for a store without rows.
    """
    parts, size = [], 0
    for batch in store.batches(hook, rows=4096, seed=seed):
        parts.append(batch)
        size += len(batch.tokens)
        if size >= max_rows:
            break
    if size == 0:
        raise ConfigError(f"the store holds no rows of {hook}; harvest some first")
    x = np.concatenate([part.activations[hook].float().cpu().numpy() for part in parts])[:max_rows]
    columns = (
        np.concatenate([getattr(part, name).cpu().numpy() for part in parts])[:max_rows]
        for name in ("tokens", "document", "position")
    )
    tokens, document, position = columns
    return Rows(x, tokens, document, dict(lookup(document, position)))


def probe_store(
    store: Store,
    hook: str,
    lookup: Callable[[np.ndarray, np.ndarray], Mapping[str, np.ndarray]],
    *,
    k: int = 0,
    max_rows: int = 20_000,
    seed: int = 0,
) -> pd.DataFrame:
    """`probe` on a sample of a store, with token identity (a random vector per token id) as the random-feature control."""
    sample = rows_from_store(store, hook, lookup, max_rows=max_rows, seed=seed)
    control = random_token_features(sample.tokens, sample.x.shape[1], seed=seed)
    return probe(sample.x, sample.labels, sample.groups, k=k, controls={"token identity": control}, seed=seed)


def random_token_features(tokens: Int[np.ndarray, "row"], width: int, *, seed: int = 0) -> Float[np.ndarray, "row width"]:
    """A fixed random Gaussian vector for every token id: features that know the token and nothing else."""
    ids, index = np.unique(tokens, return_inverse=True)
    return stats.generator(seed, "token features").standard_normal((len(ids), width), dtype=np.float32)[index]


def fill_report(report: Any, table: pd.DataFrame, *, hook: str, at_least: float = 0.05) -> None:
    """Puts a probe table into a report: the table, and a claim per label that activations beat the best control by `at_least`.

    The claim's value is the gain over the strongest control; beside it stands what the weakest control gains over the same.
    """
    report.table("probes", table, caption=f"Probes on {hook}: scores on held-out documents, with 95 % intervals over documents.")
    for label, part in table.groupby("label", sort=False):
        own = part[part.source == "activations"].iloc[0]
        others = part[part.source != "activations"]
        best, weakest = others.loc[others.score.idxmax()], others.loc[others.score.idxmin()]
        report.claim(
            f"probe-{str(label).replace('_', '-')}",
            f"{label} can be read off {hook} better than off {best.source}, by",
            stats.Estimate(best.gain, best.gain_low, best.gain_high, int(own.documents)),
            at_least=at_least,
            unit=own.metric,
            source="target of this report",
            control=weakest.score - best.score,
            control_text=f"{weakest.source} against {best.source}",
        )


def _fit(x: np.ndarray, y: np.ndarray, train: Bool[np.ndarray, "row"], k: int) -> Float[np.ndarray, "held_out"]:
    """Scores of the held-out rows by a probe fitted on the training rows."""
    if k:
        x = x[:, _most_different(x[train], y[train], k)]
    model: Any = LogisticRegression(C=1.0, max_iter=300, tol=1e-3) if y.dtype == bool else Ridge(alpha=1.0)
    pipeline = make_pipeline(StandardScaler(), model).fit(x[train], y[train])
    return pipeline.decision_function(x[~train]) if y.dtype == bool else pipeline.predict(x[~train])


def _most_different(x: np.ndarray, y: np.ndarray, k: int) -> np.ndarray:
    """The k columns with the largest |difference of means| (bool) or |covariance| (int), in units of their spread."""
    centred = y.astype(np.float64) - y.mean()
    strength = np.abs(centred @ x) / np.maximum(x.std(0), 1e-12)
    return np.argsort(-strength, kind="stable")[:k]


def _auroc(truth: np.ndarray, guess: np.ndarray) -> float:
    return float(roc_auc_score(truth, guess)) if 0 < truth.mean() < 1 else 0.5


def _r2(truth: np.ndarray, guess: np.ndarray) -> float:
    spread = np.square(truth - truth.mean()).sum()
    return 1 - float(np.square(truth - guess).sum() / spread) if spread else 0.0


def _scored(metric: Callable[..., float], truth: np.ndarray, guess: np.ndarray, rows: np.ndarray) -> float:
    index = rows.astype(np.int64)
    return metric(truth[index], guess[index])


def _difference(first: Scorer, second: Scorer, rows: np.ndarray) -> float:
    return first(rows) - second(rows)


def _bootstrap(scorer: Scorer, *, groups: np.ndarray, resamples: int, seed: int) -> stats.Estimate:
    """Of a score of the held-out rows, whole documents resampled."""
    return stats.bootstrap(np.arange(len(groups)), statistic=scorer, groups=groups, resamples=resamples, seed=seed)


def _check(
    x: np.ndarray, labels: Mapping[str, np.ndarray], groups: np.ndarray, controls: Mapping[str, np.ndarray], k: int
) -> None:
    if not labels:
        raise ConfigError("there are no labels to probe for; give at least one")
    for name, values in {**labels, **controls, "groups": groups}.items():
        if len(values) != len(x):
            raise ConfigError(f"{name} has {len(values)} rows and the activations have {len(x)}; they must be the same rows")
    for name, values in {"activations": x, **controls}.items():
        if not np.isfinite(values).all():
            raise ConfigError(
                f"{name} hold {int((~np.isfinite(values)).sum())} non-finite values; drop those rows before probing"
            )
    if not 0 <= k <= x.shape[1]:
        raise ConfigError(f"k={k} columns cannot be chosen from {x.shape[1]}; use 1 to {x.shape[1]}, or 0 for all")
