"""E24 at full size, and its parts on cases that are known."""

from __future__ import annotations

from types import ModuleType

import numpy as np
import pytest
import torch
from experiment_cases import assert_claims_hold, module_of

from interp.report import Report


@pytest.fixture(scope="module")
def e24() -> ModuleType:
    return module_of("E24")


@pytest.mark.slow
def test_every_claim_holds_at_full_size_and_every_control_misses_its_target(e24: ModuleType) -> None:
    report = Report("E24", "experts")
    e24.run(e24.Config(), report)
    assert {claim.id for claim in report.claims} == {
        f"E24.{slug}" for slug in ("parting", "not-the-vector", "uniform", "balanced", "own-task", "learned")
    }
    assert_claims_hold(report)


def test_every_input_is_turned_by_the_map_of_its_task(e24: ModuleType) -> None:
    config = e24.Config()
    maps = e24.tasks(config, 0)
    drawn = e24.draw(config, maps, 50, torch.Generator().manual_seed(0))
    for task, x, y in zip(drawn.task.tolist(), drawn.x, drawn.y, strict=True):
        assert x[: config.tasks].tolist() == [3.0 * (each == task) for each in range(config.tasks)]
        torch.testing.assert_close(maps[task] @ x[config.tasks :], y)
    torch.testing.assert_close(maps @ maps.transpose(1, 2), torch.eye(config.width).expand(config.tasks, -1, -1))


def test_a_model_that_says_nothing_has_an_error_of_one(e24: ModuleType) -> None:
    config = e24.Config()
    drawn = e24.draw(config, e24.tasks(config, 0), 5000, torch.Generator().manual_seed(0))
    assert float(e24.squared_error(torch.zeros_like(drawn.y), drawn).mean()) == pytest.approx(1, abs=0.05)


def test_own_and_other_tasks_are_told_apart(e24: ModuleType) -> None:
    shares = np.array([[0.0, 1.0], [1.0, 0.0]])
    assert e24.own_and_others(np.array([[0.1, 0.8], [0.6, 0.3]]), shares) == pytest.approx((0.7, 0.2))
