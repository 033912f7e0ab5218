"""Scores follow their definitions, do not depend on batching, and loss recovered knows its two ends."""

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from interp.errors import HookError, TrainingError
from interp.models.hooked import Model
from interp.sae import evaluation
from interp.sae.activation_functions import TopK
from interp.sae.autoencoder import SparseAutoencoder
from interp.text.packing import TokenBatch

HOOK = "blocks.0.hook_resid_post"


@pytest.fixture
def sae():
    return SparseAutoencoder(16, 40, activation=TopK(4), seed=1)


@pytest.fixture
def x():
    return 2 * torch.randn(500, 16, generator=torch.Generator().manual_seed(0)) + 3


class Perfect(SparseAutoencoder):
    def forward(self, x):
        return x


class Nothing(SparseAutoencoder):
    def forward(self, x):
        return torch.zeros_like(x)


def test_scores_equal_their_definitions(sae, x):
    scores = evaluation.evaluate(sae, [x])
    codes, guess, x64 = sae.encode(x).detach(), sae(x).detach().double(), x.double()
    spread = x64.square().sum() - len(x) * x64.mean(0).square().sum()
    assert scores.tokens == 500
    assert scores.l0 == pytest.approx(float((codes != 0).sum() / 500))
    assert scores.fvu == pytest.approx(float((x64 - guess).square().sum() / spread))
    assert scores.explained_variance == 1 - scores.fvu
    assert scores.l2_ratio == pytest.approx(float((guess.norm(dim=1) / x64.norm(dim=1)).mean()))
    assert scores.bias == pytest.approx(float(guess.square().sum() / (guess * x64).sum()))
    np.testing.assert_allclose(scores.density, (codes != 0).double().mean(0))
    assert scores.dead == np.mean(scores.density == 0)


def test_scores_do_not_depend_on_how_the_stream_is_cut(sae, x):
    whole = evaluation.evaluate(sae, [x])
    parts = evaluation.evaluate(sae, x.split([1, 7, 92, 400]))
    assert parts.fvu == pytest.approx(whole.fvu, rel=1e-6) and parts.l0 == whole.l0 and parts.dead == whole.dead


def test_a_constant_added_to_the_reconstruction_costs_variance(sae, x):
    before = evaluation.evaluate(sae, [x]).fvu
    sae.b_dec.data += x.mean(0)
    centred = evaluation.evaluate(sae, [x]).fvu
    sae.decode = lambda codes: SparseAutoencoder.decode(sae, codes) + 5
    assert evaluation.evaluate(sae, [x]).fvu > before > centred


def test_recovery_of_the_dictionary_itself_is_one_and_of_a_random_one_is_not():
    truth = F.normalize(torch.randn(30, 16, generator=torch.Generator().manual_seed(3)), dim=1)
    assert evaluation.recovery(3 * truth.flip(0), truth) == (pytest.approx(1), 1.0)
    mmcs, found = evaluation.recovery(torch.randn(30, 16, generator=torch.Generator().manual_seed(4)), truth)
    assert mmcs < 0.7 and found == 0
    assert evaluation.recovery(-truth[:1], truth[:1])[0] == pytest.approx(-1), "the opposite direction is not the feature"


def test_an_empty_stream_and_rows_of_another_size_are_refused(sae):
    with pytest.raises(TrainingError, match="there are no activations to evaluate on"):
        evaluation.evaluate(sae, [])
    with pytest.raises(TrainingError, match="d_in=16"):
        evaluation.evaluate(sae, [torch.zeros(3, 4)])


@pytest.fixture(scope="module")
def model():
    config = {"d_model": 16, "d_head": 8, "n_heads": 2, "n_layers": 2, "n_ctx": 12, "d_vocab": 20, "d_mlp": 32, "act_fn": "gelu"}
    model = Model.native(config, seed=0)
    with torch.no_grad():
        for parameter in model.bridge.parameters():
            parameter.mul_(4.0)
    return model


@pytest.fixture(scope="module")
def batches(model):
    tokens = torch.randint(1, 20, (4, 12), generator=torch.Generator().manual_seed(0))
    tokens[:, 0] = 0
    for position in range(1, 12):  # what the model itself would say, so that harming it costs loss
        tokens[:, position] = model.run(tokens, logits=True).logits[:, position - 1, 1:].argmax(-1) + 1
    is_text = torch.ones_like(tokens, dtype=torch.bool)
    is_text[:, 0] = False
    is_text[3, 8:] = False
    where = torch.where(is_text, torch.arange(12), -1)
    document = torch.where(is_text, torch.arange(4)[:, None], -1)
    padding = torch.zeros_like(is_text)
    padding[3, 8:] = True
    whole = TokenBatch(tokens, document, where, where, where, is_text, padding)
    return [whole]


def test_a_perfect_autoencoder_recovers_all_and_an_empty_one_nothing(model, batches):
    perfect = evaluation.loss_recovered(model, Perfect(16, 8, activation=TopK(1)), HOOK, batches)
    nothing = evaluation.loss_recovered(model, Nothing(16, 8, activation=TopK(1)), HOOK, batches)
    assert perfect.tokens == 3 * 11 + 7
    for estimate in (perfect.ce, perfect.kl):
        assert estimate.value == pytest.approx(1, abs=1e-5) and estimate.n == 4
    for estimate in (nothing.ce, nothing.kl):
        assert estimate.value == pytest.approx(0, abs=1e-9)
    assert set(perfect.losses) == {"original", "autoencoder", "mean", "zero"}
    assert perfect.losses["original"] == pytest.approx(perfect.losses["autoencoder"], abs=1e-5) and perfect.losses["zero"] > 0.5
    assert perfect.kl_mean.value < 0.9


def test_bos_and_padding_keep_their_activations():
    is_text = torch.tensor([[False, True, True, False]])
    activation = torch.arange(24.0).reshape(1, 4, 2, 3)
    changed = evaluation._on_text(torch.zeros_like, is_text)(activation)
    assert torch.equal(changed[~is_text], activation[~is_text]) and (changed[is_text] == 0).all()


def test_an_unknown_hook_is_refused(model, batches):
    with pytest.raises(HookError):
        evaluation.loss_recovered(model, Perfect(16, 8, activation=TopK(1)), "blocks.0.hook_resid_pots", batches)
