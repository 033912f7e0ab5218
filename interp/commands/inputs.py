"""What a command gives a model to read: a text, an excerpt of a corpus, or repeated random tokens for any model.

Must not know: analyses, reports.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from interp import experiment
from interp.errors import ConfigError, CorpusError

if TYPE_CHECKING:
    from torch import Tensor

    from interp.models.hooked import Model

CORPUS = "stdlib:heldout"
"""Where an excerpt comes from if nothing else is said."""


@dataclass(frozen=True)
class Inputs:
    """Tokens for a model, what goes beside them, and those that are no queries. shown: a string for every token."""

    tokens: Tensor
    beside: dict[str, Any] = field(default_factory=dict)
    special: tuple[int, ...] = ()
    shown: tuple[str, ...] = ()

    def row(self, index: int) -> Inputs:
        """One row alone; `shown` is that of the first."""
        return Inputs(
            self.tokens[[index]], {name: value[[index]] for name, value in self.beside.items()}, self.special, self.shown
        )


def repeated(model: Model, rows: int, length: int, *, seed: int = 0) -> Inputs:
    """Repeated random tokens, as long as the model and its vocabulary allow; an encoder–decoder is given them to copy."""

    from interp import stats
    from interp.tasks.repeated import repeated_random

    bos = None if model.tokenizer is None else model.tokenizer.bos_id
    first = 0 if bos is None else bos
    length = min(length, model.n_ctx, 2 * (model.d_vocab - 2))
    generator = stats.torch_generator(seed, "prompts")
    drawn = repeated_random(rows, length, model.d_vocab, generator=generator, bos_id=first)
    shown = tuple("BOS " if token == first else f"{token} " for token in drawn.tokens[0].tolist())
    return Inputs(drawn.tokens, beside(model, drawn.tokens), (first,), shown)


def text(model: Model, given: str | None, corpus: str | None, *, length: int) -> Inputs | None:
    """The text given, or as many tokens of the corpus; None for a model without a tokenizer, if nothing was given.

    Raises CorpusError for text that such a model cannot read, ConfigError for text that does not fit.
    """
    import torch

    tokenizer = model.tokenizer
    if tokenizer is None:
        if given is None and corpus is None:
            return None
        raise CorpusError(f"{model.name} has no tokenizer to read text with; leave the text out, or give a model with one")
    lead = [] if tokenizer.bos_id is None else [tokenizer.bos_id]
    room = min(length, model.n_ctx) - len(lead)
    ids = excerpt(model, corpus or CORPUS, room) if given is None else tokenizer.encode(given).ids
    if not 2 <= len(ids) <= room:
        raise ConfigError(f"the text is {len(ids)} tokens of {model.name}; give 2 to {room} (--length sets how many fit)")
    tokens, words = torch.tensor([[*lead, *ids]]), vocabulary(model)
    return Inputs(tokens, beside(model, tokens), tuple(lead), tuple(words[token] for token in tokens[0].tolist()))


def excerpt(model: Model, corpus: str, length: int) -> list[int]:
    """Tokens from the middle of the first document of a corpus that is long enough. Raises CorpusError where none is."""
    from interp.text import resolve

    assert model.tokenizer is not None  # `text` has asked
    found = resolve(corpus)
    experiment.source(f"corpus {found.name}", found.revision)
    for document in found.documents():
        ids = model.tokenizer.encode(document.text).ids
        if len(ids) >= length:
            return ids[(len(ids) - length) // 2 :][:length]
    raise CorpusError(f"no document of {found.name} has {length} tokens; give a smaller --length")


def beside(model: Model, tokens: Tensor) -> dict[str, Any]:
    """What a decoder beside an encoder is given: its start token, then the source, to copy."""
    import torch

    if model.kind != "encoder-decoder":
        return {}
    start = torch.full_like(tokens[:, :1], int(model.config.get("decoder_start_token_id") or 0))
    return {"decoder_input": torch.cat([start, tokens[:, :-1]], 1)}


def vocabulary(model: Model) -> list[str]:
    """A string for every token id: its text, or its number where the model has no tokenizer or no such token."""
    from interp.text.display import display_vocabulary

    known = [] if model.tokenizer is None else display_vocabulary(model.tokenizer)[: model.d_vocab]
    return known + [str(token) if model.tokenizer is None else f"‹id {token}›" for token in range(len(known), model.d_vocab)]
