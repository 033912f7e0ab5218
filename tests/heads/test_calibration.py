"""Scores of methods on known circuits: what each of the four says, and what a run costs."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from interp.errors import ConfigError
from interp.heads import calibration, edge_attribution
from interp.heads.calibration import auroc, score
from interp.heads.graph import Graph
from interp.measurement import Measurement
from interp.models.compiled import induction
from interp.tasks.contrast import Contrast

NAMES = ["a", "b", "c", "d"]


def effects(*values: float, names: list[str] = NAMES) -> Measurement:
    return Measurement("edge effect", np.array(values)[:, None].repeat(3, 1), ("edge", "example"), {"edge": names})


def test_the_exact_effects_score_full_marks_against_themselves():
    exact = effects(-4.0, 2.0, 0.1, 0.0)
    found = score(exact, exact, {"a", "b"}, {"d"})
    assert (found.auroc, found.spearman, found.relative_l1) == (1.0, pytest.approx(1.0), 0.0)
    assert found.margin == pytest.approx(0.5)


def test_auroc_is_scikit_learns_ties_included():
    generator = np.random.default_rng(0)
    for _ in range(20):
        sizes, within = generator.integers(0, 4, 12).astype(float), generator.random(12) < 0.4
        if 0 < within.sum() < 12:
            assert auroc(sizes, within) == pytest.approx(roc_auc_score(within, sizes))


def test_auroc_can_be_full_where_the_numbers_are_far_off():
    exact = effects(-9.0, 9.0, 0.0, 0.0)
    found = score(effects(-9.0, 1e-4, 0.0, 0.0), exact, {"a", "b"}, ())
    assert found.auroc == 1.0
    assert found.relative_l1 == pytest.approx(0.5, rel=1e-3)
    assert found.margin == pytest.approx(1e-4 / 9)


def test_wrong_signs_count_as_errors_unless_a_method_has_no_signs():
    exact = effects(-4.0, 4.0, 0.0, 0.0)
    assert score(effects(4.0, -4.0, -1e-9, 0.0), exact, {"a", "b"}, ()).relative_l1 == pytest.approx(2.0)
    assert score(effects(4.0, 4.0, 0.0, 0.0), exact, {"a", "b"}, ()).relative_l1 == 0.0


def test_the_margin_is_to_the_decoys_and_negative_when_one_passes_the_circuit():
    exact = effects(4.0, 2.0, 3.0, 0.0)
    assert score(exact, exact, {"a", "b"}, {"d"}).margin == pytest.approx(0.5)
    assert score(exact, exact, {"a", "b"}, ()).margin == pytest.approx(-0.25)


def test_the_order_of_edges_does_not_matter():
    exact = effects(4.0, 2.0, 1.0, 0.0)
    turned = effects(0.0, 1.0, 2.0, 4.0, names=NAMES[::-1])
    assert score(turned, exact, {"a", "b"}, ()) == score(exact, exact, {"a", "b"}, ())


def test_scores_of_a_constant_have_no_rank_correlation():
    assert np.isnan(score(effects(1.0, 1.0, 1.0, 1.0), effects(1.0, 2.0, 3.0, 4.0), {"a"}, ()).spearman)


@pytest.mark.parametrize(
    ("found", "circuit", "message"),
    [
        (
            effects(1.0, 2.0, names=["a", "x"]),
            {"a"},
            "4 edges or nodes are in one measurement alone, such as b; measure the same ones",
        ),
        (effects(1.0, np.nan, 0.0, 0.0), {"a"}, "1 effects are not finite, such as that of b"),
        (effects(1.0, 1.0, 1.0, 1.0), {"z"}, "0 of the circuit's 1 edges or nodes are among the 4 measured"),
        (effects(1.0, 1.0, 1.0, 1.0), set(NAMES), "give a circuit that is part of them, and not all"),
    ],
)
def test_what_cannot_be_scored_is_refused(found, circuit, message):
    with pytest.raises(ConfigError) as caught:
        score(found, effects(1.0, 2.0, 3.0, 4.0), circuit, ())
    assert message in str(caught.value)


def test_a_measurement_by_position_is_refused():
    wrong = Measurement("edge effect", np.zeros((4, 3, 2)), ("edge", "example", "pos"), {"edge": NAMES})
    with pytest.raises(ConfigError, match=r"edge effect runs over \('edge', 'example', 'pos'\); give it over"):
        score(wrong, wrong, {"a"}, ())


def test_nodes_are_where_the_edges_of_a_circuit_begin():
    assert calibration.sources({"input->a0.h0<v>", "a0.h0->logits"}) == {"input", "a0.h0"}


# ---- on models ----


@pytest.fixture(scope="module")
def known():
    return induction()


def test_replacing_all_edges_out_of_a_node_is_the_node_s_effect(known):
    contrast = known.contrast(4, seed=0)
    found = calibration.exact_nodes(known.model, contrast, Contrast.logit_difference)
    corrupted = contrast.logit_difference(known.model.run(contrast.corrupt).logits)
    clean = contrast.logit_difference(known.model.run(contrast.clean).logits)
    np.testing.assert_allclose(found.sel(node="input").values, (corrupted - clean).numpy(), atol=1e-4)
    assert np.abs(found.sel(node="a0.h1").values).max() < 1e-4


def test_a_forward_counts_as_one_a_backward_as_two_and_skipped_blocks_not(known):
    contrast = known.contrast(6, seed=0)
    with calibration.forwards(known.model, 6) as cost:
        known.model.run(contrast.clean)
        assert cost() == 1.0
        start = known.model.run(contrast.clean, read=["blocks.1.hook_in"]).activations["blocks.1.hook_in"]
        assert cost() == 1.5  # it stops at the second of two blocks
        known.model.run_from(1, start)
        assert cost() == 2.0
        logits = known.model.run(contrast.clean, grad=True, edits=[]).logits
        contrast.logit_difference(logits).sum().backward()
        assert cost() == 5.0
    known.model.run(contrast.clean)
    assert cost() == 5.0


def test_calibration_gives_a_row_per_method_and_seed_and_eap_ig_beats_eap():
    methods = {"EAP": edge_attribution.eap, "EAP-IG": edge_attribution.eap_ig}
    table = calibration.calibrate(lambda seed: induction(noise=0.01, seed=seed), methods, seeds=range(2), examples=12)
    assert list(table.method) == ["exact", "EAP", "EAP-IG"] * 2
    auroc, cost = (table.pivot(index="seed", columns="method", values=each).mean() for each in ("auroc", "forwards"))
    assert auroc["exact"] == auroc["EAP-IG"] == 1.0 > auroc["EAP"]
    assert cost["EAP"] < cost["EAP-IG"] < cost["exact"]
    rows = calibration.summary(table).to_dict("records")
    row = next(each for each in rows if (each["method"], each["score"]) == ("EAP", "auroc"))
    assert row["low"] <= row["value"] <= row["high"] and row["value"] == pytest.approx(auroc["EAP"])


def test_decoys_of_nodes_are_those_that_nothing_of_the_circuit_leaves(known):
    names = [name for name in Graph.of(known.model).writers if name not in ("input", "a0.h0", "a1.h0")]
    assert calibration.sources(known.decoys) - calibration.sources(known.circuits["zero"]) == set(names)
