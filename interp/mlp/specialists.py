"""What experts are for: the tokens and labels that they take beyond chance, which are chosen together, which agree across layers.

Every table has its null beside it: choices that are dealt out again among tokens, or drawn independently of one another.

Must not know: figures, reports, tokenizers, models.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import combinations
from typing import Any

import numpy as np
import pandas as pd
from jaxtyping import Float, Int, Shaped
from scipy import sparse

from interp import stats
from interp.errors import ConfigError
from interp.mlp.routing import Decisions, by_document, interval


def taken(found: Decisions, *, top: int = 10, at_least: int = 5, shuffles: int = 200, seed: int = 0) -> pd.DataFrame:
    """The tokens that every expert takes beyond chance: up to `top`, those that stand out most first.

    Chance deals the choices of every document out again among its tokens, so a document about something does not make an expert
    for it. Tokens that come less often than `at_least` times are left out. Columns

        layer, expert, token
        rows            how often the token comes
        count           how often it goes to the expert
        expected        the same by chance, in the mean
        lift, lift_low, lift_high   count / expected, with its interval over documents
        p               share of `shuffles` deals in which any token of the layer exceeds its expectation by as much, in
                        √expected, with any expert: all tokens and experts are counted as tries

    Raises ConfigError where no token comes often enough.
    """
    common = _Common.of(found, at_least)
    parts = []
    for layer in found.logits:
        chosen = found.chosen(layer).numpy().astype(np.float64)
        rates = by_document(common.document, chosen) / np.bincount(common.document)[:, None]
        count, expected = common.where @ chosen, common.there.T @ rates
        excess = _excess(count, expected)
        deals = _dealt(common.document, shuffles, seed=seed)
        most = np.array([_excess(common.where @ chosen[order], expected).max() for order in deals])
        for expert in range(chosen.shape[1]):
            best = np.argsort(-excess[:, expert], kind="stable")[:top]
            best = best[excess[best, expert] > 0]
            own = by_document(common.document, (common.where[best] * chosen[:, expert]).T.toarray())
            lift, low, high = interval(own, common.there[:, best] * rates[:, [expert]], seed=seed)
            columns = {"layer": layer, "expert": expert, "token": common.ids[best], "rows": common.there[:, best].sum(0)}
            columns |= {"count": count[best, expert], "expected": expected[best, expert]}
            columns |= {"lift": lift, "lift_low": low, "lift_high": high, "p": _p(excess[best, expert], most)}
            parts.append(pd.DataFrame(columns))
    return pd.concat(parts, ignore_index=True).astype({"rows": int, "count": int})


def information(
    found: Decisions, labels: Mapping[str, Shaped[np.ndarray, " row"]], *, shuffles: int = 20, seed: int = 0
) -> pd.DataFrame:
    """How much the choice of expert and a label of the token tell of each other: one row for every layer and label.

    labels: name → a value for every row, of any kind: `found.tokens.numpy()`, positions, documents, a label of the text.

        information     2 I / (H + H'), the normalised mutual information of label and expert, 0 to 1; of several experts of a
                        token each is counted with an equal part of it
        shuffled        its mean over `shuffles` deals of the labels among all tokens: above 0, the more so the more values
        p               share of deals with as much

    Raises ConfigError for labels that are not one for every row.
    """
    wrong = [name for name, values in labels.items() if len(values) != len(found)]
    if wrong or not labels:
        raise ConfigError(
            f"labels {wrong} do not have one value for each of {len(found)} rows" if wrong else "there are no labels; give one"
        )
    rows = []
    for layer in found.logits:
        experts = _parts(found, layer)
        for name, values in labels.items():
            rows.append({"layer": layer, "label": name} | _against_deals(experts, _indicator(values), shuffles, seed=seed))
    return pd.DataFrame(rows)


def agreement(found: Decisions, *, shuffles: int = 20, seed: int = 0) -> pd.DataFrame:
    """How much the choices of two layers tell of each other: columns layer, other, information, shuffled, p, as `information` has
    them, one row for every pair of layers.

    Raises ConfigError for one layer alone.
    """
    if len(found.logits) < 2:
        raise ConfigError(f"{len(found.logits)} layer of experts has no other to agree with; give a model with two or more")
    parts = {layer: _parts(found, layer) for layer in found.logits}
    return pd.DataFrame(
        [
            {"layer": layer, "other": other} | _against_deals(parts[layer], parts[other], shuffles, seed=seed)
            for layer, other in combinations(parts, 2)
        ]
    )


def together(found: Decisions, *, seed: int = 0) -> pd.DataFrame:
    """Which experts of a layer are chosen for the same tokens: one row for every pair,

        layer, expert, other
        share           of the tokens, those that go to both
        expected        the same if experts were drawn independently, k for every token, as often as they are chosen
        lift, lift_low, lift_high   share / expected, with its interval over documents

    Experts drawn independently do not meet by the product of their shares: a token has k places, and who has one takes it from
    another. The draw meant is that of the largest entropy, P(S) ∝ Π_{e in S} θ_e over sets of k (Chen, Dempster & Liu 1994).

    Raises ConfigError where a token has only one expert.
    """
    _, document = np.unique(found.document.numpy(), return_inverse=True)
    rows = np.bincount(document).astype(np.float64)
    parts = []
    for layer in found.logits:
        chosen = found.chosen(layer).numpy().astype(np.float64)
        k = round(chosen.sum(1).mean())
        if k < 2:
            raise ConfigError(f"{layer} has one expert for a token, so no two are chosen together")
        expert, other = np.triu_indices(chosen.shape[1], 1)
        expected = _drawn_together(chosen.mean(0), k)[expert, other]
        both = np.concatenate([by_document(document, chosen[:, [e]] * chosen[:, e + 1 :]) for e in range(chosen.shape[1])], 1)
        share, low, high = interval(both, rows, seed=seed)
        columns = {"layer": layer, "expert": expert, "other": other, "share": share, "expected": expected}
        with np.errstate(invalid="ignore", divide="ignore"):
            columns |= {"lift": share / expected, "lift_low": low / expected, "lift_high": high / expected}
        parts.append(pd.DataFrame(columns))
    return pd.concat(parts, ignore_index=True)


# ---- tokens ----


@dataclass(frozen=True)
class _Common:
    """The tokens that come often: their ids, the rows where each stands, and how often each stands in each document."""

    ids: Int[np.ndarray, " token"]
    where: Any  # sparse [token row]
    document: Int[np.ndarray, " row"]
    there: Float[np.ndarray, "document token"]

    @classmethod
    def of(cls, found: Decisions, at_least: int) -> _Common:
        _, document = np.unique(found.document.numpy(), return_inverse=True)
        ids, token, often = np.unique(found.tokens.numpy(), return_inverse=True, return_counts=True)
        common = np.flatnonzero(often >= at_least)
        if not len(common):
            raise ConfigError(f"no token comes {at_least} times; give more text, or a smaller at_least")
        where = _indicator(token).T[common]
        return cls(ids[common], where, document, (_indicator(document).T @ where.T).toarray())


def _excess(count: Float[np.ndarray, "token expert"], expected: Float[np.ndarray, "token expert"]) -> np.ndarray:
    """By how much the count is more than expected, in √expected; 0 where nothing can be."""
    return (count - expected) / np.sqrt(np.where(expected > 0, expected, np.inf))


def _dealt(document: Int[np.ndarray, " row"], deals: int, *, seed: int) -> Iterator[Int[np.ndarray, " row"]]:
    """Random orders of the rows that leave every row in its document."""
    rng, places = stats.generator(seed, "deal out choices"), np.argsort(document, kind="stable")
    for _ in range(deals):
        order = np.empty_like(places)
        order[places] = np.lexsort((rng.random(len(document)), document))
        yield order


def _p(found: Float[np.ndarray, " n"], null: Float[np.ndarray, " deal"]) -> Float[np.ndarray, " n"]:
    """How often the null does as much, the finding itself counted as one deal."""
    return (1 + (null >= found[:, None] - 1e-9).sum(1)) / (1 + len(null))


# ---- mutual information ----


def _indicator(values: Shaped[np.ndarray, " row"]) -> Any:
    """Sparse [row value]: 1 where a row has a value."""
    _, index = np.unique(values, return_inverse=True)
    return sparse.csr_array((np.ones(len(index)), (np.arange(len(index)), index)))


def _parts(found: Decisions, layer: str) -> Any:
    """Sparse [row expert]: every token's share in each expert, all that it has equally."""
    chosen = found.chosen(layer).numpy().astype(np.float64)
    return sparse.csr_array(chosen / chosen.sum(1, keepdims=True))


def _against_deals(experts: Any, values: Any, shuffles: int, *, seed: int) -> dict[str, float]:
    """Mutual information of two columns of shares of the same rows, and its null, where the rows of one are dealt out again."""
    rng = stats.generator(seed, "deal out labels")
    value = _normalised_information(experts, values)
    null = np.array([_normalised_information(experts, values[rng.permutation(values.shape[0])]) for _ in range(shuffles)])
    return {"information": value, "shuffled": float(null.mean()), "p": float(_p(np.array([value]), null)[0])}


def _normalised_information(experts: Any, values: Any) -> float:
    joint = (values.T @ experts).toarray() / values.shape[0]
    entropies = _entropy(joint.sum(0)) + _entropy(joint.sum(1))
    return 2 * max(0.0, entropies - _entropy(joint)) / entropies if entropies > 0 else 0.0


def _entropy(p: Float[np.ndarray, "..."]) -> float:
    p = p[p > 0]
    return float(-(p * np.log(p)).sum())


# ---- independent draws of k ----


def _drawn_together(rates: Float[np.ndarray, " expert"], k: int) -> Float[np.ndarray, "expert expert"]:
    """P(both are drawn) under P(S) ∝ Π_{e in S} θ_e over sets of k, with θ such that each is drawn as often as `rates` say."""
    theta = np.maximum(rates, 1e-12)
    for _ in range(1000):
        drawn = theta * _symmetric(theta, k - 1, without=1) / _symmetric(theta, k)
        if np.abs(drawn - rates).max() < 1e-10:
            break
        theta = theta * np.maximum(rates, 1e-12) / drawn
        theta = theta / theta.mean()
    return np.outer(theta, theta) * _symmetric(theta, k - 2, without=2) / _symmetric(theta, k)


def _symmetric(theta: Float[np.ndarray, " expert"], k: int, *, without: int = 0) -> Float[np.ndarray, "*left_out"]:
    """The symmetric polynomial of degree k, Σ_{|S| = k} Π_{e in S} θ_e, with every choice of `without` experts left out."""
    n = len(theta)
    sums = np.zeros((*(n,) * without, k + 1))
    sums[..., 0] = 1
    for e, each in enumerate(theta):
        stays = np.ones((n,) * without)
        for axis in range(without):
            stays[(slice(None),) * axis + (e,)] = 0
        sums[..., 1:] = sums[..., 1:] + each * stays[..., None] * sums[..., :-1]
    return sums[..., k]
