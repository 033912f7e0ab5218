"""Scores of attention patterns: which kind of key each head attends to, held against chance.

A kind is a set of target keys for every query, found from the tokens alone, so nothing here needs a tokenizer. A head's
score is the attention that reaches the targets, averaged over the queries that have any. Two nulls say what chance gives:
the same attention held against the targets of shuffled tokens, and attention spread evenly over the visible keys.

Patterns are those of causal models: keys up to the query, which may attend to itself.

Must not know: figures, reports, where tokens come from.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from interp.errors import ConfigError, ModelError
from interp.measurement import Measurement
from interp.models.hooked import Model

Targets = Callable[[Int[Tensor, "batch pos"]], Bool[Tensor, "batch query key"]]
DIMS = ("layer", "head", "example")


def previous_token(tokens: Int[Tensor, "batch pos"]) -> Bool[Tensor, "batch query key"]:
    """The key just before the query."""
    return (_distance(tokens) == 1).expand(len(tokens), -1, -1)


def same_token(tokens: Int[Tensor, "batch pos"]) -> Bool[Tensor, "batch query key"]:
    """Every visible key that holds the query's token, the query itself among them."""
    return (tokens[:, :, None] == tokens[:, None, :]) & (_distance(tokens) >= 0)


def duplicate_token(tokens: Int[Tensor, "batch pos"]) -> Bool[Tensor, "batch query key"]:
    """Every earlier key that holds the query's token."""
    return same_token(tokens) & (_distance(tokens) > 0)


def induction(tokens: Int[Tensor, "batch pos"]) -> Bool[Tensor, "batch query key"]:
    """The key after *every* earlier match of the query's token: prefix matching (Olsson et al. 2022, arXiv:2209.11895).

    A query whose match lies just before it is itself the token after; that key does not count.
    """
    after = torch.zeros(len(tokens), tokens.shape[1], tokens.shape[1], dtype=torch.bool, device=tokens.device)
    after[:, :, 1:] = duplicate_token(tokens)[:, :, :-1]
    return after & (_distance(tokens) > 0)


def bos_sink(tokens: Int[Tensor, "batch pos"]) -> Bool[Tensor, "batch query key"]:
    """The first key of the row, for every later query."""
    distance = _distance(tokens)
    return ((distance > 0) & (distance == distance[:, :1])).expand(len(tokens), -1, -1)


KINDS: dict[str, Targets] = {
    "previous_token": previous_token,
    "same_token": same_token,
    "duplicate_token": duplicate_token,
    "induction": induction,
    "bos_sink": bos_sink,
}


def targeted(
    pattern: Float[Tensor, "batch head query key"], tokens: Int[Tensor, "batch pos"], kind: str, *, special: Sequence[int] = ()
) -> Float[Tensor, "batch head"]:
    """Attention that reaches the targets of a kind, averaged over the queries that have any; special tokens are no queries.

    Raises ConfigError for an unknown kind, ModelError for a row in which no query has a target.
    """
    target = KINDS[_known([kind])[0]](tokens).to(pattern.device)
    ordinary = ~torch.isin(tokens, torch.tensor(list(special), dtype=tokens.dtype, device=tokens.device))
    target = target & ordinary[:, :, None].to(pattern.device)
    queries = target.any(-1).sum(-1)
    if (queries == 0).any():
        row = int((queries == 0).nonzero()[0])
        raise ModelError(f"no query of row {row} has a target of kind {kind!r}; give tokens that do, or leave the kind out")
    return torch.einsum("bhqk,bqk->bh", pattern, target.to(pattern.dtype)) / queries[:, None]


def scores(
    model: Model,
    tokens: Int[Tensor, "example pos"],
    *,
    kinds: Sequence[str] = tuple(KINDS),
    special: Sequence[int] = (),
    batch: int = 32,
) -> dict[str, Measurement]:
    """Mean over queries of Σ_targets attention, for every kind in one pass: kind -> Measurement(layer, head, example).

    special: token ids (BOS, padding) that are no queries.
    batch: examples per forward; memory grows with it, not with the number of examples.

    Raises ConfigError for an unknown kind, ModelError for an example in which no query has a target.
    """
    return _scores(model, tokens, tokens, kinds=kinds, special=special, batch=batch)


def shuffled_scores(
    model: Model,
    tokens: Int[Tensor, "example pos"],
    *,
    kinds: Sequence[str] = ("same_token", "duplicate_token", "induction"),
    special: Sequence[int] = (),
    batch: int = 32,
    seed: int = 0,
) -> dict[str, Measurement]:
    """The null of kinds that depend on tokens: the same attention, with the targets of the shuffled tokens.

    Each row's tokens are permuted (its first stays), so as many queries and keys match as before, but elsewhere.
    """
    generator = torch.Generator().manual_seed(seed)
    order = torch.rand(tokens.shape, generator=generator)
    order[:, 0] = -1
    shuffled = tokens.gather(1, order.argsort(dim=1).to(tokens.device))
    return _scores(model, tokens, shuffled, kinds=kinds, special=special, batch=batch)


def uniform_scores(
    tokens: Int[Tensor, "example pos"], *, kinds: Sequence[str] = tuple(KINDS), special: Sequence[int] = ()
) -> dict[str, Measurement]:
    """What a head scores that attends evenly to every visible key: kind -> Measurement(example)."""
    visible = torch.ones(tokens.shape[1], tokens.shape[1], device=tokens.device).tril()
    even = (visible / visible.sum(1, keepdim=True))[None, None]
    values = {kind: torch.cat([targeted(even, row[None], kind, special=special)[0] for row in tokens]) for kind in _known(kinds)}
    return {kind: Measurement(kind, found.cpu().numpy(), ("example",), unit="attention") for kind, found in values.items()}


def induction_scores(
    model: Model, tokens: Int[Tensor, "example pos"], *, special: Sequence[int] = (), batch: int = 32
) -> Measurement:
    """Prefix-matching score of every head: attention to the token after every earlier match, summed."""
    return scores(model, tokens, kinds=("induction",), special=special, batch=batch)["induction"]


def entropy(model: Model, tokens: Int[Tensor, "example pos"], *, batch: int = 32) -> Measurement:
    """−Σ p ln p of every head's attention in nats, averaged over queries; evenly spread attention has ln(number of keys)."""
    rows = [[torch.special.entr(pattern).sum(-1).mean(-1) for pattern in layers] for layers, _ in _patterns(model, tokens, batch)]
    return Measurement("entropy", _assemble(rows), DIMS, unit="nats")


def _scores(
    model: Model,
    tokens: Int[Tensor, "example pos"],
    labels: Int[Tensor, "example pos"],
    *,
    kinds: Sequence[str],
    special: Sequence[int],
    batch: int,
) -> dict[str, Measurement]:
    """Attention on `tokens`, held against the targets of `labels`."""
    rows: dict[str, list[list[Tensor]]] = {kind: [] for kind in _known(kinds)}
    for layers, where in _patterns(model, tokens, batch):
        for kind, collected in rows.items():
            collected.append([targeted(pattern, labels[where], kind, special=special) for pattern in layers])
    return {kind: Measurement(kind, _assemble(collected), DIMS, unit="attention") for kind, collected in rows.items()}


def _patterns(model: Model, tokens: Int[Tensor, "example pos"], batch: int) -> Iterator[tuple[list[Tensor], slice]]:
    """Patterns of every layer, one batch of examples at a time, and which examples they are of."""
    hooks = [f"blocks.{layer}.attn.hook_pattern" for layer in range(model.n_layers)]
    for start in range(0, len(tokens), batch):
        where = slice(start, min(start + batch, len(tokens)))
        run = model.run(tokens[where], read=hooks)
        yield [run.activations[hook].float() for hook in hooks], where


def _assemble(rows: list[list[Tensor]]) -> np.ndarray:
    """Values [batch head] per batch and layer -> [layer, head, example]."""
    return torch.cat([torch.stack(layers) for layers in rows], dim=1).transpose(1, 2).cpu().numpy()


def _known(kinds: Sequence[str]) -> Sequence[str]:
    unknown = [kind for kind in kinds if kind not in KINDS]
    if unknown:
        raise ConfigError(f"no pattern kind {', '.join(map(repr, unknown))}; there are {', '.join(KINDS)}")
    return kinds


def _distance(tokens: Int[Tensor, "batch pos"]) -> Int[Tensor, "query key"]:
    """How far each key lies before each query."""
    positions = torch.arange(tokens.shape[1], device=tokens.device)
    return positions[:, None] - positions
