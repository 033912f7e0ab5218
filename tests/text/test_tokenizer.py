"""Text to ids with character offsets, and back."""

import json
from pathlib import Path

import pytest
import tokenizers
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from interp.errors import CorpusError
from interp.text.stdlib import shipped_held_out
from interp.text.tokenizer import BOS, FastTokenizer, load_tokenizer, train_byte_level_bpe, wrap, wrap_hf

STORIES = Path(__file__).parents[3] / "shared" / "data" / "stories260k"
TEXTS = ["", " ", "def f(x):\n\treturn x\r\n", "naïve Ω 😀\u200d!\x00", *(d.text for d in list(shipped_held_out())[-4:])]


@pytest.mark.parametrize("text", TEXTS)
def test_decode_undoes_encode(tokenizer: FastTokenizer, text: str) -> None:
    assert tokenizer.decode(tokenizer.encode(text).ids) == text


@pytest.mark.parametrize("text", TEXTS)
def test_offsets_cover_the_text_without_gaps(tokenizer: FastTokenizer, text: str) -> None:
    encoding = tokenizer.encode(text)
    assert len(encoding.ids) == len(encoding.offsets)
    covered = {place for start, end in encoding.offsets for place in range(start, end)}
    assert covered == set(range(len(text)))
    assert encoding.offsets == sorted(encoding.offsets)


def test_a_special_token_spelt_out_in_the_text_is_text(tokenizer: FastTokenizer) -> None:
    ids = tokenizer.encode(f"a{BOS}b").ids
    assert tokenizer.bos_id not in ids
    assert tokenizer.decode(ids) == f"a{BOS}b"
    assert tokenizer.decode([0, *tokenizer.encode("x").ids]) == f"{BOS}x"


def test_a_lone_surrogate_is_named(tokenizer: FastTokenizer) -> None:
    with pytest.raises(CorpusError, match=r"character 3 of the text is a lone surrogate \('\\ud800'\).*replace it"):
        tokenizer.encode("abc\ud800d")


def test_a_saved_tokenizer_loads_as_itself(tokenizer: FastTokenizer, tmp_path: Path) -> None:
    tokenizer.backend.save(str(tmp_path / "tokenizer.json"))
    loaded = load_tokenizer(tmp_path / "tokenizer.json")
    assert (loaded.fingerprint, loaded.bos_id, loaded.pad_id, loaded.d_vocab) == (tokenizer.fingerprint, 0, None, 600)
    assert loaded.encode(TEXTS[3]) == tokenizer.encode(TEXTS[3])


def test_the_config_beside_a_tokenizer_names_bos_and_padding(tokenizer: FastTokenizer, tmp_path: Path) -> None:
    tokenizer.backend.save(str(tmp_path / "tokenizer.json"))
    config = {"bos_token": None, "pad_token": {"content": "!", "special": True}}
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(config))
    loaded = load_tokenizer(tmp_path / "tokenizer.json")
    assert loaded.bos_id is None
    assert loaded.pad_id == tokenizer.encode("!").ids[0]


def test_fingerprints_tell_vocabularies_apart_and_ignore_how_the_file_is_written(
    tokenizer: FastTokenizer, tmp_path: Path
) -> None:
    other = train_byte_level_bpe(["another text, another vocabulary"] * 9, 270)
    assert wrap(other, bos_id=0, pad_id=None).fingerprint != tokenizer.fingerprint
    whole = json.loads(tokenizer.backend.to_str())
    whole["model"]["merges"] = [" ".join(pair) for pair in whole["model"]["merges"]]  # as older versions write them
    whole["truncation"] = {"direction": "Right", "max_length": 4, "strategy": "LongestFirst", "stride": 0}
    (tmp_path / "old.json").write_text(json.dumps(whole))
    old = load_tokenizer(tmp_path / "old.json")
    assert old.fingerprint == tokenizer.fingerprint
    assert len(old.encode("nothing is truncated, however long it is").ids) > 4


def test_wrapping_leaves_the_original_as_it_was(tokenizer: FastTokenizer) -> None:
    backend = tokenizers.Tokenizer.from_str(tokenizer.backend.to_str())
    backend.enable_truncation(3)
    before = backend.to_str()
    wrapped = wrap(backend, bos_id=None, pad_id=None)
    assert len(wrapped.encode("one two three four five").ids) > 3
    assert backend.to_str() == before
    assert backend.encode_special_tokens is False


def test_a_hugging_face_tokenizer_encodes_as_it_does_by_itself(tokenizer: FastTokenizer) -> None:
    theirs = PreTrainedTokenizerFast(tokenizer_object=tokenizer.backend, bos_token=BOS, pad_token="!")
    ours = wrap_hf(theirs)
    for text in TEXTS:
        assert ours.encode(text).ids == theirs(text, add_special_tokens=False)["input_ids"]
    assert (ours.bos_id, ours.pad_id, ours.d_vocab) == (theirs.bos_token_id, theirs.pad_token_id, len(theirs))


@pytest.mark.skipif(not STORIES.is_dir(), reason="the stories model is not beside this checkout")
def test_a_sentencepiece_style_tokenizer_gives_offsets_into_the_text() -> None:
    theirs = AutoTokenizer.from_pretrained(STORIES)
    ours = wrap_hf(theirs)
    text = "Once upon a time,  there was a naïve 😀 cat."
    encoding = ours.encode(text)
    assert encoding.ids == theirs(text, add_special_tokens=False)["input_ids"]
    assert ours.bos_id == theirs.bos_token_id
    assert ours.bos_id not in encoding.ids
    assert {place for start, end in encoding.offsets for place in range(start, end)} == set(range(len(text)))


def test_a_slow_tokenizer_is_refused_with_a_way_out() -> None:
    class Slow:
        is_fast = False

    with pytest.raises(CorpusError, match="Slow is a slow tokenizer, which gives no character offsets; load its fast version"):
        wrap_hf(Slow())  # pyright: ignore[reportArgumentType]


def test_a_missing_or_broken_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(CorpusError, match=r"no tokenizer at .*none\.json; give the path of a tokenizer\.json"):
        load_tokenizer(tmp_path / "none.json")
    (tmp_path / "bad.json").write_text("{}")
    with pytest.raises(CorpusError, match=r"bad\.json is not a tokenizer\.json that `tokenizers` can read"):
        load_tokenizer(tmp_path / "bad.json")
