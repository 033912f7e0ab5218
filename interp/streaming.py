"""Running statistics over batches of rows: each accumulator has `update` (more rows), `merge` (another accumulator's rows) and
`compute`.

Sums are kept in float64, so the answer does not depend on how the rows were split into batches, up to rounding (exactly, for
`TopK`, `Density` and `Histogram`). Memory does not grow with the number of rows.

Must not know: models, tokenizers, files.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

_SORTED_ELEMENTS = 1 << 23
"""How many keys `TopK` sorts at a time: 64 MiB of them."""


@dataclass(frozen=True)
class MomentsResult:
    """Per column, in float64: `mean`; `variance` (divided by n); `kurtosis` = E[(x − mean)⁴] / variance², 3 for a Gaussian, NaN
    for a constant."""

    n: int
    mean: Float[Tensor, " d"]
    variance: Float[Tensor, " d"]
    kurtosis: Float[Tensor, " d"]


class Moments:
    """Mean, variance and kurtosis per column, by the pairwise update of central moments (Pébay 2008, SAND2008-6212, eq. 3.1)."""

    def __init__(self) -> None:
        self._n = 0
        self._mean = self._m2 = self._m3 = self._m4 = torch.zeros(())

    def update(self, values: Float[Tensor, "row d"]) -> Moments:
        """Takes in more rows; returns itself."""
        if values.shape[0] == 0:
            return self
        values = values.double()
        mean = values.mean(0)
        centred = values - mean
        squared = centred.square()
        return self._combine(values.shape[0], mean, squared.sum(0), (squared * centred).sum(0), squared.square().sum(0))

    def merge(self, other: Moments) -> Moments:
        """Takes in the rows that `other` saw; returns itself."""
        return self if other._n == 0 else self._combine(other._n, other._mean, other._m2, other._m3, other._m4)

    def compute(self) -> MomentsResult:
        """Raises ValueError before the first row."""
        n = _some_rows(self._n)
        variance = self._m2 / n
        return MomentsResult(n, self._mean, variance, (self._m4 / n) / variance.square())

    def _combine(self, nb: int, mean: Tensor, m2: Tensor, m3: Tensor, m4: Tensor) -> Moments:
        if self._n == 0:
            self._n, self._mean, self._m2, self._m3, self._m4 = nb, mean, m2, m3, m4
            return self
        na, n = self._n, self._n + nb
        delta = _same_columns(mean, self._mean) - self._mean
        self._m4 = (
            self._m4
            + m4
            + delta**4 * (na * nb * (na * na - na * nb + nb * nb) / n**3)
            + 6 * delta**2 * (na * na * m2 + nb * nb * self._m2) / n**2
            + 4 * delta * (na * m3 - nb * self._m3) / n
        )
        self._m3 = self._m3 + m3 + delta**3 * (na * nb * (na - nb) / n**2) + 3 * delta * (na * m2 - nb * self._m2) / n
        self._m2 = self._m2 + m2 + delta**2 * (na * nb / n)
        self._mean = self._mean + delta * (nb / n)
        self._n = n
        return self


@dataclass(frozen=True)
class CovarianceResult:
    """Mean and covariance (divided by n) of the columns, float64."""

    n: int
    mean: Float[Tensor, " d"]
    covariance: Float[Tensor, "d d"]


class Covariance:
    """Covariance of the columns, by the pairwise update of Chan, Golub & LeVeque (1983). Takes d² numbers."""

    def __init__(self) -> None:
        self._n = 0
        self._mean = self._scatter = torch.zeros(())

    def update(self, values: Float[Tensor, "row d"]) -> Covariance:
        """Takes in more rows; returns itself."""
        if values.shape[0] == 0:
            return self
        values = values.double()
        mean = values.mean(0)
        centred = values - mean
        return self._combine(values.shape[0], mean, centred.T @ centred)

    def merge(self, other: Covariance) -> Covariance:
        """Takes in the rows that `other` saw; returns itself."""
        return self if other._n == 0 else self._combine(other._n, other._mean, other._scatter)

    def compute(self) -> CovarianceResult:
        """Raises ValueError before the first row."""
        return CovarianceResult(_some_rows(self._n), self._mean, self._scatter / self._n)

    def _combine(self, nb: int, mean: Tensor, scatter: Tensor) -> Covariance:
        if self._n == 0:
            self._n, self._mean, self._scatter = nb, mean, scatter
            return self
        n = self._n + nb
        delta = _same_columns(mean, self._mean) - self._mean
        self._scatter = self._scatter + scatter + torch.outer(delta, delta) * (self._n * nb / n)
        self._mean = self._mean + delta * (nb / n)
        self._n = n
        return self


@dataclass(frozen=True)
class TopKResult:
    """The largest values of every column, largest first, and the ids of their rows."""

    values: Float[Tensor, "k column"]
    ids: Int[Tensor, "k column"]


class TopK:
    """The k largest float32 values of every column with the ids of their rows; among equal values the lowest id wins.

    A value and its id are packed into one 64-bit key whose order is exactly that order, so the answer never depends on the
    order of arrival.
    """

    def __init__(self, k: int) -> None:
        if k < 1:
            raise ValueError(f"k={k}: at least one value must be kept")
        self.k = k
        self._keys: Tensor | None = None

    def update(self, values: Float[Tensor, "row column"], ids: Int[Tensor, " row"]) -> TopK:
        """Takes in more rows; ids are any numbers from 0 to 2³² − 1. Returns itself. Raises ValueError for NaN and for ids out
        of range."""
        if values.isnan().any():
            raise ValueError("NaN has no place in an order; leave such rows out")
        if ids.numel() and (int(ids.min()) < 0 or int(ids.max()) >= 1 << 32):
            raise ValueError(f"row ids must lie in 0 … 2³² − 1, got {int(ids.min())} … {int(ids.max())}")
        columns = max(1, _SORTED_ELEMENTS // max(1, values.shape[0]))
        self._take(torch.cat([_largest(_pack(part, ids), self.k) for part in values.split(columns, dim=1)], dim=1))
        return self

    def merge(self, other: TopK) -> TopK:
        """Takes in the rows that `other` saw; returns itself."""
        if other.k != self.k:
            raise ValueError(f"cannot merge the top {other.k} into the top {self.k}")
        if other._keys is not None:
            self._take(other._keys)
        return self

    def compute(self) -> TopKResult:
        """Fewer than k rows come back if fewer were seen. Raises ValueError before the first row."""
        _some_rows(0 if self._keys is None else self._keys.shape[0])
        assert self._keys is not None
        return TopKResult(*_unpack(self._keys))

    def _take(self, keys: Tensor) -> None:
        self._keys = keys if self._keys is None else _largest(torch.cat([self._keys, keys]), self.k)


def _pack(values: Tensor, ids: Tensor) -> Tensor:
    bits = (values.float() + 0.0).view(torch.int32)  # + 0.0 turns −0 into 0, its equal
    ordered = bits ^ ((bits >> 31) & 0x7FFFFFFF)  # as integers these order like the floats
    return (ordered.long() << 32) | (0xFFFFFFFF - ids.long())[:, None]


def _unpack(keys: Tensor) -> tuple[Tensor, Tensor]:
    ordered = (keys >> 32).int()
    bits = ordered ^ ((ordered >> 31) & 0x7FFFFFFF)
    return bits.view(torch.float32), 0xFFFFFFFF - (keys & 0xFFFFFFFF)


def _largest(keys: Tensor, k: int) -> Tensor:
    return keys.topk(min(k, keys.shape[0]), dim=0).values


class Density:
    """Share of rows in which each column is above zero: how often a feature or neuron fires."""

    def __init__(self) -> None:
        self._n = 0
        self._fired = torch.zeros((), dtype=torch.int64)

    def update(self, values: Float[Tensor, "row column"]) -> Density:
        """Takes in more rows; returns itself."""
        self._n += values.shape[0]
        self._fired = self._fired + (values > 0).sum(0)
        return self

    def merge(self, other: Density) -> Density:
        """Takes in the rows that `other` saw; returns itself."""
        self._n += other._n
        self._fired = self._fired + other._fired
        return self

    def compute(self) -> Float[Tensor, " column"]:
        """Shares in [0, 1], float64. Raises ValueError before the first row."""
        return self._fired.double() / _some_rows(self._n)


class Histogram:
    """Counts of positive numbers in bins of equal ratio, 128 to the doubling: quantiles are right to 0.3 % from 2⁻⁶⁴ to 2⁶⁴."""

    _PER_DOUBLING, _REACH = 128, 64

    def __init__(self) -> None:
        self._counts = torch.zeros(2 * self._REACH * self._PER_DOUBLING, dtype=torch.int64)

    def update(self, values: Float[Tensor, " row"]) -> Histogram:
        """Takes in more numbers; zero counts as the smallest. Returns itself."""
        bins = ((values.double().log2() + self._REACH) * self._PER_DOUBLING).floor().clamp(0, len(self._counts) - 1)
        self._counts += torch.bincount(bins.long().cpu(), minlength=len(self._counts))
        return self

    def merge(self, other: Histogram) -> Histogram:
        """Takes in the numbers that `other` saw; returns itself."""
        self._counts += other._counts
        return self

    def compute(self, quantiles: list[float]) -> list[float]:
        """The value below which each share in `quantiles` lies: the middle of its bin. Raises ValueError before the first
        number."""
        below = self._counts.cumsum(0)
        n = _some_rows(int(below[-1]))
        ranks = (torch.tensor(quantiles, dtype=torch.float64) * n).ceil().clamp(1, n).long()
        return [2.0 ** ((int(i) + 0.5) / self._PER_DOUBLING - self._REACH) for i in torch.searchsorted(below, ranks)]


def _same_columns(new: Tensor, old: Tensor) -> Tensor:
    if new.shape != old.shape:
        raise ValueError(f"rows of {new.shape[0]} columns do not continue rows of {old.shape[0]}")
    return new


def _some_rows(n: int) -> int:
    if n == 0:
        raise ValueError("no rows have been seen; update before compute")
    return n
