"""What autoencoders read while they train is on one scale, part by part, and what cannot be trained on is named."""

import pytest
import torch

from interp.errors import TrainingError
from interp.sae.activation_functions import TopK
from interp.sae.autoencoder import SparseAutoencoder
from interp.sae.feeds import Feed


def rows(n, d, *, size=1.0, offset=0.0, seed=0):
    return size * torch.randn(n, d, generator=torch.Generator().manual_seed(seed)) + offset


def fed(sae, batch, hook=None, target=None):
    """The batch as `sae` sees it, once the scales are measured on it."""
    feed = Feed(sae, hook, target)
    feed.measure([batch], [sae])
    return feed.rows(batch, 0)


def spread(x):
    return float((x - x.mean(0)).square().sum(1).mean())


def test_inputs_and_targets_of_a_transcoder_are_scaled_apart():
    sae = SparseAutoencoder(4, 8, activation=TopK(2), d_out=6)
    x, y = rows(500, 4, size=30), rows(500, 6, size=0.1, offset=7.0, seed=1)
    seen = fed(sae, (x, y))
    assert spread(seen.inputs) == pytest.approx(1, rel=1e-5) and spread(seen.targets) == pytest.approx(1, rel=1e-3)
    torch.testing.assert_close(sae.b_dec.detach(), seen.targets.mean(0), rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(sae(x), sae.decode(sae.encode(x)))


def test_each_part_of_a_crosscoder_weighs_as_much_as_the_others():
    sae = SparseAutoencoder(10, 8, activation=TopK(2), parts={"early": 4, "late": 6})
    early, late = fed(sae, torch.cat([rows(500, 4), rows(500, 6, size=1e3, seed=1)], 1)).inputs.split([4, 6], 1)
    assert spread(early) == pytest.approx(0.5, rel=1e-4) and spread(late) == pytest.approx(0.5, rel=1e-4)
    assert sae.scale.shape == (10,) and len(sae.scale.unique()) == 2


def test_a_batch_adds_its_squares_and_its_total_to_the_spread():
    sae = SparseAutoencoder(4, 8, activation=TopK(2))
    seen = fed(sae, rows(50, 4).bfloat16())
    assert seen.inputs is seen.targets and seen.inputs.dtype is torch.float32
    assert float(seen.squares) == pytest.approx(float(seen.targets.square().sum()), rel=1e-5)
    torch.testing.assert_close(seen.total, seen.targets.sum(0))


def test_rows_that_are_all_alike_keep_their_scale():
    sae = SparseAutoencoder(4, 8, activation=TopK(2))
    assert torch.equal(fed(sae, torch.ones(50, 4)).inputs, torch.ones(50, 4))


def test_the_rows_that_come_in_are_left_as_they_are():
    x = rows(50, 4, size=9)
    before = x.clone()
    fed(SparseAutoencoder(4, 8, activation=TopK(2)), x)
    assert torch.equal(x, before)


@pytest.mark.parametrize(
    ("transcodes", "batch", "message"),
    [
        (True, rows(5, 4), r"batch 3 has no targets for a transcoder; pass pairs \(inputs, targets\), or name the target hook"),
        (
            False,
            (rows(5, 4), rows(5, 4)),
            "batch 3 has targets, but an autoencoder reconstructs what it reads; build a transcoder",
        ),
        (True, (rows(5, 4), rows(5, 5)), r"batch 3 of shape \(5, 5\) .* does not fit d_out=6; use activations with 6 dimensions"),
        (True, (rows(5, 4), rows(6, 6)), "batch 3 has 5 rows of inputs and 6 of targets; pair them row by row"),
        (False, torch.zeros(0, 4), r"batch 3 has shape \(0, 4\); training wants rows \[row d\]"),
        (False, torch.tensor(1.0), r"batch 3 of shape \(\) .* does not fit d_in=4"),
        (False, rows(5, 4).index_fill(0, torch.tensor(2), float("nan")), "batch 3 holds 4 non-finite values of 20; drop those"),
    ],
)
def test_a_batch_that_cannot_be_trained_on_is_named(transcodes, batch, message):
    sae = SparseAutoencoder(4, 8, activation=TopK(2), d_out=6 if transcodes else None)
    with pytest.raises(TrainingError, match=message):
        Feed(sae, None, None).rows(batch, 3)


def test_large_but_finite_rows_are_not_taken_for_broken_ones():
    sae = SparseAutoencoder(4, 8, activation=TopK(2))
    assert Feed(sae, None, None).rows(torch.full((50, 4), 3e38), 0).inputs.isfinite().all()
