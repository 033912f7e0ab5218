"""Shifts, waves and distances, on tables and scores whose answers are known."""

from __future__ import annotations

import pytest
import torch

from interp.errors import ModelError
from interp.heads.positions import beyond_distance, by_distance, power_by_frequency, shift_errors
from interp.models.positions import rotated, shift, sinusoids


def test_sinusoids_shift_by_one_matrix_wherever_they_stand() -> None:
    errors = shift_errors(sinusoids(100, 32), shift)
    assert errors.coords["distance"] == range(1, 100) and errors.values.max() < 1e-5


def test_a_shift_by_another_matrix_is_off_by_what_it_turns_too_far() -> None:
    errors = shift_errors(sinusoids(100, 2), lambda k, width: shift(k + 1, width))
    assert errors.sel(distance=3).values == pytest.approx(2 * torch.tensor(0.5).sin().item(), rel=1e-2)


def test_a_table_of_one_row_is_refused() -> None:
    with pytest.raises(ModelError, match="a table of 1 positions has no two to compare; give 2 or more"):
        shift_errors(sinusoids(1, 4), shift)


@pytest.mark.parametrize("n", [24, 25])
def test_a_wave_has_its_power_at_its_frequency(n: int) -> None:
    turns = torch.arange(n) * 2 * torch.pi / n
    found = power_by_frequency(torch.stack([3 + 2 * (3 * turns).cos(), (5 * turns).sin()], 1))
    assert found.sel(frequency=3).values == pytest.approx(0.8, abs=1e-6)
    assert found.sel(frequency=5).values == pytest.approx(0.2, abs=1e-6)


@pytest.mark.parametrize("n", [24, 25])
def test_power_is_that_of_the_projection_on_a_frequency_and_adds_up(n: int) -> None:
    noise = torch.randn(n, 4, generator=torch.Generator().manual_seed(0)).double()
    turns = torch.arange(n).double() * 2 * torch.pi / n
    noise = noise - noise.mean(0)
    basis = torch.stack([(2 * turns).cos(), (2 * turns).sin()], 1) * (2 / n) ** 0.5
    at_two = (basis.T @ noise).square().sum() / noise.square().sum()
    assert power_by_frequency(noise).sel(frequency=2).values == pytest.approx(float(at_two))
    assert power_by_frequency(noise).values.sum() == pytest.approx(1)


def test_a_table_that_is_alike_everywhere_has_no_frequency() -> None:
    with pytest.raises(ModelError, match="the 8 rows of this table are all alike, so it has no frequency"):
        power_by_frequency(torch.ones(8, 3))


def test_scores_that_depend_on_the_distance_are_told_from_those_that_do_not() -> None:
    place = torch.arange(6).float()
    toeplitz = (place[:, None] - place) ** 2
    assert by_distance(toeplitz).tolist() == [0, 1, 4, 9, 16, 25]
    uneven = 7 + toeplitz + place[:, None]  # 7 to 37; on the main diagonal 7 to 12
    assert beyond_distance(torch.stack([toeplitz, uneven])).tolist() == pytest.approx([0, 5 / 30])


def test_rotary_scores_of_equal_tokens_depend_on_the_distance_alone() -> None:
    q, k = (torch.randn(1, 1, 1, 8, generator=torch.Generator().manual_seed(i)).expand(1, 40, 1, 8) for i in (0, 1))
    turned = torch.einsum("bqhd,bkhd->bhqk", rotated(q), rotated(k))
    assert beyond_distance(turned).item() < 1e-4
