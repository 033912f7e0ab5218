"""Claims about fine-tuning: a copy learns what is asked, in the parts that were named and nowhere else."""

import pytest
import torch
from model_shapes import case_of

from interp.errors import ModelError
from interp.models.batches import Batch
from interp.models.changes import matrices
from interp.models.finetuning import fine_tuned
from interp.models.training import constant


def asked(case, n):
    """The token after the next, a few times."""
    return [Batch(tokens=case.tokens, targets=case.tokens[:, 2:])] * n


@pytest.mark.parametrize("rank", [None, 2])
@pytest.mark.parametrize(
    "shape, part", [("native", "blocks.1.attn.q"), ("gpt2", "blocks.1.mlp.out"), ("decoder", "blocks.0.mlp.in")]
)
def test_only_the_parts_named_change_and_the_loss_falls(shape, part, rank):
    case = case_of(shape)
    before = case.run().logits
    tuned = fine_tuned(case.model, asked(case, 20), [part], schedule=constant(1e-2), rank=rank)
    changed = matrices(case.model, tuned).query("change > 0")
    assert len(changed) == 1 and (rank is None or changed["effective rank"].item() <= rank + 1e-6)
    assert torch.equal(case.run().logits, before), "the model itself stays"

    def loss(model):
        logits = model.run(case.tokens).logits[:, :-2]
        return float(torch.nn.functional.cross_entropy(logits.flatten(0, 1), case.tokens[:, 2:].flatten()))

    assert loss(tuned) < loss(case.model)


def test_the_same_seed_gives_the_same_weights_and_another_seed_others():
    case = case_of("decoder")
    first, again, other = (
        fine_tuned(case.model, asked(case, 2), ["blocks.0.attn.q"], schedule=constant(1e-2), rank=2, seed=seed).fingerprint
        for seed in (0, 0, 1)
    )
    assert first == again != other


def test_parts_that_do_not_exist_are_told():
    case = case_of("decoder")
    for rank in (None, 2):
        with pytest.raises(ModelError, match="no part 'blocks.0.attn.query'"):
            fine_tuned(case.model, asked(case, 1), ["blocks.0.attn.query"], schedule=constant(1e-2), rank=rank)
