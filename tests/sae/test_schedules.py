"""Learning rates rise and fall, and the controller holds the number of active latents."""

import math

import pytest
import torch

from interp.errors import TrainingError
from interp.sae import training
from interp.sae.activation_functions import ReLU
from interp.sae.autoencoder import SparseAutoencoder
from interp.sae.objectives import Lasso
from interp.sae.schedules import REACH, Schedule, controlled, default_learning_rate
from interp.sae.synthetic import planted


def test_a_rate_rises_then_falls_to_nothing():
    factors = [Schedule().at(step, 1000) for step in range(1000)]
    assert factors.index(max(factors)) in range(45, 50)
    assert factors[0] == pytest.approx(0.02) and factors[-1] == pytest.approx(0.001)


def test_a_rate_may_stay_up_until_the_last_fifth():
    factors = [Schedule(warmup=0.1, decay=0.2).at(step, 1000) for step in range(1000)]
    assert factors[99:801] == [1.0] * 702
    assert factors[98] < 1 and factors[801] < 1 and factors[900] == pytest.approx(0.5)


def test_without_warmup_and_decay_the_factor_is_one():
    assert {Schedule(warmup=0, decay=0).at(step, 7) for step in range(7)} == {1.0}


def test_a_share_above_one_is_refused():
    with pytest.raises(TrainingError, match=r"warmup=50, decay=1.0: both are shares of the steps; use numbers from 0 to 1"):
        Schedule(warmup=50)


def test_the_default_rate_falls_with_the_root_of_the_width():
    assert default_learning_rate(64) == 2e-2 and default_learning_rate(256) == 1e-2


def test_too_many_active_latents_raise_the_coefficient_too_few_lower_it_and_no_batch_moves_it_far():
    assert controlled(2.0, 8.0, 8.0, steps=100) == 2.0
    assert controlled(2.0, 9.0, 8.0, steps=100) > 2.0 > controlled(2.0, 7.0, 8.0, steps=100)
    assert controlled(2.0, 1e9, 8.0, steps=100) == pytest.approx(2 * math.exp(REACH / 100))
    assert controlled(2.0, 0.0, 8.0, steps=100) == pytest.approx(2 * math.exp(-REACH / 100))


@pytest.mark.parametrize("start", [0.01, 1.0])
def test_the_controller_reaches_its_target_from_either_side_and_a_fixed_coefficient_does_not(start):
    rows = list(planted(64, 32, commonest=0.1, rarest=0.03).batches(256, 400))
    reached = {}
    for target in (5.0, None):
        sae = SparseAutoencoder(32, 64, activation=ReLU())
        history = training.train(sae, rows, steps=400, objective=Lasso(sparsity=start, target_l0=target), log_every=30)
        reached[target] = history.last["l0"]
    assert reached[5.0] == pytest.approx(5.0, rel=0.1)
    assert reached[None] != pytest.approx(5.0, rel=0.25)


def test_the_sparsity_term_is_warmed_up():
    sae = SparseAutoencoder(8, 16, activation=ReLU())
    rows = [torch.randn(32, 8, generator=torch.Generator().manual_seed(i)) for i in range(10)]
    history = training.train(
        sae, rows, steps=10, objective=Lasso(sparsity=0.5), sparsity_schedule=Schedule(warmup=0.5, decay=0), log_every=1
    )
    assert history.table().sparsity.tolist() == pytest.approx([0.1, 0.2, 0.3, 0.4, 0.5, *[0.5] * 5])
