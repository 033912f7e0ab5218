"""A neuron's page shows what its triggers are, in the words of its patterns, and what its value says."""

from __future__ import annotations

import pandas as pd
import pytest

from interp import neuron_pages
from interp.mlp.census import census
from interp.mlp.keys import triggers
from interp.mlp.memories import activations, columns
from interp.mlp.patterns import patterns
from interp.mlp.values import value_logits
from interp.models.hooked import Model
from interp.text import resolve
from interp.text.labelled import LabelledText

LAYER, NEURONS = 2, [5, 117, 400]


@pytest.fixture(scope="module")
def shown():
    model = Model.load("stdlib-4l")
    assert model.tokenizer is not None
    documents = [document for document in resolve("stdlib:heldout") if document.name in ("queue.py", "operator.py")]
    text = LabelledText.read(resolve(documents), model.tokenizer, context=model.n_ctx)
    found = triggers(activations(model, text.batches), sampled=1000)
    active = columns(model, text.batches, {LAYER: NEURONS})[LAYER].numpy()
    triggered = found[f"blocks.{LAYER}.mlp.hook_post"]
    view = neuron_pages.dashboard(model, LAYER, text, triggered, NEURONS, active, census=census(model, found))
    return model, text, triggered, active, view


def test_examples_are_the_triggers_with_the_activations_of_the_run(shown):
    _, text, found, active, view = shown
    for place, feature in enumerate(view.features):
        assert feature.id == NEURONS[place]
        first = feature.examples[0]
        row = int(text.first[found.document[0, feature.id]] + found.position[0, feature.id])
        assert first.activations[first.focus] == active[row, place] == pytest.approx(float(found.value[0, feature.id]))
        assert first.token_ids[first.focus] == text.tokens[row]


def test_beside_the_strongest_there_are_weaker_examples_and_places_of_silence(shown):
    _, _, _, _, view = shown
    for feature in view.features:
        peaks = {}
        for example in feature.examples:
            peaks.setdefault(example.group, []).append(float(example.activations[example.focus]))
        groups = ["Top activations", *(f"Quantile {i} of 4" for i in range(1, 5)), "Random negatives"]
        assert list(peaks) == groups
        assert [min(peaks[a]) >= max(peaks[b]) for a, b in zip(groups[1:], groups[2:], strict=False)] == [True] * 4
        assert max(peaks["Random negatives"]) == 0


def test_what_is_boosted_is_what_the_value_says_and_the_words_are_those_of_the_patterns(shown):
    model, text, found, _, view = shown
    logits, said = value_logits(model, LAYER), patterns(found, text)
    for feature in view.features:
        assert [token for token, _ in feature.boosted] == logits[feature.id].topk(8).indices.tolist()
        assert [token for token, _ in feature.suppressed] == (-logits[feature.id]).topk(8).indices.tolist()
        own = said.query("neuron == @feature.id").to_dict("records")
        assert own, "these neurons were chosen for having patterns"
        assert feature.explanation.startswith(f"{own[0]['pattern']} in {own[0]['count']} of ")


def test_the_page_packs_and_has_the_census_numbers(shown):
    view = shown[-1]
    assert view.payload()
    assert set(view.features[0].metrics) == {name.replace("_", " ") for name in neuron_pages.METRICS}
    assert view.total == 768 and view.name == "layer-2"


def test_a_neuron_without_patterns_has_no_words():
    empty = patterns_table().head(0)
    assert neuron_pages.in_words(empty) is None
    assert neuron_pages.in_words(patterns_table()) == "docstring in 9 of 10 strongest examples (0.5 by chance)"


def patterns_table():
    row = {"neuron": 0, "kind": "context", "pattern": "docstring", "count": 9, "triggers": 10, "expected": 0.5}
    return pd.DataFrame([row | {"p": 1e-9, "q": 1e-6}])
