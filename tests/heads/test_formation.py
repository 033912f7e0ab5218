"""An induction circuit along training: planted curves, and two checkpoints of a model by hand."""

import numpy as np
import pytest

from interp import stats
from interp.heads.formation import Formation, follow
from interp.heads.induction import Circuit
from interp.models import compiled
from interp.tasks.repeated import repeated_random

STEPS = np.linspace(0, 100, 101)
RISE = 1 / (1 + np.exp(-(STEPS - 60)))  # from 0 to 1 around step 60


@pytest.fixture
def sudden() -> Formation:
    """Eight prompts whose loss falls by different amounts, but together; K-composition rises 20 steps later."""
    falls = 1 + np.arange(8) / 8
    along = np.outer(RISE, np.ones(8))
    key = 1 / (1 + np.exp(-(STEPS - 80)))
    return Formation(STEPS, 4 - np.outer(RISE, falls), along, along, {"Q": 0.1 * RISE, "K": key, "V": 0 * RISE})


def test_a_sudden_fall_with_its_score_is_a_phase_change(sudden):
    assert sudden.steepest_share(15).low > 0.95
    assert sudden.prefix_in_fall().value == pytest.approx(0.5, abs=0.01)


def test_composition_is_read_when_the_loss_has_fallen_so_far(sudden):
    assert sudden.key_lead(0.9).value == pytest.approx(-0.09, abs=0.01)
    later = Formation(STEPS, sudden.loss, sudden.previous, sudden.prefix, sudden.composition | {"K": RISE})
    assert later.key_lead(0.9).value == pytest.approx(0.81, abs=0.02)


def test_the_circuit_is_there_at_the_checkpoint_that_has_it():
    known = compiled.induction().model
    rows = repeated_random(12, known.n_ctx, known.d_vocab, generator=stats.torch_generator(0), periods=(2, 3), noise=1)
    found = follow([(0, known.untrained(0)), (7, known)], Circuit((0, 0), [(1, 0)]), rows)
    assert found.steps.tolist() == [0, 7]
    assert found.loss.shape == found.prefix.shape == found.previous.shape == (2, 12)
    assert found.loss[1].max() < 0.01 < found.loss[0].min()
    assert found.prefix[1].min() > 0.99 > 0.8 > found.prefix[0].max()
    assert found.composition["K"][1] > 5 * max(abs(values[0]) for values in found.composition.values())
