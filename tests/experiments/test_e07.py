"""E07, reduced, and its measures on answers that are known."""

from __future__ import annotations

from types import ModuleType

import pandas as pd
import pytest
import torch
import torch.nn.functional as F
from experiment_cases import assert_claims_hold, module_of

from interp.models.evaluations import optimal_gap
from interp.models.hooked import Edit, Model
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
        *("peak", "optimum", "gap", "growth", "checkpoints", "dropout-ensemble", "dropout-penalty", "dropout-off"),
        *("clipping", "post-with", "post-without", "pre-without"),
    }
    assert_claims_hold(report)


@pytest.mark.parametrize("seed", range(20))
def test_closed_forms_that_are_drawn_hold_on_every_seed(e07: ModuleType, seed: int) -> None:
    report, config = Report("E07", "training recipe"), e07.Config(seed=seed)
    e07.report_dropout(config, report)
    e07.report_clipping(config, report)
    assert len(report.claims) == 4
    assert_claims_hold(report)


def test_a_slope_is_nothing_at_the_optimal_gap_alone(e07: ModuleType) -> None:
    assert e07.slope_at(optimal_gap(10, 0.1), 10, 0.1) < 1e-12 < 1e-3 < e07.slope_at(1.05 * optimal_gap(10, 0.1), 10, 0.1)


def test_a_schedule_peaks_where_its_highest_rate_stands_alone(e07: ModuleType) -> None:
    assert e07.peaks(noam(64, 25), 64, 25)
    assert not e07.peaks(constant((64 * 25) ** -0.5, 25), 64, 25)
    assert not e07.peaks(noam(64, 25, 2.0), 64, 25) and not e07.peaks(noam(64, 24), 64, 25)


def test_what_is_missed_is_nothing_where_a_head_looks_at_the_right_place(e07: ModuleType) -> None:
    """Attention by hand: every position looks at its mirror image, and says what stands there."""
    batch = e07.reversal(3, 16, torch.Generator().manual_seed(0))
    model = Model.wrap(e07.encoder(16, 0))
    mirror = torch.eye(e07.LENGTH).flip(0).expand(3, 4, -1, -1)
    edits = [
        Edit("blocks.0.attn.hook_pattern", lambda _: mirror.clone()),
        Edit("unembed.hook_out", lambda _: F.one_hot(batch.targets, 16).float()),
    ]
    found = e07.looking(model, batch, edits=edits)
    assert not found["answers wrong"].any() and not found["attention off the symbol"].any()
    assert (found["attention off its neighbour"] == 1).all()


def test_shares_keep_an_interval_where_all_succeed(e07: ModuleType) -> None:
    every = e07.share(pd.Series([True] * 10))
    assert (every.value, every.high, every.n) == (1.0, 1.0, 10) and every.low == pytest.approx(1 / (1 + 1.96**2 / 10), abs=1e-3)


def test_rows_are_asked_for_in_reverse(e07: ModuleType) -> None:
    batch = e07.reversal(3, 16, torch.Generator().manual_seed(0))
    assert torch.equal(batch.targets[:, 0], batch.tokens[:, -1]) and torch.equal(batch.targets.flip(1), batch.tokens)
