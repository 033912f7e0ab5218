"""Edge attribution patching: the effect of every edge at once, estimated from gradients instead of performed.

What u writes differs between the twins by Δu. As v reads it, that changes the metric m to first order by

    effect(u → v) = (u_corrupt − u_clean) · ∂m/∂(v's input)    at the clean run

(EAP: Syed et al. 2023, arXiv:2310.10348). `eap_ig` takes the gradient along a path to the corrupted side (EAP-IG: Hanna et al.
2024, arXiv:2403.17806), and so does not miss what is flat where the path begins.

The gradient stands at what v reads with (`hook_q`); from there it goes back through v's own projection and norm, at the
activations of the run, to the residual. In a post-LN model the norms that u's writing meets on its way to v are taken along the
same way. One backward pass and one matrix product give all edges of a batch, and every table is checked before it is returned:
the edges out of u must add up to the effect of u.

All of these are estimates; `gradients.completeness` tells how far one is from adding up, `paths` what is true.
Denoising is `contrast.swapped()`. Must not know: figures, reports, where contrasts come from.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeAlias

import torch
from jaxtyping import Float
from torch import Tensor

from interp.errors import ModelError
from interp.heads.ablation import Values, corrupted
from interp.heads.asked import require_fits, require_telling
from interp.heads.gradients import Tape, activations, along, recorded, require_path, split, starts
from interp.heads.graph import Graph
from interp.measurement import Measurement
from interp.models.anatomy import Stream, Sublayer, Way, stepped, written
from interp.models.hooked import Model
from interp.tasks.contrast import Contrast, Metric

Dense: TypeAlias = Float[Tensor, "source target example _"]
"""Of every writer and every reader, 0 where there is no edge. The last axis is of positions, or 1 long when they are summed."""

_HELD = 2**26
"""Numbers in the gradients at all readers that are held at a time: 256 MiB in float32."""


def eap(
    model: Model,
    contrast: Contrast,
    metric: Metric = Contrast.logit_difference,
    *,
    by_position: bool = False,
    batch: int = 32,
) -> Measurement:
    """(u_corrupt − u_clean) · ∂m/∂(v's input) for every edge: Measurement("edge effect", (edge, example[, pos])).

    by_position: an effect for every position of an edge. batch: examples in one pass, which bounds memory.

    Raises ModelError for a contrast that does not fit the model, for a metric that does not depend on the activations or whose
    gradient is not finite, and for a model whose edges do not add up.
    """
    edges = _Edges(model, by_position=by_position)

    def found(part: Contrast) -> Dense:
        tape = recorded(model, part, metric, edges.hooks)
        twins = corrupted(model, part, edges.written)
        return edges.effects(tape, {hook: twin - tape.activations[hook].detach() for hook, twin in twins.items()})

    return edges.table(contrast, found, batch)


def eap_ig(
    model: Model,
    contrast: Contrast,
    metric: Metric = Contrast.logit_difference,
    *,
    path: str = "inputs",
    steps: int = 5,
    by_position: bool = False,
    batch: int = 32,
) -> Measurement:
    """(u_corrupt − u_clean) · ∫₀¹ ∂m/∂(v's input) dα by the midpoint rule: Measurement("edge effect", (edge, example[, pos])).

    path: "inputs" moves the embeddings from clean to corrupted; "activations" moves what one sublayer writes (its heads together)
    and leaves all before it clean, sublayer by sublayer, for the edges out of it.
    steps: forward and backward passes along each path. Other options and errors as in `eap`; ConfigError for another path and
    for no steps.
    """
    require_path(path, steps)
    edges = _Edges(model, by_position=by_position)
    first = starts(edges.graph)

    def found(part: Contrast) -> Dense:
        clean, twins = activations(model, part, edges.written), corrupted(model, part, edges.written)
        moves = {hook: twins[hook] - clean[hook] for hook in clean}
        if path == "inputs":
            journeys = [({hook: moves[hook] for hook in first}, moves)]
        else:
            journeys = [({hook: move}, {hook: move}) for hook, move in moves.items()]
        total = torch.zeros((), dtype=torch.float64)
        for moved, asked in journeys:
            for tape in along(model, part, metric, edges.hooks, moved, steps):
                total = total + edges.effects(tape, asked) / steps
        return total

    return edges.table(contrast, found, batch)


class _Edges:
    """The edges of a model: what must be read for them, and their effects from gradients."""

    def __init__(self, model: Model, *, by_position: bool) -> None:
        self.model, self.graph, self._by_position = model, Graph.of(model), by_position
        self.written = list(dict.fromkeys(writer.hook for writer in self.graph.writers.values()))
        read = [reader.way.hook for reader in self.graph.readers.values()]
        added = [sublayer.out for sublayer in self.graph.anatomy.sublayers]
        self.hooks = list(dict.fromkeys([*self.written, *read, *added]))
        self._rows: dict[str, list[int]] = {}
        for row, writer in enumerate(self.graph.writers.values()):
            self._rows.setdefault(writer.hook, []).append(row)
        self._columns: dict[Way, list[int]] = {}
        for column, reader in enumerate(self.graph.readers.values()):
            self._columns.setdefault(reader.way, []).append(column)

    def effects(self, tape: Tape, moves: Values) -> Dense:
        """moves · gradients for every writer at the hooks of `moves` and everything that reads it."""
        clean, gradients = tape.clean, tape.gradients()
        examples = len(tape.value)
        longest = max(clean[hook].shape[1] for hook in starts(self.graph)) if self._by_position else 1
        dense = torch.zeros(len(self.graph.writers), len(self.graph.readers), examples, longest, dtype=torch.float64)
        for stream in self.graph.anatomy.streams.values():
            size = len(self.graph.readers) * clean[stream.start][0].numel()
            step = max(1, _HELD // size)
            for start in range(0, examples, step):
                some = slice(start, start + step)
                parts = ({hook: value[some] for hook, value in each.items()} for each in (clean, gradients, moves))
                self._walk(stream, *parts, into=dense[:, :, some])
        self._check(dense, gradients, moves, tape.value)
        return dense

    def table(self, contrast: Contrast, found: Callable[[Contrast], Dense], batch: int) -> Measurement:
        """The edges' effects, of all examples."""
        require_fits(self.model, contrast)
        dense = torch.cat([found(part) for part in split(contrast, batch)], 2)
        sources = {name: row for row, name in enumerate(self.graph.writers)}
        targets = {key: column for column, key in enumerate(self.graph.readers)}
        edges = self.graph.edges
        picked = dense[[sources[edge.source] for edge in edges], [targets[edge.target, edge.way] for edge in edges]]
        names = [str(edge) for edge in edges]
        require_telling(picked, names)
        dims = ("edge", "example", "pos") if self._by_position else ("edge", "example")
        values = picked if self._by_position else picked[..., 0]
        return Measurement("edge effect", values.numpy(), dims, {"edge": names})

    @torch.no_grad()
    def _walk(self, stream: Stream, clean: Values, gradients: Values, moves: Values, *, into: Dense) -> None:
        """From the stream's end to its start, with the gradients of all that reads it later."""
        hooks = [stream.start, *(sublayer.writes for sublayer in stream.sublayers)]
        asked = [depth for depth, hook in enumerate(hooks) if hook in moves]
        if not asked:
            return
        residuals = _residuals(self.model, stream, clean)
        ways = [way for way in self._columns if way.stream == stream.prefix]
        columns: list[int] = []
        examples, *shape = residuals[0].shape
        pulled = residuals[0].new_empty(examples, sum(len(self._columns[way]) for way in ways), *shape)
        for depth in range(len(stream.sublayers), min(asked) - 1, -1):
            for way in ways:
                if way.depth == depth:
                    new = _at_residual(self.model, way, residuals[depth], gradients[way.hook])
                    pulled[:, len(columns) : len(columns) + new.shape[1]] = new
                    columns += self._columns[way]
            here = pulled[:, : len(columns)]
            sublayer = stream.sublayers[depth - 1] if depth else None
            if sublayer is not None and sublayer.renorm is not None:
                here[:] = _back(self.model, (sublayer.renorm,), residuals[depth - 1] + clean[sublayer.out], here)
            if hooks[depth] in moves:
                products = self._products(_added(self.model, sublayer, moves[hooks[depth]]), here)
                rows = torch.tensor(self._rows[hooks[depth]])
                into[rows[:, None], torch.tensor(columns), :, : products.shape[-1]] = products.double().cpu()

    def _products(
        self, moved: Float[Tensor, "example source pos d_model"], pulled: Float[Tensor, "example target pos d_model"]
    ) -> Dense:
        if self._by_position:
            return torch.einsum("eupm,evpm->uvep", moved, pulled)
        return torch.bmm(moved.flatten(2), pulled.flatten(2).mT).permute(1, 2, 0)[..., None]

    def _check(self, dense: Dense, gradients: Values, moves: Values, value: Float[Tensor, " example"]) -> None:
        """Raises ModelError unless the edges out of every node add up to the node's own effect, but for rounding.

        Rounding of the effects, and of the metric: where a softmax is sure of itself, effects may be smaller than that.
        """
        size = dense.abs().sum((1, 3)).max()
        rounding = torch.finfo(torch.float32).eps  # at best: models compute norms in float32, whatever their weights are
        for hook, move in moves.items():
            products = (move * gradients[hook]).double().cpu()
            whole = products.flatten(1).sum(1)[None] if len(self._rows[hook]) == 1 else products.sum((1, 3)).T
            missed = (dense[self._rows[hook]].sum((1, 3)) - whole).abs().max()
            precision = max(torch.finfo(move.dtype).eps, rounding)
            if missed > precision**0.5 * size + 8 * precision * float(value.detach().abs().max()):
                raise ModelError(
                    f"the edges out of {hook} do not add up to its effect on {self.model.name} (off by {missed / size:.1%}): it "
                    "is read in a way that the graph does not know; use gradients.attribution or patching"
                )


def _residuals(model: Model, stream: Stream, clean: Values) -> list[Tensor]:
    """The residual of a stream after 0, 1, 2, … sublayers."""
    found = [clean[stream.start]]
    for sublayer in stream.sublayers:
        found.append(stepped(model, sublayer, found[-1], clean[sublayer.out]))
    return found


def _added(
    model: Model, sublayer: Sublayer | None, move: Float[Tensor, "example pos ..."]
) -> Float[Tensor, "example source pos d_model"]:
    """What a move adds to the residual: that of every head, or of the whole."""
    if sublayer is None or sublayer.heads is None:
        return move[:, None]
    return written(model, sublayer, range(sublayer.heads), move.movedim(-2, 0)).transpose(0, 1)


def _at_residual(
    model: Model, way: Way, residual: Float[Tensor, "example pos d_model"], gradient: Float[Tensor, "example pos ..."]
) -> Float[Tensor, "example target pos d_model"]:
    """The gradient with respect to the residual, as each reader of a way by itself passes it on."""
    if way.heads is None:
        return _back(model, way.parts, residual, gradient[:, None])
    attention, _, letter = way.parts[-1].rpartition(".")
    weight = model.weight(f"{attention}.W_{letter.upper()}").to(gradient)
    return _back(model, way.parts[:-1], residual, torch.einsum("ephd,hmd->ehpm", gradient, weight))


def _back(
    model: Model,
    parts: Sequence[str],
    at: Float[Tensor, "example pos d_model"],
    gradient: Float[Tensor, "example target pos _"],
) -> Float[Tensor, "example target pos d_model"]:
    """Gradients through parts of the model, taken at one value of what goes in."""
    if not parts:
        return gradient
    leaf = at[:, None].expand(*gradient.shape[:3], -1).flatten(0, 1).requires_grad_()
    with torch.enable_grad():
        value = leaf
        for part in parts:
            value = model.apply(part, value)
    return torch.autograd.grad(value, leaf, gradient.flatten(0, 1))[0].unflatten(0, gradient.shape[:2])
