"""Against a known dictionary the dictionary itself scores one, random directions do not, and missing or doubled features cost."""

import numpy as np
import pytest
import torch
from sklearn.metrics import f1_score, precision_score, recall_score
from torch.nn import functional as F

from interp.errors import TrainingError
from interp.sae import recovery
from interp.sae.activation_functions import ReLU
from interp.sae.autoencoder import SparseAutoencoder
from interp.sae.synthetic import Codes, planted

N, D = 30, 16


def random(n, seed):
    return F.normalize(torch.randn(n, D, generator=torch.Generator().manual_seed(seed)), dim=1)


@pytest.fixture(scope="module")
def truth():
    return random(N, 3)


def test_recovery_of_the_dictionary_itself_is_one_and_of_a_random_one_is_not(truth):
    assert recovery.recovery(3 * truth.flip(0), truth) == (pytest.approx(1), 1.0)
    mmcs, found = recovery.recovery(random(N, 4), truth)
    assert mmcs < 0.7 and found == 0
    assert recovery.recovery(-truth[:1], truth[:1])[0] == pytest.approx(-1), "the opposite direction is not the feature"


def test_the_dictionary_in_another_order_and_length_scores_one(truth):
    order = torch.randperm(N, generator=torch.Generator().manual_seed(0))
    scores = recovery.directions(5 * truth[order], truth)
    assert [estimate.value for estimate in (scores.mmcs, scores.found, scores.mcc, scores.uniqueness)] == pytest.approx([1] * 4)
    assert torch.equal(scores.stands_for, order)


def test_random_directions_score_low(truth):
    scores = recovery.directions(random(N, 4), truth)
    assert scores.mmcs.value < 0.7 and scores.mcc.value < 0.7 and scores.uniqueness.value < 0.9 and scores.found.value == 0


def test_a_narrow_dictionary_is_matched_on_its_own_side_but_misses_features(truth):
    scores = recovery.directions(truth[:10], truth)
    assert scores.mcc.value == pytest.approx(1) and scores.mcc.n == 10 and scores.uniqueness.value == 1
    assert scores.found.value == pytest.approx(1 / 3) and scores.mmcs.n == N


def test_duplicates_cost_uniqueness_and_one_of_them_its_partner(truth):
    doubled = torch.cat([truth[:15], truth[:15]])
    scores = recovery.directions(doubled, truth)
    assert scores.uniqueness.value == 0.5
    assert scores.uniqueness.low == scores.uniqueness.high == 0.5, "every feature is there twice, in any resample"
    assert scores.mcc.value < 0.85


def test_a_latent_of_the_opposite_sign_is_matched_but_not_found(truth):
    scores = recovery.directions(-truth, truth)
    assert scores.mcc.value == pytest.approx(1) and scores.found.value == 0
    assert torch.equal(scores.stands_for, torch.arange(N))


def test_intervals_hold_their_value_and_narrow_with_more_features(truth):
    few, many = (recovery.directions(random(n, 5) * 0.3 + random(n, 6), random(n, 6)).mmcs for n in (20, 400))
    assert few.low < few.value < few.high and many.high - many.low < few.high - few.low


def test_the_best_matching_is_not_the_greedy_one():
    cosine = torch.tensor([[0.9, 0.8], [0.8, 0.1]])
    assert recovery.matched_cosines(cosine).tolist() == pytest.approx([0.8, 0.8])


@pytest.fixture(scope="module")
def problem():
    """Features that an encoder along the directions reads almost exactly."""
    truth = planted(12, 64, commonest=0.3, rarest=0.05)
    sae = SparseAutoencoder(64, 12, activation=ReLU())
    with torch.no_grad():
        sae.W_dec.copy_(truth.dictionary)
        sae.W_enc.copy_(truth.dictionary.T)
        sae.b_enc.fill_(-0.35)
    return truth, sae


def samples(truth, count, rows=500):
    return [truth.draw(rows, truth.generator(9, index)) for index in range(count)]


def test_scores_of_firing_are_scikit_learns_macro_means(problem):
    truth, sae = problem
    pairs = samples(truth, 3)
    stands_for = recovery.directions(sae.W_dec, truth.dictionary).stands_for
    scores = recovery.firing(sae, pairs, stands_for, features=12)
    fires = torch.cat([sae.encode(rows) != 0 for rows, _ in pairs]).numpy()
    there = torch.cat([codes.dense(500, 12) > 0 for _, codes in pairs]).numpy()[:, stands_for]
    for name, theirs in (("f1", f1_score), ("precision", precision_score), ("recall", recall_score)):
        assert getattr(scores, name).value == pytest.approx(theirs(there, fires, average="macro"))
        assert getattr(scores, name).value > 0.8
    assert scores.feature_recall.value == pytest.approx(scores.recall.value)
    assert (scores.tokens, scores.dead, scores.f1.n) == (1500, 0, 12)


def test_firing_does_not_depend_on_how_the_stream_is_cut(problem):
    truth, sae = problem
    rows, codes = truth.draw(600, truth.generator(1, 0))
    first = codes.row < 200
    one = Codes(codes.row[first], codes.feature[first], codes.value[first])
    two = Codes(codes.row[~first] - 200, codes.feature[~first], codes.value[~first])
    whole = recovery.firing(sae, [(rows, codes)], torch.arange(12), features=12)
    assert recovery.firing(sae, [(rows[:200], one), (rows[200:], two)], torch.arange(12), features=12) == whole


def test_dead_latents_score_zero_and_a_narrow_dictionary_pays_for_what_it_misses(problem):
    truth, sae = problem
    narrow = SparseAutoencoder(64, 6, activation=ReLU())
    with torch.no_grad():
        for name, axis in narrow.latent_axes().items():
            narrow.state_dict()[name].copy_(sae.state_dict()[name].narrow(axis, 0, 6))
        narrow.b_enc[0] = -100.0
    pairs, stands_for = samples(truth, 3), torch.arange(6)
    scores = recovery.firing(narrow, pairs, stands_for, features=12)
    whole = recovery.firing(sae, pairs, torch.arange(12), features=12)
    assert scores.dead == 1
    assert scores.f1.value < 0.86 and scores.precision.value <= 5 / 6
    assert scores.feature_recall.value == pytest.approx(5 / 12, abs=0.06) and scores.feature_recall.n == 12
    assert whole.feature_recall.value > 0.9


def test_latents_that_stand_for_the_wrong_features_score_by_chance(problem):
    truth, sae = problem
    scores = recovery.firing(sae, samples(truth, 3), torch.arange(12).roll(1), features=12)
    assert scores.f1.value < 0.3 and scores.precision.value == pytest.approx(float(np.mean(truth.probability.numpy())), abs=0.05)


def test_features_that_are_never_on_are_left_out(problem):
    truth, sae = problem
    rows = torch.zeros(4, 64)
    codes = Codes(torch.tensor([0]), torch.tensor([3]), torch.tensor([1.0]))
    assert recovery.firing(sae, [(rows, codes)], torch.arange(12), features=12).feature_recall.n == 1


def test_no_rows_are_refused(problem):
    with pytest.raises(TrainingError, match="there are no rows to score codes on"):
        recovery.firing(problem[1], [], torch.arange(12), features=12)
