"""Packs documents into rows of tokens for a model, keeping where every token came from.

Must not know: models, labels.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, fields, replace
from typing import Literal, get_args

import numpy as np
import torch
from jaxtyping import Bool, Int
from torch import Tensor

from interp.errors import CorpusError
from interp.text.stdlib import Document
from interp.text.tokenizer import Tokenizer

BosPolicy = Literal["row", "document", "none"]

_BOS, _PADDING = -1, -2
_COLUMNS = 5  # token, document, position, start, end


@dataclass(frozen=True, kw_only=True)
class Packing:
    """How documents become rows; plain values, to be recorded with whatever is made from the rows.

    Documents are joined into one stream of tokens and the stream is cut into rows of `context` tokens. A row may hold the
    end of one document and the beginning of the next.

    - bos "row": a BOS before each document in the stream, and each row is BOS + the next context − 1 of the stream. The shipped
      model was trained on such rows. Where a document starts on a row, the row starts BOS, BOS.
    - bos "document": a BOS before each document in the stream, and each row is the next `context` of the stream.
    - bos "none": no BOS anywhere; each row is the next `context` of the stream.
    - drop_last: what becomes of the tokens left over for the last row. False: it is filled up with padding, which holds the
      tokenizer's pad id (failing that its BOS, failing that 0). True: they are dropped.
    - batch: rows in a batch; the last batch may have fewer.
    """

    context: int
    batch: int
    bos: BosPolicy = "row"
    drop_last: bool = False

    def __post_init__(self) -> None:
        if self.bos not in get_args(BosPolicy):
            raise CorpusError(f"bos={self.bos!r} is not a policy; use one of {', '.join(get_args(BosPolicy))}")
        if self.stride < 1:
            least = self.context - self.stride + 1
            raise CorpusError(f"context={self.context} leaves no room for text with bos={self.bos!r}; use at least {least}")
        if self.batch < 1:
            raise CorpusError(f"batch={self.batch} rows is too few; use at least 1")

    @property
    def stride(self) -> int:
        """Tokens of the stream that one row holds."""
        return self.context - (self.bos == "row")


@dataclass(frozen=True)
class TokenBatch:
    """Rows of tokens, each with its origin. Where there is no text the origin is -1.

    document: index of the document in the order it was packed.
    position: index of the token in its document's encoding, BOS not counted.
    start, end: the characters of the document that the token covers.
    is_text: False for BOS and for padding. is_padding: True for padding, which only ends the last row.
    """

    tokens: Int[Tensor, "batch pos"]
    document: Int[Tensor, "batch pos"]
    position: Int[Tensor, "batch pos"]
    start: Int[Tensor, "batch pos"]
    end: Int[Tensor, "batch pos"]
    is_text: Bool[Tensor, "batch pos"]
    is_padding: Bool[Tensor, "batch pos"]

    @property
    def attention_mask(self) -> Int[Tensor, "batch pos"]:
        """1 for text and BOS, 0 for padding, as models take it."""
        return (~self.is_padding).long()

    def to(self, device: str | torch.device) -> TokenBatch:
        """The same batch on another device."""
        return replace(self, **{field.name: getattr(self, field.name).to(device) for field in fields(self)})


def pack(
    documents: Iterable[Document],
    tokenizer: Tokenizer,
    *,
    context: int,
    batch: int,
    bos: BosPolicy = "row",
    drop_last: bool = False,
    d_vocab: int | None = None,
) -> Iterator[TokenBatch]:
    """Batches of rows of `context` tokens, one document in memory at a time; `Packing` defines the options.

    d_vocab: the vocabulary of the model the rows are meant for.

    Raises CorpusError for options that do not fit each other or the tokenizer; while iterating, for a token beyond
    `d_vocab` and for documents that do not make a row.
    """
    packing = Packing(context=context, batch=batch, bos=bos, drop_last=drop_last)
    if bos != "none" and tokenizer.bos_id is None:
        raise CorpusError(f'bos="{bos}" needs a BOS token and the tokenizer has none; use bos="none"')
    stream = _stream(documents, tokenizer, packing, d_vocab)
    return _batches(stream, tokenizer, packing)


def _stream(documents: Iterable[Document], tokenizer: Tokenizer, packing: Packing, d_vocab: int | None) -> Iterator[np.ndarray]:
    """The stream as pieces of shape (token, column), one for each document."""
    lead = [] if packing.bos == "none" else [(tokenizer.bos_id, _BOS, -1, -1, -1)]
    for index, document in enumerate(documents):
        encoding = tokenizer.encode(document.text)
        piece = np.empty((len(lead) + len(encoding.ids), _COLUMNS), dtype=np.int64)
        piece[: len(lead)] = np.array(lead, dtype=np.int64).reshape(-1, _COLUMNS)
        body = piece[len(lead) :]
        body[:, 0] = encoding.ids
        body[:, 1] = index
        body[:, 2] = np.arange(len(body))
        body[:, 3:] = np.array(encoding.offsets, dtype=np.int64).reshape(-1, 2)
        if d_vocab is not None and len(piece) and piece[:, 0].max() >= d_vocab:
            token = int(piece[:, 0].max())
            raise CorpusError(
                f"token {token} of document {document.name!r} is beyond the model's vocabulary of {d_vocab}; "
                "tokenise with the model's own tokenizer"
            )
        yield piece


def _batches(stream: Iterator[np.ndarray], tokenizer: Tokenizer, packing: Packing) -> Iterator[TokenBatch]:
    size = packing.batch * packing.stride
    rest = np.empty((0, _COLUMNS), dtype=np.int64)
    seen = given = False
    for piece in stream:
        seen = seen or bool((piece[:, 1] >= 0).any())
        rest = np.concatenate([rest, piece])
        while len(rest) >= size:
            given = True
            yield _batch(rest[:size], tokenizer, packing)
            rest = rest[size:]
    if not seen:
        raise CorpusError("no document has any text, so there is nothing to pack; give a corpus with at least one token")
    whole = len(rest) // packing.stride * packing.stride
    if packing.drop_last:
        rest = rest[:whole]
    elif whole < len(rest):
        rest = np.concatenate([rest, _padding(whole + packing.stride - len(rest), tokenizer)])
    if len(rest):
        yield _batch(rest, tokenizer, packing)
    elif not given:
        raise CorpusError(
            f"the corpus is shorter than one row of {packing.stride} tokens and drop_last=True leaves nothing; "
            "use drop_last=False or a shorter context"
        )


def _padding(count: int, tokenizer: Tokenizer) -> np.ndarray:
    token = next((id for id in (tokenizer.pad_id, tokenizer.bos_id) if id is not None), 0)
    return np.tile(np.array([token, _PADDING, -1, -1, -1], dtype=np.int64), (count, 1))


def _batch(flat: np.ndarray, tokenizer: Tokenizer, packing: Packing) -> TokenBatch:
    rows = flat.reshape(-1, packing.stride, _COLUMNS)
    if packing.bos == "row":
        lead = np.array([tokenizer.bos_id, _BOS, -1, -1, -1], dtype=np.int64)
        rows = np.concatenate([np.broadcast_to(lead, (len(rows), 1, _COLUMNS)), rows], axis=1)
    token, document, position, start, end = torch.from_numpy(np.ascontiguousarray(np.moveaxis(rows, -1, 0)))
    return TokenBatch(token, document.clamp(min=-1), position, start, end, document >= 0, document == _PADDING)
