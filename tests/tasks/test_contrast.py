"""Clean and corrupted twins: what they refuse, and the numbers asked of logits."""

from typing import Any

import pytest
import torch

from interp.errors import ConfigError
from interp.tasks.contrast import Contrast


def made(**changes: Any) -> Contrast:
    generator = torch.Generator().manual_seed(0)
    fields: dict[str, Any] = {
        "clean": torch.randint(9, (3, 5), generator=generator),
        "corrupt": torch.randint(9, (3, 5), generator=generator),
        "answers": torch.tensor([1, 2, 3]),
        "wrong": torch.tensor([4, 5, 6]),
        "positions": torch.tensor([4, 3, 2]),
    }
    return Contrast(**fields | changes)


@pytest.fixture
def logits():
    return torch.randn(3, 5, 9, generator=torch.Generator().manual_seed(1))


def test_twins_of_unequal_length_and_columns_of_unequal_length_are_refused_together():
    with pytest.raises(ConfigError) as error:
        made(
            corrupt=torch.zeros(3, 4, dtype=torch.long), answers=torch.zeros(2, dtype=torch.long), beside={"mask": torch.ones(1)}
        )
    text = str(error.value)
    assert "clean tokens are [3, 5] and corrupted ones [3, 4]; give twins of equal length" in text
    assert "answers has shape [2] for 3 examples" in text and "mask has 1 rows for 3 examples" in text


def test_metrics_read_the_logits_where_the_question_is_asked(logits):
    contrast = made()
    own = torch.stack([logits[0, 4], logits[1, 3], logits[2, 2]])
    assert torch.equal(contrast.answer_logit(logits), own[[0, 1, 2], [1, 2, 3]])
    assert torch.equal(contrast.logit_difference(logits), own[[0, 1, 2], [1, 2, 3]] - own[[0, 1, 2], [4, 5, 6]])
    torch.testing.assert_close(contrast.log_probability(logits).exp(), own.softmax(-1)[[0, 1, 2], [1, 2, 3]])


def test_the_divergence_is_torchs_kl(logits):
    reference = torch.randn(3, 9, generator=torch.Generator().manual_seed(2))
    contrast = made(reference=reference)
    target, own = reference.log_softmax(-1), contrast.at_positions(logits).log_softmax(-1)
    expected = torch.nn.functional.kl_div(own, target, reduction="none", log_target=True).sum(-1)
    torch.testing.assert_close(contrast.divergence(logits), expected)


def test_a_metric_whose_parts_are_missing_says_what_to_give(logits):
    with pytest.raises(ConfigError, match="give wrong="):
        made(wrong=None).logit_difference(logits)
    with pytest.raises(ConfigError, match="give reference="):
        made().divergence(logits)


def test_a_part_of_the_examples_asks_the_same_of_them(logits):
    contrast = made(beside={"decoder_input": torch.arange(6).view(3, 2)})
    part = contrast[torch.tensor([2, 0])]
    assert len(part) == 2 and torch.equal(part.beside["decoder_input"], torch.tensor([[4, 5], [0, 1]]))
    assert torch.equal(part.logit_difference(logits[[2, 0]]), contrast.logit_difference(logits)[[2, 0]])


def test_swapping_twice_changes_nothing():
    contrast = made(beside={"mask": torch.ones(3, 5)}, beside_corrupt={"mask": torch.zeros(3, 5)})
    once = contrast.swapped()
    assert torch.equal(once.clean, contrast.corrupt) and torch.equal(once.beside["mask"], torch.zeros(3, 5))
    twice = once.swapped()
    assert torch.equal(twice.clean, contrast.clean)
    assert twice.beside_corrupt is not None and torch.equal(twice.beside_corrupt["mask"], torch.zeros(3, 5))
    assert made().swapped().beside_corrupt is None
