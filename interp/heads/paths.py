"""Exact edges: what changes when one reader, and no other, gets something else from one writer.

An edge u -> v carries what u writes to what v reads. When it is replaced, v reads its residual as if u had written something
else (what it writes on the corrupted input, zero, its mean), u's other readers see what u really wrote, and everything
downstream of v is computed anew. With edges replaced into v from several writers,

    v reads  residual + Σ_u (replacement_u - u),        residual and u those of this very run,

in the model's own norm and projection. Where the stream is normed between sublayers (post-LN), the direct path from u to v runs
through skip connections and these norms: the residual is recomputed from u's sublayer on, r <- norm(r + out), with all other
outputs as they are in this run. Replacing every edge gives the corrupted run; replacing none, the clean one.

This is path patching (Wang et al. 2022, arXiv:2211.00593; Goldowsky-Dill et al. 2023, arXiv:2304.05969) with MLPs as nodes of
their own, and the intervention that circuits are judged by (Conmy et al. 2023, arXiv:2304.14997).

Must not know: how edges are chosen, figures, reports.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import groupby
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from interp.errors import ConfigError
from interp.heads.asked import ask, require_fits
from interp.heads.graph import EdgeLike, Graph
from interp.heads.replacing import Ground, first_block, replaced, watched
from interp.measurement import Measurement
from interp.models.hooked import Model, Run
from interp.tasks.contrast import Contrast, Metric

REPLACEMENTS = ("corrupt", "zero", "mean")
Positions = Int[Tensor, " example"] | int
"""Where edges are replaced: one position per example, or one for all."""


class Ready:
    """A contrast made ready for runs with replaced edges: what every node writes on it and what takes its place, worked out once.

    replacement: "corrupt", what the node writes on the corrupted twin; "zero"; "mean", its mean over all corrupted twins at
    the same position. A bias of an attention is no head's, and stays; an MLP's is its own.
    positions: replace only what is written there.
    batch: rows in one run; what is written on every example is kept in memory.

    Raises ConfigError for another replacement and for positions outside the rows, ModelError for a contrast that this model
    cannot be asked about (`interp.heads.asked`).
    """

    def __init__(
        self,
        model: Model,
        graph: Graph,
        contrast: Contrast,
        *,
        replacement: str = "corrupt",
        positions: Positions | None = None,
        batch: int = 64,
    ) -> None:
        if replacement not in REPLACEMENTS:
            raise ConfigError(f"no replacement {replacement!r}; one of {', '.join(REPLACEMENTS)}")
        require_fits(model, contrast, twins=replacement == "corrupt")
        self.model, self.graph, self.batch, self._replacement = model, graph, batch, replacement
        parts = [slice(start, start + batch) for start in range(0, len(contrast), batch)]
        corrupt = [self._run(contrast[part].swapped()) for part in parts]
        self._corrupt_logits = [run.logits for run in corrupt]
        instead = self._instead([run.activations for run in corrupt])
        self._grounds = []
        for part, activations in zip(parts, instead, strict=True):
            run = self._run(contrast[part])
            here = positions[part] if isinstance(positions, Tensor) else positions
            where = None if here is None else self._where(here, run.activations)
            self._grounds.append(Ground(contrast[part], run.activations, run.logits, activations, where))

    def logits(self, edges: Iterable[EdgeLike]) -> Float[Tensor, "example pos d_vocab"]:
        """Logits of the run in which exactly these edges are replaced. Raises ModelError for edges that the graph has not."""
        chosen = self.graph.select(edges)
        return torch.cat([replaced(self.model, self.graph, ground, [chosen])[0] for ground in self._grounds])

    def effects(self, metric: Metric, sets: Sequence[Iterable[EdgeLike]]) -> Float[np.ndarray, "set example"]:
        """metric(with the edges of a set replaced) - metric(without), for every set by itself.

        Raises ModelError for edges that the graph has not, ConfigError for a metric that is not one finite number per example,
        or that is the same for clean and corrupted logits.
        """
        chosen = [self.graph.select(edges) for edges in sets]
        order = sorted(range(len(chosen)), key=lambda number: first_block(self.graph, chosen[number]))
        columns = []
        for ground, plain in zip(self._grounds, self._plain(metric), strict=True):
            values = torch.zeros(len(chosen), len(plain), dtype=torch.float64)
            for pack in _packs(order, lambda number: first_block(self.graph, chosen[number]), max(1, self.batch // len(plain))):
                logits = replaced(self.model, self.graph, ground, [chosen[number] for number in pack])
                values[pack] = _asked(metric, ground.contrast, logits) - plain
            columns.append(values)
        return torch.cat(columns, 1).numpy()

    def _run(self, contrast: Contrast) -> Run:
        beside: dict[str, Any] = dict(contrast.beside)
        return self.model.run(contrast.clean, read=watched(self.graph), logits=True, **beside)

    def _instead(self, corrupt: Sequence[dict[str, Tensor]]) -> list[dict[str, Tensor]]:
        """What takes the place of what is written, part by part."""
        if self._replacement == "corrupt":
            return list(corrupt)
        means = {hook: torch.cat([part[hook] for part in corrupt]).mean(0) for hook in corrupt[0]}
        kept = 0.0 if self._replacement == "zero" else 1.0
        return [{hook: (kept * means[hook]).expand_as(value) for hook, value in part.items()} for part in corrupt]

    def _where(self, positions: Positions, seen: dict[str, Tensor]) -> dict[str, Bool[Tensor, "example pos"]]:
        where = {}
        for prefix, stream in self.graph.anatomy.streams.items():
            rows, length = seen[stream.start].shape[:2]
            places = torch.as_tensor(positions).cpu().expand(rows)
            if int(places.min()) < -length or int(places.max()) >= length:
                raise ConfigError(f"positions do not lie in rows of {length} tokens; give one place per example, or one for all")
            where[prefix] = (torch.arange(length) == (places % length)[:, None]).to(seen[stream.start].device)
        return where

    def _plain(self, metric: Metric) -> list[Float[Tensor, " example"]]:
        """The metric of the clean run, part by part."""
        plain = [_asked(metric, ground.contrast, ground.logits[None])[0] for ground in self._grounds]
        if self._replacement == "corrupt":
            corrupt = [
                _asked(metric, ground.contrast, logits[None])[0]
                for ground, logits in zip(self._grounds, self._corrupt_logits, strict=True)
            ]
            if torch.equal(torch.cat(plain), torch.cat(corrupt)):
                raise ConfigError(
                    "the metric is the same on clean and corrupted inputs in every example, so there is nothing to attribute; "
                    "ask for what the corruption changes, at the position where it shows"
                )
        return plain


def run_with(
    model: Model,
    graph: Graph,
    contrast: Contrast,
    edges: Iterable[EdgeLike],
    *,
    replacement: str = "corrupt",
    positions: Positions | None = None,
    batch: int = 64,
) -> Float[Tensor, "example pos d_vocab"]:
    """Logits of one run in which exactly these edges are replaced, and everything downstream is computed anew.

    For many runs on the same contrast keep a `Ready`, which this makes anew every time; its options and errors are the same.
    """
    return Ready(model, graph, contrast, replacement=replacement, positions=positions, batch=batch).logits(edges)


def effects(
    model: Model,
    contrast: Contrast,
    metric: Metric,
    edges: Iterable[EdgeLike] | None = None,
    *,
    replacement: str = "corrupt",
    positions: Positions | None = None,
    batch: int = 64,
) -> Measurement:
    """What every edge does by itself, metric(replaced) - metric(clean): Measurement(edge, example). All edges without `edges`.

    The exact quantity that edge attribution estimates. Options and errors as `Ready` and `Ready.effects`.
    """
    graph = Graph.of(model)
    chosen = graph.edges if edges is None else graph.select(edges)
    ready = Ready(model, graph, contrast, replacement=replacement, positions=positions, batch=batch)
    values = ready.effects(metric, [[edge] for edge in chosen])
    return Measurement("edge effect", values, ("edge", "example"), {"edge": [str(edge) for edge in chosen]})


def effect(
    model: Model,
    contrast: Contrast,
    metric: Metric,
    edges: Iterable[EdgeLike],
    *,
    replacement: str = "corrupt",
    positions: Positions | None = None,
    batch: int = 64,
) -> Measurement:
    """What these edges do together, metric(replaced) - metric(clean): Measurement(example).

    Path patching from a sender along given receivers is the set of edges from one to the others:
    `effect(model, contrast, metric, ["a0.h1->a1.h0<k>", "a0.h1->a1.h3<k>"])`. Options and errors as `Ready` and `Ready.effects`.
    """
    ready = Ready(model, Graph.of(model), contrast, replacement=replacement, positions=positions, batch=batch)
    return Measurement("edge effect", ready.effects(metric, [list(edges)])[0], ("example",))


def _packs(order: Sequence[int], block: Callable[[int], int], size: int) -> Iterator[list[int]]:
    """Sets that can run side by side: those that start at the same block, so many at a time."""
    for _, group in groupby(order, key=block):
        numbers = list(group)
        yield from (numbers[start : start + size] for start in range(0, len(numbers), size))


def _asked(metric: Metric, contrast: Contrast, logits: Float[Tensor, "set example pos d_vocab"]) -> Float[Tensor, "set example"]:
    """The metric of every set and example."""
    sets, examples = logits.shape[:2]
    values = ask(metric, contrast[torch.arange(examples).repeat(sets)], logits.flatten(0, 1))
    return values.detach().double().cpu().unflatten(0, (sets, examples))
