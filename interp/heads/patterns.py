"""Scores of attention patterns: which kind of key each head attends to, held against chance.

A kind (targets.py) is a set of target keys for every query, found without a tokenizer. A head's score is the attention that
reaches the targets, averaged over the queries that have any. Two nulls say what chance gives: the same attention held against
the targets of shuffled tokens, and attention spread evenly over the visible keys.

A model has one attention, "self", or three: "encoder", "decoder" and "cross" (decoder tokens look at source tokens).

Must not know: figures, reports, where tokens come from.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from interp.errors import ConfigError, ModelError
from interp.heads.targets import KINDS, Sight
from interp.measurement import Measurement
from interp.models.hooked import Model

DIMS = ("layer", "head", "example")
_PATTERN = re.compile(r"(blocks|encoder_blocks|decoder_blocks)\.(\d+)\.(attn|self_attn|cross_attn)\.hook_pattern")


@dataclass(frozen=True)
class Attention:
    """One attention of a model in all its layers. paths: layer → the part of the model, such as "blocks.0.attn"."""

    name: str
    paths: dict[int, str]
    causal: bool

    @property
    def kinds(self) -> tuple[str, ...]:
        """The kinds of targets it can have."""
        way = "cross" if self.name == "cross" else "causal" if self.causal else "both ways"
        return tuple(name for name, kind in KINDS.items() if way in kind.ways)

    def sight(self, tokens: Int[Tensor, "batch pos"], beside: dict[str, Any]) -> Sight:
        """Who looks at whom, on these inputs. Raises ModelError where the decoder's tokens are needed and missing."""
        if self.name in ("self", "encoder"):
            return Sight.of(tokens, causal=self.causal)
        decoder = beside.get("decoder_input")
        if decoder is None:
            raise ModelError(f"{self.name} attention is of the decoder's tokens: give decoder_input=…")
        return Sight(decoder, tokens, causal=False, across=True) if self.name == "cross" else Sight.of(decoder)


def attentions(model: Model) -> dict[str, Attention]:
    """The attentions of a model by name. Raises ModelError for a model that shows no attention pattern."""
    found: dict[str, dict[int, str]] = {}
    for hook in model.hooks:
        if place := _PATTERN.fullmatch(hook):
            stack, layer, part = place[1], int(place[2]), place[3]
            name = "self" if stack == "blocks" else "cross" if part == "cross_attn" else stack.removesuffix("_blocks")
            found.setdefault(name, {})[layer] = hook.removesuffix(".hook_pattern")
    if not found:
        raise ModelError(
            f"{model.name} shows no attention pattern (it has no hook …attn.hook_pattern); give a model with attention"
        )
    causal = {"self": model.kind == "decoder", "decoder": True}
    return {name: Attention(name, dict(sorted(paths.items())), causal.get(name, False)) for name, paths in found.items()}


def attention_of(model: Model, name: str) -> Attention:
    """Raises ConfigError for an attention that the model does not have."""
    known = attentions(model)
    if name not in known:
        raise ConfigError(f"{model.name} has no attention {name!r}; it has {', '.join(known)}")
    return known[name]


def targeted(
    pattern: Float[Tensor, "batch head query key"],
    tokens: Int[Tensor, "batch pos"] | Sight,
    kind: str,
    *,
    special: Sequence[int] = (),
) -> Float[Tensor, "batch head"]:
    """Attention that reaches the targets of a kind, averaged over the queries that have any; special tokens are no queries.

    tokens: those of a causal attention, or a `Sight` for any. Raises ConfigError for an unknown kind, ModelError for a row in
    which no query has a target.
    """
    (kind,) = _known([kind])
    sight = _sight(tokens)
    target = (KINDS[kind].targets(sight) & _ordinary(sight, special)[:, :, None]).to(pattern.device)
    queries = target.any(-1).sum(-1)
    if (queries == 0).any():
        row = int((queries == 0).nonzero()[0])
        raise ModelError(f"no query of row {row} has a target of kind {kind!r}; give tokens that do, or leave the kind out")
    return torch.einsum("bhqk,bqk->bh", pattern, target.to(pattern.dtype)) / queries[:, None]


def scores(
    model: Model,
    tokens: Int[Tensor, "example pos"],
    *,
    attention: str = "self",
    kinds: Sequence[str] | None = None,
    special: Sequence[int] = (),
    batch: int = 32,
    **beside: Any,
) -> dict[str, Measurement]:
    """Mean over queries of Σ_targets attention, for every kind in one pass: kind -> Measurement(layer, head, example).

    attention: which of `attentions(model)`. kinds: all that it can have, when not given.
    special: token ids (BOS, padding) that are no queries.
    batch: examples per forward; memory grows with it, not with the number of examples.
    beside: what the model takes beside tokens, as in `Model.run`: decoder_input, attention_mask.

    Raises ConfigError for an unknown kind or attention, ModelError for an example in which no query has a target.
    """
    looked = attention_of(model, attention)
    return _scores(model, tokens, looked, kinds or looked.kinds, special, batch, beside, seed=None)


def shuffled_scores(
    model: Model,
    tokens: Int[Tensor, "example pos"],
    *,
    attention: str = "self",
    kinds: Sequence[str] | None = None,
    special: Sequence[int] = (),
    batch: int = 32,
    seed: int = 0,
    **beside: Any,
) -> dict[str, Measurement]:
    """The null of kinds that depend on tokens: the same attention, with the targets of the shuffled tokens.

    Each row's tokens are permuted (its first stays; in cross-attention those of the source), so as many queries and keys match
    as before, but elsewhere. As `scores` otherwise.
    """
    looked = attention_of(model, attention)
    chosen = [name for name in looked.kinds if KINDS[name].of_tokens] if kinds is None else kinds
    return _scores(model, tokens, looked, chosen, special, batch, beside, seed=seed)


def uniform_scores(
    tokens: Int[Tensor, "example pos"] | Sight, *, kinds: Sequence[str] | None = None, special: Sequence[int] = ()
) -> dict[str, Measurement]:
    """What a head scores that attends evenly to every visible key: kind -> Measurement(example).

    For kinds of positions it is also what any attention scores, on average, on as many targets drawn from the visible keys.
    """
    sight = _sight(tokens)
    known = _known([name for name, kind in KINDS.items() if sight.way in kind.ways] if kinds is None else kinds)
    visible = sight.visible.float()
    even = (visible / visible.sum(1, keepdim=True)).expand(len(sight.queries), 1, -1, -1)
    values = {kind: targeted(even, sight, kind, special=special)[:, 0].cpu().numpy() for kind in known}
    return {kind: Measurement(kind, found, ("example",), unit="attention") for kind, found in values.items()}


def induction_scores(
    model: Model, tokens: Int[Tensor, "example pos"], *, special: Sequence[int] = (), batch: int = 32
) -> Measurement:
    """Prefix-matching score of every head: attention to the token after every earlier match, summed."""
    return scores(model, tokens, kinds=("induction",), special=special, batch=batch)["induction"]


def entropy(
    model: Model, tokens: Int[Tensor, "example pos"], *, attention: str = "self", batch: int = 32, **beside: Any
) -> Measurement:
    """−Σ p ln p of every head's attention in nats, averaged over queries; evenly spread attention has ln(number of keys)."""
    looked = attention_of(model, attention)
    read = _patterns(model, tokens, looked, batch, beside)
    return _measured("entropy", [[_entropy(pattern) for pattern in layers] for layers, _, _ in read], looked, "nats")


def distance_profile(
    model: Model,
    tokens: Int[Tensor, "example pos"],
    *,
    attention: str = "self",
    special: Sequence[int] = (),
    batch: int = 32,
    **beside: Any,
) -> Measurement:
    """Attention by how far the key lies before the query: Measurement(layer, head, distance, example).

    At each distance, the mean over the queries that have a key there; special tokens are no queries, and a distance that no
    query has is not a number. Distances below 0 are keys after the query; in cross-attention distance 0 is the same place in
    the source.
    """
    looked = attention_of(model, attention)
    rows, distances = [], torch.arange(0)
    for layers, sight, _ in _patterns(model, tokens, looked, batch, beside):
        distance, kept = sight.distance, _ordinary(sight, special)
        distances = torch.arange(0 if looked.causal else int(distance.min()), int(distance.max()) + 1)
        place = (distance - distances[0]).clamp_min(0).flatten()  # keys a causal query cannot see hold no attention
        count = _summed((kept[:, :, None] & sight.visible)[:, None].float(), place, len(distances))
        rows.append([_summed(pattern * kept[:, None, :, None], place, len(distances)) / count for pattern in layers])
    values = torch.cat([torch.stack(layers) for layers in rows], 1).permute(0, 2, 3, 1).cpu().numpy()
    coords = {"layer": list(looked.paths), "distance": distances.tolist()}
    return Measurement("profile", values, ("layer", "head", "distance", "example"), coords, "attention")


def _summed(cells: Float[Tensor, "batch head query key"], place: Int[Tensor, " cell"], n: int) -> Float[Tensor, "batch head n"]:
    """Sums of the cells with the same place."""
    return torch.zeros(*cells.shape[:2], n, device=cells.device).index_add_(2, place, cells.flatten(2))


def _entropy(pattern: Float[Tensor, "batch head query key"]) -> Float[Tensor, "batch head"]:
    return torch.special.entr(pattern).sum(-1).mean(-1)


def _scores(
    model: Model,
    tokens: Int[Tensor, "example pos"],
    looked: Attention,
    kinds: Sequence[str],
    special: Sequence[int],
    batch: int,
    beside: dict[str, Any],
    *,
    seed: int | None,
) -> dict[str, Measurement]:
    """Attention on `tokens`, held against their targets or, with a seed, against those of the shuffled tokens."""
    _applicable(looked, kinds)
    labels = looked.sight(tokens, beside)
    if seed is not None:
        shuffled = _shuffled(labels.keys, seed)
        labels = Sight(labels.queries if labels.across else shuffled, shuffled, labels.causal, labels.across)
    rows: dict[str, list[list[Tensor]]] = {kind: [] for kind in kinds}
    for layers, sight, where in _patterns(model, tokens, looked, batch, beside):
        sight = Sight(labels.queries[where], labels.keys[where], sight.causal, sight.across)
        for kind, collected in rows.items():
            collected.append([targeted(pattern, sight, kind, special=special) for pattern in layers])
    return {kind: _measured(kind, collected, looked, "attention") for kind, collected in rows.items()}


def _patterns(
    model: Model, tokens: Int[Tensor, "example pos"], looked: Attention, batch: int, beside: dict[str, Any]
) -> Iterator[tuple[list[Tensor], Sight, slice]]:
    """Patterns of every layer, one batch of examples at a time, of whom they are, and which examples."""
    hooks = [f"{path}.hook_pattern" for path in looked.paths.values()]
    for start in range(0, len(tokens), batch):
        where = slice(start, min(start + batch, len(tokens)))
        part = {name: value[where] for name, value in beside.items()}
        run = model.run(tokens[where], read=hooks, **part)
        sight = looked.sight(tokens[where].to(model.device), {name: value.to(model.device) for name, value in part.items()})
        yield [run.activations[hook].float() for hook in hooks], sight, where


def _shuffled(tokens: Int[Tensor, "example pos"], seed: int) -> Int[Tensor, "example pos"]:
    order = torch.rand(tokens.shape, generator=torch.Generator().manual_seed(seed))
    order[:, 0] = -1
    return tokens.gather(1, order.argsort(dim=1).to(tokens.device))


def _ordinary(sight: Sight, special: Sequence[int]) -> Bool[Tensor, "batch query"]:
    return ~torch.isin(sight.queries, torch.tensor(list(special), dtype=sight.queries.dtype, device=sight.queries.device))


def _measured(name: str, rows: list[list[Tensor]], looked: Attention, unit: str) -> Measurement:
    """Values [batch head] per batch and layer -> Measurement(layer, head, example)."""
    values = torch.cat([torch.stack(layers) for layers in rows], dim=1).transpose(1, 2).cpu().numpy()
    return Measurement(name, values, DIMS, {"layer": list(looked.paths)}, unit)


def _sight(tokens: Int[Tensor, "batch pos"] | Sight) -> Sight:
    return Sight.of(tokens) if isinstance(tokens, Tensor) else tokens


def _known(kinds: Sequence[str]) -> Sequence[str]:
    unknown = [kind for kind in kinds if kind not in KINDS]
    if unknown:
        raise ConfigError(f"no pattern kind {', '.join(map(repr, unknown))}; there are {', '.join(KINDS)}")
    return kinds


def _applicable(looked: Attention, kinds: Sequence[str]) -> None:
    impossible = [kind for kind in _known(kinds) if kind not in looked.kinds]
    if impossible:
        raise ConfigError(
            f"{looked.name} attention has no targets of kind {', '.join(impossible)}; use {', '.join(looked.kinds)}"
        )
