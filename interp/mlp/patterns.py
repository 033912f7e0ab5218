"""What the triggers of a neuron have in common, and whether chance would have done as much (after Geva et al. 2021, section 3,
where people looked for patterns; here the text's own tokens and labels are tried, every one, and counted as tries).

Kinds of pattern, the first five shallow, since the last tokens decide them, the last deep:

    token, previous, bigram, trigram   the trigger ends in these tokens
    class      a token label that hardly depends on anything but the token
    position   the trigger is among the first tokens of its document
    context    a token label that the token alone does not tell

Must not know: models, reports.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import pandas as pd
from jaxtyping import Bool, Float, Int

from interp.mlp.keys import Triggers
from interp.text.labelled import LabelledText
from interp.text.labels import INTEGERS

SHALLOW = ("token", "previous", "bigram", "trigram", "class", "position")
_NGRAMS = {"token": (0,), "previous": (1,), "bigram": (1, 0), "trigram": (2, 1, 0)}  # tokens back from the trigger's last
_FIRST = (8, 64)  # "position": among so many first tokens
_TOLD_BY_TOKEN = 0.95  # F1 of the best guess from the token alone, from which a label is a "class"


def patterns(found: Triggers, text: LabelledText, *, at_least: int = 3, level: float = 0.05) -> pd.DataFrame:
    """All significant patterns of the neurons of one hook, the most significant of each neuron first.

    A pattern must hold for `at_least` of the neuron's top triggers (three, after Geva et al.; only triggers with an activation
    above 0 count). Its p is the chance that as many would hold if every trigger were a random token of its own document (the
    tail of a Poisson binomial), so documents full of a property do not make it a finding. Of all neurons and all patterns that
    the text offers, whether they were seen or not, the false discoveries are held at `level` (Benjamini & Hochberg 1995).

    text: the text whose tokens the triggers are. Gives columns neuron, kind, pattern, count, triggers, expected (triggers for
    which it would hold by chance), p, q (the level at which it would just count as a discovery).
    """
    places = _Places.of(found, text)
    parts, tries = [], 0
    for kind, names, values in _labels(text):
        parts.append(_holding(places, text, kind, names, values, at_least))
        tries += len(names)
    for kind, back in _NGRAMS.items():
        grams = _Ngrams.of(text, back)
        parts.append(_ending(places, text, kind, grams, at_least))
        tries += len(grams.tokens)
    table = pd.concat(parts, ignore_index=True)
    table["q"] = _q_values(table.p.to_numpy(), tries * found.value.shape[1])
    return table.query("q <= @level").sort_values(["neuron", "p", "count"], ascending=[True, True, False], ignore_index=True)


@dataclass(frozen=True)
class _Places:
    """Rows of the text in which the triggers end, their documents, and which of them count."""

    row: Int[np.ndarray, "top neuron"]
    document: Int[np.ndarray, "top neuron"]
    fired: Bool[np.ndarray, "top neuron"]

    @classmethod
    def of(cls, found: Triggers, text: LabelledText) -> _Places:
        document = found.document.numpy()
        return cls(text.first[document] + found.position.numpy(), document, (found.value > 0).numpy())


def _labels(text: LabelledText) -> Iterator[tuple[str, list[str], Bool[np.ndarray, "row label"]]]:
    """Labels and positions: kind, names, and where each holds."""
    names = [name for name, values in text.labels.items() if name not in INTEGERS and name != "python" and values.any()]
    if names:
        values = np.stack([text.labels[name] for name in names], axis=1)
        told = _told_by_token(values, text.tokens)
        for kind, chosen in (("class", told), ("context", ~told)):
            yield kind, [name for name, keep in zip(names, chosen, strict=True) if keep], values[:, chosen]
    yield "position", [f"first {n} tokens" for n in _FIRST], text.position[:, None] < np.array(_FIRST)


def _told_by_token(values: Bool[np.ndarray, "row label"], tokens: Int[np.ndarray, " row"]) -> Bool[np.ndarray, " label"]:
    """Whether guessing each label from the token alone, by majority, does well."""
    seen = np.bincount(tokens)
    right, guessed = np.zeros(values.shape[1]), np.zeros(values.shape[1])
    for place, column in enumerate(values.T):
        holds = np.bincount(tokens, column)
        majority = 2 * holds > seen
        right[place], guessed[place] = holds[majority].sum(), seen[majority].sum()
    return 2 * right / np.maximum(guessed + values.sum(0), 1) >= _TOLD_BY_TOKEN


def _holding(
    places: _Places, text: LabelledText, kind: str, names: list[str], values: Bool[np.ndarray, "row label"], at_least: int
) -> pd.DataFrame:
    """The labels that hold for some neuron's triggers."""
    rates = np.stack([part.sum(0) / max(1, len(part)) for part in np.split(values, text.first[1:-1])])
    holds = values[places.row] & places.fired[:, :, None]
    count = holds.sum(0)
    neuron, label = np.nonzero(count >= at_least)
    chance = rates[places.document[:, neuron], label] * places.fired[:, neuron]
    return _table(places, kind, neuron, np.array(names, dtype=object)[label], count[neuron, label], chance)


@dataclass(frozen=True)
class _Ngrams:
    """The n-gram that ends at each row of a text, numbered from 0 (-1 where a document is too short for one), the tokens of each
    number, and how often each is in each document, by `document * len(tokens) + number`."""

    number: Int[np.ndarray, " row"]
    tokens: Int[np.ndarray, "ngram n"]
    keys: Int[np.ndarray, " pair"]
    counts: Int[np.ndarray, " pair"]

    @classmethod
    def of(cls, text: LabelledText, back: tuple[int, ...]) -> _Ngrams:
        rows = np.flatnonzero(text.position >= max(back))
        tokens, inverse = np.unique(np.stack([text.tokens[rows - by] for by in back], axis=1), axis=0, return_inverse=True)
        number = np.full(len(text.tokens), -1)
        number[rows] = inverse.ravel()
        keys, counts = np.unique(text.document[rows] * len(tokens) + inverse.ravel(), return_counts=True)
        return cls(number, tokens, keys, counts)

    def count(self, document: np.ndarray, number: np.ndarray) -> np.ndarray:
        wanted = document * len(self.tokens) + number
        at = np.minimum(np.searchsorted(self.keys, wanted), len(self.keys) - 1)
        return np.where(self.keys[at] == wanted, self.counts[at], 0)


def _ending(places: _Places, text: LabelledText, kind: str, grams: _Ngrams, at_least: int) -> pd.DataFrame:
    """The n-grams in which some neuron's triggers end."""
    number = np.where(places.fired, grams.number[places.row], -1)
    _, column = np.nonzero(number >= 0)
    pair, count = np.unique(column * max(1, len(grams.tokens)) + number[number >= 0], return_counts=True)
    neuron, gram = np.divmod(pair[count >= at_least], max(1, len(grams.tokens)))
    document = places.document[:, neuron]
    chance = places.fired[:, neuron] * grams.count(document, gram) / np.diff(text.first)[document]
    shown = [" ".join(f'"{text.vocabulary[token]}"' for token in grams.tokens[one]) for one in gram]
    words = {"token": "is", "previous": "after"}.get(kind, "ends in")
    return _table(places, kind, neuron, [f"{words} {one}" for one in shown], count[count >= at_least], chance)


def _table(
    places: _Places, kind: str, neuron: np.ndarray, pattern: object, count: np.ndarray, chance: np.ndarray
) -> pd.DataFrame:
    columns = {"neuron": neuron, "kind": kind, "pattern": pattern, "count": count, "triggers": places.fired.sum(0)[neuron]}
    return pd.DataFrame(columns | {"expected": chance.sum(0), "p": _tail(chance, count)})


def _tail(chance: Float[np.ndarray, "trial test"], at_least: Int[np.ndarray, " test"]) -> Float[np.ndarray, " test"]:
    """P[at least so many of independent trials succeed], each with its own chance."""
    exactly = np.zeros((len(chance) + 1, chance.shape[1]))
    exactly[0] = 1
    for one in chance:
        exactly[1:] = exactly[1:] * (1 - one) + exactly[:-1] * one
        exactly[0] *= 1 - one
    return exactly[::-1].cumsum(0)[::-1][at_least, np.arange(len(at_least))]


def _q_values(p: Float[np.ndarray, " test"], tries: int) -> Float[np.ndarray, " test"]:
    """Benjamini and Hochberg's: the false discovery rate at which each test would just be passed, of `tries` made in all."""
    order = np.argsort(p)
    scaled = p[order] * tries / np.arange(1, len(p) + 1)
    q = np.empty_like(p)
    q[order] = np.minimum.accumulate(scaled[::-1])[::-1].clip(max=1)
    return q
