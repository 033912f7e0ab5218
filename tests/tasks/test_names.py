"""Sentences about who gives to whom: what they say, where, and how the twins differ."""

from __future__ import annotations

import pytest
import torch

from interp.errors import ConfigError
from interp.tasks import names
from interp.tasks.names import IDS, VOCABULARY, sentences


def drawn(n: int = 200, seed: int = 0, **options) -> names.Sentences:
    return sentences(n, generator=torch.Generator().manual_seed(seed), **options)


def test_both_people_are_named_the_giver_twice_and_the_answer_is_the_other():
    told = drawn()
    rows = torch.arange(len(told))
    other, giver, again, last = told.places.T
    assert torch.equal(told.tokens[rows, other], told.people[:, 0])
    assert torch.equal(told.tokens[rows, giver], told.people[:, 1])
    assert torch.equal(told.tokens[rows, again], told.people[:, 1])
    assert torch.equal(told.tokens[rows, last + 1], told.people[:, 0])
    assert bool((told.tokens[rows, last] == IDS["to"]).all())
    assert bool((torch.maximum(other, giver) < again).all() and (again < last).all())
    assert all(len(set(row)) == 3 for row in told.people.tolist())


def test_either_is_named_first_in_half_of_the_sentences():
    told = drawn(1000)
    assert torch.equal(told.first, told.places[:, 0] < told.places[:, 1])
    assert 0.45 < told.first.double().mean() < 0.55


def test_no_position_tells_who_is_who():
    told = drawn(1000)
    for place in told.places.T:
        assert len(place.unique()) >= 4


def test_the_sentence_can_be_read():
    told = drawn(1, template=0)
    words = [VOCABULARY[number] for number in told.tokens[0]]
    text = " ".join(words)
    assert words[0] == "<bos>" and " went to the " in text and words[int(told.places[0, 3])] == "to"
    assert words.count(VOCABULARY[told.people[0, 1]]) == 2


def test_twins_differ_in_the_giver_alone_and_do_not_show_the_answer():
    told = drawn(50)
    asked = names.contrast(told)
    differ = asked.clean != asked.corrupt
    assert torch.equal(differ, torch.arange(differ.shape[1]) == told.places[:, 2:3])
    assert torch.equal(asked.corrupt[differ], told.people[:, 2])
    assert torch.equal(asked.answers, told.people[:, 0])
    assert asked.wrong is not None and torch.equal(asked.wrong, told.people[:, 1])
    for asked_of in (asked.clean, asked.corrupt):
        assert bool(((asked_of == told.people[:, :1]).sum(1) == 1).all())
    assert torch.equal(told.tokens, drawn(50).tokens)


def test_it_is_a_function_of_its_generator():
    assert torch.equal(drawn(20).tokens, drawn(20).tokens) and not torch.equal(drawn(20).tokens, drawn(20, seed=1).tokens)


def test_every_word_is_one_token_and_none_stands_twice():
    assert len(set(VOCABULARY)) == len(VOCABULARY) == len(IDS)


@pytest.mark.parametrize(
    ("options", "message"),
    [({"n": 0}, "n=0 sentences; ask for 1 or more"), ({"template": 9}, "no template 9; there are 0 to 3")],
)
def test_what_cannot_be_drawn_is_refused(options, message):
    with pytest.raises(ConfigError, match=message):
        drawn(**options)
