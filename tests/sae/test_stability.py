"""Two autoencoders are as alike as their latents, whatever order these stand in; random directions say what chance gives."""

import numpy as np
import pytest
import torch

from interp.errors import TrainingError
from interp.sae.activation_functions import TopK
from interp.sae.autoencoder import SparseAutoencoder
from interp.sae.stability import stability


@pytest.fixture
def sae():
    return SparseAutoencoder(32, 40, activation=TopK(4), seed=1)


@pytest.fixture
def x():
    return torch.randn(600, 32, generator=torch.Generator().manual_seed(0))


def changed(sae, order, noise=0.0):
    other = SparseAutoencoder(32, 40, activation=TopK(4))
    other.load_state_dict(sae.state_dict())
    other.permute(order)
    with torch.no_grad():
        other.W_dec += noise * torch.randn(other.W_dec.shape, generator=torch.Generator().manual_seed(5))
    return other


def test_the_same_latents_in_another_order_are_found_again(sae, x):
    order = torch.randperm(40, generator=torch.Generator().manual_seed(3))
    found = stability(sae, changed(sae, order), x.split(100))
    assert (found.cosine.value, found.shared.value, found.correlation.value) == pytest.approx((1, 1, 1), abs=1e-5)
    np.testing.assert_array_equal(order.numpy()[found.pairs[:, 1]], found.pairs[:, 0])


def test_another_random_dictionary_is_what_chance_gives(sae, x):
    found = stability(sae, sae.untrained(9), [x])
    assert found.shared.value == 0
    assert found.chance.value == pytest.approx(found.cosine.value, abs=0.05) and found.chance.value < 0.5
    assert found.correlation.value < 0.3


def test_half_of_the_latents_changed_halves_what_is_shared(sae, x):
    other = changed(sae, torch.arange(40))
    with torch.no_grad():
        other.W_dec[:20] = sae.untrained(4).W_dec[:20]
        other.W_enc[:, :20] = sae.untrained(4).W_enc[:, :20]
    found = stability(sae, other, [x])
    assert found.shared.value == 0.5 and found.shared.low < 0.5 < found.shared.high


def test_correlations_are_numpys_however_the_stream_is_cut(sae, x):
    other = changed(sae, torch.arange(40), noise=0.2)
    one, two = stability(sae, other, [x]), stability(sae, other, x.split([1, 250, 349]))
    assert one.correlation.value == pytest.approx(two.correlation.value)
    a, b = sae.encode(x).detach().numpy(), other.encode(x).detach().numpy()
    theirs = [np.corrcoef(a[:, i], b[:, j])[0, 1] for i, j in one.pairs]
    assert one.correlation.value == pytest.approx(np.mean(theirs), abs=1e-5)


def test_a_latent_that_never_fires_correlates_with_nothing(sae, x):
    with torch.no_grad():
        sae.b_enc[0] = -100.0
    assert stability(sae, changed(sae, torch.arange(40)), [x]).correlation.value == pytest.approx(39 / 40, abs=1e-5)


def test_what_cannot_be_compared_is_refused(sae):
    with pytest.raises(TrainingError, match="autoencoders of 32 and 16 dimensions cannot be paired; give two of the same hook"):
        stability(sae, SparseAutoencoder(16, 40, activation=TopK(4)), [])
    with pytest.raises(TrainingError, match="there are no activations to compare codes on"):
        stability(sae, sae, [])
