"""Tokenizers as the rest of the package sees them: text to ids with character offsets, and back.

The shipped model's tokenizer is byte-level BPE, so every string has exactly one encoding and decodes back to itself.

Must not know: corpora, models.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

import tokenizers
from tokenizers import decoders, models, pre_tokenizers, trainers

from interp.errors import CorpusError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

BOS = "<|bos|>"
"""Starts every packed row and every document; id 0."""


@dataclass(frozen=True)
class Encoding:
    """The tokens of one text. `offsets[i]` is the (start, end) of the characters token i covers; tokens that share the
    bytes of one character all carry that character's offsets."""

    ids: list[int]
    offsets: list[tuple[int, int]]


@runtime_checkable
class Tokenizer(Protocol):
    """What packing and labels need of a tokenizer. Any object of this shape will do."""

    @property
    def bos_id(self) -> int | None:
        """The token that starts a row or a document, where the vocabulary has one."""
        ...

    @property
    def pad_id(self) -> int | None:
        """The token that fills a short row, where the vocabulary has one."""
        ...

    @property
    def d_vocab(self) -> int:
        """One more than the largest id."""
        ...

    @property
    def fingerprint(self) -> str:
        """SHA-256 in hex: equal exactly when two tokenizers encode alike."""
        ...

    def encode(self, text: str) -> Encoding:
        """The tokens of `text`. Never adds a special token, and reads one that is spelt out in the text as plain text."""
        ...

    def decode(self, ids: Sequence[int]) -> str:
        """The text of `ids`, special tokens spelt out."""
        ...


@dataclass(frozen=True)
class FastTokenizer:
    """A `tokenizers.Tokenizer` as a `Tokenizer`. Made by `load_tokenizer`, `wrap` or `wrap_hf`."""

    backend: tokenizers.Tokenizer
    bos_id: int | None
    pad_id: int | None
    d_vocab: int
    fingerprint: str

    def encode(self, text: str) -> Encoding:
        """See `Tokenizer.encode`. Raises CorpusError for text that is not Unicode (a lone surrogate)."""
        try:
            encoding = self.backend.encode(text, add_special_tokens=False)
        except (TypeError, UnicodeEncodeError):
            raise CorpusError(_surrogate(text)) from None
        return Encoding(encoding.ids, encoding.offsets)

    def decode(self, ids: Sequence[int]) -> str:
        """See `Tokenizer.decode`."""
        return self.backend.decode(list(ids), skip_special_tokens=False)


def load_tokenizer(path: str | Path) -> FastTokenizer:
    """The tokenizer in a `tokenizer.json` file.

    BOS and padding are the `bos_token` and `pad_token` of the `tokenizer_config.json` beside it, as Hugging Face keeps
    them; without that file BOS is `<|bos|>` if the vocabulary has it.

    Raises CorpusError for a file that is missing or is no tokenizer.
    """
    path = Path(path)
    if not path.is_file():
        raise CorpusError(f"no tokenizer at {path}; give the path of a tokenizer.json file")
    try:
        backend = tokenizers.Tokenizer.from_file(str(path))
    except Exception as error:  # the library raises plain Exception
        raise CorpusError(f"{path} is not a tokenizer.json that `tokenizers` can read: {error}") from None
    config = path.with_name("tokenizer_config.json")
    names = json.loads(config.read_text()) if config.is_file() else {"bos_token": BOS}
    bos, pad = (_token_id(backend, names.get(key)) for key in ("bos_token", "pad_token"))
    return wrap(backend, bos_id=bos, pad_id=pad)


def wrap_hf(tokenizer: PreTrainedTokenizerBase) -> FastTokenizer:
    """A Hugging Face tokenizer as a `Tokenizer`; the one passed in stays as it is.

    Raises CorpusError for a slow tokenizer, which cannot say which characters a token covers.
    """
    if not tokenizer.is_fast:
        raise CorpusError(
            f"{type(tokenizer).__name__} is a slow tokenizer, which gives no character offsets; load its fast version"
            " (AutoTokenizer, use_fast=True) or pass an object with encode, decode, bos_id, pad_id, d_vocab and fingerprint"
        )
    backend: Any = getattr(tokenizer, "backend_tokenizer")  # noqa: B009  (declared on fast tokenizers only)
    return wrap(backend, bos_id=_as_id(tokenizer.bos_token_id), pad_id=_as_id(tokenizer.pad_token_id))


def wrap(backend: tokenizers.Tokenizer, *, bos_id: int | None, pad_id: int | None) -> FastTokenizer:
    """A copy of `backend` that neither truncates nor pads, as a `Tokenizer`."""
    copy = tokenizers.Tokenizer.from_str(backend.to_str())
    copy.no_truncation()
    copy.no_padding()
    copy.encode_special_tokens = True
    return FastTokenizer(copy, bos_id, pad_id, max(copy.get_vocab().values()) + 1, _fingerprint(copy))


def train_byte_level_bpe(texts: Iterable[str], vocabulary: int) -> tokenizers.Tokenizer:
    """A byte-level BPE tokenizer with `vocabulary` entries, the first of them `BOS`, learned from `texts`."""
    tokenizer = tokenizers.Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary, special_tokens=[BOS], initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False
    )
    tokenizer.train_from_iterator(texts, trainer)
    return tokenizer


def _fingerprint(backend: tokenizers.Tokenizer) -> str:
    """Of all that decides an encoding, in one spelling: versions of `tokenizers` write merges as strings or as pairs."""
    whole = json.loads(backend.to_str())
    model = whole["model"]
    merges = [pair.split(" ") if isinstance(pair, str) else pair for pair in model.get("merges", [])]
    added = sorted((token["id"], token["content"], token["special"]) for token in whole["added_tokens"])
    canonical = [model["type"], model["vocab"], merges, added, whole["normalizer"], whole["pre_tokenizer"]]
    return hashlib.sha256(json.dumps(canonical, sort_keys=True).encode()).hexdigest()


def _token_id(backend: tokenizers.Tokenizer, token: str | dict[str, str] | None) -> int | None:
    """The id of a special token written as a string or as an `AddedToken` record."""
    content = token["content"] if isinstance(token, dict) else token
    return None if content is None else backend.token_to_id(content)


def _as_id(value: object) -> int | None:
    return value if isinstance(value, int) else None


def _surrogate(text: str) -> str:
    place = next((i for i, character in enumerate(text) if 0xD800 <= ord(character) < 0xE000), None)
    if place is None:
        return f"expected text as a str, got {type(text).__name__}"
    return (
        f"character {place} of the text is a lone surrogate ({text[place]!a}), which no encoding has;"
        " replace it, for example with text.encode('utf-8', 'replace').decode()"
    )
