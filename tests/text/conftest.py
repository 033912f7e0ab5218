"""A small tokenizer trained on the spot, so that the tests need no file."""

import pytest

from interp.text.stdlib import shipped_held_out
from interp.text.tokenizer import BOS, FastTokenizer, train_byte_level_bpe, wrap


@pytest.fixture(scope="session")
def tokenizer() -> FastTokenizer:
    texts = [document.text for document in shipped_held_out()][:12]
    backend = train_byte_level_bpe(texts, 600)
    return wrap(backend, bos_id=backend.token_to_id(BOS), pad_id=None)
