"""`TokenPairs`: source rows and the target rows that go with them, as an encoder–decoder takes both.

Must not know: models, what is done with the rows.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Int
from torch import Tensor

from interp.errors import ConfigError
from interp.text.packing import TokenBatch


@dataclass(frozen=True)
class TokenPairs:
    """Sources and targets, row by row; each side keeps documents and positions of its own.

    target: as the decoder is given it, led by the token that starts it, which is no text.
    Raises ConfigError for unequal numbers of rows.
    """

    source: TokenBatch
    target: TokenBatch

    def __post_init__(self) -> None:
        sources, targets = len(self.source.tokens), len(self.target.tokens)
        if sources != targets:
            raise ConfigError(f"source has {sources} rows and target {targets}; give one target for each source")

    @classmethod
    def of(
        cls,
        tokens: Int[Tensor, "_ _"],
        decoder_input: Int[Tensor, "_ _"],
        *,
        attention_mask: Int[Tensor, "_ _"] | None = None,
        decoder_attention_mask: Int[Tensor, "_ _"] | None = None,
        first_document: int = 0,
    ) -> TokenPairs:
        """Pairs of plain tensors, named as `Model.run` takes them; each row is a document, `first_document` and on.

        Masks are 1 for tokens and 0 for padding; all is tokens without one. Every token that is not padding is text, but for the
        first of `decoder_input`. Raises ConfigError for masks of another shape and unequal numbers of rows.
        """
        source = _rows("attention_mask", tokens, attention_mask, lead=0, first_document=first_document)
        target = _rows("decoder_attention_mask", decoder_input, decoder_attention_mask, lead=1, first_document=first_document)
        return cls(source, target)


def _rows(name: str, tokens: Tensor, mask: Tensor | None, *, lead: int, first_document: int) -> TokenBatch:
    """Rows of which padding and the first `lead` tokens are no text."""
    if mask is not None and mask.shape != tokens.shape:
        raise ConfigError(
            f"{name} has shape {list(mask.shape)}, the tokens it is for {list(tokens.shape)}; give one number per token"
        )
    is_padding = torch.zeros_like(tokens, dtype=torch.bool) if mask is None else mask == 0
    place = (~is_padding).cumsum(1) - 1
    is_text = ~is_padding & (place >= lead)
    document = torch.arange(first_document, first_document + len(tokens), device=tokens.device)[:, None].expand(tokens.shape)
    characters = torch.full_like(tokens, -1)  # there are none
    return TokenBatch(
        tokens,
        torch.where(is_text, document, -1),
        torch.where(is_text, place - lead, -1),
        characters,
        characters,
        is_text,
        is_padding,
    )
