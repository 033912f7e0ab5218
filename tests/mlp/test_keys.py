"""Triggers against sorting everything; shards, strata and negatives; the null that moves them."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from interp.activations.batch import ActivationBatch
from interp.errors import ConfigError
from interp.mlp.keys import Triggers, TriggerStream, moved, triggers

HOOK = "blocks.0.mlp.hook_post"


def stream(rows: int = 230, width: int = 6, batch: int = 50) -> tuple[torch.Tensor, list[ActivationBatch]]:
    """Activations of a planted corpus: row i is position i % 10 of document i // 10."""
    values = torch.randn(rows, width, generator=torch.Generator().manual_seed(0))
    i = torch.arange(rows)
    parts = [torch.arange(rows)[start : start + batch] for start in range(0, rows, batch)]
    return values, [ActivationBatch({HOOK: values[p]}, i[p] % 7, i[p] // 10, i[p] % 10, {HOOK: (width,)}) for p in parts]


def same(a: Triggers, b: Triggers) -> bool:
    names = ("value", "document", "position", "density", "sample_value", "sample_document", "sample_position")
    return a.rows == b.rows and all(torch.equal(getattr(a, name), getattr(b, name)) for name in names)


def test_triggers_equal_sorting_all_activations():
    values, batches = stream()
    found = triggers(iter(batches), top=8)[HOOK]
    slow = values.sort(dim=0, descending=True)
    assert torch.equal(found.value, slow.values[:8])
    assert torch.equal(found.document * 10 + found.position, slow.indices[:8])
    torch.testing.assert_close(found.density, (values > 0).double().mean(0), check_dtype=False)
    assert found.rows == 230


def test_shards_merge_to_what_one_pass_finds_in_any_order_and_any_batches():
    values, batches = stream()
    whole = triggers(batches, top=8, sampled=40)[HOOK]
    shards = [TriggerStream(top=8, sampled=40) for _ in range(3)]
    for place, batch in enumerate(stream(batch=17)[1][::-1]):
        shards[place % 3].update(batch)
    assert same(whole, shards[2].merge(shards[0]).merge(shards[1]).compute()[HOOK])


def test_shards_that_keep_different_things_are_refused():
    with pytest.raises(ConfigError, match=r"keep \(top, sampled, seed\) = \(25, 256, 0\) and \(8, 256, 0\) cannot be merged"):
        TriggerStream().merge(TriggerStream(top=8))


def test_memory_does_not_grow_with_the_corpus():
    def numbers_kept(batches):
        state = TriggerStream(top=4, sampled=16)
        for batch in batches:
            state.update(batch)
        hook = state._hooks[HOOK]
        entries = sum(len(part.value) for part in (*hook.strongest._kept, *hook.strongest._waiting))
        assert hook.sample._values is not None
        return entries, hook.sample._values.numel()

    for rows in (2_000, 20_000):
        entries, sampled = numbers_kept(stream(rows=rows)[1])
        assert entries <= 2 * 4 * 6
        assert sampled == 16 * 6


def test_a_corpus_shorter_than_top_gives_all_of_it():
    found = triggers(stream(rows=3)[1], top=8)[HOOK]
    assert found.value.shape == (3, 6)
    assert len(found.sample_value) == 3


def test_the_strongest_examples_are_the_first_of_the_triggers():
    found = triggers(stream()[1])[HOOK]
    strongest = found.strongest(4, 7)
    assert strongest.value.tolist() == found.value[:7, 4].tolist()
    assert strongest.position.tolist() == found.position[:7, 4].tolist()


def test_strata_are_random_examples_of_the_neurons_own_quarters_strongest_first():
    values, batches = stream()
    found = triggers(batches, sampled=230)[HOOK]  # all rows
    positive = values[:, 2][values[:, 2] > 0].sort(descending=True).values.numpy()
    for part, quarter in zip(found.strata(2, each=5), np.array_split(positive, 4), strict=True):
        assert len(part.value) == 5
        assert set(part.value) <= set(quarter)
        assert list(part.value) == [float(values[row, 2]) for row in part.document * 10 + part.position]


def test_negatives_are_places_where_the_neuron_is_silent():
    values, batches = stream()
    found = triggers(batches).get(HOOK)
    assert found is not None
    silent = found.silent(1, 6)
    assert len(silent.value) == 6
    assert (values[silent.document * 10 + silent.position, 1] <= 0).all()


def test_a_dead_neuron_has_no_examples_but_negatives():
    _, batches = stream()
    for batch in batches:
        batch.activations[HOOK].copy_(batch.activations[HOOK].clamp(max=0))
    found = triggers(batches)[HOOK]
    assert len(found.strongest(0, 5).value) == 0
    assert [len(part.value) for part in found.strata(0)] == [0, 0, 0, 0]
    assert len(found.silent(0, 3).value) == 3
    assert found.density.tolist() == [0.0] * 6


def test_moved_triggers_stay_in_their_documents_and_at_their_distances_and_leave_their_places():
    _, batches = stream()
    found = triggers(batches)[HOOK]
    null = moved(found, np.full(23, 10), seed=0)
    assert torch.equal(null.document, found.document)
    assert torch.equal(null.value, found.value)
    shift = (null.position - found.position) % 10
    assert (shift > 0).all()
    for document in range(23):
        assert len(shift[found.document == document].unique()) <= 1


def test_no_activations_are_refused():
    with pytest.raises(ConfigError, match="triggers got no activations; give at least one batch"):
        triggers([])
    with pytest.raises(ConfigError, match="triggers got no activations; give at least one batch"):
        triggers([stream()[1][0].head(0)])
