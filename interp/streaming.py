"""Running statistics over batches of rows: each accumulator has `update` (more rows), `merge` (another accumulator's rows) and
`compute`.

Sums are kept in float64, so the answer does not depend on how the rows were split into batches, up to rounding (exactly, for
`TopK`, `Sample`, `Density` and `Histogram`). Memory does not grow with the number of rows.

Must not know: models, tokenizers, files.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

_ELEMENTS = 1 << 18
"""How many values `TopK` looks at in one go: few enough to stay in the processor's cache."""


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
    """The k largest float32 values of every column with the ids of their rows; among equal values the lowest id wins, whatever
    the order of arrival.

    Once k rows are in, only what can enter a column's top k is kept at all, and it waits until as many values have come as are
    kept. So a row soon costs one comparison per value, and the sorting, over a whole stream, almost nothing.
    """

    def __init__(self, k: int) -> None:
        if k < 1:
            raise ValueError(f"k={k}: at least one value must be kept")
        self.k = k
        self._columns: int | None = None
        self._kept: list[_Entries] = []
        self._waiting: list[_Entries] = []

    def update(self, values: Float[Tensor, "row column"], ids: Int[Tensor, " row"]) -> TopK:
        """Takes in more rows; ids are any numbers from 0 to 2⁶³ − 1. Returns itself. Raises ValueError for NaN and for ids out
        of range."""
        if ids.numel() and int(ids.min()) < 0:
            raise ValueError(f"row ids must lie in 0 … 2⁶³ − 1, got {int(ids.min())} … {int(ids.max())}")
        self._same_columns(values.shape[1])
        rows = max(1, _ELEMENTS // max(1, values.shape[1]))
        ids = ids.to(values.device, torch.int64)
        for part, part_ids in zip(values.float().split(rows), ids.split(rows), strict=True):
            row, column = self._entering(part, part_ids).nonzero(as_tuple=True)
            self._wait(_Entries(column, part[row, column], part_ids[row]))
        return self

    def merge(self, other: TopK) -> TopK:
        """Takes in the rows that `other` saw; returns itself."""
        if other.k != self.k:
            raise ValueError(f"cannot merge the top {other.k} into the top {self.k}")
        if other._columns is not None:
            self._same_columns(other._columns)
            for entries in (*other._kept, *other._waiting):
                self._wait(entries)
        return self

    def compute(self) -> TopKResult:
        """Fewer than k rows come back if fewer were seen. Raises ValueError before the first row."""
        self._settle()
        _some_rows(_size(self._kept))
        return TopKResult(*(part.T.contiguous() for part in self._table()))

    def _entering(self, values: Tensor, ids: Tensor) -> Tensor:
        """Which values may be among the k largest; NaN always is, so that it is seen."""
        if _size(self._kept) < self.k * values.shape[1]:
            return torch.ones_like(values, dtype=torch.bool)
        floor, floor_id = (part[:, -1] for part in self._table())
        entering = ~(values <= floor)
        if int(ids.min()) < int(floor_id.max()):  # in a stream with rising ids a tie never enters
            entering |= (values == floor) & (ids[:, None] < floor_id)
        return entering

    def _wait(self, entries: _Entries) -> None:
        if entries.value.isnan().any():
            raise ValueError("NaN has no place in an order; leave such rows out")
        self._waiting.append(entries)
        if _size(self._waiting) > _size(self._kept):
            self._settle()

    def _settle(self) -> None:
        if self._waiting:
            self._kept = [_largest([*self._kept, *self._waiting], self.k)]
            self._waiting = []

    def _table(self) -> tuple[Tensor, Tensor]:
        """Values and ids that are kept, [column k]; every column has as many."""
        assert self._columns is not None
        return self._kept[0].value.view(self._columns, -1), self._kept[0].id.view(self._columns, -1)

    def _same_columns(self, columns: int) -> None:
        if self._columns not in (None, columns):
            raise ValueError(f"rows of {columns} columns do not continue rows of {self._columns}")
        self._columns = columns


@dataclass(frozen=True)
class _Entries:
    """Values of some columns, each with the id of its row."""

    column: Int[Tensor, " entry"]
    value: Float[Tensor, " entry"]
    id: Int[Tensor, " entry"]


def _size(parts: list[_Entries]) -> int:
    return sum(len(part.value) for part in parts)


def _largest(parts: list[_Entries], k: int) -> _Entries:
    """The k largest values of every column: column by column, largest first, among equals the lowest id first."""
    column, value, id = (torch.cat([getattr(part, name) for part in parts]) for name in ("column", "value", "id"))
    bits = (value + 0.0).view(torch.int32)  # + 0.0 turns −0 into 0, its equal
    ascending = bits ^ ((bits >> 31) & 0x7FFFFFFF)  # as integers these order like the floats
    order = id.argsort()
    order = order[((column << 32) - ascending.long())[order].argsort(stable=True)]
    column = column[order]
    counts = torch.bincount(column)
    rank = torch.arange(len(column), device=column.device) - (counts.cumsum(0) - counts)[column]
    order = order[rank < k]
    return _Entries(column[rank < k], value[order], id[order])


@dataclass(frozen=True)
class SampleResult:
    """Rows drawn at random, in random order, with their ids."""

    values: Float[Tensor, "drawn column"]
    ids: Int[Tensor, " drawn"]


class Sample:
    """A uniform sample of n rows without replacement: those whose ids draw the n lowest lots (`lots`), whatever the order of
    arrival. Ids must differ."""

    def __init__(self, n: int, *, seed: int) -> None:
        self.n, self._seed = n, seed
        self._values: Tensor | None = None
        self._ids, self._lots = np.empty(0, np.int64), np.empty(0)

    def update(self, values: Float[Tensor, "row column"], ids: Int[Tensor, " row"]) -> Sample:
        """Takes in more rows; returns itself."""
        numbers = ids.cpu().numpy()
        drawn = lots(self._seed, numbers)
        lucky = np.flatnonzero(drawn < (self._lots[-1] if len(self._lots) == self.n else 1.0))
        return self._take(values[torch.from_numpy(lucky).to(values.device)], numbers[lucky], drawn[lucky])

    def merge(self, other: Sample) -> Sample:
        """Takes in the rows that `other` saw; returns itself."""
        return self if other._values is None else self._take(other._values, other._ids, other._lots)

    def compute(self) -> SampleResult:
        """Fewer than n rows come back if fewer were seen. Raises ValueError before the first row."""
        _some_rows(len(self._lots))
        assert self._values is not None
        return SampleResult(self._values, torch.from_numpy(self._ids))

    def _take(self, values: Tensor, ids: np.ndarray, drawn: np.ndarray) -> Sample:
        if len(drawn):
            ids, drawn = np.append(self._ids, ids), np.append(self._lots, drawn)
            order = np.lexsort((ids, drawn))[: self.n]
            values = values if self._values is None else torch.cat([self._values, values])
            self._values = values[torch.from_numpy(order).to(values.device)]
            self._ids, self._lots = ids[order], drawn[order]
        return self


def lots(seed: int, *keys: np.ndarray) -> np.ndarray:
    """A number in [0, 1) per entry that depends on its keys and the seed alone (splitmix64): a random draw in any order."""
    state = np.full(len(keys[0]), seed, np.uint64)
    for key in keys:
        state = (state ^ key.astype(np.uint64)) + np.uint64(0x9E3779B97F4A7C15)
        state = (state ^ (state >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        state = (state ^ (state >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        state = state ^ (state >> np.uint64(31))
    return (state >> np.uint64(11)) / 2.0**53


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
