"""Intervals and seeds: what turns many numbers into one claim.

Must not know: models, files, figures.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike


@dataclass(frozen=True)
class Estimate:
    """A value with its 95 % interval and the number of independent examples behind it."""

    value: float
    low: float
    high: float
    n: int

    def __str__(self) -> str:
        return f"{self.value:.4g} [{self.low:.4g}, {self.high:.4g}] (n={self.n})"


def generator(seed: int, *purpose: str | int) -> np.random.Generator:
    """A random generator for one purpose, derived from the run's seed: streams for different purposes are independent."""
    return np.random.default_rng([seed, _key(purpose)])


def torch_seed(seed: int, *purpose: str | int) -> int:
    """A seed for `torch.Generator().manual_seed` derived in the same way."""
    return int(generator(seed, *purpose).integers(2**62))


def _key(purpose: tuple[str | int, ...]) -> int:
    return int.from_bytes(hashlib.sha256(repr(purpose).encode()).digest()[:8], "big")


def bootstrap(
    values: ArrayLike,
    *,
    statistic: Callable[..., float] = np.mean,
    groups: Sequence[int] | np.ndarray | None = None,
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
        index = np.arange(array.size) if groups is None else _group_numbers(array, groups)
        return ratio(np.bincount(index, array), np.bincount(index), resamples=resamples, level=level, seed=seed)
    parts = [array[i : i + 1] for i in range(array.size)] if groups is None else _grouped(array, groups)
    value = float(statistic(array))
    if len(parts) == 1:
        return Estimate(value, float("-inf"), float("inf"), 1)
    rng = generator(seed, "bootstrap", resamples)
    draws = [statistic(np.concatenate([parts[i] for i in rng.integers(len(parts), size=len(parts))])) for _ in range(resamples)]
    low, high = np.quantile(draws, [(1 - level) / 2, (1 + level) / 2])
    return Estimate(value, float(low), float(high), len(parts))


def ratio(numerator: ArrayLike, denominator: ArrayLike, *, resamples: int = 2000, level: float = 0.95, seed: int = 0) -> Estimate:
    """Σ numerator / Σ denominator over independent examples, which are resampled together (percentile bootstrap)."""
    above, below = _examples(numerator), _examples(denominator)
    if above.shape != below.shape:
        raise ValueError(f"a ratio wants a numerator and a denominator per example: {above.shape} against {below.shape}")
    value = float(above.sum() / below.sum())
    if above.size == 1:
        return Estimate(value, float("-inf"), float("inf"), 1)
    rng = generator(seed, "bootstrap", resamples)
    picks = (rng.integers(above.size, size=above.size) for _ in range(resamples))
    draws = [above[rows].sum() / below[rows].sum() for rows in picks]
    low, high = np.quantile(draws, [(1 - level) / 2, (1 + level) / 2])
    return Estimate(value, float(low), float(high), above.size)


def paired_difference(a: ArrayLike, b: ArrayLike, *, level: float = 0.95, seed: int = 0) -> Estimate:
    """Mean of a − b over examples measured in both conditions, with its bootstrap interval."""
    first, second = np.asarray(a, dtype=np.float64), np.asarray(b, dtype=np.float64)
    if first.shape != second.shape:
        raise ValueError(f"paired examples must match: {first.shape} against {second.shape}")
    return bootstrap(first - second, level=level, seed=seed)


def _examples(values: ArrayLike) -> np.ndarray:
    array = np.asarray(values, dtype=np.float64)
    if array.ndim != 1 or array.size == 0:
        raise ValueError(f"bootstrap wants a non-empty vector of examples, got shape {array.shape}")
    if not np.isfinite(array).all():
        raise ValueError(f"bootstrap got {int((~np.isfinite(array)).sum())} non-finite values of {array.size}")
    return array


def _group_numbers(array: np.ndarray, groups: Sequence[int] | np.ndarray) -> np.ndarray:
    """The groups numbered from 0, one number per value."""
    names = np.asarray(groups)
    if names.shape != array.shape:
        raise ValueError(f"groups must name one group per value: {names.shape} against {array.shape}")
    return np.unique(names, return_inverse=True)[1]


def _grouped(array: np.ndarray, groups: Sequence[int] | np.ndarray) -> list[np.ndarray]:
    numbers = _group_numbers(array, groups)
    order = np.argsort(numbers, kind="stable")
    return np.split(array[order], np.flatnonzero(np.diff(numbers[order])) + 1)
