"""E11b at full size, and its parts on cases that are known."""

from __future__ import annotations

from types import ModuleType

import numpy as np
import pytest
import torch
from experiment_cases import assert_claims_hold, module_of

from interp.experiment import discovery
from interp.mlp import fourier
from interp.models.closed_forms_modular import adder, grid
from interp.report import Report


@pytest.fixture(scope="module")
def e11b() -> ModuleType:
    return module_of("E11b")


@pytest.mark.parametrize("name", ["E11b", "e11b", "nine-neurons"])
def test_an_identity_with_a_letter_is_found_beside_the_one_without(name: str) -> None:
    assert discovery.find(name).id == "E11b"
    assert discovery.find("E11").id == "E11"


@pytest.mark.slow
def test_every_claim_holds_and_every_control_misses_its_target(e11b: ModuleType) -> None:
    report = Report("E11b", "nine neurons")
    e11b.run(e11b.Config(), report)
    assert {claim.id for claim in report.claims} == {
        *(f"E11b.{slug}" for slug in ("accuracy", "explained", "one-less", "all-needed", "random-phases")),
        *(f"E11b.{slug}" for slug in ("learned", "trained-explained", "phases", "pure")),
    }
    assert_claims_hold(report)


@pytest.mark.parametrize("seed", range(20))
def test_closed_forms_hold_on_every_seed(e11b: ModuleType, seed: int) -> None:
    report, config = Report("E11b", "nine neurons"), e11b.Config(moduli=(23,), p=23, seeds=3, seed=seed)
    e11b.report_closed_form(config, report)
    e11b.report_ablation(config, report)
    assert len(report.claims) == 4
    assert_claims_hold(report)


def test_the_closed_form_keeps_its_own_law_of_phases(e11b: ModuleType) -> None:
    module = adder(13, 5, grid()).bridge
    frequency, share = e11b.own_frequencies(module)
    assert frequency.tolist() == [5] * 9
    assert share.tolist() == pytest.approx([1] * 9)
    table = e11b.phases(module)
    assert np.cos(table["output phase"] - table["sum of input phases"]).tolist() == pytest.approx([1] * 9)


def test_a_closed_form_is_pure_already(e11b: ModuleType) -> None:
    model = adder(13, 5, grid())
    logits, pure = (e11b.answer_logits(each, 13) for each in (model, e11b.purified(model.bridge, order=None)))
    torch.testing.assert_close(pure, logits, atol=1e-4, rtol=0)
    mixed = e11b.answer_logits(e11b.purified(model.bridge, order=torch.arange(9).flip(0)), 13)
    assert fourier.explained(mixed, [5]) < 0.9


def test_accuracy_counts_sums_and_answers_have_one_each(e11b: ModuleType) -> None:
    logits = e11b.answer_logits(adder(13, 5, grid()), 13)
    assert e11b.accuracy(logits) == 1
    assert e11b.accuracy(logits.roll(1, 2)) == 0


def test_without_one_neuron_eight_ninths_are_explained(e11b: ModuleType) -> None:
    logits = e11b.answer_logits(adder(13, 5, grid()), 13, edits=(e11b.silenced(4),))
    assert fourier.explained(logits, [5]) == pytest.approx(8 / 9, abs=1e-3)
