"""Claims about what `Model.run` refuses to be given."""

import pytest
import torch
from model_shapes import case_of

from interp.errors import ModelError

TOKENS = torch.arange(14).view(2, 7) + 3


@pytest.mark.parametrize(
    "tokens, told",
    [
        (TOKENS.float(), r"tokens has dtype float32; token ids are int64: use .long\(\)"),
        (TOKENS.int(), "tokens has dtype int32"),
        (TOKENS[0], r"tokens has shape \[7\], expected \[batch pos\]; for one sequence use tokens\[None\]"),
        (TOKENS[None], r"tokens has shape \[1, 2, 7\], expected \[batch pos\]"),
        (TOKENS[:, :0], r"tokens is empty, with shape \[2, 0\]"),
        (TOKENS[:0], r"tokens is empty, with shape \[0, 7\]"),
        (TOKENS + 50, "tokens holds the id 66, but the model's vocabulary is 0 to 49; was it made with another tokenizer"),
        (TOKENS - 4, "tokens holds the id -1, but"),
        (TOKENS.repeat(1, 5), "tokens has 35 positions, but the model's context is 32; cut the sequences"),
    ],
)
def test_tokens_a_model_cannot_take_are_told(gpt2, tokens, told):
    with pytest.raises(ModelError, match=told):
        gpt2.model.run(tokens)


def test_the_decoders_tokens_are_checked_like_the_encoders():
    case = case_of("t5")
    with pytest.raises(ModelError, match="decoder_input holds the id 66"):
        case.model.run(case.tokens, decoder_input=TOKENS + 50)
    with pytest.raises(ModelError, match="decoder_input has 1 sequences, tokens has 2"):
        case.model.run(case.tokens, decoder_input=TOKENS[:1])


def test_inputs_a_model_does_not_take_are_told_not_swallowed(gpt2):
    told = "this model takes no attention_masks; beside tokens it takes attention_mask, token_type_ids, position_ids"
    with pytest.raises(ModelError, match=told):
        gpt2.model.run(TOKENS, attention_masks=torch.ones_like(TOKENS))


def test_a_mask_must_fit_its_tokens(gpt2):
    with pytest.raises(ModelError, match=r"attention_mask has shape \[1, 7\], the tokens beside it \[2, 7\]"):
        gpt2.model.run(TOKENS, attention_mask=torch.ones(1, 7))


def test_a_mask_to_be_added_to_scores_is_told_from_one_of_zeros_and_ones(gpt2):
    added = torch.zeros(2, 7).index_fill(1, torch.tensor([6]), -1e9)
    with pytest.raises(ModelError, match=r"attention_mask holds -1e\+09; a mask is 1 for tokens and 0 for padding"):
        gpt2.model.run(TOKENS, attention_mask=added)


@pytest.mark.parametrize("shape", ["native", "gpt2", "llama", "bert"])
def test_a_mask_hides_padding(shape):
    model = case_of(shape).model
    mask = torch.ones_like(TOKENS)
    mask[:, 5:] = 0
    other = TOKENS.clone()
    other[:, 5:] = 9
    masked, changed = (model.run(tokens, attention_mask=mask).logits[:, :5] for tokens in (TOKENS, other))
    torch.testing.assert_close(masked, changed)
    torch.testing.assert_close(masked, model.run(TOKENS[:, :5]).logits)
