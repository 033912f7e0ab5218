"""Attribution patching: the effect of every node at once, estimated from gradients instead of performed.

Putting the corrupted twin's activation in the place of the clean one, at one node, changes the metric m to first order by

    effect = (a_corrupt − a_clean) · ∂m/∂a    at the clean run

(Nanda 2023, "Attribution Patching"; Syed et al. 2023, arXiv:2310.10348): a forward pass of the twins, one forward and one
backward of the clean inputs give it for all nodes of a batch. `integrated` takes the gradient along a path to the corrupted
side, and so does not miss what is flat where the path begins. `dropped` leaves one block after the other out of the gradient,
so that two paths which cancel are both seen (Kramár et al. 2024, arXiv:2403.00745, section 3.2). With `qk_fix`, queries and keys
go through the softmax exactly and only what follows is linear (section 3.1); `dropped` with it is AtP*.

All of these are estimates: `completeness` tells how far one is from adding up; patching tells what is true. A router that sends
a token to other experts makes a jump, which no gradient sees.
Denoising is `contrast.swapped()`. Must not know: figures, reports, where contrasts come from.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from interp.errors import ConfigError, ModelError
from interp.heads import softmax
from interp.heads.ablation import Values, axes, corrupted
from interp.heads.asked import ask, require_fits, require_telling
from interp.heads.graph import Graph
from interp.heads.nodes import WRITERS, Site, sites
from interp.heads.softmax import Estimate
from interp.measurement import Measurement
from interp.models.hooked import Edit, Model
from interp.tasks.contrast import Contrast, Metric


def attribution(
    model: Model,
    contrast: Contrast,
    metric: Metric = Contrast.logit_difference,
    *,
    parts: Sequence[str] = WRITERS,
    qk_fix: bool = False,
    by_position: bool = False,
    batch: int = 32,
) -> Measurement:
    """(a_corrupt − a_clean) · ∂m/∂a for every node: Measurement("node effect", (node, example[, pos])).

    parts: which nodes (`interp.heads.nodes`): "input", "z", "mlp", "q", "k", "v", "pattern", "resid".
    qk_fix: queries and keys through the exact softmax, at the price of three forward passes more.
    by_position: an effect for every position of a node. batch: examples in one pass, which bounds memory.

    Raises ModelError for a contrast that does not fit the model and for a metric that does not depend on the activations or
    whose gradient is not finite, ConfigError for parts that do not exist.
    """
    nodes = sites(Graph.of(model), parts)

    def found(part: Contrast) -> Float[Tensor, "node example pos"]:
        tape = recorded(model, part, metric, _hooks(nodes, qk_fix))
        return _linear(model, part, nodes, tape.clean, qk_fix)(tape.gradients())

    return _table(model, contrast, nodes, found, by_position=by_position, batch=batch)


def dropped(
    model: Model,
    contrast: Contrast,
    metric: Metric = Contrast.logit_difference,
    *,
    parts: Sequence[str] = WRITERS,
    qk_fix: bool = True,
    by_position: bool = False,
    batch: int = 32,
) -> Measurement:
    """Mean over blocks l of |(a_corrupt − a_clean) · ∂m/∂a without l|: Measurement("node effect", (node, example[, pos])).

    "Without l": no gradient flows through what block l adds to the residual stream. A node's own block does not count. The
    result has no sign. One backward pass for each block; with `qk_fix`, AtP*. Options and errors as in `attribution`; ConfigError
    too for a model of one block.
    """
    graph = Graph.of(model)
    nodes, blocks = sites(graph, parts), _blocks(graph)
    if len(blocks) < 2:
        raise ConfigError(f"{model.name} has 1 block, so none is left when it is dropped; use attribution")

    def found(part: Contrast) -> Float[Tensor, "node example pos"]:
        gates = _Gates(blocks)
        tape = recorded(model, part, metric, _hooks(nodes, qk_fix), edits=gates.edits)
        estimate = _linear(model, part, nodes, tape.clean, qk_fix)
        total = torch.zeros(())
        for gates.closed in blocks:
            effects = estimate(tape.gradients(keep=True))
            total = total + (effects if by_position else effects.sum(-1, keepdim=True)).abs()
        others = torch.tensor([len(blocks) - (site.block is not None) for site in nodes for _ in site.names])
        return total / others[:, None, None]

    return _table(model, contrast, nodes, found, by_position=by_position, batch=batch)


def integrated(
    model: Model,
    contrast: Contrast,
    metric: Metric = Contrast.logit_difference,
    *,
    parts: Sequence[str] = WRITERS,
    path: str = "inputs",
    steps: int = 5,
    by_position: bool = False,
    batch: int = 32,
) -> Measurement:
    """(a_corrupt − a_clean) · ∫₀¹ ∂m/∂a dα by the midpoint rule: Measurement("node effect", (node, example[, pos])).

    path: "inputs" moves the embeddings from clean to corrupted and takes the gradient at every node on the way (Hanna et al.
    2024, arXiv:2403.17806). "activations" moves what stands at one hook and leaves all before it clean, hook by hook (after
    Marks et al. 2024, arXiv:2403.19647): the nodes of a hook then add up to the effect of patching all of it.
    steps: forward and backward passes along each path. Other options and errors as in `attribution`.
    """
    require_path(path, steps)
    graph = Graph.of(model)
    nodes = sites(graph, parts)
    hooks = _hooks(nodes)

    def found(part: Contrast) -> Float[Tensor, "node example pos"]:
        clean = activations(model, part, list(dict.fromkeys([*hooks, *starts(graph)])))
        twins = corrupted(model, part, list(clean))
        moves = {hook: twins[hook] - clean[hook] for hook in clean}
        estimate = _estimate(nodes, clean, twins, {})
        if path == "inputs":
            return estimate(_mean_gradients(model, part, metric, hooks, {hook: moves[hook] for hook in starts(graph)}, steps))
        alone = (_mean_gradients(model, part, metric, [hook], {hook: moves[hook]}, steps) for hook in hooks)
        return estimate({hook: gradient for one in alone for hook, gradient in one.items()})

    return _table(model, contrast, nodes, found, by_position=by_position, batch=batch)


def completeness(
    model: Model, contrast: Contrast, effects: Measurement, metric: Metric = Contrast.logit_difference, *, batch: int = 32
) -> Measurement:
    """How far what leaves the inputs is from adding up: Σ effects − (m(corrupted embeddings) − m(clean)), of every example.

    effects: of nodes, with the inputs among them, or of edges; along "inputs" and "activations" the residual is the error of the
    integral, otherwise that of taking the model for linear. Measurement("residual", (example,)).

    Raises ConfigError for effects without inputs.
    """
    kind, hooks = effects.dims[0], starts(Graph.of(model))
    leaving = [at for at, name in enumerate(effects.coords[kind]) if name.partition("->")[0].endswith("input")]
    if not leaving:
        raise ConfigError(f"no {kind} starts at an input, so nothing says what they should add up to; attribute the inputs too")
    moved = []
    for part in split(contrast, batch):
        twins = corrupted(model, part, hooks)
        edits = [Edit(hook, partial(_put, value=twins[hook])) for hook in hooks]
        runs = [model.run(part.clean, edits=which, **_beside(part)).logits for which in (edits, [])]
        after, before = (ask(metric, part, logits).double().cpu() for logits in runs)
        moved.append(after - before)
    summed = effects.values[leaving].reshape(len(leaving), len(contrast), -1).sum((0, 2))
    return Measurement("residual", summed - torch.cat(moved).numpy(), ("example",))


# ---- gradients of a run: for nodes here, for edges in edge_attribution ----


@dataclass(frozen=True)
class Tape:
    """A forward pass that can be gone back through: the metric of every example, and activations in its graph."""

    value: Float[Tensor, " example"]
    activations: Values

    @property
    def clean(self) -> Values:
        """The activations alone."""
        return {hook: value.detach() for hook, value in self.activations.items()}

    def gradients(self, *, keep: bool = False) -> Values:
        """∂m/∂a at every hook; 0 where nothing depends on it. With `keep`, this can be asked for again."""
        inputs, ones = list(self.activations.values()), torch.ones_like(self.value)
        found = torch.autograd.grad(self.value, inputs, ones, retain_graph=keep, allow_unused=True, materialize_grads=True)
        return dict(zip(self.activations, found, strict=True))


def recorded(model: Model, contrast: Contrast, metric: Metric, hooks: Sequence[str], *, edits: Sequence[Edit] = ()) -> Tape:
    """A run on the clean inputs whose gradients can be taken at `hooks`. Nothing flows back beyond the residual streams' starts.

    Raises ModelError for a metric that is not differentiable, or does not look at the logits.
    """
    roots = starts(Graph.of(model))
    own = [Edit(hook, _root if hook in roots else _itself) for hook in dict.fromkeys([*roots, *hooks])]
    run = model.run(contrast.clean, read=hooks, edits=[*edits, *own], logits=True, grad=True, **_beside(contrast))
    with torch.enable_grad():
        value = ask(metric, contrast, run.logits)
    if not value.requires_grad:
        raise ModelError(
            "the metric has no gradient: it does not depend on the logits, or goes through argmax, detach or numpy; "
            "give a differentiable function of the logits"
        )
    return Tape(value, run.activations)


def along(model: Model, contrast: Contrast, metric: Metric, hooks: Sequence[str], moves: Values, steps: int) -> Iterator[Tape]:
    """Tapes at the middles of `steps` equal pieces of the path on which the activations at some hooks gain `moves`."""
    for step in range(steps):
        edits = [Edit(hook, partial(_shifted, by=move * (step + 0.5) / steps)) for hook, move in moves.items()]
        yield recorded(model, contrast, metric, hooks, edits=edits)


def activations(model: Model, contrast: Contrast, hooks: Sequence[str]) -> Values:
    """What the clean inputs have there."""
    return model.run(contrast.clean, read=hooks, **_beside(contrast)).activations


def starts(graph: Graph) -> list[str]:
    """The hooks at which the residual streams start."""
    return [stream.start for stream in graph.anatomy.streams.values()]


def split(contrast: Contrast, batch: int) -> Iterator[Contrast]:
    """The contrast in parts of at most `batch` examples."""
    if batch < 1:
        raise ConfigError(f"batch={batch} must be 1 or more")
    return (contrast[start : start + batch] for start in range(0, len(contrast), batch))


def require_path(path: str, steps: int) -> None:
    """Raises ConfigError for a path that does not exist, and for one without steps."""
    if path not in ("inputs", "activations"):
        raise ConfigError(f"no path {path!r}; move the 'inputs' or the 'activations'")
    if steps < 1:
        raise ConfigError(f"steps={steps} make no path; use at least 1")


def _root(value: Tensor) -> Tensor:
    return value.detach().requires_grad_()


def _itself(value: Tensor) -> Tensor:
    """An edit's own copy: a gradient there is of what the hook leads to, not of all else that reads the same tensor."""
    return value


def _shifted(value: Tensor, *, by: Tensor) -> Tensor:
    return value + by.to(value)


def _put(_: Tensor, *, value: Tensor) -> Tensor:
    return value


def _beside(contrast: Contrast) -> dict[str, Any]:
    return dict(contrast.beside)


# ---- from gradients to effects ----


def _hooks(nodes: Sequence[Site], qk_fix: bool = False) -> list[str]:
    """What must be read for the effects of these nodes."""
    patterns = [site.pattern for site in nodes if qk_fix and site.part in ("q", "k")]
    return list(dict.fromkeys([*(site.hook for site in nodes), *patterns]))


def _linear(model: Model, contrast: Contrast, nodes: Sequence[Site], clean: Values, qk_fix: bool) -> Estimate:
    """The estimate around the clean run."""
    twins = corrupted(model, contrast, list(clean))
    return _estimate(nodes, clean, twins, softmax.fixed(model, contrast, nodes, clean, twins) if qk_fix else {})


def _estimate(nodes: Sequence[Site], clean: Values, twins: Values, exact: Mapping[str, Estimate]) -> Estimate:
    """From gradients to the effects of putting the twins' activations in, linear; on the CPU, in float64.

    exact: estimates of their own for some hooks.
    """
    longest = max(clean[site.hook].shape[axes(site.hook)["pos"]] for site in nodes)

    def effects(gradients: Values) -> Float[Tensor, "node example pos"]:
        found = []
        for site in nodes:
            if site.hook in exact:
                found.append(exact[site.hook](gradients))
            else:
                found.append(site.per_node((twins[site.hook] - clean[site.hook]).double() * gradients[site.hook].double()))
        return torch.cat([torch.nn.functional.pad(each.double().cpu(), (0, longest - each.shape[-1])) for each in found])

    return effects


def _mean_gradients(model: Model, contrast: Contrast, metric: Metric, hooks: Sequence[str], moves: Values, steps: int) -> Values:
    """The mean over a path of the gradients at `hooks`."""
    mean: dict[str, Tensor] = {}
    for tape in along(model, contrast, metric, hooks, moves, steps):
        for hook, gradient in tape.gradients().items():
            mean[hook] = mean.get(hook, torch.zeros_like(gradient)) + gradient / steps
    return mean


def _table(
    model: Model,
    contrast: Contrast,
    nodes: Sequence[Site],
    found: Callable[[Contrast], Float[Tensor, "node example pos"]],
    *,
    by_position: bool,
    batch: int,
) -> Measurement:
    require_fits(model, contrast)
    effects = torch.cat([found(part) for part in split(contrast, batch)], 1)
    names = [name for site in nodes for name in site.names]
    require_telling(effects, names)
    dims = ("node", "example", "pos") if by_position else ("node", "example")
    return Measurement("node effect", (effects if by_position else effects.sum(-1)).numpy(), dims, {"node": names})


# ---- dropped blocks ----


class _Gates:
    """Lets gradients through what every block adds to the residual stream, but for the block that is closed."""

    def __init__(self, blocks: dict[str, list[str]]) -> None:
        self.closed = ""
        self.edits = [Edit(hook, partial(self._gated, block=block)) for block, hooks in blocks.items() for hook in hooks]

    def _gated(self, value: Tensor, *, block: str) -> Tensor:
        value.register_hook(lambda gradient: torch.zeros_like(gradient) if block == self.closed else gradient)
        return value


def _blocks(graph: Graph) -> dict[str, list[str]]:
    """The hooks of what each block adds to the residual stream."""
    found: dict[str, list[str]] = {}
    for sublayer in graph.anatomy.sublayers:
        found.setdefault(".".join(sublayer.out.split(".")[:2]), []).append(sublayer.out)
    return found
