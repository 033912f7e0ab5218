"""Claims about repeated random tokens."""

import pytest
import torch

from interp.errors import ConfigError
from interp.tasks.repeated import repeated_random


def draw(n=200, length=48, d_vocab=49, seed=0, **how):
    return repeated_random(n, length, d_vocab, generator=torch.Generator().manual_seed(seed), **how)


def test_every_copied_token_and_no_other_is_foretold_by_an_earlier_pair():
    rows = draw(n=40)
    for tokens, is_copy in zip(rows.tokens.tolist(), rows.is_copy.tolist(), strict=True):
        pairs = set()
        for place in range(1, len(tokens)):
            assert is_copy[place] == ((tokens[place - 1], tokens[place]) in pairs)
            pairs.add((tokens[place - 1], tokens[place]))
        assert not is_copy[0]


def test_rows_repeat_from_their_start_with_their_period():
    rows = draw()
    for tokens, start, period in zip(rows.tokens, rows.start.tolist(), rows.period.tolist(), strict=True):
        assert torch.equal(tokens[start + period :], tokens[start:-period])
        assert len(set(tokens[: start + period].tolist())) == start + period


def test_periods_and_starts_differ_from_row_to_row():
    rows = draw()
    assert rows.period.unique().tolist() == list(range(9, 20))
    assert rows.start.unique().tolist() == list(range(1, 6))


@pytest.mark.parametrize("bos_id", [0, 17, 48])
def test_bos_stands_first_and_only_there(bos_id):
    tokens = draw(bos_id=bos_id).tokens
    assert (tokens[:, 0] == bos_id).all() and not (tokens[:, 1:] == bos_id).any()
    assert tokens.max() <= 48 and tokens.min() >= 0


def test_rows_are_a_function_of_the_generator():
    assert torch.equal(draw(seed=3).tokens, draw(seed=3).tokens)
    assert not torch.equal(draw(seed=3).tokens, draw(seed=4).tokens)


def test_in_the_twin_nothing_earlier_matches_the_last_token_and_all_else_is_as_it_was():
    rows = draw(n=40)
    contrast = rows.without_matches(49)
    last = rows.tokens[:, -2:-1]
    match = rows.tokens[:, :-2] == last
    assert match.any(1).all() and torch.equal(contrast.answers, rows.tokens[:, -1])
    assert torch.equal(contrast.clean, rows.tokens[:, :-1]) and torch.equal(contrast.corrupt[:, -1:], last)
    assert not (contrast.corrupt[:, :-1] == last).any()
    assert torch.equal(contrast.corrupt[:, :-1][~match], rows.tokens[:, :-2][~match])
    put = contrast.corrupt[:, :-1].masked_fill(~match, -1).amax(1, keepdim=True)
    assert not (rows.tokens == put).any(), "what is put there must not be a token of the row"


def test_a_row_without_room_is_told():
    told = "a row of 20 tokens has no room for BOS, 2 of noise and a period of 18 seen twice; use length=23 or more"
    with pytest.raises(ConfigError, match=told):
        draw(length=20, periods=(5, 18))
    with pytest.raises(ConfigError, match="d_vocab=20 is too small for 23 different tokens and BOS; use 24 or more"):
        draw(d_vocab=20)
