"""Claims about what is measured of logits: on answers that are known, and only where something counts."""

import math

import pytest
import torch

from interp.errors import TrainingError
from interp.models.batches import Batch, next_token
from interp.models.evaluations import accuracy, calibration_error, gaps, losses, mean_loss, optimal_gap, right

LOGITS = torch.tensor([[[5.0, 1, 3], [0, 4, 2]], [[1.0, 0, 0], [0, 0, 6]]])
TARGETS = torch.tensor([[0, 1], [2, 2]])


def batch(targets=TARGETS, counted=None):
    return Batch(tokens=torch.zeros(2, 2, dtype=torch.long), targets=targets, counted=counted)


def test_the_gap_is_from_the_right_logit_to_the_mean_of_the_others():
    assert gaps(LOGITS, batch()).tolist() == [3.0, 3.0, -0.5, 6.0]


def test_only_targets_that_count_are_told_of():
    some = batch(counted=torch.tensor([[True, True], [True, False]]))
    assert right(LOGITS, some).tolist() == [True, True, False]
    assert accuracy(LOGITS, batch()) == 0.75 and accuracy(LOGITS, some) == pytest.approx(2 / 3)
    each = -LOGITS.log_softmax(-1).gather(-1, TARGETS[..., None])[..., 0]
    torch.testing.assert_close(losses(LOGITS, some), each)
    assert mean_loss(LOGITS, some) == pytest.approx(float(each.flatten()[:3].mean()))


def test_logits_that_are_not_asked_for_anything_are_left_out():
    tokens = torch.tensor([[1, 0, 1], [2, 2, 2]])
    logits = torch.cat([LOGITS, torch.full((2, 1, 3), 9.0)], 1)
    assert right(logits, next_token(tokens)).tolist() == [True, True, False, True]


@pytest.mark.parametrize(("symbols", "smoothing"), [(2, 0.5), (10, 0.1), (500, 0.01)])
def test_the_optimal_gap_is_that_of_the_smoothed_labels(symbols, smoothing):
    labels = torch.full((symbols,), smoothing / symbols, dtype=torch.float64)
    labels[1] += 1 - smoothing
    assert optimal_gap(symbols, smoothing) == pytest.approx(float(labels.log()[1] - labels.log()[0]))
    logits = labels.log()[None, None].requires_grad_()
    one = Batch(tokens=torch.zeros(1, 1, dtype=torch.long), targets=torch.ones(1, 1, dtype=torch.long))
    losses(logits, one, label_smoothing=smoothing).sum().backward()
    assert logits.grad is not None and float(logits.grad.abs().max()) < 1e-12
    assert optimal_gap(symbols, 0.0) == math.inf


def test_calibration_error_is_how_far_confidence_is_from_being_right():
    targets = torch.zeros(1, 10, dtype=torch.long)
    targets[0, 7:] = 1
    asked = Batch(tokens=targets, targets=targets)
    for confidence, expected in ((0.7, 0.0), (0.9, 0.2), (0.6, 0.1)):
        logits = torch.tensor([confidence, 1 - confidence], dtype=torch.float64).log().expand(1, 10, 2)
        assert calibration_error(logits, asked) == pytest.approx(expected, abs=1e-9)
    two_kinds = torch.tensor([[[0.9, 0.1]] * 7 + [[0.6, 0.4]] * 3]).double().log()
    assert calibration_error(two_kinds, asked) == pytest.approx(0.7 * 0.1 + 0.3 * 0.6)


def test_no_single_token_is_right_where_probabilities_are_asked_for():
    taught = batch(targets=LOGITS.softmax(-1))
    assert mean_loss(LOGITS, taught) > 0
    for measure in (accuracy, gaps, calibration_error):
        with pytest.raises(TrainingError, match="asks for probabilities, which no single token gets right; measure its loss"):
            measure(LOGITS, taught)
