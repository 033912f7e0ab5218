"""Parts of a run replaced by something else, and what that costs on every example.

What is replaced is a `Place`: the activation at a hook, or one head or one position of it; a pair (layer, head) stands for
what that head hands to the output projection. By what is a `Values`: a tensor for every hook, of the activation's shape or
one that spreads over it. `replaced` puts the one in the place of the other; the ablations differ in their values alone:

    zero             zeros(hooks)
    mean             mean_outputs(model, tokens, hooks): keeps what is written everywhere, removes what tells contexts apart
    position mean    … with by_position=True
    resample         corrupted(model, contrast, hooks), or shuffled(values): from the twin, or from another example
    noise            noisy(values)

Values are those of an untouched run: what is replaced at a later place does not know of the places before it. Hooks say
which model they belong to, so all this serves encoders, decoders and cross-attention alike.

Must not know: figures, reports, where tokens come from.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from interp import stats
from interp.errors import ConfigError, ModelError
from interp.measurement import Measurement
from interp.models.hooked import Edit, Model
from interp.tasks.contrast import Contrast

Head = tuple[int, int]
Values = Mapping[str, Tensor]

_ROWS_OF_HEADS = ("hook_q", "hook_k", "hook_v", "hook_z", "hook_result")  # [batch pos head …]
_HEADS_OF_ROWS = ("hook_pattern", "hook_attn_scores")  # [batch head pos …], where pos is that of the query


@dataclass(frozen=True)
class Place:
    """The activation at a hook: all of it, or one head, one position (of the query, in a pattern), or both."""

    hook: str
    head: int | None = None
    pos: int | None = None


def axes(hook: str) -> dict[str, int]:
    """Where in the activation of a hook its positions lie, and its heads if it has any."""
    name = hook.rpartition(".")[2]
    if name in _ROWS_OF_HEADS:
        return {"head": 2, "pos": 1}
    return {"head": 1, "pos": 2} if name in _HEADS_OF_ROWS else {"pos": 1}


# ---- what is put there ----


def zeros(hooks: Iterable[str]) -> Values:
    """Nothing at all."""
    return {hook: torch.zeros(()) for hook in hooks}


def mean_outputs(
    model: Model,
    tokens: Int[Tensor, "example pos"],
    hooks: Sequence[str] | None = None,
    *,
    positions: Bool[Tensor, "example _"] | None = None,
    by_position: bool = False,
    batch: int = 32,
    **beside: Any,
) -> Values:
    """Mean of every activation over examples and positions; over those marked in `positions`, where it is given.

    hooks: what every head hands to the output projection, without it. by_position: a mean for every position. A head may
    write something else where it has nothing to do (at BOS, say): for what it writes while at work, mark those positions.

    Raises ModelError when no position is marked, or with `by_position` one that no example marks.
    """
    hooks = [_hook_z(model, layer) for layer in range(model.n_layers)] if hooks is None else hooks
    totals: dict[str, Tensor] = {}
    counts: dict[str, Tensor] = {}
    for rows in torch.arange(len(tokens)).split(batch):
        run = model.run(tokens[rows], read=hooks, **{name: value[rows] for name, value in beside.items()})
        for hook, found in run.activations.items():
            marked = _spread(None if positions is None else positions[rows], hook, found)
            over = (0,) if by_position else (0, axes(hook)["pos"])
            totals[hook] = totals.get(hook, 0) + (found.double() * marked).sum(over, keepdim=True)
            counts[hook] = counts.get(hook, 0) + marked.sum(over, keepdim=True)
    if not all(count.all() for count in counts.values()):
        where = "a position is marked in no example" if by_position else "no position is marked"
        raise ModelError(f"{where} to take the mean over; mark at least one")
    return {hook: (total / counts[hook]).float() for hook, total in totals.items()}


def corrupted(model: Model, contrast: Contrast, hooks: Sequence[str]) -> Values:
    """What the corrupted twins have there."""
    beside: dict[str, Any] = dict(contrast.swapped().beside)
    return model.run(contrast.corrupt, read=hooks, **beside).activations


def shuffled(values: Values, *, seed: int) -> Values:
    """What another example has there; the same other one at every hook, and no example its own.

    Raises ConfigError for fewer than two examples.
    """
    n = len(next(iter(values.values())))
    if n < 2:
        raise ConfigError("another example's values need at least 2 examples; give more")
    order = torch.randperm(n, generator=stats.torch_generator(seed, "another example"))
    other = torch.empty_like(order)
    other[order] = order.roll(1)
    return {hook: value[other.to(value.device)] for hook, value in values.items()}


def noisy(values: Values, *, scale: float, seed: int) -> Values:
    """The values with Gaussian noise on every number, of `scale` standard deviations of all numbers at that hook.

    Raises ConfigError unless `scale` is above 0.
    """
    if not scale > 0:
        raise ConfigError(f"scale={scale:g} is no noise; give standard deviations above 0, such as 1.0")
    generator = stats.torch_generator(seed, "noise")
    noise = {hook: torch.randn(value.shape, generator=generator).to(value) for hook, value in values.items()}
    return {hook: value + scale * value.std() * noise[hook] for hook, value in values.items()}


# ---- putting it there ----


def replaced(model: Model, places: Iterable[Place | Head], values: Values) -> list[Edit]:
    """Edits under which the places hold `values`, one edit for every hook.

    Values with an axis of examples fit runs of those examples, in their order.

    Raises ModelError for a head or position that the model does not have, for a place whose hook has no values, and, when
    they are used, for values that do not fit what they replace; HookError for hooks the model does not have.
    """
    chosen: dict[str, list[Place]] = defaultdict(list)
    for place in _named(model, places):
        chosen[place.hook].append(place)
    model.resolve(tuple(chosen))
    missing = [hook for hook in chosen if hook not in values]
    if missing:
        raise ModelError(f"no values for {', '.join(missing)}; there are some for {', '.join(values) or 'no hook'}")
    return [Edit(hook, partial(_put, places=tuple(picked), value=values[hook])) for hook, picked in chosen.items()]


def zero(model: Model, places: Iterable[Place | Head]) -> list[Edit]:
    """Edits under which the places hold nothing. Raises as `replaced`."""
    named = _named(model, places)
    return replaced(model, named, zeros(place.hook for place in named))


def loss(
    model: Model,
    tokens: Int[Tensor, "example pos"],
    *,
    edits: Sequence[Edit] = (),
    predicted: Bool[Tensor, "example pos"] | None = None,
    batch: int = 32,
) -> Measurement:
    """Mean −ln p(token | tokens before it) of every example, in nats: Measurement(example).

    predicted: the tokens whose prediction counts; all but each row's first without it.

    Raises ModelError for an example in which none counts.
    """
    counted = torch.ones_like(tokens, dtype=torch.bool) if predicted is None else predicted
    counted = counted[:, 1:]
    if not counted.any(1).all():
        raise ModelError(
            f"example {int((~counted.any(1)).nonzero()[0])} has no predicted token; mark at least one after the first"
        )
    parts = []
    for part, kept in zip(tokens.split(batch), counted.split(batch), strict=True):
        logits = model.run(part, edits=edits, logits=True).logits[:, :-1].float()
        nats = torch.nn.functional.cross_entropy(logits.transpose(1, 2), part[:, 1:].to(logits.device), reduction="none")
        kept = kept.to(nats)
        parts.append((nats * kept).sum(1) / kept.sum(1))
    return Measurement("loss", torch.cat(parts).cpu().double().numpy(), ("example",), unit="nats")


def _put(activation: Float[Tensor, "..."], *, places: tuple[Place, ...], value: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
    hook = places[0].hook
    try:
        value = value.to(activation).expand_as(activation)
    except RuntimeError:
        raise ModelError(
            f"values of shape {list(value.shape)} do not fit {hook}, which is {list(activation.shape)} in this run; "
            "give one for every example that runs, or one for all"
        ) from None
    edited = activation.clone()
    for place in places:
        part = _part(place, activation)
        edited[part] = value[part]
    return edited


def _part(place: Place, activation: Float[Tensor, "..."]) -> tuple[slice | int, ...]:
    """The index of a place in the activation at its hook."""
    index: list[slice | int] = [slice(None)] * activation.ndim
    known = axes(place.hook)
    for axis, at in {"head": place.head, "pos": place.pos}.items():
        if at is None:
            continue
        if axis not in known:
            raise ModelError(f"{place.hook} has no heads; leave the head out, or name a hook that has, such as attn.hook_z")
        size = activation.shape[known[axis]]
        if not 0 <= at < size:
            raise ModelError(f"{place.hook} has no {axis} {at}; it has {axis} 0–{size - 1} in this run")
        index[known[axis]] = at
    return tuple(index)


def _named(model: Model, places: Iterable[Place | Head]) -> list[Place]:
    return [place if isinstance(place, Place) else _head(model, *place) for place in places]


def _head(model: Model, layer: int, number: int) -> Place:
    if not (0 <= layer < model.n_layers and 0 <= number < model.n_heads):
        raise ModelError(
            f"{model.name} has no head ({layer}, {number}); it has layers 0–{model.n_layers - 1} of heads 0–{model.n_heads - 1}"
        )
    return Place(_hook_z(model, layer), number)


def _hook_z(model: Model, layer: int) -> str:
    if model.kind == "encoder-decoder":
        example = "Place('decoder_blocks.0.cross_attn.hook_z', 1)"
        raise ModelError(f"{model.name} has several attentions in a layer; name the hook, as in {example}")
    return f"blocks.{layer}.attn.hook_z"


def _spread(marked: Bool[Tensor, "example pos"] | None, hook: str, found: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
    """Ones at the marked positions, with the axes of `found`."""
    shape = [1] * found.ndim
    shape[0], shape[axes(hook)["pos"]] = found.shape[0], found.shape[axes(hook)["pos"]]
    if marked is None:
        return torch.ones(shape, dtype=torch.float64, device=found.device)
    if marked.numel() != shape[0] * shape[axes(hook)["pos"]]:
        raise ModelError(f"{marked.shape[1]} positions are marked or not, but {hook} has {shape[axes(hook)['pos']]}")
    return marked.to(found.device, torch.float64).view(shape)
