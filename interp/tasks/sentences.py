"""Short reviews to be called good or bad: classification with a known rule.

    <cls> the film is not really great .        →  bad

An adjective is kind or unkind, and "not" turns it over; adverbs and nouns mean nothing. Neither word tells the answer alone: it
is whether the sentence has exactly one of an unkind adjective and "not". Must not know: models.
"""

from __future__ import annotations

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from interp.tasks.answered import Answered
from interp.tasks.contrast import Contrast

NOUNS = ("film", "book", "song", "play", "meal", "game")
KIND = ("great", "lovely", "clever", "fine", "bright", "sweet")
UNKIND = ("awful", "dull", "clumsy", "poor", "stale", "bitter")
ADVERBS = ("really", "very", "quite", "so")
WORDS = ("<pad>", "<cls>", "bad", "good", "the", "is", "not", ".", *NOUNS, *ADVERBS, *KIND, *UNKIND)
"""The vocabulary; a word's id is its place."""
_ID = {word: index for index, word in enumerate(WORDS)}
CLS, BAD, GOOD = _ID["<cls>"], _ID["bad"], _ID["good"]
LENGTH = 8


def reviews(n: int, *, generator: torch.Generator) -> Answered:
    """`n` reviews, half of them good, drawn from `generator` alone; the answer is asked for at `<cls>`, position 0."""
    return _asked(*_drawn(n, generator))


def negation_contrast(n: int, *, generator: torch.Generator) -> Contrast:
    """Reviews, and twins with an adverb where "not" was or the other way round, at the same position: the answer turns over."""
    kind, negated, fillers, adjectives = _drawn(n, generator)
    return _asked(kind, negated, fillers, adjectives).against(_asked(kind, ~negated, fillers, adjectives))


def adjective_contrast(n: int, *, generator: torch.Generator) -> Contrast:
    """Reviews, and twins with an adjective of the other kind."""
    kind, negated, fillers, adjectives = _drawn(n, generator)
    return _asked(kind, negated, fillers, adjectives).against(_asked(~kind, negated, fillers, adjectives))


def _drawn(n: int, generator: torch.Generator) -> tuple[Bool[Tensor, " n"], Bool[Tensor, " n"], Tensor, Int[Tensor, " n"]]:
    """Whether the adjective is kind, whether it is negated, (noun, adverb, adverb) and which adjective of its kind."""
    kind, negated = torch.randint(2, (2, n), generator=generator).bool()
    noun = torch.randint(len(NOUNS), (n,), generator=generator) + _ID[NOUNS[0]]
    adverbs = torch.randint(len(ADVERBS), (n, 2), generator=generator) + _ID[ADVERBS[0]]
    return kind, negated, torch.cat([noun[:, None], adverbs], 1), torch.randint(len(KIND), (n,), generator=generator)


def _asked(kind: Tensor, negated: Tensor, fillers: Int[Tensor, "n 3"], adjectives: Int[Tensor, " n"]) -> Answered:
    tokens = torch.tensor([CLS, _ID["the"], 0, _ID["is"], 0, 0, 0, _ID["."]]).repeat(len(kind), 1)
    tokens[:, 2], tokens[:, 5] = fillers[:, 0], fillers[:, 2]
    tokens[:, 4] = torch.where(negated, _ID["not"], fillers[:, 1])
    tokens[:, 6] = adjectives + torch.where(kind, _ID[KIND[0]], _ID[UNKIND[0]])
    return Answered(tokens=tokens, answers=torch.where(kind ^ negated, GOOD, BAD), position=0)
