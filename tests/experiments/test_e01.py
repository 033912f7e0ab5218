"""E01 at full size; its closed forms on twenty seeds; its parts on cases that are known."""

from __future__ import annotations

from types import ModuleType

import numpy as np
import pandas as pd
import pytest
import torch
from experiment_cases import assert_claims_hold, module_of

from interp.report import Report


@pytest.fixture(scope="module")
def e01() -> ModuleType:
    return module_of("E01")


def test_every_claim_holds_at_full_size_and_every_control_misses_its_target(e01: ModuleType) -> None:
    report = Report("E01", "temperature")
    e01.run(e01.Config(), report)
    assert {claim.id.partition(".")[2] for claim in report.claims} == {
        *("lookup-bound", "value-bound", "equal-gaps", "entropy-rate", "entropy-limit"),
        *("heat-costs", "attention-falls", "trained-bound", "pattern-tells", "needs"),
    }
    assert_claims_hold(report)


@pytest.mark.usefixtures("without_figures")
def test_closed_forms_hold_on_every_seed(e01: ModuleType) -> None:
    for seed in range(20):
        report, config = Report("E01", "temperature"), e01.Config(lookups=50, prompts=4, seed=seed)
        e01.report_lookup(config, report)
        e01.report_entropy(config, report)
        e01.report_bound(config, report, e01.Trained.of(config))
        assert len(report.claims) == 7
        assert_claims_hold(report)


def test_the_rate_of_entropy_is_that_of_a_fair_coin_made_unfair(e01: ModuleType) -> None:
    row = e01.entropy_row(torch.tensor([[0.0, 2.0]], dtype=torch.float64), 1.0)
    p = 1 / (1 + np.exp(-2.0))
    assert row["entropy"] == pytest.approx(-p * np.log(p) - (1 - p) * np.log(1 - p))
    assert row["left"] == pytest.approx(np.log(2) - row["entropy"])
    assert row["off"] < 1e-6 < row["off without weights"]


def test_the_exponent_of_a_power_law_is_found(e01: ModuleType) -> None:
    heat = np.array([1.0, 3.0, 10.0])
    assert e01.power(pd.DataFrame({"temperature": heat, "left": 5 * heat**-2.0})) == pytest.approx(-2)


def test_heads_are_chosen_by_what_they_attend_to(e01: ModuleType) -> None:
    trained = e01.Trained.of(e01.Config(prompts=8))
    assert {*trained.copying, *trained.others} == {(1, head) for head in range(trained.model.n_heads)}
    assert trained.copying and trained.others and trained.before[0] == 0
    hot, plain = (e01.pattern_of(trained, temperature) for temperature in (50.0, 1.0))
    even = 1 / torch.arange(2, hot.shape[1] + 2)
    assert (hot.amax(-1) - even).max() < 0.2 < (plain.amax(-1) - even).max()
