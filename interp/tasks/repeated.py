"""Random tokens that repeat: the task induction solves (Elhage et al. 2021; Olsson et al. 2022, arXiv:2209.11895).

A row is BOS, a few tokens of noise, then one segment over and over. Where the segment starts and how long it is differ from
row to row, so that nothing but the match of an earlier token tells what comes next; with one fixed length, a model can learn
to look back by that many positions instead. Must not know: models.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from interp.errors import ConfigError
from interp.tasks.contrast import Contrast


@dataclass(frozen=True)
class Repeated:
    """Rows of repeated random tokens. In a row, the segment begins at `start` and has `period` tokens.

    `is_copy` marks the tokens that the row so far determines: from the second token of the second copy on. Their logits
    stand one position earlier.
    """

    tokens: Int[Tensor, "batch pos"]
    is_copy: Bool[Tensor, "batch pos"]
    start: Int[Tensor, " batch"]
    period: Int[Tensor, " batch"]

    @property
    def predicts_copy(self) -> Bool[Tensor, "batch pos"]:
        """The positions whose next token is such a copy."""
        return self.is_copy.roll(-1, 1)  # no row begins with a copy, so nothing wraps around

    def without_matches(self, d_vocab: int) -> Contrast:
        """Rows cut before their last token, which is the answer; in the twins there is nothing to copy it from.

        There every earlier match of the token before the answer is another token, one that the row does not hold.
        """
        clean, answers = self.tokens[:, :-1], self.tokens[:, -1]
        held = torch.zeros(len(clean), d_vocab, dtype=torch.bool).scatter_(1, self.tokens, True)
        free = (~held).int().argmax(1, keepdim=True)
        match = clean == clean[:, -1:]
        match[:, -1] = False
        return Contrast(clean=clean, corrupt=torch.where(match, free, clean), answers=answers)


def repeated_random(
    n: int,
    length: int,
    d_vocab: int,
    *,
    generator: torch.Generator,
    periods: tuple[int, int] | None = None,
    noise: int | None = None,
    bos_id: int = 0,
) -> Repeated:
    """`n` rows of `length` tokens, drawn from `generator` alone.

    Periods are uniform over `periods`, both ends included (default: a fifth to two fifths of the row); the noise before the
    segment has up to `noise` tokens (default: a tenth of the row). No token stands twice in the noise and the segment, and
    none is `bos_id`. Raises ConfigError when the row or the vocabulary is too small for that.
    """
    shortest, longest = periods if periods is not None else (max(2, length // 5), max(2, 2 * length // 5))
    noise = length // 10 if noise is None else noise
    if not 1 <= shortest <= longest or 1 + noise + longest + 2 > length:
        raise ConfigError(
            f"a row of {length} tokens has no room for BOS, {noise} of noise and a period of {longest} seen twice; "
            f"use length={longest + noise + 3} or more"
        )
    if d_vocab - 1 < noise + longest:
        needed = noise + longest
        raise ConfigError(f"d_vocab={d_vocab} is too small for {needed} different tokens and BOS; use {needed + 1} or more")
    start = 1 + torch.randint(0, noise + 1, (n,), generator=generator)
    period = torch.randint(shortest, longest + 1, (n,), generator=generator)
    drawn = torch.rand(n, d_vocab - 1, generator=generator).argsort(1)[:, : noise + longest]
    drawn = drawn + (drawn >= bos_id)
    place = torch.arange(length).expand(n, -1)
    since = place - start[:, None]
    source = torch.where(since < 0, place - 1, start[:, None] - 1 + since.remainder(period[:, None]))
    tokens = drawn.gather(1, source.clamp(min=0))
    tokens[:, 0] = bos_id
    return Repeated(tokens, since > period[:, None], start, period)
