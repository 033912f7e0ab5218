"""E21's closed forms and its parts; the fine-tuned model in a reduced form."""

from __future__ import annotations

from types import ModuleType

import pytest
import torch
from experiment_cases import module_of
from torch.testing import assert_close

from interp.models.lora import nearest, spectrum
from interp.report import Report


@pytest.fixture(scope="module")
def e21() -> ModuleType:
    return module_of("E21")


@pytest.mark.slow
def test_trained_adapters_reach_what_the_singular_values_allow_and_no_more(e21: ModuleType) -> None:
    report = Report("E21", "low rank")
    e21.report_linear(e21.Config(shifts=1), report)
    assert {claim.id: claim.verdict for claim in report.claims} == {
        f"E21.{slug}": "PASS" for slug in ("eckart-young", "bound", "wide-enough")
    }
    for claim in report.claims:
        assert claim.control is not None and claim.target is not None
        assert not claim.target.holds(*claim.control.ends), claim.id


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


def test_a_mirrored_row_says_its_segment_backwards_and_knows_it_from_the_second_step_back(e21: ModuleType) -> None:
    rows = e21.mirrored(50, 48, 49, torch.Generator().manual_seed(0))
    assert (rows.tokens[:, 0] == 0).all() and (rows.tokens[:, 1:] > 0).all()
    for tokens, known in zip(rows.tokens.tolist(), rows.known.tolist(), strict=True):
        places = [i for i, each in enumerate(known) if each]
        turn = places[0] - 2  # the last token of the segment; after it the row goes back, which nothing foretells
        assert places == list(range(turn + 2, 2 * turn))
        assert all(tokens[turn + i] == tokens[turn - i] for i in range(1, turn))
        assert len(set(tokens[1 : turn + 1])) == turn
