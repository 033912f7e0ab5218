"""E29 on one model that is trained briefly, and the parts that could be wrong alone."""

from __future__ import annotations

from types import ModuleType
from typing import Any

import pytest
from experiment_cases import module_of

from interp.report import Report


@pytest.fixture(scope="module")
def e29() -> ModuleType:
    return module_of("E29")


@pytest.fixture(scope="module")
def study(e29: ModuleType) -> Any:
    return e29.Study.of(e29.Config(examples=24, steps=450), 0)


@pytest.mark.slow
def test_a_briefly_trained_model_knows_who_and_its_circuit_beats_a_random_one(e29: ModuleType, study: Any) -> None:
    report = Report("E29", "names")
    e29.report_behaviour(study.config, report, [study])
    e29.report_circuit(study.config, report, [study])
    known, _, kept = report.claims
    assert known.measured and known.control and known.measured.value > 0.9 and known.control.value < 0.75
    assert kept.measured and kept.control and kept.measured.value > 0.4 > kept.control.value


@pytest.mark.slow
def test_roles_are_the_fewest_heads_with_most_of_the_loss(e29: ModuleType, study: Any) -> None:
    losses = {"a0.h0": 3.0, "a0.h1": 5.0, "a0.h2": -9.0, "a0.h3": 2.0}
    assert list(study.fewest(losses)) == ["a0.h1", "a0.h0"]
    assert study.fewest({}) == {} == study.senders([])
    movers = study.roles["name movers"]
    edges = {str(edge): -loss for edge, loss in study.exact.items()}
    assert movers == pytest.approx({head: edges[f"{head}->logits"] for head in movers}, abs=1e-5)


@pytest.mark.slow
def test_a_head_of_the_last_layer_cannot_be_made_up_for(e29: ModuleType, study: Any) -> None:
    last = [name for name in study.graph.writers if name.startswith("a2")]
    alone = {"name movers": dict.fromkeys(last, 1.0), "S-inhibition": {}, "duplicate tokens": {}}
    study.__dict__["roles"], kept = alone, study.roles
    try:
        assert e29.compensation(study)[0] == pytest.approx(0.0, abs=1e-5)
    finally:
        study.__dict__["roles"] = kept


def test_places_of_heads(e29: ModuleType) -> None:
    assert e29.place("a1.h0") == (1, 0) and e29.place("a12.h10") == (12, 10)
