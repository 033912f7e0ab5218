"""E03 at full size, and its parts on cases that are known."""

from __future__ import annotations

from types import ModuleType

import pytest
import torch
from experiment_cases import assert_claims_hold, module_of

from interp.report import Report


@pytest.fixture(scope="module")
def e03() -> ModuleType:
    return module_of("E03")


@pytest.mark.slow
def test_every_claim_holds_at_full_size_and_every_control_misses_its_target(e03: ModuleType) -> None:
    report = Report("E03", "score functions")
    e03.run(e03.Config(), report)
    assert {claim.id.partition(".")[2] for claim in report.claims} == {
        *("rank", "additive-rank", "circle", "circle-sharp", "line", "bottleneck", "wide-enough"),
        *("learned-dot", "learned-scaled-dot", "learned-bilinear", "learned-additive"),
    }
    assert_claims_hold(report)


@pytest.mark.usefixtures("without_figures")
def test_closed_forms_hold_on_every_seed(e03: ModuleType) -> None:
    for seed in range(20):
        report, config = Report("E03", "score functions"), e03.Config(draws=3, circle=(4, 64), seed=seed)
        e03.report_ranks(config, report)
        e03.report_circle(config, report)
        assert len(report.claims) == 4
        assert_claims_hold(report)


@pytest.mark.parametrize("keys", [3, 7, 100])
def test_every_point_of_a_circle_has_its_largest_product_with_itself(e03: ModuleType, keys: int) -> None:
    points = e03.circle(keys)
    assert torch.equal((points @ points.T).argmax(1), torch.arange(keys))


@pytest.mark.parametrize("seed", range(20))
def test_of_keys_on_a_line_two_at_most_can_win(seed: int) -> None:
    q, k = torch.randn(2, 50, generator=torch.Generator().manual_seed(seed))
    assert len((q[:, None] * k).argmax(1).unique()) <= 2


def test_attention_elsewhere_is_that_of_the_formula(e03: ModuleType) -> None:
    keys, scale = 4, 3.0
    wanted = torch.tensor([2, 0, 3, 1])
    accuracy, elsewhere = e03.looked_up(scale * e03.circle(keys)[wanted], e03.circle(keys), wanted)
    others = 2 * torch.tensor(-scale).exp() + torch.tensor(-2 * scale).exp()  # two at right angles, one opposite
    assert accuracy == 1.0
    assert elsewhere == pytest.approx(float(others / (1 + others)), rel=1e-6)
    assert e03.looked_up(scale * e03.circle(keys)[wanted], e03.circle(keys), wanted.roll(1))[0] < 1


def test_training_lowers_the_loss_it_is_given(e03: ModuleType) -> None:
    config = e03.Config(runs=2, keys=4)

    def first_key(log_attention: torch.Tensor) -> torch.Tensor:
        return -log_attention[:, :, 0].mean(1)

    before, after = (first_key(e03.trained("dot", 2, first_key, "test", config, steps=steps)) for steps in (0, 50))
    assert (after < 0.5 * before).all()
