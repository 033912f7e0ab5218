"""Random symbols to be copied, reversed or sorted: sequence to sequence with an alignment that is known exactly.

A source is a row of different symbols, so that each target token comes from one place. Must not know: models.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from jaxtyping import Int
from torch import Tensor

from interp.errors import ConfigError
from interp.tasks.contrast import Contrast
from interp.tasks.pairs import FIRST, PAD, STOP, Pairs

Order = Callable[[Int[Tensor, "example source"], Int[Tensor, "example 1"]], Tensor]
"""(symbols, lengths) -> where in the source each target token comes from, [example source]; of no matter past the length."""


def copying(n: int, lengths: tuple[int, int], symbols: int, *, generator: torch.Generator) -> Pairs:
    """The target is the source."""
    return _pairs(*_sources(n, lengths, symbols, generator), _same)


def reversal(n: int, lengths: tuple[int, int], symbols: int, *, generator: torch.Generator) -> Pairs:
    """The target is the source from its end to its start: target position t comes from source position length − 1 − t."""
    return _pairs(*_sources(n, lengths, symbols, generator), _reversed)


def sorting(n: int, lengths: tuple[int, int], symbols: int, *, generator: torch.Generator) -> Pairs:
    """The target is the source in ascending order of its ids.

    As for all three: `n` rows of `lengths` = (shortest, longest) symbols out of `symbols`, all different in a row, drawn from
    `generator` alone. Raises ConfigError when there are fewer symbols than that.
    """
    return _pairs(*_sources(n, lengths, symbols, generator), _sorted)


def reversal_contrast(n: int, lengths: tuple[int, int], symbols: int, *, generator: torch.Generator) -> Contrast:
    """Sources to be reversed, and twins in which one symbol is another: asked for the target token that comes from it.

    Raises ConfigError when there is no symbol left to put in its place.
    """
    _require(lengths, symbols, spare=1)
    drawn, length = _sources(n, (lengths[0], lengths[1]), symbols, generator, spare=1)
    places = (torch.rand(n, generator=generator) * length[:, 0]).long()
    twins = drawn.clone()
    twins[torch.arange(n), places] = drawn[:, -1]
    clean, corrupt = (_pairs(rows[:, :-1], length, _reversed) for rows in (drawn, twins))
    return clean.against(corrupt, length[:, 0] - 1 - places)


def _sources(
    n: int, lengths: tuple[int, int], symbols: int, generator: torch.Generator, spare: int = 0
) -> tuple[Int[Tensor, "example source"], Int[Tensor, "example 1"]]:
    """Rows of different symbols, `spare` more than the longest row, and how many of each are the source."""
    _require(lengths, symbols, spare=spare)
    drawn = torch.rand(n, symbols, generator=generator).argsort(1)[:, : lengths[1] + spare] + FIRST
    return drawn, torch.randint(lengths[0], lengths[1] + 1, (n, 1), generator=generator)


def _pairs(drawn: Int[Tensor, "example source"], length: Int[Tensor, "example 1"], order: Order) -> Pairs:
    """Sources of the given lengths, with targets in the given order."""
    place = torch.arange(drawn.shape[1])
    inside = place < length
    origin = order(drawn, length)
    target = torch.where(inside, drawn.gather(1, origin), PAD)
    target = torch.cat([target, torch.full_like(length, PAD)], 1)
    target.scatter_(1, length, STOP)
    links = torch.zeros(len(drawn), drawn.shape[1] + 1, drawn.shape[1], dtype=torch.bool)
    links[:, :-1] = (origin[:, :, None] == place) & inside[:, :, None]
    return Pairs(source=torch.where(inside, drawn, PAD), target=target, sure=links, possible=links)


def _same(drawn: Tensor, length: Tensor) -> Tensor:
    return torch.arange(drawn.shape[1]).expand_as(drawn)


def _reversed(drawn: Tensor, length: Tensor) -> Tensor:
    return (length - 1 - torch.arange(drawn.shape[1])).clamp_min(0)


def _sorted(drawn: Tensor, length: Tensor) -> Tensor:
    beyond = torch.arange(drawn.shape[1]) >= length
    return torch.where(beyond, drawn.amax() + 1, drawn).argsort(1)


def _require(lengths: tuple[int, int], symbols: int, *, spare: int) -> None:
    shortest, longest = lengths
    if not 1 <= shortest <= longest:
        raise ConfigError(f"lengths={lengths} must be (shortest, longest), with 1 ≤ shortest ≤ longest")
    if symbols < longest + spare:
        raise ConfigError(f"symbols={symbols} are too few for rows of {longest} different ones; use {longest + spare} or more")
