"""What single features respond to and write: one streaming pass over activation batches, then plain arrays.

Kept per feature: the strongest examples, a uniform sample of all its examples, counts; memory grows with features × examples
(and, for co-activation, with the features asked for × d_sae), never with the number of tokens. The result does not depend on
how the stream was cut into batches or ordered.

Must not know: reports, text (an example is a document, a position and a number).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float
from numpy.typing import NDArray
from scipy import sparse
from torch import Tensor
from torch.nn import functional as F

from interp.errors import ConfigError, TrainingError
from interp.sae.autoencoder import SparseAutoencoder
from interp.sae.batches import Batches, Hook, rows_of
from interp.streaming import lots

GROUPS = 4
"""Quantile groups: quarters of a feature's own activations."""

BINS = 32
"""Bins of a histogram. Their width is a power of two, the smallest at which the largest activation fits."""


@dataclass(frozen=True)
class Examples:
    """Places in text, one row per feature; activation is 0 and document -1 where a feature has fewer than asked."""

    document: NDArray[np.int64]  # [feature example]
    position: NDArray[np.int64]  # [feature example]
    activation: NDArray[np.float32]  # [feature example]


@dataclass(frozen=True)
class FeatureBook:
    """What one pass over `tokens` tokens found about some features.

    features: [feature] their latents. count: [feature] tokens on which each fired.
    top: strongest examples, strongest first, each from another document.
    quantiles: group → examples drawn at random from one quarter of the feature's own activations, strongest quarter first.
    negatives: random places where the feature is silent.
    histogram: [feature BINS] counts of non-zero activations in bins of bin_width[feature], from 0.
    together: [feature d_sae] tokens on which the feature and a latent fired together. fired: [d_sae].
    """

    tokens: int
    features: NDArray[np.int64]
    count: NDArray[np.int64]
    top: Examples
    quantiles: tuple[Examples, ...]
    negatives: Examples
    histogram: NDArray[np.int64]
    bin_width: NDArray[np.float64]
    together: sparse.csr_array
    fired: NDArray[np.int64]

    @property
    def density(self) -> NDArray[np.float64]:
        """Share of the tokens on which each feature fires."""
        return self.count / self.tokens

    @property
    def dead(self) -> int:
        """Latents of the whole autoencoder that never fired on these tokens."""
        return int((self.fired == 0).sum())

    def coactivation(self, n: int) -> list[list[tuple[int, float]]]:
        """For each feature the n latents that fire with it most, by Jaccard index (both / either), itself left out."""
        nearest = []
        for row, feature in enumerate(self.features):
            both = self.together[[row]].toarray()[0].astype(np.float64)
            either = self.count[row] + self.fired - both
            index = np.divide(both, either, out=np.zeros_like(both), where=either > 0)
            index[feature] = 0
            order = np.argsort(-index, kind="stable")[:n]
            nearest.append([(int(latent), float(index[latent])) for latent in order if index[latent] > 0])
        return nearest


@torch.no_grad()
def collect(
    sae: SparseAutoencoder,
    batches: Batches,
    *,
    hook: Hook = None,
    features: Sequence[int] | np.ndarray | None = None,
    top: int = 20,
    per_quantile: int = 5,
    negatives: int = 5,
    seed: int = 0,
) -> FeatureBook:
    """Reads the stream once and keeps what `FeatureBook` lists, for `features` (all by default).

    batches: activation batches with document and position, in any order.
    Raises TrainingError for an empty stream, ConfigError for latents that do not exist.
    """
    wanted = np.arange(sae.d_sae) if features is None else np.asarray(features, dtype=np.int64)
    if wanted.size == 0 or wanted.min() < 0 or wanted.max() >= sae.d_sae:
        raise ConfigError(
            f"features must be latents from 0 to {sae.d_sae - 1}, got {wanted[:8].tolist()}; leave features out to take all"
        )
    strongest, sample = _Keeper(top, distinct=True), _Keeper(GROUPS * per_quantile, distinct=False)
    pool, histogram = _Pool(max(64, 16 * negatives), len(wanted)), _Histogram(len(wanted))
    fired, tokens = np.zeros(sae.d_sae, np.int64), 0
    together = sparse.csr_array((len(wanted), sae.d_sae), dtype=np.int64)
    for batch in batches:
        codes = sae.encode(rows_of(batch, hook)).cpu().numpy()
        document, position = batch.document.cpu().numpy(), batch.position.cpu().numpy()
        on = sparse.csr_array(codes != 0, dtype=np.int64)
        together = together + sparse.csr_array(on.T)[wanted] @ on
        fired += np.asarray(on.sum(0)).ravel()
        tokens += len(codes)
        codes = codes[:, wanted]
        row, feature = np.nonzero(codes)
        found = _Found(feature, document[row], position[row], codes[row, feature])
        strongest.add(found, found.activation)
        sample.add(found, lots(seed, found.document, found.position, feature))
        histogram.add(feature, found.activation)
        pool.add(lots(seed, document, position, np.full(len(codes), -1)), document, position, codes != 0)
    if tokens == 0:
        raise TrainingError("there are no activations to read features from; check the corpus and the hook")
    return FeatureBook(
        tokens=tokens,
        features=wanted,
        count=fired[wanted],
        top=strongest.examples(len(wanted), top),
        quantiles=_quantiles(sample, len(wanted), per_quantile),
        negatives=pool.silent(negatives),
        histogram=histogram.counts,
        bin_width=histogram.width,
        together=sparse.csr_array(together),
        fired=fired,
    )


@torch.no_grad()
def codes(sae: SparseAutoencoder, activations: Float[Tensor, "row d"]) -> sparse.csc_array:
    """Codes of every row as a sparse matrix, [row d_sae], column by column."""
    parts = [sparse.csr_array(sae.encode(part).cpu().numpy()) for part in activations.split(8192)]
    return sparse.csc_array(sparse.vstack(parts))


@torch.no_grad()
def logit_effects(
    directions: Float[Tensor, "feature d_model"], unembedding: Float[Tensor, "d_model d_vocab"]
) -> Float[np.ndarray, "feature d_vocab"]:
    """What a unit of each feature adds to every logit on the direct path, up to the final norm's positive scale.

    unembedding: with the final norm folded in, `norms.folded(model, "ln_final", model.W_U)`. The mean over the vocabulary is
    taken off, since it changes no probability.
    """
    logits = directions.float() @ unembedding.float()
    return (logits - logits.mean(-1, keepdim=True)).cpu().numpy()


@torch.no_grad()
def head_cosines(
    directions: Float[Tensor, "feature d_model"], outputs: Float[Tensor, "head d_head d_model"]
) -> Float[np.ndarray, "feature head"]:
    """How much of each direction a head can write: the cosine with the span of the rows of its W_O, 0 to 1.

    About √(d_head / d_model) for a random direction.
    """
    span = torch.linalg.qr(outputs.detach().float().mT).Q
    return torch.einsum("fd,hdk->fhk", F.normalize(directions.detach().float(), dim=1), span).norm(dim=2).cpu().numpy()


@torch.no_grad()
def head_shares(directions: Float[Tensor, "feature d_in"], n_heads: int) -> Float[np.ndarray, "feature head"]:
    """For directions over heads laid side by side (hook_z): the share of the squared length on each head."""
    squares = directions.detach().float().square().unflatten(1, (n_heads, -1)).sum(2)
    return (squares / squares.sum(1, keepdim=True).clamp_min(1e-12)).cpu().numpy()


@torch.no_grad()
def nearest_by_decoder(sae: SparseAutoencoder, features: Sequence[int] | np.ndarray, n: int) -> list[list[tuple[int, float]]]:
    """For each feature the n latents with the most similar decoder direction (cosine), itself left out."""
    directions = F.normalize(sae.W_dec.detach(), dim=1).cpu()
    chosen = torch.as_tensor(np.asarray(features), dtype=torch.long)
    cosine = directions[chosen] @ directions.T
    cosine[torch.arange(len(chosen)), chosen] = -2.0
    values, latents = cosine.topk(min(n, sae.d_sae - 1), dim=1)
    return [list(zip(row.tolist(), near.tolist(), strict=True)) for row, near in zip(latents, values, strict=True)]


@dataclass(frozen=True)
class _Found:
    """Codes that are not zero: which of the wanted features, where, and how strong."""

    feature: np.ndarray
    document: np.ndarray
    position: np.ndarray
    activation: np.ndarray

    def take(self, index: np.ndarray) -> _Found:
        return _Found(self.feature[index], self.document[index], self.position[index], self.activation[index])

    def join(self, other: _Found) -> _Found:
        names = ("feature", "document", "position", "activation")
        return _Found(*(np.concatenate([getattr(self, name), getattr(other, name)]) for name in names))


class _Keeper:
    """Per feature the `n` finds with the largest keys; `distinct` keeps at most one of a document."""

    def __init__(self, n: int, *, distinct: bool) -> None:
        empty = np.empty(0, np.int64)
        self._n, self._distinct = n, distinct
        self.kept, self._keys = _Found(empty, empty, empty, np.empty(0, np.float32)), np.empty(0)

    def add(self, found: _Found, keys: np.ndarray) -> None:
        self.kept, self._keys = self.kept.join(found), np.concatenate([self._keys, keys])
        if self._distinct:
            self._sort(self.kept.position, -self._keys, self.kept.document, self.kept.feature)
            self._filter(_rank(self.kept.feature, self.kept.document) == 0)
        self._sort(self.kept.position, self.kept.document, -self._keys, self.kept.feature)
        self._filter(_rank(self.kept.feature) < self._n)

    def examples(self, n_features: int, n: int) -> Examples:
        """The finds as one row per feature, in the order of their keys."""
        return _table(self.kept, _rank(self.kept.feature), n_features, n)

    def _sort(self, *keys: np.ndarray) -> None:
        self._filter(np.lexsort(keys))

    def _filter(self, index: np.ndarray) -> None:
        self.kept, self._keys = self.kept.take(index), self._keys[index]


class _Pool:
    """A uniform sample of rows, and which of the wanted features are active on each."""

    def __init__(self, n: int, n_features: int) -> None:
        empty = np.empty(0, np.int64)
        self._n, self._parts = n, [np.empty(0), empty, empty, np.empty((0, n_features), bool)]

    def add(self, *parts: np.ndarray) -> None:
        joined = [np.concatenate([old, new]) for old, new in zip(self._parts, parts, strict=True)]
        best = np.lexsort((joined[2], joined[1], joined[0]))[: self._n]
        self._parts = [part[best] for part in joined]

    def silent(self, n: int) -> Examples:
        """For each feature the first n rows of the sample on which it is silent."""
        _, document, position, active = self._parts
        feature, row = np.nonzero(~active.T)
        found = _Found(feature, document[row], position[row], np.zeros(len(row), np.float32))
        return _table(found, _rank(feature), active.shape[1], n)


class _Histogram:
    """Counts per feature in BINS bins from 0 to BINS · width; a width doubles, merging bins, when a value does not fit."""

    def __init__(self, n_features: int) -> None:
        self.counts = np.zeros((n_features, BINS), np.int64)
        self.width = np.zeros(n_features)

    def add(self, feature: np.ndarray, activation: np.ndarray) -> None:
        size = np.abs(activation).astype(np.float64)
        largest = np.zeros(len(self.width))
        np.maximum.at(largest, feature, size)
        exponent = np.floor(np.log2(np.maximum(largest, 1e-30) / BINS)) + 1
        needed = np.where(largest > 0, 2.0**exponent, 0.0)
        self.width = np.where(self.width == 0, needed, self.width)
        while (narrow := self.width < needed).any():
            merged = self.counts[narrow].reshape(-1, BINS // 2, 2).sum(-1)
            self.counts[narrow] = np.concatenate([merged, np.zeros_like(merged)], axis=1)
            self.width = np.where(narrow, 2 * self.width, self.width)
        bins = np.floor(size / self.width[feature]).astype(np.int64)
        self.counts += np.bincount(feature * BINS + bins, minlength=self.counts.size).reshape(self.counts.shape)


def _quantiles(sample: _Keeper, n_features: int, n: int) -> tuple[Examples, ...]:
    """The sample of each feature sorted by activation and cut into quarters, strongest first."""
    found = sample.kept.take(np.lexsort((-sample.kept.activation, sample.kept.feature)))
    size = np.bincount(found.feature, minlength=n_features)[found.feature]
    rank = _rank(found.feature)
    group = rank * GROUPS // size
    parts = [found.take(np.flatnonzero(group == index)) for index in range(GROUPS)]
    return tuple(_table(part, _rank(part.feature), n_features, n) for part in parts)


def _table(found: _Found, rank: np.ndarray, n_features: int, n: int) -> Examples:
    document, position = np.full((n_features, n), -1, np.int64), np.full((n_features, n), -1, np.int64)
    activation = np.zeros((n_features, n), np.float32)
    keep = rank < n
    at = (found.feature[keep], rank[keep])
    document[at], position[at], activation[at] = found.document[keep], found.position[keep], found.activation[keep]
    return Examples(document, position, activation)


def _rank(*keys: np.ndarray) -> np.ndarray:
    """Place of each entry within its run of equal keys; entries with equal keys must stand together."""
    if len(keys[0]) == 0:
        return np.empty(0, np.int64)
    new = np.append(True, np.any([key[1:] != key[:-1] for key in keys], axis=0))
    index = np.arange(len(new))
    return index - np.maximum.accumulate(np.where(new, index, 0))
