"""Memories of keys and values, against theory and against the layers they stand for."""

from __future__ import annotations

import pytest
import torch
from planted import memory

from interp.errors import ConfigError
from interp.mlp import associative
from interp.superposition import coherence


def pair(n: int, d: int, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    return associative.unit_vectors(n, d, seed=seed), associative.unit_vectors(n, d, seed=seed + 1000)


@pytest.mark.parametrize("n", [8, 32, 128])
@pytest.mark.parametrize(("rule", "store"), [("hebbian", associative.hebbian), ("least_squares", associative.least_squares)])
def test_linear_memories_err_as_theory_says(rule: str, store, n: int) -> None:
    found = []
    for seed in range(30):
        keys, values = pair(n, 32, seed)
        found.append(associative.error(keys @ store(keys, values), values).mean())
    assert torch.stack(found).mean() == pytest.approx(associative.expected_error(n, 32, rule=rule), rel=0.05, abs=1e-5)


def test_orthogonal_keys_are_read_exactly_by_every_memory() -> None:
    keys, values = torch.eye(16), associative.unit_vectors(16, 16, seed=0)
    reads = [
        keys @ associative.hebbian(keys, values),
        keys @ associative.least_squares(keys, values),
        associative.attend(keys, keys, values, temperature=0.03),
        associative.fire(keys, keys, values, threshold=0.0),
    ]
    for read in reads:
        torch.testing.assert_close(read, values, atol=1e-5, rtol=0)


def test_the_mlp_memory_is_exact_at_the_coherence_of_its_keys_and_not_below() -> None:
    keys, values = pair(128, 32)
    at = coherence(keys.numpy())
    torch.testing.assert_close(associative.fire(keys, keys, values, threshold=at), values, atol=1e-5, rtol=0)
    assert associative.error(associative.fire(keys, keys, values, threshold=at - 0.1), values).max() > 1e-4


def test_the_planted_mlp_is_such_a_memory() -> None:
    planted = memory()
    model, keys = planted.model, planted.model.W_E
    values = model.weight("blocks.0.mlp.W_out")[planted.neuron]
    written = model.run(planted.prompts.tokens, read=["blocks.0.hook_mlp_out"]).activations["blocks.0.hook_mlp_out"][:, 0]
    threshold = (1 + planted.coherence) / 2
    torch.testing.assert_close(written, associative.fire(keys, keys, values, threshold=threshold), atol=1e-3, rtol=0)


def test_attention_misses_no_more_than_its_bound_and_reaches_it_at_equal_gaps() -> None:
    keys, _ = pair(64, 32)
    for temperature in (0.02, 0.1, 0.5):
        missed = 1 - (keys @ keys.T / temperature).softmax(-1).diagonal()
        bound = associative.attention_error_bound(64, 1 - float((keys @ keys.T).fill_diagonal_(-1).max()), temperature)
        assert missed.max() <= bound + 1e-6
    scores = torch.tensor([1.0, 0.0, 0.0, 0.0]) / 0.2
    share = float(scores.softmax(0)[1:].sum() / scores.softmax(0)[0])
    assert share == pytest.approx(associative.attention_error_bound(4, 1.0, 0.2), rel=1e-5)


def test_linear_memories_confuse_crowded_keys_and_the_others_do_not() -> None:
    keys, values = pair(256, 32)
    shares = {
        "linear": associative.retrieved(keys @ associative.least_squares(keys, values), values).mean(),
        "attention": associative.retrieved(associative.attend(keys, keys, values, temperature=0.05), values).mean(),
        "mlp": associative.retrieved(associative.fire(keys, keys, values, threshold=0.6), values).mean(),
    }
    assert shares["linear"] < 0.5 and shares["attention"] == shares["mlp"] == 1


def test_bad_sizes_are_told() -> None:
    keys, values = pair(4, 8)
    with pytest.raises(ConfigError, match="temperature=0 must be above 0"):
        associative.attend(keys, keys, values, temperature=0.0)
    with pytest.raises(ConfigError, match="threshold=1 silences every neuron; use one below 1"):
        associative.fire(keys, keys, values, threshold=1.0)
    with pytest.raises(ConfigError, match="no rule 'delta'; choose from hebbian, least_squares"):
        associative.expected_error(4, 8, rule="delta")
