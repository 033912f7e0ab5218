"""E12, reduced, and its parts on arrangements that are known."""

from __future__ import annotations

from types import ModuleType

import pytest
import torch
from experiment_cases import assert_claims_hold, module_of

from interp.report import Report
from interp.superposition import Toy


@pytest.fixture(scope="module")
def e12() -> ModuleType:
    return module_of("E12")


@pytest.mark.slow
def test_every_claim_holds_and_every_control_misses_its_target(e12: ModuleType) -> None:
    report = Report("E12", "superposition")
    e12.run(e12.Config(sparsities=(0.0, 0.97), wide_sparsities=(0.7,), wide_steps=1500, steps=5000), report)
    assert {claim.id: claim.verdict for claim in report.claims} == {
        f"E12.{slug}": "PASS" for slug in ("pentagon", "orthogonal", "worth-it", "pairs")
    }
    assert_claims_hold(report)


def test_arrangements_are_told_apart(e12: ModuleType) -> None:
    alone = torch.tensor([[1.0, 0.0], [0.0, 1.0], [0.0, 0.0], [0.0, 0.0], [0.0, 0.0]])
    angles = torch.arange(5) * 2 * torch.pi / 5
    pentagon = torch.stack([angles.cos(), angles.sin()], dim=1)
    toy = Toy(torch.stack([alone, pentagon]), torch.zeros(2, 5), torch.zeros(2))
    assert e12.axes_alone(toy).tolist() == [1, 0]
    assert e12.pentagons(toy).tolist() == [0, 1]


def test_the_dedicated_loss_is_that_of_means_for_three_features(e12: ModuleType) -> None:
    generator = torch.Generator().manual_seed(0)
    x = torch.rand(200_000, 5, generator=generator) * (torch.rand(200_000, 5, generator=generator) < 0.2)
    left = ((x - x.mean(0)) ** 2).mean(0) * 0.9 ** torch.arange(5)
    assert e12.dedicated_loss(0.8, 0.9) == pytest.approx(float(left[2:].sum()), rel=0.02)
