"""`Measurement`: the one result type of every analysis. Named axes, a unit, and the example axis kept until `stats` reduces it.

Must not know: models, figures.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import pandas as pd

from interp import stats


@dataclass(frozen=True)
class Measurement:
    """Numbers over named axes.

    values: array with one axis per name in `dims`.
    dims: axis names, from the vocabulary in docs/conventions.md (`layer`, `head`, `example`, `pos`, `neuron`, `feature` …).
    coords: labels along an axis, where they are not simply 0, 1, 2 ….
    unit: of the values, e.g. "nats", "attention", "" for a pure number.
    """

    name: str
    values: np.ndarray
    dims: tuple[str, ...]
    coords: dict[str, Sequence[Any]] = field(default_factory=dict)
    unit: str = ""

    def __post_init__(self) -> None:
        if self.values.ndim != len(self.dims):
            raise ValueError(f"{self.name}: values of shape {self.values.shape} do not fit dims {self.dims}")
        for dim, labels in self.coords.items():
            if len(labels) != self.values.shape[self._axis(dim)]:
                raise ValueError(
                    f"{self.name}: {len(labels)} coordinates for {dim}, which has {self.values.shape[self._axis(dim)]}"
                )

    def mean(self, dim: str) -> Measurement:
        """The mean over one axis."""
        coords = {name: labels for name, labels in self.coords.items() if name != dim}
        dims = tuple(name for name in self.dims if name != dim)
        return replace(self, values=np.asarray(self.values.mean(self._axis(dim))), dims=dims, coords=coords)

    def sel(self, **where: Any) -> Measurement:
        """The part at the given coordinates: `scores.sel(layer=1, head=3)`."""
        part = self
        for dim, label in where.items():
            labels = list(part._labels(dim))
            if label not in labels:
                raise ValueError(f"{self.name} has no {dim}={label!r}; it has {labels[:8]}{'…' if len(labels) > 8 else ''}")
            coords = {name: kept for name, kept in part.coords.items() if name != dim}
            values = np.take(part.values, labels.index(label), axis=part._axis(dim))
            part = replace(part, values=np.asarray(values), dims=tuple(name for name in part.dims if name != dim), coords=coords)
        return part

    def top(self, n: int | None = None) -> list[tuple[Any, ...]]:
        """Coordinates of the largest values, largest first: `[(layer, head), …]`; all of them without `n`."""
        order = np.argsort(-self.values, axis=None, kind="stable")[:n]
        positions = np.stack(np.unravel_index(order, self.values.shape), axis=1)
        return [tuple(self._labels(dim)[i] for dim, i in zip(self.dims, row, strict=True)) for row in positions]

    def estimate(self, *, seed: int = 0) -> stats.Estimate:
        """Mean over the one axis that is left, with its bootstrap interval; that axis must hold independent examples."""
        if len(self.dims) != 1:
            raise ValueError(
                f"{self.name}: an interval is taken over one axis of examples, but there are {self.dims}; use sel or mean first"
            )
        return stats.bootstrap(self.values, seed=seed)

    def table(self) -> pd.DataFrame:
        """Long form: one row per value, one column per axis, then the value under the measurement's name."""
        grids = np.meshgrid(*(np.asarray(self._labels(dim)) for dim in self.dims), indexing="ij")
        columns: dict[str, np.ndarray] = {dim: grid.ravel() for dim, grid in zip(self.dims, grids, strict=True)}
        return pd.DataFrame(columns | {self.name: self.values.ravel()})

    def _axis(self, dim: str) -> int:
        if dim not in self.dims:
            raise ValueError(f"{self.name} has no axis {dim!r}; it has {self.dims}")
        return self.dims.index(dim)

    def _labels(self, dim: str) -> Sequence[Any]:
        return self.coords.get(dim, range(self.values.shape[self._axis(dim)]))
