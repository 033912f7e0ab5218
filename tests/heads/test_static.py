"""Numbers for edges from weights, direct effects and chance: each against what it says it is."""

from __future__ import annotations

from functools import cache

import numpy as np
import pytest

from interp.heads import paths, static
from interp.heads.graph import Graph
from interp.models.blind_spots import BLIND_SPOTS, BlindSpot
from interp.models.compiled import induction
from interp.models.rasp_circuits import compiled_task
from interp.tasks.contrast import Contrast

METRIC = Contrast.logit_difference


@cache
def spot(name: str) -> BlindSpot:
    return BLIND_SPOTS[name]()


def test_without_a_norm_the_direct_effect_is_that_of_setting_the_last_edge_to_zero():
    known = spot("cancelling heads").known
    contrast = known.contrast(6, seed=0)
    found = static.direct_effects(known.model, contrast, METRIC)
    zero = paths.effects(known.model, contrast, METRIC, replacement="zero")
    last = [edge for edge in found.coords["edge"] if edge.endswith("->logits")]
    for edge in last:
        np.testing.assert_allclose(found.sel(edge=edge).values, zero.sel(edge=edge).values, atol=1e-5)
    rest = [edge for edge in found.coords["edge"] if edge not in last]
    assert len(last) == 5 and not any(found.sel(edge=edge).values.any() for edge in rest)
    assert abs(found.sel(edge="a0.h0->logits").values).min() > 0.5


def test_the_direct_effect_is_asked_where_the_contrast_asks():
    known = induction()
    contrast = known.contrast(6, seed=0)
    edge = "a1.h0->logits"
    found = static.direct_effects(known.model, contrast, METRIC).sel(edge=edge).values
    exact = paths.effects(known.model, contrast, METRIC, [edge], replacement="zero").values[0]
    np.testing.assert_allclose(found, exact, atol=1e-4)


def test_a_frozen_scale_hides_what_is_orthogonal_to_all_logits():
    known = spot("leaking scale").known
    contrast = known.contrast(6, seed=0)
    assert np.abs(static.direct_effects(known.model, contrast, METRIC).sel(edge="a0.h1->logits").values).max() < 1e-6


def test_weights_compose_fully_where_one_reads_all_that_another_writes_though_nothing_happens():
    known = spot("unused direction").known
    contrast = known.contrast(3, seed=0)
    found = static.composition(known.model, contrast, METRIC)
    read = found.sel(edge="a0.h0->a1.h0<k>").values
    assert read.shape == (3,) and read == pytest.approx(np.full(3, read[0]))
    assert read[0] == found.values.max() > 0.4
    assert np.abs(found.sel(edge="a0.h0->a1.h0<q>").values).max() == 0


def test_composition_is_the_ratio_of_norms_for_queries_values_neurons_and_logits():
    known = spot("superposed writes").known
    model, contrast = known.model, known.contrast(2, seed=0)
    found = static.composition(model, contrast, METRIC)
    written = model.W_V[0, 1] @ model.W_O[0, 1]
    read = model.weight("blocks.0.mlp.W_in")
    expected = float((written @ read).norm() / written.norm() / read.norm())
    assert found.sel(edge="a0.h1->m0").values == pytest.approx(np.full(2, expected))
    assert set(found.coords["edge"]) == set(map(str, Graph.of(model).edges))


@pytest.mark.parametrize("method", [static.direct_effects, static.composition])
def test_an_encoder_is_served(method):
    known = compiled_task("hist").compiled
    found = method(known.model, known.contrast(2, seed=0), METRIC)
    assert np.isfinite(found.values).all() and found.values.any()


def test_chance_follows_the_contrast_and_is_one_number_per_edge_or_node():
    known = induction()
    draws = [static.chance(known.model, known.contrast(4, seed=seed), METRIC).values for seed in (0, 0, 1)]
    assert np.array_equal(draws[0], draws[1]) and not np.array_equal(draws[0], draws[2])
    assert draws[0].shape == (81, 4) and np.ptp(draws[0], axis=1).max() == 0
    nodes = static.chance(known.model, known.contrast(4, seed=0), METRIC, nodes=True)
    assert nodes.dims == ("node", "example") and list(nodes.coords["node"]) == list(Graph.of(known.model).writers)
