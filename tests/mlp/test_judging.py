"""Scores of edits and of neurons in planted worlds, where what changes is known exactly."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from interp import stats
from interp.mlp.judging import edit_scores, neuron_scores, worded
from interp.models.memories import planted_world
from interp.tasks.facts import World, world

FACT = torch.tensor([3, 1])
WAYS = {"asked": (0, 2), "unasked": (1, 3)}


@pytest.fixture(scope="module")
def known() -> World:
    return world(32, 3, 8)


@pytest.fixture(scope="module")
def model(known: World):
    return planted_world(known)


def changed(known: World, *facts: torch.Tensor) -> World:
    """The world with other objects for some facts."""
    answers = known.answers.clone()
    for fact in facts:
        answers[fact[0], fact[1]] = known.other_objects(fact[None])[0]
    return replace(known, answers=answers)


def test_no_edit_changes_nothing(known: World, model) -> None:
    wanted = known.other_objects(FACT[None])[0]
    stays = dict.fromkeys(("specificity", "neighbours", "same person"), 1.0)
    assert edit_scores(model, model, known, FACT, wanted, **WAYS) == {"success": 0.0, "paraphrase": 0.0} | stays


def test_an_exact_edit_has_full_marks(known: World, model) -> None:
    other = changed(known, FACT)
    found = edit_scores(model, planted_world(other), known, FACT, other.answers[3, 1], **WAYS)
    assert found == dict.fromkeys(("success", "paraphrase", "specificity", "neighbours", "same person"), 1.0)


def test_what_else_changes_counts_where_it_belongs(known: World, model) -> None:
    had = (known.answers[:, 1] == known.answers[3, 1]).nonzero().flatten()
    neighbour = torch.tensor([int(had[had != 3][0]), 1])
    other = changed(known, FACT, torch.tensor([3, 0]), neighbour)
    found = edit_scores(model, planted_world(other), known, FACT, other.answers[3, 1], **WAYS)
    assert found["success"] == 1 and found["same person"] == 0.5
    assert found["neighbours"] == pytest.approx(1 - 1 / 3) and found["specificity"] == pytest.approx(1 - 1 / (31 * 3))


def test_wording_counts_each_way_of_asking(known: World, model) -> None:
    right = known.answers[FACT[0], FACT[1]][None]
    assert worded(model, known, FACT[None], right, (0, 1, 2, 3)) == 1
    assert worded(model, known, FACT[None], known.other_objects(FACT[None]), (0, 1)) == 0


def test_silencing_a_persons_own_neuron_loses_their_facts_and_no_others(known: World, model) -> None:
    everyone = torch.ones(len(known.facts), dtype=torch.bool)
    neurons = {4: [(0, int(known.facts[4, 0]))], 7: []}
    table = neuron_scores(model, known, neurons, everyone, layer=0, generator=stats.torch_generator(0)).set_index("fact")
    assert table.loc[4, "own, silenced"] < -0.9 and abs(table.loc[4, "others, silenced"]) < 1e-6
    assert abs(table.loc[4, "own, random silenced"]) < 1e-6
    assert table.loc[7, ["neurons", "own, silenced", "own, random silenced"]].tolist() == [0, 0, 0]
