"""E21 at full size, its closed forms on twenty seeds, and its parts on cases that are known."""

from __future__ import annotations

from types import ModuleType

import pytest
import torch
from experiment_cases import assert_claims_hold, module_of
from torch.testing import assert_close

from interp.models.lora import nearest, spectrum
from interp.report import Report


@pytest.fixture(scope="module")
def e21() -> ModuleType:
    return module_of("E21")


@pytest.mark.slow
def test_every_claim_holds_at_full_size_and_every_control_misses_its_target(e21: ModuleType) -> None:
    report = Report("E21", "low rank")
    e21.run(e21.Config(), report)
    assert {claim.id.partition(".")[2] for claim in report.claims} == {
        *("eckart-young", "bound", "wide-enough", "by-hand", "adapters", "teacher", "low-rank", "same-look"),
    }
    assert_claims_hold(report)


@pytest.mark.parametrize("seed", range(20))
def test_what_needs_no_training_holds_on_every_seed(e21: ModuleType, seed: int, without_figures: None) -> None:
    config = e21.Config(seed=seed, shifts=1, ranks=(1, 4, 6), linear_steps=2)
    report = Report("E21", "low rank")
    e21.report_linear(config, report)
    e21.report_by_hand(config, report)
    verdicts = {claim.id.partition(".")[2]: claim.verdict for claim in report.claims}
    assert [verdicts[name] for name in ("bound", "by-hand")] == ["PASS"] * 2
    assert verdicts["eckart-young"] == "FAIL", "two steps of training do not reach the bound"


def test_a_shift_has_the_singular_values_it_was_given(e21: ModuleType) -> None:
    config = e21.Config()
    found = spectrum(e21.shift(config, 0))
    assert_close(found[:6], torch.tensor(config.shift), atol=1e-5, rtol=0)
    assert found[6:].max() < 1e-5
    left = (e21.shift(config, 0) - nearest(e21.shift(config, 0), 4)).square().sum()
    assert float(left) == pytest.approx(1.0**2 + 0.5**2, rel=1e-4)


def test_directions_at_random_leave_more_than_the_best(e21: ModuleType) -> None:
    config = e21.Config()
    assert all(e21.chance_loss(config, 1, number) > sum(v**2 for v in config.shift[1:]) * 1.1 for number in range(5))


@pytest.mark.parametrize("swaps", [1, 4, 24])
def test_a_cipher_undoes_itself_and_changes_as_many_tokens_as_it_should(e21: ModuleType, swaps: int) -> None:
    said = e21.cipher(e21.Config(swaps=swaps), 49)
    assert torch.equal(said[said], torch.arange(49)) and said[0] == 0
    assert int((said != torch.arange(49)).sum()) == 2 * swaps
    assert int(torch.linalg.matrix_rank(torch.eye(49)[said] - torch.eye(49))) == swaps
