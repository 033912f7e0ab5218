"""Laws of dropout over all its masks, beside what the part itself draws."""

import pytest
import torch

from interp.errors import ModelError
from interp.models.dropout import every_mask, geometric_mean, squared_error
from interp.models.parts import Dropout


@pytest.mark.parametrize("q", [0.0, 0.1, 0.5])
def test_masks_have_the_mean_and_variance_of_dropout(q):
    masks, chance = every_mask(5, q)
    assert len(masks) == 32 == len(masks.unique(dim=0)) and float(chance.sum()) == pytest.approx(1)
    mean = chance @ masks
    torch.testing.assert_close(mean, torch.ones(5, dtype=torch.float64))
    torch.testing.assert_close(chance @ masks.square() - 1, torch.full((5,), q / (1 - q), dtype=torch.float64))


def test_the_part_draws_each_mask_as_often_as_its_chance():
    part = Dropout(0.3).train()
    part.generator = torch.Generator().manual_seed(0)
    masks, chance = every_mask(3, 0.3)
    drawn = part(torch.ones(20_000, 3, dtype=torch.float64))
    shares = torch.stack([(drawn == mask).all(1).double().mean() for mask in masks])
    torch.testing.assert_close(shares, chance, atol=0.01, rtol=0)


@pytest.mark.parametrize("q", [0.2, 0.7])
def test_one_softmax_layer_says_what_all_its_masks_say_together(q):
    x, w, out = (torch.randn(s, generator=torch.Generator().manual_seed(1), dtype=torch.float64) for s in (6, (6, 6), (6, 4)))
    torch.testing.assert_close(geometric_mean(lambda rows: rows @ w, x, q), (x @ w).softmax(-1))
    assert not torch.allclose(geometric_mean(lambda rows: (rows @ w).relu() @ out, x, q), ((x @ w).relu() @ out).softmax(-1))


@pytest.mark.parametrize("q", [0.0, 0.2, 0.7])
def test_dropout_adds_a_penalty_on_weights_to_least_squares(q):
    w, x = torch.randn(2, 6, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    penalty = q / (1 - q) * float((w * x).square().sum())
    assert squared_error(w, x, 0.5, q) == pytest.approx(float((w @ x - 0.5) ** 2) + penalty)


@pytest.mark.parametrize(("n", "q"), [(17, 0.5), (0, 0.5), (3, 1.0), (3, -0.1)])
def test_too_many_masks_are_refused(n, q):
    with pytest.raises(ModelError, match=rf"n={n}, q={q}: all masks are tried for 1 to 16 numbers, dropped with 0 ≤ q < 1"):
        every_mask(n, q)
