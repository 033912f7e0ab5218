"""Sentences of a small English and their translations into a small Spanish, word for word, with the alignment.

What a translator must do is known: put adjectives after their nouns, make articles and adjectives agree with the noun in gender
and number, and verbs with their subject in number, which English hardly shows ("the red houses" → "las casas rojas").

    sentence = noun phrase, verb, noun phrase            noun phrase = article (adjective) noun

Every Spanish word stands for one English word (a sure link). The noun whose gender and number it takes is a possible link; so is
the subject's noun for a verb. Must not know: models.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor

from interp.tasks.contrast import Contrast
from interp.tasks.pairs import PAD, STOP, Pairs

NOUNS = {
    "cat": ("gato", "m"),
    "dog": ("perro", "m"),
    "book": ("libro", "m"),
    "boy": ("niño", "m"),
    "horse": ("caballo", "m"),
    "tree": ("árbol", "m"),
    "house": ("casa", "f"),
    "table": ("mesa", "f"),
    "girl": ("niña", "f"),
    "flower": ("flor", "f"),
    "star": ("estrella", "f"),
    "cow": ("vaca", "f"),
}
"""English singular, Spanish singular and gender."""
ADJECTIVES = {"red": "rojo", "small": "pequeño", "tall": "alto", "white": "blanco", "pretty": "bonito", "green": "verde"}
"""English, Spanish masculine singular; one in -e has no gender."""
VERBS = {"see": "ve", "want": "quiere", "know": "conoce", "watch": "mira", "find": "encuentra", "love": "ama"}
"""English stem, Spanish third person singular."""
ARTICLES = {
    ("the", False): {"m": "el", "f": "la"},
    ("the", True): {"m": "los", "f": "las"},
    ("a", False): {"m": "un", "f": "una"},
    ("some", True): {"m": "unos", "f": "unas"},
}
"""English article and whether it stands with a plural -> Spanish by gender."""


@dataclass(frozen=True)
class NounPhrase:
    """What a noun phrase says, in no language yet."""

    article: str
    adjective: str | None
    noun: str
    plural: bool

    @property
    def gender(self) -> str:
        """m or f, of the Spanish noun."""
        return NOUNS[self.noun][1]


@dataclass(frozen=True)
class Sentence:
    """Who does what to whom."""

    subject: NounPhrase
    verb: str
    object: NounPhrase


@dataclass
class _Words:
    """A sentence in both languages as it is written: links are pairs (Spanish position, English position)."""

    english: list[str] = field(default_factory=list)
    spanish: list[str] = field(default_factory=list)
    sure: list[tuple[int, int]] = field(default_factory=list)
    possible: list[tuple[int, int]] = field(default_factory=list)

    def phrase(self, phrase: NounPhrase) -> int:
        """Writes a noun phrase; returns where its English noun stands."""
        start, words = len(self.english), [phrase.article, *filter(None, [phrase.adjective])]
        noun = start + len(words)
        self.english += [*words, noun_in_english(phrase)]
        self.spanish_word(ARTICLES[phrase.article, phrase.plural][phrase.gender], start, noun)
        self.spanish_word(noun_in_spanish(phrase), noun, noun)
        if phrase.adjective is not None:
            self.spanish_word(adjective_in_spanish(phrase.adjective, phrase.gender, phrase.plural), start + 1, noun)
        return noun

    def spanish_word(self, word: str, stands_for: int, agrees_with: int) -> None:
        """Adds a Spanish word, with its links."""
        place = len(self.spanish)
        self.spanish.append(word)
        self.sure.append((place, stands_for))
        self.possible += [(place, stands_for), (place, agrees_with)]


def noun_in_english(phrase: NounPhrase) -> str:
    """The English noun in its number."""
    return phrase.noun + "s" if phrase.plural else phrase.noun


def noun_in_spanish(phrase: NounPhrase) -> str:
    """The Spanish noun in its number: -s after a vowel, -es after a consonant."""
    singular = NOUNS[phrase.noun][0]
    if not phrase.plural:
        return singular
    return singular + "s" if singular[-1] in "aeiou" else singular + "es"


def adjective_in_spanish(adjective: str, gender: str, plural: bool) -> str:
    """The Spanish adjective in gender and number."""
    masculine = ADJECTIVES[adjective]
    singular = masculine[:-1] + "a" if gender == "f" and masculine.endswith("o") else masculine
    return singular + "s" if plural else singular


def _written(sentence: Sentence) -> _Words:
    words = _Words()
    subject = words.phrase(sentence.subject)
    place = len(words.english)
    words.english.append(
        sentence.verb if sentence.subject.plural else sentence.verb + ("es" if sentence.verb == "watch" else "s")
    )
    spanish = VERBS[sentence.verb]
    words.spanish_word(spanish + "n" if sentence.subject.plural else spanish, place, subject)
    words.phrase(sentence.object)
    return words


def _vocabulary() -> tuple[str, ...]:
    phrases = [
        NounPhrase(article, adjective, noun, plural)
        for (article, plural) in ARTICLES
        for adjective in ADJECTIVES
        for noun in NOUNS
    ]
    whole = [_written(Sentence(phrase, verb, phrase)) for phrase in phrases for verb in VERBS]
    english = sorted({word for words in whole for word in words.english})
    spanish = sorted({word for words in whole for word in words.spanish})
    return ("<pad>", "<start>", "<stop>", *english, *spanish)


VOCABULARY = _vocabulary()
"""Words by id: padding, START and STOP, the English words, the Spanish ones."""
_ID = {word: index for index, word in enumerate(VOCABULARY)}
LONGEST = 7
"""Words of the longest sentence, in either language."""


def sentences(n: int, *, generator: torch.Generator) -> list[Sentence]:
    """`n` random sentences, drawn from `generator` alone: every word of a kind is as likely, adjectives stand in two of three."""
    return [Sentence(_phrase(generator), _one(list(VERBS), generator), _phrase(generator)) for _ in range(n)]


def translations(said: list[Sentence]) -> Pairs:
    """The sentences in English (source) and in Spanish (target), with their alignment."""
    rows = [_written(sentence) for sentence in said]
    source, target = torch.full((len(said), LONGEST), PAD), torch.full((len(said), LONGEST + 1), PAD)
    sure = torch.zeros(len(said), LONGEST + 1, LONGEST, dtype=torch.bool)
    possible = sure.clone()
    for row, words in enumerate(rows):
        source[row, : len(words.english)] = torch.tensor([_ID[word] for word in words.english])
        target[row, : len(words.spanish) + 1] = torch.tensor([*(_ID[word] for word in words.spanish), STOP])
        for links, where in ((words.sure, sure), (words.possible, possible)):
            spanish, english = zip(*links, strict=True)
            where[row, list(spanish), list(english)] = True
    return Pairs(source=source, target=target, sure=sure, possible=possible)


def agreement_contrast(n: int, *, generator: torch.Generator) -> Contrast:
    """Sentences, and twins whose subject is a noun of the other gender: asked for the article, the first Spanish word.

    English articles have no gender, so nothing but the noun tells which it is.
    """
    said = sentences(n, generator=generator)
    twins = [_with_other_gender(sentence, generator) for sentence in said]
    return translations(said).against(translations(twins), torch.zeros(n, dtype=torch.long))


def text(tokens: Tensor) -> str:
    """The words of a row, without padding and STOP."""
    return " ".join(VOCABULARY[token] for token in tokens.tolist() if token not in (PAD, STOP))


def _with_other_gender(sentence: Sentence, generator: torch.Generator) -> Sentence:
    subject = sentence.subject
    others = [noun for noun, (_, gender) in NOUNS.items() if gender != subject.gender]
    noun = _one(others, generator)
    return Sentence(NounPhrase(subject.article, subject.adjective, noun, subject.plural), sentence.verb, sentence.object)


def _phrase(generator: torch.Generator) -> NounPhrase:
    article, plural = _one(list(ARTICLES), generator)
    adjective = _one([*ADJECTIVES, *[None] * (len(ADJECTIVES) // 2)], generator)
    return NounPhrase(article, adjective, _one(list(NOUNS), generator), plural)


def _one(choices: list, generator: torch.Generator):
    return choices[int(torch.randint(len(choices), (), generator=generator))]
