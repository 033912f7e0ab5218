"""Every architecture finds planted features, at the sparsity that was asked for, and so does every shape."""

import pytest
import torch
from torch.nn import functional as F

from interp.errors import ConfigError
from interp.sae import training
from interp.sae.activation_functions import BatchTopK
from interp.sae.architectures import ARCHITECTURES, REFINEMENT, build
from interp.sae.autoencoder import SparseAutoencoder
from interp.sae.synthetic import planted

D, N, L0, STEPS, ROWS = 20, 40, 2.0, 300, 384
TRUTH = planted(N, D, commonest=0.08, rarest=0.03)


def found(sae, dictionary):
    """The share of true directions that a decoder row meets with a cosine above .9."""
    return float((dictionary @ F.normalize(sae.W_dec, dim=1).T).amax(1).gt(0.9).double().mean())


def held_out(sae, seed=5):
    return sae.encode(TRUTH.sample(8192, torch.Generator().manual_seed(seed))[0]).detach()


@pytest.fixture(scope="module", params=ARCHITECTURES)
def trained(request):
    sae, objective = build(request.param, D, N, l0=L0)
    history = training.train(sae, TRUTH.batches(ROWS, STEPS), steps=STEPS, objective=objective, dead_after=2000)
    return sae, history.last


def test_planted_features_are_found_and_a_random_dictionary_finds_none(trained):
    sae, _ = trained
    assert found(sae, TRUTH.dictionary) > 0.35  # Matryoshka finds least here: flat features do not nest
    assert found(sae.untrained(1), TRUTH.dictionary) < 0.05


def test_few_latents_stay_dead(trained):
    assert (held_out(trained[0]) == 0).all(0).double().mean() < 0.1


def test_the_wanted_number_of_latents_fires_in_training_and_on_new_rows(trained):
    sae, last = trained
    l0 = (held_out(sae) != 0).sum(1).double().mean()
    assert last["l0"] == pytest.approx(L0, rel=0.2)
    assert float(l0) == pytest.approx(last["l0"], rel=0.05)


def test_decoder_rows_end_with_unit_length(trained):
    torch.testing.assert_close(trained[0].W_dec.norm(dim=1), torch.ones(N))


def test_an_architecture_that_is_not_known_is_named_with_its_neighbours():
    with pytest.raises(ConfigError, match=r"no architecture is called 'jumprel' \(did you mean jumprelu\?\); there are topk, "):
        build("jumprel", D, N, l0=2)


@pytest.mark.parametrize("l0", [0, 41])
def test_an_impossible_sparsity_is_refused(l0):
    with pytest.raises(ConfigError, match=f"l0={l0} active latents of d_sae=40 cannot be; use an l0 from 1 to 40"):
        build("relu", D, N, l0=l0)


@pytest.mark.parametrize("name", ["relu", "gated", "jumprelu"])
def test_thresholds_start_so_that_a_few_latents_fire(name):
    sae, _ = build(name, D, 1024, l0=8)
    x = F.normalize(torch.randn(4096, D, generator=torch.Generator().manual_seed(0)), dim=1)
    assert float((sae.encode(x) != 0).sum(1).double().mean()) == pytest.approx(4 * 8, rel=0.25)


@pytest.fixture(scope="module")
def pairs():
    """Inputs, what transcoders shall write, and the directions of what they shall write: other functions of the same codes."""
    generator = torch.Generator().manual_seed(3)
    directions = F.normalize(torch.randn(N, 24, generator=generator), dim=1)
    return [(x, codes @ directions) for x, codes in (TRUTH.sample(ROWS, generator) for _ in range(STEPS))], directions


def test_a_transcoder_finds_what_each_feature_is_read_from_and_what_it_writes(pairs):
    batches, directions = pairs
    sae, objective = build("topk", D, N, l0=L0, d_out=24)
    training.train(sae, batches, steps=STEPS, objective=objective, dead_after=2000)
    best, latents = (directions @ sae.W_dec.T).max(1)
    assert (best > 0.9).double().mean() > 0.6
    read = (F.normalize(sae.W_enc, dim=0).T[latents] @ TRUTH.dictionary.T).argmax(1)
    assert (read == torch.arange(N))[best > 0.9].double().mean() > 0.9


def test_a_skip_takes_the_linear_part_upon_itself(pairs):
    linear = torch.randn(D, 24, generator=torch.Generator().manual_seed(6)) / D**0.5
    batches = [(x, y + x @ linear) for x, y in pairs[0]]
    error = {}
    for skip in (False, True):
        sae, objective = build("topk", D, N, l0=L0, d_out=24, skip=skip)
        error[skip] = training.train(sae, batches, steps=STEPS, objective=objective, dead_after=2000).last["fvu"]
    assert error[True] < 0.7 * error[False]


def test_a_second_look_gives_codes_that_fit_better():
    error = {}
    for refinement in (0.0, REFINEMENT):
        sae = SparseAutoencoder(D, N, activation=BatchTopK(L0), refinement=refinement)
        error[refinement] = training.train(sae, TRUTH.batches(ROWS, STEPS), steps=STEPS, dead_after=2000).last["fvu"]
    assert error[REFINEMENT] < 0.8 * error[0.0]
