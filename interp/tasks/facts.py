"""Facts to be remembered: prompts about subjects with known answers, from generated worlds and from lists of real words.

The people of a `World` have two names each, and no name tells who it is, nor do both without their order: Ada Ben is not
Ben Ada. Every person has one object per relation, so nothing but memory can answer. Facts are asked in several ways
(templates). One way of asking each fact never occurs in training: an answer there shows that the fact is known, not the
sentence. A `Lookup` is a table of pairs of tokens and the one that follows. Must not know: models.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from interp.errors import ConfigError

SUBJECT, RELATION = "{}", "[]"
QUESTIONS = (
    (SUBJECT, "has", "the", RELATION),
    (SUBJECT, "and", "whose", RELATION, "is"),
    ("the", RELATION, "of", SUBJECT, "is"),
    ("ask", SUBJECT, "for", "the", RELATION),
)
"""Ways to ask, with places for the subject and for the name of the relation."""
RELATIONS = ("home", "craft", "meal", "pet", "game", "song")
FILLERS = ("well", "so", "now", "then", "yes", "indeed")
NAMES = ("Ada", "Ben", "Cleo", "Dan", "Eve", "Finn", "Gus", "Hana", "Ida", "Jon", "Kay", "Leo", "Mia", "Ned", "Ona", "Pia")


@dataclass(frozen=True)
class Prompts:
    """Sequences that ask for one token each.

    subject: the tokens that name whom it is about. last: the position whose next token is the answer; what stands after it is
    padding, which a causal model cannot see from there. Raises ConfigError for a prompt without a subject.
    """

    tokens: Int[Tensor, "example pos"]
    subject: Bool[Tensor, "example pos"]
    last: Int[Tensor, " example"]
    answer: Int[Tensor, " example"]

    def __post_init__(self) -> None:
        without = (~self.subject.any(1)).nonzero().flatten().tolist()
        if without:
            raise ConfigError(
                f"prompt {without[0]} has no subject token ({len(without)} of {len(self)} have none); mark one or more"
            )

    def __len__(self) -> int:
        return len(self.tokens)

    def __getitem__(self, chosen: Tensor | slice) -> Prompts:
        """Some of the prompts, by a mask, by indices or by a slice."""
        return Prompts(self.tokens[chosen], self.subject[chosen], self.last[chosen], self.answer[chosen])

    @property
    def last_subject(self) -> Int[Tensor, " example"]:
        """Position of the last token of every subject."""
        return torch.where(self.subject, torch.arange(self.tokens.shape[1]), -1).amax(1)

    def asking(self, answer: Int[Tensor, " example"]) -> Prompts:
        """The same prompts with other answers, as an edit requests them."""
        return replace(self, answer=answer)


@dataclass(frozen=True)
class World:
    """People, what is true of them, and how one asks.

    words: the vocabulary; a word's id is its place, and 0 starts a sequence. subjects: two name tokens each.
    answers: the object of every subject under every relation. templates: the words of every question under every relation,
    `{}` for the subject. held_out: the ways of asking a fact that training never shows, one per fact.
    fillers: what may stand around a question and mean nothing, single names among it.
    """

    words: tuple[str, ...]
    subjects: Int[Tensor, "subject 2"]
    answers: Int[Tensor, "subject relation"]
    templates: tuple[tuple[tuple[str, ...], ...], ...]
    held_out: Bool[Tensor, "subject relation template"]
    fillers: Int[Tensor, " filler"]

    @property
    def facts(self) -> Int[Tensor, "fact 2"]:
        """(subject, relation) of every fact."""
        return torch.cartesian_prod(torch.arange(len(self.subjects)), torch.arange(self.answers.shape[1]))

    def spread(self, n: int) -> Int[Tensor, "fact 2"]:
        """About `n` facts, evenly from the whole world, with all relations among them."""
        step = max(1, len(self.facts) // n)
        step += step > 1 and step % len(self.templates) == 0
        return self.facts[::step]

    def but(self, fact: Int[Tensor, "2"]) -> Bool[Tensor, " fact"]:
        """Which of all facts are another one."""
        return (self.facts != fact).any(1)

    def same_person(self, facts: Int[Tensor, "fact 2"]) -> list[Prompts]:
        """Prompts for the other relations of each fact's subject: row i of every one is about the subject of fact i."""
        n = len(self.templates)
        return [self.prompts(torch.stack([facts[:, 0], (facts[:, 1] + shift) % n], 1), 0) for shift in range(1, n)]

    def other_objects(self, facts: Int[Tensor, "fact 2"]) -> Int[Tensor, " fact"]:
        """Another object of the same relation for every fact."""
        found = []
        for subject, relation in facts.tolist():
            objects = self.answers[:, relation].unique()
            place = int((objects == self.answers[subject, relation]).nonzero())
            found.append(objects[(place + len(objects) // 3) % len(objects)])
        return torch.stack(found)

    def prompts(self, facts: Int[Tensor, "fact 2"], template: int, *, prefix: Int[Tensor, "fact pos"] | None = None) -> Prompts:
        """One prompt per (subject, relation), all asked in the same way; `prefix` stands before the question."""
        number = {word: place for place, word in enumerate(self.words)}
        before = torch.empty(len(facts), 0, dtype=torch.long) if prefix is None else prefix
        rows, marks = [], []
        for (who, relation), lead in zip(facts.tolist(), before.tolist(), strict=True):
            row, mark = [0, *lead], [False] * (1 + len(lead))
            for word in self.templates[relation][template]:
                named = self.subjects[who].tolist() if word == SUBJECT else [number[word]]
                row, mark = row + named, mark + [word == SUBJECT] * len(named)
            rows.append(row)
            marks.append(mark)
        tokens = torch.tensor(rows)
        last = torch.full((len(facts),), tokens.shape[1] - 1)
        return Prompts(tokens, torch.tensor(marks), last, self.answers[facts[:, 0], facts[:, 1]])

    def is_held_out(self, facts: Int[Tensor, "fact 2"], template: int) -> Bool[Tensor, " fact"]:
        """Whether training never asks these facts in this way."""
        return self.held_out[facts[:, 0], facts[:, 1], template]

    def prefixes(self, n: int, length: int, *, generator: torch.Generator) -> Int[Tensor, "fact pos"]:
        """Random fillers to stand before `n` questions."""
        return self.fillers[torch.randint(len(self.fillers), (n, length), generator=generator)]

    def contexts(
        self,
        facts: Int[Tensor, "fact 2"],
        wanted: Int[Tensor, " fact"],
        ways: Sequence[int],
        lengths: Sequence[int],
        *,
        generator: torch.Generator,
    ) -> list[Prompts]:
        """The facts asked in some ways, after some numbers of fillers, with the wanted objects as answers: an edit's contexts."""
        prefixes = [(way, self.prefixes(len(facts), length, generator=generator)) for way in ways for length in lengths]
        return [self.prompts(facts, way, prefix=prefix).asking(wanted) for way, prefix in prefixes]

    def rows(self, n: int, length: int, *, generator: torch.Generator) -> tuple[Tensor, Bool[Tensor, "row pos"]]:
        """Training rows, and where their answers stand: BOS, fillers, a question not held out, its answer, fillers."""
        allowed = (~self.held_out).nonzero()
        picked = allowed[torch.randint(len(allowed), (n,), generator=generator)]
        rows, is_answer = self.prefixes(n, length, generator=generator), torch.zeros(n, length, dtype=torch.bool)
        rows[:, 0] = 0
        for template in picked[:, 2].unique().tolist():
            chosen = (picked[:, 2] == template).nonzero()
            asked = self.prompts(picked[chosen[:, 0], :2], template)
            sentence = torch.cat([asked.tokens[:, 1:], asked.answer[:, None]], 1)
            start = torch.randint(1, length - sentence.shape[1] + 1, (len(chosen), 1), generator=generator)
            rows[chosen, start + torch.arange(sentence.shape[1])] = sentence
            is_answer[chosen, start + sentence.shape[1] - 1] = True
        return rows, is_answer

    def text(self, tokens: Int[Tensor, " pos"]) -> str:
        """The words of a row."""
        return " ".join(self.words[token] for token in tokens.tolist())


def world(subjects: int = 64, relations: int = 3, objects: int = 16, *, seed: int = 0) -> World:
    """A world of `subjects` × `relations` facts, in which every object of a relation belongs to as many people.

    With each person comes the one of reversed names, and every name is as frequent as any other, first or last.
    Raises ConfigError when that does not come out even.
    """
    pairs, most = 2 * len(NAMES), len(NAMES) * (len(NAMES) - 2)
    if subjects % pairs or not 0 < subjects <= most:
        near = max(pairs, min(subjects, most) // pairs * pairs)
        raise ConfigError(f"subjects={subjects} is not a multiple of {pairs} up to {most}; use {near}")
    if not 1 <= relations <= len(RELATIONS):
        raise ConfigError(f"relations={relations}, but there are 1 to {len(RELATIONS)}")
    if objects < 2 or subjects % objects:
        raise ConfigError(f"subjects={subjects} cannot share objects={objects} evenly; use a divisor of {subjects}, 2 or more")
    generator = torch.Generator().manual_seed(seed)
    asked = RELATIONS[:relations]
    plain = sorted({word for question in QUESTIONS for word in question} - {SUBJECT, RELATION})
    words = ("<bos>", *FILLERS, *plain, *asked, *NAMES, *(f"{relation}-{i}" for relation in asked for i in range(objects)))
    number = {word: place for place, word in enumerate(words)}
    first = torch.arange(len(NAMES)).repeat(subjects // pairs)
    second = (first + 1 + torch.arange(len(first)) // len(NAMES)) % len(NAMES)
    people = torch.stack([torch.cat([first, second]), torch.cat([second, first])], 1) + number[NAMES[0]]
    shared = torch.stack([torch.randperm(subjects, generator=generator) % objects for _ in asked], 1)
    answers = shared + torch.tensor([number[f"{relation}-0"] for relation in asked])
    templates = tuple(tuple(tuple(r if word == RELATION else word for word in q) for q in QUESTIONS) for r in asked)
    held_out = torch.rand(subjects, relations, len(QUESTIONS), generator=generator).argsort(-1) == 0
    spoken = [number[word] for word in FILLERS]
    fillers = torch.tensor([*spoken, *spoken, *(number[name] for name in NAMES)])
    return World(words, people, answers, templates, held_out, fillers)


@dataclass(frozen=True)
class Lookup:
    """A table of facts (a, b) → c: no pair stands in it twice, and a token says nothing by itself."""

    pairs: Int[Tensor, "fact 2"]
    answers: Int[Tensor, " fact"]

    @property
    def prompts(self) -> Prompts:
        """Every pair, as subject and prompt in one."""
        return Prompts(self.pairs, torch.ones_like(self.pairs, dtype=torch.bool), torch.ones_like(self.answers), self.answers)


def lookup(facts: int, tokens: int, *, seed: int = 0) -> Lookup:
    """`facts` random pairs of `tokens` tokens, each with a random answer. Raises ConfigError when there are too few pairs."""
    if not 0 < facts <= tokens**2:
        raise ConfigError(f"facts={facts}, but {tokens} tokens make {tokens**2} pairs; use that many at most, and 1 at least")
    generator = torch.Generator().manual_seed(seed)
    codes = torch.randperm(tokens**2, generator=generator)[:facts]
    answers = torch.randint(tokens, (facts,), generator=generator)
    return Lookup(torch.stack([codes // tokens, codes % tokens], 1), answers)


# ---- real words ----


class Encoder(Protocol):
    """What is asked of a tokenizer: ids with the characters each one covers, and the token that starts a row, if any."""

    @property
    def bos_id(self) -> int | None: ...

    def encode(self, text: str) -> Any: ...


@dataclass(frozen=True)
class Relation:
    """Subjects with their objects, and prompts with `{}` for the subject."""

    name: str
    templates: tuple[str, ...]
    pairs: tuple[tuple[str, str], ...]

    def prompts(self, encoder: Encoder, template: int = 0) -> Prompts:
        """All pairs asked with one template; the answer is the first token of the object after a space."""
        subjects, objects = zip(*self.pairs, strict=True)
        texts = [self.templates[template].replace(SUBJECT, subject) for subject in subjects]
        return from_text(encoder, texts, subjects, [f" {name}" for name in objects])


def read_relation(path: str | Path) -> Relation:
    """A relation in the format of Hernandez et al. 2023 (arXiv:2308.09124): JSON with `name`, `prompt_templates` and `samples`.

    Raises ConfigError for a file that is missing or of another shape.
    """
    try:
        data = json.loads(Path(path).read_text(encoding="utf-8"))
        pairs = tuple((sample["subject"], sample["object"]) for sample in data["samples"])
        return Relation(data["name"], tuple(data["prompt_templates"]), pairs)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ConfigError(f"{path} is no relation ({error}); expected JSON with name, prompt_templates and samples") from None


def from_text(encoder: Encoder, texts: Sequence[str], subjects: Sequence[str], answers: Sequence[str]) -> Prompts:
    """Prompts from text: every token that shares a character with the subject is a subject token.

    An answer is given as it continues the text, with its space, and counts by its first token.
    Raises ConfigError for a subject that does not stand in its text.
    """
    rows, marks = [], []
    for text, subject in zip(texts, subjects, strict=True):
        start = text.find(subject)
        if start < 0 or not subject:
            raise ConfigError(f"the subject {subject!r} does not stand in the prompt {text!r}; write it as the prompt does")
        encoding = encoder.encode(text)
        lead = [] if encoder.bos_id is None else [encoder.bos_id]
        rows.append([*lead, *encoding.ids])
        inside = [low < start + len(subject) and high > start for low, high in encoding.offsets]
        marks.append([False] * len(lead) + inside)
    length = max(map(len, rows))
    return Prompts(
        torch.tensor([row + [0] * (length - len(row)) for row in rows]),
        torch.tensor([mark + [False] * (length - len(mark)) for mark in marks]),
        torch.tensor([len(row) - 1 for row in rows]),
        torch.tensor([encoder.encode(answer).ids[0] for answer in answers]),
    )
