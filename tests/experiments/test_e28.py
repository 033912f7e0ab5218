"""E28 with few draws: its claims, what its page says, and the rules by which it judges."""

from __future__ import annotations

import re
from pathlib import Path
from types import ModuleType

import numpy as np
import pandas as pd
import pytest
from experiment_cases import assert_claims_hold, module_of

from interp.heads import paths
from interp.models.blind_spots import BLIND_SPOTS
from interp.models.compiled import induction
from interp.report import Report
from interp.tasks.contrast import Contrast

PAGE = Path(__file__).parents[2] / "docs" / "attribution-methods.md"
METRIC = Contrast.logit_difference


@pytest.fixture(scope="module")
def e28() -> ModuleType:
    return module_of("E28")


@pytest.mark.slow
def test_every_claim_holds_and_the_page_tells_the_table(e28: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    tables = []
    judge = e28.verdicts
    monkeypatch.setattr(e28, "verdicts", lambda table: tables.append(judge(table)) or tables[-1])
    report = Report("E28", "attribution")
    e28.run(e28.Config(seeds=2, examples=8), report)
    assert len(report.claims) == 11
    assert_claims_hold(report)
    told = re.findall(r"^\| (.+?) \| (.+?) \| (\d+ of \d+) \| (\d+ of \d+) \|", PAGE.read_text(encoding="utf-8"), re.M)
    columns = ["method", "circuits found", "numbers right"]
    expected = {row[0]: tuple(row[1:]) for row in tables[0][columns].itertuples(index=False)}
    assert len(told) == 7
    assert {method: (found, right) for method, _, found, right in told} == {row[0]: expected[row[0]] for row in told}


def scored(**auroc: float) -> pd.DataFrame:
    """A table in which every method has one AUROC on all circuits, and an error of as much as that lacks."""
    prices = {"exact": 50.0, "EAP": 3.0, "EAP-IG inputs": 15.0, "EAP-IG activations": 45.0, "random": 0.0}
    return pd.DataFrame(
        {"circuit": circuit, "method": method, "seed": seed, "auroc": value, "relative_l1": 1 - value, "forwards": prices[method]}
        for circuit in ("induction", "hist", "constant head")
        for method, value in auroc.items()
        for seed in range(2)
    )


def table(eap: float, inputs: float) -> pd.DataFrame:
    return scored(**{"exact": 1.0, "EAP": eap, "EAP-IG inputs": inputs, "EAP-IG activations": inputs, "random": 0.5})


def test_advice_names_the_cheapest_estimate_that_finds_all(e28: ModuleType) -> None:
    assert "is EAP-IG inputs (15 forwards); replacing edge by edge does, for 50" in e28.advice(table(0.8, 1.0))[0]
    assert "is EAP (3 forwards)" in e28.advice(table(1.0, 1.0))[1]


def test_advice_says_where_no_gradient_helps(e28: ModuleType) -> None:
    lines = e28.advice(table(0.8, 0.9))
    assert "no estimate finds every circuit" in lines[0]
    assert lines[-1].startswith("No gradient method finds the circuit of induction, hist, constant head")
    assert not any(line.startswith("No gradient") for line in e28.advice(table(0.8, 1.0)))


def test_a_circuit_is_found_only_if_it_is_in_every_draw(e28: ModuleType) -> None:
    scores = table(1.0, 1.0)
    scores.loc[(scores.method == "EAP") & (scores.circuit == "hist") & (scores.seed == 1), "auroc"] = 0.7
    judged = e28.verdicts(scores).set_index("method")
    assert judged.loc["EAP", ["circuits found", "least AUROC", "on"]].tolist() == ["2 of 3", 0.7, "hist"]
    assert judged.loc["EAP-IG inputs", ["circuits found", "on"]].tolist() == ["3 of 3", "–"]


def test_denoising_has_the_sign_of_noising(e28: ModuleType) -> None:
    known = induction()
    contrast, edge = known.contrast(8, seed=0), "a1.h0->logits"
    found, exact = (method(known.model, contrast, METRIC).sel(edge=edge).values for method in (e28.denoising, paths.effects))
    assert found.mean() < -1 and exact.mean() < -1


def test_planted_edges_replaced_together_share_one_effect(e28: ModuleType) -> None:
    spot = BLIND_SPOTS["cancelling heads"]()
    contrast = spot.known.contrast(6, seed=0)
    assert e28.share(e28.together(spot), spot, contrast) < 1e-4
    assert e28.share(paths.effects, spot, contrast) > 0.2
    found = e28.together(spot)(spot.known.model, contrast, METRIC)
    plain = paths.effects(spot.known.model, contrast, METRIC)
    np.testing.assert_array_equal(found.sel(edge="a0.h0->logits").values, plain.sel(edge="a0.h0->logits").values)


@pytest.mark.slow
def test_blind_spots_blind_on_twenty_seeds(e28: ModuleType, without_figures: None) -> None:
    report = Report("E28", "closed form")
    e28.report_spots(e28.Config(seeds=20, examples=4), report)
    assert_claims_hold(report)
