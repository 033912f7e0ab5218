"""E10 at full size, and its parts on cases that are known."""

from __future__ import annotations

from types import ModuleType

import numpy as np
import pytest
import torch
from experiment_cases import assert_claims_hold, module_of

from interp.models.closed_forms_regression import descent_step
from interp.report import Report
from interp.tasks.regression import Regressions, regressions


@pytest.fixture(scope="module")
def e10() -> ModuleType:
    return module_of("E10")


@pytest.fixture
def rows() -> Regressions:
    return regressions(64, 5, 4, generator=torch.Generator().manual_seed(0))


@pytest.mark.slow
def test_every_claim_holds_and_every_control_misses_its_target(e10: ModuleType) -> None:
    report = Report("E10", "gradient step")
    e10.run(e10.Config(), report)
    assert {claim.id for claim in report.claims} == {
        f"E10.{slug}" for slug in ("construction", "loss", "sensitivity", "step", "weights", "patched-label", "head", "too-long")
    }
    assert_claims_hold(report)


@pytest.mark.parametrize("seed", range(20))
def test_the_closed_form_holds_on_every_seed(e10: ModuleType, seed: int) -> None:
    report = Report("E10", "gradient step")
    e10.report_construction(e10.Config(seed=seed, seeds=2), report)
    assert_claims_hold(report)


def test_the_sensitivity_is_what_the_step_has_learned(e10: ModuleType, rows: Regressions) -> None:
    taught = 0.3 * torch.einsum("epd,ep->ed", rows.x[:, :-1], rows.y[:, :-1])
    torch.testing.assert_close(e10.sensitivity(descent_step(4, 0.3), rows.tokens), taught, atol=1e-5, rtol=0)


def test_the_effective_rate_is_that_of_the_step(e10: ModuleType, rows: Regressions) -> None:
    found = e10.effective_rate(rows.after_descent(0.7), rows, seed=0)
    assert (found.value, found.low, found.high) == pytest.approx((0.7, 0.7, 0.7))


def test_foreign_labels_belong_to_another_row_and_leave_what_is_asked(e10: ModuleType, rows: Regressions) -> None:
    mixed = e10.foreign_labels(rows)
    assert torch.equal(mixed.y[1:, :-1], rows.y[:-1, :-1])
    assert torch.equal(mixed.answers, rows.answers)
    assert torch.equal(mixed.x, rows.x)


def test_a_label_acts_through_the_value_alone(e10: ModuleType, rows: Regressions) -> None:
    model, twin = descent_step(4, 0.3), rows.tokens.clone()
    twin[:, 0, -1] += 1.0
    wanted = 0.3 * (rows.x[:, 0] * rows.x[:, -1]).sum(1)
    torch.testing.assert_close(e10.patched(model, rows.tokens, twin, "v"), wanted, atol=1e-5, rtol=0)
    assert e10.patched(model, rows.tokens, twin, "k").abs().max() < 1e-6


def test_without_the_head_nothing_is_answered(e10: ModuleType, rows: Regressions) -> None:
    assert not e10.without_head(descent_step(4, 0.3), rows.tokens).any()


def test_what_is_explained_is_one_for_equals_and_nothing_for_silence(e10: ModuleType) -> None:
    wanted = torch.tensor([1.0, -2.0, 3.0])
    assert e10.explained(wanted, wanted, 0).value == 1
    assert e10.explained(torch.zeros(3), wanted, 0).value == 0


def test_a_loss_is_half_the_squared_error(e10: ModuleType) -> None:
    rows = Regressions(torch.zeros(2, 2, 1), torch.tensor([[0.0, 1.0], [0.0, -1.0]]), torch.zeros(2, 1))
    np.testing.assert_allclose(e10.loss_of(torch.tensor([1.0, 1.0]), rows), [0.0, 2.0])
