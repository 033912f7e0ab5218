"""E16: its parts against planted numbers, its planted section in full; the trained section runs in the quick form."""

from __future__ import annotations

from types import ModuleType

import numpy as np
import pytest
import torch
from experiment_cases import module_of

from interp.measurement import Measurement
from interp.mlp import recall
from interp.models import zoo
from interp.report import Report
from interp.tasks.facts import world


@pytest.fixture(scope="module")
def e16() -> ModuleType:
    return module_of("E16")


def test_a_lead_is_taken_over_the_strongest_rival(e16: ModuleType) -> None:
    values = np.zeros((3, 2, 2))
    values[:, 0, 1], values[:, 1, 0], values[:, 1, 1] = 0.7, 0.2, 0.4
    effect = Measurement("effect", values, ("example", "layer", "role"), {"role": ["first subject", "last subject"]})
    found = e16.lead(effect, seed=0)
    assert (found.value, found.low, found.high) == pytest.approx((0.3, 0.3, 0.3))


def test_explained_variance_is_one_for_equal_orders_and_small_for_unrelated_numbers(e16: ModuleType) -> None:
    x = np.random.default_rng(0).normal(size=200)
    assert e16.explained(x, np.exp(x), seed=0).low == pytest.approx(1)
    assert e16.explained(x, np.random.default_rng(1).normal(size=200), seed=0).high < 0.1


@pytest.mark.slow
def test_what_was_planted_is_found(e16: ModuleType) -> None:
    report = Report("E16", "planted")
    e16.report_planted(e16.Config(traced=24, edited=16, samples=2), report, world(32, 3, 16))
    assert {claim.id.removeprefix("E16."): claim.verdict for claim in report.claims} == dict.fromkeys(
        ("planted-trace", "planted-peak", "planted-neuron", "planted-edit", "planted-specificity"), "PASS"
    )
    for claim in report.claims:
        assert claim.control is not None and claim.target is not None and not claim.target.holds(*claim.control.ends), claim.id


@pytest.mark.slow
def test_a_small_transformer_learns_its_world_also_in_words_it_was_not_asked_in() -> None:
    recipe = zoo.FactRecipe(subjects=32, objects=8, steps=250, n_layers=2)
    model = zoo.train(recipe).model
    ways = range(4)
    known = torch.cat([recall.is_first(model, recipe.world.prompts(recipe.world.facts, way)) for way in ways])
    held_out = torch.cat([recipe.world.is_held_out(recipe.world.facts, way) for way in ways])
    assert known[~held_out].float().mean() > 0.95 and known[held_out].float().mean() > 0.9
