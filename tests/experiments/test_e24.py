"""E24 at full size, and its parts on cases that are known."""

from __future__ import annotations

from dataclasses import replace
from types import ModuleType

import numpy as np
import pytest
import torch
from experiment_cases import assert_claims_hold, module_of

from interp.mlp.rerouting import silenced
from interp.report import Report


@pytest.fixture(scope="module")
def e24() -> ModuleType:
    return module_of("E24")


@pytest.mark.slow
def test_every_claim_holds_at_full_size_and_every_control_misses_its_target(e24: ModuleType) -> None:
    report = Report("E24", "experts")
    e24.run(e24.Config(), report)
    slugs = ("parting", "not-the-vector", "uniform", "balanced", "own-task", "bystanders", "learned", "left-out", "wrong-expert")
    assert {claim.id for claim in report.claims} == {f"E24.{slug}" for slug in slugs}
    assert_claims_hold(report)


@pytest.mark.parametrize("seed", range(20))
def test_what_needs_no_training_holds_on_every_seed(e24: ModuleType, seed: int) -> None:
    config, report = e24.Config(seed=seed, runs=1, steps=0, held_out=200), Report("E24", "experts")
    e24.report_uniform(config, report)
    e24.report_bystanders(config, report, [e24.trained(config, 0)])
    assert_claims_hold(report)


def test_every_input_is_turned_by_the_map_of_its_task(e24: ModuleType) -> None:
    config = e24.Config()
    maps = e24.tasks(config, 0)
    x = e24.draw(config, 50, torch.Generator().manual_seed(0))
    task = e24.task_of(x, config.tasks)
    for which, one in zip(task[:, 0].tolist(), x[:, 0], strict=True):
        assert one[: config.tasks].tolist() == [3.0 * (each == which) for each in range(config.tasks)]
    turned = torch.einsum("rij,rj->ri", maps[task[:, 0]], x[:, 0, config.tasks :])[:, None]
    assert not e24.squared_error(turned, x, maps=maps).any()
    torch.testing.assert_close(e24.squared_error(turned + 0.5, x, maps=maps), torch.full((50, 1), 0.25))
    torch.testing.assert_close(maps @ maps.transpose(1, 2), torch.eye(config.width).expand(config.tasks, -1, -1))


def test_a_model_that_says_nothing_has_an_error_of_one_and_a_wrong_map_two(e24: ModuleType) -> None:
    config = replace(e24.Config(), tasks=20)
    maps, x = e24.tasks(config, 0), e24.draw(config, 5000, torch.Generator().manual_seed(0))
    nothing = torch.zeros(5000, 1, config.width)
    assert float(e24.squared_error(nothing, x, maps=maps).mean()) == pytest.approx(1, abs=0.05)
    next_task = torch.einsum("rij,rj->ri", maps[(e24.task_of(x, 20)[:, 0] + 1) % 20], x[:, 0, 20:])[:, None]
    assert float(e24.squared_error(next_task, x, maps=maps).mean()) == pytest.approx(2, abs=0.2)


def test_own_and_other_tasks_are_told_apart(e24: ModuleType) -> None:
    """By hand, from the error of every input with every expert silenced."""
    config = e24.Config(steps=40, held_out=300)
    seen = e24.trained(config, 0)
    rise = seen.without(silenced).every.values[0]
    own, others = e24.own_and_others([seen], silenced)
    shares = seen.shares()
    np.testing.assert_allclose(shares.sum(1), 1)
    pairs = [(int(shares[:, e].argmax()), e) for e in range(4)]
    by_hand = {(t, e): rise[e][seen.task == t].mean() for t in range(4) for e in range(4)}
    assert own[0] == pytest.approx(np.mean([by_hand[pair] for pair in pairs]))
    assert others[0] == pytest.approx(np.mean([value for pair, value in by_hand.items() if pair not in pairs]))
