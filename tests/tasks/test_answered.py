"""Claims about rows with one answer: reviews, sums, bits, brackets, regressions."""

from collections import Counter

import pytest
import torch

from interp.errors import ConfigError
from interp.tasks import bits, brackets, modular, regression, sentences
from interp.tasks.brackets import CHARACTERS, CLOSE, NO, OPEN, YES


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def test_a_review_is_good_when_kind_or_turned_over_but_not_both():
    drawn = sentences.reviews(400, generator=generator())
    for row, answer in zip(drawn.tokens.tolist(), drawn.answers.tolist(), strict=True):
        words = [sentences.WORDS[token] for token in row]
        kind = any(word in sentences.KIND for word in words)
        assert sentences.WORDS[answer] == ("good" if kind != ("not" in words) else "bad")
        assert words[0] == "<cls>" and len(words) == sentences.LENGTH
    assert 0.4 < (drawn.answers == sentences.GOOD).double().mean() < 0.6


@pytest.mark.parametrize("contrast, place", [(sentences.negation_contrast, 4), (sentences.adjective_contrast, 6)])
def test_twins_of_reviews_differ_in_one_word_and_answer_otherwise(contrast, place):
    made = contrast(50, generator=generator())
    differ = made.clean != made.corrupt
    assert differ[:, place].all() and differ.sum() == 50
    assert made.wrong is not None and torch.equal(made.answers + made.wrong, torch.full((50,), sentences.GOOD + sentences.BAD))


def test_all_sums_are_there_and_right():
    every = modular.additions(7)
    rows = [tuple(row) for row in every.tokens.tolist()]
    assert len(set(rows)) == len(rows) == 49
    assert all(answer == (a + b) % 7 and sign == 7 for (a, b, sign), answer in zip(rows, every.answers.tolist(), strict=True))


def test_a_split_loses_nothing_and_shares_nothing():
    every = modular.additions(7)
    train, test = modular.split(every, 0.4, generator=generator())
    rows = torch.cat([train.tokens, test.tokens])
    assert len(train) == 20 and torch.equal(rows.unique(dim=0), every.tokens.unique(dim=0)) and len(rows) == 49
    with pytest.raises(ConfigError, match="share=1.0 of 49 examples leaves one part empty"):
        modular.split(every, 1.0, generator=generator())


def test_twins_of_sums_differ_in_the_first_number():
    made = modular.addition_contrast(100, 7, generator=generator())
    assert torch.equal(made.clean != made.corrupt, torch.tensor([[True, False, False]]).expand(100, 3))
    assert (made.answers != made.wrong).all()


def test_parity_majority_and_first_are_what_counting_gives():
    for task, rule in (
        (bits.parity, lambda row: sum(row) % 2),
        (bits.majority, lambda row: int(sum(row) > 4)),
        (bits.first, lambda row: row[0]),
    ):
        drawn = task(200, 9, generator=generator())
        assert (drawn.tokens[:, 0] == bits.CLS).all()
        assert drawn.answers.tolist() == [rule(row[1:]) for row in drawn.tokens.tolist()]
        assert drawn.answers.unique().tolist() == [0, 1]


@pytest.mark.parametrize("contrast", [bits.parity_contrast, bits.majority_contrast])
def test_one_bit_turns_parity_and_a_narrow_majority(contrast):
    made = contrast(100, 9, generator=generator())
    assert ((made.clean != made.corrupt).sum(1) == 1).all()
    assert torch.equal(made.answers, 1 - made.wrong)
    if contrast is bits.majority_contrast:
        assert made.clean[:, 1:].sum(1).unique().tolist() == [4, 5]


def test_rows_of_bits_that_cannot_be_are_told():
    with pytest.raises(ConfigError, match="length=8 is even, so there may be no majority; use 9"):
        bits.majority(3, 8, generator=generator())
    with pytest.raises(ConfigError, match="length=0 leaves no bit"):
        bits.parity(3, 0, generator=generator())


def by_hand(text):
    """Depths, and whether the row balances, by counting."""
    depths, depth = [], 0
    for character in text:
        depth += {"(": 1, ")": -1}.get(character, 0)
        depths.append(depth)
    return depths, depth == 0 and min(depths) >= 0


def test_depths_and_answers_of_brackets_are_those_of_counting():
    rows = brackets.mixture(400, 8, generator=generator())
    for tokens, depth, answer in zip(rows.tokens, rows.depth.tolist(), rows.asked.answers.tolist(), strict=True):
        depths, balances = by_hand("".join(CHARACTERS[token][0] for token in tokens.tolist()))
        assert depth == depths and answer == (YES if balances else NO)
    failing = rows.asked.answers == NO
    assert torch.equal(failing, rows.unequal | rows.dips)
    kinds = Counter(zip(rows.unequal.tolist(), rows.dips.tolist(), strict=True))
    assert set(kinds) == {(False, False), (True, False), (False, True), (True, True)}


def test_all_balanced_rows_are_as_likely():
    rows = brackets.balanced(14_000, 8, generator=generator())
    assert (rows.asked.answers == YES).all()
    counts = Counter(map(tuple, rows.tokens.tolist()))
    assert len(counts) == 14  # the Catalan number of 4
    assert max(abs(count - 1000) for count in counts.values()) < 5 * 1000**0.5


def test_twins_of_brackets_fail_in_one_way_alone():
    number = brackets.unequal_contrast(50, 8, generator=generator())
    twins = brackets.Brackets(number.corrupt)
    assert twins.unequal.all() and not twins.dips.any()
    dip = brackets.dip_contrast(50, 8, generator=generator())
    twins = brackets.Brackets(dip.corrupt)
    assert twins.dips.all() and not twins.unequal.any()
    assert (dip.answers == YES).all() and (dip.wrong == NO).all()
    assert (dip.clean[:, 1] == OPEN).all() and (dip.clean[:, -1] == CLOSE).all()


def test_an_odd_row_of_brackets_is_told():
    with pytest.raises(ConfigError, match=r"length=7 cannot hold as many \( as \); use 8"):
        brackets.balanced(2, 7, generator=generator())


def test_a_regression_is_answered_by_its_function_and_shows_no_answer():
    drawn = regression.regressions(30, 10, 4, generator=generator())
    tokens = drawn.tokens
    assert tokens.shape == (30, 11, 5) and not tokens[:, -1, -1].any()
    torch.testing.assert_close(tokens[:, :-1, -1], (tokens[:, :-1, :-1] * drawn.w[:, None]).sum(-1))
    torch.testing.assert_close(drawn.answers, (drawn.x[:, -1] * drawn.w).sum(-1))
    assert drawn.y[:, -1].any()


def test_one_step_of_descent_is_that_of_autograd():
    drawn = regression.regressions(5, 8, 3, generator=generator())
    for row in range(5):
        w = torch.zeros(3, requires_grad=True)
        (0.5 * (drawn.x[row, :-1] @ w - drawn.y[row, :-1]).square().sum()).backward()
        assert w.grad is not None
        torch.testing.assert_close(drawn.after_descent(0.1)[row], drawn.x[row, -1] @ (-0.1 * w.grad))
    with pytest.raises(ConfigError, match="shown=0 pairs in d=3 dimensions"):
        regression.regressions(5, 0, 3, generator=generator())


def test_twins_that_answer_alike_are_refused():
    every = modular.additions(3)
    with pytest.raises(ConfigError, match="example 1 and its twin have the same answer"):
        every[:2].against(every[torch.tensor([1, 1])])
