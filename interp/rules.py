"""Explanations without a language model: the shortest rule over token labels and nearby tokens that says when a column fires.

    rule = alternative or alternative …      alternative = condition and condition …      condition = a label, or a token nearby

Neurons, autoencoder features and scores of heads are all columns [row column]. A rule is searched on half of the documents and
scored on the others, beside what the same search finds for columns whose rows are shuffled.

The search grows one alternative after another, condition by condition, by the F1 of the whole rule over all rows, not a sample;
a condition stays only if it is worth `COST` of F1. Decision trees grow for purity, not for F1: on 60 features of the shipped
model their rules of the same F1 need twice the conditions.

Must not know: models, autoencoders, how text is tokenised or labelled.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from jaxtyping import Bool, Float, Int
from scipy import sparse

from interp import stats
from interp.association import Columns, split_documents
from interp.errors import ConfigError

Sparse = Any
"""A scipy sparse array; its type stubs know neither shapes nor slices."""

NEARBY = {0: "token", -1: "previous token", -2: "token 2 before", -3: "token 3 before", 1: "next token"}
"""Whose identity a condition may name, by its distance from the row."""

COST = 0.02
"""F1 that one more condition must be worth."""

MAX_ALTERNATIVES, MAX_CONDITIONS, BEAM = 3, 3, 4
"""Alternatives of a rule, conditions of an alternative, and first conditions that are tried for each."""

LEAST = 10
"""Rows on which a column must fire, in the half that rules are searched on, to get one."""


class Condition(NamedTuple):
    """`subject` is "word", or, for a label, `word` alone."""

    subject: str
    word: str

    def text(self, holds: bool) -> str:
        """In words, or its opposite."""
        if self.subject:
            return f"{self.subject} is {'' if holds else 'not '}{json.dumps(self.word, ensure_ascii=False)}"
        return self.word if holds else f"not {self.word}"


@dataclass(frozen=True)
class Conditions:
    """All that rules may speak of, for every row. matrix: csr [row condition], 1 where it holds."""

    matrix: Sparse
    names: tuple[Condition, ...]


@dataclass(frozen=True)
class Rule:
    """Alternatives of conditions, each (its number in `Conditions`, whether it must hold). No alternatives: it never holds."""

    alternatives: tuple[tuple[tuple[int, bool], ...], ...] = ()

    @property
    def size(self) -> int:
        """Conditions in all."""
        return sum(map(len, self.alternatives))

    def holds(self, conditions: Conditions) -> Bool[np.ndarray, "row"]:
        """On which rows."""
        return _holds(self, sparse.csc_array(conditions.matrix))

    def text(self, conditions: Conditions) -> str:
        """In words: `token is "(" and in call`; alternatives that differ in the token only are joined: `token is "(" or "["`."""
        parts: dict[str, list[str]] = {}  # what is said, or the subject of a lone token and its words
        for alternative in self.alternatives:
            (place, holds), *more = alternative
            subject, word = conditions.names[place]
            if subject and holds and not more:
                parts.setdefault(subject, []).append(json.dumps(word, ensure_ascii=False))
            else:
                words = " and ".join(conditions.names[which].text(holds) for which, holds in alternative)
                parts[f"({words})" if more and len(self.alternatives) > 1 else words] = []
        return " or ".join(f"{said} is {' or '.join(words)}" if words else said for said, words in parts.items())


def conditions(
    tokens: Int[np.ndarray, "row"],
    groups: Int[np.ndarray, "row"],
    labels: Mapping[str, np.ndarray],
    vocabulary: Sequence[str],
    *,
    least: int = 20,
) -> Conditions:
    """The conditions of a labelled text: every label, and every token at the distances of `NEARBY`, met in `least` rows or more.

    tokens, groups: token id and document of each row; rows of a document stand together, in reading order.
    labels: name → [row]; one that counts becomes several conditions "name ≥ n", n from quantiles of its values.
    vocabulary: the string of every token id.

    Raises ConfigError for lengths that differ, and when no condition is left.
    """
    wrong = [name for name, values in {**labels, "groups": groups}.items() if len(values) != len(tokens)]
    if wrong:
        raise ConfigError(f"{', '.join(wrong)} do not have one value for each of {len(tokens)} tokens; give the same rows")
    names, parts = [], []
    for name, values in labels.items():
        words = name.replace("_", " ")
        counts = values.dtype != bool
        found = {f"{words} ≥ {cut}": values >= cut for cut in _cuts(values)} if counts else {words: values}
        names += [Condition("", word) for word in found]
        parts += [sparse.csc_array(np.asarray(holds, np.int32)[:, None]) for holds in found.values()]
    for distance, subject in NEARBY.items():
        row = np.arange(len(tokens))
        near = np.clip(row + distance, 0, max(len(tokens) - 1, 0))
        there = np.flatnonzero((near == row + distance) & (groups[near] == groups))
        known, column = np.unique(tokens[near[there]], return_inverse=True)
        names += [Condition(subject, str(vocabulary[token])) for token in known]
        entries = (np.ones(len(there), np.int32), (there, column))
        parts.append(sparse.csc_array(entries, shape=(len(tokens), len(known))))
    matrix: Sparse = sparse.csc_array(sparse.hstack(parts))
    kept = np.flatnonzero(matrix.sum(0) >= least)
    if len(kept) == 0:
        raise ConfigError(f"no label and no token is met in {least} of {len(tokens)} rows; give more text or a smaller least")
    return Conditions(sparse.csr_array(matrix[:, kept]), tuple(names[place] for place in kept))


def strongest(columns: Float[np.ndarray, "row column"], *, share: float = 0.02) -> sparse.csc_array:
    """Where dense columns "fire": the rows with the largest `share` of each column's values, if they are above 0."""
    threshold = np.maximum(np.quantile(columns, 1 - share, axis=0), 0)
    return sparse.csc_array(columns > threshold)


def find(fires: Columns, known: Conditions) -> list[Rule]:
    """The rule of each column with the best F1 on all rows given, less `COST` for every condition.

    fires: [row column], true where it is not 0. A column that fires on fewer than `LEAST` rows gets a rule without alternatives.
    """
    search = _Search(known.matrix)
    active: Sparse = sparse.csc_array(sparse.csc_array(fires) != 0, dtype=np.int32)
    rules = []
    for first in range(0, active.shape[1], 256):
        some = active[:, first : first + 256]
        hits: Sparse = sparse.csr_array(some.T) @ known.matrix
        for column in range(some.shape[1]):
            rows = some.indices[some.indptr[column] : some.indptr[column + 1]]
            enough = len(rows) >= LEAST
            rules.append(search.rule(rows, hits[[column]].toarray()[0]) if enough else Rule())
    return rules


def explain(
    columns: Columns, known: Conditions, groups: Int[np.ndarray, "row"], *, seed: int = 0, resamples: int = 500
) -> pd.DataFrame:
    """A rule for every column, searched on half of the documents and scored on the other half, beside its shuffled null.

    columns: [row column], a column fires where it is not 0 (`strongest` for columns that are dense). groups: the document of
    each row. Gives one row per column and `source` ("columns", "shuffled"): column, rule (in words, "" where none was found),
    conditions (how many), rate (how often the column fires), precision, recall and f1 on the documents that the rule was not
    searched on, and the ends of their intervals (bootstrap over those documents). Without a rule all scores are 0.

    Raises ConfigError when lengths differ or there are fewer than two documents.
    """
    active: Sparse = sparse.csr_array(sparse.csr_array(columns) != 0, dtype=np.int32)
    if not active.shape[0] == known.matrix.shape[0] == len(groups):
        raise ConfigError(
            f"{active.shape[0]} rows of columns, {known.matrix.shape[0]} of conditions and {len(groups)} of groups; "
            "they must be the same rows"
        )
    half = split_documents(groups, seed=seed)
    order = stats.generator(seed, "shuffle columns").permutation(len(groups))
    documents = np.unique(groups[~half], return_inverse=True)[1]
    weights = _resampled(int(documents.max()) + 1, resamples, seed)
    held_out: Sparse = sparse.csc_array(known.matrix[~half])
    tables = []
    for source, fires in {"columns": active, "shuffled": active[order]}.items():
        rules = find(fires[half], Conditions(known.matrix[half], known.names))
        truth: Sparse = sparse.csc_array(fires[~half])
        tally = np.stack(
            [
                _tally(_holds(rule, held_out), truth[:, [column]].toarray()[:, 0] > 0, documents)
                for column, rule in enumerate(rules)
            ]
        )
        about = {
            "column": np.arange(len(rules)),
            "source": source,
            "rule": [rule.text(known) for rule in rules],
            "conditions": [rule.size for rule in rules],
            "rate": np.asarray(fires.sum(0)).ravel() / len(groups),
        }
        tables.append(pd.DataFrame(about | _intervals(tally, weights)))
    return pd.concat(tables, ignore_index=True).sort_values(["column", "source"], kind="stable", ignore_index=True)


class _Found(NamedTuple):
    """An alternative: the F1 of the rule with it, its conditions, and the rows it adds."""

    f1: float
    conditions: tuple[tuple[int, bool], ...]
    rows: np.ndarray

    @property
    def worth(self) -> float:
        return self.f1 - COST * len(self.conditions)


class _Search:
    """The search for one rule after another over the same rows."""

    def __init__(self, matrix: Sparse) -> None:
        self._rows: Sparse = matrix
        self._columns: Sparse = sparse.csc_array(matrix)
        self._sizes = np.diff(self._columns.indptr)
        self._fires = np.zeros(matrix.shape[0], bool)
        self._covered = np.zeros(matrix.shape[0], bool)

    def rule(self, fires: Int[np.ndarray, "hit"], hits: Int[np.ndarray, "condition"]) -> Rule:
        """fires: rows on which the column fires. hits: how many of them have each condition."""
        self._fires[:], self._covered[:] = False, False
        self._fires[fires] = True
        alternatives, f1 = [], 0.0
        for _ in range(MAX_ALTERNATIVES):
            inside = np.flatnonzero(self._covered)
            best = self._alternative(hits - self._count(inside[self._fires[inside]]), self._sizes - self._count(inside))
            if best.worth <= f1:
                break
            alternatives.append(best.conditions)
            f1 = best.f1
            self._covered[best.rows] = True
        return Rule(tuple(alternatives))

    def _alternative(self, hits: Int[np.ndarray, "condition"], sizes: Int[np.ndarray, "condition"]) -> _Found:
        """The best alternative for the rows not covered yet. hits, sizes: of those rows, how many have each condition."""
        scores = self._f1(hits, sizes)
        firsts = np.argsort(-scores, kind="stable")[:BEAM]
        return max((self._grown(int(first), float(scores[first])) for first in firsts), key=lambda found: found.worth)

    def _grown(self, first: int, f1: float) -> _Found:
        """The alternative that begins with a condition, and goes on with whatever adds most."""
        rows = self._with(first)
        found = _Found(f1, ((first, True),), rows[~self._covered[rows]])
        while len(found.conditions) < MAX_CONDITIONS:
            fires = found.rows[self._fires[found.rows]]
            hits, sizes = self._count(fires), self._count(found.rows)
            both = np.stack([self._f1(len(fires) - hits, len(found.rows) - sizes), self._f1(hits, sizes)])
            holds, more = (int(index) for index in np.unravel_index(both.argmax(), both.shape))
            if both[holds, more] - found.f1 < COST:
                break
            rows = found.rows[np.isin(found.rows, self._with(more)) == bool(holds)]
            found = _Found(float(both[holds, more]), (*found.conditions, (more, bool(holds))), rows)
        return found

    def _f1(self, hits: np.ndarray, sizes: np.ndarray) -> Float[np.ndarray, "condition"]:
        """Of the rule with an alternative that adds so many rows, so many of them right."""
        right, guessed, there = (self._fires & self._covered).sum(), self._covered.sum(), self._fires.sum()
        return 2 * (right + hits) / (guessed + sizes + there)

    def _count(self, rows: Int[np.ndarray, "row"]) -> Int[np.ndarray, "condition"]:
        """How many of some rows have each condition."""
        return np.bincount(self._rows[rows].indices, minlength=len(self._sizes))

    def _with(self, condition: int) -> Int[np.ndarray, "row"]:
        return self._columns.indices[self._columns.indptr[condition] : self._columns.indptr[condition + 1]]


def _holds(rule: Rule, columns: Sparse) -> Bool[np.ndarray, "row"]:
    found = np.zeros(columns.shape[0], bool)
    for alternative in rule.alternatives:
        whole = np.ones(columns.shape[0], bool)
        for place, holds in alternative:
            has = np.zeros(columns.shape[0], bool)
            has[columns.indices[columns.indptr[place] : columns.indptr[place + 1]]] = True
            whole &= has == holds
        found |= whole
    return found


def _cuts(values: np.ndarray) -> np.ndarray:
    """Values that part a count into eighths, the smallest value left out."""
    if len(values) == 0:
        return np.empty(0, np.int64)
    found = np.unique(np.quantile(values, np.arange(1, 8) / 8, method="nearest"))
    return found[found > values.min()].astype(np.int64)


def _tally(guess: np.ndarray, truth: np.ndarray, documents: np.ndarray) -> Float[np.ndarray, "document 3"]:
    """Per document: rows on which both hold, the rule, the column."""
    return np.stack([np.bincount(documents, weights) for weights in (guess & truth, guess, truth)], axis=1)


def _resampled(n: int, resamples: int, seed: int) -> Float[np.ndarray, "resample n"]:
    """How often each of n documents is drawn: once each in the first row, then by bootstrap."""
    draws = stats.generator(seed, "bootstrap", resamples).multinomial(n, np.full(n, 1 / n), size=resamples)
    return np.concatenate([np.ones((1, n)), draws])


def _intervals(tally: Float[np.ndarray, "column document 3"], weights: np.ndarray) -> dict[str, np.ndarray]:
    right, guessed, there = np.moveaxis(np.einsum("rd,cdk->crk", weights, tally, optimize=True), -1, 0)
    found = {}
    for name, above, below in (("precision", right, guessed), ("recall", right, there), ("f1", 2 * right, guessed + there)):
        values = np.divide(above, below, out=np.zeros_like(above), where=below > 0)
        low, high = np.quantile(values[:, 1:], [0.025, 0.975], axis=1)
        found |= {name: values[:, 0], f"{name}_low": low, f"{name}_high": high}
    return found
