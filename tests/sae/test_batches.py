"""Batches from a store: whole ones, every row once per epoch, a new order each time."""

from itertools import islice

import pytest
import torch

from interp.activations import ActivationBatch, ActivationStore, Header
from interp.errors import TrainingError
from interp.sae.batches import epochs


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
