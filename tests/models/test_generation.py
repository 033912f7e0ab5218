"""Claims about decoding: the likeliest token at every step, and samples from the model's own probabilities."""

import pytest
import torch
from model_shapes import case_of

from interp.errors import ModelError
from interp.models.generation import continued, greedy


@pytest.mark.parametrize("shape", ["vaswani", "t5"])
def test_every_token_is_the_likeliest_after_those_before_it(shape):
    case = case_of(shape)
    never = 1
    target = greedy(case.model, case.tokens, start=2, stop=never, longest=6)
    seen = torch.cat([torch.full((2, 1), 2), target[:, :-1]], 1)
    assert torch.equal(case.model.run(case.tokens, decoder_input=seen).logits.argmax(-1), target)


def test_a_row_that_has_stopped_stays_so():
    case = case_of("vaswani")
    free = greedy(case.model, case.tokens, start=2, stop=1, longest=6)
    stop = int(free[0, 1])
    target = greedy(case.model, case.tokens, start=2, stop=stop, longest=6)
    ended = (target == stop).cumsum(1) > 0
    assert ended[0, 1] and (target[ended] == stop).all()


def test_continuations_follow_the_models_probabilities_and_their_generator():
    case = case_of("decoder")
    rows = case.tokens[:1].expand(4000, -1)
    longer = continued(case.model, rows, 1, generator=torch.Generator().manual_seed(0))
    assert torch.equal(longer[:, :-1], rows)
    shares = longer[:, -1].bincount(minlength=50) / 4000
    torch.testing.assert_close(shares, case.model.run(rows[:1]).logits[0, -1].softmax(-1), atol=0.02, rtol=0)
    again = [continued(case.model, case.tokens, 3, generator=torch.Generator().manual_seed(seed)) for seed in (5, 5, 6)]
    assert torch.equal(again[0], again[1]) and not torch.equal(again[0], again[2])


def test_models_of_another_kind_are_refused():
    with pytest.raises(ModelError, match="decoder has no targets to decode: its kind is decoder; use continued"):
        greedy(case_of("decoder").model, case_of("decoder").tokens, start=1, stop=2, longest=3)
    with pytest.raises(ModelError, match="encoder does not predict next tokens: its kind is encoder"):
        continued(case_of("encoder").model, case_of("encoder").tokens, 2, generator=torch.Generator())
