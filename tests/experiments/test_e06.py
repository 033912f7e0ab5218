"""E06, reduced, and its measures on tokens, slopes and stacks that are known."""

from __future__ import annotations

from decimal import Decimal
from types import ModuleType

import numpy as np
import pytest
import torch
from experiment_cases import assert_claims_hold, module_of
from model_shapes import build

from interp.report import Report


@pytest.fixture(scope="module")
def e06() -> ModuleType:
    return module_of("E06")


@pytest.mark.slow
def test_every_claim_holds_and_every_control_misses_its_target(e06: ModuleType) -> None:
    report = Report("E06", "residual and norm")
    e06.run(e06.Config(**e06.QUICK), report)
    assert {claim.id.partition(".")[2] for claim in report.claims} == {
        *("doubly-exponential", "skips", "gradient-pre", "gradient-post", "sum", "hyperplane", "sphere"),
    }
    assert_claims_hold(report)


@pytest.mark.usefixtures("without_figures")
def test_closed_forms_hold_on_every_seed(e06: ModuleType) -> None:
    model = build("native")
    for seed in range(20):
        report, config = Report("E06", "residual and norm"), e06.Config(texts=2, seed=seed)
        e06.report_sums(config, report, model)
        e06.report_geometry(config, report)
        assert len(report.claims) == 3
        assert_claims_hold(report)


def test_tokens_that_are_alike_do_not_differ_and_the_rest_is_the_norm_of_the_paper(e06: ModuleType) -> None:
    alike = np.tile([1.0, -2.0, 4.0], (5, 1))
    assert e06.difference(alike) == 0 and e06.size(alike) == pytest.approx((20 * 7) ** 0.5)
    apart = np.array([[1.0, 0.0], [-1.0, 0.0]])
    assert e06.difference(apart + 7) == pytest.approx(2**0.5)


def test_decimals_and_floats_agree_as_far_as_floats_go(e06: ModuleType) -> None:
    x = np.random.default_rng(0).normal(size=(5, 4))
    assert float(e06.size(e06.decimals(x))) == pytest.approx(e06.size(x))
    assert e06.decimals(x)[0, 0] == Decimal(x[0, 0])


def test_digits_that_are_tripled_grow_by_three_and_steady_ones_by_little(e06: ModuleType) -> None:
    cubed, steady = 3.0 ** np.arange(6), np.arange(1.0, 7.0)
    assert e06.growth(np.stack([cubed, steady])) == pytest.approx([3, 1.5**0.5])


def test_a_stack_with_skips_and_silent_sublayers_hands_its_tokens_on(e06: ModuleType) -> None:
    x = torch.randn(1, 6, 8, generator=torch.Generator().manual_seed(0))
    for mlps in (False, True):
        stack = e06.Stack(8, 3, skips=True, mlps=mlps, generator=torch.Generator().manual_seed(0))
        for parameter in stack.parameters():
            parameter.data.zero_()
        streams = list(stack(x))
        assert len(streams) == 3 and all(torch.equal(each, x) for each in streams)
        stack.skips = False
        assert not any(each.any() for each in stack(x))


def test_slope_of_a_power_law_is_its_exponent(e06: ModuleType) -> None:
    depths = np.array([2, 4, 8])
    found = e06.log_slope(np.stack([3 * depths**-0.5, depths**-0.5]), depths, seed=0)
    assert (found.value, found.low, found.high) == pytest.approx((-0.5, -0.5, -0.5))
