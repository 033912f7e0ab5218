"""Rows of bits with one answer: their parity, or which bit is in the majority.

    <cls> 1 0 1 1  →  odd · one

One bit always changes the parity, and hardly ever the majority: what a Transformer can tell of them depends on how far a single
token can reach (Hahn 2020, arXiv:1906.06755). Must not know: models.
"""

from __future__ import annotations

import torch
from jaxtyping import Int
from torch import Tensor

from interp.errors import ConfigError
from interp.tasks.answered import Answered
from interp.tasks.contrast import Contrast

ZERO, ONE, CLS = 0, 1, 2
"""Tokens. Answers are bits as well: ONE for odd parity and for a majority of ones."""


def parity(n: int, length: int, *, generator: torch.Generator) -> Answered:
    """`n` rows of `length` random bits behind `<cls>`, where the answer is asked for: whether the number of ones is odd."""
    return _parity(_bits(n, length, generator))


def majority(n: int, length: int, *, generator: torch.Generator) -> Answered:
    """The same with the bit that is more frequent. Raises ConfigError for an even length, where there may be none."""
    return _majority(_bits(n, length, generator))


def first(n: int, length: int, *, generator: torch.Generator) -> Answered:
    """The same with the first bit."""
    bits = _bits(n, length, generator)
    return _asked(bits, bits[:, 0])


def parity_contrast(n: int, length: int, *, generator: torch.Generator) -> Contrast:
    """Random rows, and twins with one bit turned over, at a random place."""
    bits = _bits(n, length, generator)
    places = torch.randint(length, (n,), generator=generator)
    return _parity(bits).against(_parity(_turned(bits, places)))


def majority_contrast(n: int, length: int, *, generator: torch.Generator) -> Contrast:
    """Rows in which one bit decides, and twins in which one bit of the majority is turned over.

    Raises ConfigError for an even length.
    """
    _require_odd(length)
    winner = torch.randint(2, (n, 1), generator=generator)
    order = torch.rand(n, length, generator=generator).argsort(1)
    bits = torch.where(order <= length // 2, winner, 1 - winner)
    return _majority(bits).against(_majority(_turned(bits, (order == 0).long().argmax(1))))


def _bits(n: int, length: int, generator: torch.Generator) -> Int[Tensor, "n length"]:
    if length < 1:
        raise ConfigError(f"length={length} leaves no bit; use 1 or more")
    return torch.randint(2, (n, length), generator=generator)


def _turned(bits: Int[Tensor, "n length"], places: Int[Tensor, " n"]) -> Int[Tensor, "n length"]:
    return bits.scatter(1, places[:, None], 1 - bits.gather(1, places[:, None]))


def _parity(bits: Int[Tensor, "n length"]) -> Answered:
    return _asked(bits, bits.sum(1) % 2)


def _majority(bits: Int[Tensor, "n length"]) -> Answered:
    _require_odd(bits.shape[1])
    return _asked(bits, (2 * bits.sum(1) > bits.shape[1]).long())


def _asked(bits: Int[Tensor, "n length"], answers: Int[Tensor, " n"]) -> Answered:
    return Answered(tokens=torch.cat([torch.full_like(bits[:, :1], CLS), bits], 1), answers=answers, position=0)


def _require_odd(length: int) -> None:
    if length % 2 == 0:
        raise ConfigError(f"length={length} is even, so there may be no majority; use {length + 1}")
