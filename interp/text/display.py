"""Tokens as a reader may see them: one string per token id, for reports.

Must not know: HTML, models.
"""

from __future__ import annotations

from interp.text.tokenizer import Tokenizer

_UNDECODABLE = "\N{REPLACEMENT CHARACTER}"


def display_vocabulary(tokenizer: Tokenizer) -> list[str]:
    """The text of every token id on its own.

    A token of a byte-level vocabulary may be a piece of a character, which has no text; it is shown by its number, as `‹id 137›`.
    """
    texts = [tokenizer.decode([token]) for token in range(tokenizer.d_vocab)]
    return [f"‹id {token}›" if _UNDECODABLE in text or not text else text for token, text in enumerate(texts)]
