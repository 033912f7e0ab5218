"""The bounds hold where they are tight, and the toy model finds the arrangements that are known."""

import math

import numpy as np
import pytest
import torch

from interp import superposition
from interp.errors import ConfigError


def test_the_dimension_of_the_lemma_is_that_of_the_formula_and_grows_with_the_logarithm_of_n():
    assert superposition.jl_dimension(200, 0.5) == math.ceil(4 * math.log(200) / (0.125 - 0.125 / 3))
    squared = superposition.jl_dimension(200**2, 0.5)
    assert squared == pytest.approx(2 * superposition.jl_dimension(200, 0.5), abs=1)
    with pytest.raises(ConfigError, match="epsilon=1: there must be two points or more, and an error between 0 and 1"):
        superposition.jl_dimension(200, 1)


def test_distortions_of_a_scaling_are_its_square_less_one():
    points = np.random.default_rng(0).standard_normal((6, 4))
    found = superposition.distortions(points, 2 * points)
    assert found.shape == (15,)
    np.testing.assert_allclose(found, 3.0)


@pytest.mark.parametrize("d", [2, 3, 10])
def test_a_simplex_meets_the_welch_bound_and_one_direction_moved_breaks_it(d):
    corners = superposition.simplex(d)
    np.testing.assert_allclose(np.linalg.norm(corners, axis=1), 1.0)
    assert superposition.coherence(corners) == pytest.approx(superposition.welch_bound(d + 1, d)) == pytest.approx(1 / d)
    corners[0] += 0.1 * corners[1]
    assert superposition.coherence(corners) > 1 / d + 1e-3


@pytest.mark.parametrize("n", [2, 128, 300])
def test_the_coherence_of_any_number_of_directions_is_the_largest_cosine_off_the_diagonal(n):
    directions = np.random.default_rng(n).standard_normal((n, 5)) * np.arange(1, n + 1)[:, None]
    unit = directions / np.linalg.norm(directions, axis=1, keepdims=True)
    assert superposition.coherence(directions) == pytest.approx(np.triu(np.abs(unit @ unit.T), 1).max())
    directions[-1] = -directions[0]
    assert superposition.coherence(directions) == pytest.approx(1.0), "opposite directions overlap too"


def test_the_bound_on_random_directions_is_the_tail_of_the_law_of_their_cosines():
    rng = np.random.default_rng(0)
    pairs = rng.standard_normal((2, 20_000, 8))
    unit = pairs / np.linalg.norm(pairs, axis=-1, keepdims=True)
    cosines = np.abs((unit[0] * unit[1]).sum(-1))
    bound = superposition.random_coherence_bound(2, 8, failure=0.05)
    assert (cosines > bound).mean() == pytest.approx(0.05, abs=0.005)


def test_orthonormal_features_are_read_without_noise_and_random_ones_with_the_variance_of_the_formula():
    rng = np.random.default_rng(0)
    directions = rng.standard_normal((200, 50))
    directions /= np.linalg.norm(directions, axis=1, keepdims=True)
    assert np.abs(superposition.interference(np.eye(50), 5, draws=100, rng=rng)).max() < 1e-12
    noise = superposition.interference(directions, 5, draws=20_000, rng=rng)
    assert noise.var() == pytest.approx(4 / 50, rel=0.1)


def test_dimensionality_is_two_fifths_in_a_pentagon_and_a_half_in_a_pair():
    angles = torch.arange(5) * 2 * math.pi / 5
    pentagon = torch.stack([angles.cos(), angles.sin()], dim=1)
    pairs = torch.tensor([[1.0, 0.0], [-1.0, 0.0], [0.0, 1.0], [0.0, -1.0], [0.0, 0.0]])
    toy = superposition.Toy(torch.stack([pentagon, pairs]), torch.zeros(2, 5), torch.zeros(2))
    torch.testing.assert_close(toy.dimensionality[0], torch.full((5,), 0.4))
    torch.testing.assert_close(toy.dimensionality[1], torch.tensor([0.5, 0.5, 0.5, 0.5, 0.0]))


def test_dense_features_get_a_dimension_each_and_sparse_ones_share():
    sparsity = torch.tensor([0.0] * 4 + [0.97] * 4)
    toy = superposition.train_toy(5, 2, sparsity=sparsity, instances=8, importance=0.9, steps=1500, batch=256)
    present = (toy.norms > 0.5).sum(1)
    assert (present[4:] == 5).float().mean() >= 0.75 and (present[:4] <= 3).all()
    again = superposition.train_toy(5, 2, sparsity=sparsity, instances=8, importance=0.9, steps=1500, batch=256)
    assert torch.equal(toy.directions, again.directions)


def test_random_directions_are_more_coherent_than_welchs_bound_which_is_nothing_where_all_fit():
    rng = np.random.default_rng(0)
    for n in (33, 64, 256):
        assert superposition.coherence(rng.standard_normal((n, 32))) > superposition.welch_bound(n, 32) > 0
    assert superposition.welch_bound(8, 16) == superposition.welch_bound(1, 16) == 0
    with pytest.raises(ConfigError, match="1 directions have no coherence; give 2 or more"):
        superposition.coherence(np.ones((1, 4)))


def test_a_rotation_keeps_lengths_and_follows_its_generator():
    turns = [superposition.rotation(6, generator=torch.Generator().manual_seed(seed)) for seed in (0, 0, 1)]
    assert torch.equal(turns[0], turns[1]) and not torch.allclose(turns[0], turns[2])
    assert torch.allclose(turns[0] @ turns[0].T, torch.eye(6), atol=1e-6)
