"""Text in: corpora, tokenizers, packed rows of tokens, and what is known of every token.

    resolve(spec) -> Corpus                     corpora.py    the built-in text, files, folders, data sets, lists
    load_tokenizer, wrap_hf -> Tokenizer        tokenizer.py  text to ids with character offsets
    pack(documents, tokenizer, …) -> TokenBatch packing.py    rows for a model, each token with its document and position
    token_labels(text, offsets), LabelTable     labels.py     ground truth for Python source, from `tokenize` and `ast`
    Document                                    stdlib.py     the built-in corpus

The names load on first use, so `import interp.text` costs nothing.

Must not know: TransformerLens, models, activations.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from interp.text.corpora import Corpus, resolve
    from interp.text.label_table import LabelTable
    from interp.text.labels import DESCRIPTIONS, token_labels
    from interp.text.packing import Packing, TokenBatch, pack
    from interp.text.stdlib import Document
    from interp.text.tokenizer import Encoding, Tokenizer, load_tokenizer, wrap_hf

_HOMES = {
    "corpora": ("Corpus", "resolve"),
    "label_table": ("LabelTable",),
    "labels": ("DESCRIPTIONS", "token_labels"),
    "packing": ("Packing", "TokenBatch", "pack"),
    "stdlib": ("Document",),
    "tokenizer": ("Encoding", "Tokenizer", "load_tokenizer", "wrap_hf"),
}

__all__ = [
    "DESCRIPTIONS",
    "Corpus",
    "Document",
    "Encoding",
    "LabelTable",
    "Packing",
    "TokenBatch",
    "Tokenizer",
    "load_tokenizer",
    "pack",
    "resolve",
    "token_labels",
    "wrap_hf",
]


def __getattr__(name: str) -> Any:
    for module, names in _HOMES.items():
        if name in names:
            return getattr(import_module(f"interp.text.{module}"), name)
    raise AttributeError(f"module 'interp.text' has no attribute {name!r}")
