"""Features are found where they were planted: by the prompt that wakes them, by the label that they tell."""

import numpy as np
import pandas as pd
import pytest
import torch
from scipy import sparse

from interp.models.hooked import Model
from interp.sae import finding
from interp.sae.activation_functions import TopK
from interp.sae.autoencoder import SparseAutoencoder
from interp.sae.splicing import Site

HOOK = "blocks.0.hook_resid_post"


@pytest.fixture(scope="module")
def model():
    config = {"d_model": 16, "d_head": 8, "n_heads": 2, "n_layers": 1, "n_ctx": 12, "d_vocab": 20, "d_mlp": 32, "act_fn": "gelu"}
    return Model.native(config, seed=0)


@pytest.fixture
def sae():
    return SparseAutoencoder(16, 40, activation=TopK(4), seed=1)


def test_the_most_active_features_of_a_prompt_are_those_with_the_highest_codes_at_marked_positions(model, sae):
    tokens = torch.randint(0, 20, (2, 9), generator=torch.Generator().manual_seed(0))
    where = torch.ones_like(tokens, dtype=torch.bool)
    where[:, 0] = False
    found = finding.most_active(model, Site(sae, HOOK), tokens, where=where, n=5)
    codes = sae.encode(model.run(tokens, read=[HOOK]).activations[HOOK]).detach()
    codes[:, 0] = 0
    highest = codes.flatten(0, 1).amax(0).topk(5)
    assert found.latent.tolist() == highest.indices.tolist()
    np.testing.assert_allclose(found.code, highest.values)
    for row in found.to_dict("records"):
        column = codes[..., row["latent"]]
        assert float(column[row["example"], row["pos"]]) == pytest.approx(row["code"])
        assert row["mean"] == pytest.approx(float(column[where].mean()), rel=1e-5)
        assert row["fires"] == pytest.approx(float((column[where] > 0).double().mean()))


def test_silent_features_are_not_listed(model):
    sae = SparseAutoencoder(16, 40, activation=TopK(1), seed=1)
    tokens = torch.tensor([[1, 2, 3]])
    found = finding.most_active(model, Site(sae, HOOK), tokens, where=None, n=40)
    assert 1 <= len(found) <= 3 and (found.code > 0).all()


def test_the_feature_of_a_label_is_found_and_beats_its_controls():
    draw, sae = torch.Generator().manual_seed(0), SparseAutoencoder(64, 80, activation=TopK(4), seed=1)
    truth = torch.rand(2000, generator=draw) < 0.1
    rows = 0.25 * torch.randn(2000, 64, generator=draw) + truth[:, None] * sae.W_dec[11].detach()
    found = finding.for_labels(sae, rows, {"planted": truth.numpy()}, np.arange(2000) // 20).set_index("source")
    assert found.column["columns"] == 11 and found.f1["columns"] > 0.9
    assert found.gain_low["random directions"] > 0 and found.f1["shuffled"] < 0.4


def test_features_to_look_at_are_those_that_tell_labels_and_then_others_that_fire():
    codes = sparse.csc_array(np.eye(8)[:, [0, 1, 2, 3, 4, 5, 6, 7]] * (np.arange(8) != 5))
    best = pd.DataFrame({"label": ["a", "b", "c"], "column": [7, 2, 7]})
    assert finding.telling(codes, best, 2).tolist() == [2, 7]
    assert finding.telling(codes, best, 100).tolist() == [0, 1, 2, 3, 4, 6, 7]
    some = finding.telling(codes, best, 4, seed=1).tolist()
    assert {2, 7} < set(some) and 5 not in some and some == finding.telling(codes, best, 4, seed=1).tolist()
