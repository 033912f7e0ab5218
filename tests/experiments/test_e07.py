"""E07, reduced, and its measures on answers that are known."""

from __future__ import annotations

from types import ModuleType

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from experiment_cases import assert_claims_hold, module_of

from interp.models.batches import Batch
from interp.models.training import constant, noam
from interp.report import Report


@pytest.fixture(scope="module")
def e07() -> ModuleType:
    return module_of("E07")


@pytest.mark.slow
def test_every_claim_holds_and_every_control_misses_its_target(e07: ModuleType) -> None:
    report = Report("E07", "training recipe")
    e07.run(e07.Config(**e07.QUICK), report)
    assert {claim.id.partition(".")[2] for claim in report.claims} == {
        *("peak-step", "peak-rate", "optimum", "gap", "growth", "underconfident", "dropout-mean", "dropout-variance"),
        *("gap-of-losses", "overconfident", "clipping", "post-with", "post-without", "pre-without"),
    }
    assert_claims_hold(report)


@pytest.mark.parametrize(("symbols", "smoothing"), [(2, 0.5), (10, 0.1), (500, 0.01)])
def test_the_optimal_gap_is_that_of_the_smoothed_labels(e07: ModuleType, symbols: int, smoothing: float) -> None:
    labels = torch.full((symbols,), smoothing / symbols, dtype=torch.float64)
    labels[3 % symbols] += 1 - smoothing
    logits = labels.log()
    gap = float(logits.max() - logits.min())
    assert e07.optimal_gap(symbols, smoothing) == pytest.approx(gap)
    at_gap = F.cross_entropy(logits, labels)
    assert all(F.cross_entropy(logits * stretch, labels) > at_gap for stretch in (0.95, 1.05))
    assert e07.slope_at(gap, symbols, smoothing) < 1e-12 < 1e-4 * smoothing < e07.slope_at(1.05 * gap, symbols, smoothing)


def test_the_gap_is_from_the_right_logit_to_the_mean_of_the_others(e07: ModuleType) -> None:
    batch = Batch(tokens=torch.zeros(2, 2, dtype=torch.long), targets=torch.tensor([[0, 1], [2, 2]]))
    logits = torch.tensor([[[5.0, 1, 3], [0, 4, 2]], [[1.0, 0, 0], [0, 0, 6]]])
    assert e07.gaps(logits, batch).tolist() == [3.0, 2.75]
    assert e07.accuracy(logits, batch) == 0.75


def test_calibration_error_is_how_far_confidence_is_from_being_right(e07: ModuleType) -> None:
    targets = torch.zeros(1, 10, dtype=torch.long)
    targets[0, 7:] = 1
    for confidence, expected in ((0.7, 0.0), (0.9, 0.2), (0.6, 0.1)):
        logits = torch.tensor([confidence, 1 - confidence], dtype=torch.float64).log().expand(1, 10, 2)
        assert e07.calibration_error(logits, targets) == pytest.approx(expected, abs=1e-9)
    two_kinds = torch.tensor([[[0.9, 0.1]] * 7 + [[0.6, 0.4]] * 3]).double().log()
    assert e07.calibration_error(two_kinds, targets) == pytest.approx(0.7 * 0.1 + 0.3 * 0.6)


def test_a_peak_is_a_highest_rate_that_stands_alone(e07: ModuleType) -> None:
    assert e07.peak(noam(64, 25), 50) == (25, pytest.approx((64 * 25) ** -0.5))
    assert e07.peak(constant(0.1, 25), 50) == (None, 0.1)


def test_shares_keep_an_interval_where_all_succeed(e07: ModuleType) -> None:
    every = e07.share(np.ones(10, dtype=bool))
    assert (every.value, every.high, every.n) == (1.0, 1.0, 10) and every.low == pytest.approx(1 / (1 + 1.96**2 / 10), abs=1e-3)


def test_a_gradient_cut_number_by_number_has_the_norm_but_not_the_direction(e07: ModuleType) -> None:
    whole = torch.tensor([3.0, 4.0, 0.5])
    cut = e07.by_value(whole, 2.0)
    assert float(cut.norm()) == pytest.approx(2.0) and float(F.cosine_similarity(cut, whole, dim=0)) < 0.99


def test_rows_are_asked_for_in_reverse(e07: ModuleType) -> None:
    batch = e07.reversal(3, 16, torch.Generator().manual_seed(0))
    assert torch.equal(batch.targets[:, 0], batch.tokens[:, -1]) and torch.equal(batch.targets.flip(1), batch.tokens)
