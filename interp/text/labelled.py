"""A labelled text, whole: packed rows for a model, and beside every token its place, its labels and its string.

For texts that fit in memory, such as the held-out documents; a store on disk joins its rows to a `LabelTable` instead.

Must not know: models, activations.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
import pandas as pd
from jaxtyping import Int

from interp import rules
from interp.rules import Sparse
from interp.text.corpora import Corpus
from interp.text.display import display_vocabulary
from interp.text.label_table import LabelTable
from interp.text.labels import INTEGERS
from interp.text.packing import TokenBatch, pack
from interp.text.tokenizer import Tokenizer


@dataclass(frozen=True)
class LabelledText:
    """Documents as a model reads them, with what is known of every token.

    batches: packed rows. vocabulary: the string of every token id.
    tokens, document, position, labels: one entry per token of text, in the order in which `batches` (and a harvest of them) give
    them: token i of document d stands at row `first[d] + i`. `first` ends with the number of rows.
    """

    batches: list[TokenBatch]
    tokens: Int[np.ndarray, " row"]
    document: Int[np.ndarray, " row"]
    position: Int[np.ndarray, " row"]
    labels: dict[str, np.ndarray]
    first: Int[np.ndarray, " document_and_end"]
    names: tuple[str, ...]
    vocabulary: list[str]

    @classmethod
    def read(cls, corpus: Corpus, tokenizer: Tokenizer, *, context: int, batch: int = 16) -> LabelledText:
        """Packs `corpus` into rows of `context` tokens and labels it."""
        batches = list(pack(corpus.documents(), tokenizer, context=context, batch=batch))
        table = LabelTable.build(corpus.documents(), tokenizer)
        columns = {
            name: np.concatenate([getattr(one, name)[one.is_text].numpy() for one in batches])
            for name in ("tokens", "document", "position")
        }
        return cls(
            batches,
            **columns,
            labels=table.rows(columns["document"], columns["position"]),
            first=table.first,
            names=table.documents,
            vocabulary=display_vocabulary(tokenizer),
        )

    def common_labels(self, low: float = 0.002, high: float = 0.5) -> dict[str, np.ndarray]:
        """The yes-or-no labels that hold for a share of the tokens between `low` and `high`."""
        return {name: values for name, values in self.labels.items() if name not in INTEGERS and low <= values.mean() <= high}

    def labels_of_tokens(self, *, seen: int = 5, least: int = 8) -> tuple[Int[np.ndarray, " token"], dict[str, np.ndarray]]:
        """The token ids met `seen` times or more, and of them the common labels: one holds for a token that mostly has it.

        Labels that hold for fewer than `least` of these tokens are left out.
        """
        counts = np.bincount(self.tokens, minlength=len(self.vocabulary))
        known = np.flatnonzero(counts >= seen)
        holds = {
            name: 2 * np.bincount(self.tokens, one, minlength=len(counts))[known] > counts[known]
            for name, one in self.common_labels().items()
        }
        return known, {name: one for name, one in holds.items() if one.sum() >= least}

    @cached_property
    def conditions(self) -> rules.Conditions:
        """All that rules may say of a token: its labels, and the tokens near it."""
        return rules.conditions(self.tokens, self.document, self.labels, self.vocabulary)

    def explain(self, fires: Sparse, columns: Int[np.ndarray, " column"], *, seed: int = 0) -> pd.DataFrame:
        """When some columns fire, as `rules.explain` tells it; `columns` are their numbers."""
        found = rules.explain(fires, self.conditions, self.document, seed=seed)
        return found.assign(column=columns[found.column])

    def window(self, row: int, *, before: int, after: int) -> slice:
        """Rows of up to `before` + 1 + `after` tokens around one, within its document."""
        start, end = self.first[self.document[row]], self.first[self.document[row] + 1]
        return slice(int(max(start, row - before)), int(min(end, row + after + 1)))
