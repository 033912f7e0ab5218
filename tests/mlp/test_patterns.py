"""Planted patterns are found, each by its name; random triggers have none; the chances are those of a simulation."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
import torch
from mlp_cases import text_of

from interp.mlp import patterns as room
from interp.mlp.keys import Triggers, moved
from interp.mlp.patterns import patterns

N_DOCUMENTS, LENGTH = 40, 200


@pytest.fixture(scope="module")
def text():
    """Random tokens from 0 to 19. "seven" holds where the token is 7, "late" in the second half of a document."""
    rng = np.random.default_rng(0)
    documents = rng.integers(0, 20, (N_DOCUMENTS, LENGTH))
    late = np.tile(np.arange(LENGTH) >= LENGTH // 2, N_DOCUMENTS)
    return text_of(list(documents), {"seven": documents.ravel() == 7, "late": late, "column": np.arange(documents.size)})


def triggers_at(*rows: np.ndarray) -> Triggers:
    """One neuron for each array of rows."""
    table = torch.from_numpy(np.stack(rows, axis=1))
    empty = torch.empty(0, dtype=torch.long)
    n = table.shape[1]
    return Triggers(torch.ones(table.shape), table // LENGTH, table % LENGTH, torch.ones(n), 1, torch.empty(0, n), empty, empty)


def some(rows: np.ndarray, count: int = 25, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).permutation(rows)[:count]


def best(table: pd.DataFrame) -> dict[int, tuple[str, str]]:
    first = table.drop_duplicates("neuron")
    return dict(zip(first.neuron, zip(first.kind, first.pattern, strict=True), strict=True))


def test_planted_patterns_are_found_by_their_kind_and_name(text):
    token, after = text.tokens, np.roll(text.tokens, 1)
    second, inside = np.roll(text.tokens, 2), text.position >= 2
    found = triggers_at(
        some(np.flatnonzero(token == 4)),
        some(np.flatnonzero((after == 5) & inside)),
        some(np.flatnonzero((after == 5) & (token == 6) & inside), 15).repeat(2)[:25],  # rare, so each is taken twice
        some(np.flatnonzero(text.labels["late"])),
        some(np.flatnonzero(text.position < 8)),
        some(np.flatnonzero((second == 1) & inside)),  # what no pattern says
        some(np.arange(len(token))),
    )
    assert best(patterns(found, text)) == {
        0: ("token", 'is "t4"'),
        1: ("previous", 'after "t5"'),
        2: ("bigram", 'ends in "t5" "t6"'),
        3: ("context", "late"),
        4: ("position", "first 8 tokens"),
    }


def test_a_label_that_the_token_tells_is_a_class_and_counts_are_not_labels(text):
    kinds = {name: kind for kind, names, _ in room._labels(text) for name in names}
    assert kinds == {"seven": "class", "late": "context", "first 8 tokens": "position", "first 64 tokens": "position"}


def test_random_triggers_have_hardly_ever_a_pattern(text):
    """At a level of 0.05; and planted patterns are lost when triggers are moved."""
    random = triggers_at(*(some(np.arange(len(text.tokens)), seed=seed) for seed in range(300)))
    assert len(best(patterns(random, text))) <= 3
    planted = triggers_at(*(some(np.flatnonzero(text.tokens == seed % 20), seed=seed) for seed in range(60)))
    assert len(best(patterns(planted, text))) == 60
    null = moved(planted, np.full(N_DOCUMENTS, LENGTH), seed=0)
    assert len(best(patterns(null, text))) <= 1


def test_a_property_that_fills_its_documents_is_no_finding():
    """All triggers in three documents that consist of the label: as many would hold for random tokens of those documents."""
    rng = np.random.default_rng(0)
    documents = rng.integers(0, 20, (N_DOCUMENTS, LENGTH))
    full = np.repeat(np.arange(N_DOCUMENTS) < 3, LENGTH)
    text = text_of(list(documents), {"full": full})
    found = triggers_at(some(np.flatnonzero(full)), some(np.flatnonzero(text.tokens == 3)))
    assert best(patterns(found, text)) == {1: ("token", 'is "t3"')}


def test_triggers_that_are_not_above_zero_do_not_count(text):
    rows = some(np.flatnonzero(text.tokens == 4))
    found = triggers_at(rows, rows)
    found.value[2:, 1] = 0.0
    assert set(best(patterns(found, text))) == {0}


def test_the_tail_is_that_of_a_simulation():
    rng = np.random.default_rng(0)
    chance = rng.uniform(0, 0.4, (25, 4))
    at_least = np.array([1, 4, 8, 12])
    drawn = (rng.random((50_000, 25, 4)) < chance).sum(1)
    np.testing.assert_allclose(room._tail(chance, at_least), (drawn >= at_least).mean(0), atol=0.01)


def test_the_tail_of_equal_chances_is_binomial():
    from scipy.stats import binom

    got = room._tail(np.full((25, 3), 0.01), np.array([0, 3, 20]))
    np.testing.assert_allclose(got, binom.sf(np.array([-1, 2, 19]), 25, 0.01), rtol=1e-9)


def test_q_values_are_benjamini_and_hochbergs():
    from scipy.stats import false_discovery_control

    p = np.random.default_rng(0).random(50) ** 3
    np.testing.assert_allclose(room._q_values(p, 50), false_discovery_control(p))
    np.testing.assert_allclose(room._q_values(p, 100), false_discovery_control(np.append(p, np.ones(50)))[:50])


def test_no_triggers_have_no_patterns_and_short_documents_no_trigrams(text):
    found = triggers_at(some(np.arange(100)))
    found.value.zero_()
    assert len(patterns(found, text)) == 0
    short = text_of([[1, 2], [1, 2], [3, 4], [1, 5]], {})
    empty = torch.empty(0, dtype=torch.long)
    document, position = torch.tensor([[0], [1], [3]]), torch.zeros(3, 1, dtype=torch.long)
    found = Triggers(torch.ones(3, 1), document, position, torch.ones(1), 8, torch.empty(0, 1), empty, empty)
    assert len(patterns(found, short)) == 0  # three times token 1, as half of the tokens there are
