"""How well a column of numbers (a neuron, a feature, a direction) tells where a yes-or-no label holds.

Every measure is exact: a column is sorted once, equal values count as one group, and zeros, which fill most columns of
sparse codes, are one group that is never stored. What is *chosen* (a threshold, the best column) is chosen on one half of the
documents and scored on the other.

Must not know: models, text, autoencoders.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from jaxtyping import Bool, Float, Int
from scipy import sparse
from scipy.stats import rankdata

from interp import stats
from interp.errors import ConfigError

Columns = Any
"""A numpy array [row column], a CPU tensor, or any scipy sparse matrix."""


def rank_correlation(a: Float[np.ndarray, " row"], b: Float[np.ndarray, " row"]) -> float:
    """Spearman's ρ: the correlation of ranks, equal values sharing theirs. NaN where one of them is constant."""
    if np.ptp(a) == 0 or np.ptp(b) == 0:
        return float("nan")
    return float(np.corrcoef(rankdata(a), rankdata(b))[0, 1])


@dataclass(frozen=True)
class Thresholds:
    """For every column and label the threshold t whose rule "value ≥ t" has the best F1, and that F1."""

    threshold: Float[np.ndarray, "column label"]
    f1: Float[np.ndarray, "column label"]


def auroc(columns: Columns, labels: Bool[np.ndarray, "row label"]) -> Float[np.ndarray, "column label"]:
    """P(value where the label holds > value where it does not), ties counting half (Hanley & McNeil 1982).

    NaN for a label that holds everywhere or nowhere.
    """
    matrix, truth = _checked(columns, labels)
    positives = truth.sum(0).astype(np.float64)
    pairs = positives * (len(truth) - positives)
    area = np.empty((matrix.shape[1], truth.shape[1]))
    for index, (_, hits, counts) in enumerate(_cuts(matrix, truth)):
        new_hits = np.diff(hits, axis=0, prepend=0)
        misses = counts[:, None] - hits
        new_misses = np.diff(misses, axis=0, prepend=0)
        area[index] = ((hits - new_hits / 2) * new_misses).sum(0)
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.where(pairs > 0, area / pairs, np.nan)


def best_f1(columns: Columns, labels: Bool[np.ndarray, "row label"]) -> Thresholds:
    """The best threshold of every column for every label, over all thresholds there are. F1 is 0 for a label that never holds."""
    matrix, truth = _checked(columns, labels)
    positives = truth.sum(0)
    shape = (matrix.shape[1], truth.shape[1])
    threshold, score = np.empty(shape), np.empty(shape)
    for index, (values, hits, counts) in enumerate(_cuts(matrix, truth)):
        f1 = 2 * hits / (counts[:, None] + positives)
        best = f1.argmax(0)
        threshold[index], score[index] = values[best], np.take_along_axis(f1, best[None], 0)[0]
    return Thresholds(threshold, score)


def split_documents(groups: Int[np.ndarray, "row"], *, seed: int, share: float = 0.5) -> Bool[np.ndarray, "row"]:
    """True for the rows of a random `share` of the documents. Raises ConfigError for fewer than two documents."""
    documents = np.unique(groups)
    if len(documents) < 2:
        raise ConfigError(
            f"{len(documents)} document cannot be split into a half to choose on and a half to score on; use more documents"
        )
    count = min(max(1, round(share * len(documents))), len(documents) - 1)
    chosen = stats.generator(seed, "split documents").choice(documents, count, replace=False)
    return np.isin(groups, chosen)


def best_columns(
    columns: Columns,
    labels: Mapping[str, np.ndarray],
    groups: Int[np.ndarray, "row"],
    *,
    controls: Mapping[str, Columns] | None = None,
    seed: int = 0,
    resamples: int = 500,
) -> pd.DataFrame:
    """For every label the column with the best F1 on half of the documents, scored on the other half, beside its nulls.

    columns: [row column]; labels: name → [row], true or false; groups: the document of each row.
    controls: other columns of the same rows (random directions, an untrained model): each picks its own best column likewise.
    The null "shuffled" picks the best of the same columns for labels whose rows are permuted.

    Gives one row per label and `source` ("columns", the controls, "shuffled"): column, threshold, f1_chosen (on the half it was
    chosen on), f1 with f1_low and f1_high (bootstrap over documents), precision, recall, auroc, rate (how often the label holds),
    all on the other half; and, for every source but "columns", gain: f1 of "columns" minus this one, with gain_low and gain_high,
    paired by document. Labels that hold nowhere or everywhere in one of the halves are left out.

    Raises ConfigError when lengths differ, for non-finite values, or when there are fewer than two documents.
    """
    names, truth = _stacked(labels, len(groups))
    matrix, truth = _checked(columns, truth)
    half = split_documents(groups, seed=seed)
    usable = (truth[half].std(0) > 0) & (truth[~half].std(0) > 0)
    names, truth = [name for name, keep in zip(names, usable, strict=True) if keep], truth[:, usable]
    order = stats.generator(seed, "shuffle labels").permutation(len(truth))
    rules = {"columns": _choose(matrix, truth, half)}
    rules |= {name: _choose(_checked(control, truth)[0], truth, half) for name, control in (controls or {}).items()}
    rules["shuffled"] = _choose(matrix, truth[order], half)
    _, documents = np.unique(groups[~half], return_inverse=True)
    rows = []
    for place, name in enumerate(names):
        tallies: dict[str, np.ndarray] = {}
        for source, rule in rules.items():
            held_out = truth[order][~half, place] if source == "shuffled" else truth[~half, place]
            values = rule.values[~half, place]
            tallies[source] = _tally(values >= rule.threshold[place], held_out, documents)
            rows.append({"label": name, "source": source} | rule.row(place) | _scores(values, held_out, tallies[source]))
            rows[-1] |= _interval("f1", _f1, [tallies[source]], resamples, seed)
            if source != "columns":
                rows[-1] |= _interval(
                    "gain", lambda a, b: _f1(a) - _f1(b), [tallies["columns"], tallies[source]], resamples, seed
                )
    return pd.DataFrame(rows)


def gain(
    scored: pd.DataFrame, over: str, *, of: str = "columns", score: str = "f1", by: str = "label", seed: int = 0
) -> stats.Estimate:
    """Mean over labels (or what else `by` says) of a score of one source less that of another; labels are resampled.

    scored: a table of `best_columns` or `rules.explain`, one row or several per label and source.
    """
    wide = scored.pivot_table(index=by, columns="source", values=score)
    return stats.paired_difference(wide[of], wide[over], seed=seed)


def beside(scored: pd.DataFrame, name: str) -> pd.DataFrame:
    """One row per label of a table of `best_columns`: the best column, its scores, its F1 as `name`, and that of each control."""
    wide = scored.pivot(index="label", columns="source", values="f1").rename(columns={"columns": name})
    own = scored[scored.source == "columns"].set_index("label")[["column", "precision", "recall", "auroc", "rate"]]
    return own.join(wide).sort_values(name, ascending=False).reset_index()


@dataclass(frozen=True)
class _Rule:
    """For every label the chosen column, its threshold and its values on all rows."""

    column: np.ndarray
    threshold: np.ndarray
    f1: np.ndarray
    values: np.ndarray

    def row(self, label: int) -> dict[str, Any]:
        return {"column": int(self.column[label]), "threshold": float(self.threshold[label]), "f1_chosen": float(self.f1[label])}


def _choose(matrix: Any, truth: np.ndarray, half: np.ndarray) -> _Rule:
    found = best_f1(matrix[half], truth[half])
    column = found.f1.argmax(0)
    pick = (column, np.arange(truth.shape[1]))
    return _Rule(column, found.threshold[pick], found.f1[pick], matrix[:, column].toarray())


def _cuts(matrix: Any, truth: np.ndarray) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """Per column: its different values, largest first; at each, how many rows lie at or above it: with the label, and in all."""
    n, positives = truth.shape[0], truth.sum(0)
    for index in range(matrix.shape[1]):
        part = slice(matrix.indptr[index], matrix.indptr[index + 1])
        rows, values = matrix.indices[part], matrix.data[part]
        order = np.argsort(-values, kind="stable")
        values, found = values[order], truth[rows[order]]
        hits, counts = found.cumsum(0), np.arange(1, len(values) + 1)
        if len(values) < n:  # the zeros that are not stored
            at = int(np.searchsorted(-values, 0.0))
            missing, missing_hits = n - len(values), positives - found.sum(0)
            before = hits[at - 1] if at else np.zeros_like(positives)
            values = np.insert(values, at, 0.0)
            hits = np.concatenate([hits[:at], (before + missing_hits)[None], hits[at:] + missing_hits])
            counts = np.concatenate([counts[:at], [at + missing], counts[at:] + missing])
        last = np.append(values[1:] != values[:-1], True)
        yield values[last], hits[last], counts[last]


def _checked(columns: Columns, labels: np.ndarray) -> tuple[Any, np.ndarray]:
    matrix: Any = sparse.csc_array(columns if sparse.issparse(columns) else np.asarray(columns), copy=True)
    matrix.eliminate_zeros()
    if not np.isfinite(matrix.data).all():
        bad = int((~np.isfinite(matrix.data)).sum())
        raise ConfigError(f"the columns hold {bad} non-finite values; drop those rows before scoring")
    if labels.ndim != 2 or len(labels) != matrix.shape[0]:
        raise ConfigError(
            f"labels of shape {labels.shape} do not fit {matrix.shape[0]} rows of columns; give one label value per row"
        )
    return matrix, labels.astype(bool)


def _stacked(labels: Mapping[str, np.ndarray], n: int) -> tuple[list[str], np.ndarray]:
    wrong = [name for name, values in labels.items() if np.shape(values) != (n,)]
    if wrong or not labels:
        raise ConfigError(
            f"labels {wrong} do not have one value for each of {n} rows" if labels else "there are no labels; give at least one"
        )
    return list(labels), np.stack([np.asarray(values, dtype=bool) for values in labels.values()], axis=1)


def _tally(guess: np.ndarray, truth: np.ndarray, documents: np.ndarray) -> np.ndarray:
    """Per document: right positives, guessed positives, true positives there were. [document 3]"""
    counts = [np.bincount(documents, weights) for weights in (guess * truth, guess, truth)]
    return np.stack(counts, axis=1)


def _f1(tally: np.ndarray) -> float:
    right, guessed, there = tally.sum(0)
    return float(2 * right / (guessed + there)) if guessed + there else 0.0


def _scores(values: np.ndarray, truth: np.ndarray, tally: np.ndarray) -> dict[str, float]:
    right, guessed, there = tally.sum(0)
    area = auroc(values[:, None], truth[:, None])[0, 0]
    return {
        "precision": right / guessed if guessed else 0.0,
        "recall": right / there if there else 0.0,
        "auroc": float(area),
        "rate": float(truth.mean()),
    }


def _interval(name: str, statistic: Any, tallies: list[np.ndarray], resamples: int, seed: int) -> dict[str, float]:
    def of(documents: np.ndarray) -> float:
        return statistic(*(tally[documents] for tally in tallies))

    estimate = stats.resampled(len(tallies[0]), of, resamples=resamples, seed=seed)
    return {name: estimate.value, f"{name}_low": estimate.low, f"{name}_high": estimate.high}
