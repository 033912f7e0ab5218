"""Every blind spot has the truth it declares, and misleads the method it names."""

from __future__ import annotations

from functools import cache

import edges_by_hand as by_hand
import numpy as np
import pytest
import torch

from interp.heads import edge_attribution, paths
from interp.models.blind_spots import BLIND_SPOTS, BlindSpot
from interp.models.compiled import induction
from interp.tasks.contrast import Contrast

METRIC = Contrast.logit_difference


@cache
def spot(name: str) -> BlindSpot:
    return BLIND_SPOTS[name]()


@cache
def contrast(name: str) -> Contrast:
    return spot(name).known.contrast(24, seed=1)


def exact(name: str, *edges: str, **options) -> np.ndarray:
    """The effect of these edges together, by example."""
    return paths.effect(spot(name).known.model, contrast(name), METRIC, edges, **options).values


def largest(name: str, **options) -> dict[str, float]:
    found = paths.effects(spot(name).known.model, contrast(name), METRIC, **options)
    return dict(zip(found.coords["edge"], np.abs(found.values).max(1), strict=True))


@pytest.mark.parametrize("name", [name for name in BLIND_SPOTS if name != "saturated softmax"])
@pytest.mark.parametrize("ablation", ["corrupt", "zero", "mean"])
def test_exactly_the_declared_edges_matter(name, ablation):
    known = spot(name).known
    effects = by_hand.effects(known.model, contrast(name), ablation)
    assert {edge for edge, effect in effects.items() if effect.abs().max() > 1e-4} == known.circuits[ablation]


@pytest.mark.parametrize("name", BLIND_SPOTS)
def test_what_is_missed_or_invented_are_edges_of_the_model(name):
    each = spot(name)
    assert each.misses | each.invents <= set(by_hand.edges(each.known.model))
    assert not each.misses & each.invents
    assert len(each.known.labels) == each.known.model.d_model


def test_a_saturated_softmax_hides_edges_from_eap_and_not_from_eap_ig():
    each, asked = spot("saturated softmax"), contrast("saturated softmax")
    effects = largest("saturated softmax")
    eap, ig = (method(each.known.model, asked) for method in (edge_attribution.eap, edge_attribution.eap_ig))
    for edge in each.misses:
        assert effects[edge] > 5
        assert np.abs(eap.sel(edge=edge).values).max() < 0.001
        assert abs(ig.sel(edge=edge).values.mean()) > 0.1


def test_of_redundant_heads_noising_sees_none_and_denoising_each():
    each = spot("redundant heads")
    noising, swapped = largest("redundant heads"), contrast("redundant heads").swapped()
    denoising = paths.effects(each.known.model, swapped, METRIC)
    for edge in each.misses:
        assert noising[edge] < 1e-5
        assert denoising.sel(edge=edge).values.min() == pytest.approx(1.0, abs=1e-4)
    np.testing.assert_allclose(exact("redundant heads", "a0.h0->m0", "a0.h1->m0"), -1, atol=1e-4)


def test_cancelling_heads_matter_one_by_one_and_not_together():
    effects = largest("cancelling heads")
    assert min(effects[edge] for edge in spot("cancelling heads").invents) > 0.5
    assert np.abs(exact("cancelling heads", "a0.h1->logits", "a0.h2->logits")).max() < 1e-5


def test_a_constant_head_matters_to_zero_ablation_alone():
    zero, corrupt = (largest("constant head", replacement=each) for each in ("zero", "corrupt"))
    for edge in spot("constant head").invents:
        assert zero[edge] > 0.4
        assert corrupt[edge] < 1e-6


def test_an_unused_direction_has_the_largest_composition_and_no_effect():
    model = spot("unused direction").known.model
    writes = model.W_V[0, 0] @ model.W_O[0, 0]
    scores = model.W_Q[1, 0] @ model.W_K[1, 0].T
    heard = (writes @ scores.T).norm() / (torch.linalg.matrix_norm(writes, 2) * scores.norm())
    assert heard == pytest.approx(1.0, abs=1e-5)
    assert largest("unused direction")["a0.h0->a1.h0<k>"] < 1e-6


def test_a_rotated_basis_changes_every_dimension_and_no_logit():
    plain, turned = induction().model, spot("rotated basis").known.model
    tokens = contrast("rotated basis").clean
    torch.testing.assert_close(turned.run(tokens).logits, plain.run(tokens).logits, atol=1e-3, rtol=0)
    assert plain.W_E.abs().amax(1).min() == 1 and turned.W_E.abs().amax(1).max() < 0.6


def test_through_a_leaking_scale_what_is_orthogonal_to_all_logits_has_an_effect():
    model = spot("leaking scale").known.model
    written = by_hand.writes(model, contrast("leaking scale").clean)["a0.h1"]
    assert float((written @ model.W_U).abs().max()) == 0
    assert largest("leaking scale")["a0.h1->logits"] > 0.1


def test_superposed_writes_lie_along_what_neurons_read_and_do_nothing():
    model = spot("superposed writes").known.model
    written = by_hand.writes(model, contrast("superposed writes").clean)["a0.h1"][:, -1]
    assert float((written @ model.weight("blocks.0.mlp.W_in")).abs().amax(1).min()) > 1
    assert largest("superposed writes")["a0.h1->m0"] < 1e-5
