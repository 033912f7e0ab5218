"""Labels joined to activations: what is known of the token at (document, position), for whoever holds such pairs.

Rows of activations, packed batches and stores on disk all carry the index of the document and the index of the token in
it. Build a table from the same documents and tokenizer, at any later time, and ask it for those rows.

Must not know: models, activations.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from interp.errors import CorpusError
from interp.names import did_you_mean
from interp.text.labels import DESCRIPTIONS, token_labels
from interp.text.stdlib import Document
from interp.text.tokenizer import Tokenizer


@dataclass(frozen=True)
class LabelTable:
    """The labels of every token of some documents, one byte (four for counts) a token and label.

    columns: label name → one value per token, document after document.
    first: where each document starts in the columns, and at last where the columns end.
    documents: the names of the documents.
    tokenizer: the fingerprint of the tokenizer; rows made with another one do not belong to this table.
    """

    columns: dict[str, np.ndarray]
    first: np.ndarray
    documents: tuple[str, ...]
    tokenizer: str

    @classmethod
    def build(cls, documents: Iterable[Document], tokenizer: Tokenizer, *, names: Sequence[str] | None = None) -> LabelTable:
        """Labels `documents`, in the order in which they are packed.

        names: the labels wanted; all of `labels.DESCRIPTIONS` by default.

        Raises CorpusError for an unknown label.
        """
        wanted = list(DESCRIPTIONS) if names is None else list(names)
        unknown = [name for name in wanted if name not in DESCRIPTIONS]
        if unknown:
            faults = ", ".join(f"{name!r}{did_you_mean(name, DESCRIPTIONS)}" for name in unknown)
            raise CorpusError(f"no label {faults}; interp.text.labels.DESCRIPTIONS lists all of them")
        parts: dict[str, list[np.ndarray]] = {name: [value] for name, value in token_labels("", []).items() if name in wanted}
        titles, counts = [], [0]
        for document in documents:
            encoding = tokenizer.encode(document.text)
            labels = token_labels(document.text, encoding.offsets)
            for name in wanted:
                parts[name].append(labels[name])
            titles.append(document.name)
            counts.append(len(encoding.ids))
        columns = {name: np.concatenate(parts[name]) for name in wanted}
        return cls(columns, np.cumsum(counts), tuple(titles), tokenizer.fingerprint)

    def rows(self, document: ArrayLike, position: ArrayLike) -> dict[str, np.ndarray]:
        """The labels at (document, position), in the shape of the two; False or 0 where document is -1 (BOS, padding).

        Arrays and CPU tensors will do: `table.rows(batch.document, batch.position)` labels a TokenBatch.

        Raises CorpusError for documents or positions beyond the table.
        """
        which, place = np.asarray(document, dtype=np.int64), np.asarray(position, dtype=np.int64)
        if which.shape != place.shape:
            raise CorpusError(f"document and position must have one shape, got {which.shape} and {place.shape}")
        is_text = which >= 0
        if which.max(initial=-1) >= len(self.documents):
            raise CorpusError(
                f"document {which.max()} is beyond the table's {len(self.documents)} documents; "
                "build the table from the corpus the rows came from"
            )
        length = np.diff(self.first)[which[is_text]]
        beyond = np.flatnonzero((place[is_text] >= length) | (place[is_text] < 0))
        if len(beyond):
            index, wrong = which[is_text][beyond[0]], place[is_text][beyond[0]]
            raise CorpusError(
                f"position {wrong} is beyond document {index} ({self.documents[index]}) of {length[beyond[0]]} tokens; "
                "build the table with the corpus and the tokenizer the rows came from"
            )
        flat = self.first[which[is_text]] + place[is_text]
        found = {}
        for name, column in self.columns.items():
            values = np.zeros(which.shape, dtype=column.dtype)
            values[is_text] = column[flat]
            found[name] = values
        return found
