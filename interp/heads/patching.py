"""Activation patching: what a run gains or loses when one place of it holds what another run has there.

The clean run goes on, and at one place the twin's activation is put in (noising; denoising is `contrast.swapped()`); the
effect is metric(patched run) − metric(clean run), of every example. Divided by `total_effect` (use `stats.ratio`, which gives
an interval) it is the share of the whole difference that passes there: with `swapped()`, the usual
(patched − corrupted) / (clean − corrupted) (Zhang & Nanda 2023, arXiv:2309.16042; Heimersheim & Nanda 2024, arXiv:2404.15255).

A sweep tries every layer, and if asked every head and position. Its cells run as rows of one batch, and where the model
allows it they start at the block that is patched. A cell whose value is the same in both runs is not run: its effect is 0.

Must not know: figures, reports, where contrasts come from.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

import torch
from jaxtyping import Bool, Float, Int, Shaped
from torch import Tensor

from interp.errors import ConfigError, ModelError
from interp.heads.ablation import Values, axes, corrupted
from interp.heads.asked import ask, require_fits
from interp.measurement import Measurement
from interp.models.hooked import Edit, Model
from interp.process import kept_memory
from interp.tasks.contrast import Contrast, Metric

AXES = ("head", "pos")
"""What a sweep can go through beside layers."""
TOKENS = 2048
"""Tokens of one forward pass, where nobody says otherwise: what a CPU does best."""


def total_effect(
    model: Model, contrast: Contrast, *, metric: Metric = Contrast.logit_difference, batch: int | None = None
) -> Measurement:
    """metric(corrupted run) − metric(clean run) of every example: what patching everything does. Measurement(example).

    Raises ModelError for a contrast that does not fit the model, ConfigError for a metric that gives no number per example.
    """
    require_fits(model, contrast)
    batch = _size(contrast, batch)
    parts = [contrast[start : start + batch] for start in range(0, len(contrast), batch)]
    effects = [_asked(model, part, metric, part.swapped()) - _asked(model, part, metric, part) for part in parts]
    return Measurement("effect", torch.cat(effects).numpy(), ("example",))


def sweep(
    model: Model,
    contrast: Contrast,
    hooks: str,
    *,
    by: Sequence[str] = (),
    metric: Metric = Contrast.logit_difference,
    values: Values | None = None,
    batch: int | None = None,
) -> Measurement:
    """The effect of patching every layer at `hooks`: Measurement(layer[, head][, pos], example).

    hooks: a hook's name with a star for the layer: "blocks.*.attn.hook_z", "decoder_blocks.*.cross_attn.hook_pattern".
    by: "head" for each head on its own (keys and values have as many as the model has of those), "pos" for each position
    (in a pattern, of the query), or both.
    values: what is put in; what the twins have there without it. With those of `ablation`, this is an ablation sweep; they
    have the axis of examples or 1 in its place.
    batch: rows in one forward pass, which bounds memory; as many as make 2,048 tokens without it.

    Raises HookError for hooks the model does not have, ConfigError for an axis it cannot go through and for a metric that gives
    no number per example or never sees that logits change, ModelError for a contrast that does not fit the model (twins that
    differ nowhere among them) and for values that are missing or do not fit.
    """
    layers = _layers(model, hooks)
    by = _known_axes(by, hooks)
    batch = _size(contrast, batch)
    require_fits(model, contrast, twins=values is None)
    missing = [hook for hook in layers.values() if values is not None and hook not in values]
    if missing:
        raise ModelError(f"no values for {', '.join(missing)}; give some for every layer")
    effects, unseen = [], False
    with kept_memory(model.device):
        for start in range(0, len(contrast), batch):
            own = slice(start, start + batch)
            given = None if values is None else {hook: _of(values[hook], own, len(contrast)) for hook in layers.values()}
            found, missed = _sweep(model, contrast[own], layers, by=by, metric=metric, values=given, batch=batch)
            effects.append(found)
            unseen |= missed
    if unseen and not any(each.any() for each in effects):
        raise ConfigError(
            "every effect is exactly 0 although patches change the logits: the metric does not depend on what changes; ask "
            "another, or at a position that the patches reach"
        )
    dims = ("layer", *by, "example")
    return Measurement("effect", torch.cat(effects, -1).numpy(), dims, {"layer": list(layers)})


def _sweep(
    model: Model,
    contrast: Contrast,
    layers: dict[int, str],
    *,
    by: tuple[str, ...],
    metric: Metric,
    values: Values | None,
    batch: int,
) -> tuple[Float[Tensor, "layer *cells example"], bool]:
    """As `sweep`, for examples that fit into one run; and whether logits changed somewhere without the metric seeing it."""
    starts = _starts(model, layers)
    read = [*layers.values(), *starts.values()]
    run = model.run(contrast.clean, read=read, logits=True, **_beside(contrast))
    clean, base = run.activations, ask(metric, contrast, run.logits).double().cpu()
    values = corrupted(model, contrast, list(layers.values())) if values is None else values
    found, unseen = [], False
    for layer, hook in layers.items():
        value = _fitting(values[hook], clean[hook], hook)
        differs = _differs(clean[hook], value, hook, by)
        effects = torch.zeros(differs.shape, dtype=torch.float64)
        changed = differs.nonzero()
        for work in changed.split(batch) if len(changed) else ():
            *cell, example = work.T
            edit = Edit(hook, partial(_put, value=value, hook=hook, by=by, cell=cell, example=example))
            part = contrast[example]
            if layer in starts:
                residual = clean[starts[layer]][example]
                logits = model.run_from(layer, residual, edits=[edit], logits=True, **_beside(part)).logits
            else:
                logits = model.run(part.clean, edits=[edit], **_beside(part)).logits
            changes = ask(metric, part, logits).double().cpu() - base[example]
            unseen |= not changes.any() and not torch.equal(logits, run.logits[example.to(logits.device)])
            effects[(*cell, example)] = changes
        found.append(effects)
    return torch.stack(found), unseen


def _put(
    activation: Float[Tensor, "row ..."],
    *,
    value: Float[Tensor, "example ..."],
    hook: str,
    by: tuple[str, ...],
    cell: list[Int[Tensor, " row"]],
    example: Int[Tensor, " row"],
) -> Float[Tensor, "row ..."]:
    """Every row with its own cell replaced by what its example has there."""
    edited = activation.clone()
    row = torch.arange(len(example))
    _cells_first(edited, hook, by)[(row, *cell)] = _cells_first(value, hook, by)[(example, *cell)]
    return edited


def _cells_first(value: Shaped[Tensor, "row ..."], hook: str, by: tuple[str, ...]) -> Shaped[Tensor, "row ..."]:
    """A view of an activation whose axes of cells come right after the rows."""
    known = axes(hook)
    return value.movedim([known[axis] for axis in by], list(range(1, len(by) + 1)))


def _differs(
    clean: Float[Tensor, "example ..."], value: Float[Tensor, "example ..."], hook: str, by: tuple[str, ...]
) -> Bool[Tensor, "*cells example"]:
    """Whether the patch changes anything, for every cell and example."""
    changed = _cells_first(clean != value, hook, by).flatten(1 + len(by)).any(-1)
    return changed.movedim(0, -1).cpu()


def _size(contrast: Contrast, batch: int | None) -> int:
    """Rows in one forward pass."""
    batch = max(1, TOKENS // contrast.clean.shape[1]) if batch is None else batch
    if batch < 1:
        raise ConfigError(f"batch={batch} must be 1 or more")
    return batch


def _asked(model: Model, contrast: Contrast, metric: Metric, inputs: Contrast) -> Float[Tensor, " example"]:
    return ask(metric, contrast, model.run(inputs.clean, **_beside(inputs)).logits).double().cpu()


def _beside(contrast: Contrast) -> dict[str, Any]:
    return dict(contrast.beside)


def _layers(model: Model, hooks: str) -> dict[int, str]:
    """The hooks that a name with a star stands for, by layer."""
    before, star, after = hooks.partition("*")
    if not star or "*" in after:
        raise ConfigError(f"hooks={hooks!r} must have one star in the place of the layer, as in 'blocks.*.attn.hook_z'")
    matching = (name for name in model.hooks if name.startswith(before) and name.endswith(after))
    numbers = (name.removeprefix(before).removesuffix(after) for name in matching)
    layers = sorted(int(number) for number in numbers if number.isdigit())
    if not layers:
        model.resolve([hooks.replace("*", "0")])
    return {layer: f"{before}{layer}{after}" for layer in layers}


def _known_axes(by: Sequence[str], hooks: str) -> tuple[str, ...]:
    """The axes in the order of the result."""
    if isinstance(by, str):
        raise ConfigError(f"expected axes, got the string {by!r}; write by=({by!r},)")
    known = axes(hooks)
    for axis in by:
        if axis not in AXES:
            raise ConfigError(f"by={axis!r} is no axis of a sweep; choose from {', '.join(AXES)}")
        if axis not in known:
            raise ConfigError(f"{hooks} has no heads to go through; leave 'head' out, or name attn.hook_z or another with heads")
    return tuple(axis for axis in AXES if axis in by)


def _starts(model: Model, layers: dict[int, str]) -> dict[int, str]:
    """The residual streams from which runs patched in these layers can be resumed; layers without one run from the beginning."""
    order = {name: place for place, name in enumerate(model.hooks)}
    starts = {layer: f"blocks.{layer}.hook_resid_pre" for layer in layers if f"blocks.{layer}.hook_in" in order}
    return {layer: start for layer, start in starts.items() if order.get(start, len(order)) <= order[layers[layer]]}


def _of(value: Float[Tensor, "..."], rows: slice, examples: int) -> Float[Tensor, "..."]:
    """The part of some examples, of values that may be one for all."""
    return value[rows] if value.ndim and len(value) == examples > 1 else value


def _fitting(value: Float[Tensor, "..."], clean: Float[Tensor, "example ..."], hook: str) -> Float[Tensor, "example ..."]:
    try:
        return value.to(clean).expand_as(clean)
    except RuntimeError:
        raise ModelError(f"values of shape {list(value.shape)} do not fit {hook}, which is {list(clean.shape)}") from None
