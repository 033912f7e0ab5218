"""Rows of brackets that balance or not (Dyck-1), with the depth at every position and the ways in which they fail.

    depth_i = number of ( up to i − number of ) up to i
    balanced  ⇔  the last depth is 0 (as many of each) and no depth is below 0 (none is closed before it opens)

The two conditions are the two ways to fail, and a row can fail in either alone. Must not know: models.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from interp.errors import ConfigError
from interp.tasks.answered import Answered
from interp.tasks.contrast import Contrast

CLS, OPEN, CLOSE, NO, YES = 0, 1, 2, 3, 4
"""Tokens: the place of the question, the brackets, and the answers."""
CHARACTERS = ("<cls>", "(", ")", "no", "yes")


@dataclass(frozen=True)
class Brackets:
    """Rows of brackets behind `<cls>`, and what is true of them."""

    tokens: Int[Tensor, "example pos"]

    def __len__(self) -> int:
        return len(self.tokens)

    def __getitem__(self, rows: Tensor | slice) -> Brackets:
        """Some of the rows, by a mask, by indices or by a slice."""
        return Brackets(self.tokens[rows])

    @property
    def depth(self) -> Int[Tensor, "example pos"]:
        """How many brackets are open after each position; 0 at `<cls>`."""
        return ((self.tokens == OPEN).long() - (self.tokens == CLOSE).long()).cumsum(1)

    @property
    def unequal(self) -> Bool[Tensor, " example"]:
        """Rows that fail by having more brackets of one kind."""
        return self.depth[:, -1] != 0

    @property
    def dips(self) -> Bool[Tensor, " example"]:
        """Rows that fail by closing a bracket that was never opened."""
        return (self.depth < 0).any(1)

    @property
    def asked(self) -> Answered:
        """Whether the row balances, asked for at `<cls>`."""
        return Answered(tokens=self.tokens, answers=torch.where(self.unequal | self.dips, NO, YES), position=0)


def balanced(n: int, length: int, *, generator: torch.Generator) -> Brackets:
    """`n` rows that balance, all such rows as likely, drawn from `generator` alone. Raises ConfigError for an odd length.

    By the cycle lemma: of the `length + 1` turns of a cycle with one more ) than (, exactly one ends in a ) that leaves a
    balanced row before it (Dvoretzky & Motzkin 1947).
    """
    _require_even(length)
    half = length // 2
    steps = torch.where(torch.rand(n, length + 1, generator=generator).argsort(1) < half, 1, -1)
    start = steps.cumsum(1).argmin(1)  # the first time that the walk is lowest: the turn begins after it
    turned = steps.gather(1, (start[:, None] + 1 + torch.arange(length + 1)) % (length + 1))
    return _rows(turned[:, :-1])


def equal(n: int, length: int, *, generator: torch.Generator) -> Brackets:
    """`n` random rows with as many ( as ): most of them dip. Raises ConfigError for an odd length."""
    _require_even(length)
    order = torch.rand(n, length, generator=generator).argsort(1)
    return _rows(torch.where(order < length // 2, 1, -1))


def anything(n: int, length: int, *, generator: torch.Generator) -> Brackets:
    """`n` rows of random brackets."""
    return _rows(2 * torch.randint(2, (n, length), generator=generator) - 1)


def mixture(n: int, length: int, *, generator: torch.Generator) -> Brackets:
    """Rows to train on: a half balanced, a quarter with as many of each kind, a quarter of anything, in random order."""
    parts = [
        balanced(n - n // 2, length, generator=generator),
        equal(n // 4, length, generator=generator),
        anything(n // 2 - n // 4, length, generator=generator),
    ]
    tokens = torch.cat([part.tokens for part in parts])
    return Brackets(tokens[torch.randperm(n, generator=generator)])


def unequal_contrast(n: int, length: int, *, generator: torch.Generator) -> Contrast:
    """Balanced rows, and twins with the last bracket turned over: they fail by number alone, and never dip."""
    rows = balanced(n, length, generator=generator)
    twins = rows.tokens.clone()
    twins[:, -1] = OPEN
    return rows.asked.against(Brackets(twins).asked)


def dip_contrast(n: int, length: int, *, generator: torch.Generator) -> Contrast:
    """Balanced rows, and twins with the first and the last bracket exchanged: as many of each kind, but they dip."""
    rows = balanced(n, length, generator=generator)
    twins = rows.tokens.clone()
    twins[:, 1], twins[:, -1] = CLOSE, OPEN
    return rows.asked.against(Brackets(twins).asked)


def _rows(steps: Int[Tensor, "n length"]) -> Brackets:
    tokens = torch.where(steps > 0, OPEN, CLOSE)
    return Brackets(torch.cat([torch.full_like(tokens[:, :1], CLS), tokens], 1))


def _require_even(length: int) -> None:
    if length < 2 or length % 2:
        raise ConfigError(f"length={length} cannot hold as many ( as ); use {max(2, length + 1)}")
