"""What a head may attend to: kinds of target keys for every query, found from tokens and positions alone.

Whatever looks at a causal attention sees keys up to the query; an attention that reads both ways, and one from a decoder to its
source, sees all keys.

Must not know: models, attention itself.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, NamedTuple

import torch
from jaxtyping import Bool, Int
from torch import Tensor

Way = Literal["causal", "both ways", "cross"]


@dataclass(frozen=True)
class Sight:
    """The tokens that look and those that are looked at. `causal`: keys up to the query. `across`: keys of another stack."""

    queries: Int[Tensor, "batch query"]
    keys: Int[Tensor, "batch key"]
    causal: bool = True
    across: bool = False

    @classmethod
    def of(cls, tokens: Int[Tensor, "batch pos"], *, causal: bool = True) -> Sight:
        """Of tokens that look at one another."""
        return cls(tokens, tokens, causal)

    @property
    def way(self) -> Way:
        return "cross" if self.across else "causal" if self.causal else "both ways"

    @property
    def distance(self) -> Int[Tensor, "query key"]:
        """How far each key lies before each query; negative for later keys."""
        query, key = (torch.arange(tokens.shape[1], device=tokens.device) for tokens in (self.queries, self.keys))
        return query[:, None] - key

    @property
    def visible(self) -> Bool[Tensor, "query key"]:
        return self.distance >= 0 if self.causal else torch.ones_like(self.distance, dtype=torch.bool)

    @property
    def match(self) -> Bool[Tensor, "batch query key"]:
        """Whether the key holds the query's token."""
        return self.queries[:, :, None] == self.keys[:, None, :]


Targets = Callable[[Sight], Bool[Tensor, "batch query key"]]


def previous_token(sight: Sight) -> Bool[Tensor, "batch query key"]:
    """The key just before the query."""
    return _at_distance(sight, 1)


def current_token(sight: Sight) -> Bool[Tensor, "batch query key"]:
    """The key at the query's own position: in cross-attention, the same place in the source."""
    return _at_distance(sight, 0)


def next_token(sight: Sight) -> Bool[Tensor, "batch query key"]:
    """The key just after the query."""
    return _at_distance(sight, -1)


def same_token(sight: Sight) -> Bool[Tensor, "batch query key"]:
    """Every visible key that holds the query's token, the query itself among them."""
    return sight.match & sight.visible


def duplicate_token(sight: Sight) -> Bool[Tensor, "batch query key"]:
    """Every other visible key that holds the query's token."""
    return same_token(sight) & (sight.distance != 0)


def induction(sight: Sight) -> Bool[Tensor, "batch query key"]:
    """The key after *every* other match of the query's token: prefix matching (Olsson et al. 2022, arXiv:2209.11895).

    A query whose match lies just before it is itself the token after; that key does not count. In cross-attention, the source
    token after a match is what a copy continues with.
    """
    found = same_token(sight) if sight.across else duplicate_token(sight)
    after = torch.zeros_like(found)
    after[:, :, 1:] = found[:, :, :-1]
    return after if sight.across else after & (sight.distance != 0)


def bos_sink(sight: Sight) -> Bool[Tensor, "batch query key"]:
    """The first key of the row, for every other query."""
    first = torch.zeros_like(sight.distance, dtype=torch.bool)
    first[:, 0] = True
    return (first if sight.across else first & (sight.distance != 0)).expand(len(sight.keys), -1, -1)


class Kind(NamedTuple):
    """of_tokens: whether the targets depend on the tokens, or on positions alone. ways: the attentions that have such targets."""

    targets: Targets
    of_tokens: bool
    ways: tuple[Way, ...] = ("causal", "both ways")


KINDS = {
    "previous_token": Kind(previous_token, of_tokens=False),
    "current_token": Kind(current_token, of_tokens=False, ways=("causal", "both ways", "cross")),
    "next_token": Kind(next_token, of_tokens=False, ways=("both ways",)),
    "same_token": Kind(same_token, of_tokens=True, ways=("causal", "both ways", "cross")),
    "duplicate_token": Kind(duplicate_token, of_tokens=True),
    "induction": Kind(induction, of_tokens=True, ways=("causal", "both ways", "cross")),
    "bos_sink": Kind(bos_sink, of_tokens=False, ways=("causal", "both ways", "cross")),
}


def _at_distance(sight: Sight, distance: int) -> Bool[Tensor, "batch query key"]:
    return (sight.distance == distance).expand(len(sight.queries), -1, -1)
