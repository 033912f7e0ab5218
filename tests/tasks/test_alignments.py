"""Agreement with an alignment, on scores and pairs that are known."""

from __future__ import annotations

import pytest
import torch

from interp.errors import ConfigError
from interp.tasks import alignments
from interp.tasks.pairs import Pairs
from interp.tasks.sequences import reversal
from interp.tasks.translation import sentences, translations


def drawn(n: int = 6, lengths: tuple[int, int] = (3, 5)) -> Pairs:
    return reversal(n, lengths, 20, generator=torch.Generator().manual_seed(0))


def test_measures_are_those_of_patterns_that_are_known() -> None:
    pairs = drawn()
    perfect = pairs.sure.double()
    assert alignments.on_links(perfect, pairs).tolist() == alignments.hits(perfect, pairs).tolist() == [1] * 6
    length = pairs.attention_mask.sum(1)
    even = (pairs.attention_mask[:, None] / length[:, None, None]).expand_as(perfect)
    torch.testing.assert_close(alignments.on_links(even, pairs), 1 / length.double(), check_dtype=False, rtol=1e-6, atol=0)
    wrong = pairs.sure.roll(1, 2).double()
    assert alignments.on_links(wrong, pairs).tolist() == alignments.hits(wrong, pairs).tolist() == [0] * 6
    for scores, rate in ((perfect, 0), (wrong, 1)):
        misses, links = alignments.errors(scores, pairs)
        assert misses.sum() / links.sum() == rate


def test_twins_have_one_alignment_and_links_only_where_they_differ() -> None:
    pairs = translations(sentences(60, generator=torch.Generator().manual_seed(0)))
    own, other = alignments.twins(pairs)
    assert 50 < len(own) < 60, "each structure leaves one out"
    differ = own.target != other.target
    assert torch.equal(own.sure, other.sure & differ[:, :, None]) and (own.source != other.source).any(1).all()
    assert (own.possible | ~own.sure).all() and differ.any() and not differ.all()


def test_every_linked_token_that_differs_from_its_twin_s_is_asked_for_once() -> None:
    own, other = alignments.twins(drawn(20))
    contrast, (row, place) = alignments.questions(own, other)
    assert len(contrast) == int((own.target != other.target)[:, :-1].logical_and(own.sure.any(-1)[:, :-1]).sum())
    assert isinstance(contrast.positions, torch.Tensor) and contrast.wrong is not None
    assert (contrast.answers != contrast.wrong).all() and torch.equal(contrast.positions, place)
    came = own.source[row, own.sure[row, place].long().argmax(-1)]
    assert torch.equal(came, contrast.answers), "a reversed symbol is that of its source"
    assert torch.equal(contrast.beside["decoder_input"], own.decoder_input[row])


def test_shuffled_links_are_those_of_other_pairs_for_the_same_target_tokens() -> None:
    pairs = drawn(40)
    other = alignments.shuffled(pairs, generator=torch.Generator().manual_seed(1))
    assert (other.sure.any(-1) <= pairs.sure.any(-1)).all()
    assert float(alignments.hits(pairs.sure.double(), alignments.only(pairs, other.sure.any(-1))).mean()) == 1
    misses, links = alignments.errors(pairs.sure.double(), other)
    assert misses.sum() / links.sum() > 0.3


def test_a_pair_without_links_is_refused() -> None:
    pairs = alignments.only(drawn(), torch.zeros(6, 6, dtype=torch.bool))
    with pytest.raises(ConfigError, match="example 0 has no sure link, so there is nothing to agree with; leave it out"):
        alignments.hits(pairs.sure.double(), pairs)
