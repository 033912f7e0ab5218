"""What writes into a model's residual streams and what reads from them: found out on a short input, and checked there.

A *stream* starts with a residual and takes in the output of one sublayer (an attention, an MLP or a mixture of experts) after
the other,

    r[i + 1] = r[i] + out[i]        or, where the stream is normed between sublayers (post-LN),   r[i + 1] = norm(r[i] + out[i]).

A sublayer reads r[depth] through parts of the model: a norm, a projection. How many sublayers come before it, which norm stands
where, what a cross-attention reads: none of this is believed. It is matched against the activations of a run, and of a second
run on other tokens with everything that is read put back as it was: nothing else may make a sublayer write what it writes.

Must not know: TransformerLens, model families, heads' meaning, edges.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any
from weakref import WeakKeyDictionary

import torch
from jaxtyping import Float
from torch import Tensor

from interp.errors import ModelError
from interp.models.hooked import Edit, Model, Run

STACKS = {"": "blocks", "enc.": "encoder_blocks", "dec.": "decoder_blocks"}
_KINDS = {"attn": "a", "self_attn": "a", "cross_attn": "c", "mlp": "m"}

Activations = Mapping[str, Tensor]


@dataclass(frozen=True)
class Way:
    """One way of reading a stream: the residual after `depth` sublayers goes through `parts`, and comes out at `hook`.

    heads: readers side by side on the hook's axis -2 (key-value heads, for k and v); None where the hook has no such axis.
    """

    stream: str
    depth: int
    parts: tuple[str, ...]
    hook: str
    heads: int | None = None


@dataclass(frozen=True)
class Sublayer:
    """One writer of a stream, or as many as it has heads.

    name: "a0" (attention), "m0" (MLP or experts), "c0" (cross-attention), after its stream's prefix: "dec.c0".
    ways: how it reads: "q", "k" and "v" for attention, "" otherwise.
    writes: the hook of what its heads write with, z [batch pos head d_head], or of all that it writes.
    out: the hook of everything it adds to the stream, biases included.
    output: the part that makes `out` of z, for attention.
    renorm: the norm that the stream goes through after it, in post-LN models.
    """

    name: str
    ways: Mapping[str, Way]
    writes: str
    out: str
    heads: int | None = None
    output: str | None = None
    renorm: str | None = None


@dataclass(frozen=True)
class Stream:
    """A residual stream: where it starts, and what writes into it, in order. `ends` are the hooks of r after every block."""

    prefix: str
    start: str
    sublayers: tuple[Sublayer, ...]
    ends: Mapping[int, str]


@dataclass(frozen=True)
class Anatomy:
    """A model's streams by prefix ("" alone, or "enc." and "dec."), and how its logits read the last one."""

    streams: Mapping[str, Stream]
    logits: Way

    @property
    def sublayers(self) -> tuple[Sublayer, ...]:
        """Those of all streams, in the order in which they compute."""
        return tuple(sublayer for stream in self.streams.values() for sublayer in stream.sublayers)


_known: WeakKeyDictionary[Model, Anatomy] = WeakKeyDictionary()


class _Misfit(Exception):
    """What a model's activations show is not what an anatomy says."""


def anatomy(model: Model) -> Anatomy:
    """The anatomy of a model, worked out once per model.

    Raises ModelError, with what failed, for a model that is not made this way: one that norms or scales what a sublayer wrote
    before adding it, that reads a stream past its hooks, or has more than blocks between a residual and the next.
    """
    if model not in _known:
        try:
            _known[model] = _found(model)
        except _Misfit as misfit:
            raise ModelError(
                f"{model.name} cannot be taken apart into what writes a residual stream and what reads it: {misfit}; "
                "use ablation or patching, which suppose nothing"
            ) from None
    return _known[model]


def read(model: Model, way: Way, residual: Float[Tensor, "*rows pos d_model"]) -> Tensor:
    """What would stand at `way.hook` if the residual were this: [*rows pos head d_head] with heads, else [*rows pos width].

    Computed by the model's own parts; carries gradient.
    """
    value = residual.flatten(0, -3) if residual.ndim > 3 else residual
    for part in way.parts:
        value = model.apply(part, value)
    shape = residual.shape[:-1]
    return value.reshape(*shape, -1) if way.heads is None else value.reshape(*shape, way.heads, -1)


def read_each(
    model: Model, way: Way, heads: Sequence[int], residual: Float[Tensor, "chosen *rows pos d_model"]
) -> Float[Tensor, "chosen *rows pos d_head"]:
    """What `read` gives one head for one residual, another head for another. Carries gradient.

    Each goes through its own head's share of the projection only, which is affine (that has been checked).
    """
    assert way.heads is not None
    *norms, projection = way.parts
    value = read(model, replace(way, parts=tuple(norms), heads=None), residual)
    points = torch.eye(value.shape[-1] + 1, value.shape[-1]).to(value)  # the last one is the origin
    images = model.apply(projection, points[None])[0].unflatten(-1, (way.heads, -1))[:, list(heads)]
    bias = images[-1].reshape(len(images[-1]), *(1,) * (residual.ndim - 2), -1)
    return torch.einsum("h...d,dhk->h...k", value, images[:-1] - images[-1]) + bias


def written(
    model: Model, sublayer: Sublayer, heads: Sequence[int], z: Float[Tensor, "chosen *rows d_head"]
) -> Float[Tensor, "chosen *rows d_model"]:
    """What some heads of an attention add to the stream: z[h] W_O[h] for each. The bias is no head's. Carries gradient."""
    assert sublayer.output is not None
    weight = model.weight(f"{sublayer.output.rpartition('.')[0]}.W_O")[list(heads)].to(z)
    return torch.einsum("h...d,hdm->h...m", z, weight)


def stepped(
    model: Model, sublayer: Sublayer, residual: Float[Tensor, "*rows pos d_model"], out: Float[Tensor, "*rows pos d_model"]
) -> Float[Tensor, "*rows pos d_model"]:
    """The residual after a sublayer that adds `out`. Carries gradient."""
    residual = residual + out
    return residual if sublayer.renorm is None else model.apply(sublayer.renorm, residual)


# ---- finding out ----


def _found(model: Model) -> Anatomy:
    stacks = {prefix: stack for prefix, stack in STACKS.items() if f"{stack}.0.hook_resid_pre" in model.hooks}
    if not stacks:
        raise _Misfit("it has no block with a residual stream (hook_resid_pre)")
    tokens, beside = model.probe_inputs()
    hooks = [hook for hook in model.hooks if hook.startswith(tuple(stacks.values())) or "ln_final" in hook]
    run = model.run(tokens, read=hooks, logits=True, **beside)
    streams: dict[str, Stream] = {}
    for prefix in stacks:
        streams[prefix] = _stream(model, prefix, run.activations, streams)
    last = list(streams.values())[-1]
    found = Anatomy(streams, Way(last.prefix, len(last.sublayers), (), last.ends[len(last.sublayers)]))
    _check_reads(model, found, run.activations)
    _check_nothing_else(model, found, run)
    return found


def _stream(model: Model, prefix: str, seen: Activations, before: Mapping[str, Stream]) -> Stream:
    faults = []
    for post in (False, True):
        try:
            stream = _supposed(model, prefix, seen, before, post=post)
            _check_sums(model, stream, seen)
            return stream
        except _Misfit as fault:
            faults.append(str(fault))
    raise _Misfit(f"taken as pre-LN, {faults[0]}; taken as post-LN, {faults[1]}")


def _supposed(model: Model, prefix: str, seen: Activations, before: Mapping[str, Stream], *, post: bool) -> Stream:
    """The stream, supposing that it is normed after every sublayer (`post`), or never."""
    stack = STACKS[prefix]
    start, sublayers, ends = f"{stack}.0.hook_resid_pre", [], {}
    residuals = [seen[start]]
    ended = [(other.prefix, len(other.sublayers), _residuals(model, other, seen)[-1]) for other in before.values()]
    layer = 0
    while f"{stack}.{layer}.hook_resid_pre" in seen:
        norms = _norms(seen, f"{stack}.{layer}.ln")
        first = len(sublayers)
        for part in _parts(seen, f"{stack}.{layer}"):
            reach = [(prefix, depth, residuals[depth]) for depth in dict.fromkeys((len(sublayers), first))]
            sublayer = _sublayer(f"{prefix}{_KINDS[part.rpartition('.')[2]]}{layer}", part, seen, norms, [*reach, *ended])
            if post:
                sublayer = replace(sublayer, renorm=_renorm(seen, norms, residuals[-1] + seen[sublayer.out], sublayer.out))
            sublayers.append(sublayer)
            residuals.append(stepped(model, sublayer, residuals[-1], seen[sublayer.out]))
            norms.sort(key={path for way in sublayer.ways.values() for path in way.parts}.__contains__)  # used ones go last
        ends[len(sublayers)] = f"{stack}.{layer}.hook_resid_post"
        layer += 1
    return Stream(prefix, start, tuple(sublayers), ends)


def _sublayer(name: str, part: str, seen: Activations, norms: list[str], reach: list[tuple[str, int, Tensor]]) -> Sublayer:
    block, _, kind = part.rpartition(".")
    if kind == "mlp":
        entry, out = _mlp_entry(seen, part), f"{block}.hook_mlp_out"
        return Sublayer(name, {"": _way(seen, norms, reach, entry, entry)}, out, out)
    ways = {}
    for way in "qkv":
        found = _way(seen, norms, reach, f"{part}.{way}.hook_in", f"{part}.hook_{way}")
        ways[way] = replace(found, parts=(*found.parts, f"{part}.{way}"), heads=seen[found.hook].shape[-2])
    z = f"{part}.hook_z"
    return Sublayer(name, ways, z, f"{part}.o.hook_out", heads=seen[z].shape[-2], output=f"{part}.o")


def _mlp_entry(seen: Activations, part: str) -> str:
    """The hook of all that an MLP reads. That of its first layer is not, where a gate reads beside it."""
    entries = [f"{part}.hook_in", f"{part.rpartition('.')[0]}.hook_mlp_in"]
    if f"{part}.gate.hook_in" not in seen:
        entries.append(f"{part}.in.hook_in")
    for entry in entries:
        if entry in seen:
            return entry
    raise _Misfit(f"no hook holds what {part} reads")


def _way(seen: Activations, norms: list[str], reach: list[tuple[str, int, Tensor]], entry: str, hook: str) -> Way:
    """Which residual, through which norm, is what stands at `entry`."""
    if not {entry, hook} <= set(seen):
        raise _Misfit(f"there is no {entry} to see what is read, or no {hook} to put something else in")
    for stream, depth, residual in reach:
        if _close(seen[entry], residual):
            return Way(stream, depth, (), hook)
        for norm in [*norms, *_norms(seen, "encoder_ln_final")]:
            if _close(seen[f"{norm}.hook_in"], residual) and _close(seen[f"{norm}.hook_out"], seen[entry]):
                return Way(stream, depth, (norm,), hook)
    raise _Misfit(f"what {entry} holds is neither a residual nor a norm of one")


def _renorm(seen: Activations, norms: list[str], residual: Tensor, out: str) -> str:
    for norm in norms:
        if _close(seen[f"{norm}.hook_in"], residual):
            return norm
    raise _Misfit(f"no norm takes in the residual with {out} added")


def _parts(seen: Activations, block: str) -> list[str]:
    """The block's sublayers, in the order in which they compute."""
    outs = {f"{block}.{kind}.o.hook_out": kind for kind in _KINDS} | {f"{block}.hook_mlp_out": "mlp"}
    return [f"{block}.{outs[hook]}" for hook in seen if hook in outs]


def _norms(seen: Activations, start: str) -> list[str]:
    return [hook.removesuffix(".hook_in") for hook in seen if hook.startswith(start) and hook.endswith(".hook_in")]


# ---- checking ----


def _residuals(model: Model, stream: Stream, seen: Activations) -> list[Tensor]:
    residuals = [seen[stream.start]]
    for sublayer in stream.sublayers:
        residuals.append(stepped(model, sublayer, residuals[-1], seen[sublayer.out]))
    return residuals


def _check_sums(model: Model, stream: Stream, seen: Activations) -> None:
    """Raises unless the heads write all of what their sublayer adds, and the sublayers all of the stream."""
    for sublayer in stream.sublayers:
        if sublayer.output is not None:
            z = seen[sublayer.writes]
            bias = model.apply(sublayer.output, torch.zeros_like(z.flatten(-2)))
            if not _close(written(model, sublayer, range(z.shape[-2]), z.movedim(-2, 0)).sum(0) + bias, seen[sublayer.out]):
                raise _Misfit(f"the heads of {sublayer.name} do not add up to {sublayer.out}")
    residuals = _residuals(model, stream, seen)
    for depth, hook in stream.ends.items():
        if not _close(residuals[depth], seen[hook]):
            raise _Misfit(f"the parts before {hook} do not add up to it")


def _check_reads(model: Model, found: Anatomy, seen: Activations) -> None:
    """Raises unless what every sublayer reads is what `read`, and `read_each`, make of the residual."""
    residuals = {prefix: _residuals(model, stream, seen) for prefix, stream in found.streams.items()}
    for way in _ways(found):
        residual = residuals[way.stream][way.depth]
        if not _close(read(model, way, residual), seen[way.hook]):
            raise _Misfit(f"{way.hook} is not what {' and '.join(way.parts)} make of the residual")
        if way.heads is not None:
            each = read_each(model, way, range(way.heads), residual.expand(way.heads, *residual.shape))
            if not _close(each.movedim(0, -2), seen[way.hook]):
                raise _Misfit(f"{way.parts[-1]} is not affine, so {way.hook} cannot be told head by head")


def _check_nothing_else(model: Model, found: Anatomy, run: Run) -> None:
    """Raises unless what is read, and nothing else, makes what is written, and the last residual the logits.

    The model gets other tokens, but what it reads is put back as it was.
    """
    tokens, beside = model.probe_inputs()
    others: dict[str, Any] = {name: (tensor + 1) % model.d_vocab for name, tensor in beside.items()}
    seen = run.activations
    outs = [sublayer.out for sublayer in found.sublayers]
    ends = [hook for stream in found.streams.values() for hook in (stream.start, *stream.ends.values())]
    zs = [sublayer.writes for sublayer in found.sublayers]
    edits = [Edit(way.hook, partial(_instead, seen[way.hook])) for way in _ways(found)]
    other = model.run((tokens + 1) % model.d_vocab, read=[*outs, *ends, *zs], edits=edits, logits=True, **others).activations
    for hook in outs:
        if not _close(other[hook], seen[hook]):
            raise _Misfit(f"{hook} depends on more than what is known to be read")
    for stream in found.streams.values():
        _check_sums(model, stream, other)
    edits = [*edits, Edit(found.logits.hook, partial(_instead, seen[found.logits.hook]))]
    if not _close(model.run((tokens + 1) % model.d_vocab, edits=edits, **others).logits, run.logits):
        raise _Misfit(f"its logits depend on more than {found.logits.hook}")


def _ways(found: Anatomy) -> Iterator[Way]:
    return (way for sublayer in found.sublayers for way in sublayer.ways.values())


def _instead(value: Tensor, now: Tensor) -> Tensor:
    return value


def _close(value: Tensor, wanted: Tensor) -> bool:
    if value.shape != wanted.shape:
        return False
    slack = 1e-4 if wanted.dtype in (torch.float32, torch.float64) else 3e-2
    return bool((value - wanted).abs().max() <= slack * wanted.abs().max())
