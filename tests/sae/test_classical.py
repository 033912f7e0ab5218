"""Matching pursuit is exact where it can be, and the classical learners find what is planted where random directions do not."""

import pytest
import torch

from interp.errors import TrainingError
from interp.sae import classical, kernels
from interp.sae.recovery import recovery
from interp.sae.synthetic import planted, preset


def rows_of(truth, count=8, rows=1024):
    return torch.cat(list(truth.batches(rows, count)))


def dense(support):
    codes = torch.zeros(support.n_rows, support.d_sae)
    return codes.index_put_((support.rows, support.latents), support.values)


def test_pursuit_finds_the_codes_of_rows_that_few_atoms_make():
    truth = planted(60, 40, commonest=0.02, rarest=0.01)
    x, codes = truth.sample(500, truth.generator(0, 0))
    few = (codes > 0).sum(1) <= 3
    found = dense(classical.matching_pursuit(x, truth.dictionary, 4))
    torch.testing.assert_close(found[few], codes[few], atol=0.03, rtol=0)


def test_pursuit_agrees_with_one_row_at_a_time_by_least_squares():
    dictionary = classical.random_dictionary(20, 8)
    rows = torch.randn(5, 8, generator=torch.Generator().manual_seed(0))
    support = classical.matching_pursuit(rows, dictionary, 3)
    for row, chosen, codes in zip(rows, support.latents.view(5, 3), support.values.view(5, 3), strict=True):
        left, taken = row, []
        for _ in range(3):
            along = dictionary @ left
            along[taken] = -torch.inf
            taken.append(int(along.argmax()))
            fitted = torch.linalg.lstsq(dictionary[taken].T, row[:, None]).solution.squeeze(1)
            left = row - fitted @ dictionary[taken]
        assert chosen.tolist() == taken
        torch.testing.assert_close(codes, fitted.clamp_min(0), atol=2e-3, rtol=0)


def test_pursuit_in_chunks_is_pursuit(monkeypatch):
    truth = preset("tiny")
    rows = rows_of(truth, 1, 100)
    whole = classical.matching_pursuit(rows, truth.dictionary, 3)
    monkeypatch.setattr(classical, "CHUNK", 7)
    parts = classical.matching_pursuit(rows, truth.dictionary, 3)
    assert torch.equal(whole.latents, parts.latents) and torch.equal(whole.pointers, parts.pointers)
    torch.testing.assert_close(whole.values, parts.values)


def test_fewer_rounds_fit_worse_and_codes_are_never_negative():
    truth = preset("tiny")
    rows = rows_of(truth, 1)
    left = []
    for rounds in (None, 2, 1):
        support = classical.matching_pursuit(rows, truth.dictionary, 4, rounds=rounds)
        assert len(support.values) == 4 * len(rows) and (support.values >= 0).all()
        left.append(float((rows - kernels.decode(support.values, support, truth.dictionary)).square().mean()))
    assert left[0] < left[1] < left[2]


@pytest.mark.parametrize("k", [0, 33])
def test_more_atoms_than_dimensions_are_refused(k):
    with pytest.raises(TrainingError, match=f"k={k} atoms per row cannot be taken from 64 in 32 dimensions; use 1 to 32"):
        classical.matching_pursuit(torch.zeros(2, 32), preset("tiny").dictionary, k)


def test_ksvd_finds_planted_features_and_random_directions_have_not_found_them():
    truth = preset("tiny")
    found = recovery(classical.ksvd(rows_of(truth, 16), 64, 3, block=512), truth.dictionary)[1]
    chance = recovery(classical.random_dictionary(64, 32), truth.dictionary)[1]
    assert found > 0.9 and chance == 0


def test_an_idle_atom_of_ksvd_starts_again():
    rows = rows_of(planted(2, 6, commonest=0.9, rarest=0.9, noise=0.3), 1, 100)
    start = classical.random_dictionary(12, 6)
    idle = classical.matching_pursuit(rows, start, 1).latents.bincount(minlength=12) == 0
    moved = (classical.ksvd(rows, 12, 1) * start).sum(1) < 0.999
    assert idle.sum() >= 3 and moved[idle].all()


def test_online_lasso_finds_planted_features():
    truth = planted(16, 12, commonest=0.1, rarest=0.05)
    assert recovery(classical.online_lasso(rows_of(truth, 6), 16), truth.dictionary)[1] > 0.8


def test_principal_directions_are_those_of_largest_variance_and_come_both_ways():
    generator = torch.Generator().manual_seed(0)
    rows = torch.randn(4000, 3, generator=generator) * torch.tensor([1.0, 5.0, 2.0]) + 10
    directions = classical.pca(rows, 4)
    torch.testing.assert_close(directions[0], -directions[1])
    assert abs(directions[0, 1]) > 0.99 and abs(directions[2, 2]) > 0.99


def test_independent_components_find_sparse_features_when_they_are_no_more_than_the_dimensions():
    truth = planted(8, 12, commonest=0.2, rarest=0.1)
    rows = rows_of(truth, 4)
    assert recovery(classical.ica(rows, 24), truth.dictionary)[1] == 1
    assert recovery(classical.pca(rows, 24), truth.dictionary)[1] < 1
