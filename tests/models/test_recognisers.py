"""PARITY and FIRST written by hand: right on every row there is, at every length, and as unsure as the theory says."""

from __future__ import annotations

from itertools import product

import pytest
import torch

from interp.models.recognisers import FEATURES, LogLength, Recogniser, features, first, normed, parity
from interp.models.scores import ScaledDot
from interp.tasks import bits


def every_row(length: int) -> torch.Tensor:
    rows = torch.tensor(list(product((0, 1), repeat=length)))
    return torch.cat([torch.full_like(rows[:, :1], bits.CLS), rows], 1)


@pytest.mark.parametrize("length", range(1, 9))
def test_parity_is_right_on_every_row(length: int) -> None:
    rows = every_row(length)
    assert torch.equal(parity()(rows) > 0, rows[:, 1:].sum(1) % 2 == 1)


@pytest.mark.parametrize("log_length", [False, True])
@pytest.mark.parametrize("length", range(1, 9))
def test_first_is_right_on_every_row(length: int, log_length: bool) -> None:
    rows = every_row(length)
    assert torch.equal(first(log_length=log_length)(rows) > 0, rows[:, 1] == 1)


@pytest.mark.parametrize(("model", "power"), [(parity(), 2), (first(log_length=False), 1), (first(log_length=True), 0)])
def test_margins_shrink_by_the_power_of_the_length_that_the_theory_says(model: Recogniser, power: int) -> None:
    generator = torch.Generator().manual_seed(0)
    draw = bits.parity if power == 2 else bits.first
    long, longer = (float(model(draw(50, n, generator=generator).tokens).abs().mean()) for n in (500, 1000))
    assert long / longer == pytest.approx(2**power, rel=0.15)


def test_the_mark_stands_at_the_position_that_counts_the_ones() -> None:
    model, rows = parity(), every_row(5)
    x = features(rows)
    x = x + model.attn1(x)
    x = x + model.mlp1(x)
    marks = x[..., FEATURES.index("mark")]
    wanted = torch.nn.functional.one_hot(rows[:, 1:].sum(1), 6) / 6
    assert torch.allclose(marks, wanted.double(), atol=1e-12)


def test_scores_grow_with_the_logarithm_of_the_length() -> None:
    q, k = (torch.randn(1, 7, 2, 4, generator=torch.Generator().manual_seed(i)) for i in (0, 1))
    assert torch.allclose(LogLength()(q, k), ScaledDot()(q, k) * torch.tensor(7.0).log())


def test_a_norm_of_x_and_its_opposite_leaves_the_sign_and_what_epsilon_allows() -> None:
    x = torch.tensor([-1e-6, 2e-6, 3.0], dtype=torch.float64)
    assert normed(x, eps=0.0).tolist() == pytest.approx([-1, 1, 1])
    pair = torch.stack([x, -x], -1)
    assert torch.allclose(normed(x, eps=1e-5), torch.nn.functional.layer_norm(pair, (2,), eps=1e-5)[:, 0])
