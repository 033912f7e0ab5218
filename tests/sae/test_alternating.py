"""Alternating updates find planted features in a fraction of the tokens, and leave a real autoencoder behind."""

import pytest
import torch

from interp.errors import TrainingError
from interp.sae.activation_functions import ReLU, TopK
from interp.sae.alternating import Atoms, alternate, distil
from interp.sae.autoencoder import SparseAutoencoder
from interp.sae.evaluation import evaluate
from interp.sae.recovery import recovery
from interp.sae.synthetic import preset
from interp.sae.training import train


def autoencoder(d=32, m=64, k=2, seed=0):
    return SparseAutoencoder(d, m, activation=TopK(k), seed=seed)


def fvu(sae, batches):
    return evaluate(sae, batches).fvu.value


def alternated(steps=120, **settings):
    truth, sae = preset("tiny"), autoencoder()
    return truth, sae, alternate(sae, truth.batches(256, steps), steps=steps, **settings)


def test_planted_features_are_found_sooner_than_by_gradient_descent_and_random_ones_are_not():
    truth, sae, history = alternated()
    trained = autoencoder()
    train(trained, truth.batches(256, 120), steps=120)
    found, by_descent, untrained = (recovery(each.W_dec, truth.dictionary)[1] for each in (sae, trained, autoencoder(seed=9)))
    assert found > 0.9 and found > by_descent + 0.1 and untrained == 0
    assert history.last["fvu"] < history.rows[0]["fvu"]


def test_the_encoder_alone_reconstructs_held_out_rows_better_than_the_transpose():
    truth, sae, _ = alternated()
    _, transposed, _ = alternated(encoder_share=0.0)
    held_out = list(truth.batches(512, 4, seed=1))
    assert fvu(sae, held_out) < 0.2 < fvu(transposed, held_out)


def test_a_true_dictionary_gets_an_encoder_that_beats_its_transpose_and_stays_as_it_is():
    truth = preset("tiny")
    sae = distil(truth.dictionary, truth.batches(256, 60), k=2, steps=60)
    torch.testing.assert_close(sae.W_dec.detach(), truth.dictionary)
    held_out = list(truth.batches(512, 4, seed=1))
    taught = fvu(sae, held_out)
    with torch.no_grad():
        sae.W_enc.copy_(sae.W_dec.T)
        sae.b_enc.zero_()
    assert taught < 0.85 * fvu(sae, held_out)
    with pytest.raises(TrainingError, match="the stream ended after 2 of 3 batches"):
        distil(truth.dictionary, truth.batches(256, 2), k=2, steps=3)


@pytest.mark.slow
def test_93_of_100_of_512_features_in_64_dimensions_are_found_within_three_hundred_thousand_tokens():
    truth, sae = preset("small"), autoencoder(64, 512, k=3)
    alternate(sae, truth.batches(1024, 292), steps=292)
    assert recovery(sae.W_dec, truth.dictionary)[1] >= 0.96


def test_offset_and_unit_of_the_data_make_no_difference():
    decoders = []
    for factor, offset in ((1.0, 0.0), (50.0, 200.0)):
        sae = autoencoder()
        batches = [factor * rows + offset for rows in preset("tiny").batches(256, 20)]
        alternate(sae, batches, steps=20)
        decoders.append(sae.W_dec.detach())
    cosine = (decoders[0] * decoders[1]).sum(1)
    assert cosine.median() > 0.99


def test_an_idle_atom_and_a_doubled_one_start_again_and_the_others_stay():
    rows = next(preset("tiny").batches(512, 1))
    sae = autoencoder()
    atoms = Atoms(sae, k=2)
    _, error = atoms.learn(rows)
    with torch.no_grad():
        sae.W_dec[7] = sae.W_dec[3]
    atoms._uses[:] = 10.0
    atoms._uses[3], atoms._uses[5] = 20.0, 0.5
    before = sae.W_dec.detach().clone()
    assert atoms.replace(error) == 2
    moved = ((sae.W_dec * before).sum(1) < 0.999).nonzero().flatten().tolist()
    assert moved == [5, 7]
    torch.testing.assert_close(sae.W_dec.norm(dim=1), torch.ones(64))


def test_an_atom_is_the_weighted_mean_of_what_the_others_leave_of_its_rows():
    sae = autoencoder(d=4, m=2, k=1)
    with torch.no_grad():
        sae.W_dec.copy_(torch.eye(2, 4))
    rows = torch.tensor([[2.0, 0.0, 1.0, 0.0], [1.0, 0.0, 0.0, 0.0]])
    Atoms(sae, k=1).learn(rows)
    expected = 2 * rows[0] + rows[1]
    torch.testing.assert_close(sae.W_dec[0].detach(), expected / expected.norm(), atol=1e-3, rtol=0)
    torch.testing.assert_close(sae.W_dec[1].detach(), torch.eye(2, 4)[1])


def test_it_is_the_same_every_time_and_leaves_the_global_generator_alone():
    torch.manual_seed(1)
    state = torch.get_rng_state()
    first, second = alternated(20)[1], alternated(20)[1]
    assert all(torch.equal(a, b) for a, b in zip(first.parameters(), second.parameters(), strict=True))
    assert torch.equal(torch.get_rng_state(), state)


def test_the_history_counts_tokens_active_atoms_and_replacements():
    seen = []
    _, _, history = alternated(40, log_every=15, progress=lambda name, row: seen.append(row))
    assert seen == history.rows
    assert [row["step"] for row in history.rows] == [15, 30, 40] and history.last["tokens"] == 40 * 256
    assert set(history.last) == {"step", "tokens", "fvu", "l0", "replaced"}
    assert 1 < history.last["l0"] <= 2 and sum(row["replaced"] for row in history.rows) > 0


@pytest.mark.parametrize(
    ("sae", "batches", "settings", "message"),
    [
        (SparseAutoencoder(4, 8, activation=ReLU()), [torch.ones(9, 4)], {}, r"train an autoencoder with TopK\(k\)"),
        (SparseAutoencoder(4, 8, activation=TopK(2), refinement=0.25), [torch.ones(9, 4)], {}, "without refinement"),
        (SparseAutoencoder(4, 8, d_out=4, activation=TopK(2)), [torch.ones(9, 4)], {}, r"use training.train"),
        (autoencoder(4, 8, 2), [], {}, "the stream of activations is empty"),
        (autoencoder(4, 8, 2), [torch.ones(9, 4)] * 2, {}, "the stream ended after 2 of 3 batches; pass steps=2"),
        (autoencoder(4, 8, 2), [torch.ones(9, 5)], {}, r"batch 0 of shape \(9, 5\).* d_in=4"),
        (autoencoder(4, 8, 2), [torch.full((9, 4), float("nan"))], {}, "batch 0 holds 36 non-finite values"),
        (autoencoder(4, 8, 2), [torch.ones(9, 4)], {"encoder_share": 2.0}, "encoder_share=2.0: use 1 or more"),
    ],
)
def test_what_cannot_be_trained_on_is_refused(sae, batches, settings, message):
    with pytest.raises(TrainingError, match=message):
        alternate(sae, batches, steps=3, **settings)
