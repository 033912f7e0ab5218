"""Waves modulo p: a basis, its parts, and networks of known frequencies and phases."""

from __future__ import annotations

import math

import pytest
import torch

from interp.errors import ConfigError
from interp.mlp import fourier

P = 11
A, B, C = torch.arange(P)[:, None, None], torch.arange(P)[:, None], torch.arange(P)


def wave(k: int, at: torch.Tensor, phase: float = 0.0) -> torch.Tensor:
    return torch.cos(2 * torch.pi * k / P * at.double() + phase)


@pytest.fixture
def noise() -> torch.Tensor:
    return torch.randn(P, P, P, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


def test_the_basis_is_orthonormal_and_complete() -> None:
    rows = fourier.basis(P)
    torch.testing.assert_close(rows @ rows.T, torch.eye(P, dtype=torch.float64))


@pytest.mark.parametrize("p", [2, 1, 10])
def test_even_numbers_are_refused(p: int) -> None:
    near = {2: 3, 1: 3, 10: 11}[p]
    with pytest.raises(ConfigError, match=rf"p={p}: frequencies come in pairs of cosine and sine for odd p .*; use {near}$"):
        fourier.basis(p)


def test_power_is_that_of_each_wave_and_of_no_constant() -> None:
    table = torch.stack([5 + 2 * wave(3, C), wave(1, C, 0.4)], 1)
    expected = torch.zeros(P // 2, dtype=torch.float64)
    expected[[2, 0]] = torch.tensor([4.0, 1.0], dtype=torch.float64) * P / 2
    torch.testing.assert_close(fourier.power(table), expected)


def test_power_without_the_constant_is_the_variance(noise: torch.Tensor) -> None:
    assert float(fourier.power(noise[0]).sum()) == pytest.approx(float((noise[0] - noise[0].mean(0)).square().sum()))


@pytest.mark.parametrize(("share", "found"), [(0.5, [4]), (0.6, [4]), (0.7, [1, 4]), (1.0, [1, 2, 3, 4])])
def test_the_strongest_are_the_fewest_that_carry_the_share(share: float, found: list[int]) -> None:
    assert fourier.strongest(torch.tensor([3.0, 0.5, 0.5, 6.0]), share) == found


def test_a_share_outside_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"share=0 of the power; use a number above 0, up to 1"):
        fourier.strongest(torch.ones(3), 0)


def test_parts_along_all_frequencies_make_the_whole(noise: torch.Tensor) -> None:
    torch.testing.assert_close(fourier.keep(noise, range(P // 2 + 1)), noise)
    parts = sum(fourier.keep(noise, [k]) for k in range(P // 2 + 1))
    torch.testing.assert_close(parts, noise)


def test_along_the_sum_is_what_depends_on_the_sum_alone(noise: torch.Tensor) -> None:
    sums = wave(2, (A + B)[..., 0], 0.3)
    other = wave(2, (A - B)[..., 0]) + wave(1, A[:, :, 0].expand(P, P))
    torch.testing.assert_close(fourier.along_sum(sums + other, [2]), sums)
    torch.testing.assert_close(fourier.along_sum(sums + other, [1]), torch.zeros(P, P, dtype=torch.float64))
    once = fourier.along_sum(noise, [0, 1, 4])
    torch.testing.assert_close(fourier.along_sum(once, [0, 1, 4]), once)


def test_logits_of_two_frequencies_have_their_amplitudes_and_are_explained() -> None:
    logits = 3 * wave(2, A + B - C) + 4 * wave(5, A + B - C)
    torch.testing.assert_close(fourier.amplitudes(logits), torch.tensor([0.0, 3.0, 0.0, 0.0, 4.0], dtype=torch.float64))
    assert fourier.explained(logits, [2, 5]) == pytest.approx(1)
    assert fourier.explained(logits, [2]) == pytest.approx(9 / 25)
    assert fourier.explained(logits, [1, 3]) == pytest.approx(0)


def test_what_all_answers_share_is_not_to_be_explained(noise: torch.Tensor) -> None:
    logits = wave(2, A + B - C) + 10 * noise[:, :, :1]
    assert fourier.explained(logits, [2]) == pytest.approx(1)


def test_explained_is_that_of_least_squares(noise: torch.Tensor) -> None:
    columns = torch.stack([wave(k, A + B - C).flatten() for k in (1, 3)], 1)
    centred = (noise - noise.mean(2, keepdim=True)).flatten()
    fitted = columns @ torch.linalg.lstsq(columns, centred[:, None]).solution[:, 0]
    assert fourier.explained(noise, [1, 3]) == pytest.approx(float(fitted.square().sum() / centred.square().sum()))


def test_uneven_strengths_explain_what_one_strength_cannot() -> None:
    even = wave(2, A + B - C)
    uneven = even * (1 + A)
    assert fourier.explained_unevenly(even, [2]) == pytest.approx(1)
    assert fourier.explained_unevenly(uneven, [2]) == pytest.approx(1)
    mean, squares = (1 + A).double().mean(), (1 + A).double().square().mean()
    assert fourier.explained(uneven, [2]) == pytest.approx(float(mean**2 / squares))
    assert fourier.explained_unevenly(uneven, [1]) == pytest.approx(0, abs=1e-9)


def test_restricted_and_excluded_logits_share_out_all_but_the_constant(noise: torch.Tensor) -> None:
    constant = noise.mean((0, 1))
    torch.testing.assert_close(fourier.restricted(noise, [1, 4]) + fourier.excluded(noise, [1, 4]), noise + constant)
    logits = wave(2, A + B - C)
    torch.testing.assert_close(fourier.restricted(logits, [2]), logits)
    torch.testing.assert_close(fourier.excluded(logits, [2]), torch.zeros_like(logits))
    torch.testing.assert_close(fourier.excluded(logits, [1, 3]), logits)


def test_a_neuron_of_one_frequency_is_known_by_it() -> None:
    a, b = A[..., 0], C[None]
    activations = torch.stack(
        [
            wave(3, a, 0.5) * wave(3, b, 1.0) + wave(3, b),
            (wave(2, a) + wave(4, b)).expand(P, P),
            torch.ones(P, P, dtype=torch.float64),
        ],
        2,
    )
    frequency, share = fourier.neurons(activations)
    assert frequency.tolist()[0] == 3 and frequency[1] in (2, 4) and frequency[2] == 0
    assert share.tolist() == pytest.approx([1, 0.5, 0])


def test_shares_of_a_random_neuron_are_small(noise: torch.Tensor) -> None:
    assert fourier.neurons(noise)[1].max() < 0.5


def test_phases_are_those_put_in() -> None:
    table = torch.stack([2 * wave(3, C, 0.7), wave(1, C, -2.0) + wave(4, C)], 1)
    torch.testing.assert_close(fourier.phases(table, torch.tensor([3, 1])), torch.tensor([0.7, -2.0], dtype=torch.float64))
    assert float(fourier.phases(-wave(2, C)[:, None], torch.tensor([2])).abs()) == pytest.approx(math.pi)
