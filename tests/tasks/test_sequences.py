"""Claims about copying, reversing and sorting, and about pairs of sources and targets."""

import pytest
import torch

from interp.errors import ConfigError
from interp.tasks import sequences
from interp.tasks.pairs import FIRST, PAD, START, STOP, Pairs, alignment_error

EXPECTED = {sequences.copying: list, sequences.reversal: lambda row: row[::-1], sequences.sorting: sorted}


def draw(task=sequences.reversal, n=50, lengths=(2, 6), symbols=9, seed=0):
    return task(n, lengths, symbols, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("task", EXPECTED)
def test_targets_are_what_python_makes_of_the_sources(task):
    pairs = draw(task)
    lengths = set()
    for source, target in zip(pairs.source.tolist(), pairs.target.tolist(), strict=True):
        row = [token for token in source if token != PAD]
        lengths.add(len(row))
        assert source == row + [PAD] * (6 - len(row)) and len(set(row)) == len(row)
        assert target == [*EXPECTED[task](row), STOP, *[PAD] * (6 - len(row))]
        assert min(row) >= FIRST and max(row) < FIRST + 9
    assert lengths == {2, 3, 4, 5, 6}


@pytest.mark.parametrize("task", EXPECTED)
def test_a_link_joins_equal_tokens_and_every_symbol_has_one(task):
    pairs = draw(task)
    example, target, source = pairs.sure.nonzero().unbind(1)
    assert torch.equal(pairs.target[example, target], pairs.source[example, source])
    assert torch.equal(pairs.sure.sum(2), (pairs.target >= FIRST).long())
    assert torch.equal(pairs.sure, pairs.possible)


def test_rows_are_a_function_of_the_generator():
    assert torch.equal(draw(seed=3).source, draw(seed=3).source)
    assert not torch.equal(draw(seed=3).source, draw(seed=4).source)


def test_a_decoder_sees_the_target_one_step_late_and_no_padding_is_asked_for():
    pairs = draw()
    assert (pairs.decoder_input[:, 0] == START).all()
    assert torch.equal(pairs.decoder_input[:, 1:], pairs.target[:, :-1])
    assert torch.equal(pairs.counted.sum(1), pairs.attention_mask.sum(1) + 1)


def test_twins_differ_in_the_one_source_token_that_the_answer_comes_from():
    contrast = sequences.reversal_contrast(40, (3, 5), 9, generator=torch.Generator().manual_seed(0))
    differ = contrast.clean != contrast.corrupt
    assert (differ.sum(1) == 1).all() and contrast.wrong is not None and isinstance(contrast.positions, torch.Tensor)
    assert torch.equal(contrast.clean[differ], contrast.answers)
    assert torch.equal(contrast.corrupt[differ], contrast.wrong)
    length = (contrast.clean != PAD).sum(1)
    assert torch.equal(contrast.positions, length - 1 - differ.long().argmax(1))
    assert contrast.positions.unique().tolist() == [0, 1, 2, 3, 4]


def test_twins_whose_targets_part_too_early_are_refused():
    pairs = draw(lengths=(4, 4))
    with pytest.raises(ConfigError, match="the targets of twins must be alike before position 2 and differ there"):
        pairs[:1].against(pairs[1:2], torch.tensor([2]))
    with pytest.raises(ConfigError, match="example 0: the targets"):
        pairs[:1].against(pairs[:1], torch.tensor([0]))


@pytest.mark.parametrize(
    "lengths, symbols, told",
    [((3, 8), 7, "symbols=7 are too few for rows of 8 different ones; use 8 or more"), ((4, 2), 9, r"lengths=\(4, 2\) must be")],
)
def test_impossible_rows_are_told(lengths, symbols, told):
    with pytest.raises(ConfigError, match=told):
        draw(lengths=lengths, symbols=symbols)


def test_the_alignment_error_is_none_for_the_truth_and_that_of_its_definition_otherwise():
    pairs = draw(n=3, lengths=(3, 3))
    misses, links = alignment_error(pairs.sure, pairs)
    assert misses.tolist() == [0, 0, 0] and links.tolist() == [6, 6, 6]
    shifted = pairs.sure.roll(1, 2)
    misses, links = alignment_error(shifted, pairs)
    assert (misses / links).tolist() == [1, 1, 1]
    wider = Pairs(source=pairs.source, target=pairs.target, sure=pairs.sure, possible=pairs.sure | shifted)
    misses, links = alignment_error(pairs.sure | shifted, wider)
    assert (misses / links).tolist() == [0, 0, 0]  # a possible link costs nothing
    misses, links = alignment_error(torch.zeros_like(pairs.sure), pairs)
    assert (misses / links).tolist() == [1, 1, 1]
    everything = torch.ones_like(pairs.sure)
    misses, links = alignment_error(everything, pairs)  # 9 links, all 3 sure ones among them: 1 − 6/12
    assert (misses / links).tolist() == [0.5, 0.5, 0.5]
