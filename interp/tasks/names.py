"""Names told and asked for: sentences in which one of two people gives something to the other (indirect object identification).

    BOS then Ada and Ben went to the park so Ben gave a gift to -> Ada

Two people are named, in either order; one of them, S, is named again and gives, and the other, IO, is who gets it (Wang et al.
2022, arXiv:2211.00593). ABBA names IO first, BABA names S first. In the twin ABC the giver is a third person, so that nothing
tells which of the two is meant. Every name, place and thing is one token, and templates differ in length, so positions alone
answer nothing; what comes before the first name differs as well.

Must not know: models.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from interp.errors import ConfigError
from interp.tasks import facts
from interp.tasks.contrast import Contrast

TEMPLATES = (
    "{A} and {B} went to the {P} so {S} gave a {T} to",
    "{A} and {B} had a {T} at the {P} and {S} gave it to",
    "when {A} met {B} at the {P} then {S} gave a {T} to",
    "{A} saw {B} near the {P} and so {S} handed the {T} to",
)
"""{A} and {B} are the two people in the order in which they are named, {S} is the giver, {P} a place, {T} a thing."""
LEADS = ("", "then", "so then", "one day")
PEOPLE = (*facts.NAMES, "Quin", "Rosa", "Sam", "Tess", "Uma", "Vic", "Wes", "Xena", "Yan", "Zoe")
PLACES = ("park", "shop", "school", "lake")
THINGS = ("gift", "book", "key", "ring")
BOS, STOP = "<bos>", "."


def _words() -> tuple[str, ...]:
    plain = [word for text in (*TEMPLATES, *LEADS) for word in text.split() if not word.startswith("{")]
    return tuple(dict.fromkeys([BOS, STOP, *plain, *PEOPLE, *PLACES, *THINGS]))


VOCABULARY = _words()
IDS = {word: number for number, word in enumerate(VOCABULARY)}
LENGTH = 1 + max(len(lead.split()) for lead in LEADS) + max(len(text.split()) for text in TEMPLATES) + 2
"""Tokens of the longest sentence with its answer and full stop."""


@dataclass(frozen=True)
class Sentences:
    """Sentences, padded at the end with full stops.

    people: the tokens of IO, S and a third person, [example 3]. places: where IO stands, S first, S again, and the last token
    (whose next is the answer), [example 4]. first: whether IO is named first (ABBA).
    """

    tokens: Int[Tensor, "example pos"]
    people: Int[Tensor, "example 3"]
    places: Int[Tensor, "example 4"]
    first: Bool[Tensor, " example"]

    def __len__(self) -> int:
        return len(self.tokens)

    @property
    def is_answer(self) -> Bool[Tensor, "example pos"]:
        """Where the answers stand."""
        return torch.arange(self.tokens.shape[1]) == self.places[:, 3:] + 1

    def with_giver(self, giver: Int[Tensor, " example"]) -> Sentences:
        """The same sentences with another giver: the twins ABC for a third person."""
        tokens = self.tokens.clone()
        tokens[torch.arange(len(self)), self.places[:, 2]] = giver
        return replace(self, tokens=tokens)


def sentences(n: int, *, generator: torch.Generator, template: int | None = None) -> Sentences:
    """`n` sentences, drawn from `generator` alone, with their answers. Raises ConfigError for none, and for no such template."""
    if n < 1:
        raise ConfigError(f"n={n} sentences; ask for 1 or more")
    if template is not None and not 0 <= template < len(TEMPLATES):
        raise ConfigError(f"no template {template}; there are 0 to {len(TEMPLATES) - 1}")

    def draw(options: int) -> list[int]:
        return torch.randint(options, (n,), generator=generator).tolist()

    people = torch.rand(n, len(PEOPLE), generator=generator).argsort(1)[:, :3]
    kinds, leads, places, things, first = (draw(size) for size in (len(TEMPLATES), len(LEADS), len(PLACES), len(THINGS), 2))
    rows, marks = [], []
    for i, (other, giver, _) in enumerate(people.tolist()):
        named = (PEOPLE[other], PEOPLE[giver]) if first[i] else (PEOPLE[giver], PEOPLE[other])
        text = f"{BOS} {LEADS[leads[i]]} {TEMPLATES[kinds[i] if template is None else template]}"
        words = text.format(A=named[0], B=named[1], S=PEOPLE[giver], P=PLACES[places[i]], T=THINGS[things[i]]).split()
        again = len(words) - 1 - words[::-1].index(PEOPLE[giver])
        marks.append([words.index(PEOPLE[other]), words.index(PEOPLE[giver]), again, len(words) - 1])
        words += [PEOPLE[other]]
        rows.append([IDS[word] for word in words] + [IDS[STOP]] * (LENGTH - len(words)))
    ids = torch.tensor([IDS[name] for name in PEOPLE])
    return Sentences(torch.tensor(rows), ids[people], torch.tensor(marks), torch.tensor(first, dtype=torch.bool))


def contrast(told: Sentences) -> Contrast:
    """Who gets it, IO or S, with the twins ABC. The answers are taken out."""
    asked = told.tokens.where(~told.is_answer, IDS[STOP])
    clean = replace(told, tokens=asked)
    return Contrast(
        clean=clean.tokens,
        corrupt=clean.with_giver(told.people[:, 2]).tokens,
        answers=told.people[:, 0],
        wrong=told.people[:, 1],
        positions=told.places[:, 3],
    )
