"""One pass finds each feature's strongest, typical and silent places, whatever the order of the stream."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from model_shapes import build

from interp.errors import ConfigError, TrainingError
from interp.models.norms import folded
from interp.sae import features
from interp.sae.activation_functions import TopK
from interp.sae.autoencoder import SparseAutoencoder

DOCUMENTS, LENGTH, D_IN, D_SAE = 12, 30, 8, 20


@pytest.fixture
def sae():
    return SparseAutoencoder(D_IN, D_SAE, activation=TopK(3), seed=2)


@pytest.fixture
def rows():
    n = DOCUMENTS * LENGTH
    x = torch.randn(n, D_IN, generator=torch.Generator().manual_seed(1)) * torch.linspace(0.1, 3, n)[:, None]
    index = torch.arange(n)
    return SimpleNamespace(x=x, tokens=index % 17, document=index // LENGTH, position=index % LENGTH)


def cut(rows, order, size):
    for part in order.split(size):
        yield SimpleNamespace(
            activations={"h": rows.x[part]}, tokens=rows.tokens[part], document=rows.document[part], position=rows.position[part]
        )


@pytest.fixture
def book(sae, rows):
    return features.collect(sae, cut(rows, torch.arange(len(rows.x)), 50), top=5)


def test_top_examples_are_the_strongest_of_different_documents(sae, rows, book):
    codes = sae.encode(rows.x).detach().numpy().reshape(DOCUMENTS, LENGTH, D_SAE)
    for feature in range(D_SAE):
        best = np.sort(codes[:, :, feature].max(1))[::-1][:5]
        np.testing.assert_allclose(book.top.activation[feature], best, rtol=1e-5)
        found = book.top.document[feature][book.top.document[feature] >= 0]
        assert len(set(found)) == len(found) == min(5, int((codes[:, :, feature].max(1) > 0).sum()))
        for document, position, value in zip(
            book.top.document[feature], book.top.position[feature], book.top.activation[feature], strict=True
        ):
            assert document < 0 or codes[document, position, feature] == pytest.approx(value)


def test_the_order_and_the_cut_of_the_stream_change_nothing(sae, rows, book):
    order = torch.randperm(len(rows.x), generator=torch.Generator().manual_seed(7))
    other = features.collect(sae, cut(rows, order, 33), top=5)
    for group in ("top", "negatives"):
        for name in ("document", "position"):
            np.testing.assert_array_equal(getattr(getattr(book, group), name), getattr(getattr(other, group), name))
    for one, two in zip(book.quantiles, other.quantiles, strict=True):
        np.testing.assert_array_equal(one.position, two.position)
    np.testing.assert_array_equal(book.histogram, other.histogram)
    np.testing.assert_array_equal(book.together.toarray(), other.together.toarray())


def test_counts_histograms_and_coactivation_are_those_of_the_dense_codes(sae, rows, book):
    codes = sae.encode(rows.x).detach().numpy()
    on = (codes != 0).astype(int)
    np.testing.assert_array_equal(book.count, on.sum(0))
    np.testing.assert_allclose(book.density, on.mean(0))
    assert book.dead == (on.sum(0) == 0).sum()
    np.testing.assert_array_equal(book.together.toarray(), on.T @ on)
    for feature in range(D_SAE):
        edges = np.arange(features.BINS + 1) * book.bin_width[feature]
        values = codes[:, feature][codes[:, feature] != 0]
        if len(values):
            np.testing.assert_array_equal(book.histogram[feature], np.histogram(values, edges)[0])
            assert values.max() > edges[-1] / 2
    latent, index = book.coactivation(1)[0][0]
    jaccard = (on.T @ on)[0] / np.maximum((on[:, :1] | on).sum(0), 1)
    assert index == pytest.approx(np.delete(jaccard, 0).max()) == pytest.approx(jaccard[latent])


def test_quantile_groups_fall_and_negatives_are_silent(sae, rows, book):
    codes = sae.encode(rows.x).detach().numpy().reshape(DOCUMENTS, LENGTH, D_SAE)
    for feature in range(D_SAE):
        groups = [group.activation[feature][group.document[feature] >= 0] for group in book.quantiles]
        for stronger, weaker in zip(groups, groups[1:], strict=False):
            assert not len(stronger) or not len(weaker) or stronger.min() >= weaker.max()
        places = zip(book.negatives.document[feature], book.negatives.position[feature], strict=True)
        assert all(codes[document, position, feature] == 0 for document, position in places if document >= 0)
    assert (book.negatives.document >= 0).mean() > 0.9


def test_a_choice_of_features_gives_the_same_pages(sae, rows, book):
    some = features.collect(sae, cut(rows, torch.arange(len(rows.x)), 50), features=[7, 3], top=5)
    np.testing.assert_array_equal(some.top.position, book.top.position[[7, 3]])
    np.testing.assert_array_equal(some.fired, book.fired)
    assert some.coactivation(4) == [book.coactivation(4)[7], book.coactivation(4)[3]]


@pytest.mark.parametrize("shape", ["native", "gated"])  # layer norm, and RMS norm, which leaves the mean in
def test_logit_effects_are_the_direct_path_through_the_final_norm_of_the_model(shape):
    model, generator = build(shape), torch.Generator().manual_seed(0)
    with torch.no_grad():
        model.bridge.ln_final.weight.uniform_(0.5, 2.0, generator=generator)
    directions = torch.randn(3, 16, generator=generator)
    effects = features.logit_effects(directions, folded(model, "ln_final", model.W_U))
    alone = ((model.final_norm(directions) - model.final_norm(torch.zeros(3, 16))) @ model.W_U).numpy()
    alone = alone - alone.mean(1, keepdims=True)
    unit = [each / np.linalg.norm(each, axis=1, keepdims=True) for each in (effects, alone)]
    np.testing.assert_allclose(*unit, atol=1e-5)
    plain = directions @ model.W_U
    np.testing.assert_allclose(features.logit_effects(directions, model.W_U), plain - plain.mean(1, keepdim=True), atol=1e-5)


def test_a_direction_a_head_writes_has_cosine_one_with_it_and_a_random_one_what_chance_gives():
    generator = torch.Generator().manual_seed(0)
    outputs = torch.randn(3, 8, 64, generator=generator)
    written = torch.randn(5, 8, generator=generator) @ outputs[1]
    cosines = features.head_cosines(7 * written, outputs)
    np.testing.assert_allclose(cosines[:, 1], 1, atol=1e-5)
    random = features.head_cosines(torch.randn(500, 64, generator=generator), outputs)
    assert random.mean() == pytest.approx((8 / 64) ** 0.5, rel=0.03) and cosines[:, 0].mean() < 0.6
    erased = written - written @ torch.linalg.pinv(outputs[1]) @ outputs[1]
    np.testing.assert_allclose(features.head_cosines(erased + 1e-3 * outputs[0, :1], outputs)[:, 1] < 0.6, True)


def test_shares_over_heads_side_by_side_add_to_one_and_find_the_head():
    directions = torch.zeros(2, 12)
    directions[0, 4:8] = -2.0
    directions[1] = 1.0
    np.testing.assert_allclose(features.head_shares(directions, 3), [[0, 1, 0], [1 / 3] * 3], rtol=1e-6)


def test_nearest_by_decoder_finds_the_planted_neighbour(sae):
    with torch.no_grad():
        sae.W_dec[9] = 0.99 * sae.W_dec[4] + 0.01 * sae.W_dec[5]
    ((latent, cosine), *rest) = features.nearest_by_decoder(sae, [4], 3)[0]
    assert latent == 9 and cosine > 0.99 and len(rest) == 2


def test_bad_requests_are_refused(sae, rows):
    with pytest.raises(ConfigError, match=r"latents from 0 to 19, got \[20\]"):
        features.collect(sae, [], features=[20])
    with pytest.raises(TrainingError, match="there are no activations to read features from"):
        features.collect(sae, [])
