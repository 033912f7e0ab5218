"""The network: shapes, folding, and what it refuses."""

import pytest
import torch

from interp.errors import TrainingError
from interp.sae.activation_functions import TopK
from interp.sae.autoencoder import ENCODER_START, SparseAutoencoder


@pytest.fixture
def sae():
    sae = SparseAutoencoder(8, 24, activation=TopK(4), seed=1)
    with torch.no_grad():
        sae.b_enc.uniform_(-0.01, 0.01, generator=torch.Generator().manual_seed(0))
        sae.b_dec.normal_(generator=torch.Generator().manual_seed(0))
        sae.scale.fill_(0.2)
        sae.scale_out.fill_(0.2)
    return sae


@pytest.fixture
def x():
    return 3 * torch.randn(5, 7, 8, generator=torch.Generator().manual_seed(2))


def test_codes_have_at_most_k_positive_entries_over_any_batch_shape(sae, x):
    codes = sae.encode(x)
    assert codes.shape == (5, 7, 24)
    assert (codes >= 0).all() and (codes > 0).sum(-1).max() == 4
    torch.testing.assert_close(sae.encode(x[0]), codes[0])


def test_fewer_than_k_positive_pre_activations_give_fewer_codes():
    codes = TopK(3)(torch.tensor([[-1.0, 2.0, -3.0, -4.0]]))
    assert codes.tolist() == [[0.0, 2.0, 0.0, 0.0]]


def test_folding_the_scale_changes_neither_codes_nor_reconstructions(sae, x):
    folded = sae.folded()
    assert float(folded.scale) == 1 and float(sae.scale) == pytest.approx(0.2)
    torch.testing.assert_close(folded.encode(x), sae.encode(x))
    torch.testing.assert_close(folded(x), sae(x))


def test_the_decoder_starts_with_unit_rows_tied_to_the_encoder():
    sae = SparseAutoencoder(8, 24, activation=TopK(4))
    torch.testing.assert_close(sae.W_dec.norm(dim=1), torch.ones(24))
    torch.testing.assert_close(sae.W_enc, ENCODER_START * sae.W_dec.T)
    assert sae.W_enc.T.is_contiguous(), "latent by latent in memory, or each step pays for a transposition"


def test_weights_depend_on_the_seed_alone():
    torch.manual_seed(5)
    first = SparseAutoencoder(8, 24, activation=TopK(4), seed=3)
    torch.manual_seed(6)
    second = SparseAutoencoder(8, 24, activation=TopK(4), seed=3)
    other = SparseAutoencoder(8, 24, activation=TopK(4), seed=4)
    assert torch.equal(first.W_dec, second.W_dec) and not torch.equal(first.W_dec, other.W_dec)


def test_more_active_latents_than_there_are_is_refused():
    with pytest.raises(TrainingError, match="k=9 is more than d_sae=8 latents; use k of at most 8"):
        SparseAutoencoder(4, 8, activation=TopK(9))
    with pytest.raises(TrainingError, match="k=0 leaves no active latent"):
        TopK(0)


def test_activations_of_another_size_are_refused(sae):
    with pytest.raises(
        TrainingError, match=r"shape \(3, 5\).*d_in=8; use activations of a hook with 8 dimensions, or build .* d_in=5"
    ):
        sae.encode(torch.zeros(3, 5))


def test_the_untrained_control_shares_scale_and_mean_but_no_direction():
    sae = SparseAutoencoder(16, 64, activation=TopK(4), seed=0)
    with torch.no_grad():
        sae.scale.fill_(0.25)
        sae.scale_out.fill_(0.25)
        sae.b_dec.normal_(generator=torch.Generator().manual_seed(1))
    random = sae.untrained(seed=1)
    assert torch.equal(random.b_dec, sae.b_dec)
    assert random.scale == sae.scale
    assert (random.encode(torch.ones(3, 16)) != 0).sum(1).max() <= 4
    assert (random.W_dec @ sae.W_dec.T).abs().max() < 0.95
