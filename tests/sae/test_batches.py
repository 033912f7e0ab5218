"""Batches from a store: whole ones, every row once per epoch, a new order each time."""

from itertools import islice
from types import SimpleNamespace

import pytest
import torch

from interp.activations import ActivationBatch, ActivationStore, Header
from interp.errors import TrainingError
from interp.sae.batches import entered, epochs, pair_of, rows_of, shuffled, side_by_side


@pytest.fixture
def store(tmp_path) -> ActivationStore:
    rows = torch.arange(100.0)[:, None].expand(100, 4).contiguous()
    places = torch.arange(100)
    batch = ActivationBatch({"h": rows}, tokens=places, document=places * 0, position=places, shapes={"h": (4,)})
    return ActivationStore.write(tmp_path / "store", [batch], Header(model="m", model_fingerprint="f", hooks=("h",), context=8))


def test_an_epoch_gives_every_row_of_its_whole_batches_once_and_the_next_epoch_another_order(store):
    batches = list(islice(epochs(store, "h", rows=25, seed=3), 8))
    assert all(batch.shape == (25, 4) for batch in batches)
    first, second = (torch.cat(part)[:, 0].long().tolist() for part in (batches[:4], batches[4:]))
    assert sorted(first) == sorted(second) == list(range(100))
    assert first != second


def test_a_batch_larger_than_the_store_is_refused_rather_than_waited_for(store):
    with pytest.raises(
        TrainingError, match="the store holds 100 rows, fewer than one batch of 101; harvest more, or pass rows=100"
    ):
        next(epochs(store, "h", rows=101))


def test_a_shuffle_buffer_gives_every_row_once_in_full_batches():
    rows = torch.arange(1000.0)[:, None]
    out = list(shuffled(rows.split(70), rows=64, buffer=300))
    flat = torch.cat(out).flatten()
    assert {len(batch) for batch in out} == {64}
    assert len(flat) == 1000 // 64 * 64 == len(flat.unique())
    assert not torch.equal(flat, flat.sort().values)
    assert torch.equal(torch.cat(list(shuffled(rows.split(70), rows=64, buffer=300))).flatten(), flat)


def test_a_stream_entered_late_gives_the_batches_of_one_that_was_read_through(store):
    through = list(islice(epochs(store, "h", rows=30, seed=3), 9))
    for start in range(9):
        late = islice(epochs(store, "h", rows=30, seed=3, start=start), 9 - start)
        assert all(torch.equal(a, b) for a, b in zip(late, through[start:], strict=True))
    assert list(entered([0, 1, 2, 3], 2)) == list(entered(lambda step: range(step, 4), 2)) == [2, 3]


def test_rows_of_several_hooks_or_streams_lie_side_by_side():
    a, b = torch.randn(3, 2), torch.randn(3, 4)
    batch = SimpleNamespace(activations={"a": a, "b": b})
    assert torch.equal(rows_of(batch, ("b", "a")), torch.cat([b, a], dim=1))
    assert torch.equal(next(side_by_side([a], [batch], hooks=[None, "b"])), torch.cat([a, b], dim=1))
    inputs, targets = pair_of(batch, "a", "b")
    assert inputs is a and targets is b
    assert pair_of((a, b), None, None) == (a, b)


def test_streams_on_other_tokens_are_not_laid_side_by_side():
    a = torch.randn(3, 2)
    with pytest.raises(TrainingError, match="the streams have 3, 2 rows at batch 1; harvest them on the same tokens"):
        list(side_by_side([a, a], [a, a[:2]]))
    with pytest.raises(TrainingError, match="the streams have 3, 0 rows at batch 1"):
        list(side_by_side([a, a], [a]))
