"""Losses of packed text by hand."""

import pytest
import torch
from mlp_cases import batch_of, model_of, tokens

from interp.models import reading
from interp.models.hooked import SHIPPED


def test_the_loss_of_a_token_is_minus_its_log_probability_one_position_before():
    model, rows = model_of("gelu"), tokens(3, 6)
    losses, documents = reading.token_losses(model, [batch_of(rows)])
    logits = model.run(rows).logits.log_softmax(-1)
    by_hand = [-logits[row, pos - 1, rows[row, pos]] for row in range(3) for pos in range(1, 6)]
    assert torch.allclose(losses, torch.stack(by_hand), atol=1e-5)
    assert documents.tolist() == [row for row in range(3) for _ in range(5)]


def test_what_is_no_text_is_not_predicted():
    batch = batch_of(tokens(2, 6))
    batch.is_text[0, 3:] = False
    losses, documents = reading.token_losses(model_of("gelu"), [batch])
    assert len(losses) == 2 + 5 and documents.tolist() == [0] * 2 + [1] * 5


@pytest.mark.parametrize("name", SHIPPED)
def test_every_shipped_model_has_a_card_with_its_losses_and_its_curve(name):
    card = reading.card(name)
    assert card["loss"]["heldout"] < card["loss"]["bigram"] < card["loss"]["unigram"]
    assert [point["step"] for point in card["curve"]] == sorted(point["step"] for point in card["curve"])
