"""Pairs of inputs that a command asks a decoder about: random tokens seen before, or pairs of one's own.

Must not know: analyses, reports.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from interp.errors import ConfigError, CorpusError

if TYPE_CHECKING:
    from torch import Generator, Tensor

    from interp.models.hooked import Model
    from interp.tasks.contrast import Contrast
    from interp.text.tokenizer import Tokenizer

FIELDS = ("clean", "corrupt", "answer", "wrong")
LEAST = 8  # pairs: half of them find something, half judge it


@dataclass(frozen=True)
class Pairs:
    """A contrast of several examples. shown: the first clean one, a string for every token."""

    contrast: Contrast
    shown: tuple[str, ...]


def repeated(model: Model, examples: int, length: int, *, seed: int) -> Pairs:
    """Rows of random tokens that repeat, up to where the next token is a copy; the twin has other tokens in the same places.

    The twin's tokens are found by a table that moves every token but BOS to another one, so it repeats as the clean row does, and
    the wrong answer is the twin's own. Attention looks alike in both: what differs is what it finds there.
    """
    import torch

    from interp.tasks.repeated import repeated_random

    bos, generator = _bos(model), _generator(seed, "repeated tokens")
    tokens = repeated_random(examples, min(length, model.n_ctx) + 1, model.d_vocab, generator=generator, bos_id=bos).tokens
    words = torch.tensor([token for token in range(model.d_vocab) if token != bos])
    order = words[torch.randperm(len(words), generator=generator)]
    other = torch.arange(model.d_vocab)
    other[order] = order.roll(1)
    twins = other[tokens]
    return _pairs(model, tokens[:, :-1], twins[:, :-1], tokens[:, -1], twins[:, -1])


def moved(model: Model, examples: int, length: int, *, seed: int) -> Pairs:
    """Rows of random tokens of which the last stood once before; in the twin, that one has changed places with another.

    The answer is what followed it, the wrong answer what follows it in the twin. Both stand where they stood: what differs is
    where to look.
    """
    import torch

    bos, generator = _bos(model), _generator(seed, "moved tokens")
    length = min(length, model.n_ctx, model.d_vocab)
    clean = torch.rand(examples, model.d_vocab - 1, generator=generator).argsort(1)[:, :length]
    clean = clean + (clean >= bos)
    clean[:, 0] = bos
    rows, places = torch.arange(examples), torch.arange(1, length - 2)
    here = places[torch.randint(len(places), (examples,), generator=generator)]
    far = ((places[None] - here[:, None]).abs() > 1).double()
    there = places[torch.multinomial(far, 1, generator=generator)[:, 0]]
    clean[:, -1] = clean[rows, here]
    corrupt = clean.clone()
    corrupt[rows, here], corrupt[rows, there] = clean[rows, there], clean[rows, here]
    return _pairs(model, clean, corrupt, clean[rows, here + 1], clean[rows, there + 1])


TASKS: dict[str, Callable[..., Pairs]] = {"repeated": repeated, "moved": moved}


def read(path: Path, model: Model) -> Pairs:
    """Pairs from JSON lines with texts `clean` and `corrupt` and tokens `answer` and `wrong`.

    Pairs may differ in length, twins may not. Shorter ones are filled up at the end, which a decoder does not see before.
    Raises ConfigError, with the line, for what is no such pair; CorpusError for a model without a tokenizer.
    """
    import torch

    from interp.commands.inputs import vocabulary
    from interp.tasks.contrast import Contrast

    if model.tokenizer is None:
        raise CorpusError(f"{model.name} has no tokenizer to read --pairs with; leave them out, or give a model with one")
    records = list(_records(path))
    lead = [] if model.tokenizer.bos_id is None else [model.tokenizer.bos_id]
    found, faults = [], []
    for line, record in records:
        try:
            found.append(_encoded(record, model.tokenizer, lead, model.n_ctx))
        except ConfigError as fault:
            faults.append(f"line {line}: {fault}")
    if faults:
        more = f"; and {len(faults) - 3} more lines" if len(faults) > 3 else ""
        raise ConfigError(f"{path}, {'; '.join(faults[:3])}{more}")
    if len(found) < LEAST:
        raise ConfigError(f"{path} has {len(found)} pairs; give {LEAST} or more, half to find a circuit, half to judge it")
    longest = max(len(clean) for clean, *_ in found)
    clean, corrupt = ([each[side] + [each[side][-1]] * (longest - len(each[side])) for each in found] for side in (0, 1))
    contrast = Contrast(
        clean=torch.tensor(clean),
        corrupt=torch.tensor(corrupt),
        answers=torch.tensor([each[2] for each in found]),
        wrong=torch.tensor([each[3] for each in found]),
        positions=torch.tensor([len(each[0]) - 1 for each in found]),
    )
    names = vocabulary(model)
    return Pairs(contrast, tuple(names[token] for token in found[0][0]))


def _records(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    """Every line that is not empty, with its number."""
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"cannot read --pairs {path}: {getattr(error, 'strerror', None) or error}") from None
    for number, line in enumerate(text.splitlines(), start=1):
        if not line.strip():
            continue
        try:
            record = json.loads(line)
        except ValueError as error:
            raise ConfigError(f"{path}, line {number}: no JSON: {error}") from None
        missing = [name for name in FIELDS if not isinstance(record, dict) or not isinstance(record.get(name), str)]
        if missing:
            raise ConfigError(f"{path}, line {number}: no text {', '.join(map(repr, missing))}; a pair has {', '.join(FIELDS)}")
        yield number, record


def _encoded(record: dict[str, str], tokenizer: Tokenizer, lead: list[int], n_ctx: int) -> tuple[list[int], list[int], int, int]:
    """Token ids of clean and corrupt, then answer and wrong. Raises ConfigError for a pair that does not fit."""
    clean, corrupt = (lead + tokenizer.encode(record[name]).ids for name in ("clean", "corrupt"))
    if len(clean) != len(corrupt):
        raise ConfigError(
            f"clean is {len(clean) - len(lead)} tokens and corrupt {len(corrupt) - len(lead)}; "
            "give twins of equal length, so that positions match"
        )
    if not len(lead) < len(clean) <= n_ctx:
        raise ConfigError(f"clean is {len(clean) - len(lead)} tokens; give 1 to {n_ctx - len(lead)}")
    if clean == corrupt:
        raise ConfigError("clean and corrupt are the same; give twins that differ")
    ids = []
    for name in ("answer", "wrong"):
        tokens = tokenizer.encode(record[name]).ids
        if len(tokens) != 1:
            raise ConfigError(
                f"{name} {record[name]!r} is {len(tokens)} tokens; give one (with its leading space, if it has one)"
            )
        ids.append(tokens[0])
    if ids[0] == ids[1]:
        raise ConfigError(f"answer and wrong are both {record['answer']!r}; give two tokens that differ")
    return clean, corrupt, ids[0], ids[1]


def _pairs(model: Model, clean: Tensor, corrupt: Tensor, answers: Tensor, wrong: Tensor) -> Pairs:
    from interp.commands.inputs import vocabulary
    from interp.tasks.contrast import Contrast

    names = vocabulary(model)
    shown = tuple(names[token] for token in clean[0].tolist())
    return Pairs(Contrast(clean=clean, corrupt=corrupt, answers=answers, wrong=wrong), shown)


def _bos(model: Model) -> int:
    return 0 if model.tokenizer is None or model.tokenizer.bos_id is None else model.tokenizer.bos_id


def _generator(seed: int, purpose: str) -> Generator:

    from interp import stats

    return stats.torch_generator(seed, purpose)
