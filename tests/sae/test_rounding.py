"""What bfloat16 products leave in doubt is bounded, and the bound is near what can happen."""

import pytest
import torch

from interp.sae import rounding
from interp.sae.rounding import PART, doubt, lowered, rounded


def randn(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed + sum(shape)))


@pytest.mark.parametrize("d", [8, 512, 4096])
@pytest.mark.parametrize("scale", [1e-6, 1.0, 1e6])
def test_products_of_roundings_are_within_the_doubt(d, scale):
    rows, weight = scale * randn(20, d), randn(300, d)
    left, right = rounded(rows), rounded(weight)
    off = (rows.double() @ weight.double().T - left.narrow.double() @ right.narrow.double().T).abs().amax(1)
    assert (off <= doubt(left, right)).all()


def test_the_doubt_is_reached_by_roundings_that_all_go_one_way():
    rows, weight = torch.full((1, 64), 1 + 2.0**-8 - 2.0**-20), torch.full((1, 64), 1 + 2.0**-8 - 2.0**-20)
    left, right = rounded(rows), rounded(weight)
    off = float((rows.double() @ weight.double().T - left.narrow.double() @ right.narrow.double().T).abs())
    assert off <= float(doubt(left, right)) < 1.1 * off


@pytest.mark.parametrize("slack", [1e-3, 0.5])
@pytest.mark.parametrize("exact", [2.0, 0.0, -3.0])
def test_a_latent_as_large_as_the_kth_is_never_left_out_and_hardly_more_is_let_in(exact, slack):
    """Readings r of exact values z with |r - z| ≤ slack + PART |r|: k read as high as can be, another as low as can be."""
    high = (exact + slack) / (1 - PART) if exact + slack > 0 else (exact + slack) / (1 + PART)
    low = (exact - slack) / (1 + PART) if exact - slack > 0 else (exact - slack) / (1 - PART)
    threshold = float(lowered(torch.tensor([high]).double(), torch.tensor([slack]).double()))
    assert low - 1e-3 * (high - low) - 1e-4 <= threshold <= low


def test_exact_readings_are_compared_as_they_are():
    bound = torch.tensor([1.5, -2.0])
    assert torch.equal(lowered(bound, torch.zeros(2)), bound)


def test_bfloat16_pays_for_many_latents_of_which_few_are_active_and_where_there_are_instructions(monkeypatch):
    monkeypatch.setattr(rounding, "_has_instructions", lambda: True)
    rows = torch.zeros(1, 4)
    assert rounding.pays(rows, 8192, 32)
    assert not rounding.pays(rows, 8192, 1024)
    assert not rounding.pays(rows, 512, 3)
    assert not rounding.pays(rows.double(), 8192, 32)
    monkeypatch.setattr(rounding, "_has_instructions", lambda: False)
    assert not rounding.pays(rows, 8192, 32)
