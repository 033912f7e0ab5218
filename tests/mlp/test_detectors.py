"""Neurons that tell labels: by what they read on a text, by what they write on its tokens; controls stand beside them."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from mlp_cases import model_of, text_of

from interp.errors import ConfigError
from interp.mlp import detectors
from interp.mlp.keys import Triggers
from interp.mlp.values import value_logits

N, DOCUMENTS, NEURONS = 240, 12, 5


@pytest.fixture(scope="module")
def text():
    rng = np.random.default_rng(0)
    tokens = rng.integers(0, 12, (DOCUMENTS, N // DOCUMENTS))
    return text_of(list(tokens), {"low": (tokens < 4).ravel(), "odd": rng.random(N) < 0.3}, d_vocab=50)


def sample(text, *, seed: int) -> Triggers:
    """Activations of all tokens; neuron 2 fires on those below 4."""
    value = torch.from_numpy(np.random.default_rng(seed).random((N, NEURONS))).float()
    value[:, 2] = torch.from_numpy(text.labels["low"]).float() + 0.1 * value[:, 2]
    empty = torch.zeros(1, NEURONS)
    return Triggers(
        empty, empty.long(), empty.long(), empty[0], N, value, torch.from_numpy(text.document), torch.from_numpy(text.position)
    )


def test_the_neuron_that_reads_a_label_is_found_and_a_rotation_hides_it(text):
    own, other = sample(text, seed=1), replace(sample(text, seed=2), sample_value=torch.rand(N, NEURONS))
    turned = {"turned": torch.linalg.qr(torch.randn(NEURONS, NEURONS, generator=torch.Generator().manual_seed(0))).Q}
    table = detectors.reading([own, other], text, others={"other": [other, other]}, turned=turned, resamples=5)
    low = table[table.label == "low"].set_index(["layer", "source"])
    assert low.loc[(0, "columns"), "column"] == 2 and low.loc[(0, "columns"), "f1"] == 1
    assert low.loc[(0, "turned"), "f1"] < 1 and low.loc[(0, "other"), "f1"] < 0.8 and low.loc[(1, "columns"), "f1"] < 0.8


def test_samples_of_other_tokens_are_refused(text):
    own = sample(text, seed=1)
    other = replace(own, sample_position=own.sample_position.roll(1))
    with pytest.raises(ConfigError, match="other was sampled on other tokens; draw its triggers with the same text and seed"):
        detectors.reading([own], text, others={"other": [other]}, turned={}, resamples=5)


def test_the_neuron_that_writes_a_labels_tokens_is_found(text, monkeypatch):
    model, rival = model_of("gelu"), model_of("relu")
    known, labels = text.labels_of_tokens(least=2)
    monkeypatch.setattr(type(text), "labels_of_tokens", lambda self: (known, labels))
    assert set(labels) == {"low"}, "a token is below 4 or not, at all of its places"

    def planted(of, layer):
        logits = value_logits(of, layer).clone()
        if of is model and layer == 1:
            logits[6] = (torch.arange(50) < 4).float()
        return logits

    monkeypatch.setattr(detectors, "value_logits", planted)
    table = detectors.writing(model, text, others={"rival": rival}, resamples=5).set_index(["layer", "source"])
    assert table.loc[(1, "columns"), "column"] == 6 and table.loc[(1, "columns"), "f1"] == 1
    assert {"columns", "rival", "shuffled"} == set(table.index.get_level_values("source"))
