"""Intervals and seeds: what turns many numbers into one claim.

Must not know: models, files, figures.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import ArrayLike

if TYPE_CHECKING:
    import torch

BLOCK = 1 << 18
"""Examples drawn at once: blocks change no draw."""


@dataclass(frozen=True)
class Estimate:
    """A value with its 95 % interval and the number of independent examples behind it."""

    value: float
    low: float
    high: float
    n: int

    def __str__(self) -> str:
        return f"{self.value:.4g} [{self.low:.4g}, {self.high:.4g}] (n={self.n})"

    def cells(self, name: str = "value") -> dict[str, float]:
        """Three cells of a table row: the value under `name`, and the ends of its interval under low and high."""
        return {name: self.value, "low": self.low, "high": self.high}


def generator(seed: int, *purpose: str | int) -> np.random.Generator:
    """A random generator for one purpose, derived from the run's seed: streams for different purposes are independent."""
    return np.random.default_rng([seed, _key(purpose)])


def torch_seed(seed: int, *purpose: str | int) -> int:
    """A seed for `torch.Generator().manual_seed` derived in the same way."""
    return int(generator(seed, *purpose).integers(2**62))


def torch_generator(seed: int, *purpose: str | int) -> torch.Generator:
    """A generator of torch's for one purpose, derived in the same way."""
    import torch  # here, since reports read intervals, and are drawn without it

    return torch.Generator().manual_seed(torch_seed(seed, *purpose))


def _key(purpose: tuple[str | int, ...]) -> int:
    return int.from_bytes(hashlib.sha256(repr(purpose).encode()).digest()[:8], "big")


def bootstrap(
    values: ArrayLike,
    *,
    statistic: Callable[..., float] = np.mean,
    groups: ArrayLike | None = None,
    resamples: int = 2000,
    level: float = 0.95,
    seed: int = 0,
) -> Estimate:
    """Percentile-bootstrap interval of `statistic` over independent examples (Efron & Tibshirani 1993, ch. 13).

    values: one number per example.
    groups: where examples hang together (tokens of one document), the group of each: whole groups are resampled.

    Raises ValueError for no values or non-finite ones.
    """
    array = _examples(values)
    if statistic is np.mean:  # a ratio of sums over groups, which needs no concatenation
        index = np.arange(array.size) if groups is None else _group_numbers(array.size, groups)
        return ratio(np.bincount(index, array), np.bincount(index), resamples=resamples, level=level, seed=seed)
    return resampled(array.size, lambda rows: statistic(array[rows]), groups=groups, resamples=resamples, level=level, seed=seed)


def resampled(
    n: int,
    statistic: Callable[[np.ndarray], float],
    *,
    groups: ArrayLike | None = None,
    resamples: int = 2000,
    level: float = 0.95,
    seed: int = 0,
) -> Estimate:
    """The same for a statistic of several things about each of `n` examples: it is given the numbers of the examples to use."""
    parts = None if groups is None else _grouped(n, groups)
    size = n if parts is None else len(parts)
    value = float(statistic(np.arange(n)))
    picks = (rows for block in _picks(size, resamples, seed) for rows in block)
    draws = [statistic(rows if parts is None else np.concatenate([parts[i] for i in rows])) for rows in picks]
    return _percentiles(value, draws, level, size)


def ratio(numerator: ArrayLike, denominator: ArrayLike, *, resamples: int = 2000, level: float = 0.95, seed: int = 0) -> Estimate:
    """Σ numerator / Σ denominator over independent examples, which are resampled together (percentile bootstrap)."""
    above, below = _examples(numerator), _examples(denominator)
    if above.shape != below.shape:
        raise ValueError(f"a ratio wants a numerator and a denominator per example: {above.shape} against {below.shape}")
    blocks = _picks(above.size, resamples, seed)
    draws = [draw for rows in blocks for draw in above[rows].sum(1) / below[rows].sum(1)]
    return _percentiles(float(above.sum() / below.sum()), draws, level, above.size)


def paired_difference(a: ArrayLike, b: ArrayLike, *, level: float = 0.95, seed: int = 0) -> Estimate:
    """Mean of a − b over examples measured in both conditions, with its bootstrap interval."""
    first, second = np.asarray(a, dtype=np.float64), np.asarray(b, dtype=np.float64)
    if first.shape != second.shape:
        raise ValueError(f"paired examples must match: {first.shape} against {second.shape}")
    return bootstrap(first - second, level=level, seed=seed)


def difference(a: ArrayLike, b: ArrayLike, *, seed: int = 0) -> Estimate:
    """Mean of a − mean of b over examples that are not paired, with all of them resampled together."""
    more, less = _examples(a), _examples(b)
    n = more.size + less.size
    return bootstrap(np.concatenate([-less * (n / less.size), more * (n / more.size)]), seed=seed)


def _picks(n: int, resamples: int, seed: int) -> Iterator[np.ndarray]:
    """Which of `n` examples every resample holds, [resample n], in blocks of a few megabytes; none of a single example."""
    rng, most = generator(seed, "bootstrap", resamples), max(1, BLOCK // n)
    for start in range(0, resamples if n > 1 else 0, most):
        yield rng.integers(n, size=(min(most, resamples - start), n))


def _percentiles(value: float, draws: Sequence[float], level: float, n: int) -> Estimate:
    """The interval that holds a `level` of the draws; of a single example nothing is known."""
    if n == 1:
        return Estimate(value, float("-inf"), float("inf"), 1)
    low, high = np.quantile(draws, [(1 - level) / 2, (1 + level) / 2])
    return Estimate(value, float(low), float(high), n)


def _examples(values: ArrayLike) -> np.ndarray:
    array = np.asarray(values, dtype=np.float64)
    if array.ndim != 1 or array.size == 0:
        raise ValueError(f"bootstrap wants a non-empty vector of examples, got shape {array.shape}")
    if not np.isfinite(array).all():
        raise ValueError(f"bootstrap got {int((~np.isfinite(array)).sum())} non-finite values of {array.size}")
    return array


def _group_numbers(n: int, groups: ArrayLike) -> np.ndarray:
    """The groups numbered from 0, one number per value."""
    names = np.asarray(groups)
    if names.shape != (n,):
        raise ValueError(f"groups must name one group per value: {names.shape} against {(n,)}")
    return np.unique(names, return_inverse=True)[1]


def _grouped(n: int, groups: ArrayLike) -> list[np.ndarray]:
    """The examples of every group."""
    numbers = _group_numbers(n, groups)
    order = np.argsort(numbers, kind="stable")
    return np.split(order, np.flatnonzero(np.diff(numbers[order])) + 1)
